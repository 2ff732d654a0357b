package redirect

import (
	"fmt"
	"strings"

	"fingerpost"
)

// Check gives warnings on what Compile accepted as t: nothing of it is wrong,
// but it is likely not what was meant. covers reports whether a certificate is
// there for a host; nil if that is not known.
func Check(t *Table, hosts []fingerpost.Host, redirects []fingerpost.Redirect, covers func(host string) bool) []*fingerpost.Error {
	c := checker{t: t, rules: map[[2]string]*fingerpost.Redirect{}, covers: covers}
	var all []*fingerpost.Redirect
	for i := range hosts {
		c.host(&hosts[i])
		own := hosts[i].Redirects()
		for j := range own {
			all = append(all, &own[j])
		}
	}
	for i := range redirects {
		if redirects[i].IsEnabled() {
			all = append(all, &redirects[i])
		}
	}
	for _, r := range all {
		if host, id, err := Identify(r); err == nil {
			c.rules[[2]string{host, id}] = r
		}
	}
	for _, r := range all {
		c.redirect(r)
	}
	return c.warnings
}

type checker struct {
	t        *Table
	rules    map[[2]string]*fingerpost.Redirect // by host and id
	covers   func(host string) bool
	warnings []*fingerpost.Error
}

func (c *checker) warn(at fingerpost.Position, code, field, message, hint string) {
	c.warnings = append(c.warnings, &fingerpost.Error{Code: code, Field: field, Message: message, Hint: hint, At: at})
}

func (c *checker) host(h *fingerpost.Host) {
	if h.HSTS != nil && (h.HTTPS == "" || h.HTTPS == fingerpost.AllowAll) {
		c.warn(h.Source, "hsts_without_https", "hsts", "host "+h.Name+" has HSTS with https: allow-all",
			"browsers that saw the header never come over http again; set https: redirect-to-https")
	}
	if c.covers == nil || h.Certificate == "none" {
		return
	}
	name, err := fingerpost.ParseHostPattern(h.Name)
	if err != nil || name.Suffix() == "" {
		return
	}
	if suffix := name.Suffix(); c.covers(sampleText+"."+suffix) && !c.covers(sampleText+"."+sampleText+"."+suffix) {
		c.warn(h.Source, "deep_wildcard", "certificate", fmt.Sprintf("host %s answers at any depth, its certificate covers one label only", h.Name),
			"hosts such as a.b."+suffix+" need a certificate of their own")
	}
}

func (c *checker) redirect(r *fingerpost.Redirect) {
	p, err := r.Parse()
	if err != nil {
		return
	}
	for _, name := range p.To.Undeclared {
		c.warn(r.Source, "undeclared_capture", "to", fmt.Sprintf("to %q has :%s, which from does not capture; it is sent as it stands", r.To, name),
			"capture it in from, or write %3A for a colon")
	}
	if p.To.Scheme == "https" && c.covers != nil && c.t.Serves(p.To.Host) && !c.covers(p.To.Host) {
		c.warn(r.Source, "no_certificate", "to", fmt.Sprintf("to %q leads to a host that is served here without a certificate", r.To),
			"get a certificate for "+p.To.Host+" first")
	}
	c.shadow(r)
	c.chain(r)
}

// shadow warns of a rule that wins none of the requests it is for.
func (c *checker) shadow(r *fingerpost.Redirect) {
	host, id, err := Identify(r)
	if err != nil {
		return
	}
	var a Answer
	var winner RuleRef
	for _, sample := range samples(r, many) {
		sample.Covered = nil // the https policy has no say in this
		c.t.Answer(&sample, &a)
		if a.Kind == Forbidden {
			continue // https-only: the https sample decides
		}
		if a.Rule.IsZero() || a.Rule.Host() == host && a.Rule.ID() == id {
			return
		}
		if a.Rule.isPrivate() && !isPrivate(r.When) {
			return // that one is for some of the visitors only
		}
		winner = a.Rule
	}
	if !winner.IsZero() {
		first := winner.ID() + " on " + winner.Host()
		if other := c.rules[[2]string{winner.Host(), winner.ID()}]; other != nil {
			first = place(other.Source, fmt.Sprintf("%q", other.From))
		}
		c.warn(r.Source, "shadowed", "from", fmt.Sprintf("from %q never answers: the redirect at %s always comes first", r.From, first),
			"remove it, or give it a higher priority")
	}
}

// chain warns of redirects that lead to another redirect of ours.
func (c *checker) chain(r *fingerpost.Redirect) {
	for _, sample := range samples(r, oneEach) {
		way, last, endless := c.t.Follow(sample)
		rules := 0
		var path strings.Builder
		for _, h := range way {
			if h.Location == "" {
				continue
			}
			path.WriteString(h.URL + " → ")
			if h.Kind == ByRule {
				rules++
			}
		}
		if rules < 2 || endless {
			continue
		}
		hint := "each hop costs the visitor a round trip"
		if !strings.Contains(last, sampleText) {
			hint = "set to: " + last
		}
		c.warn(r.Source, "chain", "to", fmt.Sprintf("a chain of %d redirects: %s%s", rules, path.String(), last), hint)
		return
	}
}
