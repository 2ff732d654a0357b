package redirect

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"fingerpost"
)

// request makes a GET request of a URL, as an edge would.
func request(t testing.TB, raw string) Request {
	t.Helper()
	scheme, rest, _ := strings.Cut(raw, "://")
	slash := strings.IndexAny(rest, "/?")
	if slash < 0 {
		slash = len(rest)
	}
	target := rest[slash:]
	path, query, _ := strings.Cut(target, "?")
	host, port, err := fingerpost.ParseHost(rest[:slash])
	if err != nil {
		t.Fatal(err)
	}
	p, err := fingerpost.ParsePath(path)
	if err != nil {
		t.Fatal(err)
	}
	return Request{Method: "GET", HTTPS: scheme == "https", Host: host, Port: port, Path: p, Target: target, Query: query,
		Now: 1_800_000_000, Addr: netip.MustParseAddr("192.0.2.7")}
}

func compileOne(t testing.TB, rules ...fingerpost.Redirect) *Table {
	t.Helper()
	table, err := Compile(nil, rules)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestExpandedLocation(t *testing.T) {
	tests := []struct {
		name     string
		rule     fingerpost.Redirect
		url      string
		location string // empty: no redirect
	}{
		{"whole host", fingerpost.Redirect{From: "old.example", To: "https://new.example/:splat"}, "http://old.example/a/b?c=d", "https://new.example/a/b?c=d"},
		{"whole host, root", fingerpost.Redirect{From: "old.example", To: "https://new.example/:splat"}, "http://old.example/", "https://new.example/"},
		{"fixed target keeps query", fingerpost.Redirect{From: "old.example", To: "https://new.example/p"}, "http://old.example/a?x=1", "https://new.example/p?x=1"},
		{"empty target path gets a slash before the query", fingerpost.Redirect{From: "old.example", To: "https://new.example"}, "http://old.example/a?x=1", "https://new.example/?x=1"},
		{"empty target path stays", fingerpost.Redirect{From: "old.example", To: "https://new.example"}, "http://old.example/a", "https://new.example"},
		{"relative", fingerpost.Redirect{From: "a.example/the-formula", To: "/resources/followup"}, "https://a.example/the-formula", "/resources/followup"},
		{"final slash ignored", fingerpost.Redirect{From: "a.example/jobs", To: "/x"}, "https://a.example/jobs/", "/x"},
		{"final slash strict", fingerpost.Redirect{From: "a.example/jobs", To: "/x", TrailingSlash: "strict"}, "https://a.example/jobs/", ""},
		{"final slash strict and there", fingerpost.Redirect{From: "a.example/jobs/", To: "/x", TrailingSlash: "strict"}, "https://a.example/jobs/", "/x"},
		{"folder itself", fingerpost.Redirect{From: "a.example/docs/*", To: "https://b.example/d/:splat"}, "https://a.example/docs", "https://b.example/d/"},
		{"folder below", fingerpost.Redirect{From: "a.example/docs/*", To: "https://b.example/d/:splat"}, "https://a.example/docs/x/y/", "https://b.example/d/x/y/"},
		{"folder is no prefix", fingerpost.Redirect{From: "a.example/docs/*", To: "https://b.example/"}, "https://a.example/docs2", ""},
		{"prefix", fingerpost.Redirect{From: "a.example/doc*", To: "https://b.example/:splat"}, "https://a.example/docs2/x", "https://b.example/s2/x"},
		{"prefix keeps escapes", fingerpost.Redirect{From: "a.example/doc*", To: "https://b.example/:splat"}, "https://a.example/%64oc%41%2f", "https://b.example/%41%2f"},
		{"names", fingerpost.Redirect{From: "a.example/p/:id/*", To: "https://b.example/i/:id/:splat?ref=old"}, "https://a.example/p/7/red/xl", "https://b.example/i/7/red/xl?ref=old"},
		{"name keeps its own escapes", fingerpost.Redirect{From: "a.example/p/:id", To: "https://b.example/:id"}, "https://a.example/p/%7e%2fa", "https://b.example/%7e%2fa"},
		{"transforms", fingerpost.Redirect{From: "a.example/p/:id/:b", To: "https://b.example/:id|lower/:b|slug#:id|upper"}, "https://a.example/p/AbC/My%20_Own__Thing", "https://b.example/abc/my-own-thing#ABC"},
		{"port in target is literal", fingerpost.Redirect{From: "a.example/p/:id", To: "https://b.example:8080/:id"}, "https://a.example/p/7", "https://b.example:8080/7"},
		{"unknown name is literal", fingerpost.Redirect{From: "a.example/p/:id", To: "https://b.example/:idx"}, "https://a.example/p/7", "https://b.example/:idx"},
		{"regex groups", fingerpost.Redirect{From: "a.example", Regex: `^/p/(?P<id>\d+)-(.*)$`, To: "https://b.example/:id/:2"}, "https://a.example/p/42-x/y", "https://b.example/42/x/y"},
		{"regex no match", fingerpost.Redirect{From: "a.example", Regex: `^/p/(\d+)$`, To: "https://b.example/:1"}, "https://a.example/p/x", ""},
		{"query captured and consumed", fingerpost.Redirect{From: "a.example/p?id=:x&lang=en&debug", To: "https://b.example/:x"}, "https://a.example/p?k=1&id=9&lang=de&lang=en&debug=&id=3", "https://b.example/9?k=1"},
		{"query value missing", fingerpost.Redirect{From: "a.example/p?lang=en", To: "https://b.example/"}, "https://a.example/p?lang=de", ""},
		{"query capture cannot reach the authority", fingerpost.Redirect{From: "a.example/p?u=:u", To: "/x/:u"}, "https://a.example/p?u=%2F%2Fevil.example&u=1", "/x/%2F%2Fevil.example"},
		{"query plus becomes a space", fingerpost.Redirect{From: "a.example/p?q=:q", To: "https://b.example/:q?s=:q"}, "https://a.example/p?q=a+b", "https://b.example/a%20b?s=a%20b"},
		{"merge", fingerpost.Redirect{From: "a.example/p", To: "https://b.example/?a=1&b=2"}, "https://a.example/p?b=3&c=%zz&b=4", "https://b.example/?a=1&b=2&c=%zz"},
		{"append", fingerpost.Redirect{From: "a.example/p", To: "https://b.example/?a=1", Query: "append"}, "https://a.example/p?a=3", "https://b.example/?a=1&a=3"},
		{"drop", fingerpost.Redirect{From: "a.example/p", To: "https://b.example/?a=1", Query: "drop"}, "https://a.example/p?a=3", "https://b.example/?a=1"},
		{"bare question mark", fingerpost.Redirect{From: "a.example/p", To: "https://b.example/x?", Query: "drop"}, "https://a.example/p?a=3", "https://b.example/x"},
		{"properties", fingerpost.Redirect{From: "a.example/p/*", To: "{scheme}://login.example/{host}{path}?m={method}&p={port}&next={url}#{query}"}, "https://a.example/p/q?x=1&y=2", "https://login.example/a.example/p/q?m=GET&p=443&next=https%3A%2F%2Fa.example%2Fp%2Fq%3Fx%3D1%26y%3D2#x=1&y=2"},
		{"path after the authority", fingerpost.Redirect{From: "a.example", To: "https://b.example{path}"}, "https://a.example//x/./y", "https://b.example/x/y"},
		{"sub", fingerpost.Redirect{From: "*.a.example", To: "https://:sub.b.example/"}, "https://x.y.a.example/p", "https://x.y.b.example/"},
		{"sub of an apex", fingerpost.Redirect{From: ".a.example", To: "https://:sub.b.example/"}, "https://a.example/p", "https://b.example/"},
		{"wildcard is not the apex", fingerpost.Redirect{From: "*.a.example", To: "https://b.example/"}, "https://a.example/p", ""},
		{"dot is the apex and below", fingerpost.Redirect{From: ".a.example", To: "https://b.example/"}, "https://x.a.example/p", "https://b.example/"},
		{"every host", fingerpost.Redirect{From: "*/jobs", To: "https://jobs.example/{host}"}, "https://any.example/jobs", "https://jobs.example/any.example"},
		{"IDN", fingerpost.Redirect{From: "BÜCHER.example/ä", To: "https://straße.example/ö"}, "https://xn--bcher-kva.example/%c3%A4", "https://xn--strae-oqa.example/%C3%B6"},
		{"IPv6 host", fingerpost.Redirect{From: "[2001:DB8::1]/a", To: "/b"}, "http://[2001:db8:0::1]:8080/a", "/b"},
		{"case matters", fingerpost.Redirect{From: "a.example/Jobs", To: "/x"}, "https://a.example/jobs", ""},
		{"case ignored", fingerpost.Redirect{From: "a.example/Jobs/:x", To: "/x/:x", IgnoreCase: true}, "https://a.example/jObs/Y", "/x/Y"},
		{"dot segments and slashes", fingerpost.Redirect{From: "a.example/a/b", To: "/x"}, "https://a.example//a/.%2f/../%2e/c/../b", "/x"},
		{"dot segments", fingerpost.Redirect{From: "a.example/a/b", To: "/x"}, "https://a.example//a/./%2e/c/../b", "/x"},
		{"escaped slash is not a slash", fingerpost.Redirect{From: "a.example/a/b", To: "/x"}, "https://a.example/a%2fb", ""},
		{"unreserved escape is the character", fingerpost.Redirect{From: "a.example/~a", To: "/x"}, "https://a.example/%7e%61", "/x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := compileOne(t, tt.rule)
			r := request(t, tt.url)
			var a Answer
			table.Answer(&r, &a)
			if got := string(a.Location); got != tt.location {
				t.Fatalf("location = %q, want %q (answer %d %d)", got, tt.location, a.Kind, a.Status)
			}
			if tt.location == "" {
				return
			}
			u, err := url.Parse(tt.location)
			if err != nil && !strings.Contains(tt.location, "%zz") {
				t.Fatal(err)
			}
			if u != nil && u.IsAbs() != strings.HasPrefix(tt.location, "http") {
				t.Errorf("net/url reads %q otherwise", tt.location)
			}
		})
	}
}

// TestTargetsShareTheirBeginnings: what many targets begin with is written once, and
// each is answered whole.
func TestTargetsShareTheirBeginnings(t *testing.T) {
	const n, begin = 1000, "https://shop.example.com/a/long/way/to/the/products/"
	size := func(begin func(i int) string) int {
		var rules []fingerpost.Redirect
		for i := range n {
			rules = append(rules, fingerpost.Redirect{From: fmt.Sprintf("a.example/%d", i), To: fmt.Sprintf("%s%d", begin(i), i)})
		}
		rules = append(rules, fingerpost.Redirect{From: "b.example", To: begin(0)})
		table := compileOne(t, rules...)
		var a Answer
		for i := range n {
			r := request(t, fmt.Sprintf("https://a.example/%d?x=1", i))
			table.Answer(&r, &a)
			if got, want := string(a.Location), fmt.Sprintf("%s%d?x=1", begin(i), i); got != want {
				t.Fatalf("location = %q, want %q", got, want)
			}
		}
		r := request(t, "https://b.example/")
		if table.Answer(&r, &a); string(a.Location) != begin(0) {
			t.Errorf("location = %q, want %q", a.Location, begin(0))
		}
		return len(table.Bytes())
	}
	shared := size(func(int) string { return begin })
	own := size(func(i int) string { return fmt.Sprintf("%s%04d/", begin[:len(begin)-5], i) })
	if saved := (own - shared) / n; saved < len(begin)-10 {
		t.Errorf("%d bytes with beginnings in common, %d without: %d saved for each of %d", shared, own, saved, len(begin))
	}
}

func TestTheCertificateThatAHostNames(t *testing.T) {
	hosts := []fingerpost.Host{
		{Name: "shop.x", Also: []string{"also.x", "*.also.x"}, RedirectFrom: []string{"from.x", "own.x"}, Certificate: "bought", HTTPS: "https-only", Fallback: &fingerpost.Fallback{Status: 410}},
		{Name: "own.x", Certificate: "another"},
		{Name: "auto.x", Certificate: "auto"}, {Name: "none.x", Certificate: "none"}, {Name: "plain.x"},
		{Name: ".wide.x", Certificate: "wide"}, {Name: "left.wide.x"},
	}
	rules := []fingerpost.Redirect{to("1", "shop.x/p"), to("2", "shop.x/:a/b/*"), to("3", "undeclared.x/p")}
	whole, err := Compile(hosts, rules)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := Open(whole.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	layer, err := Layer(whole, []fingerpost.Host{{Name: "shop.x"}, {Name: "plain.x", Certificate: "new"}}, nil, []fingerpost.HostPattern{"own.x"})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string][2]string{ // in the whole table, and in the layer
		"shop.x": {"bought", ""}, "also.x": {"bought", "bought"}, "a.also.x": {"bought", "bought"}, "from.x": {"bought", "bought"}, "own.x": {"another", ""},
		"auto.x": {}, "none.x": {}, "plain.x": {"", "new"}, "undeclared.x": {}, "nobody.x": {}, "": {},
		"wide.x": {"wide", "wide"}, "a.b.wide.x": {"wide", "wide"}, "left.wide.x": {},
	} {
		for i, table := range []*Table{opened, layer} {
			if got := table.Certificate(host); got != want[i] {
				t.Errorf("%s, table %d: %q, want %q", host, i, got, want[i])
			}
		}
	}
	if a := ask(t, opened, "http://shop.x/q"); a.Kind != Forbidden {
		t.Errorf("the settings behind the name are not read: %v", a.Kind)
	}
	if a := ask(t, opened, "https://shop.x/a/b/c"); a.Kind != ByRule {
		t.Errorf("the patterns behind the name are not read: %v", a.Kind)
	}
}
