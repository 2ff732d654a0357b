package planner

import "time"

// Planner holds what is wanted and what exists. See the package comment.
type Planner struct{}

// New gives an empty Planner, or what is wrong with the configuration.
func New(config Config) (*Planner, error) { panic("not built yet") }

// Past counts an order of the last days as its CA has counted it: opened at
// o.Opened, and issued at issued, or never if that is zero. For o only CA, Names,
// Exempt and Opened matter. Call it before the first Next; older orders do no harm.
func (p *Planner) Past(o Order, issued time.Time) { panic("not built yet") }

// Have adds a certificate that exists, or replaces what is known of it. Certificates
// that are over are ignored.
func (p *Planner) Have(now time.Time, c Certificate) { panic("not built yet") }

// Window sets what ARI says of a certificate; the zero Window stands for no answer ever.
func (p *Planner) Window(now time.Time, id string, w Window) { panic("not built yet") }

// InUse says whether anything serves a certificate. One that is needed no longer is
// told in Work.Obsolete only while it is not in use.
func (p *Planner) InUse(id string, inUse bool) { panic("not built yet") }

// Gone removes a certificate that was deleted or revoked. Names that it served are
// ordered anew.
func (p *Planner) Gone(now time.Time, id string) { panic("not built yet") }

// Want adds a name, or changes its policy. Certificates are told before (Have), so
// that a name that has one is not ordered.
func (p *Planner) Want(now time.Time, n Name) { panic("not built yet") }

// Drop ends the wish for a name. An open order keeps it; its certificate loses it at
// the next renewal.
func (p *Planner) Drop(now time.Time, name string) { panic("not built yet") }

// Rearm forgets that a name failed and has it checked now: a user's click, or a
// change of its DNS. What the CA counts stays counted.
func (p *Planner) Rearm(now time.Time, name string) { panic("not built yet") }

// Block sets a name aside until Rearm.
func (p *Planner) Block(now time.Time, name, reason string) { panic("not built yet") }

// Checked reports a pre-flight: reason is empty if it was good, else what a person
// reads. A pre-flight that could not be run (no resolver answered) counts as good for
// a renewal and should be reported as failed for a new name.
func (p *Planner) Checked(now time.Time, name, reason string) { panic("not built yet") }

// Next gives what is to be done now: at most so many orders and checks. Orders count
// as opened from here on, and each ends with one call of Done.
func (p *Planner) Next(now time.Time, orders, checks int) Work { panic("not built yet") }

// Resume takes over an order that another process opened and did not finish. Its
// names count as ordered until Done. It counts what Past would count.
func (p *Planner) Resume(now time.Time, o Order) { panic("not built yet") }

// Done reports how an order ended. An ID that is not open is ignored.
func (p *Planner) Done(now time.Time, id uint64, r Result) { panic("not built yet") }

// AddCost tells what it would cost to order a certificate again with one name more,
// or why that cannot be, as a *fingerpost.Error.
func (p *Planner) AddCost(now time.Time, id, name string) (Cost, error) { panic("not built yet") }

// AddName orders a certificate again with one name more, since a user asks for it.
// The name must be wanted, by the same policy, and is checked first.
func (p *Planner) AddName(now time.Time, id, name string) (Cost, error) { panic("not built yet") }

// Renew begins the renewal of a certificate now, since a user asks for it. Outside
// the ARI window it is counted by the CA.
func (p *Planner) Renew(now time.Time, id string) error { panic("not built yet") }

// Status tells where a name stands; false if it is not wanted.
func (p *Planner) Status(now time.Time, name string) (Status, bool) { panic("not built yet") }

// Rooms tells what is left of each CA's limits.
func (p *Planner) Rooms(now time.Time) []Room { panic("not built yet") }

// Totals counts names by state and the rest.
func (p *Planner) Totals() Totals { panic("not built yet") }
