package zone

import "testing"

// TestWildcard holds the examples of RFC 4592 2.2.1, in another zone.
func TestWildcard(t *testing.T) {
	s := exampleCom(t, `
		*.example.com. 3600 IN TXT "this is a wildcard"
		*.example.com. 3600 IN MX 10 host1.example.com.
		sub.*.example.com. 3600 IN TXT "this is not a wildcard"
		host1.example.com. 3600 IN A 192.0.2.1
		_ssh._tcp.host1.example.com. 3600 IN SRV 0 0 22 host1.example.com.
		_ssh._tcp.host2.example.com. 3600 IN SRV 0 0 22 host2.example.com.
		subdel.example.com. 3600 IN NS ns.example.net.`)
	runLookups(t, s, []lookupTest{
		{"host3.example.com", "MX", `found aa
			host3.example.com. 3600 IN MX 10 host1.example.com.
			additional host1.example.com. 3600 IN A 192.0.2.1`},
		{"host3.example.com", "A", nodata},
		{"foo.bar.example.com", "TXT", "found aa\n" + `foo.bar.example.com. 3600 IN TXT "this is a wildcard"`},
		{"host1.example.com", "MX", nodata},
		{"sub.*.example.com", "MX", nodata},
		{"_telnet._tcp.host1.example.com", "SRV", nxdomain},
		{"host.subdel.example.com", "A", "delegation\nauthority subdel.example.com. 3600 IN NS ns.example.net."},
		{"ghost.*.example.com", "MX", nxdomain},
		{"*.example.com", "TXT", "found aa\n" + `*.example.com. 3600 IN TXT "this is a wildcard"`},
		{"host2.example.com", "TXT", nodata}, // it is there, since names below it are
	})
	var a Answer
	s.Lookup(MustParseName("x.y.example.com"), TypeTXT, &a)
	if a.Source != MustParseName("*.example.com") {
		t.Errorf("the source of a wildcard's answer is %v", a.Source)
	}
}
