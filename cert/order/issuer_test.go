package order

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fingerpost/cert/planner"
	"fingerpost/internal/testacme"
)

// office is a rig with an issuer.
type office struct {
	*rig
	issuer *Issuer
	wanted []Want
	second *rig // another CA, which is asked where the first cannot
	stop   context.CancelFunc
	ended  sync.WaitGroup

	mu       sync.Mutex
	wrong    map[string]string   // what pre-flights say
	may      map[string][]string // CAs that they find allowed; none: all
	checking func(name string)   // in a pre-flight; nil: nothing
	refusal  *Failure            // what they say of all names
	checks   int
	alarms   []planner.Alarm
	used     map[string]bool
}

func newOffice(t *testing.T, ca *testacme.CA, names ...string) *office {
	t.Helper()
	o := &office{rig: newRig(t, ca), wrong: map[string]string{}, may: map[string][]string{}}
	for _, n := range names {
		o.wanted = append(o.wanted, Want{Name: n, Policy: planner.Policy{Team: "web"}})
	}
	t.Cleanup(o.close)
	return o
}

// open starts an issuer over what is stored, as a new process does.
func (o *office) open() {
	o.restart()
	o.issuer = &Issuer{
		Driver: o.driver, Lease: o.memory, Log: o.driver.Log,
		Plan:   planner.Config{CAs: []planner.CA{{Name: "test", MaxNames: 100, Limits: planner.LetsEncrypt()}}},
		Wanted: func(context.Context) ([]Want, error) { return o.wanted, nil },
		Check: func(_ context.Context, q Question) Verdict {
			if o.checking != nil {
				o.checking(q.Name)
			}
			o.mu.Lock()
			defer o.mu.Unlock()
			o.checks++
			if o.refusal != nil {
				return Verdict{Failure: o.refusal}
			}
			if reason := o.wrong[q.Name]; reason != "" {
				return Verdict{Failure: &Failure{Name: q.Name, Code: "notHere", Reason: reason, Hint: "set the CNAME"}}
			}
			return Verdict{Methods: []string{DNS01}, CAs: o.may[q.Name]}
		},
		Used:  func(id string) bool { o.mu.Lock(); defer o.mu.Unlock(); return o.used[id] },
		Alarm: func(a planner.Alarm) { o.mu.Lock(); o.alarms = append(o.alarms, a); o.mu.Unlock() },
	}
	if o.second != nil {
		o.driver.CAs["second"] = o.second.ours
		o.issuer.Plan.CAs[0].Profile = "classic" // which the second does not know
		o.issuer.Plan.CAs = append(o.issuer.Plan.CAs, planner.CA{Name: "second"})
	}
	ctx, stop := context.WithCancel(context.Background())
	o.stop = stop
	o.ended.Go(func() { o.issuer.Run(ctx) })
}

func (o *office) close() {
	if o.stop != nil {
		o.stop()
	}
	o.ended.Wait()
}

func (o *office) state(name string) NameState {
	o.t.Helper()
	s, err := State(o.t.Context(), o.memory, name)
	if err != nil && !errors.Is(err, ErrNoRecord) {
		o.t.Fatal(err)
	}
	return s
}

// live counts names in that state.
func (o *office) live() int {
	n := 0
	for _, w := range o.wanted {
		if o.state(w.Name).State == planner.Live {
			n++
		}
	}
	return n
}

func (o *office) certificates() []Certificate {
	o.t.Helper()
	records, err := o.memory.Range(o.t.Context(), KindCertificate, "", "", 1<<20)
	if err != nil {
		o.t.Fatal(err)
	}
	var out []Certificate
	for _, r := range records {
		var c Certificate
		if err := json.Unmarshal(r.Value, &c); err != nil {
			o.t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

func many(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("n%02d.example", i))
	}
	return list
}

func TestIssuerQuarantinesAndTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, &testacme.CA{ValidateFor: time.Second}, many(100)...)
		for _, n := range []string{"n07.example", "n50.example", "n99.example"} {
			o.bad[n] = &testacme.Problem{Type: "dns", Detail: "NXDOMAIN"}
		}
		begin := time.Now()
		o.open()
		time.Sleep(time.Minute)
		if n := o.live(); n != 97 {
			t.Errorf("%d names are live after a minute, want 97", n)
		}
		t.Logf("100 names of which 3 are bad: %d orders", o.ca.Orders())
		if o.ca.Orders() > 3 {
			t.Errorf("%d orders, want at most 3", o.ca.Orders())
		}
		s := o.state("n07.example")
		if s.State != planner.Failed || !strings.Contains(s.Sentence, "n07.example") || !strings.Contains(s.NextStep, "tried again on") || s.Failure == nil || s.Failure.Code != "dns" {
			t.Errorf("state of a bad name: %+v", s)
		}
		if o.memory.Len(KindOrder) > 0 {
			t.Error("journals are left")
		}
		o.heal("n07.example")
		time.Sleep(3 * time.Minute)
		if s := o.state("n07.example"); s.State != planner.Live || s.Failure != nil {
			t.Errorf("a name that is right again: %+v", s)
		}
		o.heal("n50.example")
		o.issuer.Rearm("n50.example")
		time.Sleep(time.Minute)
		if s := o.state("n50.example"); s.State != planner.Live || !strings.Contains(s.Sentence, "until") {
			t.Errorf("a name that was tried again by hand: %+v", s)
		}
		if since := time.Since(begin); since > 10*time.Minute {
			t.Errorf("took %v", since)
		}
	})
}

func TestIssuerOrdersNothingBeforeThePreflight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, &testacme.CA{}, "a.example", "b.example")
		o.wrong["a.example"] = "a.example does not point here"
		o.open()
		time.Sleep(40 * 24 * time.Hour)
		if o.ca.Orders() != 1 || o.live() != 1 {
			t.Errorf("%d orders, %d live; want one for the good name", o.ca.Orders(), o.live())
		}
		s := o.state("a.example")
		if s.State != planner.Paused && s.State != planner.Failed || !strings.Contains(s.NextStep, "set the CNAME") {
			t.Errorf("state %s: %s, %s", s.State, s.Sentence, s.NextStep)
		}
		if o.checks > 24*31+50 {
			t.Errorf("%d pre-flights in 40 days", o.checks)
		}
		o.mu.Lock()
		delete(o.wrong, "a.example")
		o.mu.Unlock()
		time.Sleep(25 * time.Hour)
		if o.live() != 2 {
			t.Errorf("the name that points here by now: %+v", o.state("a.example"))
		}
	})
}

func TestIssuerRenewsWhenTheCASaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now sync.Mutex
		window := [2]time.Time{time.Now().AddDate(0, 0, 60), time.Now().AddDate(0, 0, 61)}
		ca := &testacme.CA{Window: func() [2]time.Time { now.Lock(); defer now.Unlock(); return window }}
		o := newOffice(t, ca)
		for i := range 40 {
			o.wanted = append(o.wanted, Want{Name: fmt.Sprintf("n%02d.example", i), Policy: planner.Policy{Team: fmt.Sprint(i)}})
		}
		o.open()
		time.Sleep(time.Hour)
		if o.live() != 40 || len(o.certificates()) != 40 {
			t.Fatalf("%d live in %d certificates", o.live(), len(o.certificates()))
		}
		before := map[string]bool{}
		for _, c := range o.certificates() {
			before[c.ID] = true
		}
		o.mu.Lock()
		o.used = before
		o.mu.Unlock()
		now.Lock()
		window = [2]time.Time{time.Now().Add(-time.Hour), time.Now().Add(time.Hour)}
		now.Unlock()
		time.Sleep(20 * time.Hour) // the CA says so of the renewals, too: they are left alone for a day
		now.Lock()
		window = [2]time.Time{time.Now().AddDate(0, 0, 60), time.Now().AddDate(0, 0, 61)}
		now.Unlock()
		renewed := 0
		for _, c := range o.certificates() {
			if before[c.ID] && !c.Replaced {
				t.Errorf("%v was not renewed", c.Names)
			}
			if !before[c.ID] {
				renewed++
			}
		}
		replaced := len(o.ca.Replaced())
		t.Logf("40 certificates, ARI says now: %d renewed, %d with replaces", renewed, replaced)
		if renewed != 40 || replaced != 40 {
			t.Errorf("%d renewed, %d orders with replaces; want 40 each", renewed, replaced)
		}
		for id := range before {
			if _, err := o.memory.Get(t.Context(), KindCertificate, id); err != nil {
				t.Fatalf("a certificate in use is gone: %v", err)
			}
		}
		o.mu.Lock()
		o.used = nil
		o.mu.Unlock()
		time.Sleep(2 * time.Minute)
		for _, c := range o.certificates() {
			if before[c.ID] {
				t.Errorf("%v is replaced and out of use, and still there", c.Names)
			}
		}
	})
}

// TestIssuerSurvivesAnything kills the process again and again, at any request,
// write or presentation, before or after its effect, and looks that every name
// gets its certificate all the same.
func TestIssuerSurvivesAnything(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			o := newOffice(t, &testacme.CA{ValidateFor: time.Second, FinalizeFor: 2 * time.Second, ReuseOrders: seed%2 == 0}, many(12)...)
			random := rand.New(rand.NewPCG(seed, 1))
			var mu sync.Mutex
			dead := false
			lives := 4
			o.fault = func(string, bool) error {
				mu.Lock()
				defer mu.Unlock()
				if dead {
					return errCut
				}
				if lives > 0 && random.IntN(12) == 0 {
					dead = true
					return errCut
				}
				return nil
			}
			for lives > 0 {
				o.open()
				time.Sleep(90 * time.Second)
				o.close()
				mu.Lock()
				dead, lives = false, lives-1
				mu.Unlock()
			}
			o.open()
			time.Sleep(30 * time.Minute)
			if n := o.live(); n != 12 {
				for _, w := range o.wanted {
					t.Logf("%+v", o.state(w.Name))
				}
				t.Fatalf("seed %d: %d of 12 names are live", seed, n)
			}
			if o.ca.Orders() > 5 || o.ca.Accounts() != 1 || o.ca.Issued() != 1 {
				t.Errorf("seed %d: %d orders, %d accounts, %d certificates", seed, o.ca.Orders(), o.ca.Accounts(), o.ca.Issued())
			}
			if o.memory.Len(KindOrder) > 0 {
				t.Errorf("seed %d: journals are left", seed)
			}
		})
	}
}

func TestIssuerStopsWhenTheLeaseGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, &testacme.CA{FinalizeFor: 10 * time.Minute}, "a.example")
		o.open()
		time.Sleep(time.Minute) // the order is with the CA
		o.memory.Takeover()
		time.Sleep(30 * time.Second)
		// The lease of the test gives it back, under a new fence: the order goes on.
		time.Sleep(20 * time.Minute)
		if o.live() != 1 || o.ca.Orders() != 1 || o.ca.Issued() != 1 {
			t.Errorf("%d live, %d orders, %d certificates; want one each", o.live(), o.ca.Orders(), o.ca.Issued())
		}
	})
}

func TestIssuerWaitsForTheAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		until := time.Now().Add(2 * time.Hour)
		var asked atomic.Int64
		ca := &testacme.CA{}
		ca.NewOrder = func([]string) *testacme.Problem {
			if asked.Add(1); time.Now().Before(until) {
				return &testacme.Problem{Type: "rateLimited", Status: 429, RetryAfter: "7200", Detail: "too many new orders (300) from this account in the last 3h0m0s"}
			}
			return nil
		}
		o := newOffice(t, ca, many(30)...)
		for i := range o.wanted {
			o.wanted[i].Policy.Pack = 5
		}
		o.open()
		time.Sleep(110 * time.Minute)
		if asked.Load() > int64(o.issuer.parallel()) {
			t.Errorf("the CA said to wait for two hours and was asked %d times", asked.Load())
		}
		time.Sleep(time.Hour)
		if o.live() != 30 {
			t.Errorf("%d of 30 live", o.live())
		}
	})
}

// turns is a lease for several holders.
type turns struct {
	mu      sync.Mutex
	memory  *Memory
	holder  string
	expires time.Time
}

type holder struct {
	*turns
	name string
	gone *atomic.Bool // it cannot reach the lease
}

func (h holder) Acquire(context.Context) (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone.Load() {
		return 0, errCut
	}
	if h.holder != h.name {
		if time.Now().Before(h.expires) {
			return 0, ErrFenced
		}
		h.holder = h.name
		h.memory.Takeover()
	}
	h.expires = time.Now().Add(20 * time.Second)
	return h.memory.Acquire(context.Background())
}

func (h holder) Release(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.holder == h.name {
		h.expires = time.Time{}
	}
	return nil
}

// TestTwoNodesOrderOnce cuts the node that orders off its lease in the middle of
// an order: the other goes on with the same one.
func TestTwoNodesOrderOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, &testacme.CA{FinalizeFor: 5 * time.Minute}, many(10)...)
		lease := &turns{memory: o.memory}
		var firstGone, secondGone atomic.Bool
		ctx, stop := context.WithCancel(context.Background())
		var ended sync.WaitGroup
		start := func(name string, gone *atomic.Bool) *Issuer {
			o.restart() // a client of its own
			issuer := &Issuer{Driver: o.driver, Lease: holder{lease, name, gone}, Log: o.driver.Log,
				Plan:   planner.Config{CAs: []planner.CA{{Name: "test"}}},
				Wanted: func(context.Context) ([]Want, error) { return o.wanted, nil }}
			ended.Go(func() { issuer.Run(ctx) })
			return issuer
		}
		first := start("a", &firstGone)
		time.Sleep(time.Second)
		second := start("b", &secondGone)
		time.Sleep(time.Minute)
		leads := func(i *Issuer) bool { return i.Ask(func(*planner.Planner, time.Time) {}) }
		if !leads(first) || leads(second) {
			t.Errorf("first leads: %v, second leads: %v", leads(first), leads(second))
		}
		firstGone.Store(true)
		time.Sleep(2 * time.Minute)
		if leads(first) || !leads(second) {
			t.Errorf("after the first lost its lease: first leads: %v, second leads: %v", leads(first), leads(second))
		}
		time.Sleep(10 * time.Minute)
		stop()
		ended.Wait()
		if o.live() != 10 || o.ca.Orders() != 1 || o.ca.Issued() != 1 || o.ca.Accounts() != 1 {
			t.Errorf("%d live, %d orders, %d certificates, %d accounts", o.live(), o.ca.Orders(), o.ca.Issued(), o.ca.Accounts())
		}
	})
}

// TestCertificatesStayWhileTheyAreUsed names a certificate in a configuration: it
// outlives its names' wish for it, and goes a minute after nobody names it any more.
func TestCertificatesStayWhileTheyAreUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, &testacme.CA{Lifetime: 5 * 24 * time.Hour}, "a.example", "b.example")
		o.open()
		time.Sleep(time.Minute)
		first := o.current("a.example").ID
		use := func(id string, used bool) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.used = map[string]bool{id: used}
		}
		has := func(id string) bool {
			_, err := o.memory.Get(t.Context(), KindCertificate, id)
			return err == nil
		}
		use(first, true)
		o.ask(Ask{Do: AskRenew, Certificate: first})
		time.Sleep(10 * time.Minute)
		second := o.current("a.example").ID
		if second == first || !has(first) {
			t.Fatalf("renewed: %v; the first, which is named, is there: %v", second != first, has(first))
		}
		o.close()
		o.open() // another leader finds the same
		time.Sleep(10 * time.Minute)
		if !has(first) {
			t.Fatal("a certificate that is named is gone")
		}
		use(second, true)
		time.Sleep(2 * time.Minute)
		if has(first) {
			t.Error("nobody names it any more, and it is there")
		}
		if found := o.eventsOf(EventRemoved); len(found) != 1 || found[0].Certificate != first {
			t.Errorf("events: %+v", found)
		}
		// Names that nobody wants keep their certificate until it is over: it may have
		// been a mistake.
		o.issuer.Drop("a.example")
		o.issuer.Drop("b.example")
		use(second, false)
		time.Sleep(4 * 24 * time.Hour)
		if !has(second) {
			t.Error("a certificate that is valid, and the last of its names, is gone")
		}
		time.Sleep(24 * time.Hour)
		if has(second) {
			t.Error("it has expired, nobody wants its names, and it is there")
		}
	})
}

// TestIssuerRenewsAtOnceWhatTheCAWillRevoke has ARI set a window that is over, as CAs
// do before they revoke many certificates: each is renewed when that is seen.
func TestIssuerRenewsAtOnceWhatTheCAWillRevoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var revoking atomic.Bool
		begin := time.Now()
		ca := &testacme.CA{Window: func() [2]time.Time {
			if revoking.Load() && time.Since(begin) < 3*24*time.Hour {
				return [2]time.Time{begin.AddDate(0, 0, 2), begin.AddDate(0, 0, 2).Add(30 * time.Minute)}
			}
			return [2]time.Time{begin.AddDate(0, 0, 60), begin.AddDate(0, 0, 62)}
		}}
		o := newOffice(t, ca)
		for i := range 20 {
			o.wanted = append(o.wanted, Want{Name: fmt.Sprintf("n%02d.example", i), Policy: planner.Policy{Team: fmt.Sprint(i)}})
		}
		o.open()
		time.Sleep(2*24*time.Hour + time.Hour)
		if o.ca.Issued() != 20 {
			t.Fatalf("%d certificates before", o.ca.Issued())
		}
		revoking.Store(true)
		said := time.Now()
		for o.ca.Issued() < 40 && time.Since(said) < 24*time.Hour {
			time.Sleep(time.Minute)
		}
		t.Logf("20 certificates, a window that is over: renewed within %v of the CA's saying so, asked each 6 hours by its Retry-After", time.Since(said))
		if o.ca.Issued() != 40 || time.Since(said) > 6*time.Hour+10*time.Minute {
			t.Errorf("%d of 20 renewed after %v", o.ca.Issued()-20, time.Since(said))
		}
		if n := len(o.ca.Replaced()); n != 20 {
			t.Errorf("%d orders say what they replace", n)
		}
	})
}

// stalled is a lease whose storage answers late, or after the caller has given up.
type stalled struct {
	Lease
	stall atomic.Bool
}

func (s *stalled) Acquire(ctx context.Context) (int64, error) {
	if s.stall.Load() {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return s.Lease.Acquire(ctx)
}

// TestAStalledStorageMakesNoTwoIssuers has the storage of one node hang: it has
// stopped when another may begin, and that one begins within half a minute.
func TestAStalledStorageMakesNoTwoIssuers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, &testacme.CA{}, many(3)...)
		lease := &turns{memory: o.memory}
		ctx, stop := context.WithCancel(context.Background())
		var ended sync.WaitGroup
		start := func(l Lease) *Issuer {
			o.restart()
			issuer := &Issuer{Driver: o.driver, Lease: l, Log: o.driver.Log, Plan: planner.Config{CAs: []planner.CA{{Name: "test"}}},
				Wanted: func(context.Context) ([]Want, error) { return o.wanted, nil }}
			ended.Go(func() { issuer.Run(ctx) })
			return issuer
		}
		leads := func(i *Issuer) bool { return i.Ask(func(*planner.Planner, time.Time) {}) }
		hanging := &stalled{Lease: holder{lease, "a", new(atomic.Bool)}}
		first := start(hanging)
		time.Sleep(time.Second)
		second := start(holder{lease, "b", new(atomic.Bool)})
		time.Sleep(time.Minute)
		hanging.stall.Store(true)
		begin, stopped := time.Now(), time.Duration(0)
		for !leads(second) && time.Since(begin) < time.Minute {
			if stopped == 0 && !leads(first) {
				stopped = time.Since(begin)
			}
			time.Sleep(50 * time.Millisecond)
		}
		took := time.Since(begin)
		t.Logf("the storage of the first hangs: it stops after %v, the other begins after %v", stopped, took)
		if stopped == 0 || stopped > leaseFor || took > 25*time.Second || leads(first) {
			t.Errorf("stopped after %v, taken over after %v; the first leads: %v", stopped, took, leads(first))
		}
		stop()
		ended.Wait()
	})
}

// TestEventsAreBounded has more happen than is kept.
func TestEventsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, &testacme.CA{}, "a.example")
		defer func(n int) { eventsMost = n }(eventsMost)
		eventsMost = 200
		month := time.Now().Add(-eventsFor)
		records := []Record{record(KindEvent, instant(month.Add(-time.Second))+"/old", Event{What: EventFailed})}
		for i := range eventsMost + 50 {
			at := month.Add(time.Hour + time.Duration(i)*time.Second)
			records = append(records, record(KindEvent, instant(at)+"/x", Event{At: at, What: EventFailed}))
		}
		if err := o.memory.Write(t.Context(), 0, records...); err != nil {
			t.Fatal(err)
		}
		o.open()
		time.Sleep(10 * time.Minute)
		if n := o.memory.Len(KindEvent); n != eventsMost+1 { // the one that came meanwhile
			t.Errorf("%d events, want %d", n, eventsMost+1)
		}
		if found := o.eventsOf(EventIssued); len(found) != 1 || found[0].Names[0] != "a.example" || found[0].CA != "test" {
			t.Errorf("the newest: %+v", found)
		}
		time.Sleep(25 * time.Hour)
		if n := o.memory.Len(KindEvent); n != 1 {
			t.Errorf("%d events a day later, when all others are older than 30 days", n)
		}
	})
}
