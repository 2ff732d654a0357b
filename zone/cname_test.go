package zone

import (
	"strings"
	"testing"
)

func TestCNAME(t *testing.T) {
	s := exampleCom(t, `
		www.example.com. 60 IN A 192.0.2.1
		one.example.com. 60 IN CNAME www.example.com.
		two.example.com. 60 IN CNAME one.example.com.
		out.example.com. 60 IN CNAME www.example.net.
		gone.example.com. 60 IN CNAME no.example.com.
		sub.example.com. 60 IN NS ns.sub.example.com.
		ns.sub.example.com. 60 IN A 192.0.2.8
		away.example.com. 60 IN CNAME www.sub.example.com.
		*.wild.example.com. 60 IN CNAME www.example.com.
		towild.example.com. 60 IN CNAME x.wild.example.com.`)
	runLookups(t, s, []lookupTest{
		{"two.example.com", "A", `found aa
			two.example.com. 60 IN CNAME one.example.com.
			one.example.com. 60 IN CNAME www.example.com.
			www.example.com. 60 IN A 192.0.2.1`},
		{"two.example.com", "CNAME", "found aa\ntwo.example.com. 60 IN CNAME one.example.com."},
		{"out.example.com", "A", "found aa\nout.example.com. 60 IN CNAME www.example.net."},

		// The kind is that of the last name of the chain (RFC 2308 2.1).
		{"gone.example.com", "A", `nxdomain aa
			gone.example.com. 60 IN CNAME no.example.com.
			` + soaLine},
		{"one.example.com", "AAAA", `nodata aa
			one.example.com. 60 IN CNAME www.example.com.
			` + soaLine},

		// The word of the zone ends at the delegation, but the CNAME is still its own.
		{"away.example.com", "A", `delegation aa
			away.example.com. 60 IN CNAME www.sub.example.com.
			authority sub.example.com. 60 IN NS ns.sub.example.com.
			additional ns.sub.example.com. 60 IN A 192.0.2.8`},

		{"towild.example.com", "A", `found aa
			towild.example.com. 60 IN CNAME x.wild.example.com.
			x.wild.example.com. 60 IN CNAME www.example.com.
			www.example.com. 60 IN A 192.0.2.1`},
	})
}

// TestCNAMELoop: a chain that comes back to where it was ends, with each of its
// records once.
func TestCNAMELoop(t *testing.T) {
	s := exampleCom(t, `
		self.example.com. 60 IN CNAME self.example.com.
		a.example.com. 60 IN CNAME b.example.com.
		b.example.com. 60 IN CNAME a.example.com.
		into.example.com. 60 IN CNAME a.example.com.`)
	runLookups(t, s, []lookupTest{
		{"self.example.com", "A", "found aa\nself.example.com. 60 IN CNAME self.example.com."},
		{"a.example.com", "A", `found aa
			a.example.com. 60 IN CNAME b.example.com.
			b.example.com. 60 IN CNAME a.example.com.`},
		{"into.example.com", "A", `found aa
			into.example.com. 60 IN CNAME a.example.com.
			a.example.com. 60 IN CNAME b.example.com.
			b.example.com. 60 IN CNAME a.example.com.`},
	})
}

func TestCNAMEChainIsBounded(t *testing.T) {
	var file strings.Builder
	for c := 'a'; c < 'z'; c++ {
		file.WriteString(string(c) + ".example.com. 60 IN CNAME " + string(c+1) + ".example.com.\n")
	}
	s := exampleCom(t, file.String())
	if n := strings.Count(lookup(t, s, "a.example.com", "A"), "CNAME"); n != maxChain {
		t.Errorf("%d CNAMEs in one answer, want %d", n, maxChain)
	}
}
