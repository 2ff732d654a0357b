package fingerpost

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestHostIsValid(t *testing.T) {
	for _, h := range []Host{
		{Name: "a.example"},
		{Name: "*"},
		{Name: "*.a.example", Also: []string{".b.example", "c.example"}},
		{Name: "www.a.example", RedirectFrom: []string{"a.example", "*.b.example"}, HTTPS: RedirectToHTTPS, HSTS: &HSTS{MaxAge: 0}},
		{Name: "a.example", To: "https://b.example/:splat", Status: 308, Certificate: "none"},
		{Name: ".a.example", To: "https://:sub.b.example/"},
		{Name: "a.example", Fallback: &Fallback{}},
		{Name: "a.example", Fallback: &Fallback{To: "https://b.example{path}", Status: 307}},
		{Name: "a.example", Fallback: &Fallback{Status: 451, Page: "<p>no</p>"}},
		{Name: "[2001:db8::1]", RedirectFrom: []string{"[2001:db8::2]"}},
		{Name: "bücher.example", RedirectFrom: []string{"b.example"}, Certificate: "imported-1", HTTPS: HTTPSOnly},
	} {
		if err := h.Validate(); err != nil {
			t.Errorf("%s: %v", h.Name, err)
		}
		for _, r := range h.Redirects() {
			if err := r.Validate(); err != nil {
				t.Errorf("%s: its rule %s: %v", h.Name, r.From, err)
			}
		}
	}
}

func TestHostIsRefused(t *testing.T) {
	tests := []struct {
		h    Host
		want []string
	}{
		{Host{}, []string{"bad_host : host : the host is missing"}},
		{Host{Name: "a b"}, []string{`bad_host : host a b: host "a b" has a space`}},
		{Host{Name: "a b", To: "https://b.example/", Fallback: &Fallback{}}, []string{`bad_host : host a b: host "a b" has a space`}},
		{Host{Name: "a", Also: []string{"b", "B.", "a", ""}, RedirectFrom: []string{"b"}}, []string{
			`duplicate also: host a: "B." is listed twice`, `duplicate also: host a: "a" is listed twice`, `bad_host also: host a: the host is missing`, `duplicate redirectFrom: host a: "b" is listed twice`}},
		{Host{Name: "*.a", RedirectFrom: []string{"b"}}, []string{"bad_host redirectFrom: host *.a: a wildcard host cannot be a target"}},
		{Host{Name: "a", HTTPS: "always"}, []string{`bad_value https: host a: unknown https policy "always"`}},
		{Host{Name: "a", HSTS: &HSTS{MaxAge: -1}}, []string{"bad_value hsts.maxAge: host a: maxAge is negative"}},
		{Host{Name: "a", Status: 301}, []string{"bad_status status: host a: a status without a target"}},
		{Host{Name: "a", To: "b", Status: 200}, []string{`bad_to to: host a: to "b" is not a URL`, "bad_status status: host a: status 200 is not one that a redirect can have"}},
		{Host{Name: "a", To: "https://b/", Status: 410}, []string{"bad_status status: host a: status 410 goes without to"}},
		{Host{Name: "a", Certificate: "../x"}, []string{"bad_value certificate: host a: certificate is a name, not a path"}},
		{Host{Name: "a", Fallback: &Fallback{Status: 200}}, []string{"bad_status fallback.status: host a: status 200 is not one that a redirect can have"}},
		{Host{Name: "a", Fallback: &Fallback{Status: 302}}, []string{"bad_to fallback.to: host a: a redirect without to"}},
		{Host{Name: "a", Fallback: &Fallback{To: "https://b/", Status: 404}}, []string{"bad_status fallback.status: host a: status 404 goes without to"}},
		{Host{Name: "a", Fallback: &Fallback{To: "https://b/", Page: "x"}}, []string{"bad_page fallback.page: host a: status 302 sends no page"}},
		{Host{Name: "a", Fallback: &Fallback{To: "//b/"}}, []string{`bad_to fallback.to: host a: to "//b/" begins with //, which a browser reads as another host`}},
	}
	for _, tt := range tests {
		tt.h.Source = Position{"h.yaml", 2, 1}
		err := tt.h.Validate()
		if got := messages(err); !slices.Equal(got, tt.want) {
			t.Errorf("%q:\n got %q\nwant %q", tt.h.Name, got, tt.want)
		}
		for _, e := range Errors(err) {
			if e.At != tt.h.Source {
				t.Errorf("%q: at %v", tt.h.Name, e.At)
			}
		}
	}
}

func TestHSTSHeader(t *testing.T) {
	for _, tt := range []struct {
		h    HSTS
		want string
	}{
		{HSTS{}, "max-age=0"},
		{HSTS{MaxAge: 63072000}, "max-age=63072000"},
		{HSTS{MaxAge: 1, IncludeSubDomains: true}, "max-age=1; includeSubDomains"},
		{HSTS{MaxAge: 1, Preload: true}, "max-age=1; preload"},
		{HSTS{MaxAge: 31536000, IncludeSubDomains: true, Preload: true}, "max-age=31536000; includeSubDomains; preload"},
	} {
		if got := tt.h.String(); got != tt.want {
			t.Errorf("%+v = %q, want %q", tt.h, got, tt.want)
		}
	}
}

func TestHostStandsForRules(t *testing.T) {
	h := Host{Name: "www.a.example", To: "https://b.example/", Status: 302, RedirectFrom: []string{"a.example", "*.c.example"}, Source: Position{File: "f"}}
	want := []Redirect{
		{From: "www.a.example", To: "https://b.example/", Status: 302, Source: h.Source},
		{From: "a.example", To: "{scheme}://www.a.example{path}", Source: h.Source},
		{From: "*.c.example", To: "{scheme}://www.a.example{path}", Source: h.Source},
	}
	if got := h.Redirects(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	for _, policy := range []string{RedirectToHTTPS, HTTPSOnly} {
		h.HTTPS = policy
		if got := h.Redirects()[1].To; got != "https://www.a.example{path}" {
			t.Errorf("%s: %s", policy, got)
		}
	}
	for _, tt := range []struct {
		f    *Fallback
		want *Redirect
	}{
		{nil, nil},
		{&Fallback{}, &Redirect{From: "a", Status: 404}},
		{&Fallback{Page: "p", Status: 410}, &Redirect{From: "a", Status: 410, Page: "p"}},
		{&Fallback{To: "/x"}, &Redirect{From: "a", To: "/x", Status: 302}},
		{&Fallback{To: "/x", Status: 301}, &Redirect{From: "a", To: "/x", Status: 301}},
	} {
		if got := (&Host{Name: "a", Fallback: tt.f}).FallbackRedirect(); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%+v: %+v", tt.f, got)
		}
	}
}

func TestCertificateNamesOfAHost(t *testing.T) {
	for _, tt := range []struct {
		host Host
		want string
	}{
		{Host{Name: "shop.example"}, "shop.example"},
		{Host{Name: "Bücher.example", Also: []string{"www.shop.example."}}, "xn--bcher-kva.example www.shop.example"},
		{Host{Name: "*.shop.example", RedirectFrom: []string{".old.example"}}, "*.shop.example old.example *.old.example"},
		{Host{Name: "*", Also: []string{"192.0.2.1", "[2001:db8::1]", "no name"}}, ""},
	} {
		if got := strings.Join(tt.host.CertificateNames(), " "); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.host, got, tt.want)
		}
	}
}
