package admin

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/redirect"
	"fingerpost/store"
)

// Proposal is what is about to be committed.
type Proposal struct {
	Base    int64 // the revision that it goes on top of
	Changes iter.Seq2[store.Change, error]
	// Source and Kinds of a proposal that replaces: what the source has of these
	// kinds (all, if there are none) and Changes does not name is removed.
	Replaces bool
	Source   string
	// Changeset is where the changes are staged; nil where they are few.
	Changeset *store.Changeset
	Kinds     []string
}

// attempts bounds how often a write is tried again because another control node
// wrote in between.
const attempts = 20

// Commit checks b against the whole content and brings it into force. Writes of
// one Server are checked and committed one after the other; where another node
// writes in between, the check is made again.
//
// Errors are those of [store.DB.Commit] and of Accept.
func (s *Server) Commit(ctx context.Context, b store.Batch) (store.Receipt, error) {
	var receipt store.Receipt
	err := s.serialised(ctx, func(base int64) (err error) {
		if err := s.accept(ctx, Proposal{Base: base, Changes: each(b.Changes)}); err != nil {
			return err
		}
		b.Base = base
		receipt, err = s.Store.Commit(ctx, b)
		return err
	})
	return receipt, err
}

// commitWith commits the one change of b together with what goes with it, which with
// gives as it is at the moment: staged, where it is more than a batch takes. Other
// writes of this Server wait meanwhile.
func (s *Server) commitWith(ctx context.Context, b store.Batch, with func(context.Context) iter.Seq2[store.Change, error]) (store.Receipt, error) {
	own := b.Changes[0]
	few := []store.Change{own}
	for c, err := range with(ctx) {
		if err != nil {
			return store.Receipt{}, err
		}
		if few = append(few, c); len(few) > store.MaxChanges {
			break
		}
	}
	if len(few) <= store.MaxChanges {
		b.Changes = few
		return s.Commit(ctx, b)
	}
	var receipt store.Receipt
	err := s.serialised(ctx, func(base int64) error {
		// What is staged has no preconditions: they are looked at here, at the base
		// that it is published on.
		now, err := s.get(ctx, own.Item.Kind, own.Item.Key)
		if err == nil {
			err = own.Allowed(now)
		}
		if err != nil {
			return err
		}
		c, err := s.Store.Stage(ctx, store.StageOptions{Source: now.Source, Take: true, Actor: b.Actor, Note: b.Note})
		if err != nil {
			return err
		}
		_, err = c.Add(ctx, func(yield func(store.Change, error) bool) {
			if !yield(store.Change{Op: own.Op, Item: own.Item}, nil) {
				return
			}
			for change, err := range with(ctx) {
				change.If = 0
				if !yield(change, err) {
					return
				}
			}
		})
		if err == nil {
			err = s.accept(ctx, Proposal{Base: base, Changes: c.Each(ctx), Changeset: c})
		}
		if err == nil {
			receipt, err = c.Publish(context.WithoutCancel(ctx), store.PublishOptions{Key: b.Key, Sum: b.Sum, Base: base})
		}
		if err != nil {
			return errors.Join(err, c.Cancel(context.WithoutCancel(ctx)))
		}
		return nil
	})
	return receipt, err
}

// patience is how long a request waits for another write to end.
const patience = 10 * time.Second

// serialised runs fn for the newest revision, one at a time in this process, and
// again while it gives store.ErrMoved.
func (s *Server) serialised(ctx context.Context, fn func(base int64) error) error {
	wait := time.NewTimer(patience)
	defer wait.Stop()
	select {
	case s.writing <- struct{}{}:
		defer func() { <-s.writing }()
	case <-wait.C:
		return CatchingUp("another write is under way")
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.again(ctx, fn)
}

// patiently is serialised for a job, which waits for as long as it takes.
func (s *Server) patiently(ctx context.Context, fn func(base int64) error) error {
	select {
	case s.writing <- struct{}{}:
		defer func() { <-s.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.again(ctx, fn)
}

func (s *Server) again(ctx context.Context, fn func(base int64) error) error {
	for i := 0; ; i++ {
		head, err := s.Store.Head(ctx)
		if err != nil {
			return err
		}
		if err := fn(head.Rev); !errors.Is(err, store.ErrMoved) || i == attempts {
			return err
		}
		select {
		case <-time.After(time.Duration(i) * 10 * time.Millisecond): // at once the first time
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Server) accept(ctx context.Context, p Proposal) error {
	if s.Accept == nil {
		return nil
	}
	return s.Accept(ctx, p)
}

func each(changes []store.Change) iter.Seq2[store.Change, error] {
	return func(yield func(store.Change, error) bool) {
		for _, c := range changes {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// AcceptByCompiling gives an Accept that reads all content for each proposal and
// compiles it: where a node's own copy, which has the content compiled already,
// cannot answer. It holds all hosts and redirects in memory, once, beside the table.
func AcceptByCompiling(db *store.DB) func(context.Context, Proposal) error {
	return func(ctx context.Context, p Proposal) error {
		var c merged
		changes, err := p.inOrder(ctx)
		if err != nil {
			return err
		}
		next, stop := iter.Pull2(changes)
		defer stop()
		change, err, more := next()
		// upTo takes the changes up to an item, and reports whether one is of that item.
		upTo := func(kind, key string) (same bool, failed error) {
			for more && err == nil {
				order := cmp.Or(strings.Compare(change.Item.Kind, kind), strings.Compare(change.Item.Key, key))
				if order > 0 {
					break
				}
				if change.Op == store.Put {
					err = c.add(&change.Item)
				}
				same = order == 0
				if err == nil {
					change, err, more = next()
				}
			}
			return same, err
		}
		if err := db.View(ctx, func(v *store.View) error {
			if v.Head.Rev != p.Base {
				return store.ErrMoved
			}
			for _, kind := range []string{store.KindHost, store.KindRedirect} {
				if err := v.Scan(kind, func(it *store.Item) error {
					same, err := upTo(it.Kind, it.Key)
					if err != nil || same || p.Replaces && it.Source == p.Source && (len(p.Kinds) == 0 || slices.Contains(p.Kinds, it.Kind)) {
						return err
					}
					return c.add(it)
				}); err != nil {
					return err
				}
			}
			_, err := upTo("\xff", "")
			return err
		}); err != nil {
			return err
		}
		_, err = redirect.Compile(c.hosts, c.redirects)
		return err
	}
}

// inOrder gives the changes in the order of kind and key, as the store has items.
func (p *Proposal) inOrder(ctx context.Context) (iter.Seq2[store.Change, error], error) {
	if p.Changeset != nil {
		return p.Changeset.Each(ctx), nil
	}
	var few []store.Change
	for c, err := range p.Changes {
		if err != nil {
			return nil, err
		}
		few = append(few, c)
	}
	slices.SortFunc(few, func(a, b store.Change) int {
		return cmp.Or(strings.Compare(a.Item.Kind, b.Item.Kind), strings.Compare(a.Item.Key, b.Item.Key))
	})
	return each(few), nil
}

// merged is content with the changes of a proposal.
type merged struct {
	hosts     []fingerpost.Host
	redirects []fingerpost.Redirect
}

func (m *merged) add(it *store.Item) error {
	switch it.Kind {
	case store.KindHost:
		h, err := it.Host()
		if err != nil {
			return err
		}
		m.hosts = append(m.hosts, *h)
	case store.KindRedirect:
		r, err := it.Redirect()
		if err != nil {
			return err
		}
		m.redirects = append(m.redirects, *r)
	}
	return nil
}
