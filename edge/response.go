package edge

import (
	"net/http"
	"net/textproto"
	"strconv"
	"strings"

	"fingerpost/h1"
	"fingerpost/redirect"
)

// Header values that every answer shares. net/http only reads them.
var (
	closeValue   = []string{"close"}
	contentType  = []string{"text/html; charset=utf-8"}
	noSniffValue = []string{"nosniff"}
	noStoreValue = []string{"no-store"}
	proofType    = []string{"application/octet-stream"} // RFC 8555 8.3
	allowValue   = []string{"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}
)

// altSvc tells a visitor that HTTP/3 is to be had at a port of the same host (RFC
// 7838), as a field's value and as its line.
type altSvc struct {
	value []string
	line  string
}

func newAltSvc(port string) *altSvc { return altSvcOf(`h3=":` + port + `"; ma=86400`) }

// clearAltSvc takes back what was told before.
var clearAltSvc = altSvcOf("clear")

func altSvcOf(value string) *altSvc {
	return &altSvc{[]string{value}, "Alt-Svc: " + value + "\r\n"}
}

// refuse makes status the answer, to a request that the table is not asked
// about.
func (x *exchange) refuse(status int) {
	a := &x.answer
	a.Kind, a.Status, a.HSTS, a.Page, a.Rule = 0, status, "", "", redirect.RuleRef{}
	a.Location, a.CacheControl, a.Vary, a.Headers = a.Location[:0], a.CacheControl[:0], a.Vary[:0], a.Headers[:0]
}

// send renders x.answer and gives the size of the body sent.
func (x *exchange) send(w http.ResponseWriter, r *http.Request) (sent int) {
	a := &x.answer
	if x.altSvc != nil {
		w.Header()["Alt-Svc"] = x.altSvc.value
	}
	if a.Status == noContent {
		w.WriteHeader(noContent)
		return 0
	}
	if x.proof != "" {
		x.body = append(x.body[:0], x.proof...)
		w.Header()["Content-Type"] = proofType
		w.Header()["Cache-Control"] = noStoreValue
		w.Header()["Content-Length"] = []string{strconv.Itoa(len(x.body))}
	} else {
		x.body = render(w.Header(), x.body[:0], a)
	}
	w.WriteHeader(a.Status)
	if r.Method == http.MethodHead {
		return 0
	}
	sent, _ = w.Write(x.body) // a visitor who has left is no news
	return sent
}

// Header gives the header fields that an answer is sent with, all but Date and
// those that are about the connection.
func Header(a *redirect.Answer) http.Header {
	h := http.Header{}
	render(h, nil, a)
	return h
}

// render puts the header fields of an answer into h and appends its body.
func render(h http.Header, body []byte, a *redirect.Answer) []byte {
	// One array for the values of the fields that differ from answer to answer.
	values := make([]string, 0, 5)
	put := func(name, value string) {
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
	if len(a.Headers) > 0 {
		addHeaders(h, a.Headers)
	}
	if len(a.Location) > 0 {
		put("Location", string(a.Location))
	}
	if len(a.CacheControl) > 0 {
		put("Cache-Control", string(a.CacheControl))
	}
	if len(a.Vary) > 0 {
		put("Vary", string(a.Vary))
	}
	if a.HSTS != "" {
		put("Strict-Transport-Security", a.HSTS)
	}
	if a.Status == http.StatusMethodNotAllowed {
		h["Allow"] = allowValue // RFC 9110 15.5.6
	}
	body = appendPage(body, a)
	put("Content-Length", strconv.Itoa(len(body)))
	h["Content-Type"] = contentType
	h["X-Content-Type-Options"] = noSniffValue
	return body
}

// appendResponse appends what [exchange.send] sends, as bytes of HTTP/1.1: the
// same fields and body, in another order. It gives the size of the body too.
func (x *exchange) appendResponse(dst []byte, date string, head, http10, keepAlive bool) (b []byte, sent int) {
	a := &x.answer
	dst = h1.AppendStatus(dst, http10, a.Status)
	dst = append(dst, date...)
	if x.altSvc != nil {
		dst = append(dst, x.altSvc.line...)
	}
	if a.Status == noContent {
		return h1.AppendEnd(h1.AppendConnection(dst, http10, keepAlive)), 0
	}
	if x.proof != "" {
		x.body = append(x.body[:0], x.proof...)
		dst = append(dst, "Cache-Control: no-store\r\nContent-Type: application/octet-stream\r\n"...)
	} else {
		dst = append(dst, a.Headers...)
		if len(a.Location) > 0 {
			dst = h1.AppendField(dst, "Location", a.Location)
		}
		if len(a.CacheControl) > 0 {
			dst = h1.AppendField(dst, "Cache-Control", a.CacheControl)
		}
		if len(a.Vary) > 0 {
			dst = h1.AppendField(dst, "Vary", a.Vary)
		}
		if a.HSTS != "" {
			dst = h1.AppendField(dst, "Strict-Transport-Security", a.HSTS)
		}
		if a.Status == http.StatusMethodNotAllowed {
			dst = h1.AppendField(dst, "Allow", allowValue[0])
		}
		dst = append(dst, "Content-Type: text/html; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"...)
		x.body = appendPage(x.body[:0], a)
	}
	dst = h1.AppendLength(dst, len(x.body))
	dst = h1.AppendEnd(h1.AppendConnection(dst, http10, keepAlive))
	if head {
		return dst, 0
	}
	return append(dst, x.body...), len(x.body)
}

// addHeaders adds "Name: value\r\n" lines to h.
func addHeaders(h http.Header, lines []byte) {
	for line := range strings.SplitSeq(strings.TrimSuffix(string(lines), "\r\n"), "\r\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			name = textproto.CanonicalMIMEHeaderKey(name)
			h[name] = append(h[name], value)
		}
	}
}

// maxLinkText bounds what a long request gets back: a link's text is its address
// once more, and escaping makes & five times as long.
const maxLinkText = 256

// appendPage appends the body of an answer: its own page, or a short one.
func appendPage(b []byte, a *redirect.Answer) []byte {
	if a.Page != "" {
		return append(b, a.Page...)
	}
	title := http.StatusText(a.Status)
	b = append(b, "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>"...)
	b = append(b, title...)
	b = append(b, "</title>\n<h1>"...)
	b = append(b, title...)
	b = append(b, "</h1>\n"...)
	if len(a.Location) > 0 {
		b = append(b, "<p><a href=\""...)
		at := len(b)
		b = appendHTML(b, a.Location)
		escaped := b[at:]
		b = append(b, "\">"...)
		if len(a.Location) <= maxLinkText {
			b = append(b, escaped...)
		} else {
			b = append(b, "continue"...)
		}
		b = append(b, "</a></p>\n"...)
	}
	return b
}

// appendHTML escapes s for text and for attribute values in quotes.
func appendHTML(b, s []byte) []byte {
	kept := 0 // s[kept:i] can be copied as it is
	for i, c := range s {
		var escape string
		switch c {
		case '&':
			escape = "&amp;"
		case '<':
			escape = "&lt;"
		case '>':
			escape = "&gt;"
		case '"':
			escape = "&#34;"
		case '\'':
			escape = "&#39;"
		default:
			continue
		}
		b = append(append(b, s[kept:i]...), escape...)
		kept = i + 1
	}
	return append(b, s[kept:]...)
}
