package main

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"slices"
	"time"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/redirect"
	"fingerpost/replica"
	"fingerpost/source"
	"fingerpost/store"
)

// checkedAtOnce is how many changes are checked together: all rules of the host
// forms that they are about are in memory then.
const checkedAtOnce = 2_000

// accept checks a proposal on top of what the node's own copy has.
func (n *node) accept(ctx context.Context, p admin.Proposal) error {
	list, many, err := different(ctx, &p)
	if err != nil || !many && len(list) == 0 {
		return err
	}
	if err := n.reach(ctx, p.Base, p.Changeset != nil); err != nil {
		return err
	}
	if !many {
		return n.shared.replica.Check(list)
	}
	return n.shared.replica.CheckAll(replica.Proposal{Changes: changesOf(p.Changeset.Each(ctx)), Gone: gone(&p)})
}

// different gives what a proposal changes, unless that is more than is checked at
// once.
func different(ctx context.Context, p *admin.Proposal) (list []replica.Change, many bool, err error) {
	if p.Changeset == nil {
		for c, err := range changesOf(p.Changes) {
			if err != nil {
				return nil, false, err
			}
			list = append(list, c)
		}
		return list, false, nil
	}
	changes, err := p.Changeset.Differences(ctx, checkedAtOnce)
	if errors.Is(err, store.ErrTooLarge) {
		return nil, true, nil
	}
	for i := range changes {
		list = append(list, changeOf(&changes[i]))
	}
	return list, false, err
}

func changeOf(c *store.Change) replica.Change {
	return replica.Change{Op: replica.Op(c.Op), Item: replica.Item(c.Item)}
}

func changesOf(changes iter.Seq2[store.Change, error]) iter.Seq2[replica.Change, error] {
	return func(yield func(replica.Change, error) bool) {
		for c, err := range changes {
			if !yield(changeOf(&c), err) {
				return
			}
		}
	}
}

// gone tells what a proposal that replaces takes away.
func gone(p *admin.Proposal) func(*replica.Item) bool {
	if !p.Replaces {
		return nil
	}
	return func(it *replica.Item) bool {
		return it.Source == p.Source && (len(p.Kinds) == 0 || slices.Contains(p.Kinds, it.Kind))
	}
}

// publish makes content all that a source has in the store: what it does not name
// any more goes. Content of other sources stays as it is.
func (n *node) publish(ctx context.Context, label string, content source.Content) (err error) {
	db := n.shared.db
	defer func() { err = n.storeAway(err) }()
	by := store.Actor{Who: label}
	if s, err := db.Source(ctx, label); err == nil && s.Paused { // publishing would say so, too late
		return fmt.Errorf("%w: %s", store.ErrPaused, label)
	}
	if receipt, done, err := n.publishFew(ctx, label, content); err != nil {
		return err
	} else if done {
		n.published(ctx, label, receipt)
		return nil
	}
	set, err := db.Stage(ctx, store.StageOptions{Source: label, Mode: store.Replace, Actor: by})
	if err != nil {
		return err
	}
	defer set.Cancel(context.WithoutCancel(ctx)) // without effect on one that is published
	owners := admin.NewOwners(db)
	if err := owners.Load(ctx); err != nil {
		return err
	}
	moved, err := owners.Replace(ctx, label, content.Hosts)
	if err != nil {
		return err
	}
	changes := owners.Label(ctx, itemsOf(label, content))
	if _, err := set.Add(ctx, changes); err != nil {
		return err
	}
	receipt, err := n.publishSet(ctx, set)
	if err != nil {
		return err
	}
	if len(moved) > 0 {
		if _, rev, err := admin.Relabel(ctx, db, by, moved); err != nil {
			n.log.Error("give redirects the team of their host; it is tried again", "err", err)
		} else {
			receipt.Rev = max(receipt.Rev, rev)
		}
	}
	n.published(ctx, label, receipt)
	return nil
}

// published notes that a source's content is in force, and waits until this node
// serves it. It is in force whatever becomes of the wait: that is for the log.
func (n *node) published(ctx context.Context, label string, receipt store.Receipt) {
	if receipt.Changes() > 0 {
		n.contents.kept.published(label, receipt.Rev)
	}
	if err := n.await(ctx, store.Cursor{Epoch: receipt.Epoch, Rev: receipt.Rev}, true); err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrMoved) {
		n.log.Warn("content is in the store, and the node's own copy does not have it yet", "source", label, "rev", receipt.Rev, "err", err)
	}
}

// publishAttempts bounds how often a publication is tried while others write.
const publishAttempts = 100

// A source may take away a share of what it has, and some items, without a word: more
// is a mistake as often as not, such as an export that has failed.
const (
	freeToGo  = 50
	shareToGo = 10 // one in so many
	codeMuch  = "removes_much"
)

// allowedToGo is how many items a source may take away at once.
func (n *node) allowedToGo(ctx context.Context, label string) (most, have int64, err error) {
	all, err := n.shared.db.CountBySource(ctx)
	have = all[label]
	if n.o.maxRemoved > 0 {
		return n.o.maxRemoved, have, err
	}
	return max(freeToGo, have/shareToGo), have, err
}

// refusedAsMuch reports whether content was refused because too much would go.
func refusedAsMuch(err error) bool {
	own := new(fingerpost.Error)
	return errors.As(err, &own) && own.Code == codeMuch
}

// publishSet brings what a source has staged into force, unless nothing is different.
func (n *node) publishSet(ctx context.Context, set *store.Changeset) (receipt store.Receipt, err error) {
	most, have, err := n.allowedToGo(ctx, set.Source)
	if err != nil {
		return receipt, err
	}
	for i := range publishAttempts {
		head, err := n.shared.db.Head(ctx)
		if err != nil {
			return receipt, err
		}
		err = n.accept(ctx, admin.Proposal{Base: head.Rev, Replaces: true, Source: set.Source, Changeset: set})
		if err == nil {
			receipt, err = set.Publish(ctx, store.PublishOptions{Base: head.Rev, MaxRemoved: most})
		}
		if errors.Is(err, store.ErrTooLarge) {
			return receipt, &fingerpost.Error{Code: codeMuch, Message: fmt.Sprintf("%s would take away more than %d of its %d items; what was there before is served", set.Source, most, have),
				Hint: "if that is meant, start the node once with --max-removed and a number that is large enough, or take them away in steps"}
		}
		if !errors.Is(err, store.ErrMoved) {
			return receipt, err
		}
		select {
		case <-time.After(min(time.Duration(i)*10*time.Millisecond, time.Second)):
		case <-ctx.Done():
			return receipt, ctx.Err()
		}
	}
	return receipt, store.ErrMoved
}

// publishFew is publish for a source of which little has changed: the node's own
// copy tells what, so that a large file with one new line costs no more than to
// look through it. False: nothing was done, since it is too much for one
// transaction, or the copy is not where the store is.
func (n *node) publishFew(ctx context.Context, label string, content source.Content) (receipt store.Receipt, done bool, err error) {
	db := n.shared.db
	head, err := db.Head(ctx)
	if err != nil {
		return receipt, false, err
	}
	if at, ok := n.shared.replica.Cursor(); !ok || at.Epoch != head.Epoch || at.Rev != head.Rev {
		return receipt, false, nil
	}
	owners := admin.NewOwners(db)
	if err := owners.Load(ctx); err != nil {
		return receipt, false, err
	}
	if moved, err := owners.Replace(ctx, label, content.Hosts); err != nil || len(moved) > 0 {
		return receipt, false, err
	}
	changes, few, err := n.differences(label, owners.Label(ctx, itemsOf(label, content)))
	if err != nil || !few {
		return receipt, false, err
	}
	if len(changes) == 0 {
		return store.Receipt{Epoch: head.Epoch, Rev: head.Rev}, true, nil
	}
	removed := int64(0)
	for i := range changes {
		if changes[i].Op == store.Delete {
			removed++
		}
	}
	if most, _, err := n.allowedToGo(ctx, label); err != nil || removed > most {
		return receipt, false, err // the other way says so
	}
	all := func(yield func(store.Change, error) bool) {
		for _, c := range changes {
			if !yield(c, nil) {
				return
			}
		}
	}
	err = n.accept(ctx, admin.Proposal{Base: head.Rev, Changes: all, Source: label})
	if err == nil {
		// What was compared is of this revision, or it is not taken.
		receipt, err = db.Commit(ctx, store.Batch{Changes: changes, Source: label, Base: head.Rev, Actor: store.Actor{Who: label}})
	}
	if errors.Is(err, store.ErrMoved) {
		return receipt, false, nil
	}
	return receipt, err == nil, err
}

// differences lists what content would change of what a source has in the node's
// own copy; false if that is more than one transaction takes.
func (n *node) differences(label string, items iter.Seq2[store.Change, error]) (changes []store.Change, few bool, err error) {
	seed := maphash.MakeSeed()
	sum := func(value []byte, team string) uint64 {
		var h maphash.Hash
		h.SetSeed(seed)
		h.Write(value)
		h.WriteByte(0)
		h.WriteString(team)
		return h.Sum64()
	}
	type name struct{ kind, key string }
	has := map[name]uint64{}
	for _, kind := range []string{store.KindHost, store.KindRedirect} {
		for it, err := range n.shared.replica.Scan(kind, "") {
			if err != nil {
				return nil, false, err
			}
			if it.Source == label {
				has[name{kind, it.Key}] = sum(it.Value, it.Team)
			}
		}
	}
	for c, err := range items {
		if err != nil {
			return nil, false, err
		}
		key := name{c.Item.Kind, c.Item.Key}
		was, had := has[key]
		delete(has, key)
		if had && was == sum(c.Item.Value, c.Item.Team) {
			continue
		}
		if changes = append(changes, c); len(changes) > store.MaxChanges {
			return nil, false, nil
		}
	}
	if len(changes)+len(has) > store.MaxChanges {
		return nil, false, nil
	}
	for key := range has {
		changes = append(changes, store.Change{Op: store.Delete, Item: store.Item{Kind: key.kind, Key: key.key, Source: label}})
	}
	return changes, true, nil
}

// errStoreAway says that content could not be brought into force now.
var errStoreAway = &fingerpost.Error{Code: "store_away", Message: "the store is away, and content of files and sources is not applied", Hint: "it is by itself once the store is back; what was there before is served"}

// storeAway makes one line of an error that says so, and lets rejoin look.
func (n *node) storeAway(err error) error {
	if errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrUnknown) {
		n.away.Store(true)
		return errStoreAway
	}
	return err
}

// itemsOf makes store items of a source's content.
func itemsOf(label string, content source.Content) iter.Seq2[store.Change, error] {
	return func(yield func(store.Change, error) bool) {
		teams := map[string]string{}
		put := func(it store.Item, err error) bool {
			return yield(store.Change{Op: store.Put, Item: it}, err)
		}
		for i := range content.Hosts {
			h := &content.Hosts[i]
			if name, err := fingerpost.ParseHostPattern(h.Name); err == nil {
				teams[string(name)] = h.Team
			}
			if !put(store.HostItem(h, label)) {
				return
			}
		}
		for i := range content.Redirects {
			r := &content.Redirects[i]
			host, err := redirect.HostOf(r.From)
			if err != nil {
				yield(store.Change{}, err)
				return
			}
			if !put(store.RedirectItem(r, label, teams[string(host)])) {
				return
			}
		}
	}
}
