package order

import (
	"context"
	"crypto/rand"
	"strings"
	"time"
)

// Event is something that has happened to names and certificates, the value of a
// [KindEvent] record. Those of the last 30 days are kept, at most 10,000.
type Event struct {
	At          time.Time `json:"at"`
	What        string    `json:"what"` // one of those below
	Names       []string  `json:"names,omitempty"`
	Certificate string    `json:"certificate,omitempty"`
	Replaces    string    `json:"replaces,omitempty"` // the certificate that it takes the place of
	CA          string    `json:"ca,omitempty"`
	Team        string    `json:"team,omitempty"`
	Reason      string    `json:"reason,omitempty"` // for people
	Hint        string    `json:"hint,omitempty"`   // what they can do
}

// What happens.
const (
	EventIssued   = "issued"   // the first certificate for some names
	EventRenewed  = "renewed"  // one that takes the place of another
	EventFailed   = "failed"   // a name: its DNS is not right, or the CA could not validate it
	EventOrder    = "order"    // an order ended without a certificate, for no name's fault
	EventExpiring = "expiring" // the certificate of a name runs out unless somebody acts
	EventRevoked  = "revoked"  // by us, at the CA
	EventRemoved  = "removed"  // nobody needs it any more
	EventRefused  = "refused"  // what somebody asked for was not done
)

const (
	eventsFor   = 30 * 24 * time.Hour
	eventsSlack = 1000 // when so many have come, it is looked again
)

var eventsMost = 10_000 // a variable for tests

// EventKey is where the keys of events begin that happened at t or later.
func EventKey(t time.Time) string { return instant(t) }

// event is e as it is written. The lock is held.
func (i *Issuer) event(now time.Time, e Event) Record {
	e.At = now.UTC()
	i.events++
	return record(KindEvent, EventKey(now)+"/"+strings.ToLower(rand.Text()[:8]), e)
}

// trimEvents forgets what is too old, and the oldest of too many.
func (i *Issuer) trimEvents(ctx context.Context, fence int64) error {
	var keys []string
	err := all(ctx, i.Driver.Storage, KindEvent, func(r Record) error {
		keys = append(keys, r.Key)
		return nil
	})
	if err != nil {
		return err
	}
	oldest := instant(time.Now().Add(-eventsFor))
	var gone []Record
	for n, key := range keys {
		if key < oldest || n < len(keys)-eventsMost {
			gone = append(gone, Record{Kind: KindEvent, Key: key})
		}
	}
	for len(gone) > 0 {
		n := min(len(gone), page)
		if err := i.write(ctx, fence, gone[:n]...); err != nil {
			return err
		}
		gone = gone[n:]
	}
	return nil
}
