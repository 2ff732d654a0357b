package zone

import "testing"

func TestDelegation(t *testing.T) {
	s := exampleCom(t, `
		sub.example.com. 60 IN NS ns.sub.example.com.
		sub.example.com. 60 IN NS ns.other.example.com.
		ns.sub.example.com. 60 IN A 192.0.2.8
		deep.sub.example.com. 60 IN NS ns.example.net.
		other.example.com. 60 IN NS ns.other.example.com.
		ns.other.example.com. 60 IN AAAA 2001:db8::8
		*.sub.example.com. 60 IN A 192.0.2.99`)
	referral := `delegation
		authority sub.example.com. 60 IN NS ns.sub.example.com.
		authority sub.example.com. 60 IN NS ns.other.example.com.
		additional ns.sub.example.com. 60 IN A 192.0.2.8
		additional ns.other.example.com. 60 IN AAAA 2001:db8::8`
	runLookups(t, s, []lookupTest{
		{"sub.example.com", "NS", referral},
		{"sub.example.com", "A", referral},
		{"sub.example.com", "ANY", referral},
		{"www.sub.example.com", "A", referral}, // the wildcard below the cut is not ours to use
		{"ns.sub.example.com", "A", referral},  // glue is no answer
		{"www.deep.sub.example.com", "A", referral},
		{"www.sub.example.com", "DS", referral},
		{"sub.example.com", "DS", nodata}, // it belongs to this side of the cut
	})
	for name, want := range map[string]string{"x.y.sub.example.com": "sub.example.com", "deep.sub.example.com": "sub.example.com", "ns1.example.com": "ns1.example.com", "no.example.com": "example.com"} {
		var a Answer
		s.Lookup(MustParseName(name), TypeA, &a)
		if a.Source != MustParseName(want) {
			t.Errorf("the source of the answer about %s is %v", name, a.Source)
		}
	}
}
