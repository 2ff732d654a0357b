package order

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"fingerpost/cert/planner"
)

// load tells a new planner what there is, and gives the orders that were open.
// It is the only time that anything is listed.
func (i *Issuer) load(ctx context.Context, fence int64) ([]*Order, error) {
	now := time.Now()
	plan := i.plan(ctx)
	p, err := planner.New(plan)
	if err != nil {
		return nil, err
	}
	storage := i.Driver.Storage
	var stale []Record
	err = all(ctx, storage, KindPast, func(r Record) error {
		var done past
		if r.Key < instant(now.Add(-countsFor)) {
			stale = append(stale, Record{Kind: KindPast, Key: r.Key})
			return nil
		}
		if err := json.Unmarshal(r.Value, &done); err != nil {
			i.unreadable(ctx, r, err)
			return nil
		}
		p.Past(done.Plan, done.Issued)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what CAs have counted: %w", err)
	}
	wanted, err := i.Wanted(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the wanted names: %w", err)
	}
	kept := map[string]holding{}
	err = all(ctx, storage, KindCertificate, func(r Record) error {
		c := new(Certificate)
		if err := json.Unmarshal(r.Value, c); err != nil {
			i.unreadable(ctx, r, err)
			return nil
		}
		have := c.plan()
		for _, ca := range plan.CAs {
			if ca.Name != c.CA {
				continue
			}
			if have.Account == "" { // it was issued before the account's address was noted
				have.Account = ca.Account
			}
			if have.Policy.Profile == ca.Profile { // which policies need not name
				have.Policy.Profile = ""
			}
		}
		if have.InUse = i.used(c.ID); have.InUse {
			kept[c.ID] = holding{c.Names, c.NotAfter}
		}
		p.Have(now, have)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the certificates: %w", err)
	}
	methods, why := map[string][]string{}, map[string]*Failure{}
	states := map[string]NameState{}
	err = all(ctx, storage, KindName, func(r Record) error {
		var s NameState
		if err := json.Unmarshal(r.Value, &s); err != nil {
			i.unreadable(ctx, r, err)
			return nil
		}
		states[r.Key] = s
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the states of names: %w", err)
	}
	for _, w := range wanted {
		s := states[w.Name]
		delete(states, w.Name)
		s.Name.Name, s.Policy = w.Name, w.Policy
		if s.Methods != nil {
			methods[w.Name] = s.Methods
		}
		if s.Failure != nil {
			why[w.Name] = s.Failure
		}
		p.Want(now, s.Name)
	}
	for name := range states { // its host went while nobody ordered
		stale = append(stale, Record{Kind: KindName, Key: name})
	}
	var resume []*Order
	err = all(ctx, storage, KindOrder, func(r Record) error {
		o, err := decodeOrder(r)
		if err != nil {
			i.unreadable(ctx, r, err)
			return nil
		}
		if o.Spec.Plan.ID != 0 {
			resume = append(resume, o)
			p.Resume(now, o.Spec.Plan)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the open orders: %w", err)
	}
	var asks []Record
	err = all(ctx, storage, KindAsk, func(r Record) error {
		asks = append(asks, r)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what was asked: %w", err)
	}
	if err := i.forget(ctx, fence, stale); err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.planner, i.methods, i.why, i.asking = p, methods, why, map[string]bool{}
	i.kept, i.asks = kept, map[string]*asked{}
	for _, r := range asks { // before an order that was open ends, which may be what was asked for
		i.ask(r)
	}
	return resume, nil
}

// plan is Plan, with what is known by now.
func (i *Issuer) plan(ctx context.Context) planner.Config {
	plan := i.Plan
	plan.AtOnce = i.parallel()
	plan.CAs = slices.Clone(plan.CAs)
	for n := range plan.CAs {
		ca := i.Driver.CAs[plan.CAs[n].Name]
		if ca == nil || plan.CAs[n].Account != "" {
			continue
		}
		var account accountRecord
		if value, err := i.Driver.Storage.Get(ctx, KindAccount, ca.accountKey()); err == nil && json.Unmarshal(value, &account) == nil {
			plan.CAs[n].Account = account.URL
		}
	}
	return plan
}

// unreadable tells of a record that is passed over: the names of all others go on.
func (i *Issuer) unreadable(ctx context.Context, r Record, err error) {
	i.Log.ErrorContext(ctx, "a stored record cannot be read, and is passed over", "kind", r.Kind, "key", r.Key, "error", err)
}

// all reads a kind page by page.
func all(ctx context.Context, s Storage, kind string, fn func(Record) error) error {
	from := ""
	for {
		records, err := s.Range(ctx, kind, from, "", page)
		if err != nil {
			return err
		}
		for _, r := range records {
			if err := fn(r); err != nil {
				return err
			}
		}
		if len(records) < page {
			return nil
		}
		from = records[len(records)-1].Key + "\x00"
	}
}

func (c *Certificate) plan() planner.Certificate {
	window := c.Window
	if !c.Revoked.IsZero() {
		window = overSince(c.Revoked)
	}
	return planner.Certificate{ID: c.ID, Names: c.Names, CA: c.CA, Account: c.Account, Policy: c.Policy,
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Window: window, Replaced: c.Replaced}
}
