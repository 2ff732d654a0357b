package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// quicServer answers HTTP/3 on one UDP socket: quic-go reads the requests, and
// front.ServeHTTP answers them as it does those of net/http.
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

	mu   sync.Mutex // guards open
	open map[*quic.Conn]struct{}
}

// quicWindow is what a client may send unasked, in bytes: on a stream the head of a
// request and little more, since bodies are not read.
const quicWindow = 64 << 10

// retryShare is the share of the handshakes allowed from which on a client must
// show that its address is its own, at the cost of a round trip (RFC 9000 8.1.2).
const retryShare = 16

// serveQUIC answers HTTP/3 on c until Shutdown, and closes c.
func (s *Server) serveQUIC(c net.PacketConn) error {
	f := s.newFront(true, c.LocalAddr())
	f.altSvc = newAltSvc(f.port)
	q := &quicServer{f: f, socket: c, ended: make(chan struct{}), open: map[*quic.Conn]struct{}{}}
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
	f.onDrain(func() { q.listener.Close() })
	err = q.server.ServeListener(q.listener)
	close(q.ended)
	if f.draining.Load() {
		return nil
	}
	q.close()
	return err
}

// shutdown tells clients to go (RFC 9114 5.2), waits for the requests under way,
// and closes what is idle then: few clients hang up by themselves.
func (q *quicServer) shutdown(ctx context.Context) error {
	defer q.close()
	<-q.ended // quic-go counts connections right only if none comes any more
	soft, enough := context.WithCancel(ctx)
	defer enough()
	down := make(chan struct{})
	go func() {
		q.server.Shutdown(soft)
		close(down)
	}()
	tick := time.NewTicker(answerGrace)
	defer tick.Stop()
	for idle := 0; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-down:
			return nil
		case <-tick.C:
			idle++
			if q.requests.Load() > 0 {
				idle = 0
			}
			if idle == 2 {
				enough()
			}
		}
	}
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
	handshake atomic.Bool // under way
	requests  atomic.Int64
	idle      *time.Timer // nil during the handshake
}

type quicConnKey struct{}

// begin counts a connection whose handshake begins, or refuses it. ctx ends with
// the connection.
func (q *quicServer) begin(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
	f := q.f
	if f.conns.full() || q.handshakes.Load() >= int64(f.limits.Handshakes) {
		return nil, errors.New("too many connections")
	}
	c := new(quicConn)
	c.handshake.Store(true)
	q.handshakes.Add(1)
	f.conns.came(1)
	context.AfterFunc(ctx, func() {
		if c.handshake.Swap(false) {
			q.handshakes.Add(-1)
			f.s.Metrics.HandshakeError()
		}
		f.conns.gone(1)
	})
	return context.WithValue(ctx, quicConnKey{}, c), nil
}

// accepted is called when the handshake is done.
func (q *quicServer) accepted(ctx context.Context, conn *quic.Conn) context.Context {
	c := ctx.Value(quicConnKey{}).(*quicConn)
	if c.handshake.Swap(false) {
		q.handshakes.Add(-1)
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
	q.f.ServeHTTP(w, r)
}

// quicLog lets errors of quic-go through: panics of ours. The rest is what clients
// did wrong.
type quicLog struct{ slog.Handler }

func (h quicLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }
