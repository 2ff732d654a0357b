// Package order gets certificates from certificate authorities (CAs) that speak
// ACME (RFC 8555), one order of names at a time, and keeps doing it.
//
// A [Driver] brings one order to its end. Before and after each step that
// counts it writes down where it is, so that a process that dies anywhere is
// followed by one that goes on with the same order. An [Issuer] decides when:
// it has names checked, asks package planner what to order together, and
// looks at renewals. Both write through [Storage], under a fence.
//
// What it does not know: which names belong together (cert/planner says so), how
// challenges reach the nodes ([Solver]), where its records lie ([Storage]), who
// serves the certificates.
//
// Begin to read at [Driver.Drive], then [run.authorize] and [blame].
package order

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"fingerpost/cert/planner"
)

// Name is one name of an order: a host name in its ASCII form, or a wildcard.
type Name struct {
	Name    string   `json:"name"`
	Methods []string `json:"methods,omitempty"` // challenge types, the preferred first; none means all that fit
}

// Spec says what is to be ordered.
type Spec struct {
	CA       string `json:"ca"`                // name of a CA of the driver
	Profile  string `json:"profile,omitempty"` // of the CA; "" is its default
	Names    []Name `json:"names"`
	Replaces string `json:"replaces,omitempty"` // [CertID] of the certificate that this renews (RFC 9773)

	Plan planner.Order `json:"plan,omitzero"` // what an Issuer goes by; the driver carries it along
}

// Step is how far an order has come. Each is written before its action.
type Step string

const (
	StepNew       Step = "new"       // nothing was asked of the CA
	StepAsked     Step = "asked"     // the CA may have an order whose address did not reach us
	StepOpen      Step = "open"      // the order's address is known
	StepPresented Step = "presented" // challenges may stand, and may have been accepted
	StepFinalize  Step = "finalize"  // the key is kept, the CSR may have been sent
	StepDone      Step = "done"      // Outcome says how it ended
)

// Order is the journal of one order, the value of a [KindOrder] record.
type Order struct {
	ID        string      `json:"id"`
	Spec      Spec        `json:"spec"`
	Step      Step        `json:"step"`
	Begun     time.Time   `json:"begun"`
	Asked     int         `json:"asked,omitempty"`     // how often a new order was asked for; all but one of them may be lost
	URL       string      `json:"url,omitempty"`       // of the order at the CA
	Presented []Challenge `json:"presented,omitempty"` // what may have to be removed
	Key       []byte      `json:"key,omitempty"`       // of the certificate: PKCS #8, sealed
	Outcome   *Outcome    `json:"outcome,omitempty"`
}

// Result is the end of an order in one word.
type Result string

const (
	Issued  Result = "issued"  // Chain and Key are there
	Failed  Result = "failed"  // Failed has the names at fault: order the rest again, whose authorizations the CA reuses
	Refused Result = "refused" // the CA names nobody: order the halves
	Limited Result = "limited" // the account as a whole must wait until Retry
	Lost    Result = "lost"    // the CA does not know or has given up the order: order the same again
	Down    Result = "down"    // an Issuer's: the CA has not answered, or is not done, for too long
)

// Outcome is how an order ended.
type Outcome struct {
	Result  Result    `json:"result"`
	Failed  []Failure `json:"failed,omitempty"`
	Retry   time.Time `json:"retry,omitzero"`    // of Limited
	Problem *Problem  `json:"problem,omitempty"` // what the CA said to the order as a whole
	Chain   []byte    `json:"chain,omitempty"`   // PEM, the leaf first
	Key     []byte    `json:"key,omitempty"`     // PKCS #8, sealed
}

// Failure is why one name got no certificate, for the person whose name it is.
type Failure struct {
	Name   string    `json:"name"`
	Code   string    `json:"code"`             // the problem type without its prefix: dns, connection, caa, …, or one of ours
	Reason string    `json:"reason"`           // one sentence
	Hint   string    `json:"hint,omitempty"`   // what to do
	Detail string    `json:"detail,omitempty"` // in the CA's own words
	Method string    `json:"method,omitempty"` // the challenge that failed
	Paused bool      `json:"paused,omitempty"` // nothing helps until a person has acted
	URL    string    `json:"url,omitempty"`    // where the person acts
	Retry  time.Time `json:"retry,omitzero"`   // the CA refuses the name before
	Domain string    `json:"domain,omitempty"` // the registered domain that the CA has counted too often
}

func (f Failure) Error() string {
	if f.Hint == "" {
		return f.Reason
	}
	return f.Reason + "; " + f.Hint
}

// Rest lists the names of the order that have not failed.
func (o *Order) Rest() []Name {
	var rest []Name
	for _, n := range o.Spec.Names {
		if o.Outcome == nil || !slices.ContainsFunc(o.Outcome.Failed, func(f Failure) bool { return f.Name == n.Name }) {
			rest = append(rest, n)
		}
	}
	return rest
}

// New makes the journal of an order that nobody was asked for yet. Write its
// [Order.Record] before [Driver.Drive].
func New(spec Spec, now time.Time) *Order {
	spec.Names = slices.Clone(spec.Names)
	slices.SortFunc(spec.Names, func(a, b Name) int { return strings.Compare(a.Name, b.Name) })
	return &Order{ID: strings.ToLower(rand.Text()), Spec: spec, Step: StepNew, Begun: now.UTC()}
}

// Record is o as it is stored.
func (o *Order) Record() Record {
	value, err := json.Marshal(o)
	if err != nil {
		panic(fmt.Sprintf("order: encode a journal: %v", err)) // no field of it can fail
	}
	return Record{Kind: KindOrder, Key: o.ID, Value: value}
}

func decodeOrder(r Record) (*Order, error) {
	o := new(Order)
	if err := json.Unmarshal(r.Value, o); err != nil {
		return nil, fmt.Errorf("journal of order %s: %w", r.Key, err)
	}
	return o, nil
}

// Later is an error that may pass: the same call is worth making again, not
// before Retry.
type Later struct {
	Retry  time.Time // zero: the caller's own pause
	Silent bool      // the CA did not answer, or said that it cannot
	Err    error
}

func (e *Later) Error() string { return e.Err.Error() }
func (e *Later) Unwrap() error { return e.Err }

// silent reports whether err is that a CA did not answer.
func silent(err error) bool {
	var later *Later
	return errors.As(err, &later) && later.Silent
}

// RetryAfter is when err says that the call is worth making again; zero where it
// says nothing.
func RetryAfter(err error) time.Time {
	var later *Later
	if errors.As(err, &later) {
		return later.Retry
	}
	return time.Time{}
}
