package redirect

import (
	"slices"
	"strings"
	"testing"
	"time"

	"fingerpost"
)

// warnings are "code field: message (hint)".
func warnings(t *testing.T, hosts []fingerpost.Host, rules []fingerpost.Redirect, covers func(string) bool) []string {
	t.Helper()
	table := compile(t, hosts, rules...)
	var all []string
	for _, w := range Check(table, hosts, rules, covers) {
		all = append(all, w.Code+" "+w.Field+": "+w.Message+" ("+w.Hint+")")
	}
	return all
}

func TestWarnings(t *testing.T) {
	const shadowHint = " always comes first (remove it, or give it a higher priority)"
	only := func(names ...string) func(string) bool {
		return func(host string) bool { return slices.Contains(names, host) }
	}
	at := time.Unix(now, 0)
	tests := []struct {
		name   string
		hosts  []fingerpost.Host
		rules  []fingerpost.Redirect
		covers func(string) bool
		want   []string
	}{
		{"shadowed by priority", nil, []fingerpost.Redirect{move("a.x/p", "https://t.test/", id("p")), move("a.x/*", "https://t.test/", id("all"), priority(1))}, nil,
			[]string{`shadowed from: from "a.x/p" never answers: the redirect at "a.x/*"` + shadowHint}},
		{"a wildcard by all of its hosts", nil, []fingerpost.Redirect{move("*.a.x/p", "https://t.test/", id("p")), move("*.a.x", "https://t.test/", id("all"), priority(1))}, nil,
			[]string{`shadowed from: from "*.a.x/p" never answers: the redirect at "*.a.x"` + shadowHint}},
		{"every host by a fallback", []fingerpost.Host{{Name: "a.x", Fallback: &fingerpost.Fallback{To: "https://t.test/"}}}, []fingerpost.Redirect{move("*/p", "https://t.test/")}, nil, nil},
		{"strict prefix of a folder", nil, []fingerpost.Redirect{move("a.x/docs*", "https://t.test/", id("p")), move("a.x/*", "https://t.test/", id("all"))}, nil,
			[]string{`shadowed from: from "a.x/docs*" never answers: the redirect at "a.x/*"` + shadowHint}},
		{"shadowed by a longer list", nil, []fingerpost.Redirect{move("a.x/p", "https://t.test/", id("b"), when(fingerpost.When{Countries: []string{"NO"}})), move("a.x/p", "https://t.test/", id("a"), when(fingerpost.When{Countries: []string{"NO", "SE"}}))}, nil,
			[]string{`shadowed from: from "a.x/p" never answers: the redirect at "a.x/p"` + shadowHint}},
		{"shadowed by a wider header", nil, []fingerpost.Redirect{move("a.x/p", "https://t.test/", id("b"), when(fingerpost.When{Header: map[string]string{"X": "1"}})), move("a.x/p", "https://t.test/", id("a"), when(fingerpost.When{Header: map[string]string{"X": "*"}}))}, nil,
			[]string{`shadowed from: from "a.x/p" never answers: the redirect at "a.x/p"` + shadowHint}},

		{"chain", nil, []fingerpost.Redirect{move("a.x/p", "https://b.x/q"), move("b.x/q", "https://t.test/r")}, nil,
			[]string{"chain to: a chain of 2 redirects: http://a.x/p → https://b.x/q → https://t.test/r (set to: https://t.test/r)"}},
		{"chain with text of the visitor", nil, []fingerpost.Redirect{move("a.x/p/:v", "https://b.x/:v"), move("b.x", "https://t.test/:splat")}, nil,
			[]string{"chain to: a chain of 2 redirects: http://a.x/p/any-name → https://b.x/any-name → https://t.test/any-name (each hop costs the visitor a round trip)"}},
		{"http to https of the same host is one redirect", []fingerpost.Host{{Name: "a.x", HTTPS: fingerpost.RedirectToHTTPS}}, []fingerpost.Redirect{move("a.x/p", "https://t.test/")}, nil, nil},

		{"undeclared capture", nil, []fingerpost.Redirect{move("a.x/p/:id", "https://t.test/:name/:id")}, nil,
			[]string{`undeclared_capture to: to "https://t.test/:name/:id" has :name, which from does not capture; it is sent as it stands (capture it in from, or write %3A for a colon)`}},
		{"IPv6 target", nil, []fingerpost.Redirect{move("a.x/p/:id", "https://[2001:db8::1]:8080/:id")}, nil, nil},

		{"HSTS with allow-all", []fingerpost.Host{{Name: "a.x", HSTS: &fingerpost.HSTS{MaxAge: 1}}, {Name: "b.x", HTTPS: fingerpost.AllowAll, HSTS: &fingerpost.HSTS{MaxAge: 1}}, {Name: "c.x", HTTPS: fingerpost.HTTPSOnly, HSTS: &fingerpost.HSTS{MaxAge: 1}}}, nil, nil,
			[]string{"hsts_without_https hsts: host a.x has HSTS with https: allow-all (browsers that saw the header never come over http again; set https: redirect-to-https)",
				"hsts_without_https hsts: host b.x has HSTS with https: allow-all (browsers that saw the header never come over http again; set https: redirect-to-https)"}},

		{"https target without a certificate", []fingerpost.Host{{Name: "b.x"}}, []fingerpost.Redirect{move("a.x", "https://b.x/"), move("a.x/2", "http://b.x/"), move("a.x/3", "https://t.test/"), move("a.x/4", "https://t.test/5")}, only("a.x"),
			[]string{`no_certificate to: to "https://b.x/" leads to a host that is served here without a certificate (get a certificate for b.x first)`}},
		{"https target with a certificate", []fingerpost.Host{{Name: "b.x"}}, []fingerpost.Redirect{move("a.x", "https://b.x/")}, only("a.x", "b.x"), nil},

		{"wildcard deeper than its certificate", []fingerpost.Host{{Name: "*.a.x"}, {Name: ".b.x"}, {Name: "*.c.x", Certificate: "none"}, {Name: "*"}}, nil, func(h string) bool { return strings.Count(h, ".") == 2 },
			[]string{"deep_wildcard certificate: host *.a.x answers at any depth, its certificate covers one label only (hosts such as a.b.a.x need a certificate of their own)",
				"deep_wildcard certificate: host .b.x answers at any depth, its certificate covers one label only (hosts such as a.b.b.x need a certificate of their own)"}},

		{"over before another begins", nil, []fingerpost.Redirect{move("a.x/p", "https://t.test/", when(fingerpost.When{Before: &at})), move("a.x/p", "https://t.test/", when(fingerpost.When{After: &at}))}, nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := warnings(t, tt.hosts, tt.rules, tt.covers); !slices.Equal(got, tt.want) {
				t.Errorf("\n got %q\nwant %q", got, tt.want)
			}
		})
	}
}

// TestRuleWithRoomIsNotShadowed: the rule before leaves some requests.
func TestRuleWithRoomIsNotShadowed(t *testing.T) {
	early, late := time.Unix(now, 0), time.Unix(now+1000, 0)
	for name, w := range map[string]struct{ before, behind fingerpost.When }{
		"percent":                 {fingerpost.When{Percent: new(50)}, fingerpost.When{}},
		"nearly all":              {fingerpost.When{Percent: new(99)}, fingerpost.When{}},
		"percent of percent":      {fingerpost.When{Percent: new(50)}, fingerpost.When{Percent: new(60)}},
		"method":                  {fingerpost.When{Methods: []string{"GET"}}, fingerpost.When{}},
		"one of two methods":      {fingerpost.When{Methods: []string{"POST"}}, fingerpost.When{Methods: []string{"POST", "PUT"}}},
		"country":                 {fingerpost.When{Countries: []string{"NO"}}, fingerpost.When{}},
		"one of two countries":    {fingerpost.When{Countries: []string{"NO"}}, fingerpost.When{Countries: []string{"NO", "SE"}}},
		"percent of a country":    {fingerpost.When{Countries: []string{"NO"}, Percent: new(80)}, fingerpost.When{Countries: []string{"NO"}}},
		"one of two languages":    {fingerpost.When{Languages: []string{"nb"}}, fingerpost.When{Languages: []string{"nb", "en"}}},
		"header":                  {fingerpost.When{Header: map[string]string{"X": "*"}}, fingerpost.When{}},
		"a header of more values": {fingerpost.When{Header: map[string]string{"X": "a"}}, fingerpost.When{Header: map[string]string{"X": "a*"}}},
		"cookie":                  {fingerpost.When{Cookie: map[string]string{"c": "1"}}, fingerpost.When{Cookie: map[string]string{"c": "*"}}},
		"addresses":               {fingerpost.When{Addresses: []string{"0.0.0.0/0"}}, fingerpost.When{}},
		"a smaller network":       {fingerpost.When{Addresses: []string{"10.0.0.0/24"}}, fingerpost.When{Addresses: []string{"10.0.0.0/8"}}},
		"two networks":            {fingerpost.When{Addresses: []string{"10.0.0.0/8"}}, fingerpost.When{Addresses: []string{"10.0.0.0/8", "2001:db8::/32"}}},
		"begun":                   {fingerpost.When{After: &early}, fingerpost.When{}},
		"over":                    {fingerpost.When{Before: &late}, fingerpost.When{}},
		"over earlier":            {fingerpost.When{Before: &early}, fingerpost.When{Before: &late}},
		"within":                  {fingerpost.When{Before: &late, After: &early}, fingerpost.When{After: &early}},
	} {
		rules := []fingerpost.Redirect{move("a.x/p", "https://t.test/1", priority(1), when(w.before)), move("a.x/p", "https://t.test/2", when(w.behind))}
		if got := warnings(t, nil, rules, nil); len(got) > 0 {
			t.Errorf("%s: %q", name, got)
		}
	}
	for name, rules := range map[string][]fingerpost.Redirect{
		"scheme":       {move("http://a.x/*", "https://t.test/1", priority(1)), move("a.x/p", "https://t.test/2")},
		"query":        {move("a.x/*?k", "https://t.test/1", priority(1)), move("a.x/p", "https://t.test/2")},
		"path":         {move("a.x/p/:v", "https://t.test/1", priority(1)), move("a.x/p/*", "https://t.test/2")},
		"slash":        {move("a.x/p", "https://t.test/1", strictly), move("a.x/p", "https://t.test/2")},
		"case":         {move("a.x/P", "https://t.test/1"), move("a.x/p", "https://t.test/2", anyCase)},
		"apex":         {move("*.a.x", "https://t.test/1"), move(".a.x", "https://t.test/2")},
		"other hosts":  {move("a.x", "https://t.test/1"), move("*/p", "https://t.test/2")},
		"disabled":     {move("a.x/*", "https://t.test/1", priority(1), off), move("a.x/p", "https://t.test/2")},
		"same id":      {move("a.x/*", "https://t.test/1", id("one")), move("b.x/*", "https://t.test/2", id("one"))},
		"regex":        {move("a.x", "https://t.test/1", regexOf("^/p/[0-9]+$"), priority(1)), move("a.x/p/:v", "https://t.test/2")},
		"regex behind": {move("a.x/p/:v", "https://t.test/1"), move("a.x", "https://t.test/2", regexOf("^/p/(a|b)/c$"))},
	} {
		if got := warnings(t, nil, rules, nil); len(got) > 0 {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestRealisticConfigurationDrawsNoWarning(t *testing.T) {
	start := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	end := start.AddDate(0, 1, 0)
	hosts := []fingerpost.Host{
		{Name: "www.example.com", RedirectFrom: []string{"example.com"}, HTTPS: fingerpost.RedirectToHTTPS, HSTS: &fingerpost.HSTS{MaxAge: 63072000}, Fallback: &fingerpost.Fallback{To: "https://shop.example.net{path}"}},
		{Name: "old.example.com", To: "https://shop.example.net/", Also: []string{"older.example.com"}},
		{Name: "*.brand.example", Fallback: &fingerpost.Fallback{Status: 410, Page: "<p>gone</p>"}},
	}
	rules := []fingerpost.Redirect{
		move("www.example.com/products/:id/*", "https://shop.example.net/item/:id/:splat?ref=old"),
		move("www.example.com/products/7", "https://shop.example.net/seven"),
		move("www.example.com/blog/*", "https://blog.example.net/:splat"),
		move("www.example.com/blog", "https://blog.example.net/nb/", when(fingerpost.When{Languages: []string{"nb", "nn"}})),
		move("www.example.com/sale", "https://shop.example.net/sale", when(fingerpost.When{After: &start, Before: &end}), func(r *fingerpost.Redirect) { r.Status = 302 }),
		move("www.example.com/new", "https://shop.example.net/b", when(fingerpost.When{Percent: new(10)}), func(r *fingerpost.Redirect) { r.Status = 302 }),
		move("www.example.com/new", "https://shop.example.net/a", func(r *fingerpost.Redirect) { r.Status = 302 }),
		move("www.example.com/index.php?id=:n", "https://shop.example.net/item/:n"),
		move("www.example.com", "https://shop.example.net/:id", regexOf(`^/p/(?P<id>\d+)\.html$`)),
		move("old.example.com/jobs", "https://jobs.example.net/"),
		move("*.brand.example/press*", "https://press.example.net/:sub"),
		{From: "www.example.com/retired/*", Status: 410},
		move("*/.well-known/security.txt", "https://www.example.net/security.txt"),
	}
	if got := warnings(t, hosts, rules, func(host string) bool { return !strings.Contains(host, "brand") }); len(got) > 0 {
		t.Errorf("%q", got)
	}
}
