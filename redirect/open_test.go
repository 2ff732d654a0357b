package redirect

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"fingerpost"
)

// richTable has a rule of each kind.
func richTable(t testing.TB) *Table {
	t.Helper()
	until := time.Unix(now+500, 0)
	hosts := []fingerpost.Host{
		{Name: "a.x", Also: []string{"also.x", "*.also.x"}, RedirectFrom: []string{"www.a.x"}, HSTS: &fingerpost.HSTS{MaxAge: 9}},
		{Name: "s.x", HTTPS: fingerpost.RedirectToHTTPS, Fallback: &fingerpost.Fallback{To: "https://fallback.test{path}"}},
		{Name: "*.w.x", Fallback: &fingerpost.Fallback{Status: 410, Page: "<p>gone</p>"}},
		{Name: "o.x", HTTPS: fingerpost.HTTPSOnly},
	}
	return compile(t, hosts,
		move("a.x/lit", "https://t.test/lit?a=1#f"),
		move("a.x/lit?k=1&m", "https://t.test/:k"),
		move("a.x/n/:id/*", "https://t.test/:id|slug/:splat?q=:id|lower#:splat"),
		move("a.x/pre*", "/p/:splat"),
		move("a.x/rel?u=:u", "/:u"),
		move("a.x/Fold/:x", "https://t.test/{path}/:x|upper", anyCase),
		move("a.x", "https://t.test/:1?:id", regexOf(`^/re/(.*?)(?P<id>\d*)$`)),
		move("a.x/props/*", "{scheme}://{host}/x/{port}/{method}?{query}&u={url}#{path}"),
		move("a.x/cond", "https://t.test/nb", when(fingerpost.When{Languages: []string{"nb"}, Header: map[string]string{"X-App": "a*b"}, Cookie: map[string]string{"c": "*"}})),
		move("a.x/cond", "https://t.test/else", when(fingerpost.When{Percent: new(50), Before: &until})),
		move(".sub.x", "https://:sub.t.test/:splat"),
		move("*.w.x/here/*", "https://www:sub.t.test/:splat"),
		move("*/every/:x", "https://t.test/:x/:sub", func(r *fingerpost.Redirect) { r.Query = "append" }),
		move("[2001:db8::1]", "https://t.test/{host}{path}"),
		fingerpost.Redirect{From: "a.x/gone", Status: 410, Page: "<p>gone</p>", Headers: map[string]string{"X-A": "1"}},
	)
}

func TestOpenedTableAnswersAsTheCompiledOne(t *testing.T) {
	built := richTable(t)
	opened, err := Open(built.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(opened.Bytes(), built.Bytes()) || opened.Rules() != built.Rules() || opened.Hosts() != built.Hosts() || opened.UsesCountries() != built.UsesCountries() {
		t.Error("the opened table is another one")
	}
	for _, url := range []string{"https://a.x/lit?a=2", "https://a.x/n/My%20Id/b", "https://a.x/re/x12", "http://[2001:db8::1]/", "http://b.also.x/gone", "https://x.w.x/", "http://every.test/every/1"} {
		a, b := ask(t, built, url), ask(t, opened, url)
		if a.Kind != b.Kind || a.Status != b.Status || string(a.Location) != string(b.Location) || a.Page != b.Page || string(a.Headers) != string(b.Headers) || a.Rule.ID() != b.Rule.ID() {
			t.Errorf("%s: %d %s, opened %d %s", url, a.Kind, a.Location, b.Kind, b.Location)
		}
	}
}

func TestSameInputGivesTheSameBytes(t *testing.T) {
	first := richTable(t).Bytes()
	for range 5 {
		if !bytes.Equal(richTable(t).Bytes(), first) {
			t.Fatal("two tables of the same input differ")
		}
	}
}

func TestOpenRefusesWhatIsNoTable(t *testing.T) {
	whole := richTable(t).Bytes()
	for n := range len(whole) {
		if _, err := Open(whole[:n:n]); err == nil {
			t.Fatalf("a table cut at %d of %d bytes is opened", n, len(whole))
		}
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "text": []byte(strings.Repeat("redirects: []\n", 20)), "zeros": make([]byte, 4096),
		"another version": append([]byte("FPTABLE0"), whole[8:]...), "more behind it": append(bytes.Clone(whole), 0),
	} {
		if _, err := Open(b); err == nil || !strings.HasPrefix(err.Error(), "open table: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Each word of the header, at its extremes: refused, or of no consequence
	// to opening.
	for at := 8; at+8 <= headerSize; at += 8 {
		for _, v := range []uint64{0, 1, uint64(len(whole)), 1 << 31, 1 << 40, 1<<61 + 1, 1<<64 - 1} {
			b := bytes.Clone(whole)
			binary.LittleEndian.PutUint64(b[at:], v)
			_, _ = Open(b)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		b := bytes.Clone(whole)
		for range 1 + rng.IntN(8) {
			b[8+rng.IntN(headerSize-8)] = byte(rng.IntN(256))
		}
		_, _ = Open(b)
	}
}

func TestCompileReportsAllThatIsWrong(t *testing.T) {
	line := func(n int, r fingerpost.Redirect) fingerpost.Redirect {
		r.Source = fingerpost.Position{File: "r.yaml", Line: n}
		return r
	}
	host := func(n int, h fingerpost.Host) fingerpost.Host {
		h.Source = fingerpost.Position{File: "h.yaml", Line: n}
		return h
	}
	_, err := Compile([]fingerpost.Host{
		host(1, fingerpost.Host{Name: "a.x", Also: []string{"b.x"}}),
		host(2, fingerpost.Host{Name: "A.X."}),
		host(3, fingerpost.Host{Name: "c.x", Also: []string{"b.x"}}),
		host(4, fingerpost.Host{Name: "d.x", HTTPS: "maybe"}),
		host(5, fingerpost.Host{Name: "e.x", To: "https://t.test/"}),
	}, []fingerpost.Redirect{
		line(1, move("a.x/p", "https://t.test/")),
		line(2, move("a.x/p/", "https://t.test/2")),
		line(3, move("a.x/q", "https://t.test/", id("one"))),
		line(4, move("a.x/r", "https://t.test/", id("one"))),
		line(5, move("b.x/q", "https://t.test/")),
		line(6, move("f.x/:a/:a", "https://t.test/")),
		line(7, move("f.x", "mailto:x")),
		line(8, move("f f", "https://t.test/")),
		line(9, move("e.x", "https://t.test/")),
		line(10, move("a.x/p?b=:x", "https://t.test/")),
		line(11, move("a.x/p?b", "https://t.test/")),
		line(12, move("nowhere", "", off)),
	})
	var got []string
	for _, e := range fingerpost.Errors(err) {
		got = append(got, e.Error())
	}
	slices.Sort(got)
	want := []string{
		`h.yaml:2: host a.x is declared twice, the other one at h.yaml:1`,
		`h.yaml:3: host b.x is declared twice, the other one at h.yaml:1`,
		`h.yaml:4: host d.x: unknown https policy "maybe"`,
		`r.yaml:11: redirect from "a.x/p?b" stands twice, the other one at r.yaml:10`,
		`r.yaml:2: redirect from "a.x/p/" stands twice, the other one at r.yaml:1`,
		`r.yaml:4: the id "one" is used twice on a.x, the other one at r.yaml:3`,
		`r.yaml:5: from "b.x/q" is for a host that is served as a.x`,
		`r.yaml:6: from "f.x/:a/:a" uses the name :a twice`,
		`r.yaml:7: to "mailto:x" is not an http or https URL`,
		`r.yaml:8: from "f f" has a space, control byte or backslash`,
		`r.yaml:9: redirect from "e.x" stands twice, the other one at h.yaml:5`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
	if _, err := Compile(nil, []fingerpost.Redirect{move("a.x", "https://t.test/"), move("a.x/*", "https://u.test/")}); err == nil ||
		err.Error() != `redirect from "a.x/*" stands twice, the other one at "a.x" to "https://t.test/"` {
		t.Errorf("without positions: %v", err)
	}
	// The same id on two hosts is none twice.
	compile(t, nil, move("a.x", "https://t.test/", id("one")), move("b.x", "https://t.test/", id("one")))
}

// FuzzAnswer sends any bytes that ParseHost and ParsePath let through at a table
// with a rule of each kind.
func FuzzAnswer(f *testing.F) {
	for _, s := range [][4]string{
		{"a.x", "/lit", "k=1&m&a=%zz", ""}, {"A.X:443", "/n/%2e%2e/My%20_Id/x//y/", "q=\r\n", "nb"}, {"also.x", "/rel", "u=//evil.example", ""},
		{"a.x", "/pre/evil.example", "", ""}, {"b.also.x", "/fOLD/\xff\"", "é#", ""}, {"a.x", "/re/x%2F99", "a?b", ""}, {"s.x:80", "/%zz", "", ""},
		{"x.y.sub.x", "/a", "b", ""}, {"sub.x", "/a", "b", ""}, {"1.w.x", "/here/a/b", "", ""}, {"[2001:DB8::1]:9", "/x", "", ""}, {"-..x", "/every/:x", "", ""},
		{"a.x", "/props/a/b", "q=1&{url}", "a-b"}, {"a.x", "/cond", "", "c=1"}, {"any.test", "/every/%5c", "a=b", ""},
	} {
		f.Add(s[0], s[1], s[2], s[3], uint8(len(s[0])))
	}
	table := richTable(f)
	authorities := []string{"t.test", "fallback.test", "www.t.test"}
	f.Fuzz(func(t *testing.T, rawHost, rawPath, query, text string, bits uint8) {
		host, port, err := fingerpost.ParseHost(rawHost)
		if err != nil {
			return
		}
		path, err := fingerpost.ParsePath(rawPath)
		if err != nil || strings.Contains(rawPath, "?") {
			return
		}
		r := Request{Method: []string{"GET", "HEAD", "POST", text}[bits>>6], HTTPS: bits&1 != 0, HTTP10: bits&2 != 0, Host: host, Port: port, Path: path,
			Target: rawPath + "?" + query, Query: query, Now: now, Country: "NO",
			Header: http.Header{"Accept-Language": {text}, "X-App": {text}, "Cookie": {text}}}
		if bits&4 != 0 {
			r.Covered = func(string) bool { return true }
		}
		var a, b Answer
		table.Answer(&r, &a)
		what := fmt.Sprintf("%s %q %q %q: kind %d, Location %q", r.Method, host, rawPath, query, a.Kind, a.Location)
		if redirects := a.Status/100 == 3; redirects != (len(a.Location) > 0) {
			t.Errorf("%s: status %d", what, a.Status)
		}
		if loc := string(a.Location); loc != "" {
			for i := range len(loc) {
				if c := loc[i]; c <= ' ' || c >= 0x7f || c == '\\' || c == '"' || c == '<' || c == '>' {
					t.Errorf("%s: the byte %#x", what, c)
				}
			}
			u, err := url.Parse(loc)
			switch {
			case err != nil:
				t.Errorf("%s: %v", what, err)
			case strings.HasPrefix(loc, "/"):
				if u.Host != "" || u.Scheme != "" {
					t.Errorf("%s: leads to another host", what)
				}
			case u.Scheme != "http" && u.Scheme != "https" || u.User != nil:
				t.Errorf("%s: scheme or user", what)
			case u.Host != host && !slices.Contains(authorities, u.Host) && u.Host != "a.x" && !strings.HasSuffix(u.Host, ".t.test") && !(strings.HasPrefix(u.Host, "www") && strings.HasSuffix(u.Host, ".t.test")):
				t.Errorf("%s: leads to %q", what, u.Host)
			}
		}
		trace := table.Explain(&r, &b)
		if a.Kind != b.Kind || a.Status != b.Status || string(a.Location) != string(b.Location) || a.Rule != b.Rule || string(a.Vary) != string(b.Vary) || string(a.CacheControl) != string(b.CacheControl) || a.HSTS != b.HSTS {
			t.Errorf("%s: explain says kind %d, Location %q", what, b.Kind, b.Location)
		}
		won := 0
		for _, c := range trace.Candidates {
			if c.Won {
				won++
			}
		}
		if byRule := a.Kind == ByRule || a.Kind == Loop || a.Kind == BadTarget; won > 1 || byRule && won == 0 && a.Rule.ID() != FallbackID || !byRule && won > 0 {
			t.Errorf("%s: %d winners", what, won)
		}
	})
}
