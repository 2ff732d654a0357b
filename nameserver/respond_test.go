package nameserver

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"fingerpost/zone"

	"github.com/miekg/dns"
)

func TestAnswers(t *testing.T) {
	s := newServer(t)
	for _, tt := range []struct{ name, qtype, want string }{
		{label + ".acme.example.net", "TXT", "NOERROR aa 1/2/0/0"},
		{label + ".acme.example.net", "CNAME", "NOERROR aa 1/0/1/0"},
		{"nothing.acme.example.net", "TXT", "NXDOMAIN aa 1/0/1/0"},
		{"acme.example.net", "SOA", "NOERROR aa 1/1/0/0"},
		{"acme.example.net", "NS", "NOERROR aa 1/1/0/2"},
		{"example.com", "CAA", "NOERROR aa 1/1/0/0"},
		{"alias.example.com", "A", "NOERROR aa 1/2/0/0"},
		{"alias.example.com", "AAAA", "NOERROR aa 1/1/1/0"},
		{"out.example.com", "A", "NOERROR aa 1/1/0/0"},
		{"gone.example.com", "A", "NXDOMAIN aa 1/1/1/0"},
		{"a.b.wild.example.com", "A", "NOERROR aa 1/1/0/0"},
		{"wild.example.com", "A", "NOERROR aa 1/0/1/0"},
		{"x.small.example.com", "A", "NOERROR 1/0/1/1"},
		{"www.example.com", "ANY", "NOERROR aa 1/1/0/0"},
		{"example.org", "A", "REFUSED 1/0/0/0"},
	} {
		for _, tcp := range []bool{false, true} {
			if got := summary(ask(t, s, newQuery(tt.name, tt.qtype), tcp)); got != tt.want {
				t.Errorf("%s %s (tcp %v): %s, want %s", tt.name, tt.qtype, tcp, got, tt.want)
			}
		}
	}
}

// TestOwnersAndValues: what another library reads out of the answer, names put
// together from pointers included.
func TestOwnersAndValues(t *testing.T) {
	s := newServer(t)
	for _, tt := range []struct {
		name, qtype string
		want        []string
	}{
		{label + ".ACME.example.net", "TXT", []string{label + `.ACME.example.net. 1 IN TXT "one"`, label + `.ACME.example.net. 1 IN TXT "two"`}},
		{"aLIas.eXAMple.com", "A", []string{"aLIas.eXAMple.com. 60 IN CNAME www.example.com.", "www.eXAMple.com. 60 IN A 192.0.2.1"}},
		{"X.wild.example.com", "A", []string{"X.wild.example.com. 60 IN A 192.0.2.2"}},
		{"nothing.acme.example.net", "TXT", []string{"acme.example.net. 1 IN SOA ns1.acme.example.net. hostmaster.acme.example.net. 42 7200 900 1209600 1"}},
		{"x.small.example.com", "A", []string{"small.example.com. 60 IN NS ns.small.example.com.", "ns.small.example.com. 60 IN A 192.0.2.3"}},
	} {
		m := ask(t, s, newQuery(tt.name, tt.qtype), false)
		var got []string
		for _, rr := range slices.Concat(m.Answer, m.Ns, m.Extra) {
			got = append(got, strings.Join(strings.Fields(rr.String()), " "))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s %s:\n%s\nwant\n%s", tt.name, tt.qtype, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
		}
	}
}

// TestSizeOverUDP: an answer is never larger than the client takes, nor than
// 1232 bytes; what does not fit is asked for over TCP.
func TestSizeOverUDP(t *testing.T) {
	s := newServer(t)
	s.Limits.Responses = -1
	for _, tt := range []struct {
		name string
		size int // 0 means no EDNS
		want string
	}{
		{"some", 0, "NOERROR aa tc 1/0/0/0"},
		{"some", 100, "NOERROR aa tc edns 1/0/0/0"},
		{"some", 512, "NOERROR aa tc edns 1/0/0/0"},
		{"some", 800, "NOERROR aa edns 1/10/0/0"},
		{"some", 65535, "NOERROR aa edns 1/10/0/0"},
		{"many", 1232, "NOERROR aa tc edns 1/0/0/0"},
		{"many", 65535, "NOERROR aa tc edns 1/0/0/0"},
	} {
		q := newQuery(tt.name+".acme.example.net", "TXT")
		if tt.size > 0 {
			q.SetEdns0(uint16(tt.size), false)
		}
		wire, _ := q.Pack()
		if n := len(s.Answer(nil, wire, client, false)); n > max(512, min(tt.size, 1232)) {
			t.Errorf("%s with %d: %d bytes", tt.name, tt.size, n)
		}
		if got := summary(ask(t, s, q, false)); got != tt.want {
			t.Errorf("%s with %d: %s, want %s", tt.name, tt.size, got, tt.want)
		}
	}
	// Byte by byte past the size that is needed.
	fits := 0
	for size := 512; size < 1232; size++ {
		q := newQuery("some.acme.example.net", "TXT")
		q.SetEdns0(uint16(size), false)
		q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
		wire, _ := q.Pack()
		out := s.Answer(nil, wire, client, false)
		if len(out) > size {
			t.Fatalf("%d bytes, the client takes %d", len(out), size)
		}
		if out[2]&2 == 0 { // TC
			if fits++; fits == 1 && len(out) != size {
				t.Errorf("an answer of %d bytes was not sent where %d fit", len(out), size-1)
			}
		}
	}
	if fits == 0 {
		t.Error("the answer never fits")
	}
	if got := summary(ask(t, s, newQuery("many.acme.example.net", "TXT"), true)); got != "NOERROR aa 1/40/0/0" {
		t.Errorf("over TCP: %s", got)
	}
	// A referral without all of its glue leads nowhere (RFC 9471).
	if got := summary(ask(t, s, newQuery("x.sub.example.com", "A"), false)); got != "NOERROR tc 1/0/0/0" {
		t.Errorf("a referral that does not fit: %s", got)
	}
	if got := summary(ask(t, s, newQuery("x.sub.example.com", "A"), true)); got != "NOERROR 1/0/5/5" {
		t.Errorf("that referral over TCP: %s", got)
	}
}

func TestEDNSAnswer(t *testing.T) {
	s := newServer(t)
	q := newQuery("www.example.com", "A")
	q.SetEdns0(4096, true)
	q.IsEdns0().Option = []dns.EDNS0{
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 20, Address: []byte{192, 0, 32, 0}},
		&dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE},
		&dns.EDNS0_NSID{Code: dns.EDNS0NSID},
	}
	for _, tcp := range []bool{false, true} {
		opt := ask(t, s, q, tcp).IsEdns0()
		if opt.UDPSize() != 1232 || !opt.Do() || opt.Version() != 0 {
			t.Errorf("OPT is %v", opt)
		}
		var got []string
		for _, o := range opt.Option {
			got = append(got, fmt.Sprintf("%d %s", o.Option(), o))
		}
		want := []string{"8 192.0.32.0/20/0"}
		if tcp {
			want = append(want, "11 use timeout 10s") // never over UDP (RFC 7828 3.3.2)
		}
		if tcp && len(got) == 2 {
			got[1] = "11 use timeout 10s"
			if k := opt.Option[1].(*dns.EDNS0_TCP_KEEPALIVE); k.Timeout != 100 {
				t.Errorf("keepalive of %d × 100 ms", k.Timeout)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("options (tcp %v) are %q, want %q", tcp, got, want)
		}
	}
}

// TestSwap: the next query after the data changed sees the change.
func TestSwap(t *testing.T) {
	set := testSet(t)
	s := &Server{Zones: func() *zone.Set { return set }}
	q := newQuery("new.acme.example.net", "TXT")
	if got := summary(ask(t, s, q, false)); got != "NXDOMAIN aa 1/0/1/0" {
		t.Errorf("before: %s", got)
	}
	z, err := zone.Validation{Apex: "acme.example.net", Servers: []zone.Server{{Host: "ns.example.org"}}, Values: map[string][]string{"new": {"x"}}}.Zone()
	if err != nil {
		t.Fatal(err)
	}
	set, _ = zone.NewSet(z)
	if got := summary(ask(t, s, q, false)); got != "NOERROR aa 1/1/0/0" {
		t.Errorf("after: %s", got)
	}
	set = nil
	if got := summary(ask(t, s, q, false)); got != "SERVFAIL 1/0/0/0" {
		t.Errorf("without data: %s", got)
	}
}

func TestPanicIsServFail(t *testing.T) {
	var log bytes.Buffer
	var events []Event
	s := &Server{
		Zones:   func() *zone.Set { panic("broken") },
		Log:     slog.New(slog.NewTextHandler(&log, nil)),
		Observe: func(e Event) { events = append(events, e) },
	}
	m := ask(t, s, newQuery("www.example.com", "A"), false)
	if summary(m) != "SERVFAIL 0/0/0/0" || !strings.Contains(log.String(), "broken") || len(events) != 1 || events[0].Rcode != ServFail {
		t.Errorf("%s, %v, log %q", summary(m), events, log.String())
	}
}

func TestEvents(t *testing.T) {
	var events []Event
	s := newServer(t)
	s.Observe = func(e Event) { events = append(events, e) }
	ask(t, s, newQuery("www.example.com", "A"), true)
	ask(t, s, newQuery("many.acme.example.net", "TXT"), false)
	ask(t, s, newQuery("no.example.com", "A"), false)
	askWire(t, s, unhex(t, `abcd 0000 0002 0000 0000 0000`), false)
	askWire(t, s, unhex(t, `abcd 8000 0001 0000 0000 0000`), false)
	want := []Event{
		{TCP: true, Type: zone.TypeA},
		{Type: zone.TypeTXT, Truncated: true},
		{Type: zone.TypeA, Rcode: NXDomain},
		{Rcode: FormErr},
	}
	if !slices.Equal(events, want) {
		t.Errorf("%+v, want %+v", events, want)
	}
}

// TestCookieVector is RFC 9018 A.1.
func TestCookieVector(t *testing.T) {
	secret := [16]byte(unhex(t, "e5e973e5a6b2a43f48e7dc849e37bfcf"))
	at := netip.MustParseAddr("198.51.100.100")
	got, _ := appendCookie(nil, unhex(t, "2464c4abcf10c957"), at, time.Unix(1559731985, 0), secret)
	if want := unhex(t, "2464c4abcf10c957 010000005cf79f11 1f8130c3eee29480"); !bytes.Equal(got, want) {
		t.Errorf("cookie is % x, want % x", got, want)
	}
	// The same, shown again, holds.
	if _, ok := appendCookie(nil, got, at, time.Unix(1559731985, 0), secret); !ok {
		t.Error("our own cookie is not taken")
	}
}

func TestCookieChecks(t *testing.T) {
	secret := [16]byte{1}
	now := time.Unix(1_800_000_000, 0)
	made, _ := appendCookie(nil, []byte("12345678"), client, now, secret)
	change := func(i int) []byte {
		c := bytes.Clone(made)
		c[i] ^= 1
		return c
	}
	for _, tt := range []struct {
		name   string
		cookie []byte
		at     time.Time
		want   bool
	}{
		{"fresh", made, now, true},
		{"an hour old", made, now.Add(time.Hour), true},
		{"older", made, now.Add(time.Hour + time.Second), false},
		{"from a clock that is before ours", made, now.Add(-5 * time.Minute), true},
		{"from the future", made, now.Add(-5*time.Minute - time.Second), false},
		{"without server part", made[:8], now, false},
		{"other length", append(bytes.Clone(made), 0), now, false},
		{"other client part", change(0), now, false},
		{"other version", change(8), now, false},
		{"other time", change(15), now, false},
		{"other hash", change(23), now, false},
	} {
		if _, ok := appendCookie(nil, tt.cookie, client, tt.at, secret); ok != tt.want {
			t.Errorf("%s: %v", tt.name, ok)
		}
	}
	if _, ok := appendCookie(nil, made, client.Next(), now, secret); ok {
		t.Error("the cookie of another address is taken")
	}
}

// TestResponseRate: equal answers to one network are bounded, and half of those
// over the bound lead to TCP.
func TestResponseRate(t *testing.T) {
	clock := &clock{time.Unix(1_800_000_000, 0)}
	s := newServer(t)
	s.Now = clock.now
	s.Limits.Responses = 10
	count := func(n int, q *dns.Msg, tcp bool) string {
		var full, truncated, none int
		for range n {
			switch m := ask(t, s, q, tcp); {
			case m == nil:
				none++
			case m.Truncated:
				truncated++
				if len(m.Answer)+len(m.Ns) > 0 {
					t.Error("a truncated answer has records")
				}
			default:
				full++
			}
		}
		return fmt.Sprintf("%d full, %d truncated, %d dropped", full, truncated, none)
	}
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	www := newQuery("www.example.com", "A")
	expect("at once", count(70, www, false), "50 full, 10 truncated, 10 dropped")
	expect("another name", count(10, newQuery("alias.example.com", "A"), false), "10 full, 0 truncated, 0 dropped")
	expect("over TCP", count(100, www, true), "100 full, 0 truncated, 0 dropped")
	clock.at = clock.at.Add(time.Second)
	expect("a second later", count(20, www, false), "10 full, 5 truncated, 5 dropped")

	// Names that are made up count as one.
	made := ""
	for i := range 60 {
		if m := ask(t, s, newQuery(fmt.Sprintf("x%d.nowhere.example.com", i), "A"), false); m == nil || m.Truncated {
			made += "x"
		}
	}
	expect("NXDOMAIN", made, strings.Repeat("x", 10))
	made = ""
	for i := range 60 {
		if m := ask(t, s, newQuery(fmt.Sprintf("x%d.wild.example.com", i), "A"), false); m == nil || m.Truncated {
			made += "x"
		}
	}
	expect("wildcard", made, strings.Repeat("x", 10))

	// A client that is where it says is not limited.
	www.SetEdns0(1232, false)
	www.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
	var cookie string
	for range 2 { // one of two is truncated, which brings the cookie
		if m := ask(t, s, www, false); m != nil {
			cookie = m.IsEdns0().Option[0].(*dns.EDNS0_COOKIE).Cookie
		}
	}
	www.IsEdns0().Option[0].(*dns.EDNS0_COOKIE).Cookie = cookie
	expect("with a cookie", count(100, www, false), "100 full, 0 truncated, 0 dropped")

	// Datagrams that seem to come from this machine do.
	www.Extra = nil
	wire, _ := www.Pack()
	for i := range 100 {
		if len(s.Answer(nil, wire, netip.MustParseAddr("127.0.0.1"), false)) == 0 {
			t.Fatalf("answer %d to loopback was dropped", i)
		}
	}

	s.limiter = newLimiter(-1, clock.at)
	expect("without a limit", count(100, newQuery("www.example.com", "A"), false), "100 full, 0 truncated, 0 dropped")
}

func BenchmarkAnswer(b *testing.B) {
	s := newServer(b)
	s.Limits.Responses = -1
	s.start()
	for _, name := range []string{"www.example.com A", "alias.example.com A", label + ".acme.example.net TXT", "no.example.com A", "example.org A"} {
		host, qtype, _ := strings.Cut(name, " ")
		q := newQuery(host, qtype)
		q.SetEdns0(1232, false)
		wire, _ := q.Pack()
		b.Run(strings.ReplaceAll(name, " ", "/"), func(b *testing.B) {
			r := responder{s: s}
			var out []byte
			b.ReportAllocs()
			for b.Loop() {
				out = r.respond(out[:0], wire, client, false)
			}
		})
	}
}

// BenchmarkAnswerByLibrary is what reading the query, and writing a prepared
// answer, costs with the types of a library. The lookup is left out.
func BenchmarkAnswerByLibrary(b *testing.B) {
	q := newQuery(label+".acme.example.net", "TXT")
	q.SetEdns0(1232, false)
	wire, _ := q.Pack()
	one, _ := dns.NewRR(label + ".acme.example.net. 1 IN TXT one")
	two, _ := dns.NewRR(label + ".acme.example.net. 1 IN TXT two")
	out := make([]byte, 1500)
	b.ReportAllocs()
	for b.Loop() {
		in, m := new(dns.Msg), new(dns.Msg)
		if err := in.Unpack(wire); err != nil {
			b.Fatal(err)
		}
		m.SetReply(in)
		m.Compress, m.Authoritative = true, true
		m.Answer = append(m.Answer, one, two)
		m.SetEdns0(1232, false)
		if _, err := m.PackBuffer(out); err != nil {
			b.Fatal(err)
		}
	}
}
