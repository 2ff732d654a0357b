package redirect

import (
	"net/netip"

	"fingerpost"
)

// Request is all that an answer depends on.
type Request struct {
	Method  string // upper case
	HTTPS   bool
	HTTP10  bool            // the protocol is below HTTP/1.1
	Host    string          // as fingerpost.ParseHost gives it; empty if the client named none
	Port    string          // of the Host header; empty if it named none
	Path    fingerpost.Path // as fingerpost.ParsePath gives it
	Target  string          // path and query as sent, for the https upgrade
	Query   string          // as sent, without the ?
	Header  Header          // nil if there are none
	Addr    netip.Addr      // of the client
	Country string          // of Addr, ISO 3166-1 alpha-2; only read if the table UsesCountries
	Now     int64           // Unix seconds

	// Covered reports whether a certificate that is being served covers host:
	// until then redirect-to-https holds back. Nil stands for no.
	Covered func(host string) bool
	// HTTPSPort goes into the Location of an https upgrade; empty for 443.
	HTTPSPort string
}

// Header gives the values of a header field, whatever the case of name;
// [net/http.Header] is one.
type Header interface{ Values(name string) []string }

// Kind says who gave an answer.
type Kind uint8

const (
	ByRule      Kind = iota + 1 // a redirect, or a rule with status 404, 410 or 451
	ByFallback                  // the host's fallback
	NotFound                    // the host is served, nothing held: 404
	UnknownHost                 // the host is not served: 421 over TLS, 404 on plain http
	Upgrade                     // the https policy sends the request to https: 301 or 307
	Forbidden                   // the https policy refuses the request: 403
	Loop                        // the Location would be the request's own URL: 508
	BadTarget                   // the expanded target is not a URL of the intended authority: 500
	BadMethod                   // CONNECT 400, TRACE 405
)

// Answer is what a visitor gets. The caller keeps one and passes it again: the
// byte slices are reused, and are valid until the next call.
type Answer struct {
	Kind         Kind
	Status       int
	Location     []byte // empty where the answer is no redirect
	CacheControl []byte // empty for none
	Vary         []byte // empty for none
	HSTS         string // empty for none
	Headers      []byte // the rule's own, as "Name: value\r\n" lines
	Page         string // HTML; empty for the caller's own short page

	// Rule identifies the rule behind ByRule, Loop and BadTarget by its host
	// pattern and id.
	Rule RuleRef

	forms   []form
	depends []dependency
	scratch []byte
}

// reset empties a but keeps its memory, field by field: a composite literal is
// built aside and copied.
func (a *Answer) reset() {
	a.Kind, a.Status, a.HSTS, a.Page, a.Rule = 0, 0, "", "", RuleRef{}
	a.Location, a.CacheControl, a.Vary, a.Headers = a.Location[:0], a.CacheControl[:0], a.Vary[:0], a.Headers[:0]
	a.forms, a.depends, a.scratch = a.forms[:0], a.depends[:0], a.scratch[:0]
}
