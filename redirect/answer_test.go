package redirect

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"fingerpost"
)

func compile(t testing.TB, hosts []fingerpost.Host, rules ...fingerpost.Redirect) *Table {
	t.Helper()
	table, err := Compile(hosts, rules)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// ask answers a GET request of a URL, changed as the test needs it.
func ask(t testing.TB, table *Table, url string, change ...func(*Request)) *Answer {
	t.Helper()
	r := request(t, url)
	for _, c := range change {
		c(&r)
	}
	var a Answer
	table.Answer(&r, &a)
	return &a
}

func method(m string) func(*Request)  { return func(r *Request) { r.Method = m } }
func at(now int64) func(*Request)     { return func(r *Request) { r.Now = now } }
func country(c string) func(*Request) { return func(r *Request) { r.Country = c } }
func covered(r *Request)              { r.Covered = func(string) bool { return true } }
func uncovered(r *Request)            { r.Covered = func(string) bool { return false } }
func http10(r *Request)               { r.HTTP10 = true }
func header(kv ...string) func(*Request) {
	return func(r *Request) {
		h := http.Header{}
		for i := 0; i < len(kv); i += 2 {
			h.Add(kv[i], kv[i+1])
		}
		r.Header = h
	}
}

const now = 1_800_000_000

func TestCacheControl(t *testing.T) {
	const to = "https://t.test/"
	since := func(ago int64) time.Time { return time.Unix(now-ago, 0) }
	before := time.Unix(now+50, 0)
	far := time.Unix(now+50_000, 0)
	rule := func(change func(*fingerpost.Redirect)) fingerpost.Redirect {
		r := fingerpost.Redirect{From: "a.x", To: to}
		change(&r)
		return r
	}
	tests := []struct {
		name string
		rule fingerpost.Redirect
		want string
	}{
		{"301", rule(func(r *fingerpost.Redirect) {}), "max-age=3600"},
		{"308", rule(func(r *fingerpost.Redirect) { r.Status = 308 }), "max-age=3600"},
		{"302", rule(func(r *fingerpost.Redirect) { r.Status = 302 }), ""},
		{"303", rule(func(r *fingerpost.Redirect) { r.Status = 303 }), ""},
		{"307", rule(func(r *fingerpost.Redirect) { r.Status = 307 }), ""},
		{"404", fingerpost.Redirect{From: "a.x", Status: 404}, ""},
		{"410", fingerpost.Redirect{From: "a.x", Status: 410}, ""},
		{"410 with an age", fingerpost.Redirect{From: "a.x", Status: 410, Cache: "1d"}, "max-age=86400"},
		{"302 with an age", rule(func(r *fingerpost.Redirect) { r.Status, r.Cache = 302, "10m" }), "max-age=600"},
		{"off", rule(func(r *fingerpost.Redirect) { r.Cache = "off" }), ""},
		{"no age at all", rule(func(r *fingerpost.Redirect) { r.Cache = "0s" }), "max-age=0"},
		{"young", rule(func(r *fingerpost.Redirect) { r.Since = since(0) }), "max-age=60"},
		{"young to its last second", rule(func(r *fingerpost.Redirect) { r.Since = since(3599) }), "max-age=60"},
		{"an hour old", rule(func(r *fingerpost.Redirect) { r.Since = since(3600) }), "max-age=3600"},
		{"from tomorrow", rule(func(r *fingerpost.Redirect) { r.Since = since(-86400) }), "max-age=60"},
		{"young 308 with a long age", rule(func(r *fingerpost.Redirect) { r.Since, r.Status, r.Cache = since(9), 308, "30d" }), "max-age=60"},
		{"young with a shorter age", rule(func(r *fingerpost.Redirect) { r.Since, r.Cache = since(9), "10s" }), "max-age=10"},
		{"young 302", rule(func(r *fingerpost.Redirect) { r.Since, r.Status, r.Cache = since(9), 302, "10m" }), "max-age=600"},
		{"young 410", fingerpost.Redirect{From: "a.x", Status: 410, Cache: "1d", Since: since(9)}, "max-age=86400"},
		{"ends soon", rule(func(r *fingerpost.Redirect) { r.When = &fingerpost.When{Before: &before} }), "max-age=50"},
		{"ends late", rule(func(r *fingerpost.Redirect) { r.When = &fingerpost.When{Before: &far} }), "max-age=3600"},
		{"ends soon and young", rule(func(r *fingerpost.Redirect) { r.When, r.Since = &fingerpost.When{Before: &before}, since(1) }), "max-age=50"},
		{"ends soon, no age", rule(func(r *fingerpost.Redirect) { r.When, r.Status = &fingerpost.When{Before: &before}, 302 }), ""},
		{"country", rule(func(r *fingerpost.Redirect) { r.When = &fingerpost.When{Countries: []string{"NO"}} }), "private, max-age=3600"},
		{"address", rule(func(r *fingerpost.Redirect) { r.When = &fingerpost.When{Addresses: []string{"192.0.2.0/24"}} }), "private, max-age=3600"},
		{"percent", rule(func(r *fingerpost.Redirect) { r.When = &fingerpost.When{Percent: new(100)} }), "private, max-age=3600"},
		{"country, no age", rule(func(r *fingerpost.Redirect) { r.When, r.Cache = &fingerpost.When{Countries: []string{"NO"}}, "off" }), "private"},
		{"method", rule(func(r *fingerpost.Redirect) { r.When = &fingerpost.When{Methods: []string{"GET"}} }), "max-age=3600"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := ask(t, compile(t, nil, tt.rule), "https://a.x/", country("NO"))
			if a.Kind != ByRule || string(a.CacheControl) != tt.want {
				t.Errorf("kind %d, Cache-Control %q, want %q", a.Kind, a.CacheControl, tt.want)
			}
		})
	}
}

func TestConditionsShowInEveryAnswerOfTheirPath(t *testing.T) {
	is := func(w fingerpost.When) *fingerpost.When { return &w }
	table := compile(t, []fingerpost.Host{{Name: "f.x", Fallback: &fingerpost.Fallback{}}},
		fingerpost.Redirect{From: "a.x/l", To: "https://t.test/nb", When: is(fingerpost.When{Languages: []string{"nb"}})},
		fingerpost.Redirect{From: "a.x/l", To: "https://t.test/else"},
		fingerpost.Redirect{From: "a.x/h", To: "https://t.test/", When: is(fingerpost.When{Header: map[string]string{"X-B": "1", "X-A": "1"}, Cookie: map[string]string{"c": "1"}})},
		fingerpost.Redirect{From: "a.x/h", To: "https://t.test/2", When: is(fingerpost.When{Header: map[string]string{"x-a": "2"}, Languages: []string{"nb"}})},
		fingerpost.Redirect{From: "a.x/c", To: "https://t.test/no", When: is(fingerpost.When{Countries: []string{"NO"}})},
		fingerpost.Redirect{From: "a.x/c", To: "https://t.test/else"},
		fingerpost.Redirect{From: "a.x/p", To: "https://t.test/no", When: is(fingerpost.When{Percent: new(0)})},
		fingerpost.Redirect{From: "a.x/first", To: "https://t.test/", Priority: 1},
		fingerpost.Redirect{From: "a.x/first", To: "https://t.test/", When: is(fingerpost.When{Languages: []string{"nb"}, Countries: []string{"NO"}})},
		fingerpost.Redirect{From: "https://a.x/s", To: "https://t.test/", When: is(fingerpost.When{Languages: []string{"nb"}})},
		fingerpost.Redirect{From: "f.x/l", To: "https://t.test/", When: is(fingerpost.When{Languages: []string{"nb"}})},
		fingerpost.Redirect{From: "*.x/l", To: "https://t.test/", When: is(fingerpost.When{Cookie: map[string]string{"c": "1"}})},
		fingerpost.Redirect{From: "g.x/l", To: "https://t.test/", When: is(fingerpost.When{Languages: []string{"nb"}})},
	)
	tests := []struct {
		name, url string
		change    func(*Request)
		want      string // status, Vary, Cache-Control
	}{
		{"the language holds", "http://a.x/l", header("Accept-Language", "nb"), "301 [Accept-Language] [max-age=3600]"},
		{"the language does not hold", "http://a.x/l", header("Accept-Language", "de"), "301 [Accept-Language] [max-age=3600]"},
		{"no header at all", "http://a.x/l", func(*Request) {}, "301 [Accept-Language] [max-age=3600]"},
		{"headers and cookies, none holds", "http://a.x/h", func(*Request) {}, "404 [Cookie, X-A, X-B, Accept-Language] []"},
		{"the country holds", "http://a.x/c", country("NO"), "301 [] [private, max-age=3600]"},
		{"the country does not hold", "http://a.x/c", country("SE"), "301 [] [private, max-age=3600]"},
		{"another share", "http://a.x/p", func(*Request) {}, "404 [] [private]"},
		{"conditions behind the winner have no say", "http://a.x/first", func(*Request) {}, "301 [] [max-age=3600]"},
		{"nor those of the other scheme", "http://a.x/s", func(*Request) {}, "404 [] []"},
		{"another path", "http://a.x/", func(*Request) {}, "404 [] []"},
		{"the fallback", "http://f.x/l", func(*Request) {}, "404 [Accept-Language] []"},
		{"all forms that were left", "http://g.x/l", func(*Request) {}, "404 [Accept-Language, Cookie] []"},
	}
	for _, tt := range tests {
		a := ask(t, table, tt.url, tt.change)
		if got := fmt.Sprintf("%d [%s] [%s]", a.Status, a.Vary, a.CacheControl); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestConditions(t *testing.T) {
	from, until := time.Unix(now, 0), time.Unix(now+100, 0)
	tests := []struct {
		name   string
		w      fingerpost.When
		change func(*Request)
		holds  bool
	}{
		{"GET", fingerpost.When{Methods: []string{"GET"}}, method("GET"), true},
		{"GET covers HEAD", fingerpost.When{Methods: []string{"GET"}}, method("HEAD"), true},
		{"HEAD does not cover GET", fingerpost.When{Methods: []string{"HEAD"}}, method("GET"), false},
		{"another method", fingerpost.When{Methods: []string{"GET", "PUT"}}, method("POST"), false},
		{"country", fingerpost.When{Countries: []string{"SE", "NO"}}, country("NO"), true},
		{"another country", fingerpost.When{Countries: []string{"SE"}}, country("NO"), false},
		{"unknown country", fingerpost.When{Countries: []string{"SE"}}, country(""), false},
		{"language", fingerpost.When{Languages: []string{"NB"}}, header("Accept-Language", "nb"), true},
		{"language lookup shortens the range", fingerpost.When{Languages: []string{"zh-Hant"}}, header("Accept-Language", "ZH-hant-cn-x-private1;q=0.3, de"), true},
		{"language lookup does not lengthen it", fingerpost.When{Languages: []string{"nb-NO"}}, header("Accept-Language", "nb"), false},
		{"only the first range", fingerpost.When{Languages: []string{"nb"}}, header("Accept-Language", "de, nb"), false},
		{"any language is none", fingerpost.When{Languages: []string{"nb"}}, header("Accept-Language", "*"), false},
		{"header there", fingerpost.When{Header: map[string]string{"x-app": "*"}}, header("X-App", ""), true},
		{"header missing", fingerpost.When{Header: map[string]string{"X-App": "*"}}, header("X-Other", "1"), false},
		{"header equal", fingerpost.When{Header: map[string]string{"X-App": "a b"}}, header("X-App", "x", "X-App", "a b"), true},
		{"header not equal", fingerpost.When{Header: map[string]string{"X-App": "a"}}, header("X-App", "A"), false},
		{"header with text around", fingerpost.When{Header: map[string]string{"User-Agent": "*iPhone*"}}, header("User-Agent", "Mozilla (iPhone; x)"), true},
		{"header with several stars", fingerpost.When{Header: map[string]string{"X": "a*b*c"}}, header("X", "abbc"), true},
		{"stars do not share text", fingerpost.When{Header: map[string]string{"X": "ab*ba"}}, header("X", "aba"), false},
		{"cookie", fingerpost.When{Cookie: map[string]string{"beta": "1"}}, header("Cookie", `a=b; beta="1"`), true},
		{"cookie of another name", fingerpost.When{Cookie: map[string]string{"beta": "*"}}, header("Cookie", "betas=1; Beta=1"), false},
		{"cookie without a value", fingerpost.When{Cookie: map[string]string{"beta": "*"}}, header("Cookie", "beta"), true},
		{"second cookie line", fingerpost.When{Cookie: map[string]string{"beta": "1"}}, header("Cookie", "a=b", "Cookie", "beta=1"), true},
		{"address", fingerpost.When{Addresses: []string{"2001:db8::/32", "192.0.2.7"}}, func(*Request) {}, true},
		{"another address", fingerpost.When{Addresses: []string{"192.0.2.8/29", "2001:db8::/32"}}, func(*Request) {}, false},
		{"unknown address", fingerpost.When{Addresses: []string{"0.0.0.0/0", "::/0"}}, func(r *Request) { r.Addr = netip.Addr{} }, false},
		{"all visitors", fingerpost.When{Percent: new(100)}, func(r *Request) { r.Addr = netip.Addr{} }, true},
		{"no visitor", fingerpost.When{Percent: new(0)}, func(*Request) {}, false},
		{"from its first second", fingerpost.When{After: &from}, at(now), true},
		{"not before", fingerpost.When{After: &from}, at(now - 1), false},
		{"to the last second", fingerpost.When{Before: &until}, at(now + 99), true},
		{"not from its end on", fingerpost.When{Before: &until}, at(now + 100), false},
		{"all must hold", fingerpost.When{Methods: []string{"GET"}, Countries: []string{"SE"}}, country("NO"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := ask(t, compile(t, nil, fingerpost.Redirect{From: "a.x", To: "https://t.test/", When: &tt.w}), "http://a.x/", tt.change)
			if (a.Kind == ByRule) != tt.holds {
				t.Errorf("kind %d", a.Kind)
			}
		})
	}
}

func TestShareOfVisitors(t *testing.T) {
	table := compile(t, nil, fingerpost.Redirect{From: "a.x", To: "https://t.test/", When: &fingerpost.When{Percent: new(30)}})
	addr, in := netip.MustParseAddr("198.18.0.0"), 0
	for range 10_000 {
		addr = addr.Next()
		set := func(r *Request) { r.Addr = addr }
		a := ask(t, table, "http://a.x/", set)
		if b := ask(t, table, "http://a.x/other?q", set); a.Kind != b.Kind {
			t.Fatalf("%v changes sides", addr)
		}
		if a.Kind == ByRule {
			in++
		}
	}
	if in < 2800 || in > 3200 {
		t.Errorf("%d of 10000 visitors for 30 percent", in)
	}
}

// TestHTTPSPolicy has a case for each field of the matrix of viewer protocol
// policies.
func TestHTTPSPolicy(t *testing.T) {
	hosts := []fingerpost.Host{
		{Name: "all.x", HSTS: &fingerpost.HSTS{MaxAge: 1}},
		{Name: "to.x", HTTPS: fingerpost.RedirectToHTTPS, HSTS: &fingerpost.HSTS{MaxAge: 2, IncludeSubDomains: true, Preload: true}},
		{Name: "only.x", HTTPS: fingerpost.HTTPSOnly},
		{Name: "*.to.x", HTTPS: fingerpost.RedirectToHTTPS, Also: []string{"alias.x"}},
	}
	table := compile(t, hosts, to("r", "*"), to("own", "named.to.x"))
	const serve = "1 301 https://t.test/r"
	tests := []struct {
		url    string
		change []func(*Request)
		want   string // kind, status, Location, HSTS
	}{
		{"http://all.x/p", []func(*Request){covered}, serve},
		{"http://all.x/p", []func(*Request){method("POST"), http10}, serve},
		{"https://all.x/p", nil, serve + " HSTS max-age=1"},
		{"http://to.x/p?q", []func(*Request){covered}, "5 301 https://to.x/p?q"},
		{"http://to.x/p?q", []func(*Request){covered, method("HEAD")}, "5 301 https://to.x/p?q"},
		{"http://to.x/p?q", []func(*Request){covered, http10}, "5 301 https://to.x/p?q"},
		{"http://to.x/p?q", []func(*Request){covered, method("HEAD"), http10}, "5 301 https://to.x/p?q"},
		{"http://to.x/p?q", []func(*Request){covered, method("POST")}, "5 307 https://to.x/p?q"},
		{"http://to.x/p?q", []func(*Request){covered, method("PUT")}, "5 307 https://to.x/p?q"},
		{"http://to.x/p?q", []func(*Request){covered, method("OPTIONS")}, "5 307 https://to.x/p?q"},
		{"http://to.x/p?q", []func(*Request){covered, method("DELETE"), http10}, "6 403 "},
		{"http://to.x/p?q", []func(*Request){uncovered}, serve},
		{"http://to.x/p?q", []func(*Request){uncovered, method("POST"), http10}, serve},
		{"http://to.x/p?q", nil, serve},
		{"https://to.x/p?q", []func(*Request){covered, method("POST"), http10}, serve + " HSTS max-age=2; includeSubDomains; preload"},
		{"https://to.x/p?q", []func(*Request){uncovered}, serve + " HSTS max-age=2; includeSubDomains; preload"},
		{"http://only.x/p", []func(*Request){covered}, "6 403 "},
		{"http://only.x/p", []func(*Request){uncovered, method("HEAD")}, "6 403 "},
		{"http://only.x/p", []func(*Request){http10, method("POST")}, "6 403 "},
		{"https://only.x/p", nil, serve},
		{"http://a.b.to.x/", []func(*Request){covered}, "5 301 https://a.b.to.x/"},
		{"http://alias.x/", []func(*Request){covered}, "5 301 https://alias.x/"},
		{"http://named.to.x/", []func(*Request){covered}, "5 301 https://named.to.x/"}, // its own form has no settings
		{"http://other.x/", []func(*Request){covered}, serve},
		{"http://to.x/", []func(*Request){covered, method("CONNECT")}, "9 400 "},
		{"https://to.x/", []func(*Request){method("TRACE")}, "9 405 "},
		{"http://only.x/", []func(*Request){method("TRACE")}, "9 405 "},

		// The visitor's own bytes, and no port but the one that is configured.
		{"http://to.x:8080/p", []func(*Request){covered}, "5 301 https://to.x/p"},
		{"http://to.x:8080/p", []func(*Request){covered, func(r *Request) { r.HTTPSPort = "8443" }}, "5 301 https://to.x:8443/p"},
		{"http://to.x//a/../%7e/%2f/;x=1?a=%zz&b=c d'\"&&?#é", []func(*Request){covered}, "5 301 https://to.x//a/../%7e/%2f/;x=1?a=%zz&b=c%20d'%22&&?%23%C3%A9"},
		{"http://to.x/é\"?", []func(*Request){covered}, "5 301 https://to.x/%C3%A9%22?"},
		{"http://to.x/?\r\nSet-Cookie: a=b", []func(*Request){covered}, "5 301 https://to.x/?%0D%0ASet-Cookie:%20a=b"},
	}
	for _, tt := range tests {
		a := ask(t, table, tt.url, tt.change...)
		got := fmt.Sprintf("%d %d %s", a.Kind, a.Status, a.Location)
		if a.HSTS != "" {
			got += " HSTS " + a.HSTS
		}
		if got != tt.want {
			t.Errorf("%q:\n got %s\nwant %s", tt.url, got, tt.want)
		}
	}
}

func TestHostThatIsNotServed(t *testing.T) {
	table := compile(t, nil, to("a", "a.x"), to("w", "*.w.x"))
	for _, tt := range []struct {
		url    string
		status int
	}{{"http://b.x/", 404}, {"https://b.x/", 421}, {"https://w.x/", 421}, {"http://a.x.b/", 404}, {"http://x.a.x/", 404}, {"https://[2001:db8::1]/", 421}} {
		if a := ask(t, table, tt.url); a.Kind != UnknownHost || a.Status != tt.status || len(a.Location) > 0 {
			t.Errorf("%s: kind %d, status %d", tt.url, a.Kind, a.Status)
		}
	}
	if a := ask(t, table, "http://b.x/", func(r *Request) { r.Host = "" }); a.Kind != UnknownHost {
		t.Errorf("no host: kind %d", a.Kind)
	}
	if a := ask(t, compile(t, nil), "https://a.x/"); a.Kind != UnknownHost || a.Status != 421 {
		t.Errorf("empty table: kind %d, status %d", a.Kind, a.Status)
	}
	all := compile(t, nil, to("all", "*/p"))
	for url, status := range map[string]int{"https://b.x/p": 301, "https://b.x/": 404, "http://[2001:db8::1]:80/p": 301} {
		if a := ask(t, all, url); a.Status != status || a.Kind == UnknownHost {
			t.Errorf("with *: %s: kind %d, status %d", url, a.Kind, a.Status)
		}
	}
	if all.Serves("b.x") || !table.Serves("a.x") || !table.Serves("y.w.x") || table.Serves("w.x") {
		t.Error("Serves is for names, and * names none")
	}
}

func TestLocationOfTheRequestItselfIsALoop(t *testing.T) {
	// Circles for some requests only, which nothing shows before they come.
	table := compile(t, nil,
		fingerpost.Redirect{From: "*/same", To: "https://b.x/same"},
		fingerpost.Redirect{From: "a.x/p?x=:x", To: "/:x?x=p"},
		fingerpost.Redirect{From: "*/same", To: "https://c.x:8443/same?a=1#f", When: &fingerpost.When{Methods: []string{"PUT"}}},
	)
	for _, tt := range []struct {
		url, method string
		want        string
	}{
		{"https://other.x/same", "GET", "1 301 https://b.x/same"},
		{"https://b.x/same", "GET", "7 508 "},
		{"https://b.x/same", "HEAD", "7 508 "},
		{"https://B.X.:443//./%73ame", "GET", "7 508 "},
		{"https://b.x/same?q=1", "GET", "7 508 "},
		{"http://b.x/same", "GET", "1 301 https://b.x/same"},
		{"http://b.x:443/same", "GET", "1 301 https://b.x/same"},
		{"https://b.x:8443/same", "GET", "1 301 https://b.x/same"},
		{"https://b.x/same/", "GET", "1 301 https://b.x/same"},
		{"https://a.x/p?x=q", "GET", "1 301 /q?x=p"},
		{"https://a.x/p?x=p", "GET", "7 508 "},
		{"http://a.x:8080/p?x=%70", "GET", "1 301 /%70?x=p"},
		{"https://c.x:8443/same?a=1", "PUT", "7 508 "},
		{"https://c.x/same?a=1", "PUT", "1 301 https://c.x:8443/same?a=1#f"},
	} {
		a := ask(t, table, tt.url, method(tt.method))
		if got := fmt.Sprintf("%d %d %s", a.Kind, a.Status, a.Location); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.url, got, tt.want)
		}
		if a.Kind == Loop && (a.Rule.IsZero() || len(a.CacheControl) > 0) {
			t.Errorf("%s: a loop without its rule, or kept in caches: %+v", tt.url, a)
		}
	}
}

func TestTargetOfAnotherAuthorityIsNeverSent(t *testing.T) {
	table := compile(t, nil,
		fingerpost.Redirect{From: "a.x/p?u=:u", To: "/:u"},
		fingerpost.Redirect{From: "a.x/doc*", To: "/:splat"},
	)
	for _, url := range []string{"https://a.x/p?u=/evil.example", "https://a.x/p?u=//evil.example", "https://a.x/doc/evil.example"} {
		a := ask(t, table, url)
		if a.Kind != BadTarget || a.Status != 500 || len(a.Location) > 0 || a.Rule.IsZero() {
			t.Errorf("%s: kind %d, status %d, Location %q", url, a.Kind, a.Status, a.Location)
		}
	}
	for url, want := range map[string]string{
		`https://a.x/p?u=\evil.example`:      "/%5Cevil.example",
		"https://a.x/p?u=%2f%2fevil.example": "/%2f%2fevil.example",
		"https://a.x/p?u=%09/evil":           "/%09/evil",
		"https://a.x/p?u=javascript:x":       "/javascript:x",
		"https://a.x/doc%2Fevil.example":     "/%2Fevil.example",
	} {
		if a := ask(t, table, url); string(a.Location) != want {
			t.Errorf("%s: %d %q, want %q", url, a.Kind, a.Location, want)
		}
	}
}

func TestPagesAndHeaders(t *testing.T) {
	hosts := []fingerpost.Host{{Name: "h.x", Fallback: &fingerpost.Fallback{Status: 410, Page: "<p>host</p>"}}}
	table := compile(t, hosts,
		fingerpost.Redirect{From: "a.x/404", Status: 404},
		fingerpost.Redirect{From: "a.x/410", Status: 410, Page: "<p>gone</p>"},
		fingerpost.Redirect{From: "a.x/451", Status: 451, Page: "<p>gone</p>", Headers: map[string]string{"X-B": "2", "X-A": "1"}},
		fingerpost.Redirect{From: "a.x/301", To: "https://t.test/", Headers: map[string]string{"X-Robots-Tag": "noindex"}},
		to("plain", "a.x/plain"),
	)
	for _, tt := range []struct{ url, want string }{
		{"https://a.x/404", `1 404 "" "" ""`},
		{"https://a.x/410", `1 410 "" "<p>gone</p>" ""`},
		{"https://a.x/451", `1 451 "" "<p>gone</p>" "X-A: 1\r\nX-B: 2\r\n"`},
		{"https://a.x/301", `1 301 "https://t.test/" "" "X-Robots-Tag: noindex\r\n"`},
		{"https://a.x/plain", `1 301 "https://t.test/plain" "" ""`},
		{"https://h.x/", `2 410 "" "<p>host</p>" ""`},
		{"https://a.x/none", `3 404 "" "" ""`},
	} {
		a := ask(t, table, tt.url)
		if got := fmt.Sprintf("%d %d %q %q %q", a.Kind, a.Status, a.Location, a.Page, a.Headers); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.url, got, tt.want)
		}
	}
}

func TestHostsFieldsAreRules(t *testing.T) {
	hosts := []fingerpost.Host{
		{Name: "www.a.x", RedirectFrom: []string{"a.x", "*.old.x"}, Fallback: &fingerpost.Fallback{To: "https://f.test{path}", Status: 307}},
		{Name: "s.x", RedirectFrom: []string{"www.s.x"}, HTTPS: fingerpost.RedirectToHTTPS},
		{Name: "m.x", Also: []string{"*.m.x", "n.x"}, To: "https://t.test/:splat", Status: 308},
		{Name: "[2001:db8::1]", RedirectFrom: []string{"[2001:db8::2]"}},
	}
	table := compile(t, hosts, to("rule", "m.x/p"), fingerpost.Redirect{From: "www.a.x/off", To: "https://t.test/", Enabled: new(bool)})
	for _, tt := range []struct{ url, want string }{
		{"http://a.x/p?q=1", "1 301 http://www.a.x/p?q=1"},
		{"https://a.x/p?q=1", "1 301 https://www.a.x/p?q=1"},
		{"https://x.old.x/p", "1 301 https://www.a.x/p"},
		{"https://www.a.x/p?q=1", "2 307 https://f.test/p?q=1"},
		{"https://www.a.x/off", "2 307 https://f.test/off"},
		{"http://www.s.x/p", "1 301 https://s.x/p"}, // one hop
		{"https://m.x/a/b", "1 308 https://t.test/a/b"},
		{"https://n.x/a/b", "1 308 https://t.test/a/b"},
		{"https://y.m.x/a/b", "1 308 https://t.test/a/b"},
		{"https://y.m.x/p", "1 301 https://t.test/rule"},
		{"https://n.x/p", "1 301 https://t.test/rule"},
		{"http://[2001:db8::2]:8080/p", "1 301 http://[2001:db8::1]/p"},
		{"http://[2001:db8::1]/p", "3 404 "},
	} {
		a := ask(t, table, tt.url)
		if got := fmt.Sprintf("%d %d %s", a.Kind, a.Status, a.Location); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.url, got, tt.want)
		}
	}
	if table.Hosts() != 4+2+4 || table.Rules() != 6 {
		t.Errorf("%d hosts, %d rules", table.Hosts(), table.Rules())
	}
}

func TestLongestHostMeetsWildcardsAtEveryDepth(t *testing.T) {
	host := strings.Repeat("a.", 126) + "a" // 253 bytes, 127 labels
	suffix := func(labels int) string { return host[2*(127-labels):] }
	for _, labels := range []int{1, 2, 31, 62, 63, 64, 100, 126} {
		table := compile(t, nil, to("wild", "*."+suffix(labels)+"/"), fingerpost.Redirect{From: "." + suffix(labels) + "/sub", To: "https://t.test/:sub"})
		if a := ask(t, table, "http://"+host+"/"); string(a.Location) != "https://t.test/wild" {
			t.Errorf("%d labels: kind %d, %q", labels, a.Kind, a.Location)
		}
		want := "https://t.test/" + strings.TrimSuffix(host, "."+suffix(labels))
		if a := ask(t, table, "http://"+host+"/sub"); string(a.Location) != want {
			t.Errorf("%d labels: %q, want %q", labels, a.Location, want)
		}
	}
	table := compile(t, nil, to("apex", "."+host), to("wild", "*."+suffix(64)))
	if a := ask(t, table, "http://"+host+"/"); string(a.Location) != "https://t.test/apex" {
		t.Errorf("apex of 127 labels: %q", a.Location)
	}
}

func TestCapturesAreTheVisitorsOwn(t *testing.T) {
	for _, tt := range []struct {
		name          string
		rule          fingerpost.Redirect
		url, location string
	}{
		{"prefix behind an escaped dot", fingerpost.Redirect{From: "a.x/a.b*", To: "https://t.test/:splat"}, "http://a.x/a%2Ebcd", "https://t.test/cd"},
		{"prefix behind an escape", fingerpost.Redirect{From: "a.x/%C3%A9*", To: "https://t.test/:splat"}, "http://a.x/%c3%a9t%c3%a9", "https://t.test/t%c3%a9"},
		{"prefix that is a dot", fingerpost.Redirect{From: "a.x/.*", To: "https://t.test/:splat"}, "http://a.x/%2egit/x", "https://t.test/git/x"},
		{"prefix itself", fingerpost.Redirect{From: "a.x/doc*", To: "https://t.test/:splat"}, "http://a.x/doc/", "https://t.test//"},
		{"prefix in any case", fingerpost.Redirect{From: "a.x/Doc*", To: "https://t.test/:splat", IgnoreCase: true}, "http://a.x/dOCx", "https://t.test/x"},
		{"IPv6 host in the path", fingerpost.Redirect{From: "[2001:db8::1]", To: "https://t.test/{host}?{host}"}, "http://[2001:db8::1]/", "https://t.test/%5B2001:db8::1%5D?[2001:db8::1]"},
		{"IPv6 host in the authority", fingerpost.Redirect{From: "http://[2001:db8::1]", To: "https://{host}:8443{path}"}, "http://[2001:db8::1]:80/p", "https://[2001:db8::1]:8443/p"},
		{"IPv6 target", fingerpost.Redirect{From: "a.x", To: "https://[2001:db8::1]:8443{path}"}, "http://a.x/p", "https://[2001:db8::1]:8443/p"},
		{"sub behind a dot", fingerpost.Redirect{From: ".a.x", To: "https://www.:sub.b.x/"}, "http://a.x/", "https://www.b.x/"},
		{"sub behind text of the same label", fingerpost.Redirect{From: ".a.x", To: "https://www:sub.b.x/"}, "http://a.x/", "https://www.b.x/"},
		{"sub behind text of the same label, taken", fingerpost.Redirect{From: ".a.x", To: "https://www:sub.b.x/"}, "http://1.a.x/", "https://www1.b.x/"},
		{"sub in the path", fingerpost.Redirect{From: ".a.x", To: "https://b.x/:sub./"}, "http://a.x/", "https://b.x/./"},
		{"regex group that took nothing", fingerpost.Redirect{From: "a.x", Regex: "^/(a)|(b)$", To: "https://t.test/:1/:2"}, "http://a.x/b", "https://t.test//b"},
		{"query capture that is empty", fingerpost.Redirect{From: "a.x/?q=:q", To: "https://t.test/:q?x=:q"}, "http://a.x/?q", "https://t.test/?x="},
		{"query text in the path", fingerpost.Redirect{From: "a.x/?q=:q", To: "https://t.test/:q"}, "http://a.x/?q=a?b#%zz%41", "https://t.test/a%3Fb%23%25zz%41"},
		{"bare question mark of an empty query", fingerpost.Redirect{From: "a.x", To: "https://t.test/?{query}"}, "http://a.x/", "https://t.test/"},
		{"query before the fragment", fingerpost.Redirect{From: "a.x", To: "https://t.test/#f"}, "http://a.x/?a", "https://t.test/?a#f"},
		{"merge compares decoded keys", fingerpost.Redirect{From: "a.x", To: "https://t.test/?a+b=1"}, "http://a.x/?%61%20b=2&c", "https://t.test/?a+b=1&c"},
		{"raw query bytes stay", fingerpost.Redirect{From: "a.x", To: "https://t.test/"}, "http://a.x/?&b=%zz&&a=1+2&a=%E9", "https://t.test/?&b=%zz&&a=1+2&a=%E9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if a := ask(t, compile(t, nil, tt.rule), tt.url); string(a.Location) != tt.location {
				t.Errorf("%d %q, want %q", a.Kind, a.Location, tt.location)
			}
		})
	}
}

// The https upgrade is a permanent redirect like others: browsers must not keep
// it for good, and in its host's first hour hardly at all.
func TestUpgradeCanBeTakenBack(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, tt := range []struct {
		since  time.Time
		method string
		want   string
	}{
		{time.Time{}, "GET", "max-age=3600"},
		{now.Add(-2 * time.Hour), "GET", "max-age=3600"},
		{now.Add(-time.Minute), "GET", "max-age=60"},
		{now.Add(-time.Minute), "POST", ""},
	} {
		table, err := Compile([]fingerpost.Host{{Name: "a.x", HTTPS: fingerpost.RedirectToHTTPS, Since: tt.since}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := request(t, "http://a.x/p")
		r.Method, r.Now, r.Covered = tt.method, now.Unix(), func(string) bool { return true }
		var a Answer
		table.Answer(&r, &a)
		if a.Kind != Upgrade || string(a.CacheControl) != tt.want {
			t.Errorf("%s, since %v: kind %d, %q, want %q", tt.method, tt.since, a.Kind, a.CacheControl, tt.want)
		}
	}
}

func TestLanguageOfWeightZeroIsNone(t *testing.T) {
	table := compile(t, nil, fingerpost.Redirect{From: "a.x", To: "https://b.x/", When: &fingerpost.When{Languages: []string{"nb"}}})
	for value, status := range map[string]int{"nb;q=0": 404, "nb; q=0.000": 404, "nb;q=0.1": 301, "nb": 301} {
		a := ask(t, table, "https://a.x/", header("Accept-Language", value))
		if a.Status != status {
			t.Errorf("%s: %d, want %d", value, a.Status, status)
		}
	}
}
