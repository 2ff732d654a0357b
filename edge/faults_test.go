package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/cert"
	"fingerpost/redirect"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// visitors ask one request after the other, by every door, and keep how long each took.
type visitors struct {
	took   []time.Duration
	failed []error
	mu     sync.Mutex // guards the two
	count  atomic.Int64
	stop   chan struct{}
	done   sync.WaitGroup
}

func (s *site) visit(n int, pause time.Duration) *visitors {
	v := &visitors{stop: make(chan struct{})}
	for i := range n {
		v.done.Go(func() {
			transport, scheme, major := s.visitor(i)
			defer transport.CloseIdleConnections()
			for k := 0; ; k++ {
				select {
				case <-v.stop:
					return
				case <-time.After(pause):
				}
				if k%20 == 19 {
					transport.CloseIdleConnections() // and then a new connection, and a handshake
				}
				began := time.Now()
				req, _ := http.NewRequest("GET", scheme+"://a.example/x", nil)
				resp, err := transport.RoundTrip(req)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if resp.StatusCode != 301 || resp.ProtoMajor != major {
						err = fmt.Errorf("%s: status %d", resp.Proto, resp.StatusCode)
					}
				}
				v.mu.Lock()
				v.took = append(v.took, time.Since(began))
				if err != nil {
					v.failed = append(v.failed, err)
				}
				v.mu.Unlock()
				v.count.Add(1)
			}
		})
	}
	return v
}

// visitor is a way in: in the clear, over TLS, by HTTP/2, by HTTP/3, and again.
func (s *site) visitor(i int) (transport interface {
	http.RoundTripper
	CloseIdleConnections()
}, scheme string, major int) {
	config := &tls.Config{ServerName: "a.example", RootCAs: ca.Pool()}
	dial := func(to string) func(context.Context, string, string) (net.Conn, error) {
		return func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, to)
		}
	}
	switch i % 4 {
	case 0:
		return &http.Transport{DialContext: dial(s.http)}, "http", 1
	case 1:
		return &http.Transport{TLSClientConfig: config, DialContext: dial(s.https)}, "https", 1
	case 2:
		return &http.Transport{TLSClientConfig: config, DialContext: dial(s.https), ForceAttemptHTTP2: true}, "https", 2
	}
	return &http3.Transport{TLSClientConfig: config, Dial: func(ctx context.Context, _ string, config *tls.Config, quicConfig *quic.Config) (*quic.Conn, error) {
		return quic.DialAddr(ctx, s.https, config, quicConfig)
	}}, "https", 3
}

// wait returns once so many have been answered more.
func (v *visitors) wait(n int64) {
	for until := v.count.Load() + n; v.count.Load() < until; {
		time.Sleep(5 * time.Millisecond)
	}
}

// end stops them, and gives what took the longest but for one in a hundred.
func (v *visitors) end(t *testing.T) (p99 time.Duration) {
	t.Helper()
	close(v.stop)
	v.done.Wait()
	for _, err := range v.failed {
		t.Errorf("a visitor failed: %v", err)
	}
	slices.Sort(v.took)
	return v.took[len(v.took)*99/100]
}

// cut shortens what fills a machine for tests that are to be quick.
func cut(n int) int {
	if testing.Short() {
		return n / 20
	}
	return n
}

// TestVisitorsAmongFaults has thousands of connections that do no good, while others
// are answered as before. Times are printed, of three turns without and with faults;
// memory and failures are held.
func TestVisitorsAmongFaults(t *testing.T) {
	idle, slow, stuck := cut(10_000), cut(2_000), cut(200)
	need := uint64(idle + 2*(slow+stuck) + 2000) // the other ends of the idle ones are another process's
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < need {
		raised := syscall.Rlimit{Cur: need, Max: max(limit.Max, need)}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err != nil {
			t.Skipf("%d descriptors are needed: %v", need, err)
		}
		defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
	s := start(t, compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/:splat"}}, nil), func(s *Server) {
		s.Access = nil
		s.Limits = Limits{Header: 20 * time.Second, Idle: time.Minute}
	}, []string{"a.example"})

	// As the program has it: a loop a core keeps a thread of Go's busy.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2 * runtime.NumCPU()))
	var before, during []time.Duration
	for range 3 {
		b, d := s.amongFaults(t, idle, slow, stuck)
		before, during = append(before, b), append(during, d)
	}
	slices.Sort(before)
	slices.Sort(during)
	t.Logf("medians: p99 of visitors %v, %v among faults: %.1f times", before[1], during[1], during[1].Seconds()/before[1].Seconds())
}

// inUse is the memory of this process that is not free.
func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// amongFaults is one turn: visitors alone, then among so many connections.
func (s *site) amongFaults(t *testing.T, idle, slow, stuck int) (before, during time.Duration) {
	v := s.visit(8, 5*time.Millisecond)
	v.wait(int64(cut(4000)))
	before = v.end(t)
	empty := inUse()

	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	dial := func(addr string) net.Conn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		return c
	}
	release := hold(t, s.http, idle)
	defer release()
	idling := inUse()
	slowly := make([]net.Conn, slow)
	for i := range slowly {
		slowly[i] = dial(s.http)
	}
	many := make([]byte, 0, 64<<10)
	for len(many) < 60<<10 {
		many = append(many, good...)
	}
	for range stuck { // asks and asks and reads nothing
		c := dial(s.http)
		c.(*net.TCPConn).SetReadBuffer(4 << 10)
		c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
		for {
			if _, err := c.Write(many); err != nil {
				break
			}
		}
	}

	stop := make(chan struct{})
	var faults sync.WaitGroup
	faults.Go(func() { // heads byte by byte
		head := "GET /slow HTTP/1.1\r\nHost: a.example\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"
		for i := range head {
			for _, c := range slowly {
				c.Write([]byte{head[i]})
			}
			select {
			case <-stop:
				return
			case <-time.After(250 * time.Millisecond):
			}
		}
	})
	var resets atomic.Int64
	faults.Go(func() { // resets in the middle of handshakes, and behind requests
		hello := []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
		for k := 0; ; k++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			addr, what := s.https, hello
			if k%2 == 1 {
				addr, what = s.http, []byte(good)
			}
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			c.Write(what)
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
			resets.Add(1)
		}
	})

	v = s.visit(8, 5*time.Millisecond)
	v.wait(int64(cut(4000)))
	during = v.end(t)
	full := inUse()
	close(stop)
	faults.Wait()

	perIdle := float64(idling-min(empty, idling)) / float64(idle)
	t.Logf("p99 of visitors: %v before, %v among %d idle, %d slow and %d stuck connections and %d resets", before, during, idle, slow, stuck, resets.Load())
	t.Logf("memory: %d MB before, %d MB with the idle (%.0f bytes each), %d MB with all", empty>>20, idling>>20, perIdle, full>>20)
	if full > empty+128<<20 {
		t.Errorf("memory grew from %d to %d MB", empty>>20, full>>20)
	}
	release()
	for _, c := range open {
		c.Close()
	}
	goroutines := runtime.NumGoroutine()
	for deadline := time.Now().Add(10 * time.Second); s.frontConns() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are still counted, with %d goroutines", s.frontConns(), goroutines)
		}
	}
	return before, during
}

// hold has a process of its own keep so many idle connections, each answered once.
func hold(t *testing.T, addr string, n int) (release func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHoldConnections$")
	cmd.Env = append(os.Environ(), "HOLD_ADDR="+addr, fmt.Sprint("HOLD_COUNT=", n))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() {
		stdin.Close()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "held\n" {
		release()
		t.Fatalf("connections are not held: %q, %v", line, err)
	}
	return release
}

// TestHoldConnections is the process of hold.
func TestHoldConnections(t *testing.T) {
	addr := os.Getenv("HOLD_ADDR")
	if addr == "" {
		return
	}
	var n int
	fmt.Sscan(os.Getenv("HOLD_COUNT"), &n)
	var limit syscall.Rlimit
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	limit.Cur = limit.Max
	syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	conns := make([]net.Conn, n)
	for i := range conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, good)
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		conns[i] = c
	}
	fmt.Println("held")
	io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(conns)
}

// frontConns is how many connections are open.
func (s *site) frontConns() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.fronts {
		n += f.conns.count.Load()
	}
	return n
}

// TestSwapsUnderLoadFailNobody swaps the table and reloads certificates, again and
// again.
func TestSwapsUnderLoadFailNobody(t *testing.T) {
	swaps := 1000
	if testing.Short() {
		swaps = 100
	}
	dir := t.TempDir()
	write := func() {
		certPEM, keyPEM := ca.Issue("a.example")
		if err := os.WriteFile(filepath.Join(dir, "new"), append(certPEM, keyPEM...), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "a.pem")); err != nil {
			t.Fatal(err)
		}
	}
	write()
	certs, _, err := cert.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var table atomic.Pointer[redirect.Table]
	compiled := func(i int) *redirect.Table {
		return compile(t, []fingerpost.Host{{Name: "a.example", To: fmt.Sprintf("https://to%d.example/:splat", i%7)}}, nil)
	}
	table.Store(compiled(0))
	s := start(t, nil, func(s *Server) {
		s.Table, s.Certificate, s.Covered, s.Access = table.Load, certs.Certificate, certs.Covers, nil
	})
	v := s.visit(8, 0) // two by each door
	for i := range swaps {
		table.Store(compiled(i))
		write()
		if _, _, err := certs.Reload(); err != nil {
			t.Fatal(err)
		}
		v.wait(1)
	}
	p99 := v.end(t)
	t.Logf("%d requests by all doors, none failed, while the table was swapped and certificates were reloaded %d times each; p99 %v", v.count.Load(), swaps, p99)
}

// A client that reads nothing is given what fits and then waits; it is not read from
// either, so it cannot fill our memory.
func TestAClientThatDoesNotReadIsNotReadFrom(t *testing.T) {
	for _, loops := range []int{0, -1} {
		s := doorSite(t, func(s *Server) { s.Loops = loops; s.Limits.Request = time.Second })
		c, err := net.Dial("tcp", s.http)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetWriteDeadline(time.Now().Add(20 * time.Second))
		sent := 0
		for err == nil && sent < 256<<20 {
			var n int
			n, err = io.WriteString(c, good+good+good+good+good+good+good+good)
			sent += n
		}
		if sent >= 256<<20 {
			t.Errorf("loops %d: %d MB were taken", loops, sent>>20)
		}
		if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Errorf("loops %d: the connection was not closed in time", loops)
		}
		// Others are served meanwhile and after.
		conn := s.dial(false, "")
		defer conn.Close()
		if got := s.exchange(conn, bufio.NewReader(conn), good); got.StatusCode != 301 {
			t.Errorf("got %d", got.StatusCode)
		}
	}
}
