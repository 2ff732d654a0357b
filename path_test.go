package fingerpost

import (
	"net/url"
	"strings"
	"testing"
)

func TestPathIsNormalised(t *testing.T) {
	tests := []struct{ in, norm, raw string }{
		{"", "/", "/"},
		{"/", "/", "/"},
		{"/a/b", "/a/b", "/a/b"},
		{"/a/b/", "/a/b/", "/a/b/"},

		// RFC 3986 6.2.2: case of hex, unreserved escapes, dot segments.
		{"/%7e%7Esmith", "/~~smith", "/%7e%7Esmith"},
		{"/%c3%a9", "/%C3%A9", "/%c3%a9"},
		{"/%41%62%30%2D%2e%5F", "/Ab0-._", "/%41%62%30%2D%2e%5F"},
		{"/a/./b/../b/%63/%7bfoo%7d", "/a/b/c/%7Bfoo%7D", "/a/b/%63/%7bfoo%7d"},
		{"/a/b/c/./../../g", "/a/g", "/a/g"},
		{"/mid/content=5/../6", "/mid/6", "/mid/6"},

		// Dot segments at both ends, and more of them than segments.
		{"/.", "/", "/"},
		{"/..", "/", "/"},
		{"/../..", "/", "/"},
		{"/../a", "/a", "/a"},
		{"/a/.", "/a/", "/a/"},
		{"/a/..", "/", "/"},
		{"/a/b/..", "/a/", "/a/"},
		{"/a/b/../", "/a/", "/a/"},
		{"/%2e%2E/a", "/a", "/a"},
		{"/a/%2e/b/.%2E/c", "/a/c", "/a/c"},
		{"/...", "/...", "/..."},
		{"/.well-known/x", "/.well-known/x", "/.well-known/x"},
		{"/a.", "/a.", "/a."},
		{"/..a", "/..a", "/..a"},

		// Several slashes are one.
		{"//", "/", "/"},
		{"//a///b//", "/a/b/", "/a/b/"},
		{"/a//../b", "/b", "/b"},
		{"//evil.example/..", "/", "/"},

		// Reserved escapes are other characters than what they escape.
		{"/a%2fb", "/a%2Fb", "/a%2fb"},
		{"/a%2F..%2Fb", "/a%2F..%2Fb", "/a%2F..%2Fb"},
		{"/%3a%40%21", "/%3A%40%21", "/%3a%40%21"},
		{"/:@!$&'()*+,;=", "/:@!$&'()*+,;=", "/:@!$&'()*+,;="},
		{"/%2541", "/%2541", "/%2541"},
		{"/%00%0d%0a%7f", "/%00%0D%0A%7F", "/%00%0d%0a%7f"},
		{"/%5c", "/%5C", "/%5c"},

		// What a URI may not hold is encoded in both forms.
		{"/é", "/%C3%A9", "/%C3%A9"},
		{"/\xff", "/%FF", "/%FF"},
		{`/"<>^` + "`{|}[]", "/%22%3C%3E%5E%60%7B%7C%7D%5B%5D", "/%22%3C%3E%5E%60%7B%7C%7D%5B%5D"},
	}
	for _, tt := range tests {
		p, err := ParsePath(tt.in)
		if err != nil {
			t.Errorf("%q: %v", tt.in, err)
			continue
		}
		if p.Norm != tt.norm || p.Raw != tt.raw {
			t.Errorf("%q = %q, %q, want %q, %q", tt.in, p.Norm, p.Raw, tt.norm, tt.raw)
		}
		checkPath(t, tt.in, p)
	}
}

func TestPathIsRefused(t *testing.T) {
	tests := []struct{ in, message string }{
		{"a", `path "a" does not begin with /`},
		{"*", `path "*" does not begin with /`},
		{"%2fa", `path "%2fa" does not begin with /`},
		{"/%", `path "%" has a bad percent escape`},
		{"/a/%4", `path "%4" has a bad percent escape`},
		{"/%zz/b", `path "%zz" has a bad percent escape`},
		{"/%%41", `path "%%41" has a bad percent escape`},
		{"/%4/1", `path "%4" has a bad percent escape`},
		{"/a b", `path "a b" has a space or control byte`},
		{"/a\r\nb", `path "a\r\nb" has a space or control byte`},
		{"/a\x00", `path "a\x00" has a space or control byte`},
		{"/a\x7f", `path "a\x7f" has a space or control byte`},
		{"/a\tb", `path "a\tb" has a space or control byte`},
		{`/\evil.example`, `path "\\evil.example" has a raw \`},
		{"/a#b", `path "a#b" has a raw #`},
		{"/a?b", `path "a?b" has a raw ?`},
		// A segment that is removed has to be good all the same.
		{"/%zz/../a", `path "%zz" has a bad percent escape`},
	}
	for _, tt := range tests {
		_, err := ParsePath(tt.in)
		if err == nil || err.Error() != tt.message {
			t.Errorf("%q: %v, want %s", tt.in, err, tt.message)
		}
	}
}

func TestNormalPathDoesNotAllocate(t *testing.T) {
	for _, s := range []string{"", "/", "/a/b/", "/products/7-red.html", "/%C3%A9/%2F"} {
		if n := testing.AllocsPerRun(100, func() { _, _ = ParsePath(s) }); n != 0 {
			t.Errorf("%q: %v allocations", s, n)
		}
	}
}

// checkPath holds what is so of every path that ParsePath accepts.
func checkPath(t *testing.T, in string, p Path) {
	t.Helper()
	for _, s := range []string{p.Norm, p.Raw} {
		if !strings.HasPrefix(s, "/") || strings.Contains(s, "//") {
			t.Errorf("%q: %q is no rooted path of single slashes", in, s)
		}
		for i := range len(s) {
			if s[i] <= ' ' || s[i] >= 0x7f || strings.IndexByte("\"#<>?\\^`{|}[]", s[i]) >= 0 {
				t.Errorf("%q: %q holds the byte %#x", in, s, s[i])
			}
		}
		if u, err := url.ParseRequestURI(s); err != nil || u.Host != "" || u.EscapedPath() != s {
			t.Errorf("%q: net/url reads %q as %+v, %v", in, s, u, err)
		}
	}
	norm, raw := strings.Split(p.Norm, "/"), strings.Split(p.Raw, "/")
	if len(norm) != len(raw) {
		t.Fatalf("%q: %q and %q have different numbers of segments", in, p.Norm, p.Raw)
	}
	for i := range norm {
		a, errA := url.PathUnescape(norm[i])
		b, errB := url.PathUnescape(raw[i])
		if errA != nil || errB != nil || a != b {
			t.Errorf("%q: the segments %q and %q are not the same text", in, norm[i], raw[i])
		}
		if a == "." || a == ".." {
			t.Errorf("%q: %q keeps a dot segment", in, p.Norm)
		}
	}
	again, err := ParsePath(p.Norm)
	if err != nil || again.Norm != p.Norm || again.Raw != p.Norm {
		t.Errorf("%q: %q becomes %+v the second time, %v", in, p.Norm, again, err)
	}
	again, err = ParsePath(p.Raw)
	if err != nil || again != p {
		t.Errorf("%q: the raw form %q becomes %+v, %v", in, p.Raw, again, err)
	}
}

// netURLPath is the normal form by net/url: an independent reading of RFC 3986
// 5.2.4, for paths without empty segments.
func netURLPath(s string) (string, bool) {
	base := &url.URL{Scheme: "http", Host: "a.example"}
	ref, err := url.ParseRequestURI(s)
	other := func(c rune) bool { return c >= 0x80 || c != '%' && chars[c]&charPath == 0 }
	if err != nil || strings.Contains(s, "//") || strings.ContainsFunc(s, other) {
		return "", false // net/url encodes more, once it encodes
	}
	// Dots must be decoded before dot segments are removed.
	ref.RawPath = strings.NewReplacer("%2e", ".", "%2E", ".").Replace(ref.EscapedPath())
	return base.ResolveReference(ref).EscapedPath(), true
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"/", "/a/./b/../b/%63/%7bfoo%7d", "//evil/..//", "/%2e%2e/%2F", "/é\"", "/a\r\n", "/%", "/a/%2e", "/..//"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePath(s)
		if err != nil {
			if p != (Path{}) {
				t.Errorf("%q: a path beside an error", s)
			}
			return
		}
		checkPath(t, s, p)
		if other, ok := netURLPath(s); ok && s != "" {
			if want, err := ParsePath(other); err != nil || want.Norm != p.Norm {
				t.Errorf("%q is %q, by net/url %q", s, p.Norm, other)
			}
		}
	})
}

func TestQueryTextIsDecodedOnce(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a": "a", "a+b": "a b", "%41%2b": "A+", "%2541": "%41", "%zz%": "%zz%", "%4": "%4", "%C3%A9": "é", "a%00": "a\x00",
	} {
		if got := UnescapeQuery(in); got != want {
			t.Errorf("%q = %q, want %q", in, got, want)
		}
	}
}

func TestTextIsEncodedForItsPlace(t *testing.T) {
	tests := []struct {
		place    Place
		in, want string
	}{
		{InPath, "a/b;c:@&=+$,!'()*", "a/b;c:@&=+$,!'()*"},
		{InPath, "?#[]|{}^\"<> \\", "%3F%23%5B%5D%7C%7B%7D%5E%22%3C%3E%20%5C"},
		{InPath, "%2f%ZZ%", "%2f%25ZZ%25"},
		{InPath, "\r\n\x00é", "%0D%0A%00%C3%A9"},
		{InQuery, "a=b&c+d/?:@", "a%3Db%26c%2Bd/?:@"},
		{InQuery, "# \"<>\\\r\n\xff", "%23%20%22%3C%3E%5C%0D%0A%FF"},
		{InRawQuery, "a=b&c+d#", "a=b&c+d%23"},
		{InFragment, "a=b&c#d e", "a=b&c%23d%20e"},
		{InAuthority, "a.example", "a.example"},
	}
	for _, tt := range tests {
		if got := string(AppendText(nil, tt.in, tt.place)); got != tt.want {
			t.Errorf("place %d: %q = %q, want %q", tt.place, tt.in, got, tt.want)
		}
	}
	const all = "a-._~ %/?&=+é\r\n"
	if got := string(AppendComponent(nil, all)); got != "a-._~%20%25%2F%3F%26%3D%2B%C3%A9%0D%0A" {
		t.Errorf("component: %q", got)
	} else if back, err := url.QueryUnescape(got); err != nil || back != all {
		t.Errorf("component does not come back: %q %v", back, err)
	}
}
