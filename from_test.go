package fingerpost

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func quote(s string) string { return strconv.Quote(s) }

func lit(s string) Segment  { return Segment{Literal: s} }
func name(s string) Segment { return Segment{Name: s} }

func TestFromIsRead(t *testing.T) {
	tests := []struct {
		in       string
		want     From
		path     string
		captures string
	}{
		{"a.example", From{Host: "a.example", Tail: TailFolder}, "/*", "splat"},
		{"a.example/", From{Host: "a.example"}, "/", ""},
		{"a.example//", From{Host: "a.example"}, "/", ""},
		{"a.example/*", From{Host: "a.example", Tail: TailFolder}, "/*", "splat"},
		{"http://a.example/b", From{Scheme: "http", Host: "a.example", Segments: []Segment{lit("b")}}, "/b", ""},
		{"HTTPS://A.example./b/", From{Scheme: "https", Host: "a.example", Segments: []Segment{lit("b")}, Slash: true}, "/b/", ""},
		{"a.example/b//c", From{Host: "a.example", Segments: []Segment{lit("b"), lit("c")}}, "/b/c", ""},
		{"a.example/p/:id/x", From{Host: "a.example", Segments: []Segment{lit("p"), name("id"), lit("x")}}, "/p/:?/x", "id"},
		{"a.example/:a_1/:B", From{Host: "a.example", Segments: []Segment{name("a_1"), name("B")}}, "/:?/:?", "a_1 B"},
		{"a.example/:1/:/:-x/a:b", From{Host: "a.example", Segments: []Segment{lit(":1"), lit(":"), lit(":-x"), lit("a:b")}}, "/:1/:/:-x/a:b", ""},
		{"a.example/docs/*", From{Host: "a.example", Segments: []Segment{lit("docs")}, Tail: TailFolder}, "/docs/*", "splat"},
		{"a.example/p/:id/*", From{Host: "a.example", Segments: []Segment{lit("p"), name("id")}, Tail: TailFolder}, "/p/:?/*", "id splat"},
		{"a.example/doc*", From{Host: "a.example", Tail: TailPrefix, Prefix: "doc"}, "/doc*", "splat"},
		{"a.example/p/:id/%64oc*", From{Host: "a.example", Segments: []Segment{lit("p"), name("id")}, Tail: TailPrefix, Prefix: "doc"}, "/p/:?/doc*", "id splat"},
		{"a.example/.*", From{Host: "a.example", Tail: TailPrefix, Prefix: "."}, "/.*", "splat"},
		{"a.example/.well-known", From{Host: "a.example", Segments: []Segment{lit(".well-known")}}, "/.well-known", ""},
		{"a.example/%7e/%2f/é", From{Host: "a.example", Segments: []Segment{lit("~"), lit("%2F"), lit("%C3%A9")}}, "/~/%2F/%C3%A9", ""},
		{"a.example/%2A", From{Host: "a.example", Segments: []Segment{lit("%2A")}}, "/%2A", ""},
		{"*.a.example", From{Host: "*.a.example", Tail: TailFolder}, "/*", "splat sub"},
		{".a.example/b", From{Host: ".a.example", Segments: []Segment{lit("b")}}, "/b", "sub"},
		{"*/b", From{Host: "*", Segments: []Segment{lit("b")}}, "/b", "sub"},
		{"[2001:DB8::1]/b", From{Host: "[2001:db8::1]", Segments: []Segment{lit("b")}}, "/b", ""},
		{"bücher.example/b", From{Host: "xn--bcher-kva.example", Segments: []Segment{lit("b")}}, "/b", ""},
		{"a.example/x://y", From{Host: "a.example", Segments: []Segment{lit("x:"), lit("y")}}, "/x:/y", ""},

		{"a.example?debug", From{Host: "a.example", Tail: TailFolder, Query: []QueryCond{{Key: "debug"}}}, "/*", "splat"},
		{"a.example/?", From{Host: "a.example"}, "/", ""},
		{"a.example/p?id=:x&lang=en&debug&e=", From{Host: "a.example", Segments: []Segment{lit("p")}, Query: []QueryCond{
			{Key: "id", Name: "x"}, {Key: "lang", Value: "en", HasValue: true}, {Key: "debug"}, {Key: "e", HasValue: true}}}, "/p", "x"},
		{"a.example/?a+b=%41+&&c=d=e", From{Host: "a.example", Query: []QueryCond{
			{Key: "a b", Value: "A ", HasValue: true}, {Key: "c", Value: "d=e", HasValue: true}}}, "/", ""},
		{"a.example/?a=:x-y&b=:1&c=%3Ax", From{Host: "a.example", Query: []QueryCond{
			{Key: "a", Value: ":x-y", HasValue: true}, {Key: "b", Value: ":1", HasValue: true}, {Key: "c", Value: ":x", HasValue: true}}}, "/", ""},
		{"a.example/?q=a?b/c", From{Host: "a.example", Query: []QueryCond{{Key: "q", Value: "a?b/c", HasValue: true}}}, "/", ""},
	}
	for _, tt := range tests {
		got, err := ParseFrom(tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s\n got %+v\nwant %+v", tt.in, got, tt.want)
		}
		if p := got.Path(); p != tt.path {
			t.Errorf("%s: path %q, want %q", tt.in, p, tt.path)
		}
		if c := strings.Join(got.Captures(), " "); c != tt.captures {
			t.Errorf("%s: captures %q, want %q", tt.in, c, tt.captures)
		}
		literal := got.Tail == TailNone && !slices.ContainsFunc(got.Segments, func(s Segment) bool { return s.Name != "" })
		if got.IsLiteral() != literal {
			t.Errorf("%s: literal %t", tt.in, got.IsLiteral())
		}
	}
}

func TestFromIsRefused(t *testing.T) {
	const (
		space   = "write a space as %20"
		star    = "a * stands only at the end (/docs/* or /doc*); for anything else use regex"
		segment = ":name is a whole segment; for a part of one use regex"
		dots    = "write the path that it stands for"
		scheme  = "use http://, https://, or none for both"
		own     = "give each capture a name of its own"
		taken   = ":splat is what * takes and :sub what the host's wildcard takes; use another name"
	)
	tests := []struct{ in, what, hint string }{
		{"ftp://a.example", `has the scheme "ftp"`, scheme},
		{"://a.example", `has the scheme ""`, scheme},
		{"javascript://a.example", `has the scheme "javascript"`, scheme},
		{"a.example/a b", "has a space, control byte or backslash", space},
		{"a.example/a\r\nb", "has a space, control byte or backslash", space},
		{`a.example/a\b`, "has a space, control byte or backslash", space},
		{"a.example/\x7f", "has a space, control byte or backslash", space},
		{"a.example/?a= b", "has a space, control byte or backslash", space},
		{"a.example/a#b", "has a fragment", "browsers do not send what follows #; remove it"},
		{"a.example/*/b", "has a * inside the path", star},
		{"a.example/a*b", "has a * inside the path", star},
		{"a.example/a*/b", "has a * inside the path", star},
		{"a.example/a**", "has a * inside the path", star},
		{"a.example/docs/*/", "has a * inside the path", star},
		{"a.example/:id.html", "has text after :id in one segment", segment},
		{"a.example/:id*", "has text after :id in one segment", segment},
		{"a.example/:id-:b", "has text after :id in one segment", segment},
		{"a.example/%zz", "has a bad percent escape", "write a percent sign as %25"},
		{"a.example/%4*", "has a bad percent escape", "write a percent sign as %25"},
		{"a.example/./b", "has a . or .. segment", dots},
		{"a.example/a/..", "has a . or .. segment", dots},
		{"a.example/%2e%2E/b", "has a . or .. segment", dots},
		{"a.example/:a/:a", "uses the name :a twice", own},
		{"a.example/:a?b=:a", "uses the name :a twice", own},
		{"a.example/?a=:x&b=:x", "uses the name :x twice", own},
		{"a.example/:splat", "uses the name :splat twice", taken},
		{"a.example/?a=:sub", "uses the name :sub twice", taken},
		{"a.example/?a=1&a=2", `asks for the query key "a" twice`, "one condition for each key"},
		{"a.example/?a=1&%61", `asks for the query key "a" twice`, "one condition for each key"},
	}
	for _, tt := range tests {
		_, err := ParseFrom(tt.in)
		checkError(t, tt.in, err, &Error{Code: "bad_from", Field: "from", Message: "from " + quote(tt.in) + " " + tt.what, Hint: tt.hint})
	}
	hosts := []struct{ in, message, hint string }{
		{"", "the host is missing", "write the host first, for example example.com/path, or * for every host"},
		{"/path", "the host is missing", "write the host first, for example example.com/path, or * for every host"},
		{"http:///path", "the host is missing", "write the host first, for example example.com/path, or * for every host"},
		{"a.example:80/path", `host "a.example:80" has a port`, hintPort},
		{"user@a.example", `host "user@a.example" has the character "@"`, hintChars},
		{"http:/a.example", `host "http:" has a port`, hintPort},
	}
	for _, tt := range hosts {
		_, err := ParseFrom(tt.in)
		checkError(t, tt.in, err, &Error{Code: "bad_host", Field: "from", Message: tt.message, Hint: tt.hint})
	}
}

func TestNameIsCutAtTheFirstOtherCharacter(t *testing.T) {
	for in, want := range map[string][2]string{
		":a": {"a", ""}, ":aB_9-x": {"aB_9", "-x"}, ":a/b": {"a", "/b"}, ":": {"", ":"}, "": {"", ""}, "a": {"", "a"}, ":1": {"", ":1"}, ":_a": {"", ":_a"}, ":é": {"", ":é"}, ":aé": {"a", "é"},
	} {
		if name, rest := CutName(in); name != want[0] || rest != want[1] {
			t.Errorf("%q = %q, %q, want %q", in, name, rest, want)
		}
	}
}

// FuzzParseFrom: what is accepted is canonical, and every request that the
// pattern itself spells out is one that ParsePath and ParseHost accept.
func FuzzParseFrom(f *testing.F) {
	for _, s := range []string{"http://a.example/p/:id/*?x=:y&z=1", "*.a.example/doc*", "*", "[::1]/a", "é.example/%7e/é", "a.example/:/:x", "a.example/.*", "a..b/", "example.com。/", "a.example/%2e", "a.example/a%2ab"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		from, err := ParseFrom(s)
		if err != nil {
			if !reflect.DeepEqual(from, From{}) {
				t.Errorf("%q: a pattern beside an error", s)
			}
			if e := Errors(err)[0]; e.Field != "from" || e.Message == "" || strings.ContainsAny(e.Message, "\r\n") {
				t.Errorf("%q: %+v", s, e)
			}
			return
		}
		if p, err := ParseHostPattern(string(from.Host)); err != nil || p != from.Host {
			t.Errorf("%q: host %q: %v", s, from.Host, err)
		}
		// The path without its names is a path in normal form.
		plain := strings.TrimSuffix(strings.ReplaceAll(from.Path(), ":?", "x"), "*")
		if from.Tail == TailPrefix && (from.Prefix == "." || from.Prefix == "..") {
			plain += "x"
		}
		if p, err := ParsePath(plain); err != nil || p.Norm != plain {
			t.Errorf("%q: the path %q is not normal: %q, %v", s, plain, p.Norm, err)
		}
		seen := map[string]bool{}
		for _, name := range from.Captures() {
			if seen[name] || name == "" {
				t.Errorf("%q: the capture %q stands twice", s, name)
			}
			seen[name] = true
		}
		// Written down again, it is the same pattern.
		again, err := ParseFrom(printFrom(&from))
		if err != nil || !reflect.DeepEqual(again, from) {
			t.Errorf("%q: printed as %q it is\n     %+v, %v\nfrom %+v", s, printFrom(&from), again, err, from)
		}
	})
}

// printFrom writes a pattern as ParseFrom reads it.
func printFrom(f *From) string {
	var b strings.Builder
	if f.Scheme != "" {
		b.WriteString(f.Scheme + "://")
	}
	b.WriteString(string(f.Host))
	for _, seg := range f.Segments {
		b.WriteByte('/')
		if seg.Name != "" {
			b.WriteString(":" + seg.Name)
		} else {
			b.WriteString(seg.Literal)
		}
	}
	switch {
	case f.Tail == TailFolder:
		b.WriteString("/*")
	case f.Tail == TailPrefix:
		b.WriteString("/" + f.Prefix + "*")
	case f.Slash || len(f.Segments) == 0:
		b.WriteByte('/')
	}
	for i, c := range f.Query {
		b.WriteByte("?&"[min(i, 1)])
		b.Write(AppendComponent(nil, c.Key))
		switch {
		case c.Name != "":
			b.WriteString("=:" + c.Name)
		case c.HasValue:
			b.WriteByte('=')
			b.Write(AppendComponent(nil, c.Value))
		}
	}
	return b.String()
}
