package main

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/redirect"
)

// newRequest makes the request that c describes, for verbs that ask a table
// without a server.
func (r *rules) newRequest(c *fingerpost.Case) (redirect.Request, error) {
	bad := func(message, hint string) (redirect.Request, error) {
		return redirect.Request{}, &fingerpost.Error{Code: "bad_url", Field: "url", Message: fmt.Sprintf("url %q %s", c.URL, message), Hint: hint, At: c.Source}
	}
	scheme, rest, ok := strings.Cut(c.URL, "://")
	scheme = strings.ToLower(scheme)
	if !ok || scheme != "http" && scheme != "https" {
		return bad("has no http:// or https://", "give the whole address, as in https://www.example.com/path")
	}
	rest, _, _ = strings.Cut(rest, "#") // a browser keeps it to itself
	authority, target := rest, "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		authority, target = rest[:i], rest[i:]
		if target[0] == '?' {
			target = "/" + target
		}
	}
	req := redirect.Request{Method: http.MethodGet, HTTPS: scheme == "https", Target: target, Country: c.Country, Now: time.Now().Unix(), Covered: r.covers}
	host, port := authority, ""
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && !strings.HasSuffix(authority, "]") {
		host, port = authority[:i], authority[i+1:]
	}
	// As a browser's address bar: U-labels become A-labels.
	pattern, err := fingerpost.ParseHostPattern(host)
	if err != nil || pattern.IsWildcard() {
		return bad("has no valid host", "")
	}
	if port != "" {
		port = ":" + port
	}
	if req.Host, req.Port, err = fingerpost.ParseHost(string(pattern) + port); err != nil {
		return bad("has no valid port", "")
	}
	path, query, _ := strings.Cut(target, "?")
	if req.Path, err = fingerpost.ParsePath(path); err != nil {
		return bad("has a path that no server accepts: "+err.Error(), "write a space as %20 and a percent sign as %25")
	}
	req.Query = query
	if c.Method != "" {
		req.Method = strings.ToUpper(c.Method)
	}
	header := http.Header{}
	for name, value := range c.Headers {
		header.Set(name, value)
	}
	req.Header = header
	if c.Address != "" {
		if req.Addr, err = netip.ParseAddr(c.Address); err != nil {
			return bad(fmt.Sprintf("comes with the address %q, which is none", c.Address), "as in 192.0.2.1")
		}
	}
	if c.At != nil {
		req.Now = c.At.Unix()
	}
	return req, nil
}

// covers reports whether a certificate is there for host. Where no folder of
// certificates is named, one is taken to be there: what is asked for is what
// visitors will get.
func (r *rules) covers(host string) bool {
	return r.certs == nil || r.certs.Covers(host)
}

// redirectOf finds the redirect behind an answer, nil for a host's fallback.
func (r *rules) redirectOf(host, id string) *fingerpost.Redirect {
	for i := range r.Redirects {
		if h, other, err := redirect.Identify(&r.Redirects[i]); err == nil && other == id && h == host {
			return &r.Redirects[i]
		}
	}
	for i := range r.Hosts {
		own := r.Hosts[i].Redirects()
		for j := range own {
			if h, other, err := redirect.Identify(&own[j]); err == nil && other == id && h == host {
				return &own[j]
			}
		}
	}
	return nil
}

// describe names the rule behind an answer by its id and where it was written.
func (r *rules) describe(ref redirect.RuleRef) string {
	if ref.IsZero() {
		return ""
	}
	if src := r.redirectOf(ref.Host(), ref.ID()); src != nil {
		if at := src.Source.String(); at != "" {
			return ref.ID() + " (" + at + ")"
		}
	}
	return ref.ID() + " of " + ref.Host()
}
