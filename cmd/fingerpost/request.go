package main

import (
	"time"

	"fingerpost"
	"fingerpost/explain"
	"fingerpost/redirect"
)

// newRequest makes the request that c describes, for verbs that ask a table
// without a server.
func (r *rules) newRequest(c *fingerpost.Case) (redirect.Request, error) {
	return explain.NewRequest(c, time.Now(), r.covers)
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
