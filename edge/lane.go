package edge

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"fingerpost/h1"
	"fingerpost/redirect"
	"fingerpost/telemetry"
)

// A lane answers requests over HTTP/1.0 and 1.1 from their heads, which package h1
// has read and found sound. What a head alone does not answer is handed over to
// net/http, together with the connection: it comes to front.ServeHTTP, and the
// connection ends with it. So no request escapes the checks of h1.
//
// There are two forms of it: this one has a goroutine for each connection and is
// for TLS, for other systems than Linux, and for listeners with PROXY headers;
// loop_linux.go has an event loop, for plain TCP.

// respond answers one head, appended to dst. It is the whole way of nearly every
// request. keep tells whether the connection may stay open.
func (f *front) respond(dst []byte, to *ledger, h *h1.Head, v h1.Verdict, x *exchange, c *client, now time.Time) (out []byte, keep bool) {
	refusal, host := h.Status, h.Host
	keep = v == h1.Redirectable && h.KeepAlive && !f.draining.Load()
	if v == h1.Redirectable {
		in := incoming{method: h.Method, target: h.Target, host: h.Host, http10: h.HTTP10, header: h, remote: c.addr, serverName: c.serverName}
		if refusal = f.read(&in, x); refusal == http.StatusBadRequest {
			keep = false // where the head is not what we expect, neither need be what follows it
		}
		host = in.host
	}
	f.decide(x, refusal, now)
	out, sent := x.appendResponse(dst, f.date(now), h.Method == http.MethodHead, h.HTTP10, keep)
	proto := telemetry.HTTP11
	if h.HTTP10 {
		proto = telemetry.HTTP10
	}
	to.tally.Request(proto, f.https, x.answer.Status)
	if f.s.Access.Wants() {
		f.record(x, to, &telemetry.Access{Time: now, Remote: c.addr, Proto: proto, Method: h.Method, Host: host, Target: h.Target,
			Duration: f.now().Sub(now), Bytes: sent, UserAgent: h.Value("User-Agent"), Referer: h.Value("Referer")})
	}
	x.forget()
	return out, keep
}

// tooSlow makes h what a head is that did not arrive in time (RFC 9110 15.5.9).
func (f *front) tooSlow(h *h1.Head) {
	h.Reset()
	h.Status, h.Why = http.StatusRequestTimeout, "the head took too long"
}

// isLast reports whether a request that net/http should have is answered here, since
// net/http takes no more: the listener drains.
func (f *front) isLast(h *h1.Head, v h1.Verdict) bool {
	return v == h1.HandOver && !h.HTTP2 && f.draining.Load()
}

// client is who is at the other end of a connection.
type client struct {
	addr       netip.AddrPort // not valid for a UNIX socket
	serverName string         // of its handshake
	conn       net.Conn       // as it was accepted; nil in an event loop
	since      time.Time      // when its PROXY header was waited for, if no head has been since
	badHost    bool           // of the head that it was handed over with; see incoming
	patience   *patience      // in net/http
	tls        *tlsConn       // what its TLS is over; nil without
}

// ledger is where requests are noted: of one event loop, or of all that share it.
type ledger struct {
	tally   *telemetry.Tally
	records *telemetry.Recorder // nil: the log's own
}

func (l *ledger) close() {
	l.tally.Close()
	l.records.Close()
}

// begins is when a connection began that may have waited for its PROXY header: the
// first head comes within the same time. Later ones have their own.
func (c *client) begins() time.Time {
	since := c.since
	c.since = time.Time{}
	if since.IsZero() {
		return time.Now()
	}
	return since
}

// date is the Date field of responses at a time (RFC 9110 6.6.1), as a line; with the
// one of Server, where there is any.
func (f *front) date(now time.Time) string {
	d := f.dated.Load()
	if second := now.Unix(); d == nil || d.second != second {
		d = &dated{second, "Date: " + now.UTC().Format(http.TimeFormat) + "\r\n"}
		if f.s.Named {
			d.line += "Server: " + serverValue[0] + "\r\n"
		}
		f.dated.Store(d)
	}
	return d.line
}

var serverValue = []string{"Fingerpost"}

type dated struct {
	second int64
	line   string
}

// panicked logs a fault of the program, which must not end it.
func (f *front) panicked(r any) {
	f.log.Error("panic serving a request", "panic", r, "stack", string(debug.Stack()))
}

// maxPipelined is how many bytes of answers are gathered before they are sent.
const maxPipelined = 32 << 10

// readSize is what one read of a connection takes at most, and the room for a head.
const readSize = 4 << 10

// buffers are what a connection needs while something is under way on it.
type buffers struct {
	in, out []byte
	head    h1.Head
	sentBy  time.Time // until when an answer must have left; moved seldom
}

var bufferPool = sync.Pool{New: func() any { return &buffers{in: make([]byte, readSize), out: make([]byte, 0, 1024)} }}

// serveConn answers the requests on c until it ends or is handed over.
func (f *front) serveConn(c net.Conn, peer *client) {
	b := bufferPool.Get().(*buffers)
	x := exchanges.Get().(*exchange)
	defer func() {
		if r := recover(); r != nil {
			f.panicked(r)
			f.close(c, peer)
		}
		b.head.Reset()
		if cap(b.in) > readSize || cap(b.out) > maxPipelined {
			*b = buffers{in: make([]byte, readSize), out: make([]byte, 0, 1024)}
		}
		bufferPool.Put(b)
		x.release()
	}()
	b.sentBy = time.Time{}
	limits := f.headLimits()
	n := 0 // bytes of b.in that are not answered yet
	begun := time.Now()
	until := peer.begins().Add(f.limits.Header) // for what is waited for
	deadline := until                           // of reading: that, or sooner
	firstBy := begun.Add(firstFor)
	c.SetReadDeadline(deadline)
	first := true // no request has come yet; until firstBy, Shutdown waits for it
	for {
		if n == len(b.in) {
			b.in = append(b.in, make([]byte, len(b.in))...) // at most twice what a head may have
		}
		if f.draining.Load() && n == 0 {
			if !first || time.Now().After(firstBy) {
				f.close(c, peer)
				return
			}
			if until.After(firstBy) {
				until = firstBy
			}
			deadline = until
			c.SetReadDeadline(deadline)
		}
		got, err := c.Read(b.in[n:])
		if got == 0 && err != nil {
			late := errors.Is(err, os.ErrDeadlineExceeded)
			if late && time.Now().Before(until) {
				if n == 0 && !(first && f.draining.Load()) && f.rest(c, peer, until) {
					return
				}
				deadline = until // Shutdown has interrupted: the rest may come
				c.SetReadDeadline(deadline)
				continue
			}
			if late && n > 0 {
				f.tooSlow(&b.head)
				b.out, _ = f.respond(b.out[:0], &f.ledger, &b.head, h1.Bad, x, peer, f.now())
				if !f.write(c, peer, b, time.Now()) {
					return
				}
			}
			f.close(c, peer)
			return
		}
		now := time.Now()
		at := now // as rules and logs see it
		if f.s.Now != nil {
			at = f.s.Now()
		}
		began := n > 0 || first // the head, in an earlier read or with the connection: its time runs already
		n += got
		used, answered, keep, more := 0, 0, true, false
		b.out = b.out[:0]
		v := h1.Incomplete
		for used < n && keep {
			v = b.head.Read(b.in[used:n], limits)
			last := f.isLast(&b.head, v)
			if last {
				v = h1.Redirectable
			}
			if v == h1.Incomplete || v == h1.HandOver {
				break
			}
			b.out, keep = f.respond(b.out, &f.ledger, &b.head, v, x, peer, at)
			more = last || mayGoOn(&b.head, v)
			answered++
			used += b.head.Size
			b.head.Reset()
			began, first = false, false
			if len(b.out) > maxPipelined && !f.write(c, peer, b, now) {
				return
			}
		}
		if !keep && !more && peer.tls != nil {
			peer.tls.ends = true
		}
		if len(b.out) > 0 && !f.write(c, peer, b, now) {
			return
		}
		if answered > 0 {
			first = false
			f.ledger.tally.Took(time.Since(now), answered)
		}
		switch {
		case !keep && more:
			f.linger(c, peer)
			return
		case !keep:
			f.close(c, peer)
			return
		case v == h1.HandOver:
			rest := append([]byte(nil), b.in[used:n]...)
			c.SetDeadline(time.Time{})
			f.handOver(c, rest, peer)
			return
		}
		n = copy(b.in, b.in[used:n])
		if began {
			continue // the whole head has the time, not each piece of it
		}
		// Moving a deadline costs as much as answering: only when it matters.
		soonest := now.Add(f.limits.Header)
		until = soonest
		latest := soonest.Add(time.Second)
		if n == 0 {
			until = now.Add(f.limits.Idle)
			soonest, latest = now.Add(restAfter/2), now.Add(restAfter)
		}
		if deadline.Before(soonest) || deadline.After(latest) {
			deadline = latest
			if deadline.After(until) {
				deadline = until
			}
			c.SetReadDeadline(deadline)
		}
	}
}

// restAfter is when a connection that waits for a request gives its worker and its
// buffers back, at the latest; at the earliest it is half of it. One that is busy is
// not worth the effort.
const restAfter = 500 * time.Millisecond

// write sends b.out and empties it; if it cannot, it closes c.
func (f *front) write(c net.Conn, peer *client, b *buffers, now time.Time) bool {
	// Nearly every answer fits into the socket's buffer. What does not is bounded.
	if want := now.Add(f.limits.Request); want.Sub(b.sentBy) > time.Second {
		b.sentBy = want
		c.SetWriteDeadline(want)
	}
	_, err := c.Write(b.out)
	b.out = b.out[:0]
	if err != nil {
		f.close(c, peer)
	}
	return err == nil
}

func (f *front) headLimits() h1.Limits {
	return h1.Limits{Target: f.limits.URL, Head: f.limits.Head}
}

// close ends a connection of a lane.
func (f *front) close(c net.Conn, peer *client) {
	c.Close()
	f.conns.remove(peer.conn)
}

// lingerFor is how long a connection is read past after its last answer, so that
// what the client still sends does not make the system throw the answer away
// (RFC 9112 9.6).
const lingerFor = 500 * time.Millisecond

// mayGoOn reports whether a client may send more than h, though its connection is
// to end: it does not know yet.
func mayGoOn(h *h1.Head, v h1.Verdict) bool { return v == h1.Bad || h.KeepAlive }

func (f *front) linger(c net.Conn, peer *client) {
	if half, ok := c.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		c.SetReadDeadline(time.Now().Add(lingerFor))
		var waste [4 << 10]byte
		for range 16 {
			if _, err := c.Read(waste[:]); err != nil {
				break
			}
		}
	}
	f.close(c, peer)
}

// handed is a connection that a lane has given to net/http, with the bytes that
// it had read.
type handed struct {
	net.Conn
	rest []byte
	peer *client
}

func (h *handed) Read(p []byte) (int, error) {
	if len(h.rest) == 0 {
		return h.Conn.Read(p)
	}
	n := copy(p, h.rest)
	if h.rest = h.rest[n:]; len(h.rest) == 0 {
		h.rest = nil
	}
	return n, nil
}

// CloseWrite is what net/http looks for before it closes.
func (h *handed) CloseWrite() error {
	if half, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// handOver gives a connection to net/http, with what was read of it.
func (f *front) handOver(c net.Conn, rest []byte, peer *client) {
	f.conns.hand(peer.conn)
	f.give(&handed{c, rest, peer})
}

// handovers is the listener through which net/http gets connections.
type handovers struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	addr  net.Addr
}

func newHandovers(addr net.Addr) *handovers {
	return &handovers{conns: make(chan net.Conn), done: make(chan struct{}), addr: addr}
}

// give waits until net/http takes c; once it takes no more, c ends.
func (f *front) give(c net.Conn) {
	select {
	case f.handedOver.conns <- c:
	case <-f.handedOver.done:
		c.Close()
		f.conns.gone(1)
	}
}

func (h *handovers) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handovers) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *handovers) Addr() net.Addr { return h.addr }

// serverName is that of the connection that r came on.
func serverName(r *http.Request) string {
	if peer, ok := r.Context().Value(peerKey{}).(*client); ok {
		return peer.serverName
	}
	if r.TLS != nil { // HTTP/3
		return r.TLS.ServerName
	}
	return ""
}

type peerKey struct{}

// workers run serve for connections, one goroutine for each. Those that are done
// wait for the next: their stacks have grown to what is needed.
type workers struct {
	serve    func(net.Conn)
	panicked func(net.Conn, any)
	work     chan net.Conn
	idle     atomic.Int32
}

const maxIdleWorkers = 256

func (w *workers) run(c net.Conn) {
	select {
	case w.work <- c:
	default:
		go w.loop(c)
	}
}

// once serves one connection; a fault of the program ends no other.
func (w *workers) once(c net.Conn) {
	defer func() {
		if r := recover(); r != nil {
			w.panicked(c, r)
		}
	}()
	w.serve(c)
}

func (w *workers) loop(c net.Conn) {
	for {
		w.once(c)
		if w.idle.Add(1) > maxIdleWorkers {
			w.idle.Add(-1)
			return
		}
		var ok bool
		c, ok = <-w.work
		w.idle.Add(-1)
		if !ok {
			return
		}
	}
}

// accept gives the connections of l to workers until l ends.
func (f *front) accept(l net.Listener, serve func(net.Conn)) error {
	w := &workers{serve: serve, panicked: func(c net.Conn, r any) { f.panicked(r); f.handshakes.end(c); f.close(c, &client{conn: c}) }, work: make(chan net.Conn)}
	defer close(w.work)
	var pause time.Duration
	for {
		if f.conns.full() { // what is not accepted waits in the system
			f.isFull()
			f.conns.wait()
		}
		c, err := l.Accept()
		if err != nil {
			if f.draining.Load() {
				return nil
			}
			if t, ok := err.(interface{ Temporary() bool }); ok && t.Temporary() { // no descriptors left, mostly
				pause = min(max(2*pause, 5*time.Millisecond), time.Second)
				f.log.Warn("cannot accept a connection; it is tried again", "err", err, "in", pause)
				time.Sleep(pause)
				continue
			}
			return err
		}
		pause = 0
		f.conns.add(c)
		w.run(c)
	}
}

// servePlainConn is one connection of the goroutine form of the plain lane.
func (f *front) servePlainConn(c net.Conn) {
	conn, peer, ok := f.meet(c)
	if !ok {
		f.close(c, peer)
		return
	}
	f.serveConn(conn, peer)
}

// serveTLSConn is one connection of the TLS lane: the handshake, then HTTP/1 here
// or HTTP/2 in net/http, as the client chose by ALPN.
func (f *front) serveTLSConn(c net.Conn, config *tls.Config) {
	under := f.handshakes.begin(c)
	conn, peer, ok := f.meet(c)
	if !ok {
		f.handshakes.end(c)
		f.close(c, peer)
		return
	}
	under.Conn = conn
	peer.tls = under
	t := tls.Server(under, config)
	t.SetDeadline(peer.begins().Add(f.limits.Header))
	err := t.Handshake()
	if err != nil {
		f.handshakes.end(c)
		f.s.Metrics.HandshakeError()
		f.log.Debug("TLS handshake failed", "from", peer.addr, "err", err)
		f.close(c, peer)
		return
	}
	quickAck(c)
	state := t.ConnectionState()
	peer.serverName = state.ServerName
	if state.NegotiatedProtocol == "h2" {
		t.SetDeadline(time.Time{})
		f.newcomers.add(t)
		f.conns.hand(c)
		f.give(t)
		f.handshakes.end(c) // not before: Shutdown waits for it, and net/http takes nothing new then
		return
	}
	f.handshakes.end(c)
	if state.NegotiatedProtocol == acmeTLS {
		f.close(t, peer) // the handshake was the answer
		return
	}
	f.serveConn(t, peer)
}

// tlsConn is what the TLS of a connection is over. Once the connection ends, what is
// written leaves with close: the last answer, and TLS's own word that there is no
// more, as one segment instead of two. A thirtieth of what a handshake with one
// request costs.
type tlsConn struct {
	net.Conn
	heard atomic.Bool // the client has sent something
	ends  bool
	held  []byte
}

func (c *tlsConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.heard.Load() {
		c.heard.Store(true)
	}
	return n, err
}

func (c *tlsConn) Write(p []byte) (int, error) {
	if !c.ends {
		return c.Conn.Write(p)
	}
	c.held = append(c.held, p...)
	return len(p), nil
}

// SetWriteDeadline leaves that of the last answer alone: crypto/tls would let no
// write succeed after its last word.
func (c *tlsConn) SetWriteDeadline(t time.Time) error {
	if c.ends {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

func (c *tlsConn) Close() error {
	if len(c.held) > 0 {
		c.Conn.Write(c.held)
	}
	return c.Conn.Close()
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		at := tcp.AddrPort()
		return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	return netip.AddrPort{}
}

var _ redirect.Header = (*h1.Head)(nil)
