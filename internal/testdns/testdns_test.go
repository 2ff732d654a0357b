package testdns

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fingerpost/nameserver"
	"fingerpost/zone"

	"github.com/miekg/dns"
)

// ask gives the rcode, and the answer's records without their TTL and class.
func ask(t testing.TB, s *Server, network, name, qtype string) string {
	t.Helper()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.StringToType[qtype])
	c := dns.Client{Net: network, Timeout: 10 * time.Second}
	m, _, err := c.Exchange(q, s.Addr())
	if err != nil {
		t.Fatalf("%s %s over %s: %v", name, qtype, network, err)
	}
	if m.Truncated {
		return "truncated"
	}
	lines := []string{dns.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		words := strings.Fields(rr.String())
		lines = append(lines, strings.Join(slices.Delete(words, 1, 3), " "))
	}
	return strings.Join(lines, "\n")
}

func expect(t testing.TB, s *Server, name, qtype string, want ...string) {
	t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		if got := ask(t, s, network, name, qtype); got != strings.Join(want, "\n") {
			t.Errorf("%s %s over %s:\n%s\nwant\n%s", name, qtype, network, got, strings.Join(want, "\n"))
		}
	}
}

func TestRecords(t *testing.T) {
	s := New(t)
	s.Set("shop.example", "A", "192.0.2.1", "192.0.2.2")
	s.Set("shop.example", "CAA", `0 issue "ca.example"`)
	s.Set("shop.example", "NS", "ns1.shop.example")
	s.Set("shop.example", "TXT", `a "quoted" \ value`, "other")
	s.Set("www.Shop.example.", "CNAME", "shop.example")
	s.Set("a.b.shop.example", "AAAA", "2001:db8::1")
	s.Set("*.wild.example", "A", "192.0.2.3")
	s.Set("loop.example", "CNAME", "loop.example")

	expect(t, s, "shop.example", "A", "NOERROR", "shop.example. A 192.0.2.1", "shop.example. A 192.0.2.2")
	expect(t, s, "WWW.shop.example", "A", "NOERROR", "WWW.shop.example. CNAME shop.example.", "shop.example. A 192.0.2.1", "shop.example. A 192.0.2.2")
	expect(t, s, "www.shop.example", "CNAME", "NOERROR", "www.shop.example. CNAME shop.example.")
	expect(t, s, "shop.example", "CAA", "NOERROR", `shop.example. CAA 0 issue "ca.example"`)
	expect(t, s, "shop.example", "NS", "NOERROR", "shop.example. NS ns1.shop.example.")
	expect(t, s, "shop.example", "TXT", "NOERROR", `shop.example. TXT "a \"quoted\" \\ value"`, `shop.example. TXT "other"`)
	expect(t, s, "shop.example", "AAAA", "NOERROR")
	expect(t, s, "b.shop.example", "A", "NOERROR")
	expect(t, s, "c.shop.example", "A", "NXDOMAIN")
	expect(t, s, "other.example", "A", "NXDOMAIN")
	expect(t, s, "x.y.wild.example", "A", "NOERROR", "x.y.wild.example. A 192.0.2.3")
	expect(t, s, "loop.example", "A", "SERVFAIL")

	s.Set("shop.example", "A")
	expect(t, s, "shop.example", "A", "NOERROR")
	s.Remove("www.shop.example")
	expect(t, s, "www.shop.example", "A", "NXDOMAIN")
}

// TestForward: the name server of the program is asked where a CNAME leads to
// its zone, and CNAME and TXT come in one message.
func TestForward(t *testing.T) {
	var many []string
	for i := range 40 {
		many = append(many, fmt.Sprintf("%043d", i))
	}
	validation, err := zone.Validation{
		Apex: "acme.example.net", Servers: []zone.Server{{Host: "ns.example.net"}},
		Values: map[string][]string{"one": {"first", "second"}, "many": many},
	}.Zone()
	if err != nil {
		t.Fatal(err)
	}
	set, err := zone.NewSet(validation)
	if err != nil {
		t.Fatal(err)
	}
	server := &nameserver.Server{Zones: func() *zone.Set { return set }}
	var l net.Listener
	var u *net.UDPConn
	for u == nil {
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		at := l.Addr().(*net.TCPAddr)
		if u, err = net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port}); err != nil {
			l.Close() // somebody has the port for UDP
		}
	}
	go server.ServeTCP(l)
	go server.ServeUDP(u)

	s := New(t)
	s.Forward("acme.example.net", l.Addr().String())
	s.Set("_acme-challenge.shop.example", "CNAME", "one.acme.example.net")
	s.Set("_acme-challenge.big.example", "CNAME", "many.acme.example.net")
	s.Set("_acme-challenge.lost.example", "CNAME", "none.acme.example.net")

	expect(t, s, "_acme-challenge.shop.example", "TXT", "NOERROR",
		"_acme-challenge.shop.example. CNAME one.acme.example.net.",
		`one.acme.example.net. TXT "first"`, `one.acme.example.net. TXT "second"`)
	expect(t, s, "_acme-challenge.shop.example", "CNAME", "NOERROR", "_acme-challenge.shop.example. CNAME one.acme.example.net.")
	expect(t, s, "one.ACME.example.net", "TXT", "NOERROR", `one.ACME.example.net. TXT "first"`, `one.ACME.example.net. TXT "second"`)
	expect(t, s, "_acme-challenge.lost.example", "TXT", "NXDOMAIN", "_acme-challenge.lost.example. CNAME none.acme.example.net.")
	if got := ask(t, s, "udp", "_acme-challenge.big.example", "TXT"); got != "truncated" {
		t.Errorf("40 values over UDP: %s", got)
	}
	if got := strings.Count(ask(t, s, "tcp", "_acme-challenge.big.example", "TXT"), "TXT"); got != 40 {
		t.Errorf("40 values over TCP: %d", got)
	}
	if err := server.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if got := ask(t, s, "tcp", "_acme-challenge.shop.example", "TXT"); got != "SERVFAIL" {
		t.Errorf("with the server gone: %s", got)
	}
}

func TestFaults(t *testing.T) {
	s := New(t)
	s.Set("shop.example", "A", "192.0.2.1")
	s.Set("www.shop.example", "CNAME", "shop.example")
	for fault, want := range map[Fault]string{ServFail: "SERVFAIL", NXDomain: "NXDOMAIN", Refused: "REFUSED"} {
		s.Fail("Shop.example", fault)
		expect(t, s, "shop.example", "A", want)
		if got := ask(t, s, "tcp", "www.shop.example", "A"); !strings.HasPrefix(got, want) {
			t.Errorf("by a CNAME: %s, want %s", got, want)
		}
	}
	s.Fail("shop.example", Timeout)
	for _, network := range []string{"udp", "tcp"} {
		c := dns.Client{Net: network, Timeout: 50 * time.Millisecond}
		_, _, err := c.Exchange(new(dns.Msg).SetQuestion("shop.example.", dns.TypeA), s.Addr())
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("over %s: %v, want no answer", network, err)
		}
	}
	s.Fail("shop.example", None)
	expect(t, s, "shop.example", "A", "NOERROR", "shop.example. A 192.0.2.1")
}

func TestCountAndSetAfter(t *testing.T) {
	s := New(t)
	s.Set("shop.example", "A", "192.0.2.1")
	s.SetAfter(2, "shop.example", "A", "192.0.2.2")
	for i, want := range []string{"192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"} {
		if got := ask(t, s, "udp", "shop.example", "A"); !strings.HasSuffix(got, want) {
			t.Errorf("question %d: %s, want %s", i, got, want)
		}
		ask(t, s, "udp", "other.example", "A")
	}
	ask(t, s, "udp", "SHOP.example", "CAA")
	if a, caa, all, other := s.Count("shop.EXAMPLE.", "A"), s.Count("shop.example", "CAA"), s.Count("shop.example", ""), s.Queries(); a != 4 || caa != 1 || all != 5 || other != 9 {
		t.Errorf("counts are %d, %d, %d, %d", a, caa, all, other)
	}
}

func TestConcurrentUse(t *testing.T) {
	s := New(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := fmt.Sprintf("shop%d.example", i)
			for range 20 {
				s.Set(name, "A", "192.0.2.1")
				s.SetAfter(1, name, "TXT", "x")
				if got := ask(t, s, "tcp", name, "A"); got != "NOERROR\n"+name+". A 192.0.2.1" {
					t.Errorf("%s: %s", name, got)
				}
			}
		})
	}
	wg.Wait()
}
