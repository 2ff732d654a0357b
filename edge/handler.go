package edge

import (
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"fingerpost/redirect"
	"fingerpost/telemetry"
)

// front is the handler of one listener.
type front struct {
	s      *Server
	https  bool
	port   string // that the listener is bound to
	limits Limits
	log    *slog.Logger
	now    func() time.Time
	server *http.Server
}

// exchange is one request with its answer. It is kept in a pool, so that what
// is in it costs no allocation: nothing may hold on to it.
type exchange struct {
	req    redirect.Request
	answer redirect.Answer
	body   []byte
	access telemetry.Access
	proof  string // what a CA is answered, instead of answer's page
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// ServeHTTP is the whole way of a request.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := f.now()
	x := exchanges.Get().(*exchange)
	defer x.release()

	if refusal := f.read(r, x); refusal != 0 {
		x.refuse(w, r, refusal)
	} else if f.challenge(x) {
		x.refuse(w, r, http.StatusOK)
	} else {
		x.req.Now = start.Unix()
		table := f.s.Table()
		if f.s.Country != nil && table.UsesCountries() {
			x.req.Country = f.s.Country(x.req.Addr)
		}
		table.Answer(&x.req, &x.answer)
		if x.answer.Kind == redirect.Loop || x.answer.Kind == redirect.BadTarget {
			f.warn(x)
		}
		if r.ProtoMajor >= 2 && r.ContentLength != 0 {
			f.readPast(w, r)
		}
		if !r.ProtoAtLeast(1, 1) {
			// net/http leaves out a Transfer-Encoding that HTTP/1.0 does not have
			// and would read what it frames as the next request (RFC 9112 6.1).
			w.Header()["Connection"] = closeValue
		}
		if f.tooMuchBody(r) {
			w.Header()["Connection"] = closeValue
			// net/http reads past a body even then. It shall not take long: just
			// enough that the client sees the answer before the connection ends.
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyGrace))
		}
	}
	sent := x.send(w, r)

	took := f.now().Sub(start)
	f.s.Metrics.Request(proto(r), f.https, x.answer.Status, took)
	if f.s.Access.Wants() {
		f.record(r, x, start, took, sent)
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
	x.req = redirect.Request{}
	x.access = telemetry.Access{}
	x.proof = ""
	if cap(x.body) > 64<<10 {
		x.body = nil
	}
	exchanges.Put(x)
}

const bodyGrace = 500 * time.Millisecond

// tooMuchBody reports whether the rest of the connection is worth less than
// reading past r's body, or waiting for one that its client holds back until it
// is asked for. A redirect needs none.
func (f *front) tooMuchBody(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.ContentLength != 0 &&
		(r.ContentLength > f.limits.Body || r.ContentLength < 0 || len(r.Header["Expect"]) > 0)
}

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
	case r.ProtoMajor >= 2:
		return telemetry.HTTP2
	case r.ProtoAtLeast(1, 1):
		return telemetry.HTTP11
	}
	return telemetry.HTTP10
}

func (f *front) record(r *http.Request, x *exchange, start time.Time, took time.Duration, sent int) {
	a := &x.access
	*a = telemetry.Access{
		Time:      start,
		Remote:    r.RemoteAddr,
		HTTPS:     f.https,
		Proto:     proto(r),
		Method:    r.Method,
		Host:      r.Host,
		Target:    r.RequestURI,
		Status:    x.answer.Status,
		Location:  x.answer.Location,
		Duration:  took,
		Bytes:     sent,
		UserAgent: r.Header.Get("User-Agent"),
		Referer:   r.Header.Get("Referer"),
	}
	switch x.answer.Kind {
	case redirect.ByRule, redirect.Loop, redirect.BadTarget:
		a.Rule = x.answer.Rule.ID()
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
