package planner_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/cert/planner"
)

var t0 = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// desk is a Planner with a clock. Pre-flights are good but for the names in bad.
type desk struct {
	t   *testing.T
	p   *planner.Planner
	now time.Time
	bad map[string]string
	n   int

	alarms   []planner.Alarm
	obsolete []string
	wake     time.Time
}

func le(name string) planner.CA {
	return planner.CA{Name: name, Account: name + "/1", MaxNames: 100, Profiles: planner.LetsEncryptProfiles(), Limits: planner.LetsEncrypt()}
}

func newDesk(t *testing.T, cas ...planner.CA) *desk {
	t.Helper()
	if len(cas) == 0 {
		cas = []planner.CA{le("le")}
	}
	p, err := planner.New(planner.Config{CAs: cas})
	if err != nil {
		t.Fatal(err)
	}
	return &desk{t: t, p: p, now: t0, bad: map[string]string{}}
}

func (d *desk) want(policy planner.Policy, names ...string) {
	for _, n := range names {
		d.p.Want(d.now, planner.Name{Name: n, Policy: policy})
	}
}

// next lets the planner act now, with as many checks as it likes.
func (d *desk) next() (orders []planner.Order) {
	for {
		w := d.p.Next(d.now, 1000, 1000)
		orders = append(orders, w.Orders...)
		d.alarms = append(d.alarms, w.Alarms...)
		d.obsolete = append(d.obsolete, w.Obsolete...)
		d.wake = w.Wake
		if len(w.Checks) == 0 {
			return orders
		}
		for _, c := range w.Checks {
			d.p.Checked(d.now, c.Name, d.bad[c.Name])
		}
	}
}

// pass lets time go by, waking the planner when it asks for it, and gives the orders.
func (d *desk) pass(long time.Duration) (orders []planner.Order) {
	d.t.Helper()
	until := d.now.Add(long)
	for range 100_000 {
		orders = append(orders, d.next()...)
		if d.wake.IsZero() || !d.wake.Before(until) {
			d.now = until
			return append(orders, d.next()...)
		}
		if d.wake.After(d.now) {
			d.now = d.wake
		} else {
			d.now = d.now.Add(time.Millisecond)
		}
	}
	d.t.Fatal("the planner never sleeps")
	return nil
}

func (d *desk) issue(o planner.Order, life time.Duration, ari bool) string {
	d.n++
	c := planner.Certificate{ID: fmt.Sprint("c", d.n), NotBefore: d.now, NotAfter: d.now.Add(life)}
	if ari {
		c.Window = planner.Window{Start: d.now.Add(life * 6 / 10), End: d.now.Add(life * 7 / 10)}
	}
	d.p.Done(d.now, o.ID, planner.Result{Outcome: planner.Issued, Certificate: c})
	return c.ID
}

func (d *desk) fail(o planner.Order, names ...string) {
	var f []planner.Failure
	for _, n := range names {
		f = append(f, planner.Failure{Name: n, Reason: "404"})
	}
	d.p.Done(d.now, o.ID, planner.Result{Outcome: planner.NamesFailed, Failed: f})
}

func (d *desk) status(name string) planner.Status {
	d.t.Helper()
	s, ok := d.p.Status(d.now, name)
	if !ok {
		d.t.Fatalf("%s is not wanted", name)
	}
	return s
}

func (d *desk) one(orders []planner.Order) planner.Order {
	d.t.Helper()
	if len(orders) != 1 {
		d.t.Fatalf("%d orders, want one: %+v", len(orders), orders)
	}
	return orders[0]
}

func series(format string, n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(format, i))
	}
	return all
}

const (
	day  = 24 * time.Hour
	life = 90 * day
)

func TestPacking(t *testing.T) {
	small := le("le")
	small.MaxNames, small.Profiles = 10, nil
	tests := []struct {
		name   string
		cas    []planner.CA
		policy planner.Policy
		names  int
		want   []int
	}{
		{"classic takes 100", nil, planner.Policy{Profile: "classic"}, 250, []int{100, 100, 50}},
		{"tlsserver takes 25", nil, planner.Policy{Profile: "tlsserver"}, 60, []int{25, 25, 10}},
		{"shortlived takes 25", nil, planner.Policy{Profile: "shortlived"}, 25, []int{25}},
		{"a CA's own maximum", []planner.CA{small}, planner.Policy{Profile: "classic"}, 25, []int{10, 10, 5}},
		{"pack below the maximum", nil, planner.Policy{Pack: 7}, 15, []int{7, 7, 1}},
		{"pack above the maximum", nil, planner.Policy{Profile: "tlsserver", Pack: 80}, 30, []int{25, 5}},
		{"individual", nil, planner.Policy{Pack: 1}, 3, []int{1, 1, 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t, tt.cas...)
			d.want(tt.policy, series("n%d.net", tt.names)...)
			var got []int
			for _, o := range d.pass(time.Minute) {
				got = append(got, len(o.Names))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("orders of %v names, want %v", got, tt.want)
			}
		})
	}
}

func TestBatchingWindow(t *testing.T) {
	d := newDesk(t)
	d.want(planner.Policy{}, "a.net")
	if got := d.next(); len(got) != 0 {
		t.Fatalf("ordered at once: %v", got)
	}
	if s := d.status("a.net"); s.State != planner.Ready || s.ETA.Code != "batch" || !s.ETA.At.Equal(t0.Add(10*time.Second)) {
		t.Errorf("status %+v", s)
	}
	d.now = d.now.Add(9 * time.Second)
	d.want(planner.Policy{}, "b.net")
	if got := d.next(); len(got) != 0 {
		t.Fatalf("ordered before the window's end: %v", got)
	}
	if !d.wake.Equal(t0.Add(10 * time.Second)) {
		t.Errorf("wake %v", d.wake)
	}
	d.now = d.wake
	if o := d.one(d.next()); !slices.Equal(o.Names, []string{"a.net", "b.net"}) || o.Kind != planner.First {
		t.Errorf("order %+v", o)
	}
	d.want(planner.Policy{}, series("f%d.net", 100)...)
	if o := d.one(d.next()); len(o.Names) != 100 {
		t.Errorf("a full order waits: %+v", o)
	}
}

func TestTeamsNeverShare(t *testing.T) {
	d := newDesk(t)
	for i := range 100 {
		d.want(planner.Policy{Team: fmt.Sprint(i % 7), Profile: []string{"classic", "tlsserver"}[i%2]}, fmt.Sprintf("n%d-%d.net", i%7, i))
	}
	orders := d.pass(time.Minute)
	if len(orders) != 14 {
		t.Errorf("%d orders, want one for each team and profile", len(orders))
	}
	for _, o := range orders {
		for _, n := range o.Names {
			if !strings.HasPrefix(n, "n"+o.Policy.Team+"-") {
				t.Errorf("%s is in an order of team %s", n, o.Policy.Team)
			}
		}
		d.issue(o, life, true)
	}
	// Also not when a name moves to another team while it has a certificate.
	d.want(planner.Policy{Team: "1", Profile: "classic"}, "n0-0.net")
	o := d.one(d.pass(time.Minute))
	if !slices.Equal(o.Names, []string{"n0-0.net"}) || o.Policy.Team != "1" {
		t.Errorf("order %+v", o)
	}
}

func TestWildcardBesideItsNames(t *testing.T) {
	d := newDesk(t)
	d.want(planner.Policy{}, "*.a.net", "a.net", "www.a.net", "x.www.a.net")
	orders := d.pass(time.Minute)
	if len(orders) != 2 {
		t.Fatalf("%d orders, want 2: %v", len(orders), orders)
	}
	for _, o := range orders {
		if slices.Contains(o.Names, "*.a.net") && slices.Contains(o.Names, "www.a.net") {
			t.Errorf("%v would be refused", o.Names)
		}
	}
}

func TestQuarantineAndOrderTheRestAgain(t *testing.T) {
	d := newDesk(t)
	d.want(planner.Policy{}, series("n%d.net", 100)...)
	o := d.one(d.next())
	d.fail(o, "n3.net", "n50.net", "n99.net")
	rest := d.one(d.next())
	if len(rest.Names) != 97 || rest.Try != 1 || slices.Contains(rest.Names, "n3.net") {
		t.Fatalf("order %+v", rest)
	}
	d.issue(rest, life, true)
	if s := d.status("n3.net"); s.State != planner.Failed || s.Tries != 1 || s.Reason != "404" || !s.Next.Equal(d.now.Add(time.Minute)) || s.ETA.Reason == "" {
		t.Errorf("status %+v", s)
	}
	if s := d.status("n4.net"); s.State != planner.Live || s.Certificate != "c1" {
		t.Errorf("status %+v", s)
	}
}

// TestBackoff fails a name at the CA each time: 1, 10, 100 minutes, then daily; after
// 30 days only pre-flights; a change of DNS or a click begins anew.
func TestBackoff(t *testing.T) {
	d := newDesk(t)
	d.want(planner.Policy{}, "a.net")
	d.fail(d.one(d.pass(10*time.Second)), "a.net")
	last, n := d.now, 0
	for _, wait := range []time.Duration{time.Minute, 10 * time.Minute, 100 * time.Minute, day, day} {
		var got []planner.Order
		for len(got) == 0 && d.now.Before(last.Add(2*wait)) {
			got = d.pass(time.Second * 10)
		}
		o := d.one(got)
		if gap := d.now.Sub(last); gap < wait || gap > wait+time.Minute || o.Kind != planner.Retry {
			t.Errorf("try %d after %v, want %v: %+v", n, gap, wait, o)
		}
		d.fail(o, "a.net")
		last, n = d.now, n+1
	}
	for d.now.Before(t0.Add(32 * day)) {
		for _, o := range d.pass(time.Hour) {
			d.fail(o, "a.net")
		}
	}
	if s := d.status("a.net"); s.State != planner.Paused || s.ETA.Code != "paused" {
		t.Fatalf("after 30 days: %+v", s)
	}
	if got := d.pass(20 * day); len(got) != 0 {
		t.Errorf("ordered after 30 days of failures: %v", got)
	}
	d.bad["a.net"] = "no A record"
	d.pass(2 * day)
	if s := d.status("a.net"); s.State != planner.Paused || s.Reason != "no A record" {
		t.Errorf("status %+v", s)
	}
	delete(d.bad, "a.net")
	if got := d.pass(2 * day); len(got) == 0 {
		t.Error("its DNS is good again, and it is not ordered")
	} else {
		d.fail(got[0], "a.net")
	}
	d.p.Rearm(d.now, "a.net")
	if got := d.pass(time.Minute); len(got) == 0 {
		t.Error("not ordered after a click")
	}
}

// TestFailuresPerHour clicks as fast as a person can: the CA never sees a fifth
// failure within an hour.
func TestFailuresPerHour(t *testing.T) {
	d := newDesk(t)
	d.want(planner.Policy{}, "a.net")
	n := 0
	for range 50 {
		for _, o := range d.pass(15 * time.Second) {
			n++
			d.fail(o, "a.net")
		}
		d.p.Rearm(d.now, "a.net")
	}
	if n != 4 {
		t.Errorf("%d orders in 13 minutes, want 4", n)
	}
	if s := d.status("a.net"); s.State == planner.Failed && s.Next.Before(t0.Add(time.Hour)) {
		t.Errorf("status %+v", s)
	}
}

func TestOrderBucket(t *testing.T) {
	d := newDesk(t)
	d.want(planner.Policy{Pack: 1}, series("n%d.net", 400)...)
	first := d.pass(10 * time.Second)
	if len(first) != 240 {
		t.Errorf("%d orders in one burst, want 240: a fifth is kept", len(first))
	}
	if s := d.status("n399.net"); s.ETA.Code != "orders" || math.Abs(s.ETA.At.Sub(d.now).Hours()-160*36/3600.) > 0.1 {
		t.Errorf("the last one's ETA is %v from now: %s", s.ETA.At.Sub(d.now), s.ETA.Reason)
	}
	if got := d.pass(time.Hour); len(got) != 100 {
		t.Errorf("%d orders in the next hour, want 100", len(got))
	}
	// What was kept is for renewals.
	d.p.Have(d.now, planner.Certificate{ID: "old", Names: []string{"r.net"}, CA: "le", Account: "le/1", NotBefore: d.now.Add(-80 * day), NotAfter: d.now.Add(10 * day)})
	d.want(planner.Policy{}, "r.net")
	if o := d.one(d.next()); o.Kind != planner.Renewal || o.Replaces != "old" || o.Exempt {
		t.Errorf("order %+v", o)
	}
}

func TestPriorities(t *testing.T) {
	d := newDesk(t)
	d.p.Have(d.now, planner.Certificate{ID: "big", Names: series("b%d.net", 90), CA: "le", Account: "le/1", Policy: planner.Policy{Team: "b"},
		NotBefore: t0.Add(-60 * day), NotAfter: t0.Add(30 * day), Window: planner.Window{Start: t0.Add(-day), End: t0.Add(9 * day)}})
	d.p.Have(d.now, planner.Certificate{ID: "small", Names: []string{"s.net"}, CA: "le", Account: "le/1", Policy: planner.Policy{Team: "b"},
		NotBefore: t0.Add(-10 * day), NotAfter: t0.Add(80 * day), Window: planner.Window{Start: t0.Add(50 * day), End: t0.Add(52 * day)}})
	d.p.Have(d.now, planner.Certificate{ID: "due", Names: []string{"d.net"}, CA: "le", Account: "le/1", Policy: planner.Policy{Team: "d"},
		NotBefore: t0.Add(-80 * day), NotAfter: t0.Add(10 * day)})
	d.want(planner.Policy{Team: "b"}, append(series("b%d.net", 90), "s.net")...)
	d.want(planner.Policy{Team: "d"}, "d.net")
	d.want(planner.Policy{Team: "n", Pack: 1}, "new.net")
	// Retry: failed at the CA before, due now.
	d.p.Want(d.now, planner.Name{Name: "again.net", Policy: planner.Policy{Team: "n", Pack: 1}, State: planner.Failed, Tries: 1, FailedSince: t0.Add(-time.Hour), Next: t0})
	var kinds []planner.Kind
	d.now = t0.Add(8 * day) // beyond big's moment in its window
	d.p.Window(d.now, "big", planner.Window{Start: t0.Add(7*day + 23*time.Hour), End: t0.Add(18 * day)})
	for _, o := range d.pass(4 * day) {
		kinds = append(kinds, o.Kind)
	}
	if len(kinds) < 4 || kinds[0] != planner.Renewal || kinds[1] != planner.First || kinds[2] != planner.Retry || !slices.Contains(kinds, planner.Merge) {
		t.Errorf("orders were %v", kinds)
	}
}

// TestNewcomerGoesFirst: a team that adds one name is not behind another's ten
// thousand.
func TestNewcomerGoesFirst(t *testing.T) {
	d := newDesk(t)
	for team := range 40 {
		d.want(planner.Policy{Team: fmt.Sprint(team), Pack: 1}, series(fmt.Sprintf("n%%d-%d.net", team), 50)...)
	}
	d.pass(6 * time.Hour)
	d.want(planner.Policy{Team: "newcomer"}, "one.net")
	before := d.pass(2 * time.Minute)
	if !slices.ContainsFunc(before, func(o planner.Order) bool { return o.Policy.Team == "newcomer" }) {
		t.Errorf("the newcomer is not among the next %d orders", len(before))
	}
}

func TestDomainLimit(t *testing.T) {
	d := newDesk(t)
	for i := range 60 {
		d.want(planner.Policy{Team: fmt.Sprint(i)}, fmt.Sprintf("n%d.shared.com", i), fmt.Sprintf("own%d.net", i))
	}
	n := 0
	for _, o := range d.pass(time.Hour) {
		if slices.ContainsFunc(o.Names, func(s string) bool { return strings.HasSuffix(s, ".shared.com") }) {
			n++
		}
		d.issue(o, life, true)
	}
	if n != 40 {
		t.Errorf("%d certificates for shared.com, want 40", n)
	}
	waiting := 0
	for i := range 60 {
		if s := d.status(fmt.Sprintf("own%d.net", i)); s.State != planner.Live {
			t.Errorf("%s waits for another domain's limit: %+v", s.Name.Name, s.ETA)
		}
		if s := d.status(fmt.Sprintf("n%d.shared.com", i)); s.State == planner.Ready {
			waiting++
			if s.ETA.Code != "domain" || s.ETA.At.Before(t0.Add(7*day)) || s.ETA.At.After(t0.Add(8*day)) {
				t.Errorf("ETA %+v", s.ETA)
			}
		}
	}
	if waiting != 20 {
		t.Errorf("%d names wait, want 20", waiting)
	}
	for range 10 {
		for _, o := range d.pass(day) {
			d.issue(o, life, true)
		}
	}
	if s := d.status("n59.shared.com"); s.State != planner.Live {
		t.Errorf("after the week: %+v", s)
	}
}

func TestSubdomainsShareCertificates(t *testing.T) {
	d := newDesk(t)
	for i := range 1000 { // interleaved
		d.want(planner.Policy{}, fmt.Sprintf("n%d.d%d.com", i, i%10))
	}
	charged := 0
	for _, o := range d.pass(time.Minute) {
		charged += len(domainsOf(o.Names))
	}
	if charged > 20 {
		t.Errorf("ten domains are charged %d times for ten certificates", charged)
	}
}

func TestSetLimit(t *testing.T) {
	d := newDesk(t)
	for i := range 5 {
		d.p.Past(planner.Order{CA: "le", Names: []string{"a.net"}, Opened: t0.Add(-day)}, t0.Add(-day+time.Duration(i)))
	}
	d.want(planner.Policy{}, "a.net")
	if got := d.pass(5 * day); len(got) != 0 {
		t.Errorf("ordered: %v", got)
	}
	if s := d.status("a.net"); s.ETA.At.Before(t0.Add(6*day)) || s.ETA.Reason == "" {
		t.Errorf("ETA %+v", s.ETA)
	}
	if got := d.pass(2 * day); len(got) != 1 {
		t.Errorf("orders after the week: %v", got)
	}
}

func TestParked(t *testing.T) {
	second := planner.CA{Name: "other", Account: "o/1"}
	d := newDesk(t, le("le"), second)
	d.want(planner.Policy{CAs: []string{"le"}}, "only.net")
	d.want(planner.Policy{Team: "2"}, "any.net")
	orders := d.pass(10 * time.Second)
	until := d.now.Add(3 * time.Hour)
	for _, o := range orders {
		if o.CA != "le" {
			t.Errorf("the second CA was asked first: %+v", o)
		}
		d.p.Done(d.now, o.ID, planner.Result{Outcome: planner.Limited, Limits: []planner.Limit{{Scope: planner.ScopeAccount, Until: until}}})
	}
	if o := d.one(d.pass(time.Hour)); o.CA != "other" || o.Names[0] != "any.net" {
		t.Errorf("order %+v", o)
	}
	if s := d.status("only.net"); s.ETA.Code != "parked" || !s.ETA.At.Equal(until) {
		t.Errorf("ETA %+v", s.ETA)
	}
	if o := d.one(d.pass(3 * time.Hour)); o.CA != "le" || o.Opened.Before(until) {
		t.Errorf("order %+v", o)
	}
}

// TestRenewalLeavesOutWhatFails: the others renew in time, an alarm tells, and the
// name follows once it is good again.
func TestRenewalLeavesOutWhatFails(t *testing.T) {
	d := newDesk(t)
	d.want(planner.Policy{}, series("n%d.net", 5)...)
	c1 := d.issue(d.one(d.pass(10*time.Second)), life, true)
	d.p.InUse(c1, true)
	d.bad["n2.net"] = "no A record"
	o := d.one(d.pass(64 * day))
	if o.Replaces != c1 || !o.Exempt || len(o.Names) != 4 || slices.Contains(o.Names, "n2.net") {
		t.Fatalf("order %+v", o)
	}
	if len(d.alarms) != 1 || d.alarms[0].Name != "n2.net" || d.alarms[0].Reason != "no A record" {
		t.Errorf("alarms %+v", d.alarms)
	}
	d.issue(o, life, true)
	d.next()
	if len(d.obsolete) != 0 {
		t.Errorf("obsolete while n2.net needs it: %v", d.obsolete)
	}
	delete(d.bad, "n2.net")
	late := d.one(d.pass(4 * time.Hour))
	if late.Kind != planner.Urgent || late.Replaces != "" {
		t.Errorf("order %+v", late)
	}
	d.issue(late, life, true)
	d.next()
	if len(d.obsolete) != 0 {
		t.Errorf("obsolete while it is in use: %v", d.obsolete)
	}
	d.p.InUse(c1, false)
	d.next()
	if !slices.Equal(d.obsolete, []string{c1}) {
		t.Errorf("obsolete %v", d.obsolete)
	}
}

func TestShortTroubleDelaysARenewalLittle(t *testing.T) {
	d := newDesk(t)
	d.want(planner.Policy{}, "a.net", "b.net")
	d.issue(d.one(d.pass(10*time.Second)), life, true)
	s := d.status("a.net")
	d.now = s.RenewAt
	d.bad["b.net"] = "SERVFAIL"
	if got := d.next(); len(got) != 0 {
		t.Fatalf("ordered without b.net at once: %v", got)
	}
	delete(d.bad, "b.net")
	if o := d.one(d.pass(10 * time.Minute)); len(o.Names) != 2 || len(d.alarms) != 0 {
		t.Errorf("order %+v, alarms %v", o, d.alarms)
	}
}

func TestRenewalWithoutARI(t *testing.T) {
	for _, tt := range []struct{ life, want time.Duration }{
		{90 * day, 60 * day}, {45 * day, 30 * day}, {160 * time.Hour, 80 * time.Hour}, {9 * day, 108 * time.Hour},
	} {
		d := newDesk(t)
		d.want(planner.Policy{}, "a.net")
		d.issue(d.one(d.pass(10*time.Second)), tt.life, false)
		issued := d.now
		if got := d.pass(tt.want - time.Hour); len(got) != 0 {
			t.Errorf("%v: renewed too early", tt.life)
		}
		o := d.one(d.pass(2 * time.Hour))
		if got := o.Opened.Sub(issued); got != tt.want || o.Exempt || o.Replaces == "" {
			t.Errorf("lifetime %v: renewed after %v, want %v: %+v", tt.life, got, tt.want, o)
		}
	}
}

// TestReplaces names a predecessor only where the CA would take it.
func TestReplaces(t *testing.T) {
	in := planner.Window{Start: t0.Add(-day), End: t0.Add(10 * day)}
	tests := []struct {
		name             string
		c                planner.Certificate
		replaces, exempt bool
	}{
		{"in the window", planner.Certificate{CA: "le", Account: "le/1", Window: in}, true, true},
		{"another account", planner.Certificate{CA: "le", Account: "le/0", Window: in}, false, false},
		{"another CA", planner.Certificate{CA: "gone", Account: "le/1", Window: in}, false, false},
		{"the window is over", planner.Certificate{CA: "le", Account: "le/1", Window: planner.Window{Start: t0.Add(-2 * day), End: t0.Add(-day)}}, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t)
			tt.c.ID, tt.c.Names, tt.c.NotBefore, tt.c.NotAfter = "c", []string{"a.net"}, t0.Add(-70*day), t0.Add(20*day)
			d.want(planner.Policy{}, "a.net")
			d.p.Have(d.now, tt.c)
			o := d.one(d.pass(9 * day))
			if (o.Replaces == "c") != tt.replaces || o.Exempt != tt.exempt {
				t.Errorf("order %+v", o)
			}
		})
	}
	d := newDesk(t)
	d.want(planner.Policy{}, "a.net")
	d.p.Have(d.now, planner.Certificate{ID: "c", Names: []string{"a.net"}, CA: "le", Account: "le/1", NotBefore: t0.Add(-70 * day), NotAfter: t0.Add(20 * day), Window: in, Replaced: true})
	if o := d.one(d.pass(day)); o.Replaces != "" || o.Exempt {
		t.Errorf("replaced twice: %+v", o)
	}
}

func TestMerge(t *testing.T) {
	d := newDesk(t)
	for i := range 6 {
		d.want(planner.Policy{}, fmt.Sprintf("n%d.net", i))
		d.issue(d.one(d.pass(day)), life, true)
	}
	for range 90 {
		for _, o := range d.pass(day) {
			if !o.Exempt || o.Replaces == "" {
				t.Errorf("a merge outside ARI: %+v", o)
			}
			d.issue(o, life, true)
		}
	}
	if n := d.p.Totals(); n.Names[planner.Live] != 6 {
		t.Errorf("totals %+v", n)
	}
	if d.status("n0.net").Certificate != d.status("n5.net").Certificate || len(d.obsolete) < 6 {
		t.Errorf("not merged: %v obsolete", d.obsolete)
	}
}

func TestNeverRegrown(t *testing.T) {
	d := newDesk(t)
	d.want(planner.Policy{}, "a.net")
	d.issue(d.one(d.pass(10*time.Second)), life, true)
	d.want(planner.Policy{}, "b.net")
	if o := d.one(d.pass(10 * time.Second)); o.Replaces != "" || len(o.Names) != 1 {
		t.Errorf("order %+v", o)
	}
}

func TestAddName(t *testing.T) {
	d := newDesk(t)
	d.want(planner.Policy{}, "a.net", "b.net")
	c := d.issue(d.one(d.pass(10*time.Second)), life, true)
	d.p.InUse(c, true)
	d.want(planner.Policy{}, "new.net")
	d.want(planner.Policy{Team: "x"}, "x.net")
	d.want(planner.Policy{}, "*.a.net")
	for _, tt := range []struct{ id, name, code string }{
		{"none", "new.net", "no_certificate"}, {c, "unknown.net", "not_served"}, {c, "a.net", "has_name"}, {c, "x.net", "other_team"},
	} {
		var e *fingerpost.Error
		if _, err := d.p.AddName(d.now, tt.id, tt.name); !errors.As(err, &e) || e.Code != tt.code {
			t.Errorf("add %s to %s: %v, want %s", tt.name, tt.id, err, tt.code)
		}
	}
	cost, err := d.p.AddName(d.now, c, "new.net")
	if err != nil || cost.Orders != 1 || cost.OrdersLeft != 239 || len(cost.Domains) != 3 || cost.Domains[0] != (planner.DomainCount{Domain: "a.net", Used: 1, Limit: 50}) || cost.Free {
		t.Errorf("cost %+v, %v", cost, err)
	}
	var add planner.Order
	for _, o := range d.next() {
		if o.Kind == planner.Add {
			add = o
		}
	}
	if !slices.Equal(add.Names, []string{"a.net", "b.net", "new.net"}) || add.Replaces != c || add.Exempt {
		t.Fatalf("order %+v", add)
	}
	d.issue(add, life, true)
	d.next()
	if len(d.obsolete) != 0 {
		t.Errorf("removed while in use: %v", d.obsolete)
	}
}

func TestAddedNameFails(t *testing.T) {
	d := newDesk(t)
	d.want(planner.Policy{}, "a.net")
	c := d.issue(d.one(d.pass(10*time.Second)), life, true)
	d.bad["new.net"] = "no A record"
	d.want(planner.Policy{}, "new.net")
	if _, err := d.p.AddName(d.now, c, "new.net"); err != nil {
		t.Fatal(err)
	}
	if got := d.pass(time.Hour); len(got) != 0 {
		t.Errorf("ordered for nothing: %v", got)
	}
	if o := d.one(d.pass(64 * day)); o.Replaces != c {
		t.Errorf("its renewal does not come: %+v", o)
	}
}

func TestRefusedIsHalved(t *testing.T) {
	d := newDesk(t)
	d.want(planner.Policy{}, series("n%d.net", 64)...)
	orders, used := d.pass(10*time.Second), 0
	for len(orders) > 0 {
		for _, o := range orders {
			used++
			if slices.Contains(o.Names, "n7.net") {
				d.p.Done(d.now, o.ID, planner.Result{Outcome: planner.Refused, Reason: "policy forbids it"})
			} else {
				d.issue(o, life, true)
			}
		}
		orders = d.next()
	}
	if s := d.status("n7.net"); s.State != planner.Failed || used != 13 {
		t.Errorf("%d orders; %+v", used, s)
	}
	if n := d.p.Totals().Names[planner.Live]; n != 63 {
		t.Errorf("%d names live, want 63", n)
	}
}

func TestASilentCARests(t *testing.T) {
	d := newDesk(t, le("le"), planner.CA{Name: "other"})
	for i := range 3 {
		d.want(planner.Policy{Team: fmt.Sprint(i)}, fmt.Sprintf("n%d.net", i))
	}
	for _, o := range d.pass(10 * time.Second) {
		d.p.Done(d.now, o.ID, planner.Result{Outcome: planner.Down, Reason: "503"})
	}
	if r := d.p.Rooms(d.now)[0]; !r.ParkedUntil.After(d.now) {
		t.Errorf("room %+v", r)
	}
	d.want(planner.Policy{Team: "9"}, "n9.net")
	orders := d.pass(15 * time.Second)
	if len(orders) != 4 || slices.ContainsFunc(orders, func(o planner.Order) bool { return o.CA != "other" }) {
		t.Errorf("orders %+v, want all four at the other CA", orders)
	}
}

// TestAnotherCATakesOverWhatWasLost: names need not wait for the CA that is down,
// and those that its policy gives no other one do.
func TestAnotherCATakesOverWhatWasLost(t *testing.T) {
	d := newDesk(t, le("le"), planner.CA{Name: "other"})
	d.want(planner.Policy{Team: "a"}, "a.net")
	d.want(planner.Policy{Team: "b", CAs: []string{"le"}}, "b.net")
	for _, o := range d.pass(10 * time.Second) {
		if o.CA != "le" {
			t.Fatalf("order %+v", o)
		}
		d.p.Done(d.now, o.ID, planner.Result{Outcome: planner.Down, Reason: "503"})
	}
	if o := d.one(d.pass(15 * time.Second)); o.CA != "other" || o.Names[0] != "a.net" {
		t.Errorf("order %+v", o)
	}
	if o := d.one(d.pass(2 * time.Minute)); o.CA != "le" || o.Names[0] != "b.net" {
		t.Errorf("order %+v", o)
	}
}

// outage has a CA away for some time: orders, four at once, are given up 70 seconds after they
// were opened.
func outage(d *desk, long time.Duration) (orders int) {
	for end := d.now.Add(long); d.now.Before(end); {
		open := d.next()
		if len(open) > 4 {
			d.t.Fatalf("%d orders at once", len(open))
		}
		orders += len(open)
		d.now = d.now.Add(70 * time.Second)
		for _, o := range open {
			d.p.Done(d.now, o.ID, planner.Result{Outcome: planner.Down, Reason: "nobody answers"})
		}
	}
	return orders
}

func newBusyDesk(t *testing.T, cas ...planner.CA) *desk {
	d := newDesk(t)
	var err error
	if d.p, err = planner.New(planner.Config{CAs: cas, AtOnce: 4}); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestAnOutageIsOverMinutesAfterItsEnd: many orders that had no answer are one silence, one
// order at a time finds out whether the CA is back, and then all go on.
func TestAnOutageIsOverMinutesAfterItsEnd(t *testing.T) {
	for _, long := range []time.Duration{14 * time.Minute, 20 * time.Minute, 3 * day} {
		d := newBusyDesk(t, planner.CA{Name: "only"})
		d.want(planner.Policy{Pack: 1}, series("n%d.net", 20)...)
		lost := outage(d, long)
		if most := 4 + int(long/(10*time.Minute)) + 6; lost > most {
			t.Errorf("%v: %d orders were tried, want at most %d", long, lost, most)
		}
		back, live := d.now, 0
		for live < 20 && d.now.Before(back.Add(time.Hour)) {
			open := d.next()
			if live == 0 && len(open) > 1 {
				t.Errorf("%v: %d orders go to a CA that has not answered yet", long, len(open))
			}
			d.now = d.now.Add(5 * time.Second)
			for _, o := range open {
				d.issue(o, life, false)
				live++
			}
		}
		if took := d.now.Sub(back); live < 20 || took > 11*time.Minute {
			t.Errorf("%v: %d of 20 live %v after the CA is back", long, live, took)
		}
	}
}

// TestWhatWasUnderWayIsOneSilence, although its end is heard of one by one.
func TestWhatWasUnderWayIsOneSilence(t *testing.T) {
	d := newBusyDesk(t, planner.CA{Name: "only"})
	d.want(planner.Policy{Pack: 1}, series("n%d.net", 4)...)
	open := d.next()
	for i, o := range open {
		d.now = d.now.Add(70 * time.Second)
		d.p.Done(d.now, o.ID, planner.Result{Outcome: planner.Down})
		if r := d.p.Rooms(d.now)[0]; r.ParkedUntil.IsZero() != (i > 0) {
			t.Errorf("after the end of order %d: %+v", i, r)
		}
	}
}

func TestSomebodyWhoAsksEndsARestOfOurs(t *testing.T) {
	d := newBusyDesk(t, planner.CA{Name: "only"})
	d.want(planner.Policy{Pack: 1}, series("n%d.net", 20)...)
	outage(d, 3*time.Hour)
	if s := d.status("n3.net"); s.ETA.Code != "down" || !strings.Contains(s.ETA.Reason, "nobody answers; it is tried again on") {
		t.Errorf("ETA %+v", s.ETA)
	}
	if o := d.next(); len(o) > 0 {
		t.Fatalf("it does not rest: %+v", o)
	}
	d.p.Rearm(d.now, "n3.net")
	d.one(d.next())
}

// TestOrdersThatWaitMakeRoom: a CA that takes its time holds neither its own slots nor those
// of another.
func TestOrdersThatWaitMakeRoom(t *testing.T) {
	d := newBusyDesk(t, planner.CA{Name: "slow"}, planner.CA{Name: "other"})
	d.want(planner.Policy{Pack: 1, CAs: []string{"slow"}}, series("n%d.net", 8)...)
	d.want(planner.Policy{Pack: 1, CAs: []string{"other"}}, "o.net")
	first := d.next()
	if len(first) != 5 {
		t.Fatalf("%d orders, want four of one CA and one of the other", len(first))
	}
	slow := slices.DeleteFunc(first, func(o planner.Order) bool { return o.CA != "slow" })
	for _, o := range slow {
		if d.p.Waits(d.now, o.ID, false) {
			t.Error("names that no other CA may have could go elsewhere")
		}
	}
	if o := d.next(); len(o) != 4 {
		t.Errorf("%d orders while four wait, want 4", len(o))
	}
	for _, o := range slow {
		d.p.Works(d.now, o.ID)
		d.issue(o, life, false)
	}
	if s := d.status("n0.net"); s.State != planner.Live {
		t.Errorf("state %s", s.State)
	}
}

// TestOneSilentOrderIsNotTheCA: an order that never has an answer, where others have, lets the
// CA rest once and not again and again.
func TestOneSilentOrderIsNotTheCA(t *testing.T) {
	d := newBusyDesk(t, planner.CA{Name: "only"})
	d.want(planner.Policy{Pack: 1}, "a.net")
	o := d.one(d.pass(11 * time.Second))
	d.p.Waits(d.now, o.ID, true)
	d.want(planner.Policy{Pack: 1}, "b.net")
	d.issue(d.one(d.pass(2*time.Minute)), life, false)
	for range 5 {
		d.p.Works(d.now, o.ID)
		d.now = d.now.Add(time.Second)
		d.p.Waits(d.now, o.ID, true)
		if r := d.p.Rooms(d.now)[0]; !r.ParkedUntil.IsZero() {
			t.Fatalf("the CA rests: %+v", r)
		}
		d.now = d.now.Add(10 * time.Minute)
	}
}

// TestCountsOfOrdersThatWereNone: the account's bucket goes by what the CA has seen.
func TestCountsOfOrdersThatWereNone(t *testing.T) {
	d := newDesk(t)
	d.want(planner.Policy{}, "a.net")
	o := d.one(d.pass(10 * time.Second))
	d.p.Done(d.now, o.ID, planner.Result{Outcome: planner.Down, Unasked: true})
	if r := d.p.Rooms(d.now)[0]; !r.ParkedUntil.After(d.now) {
		t.Errorf("it does not rest: %+v", r)
	}
	d.now = d.now.Add(time.Minute)
	if r := d.p.Rooms(d.now)[0]; r.Orders != 300-3 {
		t.Errorf("%d orders left, want all but the reserve of three", r.Orders)
	}
	o = d.one(d.pass(time.Minute))
	id := d.issue(o, life, true)
	d.now = d.now.Add(life * 62 / 100)
	var renewal planner.Order
	for range 100 {
		if orders := d.pass(day); len(orders) > 0 {
			renewal = d.one(orders)
			break
		}
	}
	if !renewal.Exempt || renewal.Replaces != id {
		t.Fatalf("order %+v", renewal)
	}
	d.now = renewal.Opened
	before := d.p.Rooms(d.now)[0].Orders
	d.p.Done(d.now, renewal.ID, planner.Result{Outcome: planner.Issued, Counted: true, Certificate: planner.Certificate{ID: "c9", NotBefore: d.now, NotAfter: d.now.Add(life)}})
	if after := d.p.Rooms(d.now)[0].Orders; after != before-1 {
		t.Errorf("%d orders left, %d before a renewal that the CA has counted", after, before)
	}
}

// TestSeveralLimitsAtOnce: names over different limits, and one that failed, in one answer.
func TestSeveralLimitsAtOnce(t *testing.T) {
	d := newDesk(t)
	d.want(planner.Policy{}, "x.one.net", "x.two.net", "bad.three.net", "tired.four.net", "good.five.net")
	o := d.one(d.pass(10 * time.Second))
	until := d.now.Add(5 * time.Hour)
	d.p.Done(d.now, o.ID, planner.Result{Outcome: planner.NamesFailed, Failed: []planner.Failure{{Name: "bad.three.net", Reason: "404"}}, Limits: []planner.Limit{
		{Scope: planner.ScopeDomain, Subject: "one.net", Until: until}, {Scope: planner.ScopeDomain, Subject: "two.net", Until: until},
		{Scope: planner.ScopeName, Subject: "tired.four.net", Until: until}}})
	if o := d.one(d.pass(30 * time.Second)); !slices.Equal(o.Names, []string{"good.five.net"}) {
		t.Errorf("order of %v", o.Names)
	}
	for _, name := range []string{"x.one.net", "x.two.net"} {
		if s := d.status(name); s.State != planner.Ready || s.ETA.Code != "domain" || s.ETA.At.Before(until) || !strings.Contains(s.ETA.Reason, "20 November 2026 17:00 UTC") {
			t.Errorf("%s: %s, %+v", name, s.State, s.ETA)
		}
	}
}

// TestEachCAHasItsProfile: the fallback knows other profiles, or none.
func TestEachCAHasItsProfile(t *testing.T) {
	first := le("le")
	first.Profile = "tlsserver"
	d := newDesk(t, first, planner.CA{Name: "other", MaxNames: 40})
	d.want(planner.Policy{}, series("n%d.net", 40)...)
	for _, o := range d.pass(10 * time.Second) {
		if o.CA != "le" || o.Profile != "tlsserver" || len(o.Names) > 25 {
			t.Errorf("order %+v", o)
		}
		d.p.Done(d.now, o.ID, planner.Result{Outcome: planner.Down})
	}
	if o := d.one(d.pass(15 * time.Second)); o.CA != "other" || o.Profile != "" || len(o.Names) != 40 {
		t.Errorf("order %+v", o)
	}
}

// TestCAsThatMayIssue: a name whose CAA leaves out the first CA goes to the next, and the
// others of its team do not wait for it.
func TestCAsThatMayIssue(t *testing.T) {
	d := newDesk(t, le("le"), planner.CA{Name: "other"})
	d.want(planner.Policy{}, "a.net", "b.net")
	may := map[string][]string{"b.net": {"other"}}
	run := func(long time.Duration) (orders []planner.Order) {
		for end := d.now.Add(long); d.now.Before(end); {
			w := d.p.Next(d.now, 100, 100)
			orders = append(orders, w.Orders...)
			for _, c := range w.Checks {
				d.p.Checked(d.now, c.Name, "", may[c.Name]...)
			}
			switch {
			case len(w.Checks) > 0:
			case w.Wake.IsZero() || w.Wake.After(end):
				d.now = end
			default:
				d.now = w.Wake.Add(time.Millisecond)
			}
		}
		return orders
	}
	got := map[string]string{}
	for _, o := range run(15 * time.Second) {
		got[o.CA] = strings.Join(o.Names, " ")
		d.issue(o, life, false)
	}
	if got["le"] != "a.net" || got["other"] != "b.net" {
		t.Fatalf("orders %v", got)
	}
	d.want(planner.Policy{}, "b.net") // nothing has changed
	if orders := run(time.Minute); len(orders) > 0 {
		t.Errorf("orders %+v", orders)
	}
	// At the renewal of a.net its CAA is another, too.
	may["a.net"] = []string{"other"}
	for _, o := range run(70 * day) {
		if o.CA != "other" {
			t.Errorf("order %+v", o)
		}
		d.issue(o, life, false)
	}
	for _, name := range []string{"a.net", "b.net"} {
		if s := d.status(name); s.State != planner.Live || s.NotAfter.Before(d.now.Add(life/2)) || len(s.Policy.CAs) > 0 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestResume(t *testing.T) {
	d := newDesk(t)
	d.want(planner.Policy{}, "a.net", "b.net")
	d.p.Resume(d.now, planner.Order{ID: 77, CA: "le", Account: "le/1", Names: []string{"a.net"}, Kind: planner.First, Opened: t0.Add(-time.Minute)})
	if o := d.one(d.pass(time.Minute)); !slices.Equal(o.Names, []string{"b.net"}) || o.ID <= 77 {
		t.Errorf("order %+v", o)
	}
	if s := d.status("a.net"); s.State != planner.Ordered || s.Order != 77 {
		t.Errorf("status %+v", s)
	}
	d.issue(planner.Order{ID: 77}, life, true)
	if s := d.status("a.net"); s.State != planner.Live {
		t.Errorf("status %+v", s)
	}
}

// TestPastCounts: a new issuer does not begin with full buckets.
func TestPastCounts(t *testing.T) {
	d := newDesk(t)
	for i := range 230 {
		d.p.Past(planner.Order{CA: "le", Names: []string{fmt.Sprintf("p%d.net", i)}, Opened: t0.Add(-time.Second * time.Duration(i%10))}, time.Time{})
	}
	d.want(planner.Policy{Pack: 1}, series("n%d.net", 50)...)
	if got := d.pass(10 * time.Second); len(got) != 10 {
		t.Errorf("%d orders, want 10", len(got))
	}
}

func TestDrop(t *testing.T) {
	d := newDesk(t)
	d.want(planner.Policy{}, "a.net", "b.net", "c.net")
	d.next()
	d.p.Drop(d.now, "a.net")
	o := d.one(d.pass(10 * time.Second))
	if !slices.Equal(o.Names, []string{"b.net", "c.net"}) {
		t.Fatalf("order %+v", o)
	}
	d.p.Drop(d.now, "b.net")
	c := d.issue(o, life, true)
	if o = d.one(d.pass(64 * day)); !slices.Equal(o.Names, []string{"c.net"}) || o.Replaces != c {
		t.Errorf("renewed %+v", o)
	}
	d.p.Drop(d.now, "c.net")
	d.fail(o, "c.net")
	d.next()
	if !slices.Equal(d.obsolete, []string{c}) || d.p.Totals().Open != 0 {
		t.Errorf("obsolete %v", d.obsolete)
	}
}
