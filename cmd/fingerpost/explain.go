package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/edge"
	"fingerpost/redirect"

	"github.com/spf13/cobra"
)

func explainCommand() *cobra.Command {
	var flags ruleFlags
	var c fingerpost.Case
	var headers []string
	var at, output string
	cmd := &cobra.Command{
		Use:   "explain URL",
		Short: "Show which rule answers an address, and why the others do not",
		Long: `Show which rule answers an address, why the others do not, what is sent, and
where the way goes on. It asks the files, by the code that serves visitors; no
server is needed.`,
		Example: `  fingerpost explain https://www.example.com/jobs
  fingerpost explain --redirects redirects.json --method POST https://www.example.com/jobs
  fingerpost explain --header 'Accept-Language: nb' --at 2026-12-24T18:00:00+01:00 -o json https://www.example.com/`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.URL = args[0]
			if err := parseExplainFlags(&c, headers, at); err != nil {
				return err
			}
			if output != "table" && output != "json" {
				return usage(fmt.Errorf("-o %s: one of table, json", output))
			}
			set, err := flags.open()
			if err != nil {
				return err
			}
			r, err := compile(set)
			if err != nil {
				return err
			}
			req, err := r.newRequest(&c)
			if err != nil {
				return err
			}
			e := r.explain(req)
			if output == "json" {
				return printJSON(cmd.OutOrStdout(), e)
			}
			return e.print(cmd.OutOrStdout())
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&c.Method, "method", "", "method of the request (default GET)")
	cmd.Flags().StringArrayVar(&headers, "header", nil, "header `'Name: value'` of the request; may be given several times")
	cmd.Flags().StringVar(&c.Country, "country", "", "country of the visitor, as in NO")
	cmd.Flags().StringVar(&c.Address, "address", "", "IP address of the visitor")
	cmd.Flags().StringVar(&at, "at", "", "`TIME` of the request, as in 2026-12-24T18:00:00+01:00 (default now)")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "`FORMAT`: table or json")
	return cmd
}

func parseExplainFlags(c *fingerpost.Case, headers []string, at string) error {
	c.Country = strings.ToUpper(c.Country)
	c.Headers = map[string]string{}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return usage(fmt.Errorf("--header %q has no colon", h))
		}
		c.Headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	if at != "" {
		t, err := time.Parse(time.RFC3339, at)
		if err != nil {
			return usage(fmt.Errorf("--at %q is not a time with a zone, as in 2026-12-24T18:00:00+01:00", at))
		}
		c.At = &t
	}
	return nil
}

// explanation is all that explain tells. The JSON form is for programs.
type explanation struct {
	Request    explainedRequest `json:"request"`
	Forms      []string         `json:"forms"`  // the host patterns that were asked, in order
	Policy     string           `json:"policy"` // the https policy; empty where no host has settings
	Candidates []explainedRule  `json:"candidates"`
	Answer     explainedAnswer  `json:"answer"`
	Hops       []explainedHop   `json:"hops"` // what follows, as far as it stays here
	Notes      []string         `json:"notes"`
}

type explainedRequest struct {
	Method string `json:"method"`
	URL    string `json:"url"` // normalised
	Scheme string `json:"scheme"`
	Host   string `json:"host"`
	Path   string `json:"path"` // as rules see it
	Query  string `json:"query"`
}

type explainedRule struct {
	ID     string               `json:"id"`
	Host   string               `json:"host"`
	From   string               `json:"from,omitempty"`
	To     string               `json:"to,omitempty"`
	Source *fingerpost.Position `json:"source,omitempty"`
	Won    bool                 `json:"won"`
	Reason string               `json:"reason,omitempty"`
}

type explainedAnswer struct {
	Status  int               `json:"status"`
	By      string            `json:"by"`
	Rule    string            `json:"rule,omitempty"`
	Headers map[string]string `json:"headers"`
}

type explainedHop struct {
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

func (r *rules) explain(req redirect.Request) *explanation {
	var a redirect.Answer
	trace := r.table.Explain(&req, &a)
	scheme := "http"
	if req.HTTPS {
		scheme = "https"
	}
	e := &explanation{
		Request:    explainedRequest{Method: req.Method, URL: req.URL(), Scheme: scheme, Host: req.Host, Path: req.Path.Norm, Query: req.Query},
		Forms:      trace.Forms,
		Policy:     trace.Policy,
		Candidates: []explainedRule{},
		Answer:     explainedAnswer{Status: a.Status, By: kinds[a.Kind], Rule: a.Rule.ID(), Headers: map[string]string{}},
		Hops:       []explainedHop{},
		Notes:      []string{},
	}
	for name, values := range edge.Header(&a) {
		e.Answer.Headers[name] = strings.Join(values, ", ")
	}
	for _, c := range trace.Candidates {
		rule := explainedRule{ID: c.ID, Host: c.Host, Won: c.Won, Reason: c.Reason}
		if src := r.redirectOf(c.Host, c.ID); src != nil {
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
	hops, _, _ := r.table.Follow(req)
	for _, hop := range hops {
		e.Hops = append(e.Hops, explainedHop{URL: hop.URL, Status: hop.Status, Location: hop.Location, Rule: hop.Rule.ID()})
	}
	if len(e.Hops) > 0 {
		e.Hops = e.Hops[1:] // the first one is the answer itself
	}
	e.note(r, &req, trace, a.Kind)
	return e
}

// note adds what an operator should know about the host.
func (e *explanation) note(r *rules, req *redirect.Request, trace redirect.Trace, kind redirect.Kind) {
	note := func(format string, args ...any) { e.Notes = append(e.Notes, fmt.Sprintf(format, args...)) }
	switch {
	case trace.Policy == fingerpost.RedirectToHTTPS && trace.Waits:
		note("redirect-to-https holds back until a certificate covers %s", req.Host)
	case trace.Policy == fingerpost.RedirectToHTTPS && r.certs == nil:
		note("redirect-to-https is shown as it is with a certificate; without one for %s it holds back", req.Host)
	}
	if kind == redirect.UnknownHost {
		note("%s is in no rule and no host; over TLS the answer is 421, over plain http 404", req.Host)
	} else if r.certs != nil && !r.certs.Covers(req.Host) {
		note("no certificate covers %s; certificate: auto waits for a CA", req.Host)
	}
}

func (e *explanation) print(w io.Writer) error {
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
		fmt.Fprintf(&b, "  %s: %s\n", h.URL, result(h.Status, h.Location))
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
