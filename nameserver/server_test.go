package nameserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fingerpost/zone"

	"github.com/miekg/dns"
)

// TestDig has an independent program judge, which complains about whatever it
// finds wrong with a message.
func TestDig(t *testing.T) {
	at := listen(t, newServer(t), "127.0.0.1")
	tests := []struct {
		args  string
		want  []string // with single spaces
		never string
	}{
		{label + ".acme.example.net TXT", []string{"status: NOERROR", "flags: qr aa; QUERY: 1, ANSWER: 2, AUTHORITY: 0, ADDITIONAL: 1", `"one"`, `"two"`, "udp: 1232"}, ""},
		{label + ".aCMe.eXAMPLE.net TXT +noedns", []string{label + `.aCMe.eXAMPLE.net. 1 IN TXT "one"`}, "OPT"},
		{"acme.example.net SOA", []string{"ANSWER: 1", "ns1.acme.example.net. hostmaster.acme.example.net. 42 7200 900 1209600 1"}, ""},
		{"acme.example.net NS", []string{"ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 3", "192.0.2.10", "2001:db8::10"}, ""},
		{"nothing.acme.example.net TXT", []string{"status: NXDOMAIN", "AUTHORITY: 1"}, ""},
		{label + ".acme.example.net A", []string{"status: NOERROR", "ANSWER: 0, AUTHORITY: 1"}, ""},
		{"alias.example.com A", []string{"www.example.com.", "192.0.2.1"}, ""},
		{"x.small.example.com A", []string{"flags: qr; QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 2"}, ""},
		{"example.com CAA", []string{`0 issue "ca.example.net"`}, ""},
		{"www.example.com ANY", []string{`"RFC8482" ""`}, ""},
		{"www.google.com A", []string{"status: REFUSED"}, ""},
		{"version.bind TXT CH", []string{"status: REFUSED"}, ""},
		{"www.example.com A +edns=1 +noednsneg", []string{"status: BADVERS", "EDNS: version: 0"}, ""},
		{"www.example.com A +ednsopt=65001:abcd", []string{"status: NOERROR"}, "65001"},
		{"www.example.com A +ednsflags=0x40", []string{"status: NOERROR", "EDNS: version: 0, flags:; udp: 1232"}, "MBZ"},
		{"www.example.com A +dnssec", []string{"flags: do"}, ""},
		{"www.example.com A +subnet=192.0.2.0/24", []string{"CLIENT-SUBNET: 192.0.2.0/24/0"}, ""},
		{"www.example.com A +subnet=2001:db8::/56", []string{"CLIENT-SUBNET: 2001:db8::/56/0"}, ""},
		{"www.example.com A", []string{"(good)"}, ""}, // of the cookie
		{"www.example.com A +opcode=notify", []string{"status: NOTIMP"}, ""},
		{"www.example.com A +opcode=update", []string{"status: NOTIMP"}, ""},
		{"www.example.com A +header-only", []string{"status: NOERROR", "QUERY: 0, ANSWER: 0", "(good)"}, ""},
		{"www.example.com A +header-only +nocookie", []string{"status: FORMERR"}, ""},

		{"+notcp some.acme.example.net TXT +noedns +ignore", []string{"flags: qr aa tc; QUERY: 1, ANSWER: 0"}, ""},
		{"+notcp some.acme.example.net TXT +noedns", []string{"Truncated, retrying in TCP mode", "ANSWER: 10"}, ""},
		{"+notcp many.acme.example.net TXT +bufsize=4096 +ignore", []string{"flags: qr aa tc"}, ""},
		{"+tcp many.acme.example.net TXT +keepalive", []string{"ANSWER: 40", "KEEPALIVE: 10.0 secs"}, ""},
		{"+tcp example.com AXFR", []string{"Transfer failed"}, "SOA"},
	}
	for _, tt := range tests {
		args := strings.Fields(tt.args)
		runs := [][]string{args}
		if !strings.Contains(tt.args, "tcp") {
			runs = [][]string{append(args, "+notcp"), append(args[:len(args):len(args)], "+tcp")}
		}
		for _, args := range runs {
			out := dig(t, at, args...)
			words := strings.Join(strings.Fields(out), " ")
			for _, want := range tt.want {
				if !strings.Contains(words, want) {
					t.Errorf("dig %s lacks %q:\n%s", args, want, out)
				}
			}
			if tt.never != "" && strings.Contains(out, tt.never) {
				t.Errorf("dig %s has %q:\n%s", args, tt.never, out)
			}
			if strings.Contains(strings.ToLower(out), "warning") || strings.Contains(out, ";; Got bad") {
				t.Errorf("dig %s complains:\n%s", args, out)
			}
		}
	}
}

// TestAnswersFromTheAddressAsked: a socket that is bound to no address answers
// from the one that the client asked, or the client would not take it.
func TestAnswersFromTheAddressAsked(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has all of 127.0.0.0/8 on the loopback interface")
	}
	for _, address := range []string{"", "0.0.0.0", "[::]"} {
		at := listen(t, newServer(t), address)
		for _, to := range []string{"127.0.0.1", "127.0.0.2", "::1"} {
			if to == "::1" && address == "0.0.0.0" {
				continue
			}
			c := &dns.Client{Timeout: 5 * time.Second}
			// The client's socket is connected: it gets nothing from another address.
			m, _, err := c.Exchange(newQuery("www.example.com", "A"), net.JoinHostPort(to, fmt.Sprint(at.Port())))
			if err != nil || summary(m) != "NOERROR aa 1/1/0/0" {
				t.Errorf("%q asked at %s: %s, %v", address, to, summary(m), err)
			}
		}
	}
}

// dial connects to the server over TCP; reads end with the test's patience.
func dial(t testing.TB, at netip.AddrPort) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func frame(t testing.TB, q *dns.Msg) []byte {
	t.Helper()
	wire, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)
}

func readFrame(c io.Reader) (*dns.Msg, error) {
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	wire := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, wire); err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	return m, m.Unpack(wire)
}

// TestPipelining: queries that come at once are all answered, however their
// bytes are cut into segments.
func TestPipelining(t *testing.T) {
	at := listen(t, newServer(t), "127.0.0.1")
	const queries = 500
	var all []byte
	for i := range queries {
		q := newQuery([]string{"www.example.com", "many.acme.example.net", "example.org"}[i%3], "TXT")
		q.Id = uint16(i)
		all = append(all, frame(t, q)...)
	}
	for _, size := range []int{1, 7, 100, len(all)} {
		if size == 1 && testing.Short() {
			continue
		}
		c := dial(t, at)
		go func() {
			for rest := all; len(rest) > 0; {
				n, err := c.Write(rest[:min(size, len(rest))])
				if err != nil {
					return
				}
				rest = rest[n:]
			}
		}()
		for i := range queries {
			m, err := readFrame(c)
			if err != nil || m.Id != uint16(i) {
				t.Fatalf("segments of %d: answer %d is %v, %v", size, i, m, err)
			}
		}
	}
}

// TestBadTCP: messages that are none end their connection, and no other.
func TestBadTCP(t *testing.T) {
	at := listen(t, newServer(t), "127.0.0.1")
	good := dial(t, at)
	query := frame(t, newQuery("www.example.com", "A"))
	for name, bytes := range map[string][]byte{
		"length 0":                   {0, 0},
		"length 0 behind a query":    append(append([]byte{}, query...), 0, 0),
		"less than a header":         {0, 4, 1, 2, 3, 4},
		"longer than any query":      {0xff, 0xff, 1, 2},
		"http":                       []byte("GET / HTTP/1.1\r\n\r\n"),
		"TLS":                        {22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3},
		"an answer, then length 0":   append(frame(t, new(dns.Msg).SetReply(newQuery("a.example", "A"))), 0, 0),
		"closed within a message":    query[:8],
		"closed within a length":     query[:1],
		"closed at once":             nil,
		"a query, closed behind one": append(append([]byte{}, query...), query[:9]...),
	} {
		c := dial(t, at)
		c.Write(bytes)
		if strings.HasPrefix(name, "closed") || strings.Contains(name, ", closed") {
			c.(*net.TCPConn).CloseWrite()
		}
		answers := 0
		for {
			_, err := readFrame(c)
			if err != nil {
				var timeout net.Error
				if errors.As(err, &timeout) && timeout.Timeout() {
					t.Errorf("%s: the connection stays open", name)
				}
				break
			}
			answers++
		}
		want := 0
		if strings.Contains(name, "query") && !strings.HasPrefix(name, "longer") {
			want = 1
		}
		if answers != want {
			t.Errorf("%s: %d answers, want %d", name, answers, want)
		}
	}
	good.Write(query)
	if m, err := readFrame(good); err != nil || summary(m) != "NOERROR aa 1/1/0/0" {
		t.Errorf("the connection beside them: %s, %v", summary(m), err)
	}
}

// TestSlowTCP: bytes that drip, and a client that takes no answers, do not hold a
// connection.
func TestSlowTCP(t *testing.T) {
	open := make(chan int, 10)
	s := newServer(t)
	s.Limits = Limits{Idle: 200 * time.Millisecond, Write: 200 * time.Millisecond}
	s.Connections = func(delta int) { open <- delta }
	at := listen(t, s, "127.0.0.1")

	c := dial(t, at)
	query := frame(t, newQuery("www.example.com", "A"))
	began, dripped := time.Now(), 0
	for i := 0; ; i = (i + 1) % (len(query) - 1) { // never a whole message
		if i > 0 && dripped >= len(query)-1 {
			break
		}
		if _, err := c.Write(query[i : i+1]); err != nil {
			break
		}
		dripped++
		time.Sleep(20 * time.Millisecond) // the drip itself
	}
	if _, err := readFrame(c); !errors.Is(err, io.EOF) && !isReset(err) {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	if a, b := <-open, <-open; a != 1 || b != -1 {
		t.Errorf("connections went %d, %d", a, b)
	}

	c = dial(t, at)
	c.(*net.TCPConn).SetReadBuffer(4096)
	many := frame(t, newQuery("many.acme.example.net", "TXT"))
	for {
		if _, err := c.Write(many); err != nil {
			break // the server gave up on a client that only talks
		}
	}
	if a, b := <-open, <-open; a != 1 || b != -1 {
		t.Errorf("connections went %d, %d", a, b)
	}
}

func isReset(err error) bool { return err != nil && strings.Contains(err.Error(), "reset") }

// TestConnectionLimits: what is over the limits is closed at once, and a place
// that becomes free is used again.
func TestConnectionLimits(t *testing.T) {
	var open atomic.Int64
	closed := make(chan struct{}, 10)
	s := newServer(t)
	s.Limits = Limits{Connections: 5, PerClient: 3}
	s.Connections = func(delta int) {
		open.Add(int64(delta))
		if delta < 0 {
			closed <- struct{}{}
		}
	}
	at := listen(t, s, "127.0.0.1")
	query := frame(t, newQuery("www.example.com", "A"))
	try := func(local string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
		c, err := d.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
		c.Write(query)
		_, err = readFrame(c)
		return c, err
	}
	var conns []net.Conn
	for i := range 3 {
		c, err := try("127.0.0.1")
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		conns = append(conns, c)
	}
	if _, err := try("127.0.0.1"); err == nil {
		t.Error("a fourth connection of one client is answered")
	}
	if runtime.GOOS == "linux" {
		for i := range 2 {
			if _, err := try("127.0.0.2"); err != nil {
				t.Errorf("connection %d of another client: %v", i, err)
			}
		}
		if _, err := try("127.0.0.3"); err == nil {
			t.Error("a sixth connection is answered")
		}
	}
	conns[0].Close()
	<-closed
	if _, err := try("127.0.0.1"); err != nil {
		t.Errorf("after one was closed: %v", err)
	}
	if n := open.Load(); n > 5 {
		t.Errorf("%d connections are open", n)
	}
}

// TestIdleShrinks: with more than half of the connections in use, those that do
// nothing have less time.
func TestIdleShrinks(t *testing.T) {
	s := &Server{Limits: Limits{Connections: 10}}
	s.start()
	for open, want := range map[int64]time.Duration{0: 10 * time.Second, 5: 10 * time.Second, 6: time.Second} {
		s.open.Store(open)
		if got := s.idle(); got != want {
			t.Errorf("with %d open: %v, want %v", open, got, want)
		}
	}
}

// TestShutdown: what was read is answered, connections that wait are closed, and
// nothing is served after.
func TestShutdown(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	set := testSet(t)
	s := &Server{Zones: func() *zone.Set {
		asked <- struct{}{}
		<-release
		return set
	}}
	u, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 2)
	go func() { served <- s.ServeUDP(u) }()
	go func() { served <- s.ServeTCP(l) }()
	tcp := l.Addr().(*net.TCPAddr).AddrPort()
	idle, busy := dial(t, tcp), dial(t, tcp)
	uc, err := net.Dial("udp", u.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer uc.Close()
	uc.SetDeadline(time.Now().Add(20 * time.Second))
	query := frame(t, newQuery("www.example.com", "A"))
	busy.Write(query)
	uc.Write(query[2:])
	<-asked
	<-asked

	stopped := make(chan error, 1)
	go func() { stopped <- s.Shutdown(t.Context()) }()
	if _, err := readFrame(idle); !errors.Is(err, io.EOF) {
		t.Errorf("the idle connection: %v", err)
	}
	close(release)
	if m, err := readFrame(busy); err != nil || summary(m) != "NOERROR aa 1/1/0/0" {
		t.Errorf("the query over TCP: %s, %v", summary(m), err)
	}
	answer := make([]byte, 1500)
	if n, err := uc.Read(answer); err != nil || n < 12 {
		t.Errorf("the query over UDP: %d bytes, %v", n, err)
	}
	for range 2 {
		if err := <-served; err != nil {
			t.Errorf("serving ended with %v", err)
		}
	}
	if err := <-stopped; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	again, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ServeTCP(again); err != nil {
		t.Errorf("serving after Shutdown: %v", err)
	}
	if _, err := again.Accept(); err == nil {
		t.Error("a listener that came after Shutdown is open")
	}
}

// TestShutdownHasAnEnd: a query that hangs does not keep the program alive.
func TestShutdownHasAnEnd(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	s := &Server{Zones: func() *zone.Set { asked <- struct{}{}; <-release; return nil }}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.ServeTCP(l)
	c := dial(t, l.Addr().(*net.TCPAddr).AddrPort())
	c.Write(frame(t, newQuery("www.example.com", "A")))
	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- s.Shutdown(ctx) }()
	if _, err := readFrame(c); err == nil {
		t.Error("an answer, without data")
	}
	close(release) // a function that was handed in cannot be stopped, only waited for
	if err := <-stopped; !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
}

// TestGarbageOverUDP: the socket survives what nobody should send.
func TestGarbageOverUDP(t *testing.T) {
	at := listen(t, newServer(t), "127.0.0.1")
	c, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	for _, n := range []int{0, 1, 11, 12, 100, 5000, 60000} {
		c.Write(bytes.Repeat([]byte{0xff}, n)) // QR is set: no answer
	}
	c.Write(frame(t, newQuery("www.example.com", "A"))[2:])
	answer := make([]byte, 1500)
	n, err := c.Read(answer)
	m := new(dns.Msg)
	if err != nil || m.Unpack(answer[:n]) != nil || summary(m) != "NOERROR aa 1/1/0/0" {
		t.Errorf("%s, %v", summary(m), err)
	}
}

// BenchmarkUDP prints the queries per second of a server and its clients on one
// machine, each client with a window of queries under way.
func BenchmarkUDP(b *testing.B) {
	for _, address := range []string{"127.0.0.1", "0.0.0.0"} {
		b.Run(address, func(b *testing.B) {
			s := newServer(b)
			at := listen(b, s, address)
			query := frame(b, newQuery(label+".acme.example.net", "TXT"))[2:]
			const window = 32
			var left atomic.Int64
			left.Store(int64(b.N))
			done := make(chan error)
			clients := 2 * runtime.GOMAXPROCS(0)
			b.ResetTimer()
			for range clients {
				go func() {
					c, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", at.Port()))
					if err != nil {
						done <- err
						return
					}
					defer c.Close()
					buf := make([]byte, 1500)
					for err == nil {
						n := min(window, left.Add(-window)+window)
						if n <= 0 {
							break
						}
						for range n {
							c.Write(query)
						}
						c.SetReadDeadline(time.Now().Add(5 * time.Second))
						for range n {
							if _, err = c.Read(buf); err != nil {
								break
							}
						}
					}
					done <- err
				}()
			}
			for range clients {
				if err := <-done; err != nil {
					b.Error(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
		})
	}
}

// BenchmarkTCP is BenchmarkUDP with queries that are pipelined on connections.
func BenchmarkTCP(b *testing.B) {
	at := listen(b, newServer(b), "127.0.0.1")
	const window = 32
	query := bytes.Repeat(frame(b, newQuery(label+".acme.example.net", "TXT")), window)
	c := dial(b, at)
	m, err := func() (int, error) { c.Write(query[:len(query)/window]); b := make([]byte, 1500); return c.Read(b) }()
	if err != nil {
		b.Fatal(err)
	}
	answers := make([]byte, m*window)
	b.ResetTimer()
	for range (b.N + window - 1) / window {
		c.SetDeadline(time.Now().Add(5 * time.Second))
		c.Write(query)
		if _, err := io.ReadFull(c, answers); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
}
