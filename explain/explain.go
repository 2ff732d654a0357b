// Package explain tells, of one request, which rule answers it, why the others do
// not, and where the way goes on.
//
// It knows the table and what to say about it. It does not know where rules come
// from: the table, the rules behind it and the certificates are handed in. The
// command line asks it about files, the API about what a node serves.
//
// Start reading at [NewRequest], then [Explainer.Explain].
package explain

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"fingerpost"
	"fingerpost/redirect"
)

// Explainer is what an explanation is made from.
type Explainer struct {
	Table *redirect.Table
	// Redirect finds the redirect behind an answer; nil for a host's fallback.
	Redirect func(host, id string) *fingerpost.Redirect
	// Covers reports whether a certificate is there for a host; nil if that is
	// not known.
	Covers func(host string) bool
	// Header gives the header that goes with an answer.
	Header func(*redirect.Answer) http.Header
}

// Explanation is all that is told of one request. The JSON form is for programs.
type Explanation struct {
	Request    Request  `json:"request"`
	Forms      []string `json:"forms"`  // the host patterns that were asked, in order
	Policy     string   `json:"policy"` // the https policy; empty where no host has settings
	Candidates []Rule   `json:"candidates"`
	Answer     Answer   `json:"answer"`
	Hops       []Hop    `json:"hops"` // what follows, as far as it stays here
	Notes      []string `json:"notes"`
}

// Request is what was asked, as rules see it.
type Request struct {
	Method string `json:"method"`
	URL    string `json:"url"` // normalised
	Scheme string `json:"scheme"`
	Host   string `json:"host"`
	Path   string `json:"path"` // as rules see it
	Query  string `json:"query"`
}

// Rule is a rule that was looked at.
type Rule struct {
	ID     string               `json:"id"`
	Host   string               `json:"host"`
	From   string               `json:"from,omitempty"`
	To     string               `json:"to,omitempty"`
	Source *fingerpost.Position `json:"source,omitempty"`
	Won    bool                 `json:"won"`
	Reason string               `json:"reason,omitempty"`
}

// Answer is what is sent.
type Answer struct {
	Status  int               `json:"status"`
	By      string            `json:"by"`
	Rule    string            `json:"rule,omitempty"`
	Headers map[string]string `json:"headers"`
}

// Hop is one more request on the way.
type Hop struct {
	URL      string `json:"url"`
	Status   int    `json:"status"`
	Location string `json:"location,omitempty"`
	Rule     string `json:"rule,omitempty"`
}

// kinds say in words who gave an answer.
var kinds = map[redirect.Kind]string{
	redirect.ByRule: "rule", redirect.ByFallback: "fallback of the host", redirect.NotFound: "no rule holds",
	redirect.UnknownHost: "the host is not served", redirect.Upgrade: "https policy", redirect.Forbidden: "https policy",
	redirect.Loop: "the target is the request itself", redirect.BadTarget: "the target is not a URL of the intended host", redirect.BadMethod: "the method",
}

// Explain answers req by the table, as a visitor would be, and tells how.
func (x *Explainer) Explain(req redirect.Request) *Explanation {
	var a redirect.Answer
	trace := x.Table.Explain(&req, &a)
	scheme := "http"
	if req.HTTPS {
		scheme = "https"
	}
	e := &Explanation{
		Request:    Request{Method: req.Method, URL: req.URL(), Scheme: scheme, Host: req.Host, Path: req.Path.Norm, Query: req.Query},
		Forms:      trace.Forms,
		Policy:     trace.Policy,
		Candidates: []Rule{},
		Answer:     Answer{Status: a.Status, By: kinds[a.Kind], Rule: a.Rule.ID(), Headers: map[string]string{}},
		Hops:       []Hop{},
		Notes:      []string{},
	}
	for name, values := range x.Header(&a) {
		e.Answer.Headers[name] = strings.Join(values, ", ")
	}
	for _, c := range trace.Candidates {
		rule := Rule{ID: c.ID, Host: c.Host, Won: c.Won, Reason: c.Reason}
		if src := x.Redirect(c.Host, c.ID); src != nil {
			rule.From, rule.To = src.From+src.Regex, src.To
			if src.Regex != "" {
				rule.From = src.From + " regex " + src.Regex
			}
			if src.Source != (fingerpost.Position{}) {
				rule.Source = &src.Source
			}
		}
		e.Candidates = append(e.Candidates, rule)
	}
	hops, _, _ := x.Table.Follow(req)
	for _, hop := range hops {
		e.Hops = append(e.Hops, Hop{URL: hop.URL, Status: hop.Status, Location: hop.Location, Rule: hop.Rule.ID()})
	}
	if len(e.Hops) > 0 {
		e.Hops = e.Hops[1:] // the first one is the answer itself
	}
	e.note(x, &req, trace, a.Kind)
	return e
}

// note adds what an operator should know about the host.
func (e *Explanation) note(x *Explainer, req *redirect.Request, trace redirect.Trace, kind redirect.Kind) {
	note := func(format string, args ...any) { e.Notes = append(e.Notes, fmt.Sprintf(format, args...)) }
	switch {
	case trace.Policy == fingerpost.RedirectToHTTPS && trace.Waits:
		note("redirect-to-https holds back until a certificate covers %s", req.Host)
	case trace.Policy == fingerpost.RedirectToHTTPS && x.Covers == nil:
		note("redirect-to-https is shown as it is with a certificate; without one for %s it holds back", req.Host)
	}
	if kind == redirect.UnknownHost {
		note("%s is in no rule and no host; over TLS the answer is 421, over plain http 404", req.Host)
	} else if x.Covers != nil && !x.Covers(req.Host) {
		note("no certificate covers %s; certificate: auto waits for a CA", req.Host)
	}
}

// Print writes e for people.
func (e *Explanation) Print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", e.Request.Method, e.Request.URL)
	fmt.Fprintf(&b, "  host    %s", e.Request.Host)
	if len(e.Forms) > 0 {
		fmt.Fprintf(&b, ", asked as %s", strings.Join(e.Forms, ", then "))
	}
	fmt.Fprintf(&b, "\n  path    %s\n", e.Request.Path)
	if e.Request.Query != "" {
		fmt.Fprintf(&b, "  query   %s\n", e.Request.Query)
	}
	if e.Policy != "" {
		fmt.Fprintf(&b, "  https   %s\n", e.Policy)
	}
	if len(e.Candidates) > 0 {
		b.WriteString("\nCandidates, first the one that comes first\n")
	}
	for _, c := range e.Candidates {
		mark, why := " ", c.Reason
		if c.Won {
			mark, why = "*", "answers"
		}
		fmt.Fprintf(&b, "%s %s: %s\n", mark, c.ID, why)
		if c.From != "" {
			fmt.Fprintf(&b, "    %s", c.From)
			if c.To != "" {
				fmt.Fprintf(&b, " → %s", c.To)
			}
			b.WriteByte('\n')
		}
		if c.Source != nil {
			fmt.Fprintf(&b, "    %s\n", c.Source)
		}
	}
	fmt.Fprintf(&b, "\n%d %s (%s", e.Answer.Status, http.StatusText(e.Answer.Status), e.Answer.By)
	if e.Answer.Rule != "" && e.Answer.Rule != redirect.FallbackID {
		fmt.Fprintf(&b, " %s", e.Answer.Rule)
	}
	b.WriteString(")\n")
	for _, name := range slices.Sorted(maps.Keys(e.Answer.Headers)) {
		fmt.Fprintf(&b, "  %s: %s\n", name, e.Answer.Headers[name])
	}
	if len(e.Hops) > 0 {
		b.WriteString("\nThen\n")
	}
	for _, h := range e.Hops {
		fmt.Fprintf(&b, "  %s: %s\n", h.URL, hopResult(h))
	}
	if len(e.Notes) > 0 {
		b.WriteByte('\n')
	}
	for _, n := range e.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func hopResult(h Hop) string {
	if h.Location == "" {
		return fmt.Sprint(h.Status)
	}
	return fmt.Sprintf("%d to %s", h.Status, h.Location)
}
