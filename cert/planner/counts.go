package planner

import (
	"crypto/sha256"
	"slices"
	"time"
)

// A class of orders has a share of the CA's limits.
type class uint8

const (
	forRenewal class = iota // all, but for a little that stays for clocks that differ
	forNew                  // all but the reserve
	forRetry                // the upper half
)

// ca is a CA with what it has counted, and the jobs that wait for it.
type ca struct {
	CA
	order int // in Config

	// full is when the account's bucket is full again, if no order is opened: the
	// bucket as GCRA has it. An order moves it on by one refill.
	full   int64
	replay []int64 // orders of before, not in full yet
	parked int64   // until then it takes no order: it said so

	// A CA that does not answer rests for minutes, of our own making; then one order at
	// a time tries it, until it has answered. What is under way when it goes away counts
	// as one silence, however many orders that are.
	rests    int64  // until then nothing is opened
	silences int    // one after another; 0: it answers
	silent   int64  // when the last of them began
	why      string // what is known of the reason
	busy     int    // open orders that are worked at

	domains, sets map[string]*window
	old           fifo[counted] // what leaves the windows, the first first

	exempt, merges, renewals, again heap[*job]
}

// window is what a CA has counted of one registered domain or set of names.
type window struct {
	open    int     // orders that may still be issued
	issued  []int64 // ascending
	blocked int64   // the CA said so
}

// counted is a note to look at a window again, so that it does not stay for ever.
type counted struct {
	at  int64
	in  map[string]*window
	key string
}

func (c *ca) max(profile string) int {
	if n, ok := c.Profiles[profile]; ok {
		return n
	}
	return c.MaxNames
}

// share is how much of a limit orders of a class may use.
func (c *ca) share(limit int, of class) int {
	if of == forRenewal {
		return limit
	}
	return limit - limit*c.Limits.Reserve/100
}

// tokens is what the account's bucket holds.
func (c *ca) tokens(now int64) int {
	used := max(0, c.full-now)
	refill := int64(c.Limits.OrderRefill)
	return c.Limits.Orders - int((used+refill-1)/refill)
}

// closed is until when it takes no order, by its own word or by ours.
func (c *ca) closed() int64 { return max(c.parked, c.rests) }

// silence notes that what began at since had no answer. It reports false where that
// says nothing new.
func (c *ca) silence(now, since int64) bool {
	if since < c.silent || now < c.rests {
		return false
	}
	c.silences++
	c.silent = now
	return true
}

// restFor is how long to leave a CA alone that does not answer.
func (c *ca) restFor() time.Duration {
	return min(time.Minute<<min(c.silences-1, 10), 10*time.Minute)
}

// answers ends all that a silence has brought.
func (c *ca) answers() { c.silences, c.rests, c.why = 0, 0, "" }

// crowded reports whether as many orders are worked at as may be at once.
func (c *ca) crowded(atOnce int) bool {
	return c.silences > 0 && c.busy > 0 || atOnce > 0 && c.busy >= atOnce
}

// free is how many orders of a class the account could open now.
func (c *ca) free(now int64, of class) int {
	switch {
	case c.closed() > now, c.silences > 0 && c.busy > 0:
		return 0
	case c.Limits.Orders == 0:
		return 1 << 30
	}
	return max(0, c.tokens(now)-c.floor(of))
}

func (c *ca) floor(of class) int {
	switch of {
	case forRenewal:
		return c.Limits.Orders / 100
	case forRetry:
		return max(c.Limits.Orders/2, c.Limits.Orders*c.Limits.Reserve/100)
	}
	return c.Limits.Orders * c.Limits.Reserve / 100
}

// freeAt is when the n-th order from now (from 1) of a class can be opened, if
// nobody else opens any.
func (c *ca) freeAt(now int64, of class, n int) int64 {
	at := max(now, c.closed())
	if c.Limits.Orders > 0 {
		have := c.Limits.Orders - c.floor(of)
		at = max(at, max(now, c.full)-int64(have-n)*int64(c.Limits.OrderRefill))
	}
	return at
}

func (c *ca) take(now int64) {
	if c.Limits.Orders > 0 {
		c.full = max(c.full, now) + int64(c.Limits.OrderRefill)
	}
}

// fold takes the orders of before into the bucket. They come in any order.
func (c *ca) fold() {
	if len(c.replay) > 0 {
		slices.Sort(c.replay)
		for _, at := range c.replay {
			c.take(at)
		}
		c.replay = nil
	}
}

func (w *window) trim(before int64) {
	i := 0
	for i < len(w.issued) && w.issued[i] <= before {
		i++
	}
	w.issued = w.issued[i:]
}

// domainAt is when a certificate for domain may be ordered: now, or later.
func (c *ca) domainAt(now int64, domain string, of class) int64 {
	return c.at(now, c.domains[domain], c.Limits.PerDomain, c.Limits.DomainWindow, of)
}

func (c *ca) setAt(now int64, set string, of class) int64 {
	return c.at(now, c.sets[set], c.Limits.PerSet, c.Limits.SetWindow, of)
}

func (c *ca) at(now int64, w *window, limit int, long time.Duration, of class) int64 {
	if w == nil {
		return now
	}
	at := max(now, w.blocked)
	if limit == 0 {
		return at
	}
	w.trim(now - int64(long))
	limit = c.share(limit, of)
	over := w.open + len(w.issued) - limit // so many, and one, must leave first
	switch {
	case over < 0:
		return at
	case over < len(w.issued):
		return max(at, w.issued[over]+int64(long)+1)
	}
	return max(at, now+int64(time.Minute)) // all is under way
}

func (c *ca) used(now int64, domain string) int {
	w := c.domains[domain]
	if w == nil {
		return 0
	}
	w.trim(now - int64(c.Limits.DomainWindow))
	return w.open + len(w.issued)
}

func windowOf(in map[string]*window, key string) *window {
	w := in[key]
	if w == nil {
		w = &window{}
		in[key] = w
	}
	return w
}

// reserve counts an order that may be issued.
func (c *ca) reserve(domains []string, set string) {
	for _, d := range domains {
		windowOf(c.domains, d).open++
	}
	windowOf(c.sets, set).open++
}

// release ends a reservation; issued is when a certificate came of it, 0 for never.
func (c *ca) release(domains []string, set string, issued int64) {
	for _, d := range domains {
		c.settle(c.domains, d, issued, c.Limits.DomainWindow)
	}
	c.settle(c.sets, set, issued, c.Limits.SetWindow)
}

func (c *ca) settle(in map[string]*window, key string, issued int64, long time.Duration) {
	w := windowOf(in, key)
	w.open--
	if issued != 0 {
		i, _ := slices.BinarySearch(w.issued, issued)
		w.issued = slices.Insert(w.issued, i, issued)
		c.old.push(counted{issued + int64(long), in, key})
	} else if w.open == 0 && len(w.issued) == 0 && w.blocked == 0 {
		delete(in, key)
	}
}

// block is what the CA says itself, whatever we have counted.
func (c *ca) block(in map[string]*window, key string, until int64) {
	w := windowOf(in, key)
	w.blocked = max(w.blocked, until)
	c.old.push(counted{until, in, key})
}

// forget drops windows that are empty by now. The notes are about in the order of
// their time; one that stands behind a later one waits for it.
func (c *ca) forget(now int64) {
	for c.old.len() > 0 && c.old.peek().at < now {
		n := c.old.pop()
		long := c.Limits.DomainWindow
		if w := n.in[n.key]; w != nil {
			w.trim(now - int64(max(long, c.Limits.SetWindow)))
			if w.open == 0 && len(w.issued) == 0 && w.blocked <= now {
				delete(n.in, n.key)
			}
		}
	}
}

// setOf is the key of a set of names, which are sorted.
func setOf(names []string) string {
	h := sha256.New()
	for _, n := range names {
		h.Write([]byte(n))
		h.Write([]byte{0})
	}
	return string(h.Sum(nil)[:16])
}
