package planner_test

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"fingerpost/cert/planner"
)

// modelCA is a CA that counts for itself, by its own clock and its own means: a
// bucket of tokens as a float, lists of times, and what `replaces` says. It shares
// no code with the planner. What it refuses is a limit hit.
type modelCA struct {
	life   time.Duration
	max    int
	bad    func(name string) bool // validation fails
	tokens float64
	filled time.Time

	domains  map[string][]time.Time
	sets     map[string][]time.Time
	failures map[string][]time.Time
	certs    map[string]*modelCert
	last     int

	orders, exempt, issued, failed int
	hits                           map[string]int
}

type modelCert struct {
	names    map[string]bool
	replaced bool // or an order that replaces it is open
	end      time.Time
	window   planner.Window
}

type modelOrder struct {
	names    []string
	exempt   bool
	replaces *modelCert
}

func newModelCA(max int, life time.Duration, bad func(string) bool) *modelCA {
	return &modelCA{
		life: life, max: max, bad: bad, tokens: 300,
		domains: map[string][]time.Time{}, sets: map[string][]time.Time{}, failures: map[string][]time.Time{},
		certs: map[string]*modelCert{}, hits: map[string]int{},
	}
}

func within(list []time.Time, now time.Time, long time.Duration) int {
	return len(list) - sort.Search(len(list), func(i int) bool { return list[i].After(now.Add(-long)) })
}

const week = 7 * 24 * time.Hour

// newOrder is what the CA does with a request; nil if it refuses.
func (ca *modelCA) newOrder(now time.Time, o planner.Order) *modelOrder {
	refuse := func(why string) *modelOrder {
		ca.hits[why]++
		return nil
	}
	if len(o.Names) == 0 || len(o.Names) > ca.max {
		return refuse(fmt.Sprintf("%d names in an order", len(o.Names)))
	}
	names := map[string]bool{}
	for _, n := range o.Names {
		if names[n] {
			return refuse("a name twice")
		}
		names[n] = true
	}
	for _, n := range o.Names {
		if _, parent, _ := strings.Cut(n, "."); names["*."+parent] && n != "*."+parent {
			return refuse("a name beside its wildcard")
		}
	}
	m := &modelOrder{names: o.Names}
	if o.Replaces != "" {
		old := ca.certs[o.Replaces]
		shared := false
		if old != nil {
			for n := range names {
				shared = shared || old.names[n]
			}
		}
		if old == nil || old.replaced || !shared {
			return refuse("replaces what cannot be replaced")
		}
		m.replaces = old
		m.exempt = !now.Before(old.window.Start) && now.Before(old.window.End)
	}
	if o.Exempt && !m.exempt { // to count more than the CA does is no fault
		return refuse("exempt is not what was thought")
	}
	if !m.exempt {
		ca.tokens = min(300, ca.tokens+now.Sub(ca.filled).Seconds()/36)
		ca.filled = now
		if ca.tokens < 1 {
			return refuse("new orders")
		}
		for _, n := range o.Names {
			if within(ca.failures[n], now, time.Hour) >= 5 {
				return refuse("failed authorizations")
			}
		}
		for d := range domainsOf(o.Names) {
			if within(ca.domains[d], now, week) >= 50 {
				return refuse("certificates of a domain")
			}
		}
		if within(ca.sets[setOf(o.Names)], now, week) >= 5 {
			return refuse("certificates of a set")
		}
		ca.tokens--
		ca.orders++
	} else {
		ca.exempt++
	}
	if m.replaces != nil {
		m.replaces.replaced = true
	}
	return m
}

// finish is all validations of an order and, if they are good, its certificate.
func (ca *modelCA) finish(now time.Time, m *modelOrder) planner.Result {
	var failed []planner.Failure
	for _, n := range m.names {
		if ca.bad(n) {
			ca.failures[n] = append(ca.failures[n], now)
			failed = append(failed, planner.Failure{Name: n, Reason: "the CA got 404 from it"})
		}
	}
	if failed != nil {
		ca.failed++
		if m.replaces != nil {
			m.replaces.replaced = false
		}
		return planner.Result{Outcome: planner.NamesFailed, Failed: failed}
	}
	if !m.exempt {
		for d := range domainsOf(m.names) {
			list := ca.domains[d]
			if ca.domains[d] = append(list[len(list)-within(list, now, week):], now); len(ca.domains[d]) > 50 {
				ca.hits["certificates of a domain, issued"]++
			}
		}
		set := setOf(m.names)
		ca.sets[set] = append(ca.sets[set], now)
	}
	ca.issued++
	ca.last++
	c := &modelCert{names: map[string]bool{}, end: now.Add(ca.life)}
	for _, n := range m.names {
		c.names[n] = true
	}
	// The window that Boulder suggests: two thirds of the lifetime, and 2 % around it.
	ideal := c.end.Add(-ca.life / 3)
	if ca.life < 10*24*time.Hour {
		ideal = c.end.Add(-ca.life / 2)
	}
	c.window = planner.Window{Start: ideal.Add(-ca.life / 50), End: ideal.Add(ca.life / 50)}
	id := fmt.Sprint("c", ca.last)
	ca.certs[id] = c
	return planner.Result{Outcome: planner.Issued, Certificate: planner.Certificate{
		ID: id, NotBefore: now, NotAfter: c.end, Window: c.window,
	}}
}

func domainsOf(names []string) map[string]bool {
	all := map[string]bool{}
	for _, n := range names {
		d, err := publicsuffix.EffectiveTLDPlusOne(strings.TrimPrefix(n, "*."))
		if err != nil {
			d = n
		}
		all[d] = true
	}
	return all
}

func setOf(names []string) string {
	names = append([]string(nil), names...)
	sort.Strings(names)
	return strings.Join(names, " ")
}
