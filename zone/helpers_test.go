package zone

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"fingerpost"

	"github.com/miekg/dns"
)

// record reads one line of a zone file, by another's parser.
func record(t testing.TB, line string) Record {
	t.Helper()
	rr, err := dns.NewRR(line)
	if err != nil || rr == nil {
		t.Fatalf("%q: %v", line, err)
	}
	wire := make([]byte, 70000)
	end, err := dns.PackRR(rr, wire, 0, nil, false)
	if err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	h := rr.Header()
	name, err := ParseName(h.Name)
	if err != nil {
		t.Fatal(err)
	}
	return Record{name, Type(h.Rrtype), h.Ttl, string(wire[len(name)+10 : end])}
}

func records(t testing.TB, file string) []Record {
	t.Helper()
	var all []Record
	for line := range strings.Lines(file) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, record(t, line))
		}
	}
	return all
}

// head is what every zone example.com of the tests begins with.
const head = `
	example.com. 900 IN SOA ns1.example.com. hostmaster.example.com. 7 7200 900 1209600 300
	example.com. 3600 IN NS ns1.example.com.
	example.com. 3600 IN NS ns.example.net.
	ns1.example.com. 3600 IN A 192.0.2.53
	ns1.example.com. 3600 IN AAAA 2001:db8::53
`

func exampleCom(t testing.TB, file string) *Set {
	t.Helper()
	z, err := New(MustParseName("example.com"), records(t, head+file))
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSet(z)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// lookup gives the kind and the sections as lines, "AA" first if authoritative.
func lookup(t testing.TB, s *Set, name, qtype string) string {
	t.Helper()
	asked := MustParseName(name)
	a := &Answer{Answer: make([]Owned, 3), Kind: Delegation} // what an earlier lookup may have left
	s.Lookup(asked, Type(dns.StringToType[qtype]), a)
	lines := []string{a.Kind.String()}
	if a.Authoritative() {
		lines[0] += " aa"
	}
	for _, section := range []struct {
		name string
		sets []Owned
	}{{"", a.Answer}, {"authority ", a.Authority}, {"additional ", a.Additional}} {
		for _, o := range section.sets {
			owner := o.Owner
			if owner == "" {
				owner = asked
			}
			for _, data := range o.Data {
				lines = append(lines, section.name+text(t, Record{owner, o.Type, o.TTL, data}))
			}
		}
	}
	return strings.Join(lines, "\n")
}

// text writes r as a line of a zone file, by another's printer.
func text(t testing.TB, r Record) string {
	t.Helper()
	h := dns.RR_Header{Name: r.Name.String(), Rrtype: uint16(r.Type), Class: dns.ClassINET, Ttl: r.TTL, Rdlength: uint16(len(r.Data))}
	rr, _, err := dns.UnpackRRWithHeader(h, []byte(r.Data), 0)
	if err != nil {
		t.Fatalf("%v: %v", r, err)
	}
	return strings.Join(strings.Fields(rr.String()), " ")
}

type lookupTest struct {
	name  string
	qtype string
	want  string // lines
}

const (
	soaLine  = "authority example.com. 300 IN SOA ns1.example.com. hostmaster.example.com. 7 7200 900 1209600 300"
	nxdomain = "nxdomain aa\n" + soaLine
	nodata   = "nodata aa\n" + soaLine
)

func runLookups(t *testing.T, s *Set, tests []lookupTest) {
	t.Helper()
	for _, tt := range tests {
		var want []string
		for line := range strings.Lines(tt.want) {
			want = append(want, strings.TrimSpace(line))
		}
		if got := lookup(t, s, tt.name, tt.qtype); got != strings.Join(want, "\n") {
			t.Errorf("%s %s:\n%s\nwant\n%s", tt.name, tt.qtype, got, strings.Join(want, "\n"))
		}
	}
}

func errorCodes(err error) string {
	var codes []string
	for _, e := range fingerpost.Errors(err) {
		codes = append(codes, e.Code)
	}
	return fmt.Sprint(slices.Compact(slices.Sorted(slices.Values(codes))))
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
