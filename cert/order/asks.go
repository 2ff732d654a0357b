package order

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"fingerpost"
	"fingerpost/cert/planner"
)

// Ask is what a person wants of whoever orders: the value of a [KindAsk] record,
// which any node may write. It stands until it is done or cannot be done, and is
// begun again by whoever comes after a process that died. One that ends in another
// way than was asked for leaves an [Event] that says why.
type Ask struct {
	Do          string `json:"do"` // one of those below
	Name        string `json:"name,omitempty"`
	Certificate string `json:"certificate,omitempty"`
	Reason      string `json:"reason,omitempty"` // of AskRevoke, one of [RevocationReasons]
}

// What can be asked.
const (
	AskRequest = "request"  // check Name again and order it, whatever it waits for
	AskRenew   = "renew"    // begin the renewal of Certificate now
	AskAddName = "add-name" // order Certificate again with Name
	AskGone    = "gone"     // Certificate was deleted
	AskRevoke  = "revoke"   // have the CA revoke Certificate, and order another with a new key
)

const (
	askEvery    = 2 * time.Second // until what was asked on another node is seen
	askPatience = time.Minute     // for a name that this node has not heard of yet
)

// Record is what to write, once, to ask for a.
func (a Ask) Record(now time.Time) Record {
	return record(KindAsk, now.UTC().Format("2006-01-02T15:04:05.000000Z")+"/"+strings.ToLower(rand.Text()[:8]), a)
}

// asked is an ask that stands.
type asked struct {
	Ask
	at    time.Time
	begun bool // the planner has a job for it
	busy  bool // a CA is being told
	over  bool // its record is gone, or is being deleted
	next  time.Time
	pause time.Duration
}

// Asked has the issuer look for new asks at once, if this node orders.
func (i *Issuer) Asked() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.planner != nil {
		poke(i.askPoke)
	}
}

// followAsks does what was asked.
func (i *Issuer) followAsks(ctx context.Context, fence int64, stop context.CancelCauseFunc) {
	var calls sync.WaitGroup
	defer calls.Wait()
	for ctx.Err() == nil {
		err := i.answer(ctx, func(key string) {
			calls.Go(func() {
				if err := i.revoke(ctx, fence, key); err != nil {
					stop(err)
				}
			})
		}, func(records []Record) error { return i.write(ctx, fence, records...) })
		switch {
		case errors.Is(err, ErrFenced):
			stop(err)
			return
		case err != nil && ctx.Err() == nil:
			i.Log.WarnContext(ctx, "what was asked about certificates is done later", "error", err)
		}
		t := time.NewTimer(askEvery)
		select {
		case <-i.askPoke:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// answer takes each ask a step further. Those that need a CA are handed to call.
func (i *Issuer) answer(ctx context.Context, call func(key string), write func([]Record) error) error {
	listed := map[string]bool{}
	err := all(ctx, i.Driver.Storage, KindAsk, func(r Record) error {
		listed[r.Key] = true
		i.mu.Lock()
		t := i.ask(r)
		var records []Record
		switch now := time.Now(); {
		case t.over || t.busy || now.Before(t.next):
		case t.Do == AskRevoke:
			t.busy = true
			call(r.Key)
		default:
			records = i.advance(now, r.Key, t)
		}
		i.mu.Unlock()
		if records == nil {
			return nil
		}
		err := write(records)
		i.wake() // not before: else what comes of it might be written first
		return err
	})
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for key := range i.asks {
		if !listed[key] {
			delete(i.asks, key)
		}
	}
	return nil
}

// ask remembers an ask that was read. The lock is held.
func (i *Issuer) ask(r Record) *asked {
	t := i.asks[r.Key]
	if t == nil {
		t = new(asked)
		json.Unmarshal(r.Value, &t.Ask) // what cannot be read is nothing that is known: advance says so
		text, _, _ := strings.Cut(r.Key, "/")
		t.at, _ = time.Parse(time.RFC3339, text)
		i.asks[r.Key] = t
	}
	return t
}

// advance does what can be done now, and gives what is to be written once nothing is
// left to do. The lock is held.
func (i *Issuer) advance(now time.Time, key string, t *asked) []Record {
	p := i.planner
	switch t.Do {
	case AskRequest:
		if _, wanted := p.Status(now, t.Name); !wanted {
			if now.Sub(t.at) < askPatience {
				return nil
			}
			return i.over(now, key, "no host that is served needs a certificate for "+t.Name)
		}
		p.Rearm(now, t.Name)
		return append(i.stateOf(t.Name), i.over(now, key, "")...)
	case AskGone:
		p.Gone(now, t.Certificate)
		return i.over(now, key, "")
	case AskRenew, AskAddName:
		return i.advanceRenewal(now, key, t)
	}
	return i.over(now, key, "this version of the program cannot do it")
}

// advanceRenewal begins a renewal and follows it until it is given up; that it has
// come to a certificate, done sees. The lock is held.
func (i *Issuer) advanceRenewal(now time.Time, key string, t *asked) []Record {
	p := i.planner
	r := p.Renewing(t.Certificate, t.Name)
	switch {
	case r.Open:
		t.begun = true
		return nil
	case t.begun:
		return i.over(now, key, i.unfulfilled(now, t, r))
	case r.Replaced && t.Do == AskRenew:
		return i.over(now, key, "")
	}
	var err error
	if t.Do == AskRenew {
		err = p.Renew(now, t.Certificate)
	} else {
		_, err = p.AddName(now, t.Certificate, t.Name)
	}
	var e *fingerpost.Error
	if errors.As(err, &e) {
		status, _ := p.Status(now, t.Name)
		switch {
		case e.Code == "busy" || e.Code == "ordered" || e.Code == "not_served" && now.Sub(t.at) < askPatience:
			return nil
		case e.Code == "has_name" || e.Code == "no_certificate" && t.Do == AskAddName && status.Certificate != "":
			return i.over(now, key, "")
		}
		return i.over(now, key, e.Message)
	}
	i.wake()
	if r = p.Renewing(t.Certificate, t.Name); !r.Open {
		return i.over(now, key, i.unfulfilled(now, t, r))
	}
	t.begun = true
	return nil
}

// unfulfilled says why a renewal that was asked for came to nothing. The lock is held.
func (i *Issuer) unfulfilled(now time.Time, t *asked, r planner.Renewing) string {
	why := r.Reason
	if t.Name != "" {
		if status, ok := i.planner.Status(now, t.Name); ok {
			why = status.Reason
			if why == "" {
				why = status.ETA.Reason
			}
		}
		if why != "" {
			why = ": " + why
		}
		return t.Name + " was not added to it" + why
	}
	if why == "" {
		return "none of its names can be ordered now; those that are wanted are in other orders"
	}
	return "none of its names can be ordered now: " + why
}

// fulfilled ends the asks that an order has brought to a certificate. The lock is
// held.
func (i *Issuer) fulfilled(now time.Time, plan *planner.Order) []Record {
	var records []Record
	for key, t := range i.asks {
		if t.over || t.Certificate != plan.Replaces && !slices.Contains(plan.Merges, t.Certificate) {
			continue
		}
		if t.Do == AskRenew || t.Do == AskAddName && slices.Contains(plan.Names, t.Name) {
			records = append(records, i.over(now, key, "")...)
		}
	}
	return records
}

// over is what is to be written about an ask that has ended: a reason, unless it came
// as was asked. The lock is held.
func (i *Issuer) over(now time.Time, key, reason string) []Record {
	t := i.asks[key]
	t.over = true
	records := []Record{{Kind: KindAsk, Key: key}}
	if reason == "" {
		return records
	}
	e := Event{What: EventRefused, Certificate: t.Certificate, Reason: t.Do + ": " + reason}
	if t.Name != "" {
		e.Names = []string{t.Name}
	}
	i.Log.Warn("what was asked about a certificate was not done", "do", t.Do, "name", t.Name, "certificate", t.Certificate, "reason", reason)
	return append(records, i.event(now, e))
}
