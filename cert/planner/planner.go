// Package planner decides which names go into which order, and when.
//
// It knows names, certificates, CAs and what these count; it holds them in memory,
// as its caller tells them. It knows nothing of ACME messages, keys, DNS, the store
// or hosts, and has no I/O, no clock and no goroutine: each call brings the time.
// A Planner is not safe for concurrent use; the one issuer of a cluster owns it.
//
// # How a caller uses it
//
//	p, err := planner.New(config)
//	p.Past(…)        // orders of the last 7 days, from the journal: what the CAs have counted
//	p.Have(…)        // each certificate that exists
//	p.Want(…)        // each wanted name, with what is remembered of it
//	p.Resume(…)      // each order that was open
//	for {
//		work := p.Next(now, freeOrders, freeChecks)
//		// run work.Checks (pre-flight)    → p.Checked
//		// run work.Orders                 → p.Done
//		// those that have to wait for their CA → p.Waits, and p.Works when they are looked at again
//		// show work.Alarms; delete work.Obsolete once nothing serves them
//		// sleep until work.Wake, or a result, or a change of what is wanted; where
//		// there were as many checks as asked for, there may be more
//	}
//
// What must outlive the process is the caller's to store: the orders (before they
// are opened, and their results), the certificates, and for each name the [Name]
// that [Planner.Status] gives after [Planner.Checked] and [Planner.Done]. The counts
// are not stored anywhere: they follow from the orders.
//
// # What it decides
//
// Names are packed per team, profile and CA. New names wait for the batching window
// or until a certificate is full, and go into fresh certificates of their own. At its
// renewal a certificate takes in the smallest others of its kind that still fit, and
// new names that wait: inside the ARI window the CA counts none of this. So the
// certificates grow like the runs of a log-structured tree, each name is written
// again only when it must be, and no certificate is ever issued again for the sake of
// a single name, unless a user asks for it ([Planner.AddName]).
//
// A pre-flight that fails comes again after a tenth of the time since the first
// failure, from a minute to three hours; a validation that fails at a CA after 1, 10
// and 100 minutes, then daily, each after a good pre-flight; after 30 days both end, but
// for a pre-flight a day.
//
// The order of what is opened: renewals and names whose certificate runs out; the rest
// of orders that lost a name; new names; names that failed before; renewals that take
// in others and have time. Among new names a team that has waited for nothing lately
// goes first, once; then the teams take turns. Names that failed before get a tenth of
// the orders while others wait, and else never the lower half of an account's bucket.
//
// # What it costs
//
// Next costs O(1) when nothing is due, O(log n) of n names, certificates and teams
// for each that has become due, and O(m log n) for an order of m names. Want, Drop,
// Checked and Window cost O(log n); Have, Done and Gone O(m log n); Status O(1), and for
// a waiting name a step for each order that its own team has before it. Only a CA that
// begins to rest lets all jobs that wait for it be looked at. Nothing walks all names or
// all certificates.
//
// Start reading at [Planner.Next] and pick in open.go, then renew.go and done.go;
// check.go is what happens to a name that fails, counts.go what a CA counts.
package planner

import (
	"time"
)

// Config says where certificates come from and how names are gathered.
type Config struct {
	CAs    []CA          // in order of preference for policies that name none
	Window time.Duration // how long new names wait for others; 0 is 10 s
	Fresh  time.Duration // how long a pre-flight holds for a renewal; 0 is 1 h
	Grace  time.Duration // how long a renewal waits for its pre-flights, and for names to recover; 0 is 15 min
	AtOnce int           // orders of one CA that are worked at; 0 is no limit. Those that wait do not count
}

// CA is one account at one CA.
type CA struct {
	Name     string         // "letsencrypt"
	Account  string         // the account's URL; a certificate of another one is renewed without `replaces`
	Profile  string         // for policies that name none; "" is the CA's default
	MaxNames int            // names in a certificate, for profiles that are not listed; 0 is 100
	Profiles map[string]int // the same by profile
	Limits   Limits
}

// Limits is what a CA counts. A zero count is no limit.
type Limits struct {
	Orders        int           // new orders of the account in one burst
	OrderRefill   time.Duration // one more each
	PerDomain     int           // certificates of a registered domain, by all accounts, in DomainWindow
	DomainWindow  time.Duration
	PerSet        int // certificates of exactly the same names in SetWindow
	SetWindow     time.Duration
	Failures      int // failed authorizations of a name in FailureWindow
	FailureWindow time.Duration
	Reserve       int // per cent of each that new names leave for renewals
}

// LetsEncrypt is what Let's Encrypt counts (letsencrypt.org/docs/rate-limits, 2026),
// with 20 % kept for renewals.
func LetsEncrypt() Limits {
	const week = 7 * 24 * time.Hour
	return Limits{
		Orders: 300, OrderRefill: 36 * time.Second,
		PerDomain: 50, DomainWindow: week,
		PerSet: 5, SetWindow: week,
		Failures: 5, FailureWindow: time.Hour,
		Reserve: 20,
	}
}

// LetsEncryptProfiles is the most names that each profile of Let's Encrypt takes.
func LetsEncryptProfiles() map[string]int {
	return map[string]int{"classic": 100, "tlsserver": 25, "shortlived": 25}
}

// Policy says with what a name may share a certificate, and who may issue it.
type Policy struct {
	Team    string   // names of two teams never share a certificate
	Profile string   // "" is each CA's own of Config
	CAs     []string // names of CAs, the preferred first; none is all, in the order of Config
	Pack    int      // names in a certificate at most; 1 is a certificate for each name, 0 as many as the CA takes
}

// State is where a name stands on its way to a certificate.
type State string

const (
	Checking State = "checking" // its pre-flight is due or under way
	Ready    State = "ready"    // waits for an order
	Ordered  State = "ordered"  // is in an open order, be it the first or a renewal
	Live     State = "live"     // has a certificate, which will be renewed with it
	Failed   State = "failed"   // is tried again at Next
	Paused   State = "paused"   // failed for 30 days: only pre-flights, once a day
	Blocked  State = "blocked"  // waits for a person
)

// Name is a wanted name and what is remembered of it. It is small and plain, so
// that the caller can store it as it is.
type Name struct {
	Name        string // lower case, A-labels; *.example.com for a wildcard
	Policy      Policy
	State       State       // Want takes failed, paused and blocked; for all else it finds out itself
	Reason      string      // why failed, paused or blocked
	Tries       int         // failures since the last success or re-arming
	FailedSince time.Time   // of the first of them
	Failures    []time.Time // failed authorizations of the last hour, which the CA counts
	Next        time.Time   // the next try, where State is failed or paused
	Checked     time.Time   // the last pre-flight that was good
}

// Certificate is one that exists.
type Certificate struct {
	ID        string // the caller's, unique
	Names     []string
	CA        string
	Account   string
	Policy    Policy // of the order; names that have another policy by now leave at the renewal
	NotBefore time.Time
	NotAfter  time.Time
	Window    Window // zero: the CA has told none
	InUse     bool   // served, or in a configuration: never obsolete
	Replaced  bool   // a certificate was issued with `replaces` naming this one
}

// Window is ARI's suggestion of when to renew (RFC 9773 4.2).
type Window struct{ Start, End time.Time }

// Kind is why an order is opened.
type Kind string

const (
	Renewal Kind = "renewal" // of the certificate Replaces
	Urgent  Kind = "urgent"  // of names that a renewal left out, and whose certificate runs out
	First   Kind = "first"   // of new names
	Retry   Kind = "retry"   // of names that failed at the CA before
	Add     Kind = "add"     // Replaces with one name more, since a user asks for it
	Merge   Kind = "merge"   // a renewal with time left that takes in other certificates
)

// Order is one to open at a CA.
type Order struct {
	ID       uint64 // unique in this Planner; Resume takes any that the caller chose
	Kind     Kind
	CA       string
	Account  string
	Policy   Policy
	Profile  string   // of the CA
	Names    []string // sorted
	Replaces string   // ID of the certificate to name in `replaces`, where the CA has ARI; "" for none
	Exempt   bool     // the CA counts it for nothing, if it names Replaces
	Merges   []string // IDs of further certificates whose names are all in this one
	Opened   time.Time
	Try      int // 0 at first; counts the orders before it that came to nothing
}

// Check is a pre-flight to run.
type Check struct {
	Name    string
	Policy  Policy
	Renewal bool // the name has a certificate that is due
}

// Alarm tells of a name whose certificate will run out unless somebody acts.
type Alarm struct {
	Name        string
	Certificate string
	NotAfter    time.Time
	Reason      string
}

// Work is what is to be done now.
type Work struct {
	Orders   []Order   // most important first; they are counted as opened
	Checks   []Check   // those of renewals first
	Alarms   []Alarm   // new ones only
	Obsolete []string  // certificates that no wanted name needs and nobody uses; told once
	Wake     time.Time // when Next has something to say again by itself; zero: only after another call
}

// Outcome is how an order ended.
type Outcome string

const (
	Issued      Outcome = "issued"
	NamesFailed Outcome = "names failed" // Result.Failed is not empty; the others are ordered again
	Limited     Outcome = "limited"      // the CA counts otherwise than we; see Result.Limit
	Refused     Outcome = "refused"      // and no name is at fault that we could tell: the set is halved
	Lost        Outcome = "lost"         // the CA has given the order up: the same set again, later
	Down        Outcome = "down"         // the CA does not answer, or nothing of ours: the same set at another, or when it answers
	NotOpened   Outcome = "not opened"   // the caller gave up before it asked the CA; nothing was counted
)

// Result is what became of an order.
type Result struct {
	Outcome     Outcome
	Certificate Certificate // Issued: ID, NotBefore, NotAfter, Window, InUse; the rest is known
	Failed      []Failure
	Limits      []Limit // Limited, and beside Failed: of several names each may be over another
	Reason      string  // Refused, Lost, Down: a plain sentence for people; of Down for those of all names, or none
	Unasked     bool    // Lost, Down: no request for the order can have reached the CA, which so has counted none
	Counted     bool    // the CA has counted an order that was Exempt: it did not take what it replaces
}

// Failure is a name that a CA could not validate.
type Failure struct {
	Name   string
	Reason string
	Block  bool // a person must act before another try makes sense: CAA, paused by the CA, refused by policy
}

// Scope is what a CA's refusal for too many requests is about.
type Scope string

const (
	ScopeAccount Scope = "account" // all orders of the account wait
	ScopeDomain  Scope = "domain"  // Subject is a registered domain
	ScopeSet     Scope = "set"     // this set of names
	ScopeName    Scope = "name"    // Subject is a name: too many failed authorizations
)

// Limit is a CA's refusal for too many requests, with its Retry-After.
type Limit struct {
	Scope   Scope
	Subject string
	Until   time.Time // zero: as long as the count says, at least a minute
}

// Status is where a name stands, and what comes next.
type Status struct {
	Name
	Certificate string    // ID of the certificate that serves it; "" for none
	NotAfter    time.Time // of that certificate
	RenewAt     time.Time // when its renewal begins
	Order       uint64    // the open order, 0 for none
	ETA         ETA
}

// ETA says when a name will have what it waits for, as far as can be told, and why
// not before.
type ETA struct {
	At     time.Time // zero: it depends on a person
	Code   string    // stable, for programs: "live", "batch", "orders", "domain", "set", "parked", "retry", …
	Reason string    // a plain sentence
}

// Cost is what adding a name to a certificate uses up of the CA's limits.
type Cost struct {
	Certificate string
	Name        string
	Free        bool          // inside the ARI window: nothing is counted
	Orders      int           // new orders used
	OrdersLeft  int           // that the account could open now
	Domains     []DomainCount // each registered domain in the certificate is charged
	At          time.Time     // when it can be ordered
	Reason      string        // all of this in a sentence
}

// DomainCount is how many certificates a CA has counted for a registered domain.
type DomainCount struct {
	Domain string
	Used   int
	Limit  int
}

// Room is what is left of a CA's limits, for metrics and people.
type Room struct {
	CA          string
	Orders      int       // orders that the account could open now; -1 without a limit
	OrdersNew   int       // of these, for new names
	Burst       int       // when it is full
	ParkedUntil time.Time // zero: not parked
}

// Totals counts names by state and the rest, for metrics.
type Totals struct {
	Names        map[State]int
	Certificates int
	Open         int // orders
	Queued       int // orders that wait for the CAs' limits, about
}
