package fingerpost

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// The https policies of a host: what a request over plain http gets.
const (
	AllowAll        = "allow-all"         // the same answer over http and https
	RedirectToHTTPS = "redirect-to-https" // GET and HEAD 301, other methods 307, 403 below HTTP/1.1
	HTTPSOnly       = "https-only"        // 403
)

// Host is a name that we answer for, with the settings of its visitors.
type Host struct {
	Name         string    `json:"-"`                      // a host pattern as [ParseHostPattern] reads it
	Also         []string  `json:"also,omitempty"`         // further host patterns, served exactly as Name is
	RedirectFrom []string  `json:"redirectFrom,omitempty"` // hosts that are sent here by a 301, path and query kept
	To           string    `json:"to,omitempty"`           // the whole host goes there; a target as in Redirect.To
	Status       int       `json:"status,omitempty"`       // the status that goes with To; default 301
	HTTPS        string    `json:"https,omitempty"`        // an https policy; default allow-all
	HSTS         *HSTS     `json:"hsts,omitempty"`         // sent over https only
	Certificate  string    `json:"certificate,omitempty"`  // auto (default), none, or the name of an imported one
	Fallback     *Fallback `json:"fallback,omitempty"`     // the answer where no redirect holds
	Team         string    `json:"team,omitempty"`         // the owner

	Source Position  `json:"-"` // where it was written
	Since  time.Time `json:"-"` // when it first appeared; zero if unknown
}

// HSTS is the Strict-Transport-Security policy of a host (RFC 6797 6.1).
type HSTS struct {
	MaxAge            int  `json:"maxAge"` // seconds
	IncludeSubDomains bool `json:"includeSubDomains,omitempty"`
	Preload           bool `json:"preload,omitempty"`
}

// String is the header's value.
func (h *HSTS) String() string {
	s := "max-age=" + strconv.Itoa(h.MaxAge)
	if h.IncludeSubDomains {
		s += "; includeSubDomains"
	}
	if h.Preload {
		s += "; preload"
	}
	return s
}

// Fallback is what a host answers where no redirect holds: a target with a
// redirect status (default 302), or a page with 404 (the default), 410 or 451.
type Fallback struct {
	To     string `json:"to,omitempty"`
	Status int    `json:"status,omitempty"`
	Page   string `json:"page,omitempty"` // HTML; in a file, the name of a file beside it
}

// Redirects gives the rules that the host's own fields stand for: To, and one
// for each host of RedirectFrom.
func (h *Host) Redirects() []Redirect {
	var rules []Redirect
	if h.To != "" {
		rules = append(rules, Redirect{From: h.Name, To: h.To, Status: h.Status, Source: h.Source, Since: h.Since})
	}
	scheme := "{scheme}"
	if h.HTTPS == RedirectToHTTPS || h.HTTPS == HTTPSOnly {
		scheme = "https" // one hop instead of two
	}
	for _, from := range h.RedirectFrom {
		rules = append(rules, Redirect{From: from, To: scheme + "://" + h.Name + "{path}", Source: h.Source, Since: h.Since})
	}
	return rules
}

// CertificateNames lists the names of the host that certificates can be for.
func (h *Host) CertificateNames() []string {
	var names []string
	for _, list := range [][]string{{h.Name}, h.Also, h.RedirectFrom} {
		for _, s := range list {
			names = append(names, CertificateNames(s)...)
		}
	}
	return names
}

// FallbackRedirect gives the fallback as a rule for the whole host, or nil.
func (h *Host) FallbackRedirect() *Redirect {
	f := h.Fallback
	if f == nil {
		return nil
	}
	r := &Redirect{From: h.Name, To: f.To, Status: f.Status, Page: f.Page, Source: h.Source}
	if r.Status == 0 {
		r.Status = 302
		if f.To == "" {
			r.Status = 404
		}
	}
	return r
}

// Validate reports all that is wrong with h by itself. What needs other hosts
// or redirects to be seen is [fingerpost/redirect.Compile]'s.
func (h *Host) Validate() error {
	var errs []error
	bad := func(code, field, message, hint string) {
		errs = append(errs, &Error{Code: code, Field: field, Message: "host " + h.Name + ": " + message, Hint: hint, At: h.Source})
	}
	wrap := func(field string, err error) {
		for _, e := range Errors(err) {
			bad(e.Code, field, e.Message, e.Hint)
		}
	}
	name, err := ParseHostPattern(h.Name)
	if err != nil {
		wrap("", err)
	}
	seen := map[HostPattern]bool{name: true}
	for _, list := range []struct {
		field string
		names []string
	}{{"also", h.Also}, {"redirectFrom", h.RedirectFrom}} {
		for _, s := range list.names {
			other, err := ParseHostPattern(s)
			switch {
			case err != nil:
				wrap(list.field, err)
			case seen[other]:
				bad("duplicate", list.field, strconv.Quote(s)+" is listed twice", "remove one of them")
			}
			seen[other] = true
		}
	}
	if len(h.RedirectFrom) > 0 && err == nil && name.IsWildcard() {
		bad("bad_host", "redirectFrom", "a wildcard host cannot be a target", "name one host to send them to")
	}
	switch h.HTTPS {
	case "", AllowAll, RedirectToHTTPS, HTTPSOnly:
	default:
		bad("bad_value", "https", "unknown https policy "+strconv.Quote(h.HTTPS), "one of allow-all, redirect-to-https, https-only")
	}
	if h.HSTS != nil && h.HSTS.MaxAge < 0 {
		bad("bad_value", "hsts.maxAge", "maxAge is negative", "give seconds, for example 63072000 for two years")
	}
	if h.Status != 0 && h.To == "" {
		bad("bad_status", "status", "a status without a target", "add to:, or use fallback: {status: …}")
	}
	if strings.ContainsAny(h.Certificate, "/\\") {
		bad("bad_value", "certificate", "certificate is a name, not a path", "put the file into the certificates folder and give its name without the ending")
	}
	from := "*" // in place of a name whose error is reported already
	if err == nil {
		from = h.Name
	}
	if h.To != "" {
		for _, e := range Errors((&Redirect{From: from, To: h.To, Status: h.Status}).Validate()) {
			bad(e.Code, e.Field, e.Message, e.Hint)
		}
	}
	if r := h.FallbackRedirect(); r != nil {
		r.From = from
		for _, e := range Errors(r.Validate()) {
			bad(e.Code, "fallback."+e.Field, e.Message, e.Hint)
		}
	}
	return errors.Join(errs...)
}
