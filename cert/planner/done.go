package planner

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"fingerpost"
)

// Resume takes over an order that another process opened and did not finish. Its
// names count as ordered until Done. It counts what Past would count. Call it after
// Have and Want and before Next.
func (p *Planner) Resume(now time.Time, o Order) {
	c := p.byCA[o.CA]
	if c == nil || p.open[o.ID] != nil {
		return
	}
	j := &job{
		kind: o.Kind, phase: opened, g: p.group(o.Policy), ca: c, replaces: p.certs[o.Replaces],
		id: o.ID, seq: p.seq(), exempt: o.Exempt, opened: o.Opened.UnixNano(), try: o.Try,
	}
	p.lastID = max(p.lastID, o.ID)
	p.open[o.ID] = j
	for _, s := range o.Names {
		n := p.record(s)
		if n.g == nil {
			n.g = j.g
		}
		p.leave(n)
		j.names = append(j.names, n)
	}
	for _, id := range o.Merges {
		if m := p.certs[id]; m != nil && m.job == nil {
			m.job = j
			j.merges = append(j.merges, m)
			p.reindex(now.UnixNano(), m)
		}
	}
	if old := j.replaces; old != nil {
		old.job, old.tried = j, true
		p.reindex(now.UnixNano(), old)
		p.set(old, old.notAfter)
	}
	if !o.Exempt {
		c.replay = append(c.replay, j.opened)
	}
	j.works = now.UnixNano()
	c.busy++
	p.reserve(j, o.Names)
}

// Waits reports that an open order has to wait for its CA: it makes room for others. Where
// silent, the CA did not answer. elsewhere is whether another CA would take its names now.
func (p *Planner) Waits(now time.Time, id uint64, silent bool) (elsewhere bool) {
	j := p.open[id]
	if j == nil {
		return false
	}
	t := now.UnixNano()
	p.idle(j)
	switch {
	case !silent:
		j.ca.answers()
		j.silent = false
	case !j.silent || j.ca.silences > 0: // an order that alone has no answer says so once
		p.silence(t, j)
		j.silent = true
	}
	return p.another(t, j)
}

// Works reports that an order that waited is looked at again.
func (p *Planner) Works(now time.Time, id uint64) {
	if j := p.open[id]; j != nil && j.works == 0 {
		j.works = now.UnixNano()
		j.ca.busy++
	}
}

// idle takes a job from those that are worked at.
func (p *Planner) idle(j *job) {
	if j.works != 0 {
		j.worked, j.works = j.works, 0
		j.ca.busy--
	}
}

// silence lets a CA rest that did not answer j.
func (p *Planner) silence(now int64, j *job) {
	if c := j.ca; c.silence(now, j.worked) {
		c.rests = now + int64(c.restFor())
		p.leaveCA(now, c)
	}
}

// another reports whether the names of j could go to another CA, and should: a renewal has
// time.
func (p *Planner) another(now int64, j *job) bool {
	return j.kind != Add && (j.class() != forRenewal || now >= j.lastCall()) && slices.ContainsFunc(j.g.cas, func(c *ca) bool { return c != j.ca && c.closed() <= now && c.silences == 0 })
}

// Done reports how an order ended. An ID that is not open is ignored.
func (p *Planner) Done(now time.Time, id uint64, r Result) {
	j := p.open[id]
	if j == nil {
		return
	}
	t := now.UnixNano()
	p.idle(j)
	delete(p.open, id)
	if r.Counted && j.exempt {
		j.exempt, j.counted = false, true
		j.ca.take(t)
		j.domains, j.set = p.charged(j.strings())
		j.ca.reserve(j.domains, j.set)
	}
	issued := int64(0)
	if r.Outcome == Issued {
		issued = t
	}
	if !j.exempt {
		j.ca.release(j.domains, j.set, issued)
		j.domains = nil
	}
	if r.Unasked || r.Outcome == NotOpened {
		p.refund(j)
	}
	if r.Outcome != Down && r.Outcome != NotOpened {
		j.ca.answers()
	}
	if r.Outcome == NamesFailed && !slices.ContainsFunc(r.Failed, func(f Failure) bool {
		return slices.ContainsFunc(j.names, func(n *name) bool { return n.name == f.Name })
	}) {
		r.Outcome = Refused
	}
	switch r.Outcome {
	case Issued:
		p.issued(t, j, r.Certificate)
	case NamesFailed:
		p.quarantine(t, j, r.Failed)
		p.limited(t, j, r.Limits)
		p.again(t, j, 0, "")
	case Limited:
		p.limited(t, j, r.Limits)
		p.again(t, j, 0, "")
	case Refused:
		p.refused(t, j, r.Reason)
	case NotOpened:
		p.again(t, j, time.Minute, "it could not be opened the last time")
	case Down:
		j.try-- // it says nothing about these names
		p.silence(t, j)
		j.ca.why = r.Reason
		p.again(t, j, 0, "")
	default:
		wait := backoff(j.try)
		if j.class() == forRenewal {
			wait = max(time.Minute, min(wait, time.Duration(j.end()-t)/10))
		}
		p.again(t, j, wait, r.Reason)
	}
}

// refund takes back that an order was counted.
func (p *Planner) refund(j *job) {
	if !j.exempt && j.ca.Limits.Orders > 0 {
		j.ca.full -= int64(j.ca.Limits.OrderRefill)
	}
}

// issued makes the certificate the one of the job's names. What it replaces is over
// for names that it did not take along: they are ordered by themselves, before it
// runs out.
func (p *Planner) issued(now int64, j *job, got Certificate) {
	c := &cert{
		id: got.ID, ca: j.ca, account: j.ca.Account, g: j.g,
		notBefore: got.NotBefore.UnixNano(), notAfter: got.NotAfter.UnixNano(), inUse: got.InUse,
	}
	c.window(got.Window)
	p.certs[c.id] = c
	c.names = slices.Clone(j.names)
	olds := append(slices.Clone(j.merges), j.replaces)
	for _, old := range olds {
		if old != nil {
			old.job = nil
		}
	}
	for _, n := range c.names {
		old := n.cert
		n.job, n.alarmed, n.trouble, n.checked = nil, false, nil, now
		p.attach(n, c)
		p.to(n, live)
		if old != nil && !slices.Contains(olds, old) {
			p.reindex(now, old)
			p.retire(old)
		}
	}
	p.schedule(now, c)
	p.reindex(now, c)
	if old := j.replaces; old != nil {
		old.replaced = true
		for _, n := range old.names {
			if n.cert == old && n.wanted && n.job == nil && n.state == live {
				p.settle(now, n)
			}
		}
		p.set(old, old.notAfter)
		p.reindex(now, old)
		p.retire(old)
	}
	for _, old := range j.merges {
		p.schedule(now, old)
		p.reindex(now, old)
		p.retire(old)
	}
	for _, n := range c.names {
		if n.wanted && !n.current(now) { // its team has changed meanwhile
			p.settle(now, n)
		}
	}
	p.retire(c)
}

// quarantine sets exactly the failed names aside and orders the rest again: the CA
// still has their authorizations.
func (p *Planner) quarantine(now int64, j *job, failures []Failure) {
	why := make(map[string]Failure, len(failures))
	for _, f := range failures {
		why[f.Name] = f
	}
	j.names = slices.DeleteFunc(j.names, func(n *name) bool {
		f, bad := why[n.name]
		if !bad {
			return false
		}
		n.job = nil
		switch {
		case !n.wanted:
			p.to(n, live)
			p.forget(n)
			return true
		case f.Block:
			n.blame().reason = f.Reason
			p.to(n, blocked)
		default:
			p.failedOrder(now, n, f.Reason)
		}
		p.alarm(n)
		return true
	})
}

// again lets what is left of a job wait for its next order.
func (p *Planner) again(now int64, j *job, wait time.Duration, why string) {
	j.phase = queued
	j.names = slices.DeleteFunc(j.names, func(n *name) bool {
		if !n.wanted {
			n.job = nil
			p.to(n, live)
			p.forget(n)
			return true
		}
		if n.current(now) {
			p.to(n, live)
		} else {
			p.to(n, ready)
		}
		return false
	})
	j.merges = slices.DeleteFunc(j.merges, func(c *cert) bool {
		whole := !slices.ContainsFunc(c.names, func(n *name) bool { return n.wanted && n.cert == c && n.job != j })
		if !whole {
			c.job = nil
			p.schedule(now, c)
			p.reindex(now, c)
		}
		return !whole
	})
	if len(j.names) == 0 {
		p.dissolve(now, j)
		return
	}
	j.try++
	j.seq = p.seq()
	if wait > 0 {
		p.delay(j, now+int64(wait), why)
	} else {
		p.enqueueJob(now, j)
	}
}

// limited believes the CA: it counts what we do not see, such as other accounts.
func (p *Planner) limited(now int64, j *job, limits []Limit) {
	for _, l := range limits {
		p.limit(now, j, l)
	}
}

func (p *Planner) limit(now int64, j *job, l Limit) {
	until := now + int64(time.Minute)
	if !l.Until.IsZero() {
		until = max(now, l.Until.UnixNano())
	}
	if j.exempt {
		j.counted = true
	}
	switch l.Scope {
	case ScopeDomain:
		j.ca.block(j.ca.domains, l.Subject, until)
	case ScopeSet:
		j.ca.block(j.ca.sets, setOf(j.strings()), until)
	case ScopeName:
		for i, n := range j.names {
			if n.name == l.Subject {
				j.names = slices.Delete(j.names, i, i+1)
				n.job = nil
				n.blame().reason = j.ca.Name + " takes no order for the name after too many failed validations"
				if n.wanted {
					p.to(n, failed)
					p.set(n, until)
					p.alarm(n)
				}
				break
			}
		}
	default:
		p.park(now, j.ca, until)
	}
}

// refused halves a set of names of which one is at fault, nobody said which.
func (p *Planner) refused(now int64, j *job, reason string) {
	if len(j.names) == 1 {
		p.quarantine(now, j, []Failure{{Name: j.names[0].name, Reason: reason}})
		p.again(now, j, 0, "")
		return
	}
	if j.kind == Add {
		p.dissolve(now, j) // the name goes the way of all others
		return
	}
	half := len(j.names) / 2
	other := &job{kind: j.kind, g: j.g, ca: j.ca, names: slices.Clone(j.names[half:]), try: j.try}
	if j.replaces != nil {
		other.kind = Urgent
	}
	j.names = j.names[:half:half]
	for _, n := range other.names {
		n.job = other
	}
	p.again(now, j, 0, "")
	p.again(now, other, 0, "")
}

// AddCost tells what it would cost to order a certificate again with one name more,
// or why that cannot be, as a *fingerpost.Error.
func (p *Planner) AddCost(now time.Time, id, s string) (Cost, error) {
	t := now.UnixNano()
	fail := func(code, message, hint string) (Cost, error) {
		return Cost{}, &fingerpost.Error{Code: code, Message: message, Hint: hint}
	}
	c, n := p.certs[id], p.names[s]
	switch {
	case c == nil || c.replaced || c.notAfter <= t:
		return fail("no_certificate", "there is no certificate "+id+" that could take a name in", "list those that exist with `fingerpost certs list`")
	case n == nil || !n.wanted:
		return fail("not_served", s+" is not a name that a certificate is wanted for", "add it as a host first")
	case n.cert == c:
		return fail("has_name", s+" is in certificate "+id+" already", "")
	case n.g.policy.Team != c.g.policy.Team:
		return fail("other_team", s+" and certificate "+id+" belong to different teams", "names of two teams never share a certificate, since it shows all of them to everyone")
	case c.job != nil:
		return fail("busy", "certificate "+id+" is being ordered again already", "new names of its team join that order by themselves; see `fingerpost certs get "+id+"`")
	case n.job != nil || n.state == ordered:
		return fail("ordered", s+" is in an order already", "wait until that is done")
	case n.state == blocked:
		return fail("blocked", s+" is blocked: "+n.blame().reason, "solve this, then try it again")
	case p.byCA[c.ca.Name] != c.ca || !slices.Contains(n.g.cas, c.ca) || n.g.policy.Profile != c.g.policy.Profile:
		return fail("other_policy", s+" and certificate "+id+" have different CAs or profiles", "give the host the certificate settings of the others")
	}
	g := c.successor()
	var in conflicts
	all := []string{s}
	for _, m := range c.names {
		if m.wanted && m.cert == c {
			all = append(all, m.name)
			in.add(m.name)
		}
	}
	if limit := g.max(c.ca); len(all) > limit {
		return fail("full", fmt.Sprintf("certificate %s has %d names, and takes no more than %d", id, len(all)-1, limit), "leave the name to get a certificate of its own, which needs nothing from you")
	}
	if in.with(s) {
		return fail("covered", s+" cannot stand beside a wildcard that covers it", "a CA refuses such an order; the wildcard serves the name already, or serves it without the others")
	}
	cost := Cost{Certificate: id, Name: s, Orders: 1, OrdersLeft: c.ca.free(t, forNew)}
	at := c.ca.freeAt(t, forNew, 1)
	j := job{ca: c.ca, replaces: c, names: c.names}
	if cost.Free = j.isExempt(t); cost.Free {
		cost.Orders, at = 0, max(t, c.ca.closed())
		cost.At = time.Unix(0, at)
		cost.Reason = "free: the certificate is due for renewal, and " + c.ca.Name + " counts no renewals"
		return cost, nil
	}
	domains, _ := p.charged(all)
	worst := DomainCount{}
	for _, d := range domains {
		count := DomainCount{d, c.ca.used(t, d), c.ca.Limits.PerDomain}
		cost.Domains = append(cost.Domains, count)
		if worst.Domain == "" || count.Used > worst.Used {
			worst = count
		}
		at = max(at, c.ca.domainAt(t, d, forNew))
	}
	cost.At = time.Unix(0, at)
	var b strings.Builder
	b.WriteString("one order")
	if l := c.ca.Limits; l.Orders > 0 {
		fmt.Fprintf(&b, " of %d that %s takes now", cost.OrdersLeft, c.ca.Name)
	}
	if worst.Limit > 0 {
		fmt.Fprintf(&b, ", and one certificate of the %d a week for each of %d registered domains (%s has had %d)", worst.Limit, len(domains), worst.Domain, worst.Used)
	}
	b.WriteString("; a fresh certificate would charge one domain, and at the renewal it is free")
	cost.Reason = b.String()
	return cost, nil
}

// AddName orders a certificate again with one name more, since a user asks for it.
// The name must be wanted, by the same policy, and is checked first. What happens
// then shows in its Status.
func (p *Planner) AddName(now time.Time, id, s string) (Cost, error) {
	cost, err := p.AddCost(now, id, s)
	if err != nil {
		return cost, err
	}
	c, n := p.certs[id], p.names[s]
	p.Rearm(now, s)
	n.g = c.successor()
	p.begin(now.UnixNano(), c, n, true)
	return cost, nil
}

// Renew begins the renewal of a certificate now, since a user asks for it. Outside
// the ARI window the CA counts it.
func (p *Planner) Renew(now time.Time, id string) error {
	c := p.certs[id]
	if c == nil || c.replaced || c.live == 0 {
		return &fingerpost.Error{Code: "no_certificate", Message: "there is no certificate " + id + " that could be renewed", Hint: "list those that exist with `fingerpost certs list`"}
	}
	if c.job == nil {
		p.begin(now.UnixNano(), c, nil, true)
	}
	return nil
}

// Renewing is how the renewal of a certificate stands.
type Renewing struct {
	Open     bool   // it has begun, whoever wished it
	Replaced bool   // a certificate was issued in its place
	Reason   string // what is wrong with a name of it; "" for nothing
}

// Renewing tells how the renewal of a certificate stands; with a name, one that has
// that name.
func (p *Planner) Renewing(id, with string) Renewing {
	c := p.certs[id]
	if c == nil {
		return Renewing{}
	}
	r := Renewing{Replaced: c.replaced}
	if j := c.job; j != nil {
		r.Open = with == "" || slices.ContainsFunc(j.names, func(n *name) bool { return n.name == with })
	}
	for _, n := range c.names {
		if n.wanted && n.cert == c && n.trouble != nil && n.trouble.reason != "" {
			r.Reason = n.name + ": " + n.trouble.reason
			break
		}
	}
	return r
}
