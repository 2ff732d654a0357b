package planner

import (
	"slices"
	"strings"
	"time"
)

// fire is the time of a certificate's renewal, or its end.
func (c *cert) fire(p *Planner, now int64) {
	switch {
	case now >= c.notAfter:
		p.expire(now, c)
	case c.job != nil || c.replaced:
		p.set(c, c.notAfter)
	default:
		p.begin(now, c, nil, false)
	}
}

// begin gathers what goes into c's successor: c's names, the smallest certificates
// of its kind that fit as well, and extra, which a user wants added. All names are
// checked first, but for those that were checked a moment ago.
func (p *Planner) begin(now int64, c *cert, extra *name, asked bool) {
	c.tried = true
	p.set(c, c.notAfter)
	g := c.successor()
	issuer := g.cas[0]
	if slices.Contains(g.cas, c.ca) {
		issuer = c.ca
	}
	j := &job{kind: Renewal, g: g, ca: issuer, replaces: c, asked: asked, seq: p.seq()}
	join := func(n *name) {
		n.job = j
		j.names = append(j.names, n)
	}
	for _, n := range c.names {
		if !n.wanted || n.cert != c || n.g != g || n.job != nil {
			continue
		}
		switch n.state {
		case live, failed, checking:
			join(n)
		case paused, blocked:
			p.alarm(n)
		}
	}
	if len(j.names) == 0 {
		return
	}
	c.job = j
	p.reindex(now, c)
	if extra != nil {
		j.kind, extra.extra = Add, true
		p.leave(extra)
		join(extra)
	} else if p.mayGrow(j) {
		p.takeIn(now, j, join)
	}
	for _, n := range j.names {
		switch {
		case n.state != live:
			p.check(now, n)
		case now-n.checked > int64(p.config.Fresh):
			p.queueCheck(n)
		default:
			continue
		}
		n.asked = true
		j.pending++
	}
	until := now + min(int64(p.config.Grace), max(0, c.notAfter-now)/4)
	if c.end-margin(c) > now {
		until = min(until, c.end-margin(c))
	}
	p.set(j, until)
	if j.pending == 0 {
		p.gathered(now, j)
	}
}

// successor is the group of most names of c that are still its own.
func (c *cert) successor() *group {
	votes := map[*group]int{}
	best := c.g
	for _, n := range c.names {
		if n.wanted && n.cert == c && n.g.policy.Team == c.g.policy.Team {
			if votes[n.g]++; votes[n.g] > votes[best] {
				best = n.g
			}
		}
	}
	return best
}

// mayGrow reports whether further names cost nothing: by ARI, or since the CA
// counts no certificates of a domain.
func (p *Planner) mayGrow(j *job) bool {
	return j.kind != Add && !j.asked &&
		(j.replaces.end != 0 && j.ca == j.replaces.ca && j.ca.Account == j.replaces.account || j.ca.Limits.PerDomain == 0)
}

// takeIn finds other certificates for j, the smallest first: that leaves the fewest.
func (p *Planner) takeIn(now int64, j *job, join func(*name)) {
	room := j.g.max(j.ca) - len(j.names)
	if room <= 0 {
		return
	}
	var in conflicts
	for _, n := range j.names {
		in.add(n.name)
	}
	misfits := 0
	for size := 1; size <= room && size < len(j.g.small[j.ca]); size++ {
		for at := 0; size <= room && at < len(j.g.small[j.ca][size]) && misfits < 64; {
			other := j.g.small[j.ca][size][at]
			if !other.sound(j.g) || slices.ContainsFunc(other.names, func(n *name) bool { return n.cert == other && in.with(n.name) }) {
				at, misfits = at+1, misfits+1
				continue
			}
			other.job = j
			j.merges = append(j.merges, other)
			for _, n := range other.names {
				if n.wanted && n.cert == other {
					join(n)
					in.add(n.name)
				}
			}
			room -= size
			p.reindex(now, other) // takes it out of the list
		}
	}
}

// sound reports whether all wanted names of c are live and of the group g.
func (c *cert) sound(g *group) bool {
	return !slices.ContainsFunc(c.names, func(n *name) bool {
		return n.wanted && n.cert == c && (n.state != live || n.g != g || n.job != nil)
	})
}

// answer counts the pre-flight of a name whose certificate is being renewed.
func (p *Planner) answer(now int64, n *name, good bool) {
	j := n.job
	if j == nil || j.phase != gathering {
		n.asked, n.bad = false, false
		return
	}
	if n.asked {
		n.asked = false
		j.pending--
		if !good && !n.bad {
			n.bad = true
			j.bad++
		}
	}
	if good && n.bad {
		n.bad = false
		j.bad--
	}
	if j.pending == 0 && j.bad == 0 {
		p.gathered(now, j)
	}
}

// fire is the end of a job's patience: while it gathers, while it is delayed, or
// while it let others go first.
func (j *job) fire(p *Planner, now int64) {
	if j.phase == gathering {
		p.gathered(now, j)
	} else if j.phase != opened {
		p.enqueueJob(now, j)
	}
}

// gathered closes the set of names of a renewal. Names that are not sound by now are
// left out, with an alarm; a certificate that was to be taken in and has one of them
// stays as it is.
func (p *Planner) gathered(now int64, j *job) {
	p.stop(j)
	j.pending, j.bad = 0, 0
	sound := func(n *name) bool {
		return n.wanted && n.g == j.g && (n.state == live || n.state == ready)
	}
	spared := map[*cert]bool{}
	for _, n := range j.names {
		if n.wanted && !sound(n) && slices.Contains(j.merges, n.cert) {
			spared[n.cert] = true
		}
	}
	j.merges = slices.DeleteFunc(j.merges, func(c *cert) bool {
		if spared[c] {
			c.job = nil
			p.schedule(now, c)
		}
		return spared[c]
	})
	limit := j.g.max(j.ca)
	var in conflicts
	failed, kept := false, j.names[:0:0]
	var moved []*name
	for _, n := range j.names {
		if n.wanted && n.g != j.g && (n.state == live || n.state == ready) {
			moved = append(moved, n)
		}
		n.asked, n.bad = false, false
		// Names that an earlier, wider policy let in may be too many for this one;
		// they are ordered by themselves once the others have their certificate.
		if sound(n) && !spared[n.cert] && len(kept) < limit && !in.with(n.name) {
			in.add(n.name)
			kept = append(kept, n)
			continue
		}
		n.job = nil
		failed = failed || n.extra
		n.extra = false
		if n.wanted && n.cert == j.replaces && n.state != live {
			p.alarm(n)
		}
		p.forget(n)
	}
	j.names = kept
	for c := range spared {
		p.reindex(now, c)
	}
	if len(kept) == 0 || failed {
		p.dissolve(now, j)
		for _, n := range moved { // another CA renews them
			p.settle(now, n)
		}
		return
	}
	if p.mayGrow(j) {
		for _, kind := range []int{urgentQueue, freshQueue} {
			if q := j.g.queues[kind]; q != nil && q.waiting > 0 {
				p.draw(now, q, j, forRenewal, true)
			}
		}
	}
	p.enqueueJob(now, j)
}

// enqueueJob puts a job where its CA takes it from.
func (p *Planner) enqueueJob(now int64, j *job) {
	p.withdraw(j)
	if p.elsewhere(now, j) {
		return
	}
	c := j.ca
	j.phase, j.exempt, j.why = queued, j.isExempt(now), ""
	if j.kind == Merge {
		j.kind = Renewal
	}
	late := int64(0)
	if j.exempt {
		late = j.replaces.start + (j.replaces.end-j.replaces.start)*7/8
	}
	switch {
	case j.exempt && len(j.merges) > 0 && j.try == 0 && now < late:
		j.kind, j.in, j.key = Merge, &c.merges, j.replaces.end
		p.set(j, late)
	case j.exempt:
		j.in, j.key = &c.exempt, j.end()
	case j.class() == forRenewal:
		j.in, j.key = &c.renewals, j.end()
	default:
		j.in, j.key = &c.again, int64(j.seq)
	}
	j.in.put(j)
}

// withdraw takes a job out of the heap it is in and stops its timer.
func (p *Planner) withdraw(j *job) {
	p.stop(j)
	if j.in != nil {
		j.in.remove(j)
		j.in = nil
	}
}

// delay lets a job wait.
func (p *Planner) delay(j *job, until int64, why string) {
	p.withdraw(j)
	j.phase, j.why = delayed, why
	p.set(j, until)
}

func (j *job) class() class {
	switch j.kind {
	case Renewal, Merge, Urgent:
		return forRenewal
	}
	return forNew
}

// end is when the first of the certificates runs out that j's names have.
func (j *job) end() int64 {
	end := int64(1<<63 - 1)
	for _, n := range j.names {
		if n.cert != nil {
			end = min(end, n.cert.notAfter)
		}
	}
	return end
}

// isExempt reports whether the CA counts j for nothing: it is ordered inside the ARI
// window, by the same account, shares a name with what it replaces, and that was not
// replaced before.
func (j *job) isExempt(now int64) bool {
	c := j.replaces
	return !j.counted && j.mayReplace() && c.end != 0 && c.start+margin(c) <= now && now < c.end-margin(c)
}

func (j *job) mayReplace() bool {
	c := j.replaces
	return c != nil && c.ca == j.ca && c.account == j.ca.Account && !c.replaced && !c.told &&
		slices.ContainsFunc(j.names, func(n *name) bool { return slices.Contains(c.names, n) })
}

// dissolve ends a job that will not become an order.
func (p *Planner) dissolve(now int64, j *job) {
	p.withdraw(j)
	names, certs := j.names, j.merges
	if j.replaces != nil {
		certs = append(certs, j.replaces)
	}
	j.names, j.merges, j.replaces = nil, nil, nil
	for _, c := range certs {
		c.job = nil
	}
	for _, n := range names {
		n.job, n.asked, n.bad, n.extra = nil, false, false, false
	}
	for _, n := range names {
		if n.state == live || n.state == ready || n.state == ordered {
			p.settle(now, n)
		} else {
			p.forget(n)
		}
	}
	for _, c := range certs {
		if c.renewAt() > now { // a user's wish, or others were to take it in
			c.tried = false
			p.schedule(now, c)
		}
		p.reindex(now, c)
		p.retire(c)
	}
}

// expire is the end of a certificate: names that still had it have none.
func (p *Planner) expire(now int64, c *cert) {
	p.stop(c)
	for _, n := range c.names {
		if n.cert != c {
			continue
		}
		p.attach(n, nil)
		switch {
		case !n.wanted || n.state != live:
		case n.job != nil:
			p.to(n, ready) // its job brings it a certificate
		default:
			p.settle(now, n)
		}
		p.forget(n)
	}
	p.reindex(now, c)
	p.retire(c)
}

func (p *Planner) alarm(n *name) {
	if n.alarmed || n.cert == nil {
		return
	}
	n.alarmed = true
	reason := ""
	if n.trouble != nil {
		reason = n.trouble.reason
	}
	p.alarms = append(p.alarms, Alarm{n.name, n.cert.id, time.Unix(0, n.cert.notAfter), reason})
}

// conflicts knows which names cannot be in one order: a CA refuses a wildcard beside
// a name that it covers.
type conflicts struct{ wild, covered map[string]bool }

func (in *conflicts) add(s string) {
	if in.wild == nil {
		in.wild, in.covered = map[string]bool{}, map[string]bool{}
	}
	if base, ok := strings.CutPrefix(s, "*."); ok {
		in.wild[base] = true
	} else if _, parent, ok := strings.Cut(s, "."); ok {
		in.covered[parent] = true
	}
}

func (in *conflicts) with(s string) bool {
	if base, ok := strings.CutPrefix(s, "*."); ok {
		return in.covered[base]
	}
	_, parent, ok := strings.Cut(s, ".")
	return ok && in.wild[parent]
}
