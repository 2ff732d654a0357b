package order

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// nameServer answers from records in the form of a zone file, over UDP and TCP.
// It is the resolver and the domains' own server at once.
type nameServer struct {
	address string
	records map[string][]dns.RR
	tcp     atomic.Int64 // questions by TCP
	asked   sync.Map     // name → *atomic.Int64: questions about it
}

func newNameServer(t *testing.T, zone ...string) *nameServer {
	t.Helper()
	s := &nameServer{records: map[string][]dns.RR{}}
	for _, line := range zone {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		s.records[strings.ToLower(rr.Header().Name)] = append(s.records[strings.ToLower(rr.Header().Name)], rr)
	}
	for range 5 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		u, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil {
			l.Close()
			continue
		}
		s.address = l.Addr().String()
		handle := func(tcp bool) dns.HandlerFunc {
			return func(w dns.ResponseWriter, q *dns.Msg) { s.answer(w, q, tcp) }
		}
		go (&dns.Server{Listener: l, Handler: handle(true)}).ActivateAndServe()
		go (&dns.Server{PacketConn: u, Handler: handle(false)}).ActivateAndServe()
		t.Cleanup(func() { l.Close(); u.Close() })
		return s
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil
}

func (s *nameServer) answer(w dns.ResponseWriter, q *dns.Msg, tcp bool) {
	m := new(dns.Msg).SetReply(q)
	name := strings.ToLower(q.Question[0].Name)
	count, _ := s.asked.LoadOrStore(name, new(atomic.Int64))
	count.(*atomic.Int64).Add(1)
	if strings.HasPrefix(name, "broken.") {
		m.Rcode = dns.RcodeServerFailure
	}
	for hops := 0; hops < 5; hops++ {
		next := ""
		for _, rr := range s.records[name] {
			switch c, isCNAME := rr.(*dns.CNAME); {
			case rr.Header().Rrtype == q.Question[0].Qtype:
				m.Answer = append(m.Answer, rr)
			case isCNAME:
				m.Answer, next = append(m.Answer, rr), c.Target
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	if tcp {
		s.tcp.Add(1)
	} else {
		m.Truncate(512)
	}
	w.WriteMsg(m)
}

func (s *nameServer) resolver() *Resolver {
	_, port, _ := net.SplitHostPort(s.address)
	return &Resolver{Servers: []string{s.address}, Timeout: 2 * time.Second, Port: port, Private: true}
}

const own = `example.com. NS ns.example.com.
ns.example.com. A 127.0.0.1`

func TestPreflight(t *testing.T) {
	shown := &shown{values: map[string]int{}, fault: func(string, bool) error { return nil }}
	here := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if host == "moved.example.com" {
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusFound)
			return
		}
		if host == "parked.example.com" {
			io.WriteString(w, "this domain is for sale")
			return
		}
		io.WriteString(w, shown.auth(HTTP01, host, strings.TrimPrefix(r.URL.Path, "/.well-known/acme-challenge/")))
	}))
	t.Cleanup(here.Close)
	port := here.Listener.Addr().(*net.TCPAddr).Port
	zone := strings.Split(own, "\n")
	zone = append(zone,
		"_acme-challenge.cname.example.com. CNAME label.acme.example.net.",
		"_acme-challenge.other.example.com. CNAME label.elsewhere.example.",
		"http.example.com. A 127.0.0.1", "moved.example.com. A 127.0.0.1", "parked.example.com. A 127.0.0.1",
		"half.example.com. A 127.0.0.1", "half.example.com. A 127.0.0.2", // nobody listens at the second
		"inner.example.com. A 10.1.2.3",
		"alias.example.com. CNAME http.example.com.",
		`caa.example.com. CAA 0 issue "other.test"`, "deep.caa.example.com. A 127.0.0.1",
		`wild.example.com. CAA 0 issue "ca.test"`, `wild.example.com. CAA 0 issuewild ";"`,
		"wild.example.com. A 127.0.0.1", "_acme-challenge.wild.example.com. CNAME label.acme.example.net.",
		`dnsonly.example.com. CAA 0 issue "ca.test; validationmethods=dns-01"`, "dnsonly.example.com. A 127.0.0.1",
		`account.example.com. CAA 0 issue "ca.test; accounturi=https://ca.test/2"`, "account.example.com. A 127.0.0.1",
		`critical.example.com. CAA 128 tbs "x"`, "critical.example.com. A 127.0.0.1",
		`iodef.example.com. CAA 0 iodef "mailto:x@example.com"`, "iodef.example.com. A 127.0.0.1",
	)
	for i := range 60 { // more than UDP carries
		zone = append(zone, fmt.Sprintf(`many.example.com. CAA 0 issue "ca%02d.test; comment=%s"`, i, strings.Repeat("x", 20)))
	}
	zone = append(zone, `many.example.com. CAA 0 issue "ca.test"`, "many.example.com. A 127.0.0.1")
	ns := newNameServer(t, zone...)

	const cname = "label.acme.example.net"
	tests := []struct {
		name    string
		cname   string
		public  bool   // else private addresses are allowed
		methods string // "" for a failure
		code    string
		reason  string // part of it
		hint    string // part of it
	}{
		{name: "cname.example.com", cname: cname, methods: DNS01},
		{name: "*.cname.example.com", cname: cname, methods: DNS01},
		{name: "other.example.com", cname: cname, code: "notHere", reason: "points to label.elsewhere.example", hint: "set _acme-challenge.other.example.com CNAME label.acme.example.net."},
		{name: "*.none.example.com", cname: cname, code: "notHere", reason: "the CNAME of _acme-challenge.none.example.com is not set", hint: "set _acme-challenge.none"},
		{name: "*.none.example.com", code: "notHere", reason: "wildcard", hint: "validationZone"},
		{name: "none.example.com", cname: cname, code: "notHere", reason: "no address in DNS", hint: "point here, or set"},
		{name: "http.example.com", cname: cname, methods: HTTP01},
		{name: "http.example.com", methods: HTTP01},
		{name: "alias.example.com", methods: HTTP01},
		{name: "http.example.com", public: true, code: "notHere", reason: "127.0.0.1, which nobody outside"},
		{name: "inner.example.com", public: true, code: "notHere", reason: "10.1.2.3, which nobody outside"},
		{name: "half.example.com", code: "notHere", reason: "at 127.0.0.2"},
		{name: "moved.example.com", code: "notHere", reason: "redirect to https://elsewhere.example/"},
		{name: "parked.example.com", code: "notHere", reason: "another server answers (HTTP 200)"},
		{name: "caa.example.com", code: "caa", reason: "allow other.test", hint: `0 issue "ca.test"`},
		{name: "deep.caa.example.com", code: "caa", reason: "CAA records of caa.example.com"},
		{name: "wild.example.com", methods: HTTP01},
		{name: "*.wild.example.com", cname: cname, code: "caa", reason: "allow no CA", hint: `0 issuewild "ca.test"`},
		{name: "dnsonly.example.com", code: "notHere", reason: "allow no way"},
		{name: "account.example.com", code: "caa", reason: "another account", hint: "accounturi to https://ca.test/1"},
		{name: "critical.example.com", code: "caa", reason: "tbs"},
		{name: "iodef.example.com", methods: HTTP01},
		{name: "many.example.com", methods: HTTP01},
		{name: "Shop.example.com", code: "badName"},
		{name: "co.uk", public: true, code: "publicSuffix"},
		{name: "*.co.uk", public: true, code: "publicSuffix"},
		{name: "shop.internal", public: true, code: "notPublic"},
		{name: "localhost", public: true, code: "notPublic"},
		{name: "broken.example.com", code: "dns", reason: "the DNS of broken.example.com gives no answer", hint: "DNSSEC"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &Preflight{Resolver: ns.resolver(), Solver: shown, Private: !tt.public, Port: port}
			v := p.Check(t.Context(), Question{Name: tt.name, CNAME: tt.cname, CAs: []Authority{{Issuers: []string{"ca.test"}, Account: "https://ca.test/1"}}})
			switch {
			case tt.methods != "":
				if strings.Join(v.Methods, " ") != tt.methods {
					t.Errorf("methods %v, %v, %v; want %s", v.Methods, v.Failure, v.Unsure, tt.methods)
				}
			case tt.code == "":
				if v.Unsure == nil || !strings.Contains(v.Unsure.Error(), tt.reason) {
					t.Errorf("got %+v, want that nothing is known", v)
				}
			case v.Failure == nil || v.Failure.Code != tt.code || !strings.Contains(v.Failure.Reason, tt.reason) || !strings.Contains(v.Failure.Hint, tt.hint) || v.Failure.Hint == "":
				t.Errorf("got %+v (%v), want %s: …%s…, hint …%s…", v.Failure, v.Unsure, tt.code, tt.reason, tt.hint)
			}
		})
	}
	if shown.left() > 0 {
		t.Error("tokens of checks are left")
	}
	if ns.tcp.Load() == 0 {
		t.Error("the answer that is too large for UDP was not asked for by TCP")
	}
}

// TestPreflightShowsNothing: a check over HTTP tells the nodes nothing, and its answer is for
// one name and token.
func TestPreflightShowsNothing(t *testing.T) {
	answer := func(name, token string) string { return "of " + name + " to " + token }
	here := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.URL.Path, "/.well-known/acme-challenge/")
		if r.Host == "theirs.example.com" {
			token = "check.other"
		}
		io.WriteString(w, answer(r.Host, token))
	}))
	t.Cleanup(here.Close)
	ns := newNameServer(t, "ours.example.com. A 127.0.0.1", "theirs.example.com. A 127.0.0.1")
	p := &Preflight{Resolver: ns.resolver(), Private: true, Port: here.Listener.Addr().(*net.TCPAddr).Port, Answer: answer} // without a Solver
	if v := p.Check(t.Context(), Question{Name: "ours.example.com"}); !slices.Equal(v.Methods, []string{HTTP01}) {
		t.Errorf("%+v, %v", v.Failure, v.Unsure)
	}
	if v := p.Check(t.Context(), Question{Name: "theirs.example.com"}); v.Failure == nil || !strings.Contains(v.Failure.Reason, "another server answers") {
		t.Errorf("%+v, %v", v.Failure, v.Unsure)
	}
}

// TestPreflightByHandshake proves a name where nobody answers over HTTP.
func TestPreflightByHandshake(t *testing.T) {
	shown := &shown{values: map[string]int{}, fault: func(string, bool) error { return nil }}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{NextProtos: []string{ACMETLS}, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		switch hello.ServerName {
		case "other.example.com": // somebody else proves something else
			return TLSALPNCertificate(hello.ServerName, "of another")
		case "nobody.example.com":
			return nil, nil
		}
		return TLSALPNCertificate(hello.ServerName, shown.auth(TLSALPN01, hello.ServerName, ""))
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { c.(*tls.Conn).Handshake(); c.Close() }()
		}
	}()
	ns := newNameServer(t, "here.example.com. A 127.0.0.1", "other.example.com. A 127.0.0.1", "nobody.example.com. A 127.0.0.1",
		"half.example.com. A 127.0.0.1", "half.example.com. A 127.0.0.2",
		`httponly.example.com. CAA 0 issue "ca.test; validationmethods=http-01"`, "httponly.example.com. A 127.0.0.1")
	for _, tt := range []struct{ name, reason, hint string }{
		{"here.example.com", "", ""},
		{"other.example.com", "https://other.example.com does not reach us at 127.0.0.1: another server answers", "point here"},
		{"nobody.example.com", "another server answers", "point here"},
		{"half.example.com", "at 127.0.0.2: the connection is refused", "point here"},
		{"httponly.example.com", "allow no way", "tls-alpn-01"},
	} {
		p := &Preflight{Resolver: ns.resolver(), Solver: shown, Private: true, TLS: true, TLSPort: l.Addr().(*net.TCPAddr).Port}
		v := p.Check(t.Context(), Question{Name: tt.name, CAs: []Authority{{Issuers: []string{"ca.test"}}}})
		if tt.reason == "" {
			if !slices.Equal(v.Methods, []string{TLSALPN01}) {
				t.Errorf("%s: methods %v, %v, %v", tt.name, v.Methods, v.Failure, v.Unsure)
			}
		} else if v.Failure == nil || !strings.Contains(v.Failure.Reason, tt.reason) || !strings.Contains(v.Failure.Hint, tt.hint) {
			t.Errorf("%s: %+v (%v), want …%s…, hint …%s…", tt.name, v.Failure, v.Unsure, tt.reason, tt.hint)
		}
	}
	if shown.left() > 0 {
		t.Error("challenges of checks are left")
	}
}

// TestPreflightByCAA: each CA of several by itself, with the methods that it may use.
func TestPreflightByCAA(t *testing.T) {
	const cname = "label.acme.example.net"
	ns := newNameServer(t,
		"_acme-challenge.all.example.com. CNAME label.acme.example.net.",
		`second.example.com. CAA 0 issue "two.test"`, "_acme-challenge.second.example.com. CNAME label.acme.example.net.",
		`third.example.com. CAA 0 issue "three.test"`, "_acme-challenge.third.example.com. CNAME label.acme.example.net.",
		`http.example.com. CAA 0 issue "one.test; validationmethods=http-01"`, `http.example.com. CAA 0 issue "two.test; validationmethods=dns-01"`,
		"_acme-challenge.http.example.com. CNAME label.acme.example.net.",
		`ours.example.com. CAA 0 issue "one.test; accounturi=https://one.test/2"`, `ours.example.com. CAA 0 issue "two.test; accounturi=https://two.test/1"`,
		"_acme-challenge.ours.example.com. CNAME label.acme.example.net.",
	)
	for name, want := range map[string]string{"all.example.com": "dns-01 []", "second.example.com": "dns-01 [two none]", "third.example.com": "dns-01 [none]",
		"http.example.com": "dns-01 [two none]", "ours.example.com": "dns-01 [two none]"} {
		p := &Preflight{Resolver: ns.resolver(), Private: true}
		v := p.Check(t.Context(), Question{Name: name, CNAME: cname, CAs: []Authority{
			{Name: "one", Issuers: []string{"one.test"}, Account: "https://one.test/1"}, {Name: "two", Issuers: []string{"two.test"}, Account: "https://two.test/1"}, {Name: "none"}}})
		if got := strings.Join(v.Methods, " ") + " " + fmt.Sprint(v.CAs); got != want {
			t.Errorf("%s: %s, %+v, %v; want %s", name, got, v.Failure, v.Unsure, want)
		}
	}
}

// TestPreflightIsNotHeldUp by a domain with any number of servers and addresses that say
// nothing.
func TestPreflightIsNotHeldUp(t *testing.T) {
	silent, err := net.ListenPacket("udp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	port := fmt.Sprint(silent.LocalAddr().(*net.UDPAddr).Port)
	l, err := net.Listen("tcp", "0.0.0.0:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	zone := []string{"_acme-challenge.ok.example. CNAME label.acme.example.net."}
	for i := range 300 {
		zone = append(zone, fmt.Sprintf("evil.example. NS ns%d.evil.example.", i), fmt.Sprintf("ns%d.evil.example. A 127.0.%d.%d", i, 1+i/200, 1+i%200), fmt.Sprintf("ns0.evil.example. A 127.0.3.%d", 1+i%200))
	}
	ns := newNameServer(t, zone...)
	r := &Resolver{Servers: []string{ns.address}, Timeout: 50 * time.Millisecond, Port: port, Private: true}
	servers, err := r.Own(t.Context(), "_acme-challenge.evil.example")
	if err != nil || len(servers) != maxServers || slices.IndexFunc(servers, func(s string) bool { return strings.HasPrefix(s, "127.0.3.") }) > 0 && strings.HasPrefix(servers[1], "127.0.3.") {
		t.Errorf("%d servers are asked: %v, %v", len(servers), servers, err)
	}
	begin := time.Now()
	p := &Preflight{Resolver: r, Private: true}
	v := p.Check(t.Context(), Question{Name: "*.evil.example", CNAME: "label.acme.example.net"})
	t.Logf("took %v with a timeout of 50 ms: %+v", time.Since(begin), v.Failure)
	// Its own servers say nothing; the resolvers know that there is no CNAME.
	if v.Failure == nil || v.Failure.Code != "notHere" {
		t.Errorf("got %+v", v)
	}
}

// TestPreflightLooksAtTheZone: once for all names, and again a minute later.
func TestPreflightLooksAtTheZone(t *testing.T) {
	zone := []string{}
	for i := range 20 {
		zone = append(zone, fmt.Sprintf("_acme-challenge.n%d.example.com. CNAME label.acme.example.net.", i))
	}
	for _, tt := range []struct{ record, reason string }{
		{`probe.acme.example.net. TXT "ours"`, ""},
		{`probe.acme.example.net. TXT "theirs"`, "another server, or for another cluster"},
		{`other.acme.example.net. TXT "ours"`, "is not found through the resolvers"},
	} {
		ns := newNameServer(t, append(zone, tt.record)...)
		asked := func() int64 {
			count, _ := ns.asked.LoadOrStore("probe.acme.example.net.", new(atomic.Int64))
			return count.(*atomic.Int64).Load()
		}
		p := &Preflight{Resolver: ns.resolver(), Private: true, ZoneRecord: "probe.acme.example.net", ZoneTXT: "ours"}
		for i := range 20 {
			v := p.Check(t.Context(), Question{Name: fmt.Sprintf("*.n%d.example.com", i), CNAME: "label.acme.example.net"})
			if tt.reason == "" {
				if !slices.Equal(v.Methods, []string{DNS01}) {
					t.Errorf("%+v", v.Failure)
				}
			} else if v.Failure == nil || v.Failure.Code != "zone" || !strings.Contains(v.Failure.Reason, tt.reason) || !strings.Contains(v.Failure.Hint, "port 53") {
				t.Errorf("got %+v, want …%s…", v.Failure, tt.reason)
			}
		}
		if n := asked(); n != 1 {
			t.Errorf("asked %d times for 20 names", n)
		}
		p.zone.at = p.zone.at.Add(-zoneEvery)
		p.Check(t.Context(), Question{Name: "n1.example.com", CNAME: "label.acme.example.net"})
		if n := asked(); n != 2 {
			t.Errorf("asked %d times after a minute", n)
		}
	}
}

// TestNobodyToAsk: where our resolvers say nothing it is no fault of a name.
func TestNobodyToAsk(t *testing.T) {
	dead, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	p := &Preflight{Resolver: &Resolver{Servers: []string{dead.LocalAddr().String()}, Timeout: 50 * time.Millisecond}, Private: true}
	if v := p.Check(t.Context(), Question{Name: "a.example.com"}); v.Unsure == nil || v.Failure != nil {
		t.Errorf("got %+v", v)
	}
}

// TestNoRoute: an address that this node cannot reach is the CA's to look at, where another
// one is ours.
func TestNoRoute(t *testing.T) {
	dial := func(errno syscall.Errno) error {
		return unreached(&url.Error{Op: "Get", Err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errno)}})
	}
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, tt := range []struct {
		errs []error
		want string
	}{
		{[]error{nil, nil}, ""},
		{[]error{nil, dial(syscall.ENETUNREACH)}, ""},
		{[]error{nil, dial(syscall.EHOSTUNREACH)}, ""},
		{[]error{nil, dial(syscall.ECONNREFUSED)}, "http://a.example does not reach us at 2001:db8::1: the connection is refused"},
		{[]error{dial(syscall.ENETUNREACH), dial(syscall.ECONNREFUSED)}, "http://a.example does not reach us at 2001:db8::1: the connection is refused"},
		{[]error{dial(syscall.ENETUNREACH), dial(syscall.ENETUNREACH)}, "http://a.example cannot be looked at: for 192.0.2.1, this node has no route"},
	} {
		if got := elsewhere("http://a.example", []netip.Addr{v4, v6}, tt.errs); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.errs, got, tt.want)
		}
	}
}

func TestResolverTriesTheNextServer(t *testing.T) {
	good := newNameServer(t, "a.example.com. A 192.0.2.1")
	dead, err := net.ListenPacket("udp", "127.0.0.1:0") // takes questions and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	r := &Resolver{Servers: []string{dead.LocalAddr().String(), good.address}, Timeout: 100 * time.Millisecond}
	addrs, err := r.Addresses(t.Context(), "a.example.com")
	if err != nil || len(addrs) != 1 || addrs[0] != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("got %v, %v", addrs, err)
	}
}

// TestNoStrangersZoneLeadsIntoOurNetwork has zones name inner addresses as those of
// their servers: nobody asks there, unless private addresses are allowed.
func TestNoStrangersZoneLeadsIntoOurNetwork(t *testing.T) {
	s := newNameServer(t,
		"inner.example. NS ns.inner.example.", "ns.inner.example. A 10.0.0.1", "ns.inner.example. AAAA ::1",
		"both.example. NS ns.both.example.", "ns.both.example. A 127.0.0.1", "ns.both.example. A 192.0.2.1", "ns.both.example. AAAA fe80::1", "ns.both.example. AAAA ::ffff:169.254.169.254",
		"_acme-challenge.inner.example. TXT value")
	r := s.resolver()
	port := r.Port
	own := func(name string) string {
		servers, err := r.Own(t.Context(), name)
		if err != nil {
			return err.Error()
		}
		return strings.Join(servers, " ")
	}
	if got := own("inner.example"); !strings.Contains(got, "10.0.0.1:"+port) || !strings.Contains(got, "[::1]:"+port) {
		t.Errorf("where private addresses are allowed: %s", got)
	}
	r.Private = false
	if got := own("inner.example"); !strings.Contains(got, "not public") {
		t.Errorf("inner addresses: %s", got)
	}
	if got := own("www.both.example"); got != "192.0.2.1:"+port {
		t.Errorf("inner addresses beside a public one: %s", got)
	}
	if missing, err := r.MissingTXT(t.Context(), "_acme-challenge.inner.example", "value"); missing != "" || err != nil {
		t.Errorf("the resolvers are asked instead: %q, %v", missing, err)
	}
}

func TestPublicAddresses(t *testing.T) {
	for text, want := range map[string]bool{
		"192.0.2.1": true, "2001:db8::1": true, "8.8.8.8": true,
		"10.0.0.1": false, "172.16.0.1": false, "192.168.1.1": false, "127.0.0.1": false, "169.254.1.1": false, "100.64.0.1": false,
		"0.0.0.0": false, "224.0.0.1": false, "::1": false, "fe80::1": false, "fd00::1": false,
	} {
		if got := public(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}
