// Package nameserver answers DNS queries over UDP and TCP, as an authoritative
// server does: it reads a query, checks it, asks the zones and writes what they
// say.
//
// It knows messages (RFC 1035, 6891), sockets, and what protects others from
// being hit by our answers: their size, their rate, cookies. It does not know
// where zones come from; it looks nothing up elsewhere and answers for nothing
// but them. The way of a query takes no lock and touches no disk.
//
// Start reading at [Server], then responder.respond in respond.go, which is the
// whole way of one query; query.parse in query.go reads it, writer lays the
// answer out, udp.go and tcp.go carry both.
package nameserver

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"fingerpost/zone"
)

// Server answers on any number of sockets. The fields are set before the first
// is served and not changed after; its methods may be called by several
// goroutines at once.
type Server struct {
	// Zones gives the data to answer from. It is called once for each query, which
	// sees that data only, and must not wait. While it gives nil, the answer is
	// SERVFAIL: resolvers then ask another server and come back.
	Zones func() *zone.Set

	// What follows may be nil or zero.

	Observe     func(Event)      // called after each query that was one
	Connections func(delta int)  // called when a TCP connection begins and ends
	Now         func() time.Time // the clock; default time.Now
	Log         *slog.Logger     // default slog.Default()
	Limits      Limits

	// CookieSecret makes the cookies of this server (RFC 9018). All servers behind
	// one name need the same; zero stands for one that nobody else has.
	CookieSecret [16]byte

	once    sync.Once // guards what start sets
	secret  [16]byte
	limits  Limits
	limiter *limiter

	closing   atomic.Bool    // set once, under mu
	serving   sync.WaitGroup // sockets and connections; grows under mu, and not once closing is set
	mu        sync.Mutex     // guards what follows
	sockets   map[io.Closer]struct{}
	conns     map[net.Conn]struct{}
	perClient map[netip.Addr]int // connections; no zeros
	open      atomic.Int64       // len(conns), to be read without mu
}

// Limits bound what clients can ask of the server. Zero fields stand for the
// defaults.
type Limits struct {
	Responses   int           // equal answers over UDP in a second to one network (IPv4 /24, IPv6 /56), with five seconds' worth at once; negative: no limit; default 20
	Connections int           // over TCP at once; default 4096
	PerClient   int           // of them from one address; default 64
	Idle        time.Duration // for the next query on a connection to arrive whole; a tenth of it while more than half of all connections are open; default 10 s
	Write       time.Duration // for a client to take its answers; default 5 s
}

// Event says what became of one query.
type Event struct {
	TCP       bool
	Type      zone.Type // 0 if it could not be read
	Rcode     Rcode
	Truncated bool // the client was told to come over TCP
	Limited   bool // there were too many answers like this; dropped unless Truncated
}

// start fixes what the fields say. Every method that answers calls it first.
func (s *Server) start() {
	s.once.Do(func() {
		s.limits = s.Limits
		def := func(p *int, v int) {
			if *p == 0 {
				*p = v
			}
		}
		def(&s.limits.Responses, 20)
		def(&s.limits.Connections, 4096)
		def(&s.limits.PerClient, 64)
		if s.limits.Idle == 0 {
			s.limits.Idle = 10 * time.Second
		}
		if s.limits.Write == 0 {
			s.limits.Write = 5 * time.Second
		}
		if s.secret = s.CookieSecret; s.secret == [16]byte{} {
			rand.Read(s.secret[:])
		}
		s.limiter = newLimiter(s.limits.Responses, s.now())
		s.sockets, s.conns, s.perClient = map[io.Closer]struct{}{}, map[net.Conn]struct{}{}, map[netip.Addr]int{}
	})
}

// Answer appends to buf what the server answers to query from client; nothing if
// it answers nothing. It is what a query over the network goes through.
func (s *Server) Answer(buf, query []byte, client netip.Addr, tcp bool) []byte {
	s.start()
	r := responder{s: s}
	return r.respond(buf, query, client, tcp)
}

// begin registers a socket. It reports false after Shutdown.
func (s *Server) begin(c io.Closer) bool {
	s.start()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.sockets[c] = struct{}{}
	s.serving.Add(1)
	return true
}

func (s *Server) end(c io.Closer) {
	c.Close()
	s.mu.Lock()
	delete(s.sockets, c)
	s.mu.Unlock()
	s.serving.Done()
}

// Shutdown stops reading, answers the queries that have been read, and closes all
// sockets and connections. When ctx ends before that, it closes what is left and
// returns the error of ctx.
func (s *Server) Shutdown(ctx context.Context) error {
	s.start()
	s.mu.Lock()
	s.closing.Store(true)
	for c := range s.sockets {
		if u, ok := c.(*net.UDPConn); ok {
			u.SetReadDeadline(time.Unix(1, 0)) // its readers answer what they have, then end
		} else {
			c.Close()
		}
	}
	for c := range s.conns {
		c.SetReadDeadline(time.Unix(1, 0))
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.serving.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.sockets {
		c.Close()
	}
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	<-done
	return ctx.Err()
}

func (s *Server) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

func (s *Server) log() *slog.Logger {
	if s.Log != nil {
		return s.Log
	}
	return slog.Default()
}

// idle is how long a connection may wait for its next query. Many connections
// that do nothing must not keep out those that ask something.
func (s *Server) idle() time.Duration {
	if 2*s.open.Load() > int64(s.limits.Connections) {
		return s.limits.Idle / 10
	}
	return s.limits.Idle
}

// isClosed reports whether err is what a read gives once the socket is closed or
// Shutdown has begun.
func (s *Server) isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || s.closing.Load()
}
