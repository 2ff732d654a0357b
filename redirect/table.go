package redirect

import "fingerpost"

// Table is the compiled form of all hosts and redirects.
type Table struct{}

// RuleRef points at a rule of the table that gave it.
type RuleRef struct{ t *Table }

// Host is the pattern of the host form that the rule belongs to.
func (r RuleRef) Host() string { return "" }

// ID is the rule's id, derived where the redirect has none.
func (r RuleRef) ID() string { return "" }

// Compile builds the table.
func Compile(hosts []fingerpost.Host, redirects []fingerpost.Redirect) (*Table, error) {
	return &Table{}, nil
}

// Answer fills a with the answer to r.
func (t *Table) Answer(r *Request, a *Answer) {}

// UsesCountries reports whether any rule looks at Request.Country.
func (t *Table) UsesCountries() bool { return false }

// Rules is the number of redirects in t, Hosts that of host patterns.
func (t *Table) Rules() int { return 0 }
func (t *Table) Hosts() int { return 0 }
