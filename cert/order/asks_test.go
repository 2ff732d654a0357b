package order

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fingerpost/cert/planner"
	"fingerpost/internal/testacme"
)

// ask writes down what a person wants, as any node does.
func (o *office) ask(a Ask) {
	o.t.Helper()
	fence, _ := o.memory.Acquire(o.t.Context())
	if err := o.memory.apply(fence, []Record{a.Record(time.Now())}); err != nil {
		o.t.Fatal(err)
	}
}

// eventsOf lists what has happened, of one kind.
func (o *office) eventsOf(what string) (found []Event) {
	o.t.Helper()
	records, err := o.memory.Range(o.t.Context(), KindEvent, "", "", 1<<20)
	if err != nil {
		o.t.Fatal(err)
	}
	for _, r := range records {
		var e Event
		if err := json.Unmarshal(r.Value, &e); err != nil {
			o.t.Fatal(err)
		}
		if e.What == what {
			found = append(found, e)
		}
	}
	return found
}

// current is the only certificate for a name that no other has replaced.
func (o *office) current(name string) Certificate {
	o.t.Helper()
	var found []Certificate
	for _, c := range o.certificates() {
		if !c.Replaced && slices.Contains(c.Names, name) {
			found = append(found, c)
		}
	}
	if len(found) != 1 {
		o.t.Fatalf("%d certificates for %s", len(found), name)
	}
	return found[0]
}

// refuse sets what pre-flights say of a name; "" for nothing.
func (o *office) refuse(name, reason string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wrong[name] = reason
}

// dieAt kills the process before the n-th thing that touches the world outside it, and
// tells whether it came to that.
func (o *office) dieAt(n int) (died func() bool) {
	var mu sync.Mutex
	seen := 0
	o.fault = func(string, bool) error {
		mu.Lock()
		defer mu.Unlock()
		if seen++; seen > n {
			return errCut
		}
		return nil
	}
	return func() bool {
		mu.Lock()
		defer mu.Unlock()
		return seen > n
	}
}

// TestAsksOutliveTheProcess kills the process at every point between the asking and
// the end of what was asked: the next one does it, and no more than that.
func TestAsksOutliveTheProcess(t *testing.T) {
	tests := []struct {
		ask    Ask
		orders int // that it takes
		done   func(before, after Certificate, o *office) bool
	}{
		{Ask{Do: AskRenew}, 1, func(before, after Certificate, _ *office) bool { return after.Replaces == before.ID }},
		{Ask{Do: AskRevoke, Reason: "superseded"}, 1, func(before, after Certificate, o *office) bool {
			return after.Replaces == before.ID && o.ca.Revoked(leafOf(o.t, before.Chain)) == 4 && len(o.eventsOf(EventRevoked)) == 1
		}},
		{Ask{Do: AskAddName, Name: "bad.example"}, 1, func(before, after Certificate, _ *office) bool {
			return after.Replaces == before.ID && slices.Contains(after.Names, "bad.example")
		}},
		{Ask{Do: AskRequest, Name: "bad.example"}, 1, func(before, after Certificate, o *office) bool {
			return after.ID == before.ID && o.state("bad.example").State == planner.Live
		}},
		{Ask{Do: AskGone}, 1, func(before, after Certificate, _ *office) bool { return after.ID != before.ID }},
	}
	for _, tt := range tests {
		t.Run(tt.ask.Do, func(t *testing.T) {
			for at, more := 0, true; more && !t.Failed(); at++ {
				synctest.Test(t, func(t *testing.T) {
					o := newOffice(t, &testacme.CA{ValidateFor: time.Second}, "a.example", "b.example", "bad.example")
					o.refuse("bad.example", "it points elsewhere")
					o.open()
					time.Sleep(time.Minute)
					o.close()
					before := o.current("a.example")
					issued := o.ca.Issued()
					ask := tt.ask
					if ask.Do != AskRequest {
						ask.Certificate = before.ID
					}
					if ask.Name != "" {
						o.refuse(ask.Name, "")
					}
					o.ask(ask)
					if ask.Do == AskGone {
						o.delete(before.ID)
					}
					died := o.dieAt(at)
					o.open()
					time.Sleep(30 * time.Second)
					o.close()
					o.fault = nil
					more = died()

					o.open()
					time.Sleep(5 * time.Minute)
					o.close()
					if o.memory.Len(KindAsk) > 0 || o.memory.Len(KindOrder) > 0 || len(o.eventsOf(EventRefused)) > 0 {
						t.Errorf("killed at %d: %d asks and %d journals are left; refused: %v", at, o.memory.Len(KindAsk), o.memory.Len(KindOrder), o.eventsOf(EventRefused))
					}
					if after := o.current("a.example"); !tt.done(before, after, o) || o.ca.Issued() != issued+tt.orders {
						t.Errorf("killed at %d: %+v, replaces %q; %d more certificates", at, after.Names, after.Replaces, o.ca.Issued()-issued)
					}
				})
				if !more {
					t.Logf("killed at each of %d points", at)
				}
			}
		})
	}
}

// delete is what the API does before it asks for AskGone.
func (o *office) delete(id string) {
	fence, _ := o.memory.Acquire(o.t.Context())
	if err := o.memory.apply(fence, []Record{{Kind: KindCertificate, Key: id}}); err != nil {
		o.t.Fatal(err)
	}
}

// TestAsksThatCannotBeDone end, and say why.
func TestAsksThatCannotBeDone(t *testing.T) {
	tests := []struct {
		name string
		ask  func(have Certificate) Ask
		want string
	}{
		{"a certificate that is gone", func(Certificate) Ask { return Ask{Do: AskRenew, Certificate: "gone"} }, "renew: there is no certificate gone"},
		{"to revoke one that is gone", func(Certificate) Ask { return Ask{Do: AskRevoke, Certificate: "gone"} }, "revoke: there is no certificate"},
		{"a reason that no CA takes", func(c Certificate) Ask { return Ask{Do: AskRevoke, Certificate: c.ID, Reason: "whim"} }, "no reason that a CA takes"},
		{"a name that nobody wants", func(Certificate) Ask { return Ask{Do: AskRequest, Name: "unknown.example"} }, "no host that is served needs a certificate for unknown.example"},
		{"to add a name that nobody wants", func(c Certificate) Ask { return Ask{Do: AskAddName, Certificate: c.ID, Name: "unknown.example"} }, "unknown.example is not a name that a certificate is wanted for"},
		{"to add a name that points elsewhere", func(c Certificate) Ask { return Ask{Do: AskAddName, Certificate: c.ID, Name: "bad.example"} }, "bad.example was not added to it: it points elsewhere"},
		{"names that point elsewhere by now", func(c Certificate) Ask { return Ask{Do: AskRenew, Certificate: c.ID} }, "none of its names can be ordered now: a.example: it has moved"},
		{"what a later version can do", func(Certificate) Ask { return Ask{Do: "dance"} }, "this version"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOffice(t, &testacme.CA{}, "a.example", "bad.example")
				o.refuse("bad.example", "it points elsewhere")
				o.open()
				time.Sleep(2 * time.Hour) // the pre-flight is old by then
				have := o.current("a.example")
				o.refuse("a.example", "it has moved")
				o.ask(tt.ask(have))
				time.Sleep(time.Hour)
				found := o.eventsOf(EventRefused)
				if len(found) != 1 || !strings.Contains(found[0].Reason, tt.want) {
					t.Errorf("events: %+v; want one with %q", found, tt.want)
				}
				if o.memory.Len(KindAsk) > 0 {
					t.Error("the ask is left")
				}
				if o.ca.Issued() != 1 {
					t.Errorf("%d certificates", o.ca.Issued())
				}
			})
		})
	}
}

// TestAskWaitsForTheCA has a CA that is down for a day: what was asked stands, over
// the deaths of two processes, and is done when it is back.
func TestAskWaitsForTheCA(t *testing.T) {
	for _, do := range []string{AskRenew, AskRevoke} {
		t.Run(do, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOffice(t, &testacme.CA{}, "a.example")
				var down atomic.Bool
				o.fault = func(what string, _ bool) error {
					if down.Load() && (strings.HasPrefix(what, "POST") || strings.HasPrefix(what, "GET") || strings.HasPrefix(what, "HEAD")) {
						return errCut
					}
					return nil
				}
				o.open()
				time.Sleep(time.Minute)
				before := o.current("a.example")
				down.Store(true)
				o.ask(Ask{Do: do, Certificate: before.ID})
				for range 2 {
					time.Sleep(12 * time.Hour)
					if o.memory.Len(KindAsk) != 1 {
						t.Fatal("the ask is gone, and nothing was done")
					}
					o.close()
					o.open()
				}
				down.Store(false)
				time.Sleep(12 * time.Hour)
				if o.memory.Len(KindAsk) != 0 || o.current("a.example").Replaces != before.ID {
					t.Errorf("%d asks; %+v", o.memory.Len(KindAsk), o.current("a.example"))
				}
			})
		})
	}
}
