package zone

import (
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestParseName(t *testing.T) {
	label63 := strings.Repeat("a", 63)
	long := strings.Repeat(label63+".", 3) // 192 bytes
	tests := []struct{ in, want string }{
		{".", "."},
		{"example.com", "example.com."},
		{"Example.COM.", "example.com."},
		{"_acme-challenge.shop.example", "_acme-challenge.shop.example."},
		{`a\.b.example`, `a\.b.example.`},
		{`a\032b.example`, `a\032b.example.`},
		{`A\065\200.example`, `aa\200.example.`},
		{`\*.example`, `*.example.`},
		{label63 + ".example", label63 + ".example."},
		{long + strings.Repeat("b", 61), long + strings.Repeat("b", 61) + "."},

		{"", "bad_name"},
		{"..", "bad_name"},
		{".example", "bad_name"},
		{"a..b", "bad_name"},
		{`a\`, "bad_name"},
		{`a\25`, "bad_name"},
		{`a\256`, "bad_name"},
		{label63 + "a.example", "bad_name"},
		{long + strings.Repeat("b", 62), "bad_name"},
	}
	for _, tt := range tests {
		n, err := ParseName(tt.in)
		got := errorCodes(err)
		if err == nil {
			got = n.String()
			if again, err := ParseName(got); again != n || err != nil {
				t.Errorf("%q: %q is read back as %q, %v", tt.in, got, again, err)
			}
		}
		if got != tt.want && got != "["+tt.want+"]" {
			t.Errorf("ParseName(%q) = %s, want %s", tt.in, got, tt.want)
		}
	}
}

func TestNameRelations(t *testing.T) {
	com, www := MustParseName("example.com"), MustParseName("www.example.com")
	for _, tt := range []struct {
		name, apex Name
		want       bool
	}{
		{www, com, true}, {com, com, true}, {com, www, false}, {com, Root, true},
		{MustParseName("wwwexample.com"), com, false},
		{MustParseName("example.org"), com, false},
		{MustParseName(`x\007example.com`), com, false}, // the bytes of a suffix, but not its labels
	} {
		if got := tt.name.IsIn(tt.apex); got != tt.want {
			t.Errorf("%v in %v: %v", tt.name, tt.apex, got)
		}
	}
	if got := com.Child("WWW"); got != www {
		t.Errorf("child is %q", got)
	}
	if www.Parent() != com || www.Label() != "www" || Root.Parent() != "" {
		t.Error("parents and labels are wrong")
	}
	if com.Child("") != "" || com.Child(strings.Repeat("a", 64)) != "" {
		t.Error("a child with a bad label has a name")
	}
}

// FuzzParseName: what is read prints and reads as itself, and is on the wire what
// another library makes of it.
func FuzzParseName(f *testing.F) {
	for _, s := range []string{".", "example.com.", `a\.b\\.c`, `\000\255.x`, "a..b", "*.x", "ä.example", `"(;@$)`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseName(s)
		if err != nil {
			return
		}
		again, err := ParseName(n.String())
		if err != nil || again != n {
			t.Fatalf("%q: %q is read back as %q, %v", s, n.String(), again, err)
		}
		if nameEnd(string(n)) != len(n) {
			t.Fatalf("%q: %q is not well formed", s, n)
		}
		wire := make([]byte, 300)
		end, err := dns.PackDomainName(dns.CanonicalName(n.String()), wire, 0, nil, false)
		if err != nil || string(wire[:end]) != string(n) {
			t.Fatalf("%q: %q, the other library has %q, %v", s, n, wire[:end], err)
		}
	})
}
