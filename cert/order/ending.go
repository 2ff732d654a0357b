package order

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/cert/planner"
)

// begin writes the journal of an order and drives it.
func (i *Issuer) begin(ctx context.Context, fence int64, p planner.Order, stop context.CancelCauseFunc) {
	spec := Spec{CA: p.CA, Profile: p.Profile, Plan: p}
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
	err := i.Driver.Storage.Write(ctx, fence, append(states, o.Record())...)
	if errors.Is(err, ErrRefused) { // what is told of a name is not worth the order
		err = i.Driver.Storage.Write(ctx, fence, o.Record())
	}
	if err != nil {
		if errors.Is(err, ErrFenced) || ctx.Err() != nil {
			stop(err)
			return
		}
		i.mu.Lock()
		i.planner.Done(time.Now(), p.ID, planner.Result{Outcome: planner.NotOpened, Reason: "it could not be written down"})
		i.mu.Unlock()
		i.wake()
		return
	}
	i.see(ctx, fence, o, stop)
}

// How long an order is left with a CA that does not go on with it. Its certificate may
// be there tomorrow, and another order would be counted.
const (
	openFor     = 24 * time.Hour
	elsewhereIn = time.Hour // where another CA would take its names
	lookFirst   = 10 * time.Second
	lookMost    = 10 * time.Minute
)

// see brings an order to its end, and tells the planner. While it waits for its CA
// others go on.
func (i *Issuer) see(ctx context.Context, fence int64, o *Order, stop context.CancelCauseFunc) {
	pause := lookFirst
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
		elsewhere := false
		i.tell(func(p *planner.Planner, now time.Time) error {
			elsewhere = p.Waits(now, o.Spec.Plan.ID, silent(err))
			return nil
		})
		age := time.Since(o.Begun)
		switch {
		case !passes(err), o.URL == "" && try >= tries, elsewhere && age > elsewhereIn, silent(err) && age > openFor:
			o.Outcome = &Outcome{Result: Down, Problem: &Problem{Type: "down", Detail: aboutUs(err)}}
		case age > openFor:
			o.Outcome = &Outcome{Result: Lost, Problem: &Problem{Type: "lost", Detail: err.Error()}}
		}
		if o.Outcome != nil {
			break
		}
		i.stuck(ctx, fence, o, err)
		wait := pause
		if retry := RetryAfter(err); !retry.IsZero() {
			wait = min(max(pause, time.Until(retry)), time.Hour)
		}
		pause = min(2*pause, lookMost)
		sleep(ctx, wait)
		i.tell(func(p *planner.Planner, now time.Time) error {
			p.Works(now, o.Spec.Plan.ID)
			return nil
		})
	}
	if i.done(ctx, fence, o, stop) && o.Step != StepDone {
		(&run{Driver: i.Driver, o: o, log: i.Log}).remove(ctx)
	}
}

// aboutUs is why a CA gives us nothing at all, be it our settings; "" where nothing is known.
// Those whose names wait for the CA read it, so it has nothing of this order.
func aboutUs(err error) string {
	var e *fingerpost.Error
	if errors.As(err, &e) {
		return e.Message
	}
	var p *Problem
	if errors.As(err, &p) && !p.passes() {
		return p.Error()
	}
	return ""
}

// passes reports whether the same call may do better later.
func passes(err error) bool {
	var later *Later
	return errors.As(err, &later)
}

// done tells the planner how an order ended and writes all that follows in one
// piece: the certificate, the states of its names, the end of the journal. It reports
// whether that is written.
func (i *Issuer) done(ctx context.Context, fence int64, o *Order, stop context.CancelCauseFunc) bool {
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
		result = planner.Result{Outcome: planner.Limited, Limits: []planner.Limit{{Scope: planner.ScopeAccount, Until: out.Retry}}}
	default:
		result = planner.Result{Outcome: planner.Lost, Reason: o.Spec.CA + " has given the order up"}
		if out.Result == Down {
			result.Outcome = planner.Down
		}
		if out.Problem != nil {
			result.Reason = out.Problem.Detail
		}
	}
	result.Reason = plain(result.Reason, maxReason)
	// The CA did not take what the order was to replace, and has counted it.
	result.Counted = plan.Exempt && o.Spec.Replaces == ""
	done.Plan.Exempt = plan.Exempt && !result.Counted
	if result.Unasked = o.Asked == 0; !result.Unasked {
		records = append(records, record(KindPast, instant(plan.Opened)+"/"+o.ID, done))
	}
	records = append(records, Record{Kind: KindOrder, Key: o.ID})
	i.mu.Lock()
	for n := range o.Outcome.Failed {
		f := o.Outcome.Failed[n].bounded()
		i.why[f.Name] = f
	}
	i.planner.Done(now, plan.ID, result)
	records = append(records, i.stateOf(plan.Names...)...)
	records = append(records, i.endings(now, o, result)...)
	i.mu.Unlock()
	i.Log.InfoContext(ctx, "order ended", "order", o.ID, "ca", o.Spec.CA, "kind", plan.Kind, "names", len(plan.Names), "result", o.Outcome.Result, "failed", len(o.Outcome.Failed))
	if i.Ended != nil {
		i.Ended(o.Spec.CA, o.Outcome.Result)
	}
	err := i.write(ctx, fence, records...)
	if err != nil {
		stop(err)
	}
	i.wake()
	return err == nil
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
		for n := range o.Outcome.Failed {
			f := o.Outcome.Failed[n].bounded()
			records = append(records, i.event(now, Event{What: EventFailed, Names: []string{f.Name}, CA: e.CA, Team: e.Team, Reason: f.Reason, Hint: f.Hint}))
		}
		return records
	case planner.Limited:
		e.Reason = e.CA + " takes no more orders of this kind for now"
		if p := o.Outcome.Problem; p != nil {
			e.Reason += ": " + plain(p.Detail, maxDetail)
		}
		if len(result.Limits) > 0 {
			until := slices.MinFunc(result.Limits, func(a, b planner.Limit) int { return a.Until.Compare(b.Until) }).Until
			e.Hint = "it goes on by itself at " + until.UTC().Format(time.RFC3339)
		}
	default:
		e.Reason, e.Hint = result.Reason, "it is tried again by itself"
	}
	e.What = EventOrder
	return []Record{i.event(now, e)}
}

// failed is a Failed outcome in the planner's words. Of several names each may be over
// another limit, or at fault itself.
func (i *Issuer) failed(out *Outcome) planner.Result {
	result := planner.Result{Outcome: planner.NamesFailed}
	for n := range out.Failed {
		f := out.Failed[n].bounded()
		limit := planner.Limit{Until: f.Retry}
		switch {
		case f.Retry.IsZero():
			block := f.Paused || f.Code == "rejectedIdentifier" || f.Code == "unsupportedIdentifier"
			result.Failed = append(result.Failed, planner.Failure{Name: f.Name, Reason: f.Reason, Block: block})
			continue
		case f.Domain != "":
			limit.Scope, limit.Subject = planner.ScopeDomain, f.Domain
		case out.Problem != nil && strings.Contains(out.Problem.Detail, "exact set"):
			limit.Scope = planner.ScopeSet
		default:
			limit.Scope, limit.Subject = planner.ScopeName, f.Name
		}
		if !slices.Contains(result.Limits, limit) {
			result.Limits = append(result.Limits, limit)
		}
	}
	if len(result.Failed) == 0 {
		result.Outcome = planner.Limited
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
	c := &Certificate{ID: o.ID, Names: slices.Sorted(slices.Values(leaf.DNSNames)), CA: o.Spec.CA, Profile: o.Spec.Profile, Account: o.Spec.Plan.Account, Policy: o.Spec.Plan.Policy,
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Replaces: o.Spec.Plan.Replaces, ARI: ari, Chain: o.Outcome.Chain, Key: o.Outcome.Key}
	return c, nil
}
