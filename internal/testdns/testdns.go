// Package testdns is a recursive resolver for tests, with the zones of customers
// in it. A test sets records, lets names fail, and tells which zones a real name
// server answers for: where a name or a CNAME leads there, that server is asked
// over the network, as a resolver asks, and its answer joins the one message that
// the client gets.
//
// Start reading at [New] and [Server.resolve].
package testdns

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Fault is what goes wrong with a name, whatever is asked about it.
type Fault int

const (
	None     Fault = iota
	ServFail       // the name's own servers are broken
	Timeout        // no answer ever comes
	NXDomain       // the name is not there
	Refused
)

// Server is the resolver. Its methods may be called at any time by several
// goroutines; a change counts from the next question on. Names may be written in
// any case, with or without a final dot.
type Server struct {
	t    testing.TB
	addr string

	mu       sync.Mutex // guards what follows
	records  map[key][]dns.RR
	later    []change
	forward  map[string]string // zone → address
	faults   map[string]Fault
	counts   map[key]int
	answered int
}

type key struct {
	name  string
	qtype uint16
}

// change waits until its name has been asked for a few times more.
type change struct {
	left   int
	set    key
	values []dns.RR
}

// New starts a resolver on loopback, over UDP and TCP on one port, until the end
// of the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{
		t: t, records: map[key][]dns.RR{}, forward: map[string]string{},
		faults: map[string]Fault{}, counts: map[key]int{},
	}
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		u, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil {
			l.Close() // somebody has the port for UDP
			continue
		}
		s.addr = l.Addr().String()
		var wg sync.WaitGroup
		var servers []*dns.Server
		for _, server := range []*dns.Server{{Listener: l}, {PacketConn: u}} {
			started := make(chan struct{})
			server.Handler = dns.HandlerFunc(s.serve)
			server.NotifyStartedFunc = func() { close(started) }
			servers = append(servers, server)
			wg.Go(func() { server.ActivateAndServe() })
			<-started
		}
		t.Cleanup(func() {
			for _, server := range servers {
				server.Shutdown()
			}
			wg.Wait()
		})
		return s
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil
}

// Addr is the resolver's address with its port.
func (s *Server) Addr() string { return s.addr }

// Set makes values all that there is for name and qtype ("A", "CNAME", "TXT", …).
// TXT values stand as they are, all others as in a zone file:
// `0 issue "ca.example"`. Without values the records are removed. A name whose
// first label is * stands for all below that have no records of their own.
func (s *Server) Set(name, qtype string, values ...string) {
	s.t.Helper()
	k, rrs := s.parse(name, qtype, values)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(k, rrs)
}

// SetAfter is Set, in force once name has been asked for n times more, whatever
// the type: the first n still see what was there before.
func (s *Server) SetAfter(n int, name, qtype string, values ...string) {
	s.t.Helper()
	k, rrs := s.parse(name, qtype, values)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.later = append(s.later, change{n, k, rrs})
}

// Remove takes all records of name away, and what [Server.SetAfter] has planned.
func (s *Server) Remove(name string) {
	name = dns.CanonicalName(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.records {
		if k.name == name {
			delete(s.records, k)
		}
	}
	s.later = slices.DeleteFunc(s.later, func(c change) bool { return c.set.name == name })
}

// Forward has the server at addr asked for zone and all below it.
func (s *Server) Forward(zone, addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forward[dns.CanonicalName(zone)] = addr
}

// Fail lets everything about name go wrong, also where a CNAME leads to it; None
// mends it.
func (s *Server) Fail(name string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[dns.CanonicalName(name)] = f
}

// Count is how often the resolver was asked for name and qtype; an empty qtype
// counts all types. Where CNAMEs led does not count.
func (s *Server) Count(name, qtype string) int {
	name = dns.CanonicalName(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if qtype != "" {
		return s.counts[key{name, dns.StringToType[qtype]}]
	}
	n := 0
	for k, count := range s.counts {
		if k.name == name {
			n += count
		}
	}
	return n
}

// Queries is how often the resolver was asked at all.
func (s *Server) Queries() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answered
}

func (s *Server) parse(name, qtype string, values []string) (key, []dns.RR) {
	s.t.Helper()
	t, ok := dns.StringToType[qtype]
	if !ok {
		s.t.Fatalf("testdns: unknown type %q", qtype)
	}
	k := key{dns.CanonicalName(name), t}
	var rrs []dns.RR
	for _, value := range values {
		if t == dns.TypeTXT {
			rr := &dns.TXT{Hdr: dns.RR_Header{Name: k.name, Rrtype: t, Class: dns.ClassINET, Ttl: 1}}
			for len(value) > 255 {
				rr.Txt, value = append(rr.Txt, escape(value[:255])), value[255:]
			}
			rr.Txt = append(rr.Txt, escape(value))
			rrs = append(rrs, rr)
			continue
		}
		rr, err := dns.NewRR(fmt.Sprintf("%s 1 IN %s %s", k.name, qtype, value))
		if err != nil || rr == nil {
			s.t.Fatalf("testdns: %s %s %q: %v", name, qtype, value, err)
		}
		rrs = append(rrs, rr)
	}
	return k, rrs
}

// escape writes value as the library holds strings.
func escape(value string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value)
}

// put is called with s.mu held.
func (s *Server) put(k key, rrs []dns.RR) {
	if len(rrs) == 0 {
		delete(s.records, k)
		return
	}
	s.records[k] = rrs
}

var errTimeout = errors.New("no answer")

func (s *Server) serve(w dns.ResponseWriter, q *dns.Msg) {
	if len(q.Question) != 1 {
		return
	}
	asked := q.Question[0]
	s.note(asked)
	m, err := s.resolve(asked)
	switch {
	case errors.Is(err, errTimeout):
		return
	case err != nil:
		s.t.Logf("testdns: %s %s: %v", asked.Name, dns.TypeToString[asked.Qtype], err)
		m = &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}}
	}
	m.Id, m.Response, m.Opcode = q.Id, true, q.Opcode
	m.RecursionDesired, m.RecursionAvailable = q.RecursionDesired, true
	m.Question = q.Question
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(1232, opt.Do())
		size = max(size, min(int(opt.UDPSize()), 1232))
	}
	if w.LocalAddr().Network() == "tcp" {
		size = dns.MaxMsgSize
	}
	m.Compress = true
	m.Truncate(size)
	w.WriteMsg(m)
}

// note counts a question, and lets the changes that waited for it come.
func (s *Server) note(asked dns.Question) {
	name := dns.CanonicalName(asked.Name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered++
	s.counts[key{name, asked.Qtype}]++
	s.later = slices.DeleteFunc(s.later, func(c change) bool { return s.isDue(c) })
	for i := range s.later {
		if s.later[i].set.name == name {
			s.later[i].left--
		}
	}
}

func (s *Server) isDue(c change) bool {
	if c.left <= 0 {
		s.put(c.set, c.values)
	}
	return c.left <= 0
}

// resolve follows a name through our own records and through the servers of
// forwarded zones, and gives all of it in one message.
func (s *Server) resolve(asked dns.Question) (*dns.Msg, error) {
	m := new(dns.Msg)
	name := asked.Name // as written, so that the answer's first owner is the question's
	for range 10 {
		fault, server, zone := s.wayTo(name)
		switch fault {
		case ServFail:
			return nil, fmt.Errorf("%s is set to fail", name)
		case Timeout:
			return nil, errTimeout
		case NXDomain:
			m.Rcode = dns.RcodeNameError
			return m, nil
		case Refused:
			m.Rcode = dns.RcodeRefused
			return m, nil
		}
		var answer []dns.RR
		if server != "" {
			r, err := exchange(server, name, asked.Qtype)
			if err != nil {
				return nil, fmt.Errorf("the server of %s: %w", zone, err)
			}
			answer, m.Ns, m.Rcode = r.Answer, r.Ns, r.Rcode
		} else {
			answer, m.Rcode = s.own(name, asked.Qtype)
		}
		m.Answer = append(m.Answer, answer...)
		if len(answer) == 0 || asked.Qtype == dns.TypeCNAME || m.Rcode != dns.RcodeSuccess {
			return m, nil
		}
		last, ok := answer[len(answer)-1].(*dns.CNAME)
		if !ok {
			return m, nil
		}
		if server != "" && dns.IsSubDomain(zone, last.Target) {
			return m, nil // its zone's server has said all about it
		}
		name = last.Target
	}
	return nil, errors.New("too many CNAMEs")
}

// wayTo gives what is wrong with name, and the server to ask, if it is not ours.
func (s *Server) wayTo(name string) (f Fault, server, zone string) {
	name = dns.CanonicalName(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	for z, addr := range s.forward {
		if dns.IsSubDomain(z, name) && len(z) > len(zone) {
			server, zone = addr, z
		}
	}
	return s.faults[name], server, zone
}

// own answers from the records that the test has set.
func (s *Server) own(name string, qtype uint16) ([]dns.RR, int) {
	canonical := dns.CanonicalName(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	at := canonical
	if !s.exists(at) {
		for up := at; ; {
			i, end := dns.NextLabel(up, 0)
			if end {
				return nil, dns.RcodeNameError
			}
			up = up[i:]
			if s.exists("*." + up) {
				at = "*." + up
				break
			}
			if s.exists(up) {
				return nil, dns.RcodeNameError
			}
		}
	}
	rrs := s.records[key{at, qtype}]
	if rrs == nil {
		rrs = s.records[key{at, dns.TypeCNAME}]
	}
	var out []dns.RR
	for _, rr := range rrs {
		rr = dns.Copy(rr)
		rr.Header().Name = name
		out = append(out, rr)
	}
	return out, dns.RcodeSuccess
}

// exists reports whether there are records at name or below it. It is called
// with s.mu held.
func (s *Server) exists(name string) bool {
	for k := range s.records {
		if dns.IsSubDomain(name, k.name) {
			return true
		}
	}
	return false
}

// exchange asks an authoritative server as a resolver does: over UDP with EDNS
// and letters in random case, which the answer must repeat, and over TCP if that
// is too small.
func exchange(server, name string, qtype uint16) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(mixCase(name), qtype)
	q.RecursionDesired = false
	q.SetEdns0(1232, false)
	for _, network := range []string{"udp", "tcp"} {
		c := dns.Client{Net: network, Timeout: 5 * time.Second, UDPSize: 1232}
		r, _, err := c.Exchange(q, server)
		switch {
		case err != nil:
			return nil, err
		case len(r.Question) != 1 || r.Question[0] != q.Question[0]:
			return nil, fmt.Errorf("asked %v, the answer is to %v", q.Question[0], r.Question)
		case r.Rcode != dns.RcodeSuccess && r.Rcode != dns.RcodeNameError:
			return nil, fmt.Errorf("%s", dns.RcodeToString[r.Rcode])
		case r.Truncated && network == "udp":
			continue
		case !r.Authoritative || r.RecursionAvailable:
			return nil, errors.New("the answer is not an authority's")
		}
		for _, rr := range r.Answer {
			if strings.EqualFold(rr.Header().Name, name) {
				rr.Header().Name = name
			}
		}
		return r, nil
	}
	return nil, errors.New("truncated over TCP")
}

func mixCase(name string) string {
	b := []byte(strings.ToLower(name))
	for i, c := range b {
		if 'a' <= c && c <= 'z' && rand.IntN(2) == 0 {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}
