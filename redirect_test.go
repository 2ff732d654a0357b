package fingerpost

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// messages are those of all errors, in order.
func messages(err error) []string {
	var all []string
	for _, e := range Errors(err) {
		all = append(all, e.Code+" "+e.Field+": "+e.Message)
	}
	return all
}

func TestRedirectIsValid(t *testing.T) {
	at := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	later := at.Add(time.Second)
	const to = "https://b.example/"
	for name, r := range map[string]Redirect{
		"least":             {From: "a.example", To: to},
		"301":               {From: "a.example", To: to, Status: 301},
		"302":               {From: "a.example", To: to, Status: 302},
		"303":               {From: "a.example", To: to, Status: 303},
		"307":               {From: "a.example", To: to, Status: 307},
		"308":               {From: "a.example", To: to, Status: 308},
		"404":               {From: "a.example", Status: 404},
		"410 with page":     {From: "a.example", Status: 410, Page: "<p>gone</p>"},
		"451":               {From: "a.example", Status: 451},
		"regex":             {From: "https://a.example", Regex: `^/p/(?P<id>\d+)-(.*)$`, To: "https://b.example/:id/:2"},
		"regex, any case":   {From: "HTTP://a.example", Regex: `^/p`, To: to},
		"regex, sub":        {From: "*.a.example", Regex: `^/(p)`, To: "https://:sub.b.example/:1"},
		"query":             {From: "a.example", To: to, Query: "drop", TrailingSlash: "strict", Cache: "off"},
		"headers":           {From: "a.example", To: to, Headers: map[string]string{"X-Robots-Tag": "noindex", "Set-Cookie": "a=b"}},
		"priorities":        {From: "a.example", To: to, Priority: -1 << 30},
		"id":                {From: "a.example", To: to, ID: strings.Repeat("é", 100)},
		"percent":           {From: "a.example", To: to, When: &When{Percent: new(int)}},
		"all conditions":    {From: "a.example", To: to, When: &When{Methods: []string{"GET", "M-SEARCH"}, Countries: []string{"NO"}, Languages: []string{"nb", "zh-Hant-TW"}, Header: map[string]string{"X-App": "*"}, Cookie: map[string]string{"b": ""}, Addresses: []string{"192.0.2.1", "2001:db8::/32"}, After: &at, Before: &later}},
		"empty conditions":  {From: "a.example", To: to, When: &When{}},
		"disabled":          {From: "a.example", To: to, Enabled: new(bool)},
		"undeclared is ok":  {From: "a.example/x", To: "https://b.example/:splat"},
		"template":          {From: "*.a.example/p/:id/*?q=:q", To: "https://:sub.b.example/:id/:splat?:q"},
		"greatest priority": {From: "a.example", To: to, Priority: 1 << 30},
	} {
		if err := r.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRedirectIsRefused(t *testing.T) {
	at := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	ok := func(change func(*Redirect)) Redirect {
		r := Redirect{From: "a.example/x", To: "https://b.example/"}
		change(&r)
		return r
	}
	when := func(w When) Redirect { return ok(func(r *Redirect) { r.When = &w }) }
	tests := []struct {
		name string
		r    Redirect
		want []string
	}{
		{"no target", Redirect{From: "a.example"}, []string{"bad_to to: a redirect without to"}},
		{"no target, 302", Redirect{From: "a.example", Status: 302}, []string{"bad_to to: a redirect without to"}},
		{"404 with target", ok(func(r *Redirect) { r.Status = 404 }), []string{"bad_status status: status 404 goes without to"}},
		{"410 with target", ok(func(r *Redirect) { r.Status = 410 }), []string{"bad_status status: status 410 goes without to"}},
		{"451 with target", ok(func(r *Redirect) { r.Status = 451 }), []string{"bad_status status: status 451 goes without to"}},
		{"200", ok(func(r *Redirect) { r.Status = 200 }), []string{"bad_status status: status 200 is not one that a redirect can have"}},
		{"300", ok(func(r *Redirect) { r.Status = 300 }), []string{"bad_status status: status 300 is not one that a redirect can have"}},
		{"304", ok(func(r *Redirect) { r.Status = 304 }), []string{"bad_status status: status 304 is not one that a redirect can have"}},
		{"305", ok(func(r *Redirect) { r.Status = 305 }), []string{"bad_status status: status 305 is not one that a redirect can have"}},
		{"500", Redirect{From: "a.example", Status: 500}, []string{"bad_status status: status 500 is not one that a redirect can have"}},
		{"-1", ok(func(r *Redirect) { r.Status = -1 }), []string{"bad_status status: status -1 is not one that a redirect can have"}},
		{"page with redirect", ok(func(r *Redirect) { r.Page = "x" }), []string{"bad_page page: status 301 sends no page"}},
		{"long page", Redirect{From: "a.example", Status: 404, Page: strings.Repeat("x", MaxPage+1)}, []string{"bad_page page: the page has 1048577 bytes, and 1048576 are the most"}},
		{"the longest page", Redirect{From: "a.example", Status: 404, Page: strings.Repeat("x", MaxPage)}, nil},
		{"query", ok(func(r *Redirect) { r.Query = "keep" }), []string{`bad_value query: query "keep" is unknown`}},
		{"slash", ok(func(r *Redirect) { r.TrailingSlash = "Strict" }), []string{`bad_value trailingSlash: trailingSlash "Strict" is unknown`}},
		{"priority", ok(func(r *Redirect) { r.Priority = 1<<30 + 1 }), []string{"bad_value priority: priority is out of range"}},
		{"priority below", ok(func(r *Redirect) { r.Priority = -1<<30 - 1 }), []string{"bad_value priority: priority is out of range"}},
		{"id", ok(func(r *Redirect) { r.ID = "a b" }), []string{`bad_id id: id "a b" has a space or is over 200 bytes`}},
		{"long id", ok(func(r *Redirect) { r.ID = strings.Repeat("a", 201) }), []string{`bad_id id: id "` + strings.Repeat("a", 201) + `" has a space or is over 200 bytes`}},
		{"cache", ok(func(r *Redirect) { r.Cache = "1 hour" }), []string{`bad_cache cache: cache "1 hour" is not a duration`}},
		{"header name", ok(func(r *Redirect) { r.Headers = map[string]string{"X Y": "1"} }), []string{`bad_header headers: header "X Y" has a name or value that HTTP does not allow`}},
		{"header value", ok(func(r *Redirect) { r.Headers = map[string]string{"X": "a\r\nb: c"} }), []string{`bad_header headers: header "X" has a name or value that HTTP does not allow`}},
		{"headers of the answer", ok(func(r *Redirect) { r.Headers = map[string]string{"location": "x", "Vary": "x", "cache-Control": "x"} }),
			[]string{"bad_header headers: header Vary cannot be set by a rule", "bad_header headers: header cache-Control cannot be set by a rule", "bad_header headers: header location cannot be set by a rule"}},
		{"regex beside a path", Redirect{From: "a.example/x", Regex: "^/y", To: "/z"}, []string{`bad_from from: from "a.example/x" has a path or query beside regex`}},
		{"regex beside a query", Redirect{From: "https://a.example?x", Regex: "^/y", To: "/z"}, []string{`bad_from from: from "https://a.example?x" has a path or query beside regex`}},
		{"regex beside /*", Redirect{From: "a.example/*", Regex: "^/y", To: "/z"}, []string{`bad_from from: from "a.example/*" has a path or query beside regex`}},
		{"regex syntax", Redirect{From: "a.example", Regex: "^/(", To: "/z"}, []string{"bad_regex regex: regex \"^/(\" does not compile: missing closing ): `^/(`"}},
		{"regex syntax, folded", Redirect{From: "a.example", Regex: "^/(", IgnoreCase: true, To: "/z"}, []string{"bad_regex regex: regex \"^/(\" does not compile: missing closing ): `^/(`"}},
		{"group named splat", Redirect{From: "a.example", Regex: "^/(?P<splat>x)", To: "/z"}, []string{`bad_regex regex: regex "^/(?P<splat>x)" cannot have a group named splat`}},
		{"group named sub", Redirect{From: "a.example", Regex: "^/(?P<sub>x)", To: "https://:sub.b.example/"}, []string{`bad_regex regex: regex "^/(?P<sub>x)" cannot have a group named sub`}},
		{"method", when(When{Methods: []string{"get", "P T"}}), []string{`bad_when when.methods: method "get" is not one`, `bad_when when.methods: method "P T" is not one`}},
		{"country", when(When{Countries: []string{"no", "NOR", "N1"}}), []string{`bad_when when.countries: country "no" is not a code`, `bad_when when.countries: country "NOR" is not a code`, `bad_when when.countries: country "N1" is not a code`}},
		{"language", when(When{Languages: []string{"nb_NO", "", "*", "nb-", "toolongsub"}}), []string{`bad_when when.languages: language "nb_NO" is not a tag`, `bad_when when.languages: language "" is not a tag`, `bad_when when.languages: language "*" is not a tag`, `bad_when when.languages: language "nb-" is not a tag`, `bad_when when.languages: language "toolongsub" is not a tag`}},
		{"names", when(When{Header: map[string]string{"a b": "", "HOST": "x"}, Cookie: map[string]string{"a;": ""}}), []string{`bad_when when.header: Host is not a condition`, `bad_when when.header: "a b" is not a name`, `bad_when when.cookie: "a;" is not a name`}},
		{"address", when(When{Addresses: []string{"192.0.2.0/33", "a"}}), []string{`bad_when when.addresses: "192.0.2.0/33" is not an address or a CIDR prefix`, `bad_when when.addresses: "a" is not an address or a CIDR prefix`}},
		{"percent", when(When{Percent: new(101)}), []string{"bad_when when.percent: percent 101 is not between 0 and 100"}},
		{"percent below", when(When{Percent: new(-1)}), []string{"bad_when when.percent: percent -1 is not between 0 and 100"}},
		{"before after", when(When{After: &at, Before: &at}), []string{"bad_when when.before: before is not later than after, so the rule never holds"}},
		{"empty lists", when(When{Methods: []string{}, Countries: []string{}, Languages: []string{}, Addresses: []string{}}), []string{
			"bad_when when.methods: when.methods is an empty list, so the rule never holds", "bad_when when.countries: when.countries is an empty list, so the rule never holds",
			"bad_when when.languages: when.languages is an empty list, so the rule never holds", "bad_when when.addresses: when.addresses is an empty list, so the rule never holds"}},
		{"all at once", Redirect{From: "a b", To: "x", Status: 200, Cache: "x", Query: "x", When: &When{Percent: new(200)}}, []string{
			`bad_from from: from "a b" has a space, control byte or backslash`, `bad_cache cache: cache "x" is not a duration`, "bad_status status: status 200 is not one that a redirect can have",
			`bad_value query: query "x" is unknown`, "bad_when when.percent: percent 200 is not between 0 and 100"}},
	}
	for _, tt := range tests {
		tt.r.Source = Position{"r.yaml", 3, 5}
		err := tt.r.Validate()
		if got := messages(err); !slices.Equal(got, tt.want) {
			t.Errorf("%s:\n got %q\nwant %q", tt.name, got, tt.want)
		}
		for _, e := range Errors(err) {
			if e.At != tt.r.Source {
				t.Errorf("%s: at %v", tt.name, e.At)
			}
		}
	}
}

func TestRegexErrorSaysWhatRE2Lacks(t *testing.T) {
	for _, s := range []string{"^/(?=x)", "^/(?!x)", "(?<=x)y", "(?<!x)y"} {
		_, err := CompileRegex(s, true)
		if e := Errors(err); len(e) != 1 || e[0].Hint != "RE2 has no lookahead or lookbehind; use priority or a second rule instead" {
			t.Errorf("%s: %+v", s, err)
		}
	}
	re, err := CompileRegex("^/A|B$", true)
	if err != nil || !re.MatchString("/ax") || !re.MatchString("xb") || re.MatchString("xa") {
		t.Errorf("ignoreCase changes what an alternation binds: %v %v", re, err)
	}
}

func TestMaxAgeComesFromCacheOrStatus(t *testing.T) {
	tests := []struct {
		status  int
		cache   string
		seconds int
	}{
		{0, "", 3600}, {301, "", 3600}, {308, "", 3600}, {302, "", CacheNone}, {303, "", CacheNone}, {307, "", CacheNone}, {404, "", CacheNone}, {410, "", CacheNone},
		{301, "off", CacheNone}, {302, "10m", 600}, {301, "90s", 90}, {301, "1h30m", 5400}, {301, "30d", 30 * 86400}, {301, "0d", 0}, {301, "0", 0}, {301, "0s", 0},
		{301, "3650d", 3650 * 86400}, {301, "87600h", 3650 * 86400}, {301, "1500ms", 1}, {410, "1d", 86400},
	}
	for _, tt := range tests {
		r := Redirect{Status: tt.status, Cache: tt.cache}
		if got, err := r.CacheAge(); err != nil || got != tt.seconds {
			t.Errorf("%d %q = %d, %v, want %d", tt.status, tt.cache, got, err, tt.seconds)
		}
	}
	for _, s := range []string{"-1s", "-1d", "3651d", "87601h", "1", "1.5d", "h", "1 h", "OFF", "none", "99999999999999999999d", "9999999h"} {
		_, err := (&Redirect{Cache: s}).CacheAge()
		checkError(t, s, err, &Error{Code: "bad_cache", Field: "cache", Message: "cache " + quote(s) + " is not a duration", Hint: "for example 90s, 10m, 1h, 30d, or off"})
	}
}

func key(t *testing.T, r Redirect) string {
	t.Helper()
	f, err := ParseFrom(r.From)
	if err != nil {
		t.Fatalf("%s: %v", r.From, err)
	}
	return r.Key(&f)
}

func TestSameRuleHasTheSameKey(t *testing.T) {
	at := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	there := at.In(time.FixedZone("", 3600))
	from := func(s string) Redirect { return Redirect{From: s} }
	tests := []struct {
		name string
		a, b Redirect
	}{
		{"spelling of the host", from("a.example/x"), from("A.Example./x")},
		{"case of the scheme", from("http://a.example/x"), from("HTTP://a.example/x")},
		{"no path and /*", from("a.example"), from("a.example/*")},
		{"final slash ignored", from("a.example/x"), from("a.example/x/")},
		{"slashes", from("a.example/x/y"), from("a.example//x//y")},
		{"escapes", from("a.example/%7ex/%c3%a9"), from("a.example/~x/é")},
		{"names of captures", from("a.example/:a/:b"), from("a.example/:x/:y")},
		{"names in the query", from("a.example/?k=:a"), from("a.example/?k=:b")},
		{"capture and presence in the query", from("a.example/?k=:a"), from("a.example/?k")},
		{"order of query conditions", from("a.example/?a=1&b"), from("a.example/?b&a=1")},
		{"escapes of the query", from("a.example/?a=b+c"), from("a.example/?%61=b%20c")},
		{"where it leads", Redirect{From: "a.example", To: "https://b.example"}, Redirect{From: "a.example", To: "https://c.example", Status: 302, Note: "x", ID: "x", Cache: "1h", Priority: 3}},
		{"case ignored", Redirect{From: "a.example/X", IgnoreCase: true}, Redirect{From: "a.example/x", IgnoreCase: true}},
		{"order of lists", Redirect{From: "a.example", When: &When{Methods: []string{"GET", "POST"}, Countries: []string{"NO", "SE"}, Languages: []string{"nb", "nn"}, Addresses: []string{"192.0.2.1", "192.0.2.2"}}},
			Redirect{From: "a.example", When: &When{Methods: []string{"POST", "GET"}, Countries: []string{"SE", "NO"}, Languages: []string{"nn", "nb"}, Addresses: []string{"192.0.2.2", "192.0.2.1"}}}},
		{"zone of an instant", Redirect{From: "a.example", When: &When{After: &at}}, Redirect{From: "a.example", When: &When{After: &there}}},
		{"no conditions", Redirect{From: "a.example"}, Redirect{From: "a.example", When: &When{Header: map[string]string{}}}},
	}
	for _, tt := range tests {
		if a, b := key(t, tt.a), key(t, tt.b); a != b {
			t.Errorf("%s: two rules, %q and %q", tt.name, a, b)
		}
	}
	// Taking a key leaves the rule as it is.
	r := Redirect{From: "a.example", When: &When{Methods: []string{"POST", "GET"}, After: &there}}
	key(t, r)
	if r.When.Methods[0] != "POST" || r.When.After != &there {
		t.Error("Key changes the rule")
	}
}

func TestOtherRuleHasAnotherKey(t *testing.T) {
	at := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	rules := []Redirect{
		{From: "a.example"}, {From: "b.example"}, {From: "*.a.example"}, {From: ".a.example"}, {From: "*"},
		{From: "http://a.example"}, {From: "https://a.example"},
		{From: "a.example/"}, {From: "a.example/x"}, {From: "a.example/X"}, {From: "a.example/x/y"}, {From: "a.example/x%2Fy"},
		{From: "a.example/x", TrailingSlash: "strict"}, {From: "a.example/x/", TrailingSlash: "strict"}, {From: "a.example/x", IgnoreCase: true},
		{From: "a.example/x*"}, {From: "a.example/x/*"}, {From: "a.example/:x"}, {From: "a.example/:x/*"}, {From: "a.example/:"}, {From: "a.example/:?x"}, {From: "a.example/:/*"},
		{From: "a.example/x/:y"}, {From: "a.example/x/:"},
		{From: "a.example/x?a"}, {From: "a.example/x?a="}, {From: "a.example/x?a=1"}, {From: "a.example/x?a=1&b"}, {From: "a.example/x?b=1"},
		{From: "a.example", Regex: "^/x"}, {From: "a.example", Regex: "^/x", IgnoreCase: true}, {From: "a.example", Regex: "^/y"},
		{From: "a.example", When: &When{Methods: []string{"GET"}}}, {From: "a.example", When: &When{Countries: []string{"NO"}}}, {From: "a.example", When: &When{Languages: []string{"no"}}},
		{From: "a.example", When: &When{Header: map[string]string{"X": "1"}}}, {From: "a.example", When: &When{Cookie: map[string]string{"X": "1"}}}, {From: "a.example", When: &When{Header: map[string]string{"X": "2"}}},
		{From: "a.example", When: &When{Percent: new(0)}}, {From: "a.example", When: &When{Percent: new(50)}},
		{From: "a.example", When: &When{After: &at}}, {From: "a.example", When: &When{Before: &at}}, {From: "a.example", When: &When{Addresses: []string{"192.0.2.0/24"}}},
	}
	seen := map[string]string{}
	ids := map[string]bool{}
	for _, r := range rules {
		k := key(t, r)
		if other, ok := seen[k]; ok {
			t.Errorf("%s %+v has the key of %s", r.From, r.When, other)
		}
		seen[k] = fmt.Sprintf("%s %+v", r.From, r.When)
		ids[DerivedID(KeyHash(k))] = true
	}
	if len(ids) != len(rules) {
		t.Errorf("%d ids for %d rules", len(ids), len(rules))
	}
}

// Ids stand in logs, in statistics and in other people's notes: they must not
// change from one version to the next.
func TestDerivedIDsAreStable(t *testing.T) {
	at := time.Date(2026, 12, 1, 0, 0, 0, 0, time.FixedZone("", 3600))
	for _, tt := range []struct {
		r    Redirect
		want string
	}{
		{Redirect{From: "old.example/products/:id/*", To: "https://shop.example/item/:id/:splat"}, "r-vvsjs6dke5mvc"},
		{Redirect{From: "https://*.old.example/a?x=:y&b=1", When: &When{Methods: []string{"GET"}, Header: map[string]string{"X-App": "*"}, Percent: new(50), After: &at}}, "r-byfx5swlvbsx6"},
	} {
		if got := DerivedID(KeyHash(key(t, tt.r))); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.r.From, got, tt.want)
		}
	}
	if got := DerivedID(0); got != "r-aaaaaaaaaaaaa" {
		t.Errorf("0: %s", got)
	}
	if got := DerivedID(math.MaxUint64); got != "r-7777777777776" {
		t.Errorf("greatest: %s", got)
	}
}

func TestConditionsAreCounted(t *testing.T) {
	at := time.Unix(0, 0)
	for _, tt := range []struct {
		w    *When
		want int
	}{
		{nil, 0}, {&When{}, 0}, {&When{Methods: []string{"GET", "POST"}}, 1}, {&When{Header: map[string]string{"A": "", "B": ""}, Cookie: map[string]string{"c": ""}}, 3},
		{&When{Methods: []string{"GET"}, Countries: []string{"NO"}, Languages: []string{"nb"}, Addresses: []string{"::1"}, Percent: new(0), After: &at, Before: &at}, 7},
	} {
		if got := tt.w.Conditions(); got != tt.want {
			t.Errorf("%+v = %d, want %d", tt.w, got, tt.want)
		}
	}
}

func TestAddressIsAPrefixOfItsWholeLength(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "192.0.2.7/24": "192.0.2.0/24", "2001:db8::1": "2001:db8::1/128", "2001:db8::1/32": "2001:db8::/32",
		"::ffff:192.0.2.1": "192.0.2.1/32", "0.0.0.0/0": "0.0.0.0/0", "fe80::1%eth0": "fe80::1/128",
	} {
		if p, err := ParsePrefix(in); err != nil || p.String() != want {
			t.Errorf("%s = %s, %v, want %s", in, p, err, want)
		}
	}
	for _, in := range []string{"", "a", "192.0.2.1/33", "192.0.2/24", "2001:db8::/129", "192.0.2.1/-1", "192.0.2.0/24 "} {
		if p, err := ParsePrefix(in); err == nil {
			t.Errorf("%q is taken as %s", in, p)
		}
	}
}

func TestErrorsAreTakenApart(t *testing.T) {
	a := &Error{Code: "a", Message: "first", Hint: "do", At: Position{"f.yaml", 3, 0}}
	b := &Error{Code: "b", Message: "second"}
	plain := errors.New("plain")
	if got := Errors(nil); got != nil {
		t.Errorf("nil: %v", got)
	}
	if got := Errors(errors.Join(nil, a, errors.Join(b, nil), nil)); !slices.Equal(got, []*Error{a, b}) {
		t.Errorf("joined: %v", got)
	}
	got := Errors(errors.Join(a, plain))
	if len(got) != 2 || got[0] != a || *got[1] != (Error{Code: "error", Message: "plain"}) {
		t.Errorf("of another kind: %+v", got)
	}
	got = Errors(fmt.Errorf("reading: %w", a))
	if len(got) != 1 || *got[0] != (Error{Code: "a", Message: "reading: f.yaml:3: first", Hint: "do"}) {
		t.Errorf("wrapped: %+v", got[0])
	}
	if a.Message != "first" {
		t.Error("Errors changes what it wraps")
	}
}

func TestErrorBeginsWithItsPlace(t *testing.T) {
	for _, tt := range []struct {
		at   Position
		want string
	}{
		{Position{}, "m"}, {Position{File: "f"}, "f: m"}, {Position{"f", 2, 0}, "f:2: m"}, {Position{"f", 2, 7}, "f:2:7: m"}, {Position{"f", 0, 7}, "f: m"},
	} {
		if got := (&Error{Message: "m", At: tt.at}).Error(); got != tt.want {
			t.Errorf("%+v = %q, want %q", tt.at, got, tt.want)
		}
	}
}
