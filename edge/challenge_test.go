package edge

import (
	"crypto/tls"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/internal/testca"
)

func TestChallengeComesBeforeEveryRule(t *testing.T) {
	table := compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/", HTTPS: fingerpost.RedirectToHTTPS}}, nil)
	s := start(t, table, func(s *Server) {
		s.Covered = func(string) bool { return true }
		s.Challenge = func(host, token string) (string, bool) {
			return token + ".thumbprint", host == "a.example" && token == "token_-1"
		}
	}, []string{"a.example"})
	for _, tt := range []struct {
		https      bool
		target     string
		status     int
		body, kind string
	}{
		{false, "/.well-known/acme-challenge/token_-1", 200, "token_-1.thumbprint", "application/octet-stream"},
		{true, "/.well-known/acme-challenge/token_-1", 200, "token_-1.thumbprint", "application/octet-stream"},
		{false, "/.well-known/acme-challenge/other", 301, "", "text/html; charset=utf-8"},
		{false, "/.well-known/acme-challenge/", 301, "", "text/html; charset=utf-8"},
		{false, "/.well-known/acme-challenge", 301, "", "text/html; charset=utf-8"},
		{false, "/x/../.well-known/acme-challenge/token_-1", 301, "", "text/html; charset=utf-8"},
	} {
		got := s.raw(tt.https, "a.example", "GET "+tt.target+" HTTP/1.1\r\nHost: a.example\r\n\r\n")
		body := got.body
		if got.StatusCode != tt.status || got.Header.Get("Content-Type") != tt.kind || tt.body != "" && string(body) != tt.body {
			t.Errorf("%s: got %d %s %q", tt.target, got.StatusCode, got.Header.Get("Content-Type"), body)
		}
	}
	if got := s.raw(false, "", "GET /.well-known/acme-challenge/token_-1 HTTP/1.1\r\nHost: b.example\r\n\r\n"); got.StatusCode == http.StatusOK {
		t.Error("another host's challenge was answered")
	}
}

func TestChallengeByHandshake(t *testing.T) {
	certPEM, keyPEM := testca.New().Issue("challenge.example")
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/"}}, nil), func(s *Server) {
		s.ChallengeCertificate = func(host string) (*tls.Certificate, error) {
			if host != "a.example" {
				return nil, nil
			}
			return &pair, nil
		}
	}, []string{"a.example"})
	for _, tt := range []struct {
		name   string
		protos []string
		want   string // the name in the certificate; empty: refused
	}{
		{"a.example", []string{"acme-tls/1"}, "challenge.example"},
		{"A.Example", []string{"acme-tls/1"}, "challenge.example"},
		{"b.example", []string{"acme-tls/1"}, ""},
		{"a.example", []string{"http/1.1", "acme-tls/1"}, "a.example"}, // not a CA's (RFC 8737 3)
		{"a.example", nil, "a.example"},
	} {
		c, err := tls.Dial("tcp", s.https, &tls.Config{ServerName: tt.name, NextProtos: tt.protos, InsecureSkipVerify: true})
		got := ""
		if err == nil {
			got = c.ConnectionState().PeerCertificates[0].DNSNames[0]
			c.Close()
		}
		if got != tt.want {
			t.Errorf("%s by %v: got %q, want %q (%v)", tt.name, tt.protos, got, tt.want, err)
		}
	}
}

// TestTicketsOfAnotherNodeAreTaken shows that keys come from outside and change
// with the time.
func TestTicketsOfAnotherNodeAreTaken(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Now().Unix())
	keys := func(at time.Time) [][32]byte {
		return [][32]byte{{byte(at.Unix() / 3600), byte(at.Unix() / 3600 >> 8)}}
	}
	node := func() *site {
		return start(t, compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/"}}, nil), func(s *Server) {
			s.TicketKeys = keys
			s.Now = func() time.Time { return time.Unix(now.Load(), 0) }
		}, []string{"a.example"})
	}
	one, two := node(), node()
	connect := func(s *site, cache tls.ClientSessionCache) bool {
		c, err := tls.Dial("tcp", s.https, &tls.Config{ServerName: "a.example", InsecureSkipVerify: true, ClientSessionCache: cache})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
		io.Copy(io.Discard, c) // the ticket comes with the answer
		return c.ConnectionState().DidResume
	}
	cache := tls.NewLRUClientSessionCache(1)
	connect(one, cache)
	if !connect(two, cache) {
		t.Error("the other node did not take the ticket")
	}
	now.Add(2 * 3600)
	if connect(two, cache) {
		t.Error("the keys did not change with the time")
	}
}
