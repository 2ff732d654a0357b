package edge

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"fingerpost/telemetry"
)

// conns are the connections of one listener.
type conns struct {
	max   int
	gauge telemetry.Gauge

	count atomic.Int64 // with those that are open elsewhere: in net/http, in an event loop

	mu    sync.Mutex // guards what follows
	open  map[net.Conn]struct{}
	freed *sync.Cond // count has sunk
}

func newConns(max int, gauge telemetry.Gauge) *conns {
	c := &conns{max: max, gauge: gauge, open: map[net.Conn]struct{}{}}
	c.freed = sync.NewCond(&c.mu)
	return c
}

// wait returns when there is room for one more.
func (c *conns) wait() {
	if c.full() {
		c.until(func() bool { return !c.full() })
	}
}

func (c *conns) full() bool { return c.count.Load() >= int64(c.max) }

// until returns once a condition holds that depends on count sinking.
func (c *conns) until(holds func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !holds() {
		c.freed.Wait()
	}
}

func (c *conns) add(conn net.Conn) {
	c.came(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[conn] = struct{}{}
}

func (c *conns) remove(conn net.Conn) {
	c.hand(conn)
	c.gone(1)
}

// hand takes a connection out that somebody else closes, and counts until gone.
func (c *conns) hand(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, conn)
}

// gone counts connections that have ended.
func (c *conns) gone(n int) {
	c.gauge.Add(-n)
	if left := c.count.Add(int64(-n)); left == 0 || left < int64(c.max) && left+int64(n) >= int64(c.max) {
		c.mu.Lock() // whoever looks at count does so before it waits
		c.freed.Broadcast()
		c.mu.Unlock()
	}
}

// came counts connections that somebody else keeps.
func (c *conns) came(n int) {
	c.gauge.Add(n)
	c.count.Add(int64(n))
}

// interrupt ends the reading of every connection: those that wait for a request
// close. Handshakes go on, if anything has come of them, or does within firstFor.
func (c *conns) interrupt(h *handshakes) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		switch under, heard := h.has(conn); {
		case !under:
			conn.SetReadDeadline(time.Unix(1, 0))
		case !heard:
			conn.SetReadDeadline(time.Now().Add(firstFor))
		}
	}
}

// closeAll closes what is still open.
func (c *conns) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		conn.Close()
	}
}

// firstFor is how long Shutdown waits for the first request of a connection, from the
// end of its handshake, and for the first byte of that: they may be on their way.
const firstFor = 2 * time.Second

// crowd are connections that Shutdown waits for.
type crowd struct {
	mu   sync.Mutex // guards what follows
	open map[net.Conn]*tlsConn
	none chan struct{} // closed when none is left; nil if nobody waits
}

// end counts c out; more than once does no harm.
func (w *crowd) end(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.open, c)
	if w.none != nil && len(w.open) == 0 {
		close(w.none)
		w.none = nil
	}
}

// wait returns when none is left. It is for one goroutine.
func (w *crowd) wait(ctx context.Context) error {
	w.mu.Lock()
	none := make(chan struct{})
	if len(w.open) == 0 {
		close(none)
	} else {
		w.none = none
	}
	w.mu.Unlock()
	select {
	case <-none:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// handshakes are those under way on one listener. Each has its time.
type handshakes struct {
	max int
	crowd
}

// begin counts c in. If there are too many it ends another: whichever, since those
// that take long are most of them.
func (h *handshakes) begin(c net.Conn) *tlsConn {
	g := &tlsConn{Conn: c}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.open) >= h.max {
		for other := range h.open {
			delete(h.open, other)
			other.Close() // its goroutine finds out
			break
		}
	}
	h.open[c] = g
	return g
}

// has reports whether a handshake is under way on c, and whether anything has come.
func (h *handshakes) has(c net.Conn) (under, heard bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.open[c]
	return g != nil, g != nil && g.heard.Load()
}

// newcomers are connections with HTTP/2 that net/http has, and that have asked for
// nothing yet: it would close them as idle, their first request under way or not.
type newcomers struct {
	crowd
	last time.Time // when the last one came; guarded by mu
}

func (n *newcomers) add(c net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open[c], n.last = nil, time.Now()
}

// newcomer is one of them, in the context of its requests.
type newcomer struct {
	conn  net.Conn
	asked atomic.Bool
}

type newcomerKey struct{}

// asks notes that the connection of r has its first request.
func (n *newcomers) asks(r *http.Request) {
	if one, ok := r.Context().Value(newcomerKey{}).(*newcomer); ok && !one.asked.Load() {
		one.asked.Store(true)
		n.end(one.conn)
	}
}

// wait returns when none is left, or all have had their time.
func (n *newcomers) wait(ctx context.Context) error {
	n.mu.Lock()
	until := n.last.Add(firstFor)
	n.mu.Unlock()
	timed, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	n.crowd.wait(timed)
	return ctx.Err()
}
