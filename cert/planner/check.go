package planner

import (
	"slices"
	"time"
)

func (n *name) blame() *trouble {
	if n.trouble == nil {
		n.trouble = &trouble{}
	}
	return n.trouble
}

// check puts a name among the pre-flights to run.
func (p *Planner) check(now int64, n *name) {
	p.to(n, checking)
	p.stop(n)
	p.queueCheck(n)
}

func (p *Planner) queueCheck(n *name) {
	if !n.queued {
		n.queued = true
		which := 1
		if n.cert != nil {
			which = 0
		}
		p.checks[which].push(n)
	}
}

// Checked reports a pre-flight: reason is empty if it was good, else what a person
// reads. One that could not be run at all (no resolver answered) is good for a name
// with a certificate, and a failure for a new one. Where not all CAs of the policy may
// issue for the name, cas are those that may.
func (p *Planner) Checked(now time.Time, s, reason string, cas ...string) {
	n := p.names[s]
	if n == nil || !n.wanted || n.state != checking && !n.asked {
		return
	}
	t := now.UnixNano()
	p.stop(n)
	if reason != "" {
		p.failedCheck(t, n, reason)
		p.answer(t, n, false)
		return
	}
	n.checked = t
	if j := n.job; j == nil || len(cas) > 0 && !slices.Contains(cas, j.ca.Name) { // a renewal goes on where it is
		n.g = p.narrowed(n.g, cas)
	}
	if tr := n.trouble; tr != nil && tr.resting {
		if tr.byCA { // nothing has changed that we could see
			p.to(n, paused)
			p.set(n, t+int64(24*time.Hour))
			p.answer(t, n, false)
			return
		}
		*tr = trouble{failures: tr.failures} // its DNS has changed
	}
	if n.state == checking && !n.extra {
		p.settle(t, n)
	} else if n.extra {
		p.to(n, ready)
	}
	p.answer(t, n, true)
}

// rest is when a name has failed for so long that only pre-flights are made.
const rest = 30 * 24 * time.Hour

// failedCheck sets a name aside after a bad pre-flight. These cost no CA anything:
// they come again after a tenth of the time that has passed, from a minute to
// three hours, so that a change of DNS is seen soon.
func (p *Planner) failedCheck(now int64, n *name, reason string) {
	tr := n.blame()
	if tr.since == 0 {
		tr.since = now
	}
	tr.byCA, tr.reason = false, reason
	wait := min(max(time.Duration(now-tr.since)/10, time.Minute), 3*time.Hour)
	p.aside(now, n, tr, wait)
}

// failedOrder sets a name aside after a CA could not validate it.
func (p *Planner) failedOrder(now int64, n *name, reason string) {
	tr := n.blame()
	if tr.since == 0 {
		tr.since = now
	}
	tr.failures = append(tr.failures, now)
	if len(tr.failures) > 16 {
		tr.failures = slices.Clone(tr.failures[1:])
	}
	tr.byCA, tr.reason = true, reason
	wait := backoff(tr.tries)
	tr.tries++
	p.aside(now, n, tr, wait)
}

// backoff is how long to wait after a failure with so many before it.
func backoff(tries int) time.Duration {
	waits := [...]time.Duration{time.Minute, 10 * time.Minute, 100 * time.Minute}
	if tries < len(waits) {
		return waits[tries]
	}
	return 24 * time.Hour
}

func (p *Planner) aside(now int64, n *name, tr *trouble, wait time.Duration) {
	p.to(n, failed)
	if now-tr.since >= int64(rest) {
		tr.resting, wait = true, 24*time.Hour
		p.to(n, paused)
	}
	at := now + int64(wait)
	if minute := int64(time.Minute); wait >= 10*time.Minute {
		at = (at + minute - 1) / minute * minute // so that many come at once, and the caller sleeps between
	}
	p.set(n, at)
}

// fire is the next try of a name, or a pre-flight that was never answered.
func (n *name) fire(p *Planner, now int64) {
	if n.wanted {
		p.check(now, n)
	}
}
