package planner

import (
	"cmp"
	"slices"
	"time"
)

// Next gives what is to be done now: at most so many orders and checks. Orders count
// as opened from here on, and each ends with one call of Done.
func (p *Planner) Next(now time.Time, orders, checks int) Work {
	t := now.UnixNano()
	for _, c := range p.cas {
		c.fold()
		c.forget(t)
	}
	for len(p.timers.items) > 0 && p.timers.items[0].at <= t {
		x := p.timers.items[0].x
		p.timers.remove(x)
		x.fire(p, t)
	}
	var w Work
	starved := true
	for len(w.Orders) < orders {
		j := p.pick(t)
		if j == nil {
			break
		}
		w.Orders = append(w.Orders, p.openJob(t, j))
	}
	if len(w.Orders) == orders {
		starved = false // the caller comes again when one of its orders is done
	}
	for i := range p.checks {
		for f := &p.checks[i]; f.len() > 0 && len(w.Checks) < checks; {
			n := f.pop()
			n.queued = false
			if !n.wanted || n.state != checking && !n.asked {
				continue
			}
			if n.state == checking {
				p.set(n, t+int64(10*time.Minute)) // asked again, should the answer be lost
			}
			w.Checks = append(w.Checks, Check{n.name, n.g.own().policy, n.cert != nil})
		}
	}
	for _, c := range p.retired {
		if c.idle() && !c.told {
			c.told = true
			w.Obsolete = append(w.Obsolete, c.id)
		}
	}
	w.Alarms = p.alarms
	p.alarms, p.retired = nil, nil
	wake := int64(0)
	soonest := func(at int64) {
		if wake == 0 || at < wake {
			wake = at
		}
	}
	if len(p.timers.items) > 0 {
		soonest(p.timers.items[0].at)
	}
	if starved {
		p.starvedUntil(t, soonest)
	}
	if wake != 0 {
		w.Wake = time.Unix(0, wake)
	}
	return w
}

// starvedUntil tells when the CAs have room again for what waits for them.
func (p *Planner) starvedUntil(now int64, soonest func(int64)) {
	for _, c := range p.cas {
		if c.crowded(p.config.AtOnce) {
			continue // the caller comes again when one of its orders waits or is done
		}
		if c.exempt.len()+c.merges.len() > 0 {
			soonest(max(now, c.closed()))
		}
		if c.renewals.len() > 0 {
			soonest(c.freeAt(now, forRenewal, 1))
		}
		if c.again.len() > 0 {
			soonest(c.freeAt(now, forNew, 1))
		}
	}
	for _, l := range p.lanes {
		for kind := range l.due {
			if l.due[kind].len() > 0 {
				for _, c := range l.cas {
					if !c.crowded(p.config.AtOnce) {
						soonest(c.freeAt(now, queueClass[kind], 1))
					}
				}
			}
		}
	}
}

// pick finds the next order to open, nil if there is none that the CAs have room
// for. It is where the priorities are.
func (p *Planner) pick(now int64) *job {
	for _, c := range p.cas {
		for j := p.head(now, c, &c.exempt); j != nil; j = p.head(now, c, &c.exempt) {
			if j.isExempt(now) {
				return j
			}
			p.enqueueJob(now, j) // the window is over
		}
	}
	for _, c := range p.cas {
		for j := p.head(now, c, &c.renewals); j != nil && c.free(now, forRenewal) > 0; j = p.head(now, c, &c.renewals) {
			if j.isExempt(now) {
				return j
			}
			if p.fits(now, j) {
				return j
			}
		}
	}
	if j := p.fromQueues(now, urgentQueue, forRenewal); j != nil {
		return j
	}
	for _, c := range p.cas {
		for j := p.head(now, c, &c.again); j != nil && c.free(now, forNew) > 0; j = p.head(now, c, &c.again) {
			if j.isExempt(now) || p.fits(now, j) {
				return j
			}
		}
	}
	if p.sinceTry >= 9 {
		if j := p.fromQueues(now, retryQueue, forNew); j != nil {
			p.sinceTry = 0
			return j
		}
	}
	if j := p.fromQueues(now, freshQueue, forNew); j != nil {
		p.sinceTry++
		return j
	}
	if j := p.fromQueues(now, retryQueue, forRetry); j != nil {
		p.sinceTry = 0
		return j
	}
	for _, c := range p.cas {
		for j := p.head(now, c, &c.merges); j != nil; j = p.head(now, c, &c.merges) {
			if j.isExempt(now) {
				return j
			}
			p.enqueueJob(now, j)
		}
	}
	return nil
}

// head is the first job of a heap with names that are still wanted; nil while the CA
// takes none.
func (p *Planner) head(now int64, c *ca, h *heap[*job]) *job {
	for {
		j, ok := h.top()
		if !ok {
			return nil
		}
		j.names = slices.DeleteFunc(j.names, func(n *name) bool {
			if n.wanted && n.g.policy.Team == j.g.policy.Team {
				return false
			}
			n.job, n.extra = nil, false
			if n.wanted {
				p.settle(now, n)
			}
			p.forget(n)
			return true
		})
		if len(j.names) == 0 {
			p.dissolve(now, j)
			continue
		}
		if c.closed() > now || c.crowded(p.config.AtOnce) {
			return nil
		}
		return j
	}
}

// park lets a CA be, as it asked for.
func (p *Planner) park(now int64, c *ca, until int64) {
	if until > c.parked {
		c.parked = until
		p.leaveCA(now, c)
	}
}

// leaveCA takes jobs that need not wait for a CA that takes none to the next one.
func (p *Planner) leaveCA(now int64, c *ca) {
	for _, h := range []*heap[*job]{&c.exempt, &c.renewals, &c.merges, &c.again} {
		for _, j := range slices.Clone(h.items) {
			p.elsewhere(now, j)
		}
	}
}

// elsewhere takes a job from a CA that takes none to the next one that the policy
// allows: new names at once, renewals if the pause ends too late for them.
func (p *Planner) elsewhere(now int64, j *job) bool {
	var other *ca
	for _, c := range j.g.cas {
		if c.closed() <= now {
			other = c
			break
		}
	}
	switch {
	case other == nil || j.ca.closed() <= now || j.kind == Add:
		return false
	case j.class() != forRenewal:
		p.dissolve(now, j) // back to the queue, which finds the CA
		return true
	case j.ca.closed() < j.lastCall():
		return false
	}
	p.move(now, j, other)
	return true
}

// move gives a renewal to another CA. Names beyond what that takes are ordered by
// themselves later.
func (p *Planner) move(now int64, j *job, other *ca) {
	p.withdraw(j)
	limit := min(j.g.max(other), len(j.names))
	rest := j.names[limit:]
	j.names, j.ca = j.names[:limit:limit], other
	for _, n := range rest {
		n.job = nil
		p.settle(now, n)
	}
	p.enqueueJob(now, j)
}

// lastCall is when a renewal cannot wait for its CA any longer: a sixth of the
// lifetime is left.
func (j *job) lastCall() int64 {
	end := j.end()
	if c := j.replaces; c != nil {
		return end - (c.notAfter-c.notBefore)/6
	}
	return end - int64(24*time.Hour)
}

// other is the first CA of the lane but c that has room.
func (l *lane) other(now int64, c *ca, of class) *ca {
	for _, o := range l.cas {
		if o != c && o.free(now, of) > 0 {
			return o
		}
	}
	return nil
}

// fits reports whether the CA's counts let j be ordered. If not, j is delayed, or
// names of a domain that is over its limit leave it, so that the others need not
// wait for them.
func (p *Planner) fits(now int64, j *job) bool {
	of := j.class()
	var out []*name
	until := now
	j.names = slices.DeleteFunc(j.names, func(n *name) bool {
		at := j.ca.domainAt(now, n.registered(), of)
		if at <= now {
			return false
		}
		until = max(until, at)
		if j.kind == Add {
			return false
		}
		out = append(out, n)
		return true
	})
	if j.kind == Add && until > now {
		p.delay(j, until, "a registered domain of the certificate has as many certificates as "+j.ca.Name+" issues in a week")
		return false
	}
	for _, n := range out {
		n.job = nil
		if n.cert != nil && n.current(now) {
			p.to(n, live) // it is ordered by itself once the others have their certificate
		} else {
			p.settle(now, n)
		}
	}
	if len(j.names) == 0 {
		if c := j.replaces; c != nil && until > now {
			p.dissolve(now, j)
			p.set(c, min(until, c.notAfter))
			return false
		}
		p.dissolve(now, j)
		return false
	}
	if at := j.ca.setAt(now, setOf(j.strings()), of); at > now {
		p.delay(j, at, j.ca.Name+" has issued as many certificates for exactly these names as it does in a week")
		return false
	}
	return true
}

func (j *job) strings() []string {
	all := make([]string, len(j.names))
	for i, n := range j.names {
		all[i] = n.name
	}
	slices.Sort(all)
	return all
}

// openJob counts a job as an order.
func (p *Planner) openJob(now int64, j *job) Order {
	p.withdraw(j)
	p.lastID++
	j.id, j.phase, j.opened, j.exempt = p.lastID, opened, now, j.isExempt(now)
	p.open[j.id] = j
	all := j.strings()
	if !j.exempt {
		j.ca.take(now)
	}
	p.reserve(j, all)
	j.works = now
	j.ca.busy++
	o := Order{
		ID: j.id, Kind: j.kind, CA: j.ca.Name, Account: j.ca.Account, Policy: j.g.policy, Profile: j.g.profile(j.ca), Names: all,
		Exempt: j.exempt, Opened: time.Unix(0, now), Try: j.try,
	}
	if j.mayReplace() {
		o.Replaces = j.replaces.id
	}
	for _, c := range j.merges {
		o.Merges = append(o.Merges, c.id)
	}
	return o
}

func (p *Planner) reserve(j *job, all []string) {
	for _, n := range j.names {
		p.to(n, ordered)
		p.stop(n)
		n.job, n.extra = j, false
	}
	if !j.exempt {
		j.domains, j.set = p.charged(all)
		j.ca.reserve(j.domains, j.set)
	}
}

// fromQueues builds an order from the queue whose turn it is.
func (p *Planner) fromQueues(now int64, kind int, of class) *job {
	for {
		var first *queue
		for _, l := range p.lanes {
			q, ok := l.due[kind].top()
			if ok && (first == nil || cmp.Or(cmp.Compare(q.turn, first.turn), cmp.Compare(q.seq, first.seq)) < 0) {
				if c := l.other(now, nil, of); c != nil && !c.crowded(p.config.AtOnce) {
					first = q
				}
			}
		}
		if first == nil {
			return nil
		}
		if j := p.build(now, first, of); j != nil {
			return j
		}
	}
}

// build makes the next order of q, nil if none of its names can be ordered now.
func (p *Planner) build(now int64, q *queue, of class) *job {
	l := q.g.lane
	l.due[q.kind].remove(q)
	j := &job{kind: queueKind[q.kind], g: q.g, seq: p.seq()}
	p.draw(now, q, j, of, false)
	if len(j.names) > 0 {
		l.turn[q.kind] = max(l.turn[q.kind], q.turn)
		q.turn++
	}
	p.rouse(now, q)
	if len(j.names) == 0 {
		return nil
	}
	if at := j.ca.setAt(now, setOf(j.strings()), of); at > now {
		p.delay(j, at, j.ca.Name+" has issued as many certificates for exactly these names as it does in a week")
		return nil
	}
	return j
}

// draw takes names from q into j until it is full: all of one registered domain,
// then of the next. Without a CA, j gets the first that has room for its first name.
// Names of domains over their limit wait, or stay for another CA, unless j is free
// of limits.
func (p *Planner) draw(now int64, q *queue, j *job, of class, free bool) {
	limit := 1
	if j.ca != nil {
		limit = q.g.max(j.ca)
	}
	var in conflicts
	for _, n := range j.names {
		in.add(n.name)
	}
	var kept []*bunch
	for q.list.len() > 0 && len(j.names) < limit && len(kept) < 64 {
		b := q.list.pop()
		if b.n == 0 {
			b.listed = false
			delete(q.bunches, b.domain)
			continue
		}
		if !free {
			c, at := q.g.lane.room(now, b.domain, of, p.config.AtOnce)
			if c == nil {
				p.shelve(q, b, at)
				continue
			}
			if j.ca == nil {
				j.ca, limit = c, q.g.max(c)
			} else if j.ca.domainAt(now, b.domain, of) > now {
				kept = append(kept, b)
				continue
			}
		}
		stay := b.names[:0]
		for _, n := range b.names {
			switch {
			case n.bunch != b:
			case len(j.names) == limit || in.with(n.name):
				stay = append(stay, n)
			default:
				in.add(n.name)
				j.names = append(j.names, n)
				n.bunch, n.job = nil, j
				b.n--
				q.resize(-1)
				q.out++
			}
		}
		clear(b.names[len(stay):])
		if b.names = stay; b.n > 0 {
			kept = append(kept, b)
		} else {
			b.listed = false
			delete(q.bunches, b.domain)
		}
	}
	q.list.unpop(kept)
}

// room is the first CA that has room for an order with domain, or when one will.
func (l *lane) room(now int64, domain string, of class, atOnce int) (*ca, int64) {
	first := int64(0)
	for _, c := range l.cas {
		at := c.domainAt(now, domain, of)
		if at <= now && c.free(now, of) > 0 {
			if c.crowded(atOnce) {
				return nil, now + int64(time.Second)
			}
			return c, now
		}
		at = max(at, c.freeAt(now, of, 1), now+int64(time.Second))
		if first == 0 || at < first {
			first = at
		}
	}
	return nil, first
}

// shelve takes a bunch off the list until its domain may have a certificate again.
func (p *Planner) shelve(q *queue, b *bunch, until int64) {
	b.listed = false
	q.resize(-b.n)
	q.out += int64(b.n)
	p.set(b, until)
}

func (b *bunch) fire(p *Planner, now int64) {
	p.list(b)
	p.rouse(now, b.q)
}

func (p *Planner) list(b *bunch) {
	q := b.q
	b.listed, b.mark = true, q.in
	q.list.push(b)
	q.resize(b.n)
	q.in += int64(b.n)
}

// resize counts names that wait, and the orders that they make.
func (q *queue) resize(by int) {
	full := q.g.max(q.g.cas[0])
	before := (q.waiting + full - 1) / full
	q.waiting += by
	after := (q.waiting + full - 1) / full
	hist := &q.g.lane.hist[q.kind]
	for k := before; k < after; k++ {
		if k == len(*hist) {
			*hist = append(*hist, 0)
		}
		(*hist)[k]++
	}
	for k := before; k > after; k-- {
		(*hist)[k-1]--
	}
}

// rouse puts a queue that is full among those whose turn comes, and gives others the
// batching window.
func (p *Planner) rouse(now int64, q *queue) {
	switch {
	case q.waiting == 0:
		p.stop(q)
		q.g.lane.due[q.kind].remove(q)
	case q.place != 0:
	case q.waiting >= q.g.max(q.g.cas[0]):
		q.fire(p, now)
	case !q.timer.running():
		p.set(q, now+int64(p.config.Window))
	}
}

// fire is the end of the batching window. A queue that had no order for more than
// one turn goes before all others, once.
func (q *queue) fire(p *Planner, _ int64) {
	p.stop(q)
	l := q.g.lane
	q.turn = max(q.turn, l.turn[q.kind]-1)
	q.seq = int64(p.seq())
	l.due[q.kind].put(q)
}

func (p *Planner) seq() uint64 {
	p.lastSeq++
	return uint64(p.lastSeq)
}

// enqueue lets a sound name wait for an order.
func (p *Planner) enqueue(now int64, n *name) {
	if at := n.allowedAt(now); at > now {
		p.to(n, failed)
		p.set(n, at)
		return
	}
	kind := freshQueue
	if c := n.cert; c != nil && c.notAfter > now && (c.replaced || c.tried) {
		kind = urgentQueue
	} else if n.trouble != nil && n.trouble.tries > 0 {
		kind = retryQueue
	}
	p.leave(n)
	p.to(n, ready)
	q := n.g.queue(kind)
	b := q.bunches[n.registered()]
	if b == nil {
		b = &bunch{q: q, domain: n.registered()}
		q.bunches[b.domain] = b
	}
	b.names = append(b.names, n)
	b.n++
	n.bunch = b
	switch {
	case b.listed:
		q.resize(1)
		q.in++
	case !b.timer.running():
		p.list(b)
	}
	p.rouse(now, q)
}

// leave takes a name out of its bunch.
func (p *Planner) leave(n *name) {
	b := n.bunch
	if b == nil {
		return
	}
	n.bunch = nil
	b.n--
	if b.listed {
		b.q.resize(-1)
		b.q.out++
		if b.q.waiting == 0 {
			p.stop(b.q)
			b.q.g.lane.due[b.q.kind].remove(b.q)
		}
	} else if b.n == 0 {
		p.stop(b)
		delete(b.q.bunches, b.domain)
	}
}

// allowedAt is when the CA takes the name again after failed authorizations.
func (n *name) allowedAt(now int64) int64 {
	l := n.g.cas[0].Limits
	if n.trouble == nil || l.Failures == 0 {
		return now
	}
	of := forNew
	if n.cert != nil {
		of = forRenewal
	}
	// A margin of a minute, since the CA's clock is not ours.
	long := int64(l.FailureWindow + time.Minute)
	f := n.trouble.failures
	for len(f) > 0 && f[0] <= now-long {
		f = f[1:]
	}
	if over := len(f) - n.g.cas[0].share(l.Failures, of); over >= 0 {
		return f[over] + long
	}
	return now
}
