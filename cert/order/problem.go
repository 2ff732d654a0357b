package order

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/mholt/acmez/v3/acme"
	"golang.org/x/net/publicsuffix"
)

// Problem is an error in the CA's own words (RFC 7807, RFC 8555 6.7). The client
// library leaves out the identifier that some CAs give at the top.
type Problem struct {
	Type        string           `json:"type"`
	Detail      string           `json:"detail,omitempty"`
	Status      int              `json:"status,omitempty"`
	Identifier  *acme.Identifier `json:"identifier,omitempty"`
	Subproblems []Problem        `json:"subproblems,omitempty"`
}

// Code is the type without the prefix that all of ACME's have.
func (p *Problem) Code() string {
	return strings.TrimPrefix(p.Type, acme.ProblemTypeNamespace)
}

func (p *Problem) Error() string {
	s := fmt.Sprintf("the CA says: %s (%s, HTTP %d)", p.Detail, p.Code(), p.Status)
	for _, sub := range p.Subproblems {
		s += "; "
		if sub.Identifier != nil {
			s += sub.Identifier.Value + ": "
		}
		s += sub.Detail
	}
	return hideTokens(s)
}

// fromLibrary is p as the client library gives it, inside orders and challenges.
func fromLibrary(p *acme.Problem) *Problem {
	if p == nil {
		return &Problem{Type: acme.ProblemTypeServerInternal, Detail: "no reason given"}
	}
	out := &Problem{Type: p.Type, Detail: p.Detail, Status: p.Status}
	for _, sub := range p.Subproblems {
		one := *fromLibrary(&sub.Problem)
		if sub.Identifier.Value != "" {
			one.Identifier = &acme.Identifier{Type: sub.Identifier.Type, Value: sub.Identifier.Value}
		}
		out.Subproblems = append(out.Subproblems, one)
	}
	return out
}

// parseProblem reads the body of an answer that is an error.
func parseProblem(status int, body []byte) *Problem {
	p := new(Problem)
	if json.Unmarshal(body, p) != nil {
		return nil
	}
	if p.Status == 0 {
		p.Status = status
	}
	return p
}

// passes reports whether the same request may succeed a little later.
func (p *Problem) passes() bool {
	return p.Status >= 500 || p.Code() == "serverInternal" || p.Code() == "badNonce" || p.Status == http.StatusRequestTimeout
}

func (p *Problem) limited() bool {
	return p.Code() == "rateLimited" || p.Status == http.StatusTooManyRequests
}

// blame finds the names that p is about: by the identifiers of subproblems, by
// its own identifier, by the names that its text quotes (CAs that refuse an order
// for one of its names say which, some only there). None means that the CA
// speaks of the order as a whole.
func blame(p *Problem, names []Name, retry time.Time) []Failure {
	var failed []Failure
	add := func(name string, p *Problem) {
		if !slices.ContainsFunc(failed, func(f Failure) bool { return f.Name == name }) {
			failed = append(failed, explain(name, "", p, retry))
		}
	}
	for i := range p.Subproblems {
		sub := &p.Subproblems[i]
		if sub.Identifier == nil {
			continue
		}
		for _, name := range named(sub.Identifier.Value, names) {
			add(name, sub)
		}
	}
	if len(failed) > 0 {
		return failed
	}
	if p.Identifier != nil {
		for _, name := range named(p.Identifier.Value, names) {
			add(name, p)
		}
		if len(failed) > 0 {
			return failed
		}
	}
	if p.passes() {
		return nil
	}
	for _, word := range words(p.Detail) {
		for _, name := range named(word, names) {
			add(name, p)
		}
		if !p.limited() || len(failed) > 0 {
			continue
		}
		// Limits are counted by registered domain.
		for _, n := range names {
			domain, err := publicsuffix.EffectiveTLDPlusOne(strings.TrimPrefix(n.Name, "*."))
			if err == nil && domain == word {
				add(n.Name, p)
				failed[len(failed)-1].Domain = domain
			}
		}
	}
	return failed
}

// named gives the names of an order that a CA means by value. A CA may leave the
// "*." of a wildcard away; a name that is there as it stands goes first.
func named(value string, names []Name) []string {
	value = strings.ToLower(strings.TrimSuffix(value, "."))
	for _, candidate := range []string{value, "*." + value} {
		if slices.ContainsFunc(names, func(n Name) bool { return n.Name == candidate }) {
			return []string{candidate}
		}
	}
	return nil
}

// words gives what may be a host name in a sentence.
func words(text string) []string {
	if before, _, found := strings.Cut(text, "://"); found { // what follows is an address to look at, not at fault
		text = before
	}
	all := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '*' && r != '_'
	})
	out := all[:0]
	for _, word := range all {
		if word = strings.Trim(word, "."); strings.Contains(word, ".") {
			out = append(out, word)
		}
	}
	return out
}

// How much of what others say is kept of each name.
const (
	maxReason = 400
	maxDetail = 1000
)

// plain is at most so many bytes of text, those that a terminal can show.
func plain(text string, most int) string {
	cut := len(text) > most
	if cut {
		text = text[:most]
	}
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if cut {
		text += "…"
	}
	return text
}

// bounded is f with no more than is worth keeping of what strangers have said.
func (f *Failure) bounded() *Failure {
	if f == nil {
		return nil
	}
	b := *f
	b.Reason, b.Hint, b.Detail = plain(f.Reason, maxReason), plain(f.Hint, maxDetail), plain(f.Detail, maxDetail)
	return &b
}

// explain says in plain words why a CA refused a name.
func explain(name, method string, p *Problem, retry time.Time) Failure {
	f := Failure{Name: name, Code: plain(p.Code(), 100), Detail: plain(hideTokens(p.Detail), maxDetail), Method: method}
	base := strings.TrimPrefix(name, "*.")
	switch f.Code {
	case "dns":
		f.Reason = "the CA could not look up the DNS of " + name
		f.Hint = "check that the name servers of " + base + " answer everywhere, and that DNSSEC is in order"
	case "connection", "timeout":
		f.Reason = "the CA could not connect to " + name
		f.Hint = "check that the A and AAAA records of " + base + " point here, and that ports 80 and 443 are open"
	case "tls":
		f.Reason = "the CA got another TLS answer from " + name + " than ours"
		f.Hint = "check that " + base + " points here, and that nothing in front of it ends TLS"
	case "unauthorized", "incorrectResponse":
		switch method {
		case acme.ChallengeTypeDNS01:
			f.Reason = "the CA did not find our TXT record for " + name
			f.Hint = "set the CNAME of _acme-challenge." + base + " as shown, and remove TXT records beside it"
		case DNSProvider01:
			f.Reason = "the CA did not find our TXT record for " + name
			f.Hint = "check that all name servers of " + base + " give what is set at its DNS provider"
		case acme.ChallengeTypeDNSPersist01:
			f.Reason = "the CA did not find our TXT record for " + name
			f.Hint = "set the TXT record of _validation-persist." + base + " as shown"
		default:
			f.Reason = "the CA got another answer from " + name + " than ours"
			f.Hint = "check that all A and AAAA records of " + base + " point here"
		}
	case "caa":
		f.Reason = "a CAA record forbids this CA to issue for " + name
		f.Hint = "add the CA to the CAA records of " + base + ", or remove them"
	case "rejectedIdentifier", "unsupportedIdentifier":
		f.Reason = "the CA does not issue for " + name
		f.Hint = "use another CA for it, or import a certificate"
	case "rateLimited":
		f.Reason = "the CA has had too many requests for " + name
		f.Retry = retry
		if strings.Contains(p.Detail, "temporarily prevented") || strings.Contains(p.Detail, "paused") {
			f.Reason = "the CA has paused " + name + " after too many failures in a row"
			f.Hint = "fix the name's DNS, then lift the pause at the CA"
			f.Paused, f.Retry, f.URL = true, time.Time{}, firstURL(p.Detail)
			if f.URL != "" {
				f.Hint += ": `fingerpost certs get " + name + "` shows the link to whoever may change the host"
			}
		}
	case "malformed":
		f.Reason = "the CA cannot issue for " + name + " in this order"
		f.Hint = "see what the CA says: " + f.Detail
	default:
		f.Reason = "the CA refused " + name
		f.Hint = "see what the CA says: " + f.Detail
	}
	return f
}

// firstURL gives the first address in a sentence.
func firstURL(text string) string {
	for word := range strings.FieldsSeq(text) {
		if strings.HasPrefix(word, "https://") {
			return strings.TrimRight(word, ".,")
		}
	}
	return ""
}

// hideTokens cuts the queries off addresses: the links that CAs send to lift a
// pause are good for whoever has them, and do not belong into a log.
func hideTokens(text string) string {
	if !strings.Contains(text, "://") {
		return text
	}
	fields := strings.Split(text, " ")
	for i, word := range fields {
		if before, _, found := strings.Cut(word, "?"); found && strings.Contains(before, "://") {
			fields[i] = before + "?…"
		}
	}
	return strings.Join(fields, " ")
}

// isGone reports whether the CA does not have, or does not give us, what we
// asked for by its address.
func isGone(err error) bool {
	var p *Problem
	return errors.As(err, &p) && (p.Status == http.StatusNotFound || p.Status == http.StatusGone || p.Status == http.StatusForbidden || p.Status == http.StatusUnauthorized)
}
