package order

import (
	"bufio"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fingerpost/cert/planner"
	"fingerpost/internal/testacme"
)

// newTeams is an office of names that share no certificate.
func newTeams(t *testing.T, ca *testacme.CA, n int) *office {
	o := newOffice(t, ca, many(n)...)
	for i := range o.wanted {
		o.wanted[i].Policy.Team = fmt.Sprint(i)
	}
	return o
}

// away makes the CA one that nobody reaches, from and until so long after now.
func (o *office) away(from, until time.Duration) {
	begin := time.Now()
	o.fault = func(what string, _ bool) error {
		method, _, _ := strings.Cut(what, " ")
		if d := time.Since(begin); (method == "GET" || method == "HEAD" || method == "POST") && d >= from && d < until {
			return &net.OpError{Op: "dial", Err: errCut}
		}
		return nil
	}
}

func (o *office) room() (r planner.Room) {
	o.issuer.Ask(func(p *planner.Planner, now time.Time) { r = p.Rooms(now)[0] })
	return r
}

// TestIssuerAfterAnOutage: whatever orders were doing when the CA went away, minutes after it
// is back all names are live, and no order was opened twice.
func TestIssuerAfterAnOutage(t *testing.T) {
	tests := []struct {
		name        string
		from, until time.Duration
		orders      int
	}{
		{"from the beginning", 0, 20 * time.Minute, 8},
		{"from the beginning, for long", 0, 26 * time.Hour, 8},
		{"while orders are opened", 10 * time.Second, 25 * time.Minute, 8},
		{"while names are proven", 12 * time.Second, 25 * time.Minute, 8},
		{"while certificates are made", 17 * time.Second, 3 * time.Hour, 8},
		{"for two minutes", 12 * time.Second, 2 * time.Minute, 8},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newTeams(t, &testacme.CA{ValidateFor: 5 * time.Second, FinalizeFor: 5 * time.Second}, 8)
				begin := time.Now()
				o.away(tt.from, tt.until)
				o.open()
				time.Sleep(tt.until)
				for o.live() < 8 && time.Since(begin) < tt.until+time.Hour {
					time.Sleep(10 * time.Second)
				}
				took := time.Since(begin) - tt.until
				t.Logf("all live %v after the CA was back, %d orders", took, o.ca.Orders())
				if took > 12*time.Minute {
					t.Errorf("%d of 8 are live %v after the CA is back", o.live(), took)
				}
				if o.ca.Orders() > tt.orders {
					t.Errorf("%d orders, want at most %d", o.ca.Orders(), tt.orders)
				}
				for _, w := range o.wanted {
					if s := o.state(w.Name); s.Tries > 0 || len(s.Failures) > 0 || s.Failure != nil {
						t.Errorf("%s is blamed for the outage: %+v", w.Name, s)
					}
				}
			})
		})
	}
}

// TestOutageIsNotCounted: what never reached the CA is not taken off the account's limits,
// in this process or in the next.
func TestOutageIsNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, &testacme.CA{}, "a.example")
		o.fault = func(what string, _ bool) error {
			if what == "POST order" {
				return &net.OpError{Op: "dial", Err: errCut}
			}
			return nil
		}
		o.open()
		time.Sleep(3 * time.Hour)
		o.issuer.Rearm("a.example") // so that it does not rest
		if r := o.room(); o.ca.Orders() != 0 || r.Orders < 300-3-1 {
			t.Errorf("the CA has seen %d orders; room %+v", o.ca.Orders(), r)
		}
		if n := o.memory.Len(KindPast); n > 0 {
			t.Errorf("%d orders are noted as counted", n)
		}
	})
}

// TestARenewalThatTheCACounts: it does not take what the order replaces.
func TestARenewalThatTheCACounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, &testacme.CA{}, "a.example")
		o.open()
		time.Sleep(15 * time.Second)
		plan := planner.Order{ID: 99, CA: "test", Names: []string{"b.example"}, Exempt: true, Replaces: "x", Opened: time.Now(), Policy: planner.Policy{Team: "web"}}
		o.close()
		journal := New(Spec{CA: "test", Names: names("b.example"), Plan: plan}, time.Now())
		if err := o.memory.Write(t.Context(), 0, journal.Record()); err != nil {
			t.Fatal(err)
		}
		o.open()
		time.Sleep(5 * time.Second)
		if r := o.room(); r.Orders != 300-3-2 {
			t.Errorf("room %+v after two orders that the CA has counted", r)
		}
	})
}

// TestStuckOrdersStopNothing: a CA that never ends some orders has others none the less, and
// another CA all the more.
func TestStuckOrdersStopNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTeams(t, &testacme.CA{ValidateFor: time.Second, FinalizeFor: 20 * 24 * time.Hour}, 4)
		o.open()
		time.Sleep(5 * time.Minute)
		o.issuer.Want(t.Context(), Want{Name: "new.example", Policy: planner.Policy{Team: "new"}})
		time.Sleep(time.Minute)
		if o.ca.Orders() != 5 {
			t.Errorf("%d orders a minute after a fifth name came, want 5", o.ca.Orders())
		}
		time.Sleep(20 * time.Hour)
		if o.ca.Orders() != 5 {
			t.Errorf("%d orders after 20 hours: those that are open are to be waited for", o.ca.Orders())
		}
		time.Sleep(12 * time.Hour)
		if o.ca.Orders() <= 5 {
			t.Error("after more than a day nothing is ordered again")
		}
	})
}

// TestTheFallbackTakesOver: from a CA that is gone for good, in the middle of orders.
func TestTheFallbackTakesOver(t *testing.T) {
	for _, at := range []time.Duration{0, 12 * time.Second, 17 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			o := newTeams(t, &testacme.CA{ValidateFor: 5 * time.Second, FinalizeFor: 5 * time.Second}, 12)
			o.away(at, 1000*time.Hour)
			second := newRig(t, &testacme.CA{ValidateFor: time.Second, Validate: o.ca.Validate, Profiles: []string{"other"}})
			o.second = second
			o.open()
			time.Sleep(10 * time.Minute)
			before := o.live()
			time.Sleep(2 * time.Hour)
			if o.live() != 12 {
				t.Errorf("gone at %v: %d of 12 live, %d after ten minutes; %d orders at the fallback", at, o.live(), before, second.ca.Orders())
			}
			if before < 8 { // four may be in orders that are open
				t.Errorf("gone at %v: %d of 12 live after ten minutes", at, before)
			}
		})
	}
}

// TestACAThatRefusesUs is tried again, and names that wait for it say why.
func TestACAThatRefusesUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, &testacme.CA{Terms: "https://ca.test/terms"}, "a.example", "b.example")
		o.wanted[1].Policy.Team = "other"
		o.open()
		time.Sleep(time.Hour)
		for _, w := range o.wanted {
			s, err := State(t.Context(), Reading{Storage: o.memory, Issuer: o.issuer}, w.Name)
			if err != nil || !strings.Contains(s.Sentence, "nobody has agreed to the terms of test; it is tried again on") {
				t.Errorf("%s: %s, %v", w.Name, s.Sentence, err)
			}
		}
	})
}

// TestCAADecidesWhichCA: a name that the first may not issue for has a certificate of the
// second, at once.
func TestCAADecidesWhichCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, &testacme.CA{Profiles: []string{"classic"}}, "a.example", "b.example")
		o.second = newRig(t, &testacme.CA{Validate: o.ca.Validate})
		o.may["b.example"] = []string{"second"}
		o.open()
		time.Sleep(time.Minute)
		for _, c := range o.certificates() {
			want := map[string]string{"a.example": "test", "b.example": "second"}[c.Names[0]]
			if len(c.Names) != 1 || c.CA != want {
				t.Errorf("%v are of %s", c.Names, c.CA)
			}
		}
		if o.live() != 2 || len(o.certificates()) != 2 {
			t.Errorf("%d live, %d certificates", o.live(), len(o.certificates()))
		}
	})
}

// TestANameIsCheckedOnceAtATime, however long that takes.
func TestANameIsCheckedOnceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, &testacme.CA{}, "slow.example")
		var running, most atomic.Int64
		o.checking = func(string) {
			most.Store(max(most.Load(), running.Add(1)))
			time.Sleep(3 * time.Hour)
			running.Add(-1)
		}
		o.open()
		time.Sleep(time.Hour)
		o.issuer.Want(t.Context(), Want{Name: "quick.example", Policy: planner.Policy{Team: "web"}})
		time.Sleep(4 * time.Hour)
		if most.Load() > 2 { // of two names
			t.Errorf("%d checks at once", most.Load())
		}
		if o.state("slow.example").State != planner.Live {
			t.Errorf("%+v", o.state("slow.example"))
		}
	})
}

func TestOneUnreadableRecordStopsNothing(t *testing.T) {
	for _, kind := range []string{KindName, KindCertificate, KindPast, KindOrder} {
		synctest.Test(t, func(t *testing.T) {
			o := newOffice(t, &testacme.CA{}, "a.example")
			key := "x"
			if kind == KindPast {
				key = instant(time.Now()) + "/x"
			}
			if err := o.memory.Write(t.Context(), 0, Record{Kind: kind, Key: key, Value: []byte(`{"policy": 1, "plan": 1, "spec": 1}`)}); err != nil {
				t.Fatal(err)
			}
			o.open()
			time.Sleep(time.Hour)
			if o.live() != 1 {
				t.Errorf("%s: a.example is not live an hour later", kind)
			}
			if log := o.log.String(); !strings.Contains(log, "passed over") || !strings.Contains(log, kind) {
				t.Errorf("%s: the log does not tell", kind)
			}
		})
	}
}

// TestNamesOfHostsThatWentWhileNobodyOrdered are forgotten.
func TestNamesOfHostsThatWentWhileNobodyOrdered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, &testacme.CA{}, "a.example", "gone.example")
		o.wrong["gone.example"] = "not here"
		o.open()
		time.Sleep(time.Minute)
		if o.state("gone.example").State != planner.Failed {
			t.Fatal("nothing is known of the name")
		}
		o.close()
		o.wanted = o.wanted[:1]
		o.open()
		time.Sleep(time.Minute)
		if s := o.state("gone.example"); s.State != "" {
			t.Errorf("%s: %s", s.State, s.Sentence)
		}
	})
}

// TestForgettingMuch takes few writes, of which none has too many certificates.
func TestForgettingMuch(t *testing.T) {
	memory := new(Memory)
	most := 0
	memory.Fault = func(after bool, records []Record) error {
		certificates := 0
		for _, r := range records {
			if r.Kind == KindCertificate {
				certificates++
			}
		}
		most = max(most, certificates)
		return nil
	}
	var gone []Record
	for i := range 2000 {
		gone = append(gone, Record{Kind: KindName, Key: fmt.Sprintf("n%04d.example", i)})
	}
	for i := range 12 {
		gone = append(gone, Record{Kind: KindCertificate, Key: fmt.Sprint(i)})
	}
	i := &Issuer{Driver: &Driver{Storage: memory}, Log: slog.New(slog.DiscardHandler), records: make(chan struct{}, 1)}
	if err := i.forget(t.Context(), 0, gone); err != nil {
		t.Fatal(err)
	}
	if memory.writes > 7 || most > certificatesTogether {
		t.Errorf("%d writes, with up to %d certificates", memory.writes, most)
	}
}

// TestWhatStrangersSayIsBounded: neither a server's Location nor a CA's words make a record
// that the storage does not take, and one that it does not take stops nothing.
func TestWhatStrangersSayIsBounded(t *testing.T) {
	long := strings.Repeat("long \x1b[2J", 1<<19)
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, &testacme.CA{}, "a.example", "b.example", "c.example")
		o.bad["b.example"] = &testacme.Problem{Type: "dns", Detail: long[:1<<19]}
		o.wrong["c.example"] = long
		refused := 0
		fault := o.memory.Fault
		o.memory.Fault = func(after bool, records []Record) error {
			for _, r := range records {
				if !after && (len(r.Value) > 100<<10 && r.Kind == KindName || r.Key == "a.example" && refused < 2) {
					refused++
					return fmt.Errorf("over 100 kB: %w", ErrRefused)
				}
			}
			return fault(after, records)
		}
		o.open()
		time.Sleep(time.Minute)
		for _, name := range []string{"b.example", "c.example"} {
			s := o.state(name)
			if s.State != planner.Failed || s.Failure == nil {
				t.Fatalf("%s: %+v", name, s)
			}
			if len(s.Sentence) > 500 || len(s.Failure.Detail) > 1100 || strings.Contains(s.Sentence+s.Failure.Detail, "\x1b") {
				t.Errorf("%s: %s, %d and %d bytes", name, s.State, len(s.Sentence), len(s.Failure.Detail))
			}
		}
		if n := len(o.certificates()); n != 1 || refused != 2 {
			t.Errorf("%d certificates, %d writes refused", n, refused)
		}
	})
	for _, location := range []string{"\x1b[2Jx", strings.Repeat("a", 10<<10), strings.Repeat("a", 1<<20)} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			http.ReadRequest(bufio.NewReader(c))
			fmt.Fprintf(c, "HTTP/1.1 302 Found\r\nLocation: http://x/%s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", location)
		}()
		err = fetch(t.Context(), Challenge{Name: "x.example", Token: "t", KeyAuthorization: "k"}, l.Addr().String())
		if err == nil || len(err.Error()) > 300 || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%d bytes of Location: %v", len(location), err)
		}
		l.Close()
	}
}

// TestLimitsOfSeveralNames: each failed name of an answer is over its own limit, or none.
func TestLimitsOfSeveralNames(t *testing.T) {
	until := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	got := new(Issuer).failed(&Outcome{Result: Failed, Failed: []Failure{
		{Name: "a.one.net", Code: "rateLimited", Retry: until, Domain: "one.net"},
		{Name: "b.one.net", Code: "rateLimited", Retry: until, Domain: "one.net"},
		{Name: "a.two.net", Code: "rateLimited", Retry: until, Domain: "two.net"},
		{Name: "c.net", Code: "rateLimited", Retry: until},
		{Name: "d.net", Code: "rateLimited", Retry: until},
		{Name: "e.net", Code: "dns", Reason: "no"},
	}})
	want := []planner.Limit{{Scope: planner.ScopeDomain, Subject: "one.net", Until: until}, {Scope: planner.ScopeDomain, Subject: "two.net", Until: until},
		{Scope: planner.ScopeName, Subject: "c.net", Until: until}, {Scope: planner.ScopeName, Subject: "d.net", Until: until}}
	if got.Outcome != planner.NamesFailed || len(got.Failed) != 1 || got.Failed[0].Name != "e.net" || fmt.Sprint(got.Limits) != fmt.Sprint(want) {
		t.Errorf("%+v", got)
	}
}
