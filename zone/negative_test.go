package zone

import "testing"

func TestNegativeAnswers(t *testing.T) {
	s := exampleCom(t, `
		www.example.com. 60 IN A 192.0.2.1
		a.b.c.example.com. 60 IN TXT deep`)
	runLookups(t, s, []lookupTest{
		{"no.example.com", "A", nxdomain},
		{"no.no.example.com", "A", nxdomain},
		{"below.www.example.com", "A", nxdomain},
		{"www.example.com", "TXT", nodata},
		{"www.example.com", "DS", nodata},

		// Names that only have names below them are there (RFC 8020).
		{"b.c.example.com", "TXT", nodata},
		{"c.example.com", "TXT", nodata},
		{"x.c.example.com", "TXT", nxdomain},
		{"x.b.c.example.com", "TXT", nxdomain},
	})
}

// TestNegativeTTL: what is not there may be remembered for the smaller of the
// SOA's TTL and its minimum (RFC 2308 3).
func TestNegativeTTL(t *testing.T) {
	for _, tt := range []struct{ soa, want string }{
		{"x. 900 IN SOA a. b. 1 1 1 1 300", "nxdomain aa\nauthority x. 300 IN SOA a. b. 1 1 1 1 300"},
		{"x. 60 IN SOA a. b. 1 1 1 1 300", "nxdomain aa\nauthority x. 60 IN SOA a. b. 1 1 1 1 300"},
	} {
		z, err := New(MustParseName("x"), records(t, tt.soa+"\nx. 60 IN NS a."))
		if err != nil {
			t.Fatal(err)
		}
		s, _ := NewSet(z)
		runLookups(t, s, []lookupTest{{"no.x", "A", tt.want}})
	}
}
