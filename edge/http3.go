package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// quicServer answers HTTP/3 on one UDP socket: quic-go reads the requests, and
// front.ServeHTTP answers them as it does those of net/http. It takes the streams from
// quic-go itself: http3.Server would give a client all the time in the world for the
// head of a request.
//
// 0-RTT is off: what arrives in it can be sent again by anybody who has seen it (RFC
// 8446 8), and it saves one round trip of a visit that ends elsewhere.
type quicServer struct {
	f          *front
	socket     net.PacketConn
	transport  *quic.Transport
	listener   *quic.Listener
	server     *http3.Server
	handshakes atomic.Int64  // under way
	requests   atomic.Int64  // under way
	ended      chan struct{} // closed when nothing is accepted any more

	mu     sync.Mutex // guards what follows
	open   map[*quic.Conn]struct{}
	shares map[netip.Prefix]int // of the handshakes under way, by where they come from
}

// quicWindow is what a client may send unasked, in bytes: on a stream the head of a
// request and little more, since bodies are not read.
const quicWindow = 64 << 10

// retryShare is the share of the handshakes allowed from which on a client must
// show that its address is its own, at the cost of a round trip (RFC 9000 8.1.2).
const retryShare = 16

// networkShare is the share of them that one network may have: quic-go cannot end a
// handshake that others need the place of.
const networkShare = 4

// network is who shares a share: what one owner mostly has at least.
func network(a net.Addr) netip.Prefix {
	udp, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.Prefix{}
	}
	addr := udp.AddrPort().Addr().Unmap()
	bits := 24
	if addr.Is6() {
		bits = 48
	}
	prefix, _ := addr.WithZone("").Prefix(bits)
	return prefix
}

// serveQUIC answers HTTP/3 on c until Shutdown, and closes c.
func (s *Server) serveQUIC(c net.PacketConn) error {
	f := s.newFront(true, c.LocalAddr())
	f.altSvc = newAltSvc(f.port)
	q := &quicServer{f: f, socket: c, ended: make(chan struct{}), open: map[*quic.Conn]struct{}{}, shares: map[netip.Prefix]int{}}
	q.transport = &quic.Transport{
		Conn:                c,
		VerifySourceAddress: func(net.Addr) bool { return q.handshakes.Load() >= int64(f.limits.Handshakes/retryShare) },
		ConnContext:         q.begin,
	}
	q.server = &http3.Server{
		Handler:        q,
		MaxHeaderBytes: netHTTPHead,
		ConnContext:    q.accepted,
		Logger:         slog.New(quicLog{f.log.Handler()}),
	}
	f.finish, f.cut = q.shutdown, q.close
	var err error
	q.listener, err = q.transport.Listen(s.tlsConfig(f, tls.VersionTLS13, http3.NextProtoH3), &quic.Config{
		HandshakeIdleTimeout:           f.limits.Header / 2, // quic-go waits twice as long for the whole
		MaxIdleTimeout:                 f.limits.Idle,
		InitialStreamReceiveWindow:     quicWindow,
		MaxStreamReceiveWindow:         quicWindow,
		InitialConnectionReceiveWindow: 4 * quicWindow,
		MaxConnectionReceiveWindow:     4 * quicWindow,
		MaxIncomingStreams:             int64(f.limits.Streams),
		MaxIncomingUniStreams:          8, // three of HTTP/3, and what clients try out
	})
	if err != nil || !s.enter(f) {
		q.close()
		return err
	}
	defer f.listening.Done()
	f.onDrain(func() { q.listener.Close() })
	for {
		conn, err := q.listener.Accept(context.Background())
		if err == nil {
			go q.serveConn(conn)
			continue
		}
		close(q.ended)
		if f.draining.Load() {
			return nil
		}
		q.close()
		return err
	}
}

// serveConn takes the streams of a connection until it ends.
func (q *quicServer) serveConn(conn *quic.Conn) {
	h, err := q.server.NewRawServerConn(conn)
	if err != nil {
		conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeInternalError), "")
		return
	}
	go func() {
		for {
			stream, err := conn.AcceptUniStream(context.Background())
			if err != nil {
				return
			}
			go h.HandleUnidirectionalStream(stream)
		}
	}()
	for {
		stream, err := conn.AcceptStream(context.Background())
		if err != nil {
			return
		}
		if q.f.draining.Load() { // RFC 9114 4.1.1: it may ask elsewhere
			stream.ReleaseStreamCredit()
			stream.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestRejected))
			stream.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestRejected))
			continue
		}
		stream.SetReadDeadline(time.Now().Add(q.f.limits.Header))
		go h.HandleRequestStream(stream)
	}
}

// shutdown waits for the requests under way and closes what is idle then. New ones are
// refused meanwhile.
func (q *quicServer) shutdown(ctx context.Context) error {
	defer q.close()
	<-q.ended
	tick := time.NewTicker(answerGrace)
	defer tick.Stop()
	for idle := 0; idle < 2 && q.connections() > 0; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			idle++
			if q.requests.Load() > 0 {
				idle = 0
			}
		}
	}
	return nil
}

func (q *quicServer) connections() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.open)
}

// answerGrace is how long an answer has at least to reach its visitor before the
// connection is closed.
const answerGrace = 200 * time.Millisecond

// close ends everything at once. Each client is told: it would wait for a time-out.
func (q *quicServer) close() {
	q.mu.Lock()
	open := slices.Collect(maps.Keys(q.open))
	q.mu.Unlock()
	for _, c := range open {
		c.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	}
	q.transport.Close()
	q.socket.Close()
}

// quicConn is one connection of HTTP/3. It has a time of its own to be idle: to
// quic-go one on which the head of a request has begun is busy, for as long as the
// client likes.
type quicConn struct {
	from      netip.Prefix
	handshake atomic.Bool // under way
	requests  atomic.Int64
	idle      *time.Timer // nil during the handshake
}

type quicConnKey struct{}

// begin counts a connection whose handshake begins, or refuses it. ctx ends with
// the connection.
func (q *quicServer) begin(ctx context.Context, who *quic.ClientInfo) (context.Context, error) {
	f := q.f
	from := network(who.RemoteAddr)
	if f.conns.full() || !q.enter(from) {
		return nil, errors.New("too many connections")
	}
	c := &quicConn{from: from}
	c.handshake.Store(true)
	f.conns.came(1)
	context.AfterFunc(ctx, func() {
		if c.handshake.Swap(false) {
			q.leave(from)
			f.s.Metrics.HandshakeError()
		}
		f.conns.gone(1)
	})
	return context.WithValue(ctx, quicConnKey{}, c), nil
}

// enter counts a handshake, if there is room for it.
func (q *quicServer) enter(from netip.Prefix) bool {
	most := q.f.limits.Handshakes
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.handshakes.Load() >= int64(most) || q.shares[from] >= max(most/networkShare, 1) {
		return false
	}
	q.handshakes.Add(1)
	q.shares[from]++
	return true
}

// leave counts one that has ended.
func (q *quicServer) leave(from netip.Prefix) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.handshakes.Add(-1)
	if q.shares[from]--; q.shares[from] == 0 {
		delete(q.shares, from)
	}
}

// accepted is called when the handshake is done.
func (q *quicServer) accepted(ctx context.Context, conn *quic.Conn) context.Context {
	c := ctx.Value(quicConnKey{}).(*quicConn)
	if c.handshake.Swap(false) {
		q.leave(c.from)
	}
	c.idle = time.AfterFunc(q.f.limits.Idle, func() {
		if c.requests.Load() == 0 {
			conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
		}
	})
	q.mu.Lock()
	q.open[conn] = struct{}{}
	q.mu.Unlock()
	context.AfterFunc(ctx, func() {
		c.idle.Stop()
		q.mu.Lock()
		delete(q.open, conn)
		q.mu.Unlock()
	})
	return ctx
}

// ServeHTTP answers one request.
func (q *quicServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(quicConnKey{}).(*quicConn)
	q.requests.Add(1)
	if c.requests.Add(1) == 1 {
		c.idle.Stop()
	}
	defer func() {
		q.requests.Add(-1)
		if c.requests.Add(-1) == 0 {
			c.idle.Reset(q.f.limits.Idle)
		}
	}()
	// quic-go sends as fast as the client takes it: all the time in the world, again.
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(q.f.limits.Request))
	q.f.ServeHTTP(w, r)
}

// quicLog lets errors of quic-go through: panics of ours. The rest is what clients
// did wrong.
type quicLog struct{ slog.Handler }

func (h quicLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }
