package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/cert"
	"fingerpost/internal/testca"
	"fingerpost/redirect"
	"fingerpost/telemetry"
)

var ca = testca.New()

// site is a server on two sockets, with what a test wants to look at.
type site struct {
	*Server
	t         testing.TB
	http      string // address of the plain listener
	https     string
	access    *buffer
	logged    *buffer
	exitPlain chan error
	exitTLS   chan error
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func compile(t testing.TB, hosts []fingerpost.Host, redirects []fingerpost.Redirect) *redirect.Table {
	t.Helper()
	table, err := redirect.Compile(hosts, redirects)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// start serves a table with one certificate for each list of names, the default
// one first.
func start(t testing.TB, table *redirect.Table, change func(*Server), certificates ...[]string) *site {
	t.Helper()
	dir := t.TempDir()
	for i, names := range certificates {
		certPEM, keyPEM := ca.Issue(names...)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("c%d.pem", i)), append(certPEM, keyPEM...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	certs, _, err := cert.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, access: new(buffer), logged: new(buffer), exitPlain: make(chan error, 1), exitTLS: make(chan error, 1)}
	metrics := telemetry.NewMetrics("test")
	s.Server = &Server{
		Table:       func() *redirect.Table { return table },
		Certificate: certs.Certificate,
		Covered:     certs.Covers,
		Metrics:     metrics,
		Access:      telemetry.NewAccessLog(s.access, 1, metrics, nil),
		Log:         slog.New(slog.NewTextHandler(s.logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(s.Server)
	}
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	plain, secure := listen(), listen()
	quic, err := net.ListenPacket("udp", secure.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s.http, s.https = plain.Addr().String(), secure.Addr().String()
	s.httpsPort.Store(new(port(secure.Addr()))) // ServeTLS does so too, but a goroutine later
	go func() { s.exitTLS <- s.ServeTLS(secure, quic) }()
	go func() { s.exitPlain <- s.ServePlain(plain) }()
	t.Cleanup(func() {
		s.shutdown()
		s.Access.Close()
	})
	return s
}

func (s *site) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		s.t.Errorf("shutdown: %v", err)
	}
}

// answer is what a client got.
type answer struct {
	*http.Response
	body string
}

// clients of each protocol; every one connects to the site whatever the host.
func (s *site) client(proto string, https bool) *http.Client {
	transport := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: &tls.Config{RootCAs: ca.Pool()}}
	switch {
	case proto == "1.1":
		transport.Protocols.SetHTTP1(true)
	case https:
		transport.Protocols.SetHTTP2(true)
	default:
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		to := s.http
		if https {
			to = s.https
		}
		return new(net.Dialer).DialContext(ctx, network, to)
	}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// ask sends one request over proto 1.0, 1.1 or 2.
func (s *site) ask(proto, method, url string) answer {
	s.t.Helper()
	https := strings.HasPrefix(url, "https:")
	if proto == "1.0" {
		_, rest, _ := strings.Cut(url, "://")
		host, target, _ := strings.Cut(rest, "/")
		return s.raw(https, host, fmt.Sprintf("%s /%s HTTP/1.0\r\nHost: %s\r\n\r\n", method, target, host))
	}
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.do(s.client(proto, https), req)
}

func (s *site) do(client *http.Client, req *http.Request) answer {
	s.t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{resp, string(body)}
}

// raw sends bytes and reads one response. sni is for TLS, empty for none.
func (s *site) raw(https bool, sni, request string) answer {
	s.t.Helper()
	conn := s.dial(https, sni)
	defer conn.Close()
	return s.exchange(conn, bufio.NewReader(conn), request)
}

func (s *site) dial(https bool, sni string) net.Conn {
	s.t.Helper()
	to := s.http
	if https {
		to = s.https
	}
	conn, err := net.Dial("tcp", to)
	if err != nil {
		s.t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if !https {
		return conn
	}
	secure := tls.Client(conn, &tls.Config{ServerName: sni, InsecureSkipVerify: true})
	if err := secure.Handshake(); err != nil {
		s.t.Fatal(err)
	}
	return secure
}

func (s *site) exchange(conn net.Conn, r *bufio.Reader, request string) answer {
	s.t.Helper()
	if _, err := io.WriteString(conn, request); err != nil {
		s.t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{resp, string(body)}
}

// kept reports whether the server answers another request on conn.
func kept(conn net.Conn, r *bufio.Reader) bool {
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return true
}
