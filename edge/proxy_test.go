package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fingerpost"
	"fingerpost/redirect"
)

// v2 is a PROXY header of version 2 for TCP over IPv4 (2.2 of its specification).
func v2(command byte, client string) string {
	b := []byte("\r\n\r\n\x00\r\nQUIT\n")
	b = append(b, 0x20|command, 0x11, 0, 12)
	at := netip.MustParseAddrPort(client)
	b = append(b, at.Addr().AsSlice()...)
	b = append(b, 127, 0, 0, 1)
	b = binary.BigEndian.AppendUint16(b, at.Port())
	return string(binary.BigEndian.AppendUint16(b, 443))
}

func proxySite(t *testing.T, mode ProxyMode, from string, changes ...func(*Server)) *site {
	table := compile(t, nil, []fingerpost.Redirect{
		{From: "a.example", To: "https://norway.example/", When: &fingerpost.When{Countries: []string{"NO"}}},
		{From: "a.example", To: "https://here.example/"},
	})
	return start(t, table, func(s *Server) {
		s.Proxy = Proxy{mode, []netip.Prefix{netip.MustParsePrefix(from)}}
		s.Limits.Header = time.Second
		s.Country = func(a netip.Addr) string {
			if a == netip.MustParseAddr("192.0.2.7") || a == netip.MustParseAddr("2001:db8::7") {
				return "NO"
			}
			return ""
		}
		for _, change := range changes {
			change(s)
		}
	}, []string{"a.example"})
}

func TestPROXYHeaders(t *testing.T) {
	const mine, others = "127.0.0.0/8", "198.51.100.0/24"
	const v1 = "PROXY TCP4 192.0.2.7 127.0.0.1 5555 443\r\n"
	for _, tt := range []struct {
		name   string
		mode   ProxyMode
		from   string
		header string
		norway bool // the client's address is the header's
		closed bool
	}{
		{"v1", ProxyUse, mine, v1, true, false},
		{"v1 of IPv6", ProxyUse, mine, "PROXY TCP6 2001:db8::7 ::1 5555 443\r\n", true, false},
		{"v1 of something else", ProxyUse, mine, "PROXY UNKNOWN\r\n", false, false},
		{"v2", ProxyUse, mine, v2(1, "192.0.2.7:5555"), true, false},
		{"v2 of the proxy itself", ProxyUse, mine, v2(0, "192.0.2.7:5555"), false, false},
		{"none", ProxyUse, mine, "", false, false},
		{"v1, required", ProxyRequire, mine, v1, true, false},
		{"v2, required", ProxyRequire, mine, v2(1, "192.0.2.7:5555"), true, false},
		{"none, required", ProxyRequire, mine, "", false, true},
		{"ignored", ProxyIgnore, mine, v1, false, false},
		{"v2, ignored", ProxyIgnore, mine, v2(1, "192.0.2.7:5555"), false, false},
		{"none, ignored", ProxyIgnore, mine, "", false, false},
		{"a stranger's", ProxyUse, others, v1, false, true},
		{"a stranger's v2", ProxyUse, others, v2(1, "192.0.2.7:5555"), false, true},
		{"a stranger's, ignored", ProxyIgnore, others, v1, false, true},
		{"a stranger's, required", ProxyRequire, others, v1, false, true},
		{"a stranger without", ProxyUse, others, "", false, false},
		{"a stranger without, required", ProxyRequire, others, "", false, true},
		{"bad address", ProxyUse, mine, "PROXY TCP4 192.0.2.777 127.0.0.1 5555 443\r\n", false, true},
		{"bad port", ProxyUse, mine, "PROXY TCP4 192.0.2.7 127.0.0.1 99999 443\r\n", false, true},
		{"no end", ProxyUse, mine, "PROXY TCP4 " + strings.Repeat("1", 200) + "\r\n", false, true},
		{"two", ProxyUse, mine, v1 + v1, false, true},
		{"v2 of another version", ProxyUse, mine, strings.Replace(v2(1, "192.0.2.7:5555"), "\x21", "\x31", 1), false, true},
		{"v2, too short", ProxyUse, mine, "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x04\x01\x02\x03\x04", false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := proxySite(t, tt.mode, tt.from)
			for _, https := range []bool{false, true} {
				for _, body := range []string{"", "hello"} { // net/http answers what has one
					got, err := s.through(tt.header, https, body)
					if tt.closed {
						// What a second header makes of the request is bad to h1, and said so.
						if err == nil && (tt.name != "two" || got.StatusCode != 400) {
							t.Errorf("https %v, body %q: answered with %d", https, body, got.StatusCode)
						}
						continue
					}
					if err != nil {
						t.Errorf("https %v, body %q: %v", https, body, err)
						continue
					}
					want := "https://here.example/"
					if tt.norway {
						want = "https://norway.example/"
					}
					if to := got.Header.Get("Location"); to != want {
						t.Errorf("https %v, body %q: got %q, want %q", https, body, to, want)
					}
				}
			}
			s.shutdown()
			s.Access.Close()
			s.Access = nil
			log := s.access.String()
			if strings.Contains(log, `"remote":"192.0.2.7:5555"`) != (tt.norway && !strings.Contains(tt.header, "TCP6")) && tt.name != "two" {
				t.Errorf("log:\n%s", log)
			}
		})
	}
}

// through sends a header and a request behind it.
func (s *site) through(header string, https bool, body string) (*http.Response, error) {
	to := s.http
	if https {
		to = s.https
	}
	conn, err := net.Dial("tcp", to)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, header); err != nil {
		return nil, err
	}
	if https {
		conn = tls.Client(conn, &tls.Config{ServerName: "a.example", RootCAs: ca.Pool()})
	}
	request := "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
	if body != "" {
		request = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n" + body
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return nil, err
	}
	return http.ReadResponse(bufio.NewReader(conn), nil)
}

func TestPROXYOverHTTP2(t *testing.T) {
	s := proxySite(t, ProxyRequire, "127.0.0.0/8")
	conn, err := net.Dial("tcp", s.https)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, v2(1, "192.0.2.7:5555"))
	client := s.client("2", true)
	client.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	got := s.do(client, mustRequest(t, "GET", "https://a.example/"))
	if got.ProtoMajor != 2 || got.Header.Get("Location") != "https://norway.example/" {
		t.Errorf("got %s %q", got.Proto, got.Header.Get("Location"))
	}
}

// pipe is a connection in the time of a test.
type pipe struct{ net.Conn }

func (pipe) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5555} }

func (p pipe) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil // as a socket does
	}
	return p.Conn.Read(b)
}

// A PROXY header and what follows it share the time of a request's head.
func TestASlowPROXYHeader(t *testing.T) {
	const limit = 10 * time.Second
	header := v2(1, "192.0.2.7:5555")
	half := good[:len(good)-2]
	for _, tt := range []struct {
		name  string
		sends []string // one every four seconds
	}{
		{"nothing", nil},
		{"half a header", []string{header[:10]}},
		{"half a header of version 1", []string{"PROXY TCP4 192.0"}},
		{"byte by byte", strings.Split(header[:5], "")},
		{"a header, and nothing", []string{header}},
		{"a header, and half a head", []string{header[:10], header[10:], half}},
	} {
		for _, https := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, https %v", tt.name, https), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &Server{Table: func() *redirect.Table { return nil }, Limits: Limits{Header: limit}, Proxy: Proxy{ProxyRequire, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
						Log: slog.New(slog.DiscardHandler)}
					f := s.newFront(https, &net.TCPAddr{})
					ours, theirs := net.Pipe()
					c := pipe{ours}
					f.conns.add(c)
					began := time.Now()
					var client sync.WaitGroup
					client.Go(func() {
						for _, what := range tt.sends {
							if _, err := io.WriteString(theirs, what); err != nil {
								return
							}
							time.Sleep(4 * time.Second)
						}
					})
					client.Go(func() { io.Copy(io.Discard, theirs) })
					if https {
						f.serveTLSConn(c, &tls.Config{})
					} else {
						f.servePlainConn(c)
					}
					if took := time.Since(began); took > limit+lingerFor {
						t.Errorf("it was open for %v", took)
					}
					if n := f.conns.count.Load(); n != 0 {
						t.Errorf("%d connections", n)
					}
					theirs.Close()
					client.Wait()
				})
			})
		}
	}
}

// Whose header is refused is counted, and said with the address, once a second.
func TestRefusedPROXYHeadersLeaveATrace(t *testing.T) {
	const mine, others = "127.0.0.0/8", "198.51.100.0/24"
	for _, tt := range []struct {
		mode         ProxyMode
		from, header string
		reason       string
	}{
		{ProxyUse, others, "PROXY TCP4 192.0.2.7 127.0.0.1 5555 443\r\n", "stranger"},
		{ProxyRequire, others, "", "stranger"},
		{ProxyRequire, mine, "", "missing"},
		{ProxyUse, mine, "PROXY TCP4 192.0.2.777 127.0.0.1 5555 443\r\n", "invalid"},
	} {
		now := time.Now()
		s := proxySite(t, tt.mode, tt.from, func(s *Server) { s.Now = func() time.Time { return now } })
		for _, https := range []bool{false, true, true} {
			if _, err := s.through(tt.header, https, ""); err == nil {
				t.Errorf("%s: answered", tt.reason)
			}
		}
		s.shutdown()
		w := httptest.NewRecorder()
		s.Metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if want := `fingerpost_proxy_header_refused_total{reason="` + tt.reason + `"} 3`; !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("no %s", want)
		}
		log := s.logged.String()
		if n := strings.Count(log, "refused for its PROXY header"); n != 1 || !strings.Contains(log, "reason="+tt.reason+" from=127.0.0.1:") {
			t.Errorf("%s: said %d times:\n%s", tt.reason, n, log)
		}
	}
}

func TestUNIXSocket(t *testing.T) {
	for _, mode := range []ProxyMode{"", ProxyUse} {
		s := proxySite(t, mode, "198.51.100.0/24")
		path := filepath.Join(t.TempDir(), "http.sock")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		exit := make(chan error, 1)
		go func() { exit <- s.ServePlain(l) }()
		for header, want := range map[string]string{"": "https://here.example/", "PROXY TCP4 192.0.2.7 127.0.0.1 5555 443\r\n": "https://norway.example/"} {
			if mode == "" && header != "" {
				continue
			}
			for _, method := range []string{"GET", "POST"} {
				conn, err := net.Dial("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				body := ""
				if method == "POST" {
					body = "Content-Length: 1\r\n"
				}
				io.WriteString(conn, header+method+" / HTTP/1.1\r\nHost: a.example\r\n"+body+"\r\n"+strings.Repeat("x", len(body)/19))
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				if got := resp.Header.Get("Location"); got != want {
					t.Errorf("%q: got %q, want %q", header, got, want)
				}
				conn.Close()
			}
		}
		s.shutdown()
		if err := <-exit; err != nil {
			t.Error(err)
		}
		s.Access.Close()
		s.Access = nil
		if got := strings.Count(s.access.String(), `"remote":"unix"`); got != 2 {
			t.Errorf("%d records of unix in\n%s", got, s.access)
		}
	}
}
