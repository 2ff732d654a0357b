package redirect

import (
	"cmp"
	"slices"

	"fingerpost"
)

// Trace is how an answer came about.
type Trace struct {
	Forms      []string    `json:"forms"`      // the host patterns that were asked, in order
	Policy     string      `json:"policy"`     // the https policy in force; empty where no host has settings
	Waits      bool        `json:"waits"`      // redirect-to-https holds back until a certificate is live
	Candidates []Candidate `json:"candidates"` // the rules whose path fits, in the order of precedence
}

// Candidate is a rule that was looked at.
type Candidate struct {
	Host   string `json:"host"`
	ID     string `json:"id"`
	Won    bool   `json:"won"`
	Reason string `json:"reason,omitempty"` // why it lost

	form int
	rank uint64
	ref  RuleRef
}

// Explain answers as Answer does, by the same code, and tells how.
func (t *Table) Explain(r *Request, a *Answer) Trace {
	var trace Trace
	m := matcher{top: t, t: t, r: r, a: a, trace: &trace}
	m.answer()
	for _, f := range a.forms {
		var h hostRecord
		h.read(f.t.arena, f)
		name, _ := hostName(f.t.arena, f.at)
		trace.Forms = append(trace.Forms, name)
		if h.flags&hostDeclared != 0 && trace.Policy == "" {
			policy := h.settings(f.t.arena).policy
			trace.Policy = []string{fingerpost.AllowAll, fingerpost.RedirectToHTTPS, fingerpost.HTTPSOnly}[policy]
			trace.Waits = policy == policyRedirect && (r.Covered == nil || !r.Covered(r.Host))
		}
	}
	slices.SortFunc(trace.Candidates, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(a.form, b.form), cmp.Compare(a.rank, b.rank))
	})
	winner := ""
	for i := range trace.Candidates {
		c := &trace.Candidates[i]
		switch {
		case c.ref == a.Rule && a.Kind != ByFallback:
			c.Won, winner = true, c.ID
		case c.Reason == "":
			c.Reason = string(lostRank) + ": " + winner
		}
	}
	return trace
}

// candidate notes a rule. One that holds has no reason yet.
func (t *Trace) candidate(m *matcher, c *candidate, why reason, detail string) {
	host, _ := hostName(m.t.arena, m.host.at)
	text := string(why)
	if detail != "" {
		text += " " + detail
	}
	t.Candidates = append(t.Candidates, Candidate{Host: host, ID: c.id(m.t.arena), Reason: text,
		form: slices.Index(m.a.forms, m.form), rank: c.rank, ref: RuleRef{m.t, m.host.at, c.at}})
}

// Identify gives the host pattern and the id by which a table, a trace and a
// log name r.
func Identify(r *fingerpost.Redirect) (host, id string, err error) {
	p, err := r.Parse()
	if err != nil {
		return "", "", err
	}
	if r.ID != "" {
		return string(p.From.Host), r.ID, nil
	}
	return string(p.From.Host), fingerpost.DerivedID(fingerpost.KeyHash(r.Key(&p.From))), nil
}
