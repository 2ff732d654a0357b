package order

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"fingerpost/cert/planner"
)

const (
	// The lease is for 20 seconds. Who has asked for it without an answer stops 5
	// seconds before another may begin, by clocks that are no further apart. It is no
	// more than a courtesy to CAs: what a second one writes is refused by the fence.
	leaseEvery = 5 * time.Second
	leaseFor   = 15 * time.Second
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
	Parallel int // orders of one CA at once, beside those that wait for it; 4 if zero
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
	// Used says whether a certificate is set in a configuration: it stays then. It is
	// asked again each minute. nil: none is.
	Used func(id string) bool
	// Tidy is called on becoming the one that orders, and each hour while it lasts;
	// for what those before have left. nil: nothing.
	Tidy func(ctx context.Context)
	// Alarm hears of names whose certificate runs out unless somebody acts.
	Alarm func(planner.Alarm)
	// Ended hears of each order that has ended; for metrics.
	Ended func(ca string, result Result)
	Log   *slog.Logger

	// records holds one from the reading of a certificate's record to the writing of
	// what follows from it: else one that was deleted meanwhile would come back.
	records chan struct{}

	mu      sync.Mutex       // guards what is below; the planner is not safe by itself
	planner *planner.Planner // nil while another node orders
	poke    chan struct{}
	methods map[string][]string // what the last pre-flight found
	why     map[string]*Failure
	asks    map[string]*asked  // by key
	kept    map[string]holding // certificates that stay though no name needs them, by ID
	events  int                // since the last look at how many there are
	askPoke chan struct{}      // holds one
	dropped []string
	asking  map[string]bool // names whose pre-flight runs
}

// holding is a certificate that stays.
type holding struct {
	names    []string
	notAfter time.Time
}

// Want is a name that needs a certificate.
type Want struct {
	Name   string
	Policy planner.Policy
}

// Run orders until ctx ends, whenever this node has the lease. Orders that are
// under way then stay in their journals, and are taken up by whoever has it
// next.
func (i *Issuer) Run(ctx context.Context) error {
	i.mu.Lock()
	if i.poke == nil {
		i.poke, i.askPoke = make(chan struct{}, 1), make(chan struct{}, 1)
	}
	i.records = make(chan struct{}, 1)
	if i.Log == nil {
		i.Log = slog.New(slog.DiscardHandler)
	}
	i.mu.Unlock()
	for {
		begin := time.Now()
		fence, err := i.acquire(ctx, begin)
		if err == nil {
			err = i.lead(ctx, fence, begin)
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
func (i *Issuer) lead(ctx context.Context, fence int64, since time.Time) error {
	ctx, stop := context.WithCancelCause(ctx)
	var tasks sync.WaitGroup
	defer func() {
		stop(nil)
		tasks.Wait() // they use the planner
		i.mu.Lock()
		i.planner, i.asking = nil, nil
		i.mu.Unlock()
	}()
	tasks.Go(func() { i.hold(ctx, fence, since, stop) })

	if i.Tidy != nil {
		i.Tidy(ctx)
	}
	resume, err := i.load(ctx, fence)
	if err != nil {
		return err
	}
	for _, o := range resume {
		tasks.Go(func() { i.see(ctx, fence, o, stop) })
	}
	tasks.Go(func() { i.windows(ctx, fence, stop) })
	tasks.Go(func() { i.followAsks(ctx, fence, stop) })
	tasks.Go(func() { i.keepHouse(ctx, fence, stop) })
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		now := time.Now()
		i.mu.Lock()
		work := i.planner.Next(now, math.MaxInt, max(0, i.checksAtOnce()-len(i.asking)))
		// A name that takes its time is not looked at twice at once: it would take all slots.
		work.Checks = slices.DeleteFunc(work.Checks, func(c planner.Check) bool { return i.asking[c.Name] })
		for _, c := range work.Checks {
			i.asking[c.Name] = true
		}
		dropped := i.dropped
		i.dropped = nil
		i.mu.Unlock()
		for _, c := range work.Checks {
			tasks.Go(func() { i.check(ctx, fence, c, stop) })
		}
		for _, p := range work.Orders {
			tasks.Go(func() { i.begin(ctx, fence, p, stop) })
		}
		var gone, events []Record
		for _, a := range work.Alarms {
			i.mu.Lock()
			events = append(events, i.event(now, Event{What: EventExpiring, Names: []string{a.Name}, Certificate: a.Certificate,
				Reason: "it is valid until " + a.NotAfter.UTC().Format(time.RFC3339) + ", and not renewed: " + a.Reason, Hint: i.hintOf(a.Name)}))
			i.mu.Unlock()
			i.Log.ErrorContext(ctx, "a certificate runs out", "name", a.Name, "until", a.NotAfter, "reason", a.Reason)
			if i.Alarm != nil {
				i.Alarm(a)
			}
		}
		for _, id := range work.Obsolete {
			c, err := i.stored(ctx, id)
			if errors.Is(err, ErrNoRecord) {
				continue // somebody has deleted it
			}
			if err != nil { // it can wait
				c = &Certificate{ID: id, NotAfter: now.Add(tidyEvery)}
			}
			i.mu.Lock()
			h := holding{c.Names, c.NotAfter}
			keep := err != nil || i.used(id) || i.unreplaced(now, id, h)
			if keep {
				i.kept[id] = h
				i.planner.InUse(id, true)
			} else {
				gone = append(gone, Record{Kind: KindCertificate, Key: id})
				events = append(events, i.event(now, Event{What: EventRemoved, Names: c.Names, Certificate: id, CA: c.CA, Team: c.Policy.Team, Reason: removedFor(c, now)}))
			}
			i.mu.Unlock()
		}
		for _, name := range dropped {
			gone = append(gone, Record{Kind: KindName, Key: name})
		}
		if err := i.forget(ctx, fence, append(gone, events...)); err != nil {
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
// by mistake will want them back, and the CA counts. The lock is held.
func (i *Issuer) unreplaced(now time.Time, id string, h holding) bool {
	if !now.Before(h.notAfter) {
		return false
	}
	return !slices.ContainsFunc(h.names, func(name string) bool {
		s, ok := i.planner.Status(now, name)
		return ok && s.Certificate != "" && s.Certificate != id
	})
}

func (i *Issuer) hintOf(name string) string {
	if f := i.why[name]; f != nil {
		return f.Hint
	}
	return ""
}

func (i *Issuer) used(id string) bool { return i.Used != nil && i.Used(id) }

func removedFor(c *Certificate, now time.Time) string {
	if !now.Before(c.NotAfter) {
		return "it has expired, and nobody needs its names"
	}
	return "its names have others"
}

// How often is looked whether what stays is needed still, and what those before have
// left.
const (
	keptEvery = time.Minute
	tidyEvery = time.Hour
	trimEvery = 24 * time.Hour // of events, where no thousand has come
)

// keepHouse lets go what is not needed any more.
func (i *Issuer) keepHouse(ctx context.Context, fence int64, stop context.CancelCauseFunc) {
	tidied, trimmed := time.Now(), time.Time{}
	for ctx.Err() == nil {
		now := time.Now()
		i.mu.Lock()
		trim := i.events >= eventsSlack || now.Sub(trimmed) >= trimEvery
		if trim {
			i.events, trimmed = 0, now
		}
		let := 0
		for id, h := range i.kept {
			if !i.used(id) && !i.unreplaced(now, id, h) {
				delete(i.kept, id)
				i.planner.InUse(id, false)
				let++
			}
		}
		i.mu.Unlock()
		if let > 0 {
			i.wake()
		}
		if i.Tidy != nil && now.Sub(tidied) >= tidyEvery {
			tidied = now
			i.Tidy(ctx)
		}
		if trim {
			switch err := i.trimEvents(ctx, fence); {
			case errors.Is(err, ErrFenced):
				stop(err)
				return
			case err != nil && ctx.Err() == nil:
				i.Log.WarnContext(ctx, "old events are forgotten later", "error", err)
			}
		}
		sleep(ctx, keptEvery)
	}
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

func (i *Issuer) wake() { poke(i.poke) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// acquire asks for the lease, for no longer than what was given at since holds.
func (i *Issuer) acquire(ctx context.Context, since time.Time) (fence int64, err error) {
	ctx, cancel := context.WithDeadline(ctx, since.Add(leaseFor))
	defer cancel()
	return i.Lease.Acquire(ctx)
}

// hold keeps the lease, and stops all before it may be another's. It counts from when
// the lease was asked for: the answer may have taken its time.
func (i *Issuer) hold(ctx context.Context, fence int64, since time.Time, stop context.CancelCauseFunc) {
	for ctx.Err() == nil {
		sleep(ctx, leaseEvery)
		begin := time.Now()
		now, err := i.acquire(ctx, since)
		switch {
		case err == nil && now == fence:
			since = begin
		case err == nil, errors.Is(err, ErrFenced), time.Since(since) >= leaseFor:
			stop(fmt.Errorf("the lease is lost: %w", ErrFenced))
			return
		}
	}
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
	if v.Unsure != nil && v.Failure == nil && !c.Renewal {
		v.Failure = &Failure{Name: c.Name, Code: "unsure", Reason: "the DNS of " + c.Name + " could not be looked up", Hint: "check the resolvers of this node: " + v.Unsure.Error()}
	}
	v.Failure = v.Failure.bounded()
	reason := ""
	if v.Failure != nil {
		reason = v.Failure.Reason
	}
	i.mu.Lock()
	delete(i.asking, c.Name)
	if v.Methods != nil {
		i.methods[c.Name] = v.Methods
	}
	var events []Record
	if f := v.Failure; f != nil {
		if before := i.why[c.Name]; before == nil || before.Reason != f.Reason { // it is looked at again and again
			events = append(events, i.event(time.Now(), Event{What: EventFailed, Names: []string{c.Name}, Team: c.Policy.Team, Reason: f.Reason, Hint: f.Hint}))
		}
		i.why[c.Name] = f
	}
	i.planner.Checked(time.Now(), c.Name, reason, v.CAs...)
	r := append(i.stateOf(c.Name), events...)
	i.mu.Unlock()
	if err := i.write(ctx, fence, r...); err != nil {
		stop(err)
	}
	i.wake()
}

// question is what the pre-flight of a name must know: of all CAs of its policy, since
// CAA may leave out the first.
func (i *Issuer) question(ctx context.Context, fence int64, c planner.Check) Question {
	q := Question{Name: c.Name}
	if i.CNAME != nil {
		q.CNAME = i.CNAME(c.Name)
	}
	names := c.Policy.CAs
	if len(names) == 0 {
		for _, ca := range i.Plan.CAs {
			names = append(names, ca.Name)
		}
	}
	for n, name := range names {
		ca := i.Driver.CAs[name]
		if ca == nil {
			continue
		}
		one := Authority{Name: name}
		if dir, ok := ca.known(ctx); ok && dir.Meta != nil { // without, CAA is the CA's to look at
			one.Issuers = dir.Meta.CAAIdentities
		}
		if i.Persist && n == 0 {
			if _, err := ca.accountAt(ctx, i.Driver, fence); err != nil {
				i.Log.WarnContext(ctx, "a CA gives no account, without which the record of dns-persist-01 is not known", "ca", ca.Name(), "error", err)
			}
		}
		one.Account = ca.accountURL()
		q.CAs = append(q.CAs, one)
	}
	return q
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
