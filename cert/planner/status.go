package planner

import (
	"cmp"
	"fmt"
	"time"
)

// Status tells where a name stands; false if it is not wanted.
func (p *Planner) Status(now time.Time, s string) (Status, bool) {
	n := p.names[s]
	if n == nil || !n.wanted {
		return Status{}, false
	}
	t := now.UnixNano()
	st := Status{Name: Name{Name: s, Policy: n.g.own().policy, State: states[n.state]}}
	if n.checked != 0 {
		st.Checked = time.Unix(0, n.checked)
	}
	if tr := n.trouble; tr != nil {
		st.Reason, st.Tries = tr.reason, tr.tries
		if tr.since != 0 {
			st.FailedSince = time.Unix(0, tr.since)
		}
		for _, at := range tr.failures {
			if at > t-int64(2*time.Hour) {
				st.Failures = append(st.Failures, time.Unix(0, at))
			}
		}
	}
	if c := n.cert; c != nil {
		st.Certificate, st.NotAfter, st.RenewAt = c.id, time.Unix(0, c.notAfter), time.Unix(0, c.renewAt())
	}
	if n.job != nil && n.job.phase == opened {
		st.Order = n.job.id
	}
	if n.state == failed || n.state == paused {
		st.Next = time.Unix(0, n.timer.at)
	}
	st.ETA = p.eta(t, n)
	return st, true
}

// date is a time for people.
func date(at int64) string { return time.Unix(0, at).UTC().Format("2 January 2006 15:04 UTC") }

func (p *Planner) eta(now int64, n *name) ETA {
	at := func(at int64, code, reason string) ETA { return ETA{time.Unix(0, at), code, reason} }
	reason := "it failed before"
	if n.trouble != nil && n.trouble.reason != "" {
		reason = n.trouble.reason
	}
	switch n.state {
	case live:
		return at(n.cert.notBefore, "live", "its certificate is "+n.cert.id)
	case checking:
		return at(now, "checking", "it is being checked that a CA would find it")
	case failed:
		return at(n.timer.at, "retry", reason)
	case paused:
		return at(n.timer.at, "paused", reason+"; it failed for 30 days, and is ordered again when its DNS changes or you ask for it")
	case blocked:
		return ETA{Code: "blocked", Reason: reason}
	case ordered:
		return at(max(now, n.job.opened+int64(time.Minute)), "ordered", "its order is open at "+n.job.ca.Name)
	}
	if j := n.job; j != nil {
		switch j.phase {
		case gathering:
			return at(j.timer.at, "batch", "the other names of its certificate are being checked")
		case delayed:
			return at(max(now, j.timer.at), "delayed", j.why)
		}
		return p.line(now, []*ca{j.ca}, j.class(), j.in.len())
	}
	b := n.bunch
	q := b.q
	if !b.listed {
		until := max(now, b.timer.at)
		_, free := q.g.lane.room(now, b.domain, queueClass[q.kind], 0)
		until = max(until, free)
		return at(until, "domain", "the CA issues no more certificates for "+b.domain+" until "+date(until))
	}
	eta := p.line(now, q.g.cas, queueClass[q.kind], p.ahead(q, b)+1)
	if q.timer.running() && q.timer.at > eta.At.UnixNano() {
		return at(q.timer.at, "batch", "it waits for other names of its team, to share a certificate")
	}
	return eta
}

// line is when the n-th order from now can be opened.
func (p *Planner) line(now int64, cas []*ca, of class, n int) ETA {
	parked := true
	for _, c := range cas {
		parked = parked && c.closed() > now
	}
	best, by := int64(0), cas[0]
	for _, c := range cas {
		share := n
		if !parked { // those that are open share the work
			open := 0
			for _, o := range cas {
				if o.closed() <= now {
					open++
				}
			}
			share = (n + open - 1) / open
		}
		if at := c.freeAt(now, of, share); best == 0 || at < best {
			best, by = at, c
		}
	}
	e := ETA{At: time.Unix(0, best), Code: "orders"}
	switch {
	case by.parked > now:
		e.Code, e.Reason = "parked", by.Name+" takes no orders of this account until "+date(by.parked)
	case by.silences > 0:
		e.Code, e.Reason = "down", cmp.Or(by.why, by.Name+" does not answer")+"; it is tried again on "+date(max(now, by.rests))
	case best <= now:
		e.Reason = "it is next in line"
	default:
		e.Reason = fmt.Sprintf("%s takes one new order in %s; about %d are before it", by.Name, by.Limits.OrderRefill, n-1)
	}
	return e
}

// ahead is about how many orders come before that of a bunch: of its own queue and,
// since the queues take turns, as many of each other.
func (p *Planner) ahead(q *queue, b *bunch) int {
	full := q.g.max(q.g.cas[0])
	turn := int(max(0, b.mark-q.out)) / full
	orders := func(kind, turns int) (n int) {
		for _, l := range p.lanes {
			if l == q.g.lane || l.shares(q.g.lane) {
				for k := 0; k < len(l.hist[kind]) && k <= turns; k++ {
					n += int(l.hist[kind][k])
				}
			}
		}
		return n
	}
	const all = 1 << 30
	n := max(0, orders(q.kind, turn)-1)
	if q.kind == retryQueue {
		n = min(10*n+9, n+orders(freshQueue, all)) // one in ten, while others wait
	}
	if q.kind != urgentQueue {
		n += orders(urgentQueue, all)
		for _, c := range q.g.cas {
			n += c.again.len()
		}
	}
	for _, c := range q.g.cas {
		n += c.renewals.len()
	}
	return n
}

func (l *lane) shares(m *lane) bool {
	for _, c := range l.cas {
		for _, o := range m.cas {
			if c == o {
				return true
			}
		}
	}
	return false
}

// Rooms tells what is left of each CA's limits.
func (p *Planner) Rooms(now time.Time) []Room {
	t := now.UnixNano()
	var all []Room
	for _, c := range p.cas {
		c.fold()
		r := Room{CA: c.Name, Orders: -1, OrdersNew: -1, Burst: c.Limits.Orders}
		if c.Limits.Orders > 0 {
			r.Orders, r.OrdersNew = c.free(t, forRenewal), c.free(t, forNew)
		}
		if at := c.closed(); at > t {
			r.ParkedUntil = time.Unix(0, at)
		}
		all = append(all, r)
	}
	return all
}

// Totals counts names by state and the rest.
func (p *Planner) Totals() Totals {
	all := Totals{Names: map[State]int{}, Certificates: len(p.certs), Open: len(p.open)}
	for i, n := range p.counts {
		if n > 0 {
			all.Names[states[i]] = n
		}
	}
	for _, c := range p.cas {
		all.Queued += c.exempt.len() + c.merges.len() + c.renewals.len() + c.again.len()
	}
	for _, l := range p.lanes {
		for _, hist := range l.hist {
			for _, n := range hist {
				all.Queued += int(n)
			}
		}
	}
	return all
}
