package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/internal/rulecases"
	"fingerpost/redirect"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// door is one way by which a request comes in.
type door struct {
	name  string
	site  *site
	https bool
	http1 bool
	http3 bool
}

// request of a case, as every door is asked it.
type doorCase struct {
	name   string
	method string // GET, and HEAD too, where it is not said
	url    string // its host with the port PORT: that of the listener
	fields []string
	body   string
	http10 bool

	status   int
	location string
	header   map[string]string // some of what else is sent; "" for what must not be
	page     string            // the body, if it is not made
	closes   bool
}

// TestEveryDoorGivesTheSameAnswer asks the same of every lane and protocol, and
// compares what comes back byte for byte.
func TestEveryDoorGivesTheSameAnswer(t *testing.T) {
	table := doorTable(t)
	change := func(loops int) func(*Server) {
		return func(s *Server) {
			s.Loops = loops
			s.Country = func(netip.Addr) string { return "NO" }
		}
	}
	names := []string{"a.example", "up.example", "only.example", "hsts.example", "pages.example", "xn--blbr-roah.example", "x.wild.example", "loop.example", "other.example", "unknown.example", "*.wild.example"}
	evented, pooled := start(t, table, change(0), names), start(t, table, change(-1), names)
	doors := doorsOf(evented, pooled)
	asks := make([]func(*doorCase, string) answer, len(doors))
	for i := range doors {
		asks[i] = doors[i].open(t)
	}
	for _, c := range doorCases {
		methods := []string{c.method}
		if c.method == "" {
			methods = []string{"GET", "HEAD"}
		}
		for _, method := range methods {
			t.Run(c.name+" "+method, func(t *testing.T) {
				var first *answer
				for i, d := range doors {
					if d.https != strings.HasPrefix(c.url, "https:") || c.http10 && !d.http1 {
						continue
					}
					got := asks[i](&c, method)
					d.check(t, &c, method, &got)
					if first == nil {
						first = &got
						continue
					}
					if a, b := sameEverywhere(first), sameEverywhere(&got); a != b {
						t.Errorf("%s differs from the first door:\n%s\nfirst:\n%s", d.name, b, a)
					}
				}
			})
		}
	}
}

// TestTheRuleThatWinsIsTheSameByEveryDoor has the cases of package redirect.
func TestTheRuleThatWinsIsTheSameByEveryDoor(t *testing.T) {
	var table atomic.Pointer[redirect.Table]
	table.Store(compile(t, nil, nil))
	hosts := map[string]bool{}
	for _, c := range rulecases.Precedence {
		hosts[mustURL(t, c.URL).Hostname()] = true
	}
	names := slices.Sorted(maps.Keys(hosts))
	change := func(loops int) func(*Server) {
		return func(s *Server) { s.Loops, s.Table = loops, table.Load }
	}
	evented, pooled := start(t, nil, change(0), names), start(t, nil, change(-1), names)
	asked := 0
	for _, d := range doorsOf(evented, pooled) {
		ask := d.open(t)
		for _, c := range rulecases.Precedence {
			bound := slices.ContainsFunc(c.Rules, func(r fingerpost.Redirect) bool { return strings.Contains(r.From, "://") })
			scheme, rest, _ := strings.Cut(c.URL, "://")
			switch {
			case (scheme == "https") == d.https:
			case bound: // the scheme decides
				continue
			case d.https:
				scheme = "https"
			default:
				scheme = "http"
			}
			table.Store(compile(t, nil, c.Rules))
			want := doorCase{url: scheme + "://" + rest, fields: rulecases.Header, status: 404}
			if c.Wins != "" {
				want.status, want.location = 301, "https://t.test/"+c.Wins
			}
			t.Run(d.name+": "+c.Name, func(t *testing.T) {
				got := ask(&want, "GET")
				d.check(t, &want, "GET", &got)
			})
			asked++
		}
	}
	t.Logf("%d questions", asked)
}

// doorsOf are all ways in.
func doorsOf(evented, pooled *site) []door {
	return []door{
		{name: "event loop", site: evented, http1: true},
		{name: "goroutines", site: pooled, http1: true},
		{name: "HTTP/2 in the clear", site: evented},
		{name: "TLS lane", site: evented, https: true, http1: true},
		{name: "HTTP/2", site: evented, https: true},
		{name: "HTTP/3", site: evented, https: true, http3: true},
	}
}

func doorTable(t *testing.T) *redirect.Table {
	to := "https://to.example/:splat"
	when := func(w fingerpost.When) *fingerpost.When { return &w }
	return compile(t, []fingerpost.Host{
		{Name: "a.example"},
		{Name: "up.example", HTTPS: fingerpost.RedirectToHTTPS, To: to},
		{Name: "only.example", HTTPS: fingerpost.HTTPSOnly, To: to},
		{Name: "hsts.example", To: to, HSTS: &fingerpost.HSTS{MaxAge: 63072000, IncludeSubDomains: true, Preload: true}},
		{Name: "pages.example", Fallback: &fingerpost.Fallback{Page: "<p>bløbær & \"nothing\""}},
		{Name: "blåbær.example", To: to},
		{Name: "*.wild.example", To: "https://to.example/wild", Status: 308},
	}, []fingerpost.Redirect{
		{From: "a.example/moved", To: "https://to.example/new?a=1&b=\"2\"", Headers: map[string]string{"X-Robots-Tag": "noindex", "link": "</a>; rel=\"x\""}},
		{From: "a.example/see", To: "/there", Status: 303},
		{From: "a.example/keep/*", To: "https://to.example/:splat", Status: 307},
		{From: "a.example/gone", Status: 410},
		{From: "a.example/law", Status: 451},
		{From: "a.example/q?id=:id", To: "https://to.example/item/:id"},
		{From: "a.example/lang", To: "/nb", When: when(fingerpost.When{Languages: []string{"nb"}})},
		{From: "a.example/lang", To: "/en", Status: 302},
		{From: "a.example/app", To: "/app2", When: when(fingerpost.When{Header: map[string]string{"X-App": "a*"}, Cookie: map[string]string{"beta": "1"}})},
		{From: "a.example/land", To: "/no", When: when(fingerpost.When{Countries: []string{"NO"}})},
		{From: "a.example/half", To: "/half-a", When: when(fingerpost.When{Percent: new(50)})},
		{From: "a.example/half", To: "/half-b"},
		{From: "a.example/put", To: "/put2", When: when(fingerpost.When{Methods: []string{"PUT"}})},
		{From: "a.example/cache", To: "/c", Cache: "1d", Status: 302},
		{From: "pages.example/gone", Status: 410},
		{From: "loop.example/go?to=:x", To: "https://loop.example/:x?to=:x"},
		{From: "other.example/blå", To: "https://to.example/bær"},
	})
}

var doorCases = []doorCase{
	{name: "moved", url: "http://a.example/moved", status: 301, location: "https://to.example/new?a=1&b=%222%22",
		header: map[string]string{"X-Robots-Tag": "noindex", "Link": "</a>; rel=\"x\"", "Cache-Control": "max-age=3600", "Content-Type": "text/html; charset=utf-8", "Server": ""}},
	{name: "moved over https", url: "https://a.example/moved?utm=1", status: 301, location: "https://to.example/new?a=1&b=%222%22&utm=1", header: map[string]string{"Strict-Transport-Security": ""}},
	{name: "see other", method: "POST", url: "https://a.example/see", status: 303, location: "/there"},
	{name: "POST with a body", method: "POST", body: "hello=1", url: "https://a.example/keep/it?x", status: 307, location: "https://to.example/it?x", closes: true},
	{name: "POST with a body in the clear", method: "POST", body: "hello=1", url: "http://a.example/keep/it?x", status: 307, location: "https://to.example/it?x", closes: true},
	{name: "PUT", method: "PUT", url: "http://a.example/put", status: 301, location: "/put2"},
	{name: "not PUT", url: "http://a.example/put", status: 404},
	{name: "DELETE", method: "DELETE", url: "https://a.example/moved", status: 301, location: "https://to.example/new?a=1&b=%222%22"},
	{name: "PATCH", method: "PATCH", url: "http://a.example/moved", status: 301, location: "https://to.example/new?a=1&b=%222%22"},
	{name: "OPTIONS", method: "OPTIONS", url: "http://a.example/moved", status: 301, location: "https://to.example/new?a=1&b=%222%22"},
	{name: "TRACE", method: "TRACE", url: "http://a.example/moved", status: 405, header: map[string]string{"Allow": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}},
	{name: "TRACE over https", method: "TRACE", url: "https://a.example/moved", status: 405},
	{name: "gone", url: "http://a.example/gone", status: 410},
	{name: "gone over https", url: "https://a.example/gone", status: 410},
	{name: "for legal reasons", url: "https://a.example/law", status: 451},
	{name: "own page", url: "https://pages.example/x", status: 404, page: "<p>bløbær & \"nothing\""},
	{name: "own page in the clear", url: "http://pages.example/x", status: 404, page: "<p>bløbær & \"nothing\""},
	{name: "gone beside an own page", url: "https://pages.example/gone", status: 410},
	{name: "query", url: "https://a.example/q?b=2&id=7%2f8", status: 301, location: "https://to.example/item/7%2f8?b=2"},
	{name: "language", url: "https://a.example/lang", fields: []string{"Accept-Language", "nb-NO, en;q=0.5"}, status: 301, location: "/nb", header: map[string]string{"Vary": "Accept-Language"}},
	{name: "other language", url: "http://a.example/lang", fields: []string{"Accept-Language", "de"}, status: 302, location: "/en", header: map[string]string{"Vary": "Accept-Language"}},
	{name: "header and cookie", url: "https://a.example/app", fields: []string{"X-App", "abc", "Cookie", "a=b; beta=1"}, status: 301, location: "/app2", header: map[string]string{"Vary": "Cookie, X-App"}},
	{name: "header and cookie in the clear", url: "http://a.example/app", fields: []string{"x-app", "abc", "cookie", "beta=1"}, status: 301, location: "/app2"},
	{name: "neither header nor cookie", url: "https://a.example/app", status: 404, header: map[string]string{"Vary": "Cookie, X-App"}},
	{name: "country", url: "https://a.example/land", status: 301, location: "/no", header: map[string]string{"Cache-Control": "private, max-age=3600"}},
	{name: "percent", url: "https://a.example/half", status: 301, location: "/half-*"},
	{name: "percent in the clear", url: "http://a.example/half", status: 301, location: "/half-*"},
	{name: "own cache time", url: "https://a.example/cache", status: 302, location: "/c", header: map[string]string{"Cache-Control": "max-age=86400"}},
	{name: "to https", url: "http://up.example/a//b%2fc?q=%C3%A6&x", status: 301, location: "https://up.example/a//b%2fc?q=%C3%A6&x"},
	{name: "to https with another method", method: "POST", url: "http://up.example/x", status: 307, location: "https://up.example/x"},
	{name: "to https, HTTP/1.0", method: "POST", http10: true, url: "http://up.example/x", status: 403, closes: true},
	{name: "GET to https, HTTP/1.0", method: "GET", http10: true, url: "http://up.example/x", status: 301, location: "https://up.example/x", closes: true},
	{name: "HTTP/1.0 over TLS", method: "GET", http10: true, url: "https://up.example/x", status: 301, location: "https://to.example/x", closes: true},
	{name: "HTTP/1.0 that stays", method: "GET", http10: true, fields: []string{"Connection", "keep-alive"}, url: "https://up.example/x", status: 301, location: "https://to.example/x"},
	{name: "https already", url: "https://up.example/x?", status: 301, location: "https://to.example/x"},
	{name: "https only", url: "http://only.example/x", status: 403},
	{name: "https only over https", url: "https://only.example/x", status: 301, location: "https://to.example/x"},
	{name: "HSTS", url: "https://hsts.example/x", status: 301, location: "https://to.example/x", header: map[string]string{"Strict-Transport-Security": "max-age=63072000; includeSubDomains; preload"}},
	{name: "no HSTS in the clear", url: "http://hsts.example/x", status: 301, location: "https://to.example/x", header: map[string]string{"Strict-Transport-Security": ""}},
	{name: "unknown host", url: "http://unknown.example/", status: 404},
	{name: "unknown host over https", url: "https://unknown.example/", status: 421},
	{name: "bad host", url: "http://a_b.example/", status: 400, closes: true},
	{name: "international host", url: "https://xn--blbr-roah.example/%C3%A6", status: 301, location: "https://to.example/%C3%A6"},
	{name: "international path", url: "https://other.example/bl%c3%a5", status: 301, location: "https://to.example/b%C3%A6r"},
	{name: "wildcard host", url: "https://x.wild.example/", status: 308, location: "https://to.example/wild"},
	{name: "loop", url: "https://loop.example/go?to=go", status: 508},
	{name: "escaped letters and dots", url: "https://a.example/./x/../%6doved", status: 301, location: "https://to.example/new?a=1&b=%222%22"},
	{name: "long URL", url: "https://up.example/" + strings.Repeat("x", 8191), status: 301, location: "https://to.example/" + strings.Repeat("x", 8191)},
	{name: "URL too long", url: "https://a.example/" + strings.Repeat("x", 8192), status: 414, closes: true},
	{name: "URL too long in the clear", url: "http://a.example/" + strings.Repeat("x", 8192), status: 414, closes: true},
	{name: "head too large", url: "https://a.example/moved", fields: []string{"X", strings.Repeat("x", 20480)}, status: 431, closes: true},
	{name: "head too large in the clear", url: "http://a.example/moved", fields: []string{"X", strings.Repeat("x", 20480)}, status: 431, closes: true},
	{name: "our own port", url: "https://a.example:PORT/gone", status: 410, header: map[string]string{"Alt-Svc": `h3=":PORT"; ma=86400`}},
	{name: "our own port in the clear", url: "http://a.example:PORT/gone", status: 410, header: map[string]string{"Alt-Svc": ""}},
	{name: "another's port", url: "https://a.example:444/gone", status: 410, header: map[string]string{"Alt-Svc": ""}},
	{name: "our own port, HTTP/1.0", method: "GET", http10: true, url: "https://a.example:PORT/gone", status: 410, closes: true, header: map[string]string{"Alt-Svc": `h3=":PORT"; ma=86400`}},
}

// addr is where the door is.
func (d *door) addr() string {
	if d.https {
		return d.site.https
	}
	return d.site.http
}

func (d *door) port() string {
	_, port, _ := net.SplitHostPort(d.addr())
	return port
}

// open makes what asks by the door.
func (d *door) open(t *testing.T) func(c *doorCase, method string) answer {
	if d.http1 {
		return func(c *doorCase, method string) answer { return d.askHTTP1(c, method) }
	}
	var transport http.RoundTripper
	if d.http3 {
		transport = d.site.http3(t)
	} else {
		t := d.site.client("2", d.https).Transport.(*http.Transport)
		t.DisableCompression = true
		if d.https { // a connection of its own for each host, as a browser has
			t.TLSClientConfig.InsecureSkipVerify = true
		}
		transport = t
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return func(c *doorCase, method string) answer {
		req := mustRequest(t, method, strings.ReplaceAll(c.url, "PORT", d.port()))
		if c.body != "" {
			req = mustRequest(t, method, req.URL.String())
			req.Body, req.ContentLength = io.NopCloser(strings.NewReader(c.body)), int64(len(c.body))
		}
		// As it is written: what url makes of it is another matter.
		_, rest, _ := strings.Cut(c.url, "://")
		_, target, _ := strings.Cut(rest, "/")
		path, query, has := strings.Cut("/"+target, "?")

		req.URL.Path, req.URL.RawPath, req.URL.RawQuery, req.URL.ForceQuery = mustUnescape(t, path), path, query, has && query == ""
		for i := 0; i < len(c.fields); i += 2 {
			req.Header.Add(c.fields[i], c.fields[i+1])
		}
		req.Header.Set("User-Agent", "")
		return d.site.do(client, req)
	}
}

func mustUnescape(t *testing.T, path string) string {
	s, err := url.PathUnescape(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (d *door) askHTTP1(c *doorCase, method string) answer {
	_, rest, _ := strings.Cut(strings.ReplaceAll(c.url, "PORT", d.port()), "://")
	host, target, _ := strings.Cut(rest, "/")
	version := "1.1"
	if c.http10 {
		version = "1.0"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s /%s HTTP/%s\r\nHost: %s\r\n", method, target, version, host)
	for i := 0; i < len(c.fields); i += 2 {
		fmt.Fprintf(&b, "%s: %s\r\n", c.fields[i], c.fields[i+1])
	}
	if c.body != "" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(c.body))
	}
	b.WriteString("\r\n" + c.body)
	name, _, _ := strings.Cut(host, ":")
	return d.site.raw(d.https, name, b.String())
}

// check holds an answer to what the case says.
func (d *door) check(t *testing.T, c *doorCase, method string, got *answer) {
	t.Helper()
	location := got.Header.Get("Location")
	if want, ok := strings.CutSuffix(c.location, "*"); got.StatusCode != c.status || location != c.location && !(ok && strings.HasPrefix(location, want)) {
		t.Errorf("%s: got %d %.80q, want %d %.80q", d.name, got.StatusCode, location, c.status, c.location)
	}
	for name, want := range c.header {
		if value := got.Header.Get(name); value != strings.ReplaceAll(want, "PORT", d.port()) {
			t.Errorf("%s: %s: got %q, want %q", d.name, name, value, want)
		}
	}
	switch {
	case method == "HEAD" && got.body != "":
		t.Errorf("%s: a body for HEAD: %q", d.name, got.body)
	case method != "HEAD" && c.page != "" && got.body != c.page:
		t.Errorf("%s: body %q", d.name, got.body)
	case method != "HEAD" && got.body == "":
		t.Errorf("%s: no body", d.name)
	}
	if got.Header.Get("Date") == "" {
		t.Errorf("%s: no Date", d.name)
	}
	connection := got.Header.Get("Connection")
	if got.Close && connection == "" { // net/http takes it out
		connection = "close"
	}
	want := ""
	switch {
	case d.http1 && c.closes && !c.http10:
		want = "close"
	case d.http1 && c.http10 && c.closes:
		want = connection // what HTTP/1.0 stands for, said or not
	case d.http1 && c.http10:
		want = "keep-alive"
	}
	if connection != want {
		t.Errorf("%s: Connection: got %q, want %q", d.name, connection, want)
	}
}

// sameEverywhere is what must not depend on the door.
func sameEverywhere(a *answer) string {
	var b bytes.Buffer
	fmt.Fprintln(&b, a.StatusCode)
	for _, name := range slices.Sorted(maps.Keys(a.Header)) {
		switch name {
		case "Date", "Connection":
		case "Alt-Svc": // names the port
			fmt.Fprintln(&b, name)
		default:
			fmt.Fprintf(&b, "%s: %q\n", name, a.Header[name])
		}
	}
	fmt.Fprintf(&b, "%q", a.body)
	return b.String()
}

// http3 is a client of the site, whatever the host.
func (s *site) http3(t *testing.T) *http3.Transport {
	transport := &http3.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: ca.Pool(), InsecureSkipVerify: true},
		DisableCompression: true,
		Dial: func(ctx context.Context, _ string, config *tls.Config, quicConfig *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, s.https, config, quicConfig)
		},
	}
	t.Cleanup(func() { transport.Close() })
	return transport
}

func (s *site) get3(t *testing.T, transport *http3.Transport, url string) answer {
	t.Helper()
	return s.do(&http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, mustRequest(t, "GET", url))
}

func doorSite(t *testing.T, change func(*Server)) *site {
	return start(t, compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/:splat"}, {Name: "b.example", To: "https://to.example/b"}}, nil), change,
		[]string{"a.example"}, []string{"b.example"})
}

func TestHTTP3IsCountedAndLogged(t *testing.T) {
	s := doorSite(t, nil)
	if got := s.get3(t, s.http3(t), "https://a.example/x"); got.StatusCode != 301 || got.ProtoMajor != 3 {
		t.Errorf("got %s %d", got.Proto, got.StatusCode)
	}
	s.shutdown()
	w := httptest.NewRecorder()
	s.Metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if want := `fingerpost_requests_total{code="301",proto="3",scheme="https"} 1`; !strings.Contains(w.Body.String(), want+"\n") {
		t.Errorf("no %s in\n%s", want, w.Body)
	}
	s.Access.Close()
	s.Access = nil
	if !strings.Contains(s.access.String(), `"proto":"3"`) || !strings.Contains(s.access.String(), `"remote":"127.0.0.1:`) {
		t.Errorf("log %s", s.access)
	}
}

// Without its socket HTTP/3 is gone, and https is not.
func TestAFailingUDPSocketLeavesHTTPS(t *testing.T) {
	s := doorSite(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	exit := make(chan error, 1)
	go func() { exit <- s.ServeTLS(l, socket) }()
	s.https = l.Addr().String()
	altSvc := func() string {
		got := s.ask("1.1", "GET", "https://a.example:"+port(l.Addr())+"/")
		if got.StatusCode != 301 {
			t.Fatalf("got %d", got.StatusCode)
		}
		return got.Header.Get("Alt-Svc")
	}
	if altSvc() == "" {
		t.Error("HTTP/3 is not told of")
	}
	s.get3(t, s.http3(t), "https://a.example/")
	socket.Close()
	for deadline := time.Now().Add(10 * time.Second); altSvc() != ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("HTTP/3 is still told of")
		}
	}
	select {
	case err := <-exit:
		t.Errorf("ServeTLS ended: %v", err)
	default:
	}
	if !strings.Contains(s.logged.String(), "HTTP/3 has ended") {
		t.Errorf("log:\n%s", s.logged)
	}
}

// The handshakes of one network leave room for those of others.
func TestHTTP3HandshakesHaveShares(t *testing.T) {
	s := doorSite(t, func(s *Server) { s.Limits.Handshakes = 16 })
	q := &quicServer{f: s.newFront(true, &net.UDPAddr{}), shares: map[netip.Prefix]int{}}
	from := func(addr string) netip.Prefix { return network(net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr))) }
	entered := func(addrs ...string) (n int) {
		for i := range 8 {
			if q.enter(from(addrs[i%len(addrs)])) {
				n++
			}
		}
		return n
	}
	for _, addrs := range [][]string{{"192.0.2.1:1", "192.0.2.2:2", "[::ffff:192.0.2.3]:3"}, {"198.51.100.1:1"}, {"[2001:db8::1]:1", "[2001:db8:0:1::1]:1"}, {"[2001:db8:1::1]:1"}} {
		if n := entered(addrs...); n != 4 {
			t.Errorf("%v: %d handshakes", addrs, n)
		}
	}
	if n := entered("203.0.113.1:1"); n != 0 {
		t.Errorf("%d over all", n)
	}
	for range 4 {
		q.leave(from("192.0.2.9:9"))
	}
	if n := entered("203.0.113.1:1"); n != 4 || len(q.shares) != 4 {
		t.Errorf("%d in the place of others, %d networks", n, len(q.shares))
	}
}

// The log names the host that was answered for, by whichever lane.
func TestTheLogNamesTheHostThatWasUsed(t *testing.T) {
	s := doorSite(t, func(s *Server) { s.Loops = -1 })
	other := doorSite(t, nil)
	for _, s := range []*site{s, other} {
		for _, https := range []bool{false, true} {
			scheme := map[bool]string{false: "http", true: "https"}[https]
			for _, request := range []string{"GET SCHEME://a.example/x HTTP/1.1\r\nHost: b.example\r\n\r\n", "POST SCHEME://a.example/x HTTP/1.1\r\nHost: b.example\r\nContent-Length: 1\r\n\r\nx"} {
				if got := s.raw(https, "a.example", strings.Replace(request, "SCHEME", scheme, 1)); got.Header.Get("Location") != "https://to.example/x" {
					t.Errorf("got %d %s", got.StatusCode, got.Header.Get("Location"))
				}
			}
		}
		s.shutdown()
		s.Access.Close()
		s.Access = nil
		if n := strings.Count(s.access.String(), `"host":"a.example"`); n != 4 {
			t.Errorf("%d records of a.example:\n%s", n, s.access)
		}
	}
}

func TestHTTP3ChoosesTheCertificateByName(t *testing.T) {
	s := doorSite(t, nil)
	for name, fails := range map[string]bool{"a.example": false, "b.example": false, "unknown.example": true} {
		conn, err := quic.DialAddr(t.Context(), s.https, &tls.Config{ServerName: name, RootCAs: ca.Pool(), NextProtos: []string{"h3"}}, nil)
		if (err != nil) != fails {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			if !strings.Contains(err.Error(), "unrecognized name") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		conn.CloseWithError(0, "")
	}
	// One connection for two hosts, as a browser would not make it.
	transport := s.http3(t)
	if got := s.get3(t, transport, "https://a.example/"); got.StatusCode != 301 {
		t.Errorf("got %d", got.StatusCode)
	}
	req := mustRequest(t, "GET", "https://a.example/")
	req.Host = "b.example"
	if got := s.do(&http.Client{Transport: transport}, req); got.StatusCode != 421 {
		t.Errorf("the host of another certificate: got %d", got.StatusCode)
	}
}

func TestHTTP3HasNo0RTT(t *testing.T) {
	s := doorSite(t, nil)
	config := &tls.Config{ServerName: "a.example", RootCAs: ca.Pool(), NextProtos: []string{"h3"}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	for _, resumed := range []bool{false, true} {
		conn, err := quic.DialAddrEarly(t.Context(), s.https, config, nil)
		if err != nil {
			t.Fatal(err)
		}
		<-conn.HandshakeComplete()
		if state := conn.ConnectionState(); state.Used0RTT || state.TLS.DidResume != resumed {
			t.Errorf("0-RTT %v, resumed %v, want resumed %v", state.Used0RTT, state.TLS.DidResume, resumed)
		}
		// The ticket comes after the handshake: a whole request is behind it.
		h := (&http3.Transport{}).NewClientConn(conn)
		resp, err := h.RoundTrip(mustRequest(t, "GET", "https://a.example/"))
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		conn.CloseWithError(0, "")
	}
}

// A flood of handshakes makes clients prove their addresses first.
func TestHTTP3ValidatesAddressesUnderLoad(t *testing.T) {
	for handshakes, wantRetry := range map[int]bool{0: false, 1: true} { // 1: under load always
		s := doorSite(t, func(s *Server) { s.Limits.Handshakes = handshakes })
		server, err := net.ResolveUDPAddr("udp", s.https)
		if err != nil {
			t.Fatal(err)
		}
		front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		back, err := net.DialUDP("udp", nil, server)
		if err != nil {
			t.Fatal(err)
		}
		var client atomic.Pointer[net.UDPAddr]
		var retried atomic.Bool
		go func() {
			b := make([]byte, 2000)
			for {
				n, from, err := front.ReadFromUDP(b)
				if err != nil {
					return
				}
				client.Store(from)
				back.Write(b[:n])
			}
		}()
		go func() {
			b := make([]byte, 2000)
			for {
				n, err := back.Read(b)
				if err != nil {
					return
				}
				if b[0]&0xf0 == 0xf0 { // RFC 9000 17.2.5
					retried.Store(true)
				}
				front.WriteTo(b[:n], client.Load())
			}
		}()
		conn, err := quic.DialAddr(t.Context(), front.LocalAddr().String(), &tls.Config{ServerName: "a.example", RootCAs: ca.Pool(), NextProtos: []string{"h3"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		conn.CloseWithError(0, "")
		front.Close()
		back.Close()
		if retried.Load() != wantRetry {
			t.Errorf("%d handshakes at once: asked to prove the address: %v", handshakes, retried.Load())
		}
	}
}

func TestHTTP3ShutdownFinishesWhatIsUnderWay(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	table := compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/"}}, nil)
	var asked atomic.Int64
	s := start(t, table, func(s *Server) {
		s.Table = func() *redirect.Table {
			if asked.Add(1) == 2 {
				close(entered)
				<-release
			}
			return table
		}
	}, []string{"a.example"})
	idle := s.http3(t)
	s.get3(t, idle, "https://a.example/")
	got := make(chan answer, 1)
	go func() { got <- s.get3(t, s.http3(t), "https://a.example/") }()
	<-entered
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(context.Background()) }()
	if err := <-s.exitTLS; err != nil {
		t.Error(err)
	}
	select {
	case err := <-down:
		t.Fatalf("Shutdown returned %v with a request under way", err)
	default:
	}
	close(release)
	if a := <-got; a.StatusCode != 301 {
		t.Errorf("got %d", a.StatusCode)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	l, err := net.ListenPacket("udp", s.https)
	if err != nil {
		t.Errorf("the socket is still open: %v", err)
	} else {
		l.Close()
	}
}

func TestHTTP3ShutdownEndsWithItsContext(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	table := compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/"}}, nil)
	s := start(t, table, func(s *Server) {
		s.Table = func() *redirect.Table {
			close(entered)
			<-release
			return table
		}
	}, []string{"a.example"})
	failed := make(chan error, 1)
	go func() {
		_, err := s.http3(t).RoundTrip(mustRequest(t, "GET", "https://a.example/"))
		failed <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); err == nil {
		t.Error("no error")
	}
	if err := <-failed; err == nil {
		t.Error("the connection was not closed")
	}
	close(release)
}

// A head that never ends does not keep a connection open.
func TestHTTP3ClosesAnIdleConnection(t *testing.T) {
	s := doorSite(t, func(s *Server) { s.Limits.Idle = 200 * time.Millisecond })
	conn, err := quic.DialAddr(t.Context(), s.https, &tls.Config{ServerName: "a.example", RootCAs: ca.Pool(), NextProtos: []string{"h3"}}, &quic.Config{KeepAlivePeriod: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := conn.OpenStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stream.Write([]byte{0x01, 0x40, 0x80, 0x00}) // HEADERS of 128 bytes, of which one comes
	select {
	case <-conn.Context().Done():
	case <-time.After(10 * time.Second):
		t.Fatal("still open")
	}
}

// A ticket of one host is worth nothing for another.
func TestTicketsAreBoundToTheirHost(t *testing.T) {
	s := doorSite(t, nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cache := &oneTicket{}
		for _, tt := range []struct {
			name    string
			resumed bool
		}{{"a.example", false}, {"A.example", true}, {"b.example", false}, {"b.example", true}} {
			conn, err := tls.Dial("tcp", s.https, &tls.Config{ServerName: tt.name, InsecureSkipVerify: true, ClientSessionCache: cache, MinVersion: version, MaxVersion: version})
			if err != nil {
				t.Fatal(err)
			}
			host := strings.ToLower(tt.name)
			if got := s.exchange(conn, bufio.NewReader(conn), "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); got.StatusCode != 301 {
				t.Errorf("%s: got %d", tt.name, got.StatusCode)
			}
			if got := conn.ConnectionState().DidResume; got != tt.resumed {
				t.Errorf("version %x: %s with the ticket at hand: resumed %v", version, tt.name, got)
			}
			conn.Close()
		}
	}
}

// oneTicket gives the last ticket for whatever host.
type oneTicket struct {
	state atomic.Pointer[tls.ClientSessionState]
}

func (c *oneTicket) Get(string) (*tls.ClientSessionState, bool) {
	s := c.state.Load()
	return s, s != nil
}

func (c *oneTicket) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		c.state.Store(s)
	}
}

// Clients that begin handshakes and end none do not keep others out.
func TestHandshakesGiveWay(t *testing.T) {
	const most = 16
	s := doorSite(t, func(s *Server) { s.Limits.Handshakes = most })
	var idle []net.Conn
	for range 4 * most {
		c, err := net.Dial("tcp", s.https)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
	}
	var ended atomic.Int64
	var last sync.WaitGroup
	last.Add(len(idle) - most)
	for _, c := range idle {
		go func() {
			c.Read(make([]byte, 1))
			if ended.Add(1) <= int64(len(idle)-most) {
				last.Done()
			}
		}()
	}
	last.Wait() // all but the most that may be under way have been ended
	if got := s.raw(true, "a.example", "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"); got.StatusCode != 301 {
		t.Errorf("got %d", got.StatusCode)
	}
}

func TestAPanicInAHandshakeEndsItsConnectionOnly(t *testing.T) {
	s := doorSite(t, func(s *Server) {
		choose := s.Certificate
		s.Certificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName == "b.example" {
				panic("boom")
			}
			return choose(hello)
		}
	})
	if conn, err := tls.Dial("tcp", s.https, &tls.Config{ServerName: "b.example", InsecureSkipVerify: true}); err == nil {
		conn.Close()
		t.Error("the handshake succeeded")
	}
	if conn, err := quic.DialAddr(t.Context(), s.https, &tls.Config{ServerName: "b.example", InsecureSkipVerify: true, NextProtos: []string{"h3"}}, nil); err == nil {
		conn.CloseWithError(0, "")
		t.Error("the handshake over UDP succeeded")
	}
	if got := s.raw(true, "a.example", good); got.StatusCode != 301 {
		t.Errorf("got %d", got.StatusCode)
	}
	if log := s.logged.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "boom") {
		t.Errorf("log:\n%s", log)
	}
}
