package replica

import (
	"errors"
	"iter"
	"maps"

	"fingerpost"
	"fingerpost/redirect"
)

// findIn is content.find under mu, for callers that do not hold writer.
func (r *Replica) findIn(s *state) func(*found, iter.Seq[fingerpost.HostPattern]) error {
	return func(f *found, forms iter.Seq[fingerpost.HostPattern]) error {
		r.mu.RLock()
		defer r.mu.RUnlock()
		return s.content.find(f, forms, nil)
	}
}

// Check reports what would be wrong with the content after changes: whatever
// redirect.Compile refuses (duplicates, hosts declared twice, circles) on the
// host forms that they have a say in. It changes nothing. Each error is a
// [fingerpost.Error] whose place names an item: "redirect KEY" or "host NAME".
//
// A circle is found if it leads through a rule of these forms. Where a rule or a
// host goes away, and a wildcard that takes its place leads a third rule in a
// circle, it is not; then 508 is what stops a redirect to itself.
//
// What another writer commits between Check and a commit is not seen. A revision
// that contradicts the content all the same is followed like any other; the
// table leaves an item out (see [Status]).
func (r *Replica) Check(list []Change) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	live := r.live
	if live == nil {
		return ErrNoState
	}
	// The changes go into a level of their own, over those of the state.
	s := &state{content: content{levels: append([]*changes{newChanges()}, live.content.levels...), base: live.content.base}, counts: map[string]int64{}}
	forms := map[fingerpost.HostPattern]struct{}{}
	var wrong []error
	for i := range list {
		c := list[i]
		if c.Op == Reload {
			continue
		}
		c.Item.Rev = 1 << 62 // newer than all
		if c.Op == Put {
			if err := c.Item.check(); err != nil {
				wrong = append(wrong, err)
				continue
			}
		}
		if _, err := s.changeOne(&c, forms); err != nil {
			return err
		}
	}
	f := newFound()
	if err := s.content.find(f, maps.Keys(forms), nil); err != nil {
		return err
	}
	hosts, redirects, gone := f.input()
	_, err := redirect.Layer(r.Table(), hosts, redirects, gone)
	return errors.Join(append(append(wrong, f.wrong...), err)...)
}

// check reports a value that cannot be read.
func (it *Item) check() (err error) {
	switch it.Kind {
	case KindHost:
		_, err = it.host()
	case KindRedirect:
		_, err = it.redirect()
	}
	return err
}
