package zone

import (
	"strings"
	"testing"

	"fingerpost"
)

func TestNewRefuses(t *testing.T) {
	com := MustParseName("example.com")
	good := records(t, head)
	tests := []struct {
		name    string
		records []Record
		want    string
	}{
		{"good", good, "[]"},
		{"nothing", nil, "[bad_soa no_ns]"},
		{"no SOA", good[1:], "[bad_soa]"},
		{"two SOAs", append(records(t, "example.com. 900 IN SOA a. b. 8 7200 900 1209600 300"), good...), "[bad_soa]"},
		{"outside", append(records(t, "example.net. 1 IN A 192.0.2.1"), good...), "[outside_zone]"},
		{"no name", append([]Record{{"", TypeA, 1, "\x01\x02\x03\x04"}}, good...), "[outside_zone]"},
		{"SOA below", append(records(t, "x.example.com. 900 IN SOA a. b. 8 7200 900 1209600 300"), good...), "[bad_soa]"},
		{"CNAME at the apex", append(records(t, "example.com. 1 IN CNAME a."), good...), "[cname_at_apex]"},
		{"CNAME and A", append(records(t, "x.example.com. 1 IN CNAME a.\nx.example.com. 1 IN A 192.0.2.1"), good...), "[cname_and_others]"},
		{"two CNAMEs", append(records(t, "x.example.com. 1 IN CNAME a.\nx.example.com. 1 IN CNAME b."), good...), "[cname_twice]"},
		{"one CNAME twice", append(records(t, "x.example.com. 1 IN CNAME a.\nx.example.com. 1 IN CNAME a."), good...), "[]"},
		{"wildcard NS", append(records(t, "*.example.com. 1 IN NS a."), good...), "[bad_wildcard]"},
		{"TTLs", append(records(t, "x.example.com. 1 IN A 192.0.2.1\nx.example.com. 2 IN A 192.0.2.2"), good...), "[ttl_differs]"},
		{"TTL too long", append([]Record{{com.Child("x"), TypeA, 1 << 31, "\x01\x02\x03\x04"}}, good...), "[bad_ttl]"},
		{"DNAME", append(records(t, "x.example.com. 1 IN DNAME a."), good...), "[bad_type]"},
		{"ANY", append([]Record{{com, TypeANY, 1, ""}}, good...), "[bad_type]"},
		{"too large", append([]Record{TXT(com, 1, strings.Repeat("a", 50000)), TXT(com, 1, strings.Repeat("b", 50000))}, good...), "[too_large]"},
		{"short A", append([]Record{{com, TypeA, 1, "\x01"}}, good...), "[bad_data]"},
		{"A as AAAA", append([]Record{{com, TypeAAAA, 1, "\x01\x02\x03\x04"}}, good...), "[bad_data]"},
		{"NS of no name", append([]Record{{com, TypeNS, 3600, "\x05abc"}}, good...), "[bad_data]"},
		{"NS with more", append([]Record{{com, TypeNS, 3600, "\x01a\x00x"}}, good...), "[bad_data]"},
		{"NS in capitals", append([]Record{{com, TypeNS, 3600, "\x01A\x00"}}, good...), "[bad_data]"},
		{"NS with a pointer", append([]Record{{com, TypeNS, 3600, "\x01a\xc0\x0c"}}, good...), "[bad_data]"},
		{"MX without a name", append([]Record{{com, TypeMX, 1, "\x00\x0a"}}, good...), "[bad_data]"},
		{"TXT cut off", append([]Record{{com, TypeTXT, 1, "\x05abc"}}, good...), "[bad_data]"},
		{"TXT of nothing", append([]Record{{com, TypeTXT, 1, ""}}, good...), "[bad_data]"},
		{"CAA without a tag", append([]Record{{com, TypeCAA, 1, "\x00\x00x"}}, good...), "[bad_data]"},
		{"several", append(records(t, "example.net. 1 IN A 192.0.2.1\n*.example.com. 1 IN NS a."), good...), "[bad_wildcard outside_zone]"},
	}
	for _, tt := range tests {
		z, err := New(com, tt.records)
		if got := errorCodes(err); got != tt.want {
			t.Errorf("%s: %s (%v), want %s", tt.name, got, err, tt.want)
		}
		if (z == nil) != (err != nil) {
			t.Errorf("%s: a zone and an error, or neither", tt.name)
		}
		for _, e := range fingerpost.Errors(err) {
			if strings.Contains(e.Message, "\n") || !strings.Contains(e.Message, "zone example.com.: ") {
				t.Errorf("%s: message %q", tt.name, e.Message)
			}
		}
	}
}

func TestSerial(t *testing.T) {
	s := exampleCom(t, "")
	if z := s.Zone(MustParseName("a.example.com")); z.Serial() != 7 || z.Apex() != MustParseName("example.com") {
		t.Errorf("serial %d of %v", z.Serial(), z.Apex())
	}
	if z := s.Zone(MustParseName("example.net")); z != nil {
		t.Errorf("a zone of somebody else: %v", z.Apex())
	}
}

// TestConstructorsAgree: the records that the program makes are those that
// another library reads from their text.
func TestConstructorsAgree(t *testing.T) {
	x, y := MustParseName("x.example"), MustParseName("y.example")
	for _, tt := range []struct {
		got  Record
		line string
	}{
		{Address(x, 5, addr("192.0.2.1")), "x.example. 5 IN A 192.0.2.1"},
		{Address(x, 5, addr("::ffff:192.0.2.1")), "x.example. 5 IN A 192.0.2.1"},
		{Address(x, 5, addr("2001:db8::1")), "x.example. 5 IN AAAA 2001:db8::1"},
		{NS(x, 5, y), "x.example. 5 IN NS y.example."},
		{CNAME(x, 5, y), "x.example. 5 IN CNAME y.example."},
		{TXT(x, 5, `a "b"`), `x.example. 5 IN TXT "a \"b\""`},
		{CAA(x, 5, 128, "issuewild", ";"), `x.example. 5 IN CAA 128 issuewild ";"`},
		{SOA{y, x, 1, 2, 3, 4, 5}.Record(x, 6), "x.example. 6 IN SOA y.example. x.example. 1 2 3 4 5"},
	} {
		if want := record(t, tt.line); tt.got != want {
			t.Errorf("%s: %+v, want %+v", tt.line, tt.got, want)
		}
	}
}

// FuzzZone: whatever records there are, New refuses them or lookups end.
func FuzzZone(f *testing.F) {
	f.Add([]byte("\x05\x01\x02\x01b\x01x\x00"))
	f.Add([]byte("\x02\x03\x04\x01a\x01x\x00\x0f\x01\x06\x00\x0a\x01a\x01x\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		apex := MustParseName("x")
		names := []Name{apex, apex.Child("a"), apex.Child("*"), apex.Child("a").Child("b"), apex.Child("a").Child("*"), Root, ""}
		all := []Record{SOA{Server: apex, Mailbox: apex}.Record(apex, 1), NS(apex, 1, apex)}
		for len(in) > 3 {
			size := min(int(in[2]), len(in)-3)
			all = append(all, Record{names[int(in[1])%len(names)], Type(in[0]), 1, string(in[3 : 3+size])})
			in = in[3+size:]
		}
		z, err := New(apex, all)
		if err != nil {
			return
		}
		s, _ := NewSet(z)
		var a Answer
		for _, n := range append(names[:5], apex.Child("c"), apex.Child("c").Child("d")) {
			for qtype := range Type(50) {
				s.Lookup(n, qtype, &a)
				if a.Kind == Refused || (a.Kind == Found) != (len(a.Answer) > 0) && a.Kind == Found {
					t.Fatalf("%v %v: %+v", n, qtype, a)
				}
			}
		}
	})
}
