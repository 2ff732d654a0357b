package planner

import "fmt"

// Problem says what is wrong inside: a name that is in no place, or in two, or a
// count that does not hold. "" is well.
func (p *Planner) Problem() string {
	liveOn := map[*cert]int{}
	waiting := map[*queue]int{}
	inJob := map[*job]map[*name]bool{}
	counts := [len(states)]int{}
	for s, n := range p.names {
		if n.job != nil && inJob[n.job] == nil {
			inJob[n.job] = map[*name]bool{}
			for _, m := range n.job.names {
				inJob[n.job][m] = true
			}
		}
		if n.job != nil && !inJob[n.job][n] {
			return fmt.Sprintf("%s (%s) is in a job that does not have it", s, states[n.state])
		}
		if !n.wanted {
			if n.bunch != nil {
				return s + " waits and is not wanted"
			}
			continue
		}
		counts[n.state]++
		if n.cert != nil {
			liveOn[n.cert]++
		}
		if n.bunch != nil && n.bunch.listed {
			waiting[n.bunch.q]++
		}
		open := n.job != nil && n.job.phase == opened
		good := true
		switch n.state {
		case checking:
			good = (n.queued || n.timer.running()) && n.bunch == nil && !open
		case ready:
			good = (n.bunch != nil) != (n.job != nil) && !open
			if b := n.bunch; b != nil {
				good = good && b.q.bunches[b.domain] == b && (b.listed || b.timer.running()) && (!b.listed || b.q.place != 0 || b.q.timer.running())
			}
		case ordered:
			good = open && n.bunch == nil
		case live:
			good = n.cert != nil && n.bunch == nil && (n.job != nil || n.cert.timer.running()) && !open
		case failed, paused:
			good = n.timer.running() && n.bunch == nil && !open
		case blocked:
			good = n.bunch == nil && !open
		}
		if !good {
			return fmt.Sprintf("%s is %s, bunch %v, job %v, cert %v, queued %v, timer %v", s, states[n.state], n.bunch != nil, n.job, n.cert != nil, n.queued, n.timer.running())
		}
	}
	if counts != p.counts {
		return fmt.Sprintf("counted %v, are %v", p.counts, counts)
	}
	for _, c := range p.cas {
		busy := 0
		for _, j := range p.open {
			if j.ca == c && j.works != 0 {
				busy++
			}
		}
		if busy != c.busy {
			return fmt.Sprintf("%d orders of %s are worked at, counted %d", busy, c.Name, c.busy)
		}
	}
	for id, c := range p.certs {
		if c.live != liveOn[c] {
			return fmt.Sprintf("%s serves %d names, counted %d", id, liveOn[c], c.live)
		}
		if c.size != 0 && (int(c.size) != c.live || c.job != nil || c.replaced) {
			return fmt.Sprintf("%s is listed with %d names, has %d", id, c.size, c.live)
		}
	}
	for _, g := range p.groups {
		for kind, q := range g.queues {
			if q != nil && q.waiting != waiting[q] {
				return fmt.Sprintf("queue %d of team %s counts %d, has %d", kind, g.policy.Team, q.waiting, waiting[q])
			}
		}
	}
	for i := range p.timers.items {
		w := p.timers.items[i]
		if w.x.clock().place != int32(i+1) || w.x.clock().at != w.at || i > 0 && w.at < p.timers.items[(i-1)/2].at {
			return "the timers are out of order"
		}
	}
	return ""
}
