package zone

import (
	"strings"
	"testing"
)

func TestExactMatch(t *testing.T) {
	s := exampleCom(t, `
		www.example.com. 60 IN A 192.0.2.1
		www.example.com. 60 IN A 192.0.2.2
		www.example.com. 60 IN AAAA 2001:db8::1
		example.com. 60 IN CAA 0 issue "ca.example.net"
		example.com. 60 IN MX 10 ns1.example.com.
		_sip._tcp.example.com. 60 IN SRV 0 5 5060 www.example.com.
		odd.example.com. 60 IN TYPE65280 \# 3 010203
	`)
	runLookups(t, s, []lookupTest{
		{"www.example.com", "A", `found aa
			www.example.com. 60 IN A 192.0.2.1
			www.example.com. 60 IN A 192.0.2.2`},
		{"www.example.com", "AAAA", "found aa\nwww.example.com. 60 IN AAAA 2001:db8::1"},
		{"example.com", "CAA", "found aa\n" + `example.com. 60 IN CAA 0 issue "ca.example.net"`},
		{"example.com", "SOA", "found aa\nexample.com. 900 IN SOA ns1.example.com. hostmaster.example.com. 7 7200 900 1209600 300"},
		{"example.com", "NS", `found aa
			example.com. 3600 IN NS ns1.example.com.
			example.com. 3600 IN NS ns.example.net.
			additional ns1.example.com. 3600 IN A 192.0.2.53
			additional ns1.example.com. 3600 IN AAAA 2001:db8::53`},
		{"example.com", "MX", `found aa
			example.com. 60 IN MX 10 ns1.example.com.
			additional ns1.example.com. 3600 IN A 192.0.2.53
			additional ns1.example.com. 3600 IN AAAA 2001:db8::53`},
		{"_sip._tcp.example.com", "SRV", `found aa
			_sip._tcp.example.com. 60 IN SRV 0 5 5060 www.example.com.
			additional www.example.com. 60 IN A 192.0.2.1
			additional www.example.com. 60 IN A 192.0.2.2
			additional www.example.com. 60 IN AAAA 2001:db8::1`},
	})
	var a Answer
	s.Lookup(MustParseName("odd.example.com"), 65280, &a)
	if a.Kind != Found || a.Answer[0].Data[0] != "\x01\x02\x03" {
		t.Errorf("a type that nobody knows: %+v", a)
	}
}

func TestRefusedOutside(t *testing.T) {
	s := exampleCom(t, "")
	for _, name := range []string{"example.net", "com", ".", "notexample.com", "example.com.net"} {
		if got := lookup(t, s, name, "A"); got != "refused" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestClosestZone: of two zones one inside the other, the lower one answers, but
// for the DS of its apex.
func TestClosestZone(t *testing.T) {
	parent := records(t, head+"sub.example.com. 60 IN NS ns1.example.com.\nsub.example.com. 60 IN DS 1 13 2 "+strings.Repeat("ab", 32))
	child := records(t, `
		sub.example.com. 900 IN SOA ns1.example.com. hostmaster.example.com. 1 7200 900 1209600 300
		sub.example.com. 900 IN NS ns1.example.com.
		www.sub.example.com. 60 IN A 192.0.2.9`)
	p, err := New(MustParseName("example.com"), parent)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(MustParseName("sub.example.com"), child)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSet(p, c)
	if err != nil {
		t.Fatal(err)
	}
	runLookups(t, s, []lookupTest{
		{"www.sub.example.com", "A", "found aa\nwww.sub.example.com. 60 IN A 192.0.2.9"},
		{"sub.example.com", "NS", "found aa\nsub.example.com. 900 IN NS ns1.example.com."},
		{"sub.example.com", "DS", "found aa\nsub.example.com. 60 IN DS 1 13 2 " + strings.ToUpper(strings.Repeat("ab", 32))},
	})
	if _, err := NewSet(p, p); errorCodes(err) != "[duplicate]" {
		t.Errorf("a zone that is there twice: %v", err)
	}
}

// TestRootZone: the apex may be the root itself.
func TestRootZone(t *testing.T) {
	z, err := New(Root, records(t, ". 900 IN SOA a. b. 1 1 1 1 5\n. 900 IN NS a.\na. 60 IN A 192.0.2.1"))
	if err != nil {
		t.Fatal(err)
	}
	s, _ := NewSet(z)
	runLookups(t, s, []lookupTest{
		{"a", "A", "found aa\na. 60 IN A 192.0.2.1"},
		{"b.c", "A", "nxdomain aa\nauthority . 5 IN SOA a. b. 1 1 1 1 5"},
		{".", "DS", "nodata aa\nauthority . 5 IN SOA a. b. 1 1 1 1 5"},
	})
}

func TestMinimalANY(t *testing.T) {
	s := exampleCom(t, `
		www.example.com. 60 IN A 192.0.2.1
		alias.example.com. 60 IN CNAME www.example.com.
		a.b.example.com. 60 IN A 192.0.2.1`)
	runLookups(t, s, []lookupTest{
		{"www.example.com", "ANY", "found aa\n" + `www.example.com. 3600 IN HINFO "RFC8482" ""`},
		{"alias.example.com", "ANY", "found aa\nalias.example.com. 60 IN CNAME www.example.com."},
		{"b.example.com", "ANY", nodata},
		{"no.example.com", "ANY", nxdomain},
		{"example.net", "ANY", "refused"},
	})
}

func BenchmarkLookup(b *testing.B) {
	s := exampleCom(b, `
		www.example.com. 60 IN A 192.0.2.1
		*.wild.example.com. 60 IN A 192.0.2.1
		alias.example.com. 60 IN CNAME www.example.com.`)
	for _, name := range []string{"www.example.com", "alias.example.com", "a.wild.example.com", "no.such.example.com", "example.net"} {
		b.Run(name, func(b *testing.B) {
			n := MustParseName(name)
			var a Answer
			b.ReportAllocs()
			for b.Loop() {
				s.Lookup(n, TypeA, &a)
			}
		})
	}
}
