package planner_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"fingerpost/cert/planner"
)

// TestRandom lets people, names and the CA do what they may, in any order, and looks
// after each step: every wanted name is in exactly one place, with a reason and a
// time; no order mixes teams, is too large, or is beyond what the CA counts. In the
// end, when all is well, all is live.
func TestRandom(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 10
	}
	for seed := range rounds {
		random(t, uint64(seed))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func random(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 9))
	bad, hidden := map[string]bool{}, map[string]bool{}
	ca := newModelCA(25, 20*day, func(n string) bool { return hidden[n] })
	ca.filled = t0
	cas := []planner.CA{le("le")}
	if seed%3 == 0 {
		cas = append(cas, le("other"))
	}
	d := newDesk(t, cas...)
	policy := func() planner.Policy {
		return planner.Policy{Team: fmt.Sprint(rng.IntN(3)), Profile: "tlsserver", Pack: []int{0, 0, 1, 7}[rng.IntN(4)]}
	}
	names := append(series("n%d.net", 40), series("s%d.shared.com", 40)...)
	names = append(names, "shared.com", "*.shared.com", "*.n1.net", "www.n1.net", "co.uk")
	wanted := map[string]string{} // team
	type running struct {
		o planner.Order
		m *modelOrder
	}
	var open []running
	certs := map[string]bool{}
	step := func(calm bool) {
		w := d.p.Next(d.now, 5-len(open), 50)
		for _, id := range w.Obsolete {
			if !certs[id] {
				t.Errorf("obsolete: %s, which is not there", id)
			}
			delete(certs, id)
			d.p.Gone(d.now, id)
		}
		for _, c := range w.Checks {
			if reason := ""; calm || rng.IntN(20) > 0 { // some answers are lost
				if bad[c.Name] {
					reason = "no A record"
				}
				d.p.Checked(d.now, c.Name, reason, [][]string{nil, nil, nil, {"le"}, {"other"}}[rng.IntN(5)]...)
			}
		}
		busy := map[string]bool{}
		for _, r := range open {
			for _, n := range r.o.Names {
				busy[n] = true
			}
		}
		for _, o := range w.Orders {
			for _, n := range o.Names {
				if busy[n] {
					t.Errorf("%s is in two orders", n)
				}
				busy[n] = true
				if wanted[n] != o.Policy.Team {
					t.Errorf("%s of team %q is in an order of team %s", n, wanted[n], o.Policy.Team)
				}
			}
			if o.Policy.Pack > 0 && len(o.Names) > o.Policy.Pack {
				t.Errorf("%d names in an order of %d", len(o.Names), o.Policy.Pack)
			}
			m := ca.newOrder(d.now, o)
			if m == nil {
				t.Errorf("the CA refused %+v: %v", o, ca.hits)
				return
			}
			open = append(open, running{o, m})
		}
		for name, team := range wanted {
			s, ok := d.p.Status(d.now, name)
			if !ok || s.Policy.Team != team || s.ETA.Code == "" || s.ETA.Reason == "" || s.ETA.At.IsZero() != (s.State == planner.Blocked) {
				t.Errorf("status of %s: %+v", name, s)
			}
		}
		d.wake = w.Wake
	}
	finish := func(calm bool) {
		for i := 0; i < len(open); i++ {
			if !calm && rng.IntN(3) == 0 {
				d.p.Waits(d.now, open[i].o.ID, rng.IntN(2) == 0)
				continue
			}
			if rng.IntN(2) == 0 {
				d.p.Works(d.now, open[i].o.ID)
			}
			r := open[i]
			open = append(open[:i], open[i+1:]...)
			i--
			out := planner.Result{Reason: "503"}
			switch n := rng.IntN(12); {
			case calm || n > 3:
				out = ca.finish(d.now, r.m)
				if out.Outcome == planner.Issued {
					certs[out.Certificate.ID] = true
				}
			case n == 0:
				out.Outcome = []planner.Outcome{planner.Lost, planner.Down}[rng.IntN(2)]
				out.Unasked, out.Counted = rng.IntN(4) == 0, rng.IntN(4) == 0
			case n == 1:
				out.Outcome = planner.Refused
			case n == 2:
				out.Outcome = planner.NotOpened
			case n == 3:
				out.Outcome, out.Limits = planner.Limited, []planner.Limit{{
					Scope:   []planner.Scope{planner.ScopeAccount, planner.ScopeDomain, planner.ScopeSet, planner.ScopeName}[rng.IntN(4)],
					Subject: []string{r.o.Names[0], "shared.com"}[rng.IntN(2)], Until: d.now.Add(time.Duration(rng.IntN(300)) * time.Minute),
				}}
			}
			if r.m.replaces != nil && out.Outcome != planner.Issued {
				r.m.replaces.replaced = false
			}
			d.p.Done(d.now, r.o.ID, out)
		}
	}
	some := func() string {
		if len(certs) == 0 {
			return "none"
		}
		return slices.Sorted(maps.Keys(certs))[rng.IntN(len(certs))]
	}
	check := func(what string) bool {
		if problem := d.p.Problem(); problem != "" {
			t.Errorf("after %s: %s", what, problem)
		}
		return !t.Failed()
	}
	for range 600 {
		name := names[rng.IntN(len(names))]
		what := "want"
		switch rng.IntN(16) {
		case 0, 1, 2, 3, 4:
			p := policy()
			wanted[name] = p.Team
			d.p.Want(d.now, planner.Name{Name: name, Policy: p})
		case 5:
			what = "drop"
			delete(wanted, name)
			d.p.Drop(d.now, name)
		case 6:
			bad[name] = !bad[name]
		case 7:
			hidden[name] = !hidden[name]
		case 8:
			what = "rearm"
			d.p.Rearm(d.now, name)
		case 10:
			what = "add"
			d.p.AddName(d.now, some(), name)
		case 11:
			what = "renew"
			d.p.Renew(d.now, some())
		case 12:
			what = "gone"
			if id := some(); rng.IntN(3) == 0 && certs[id] {
				delete(certs, id)
				d.p.Gone(d.now, id)
			}
		case 13:
			what = "window"
			if id := some(); certs[id] {
				w := planner.Window{Start: d.now.Add(-time.Hour), End: d.now.Add(time.Duration(rng.IntN(100)) * time.Hour)}
				ca.certs[id].window = w
				d.p.Window(d.now, id, w)
			}
		case 14:
			what = "in use"
			d.p.InUse(some(), rng.IntN(2) == 0)
		}
		if !check(what) {
			return
		}
		d.now = d.now.Add(time.Duration(rng.ExpFloat64() * float64([]time.Duration{time.Second, time.Minute, time.Hour, 10 * time.Hour}[rng.IntN(4)])))
		if step(false); !check("a step") {
			return
		}
		if finish(false); !check("a result") {
			return
		}
	}
	clear(bad)
	clear(hidden)
	for _, id := range slices.Sorted(maps.Keys(certs)) {
		d.p.InUse(id, false)
	}
	for _, n := range names {
		d.p.Rearm(d.now, n)
	}
	for end := d.now.Add(21 * day); d.now.Before(end) && !t.Failed(); {
		finish(true)
		step(true)
		next := d.now.Add(time.Minute)
		if d.wake.After(next) && len(open) == 0 {
			next = d.wake
		}
		d.now = next
	}
	check("the end")
	for n := range wanted {
		if s, _ := d.p.Status(d.now, n); s.Certificate == "" || s.NotAfter.Before(d.now) {
			t.Errorf("seed %d: %s has no certificate in the end: %+v", seed, n, s)
		}
	}
}
