package nameserver

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"fingerpost/zone"

	"github.com/miekg/dns"
)

const label = "abcdefghijklmnopqrstuvwxyz234567"

// values are so many that they fit neither into 512 bytes nor into 1232.
func manyValues(n int) []string {
	var values []string
	for i := range n {
		values = append(values, fmt.Sprintf("%043d", i))
	}
	return values
}

// testSet is the validation zone with one label that has two values, "many" with
// 40, and "some" with 10; and a zone with what the other has not.
func testSet(t testing.TB) *zone.Set {
	t.Helper()
	validation, err := zone.Validation{
		Apex:    "acme.example.net",
		Servers: []zone.Server{{Host: "ns1.acme.example.net", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")}}},
		Serial:  42,
		Values:  map[string][]string{label: {"one", "two"}, "some": manyValues(10), "many": manyValues(40)},
	}.Zone()
	if err != nil {
		t.Fatal(err)
	}
	apex := zone.MustParseName("example.com")
	ns := apex.Child("ns1")
	records := []zone.Record{
		zone.SOA{Server: ns, Mailbox: apex.Child("hostmaster"), Serial: 1, Refresh: 7200, Retry: 900, Expire: 1209600, Minimum: 300}.Record(apex, 900),
		zone.NS(apex, 3600, ns),
		zone.Address(ns, 3600, netip.MustParseAddr("192.0.2.53")),
		zone.CAA(apex, 60, 0, "issue", "ca.example.net"),
		zone.Address(apex.Child("www"), 60, netip.MustParseAddr("192.0.2.1")),
		zone.CNAME(apex.Child("alias"), 60, apex.Child("www")),
		zone.CNAME(apex.Child("out"), 60, zone.MustParseName("www.example.org")),
		zone.CNAME(apex.Child("gone"), 60, apex.Child("nowhere")),
		zone.Address(apex.Child("wild").Child("*"), 60, netip.MustParseAddr("192.0.2.2")),
	}
	for i := range 5 { // the names fit into 512 bytes, their addresses do not
		host := apex.Child("sub").Child(fmt.Sprintf("a-long-name-for-a-name-server-%02d", i))
		records = append(records, zone.NS(apex.Child("sub"), 60, host), zone.Address(host, 60, netip.MustParseAddr("2001:db8::1")))
	}
	records = append(records, zone.NS(apex.Child("small"), 60, apex.Child("small").Child("ns")),
		zone.Address(apex.Child("small").Child("ns"), 60, netip.MustParseAddr("192.0.2.3")))
	com, err := zone.New(apex, records)
	if err != nil {
		t.Fatal(err)
	}
	set, err := zone.NewSet(validation, com)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func newServer(t testing.TB) *Server {
	set := testSet(t)
	return &Server{Zones: func() *zone.Set { return set }}
}

// listen serves s over UDP and TCP on one port of the address, until the end of
// the test.
func listen(t testing.TB, s *Server, address string) netip.AddrPort {
	t.Helper()
	for range 20 {
		u, err := net.ListenPacket("udp", address+":0")
		if err != nil {
			t.Fatal(err)
		}
		at := u.LocalAddr().(*net.UDPAddr).AddrPort()
		l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", address, at.Port()))
		if err != nil {
			u.Close() // somebody has the port for TCP
			continue
		}
		udp, tcp := make(chan error, 1), make(chan error, 1)
		go func() { udp <- s.ServeUDP(u.(*net.UDPConn)) }()
		go func() { tcp <- s.ServeTCP(l) }()
		t.Cleanup(func() {
			if err := s.Shutdown(t.Context()); err != nil && t.Context().Err() == nil {
				t.Errorf("Shutdown: %v", err)
			}
			if err := <-udp; err != nil {
				t.Errorf("ServeUDP: %v", err)
			}
			if err := <-tcp; err != nil {
				t.Errorf("ServeTCP: %v", err)
			}
		})
		return at
	}
	t.Fatal("no port is free for both UDP and TCP")
	return netip.AddrPort{}
}

// dig asks as the program of that name does, and gives what it prints.
func dig(t *testing.T, at netip.AddrPort, args ...string) string {
	t.Helper()
	program, err := exec.LookPath("dig")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("dig is not installed: tools/install.sh test")
		}
		t.Skip("dig is not installed: tools/install.sh test")
	}
	args = append([]string{"@" + at.Addr().String(), "-p", fmt.Sprint(at.Port()), "+norec", "+tries=1", "+time=5", "+nocmd", "+nostats"}, args...)
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Errorf("dig %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

var client = netip.MustParseAddr("198.51.100.7")

// ask sends q through s without a socket and reads the answer back with another
// library; nil if there is none.
func ask(t testing.TB, s *Server, q *dns.Msg, tcp bool) *dns.Msg {
	t.Helper()
	wire, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return askWire(t, s, wire, tcp)
}

func askWire(t testing.TB, s *Server, wire []byte, tcp bool) *dns.Msg {
	t.Helper()
	out := s.Answer(nil, wire, client, tcp)
	if len(out) == 0 {
		return nil
	}
	m := new(dns.Msg)
	if err := m.Unpack(out); err != nil {
		t.Fatalf("the answer % x cannot be read: %v", out, err)
	}
	return m
}

func newQuery(name, qtype string) *dns.Msg {
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.StringToType[qtype])
	q.RecursionDesired = false
	return q
}

// summary is m in few words: rcode, flags, and the number of records.
func summary(m *dns.Msg) string {
	if m == nil {
		return "nothing"
	}
	s := dns.RcodeToString[m.Rcode]
	if m.Rcode == dns.RcodeBadVers {
		s = "BADVERS" // the table has the other meaning of 16
	}
	for _, f := range []struct {
		name string
		set  bool
	}{{"aa", m.Authoritative}, {"tc", m.Truncated}, {"rd", m.RecursionDesired}, {"ra", m.RecursionAvailable}, {"ad", m.AuthenticatedData}, {"cd", m.CheckingDisabled}} {
		if f.set {
			s += " " + f.name
		}
	}
	extra := len(m.Extra)
	if m.IsEdns0() != nil {
		extra--
		s += " edns"
	}
	return fmt.Sprintf("%s %d/%d/%d/%d", s, len(m.Question), len(m.Answer), len(m.Ns), extra)
}

// clock is a clock that stands until it is told.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }
