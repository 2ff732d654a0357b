package order

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fingerpost/internal/testacme"
)

// TestFailureTable breaks an order at everything it does, in each way, and looks
// at what is left: (what it does) × (request lost, answer lost, process killed
// before, process killed after) → no name lost, no order beyond the bound.
func TestFailureTable(t *testing.T) {
	spec := Spec{Names: names("a.example", "*.a.example", "b.example")}
	var steps []string // "what, which time"
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &testacme.CA{ValidateFor: time.Second, FinalizeFor: time.Second})
		var mu sync.Mutex
		times := map[string]int{}
		r.fault = func(what string, after bool) error {
			mu.Lock()
			defer mu.Unlock()
			if !after {
				times[what]++
				steps = append(steps, fmt.Sprintf("%s, %d", what, times[what]))
			}
			return nil
		}
		r.drive(spec)
	})
	cases := 0
	worst := 0
	for _, reuse := range []bool{true, false} {
		for _, step := range steps {
			for _, mode := range []string{"request lost", "answer lost", "killed before", "killed after"} {
				t.Run(fmt.Sprintf("%s %s reuse=%v", step, mode, reuse), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						orders := breakAt(t, spec, step, mode, reuse)
						worst = max(worst, orders)
					})
				})
				cases++
			}
		}
	}
	t.Logf("%d cases at %d steps, at most %d orders: %q", cases, len(steps), worst, steps)
}

// breakAt breaks one thing that an order does, and drives it to its end.
func breakAt(t *testing.T, spec Spec, step, mode string, reuse bool) int {
	r := newRig(t, &testacme.CA{ValidateFor: time.Second, FinalizeFor: time.Second, ReuseOrders: reuse})
	var mu sync.Mutex
	times, dead, broken := map[string]int{}, false, ""
	at, which, _ := strings.Cut(step, ", ")
	number, _ := strconv.Atoi(which)
	r.fault = func(what string, after bool) error {
		mu.Lock()
		defer mu.Unlock()
		if dead {
			return errCut
		}
		if !after {
			times[what]++
		}
		// Others of the same kind may have begun before this one's answer.
		if broken != "" || what != at || times[what] < number {
			return nil
		}
		switch {
		case after && (mode == "answer lost" || mode == "killed after"), !after && (mode == "request lost" || mode == "killed before"):
			broken = what
			dead = mode == "killed before" || mode == "killed after"
			return errCut
		}
		return nil
	}
	id := r.begin(spec)
	o, err := r.driver.Drive(t.Context(), 0, id)
	if dead {
		if err == nil && broken != "remove" {
			t.Fatal("a dead process came to an end")
		}
		dead = false
		r.restart()
		o, err = r.driver.Drive(t.Context(), 0, id)
	}
	for try := 0; err != nil && try < 3; try++ {
		if errors.Is(err, ErrFenced) {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		o, err = r.driver.Drive(t.Context(), 0, id)
	}
	if err != nil {
		t.Fatalf("broken at %s: %v", broken, err)
	}
	if broken == "" && strings.HasPrefix(step, "HEAD nonce") {
		return r.ca.Orders() // how many are needed depends on what runs at once
	}
	if broken == "" {
		t.Fatal("nothing was broken")
	}
	if o.Outcome.Result != Issued || len(leafOf(t, o.Outcome.Chain).DNSNames) != len(spec.Names) {
		t.Fatalf("broken at %s: ended as %s: %v", broken, o.Outcome.Result, o.Outcome.Failed)
	}
	bound := 1
	if broken == "POST order" && (mode == "answer lost" || mode == "killed after") && !reuse {
		bound = 2 // the one whose address nobody knows
	}
	if broken == "write "+KindOrder && (mode == "killed before" || mode == "request lost") && !reuse {
		bound = 2 // the address came, and was not kept
	}
	if r.ca.Orders() > bound {
		t.Errorf("broken at %s: %d orders, want at most %d", broken, r.ca.Orders(), bound)
	}
	if r.ca.Issued() != 1 || r.ca.Accounts() != 1 {
		t.Errorf("broken at %s: %d certificates and %d accounts, want one each", broken, r.ca.Issued(), r.ca.Accounts())
	}
	if left := r.shown.left(); left > 0 && !(broken == "remove" && mode == "request lost") {
		t.Errorf("broken at %s: %d challenges are left", broken, left)
	}
	return r.ca.Orders()
}
