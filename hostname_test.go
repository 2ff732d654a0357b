package fingerpost

import (
	"errors"
	"net/url"
	"strings"
	"testing"
)

const (
	hintPort  = "remove it: a rule holds for every port; an IPv6 address goes in brackets"
	hintName  = "each label has 1 to 63 letters, digits and hyphens, the whole at most 253 characters"
	hintChars = "a host has letters, digits, - and ."
)

// label63 is a label of the greatest length; longHost has 253 bytes.
var (
	label63  = strings.Repeat("a", 63)
	longHost = strings.Join([]string{label63, label63, label63, strings.Repeat("b", 61)}, ".")
)

func TestHostPatternIsBroughtToOneForm(t *testing.T) {
	for in, want := range map[string]HostPattern{
		"example.com":             "example.com",
		"EXAMPLE.Com":             "example.com",
		"example.com.":            "example.com",
		"example.com。":            "example.com", // IDNA knows four full stops
		"a。b":                     "a.b",
		"localhost":               "localhost",
		"192.0.2.1":               "192.0.2.1",
		"*":                       "*",
		"*.Example.com":           "*.example.com",
		"*.example.com.":          "*.example.com",
		".example.com":            ".example.com",
		"*.com":                   "*.com",
		"BÜCHER.example":          "xn--bcher-kva.example",
		"xn--bcher-kva.example":   "xn--bcher-kva.example",
		"*.bücher.example":        "*.xn--bcher-kva.example",
		"straße.example":          "xn--strae-oqa.example", // non-transitional
		"１.example":               "1.example",
		"r3---sn.example":         "r3---sn.example",
		"[2001:DB8:0:0::1]":       "[2001:db8::1]",
		"[::ffff:192.0.2.1]":      "[::ffff:192.0.2.1]",
		longHost:                  HostPattern(longHost),
		label63 + ".example":      HostPattern(label63 + ".example"),
		"1.2.3.4.5.6.7.8.9.0.a.b": "1.2.3.4.5.6.7.8.9.0.a.b",
	} {
		got, err := ParseHostPattern(in)
		if err != nil || got != want {
			t.Errorf("%q = %q, %v, want %q", in, got, err, want)
			continue
		}
		if again, err := ParseHostPattern(string(got)); err != nil || again != got {
			t.Errorf("%q: %q is not stable: %q, %v", in, got, again, err)
		}
	}
}

func TestHostPatternIsRefused(t *testing.T) {
	tests := []struct{ in, message, hint string }{
		{"", "the host is missing", "write the host first, for example example.com/path, or * for every host"},
		{"example.com:80", `host "example.com:80" has a port`, hintPort},
		{"https://a.example/", `host "https://a.example/" is a URL`, "write the host alone, as in shop.example"},
		{"2001:db8::1", `host "2001:db8::1" has a port`, hintPort},
		{"[::1]:80", `host "[::1]:80" has a port`, "remove it: a rule holds for every port"},
		{"[::1", `bad host "[::1"`, ""},
		{"[::1]x", `bad host "[::1]x"`, ""},
		{"[1.2.3.4]", `bad host "[1.2.3.4]"`, ""},
		{"[fe80::1%25eth0]", `bad host "[fe80::1%25eth0]"`, ""},
		{"[]", `bad host "[]"`, ""},
		{"a.*.example", `host "a.*.example" has a * that is not its first label`, "a wildcard is *.example.com, .example.com or * alone"},
		{"*a.example", `host "*a.example" has a * that is not its first label`, "a wildcard is *.example.com, .example.com or * alone"},
		{"*.*.example", `host "*.*.example" has a * that is not its first label`, "a wildcard is *.example.com, .example.com or * alone"},
		{"**", `host "**" has a * that is not its first label`, "a wildcard is *.example.com, .example.com or * alone"},
		{"exa mple.com", `host "exa mple.com" has a space`, "remove it"},
		{"a.example\r\n", `host "a.example\r\n" has a space`, "remove it"},
		{"user@a.example", `host "user@a.example" has the character "@"`, hintChars},
		{"a_b.example", `host "a_b.example" has the character "_"`, hintChars},
		{"a%41.example", `host "a%41.example" has the character "%"`, hintChars},
		{`a\b`, `host "a\\b" has the character "\\"`, hintChars},
		{"<a>", `host "<a>" has the character "<"`, hintChars},
		{"a..b", `host "a..b" is not a host name`, hintName},
		{"example.com..", `host "example.com.." is not a host name`, hintName},
		{"example.com.。", `host "example.com.。" is not a host name`, hintName},
		{".", `host "." is not a host name`, hintName},
		{"..", `host ".." is not a host name`, hintName},
		{"*.", `host "*." is not a host name`, hintName},
		{"*..", `host "*.." is not a host name`, hintName},
		{"。", `host "。" is not a host name`, hintName},
		{"..a", `host "..a" is not a host name`, hintName},
		{"a!b", `host "a!b" is not a host name`, hintName},
		{"a／b", `host "a／b" is not a host name`, hintName}, // maps to a slash
		{"a\xbcb", `host "a\xbcb" is not a host name`, hintName},
		{"xn--a", `host "xn--a" is not a host name`, hintName},
		{label63 + "a.example", `host "` + label63 + `a.example" is not a host name`, hintName},
		{longHost + "b", `host "` + longHost + `b" is not a host name`, hintName},
		{"-a.example", `host "-a.example" has a label that begins or ends with a hyphen`, ""},
		{"a.b-", `host "a.b-" has a label that begins or ends with a hyphen`, ""},
		{"*.[::1]", `host "*.[::1]" has a port`, hintPort},
	}
	for _, tt := range tests {
		got, err := ParseHostPattern(tt.in)
		checkError(t, tt.in, err, &Error{Code: "bad_host", Message: tt.message, Hint: tt.hint})
		if got != "" {
			t.Errorf("%q: %q beside an error", tt.in, got)
		}
	}
}

// checkError compares an error with what it must say, field by field.
func checkError(t *testing.T, what string, err error, want *Error) {
	t.Helper()
	var got *Error
	if !errors.As(err, &got) {
		t.Errorf("%s: error %v, want %q", what, err, want.Message)
		return
	}
	if *got != *want {
		t.Errorf("%s:\n got %+v\nwant %+v", what, *got, *want)
	}
}

func TestHostPatternMatches(t *testing.T) {
	tests := []struct {
		pattern, host, sub string
		ok                 bool
	}{
		{"a.example", "a.example", "", true},
		{"a.example", "b.a.example", "", false},
		{"*.a.example", "b.a.example", "b", true},
		{"*.a.example", "c.b.a.example", "c.b", true},
		{"*.a.example", "a.example", "", false},
		{"*.a.example", "xa.example", "", false},
		{".a.example", "a.example", "", true},
		{".a.example", "c.b.a.example", "c.b", true},
		{".a.example", "xa.example", "", false},
		{"*.a.example", ".a.example", "", false},
		{".a.example", ".a.example", "", false},
		{"*", "a.example", "a.example", true},
		{"*", "[2001:db8::1]", "[2001:db8::1]", true},
		{"[2001:db8::1]", "[2001:db8::1]", "", true},
		{"*.example", "example", "", false},
	}
	for _, tt := range tests {
		sub, ok := HostPattern(tt.pattern).Match(tt.host)
		if sub != tt.sub || ok != tt.ok {
			t.Errorf("%s on %s = %q, %t, want %q, %t", tt.pattern, tt.host, sub, ok, tt.sub, tt.ok)
		}
	}
	for pattern, suffix := range map[HostPattern]string{"*": "", "*.a.b": "a.b", ".a.b": "a.b", "a.b": ""} {
		if got := pattern.Suffix(); got != suffix {
			t.Errorf("%s: suffix %q, want %q", pattern, got, suffix)
		}
		if got := pattern.IsWildcard(); got != (pattern != "a.b") {
			t.Errorf("%s: wildcard %t", pattern, got)
		}
	}
}

func TestHostOfARequest(t *testing.T) {
	tests := []struct{ in, host, port string }{
		{"example.com", "example.com", ""},
		{"EXAMPLE.com:8080", "example.com", "8080"},
		{"example.com.", "example.com", ""},
		{"example.com.:443", "example.com", "443"},
		{"example.com:", "example.com", ""}, // RFC 3986 3.2.3
		{"192.0.2.1:80", "192.0.2.1", "80"},
		{"[2001:DB8:0::1]", "[2001:db8::1]", ""},
		{"[::1]:65535", "[::1]", "65535"},
		{"[::1]:", "[::1]", ""},
		{"-a.b-", "-a.b-", ""}, // legal in a URI; no pattern can be that
		{longHost, longHost, ""},
		{longHost + ".:65535", longHost, "65535"},
		{strings.Repeat("a.", 126) + "a", strings.Repeat("a.", 126) + "a", ""},
	}
	for _, tt := range tests {
		host, port, err := ParseHost(tt.in)
		if err != nil || host != tt.host || port != tt.port {
			t.Errorf("%q = %q, %q, %v, want %q, %q", tt.in, host, port, err, tt.host, tt.port)
		}
	}
	for _, in := range []string{"", ".", "..", "a..", "a..b", ".a", ".a.example", "..a", ":80", "a:b", "a:80:80", "a:-1", "a:+1", "a:123456", "a b", "a_b", "a%41",
		"user@a", "a,b", "a/b", `a\b`, "a\r\n", "a\x00", "bücher.example", "*", "*.a", "[", "[]", "[::1", "[::1]80", "[::1]:x", "[::1]x:80", "[1.2.3.4]",
		"[fe80::1%eth0]", "::1", "2001:db8::1", longHost + "b"} {
		host, port, err := ParseHost(in)
		if err == nil || host != "" || port != "" {
			t.Errorf("%q is taken as %q, %q", in, host, port)
			continue
		}
		checkError(t, in, err, &Error{Code: "bad_host", Message: "bad host " + quote(in)})
	}
}

func TestHostInItsFormDoesNotAllocate(t *testing.T) {
	for _, s := range []string{"example.com", "example.com:8080", "example.com."} {
		if n := testing.AllocsPerRun(100, func() { _, _, _ = ParseHost(s) }); n != 0 {
			t.Errorf("%q: %v allocations", s, n)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for _, s := range []string{"example.com", "EXAMPLE.com.:80", "[2001:DB8::1]:443", "bücher.example", "*.a", ".a", "a..b", "example.com..", "example.com。", "。", "\u00ad", "[::1%25x]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if host, port, err := ParseHost(s); err == nil {
			checkHost(t, s, host)
			authority := host
			if port != "" {
				authority += ":" + port
			}
			if again, p, err := ParseHost(authority); err != nil || again != host || p != port {
				t.Errorf("%q: %q is not stable: %q, %q, %v", s, authority, again, p, err)
			}
			if u, err := url.Parse("http://" + authority + "/"); err != nil || u.Host != authority || u.Port() != port {
				t.Errorf("%q: net/url reads %q as %+v, %v", s, authority, u, err)
			}
		}
		p, err := ParseHostPattern(s)
		if err != nil {
			return
		}
		if again, err := ParseHostPattern(string(p)); err != nil || again != p {
			t.Errorf("%q: the pattern %q is not stable: %q, %v", s, p, again, err)
		}
		host := strings.TrimPrefix(strings.TrimPrefix(string(p), "*"), ".")
		if p == "*" {
			return
		}
		checkHost(t, s, host)
		// What a pattern says must be what a request's host can be.
		if got, _, err := ParseHost(host); err != nil || got != host {
			t.Errorf("%q: no request can have the host %q: %q, %v", s, host, got, err)
		}
		if _, ok := p.Match(host); ok != (p[0] != '*') {
			t.Errorf("%q on its apex: %t", p, ok)
		}
		if sub, ok := p.Match("x.y." + host); p.IsWildcard() && (!ok || sub != "x.y") || !p.IsWildcard() && ok {
			t.Errorf("%q below its apex: %q, %t", p, sub, ok)
		}
	})
}

func checkHost(t *testing.T, in, host string) {
	t.Helper()
	if strings.HasPrefix(host, "[") {
		return
	}
	if host == "" || len(host) > 253 {
		t.Errorf("%q: the host has %d bytes", in, len(host))
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" {
			t.Errorf("%q: %q has an empty label", in, host)
		}
	}
	for i := range len(host) {
		if c := host[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.') {
			t.Errorf("%q: %q holds the byte %#x", in, host, c)
		}
	}
}
