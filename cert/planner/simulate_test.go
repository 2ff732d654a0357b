package planner_test

import (
	"container/heap"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"syscall"
	"testing"
	"time"

	"fingerpost/cert/planner"
)

// world is one simulated installation: names that become wanted, pre-flights, and
// one account at a model CA, on virtual time.
type world struct {
	p       *planner.Planner
	ca      *modelCA
	now     time.Time
	start   time.Time
	queue   events
	seq     int
	orders  int // may be open at once
	open    int
	checks  int // may be under way at once
	asked   int
	preview func(name string) bool // pre-flight sees that it is bad
	rng     *rand.Rand

	ends     map[string]time.Time // good names: the end of their best certificate
	lapsed   int                  // names that had no certificate for a while after they had one
	lastLive time.Time            // when the last name became live for the first time
	late     int                  // renewals outside their ARI window
	renewals int
	alarms   int

	decisions int
	spent     time.Duration // in Next
	slowest   time.Duration
}

type event struct {
	at  time.Time
	seq int
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at.Before(e[j].at) || e[i].at.Equal(e[j].at) && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	x := (*e)[len(*e)-1]
	(*e)[len(*e)-1] = event{}
	*e = (*e)[:len(*e)-1]
	return x
}

func (w *world) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now.Add(d), w.seq, do})
}

func newWorld(t testing.TB, ca *modelCA, preview func(string) bool) *world {
	t.Helper()
	p, err := planner.New(planner.Config{CAs: []planner.CA{{
		Name: "letsencrypt", Account: "acct/1", MaxNames: 100, Profiles: planner.LetsEncryptProfiles(), Limits: planner.LetsEncrypt(),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	ca.filled = start
	return &world{
		p: p, ca: ca, now: start, start: start, orders: 200, checks: 2000, preview: preview,
		rng: rand.New(rand.NewPCG(1, 2)), ends: map[string]time.Time{},
	}
}

// run lets time pass until then, or until done says so.
func (w *world) run(until time.Time, done func() bool) {
	for {
		began := time.Now()
		work := w.p.Next(w.now, w.orders-w.open, w.checks-w.asked)
		took := time.Since(began)
		w.decisions++
		w.spent += took
		w.slowest = max(w.slowest, took)
		w.alarms += len(work.Alarms)
		for _, id := range work.Obsolete {
			w.p.Gone(w.now, id)
		}
		if len(work.Checks) > 0 {
			w.asked += len(work.Checks)
			checks := work.Checks
			w.after(2*time.Second, func() {
				w.asked -= len(checks)
				for _, c := range checks {
					reason := ""
					if w.preview(c.Name) {
						reason = "its DNS does not point here"
					}
					w.p.Checked(w.now, c.Name, reason)
				}
			})
		}
		for _, o := range work.Orders {
			w.submit(o)
		}
		if done != nil && done() {
			return
		}
		next := until
		if !work.Wake.IsZero() && work.Wake.Before(next) {
			next = work.Wake
		}
		if len(w.queue) > 0 && w.queue[0].at.Before(next) {
			next = w.queue[0].at
		}
		if next.After(w.now) {
			w.now = next
		} else if len(w.queue) == 0 || w.queue[0].at.After(w.now) {
			w.now = w.now.Add(time.Millisecond) // never go round without time
		}
		if !w.now.Before(until) {
			w.now = until
			return
		}
		for len(w.queue) > 0 && !w.queue[0].at.After(w.now) {
			heap.Pop(&w.queue).(event).do()
		}
	}
}

func (w *world) submit(o planner.Order) {
	w.open++
	if o.Replaces != "" && o.Kind != planner.Add {
		w.renewals++
		if !o.Exempt {
			w.late++
		}
	}
	// The request is at the CA within two seconds, and its end comes within a minute.
	w.after(time.Duration(w.rng.IntN(2000))*time.Millisecond, func() {
		m := w.ca.newOrder(w.now, o)
		if m == nil {
			w.open--
			w.p.Done(w.now, o.ID, planner.Result{Outcome: planner.Limited, Limits: []planner.Limit{{Scope: planner.ScopeAccount, Until: w.now.Add(time.Hour)}}})
			return
		}
		w.after(10*time.Second+time.Duration(w.rng.IntN(50_000))*time.Millisecond, func() {
			w.open--
			r := w.ca.finish(w.now, m)
			if r.Outcome == planner.Issued {
				for _, n := range o.Names {
					end, had := w.ends[n]
					if !had {
						w.lastLive = w.now
					} else if end.Before(w.now) {
						w.lapsed++
					}
					w.ends[n] = r.Certificate.NotAfter
				}
			}
			w.p.Done(w.now, o.ID, r)
		})
	})
}

// kindOf says what a name of the simulation is, from its number: 2 % are bad, of
// which the pre-flight sees 90 %.
func kindOf(name string) (bad, seen bool) {
	switch name[0] {
	case 'x':
		return true, true
	case 'y':
		return true, false
	}
	return false, false
}

// population makes names over teams. One in fifty is bad, if any are. Most have a
// registered domain of their own; one in ten is below a domain of its team; and each
// team has one below a domain that 38 teams share, so that this comes near the 50
// certificates a week.
func population(names, teams int, bad bool, want func(name, team string)) (good int) {
	for i := range names {
		team, k := i%teams, i/teams
		prefix := "g"
		if h := (i*7919 + k*31) % 500; bad && h < 10 {
			if prefix = "x"; h == 0 {
				prefix = "y"
			}
		} else {
			good++
		}
		name := fmt.Sprintf("%s%d.net", prefix, i)
		switch {
		case k%10 == 1 && names/teams >= 50:
			name = fmt.Sprintf("%s%d.team%d.com", prefix, i, team)
		case k == 2 && names/teams >= 50:
			name = fmt.Sprintf("%s%d.shared%d.org", prefix, i, team/38)
		}
		want(name, fmt.Sprint("team", team))
	}
	return good
}

// cpu is what this process has used, since others may have the machine.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

type row struct {
	title                string
	names, teams, orders int
	failed, certs, hits  int
	days                 float64
	real                 time.Duration
}

func (r row) String() string {
	return fmt.Sprintf("%-34s %9d %8d %9d %8d %9d %7.2f %6d %8.1fs", r.title, r.names, r.teams, r.orders, r.failed, r.certs, r.days, r.hits, r.real.Seconds())
}

const head = "                                       names    teams    orders  failed certs      days   hits      CPU"

func fill(t testing.TB, title string, names, teams, pack int, spoiled bool, life time.Duration, limit time.Duration) (*world, row) {
	began := cpu()
	bad := func(n string) bool { b, _ := kindOf(n); return b }
	ca := newModelCA(100, life, bad)
	w := newWorld(t, ca, func(n string) bool { b, seen := kindOf(n); return b && seen })
	good := population(names, teams, spoiled, func(name, team string) {
		w.p.Want(w.now, planner.Name{Name: name, Policy: planner.Policy{Team: team, Profile: "classic", Pack: pack}})
	})
	w.run(w.start.Add(limit), func() bool { return len(w.ends) == good })
	if len(w.ends) != good {
		t.Errorf("%s: %d of %d good names are live after %v", title, len(w.ends), good, limit)
	}
	hits := 0
	for why, n := range ca.hits {
		t.Errorf("%s: the CA refused %d orders: %s", title, n, why)
		hits += n
	}
	return w, row{title, names, teams, ca.orders, ca.failed, ca.issued, hits, w.lastLive.Sub(w.start).Hours() / 24, cpu() - began}
}

var full = flag.Bool("full", false, "simulate a million names, which takes a minute and a half of CPU")

// TestSimulate brings a million names under one account at Let's Encrypt, whose
// limits a model of it enforces, and then lets 200 days pass. Without -full it is a
// fiftieth of that.
func TestSimulate(t *testing.T) {
	scale := 50
	if *full {
		scale = 1
	}
	defer debug.SetGCPercent(debug.SetGCPercent(300)) // the machine has the memory, and the test shall be short
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	w, packed := fill(t, "packed; 2 % bad", 1_000_000/scale, 2000/scale, 0, true, 90*24*time.Hour, 10*24*time.Hour)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if packed.days > 6 {
		t.Errorf("all good names are live after %.2f days, want at most 6", packed.days)
	}
	t.Log(head)
	t.Log(packed)
	t.Logf("Next: %d decisions, %v each, the slowest %v; planner and model together %d MB",
		w.decisions, w.spent/time.Duration(w.decisions), w.slowest, (after.HeapAlloc-before.HeapAlloc)>>20)
	years(t, w, scale)

	_, single := fill(t, "one name per certificate; none bad", 1_000_000/scale, 2000/scale, 1, false, 10*365*24*time.Hour, 600*24*time.Hour)
	t.Log(single)
	_, small := fill(t, "teams of five; none bad", 1_000_000/scale, 200_000/scale, 0, false, 10*365*24*time.Hour, 200*24*time.Hour)
	t.Log(small)
}

// years goes on for 200 days: single names come each day, everything is renewed,
// the CA revokes all at once.
func years(t *testing.T, w *world, scale int) {
	began := cpu()
	ca := w.ca
	counts := func(when string) {
		live := w.p.Totals()
		t.Logf("day %3.0f: %6d certificates, %7d names live, %6d renewals, %5d outside ARI, %5d orders counted, %d lapsed, %d alarms   %s",
			w.now.Sub(w.start).Hours()/24, live.Certificates, live.Names[planner.Live], w.renewals, w.late, ca.orders, w.lapsed, w.alarms, when)
	}
	counts("all names are live")
	day := 24 * time.Hour
	added := 0
	peak := 0
	for d := range 200 {
		if d < 60 { // ten teams in a hundred bring a name each day
			for team := 0; team < 2000/scale; team += 10 {
				added++
				w.p.Want(w.now, planner.Name{Name: fmt.Sprintf("gnew%d.net", added), Policy: planner.Policy{Team: fmt.Sprint("team", team), Profile: "classic"}})
			}
		}
		w.run(w.now.Add(day), nil)
		peak = max(peak, w.p.Totals().Certificates)
		switch d {
		case 59:
			counts(fmt.Sprintf("%d more names came one by one", added))
		case 139:
			counts("merged at renewals")
		case 149:
			if late := w.late; late > 0 {
				t.Errorf("%d renewals of %d were ordered outside their ARI window", late, w.renewals)
			}
			counts("the CA revokes all: every window is the next 24 hours")
			now := planner.Window{Start: w.now, End: w.now.Add(day)}
			for id, c := range ca.certs {
				if !c.replaced && c.end.After(w.now) {
					c.window = now
					w.p.Window(w.now, id, now)
				}
			}
			before := w.renewals
			revoked := w.now
			w.run(w.now.Add(day), nil)
			counts(fmt.Sprintf("%d renewals in a day", w.renewals-before))
			old := 0
			for _, end := range w.ends {
				if end.Before(revoked.Add(ca.life)) {
					old++
				}
			}
			if old > 0 {
				t.Errorf("%d names still have a revoked certificate a day later", old)
			}
		}
	}
	counts("the end")
	for n, end := range w.ends {
		if end.Before(w.now) {
			t.Errorf("%s has no certificate any more", n)
			break
		}
	}
	if w.lapsed > 0 {
		t.Errorf("%d names were without a certificate for a while", w.lapsed)
	}
	for why, n := range ca.hits {
		t.Errorf("the CA refused %d orders: %s", n, why)
	}
	if end := w.p.Totals().Certificates; end > peak*9/10 {
		t.Errorf("merging left %d certificates of %d", end, peak)
	}
	t.Logf("200 days took %.1fs of CPU; Next: %d decisions, %v each, the slowest %v", (cpu() - began).Seconds(), w.decisions, w.spent/time.Duration(w.decisions), w.slowest)
}
