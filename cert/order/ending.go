package order

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"fingerpost/cert/planner"
)

// begin writes the journal of an order and drives it.
func (i *Issuer) begin(ctx context.Context, fence int64, p planner.Order, stop context.CancelCauseFunc) {
	spec := Spec{CA: p.CA, Profile: p.Policy.Profile, Plan: p}
	if p.Replaces != "" {
		if value, err := i.Driver.Storage.Get(ctx, KindCertificate, p.Replaces); err == nil {
			var old Certificate
			if json.Unmarshal(value, &old) == nil {
				spec.Replaces = old.ARI
			}
		}
	}
	i.mu.Lock()
	for _, name := range p.Names {
		spec.Names = append(spec.Names, Name{Name: name, Methods: i.methods[name]})
	}
	states := i.stateOf(p.Names...)
	i.mu.Unlock()
	o := New(spec, time.Now())
	if err := i.Driver.Storage.Write(ctx, fence, append(states, o.Record())...); err != nil {
		if errors.Is(err, ErrFenced) || ctx.Err() != nil {
			stop(err)
			return
		}
		i.mu.Lock()
		i.orders--
		i.planner.Done(time.Now(), p.ID, planner.Result{Outcome: planner.NotOpened, Reason: "it could not be written down"})
		i.mu.Unlock()
		i.wake()
		return
	}
	i.see(ctx, fence, o, stop)
}

// see brings an order to its end, and tells the planner.
func (i *Issuer) see(ctx context.Context, fence int64, o *Order, stop context.CancelCauseFunc) {
	pause := 10 * time.Second
	for try := 1; ; try++ {
		next, err := i.Driver.Drive(ctx, fence, o.ID)
		if next != nil {
			o = next
		}
		if err == nil {
			break
		}
		if errors.Is(err, ErrFenced) || ctx.Err() != nil {
			if ctx.Err() == nil {
				stop(err)
			}
			return
		}
		i.Log.WarnContext(ctx, "an order does not go on", "order", o.ID, "ca", o.Spec.CA, "step", o.Step, "error", err)
		// After its CSR an order is not given up: its certificate may be there.
		if try >= tries && o.Step != StepFinalize || !passes(err) {
			o.Outcome = &Outcome{Result: Lost, Problem: &Problem{Type: "lost", Detail: err.Error()}}
			(&run{Driver: i.Driver, o: o, log: i.Log}).remove(ctx)
			break
		}
		i.stuck(ctx, fence, o, err)
		wait := pause
		if retry := RetryAfter(err); !retry.IsZero() {
			wait = min(max(pause, time.Until(retry)), time.Hour)
		}
		pause = min(6*pause, 10*time.Minute)
		sleep(ctx, wait)
	}
	i.done(ctx, fence, o, stop)
}

// passes reports whether the same call may do better later.
func passes(err error) bool {
	var later *Later
	return errors.As(err, &later)
}

// done tells the planner how an order ended and writes all that follows in one
// piece: the certificate, the states of its names, the end of the journal.
func (i *Issuer) done(ctx context.Context, fence int64, o *Order, stop context.CancelCauseFunc) {
	now := time.Now()
	plan := o.Spec.Plan
	i.records <- struct{}{}
	defer func() { <-i.records }()
	var result planner.Result
	var records []Record
	done := past{Plan: plan}
	switch out := o.Outcome; out.Result {
	case Issued:
		c, err := i.certificate(o)
		if err != nil { // the driver has read it already
			result = planner.Result{Outcome: planner.Lost, Reason: err.Error()}
			break
		}
		result = planner.Result{Outcome: planner.Issued, Certificate: c.plan()}
		done.Issued = now
		records = append(records, record(KindCertificate, c.ID, c), record(KindDue, instant(now)+"/"+c.ID, struct{}{}))
		if value, err := i.Driver.Storage.Get(ctx, KindCertificate, plan.Replaces); plan.Replaces != "" && err == nil {
			var old Certificate
			if json.Unmarshal(value, &old) == nil {
				old.Replaced = true
				records = append(records, record(KindCertificate, old.ID, old))
			}
		}
	case Failed:
		result = i.failed(out)
	case Refused:
		result = planner.Result{Outcome: planner.Refused, Reason: out.Problem.Error()}
	case Limited:
		result = planner.Result{Outcome: planner.Limited, Limit: planner.Limit{Scope: planner.ScopeAccount, Until: out.Retry}}
	default:
		result = planner.Result{Outcome: planner.Lost, Reason: o.Spec.CA + " has given the order up"}
		if out.Problem != nil {
			result.Reason = out.Problem.Detail
		}
	}
	records = append(records, record(KindPast, instant(plan.Opened)+"/"+o.ID, done), Record{Kind: KindOrder, Key: o.ID})
	i.mu.Lock()
	for n := range o.Outcome.Failed {
		f := &o.Outcome.Failed[n]
		i.why[f.Name] = f
	}
	i.planner.Done(now, plan.ID, result)
	records = append(records, i.stateOf(plan.Names...)...)
	records = append(records, i.endings(now, o, result)...)
	i.orders--
	i.mu.Unlock()
	i.Log.InfoContext(ctx, "order ended", "order", o.ID, "ca", o.Spec.CA, "kind", plan.Kind, "names", len(plan.Names), "result", o.Outcome.Result, "failed", len(o.Outcome.Failed))
	if i.Ended != nil {
		i.Ended(o.Spec.CA, o.Outcome.Result)
	}
	if err := i.write(ctx, fence, records...); err != nil {
		stop(err)
	}
	i.wake()
}

// endings are the events of an order's end, and the asks that it ends. The lock is held.
func (i *Issuer) endings(now time.Time, o *Order, result planner.Result) []Record {
	plan := &o.Spec.Plan
	e := Event{Names: plan.Names, CA: o.Spec.CA, Team: plan.Policy.Team}
	var records []Record
	switch result.Outcome {
	case planner.Issued:
		e.What, e.Certificate, e.Replaces = EventIssued, result.Certificate.ID, plan.Replaces
		if plan.Replaces != "" {
			e.What = EventRenewed
		}
		return append(i.fulfilled(now, plan), i.event(now, e))
	case planner.NamesFailed:
		for _, f := range o.Outcome.Failed {
			records = append(records, i.event(now, Event{What: EventFailed, Names: []string{f.Name}, CA: e.CA, Team: e.Team, Reason: f.Reason, Hint: f.Hint}))
		}
		return records
	case planner.Limited:
		e.Reason = e.CA + " takes no more orders of this kind for now"
		if p := o.Outcome.Problem; p != nil {
			e.Reason += ": " + p.Detail
		}
		if until := result.Limit.Until; !until.IsZero() {
			e.Hint = "it goes on by itself at " + until.UTC().Format(time.RFC3339)
		}
	default:
		e.Reason, e.Hint = result.Reason, "it is tried again by itself"
	}
	e.What = EventOrder
	return []Record{i.event(now, e)}
}

// failed is a Failed outcome in the planner's words.
func (i *Issuer) failed(out *Outcome) planner.Result {
	first := out.Failed[0]
	limit := planner.Limit{Until: first.Retry}
	switch {
	case first.Retry.IsZero():
	case first.Domain != "":
		limit.Scope, limit.Subject = planner.ScopeDomain, first.Domain
	case out.Problem != nil && strings.Contains(out.Problem.Detail, "exact set"):
		limit.Scope = planner.ScopeSet
	case len(out.Failed) == 1:
		limit.Scope, limit.Subject = planner.ScopeName, first.Name
	}
	if limit.Scope != "" {
		return planner.Result{Outcome: planner.Limited, Limit: limit}
	}
	result := planner.Result{Outcome: planner.NamesFailed}
	for _, f := range out.Failed {
		block := f.Paused || f.Code == "rejectedIdentifier" || f.Code == "unsupportedIdentifier"
		result.Failed = append(result.Failed, planner.Failure{Name: f.Name, Reason: f.Reason, Block: block})
	}
	return result
}

// certificate is what an order has brought.
func (i *Issuer) certificate(o *Order) (*Certificate, error) {
	chain, err := parseChain(o.Outcome.Chain)
	if err != nil {
		return nil, err
	}
	leaf := chain[0]
	ari, err := CertID(leaf)
	if err != nil {
		return nil, err
	}
	c := &Certificate{ID: o.ID, Names: slices.Sorted(slices.Values(leaf.DNSNames)), CA: o.Spec.CA, Account: o.Spec.Plan.Account, Policy: o.Spec.Plan.Policy,
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Replaces: o.Spec.Plan.Replaces, ARI: ari, Chain: o.Outcome.Chain, Key: o.Outcome.Key}
	return c, nil
}
