package edge

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"fingerpost/redirect"
	"fingerpost/telemetry"
)

// front is what serves one listener: lanes for HTTP/1, net/http for the rest.
type front struct {
	s      *Server
	https  bool
	port   string // that the listener is bound to
	limits Limits
	log    *slog.Logger
	now    func() time.Time
	ledger ledger
	dated  atomic.Pointer[dated]

	http3Ended atomic.Bool // its socket has failed: visitors are not told of it any more
	altSvc     *altSvc     // nil without HTTP/3

	conns      *conns
	handshakes handshakes
	newcomers  newcomers
	server     *http.Server
	handedOver *handovers                  // to server
	finish     func(context.Context) error // ends what is not in a lane, gently
	cut        func()                      // and at once

	listening sync.WaitGroup // what serves the listener, and the event loops that do; see listens
	draining  atomic.Bool
	killed    atomic.Bool
	drained   chan struct{} // closed when draining begins

	saidFull atomic.Int64 // minute in which isFull last said so

	mu      sync.Mutex // guards the two below
	toDrain []func()
	toKill  []func()
}

// onDrain and onKill have a function called once Shutdown begins, and once it
// cannot wait any longer. A function that comes late is called at once.
func (f *front) onDrain(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.draining.Load() {
		fn()
		return
	}
	f.toDrain = append(f.toDrain, fn)
}

func (f *front) onKill(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.killed.Load() {
		fn()
		return
	}
	f.toKill = append(f.toKill, fn)
}

// listens says that n event loops listen for f, each until it has drained; false
// once draining has begun.
func (f *front) listens(n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.draining.Load() {
		return false
	}
	f.listening.Add(n)
	return true
}

// isFull says, now and then, that visitors have to wait.
func (f *front) isFull() {
	if minute, said := time.Now().Unix()/60, f.saidFull.Load(); said != minute && f.saidFull.CompareAndSwap(said, minute) {
		f.log.Warn("a listener has as many connections as it may have: new ones wait", "port", f.port, "connections", f.conns.max, "hint", "limits.connections")
	}
}

// shutdown ends the front; see [Server.Shutdown].
func (f *front) shutdown(ctx context.Context) error {
	f.mu.Lock()
	first := !f.draining.Swap(true)
	for _, fn := range f.toDrain {
		fn()
	}
	f.toDrain = nil
	f.mu.Unlock()
	if first {
		close(f.drained)
	}
	f.conns.interrupt(&f.handshakes)
	err := f.handshakes.wait(ctx) // what they lead to is served yet
	if err == nil {
		err = f.newcomers.wait(ctx)
	}
	if err == nil {
		err = f.finish(ctx)
	}
	empty := make(chan struct{})
	go func() {
		f.listening.Wait() // some may have connections to accept
		f.conns.until(func() bool { return f.conns.count.Load() == 0 })
		close(empty)
	}()
	if err == nil {
		select {
		case <-empty:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		f.mu.Lock()
		f.killed.Store(true)
		for _, fn := range f.toKill {
			fn()
		}
		f.toKill = nil
		f.mu.Unlock()
		f.cut()
		f.conns.closeAll()
	}
	return err
}

// exchange is one request with its answer. It is kept in a pool, so that what
// is in it costs no allocation: nothing may hold on to it.
type exchange struct {
	req    redirect.Request
	answer redirect.Answer
	body   []byte
	proof  string  // what a CA is answered, instead of answer's page
	altSvc *altSvc // nil if the visitor is not to be told
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// ServeHTTP is the way of a request that net/http or quic-go has read: over HTTP/2
// or 3, or one that a lane has handed over. The other way is [front.respond].
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := f.now()
	x := exchanges.Get().(*exchange)
	defer x.release()
	if r.ProtoMajor == 2 {
		f.newcomers.asks(r)
	}

	in := received(r)
	if r.ProtoMajor == 2 {
		defer patienceOf(r).ended(r)
	}
	refusal := f.checkMultiplexed(r)
	if refusal == 0 {
		refusal = f.read(&in, x)
	}
	f.decide(x, refusal, start)
	switch {
	case r.ProtoMajor == 1:
		// What comes next on this connection would pass no lane's checks.
		w.Header()["Connection"] = closeValue
		if r.ContentLength != 0 {
			// net/http reads past a body even then. It shall not take long: just
			// enough that the client sees the answer before the connection ends.
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyGrace))
		}
	case r.ProtoMajor == 2 && refusal == 0 && r.ContentLength != 0:
		f.readPast(w, r)
	}
	if f.s.Named {
		w.Header()["Server"] = serverValue
	}
	sent := x.send(w, r)

	took := f.now().Sub(start)
	f.s.Metrics.Request(proto(r), f.https, x.answer.Status, took)
	if f.s.Access.Wants() {
		f.record(x, &f.ledger, &telemetry.Access{Time: start, Remote: in.remote, Proto: proto(r), Method: r.Method, Host: in.host, Target: r.RequestURI,
			Duration: took, Bytes: sent, UserAgent: r.Header.Get("User-Agent"), Referer: r.Header.Get("Referer")})
	}
}

// decide fills x.answer for the request in x.req, or the refusal of it.
func (f *front) decide(x *exchange, refusal int, now time.Time) {
	switch {
	case refusal != 0:
		x.refuse(refusal)
	case f.challenge(x):
		x.refuse(http.StatusOK)
	default:
		x.req.Now = now.Unix()
		table := f.s.Table()
		if f.s.Country != nil && table.UsesCountries() {
			x.req.Country = f.s.Country(x.req.Addr)
		}
		table.Answer(&x.req, &x.answer)
		if x.answer.Kind == redirect.Loop || x.answer.Kind == redirect.BadTarget {
			f.warn(x)
		}
	}
}

// challengePath is where CAs look for a token (RFC 8555 8.3).
const challengePath = "/.well-known/acme-challenge/"

// challenge finds the answer to a CA's question, if x is one.
func (f *front) challenge(x *exchange) bool {
	target := x.req.Target
	if f.s.Challenge == nil || len(target) <= len(challengePath) || target[:len(challengePath)] != challengePath {
		return false
	}
	proof, ok := f.s.Challenge(x.req.Host, target[len(challengePath):])
	if ok {
		x.proof = proof
	}
	return ok
}

// release puts x back, with nothing of the visitor left in it but the memory of
// its buffers.
func (x *exchange) release() {
	x.forget()
	if cap(x.body) > 64<<10 {
		x.body = nil
	}
	exchanges.Put(x)
}

// forget drops what points to a request.
func (x *exchange) forget() {
	x.req = redirect.Request{}
	x.proof, x.altSvc = "", nil
}

// bodyGrace is how long a body may take that nobody waits for: a redirect needs none.
const bodyGrace = 500 * time.Millisecond

// readPast takes in the body of a request over HTTP/2, up to the limit, before
// the answer goes out. An answer that overtakes it makes net/http reset the
// stream (RFC 9113 8.1), which curl before 8.1 reports as an error in place of
// the answer. On HTTP/1 net/http does this itself.
func (f *front) readPast(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength > f.limits.Body {
		return
	}
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyGrace))
	io.CopyN(io.Discard, r.Body, f.limits.Body+1)
}

func proto(r *http.Request) telemetry.Proto {
	switch {
	case r.ProtoMajor >= 3:
		return telemetry.HTTP3
	case r.ProtoMajor == 2:
		return telemetry.HTTP2
	case r.ProtoAtLeast(1, 1):
		return telemetry.HTTP11
	}
	return telemetry.HTTP10
}

// record logs an answered request; what only x knows is filled in.
func (f *front) record(x *exchange, to *ledger, a *telemetry.Access) {
	a.HTTPS, a.Status, a.Location = f.https, x.answer.Status, x.answer.Location
	switch x.answer.Kind {
	case redirect.ByRule, redirect.Loop, redirect.BadTarget:
		a.Rule = x.answer.Rule.ID()
	}
	if to.records != nil {
		to.records.Write(a)
		return
	}
	f.s.Access.Write(a)
}

// warn tells of a rule that cannot be followed. Whoever can choose the URL can
// cause it as often as they like, so most are only counted.
func (f *front) warn(x *exchange) {
	missed, ok := f.s.notices.next(f.now())
	if !ok {
		return
	}
	message := "redirect loops: its target is the request itself"
	if x.answer.Kind == redirect.BadTarget {
		message = "redirect leads to a URL that is not valid or not of the host it names"
	}
	f.log.Warn(message, "host", x.req.Host, "path", x.req.Path.Raw, "rule", x.answer.Rule.ID(),
		"pattern", x.answer.Rule.Host(), "notLogged", missed)
}

// notices lets one warning a second through.
type notices struct {
	free   atomic.Int64 // Unix nanoseconds before which nothing is logged
	missed atomic.Uint64
}

// next reports whether to log now, and how many were not logged since the last.
func (n *notices) next(now time.Time) (missed uint64, ok bool) {
	free, at := n.free.Load(), now.UnixNano()
	if at < free || !n.free.CompareAndSwap(free, at+int64(time.Second)) {
		n.missed.Add(1)
		return 0, false
	}
	return n.missed.Swap(0), true
}
