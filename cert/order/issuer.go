package order

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"fingerpost/cert/planner"
)

const (
	leaseEvery = 10 * time.Second
	leaseFor   = 30 * time.Second // without a word from the storage we stop: another may have begun
	ariEvery   = 12 * time.Hour
	countsFor  = 8 * 24 * time.Hour // the longest that a CA counts is a week
	page       = 500
	tries      = 3 // of an order whose CA does not answer, before the planner hears of it
)

// Issuer gets and renews the certificates of all wanted names, on one node of
// many: whoever has the lease. Set all fields before Run.
type Issuer struct {
	Driver   *Driver
	Lease    Lease
	Plan     planner.Config
	Parallel int // orders at once; 4 if zero
	Checks   int // pre-flights at once; 16 if zero

	// Wanted lists all names that need certificates, when this node becomes the
	// one that orders. Later changes come by Want and Drop.
	Wanted func(ctx context.Context) ([]Want, error)
	// Check is the pre-flight; nil takes every name for good.
	Check func(ctx context.Context, q Question) Verdict
	// CNAME is where _acme-challenge.NAME must point to; nil: nowhere.
	CNAME func(name string) string
	// Persist has the account made before the first pre-flight: the record of
	// dns-persist-01 names it.
	Persist bool
	// Used says whether a certificate is served somewhere, or set in a
	// configuration: it stays until Used says no and InUse is called. nil: none is.
	Used func(id string) bool
	// Alarm hears of names whose certificate runs out unless somebody acts.
	Alarm func(planner.Alarm)
	// Ended hears of each order that has ended; for metrics.
	Ended func(ca string, result Result)
	Log   *slog.Logger

	// records is held from the reading of a certificate's record to the writing of
	// what follows from it: else one that was deleted meanwhile would come back.
	records sync.Mutex

	mu      sync.Mutex       // guards what is below; the planner is not safe by itself
	planner *planner.Planner // nil while another node orders
	poke    chan struct{}
	methods map[string][]string // what the last pre-flight found
	why     map[string]*Failure
	dropped []string
	orders  int
	checks  int
}

// Want is a name that needs a certificate.
type Want struct {
	Name   string
	Policy planner.Policy
}

// NameState is what is kept of a name, the value of a [KindName] record.
type NameState struct {
	planner.Name
	Methods     []string  `json:"methods,omitempty"`
	Failure     *Failure  `json:"failure,omitempty"` // the last one, while it stands
	Certificate string    `json:"certificate,omitempty"`
	NotAfter    time.Time `json:"notAfter,omitzero"`
	Sentence    string    `json:"sentence"`           // where it stands, for people
	NextStep    string    `json:"nextStep,omitempty"` // what the person, or we, will do
}

// Certificate is one that was issued, the value of a [KindCertificate] record.
// It is durable, and so on its way to all nodes, before the certificate that it
// takes the place of can go.
type Certificate struct {
	ID        string         `json:"id"`
	Names     []string       `json:"names"`
	CA        string         `json:"ca"`
	Account   string         `json:"account,omitempty"`
	Policy    planner.Policy `json:"policy"`
	NotBefore time.Time      `json:"notBefore"`
	NotAfter  time.Time      `json:"notAfter"`
	Window    planner.Window `json:"window,omitzero"` // what ARI says
	Replaces  string         `json:"replaces,omitempty"`
	Replaced  bool           `json:"replaced,omitempty"`
	ARI       string         `json:"ari"` // CertID
	Chain     []byte         `json:"chain"`
	Key       []byte         `json:"key"` // sealed
}

// past is the value of a KindPast record.
type past struct {
	Plan   planner.Order `json:"plan"`
	Issued time.Time     `json:"issued,omitzero"`
}

func record(kind, key string, v any) Record {
	value, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("order: encode %s %s: %v", kind, key, err)) // no field of these can fail
	}
	return Record{Kind: kind, Key: key, Value: value}
}

// instant is a time as a key, in the order of time.
func instant(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// Run orders until ctx ends, whenever this node has the lease. Orders that are
// under way then stay in their journals, and are taken up by whoever has it
// next.
func (i *Issuer) Run(ctx context.Context) error {
	i.mu.Lock()
	if i.poke == nil {
		i.poke = make(chan struct{}, 1)
	}
	if i.Log == nil {
		i.Log = slog.New(slog.DiscardHandler)
	}
	i.mu.Unlock()
	for {
		fence, err := i.Lease.Acquire(ctx)
		if err == nil {
			err = i.lead(ctx, fence)
		}
		if ctx.Err() != nil {
			release, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			i.Lease.Release(release) // it would expire otherwise
			return ctx.Err()
		}
		if !errors.Is(err, ErrFenced) {
			i.Log.WarnContext(ctx, "certificates are not ordered now; trying on", "error", err)
		}
		sleep(ctx, leaseEvery)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// lead orders while the lease is ours.
func (i *Issuer) lead(ctx context.Context, fence int64) error {
	ctx, stop := context.WithCancelCause(ctx)
	var tasks sync.WaitGroup
	defer func() {
		stop(nil)
		tasks.Wait() // they use the planner
		i.mu.Lock()
		i.planner, i.orders, i.checks = nil, 0, 0
		i.mu.Unlock()
	}()
	tasks.Go(func() { i.hold(ctx, fence, stop) })

	resume, err := i.load(ctx, fence)
	if err != nil {
		return err
	}
	for _, o := range resume {
		tasks.Go(func() { i.see(ctx, fence, o, stop) })
	}
	tasks.Go(func() { i.windows(ctx, fence, stop) })
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		now := time.Now()
		i.mu.Lock()
		work := i.planner.Next(now, max(0, i.parallel()-i.orders), max(0, i.checksAtOnce()-i.checks))
		i.orders += len(work.Orders)
		i.checks += len(work.Checks)
		dropped := i.dropped
		i.dropped = nil
		i.mu.Unlock()
		for _, c := range work.Checks {
			tasks.Go(func() { i.check(ctx, fence, c, stop) })
		}
		for _, p := range work.Orders {
			tasks.Go(func() { i.begin(ctx, fence, p, stop) })
		}
		for _, a := range work.Alarms {
			i.Log.ErrorContext(ctx, "a certificate runs out", "name", a.Name, "until", a.NotAfter, "reason", a.Reason)
			if i.Alarm != nil {
				i.Alarm(a)
			}
		}
		var gone []Record
		for _, id := range work.Obsolete {
			if i.Used != nil && i.Used(id) || i.unreplaced(ctx, id) {
				i.InUse(id, true)
				continue
			}
			gone = append(gone, Record{Kind: KindCertificate, Key: id})
		}
		for _, name := range dropped {
			gone = append(gone, Record{Kind: KindName, Key: name})
		}
		if err := i.forget(ctx, fence, gone); err != nil {
			return err
		}
		wait := 24 * time.Hour
		if !work.Wake.IsZero() {
			wait = max(0, work.Wake.Sub(now))
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-i.poke:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// unreplaced reports whether a certificate is valid still and none of its names has
// another: nobody wants them now. It stays until it is over, since who takes hosts away
// by mistake will want them back, and the CA counts.
func (i *Issuer) unreplaced(ctx context.Context, id string) bool {
	value, err := i.Driver.Storage.Get(ctx, KindCertificate, id)
	var c Certificate
	if err != nil || json.Unmarshal(value, &c) != nil || !time.Now().Before(c.NotAfter) {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, name := range c.Names {
		if s, ok := i.planner.Status(time.Now(), name); ok && s.Certificate != "" && s.Certificate != id {
			return false
		}
	}
	return true
}

func (i *Issuer) parallel() int {
	if i.Parallel == 0 {
		return 4
	}
	return i.Parallel
}

func (i *Issuer) checksAtOnce() int {
	if i.Checks == 0 {
		return 16
	}
	return i.Checks
}

func (i *Issuer) wake() {
	select {
	case i.poke <- struct{}{}:
	default:
	}
}

// hold keeps the lease, and stops all once it may be another's.
func (i *Issuer) hold(ctx context.Context, fence int64, stop context.CancelCauseFunc) {
	last := time.Now()
	for ctx.Err() == nil {
		sleep(ctx, leaseEvery)
		now, err := i.Lease.Acquire(ctx)
		switch {
		case err == nil && now == fence:
			last = time.Now()
		case err == nil, errors.Is(err, ErrFenced), time.Since(last) > leaseFor:
			stop(fmt.Errorf("the lease is lost: %w", ErrFenced))
			return
		}
	}
}

// write is Storage.Write, again and again where it fails for what passes: what it
// writes is known and must not be lost while we have the lease.
func (i *Issuer) write(ctx context.Context, fence int64, records ...Record) error {
	if len(records) == 0 {
		return nil
	}
	for {
		err := i.Driver.Storage.Write(ctx, fence, records...)
		if err == nil || errors.Is(err, ErrFenced) || ctx.Err() != nil {
			return err
		}
		i.Log.WarnContext(ctx, "a result is not stored yet; trying on", "error", err)
		sleep(ctx, time.Second)
	}
}

// together is how many records are deleted in one write. A certificate stands for as
// many changes as it has names, of which a storage takes a thousand or so at once.
const together = 5

// forget deletes records that do not depend on each other.
func (i *Issuer) forget(ctx context.Context, fence int64, records []Record) error {
	for piece := range slices.Chunk(records, together) {
		i.records.Lock()
		err := i.write(ctx, fence, piece...)
		i.records.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// load tells a new planner what there is, and gives the orders that were open.
// It is the only time that anything is listed.
func (i *Issuer) load(ctx context.Context, fence int64) ([]*Order, error) {
	now := time.Now()
	p, err := planner.New(i.Plan)
	if err != nil {
		return nil, err
	}
	storage := i.Driver.Storage
	var stale []Record
	err = all(ctx, storage, KindPast, func(r Record) error {
		var done past
		if r.Key < instant(now.Add(-countsFor)) {
			stale = append(stale, Record{Kind: KindPast, Key: r.Key})
			return nil
		}
		if err := json.Unmarshal(r.Value, &done); err != nil {
			return err
		}
		p.Past(done.Plan, done.Issued)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what CAs have counted: %w", err)
	}
	err = all(ctx, storage, KindCertificate, func(r Record) error {
		c := new(Certificate)
		if err := json.Unmarshal(r.Value, c); err != nil {
			return fmt.Errorf("certificate %s: %w", r.Key, err)
		}
		have := c.plan()
		have.InUse = i.Used != nil && i.Used(c.ID)
		p.Have(now, have)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the certificates: %w", err)
	}
	wanted, err := i.Wanted(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the wanted names: %w", err)
	}
	methods, why := map[string][]string{}, map[string]*Failure{}
	kept := map[string]NameState{}
	err = all(ctx, storage, KindName, func(r Record) error {
		var s NameState
		if err := json.Unmarshal(r.Value, &s); err != nil {
			return fmt.Errorf("state of %s: %w", r.Key, err)
		}
		kept[r.Key] = s
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the states of names: %w", err)
	}
	for _, w := range wanted {
		s := kept[w.Name]
		s.Name.Name, s.Policy = w.Name, w.Policy
		if s.Methods != nil {
			methods[w.Name] = s.Methods
		}
		if s.Failure != nil {
			why[w.Name] = s.Failure
		}
		p.Want(now, s.Name)
	}
	var resume []*Order
	err = all(ctx, storage, KindOrder, func(r Record) error {
		o, err := decodeOrder(r)
		if err != nil {
			return err
		}
		if o.Spec.Plan.ID != 0 {
			resume = append(resume, o)
			p.Resume(now, o.Spec.Plan)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the open orders: %w", err)
	}
	if err := i.forget(ctx, fence, stale); err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.planner, i.methods, i.why, i.orders, i.checks = p, methods, why, len(resume), 0
	return resume, nil
}

// all reads a kind page by page.
func all(ctx context.Context, s Storage, kind string, fn func(Record) error) error {
	from := ""
	for {
		records, err := s.Range(ctx, kind, from, "", page)
		if err != nil {
			return err
		}
		for _, r := range records {
			if err := fn(r); err != nil {
				return err
			}
		}
		if len(records) < page {
			return nil
		}
		from = records[len(records)-1].Key + "\x00"
	}
}

func (c *Certificate) plan() planner.Certificate {
	return planner.Certificate{ID: c.ID, Names: c.Names, CA: c.CA, Account: c.Account, Policy: c.Policy,
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Window: c.Window, Replaced: c.Replaced}
}

// check runs one pre-flight.
func (i *Issuer) check(ctx context.Context, fence int64, c planner.Check, stop context.CancelCauseFunc) {
	var v Verdict
	if i.Check != nil {
		v = i.Check(ctx, i.question(ctx, fence, c))
	}
	if ctx.Err() != nil {
		return
	}
	reason := ""
	switch {
	case v.Failure != nil:
		reason = v.Failure.Reason
	case v.Unsure != nil && !c.Renewal:
		v.Failure = &Failure{Name: c.Name, Code: "unsure", Reason: "the DNS of " + c.Name + " could not be looked up", Hint: "check the resolvers of this node: " + v.Unsure.Error()}
		reason = v.Failure.Reason
	}
	i.mu.Lock()
	i.checks--
	if v.Methods != nil {
		i.methods[c.Name] = v.Methods
	}
	if v.Failure != nil {
		i.why[c.Name] = v.Failure
	}
	i.planner.Checked(time.Now(), c.Name, reason)
	r := i.stateOf(c.Name)
	i.mu.Unlock()
	if err := i.write(ctx, fence, r...); err != nil {
		stop(err)
	}
	i.wake()
}

// question is what the pre-flight of a name must know: the first CA of its policy
// decides about CAA.
func (i *Issuer) question(ctx context.Context, fence int64, c planner.Check) Question {
	q := Question{Name: c.Name}
	if i.CNAME != nil {
		q.CNAME = i.CNAME(c.Name)
	}
	first := ""
	if len(c.Policy.CAs) > 0 {
		first = c.Policy.CAs[0]
	} else if len(i.Plan.CAs) > 0 {
		first = i.Plan.CAs[0].Name
	}
	if ca := i.Driver.CAs[first]; ca != nil {
		if dir, err := ca.Directory(ctx); err == nil && dir.Meta != nil { // without, CAA is the CA's to look at
			q.Issuers = dir.Meta.CAAIdentities
		}
		if i.Persist {
			if _, err := ca.accountAt(ctx, i.Driver, fence); err != nil {
				i.Log.WarnContext(ctx, "a CA gives no account, without which the record of dns-persist-01 is not known", "ca", ca.Name(), "error", err)
			}
		}
		q.Account = ca.accountURL()
	}
	return q
}

// stateOf is what is to be kept of names; nothing for those that nobody wants.
// The lock is held.
func (i *Issuer) stateOf(names ...string) []Record {
	var out []Record
	now := time.Now()
	for _, name := range names {
		if s, ok := i.nameState(now, name); ok {
			out = append(out, record(KindName, name, s))
		}
	}
	return out
}

func (i *Issuer) nameState(now time.Time, name string) (NameState, bool) {
	status, ok := i.planner.Status(now, name)
	if !ok {
		return NameState{}, false
	}
	s := NameState{Name: status.Name, Methods: i.methods[name], Certificate: status.Certificate, NotAfter: status.NotAfter}
	if status.State == planner.Failed || status.State == planner.Paused || status.State == planner.Blocked {
		s.Failure = i.why[name]
	} else {
		delete(i.why, name)
	}
	s.Sentence, s.NextStep = describeState(status, s.Failure)
	return s, true
}

// describeState says where a name stands and what comes next.
func describeState(s planner.Status, f *Failure) (sentence, next string) {
	day := func(t time.Time) string { return t.UTC().Format("2 January 2006 15:04 UTC") }
	hint := func(own string) string {
		if f != nil && f.Hint != "" {
			return f.Hint + "; " + own
		}
		return own
	}
	reason := s.Reason
	if f != nil && f.Code == CodeProvider && f.Detail != "" { // here alone: the planner's reasons reach logs
		reason += ", which says: " + f.Detail
	}
	switch s.State {
	case planner.Checking:
		return "its DNS is being checked", "nothing to do"
	case planner.Ready:
		return "it waits for its order", s.ETA.Reason
	case planner.Ordered:
		return "its certificate is being ordered", "nothing to do"
	case planner.Live:
		return "it has a certificate until " + day(s.NotAfter), "it is renewed by itself"
	case planner.Failed:
		return reason, hint("it is tried again on " + day(s.Next))
	case planner.Paused:
		return reason, hint("it is looked at once a day, and ordered when it is right; try it again at once with `fingerpost certs request " + s.Name.Name + "`")
	case planner.Blocked:
		return reason, hint("then try it again with `fingerpost certs request " + s.Name.Name + "`")
	}
	return string(s.State), s.ETA.Reason
}

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
	i.records.Lock()
	defer i.records.Unlock()
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

func (c *CA) accountURL() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.account == nil {
		return ""
	}
	return c.account.Location
}

// Want adds a name, or changes its policy. On a node that does not order it does
// nothing: Wanted will list the name when it does.
func (i *Issuer) Want(ctx context.Context, w Want) error {
	var s NameState
	value, err := i.Driver.Storage.Get(ctx, KindName, w.Name)
	if err == nil {
		err = json.Unmarshal(value, &s)
	}
	if err != nil && !errors.Is(err, ErrNoRecord) {
		return err
	}
	s.Name.Name, s.Policy = w.Name, w.Policy
	return i.tell(func(p *planner.Planner, now time.Time) error {
		i.dropped = slices.DeleteFunc(i.dropped, func(n string) bool { return n == w.Name })
		p.Want(now, s.Name)
		return nil
	})
}

// Drop ends the wish for a name.
func (i *Issuer) Drop(name string) {
	i.tell(func(p *planner.Planner, now time.Time) error {
		p.Drop(now, name)
		i.dropped = append(i.dropped, name)
		return nil
	})
}

// Rearm has a name checked and tried again now: a click, or a change of its DNS.
func (i *Issuer) Rearm(name string) {
	i.tell(func(p *planner.Planner, now time.Time) error {
		p.Rearm(now, name)
		return nil
	})
}

// InUse says whether a certificate is served. One in use is never deleted.
func (i *Issuer) InUse(id string, inUse bool) {
	i.tell(func(p *planner.Planner, _ time.Time) error {
		p.InUse(id, inUse)
		return nil
	})
}

// Renew begins the renewal of a certificate now.
func (i *Issuer) Renew(id string) error {
	return i.tell(func(p *planner.Planner, now time.Time) error { return p.Renew(now, id) })
}

// AddName orders a certificate again with one name more; without really it only
// says what that would cost.
func (i *Issuer) AddName(id, name string, really bool) (cost planner.Cost, err error) {
	err = i.tell(func(p *planner.Planner, now time.Time) (err error) {
		if really {
			cost, err = p.AddName(now, id, name)
		} else {
			cost, err = p.AddCost(now, id, name)
		}
		return err
	})
	return cost, err
}

// Ask calls fn with the planner, for what is shown to people and in metrics; it
// reports false on a node that does not order.
func (i *Issuer) Ask(fn func(p *planner.Planner, now time.Time)) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.planner == nil {
		return false
	}
	fn(i.planner, time.Now())
	return true
}

// tell changes what the planner knows, and lets the loop look.
func (i *Issuer) tell(fn func(p *planner.Planner, now time.Time) error) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.planner == nil {
		return nil
	}
	err := fn(i.planner, time.Now())
	i.wake()
	return err
}

// State gives what is kept of a name, on any node. ErrNoRecord: nothing has
// happened to it yet.
func State(ctx context.Context, s Storage, name string) (NameState, error) {
	var state NameState
	value, err := s.Get(ctx, KindName, name)
	if err == nil {
		err = json.Unmarshal(value, &state)
	}
	return state, err
}
