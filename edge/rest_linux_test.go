package edge

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/redirect"
)

// resting is how many connections wait without a worker.
func resting() (n int) {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(stack, "edge.(*front).wait(") && !strings.Contains(stack, "serveConn(") {
			n++
		}
	}
	return n
}

// until waits for what others do.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to: ", what)
		}
	}
}

// restingConns are connections of the goroutine lanes that have had an answer and rest.
func restingConns(t *testing.T, s *site) (conns []net.Conn, readers []*bufio.Reader) {
	before := resting()
	for _, https := range []bool{false, true} {
		conn := s.dial(https, "a.example")
		t.Cleanup(func() { conn.Close() })
		r := bufio.NewReader(conn)
		if got := s.exchange(conn, r, good); got.StatusCode != 301 {
			t.Errorf("got %d", got.StatusCode)
		}
		conns, readers = append(conns, conn), append(readers, r)
	}
	until(t, "two connections rest", func() bool { return resting() == before+2 })
	return conns, readers
}

func goroutinesOnly(s *Server) { s.Loops = -1 }

func TestRestingConnectionsAreAnswered(t *testing.T) {
	s := doorSite(t, goroutinesOnly)
	conns, readers := restingConns(t, s)
	for i, conn := range conns {
		for range 3 {
			if got := s.exchange(conn, readers[i], good); got.StatusCode != 301 {
				t.Errorf("got %d", got.StatusCode)
			}
		}
		// The head in two pieces, the connection at rest between them or not.
		io.WriteString(conn, good[:20])
		time.Sleep(restAfter + restAfter/2)
		if got := s.exchange(conn, readers[i], good[20:]); got.StatusCode != 301 {
			t.Errorf("in pieces: got %d", got.StatusCode)
		}
	}
}

// A record of TLS that has come in part is nothing to answer yet: the rest of it wakes
// the connection again.
func TestRestingAmidARecord(t *testing.T) {
	s := doorSite(t, nil)
	raw, err := net.Dial("tcp", s.https)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	slow := &held{Conn: raw}
	conn := tls.Client(slow, &tls.Config{ServerName: "a.example", RootCAs: ca.Pool()})
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(conn)
	before := resting()
	for _, size := range []int{1, 5, 6, 40} { // of the record's header, and of what it seals
		if got := s.exchange(conn, r, good); got.StatusCode != 301 {
			t.Errorf("got %d", got.StatusCode)
		}
		until(t, "it rests", func() bool { return resting() == before+1 })
		slow.hold = true
		if _, err := io.WriteString(conn, good); err != nil {
			t.Fatal(err)
		}
		slow.hold = false
		raw.Write(slow.kept[:size])
		until(t, "it reads", func() bool { return resting() == before })
		if got := s.exchange(held{Conn: raw}.writing(slow.kept[size:]), r, ""); got.StatusCode != 301 {
			t.Errorf("after %d bytes: got %d", size, got.StatusCode)
		}
		slow.kept = nil
	}
}

// held keeps what is written.
type held struct {
	net.Conn
	hold bool
	kept []byte
}

func (h *held) Write(p []byte) (int, error) {
	if !h.hold {
		return h.Conn.Write(p)
	}
	h.kept = append(h.kept, p...)
	return len(p), nil
}

// writing sends b with whatever is written first.
func (h held) writing(b []byte) net.Conn { return &first{h.Conn, b} }

type first struct {
	net.Conn
	b []byte
}

func (f *first) Write(p []byte) (int, error) {
	_, err := f.Conn.Write(append(f.b, p...))
	return len(p), err
}

func TestRestingConnectionsEnd(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limits Limits
		end    func(*site)
	}{
		{"by Shutdown", Limits{}, (*site).shutdown},
		{"when their time is over", Limits{Idle: restAfter + time.Second}, func(*site) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := doorSite(t, func(s *Server) { s.Loops, s.Limits = -1, tt.limits })
			_, readers := restingConns(t, s)
			began := time.Now()
			tt.end(s)
			for _, r := range readers {
				if _, err := r.ReadByte(); err != io.EOF {
					t.Errorf("got %v, want the end", err)
				}
			}
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("it took %v", took)
			}
			until(t, "nothing is counted", func() bool { return s.frontConns() == 0 })
		})
	}
}

// Who leaves without a word wakes the connection as well.
func TestRestingConnectionsNoticeTheEnd(t *testing.T) {
	s := doorSite(t, goroutinesOnly)
	conns, _ := restingConns(t, s)
	conns[0].(*net.TCPConn).SetLinger(0)
	for _, c := range conns {
		c.Close()
	}
	until(t, "nothing is counted", func() bool { return s.frontConns() == 0 })
}

// A listener that is being served when Shutdown comes ends with it, however far it was.
func TestShutdownWhileLoopsBegin(t *testing.T) {
	table := compile(t, []fingerpost.Host{{Name: "a.example"}}, nil)
	for i := range 50 {
		s := &Server{Table: func() *redirect.Table { return table }}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		exit := make(chan error, 1)
		go func() { exit <- s.ServePlain(l) }()
		for range i * 20 {
			runtime.Gosched()
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-exit; err != nil {
			t.Error(err)
		}
	}
}
