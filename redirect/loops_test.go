package redirect

import (
	"slices"
	"strings"
	"testing"

	"fingerpost"
)

func move(from, to string, change ...func(*fingerpost.Redirect)) fingerpost.Redirect {
	r := fingerpost.Redirect{From: from, To: to}
	for _, c := range change {
		c(&r)
	}
	return r
}

const cycleHint = "change one of these targets, or exclude the target's own path or host with a rule of its own"

func TestCircleIsRefusedWithItsPath(t *testing.T) {
	secure := []fingerpost.Host{{Name: "a.x", HTTPS: fingerpost.RedirectToHTTPS}}
	tests := []struct {
		name  string
		hosts []fingerpost.Host
		rules []fingerpost.Redirect
		want  []string // code and message of each error
	}{
		{"itself", nil, []fingerpost.Redirect{move("http://a.x/p", "http://a.x/p")},
			[]string{"self_redirect redirect to itself: http://a.x/p → http://a.x/p"}},
		{"itself, relative", nil, []fingerpost.Redirect{move("a.x/p", "/p")},
			[]string{"self_redirect redirect to itself: http://a.x/p → http://a.x/p"}},
		{"itself, after normalisation", nil, []fingerpost.Redirect{move("https://a.x/p", "https://A.x.:443/q/../%70")},
			[]string{"self_redirect redirect to itself: https://a.x/p → https://a.x/p"}},
		{"itself, whole host", nil, []fingerpost.Redirect{move("a.x", "{scheme}://a.x/:splat")},
			[]string{"self_redirect redirect to itself: http://a.x/ → http://a.x/"}},
		{"itself, through https", nil, []fingerpost.Redirect{move("a.x/p", "https://a.x/p")},
			[]string{"self_redirect redirect to itself: http://a.x/p → https://a.x/p → https://a.x/p"}},
		{"itself, regex", nil, []fingerpost.Redirect{{From: "https://a.x", Regex: `^/p/(\d+)$`, To: "/p/:1"}},
			[]string{"self_redirect redirect to itself: https://a.x/p/0 → https://a.x/p/0"}},
		{"two rules", nil, []fingerpost.Redirect{move("https://a.x/p", "https://a.x/q"), move("https://a.x/q", "https://a.x/p")},
			[]string{"cycle redirects in a circle: https://a.x/p → https://a.x/q → https://a.x/p"}},
		{"two hosts", nil, []fingerpost.Redirect{move("https://a.x", "https://b.x/:splat"), move("https://b.x", "https://a.x/:splat")},
			[]string{"cycle redirects in a circle: https://a.x/ → https://b.x/ → https://a.x/"}},
		{"three rules", nil, []fingerpost.Redirect{move("https://a.x/p", "/q"), move("https://a.x/q", "https://b.x/r"), move("https://b.x/r", "https://a.x/p")},
			[]string{"cycle redirects in a circle: https://a.x/p → https://a.x/q → https://b.x/r → https://a.x/p"}},
		{"a way into a circle", nil, []fingerpost.Redirect{move("https://a.x/in", "/p"), move("https://a.x/p", "/q"), move("https://a.x/q", "/p")},
			[]string{"cycle redirects in a circle: https://a.x/in → https://a.x/p → https://a.x/q → https://a.x/p"}},
		{"two circles", nil, []fingerpost.Redirect{move("https://a.x/p", "/p"), move("https://b.x/q", "/q")},
			[]string{"self_redirect redirect to itself: https://a.x/p → https://a.x/p", "self_redirect redirect to itself: https://b.x/q → https://b.x/q"}},
		{"host wildcard over its own target", nil, []fingerpost.Redirect{move("https://*.a.x", "https://www.a.x/:splat")},
			[]string{"self_redirect redirect to itself: https://any-name.a.x/ → https://www.a.x/ → https://www.a.x/"}},
		{"folder over its own target", nil, []fingerpost.Redirect{move("https://a.x/docs/*", "https://a.x/docs/new")},
			[]string{"self_redirect redirect to itself: https://a.x/docs/ → https://a.x/docs/new → https://a.x/docs/new"}},
		{"every host, relative", nil, []fingerpost.Redirect{move("https://*/p", "/p")},
			[]string{"self_redirect redirect to itself: https://any-name.invalid/p → https://any-name.invalid/p"}},
		{"back to http under redirect-to-https", secure, []fingerpost.Redirect{move("https://a.x/p", "http://a.x/p")},
			[]string{"cycle redirects in a circle: https://a.x/p → http://a.x/p → (https) https://a.x/p"}},
		{"www and back", []fingerpost.Host{{Name: "www.a.x", RedirectFrom: []string{"a.x"}}}, []fingerpost.Redirect{move("www.a.x/p", "{scheme}://a.x/p")},
			[]string{"cycle redirects in a circle: http://www.a.x/p → http://a.x/p → http://www.a.x/p"}},
		{"through a fallback", []fingerpost.Host{{Name: "a.x", Fallback: &fingerpost.Fallback{To: "https://b.x/"}}}, []fingerpost.Redirect{move("https://b.x/", "https://a.x/p")},
			[]string{"cycle redirects in a circle: http://a.x/ → https://b.x/ → https://a.x/p → https://b.x/"}},
		{"fallback to its own host", []fingerpost.Host{{Name: "a.x", Fallback: &fingerpost.Fallback{To: "https://a.x/missing"}}}, nil,
			[]string{"self_redirect redirect to itself: http://a.x/ → https://a.x/missing → https://a.x/missing"}},
		{"endless growth", nil, []fingerpost.Redirect{move("https://a.x/a/*", "https://a.x/a/b/:splat")},
			[]string{"cycle redirects in a circle: https://a.x/a/ → https://a.x/a/b/ → https://a.x/a/b/b/ → https://a.x/a/b/b/b/ → https://a.x/a/b/b/b/b/ → https://a.x/a/b/b/b/b/b/ → … "}},
		{"only while a condition holds", nil, []fingerpost.Redirect{move("https://a.x/p", "https://a.x/q", when(fingerpost.When{Countries: []string{"NO"}, Header: map[string]string{"X": "a*"}})), move("https://a.x/q", "https://a.x/p")},
			[]string{"cycle redirects in a circle: https://a.x/p → https://a.x/q → https://a.x/p"}},
		{"for a small share of the visitors", nil, []fingerpost.Redirect{move("https://a.x/p", "https://a.x/q", when(fingerpost.When{Percent: new(2)})), move("https://a.x/q", "https://a.x/p")},
			[]string{"cycle redirects in a circle: https://a.x/p → https://a.x/q → https://a.x/p"}},
		{"for two shares of the visitors", nil, []fingerpost.Redirect{move("https://a.x/p", "https://a.x/q", when(fingerpost.When{Percent: new(30)})), move("https://a.x/q", "https://a.x/p", when(fingerpost.When{Percent: new(30)}))},
			[]string{"cycle redirects in a circle: https://a.x/p → https://a.x/q → https://a.x/p"}},
		{"for some addresses", nil, []fingerpost.Redirect{move("https://a.x/p", "https://a.x/q", when(fingerpost.When{Addresses: []string{"203.0.113.0/24"}, Percent: new(10)})), move("https://a.x/q", "https://a.x/p")},
			[]string{"cycle redirects in a circle: https://a.x/p → https://a.x/q → https://a.x/p"}},
		{"through an alias", []fingerpost.Host{{Name: "a.x", Also: []string{"b.x"}}}, []fingerpost.Redirect{move("https://a.x/p", "https://b.x/p")},
			[]string{"self_redirect redirect to itself: https://a.x/p → https://b.x/p → https://b.x/p"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for i := range tt.rules {
				tt.rules[i].Source = fingerpost.Position{File: "r.yaml", Line: i + 1}
			}
			_, err := Compile(tt.hosts, tt.rules)
			var got []string
			for _, e := range fingerpost.Errors(err) {
				got = append(got, e.Code+" "+e.Message)
				if e.Hint != cycleHint || e.Field != "to" || len(tt.hosts) == 0 && e.At.Line == 0 {
					t.Errorf("%+v", e)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("\n got %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestWayThatEndsIsNoCircle(t *testing.T) {
	var long []fingerpost.Redirect
	for i := range 15 {
		long = append(long, move("a.x/"+strings.Repeat("p", i+1), "/"+strings.Repeat("p", i+2)))
	}
	secure := []fingerpost.Host{{Name: "a.x", HTTPS: fingerpost.RedirectToHTTPS}}
	for name, tt := range map[string]struct {
		hosts []fingerpost.Host
		rules []fingerpost.Redirect
	}{
		"http to https, bound to http":         {nil, []fingerpost.Redirect{move("http://a.x/*", "https://a.x/:splat"), move("http://b.x/p", "https://b.x/p")}},
		"the same on a redirect-to-https host": {secure, []fingerpost.Redirect{move("http://a.x/*", "https://a.x/:splat")}},
		"a chain":                              {nil, long},
		"a host that is not ours":              {nil, []fingerpost.Redirect{move("a.x", "https://b.x/:splat"), move("c.x", "https://other.test/")}},
		"every host to a fixed one":            {nil, []fingerpost.Redirect{move("*/same", "https://a.x/same"), move("*", "https://b.x/:splat", id("b"))}},
		"the target is excluded":               {nil, []fingerpost.Redirect{move("*.a.x", "https://www.a.x/:splat"), move("www.a.x", "https://t.test/")}},
		"another query":                        {nil, []fingerpost.Redirect{move("a.x/p?old", "/p")}},
		"another case":                         {nil, []fingerpost.Redirect{move("a.x/P", "/p")}},
		"a strict final slash":                 {nil, []fingerpost.Redirect{move("a.x/p", "/p/", strictly)}},
		"a host of its own with a fallback":    {[]fingerpost.Host{{Name: "www.a.x", Fallback: &fingerpost.Fallback{}}}, []fingerpost.Redirect{move("*.a.x", "https://www.a.x/:splat")}},
		"apex to www":                          {[]fingerpost.Host{{Name: "www.a.x", RedirectFrom: []string{"a.x"}}}, nil},
		"the rule back is off":                 {nil, []fingerpost.Redirect{move("a.x/p", "/q"), move("a.x/q", "/p", off)}},
		"countries that exclude each other":    {nil, []fingerpost.Redirect{move("a.x/p", "/q", when(fingerpost.When{Countries: []string{"NO"}})), move("a.x/q", "/p", when(fingerpost.When{Countries: []string{"SE"}}))}},
		"methods that exclude each other":      {nil, []fingerpost.Redirect{move("a.x/p", "/q", when(fingerpost.When{Methods: []string{"GET"}})), move("a.x/q", "/p", when(fingerpost.When{Methods: []string{"POST"}}))}},
		"no visitor at all":                    {nil, []fingerpost.Redirect{move("a.x/p", "/q", when(fingerpost.When{Percent: new(0)})), move("a.x/q", "/p")}},
		"a page ends the way":                  {nil, []fingerpost.Redirect{move("a.x/p", "/q"), {From: "a.x/q", Status: 410}}},
	} {
		if _, err := Compile(tt.hosts, tt.rules); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Another port is another server, even on a host of ours.
func TestOtherPortIsNoCircle(t *testing.T) {
	if _, err := Compile(nil, []fingerpost.Redirect{{From: "a.x", To: "https://a.x:8443{path}"}}); err != nil {
		t.Error(err)
	}
}
