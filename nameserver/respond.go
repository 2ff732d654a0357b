package nameserver

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"time"

	"fingerpost/zone"
)

const (
	// maxUDP is as much as goes through nearly every path unfragmented, whatever
	// more a client says it takes: fragments get lost, and can be forged.
	maxUDP     = 1232
	minUDP     = 512 // what every client takes (RFC 1035 4.2.1)
	maxTCP     = 65535
	maxQuery   = 4096 // of a message that is read at all
	maxPointer = 1<<14 - 1
)

// responder makes answers, one after the other; it is scratch space.
type responder struct {
	s       *Server
	query   query
	answer  zone.Answer
	options [128]byte
	event   Event
}

// respond appends the answer to msg to buf, which stays as it is if none is due.
// Everything that a query leads to is decided here.
func (r *responder) respond(buf, msg []byte, client netip.Addr, tcp bool) (out []byte) {
	if !isQuery(msg) {
		return buf
	}
	start := len(buf)
	r.event = Event{TCP: tcp}
	defer func() {
		if p := recover(); p != nil {
			r.s.log().Error("nameserver: a query ended in a panic", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			out = r.fail(buf[:start], msg)
		}
		if r.s.Observe != nil {
			r.s.Observe(r.event)
		}
	}()
	q := &r.query
	code := q.parse(msg)
	r.event.Type = q.qtype
	var found bool
	if code == NoError && q.question != nil {
		code, found = r.lookup()
	}
	r.event.Rcode = code
	now := r.s.now()
	options, cookieHolds := r.respondOptions(client, tcp, now)
	w := writer{buf: buf, start: start, limit: r.limit(tcp), q: q}
	w.header(code, found && r.answer.Authoritative())
	if !tcp && !cookieHolds {
		switch r.s.limiter.verdict(now, client, r.answerOf(code, found)) {
		case drop:
			r.event.Limited = true
			return buf[:start]
		case truncate:
			r.event.Limited, r.event.Truncated = true, true
			w.opt(code, options)
			return w.truncated()
		}
	}
	if q.edns {
		w.limit -= optSize + len(options)
	}
	full := false
	if found {
		full = !w.sections(&r.answer)
	}
	if q.edns {
		w.limit += optSize + len(options)
		w.opt(code, options)
	}
	if !full {
		return w.buf
	}
	if tcp {
		// zone.New refuses sets that do not fit.
		r.event.Rcode = ServFail
		return r.fail(buf[:start], msg)
	}
	r.event.Truncated = true
	return w.truncated()
}

// lookup asks the zones. The second result reports whether there is an answer in
// r.answer.
func (r *responder) lookup() (Rcode, bool) {
	q := &r.query
	switch {
	case q.qclass != classIN:
		return Refused, false // CHAOS too: which program this is, is nobody's business
	case q.qtype == typeAXFR || q.qtype == typeIXFR:
		return Refused, false
	case q.qtype == zone.TypeOPT || q.qtype == typeTSIG || q.qtype == typeTKEY || q.qtype == typeNXNAME || q.qtype == 0:
		return FormErr, false // no record in a zone has such a type
	}
	zones := r.s.Zones()
	if zones == nil {
		return ServFail, false
	}
	zones.Lookup(q.name, q.qtype, &r.answer)
	switch r.answer.Kind {
	case zone.Refused:
		return Refused, false
	case zone.NXDomain:
		return NXDomain, true
	}
	return NoError, true
}

// answerOf tells answers apart for the limit on their rate: by the name in the
// zone, so that names which a wildcard or the lack of a name makes up count as one.
func (r *responder) answerOf(code Rcode, found bool) answerKey {
	if !found {
		return answerKey{code: code}
	}
	return answerKey{code: code, kind: r.answer.Kind, name: r.answer.Source}
}

// limit is how large the answer may be.
func (r *responder) limit(tcp bool) int {
	switch {
	case tcp:
		return maxTCP
	case r.query.edns:
		return min(max(r.query.size, minUDP), maxUDP)
	}
	return minUDP
}

// respondOptions gives the content of the OPT record, and whether the client has
// proved by its cookie that it is where it says.
func (r *responder) respondOptions(client netip.Addr, tcp bool, now time.Time) (options []byte, cookieHolds bool) {
	q := &r.query
	options = r.options[:0]
	if !q.edns || q.version != 0 {
		return nil, false
	}
	option := func(code uint16, size int) {
		options = binary.BigEndian.AppendUint16(options, code)
		options = binary.BigEndian.AppendUint16(options, uint16(size))
	}
	if q.ecs != nil {
		option(optionECS, len(q.ecs))
		options = append(options, q.ecs...) // with scope 0: the answer is for everybody
	}
	if q.cookie != nil {
		option(optionCookie, 8+serverCookieSize)
		options, cookieHolds = appendCookie(options, q.cookie, client, now, r.s.secret)
	}
	if q.keepalive && tcp {
		option(optionKeepalive, 2)
		options = binary.BigEndian.AppendUint16(options, uint16(min(r.s.idle()/(100*time.Millisecond), 65535)))
	}
	return options, cookieHolds
}

// fail is SERVFAIL with nothing but a header.
func (r *responder) fail(buf, msg []byte) []byte {
	r.event.Rcode = ServFail
	flags := binary.BigEndian.Uint16(msg[2:])&(15<<11|flagRD) | flagQR | uint16(ServFail)
	buf = append(buf, msg[0], msg[1], byte(flags>>8), byte(flags))
	return append(buf, make([]byte, 8)...)
}

// optSize is the size of an OPT record without options.
const optSize = 11

// writer lays out one message at start of buf, no longer than limit.
type writer struct {
	buf   []byte
	start int
	limit int
	q     *query

	optAt int // where the OPT record begins; 0 if it is not written
	owner zone.Name
	at    int // where owner was written last; 0 if it cannot be pointed to
}

func (w *writer) header(code Rcode, authoritative bool) {
	flags := flagQR | w.q.opcode<<11 | uint16(code)&15
	if authoritative {
		flags |= flagAA
	}
	if w.q.rd {
		flags |= flagRD // RA stays 0: we look nothing up for anybody
	}
	w.buf = binary.BigEndian.AppendUint16(w.buf, w.q.id)
	w.buf = binary.BigEndian.AppendUint16(w.buf, flags)
	w.buf = append(w.buf, 0, 0, 0, 0, 0, 0, 0, 0)
	if w.q.question != nil {
		w.buf[w.start+5] = 1
		w.buf = append(w.buf, w.q.question...) // letter by letter: clients check the case
	}
}

// count adds n to the number of records in a section: 1 answer, 2 authority, 3
// additional.
func (w *writer) count(section, n int) {
	field := w.buf[w.start+4+2*section:]
	binary.BigEndian.PutUint16(field, binary.BigEndian.Uint16(field)+uint16(n))
}

// sections writes all of a. It reports false if what the client needs does not fit.
func (w *writer) sections(a *zone.Answer) bool {
	for _, o := range a.Answer {
		if !w.set(1, o) {
			return false
		}
	}
	for _, o := range a.Authority {
		if !w.set(2, o) {
			return false
		}
	}
	for _, o := range a.Additional {
		// Addresses may be missing, but for those without which a delegation cannot
		// be followed (RFC 9471).
		if !w.set(3, o) && a.Kind == zone.Delegation {
			return false
		}
	}
	return true
}

// set writes all records of o, or nothing and false if they do not fit.
func (w *writer) set(section int, o zone.Owned) bool {
	was := len(w.buf)
	for _, data := range o.Data {
		w.name(o.Owner)
		w.buf = binary.BigEndian.AppendUint16(w.buf, uint16(o.Type))
		w.buf = binary.BigEndian.AppendUint16(w.buf, classIN)
		w.buf = binary.BigEndian.AppendUint32(w.buf, o.TTL)
		w.buf = binary.BigEndian.AppendUint16(w.buf, uint16(len(data)))
		w.buf = append(w.buf, data...)
		if len(w.buf)-w.start > w.limit {
			w.buf = w.buf[:was]
			w.owner = ""
			return false
		}
	}
	w.count(section, len(o.Data))
	return true
}

// name writes an owner, as pointers to the question and to the owner before
// where it can (RFC 1035 4.1.4).
func (w *writer) name(owner zone.Name) {
	if owner == "" {
		w.pointer(headerSize)
		return
	}
	if owner == w.owner {
		w.pointer(w.at)
		return
	}
	here := len(w.buf) - w.start
	for rest := owner; ; rest = rest.Parent() {
		if rest == zone.Root {
			w.buf = append(w.buf, 0)
			break
		}
		if w.q.name.IsIn(rest) {
			w.pointer(headerSize + len(w.q.name) - len(rest))
			break
		}
		w.buf = append(w.buf, rest[:1+int(rest[0])]...)
	}
	if here <= maxPointer {
		w.owner, w.at = owner, here
	}
}

func (w *writer) pointer(to int) {
	w.buf = binary.BigEndian.AppendUint16(w.buf, 0xc000|uint16(to))
}

// opt writes the OPT record, if the query had one.
func (w *writer) opt(code Rcode, options []byte) {
	if !w.q.edns {
		return
	}
	w.optAt = len(w.buf)
	w.buf = append(w.buf, 0)
	w.buf = binary.BigEndian.AppendUint16(w.buf, uint16(zone.TypeOPT))
	w.buf = binary.BigEndian.AppendUint16(w.buf, maxUDP)
	w.buf = append(w.buf, byte(code>>4), 0)
	var flags uint16
	if w.q.do {
		flags = flagDO
	}
	w.buf = binary.BigEndian.AppendUint16(w.buf, flags)
	w.buf = binary.BigEndian.AppendUint16(w.buf, uint16(len(options)))
	w.buf = append(w.buf, options...)
	w.count(3, 1)
}

// truncated makes of what is written an answer without records, which tells the
// client to ask over TCP. A part of the records would help nobody.
func (w *writer) truncated() []byte {
	opt := w.buf[len(w.buf):]
	if w.optAt > 0 {
		opt = w.buf[w.optAt:]
	}
	w.buf[w.start+2] |= flagTC >> 8
	for section := 1; section <= 3; section++ {
		binary.BigEndian.PutUint16(w.buf[w.start+4+2*section:], 0)
	}
	w.buf = append(w.buf[:w.start+headerSize+len(w.q.question)], opt...)
	if len(opt) > 0 {
		w.count(3, 1)
	}
	return w.buf
}
