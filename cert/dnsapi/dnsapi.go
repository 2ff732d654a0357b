// Package dnsapi shows DNS-01 challenges in a domain's own zone, through whoever
// keeps that zone: a program of the operator ([Hook]), or a provider of libdns that
// a build has linked in ([LibDNS]).
//
// It knows neither CAs nor what is ordered. Begin to read at [Solver.Present].
package dnsapi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fingerpost/cert/order"
)

// Setter changes TXT records where a zone is kept. A record may have several values
// at a time: a name and its wildcard share one. Names come without a dot at the end.
type Setter interface {
	// Set adds a value. It may be called again with the same.
	Set(ctx context.Context, record, value string) error
	// Remove takes a value away. What is not there is no error.
	Remove(ctx context.Context, record, value string) error
}

// Error is why a record was not changed. What others have said about it may hold
// secrets, so Said is for whoever may see the name, and not part of the text that
// reaches logs.
type Error struct {
	Message string
	Said    string
}

func (e *Error) Error() string { return e.Message }

const (
	waitFor   = 2 * time.Minute
	waitEvery = 2 * time.Second
	atOnce    = 16 // changes, all orders and checks together
)

// Solver is an [order.Solver] for challenges that have Provider set.
type Solver struct {
	Setter Setter
	// Missing says which of a domain's own servers does not give a value; "" when
	// all do ([order.Resolver.MissingTXT]).
	Missing func(ctx context.Context, record, value string) (string, error)

	mu    sync.Mutex // guards what is below
	slots chan struct{}
	turns map[string]*turn // of records that are being changed
}

// turn lets changes of one record never meet: most providers' APIs replace all of its
// values.
type turn struct {
	slot chan struct{}
	want int // that have it or wait for it
}

// Present sets the values and returns once the domains' own servers give them. An
// [order.Unshown] has the names for which that failed.
func (s *Solver) Present(ctx context.Context, challenges []order.Challenge) error {
	return s.all(ctx, challenges, func(c order.Challenge) error {
		if err := s.change(ctx, c, s.Setter.Set); err != nil {
			return fmt.Errorf("the TXT record of %s could not be set: %w", c.Record, err)
		}
		return s.wait(ctx, c)
	})
}

// Remove takes the values away.
func (s *Solver) Remove(ctx context.Context, challenges []order.Challenge) error {
	return s.all(ctx, challenges, func(c order.Challenge) error {
		if err := s.change(ctx, c, s.Setter.Remove); err != nil {
			return fmt.Errorf("the TXT record of %s could not be removed: %w", c.Record, err)
		}
		return nil
	})
}

// all calls fn for each challenge, at once: one zone that fails or is slow is in
// nobody else's way.
func (s *Solver) all(ctx context.Context, challenges []order.Challenge, fn func(order.Challenge) error) error {
	errs := make([]error, len(challenges))
	var group sync.WaitGroup
	for i, c := range challenges {
		group.Go(func() { errs[i] = fn(c) })
	}
	group.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	unshown := order.Unshown{}
	for i, err := range errs {
		if err != nil {
			unshown[challenges[i]] = failure(challenges[i], err)
		}
	}
	if len(unshown) > 0 {
		return unshown
	}
	return nil
}

func failure(c order.Challenge, err error) order.Failure {
	f := order.Failure{Name: c.Name, Code: order.CodeProvider, Reason: err.Error(), Method: order.DNSProvider01,
		Hint: "try the change of " + c.Record + " by hand; or set its CNAME into acme.validationZone, which needs no provider"}
	var e *Error
	if errors.As(err, &e) {
		f.Detail = e.Said
	}
	return f
}

// take waits for the turn of a record, then for a slot among all: what waits for its own
// record is in nobody else's way.
func (s *Solver) take(ctx context.Context, record string) (release func(), err error) {
	s.mu.Lock()
	if s.slots == nil {
		s.slots, s.turns = make(chan struct{}, atOnce), map[string]*turn{}
	}
	t := s.turns[record]
	if t == nil {
		t = &turn{slot: make(chan struct{}, 1)}
		s.turns[record] = t
	}
	t.want++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if t.want--; t.want == 0 {
			delete(s.turns, record)
		}
	}
	select {
	case t.slot <- struct{}{}:
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots; <-t.slot; leave() }, nil
	case <-ctx.Done():
		<-t.slot
		leave()
		return nil, ctx.Err()
	}
}

// change calls fn when it is the record's turn.
func (s *Solver) change(ctx context.Context, c order.Challenge, fn func(ctx context.Context, record, value string) error) error {
	release, err := s.take(ctx, c.Record)
	if err != nil {
		return err
	}
	defer release()
	return fn(ctx, c.Record, c.TXT)
}

// wait looks until the value is everywhere.
func (s *Solver) wait(ctx context.Context, c order.Challenge) error {
	end := time.Now().Add(waitFor)
	for {
		missing, err := s.Missing(ctx, c.Record, c.TXT)
		if err == nil && missing == "" {
			return nil
		}
		if !time.Now().Add(waitEvery).Before(end) {
			if err != nil {
				return fmt.Errorf("the TXT record of %s is set, but nobody could be asked for it within %v: %w", c.Record, waitFor, err)
			}
			return fmt.Errorf("the TXT record of %s is set, but %s does not give it after %v", c.Record, missing, waitFor)
		}
		t := time.NewTimer(waitEvery)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}
