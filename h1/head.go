// Package h1 reads the head of an HTTP/1.1 request from bytes and writes the head
// of a response, without allocation (RFC 9112).
//
// It is strict: what two readers could understand differently is bad, whatever
// else would be meant by it. It knows bytes only: no sockets, no time, no routes,
// and not what a host name is; it says how far a head can be answered at once, and
// nothing of what the answer is.
//
// Start reading at [Head.Read], then [AppendStatus].
package h1

import (
	"bytes"
	"unsafe"
)

// Verdict is what to do with the bytes that have come in.
type Verdict uint8

const (
	// Incomplete: the head goes on, read more.
	Incomplete Verdict = iota
	// Redirectable: a request without a body, which can be answered from its head
	// alone.
	Redirectable
	// HandOver: the head is sound, but a body or an upgrade belongs to a server that
	// does more.
	HandOver
	// Bad: answer with Head.Status and close; what follows cannot be trusted.
	Bad
)

func (v Verdict) String() string {
	return [...]string{"incomplete", "redirectable", "hand over", "bad"}[v]
}

// Limits bound a head, in bytes.
type Limits struct {
	Target int // of the request target, over which the status is 414
	Head   int // of request line and fields, over which it is 431
}

// Field is one header field, its value without white space around it.
type Field struct{ Name, Value string }

// Head is the head of a request. Its strings lie in the bytes that Read was given:
// they are valid as long as these stay as they are. Used again for the next
// request, it allocates nothing.
type Head struct {
	Method string
	Target string // as sent
	Host   string // the value of Host, not yet looked at; "" if there is none
	HTTP10 bool
	Fields []Field // all of them, in order

	// HTTP2 is a HandOver of a client that begins with the [Preface] of HTTP/2: no
	// byte of it is read, and nothing else is set.
	HTTP2 bool

	// Size is how many bytes the head takes, the empty line at its end included; of
	// HandOver and Redirectable only.
	Size int
	// KeepAlive is whether the client wants to send another request.
	KeepAlive bool
	// Status is the answer to what is Bad; Why says what is, for a log.
	Status int
	Why    string

	// Scanned is how many bytes of an Incomplete head need no second look. Who keeps
	// the bytes but not the Head keeps it with them, and sets it again.
	Scanned int

	closed bool // the client said so
}

// Reset makes h ready for the head of another request.
func (h *Head) Reset() {
	clear(h.Fields) // they would keep a buffer alive
	*h = Head{Fields: h.Fields[:0]}
}

// Values gives the values of a header field, whatever the case of name.
func (h *Head) Values(name string) []string {
	var values []string
	for i := range h.Fields {
		if equalFold(h.Fields[i].Name, name) {
			values = append(values, h.Fields[i].Value)
		}
	}
	return values
}

// Value gives the first value of a header field; "" if there is none.
func (h *Head) Value(name string) string {
	for i := range h.Fields {
		if equalFold(h.Fields[i].Name, name) {
			return h.Fields[i].Value
		}
	}
	return ""
}

// Preface is how a client begins that knows we speak HTTP/2 (RFC 9113 3.4).
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

const prefaceHead = len("PRI * HTTP/2.0\r\n\r\n")

// Read reads the head that b begins with. While it is Incomplete, call it again
// with the same bytes and more behind them; they may have moved. After any other
// verdict Reset comes before the next.
func (h *Head) Read(b []byte, l Limits) Verdict {
	end, verdict := h.end(b, l)
	if verdict != Redirectable {
		return verdict
	}
	// What is read from here on lies in one string. It is b itself: see Head.
	s := unsafe.String(unsafe.SliceData(b), end)
	if s == Preface[:prefaceHead] {
		switch {
		case len(b) >= len(Preface) && string(b[:len(Preface)]) == Preface:
			h.HTTP2 = true
			return HandOver
		case len(b) < len(Preface) && string(b) == Preface[:len(b)]:
			return Incomplete
		}
	}
	rest, ok := h.requestLine(s, l)
	if !ok {
		return Bad
	}
	h.Size = end
	return h.fields(rest)
}

// bad makes the verdict.
func (h *Head) bad(status int, why string) Verdict {
	h.Status, h.Why = status, why
	return Bad
}

// end looks for the empty line that ends the head, from where it stopped the last
// time. A line that ends in a bare LF is bad as soon as it is seen: no head that
// net/http would take as complete waits here.
func (h *Head) end(b []byte, l Limits) (end int, v Verdict) {
	if len(b) >= 2 && b[0] == '\r' && b[1] == '\n' || len(b) >= 1 && b[0] == '\n' {
		return 0, h.bad(400, "empty line before the request")
	}
	for from := h.Scanned; ; {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			break
		}
		i += from
		if i == 0 || b[i-1] != '\r' {
			return 0, h.bad(400, "line ends in a bare LF")
		}
		if i+1 > l.Head {
			return 0, h.tooLarge(b, l)
		}
		if i == from+1 && from > 0 {
			return i + 1, Redirectable
		}
		from = i + 1
		h.Scanned = from
	}
	if len(b) > l.Head {
		return 0, h.tooLarge(b, l)
	}
	return 0, Incomplete
}

// tooLarge tells a long target from a long head.
func (h *Head) tooLarge(b []byte, l Limits) Verdict {
	line := b
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		line = b[:i]
	}
	if i := bytes.IndexByte(line, ' '); i >= 0 {
		target := line[i+1:]
		if j := bytes.IndexByte(target, ' '); j >= 0 {
			target = target[:j]
		}
		if len(target) > l.Target {
			return h.bad(414, "request target is too long")
		}
	}
	return h.bad(431, "request head is too large")
}

// requestLine reads method, target and version (RFC 9112 3), and gives what
// follows the line.
func (h *Head) requestLine(s string, l Limits) (rest string, ok bool) {
	i := indexByte(s, '\n')
	line, rest := s[:i-1], s[i+1:]
	sp := indexByte(line, ' ')
	if sp <= 0 || !isToken(line[:sp]) {
		h.bad(400, "method is not a token")
		return "", false
	}
	h.Method, line = line[:sp], line[sp+1:]
	sp = indexByte(line, ' ')
	if sp <= 0 {
		h.bad(400, "request line has not three parts")
		return "", false
	}
	h.Target, line = line[:sp], line[sp+1:]
	if len(h.Target) > l.Target {
		h.bad(414, "request target is too long")
		return "", false
	}
	if !isTarget(h.Target) {
		h.bad(400, "request target has control bytes")
		return "", false
	}
	switch {
	case line == "HTTP/1.1":
		h.KeepAlive = true
	case line == "HTTP/1.0":
		h.HTTP10 = true
	case len(line) == len("HTTP/1.1") && line[:5] == "HTTP/" && isDigit(line[5]) && line[6] == '.' && isDigit(line[7]):
		if line[5] != '1' {
			h.bad(505, "version is not HTTP/1")
			return "", false
		}
		h.KeepAlive = true // RFC 9110 2.5: a higher minor version is served as the highest known
	default:
		h.bad(400, "version is not one")
		return "", false
	}
	return rest, true
}

// fields reads the header fields (RFC 9112 5) and what they say of framing
// (section 6) and of the connection (section 9).
func (h *Head) fields(s string) Verdict {
	hosts, lengths, codings, body, special := 0, 0, 0, false, false
	for {
		i := indexByte(s, '\n')
		line := s[:i-1]
		s = s[i+1:]
		if line == "" {
			break
		}
		colon := indexByte(line, ':')
		if line[0] == ' ' || line[0] == '\t' {
			return h.bad(400, "field is folded onto another line") // RFC 9112 5.2
		}
		if colon <= 0 || !isToken(line[:colon]) {
			return h.bad(400, "field name is not a token")
		}
		name, value := line[:colon], trim(line[colon+1:])
		if !isValue(value) {
			return h.bad(400, "field value has control bytes")
		}
		h.Fields = append(h.Fields, Field{name, value})
		// By its length first: few names share one of those that matter.
		switch len(name) {
		case len("Host"):
			if equalFold(name, "host") {
				hosts++
				h.Host = value
			}
		case len("Expect"):
			special = special || equalFold(name, "expect")
		case len("Upgrade"):
			special = special || equalFold(name, "upgrade")
		case len("Connection"):
			if equalFold(name, "connection") {
				h.connection(value)
			}
		case len("Content-Length"):
			if equalFold(name, "content-length") {
				lengths++
				zero, ok := contentLength(value)
				if !ok {
					return h.bad(400, "Content-Length is not a number")
				}
				body = body || !zero
			}
		case len("Transfer-Encoding"):
			if equalFold(name, "transfer-encoding") {
				codings++
				body = true
				if !equalFold(value, "chunked") {
					return h.bad(501, "Transfer-Encoding is not chunked")
				}
			}
		}
	}
	switch {
	case hosts > 1:
		return h.bad(400, "several Host fields")
	case hosts == 0 && !h.HTTP10:
		return h.bad(400, "no Host field")
	case lengths > 1:
		return h.bad(400, "several Content-Length fields")
	case codings > 1:
		return h.bad(400, "several Transfer-Encoding fields")
	case lengths > 0 && codings > 0:
		return h.bad(400, "Transfer-Encoding beside Content-Length") // RFC 9112 6.1
	case codings > 0 && h.HTTP10:
		return h.bad(400, "Transfer-Encoding in HTTP/1.0")
	case body || special:
		return HandOver
	}
	return Redirectable
}

// connection reads the options of a Connection field (RFC 9112 9.3).
func (h *Head) connection(value string) {
	for value != "" {
		option := value
		if i := indexByte(value, ','); i >= 0 {
			option, value = value[:i], value[i+1:]
		} else {
			value = ""
		}
		switch option = trim(option); {
		case equalFold(option, "close"):
			h.KeepAlive, h.closed = false, true
		case h.HTTP10 && !h.closed && equalFold(option, "keep-alive"):
			h.KeepAlive = true
		}
	}
}

// contentLength reads a Content-Length (RFC 9110 8.6) that fits into 63 bits.
func contentLength(value string) (zero, ok bool) {
	if value == "" || len(value) > 18 {
		return false, false
	}
	zero = true
	for i := range len(value) {
		if !isDigit(value[i]) {
			return false, false
		}
		zero = zero && value[i] == '0'
	}
	return zero, true
}
