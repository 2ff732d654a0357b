package edge

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"fingerpost"
)

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func misdirectedSite(t *testing.T) *site {
	to := "https://to.example/"
	return start(t, compile(t, []fingerpost.Host{{Name: "a.example", To: to}, {Name: "b.example", To: to}, {Name: "*.w.example", To: to}}, nil), nil,
		[]string{"a.example"}, []string{"b.example", "*.w.example", "served.by.none.example"})
}

func TestAHostOnTheConnectionOfAnotherIsMisdirected(t *testing.T) {
	s := misdirectedSite(t)
	for _, tt := range []struct {
		sni, host string
		status    int
	}{
		{"a.example", "a.example", 301},
		{"A.Example", "a.example:8443", 301},
		{"a.example", "b.example", 421},
		{"a.example", "unknown.example", 421},
		{"b.example", "x.w.example", 301}, // one certificate for both: a browser may share the connection
		{"x.w.example", "b.example", 301},
		{"x.w.example", "y.w.example", 301},
		{"b.example", "x.y.w.example", 421}, // served, but the wildcard reaches one label only
		{"b.example", "served.by.none.example", 421},
		{"", "b.example", 301}, // no server name, no promise
		{"", "unknown.example", 421},
	} {
		got := s.raw(true, tt.sni, "GET / HTTP/1.1\r\nHost: "+tt.host+"\r\n\r\n")
		if got.StatusCode != tt.status {
			t.Errorf("SNI %q, Host %q: got %d, want %d", tt.sni, tt.host, got.StatusCode, tt.status)
		}
	}
}

func TestMisdirectedOverHTTP2EndsOnlyItsStream(t *testing.T) {
	s := misdirectedSite(t)
	client := s.client("2", true)
	for _, tt := range []struct {
		host   string
		status int
	}{{"", 301}, {"b.example", 421}, {"a.example", 301}} {
		req := mustRequest(t, "GET", "https://a.example/")
		req.Host = tt.host
		if got := s.do(client, req); got.StatusCode != tt.status || got.ProtoMajor != 2 {
			t.Errorf("%q: got %s %d, want %d", tt.host, got.Proto, got.StatusCode, tt.status)
		}
	}
}

func TestMisdirectedOnAResumedConnection(t *testing.T) {
	s := misdirectedSite(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := &tls.Config{ServerName: "b.example", RootCAs: ca.Pool(), ClientSessionCache: tls.NewLRUClientSessionCache(1), MaxVersion: version}
		for _, resumed := range []bool{false, true} {
			conn, err := tls.Dial("tcp", s.https, config)
			if err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(conn)
			for host, status := range map[string]int{"x.w.example": 301, "a.example": 421} {
				if got := s.exchange(conn, r, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); got.StatusCode != status {
					t.Errorf("resumed %v: %s got %d, want %d", resumed, host, got.StatusCode, status)
				}
			}
			if conn.ConnectionState().DidResume != resumed {
				t.Errorf("version %x: resumed is %v", version, !resumed)
			}
			conn.Close()
		}
	}
}

func TestHandshakes(t *testing.T) {
	s := start(t, compile(t, nil, nil), nil, []string{"a.example"})
	for name, tt := range map[string]struct {
		config *tls.Config
		alpn   string
		fails  bool
	}{
		"1.3 with h2":    {&tls.Config{NextProtos: []string{"h2", "http/1.1"}}, "h2", false},
		"1.2 with h2":    {&tls.Config{NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12}, "h2", false},
		"http/1.1":       {&tls.Config{NextProtos: []string{"http/1.1"}}, "http/1.1", false},
		"no ALPN":        {&tls.Config{}, "", false},
		"1.1":            {&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "", true},
		"unknown name":   {&tls.Config{ServerName: "unknown.example"}, "", true},
		"foreign ALPN":   {&tls.Config{NextProtos: []string{"spdy/3"}}, "", true},
		"post-quantum":   {&tls.Config{CurvePreferences: []tls.CurveID{tls.X25519MLKEM768}}, "", false},
		"without a name": {&tls.Config{ServerName: "192.0.2.1", InsecureSkipVerify: true}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.config.ServerName == "" {
				tt.config.ServerName = "a.example"
			}
			tt.config.RootCAs = ca.Pool()
			conn, err := tls.Dial("tcp", s.https, tt.config)
			if (err != nil) != tt.fails {
				t.Fatalf("got %v", err)
			}
			if err != nil {
				if name == "unknown name" && err.Error() != "remote error: tls: unrecognized name" {
					t.Errorf("got %v", err)
				}
				return
			}
			defer conn.Close()
			if got := conn.ConnectionState().NegotiatedProtocol; got != tt.alpn {
				t.Errorf("ALPN %q, want %q", got, tt.alpn)
			}
		})
	}
}

// TestTheLastAnswerLeavesWithTheEnd shows that a last answer takes no segment of its
// own, that it arrives whole whatever its size, and that the end is TLS's, not a cut.
func TestTheLastAnswerLeavesWithTheEnd(t *testing.T) {
	s := start(t, compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/"}}, nil), nil, []string{"a.example"})
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &countingListener{Listener: inner}
	go s.ServeTLS(l, nil)
	const get, last = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"
	for _, tt := range []struct {
		name     string
		version  uint16
		requests string
		answers  int
		writes   int64 // a full handshake has one in TLS 1.3, two in 1.2
	}{
		{"one", tls.VersionTLS13, last, 1, 2},
		{"one over 1.2", tls.VersionTLS12, last, 1, 3},
		{"a pipeline of several records", tls.VersionTLS13, strings.Repeat(get, 8) + last, 9, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l.writes.Store(0)
			conn, err := tls.Dial("tcp", inner.Addr().String(), &tls.Config{ServerName: "a.example", RootCAs: ca.Pool(), MaxVersion: tt.version})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, tt.requests); err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(conn) // a cut is an error
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(text), "HTTP/1.1 301"); n != tt.answers || !strings.HasSuffix(string(text), "</p>\n") {
				t.Errorf("%d answers: %q", n, text)
			}
			if n := l.writes.Load(); n != tt.writes {
				t.Errorf("%d writes, want %d", n, tt.writes)
			}
		})
	}
}

// countingListener counts the writes on its connections.
type countingListener struct {
	net.Listener
	writes atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countingConn{c, &l.writes}, err
}

type countingConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func TestHTTP2HasNoAbsoluteForm(t *testing.T) {
	f := plainFront(t, misdirectedSite(t))
	for _, tt := range []struct {
		target      string
		major, want int
	}{
		{"/", 1, 0}, {"/", 2, 0}, {"http://b.example/", 1, 0}, {"http://b.example/", 2, 400},
	} {
		r := mustRequest(t, "GET", "http://a.example/")
		r.RequestURI, r.ProtoMajor, r.ProtoMinor = tt.target, tt.major, 1
		if got := refusal(f, r); got != tt.want {
			t.Errorf("HTTP/%d %s: got %d, want %d", tt.major, tt.target, got, tt.want)
		}
	}
}

func TestHTTP2HostMustAgreeWithAuthority(t *testing.T) {
	f := plainFront(t, misdirectedSite(t))
	for hosts, want := range map[string]int{"a.example": 0, "A.EXAMPLE": 0, "b.example": 400, "a.example,A.example": 0, "a.example,b.example": 400} {
		r := mustRequest(t, "GET", "http://a.example/")
		r.RequestURI, r.ProtoMajor, r.ProtoMinor = "/", 2, 0
		r.Header = http.Header{"Host": strings.Split(hosts, ",")}
		if got := refusal(f, r); got != want {
			t.Errorf("%s: got %d, want %d", hosts, got, want)
		}
	}
}

// plainFront is a front that serves nobody.
func plainFront(t *testing.T, s *site) *front {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return s.newFront(false, l.Addr())
}

func refusal(f *front, r *http.Request) int {
	if status := f.checkMultiplexed(r); status != 0 {
		return status
	}
	in := received(r)
	return f.read(&in, new(exchange))
}
