package edge

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/redirect"
	"fingerpost/telemetry"
)

var everyProto = []string{"1.0", "1.1", "2"}

func TestProtocolMatrix(t *testing.T) {
	host := func(name, policy string) fingerpost.Host {
		return fingerpost.Host{Name: name, HTTPS: policy, To: "https://to.example/:splat"}
	}
	s := start(t, compile(t, []fingerpost.Host{
		host("all.example", fingerpost.AllowAll), host("up.example", fingerpost.RedirectToHTTPS), host("only.example", fingerpost.HTTPSOnly),
		host("bare.example", fingerpost.RedirectToHTTPS), // without a certificate
	}, nil), nil, []string{"all.example", "up.example", "only.example"})
	_, httpsPort, _ := net.SplitHostPort(s.https)

	const served = "https://to.example/a//b%2fc?q=%C3%A6&x"
	for _, proto := range everyProto {
		old := proto == "1.0"
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"} {
			reads := method == "GET" || method == "HEAD"
			for _, tt := range []struct {
				url    string
				status int
				to     string
			}{
				{"http://all.example", 301, ""},
				{"https://all.example", 301, ""},
				{"https://up.example", 301, ""},
				{"https://only.example", 301, ""},
				{"http://only.example", 403, "-"},
				{"http://bare.example", 301, ""}, // holds back until there is a certificate
				{"http://up.example", map[bool]int{true: 301, false: map[bool]int{true: 403, false: 307}[old]}[reads], "https://up.example"},
			} {
				t.Run(fmt.Sprintf("%s %s %s", proto, method, tt.url), func(t *testing.T) {
					got := s.ask(proto, method, tt.url+"/a//b%2fc?q=%C3%A6&x")
					to := ""
					switch {
					case tt.status == 403:
					case tt.to == "":
						// What :splat carries has no duplicate slashes (spec 2).
						to = strings.Replace(served, "//b", "/b", 1)
					default:
						to = tt.to + "/a//b%2fc?q=%C3%A6&x" // an upgrade: byte for byte
					}
					if got.StatusCode != tt.status || got.Header.Get("Location") != to {
						t.Errorf("got %d %q, want %d %q", got.StatusCode, got.Header.Get("Location"), tt.status, to)
					}
					if (got.body == "") != (method == "HEAD") {
						t.Errorf("body %q", got.body)
					}
				})
			}
		}
	}

	t.Run("own port", func(t *testing.T) {
		_, httpPort, _ := net.SplitHostPort(s.http)
		for port, want := range map[string]string{
			httpPort: "https://up.example:" + httpsPort + "/x", // the visitor sees our ports
			"8888":   "https://up.example/x",                   // a mapping hides them
			"":       "https://up.example/x",
		} {
			host := strings.TrimSuffix("up.example:"+port, ":")
			got := s.raw(false, "", "GET /x HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
			if got.Header.Get("Location") != want {
				t.Errorf("%s: got %q, want %q", host, got.Header.Get("Location"), want)
			}
		}
	})
}

func TestOfSeveralHTTPSPortsTheLowestIsTheOne(t *testing.T) {
	s := new(Server)
	for _, tt := range []struct{ port, want string }{{"", ""}, {"8443", "8443"}, {"443", "443"}, {"10443", "443"}, {"", "443"}} {
		s.servesHTTPS(tt.port)
		got := ""
		if p := s.httpsPort.Load(); p != nil {
			got = *p
		}
		if got != tt.want {
			t.Errorf("after %q: %q, want %q", tt.port, got, tt.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	s := start(t, compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/"}}, nil), nil,
		[]string{"a.example"}, []string{"b.example", "shared.example"})
	url := func(n int) string { return "/" + strings.Repeat("x", n-1) }
	fields := func(n int) string { return "X: " + strings.Repeat("y", n) + "\r\n" }
	for _, tt := range []struct {
		name    string
		request string
		status  int
		closes  bool
	}{
		{"long URL", "GET " + url(8192) + " HTTP/1.1\r\nHost: a.example\r\n\r\n", 301, false},
		{"URL too long", "GET " + url(8193) + " HTTP/1.1\r\nHost: a.example\r\n\r\n", 414, true},
		{"URL too long before head too long", "GET " + url(9000) + " HTTP/1.1\r\nHost: a.example\r\n" + fields(20000) + "\r\n", 414, true},
		{"long head", "GET / HTTP/1.1\r\nHost: a.example\r\n" + fields(20000) + "\r\n", 301, false},
		{"head too long", "GET / HTTP/1.1\r\nHost: a.example\r\n" + fields(20480) + "\r\n", 431, true},
		{"head of exactly 20480 bytes", "GET / HTTP/1.1\r\nHost: a.example\r\n" + fields(20480-40) + "\r\n", 301, false},
		{"head of 20481 bytes", "GET / HTTP/1.1\r\nHost: a.example\r\n" + fields(20481-40) + "\r\n", 431, true},
		{"empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, true},
		{"escape in host", "GET / HTTP/1.1\r\nHost: a_%41\r\n\r\n", 400, true},
		{"underscore in host", "GET / HTTP/1.1\r\nHost: a_b.example\r\n\r\n", 400, true},
		{"bad host before bad path", "GET /\\ HTTP/1.1\r\nHost: a_b\r\n\r\n", 400, true},
		{"no host", "GET / HTTP/1.1\r\n\r\n", 400, true},
		{"no host on 1.0", "GET / HTTP/1.0\r\n\r\n", 404, true},
		{"unknown host", "GET / HTTP/1.1\r\nHost: unknown.example\r\n\r\n", 404, false},
		{"host as people write it", "GET / HTTP/1.1\r\nHost: A.Example.:80\r\n\r\n", 301, false},
		{"backslash", "GET /a\\b HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
		{"bad escape", "GET /a%zz HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
		{"fragment", "GET /a#b HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
		{"fragment behind the query", "GET /a?b#c HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
		{"no slash", "GET a HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
		{"asterisk", "GET * HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", 204, false},
		{"OPTIONS * with a bad host", "OPTIONS * HTTP/1.1\r\nHost: a_b\r\n\r\n", 400, true},
		{"absolute-form", "GET SCHEME://a.example/x HTTP/1.1\r\nHost: ignored.example\r\n\r\n", 301, false},
		{"absolute-form without path", "GET SCHEME://a.example?x HTTP/1.1\r\nHost: a.example\r\n\r\n", 301, false},
		{"absolute-form with user", "GET http://u@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
		{"absolute-form of another scheme", "GET ftp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
		{"CONNECT", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 400, true},
		{"TRACE", "TRACE / HTTP/1.1\r\nHost: a.example\r\n\r\n", 405, false},
		{"raw UTF-8", "GET /blåbær HTTP/1.1\r\nHost: a.example\r\n\r\n", 301, false},
		{"other folders' slashes", "GET //evil.example/../x HTTP/1.1\r\nHost: a.example\r\n\r\n", 301, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, https := range []bool{false, true} {
				status := tt.status
				conn := s.dial(https, "")
				defer conn.Close()
				r := bufio.NewReader(conn)
				scheme := map[bool]string{false: "http", true: "https"}[https]
				got := s.exchange(conn, r, strings.ReplaceAll(tt.request, "SCHEME", scheme))
				if https && status == 404 {
					status = 421 // an unknown host
				}
				if got.StatusCode != status {
					t.Errorf("https %v: got %d, want %d", https, got.StatusCode, status)
				}
				if kept := kept(conn, r); kept == tt.closes {
					t.Errorf("https %v: the connection is kept: %v", https, kept)
				}
				if got.Header.Get("Server") != "" {
					t.Errorf("headers %v", got.Header)
				}
				if got.StatusCode == 405 && got.Header.Get("Allow") == "" {
					t.Error("405 without Allow")
				}
			}
		})
	}
	t.Run("over HTTP/2", func(t *testing.T) {
		for _, tt := range []struct {
			target, host string
			field        string
			status       int
		}{
			{url(8192), "a.example", "", 301},
			{url(8193), "a.example", "", 414},
			{"/", "a.example", strings.Repeat("y", 20480), 431},
			{"/", "a_b.example", "", 400},
			{"/?a%20b", "a.example", "", 301},
			{"/unknown", "unknown.example", "", 404},
		} {
			client := s.client("2", false)
			req := &http.Request{Method: "GET", URL: mustURL(t, "http://"+tt.host+tt.target), Header: http.Header{}}
			if tt.field != "" {
				req.Header.Set("X", tt.field)
			}
			if got := s.do(client, req); got.StatusCode != tt.status || got.ProtoMajor != 2 {
				t.Errorf("%.20s: got %s %d, want %d", tt.target, got.Proto, got.StatusCode, tt.status)
			}
			// A refusal ends its stream and not the connection with all others.
			if got := s.do(client, mustRequest(t, "GET", "http://a.example/")); got.StatusCode != 301 {
				t.Errorf("the next request got %d", got.StatusCode)
			}
		}
	})
}

func TestHeadGivesTheHeadersOfGet(t *testing.T) {
	s := start(t, compile(t, []fingerpost.Host{
		{Name: "a.example", HSTS: &fingerpost.HSTS{MaxAge: 63072000, IncludeSubDomains: true}, Fallback: &fingerpost.Fallback{Page: "<p>nothing here"}},
	}, []fingerpost.Redirect{
		{From: "a.example/moved", To: "https://to.example/?a=1&b=\"2\"", Headers: map[string]string{"X-Robots-Tag": "noindex", "link": "</a>; rel=\"x\""}},
		{From: "a.example/gone", Status: 410},
		{From: "a.example/lang", To: "/nb", When: &fingerpost.When{Languages: []string{"nb"}}},
	}), nil, []string{"a.example"})
	for _, proto := range everyProto {
		for _, scheme := range []string{"http", "https"} {
			for path, status := range map[string]int{"/moved": 301, "/gone": 410, "/lang": 404, "/": 404} {
				url := scheme + "://a.example" + path
				get, head := s.ask(proto, "GET", url), s.ask(proto, "HEAD", url)
				get.Header.Del("Date")
				head.Header.Del("Date")
				if get.StatusCode != status || head.StatusCode != status {
					t.Errorf("%s %s: got %d and %d, want %d", proto, url, get.StatusCode, head.StatusCode, status)
				}
				if g, h := fmt.Sprint(get.Header), fmt.Sprint(head.Header); g != h {
					t.Errorf("%s %s:\nGET  %s\nHEAD %s", proto, url, g, h)
				}
				if get.ContentLength != int64(len(get.body)) || head.ContentLength != get.ContentLength || head.body != "" {
					t.Errorf("%s %s: lengths %d and %d of %q", proto, url, get.ContentLength, head.ContentLength, get.body)
				}
				hsts := get.Header.Get("Strict-Transport-Security")
				if want := map[string]string{"http": "", "https": "max-age=63072000; includeSubDomains"}[scheme]; hsts != want {
					t.Errorf("%s %s: HSTS %q, want %q", proto, url, hsts, want)
				}
				if get.Header.Get("Content-Type") != "text/html; charset=utf-8" || get.Header.Get("X-Content-Type-Options") != "nosniff" {
					t.Errorf("%s %s: headers %v", proto, url, get.Header)
				}
				if path == "/" && get.body != "<p>nothing here" {
					t.Errorf("%s: page %q", url, get.body)
				}
			}
		}
	}
	got := s.ask("1.1", "GET", "http://a.example/moved")
	const location = "https://to.example/?a=1&b=%222%22"
	if got.Header.Get("Location") != location || got.Header.Get("Cache-Control") != "max-age=3600" ||
		got.Header.Get("X-Robots-Tag") != "noindex" || got.Header.Get("Link") != "</a>; rel=\"x\"" {
		t.Errorf("headers %v", got.Header)
	}
	if !strings.Contains(got.body, `href="https://to.example/?a=1&amp;b=%222%22"`) {
		t.Errorf("body %s", got.body)
	}
	if got := s.ask("1.1", "GET", "http://a.example/lang"); !strings.EqualFold(got.Header.Get("Vary"), "Accept-Language") {
		t.Errorf("Vary %q", got.Header.Get("Vary"))
	}
}

// TestServerIsNamedWhereThatIsWanted by every door, for redirects and refusals.
func TestServerIsNamedWhereThatIsWanted(t *testing.T) {
	for _, named := range []bool{false, true} {
		s := start(t, compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/"}}, nil), func(s *Server) { s.Named = named }, []string{"a.example"})
		var want []string
		if named {
			want = []string{"Fingerpost"}
		}
		for _, url := range []string{"http://a.example/", "https://a.example/", "http://unknown.example/"} {
			for _, proto := range everyProto {
				if got := s.ask(proto, "GET", url); !slices.Equal(got.Header["Server"], want) {
					t.Errorf("HTTP/%s %s: Server %q, want %q", proto, url, got.Header["Server"], want)
				}
			}
		}
		if got := s.get3(t, s.http3(t), "https://a.example/"); !slices.Equal(got.Header["Server"], want) {
			t.Errorf("HTTP/3: Server %q, want %q", got.Header["Server"], want)
		}
	}
}

func TestPageEscapesTheLink(t *testing.T) {
	a := redirect.Answer{Status: 301, Location: []byte(`https://a.example/"><script>'&`)}
	got := string(appendPage(nil, &a))
	if strings.Contains(got, "<script>") || strings.Count(got, `https://a.example/&#34;&gt;&lt;script&gt;&#39;&amp;`) != 2 {
		t.Errorf("got %s", got)
	}
}

// A long request must not make a body many times its size.
func TestPageOfALongTargetIsShort(t *testing.T) {
	a := redirect.Answer{Status: 301, Location: []byte("https://a.example/?" + strings.Repeat("&", 8000))}
	if got := len(appendPage(nil, &a)); got > 5*8000+1000 {
		t.Errorf("%d bytes", got)
	}
}

func TestBodiesAreNotReadFor(t *testing.T) {
	s := start(t, compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/", Status: 308}}, nil), nil)
	post := func(fields, body string) string {
		return "POST / HTTP/1.1\r\nHost: a.example\r\n" + fields + "\r\n" + body
	}
	for _, tt := range []struct {
		name, request string
		status        int
		kept          bool
	}{
		{"none", post("Content-Length: 0\r\n", ""), 308, true},
		{"small", post("Content-Length: 5\r\n", "hello"), 308, false},
		{"large", post("Content-Length: 65537\r\n", "hello"), 308, false}, // the rest never comes
		{"of unknown length", post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"), 308, false},
		{"HTTP/1.0 with a framing that it does not have", "POST / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n1e\r\nGET /smuggled HTTP/1.1\r\n\r\n", 400, false},
		{"waiting for 100", post("Content-Length: 5\r\nExpect: 100-continue\r\n", ""), 308, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := s.dial(false, "")
			defer conn.Close()
			r := bufio.NewReader(conn)
			if got := s.exchange(conn, r, tt.request); got.StatusCode != tt.status {
				t.Errorf("got %d", got.StatusCode)
			}
			if kept := kept(conn, r); kept != tt.kept {
				t.Errorf("the connection is kept: %v", kept)
			}
		})
	}
}

func TestMetricsAndAccessLog(t *testing.T) {
	now := time.Date(2026, 11, 20, 9, 30, 0, 0, time.UTC)
	s := start(t, compile(t, []fingerpost.Host{{Name: "a.example"}}, []fingerpost.Redirect{{ID: "r1", From: "a.example/x", To: "https://to.example/"}}),
		func(s *Server) { s.Now = func() time.Time { return now } }, []string{"a.example"})
	for _, proto := range everyProto {
		s.ask(proto, "GET", "https://a.example/x?\"")
	}
	s.raw(false, "", "GET /\\ HTTP/1.1\r\nHost: a.example\r\nUser-Agent: [31m\"\xff\r\nReferer: r\r\n\r\n")
	raw, err := net.Dial("tcp", s.https)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(raw, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n") // plain http to the TLS port
	io.Copy(io.Discard, raw)
	raw.Close()
	s.shutdown()
	s.Access.Close()
	s.Access = nil // for the cleanup

	w := httptest.NewRecorder()
	s.Metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	for _, want := range []string{
		`fingerpost_requests_total{code="301",proto="1.0",scheme="https"} 1`,
		`fingerpost_requests_total{code="301",proto="1.1",scheme="https"} 1`,
		`fingerpost_requests_total{code="301",proto="2",scheme="https"} 1`,
		`fingerpost_requests_total{code="400",proto="1.1",scheme="http"} 1`,
		`fingerpost_request_duration_seconds_count 4`,
		`fingerpost_tls_handshake_errors_total 1`,
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, w.Body)
		}
	}

	var records []map[string]any
	for line := range strings.Lines(s.access.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		records = append(records, record)
	}
	if len(records) != 4 {
		t.Fatalf("%d records, want 4", len(records))
	}
	// Those of different connections come in any order.
	slices.SortFunc(records, func(a, b map[string]any) int {
		return cmp.Or(-cmp.Compare(a["scheme"].(string), b["scheme"].(string)), cmp.Compare(a["proto"].(string), b["proto"].(string)))
	})
	for i, want := range []map[string]any{
		{"time": "2026-11-20T09:30:00.000Z", "scheme": "https", "proto": "1.0", "method": "GET", "host": "a.example", "target": "/x?\"", "status": 301.0, "rule": "r1"},
		{"proto": "1.1", "userAgent": "Go-http-client/1.1"},
		{"proto": "2"},
		{"scheme": "http", "status": 400.0, "target": "/\\", "userAgent": "[31m\"\ufffd", "referer": "r"},
	} {
		for field, value := range want {
			if records[i][field] != value {
				t.Errorf("record %d: %s is %q, want %q", i, field, records[i][field], value)
			}
		}
	}
	if records[0]["location"] == "" || records[0]["bytes"] == 0.0 {
		t.Errorf("record %v", records[0])
	}
}

func TestConnectionsAreCounted(t *testing.T) {
	s := start(t, compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/"}}, nil), nil, []string{"a.example"})
	for _, proto := range everyProto {
		s.ask(proto, "GET", "http://a.example/")
		s.ask(proto, "GET", "https://a.example/")
	}
	s.shutdown() // closes them all
	for _, listener := range []string{"http", "https"} {
		line := ""
		// A connection is counted down by its own goroutine, after it was closed.
		for deadline := time.Now().Add(5 * time.Second); !strings.HasSuffix(line, " 0"); {
			if time.Now().After(deadline) {
				t.Fatalf("after shutdown: %s", line)
			}
			w := httptest.NewRecorder()
			s.Metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			_, line, _ = strings.Cut(w.Body.String(), `fingerpost_connections{listener="`+listener+`"}`)
			line, _, _ = strings.Cut(line, "\n")
		}
	}
}

func TestBadRulesAreLoggedOnceASecond(t *testing.T) {
	var clock atomic.Int64
	clock.Store(1_800_000_000)
	table := compile(t, nil, []fingerpost.Redirect{{ID: "spin", From: "a.example/go?to=:x", To: "https://a.example/:x?to=:x"}})
	s := start(t, table, func(s *Server) { s.Now = func() time.Time { return time.Unix(clock.Load(), 0) } }, []string{"a.example"})
	for range 5 {
		if got := s.ask("1.1", "GET", "https://a.example/go?to=go"); got.StatusCode != 508 || got.Header.Get("Location") != "" {
			t.Fatalf("got %d %q, want 508", got.StatusCode, got.Header.Get("Location"))
		}
	}
	if n := strings.Count(s.logged.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings in one second, want 1:\n%s", n, s.logged)
	}
	clock.Add(1)
	s.ask("1.1", "GET", "https://a.example/go?to=go")
	if got := s.logged.String(); strings.Count(got, "level=WARN") != 2 || !strings.Contains(got, "notLogged=4") || !strings.Contains(got, "rule=spin") {
		t.Errorf("log:\n%s", got)
	}
}

func TestCountryIsAskedOnlyIfTheTableUsesIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "country.mmdb")
	countryFile(t, file, map[string]string{"127.0.0.0/8": "NO"})
	countries, err := OpenCountries(file)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	count := func(s *Server) {
		s.Country = func(a netip.Addr) string {
			asked.Add(1)
			return countries.Country(a)
		}
	}
	plain := fingerpost.Redirect{From: "a.example", To: "https://to.example/"}
	s := start(t, compile(t, nil, []fingerpost.Redirect{plain}), count)
	if got := s.ask("1.1", "GET", "http://a.example/"); got.Header.Get("Location") != "https://to.example/" || asked.Load() != 0 {
		t.Errorf("got %q, asked %d times", got.Header.Get("Location"), asked.Load())
	}
	norway := fingerpost.Redirect{From: "a.example", To: "https://no.example/", When: &fingerpost.When{Countries: []string{"NO"}}}
	s = start(t, compile(t, nil, []fingerpost.Redirect{plain, norway}), count)
	if got := s.ask("1.1", "GET", "http://a.example/"); got.Header.Get("Location") != "https://no.example/" || asked.Load() != 1 {
		t.Errorf("got %q, asked %d times", got.Header.Get("Location"), asked.Load())
	}
}

func TestShutdownFinishesWhatIsUnderWay(t *testing.T) {
	for _, proto := range []string{"1.1", "2"} {
		for _, scheme := range []string{"http", "https"} {
			t.Run(proto+" "+scheme, func(t *testing.T) {
				entered, release := make(chan struct{}), make(chan struct{})
				table := compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/"}}, nil)
				s := start(t, table, func(s *Server) {
					s.Table = func() *redirect.Table {
						close(entered)
						<-release
						return table
					}
				}, []string{"a.example"})
				got := make(chan answer, 1)
				go func() { got <- s.ask(proto, "GET", scheme+"://a.example/") }()
				<-entered
				down := make(chan error, 1)
				go func() { down <- s.Shutdown(context.Background()) }()
				for _, exit := range []chan error{s.exitPlain, s.exitTLS} {
					if err := <-exit; err != nil { // they return as soon as nothing is accepted any more
						t.Errorf("serving ended with %v", err)
					}
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
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				if err := s.ServePlain(l); err != nil {
					t.Errorf("serving after Shutdown: %v", err)
				}
				if _, err := l.Accept(); err == nil {
					t.Error("the listener is still open")
				}
			})
		}
	}
}

// pieces is a connection that keeps what is written behind the first bytes until it
// is let go.
type pieces struct {
	net.Conn
	first   int           // bytes that go at once
	written chan struct{} // closed when they have gone
	release chan struct{}
	once    sync.Once
}

func (p *pieces) Write(b []byte) (n int, err error) {
	p.once.Do(func() {
		n, err = p.Conn.Write(b[:p.first])
		close(p.written)
		<-p.release
	})
	if err != nil {
		return n, err
	}
	m, err := p.Conn.Write(b[n:])
	return n + m, err
}

// TestShutdownFinishesHandshakes begins one, has Shutdown begin, and wants the rest
// of the handshake to be taken and the first request to be answered. What has said
// nothing, and what has said all it had to, does not hold Shutdown up.
func TestShutdownFinishesHandshakes(t *testing.T) {
	for _, proto := range []string{"http/1.1", "h2"} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(proto+" "+tls.VersionName(version), func(t *testing.T) {
				s := start(t, compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/"}}, nil), nil, []string{"a.example"})
				idle := s.dial(true, "a.example") // one that has been answered waits for nothing
				defer idle.Close()
				s.exchange(idle, bufio.NewReader(idle), good)
				raw, err := net.Dial("tcp", s.https)
				if err != nil {
					t.Fatal(err)
				}
				part := &pieces{Conn: raw, first: 100, written: make(chan struct{}), release: make(chan struct{})}
				transport := &http.Transport{Protocols: new(http.Protocols), DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					c := tls.Client(part, &tls.Config{ServerName: "a.example", RootCAs: ca.Pool(), NextProtos: []string{proto}, MaxVersion: version})
					err := c.HandshakeContext(ctx)
					s.until(func(f *front) bool { return err != nil || f.https && len(f.handshakes.open) == 0 })
					return c, err // the request comes when the server is done with the handshake
				}}
				transport.Protocols.SetHTTP1(proto == "http/1.1")
				transport.Protocols.SetHTTP2(proto == "h2")
				defer transport.CloseIdleConnections()
				got := make(chan error, 1)
				go func() {
					resp, err := transport.RoundTrip(mustRequest(t, "GET", "https://a.example/"))
					if err == nil {
						resp.Body.Close()
						if resp.StatusCode != 301 || resp.TLS.NegotiatedProtocol != proto {
							err = fmt.Errorf("got %d over %s", resp.StatusCode, resp.TLS.NegotiatedProtocol)
						}
					}
					got <- err
				}()
				<-part.written
				s.until(func(f *front) bool {
					for _, g := range f.handshakes.open {
						if g.heard.Load() {
							return true
						}
					}
					return false
				})
				down := make(chan error, 1)
				go func() { down <- s.Shutdown(context.Background()) }()
				<-s.exitTLS
				if _, err := idle.Read(make([]byte, 1)); err != io.EOF { // it has begun
					t.Errorf("the idle connection ends with %v", err)
				}
				select {
				case err := <-down:
					t.Fatalf("Shutdown returned %v with a handshake under way", err)
				default:
				}
				close(part.release)
				if err := <-got; err != nil {
					t.Error(err)
				}
				if err := <-down; err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// until returns when a condition holds for the handshakes of one of the listeners.
func (s *site) until(holds func(*front) bool) {
	for found := false; !found; runtime.Gosched() {
		s.mu.Lock()
		for _, f := range s.fronts {
			f.handshakes.mu.Lock()
			found = found || holds(f)
			f.handshakes.mu.Unlock()
		}
		s.mu.Unlock()
	}
}

// TestShutdownWaitsForNoSilence: connections that have sent nothing, or nothing since
// their handshake, are waited for shortly.
func TestShutdownWaitsForNoSilence(t *testing.T) {
	s := start(t, compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/"}}, nil),
		func(s *Server) { s.Limits.Header = time.Hour }, []string{"a.example"})
	for _, proto := range []string{"", "http/1.1", "h2"} {
		c, err := net.Dial("tcp", s.https)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if proto == "" {
			continue
		}
		secure := tls.Client(c, &tls.Config{ServerName: "a.example", RootCAs: ca.Pool(), NextProtos: []string{proto}})
		if err := secure.Handshake(); err != nil {
			t.Fatal(err)
		}
		if proto == "h2" { // the preface and no settings, which every client sends at once
			io.WriteString(secure, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		}
	}
	s.shutdown() // within ten seconds, or it fails
}

func TestShutdownEndsWithItsContext(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	table := compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/"}}, nil)
	s := start(t, table, func(s *Server) {
		s.Table = func() *redirect.Table {
			close(entered)
			<-release
			return table
		}
	})
	conn := s.dial(false, "")
	defer conn.Close()
	io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx") // net/http's
	<-entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); err == nil {
		t.Error("no error")
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection was not closed")
	}
	close(release)
}

func TestAPanicIsLoggedAsAnError(t *testing.T) {
	s := start(t, nil, func(s *Server) { s.Table = func() *redirect.Table { panic("boom") } })
	conn := s.dial(false, "")
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
	io.Copy(io.Discard, conn)
	if got := s.logged.String(); !strings.Contains(got, "level=ERROR") || !strings.Contains(got, "boom") {
		t.Errorf("log:\n%s", got)
	}
}

func TestAnswersDoNotMixUnderLoad(t *testing.T) {
	s := start(t, compile(t, nil, []fingerpost.Redirect{{From: "a.example/:id", To: "https://to.example/:id"}}), nil)
	done := make(chan error, 8)
	for w := range 8 {
		client := s.client([]string{"1.1", "2"}[w%2], false)
		go func() {
			done <- func() error {
				for i := range 200 {
					id := fmt.Sprintf("/%d-%d", w, i)
					resp, err := client.Get("http://a.example" + id)
					if err != nil {
						return err
					}
					body, _ := io.ReadAll(resp.Body)
					resp.Body.Close()
					if want := "https://to.example" + id; resp.Header.Get("Location") != want || !strings.Contains(string(body), want+"\"") {
						return fmt.Errorf("%s got %s: %s", id, resp.Header.Get("Location"), body)
					}
				}
				return nil
			}()
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func mustRequest(t *testing.T, method, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// writer is a ResponseWriter that costs nothing, so that a benchmark shows the
// handler alone.
type writer struct{ header http.Header }

func (w *writer) Header() http.Header             { return w.header }
func (w *writer) WriteHeader(int)                 {}
func (w *writer) Write(p []byte) (n int, _ error) { return len(p), nil }

func BenchmarkHandler(b *testing.B) {
	metrics := telemetry.NewMetrics("test")
	access := telemetry.NewAccessLog(io.Discard, 1, metrics, nil)
	defer access.Close()
	b.Run("alone", func(b *testing.B) { benchmarkHandler(b, new(Server)) })
	b.Run("metrics", func(b *testing.B) { benchmarkHandler(b, &Server{Metrics: metrics}) })
	b.Run("access log", func(b *testing.B) { benchmarkHandler(b, &Server{Metrics: metrics, Access: access}) })
}

func benchmarkHandler(b *testing.B, s *Server) {
	table := compile(b, []fingerpost.Host{{Name: "a.example"}}, []fingerpost.Redirect{{ID: "r1", From: "a.example/old/page", To: "https://to.example/new/page"}})
	s.Table = func() *redirect.Table { return table }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	f := s.newFront(false, l.Addr())
	r := httptest.NewRequest("GET", "/old/page?utm_source=x", nil)
	r.Host, r.RemoteAddr = "a.example", "192.0.2.1:5555"
	r.Header = http.Header{
		"User-Agent": {"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}, "Accept": {"text/html,*/*;q=0.8"},
		"Accept-Language": {"nb,en;q=0.5"}, "Accept-Encoding": {"gzip, deflate, br"}, "Connection": {"keep-alive"}, "Sec-Fetch-Mode": {"navigate"},
	}
	w := &writer{http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.header)
		f.ServeHTTP(w, r)
	}
	if got := w.header["Location"]; !slices.Equal(got, []string{"https://to.example/new/page?utm_source=x"}) {
		b.Fatal(got)
	}
}
