package planner

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"
)

// Planner holds what is wanted and what exists. See the package comment.
type Planner struct {
	config Config
	cas    []*ca
	byCA   map[string]*ca

	names  map[string]*name
	certs  map[string]*cert
	groups map[groupKey]*group
	lanes  []*lane
	open   map[uint64]*job

	timers timers
	checks [2]fifo[*name] // of renewals; of all else

	counts   [len(states)]int // wanted names by state
	lastID   uint64
	lastSeq  int64
	sinceTry int // orders of new names since the last one of names that failed before

	alarms  []Alarm
	retired []*cert // nobody may need them
}

// status is a [State] in one byte.
type status uint8

const (
	checking status = iota
	ready
	ordered
	live
	failed
	paused
	blocked
)

var states = [...]State{Checking, Ready, Ordered, Live, Failed, Paused, Blocked}

// name is one that is wanted, or that a certificate has.
//
// A wanted name is in exactly one place: among the checks (checking), in a bunch or
// a job (ready), in an open job (ordered), with its certificate (live), or waiting
// for its timer (failed, paused) or a person (blocked). A name with a certificate may
// be in any of them.
type name struct {
	name    string
	state   status
	domain  uint8 // where the registered domain begins in name
	wanted  bool
	queued  bool // in Planner.checks
	asked   bool // a pre-flight for the renewal in job is due or under way
	bad     bool // that pre-flight failed
	alarmed bool // told in Work.Alarms since the last success
	extra   bool // what AddName adds in job
	g       *group
	cert    *cert
	bunch   *bunch // where it waits for an order
	job     *job   // that has it, while it gathers, waits or is open
	checked int64
	trouble *trouble
	timer   timer
}

// trouble is what is remembered of a name that failed.
type trouble struct {
	tries    int     // failures at a CA since the last success
	since    int64   // of the first failure of any kind
	byCA     bool    // the last failure was a CA's, not our pre-flight's
	resting  bool    // for 30 days it failed; only pre-flights
	failures []int64 // at a CA, of the last hour
	reason   string
}

// cert is a certificate. Its timer is its renewal, or its end once that has begun.
type cert struct {
	id                  string
	ca                  *ca
	account             string
	g                   *group
	names               []*name
	live                int // wanted names that it serves
	notBefore, notAfter int64
	start, end          int64 // ARI window; end is 0 without
	inUse, replaced     bool
	told                bool // as obsolete
	tried               bool // a renewal has begun
	job                 *job // that renews it or takes it in
	size, slot          int32
	timer               timer
}

type groupKey struct{ team, profile, cas, pack, of string }

// group is what may share a certificate.
type group struct {
	policy Policy
	of     *group // the policy's own, where names may have only some of its CAs; else nil
	cas    []*ca
	lane   *lane
	queues [3]*queue
	small  map[*ca][][]*cert // by names served: certificates that may be taken in by others
}

// The queues of a group, in order of importance.
const (
	urgentQueue = iota // their certificate runs out
	freshQueue
	retryQueue
)

var queueClass = [3]class{forRenewal, forNew, forRetry}
var queueKind = [3]Kind{Urgent, First, Retry}

// lane is all groups with the same CAs in the same order: when these have no room,
// none of the groups can go on.
type lane struct {
	cas  []*ca
	due  [3]heap[*queue]
	turn [3]int64   // of the last queue that had an order
	hist [3][]int32 // [k]: queues with more than k orders waiting
}

// queue is names of a group that wait. Its timer is the batching window.
type queue struct {
	g         *group
	kind      int
	bunches   map[string]*bunch
	list      fifo[*bunch]
	waiting   int   // names in listed bunches
	in, out   int64 // names that came and went, for the place of each
	turn, seq int64 // the order within the lane
	place     int32
	timer     timer
}

// bunch is the names of one registered domain in a queue: they go together, since
// the CA counts the domain once for each certificate. While the domain is over its
// limit, the bunch is not listed and its timer runs.
type bunch struct {
	q      *queue
	domain string
	names  []*name // those with another bunch, or none, have left
	n      int     // those that have not
	listed bool
	mark   int64 // queue.in when it was listed
	timer  timer
}

// The phases of a job.
const (
	gathering = iota // a renewal waits for its pre-flights
	delayed          // its timer runs
	queued           // in a heap of its CA
	opened
)

// job is a set of names that has become, or will become, one order.
type job struct {
	kind     Kind
	phase    int
	g        *group
	ca       *ca
	names    []*name
	replaces *cert
	merges   []*cert
	asked    bool // by a user
	counted  bool // the CA did not take it as exempt
	try      int
	pending  int // pre-flights under way
	bad      int // names that failed theirs, and may recover
	why      string

	key   int64
	place int32
	in    *heap[*job]
	timer timer

	id, seq uint64
	exempt  bool
	opened  int64
	works   int64    // since when it is worked at; 0: it waits
	worked  int64    // the last time that this began
	silent  bool     // the CA did not answer it the last time
	domains []string // reserved at the CA
	set     string
}

func (n *name) clock() *timer  { return &n.timer }
func (c *cert) clock() *timer  { return &c.timer }
func (q *queue) clock() *timer { return &q.timer }
func (b *bunch) clock() *timer { return &b.timer }
func (j *job) clock() *timer   { return &j.timer }

// New gives an empty Planner, or what is wrong with the configuration.
func New(config Config) (*Planner, error) {
	p := &Planner{
		config: config,
		byCA:   map[string]*ca{},
		names:  map[string]*name{},
		certs:  map[string]*cert{},
		groups: map[groupKey]*group{},
		open:   map[uint64]*job{},
	}
	if len(config.CAs) == 0 {
		return nil, errors.New("planner: no CA")
	}
	for i, one := range config.CAs {
		if one.MaxNames == 0 {
			one.MaxNames = 100
		}
		l := &one.Limits
		switch {
		case one.Name == "" || p.byCA[one.Name] != nil:
			return nil, fmt.Errorf("planner: CA %d has the name %q, which is empty or not the only one", i+1, one.Name)
		case one.MaxNames < 0 || l.Orders < 0 || l.PerDomain < 0 || l.PerSet < 0 || l.Failures < 0 || l.Reserve < 0 || l.Reserve > 90:
			return nil, fmt.Errorf("planner: CA %s: a count is below zero, or the reserve above 90 per cent", one.Name)
		case l.Orders > 0 && l.OrderRefill <= 0 || l.PerDomain > 0 && l.DomainWindow <= 0 || l.PerSet > 0 && l.SetWindow <= 0 || l.Failures > 0 && l.FailureWindow <= 0:
			return nil, fmt.Errorf("planner: CA %s: a count has no time", one.Name)
		}
		for profile, n := range one.Profiles {
			if n < 1 {
				return nil, fmt.Errorf("planner: CA %s: profile %q takes %d names", one.Name, profile, n)
			}
		}
		c := &ca{CA: one, order: i, domains: map[string]*window{}, sets: map[string]*window{}}
		for _, h := range []*heap[*job]{&c.exempt, &c.merges, &c.renewals, &c.again} {
			h.less = func(a, b *job) bool { return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.seq, b.seq)) < 0 }
			h.place = func(j *job) *int32 { return &j.place }
		}
		p.cas, p.byCA[one.Name] = append(p.cas, c), c
	}
	if p.config.Window == 0 {
		p.config.Window = 10 * time.Second
	}
	if p.config.Fresh == 0 {
		p.config.Fresh = time.Hour
	}
	if p.config.Grace == 0 {
		p.config.Grace = 15 * time.Minute
	}
	return p, nil
}

// group finds or makes the group of a policy. CAs that are not configured are left
// out; if none is left, all are taken.
func (p *Planner) group(policy Policy) *group {
	var cas []*ca
	for _, s := range policy.CAs {
		if c := p.byCA[s]; c != nil && !slices.Contains(cas, c) {
			cas = append(cas, c)
		}
	}
	if len(cas) == 0 {
		cas = p.cas
	}
	var id strings.Builder
	for _, c := range cas {
		fmt.Fprintf(&id, "%d ", c.order)
	}
	return p.groupOf(groupKey{policy.Team, policy.Profile, id.String(), fmt.Sprint(max(0, policy.Pack)), ""}, policy, cas, nil)
}

func (p *Planner) groupOf(key groupKey, policy Policy, cas []*ca, of *group) *group {
	g := p.groups[key]
	if g == nil {
		g = &group{policy: policy, cas: cas, lane: p.lane(cas), of: of}
		g.policy.CAs = slices.Clone(policy.CAs)
		p.groups[key] = g
	}
	return g
}

// own is the group of the policy, whatever CAs are left of it for some names.
func (g *group) own() *group {
	if g.of != nil {
		return g.of
	}
	return g
}

// narrowed is the group of names that only some of a policy's CAs may issue for.
func (p *Planner) narrowed(g *group, cas []string) *group {
	g = g.own()
	var left []*ca
	var names []string
	var id, of strings.Builder
	for _, c := range g.cas {
		fmt.Fprintf(&of, "%d ", c.order)
		if slices.Contains(cas, c.Name) {
			left, names = append(left, c), append(names, c.Name)
			fmt.Fprintf(&id, "%d ", c.order)
		}
	}
	if len(left) == 0 || len(left) == len(g.cas) { // none are named where all may
		return g
	}
	policy := g.policy
	policy.CAs = names
	return p.groupOf(groupKey{policy.Team, policy.Profile, id.String(), fmt.Sprint(max(0, policy.Pack)), of.String()}, policy, left, g)
}

func (p *Planner) lane(cas []*ca) *lane {
	for _, l := range p.lanes {
		if slices.Equal(l.cas, cas) {
			return l
		}
	}
	l := &lane{cas: cas}
	for i := range l.due {
		l.due[i].less = func(a, b *queue) bool { return cmp.Or(cmp.Compare(a.turn, b.turn), cmp.Compare(a.seq, b.seq)) < 0 }
		l.due[i].place = func(q *queue) *int32 { return &q.place }
	}
	p.lanes = append(p.lanes, l)
	return l
}

// profile is what g's names are ordered with at c.
func (g *group) profile(c *ca) string { return cmp.Or(g.policy.Profile, c.Profile) }

// max is the most names in a certificate of g by c.
func (g *group) max(c *ca) int {
	n := c.max(g.profile(c))
	if g.policy.Pack > 0 {
		n = min(n, g.policy.Pack)
	}
	return n
}

func (g *group) queue(kind int) *queue {
	q := g.queues[kind]
	if q == nil {
		q = &queue{g: g, kind: kind, bunches: map[string]*bunch{}, turn: -1}
		g.queues[kind] = q
	}
	return q
}

func (p *Planner) record(s string) *name {
	n := p.names[s]
	if n == nil {
		n = &name{name: s, domain: registered(s)}
		p.names[s] = n
	}
	return n
}

// registered tells where the registered domain begins in a name. A name that is
// itself a public suffix, or no domain at all, counts as one.
func registered(s string) uint8 {
	bare := strings.TrimPrefix(s, "*.")
	domain, err := publicsuffix.EffectiveTLDPlusOne(bare)
	if err != nil {
		domain = bare
	}
	return uint8(len(s) - len(domain))
}

func (n *name) registered() string { return n.name[n.domain:] }

// to moves a name from one state to another.
func (p *Planner) to(n *name, s status) {
	if n.wanted {
		p.counts[n.state]--
		p.counts[s]++
	}
	n.state = s
}

// current reports whether n's certificate serves it and will be renewed with it. A
// certificate of another policy of the same team does until its renewal.
func (n *name) current(now int64) bool {
	c := n.cert
	return c != nil && !c.replaced && c.notAfter > now && c.g.policy.Team == n.g.policy.Team
}

// Past counts an order of the last days as its CA has counted it: opened at
// o.Opened, and issued at issued, or never if that is zero. For o only CA, Names,
// Exempt and Opened matter. Call it before the first Next, in any order.
func (p *Planner) Past(o Order, issued time.Time) {
	c := p.byCA[o.CA]
	if c == nil || o.Exempt {
		return
	}
	c.replay = append(c.replay, o.Opened.UnixNano())
	if !issued.IsZero() {
		domains, set := p.charged(o.Names)
		c.reserve(domains, set)
		c.release(domains, set, issued.UnixNano())
	}
}

// charged gives what an order of these names is counted for.
func (p *Planner) charged(names []string) (domains []string, set string) {
	names = slices.Sorted(slices.Values(names))
	for _, s := range names {
		domains = append(domains, s[registered(s):])
	}
	slices.Sort(domains)
	return slices.Compact(domains), setOf(names)
}

// Have adds a certificate that exists, or changes Window, InUse and Replaced of one
// that is known. It may come before or after its names are wanted. One that is over
// is obsolete.
func (p *Planner) Have(now time.Time, c Certificate) {
	t := now.UnixNano()
	if have := p.certs[c.ID]; have != nil {
		have.inUse, have.replaced = c.InUse, have.replaced || c.Replaced
		p.window(t, have, c.Window)
		p.retire(have)
		return
	}
	issuer := p.byCA[c.CA]
	if issuer == nil {
		issuer = &ca{CA: CA{Name: c.CA}} // no longer configured: its certificates serve, and are renewed by others
	}
	have := &cert{
		id: c.ID, ca: issuer, account: c.Account, g: p.group(c.Policy),
		notBefore: c.NotBefore.UnixNano(), notAfter: c.NotAfter.UnixNano(),
		inUse: c.InUse, replaced: c.Replaced,
	}
	have.window(c.Window)
	p.certs[c.ID] = have
	for _, s := range c.Names {
		n := p.record(s)
		have.names = append(have.names, n)
		if old := n.cert; old == nil || old.notBefore < have.notBefore {
			p.attach(n, have)
			if n.wanted && n.job == nil && (n.state == checking || n.state == ready) && n.current(t) {
				p.leave(n)
				p.to(n, live)
			}
			p.retire(old)
		}
	}
	p.schedule(t, have)
	p.reindex(t, have)
	p.retire(have)
}

// Window sets what ARI says of a certificate. The zero Window takes it back.
func (p *Planner) Window(now time.Time, id string, w Window) {
	if c := p.certs[id]; c != nil {
		p.window(now.UnixNano(), c, w)
	}
}

func (p *Planner) window(now int64, c *cert, w Window) {
	c.window(w)
	if j := c.job; j == nil {
		p.schedule(now, c)
	} else if j.replaces == c && j.phase == queued {
		p.enqueueJob(now, j) // it may be exempt now, or no longer
	}
}

func (c *cert) window(w Window) {
	c.start, c.end = 0, 0
	if !w.End.IsZero() && w.Start.Before(w.End) {
		c.start, c.end = w.Start.UnixNano(), w.End.UnixNano()
	}
}

// InUse says whether anything serves a certificate. One that no wanted name needs
// is told in Work.Obsolete only while it is not in use.
func (p *Planner) InUse(id string, inUse bool) {
	if c := p.certs[id]; c != nil {
		c.inUse = inUse
		if inUse {
			c.told = false
		}
		p.retire(c)
	}
}

// Gone removes a certificate that was deleted or revoked. Wanted names that it
// served are ordered anew.
func (p *Planner) Gone(now time.Time, id string) {
	c := p.certs[id]
	if c == nil {
		return
	}
	t := now.UnixNano()
	delete(p.certs, id)
	c.replaced, c.told, c.notAfter = true, true, min(c.notAfter, t)
	p.expire(t, c)
	if j := c.job; j != nil && j.phase != opened && j.replaces == c {
		p.dissolve(t, j)
	}
}

// Want adds a name, or changes its policy. A name that a certificate of its team
// already serves is live at once, and a changed policy holds from its renewal; else
// it begins with a pre-flight. n.State is heeded where it is failed, paused or
// blocked, with what belongs to it.
func (p *Planner) Want(now time.Time, want Name) {
	t := now.UnixNano()
	n, g := p.record(want.Name), p.group(want.Policy)
	if n.wanted {
		if n.g.own() == g {
			return
		}
		n.g = g
		if n.state == ready && n.bunch != nil || n.state == live && n.job == nil {
			p.leave(n)
			p.settle(t, n)
		}
		return
	}
	n.wanted, n.g = true, g
	p.counts[n.state]++
	if c := n.cert; c != nil {
		if c.told && !c.inUse { // its caller may be deleting it
			n.cert = nil
		} else {
			c.live++
			p.reindex(t, c)
		}
	}
	if j := n.job; j != nil && j.phase != gathering { // it was dropped meanwhile, and the job does not know
		if j.phase != opened {
			p.to(n, ready)
			if n.current(t) {
				p.to(n, live)
			}
		}
		return
	}
	if !want.Checked.IsZero() {
		n.checked = want.Checked.UnixNano()
	}
	if want.Tries > 0 || !want.FailedSince.IsZero() || want.Reason != "" || len(want.Failures) > 0 {
		tr := &trouble{tries: want.Tries, reason: want.Reason, resting: want.State == Paused, byCA: want.Tries > 0}
		if !want.FailedSince.IsZero() {
			tr.since = want.FailedSince.UnixNano()
		}
		for _, at := range want.Failures {
			tr.failures = append(tr.failures, at.UnixNano())
		}
		n.trouble = tr
	}
	switch want.State {
	case Blocked:
		p.to(n, blocked)
	case Failed, Paused:
		p.to(n, failed)
		if want.State == Paused {
			p.to(n, paused)
		}
		p.set(n, max(t, want.Next.UnixNano()))
	default:
		if n.current(t) {
			p.settle(t, n)
		} else {
			p.check(t, n)
		}
	}
}

// Drop ends the wish for a name. An open order keeps it; its certificate loses it at
// the next renewal.
func (p *Planner) Drop(now time.Time, s string) {
	n := p.names[s]
	if n == nil || !n.wanted {
		return
	}
	t := now.UnixNano()
	p.leave(n)
	p.counts[n.state]--
	n.wanted, n.trouble = false, nil
	p.stop(n)
	if j := n.job; j != nil && j.phase == gathering {
		p.answer(t, n, true)
	}
	if n.job == nil {
		n.state = live
	}
	if c := n.cert; c != nil {
		c.live--
		p.reindex(t, c)
		p.retire(c)
	}
	p.forget(n)
}

// forget removes a name that nothing knows any longer.
func (p *Planner) forget(n *name) {
	if !n.wanted && n.cert == nil && n.job == nil && p.names[n.name] == n {
		delete(p.names, n.name)
	}
}

// Rearm forgets that a name failed and has it checked now: a user's click, or a
// change of its DNS. What the CA counts stays counted; one that did not answer is tried.
func (p *Planner) Rearm(now time.Time, s string) {
	n := p.names[s]
	if n == nil || !n.wanted {
		return
	}
	for _, c := range n.g.cas {
		c.rests = 0 // one order tries it
	}
	if j := n.job; j != nil && j.phase == delayed {
		p.enqueueJob(now.UnixNano(), j)
	}
	if n.state == ready || n.state == ordered || n.state == live {
		return
	}
	if tr := n.trouble; tr != nil {
		*tr = trouble{failures: tr.failures}
	}
	if n.state != checking {
		p.check(now.UnixNano(), n)
	}
}

// settle finds the place of a name that is sound: with its certificate, or in a queue.
func (p *Planner) settle(now int64, n *name) {
	if n.job != nil && n.job.phase != gathering {
		return
	}
	p.stop(n)
	if !n.wanted {
		p.forget(n)
		return
	}
	if !n.current(now) {
		p.enqueue(now, n)
		return
	}
	p.to(n, live)
	n.alarmed = false
	if c := n.cert; c.tried && c.job == nil {
		p.set(c, now+int64(p.config.Window)) // it was left out; the certificate is not renewed yet
	} else {
		p.reindex(now, c)
	}
}

// attach makes c the certificate of n.
func (p *Planner) attach(n *name, c *cert) {
	if n.cert == c {
		return
	}
	if n.wanted {
		if n.cert != nil {
			n.cert.live--
		}
		if c != nil {
			c.live++
		}
	}
	n.cert = c
}

// retire has Next look whether anybody still needs c.
func (p *Planner) retire(c *cert) {
	if c != nil && c.idle() && !c.told {
		p.retired = append(p.retired, c)
	}
}

func (c *cert) idle() bool { return c.live == 0 && !c.inUse && c.job == nil }

// reindex puts c where others of its group find it to take it in, or takes it out.
func (p *Planner) reindex(now int64, c *cert) {
	if c.size > 0 {
		list := c.g.small[c.ca][c.size]
		last := len(list) - 1
		list[c.slot] = list[last]
		list[c.slot].slot = c.slot
		list[last] = nil
		c.g.small[c.ca][c.size] = list[:last]
		c.size = 0
	}
	if c.live == 0 || c.job != nil || c.replaced || c.notAfter <= now || c.live >= c.g.max(c.ca) || p.byCA[c.ca.Name] != c.ca || c.account != c.ca.Account {
		return
	}
	if c.g.small == nil {
		c.g.small = map[*ca][][]*cert{}
	}
	bySize := c.g.small[c.ca]
	for len(bySize) <= c.live {
		bySize = append(bySize, nil)
	}
	c.size, c.slot = int32(c.live), int32(len(bySize[c.live]))
	bySize[c.live] = append(bySize[c.live], c)
	c.g.small[c.ca] = bySize
}

// schedule sets the time of c's renewal.
func (p *Planner) schedule(now int64, c *cert) {
	at := c.renewAt()
	if c.replaced || at < now && c.tried && c.job == nil && c.end == 0 {
		at = c.notAfter
	}
	p.set(c, min(at, c.notAfter))
}

// renewAt is a moment of the ARI window, the same each time and spread over all
// certificates. Without ARI it is when a third of the lifetime is left, or half of
// one below ten days.
func (c *cert) renewAt() int64 {
	if c.end != 0 {
		h := fnv.New64a()
		h.Write([]byte(c.id))
		from, to := c.start+margin(c), c.end-margin(c)
		return from + int64(h.Sum64()>>1)%max(1, (to-from)*3/4)
	}
	life := c.notAfter - c.notBefore
	if life < int64(10*24*time.Hour) {
		return c.notAfter - life/2
	}
	return c.notAfter - life/3
}

// margin is what stays free at the borders of an ARI window, for clocks that differ
// and for the time until the CA reads the order.
func margin(c *cert) int64 { return min(int64(5*time.Minute), (c.end-c.start)/10) }
