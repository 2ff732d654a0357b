package cert

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"fingerpost/internal/testca"
)

// handshake connects over a real socket and gives the certificate that the
// client was shown.
func handshake(t *testing.T, s *Store, client *tls.Config) (*x509.Certificate, error) {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: s.Certificate})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.(*tls.Conn).Handshake() // its error is the client's business
	})
	client.InsecureSkipVerify = true // which certificate comes is the question, not whether it is trusted
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	conn := tls.Client(raw, client)
	if err := conn.Handshake(); err != nil {
		return nil, err
	}
	return conn.ConnectionState().PeerCertificates[0], nil
}

func leafOf(t *testing.T, c *Certificate) *x509.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func open(t *testing.T, groups ...map[string][]byte) *Store {
	t.Helper()
	files := map[string][]byte{}
	for _, g := range groups {
		for name, text := range g {
			files[name] = text
		}
	}
	s, _, err := Open(folder(t, files))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCertificateByServerName(t *testing.T) {
	s := open(t, pair("b", "shop.example", "www.shop.example"), pair("c", "*.shop.example"), pair("a", "first.example"), pair("d", "XN--BLBR-roah.Example"))
	for _, tt := range []struct{ name, want string }{
		{"shop.example", "b"},
		{"SHOP.Example", "b"},
		{"www.shop.example", "b"}, // exact before wildcard
		{"img.shop.example", "c"},
		{"xn--blbr-roah.example", "d"},
		{"", "a"}, // the first by file name
	} {
		got, err := handshake(t, s, &tls.Config{ServerName: tt.name})
		if err != nil {
			t.Errorf("%q: %v", tt.name, err)
		} else if want := s.Index().Named(tt.want); !got.Equal(leafOf(t, want)) {
			t.Errorf("%q was shown %v, want %s", tt.name, got.DNSNames, tt.want)
		}
	}
	for _, name := range []string{"unknown.example", "a.b.shop.example", "example"} {
		_, err := handshake(t, s, &tls.Config{ServerName: name})
		var remote *net.OpError // crypto/tls keeps the number of an alert (here 112) to itself
		if !errors.As(err, &remote) || remote.Op != "remote error" || remote.Err.Error() != "tls: unrecognized name" {
			t.Errorf("%q: got %v, want the alert unrecognized_name", name, err)
		}
	}
}

func TestDefaultIsForClientsWithoutServerName(t *testing.T) {
	s := open(t, pair("a", "a.example"), pair("default", "d.example"))
	got, err := handshake(t, s, &tls.Config{})
	if err != nil || got.DNSNames[0] != "d.example" {
		t.Errorf("got %v, %v; want the certificate of default.*", got, err)
	}
	if _, err := handshake(t, s, &tls.Config{ServerName: "x.example"}); err == nil {
		t.Error("the default answers for a name that it does not have")
	}
	if got, err := (newIndex(nil)).Certificate(&tls.ClientHelloInfo{}); got != nil || err != nil {
		t.Error("an empty index has nothing to show")
	}
}

func TestRSAStandsBesideECDSA(t *testing.T) {
	key := rsaKey(t, 2048)
	long := testca.Template("a.example")
	long.NotAfter = time.Now().AddDate(1, 0, 0)
	rsaPEM, rsaKeyPEM := ca.IssueFrom(long, key)
	s := open(t, pair("ecdsa", "a.example"), map[string][]byte{"rsa.crt": rsaPEM, "rsa.key": rsaKeyPEM})
	for name, tt := range map[string]struct {
		client *tls.Config
		want   string
	}{
		"modern":   {&tls.Config{}, "ecdsa"},
		"RSA only": {&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}, "rsa"},
	} {
		tt.client.ServerName = "a.example"
		got, err := handshake(t, s, tt.client)
		if err != nil || !got.Equal(leafOf(t, s.Index().Named(tt.want))) {
			t.Errorf("%s: got %v, %v; want %s", name, got, err, tt.want)
		}
	}
}

func TestTheBestOfSeveralCertificates(t *testing.T) {
	issue := func(name, host string, from, to int) map[string][]byte {
		template := testca.Template(host)
		template.NotBefore, template.NotAfter = time.Now().AddDate(0, 0, from), time.Now().AddDate(0, 0, to)
		certPEM, keyPEM := ca.IssueFrom(template, testca.NewKey())
		return map[string][]byte{name + ".crt": certPEM, name + ".key": keyPEM}
	}
	s := open(t,
		issue("a1", "a.example", -10, 20), issue("a2", "a.example", -10, 80), issue("a3", "a.example", -10, 40), // the longest
		issue("b1", "b.example", 5, 100), issue("b2", "b.example", -10, 20), // not yet valid loses
		issue("c1", "c.test.example", -90, -1), issue("c2", "*.test.example", -10, 20), // a live wildcard before an expired exact name
		issue("d1", "d.example", -90, -1), // expired, and nothing better
	)
	for host, want := range map[string]string{"a.example": "a2", "b.example": "b2", "c.test.example": "c2", "d.example": "d1"} {
		got, err := handshake(t, s, &tls.Config{ServerName: host})
		if err != nil || !got.Equal(leafOf(t, s.Index().Named(want))) {
			t.Errorf("%s: got %v, %v; want %s", host, got, err, want)
		}
	}
	for host, want := range map[string]bool{"a.example": true, "b.example": true, "c.test.example": true, "x.test.example": true,
		"d.example": false, "test.example": false, "x.y.test.example": false, "": false, ".test.example": false} {
		if got := s.Covers(host); got != want {
			t.Errorf("Covers(%q) = %v", host, got)
		}
	}
	if got := s.Index().FirstExpiry(); !got.Equal(s.Index().Named("c1").NotAfter) && !got.Equal(s.Index().Named("d1").NotAfter) {
		t.Errorf("the first expiry is %v", got)
	}
}

func TestAddressesAreCoveredAsHosts(t *testing.T) {
	s := open(t, pair("a", "192.0.2.1", "2001:db8::1"))
	for _, host := range []string{"192.0.2.1", "[2001:db8::1]"} {
		if !s.Covers(host) {
			t.Errorf("%s is not covered", host)
		}
	}
}

func TestHandshakesGoOnWhileCertificatesAreReloaded(t *testing.T) {
	dir := folder(t, pair("a", "a.example"))
	s, _, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for name, text := range pair("a", "a.example") { // torn for a moment each time
				write(t, dir, name, text)
			}
			s.Reload()
		}
	})
	for range 50 {
		if _, err := handshake(t, s, &tls.Config{ServerName: "a.example"}); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
	if c := s.Index().Named("a"); c == nil || c.File != filepath.Join(dir, "a.crt") {
		t.Errorf("%+v", c)
	}
}

func BenchmarkCertificate(b *testing.B) {
	x, _, err := Load(folder(b, pair("a", "a.example")))
	if err != nil {
		b.Fatal(err)
	}
	hello := &tls.ClientHelloInfo{ServerName: "a.example", SupportedVersions: []uint16{tls.VersionTLS13},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}}
	b.ReportAllocs()
	for b.Loop() {
		if c, err := x.Certificate(hello); c == nil || err != nil {
			b.Fatal("none")
		}
	}
}
