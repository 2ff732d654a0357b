package replica

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	"fingerpost"
	"fingerpost/redirect"
)

// state is the content at a cursor, and its table: that of the snapshot, a
// middle layer with the changes up to some moment, and a small top layer with
// those since. A change makes the top anew, at a cost of what is in the top. Once
// this has cost as much as a new middle would, that is made, in the background.
// So the cost of a change grows with the square root of all that accumulates.
//
// What is guarded by whom: see Replica.
type state struct {
	cursor  Cursor
	digest  string // of the last revision
	end     int64  // below this revision it is no state that ever was
	content content
	mid     layer
	top     layer
	counts  map[string]int64 // items by kind
	watch   []*watch

	pieces map[fingerpost.HostPattern]*piece // of the forms in top, as they are
	spent  int                               // redirects and forms that were compiled for top since mid is new
}

// layer is a table over those below, for some host forms. No table: it is empty.
type layer struct {
	table   *redirect.Table
	forms   map[fingerpost.HostPattern]struct{}
	refused []error
}

// watch gathers the forms that change while something is built beside.
type watch struct {
	forms map[fingerpost.HostPattern]struct{}
}

func newState(f *file) *state {
	return &state{
		cursor: Cursor{f.Epoch, f.Cursor}, digest: f.Digest, end: f.CursorEnd,
		content: content{levels: []*changes{newChanges()}, base: f},
		counts:  maps.Clone(f.Counts),
	}
}

func (s *state) below() *redirect.Table {
	if s.mid.table != nil {
		return s.mid.table
	}
	return s.content.base.table
}

func (s *state) table() *redirect.Table {
	if s.top.table != nil {
		return s.top.table
	}
	return s.below()
}

// overlay is the number of redirects and forms in layers.
func (s *state) overlay() int {
	return s.mid.size() + s.top.size()
}

// size is what it takes to make the layer, in redirects and forms.
func (l *layer) size() int {
	if l.table == nil {
		return 0
	}
	return l.table.Rules() + len(l.forms)
}

// change brings revisions into the content, and gives the forms whose answers
// may be others, and a function that takes all back. Revisions up to the cursor
// are left out; a change that is not newer than its row is, too.
func (s *state) change(revisions []Revision) (forms map[fingerpost.HostPattern]struct{}, undo func(), err error) {
	forms = map[fingerpost.HostPattern]struct{}{}
	cursor, digest, counts := s.cursor, s.digest, maps.Clone(s.counts)
	var last *Revision
	back := s.content.levels[0].freeze()
	undo = func() {
		s.pieces = nil
		back()
		s.cursor, s.digest, s.counts = cursor, digest, counts
	}
	for i := range revisions {
		r := &revisions[i]
		if r.Rev <= s.cursor.Rev {
			continue
		}
		if r.Rev != s.cursor.Rev+1 {
			undo()
			return nil, nil, fmt.Errorf("%w: revision %d follows %d", ErrGap, r.Rev, s.cursor.Rev)
		}
		for j := range r.Changes {
			if err := s.changeOne(&r.Changes[j], forms); err != nil {
				undo()
				return nil, nil, err
			}
		}
		s.cursor.Rev = r.Rev
		last = r
	}
	if last != nil {
		s.digest = digestOf(last)
	}
	return forms, undo, nil
}

func (s *state) changeOne(c *Change, forms map[fingerpost.HostPattern]struct{}) error {
	kind, key := c.Item.Kind, c.Item.Key
	before, rev, err := s.content.get(kind, key)
	if err != nil || rev >= c.Item.Rev {
		return err
	}
	e := entry{rev: c.Item.Rev}
	if c.Op == Put {
		e.item = &c.Item
	}
	touch := func(it *Item) {
		switch {
		case it == nil:
		case kind == KindRedirect:
			forms[form(key)] = struct{}{}
		case kind == KindHost:
			forms[fingerpost.HostPattern(key)] = struct{}{}
			if h, err := it.host(); err == nil {
				for _, f := range namesOf(h) {
					forms[f] = struct{}{}
				}
			}
		}
	}
	touch(before)
	touch(e.item)
	if before != nil {
		s.counts[kind]--
	}
	if e.item != nil {
		s.counts[kind]++
	}
	s.content.levels[0].set(kind, key, e)
	return nil
}

// partOfLayer is how many forms are looked for at a time: others wait meanwhile.
const partOfLayer = 32

// newLayer compiles forms, with what hangs together with them, over a table.
// find is called with some of the forms at a time.
func newLayer(base *redirect.Table, forms iter.Seq[fingerpost.HostPattern], find func(*found, iter.Seq[fingerpost.HostPattern]) error) (layer, error) {
	f := newFound()
	var part []fingerpost.HostPattern
	for form := range forms {
		if part = append(part, form); len(part) == partOfLayer {
			if err := find(f, slices.Values(part)); err != nil {
				return layer{}, err
			}
			part = part[:0]
		}
	}
	if err := find(f, slices.Values(part)); err != nil {
		return layer{}, err
	}
	l := layer{forms: f.forms, refused: f.wrong}
	if len(f.forms) == 0 {
		return layer{}, nil
	}
	hosts, redirects, gone := f.input()
	l.table = redirect.LayerAccepted(base, hosts, redirects, gone, func(err error) { l.refused = append(l.refused, err) })
	return l, nil
}

// renew makes the top layer of the content as it is now, with forms that have
// changed.
func (s *state) renew(changed map[fingerpost.HostPattern]struct{}) error {
	if len(changed) == 0 {
		return nil
	}
	all := maps.Clone(changed)
	maps.Copy(all, s.top.forms)
	if s.pieces == nil {
		s.pieces = map[fingerpost.HostPattern]*piece{}
	}
	for form := range changed {
		delete(s.pieces, form)
	}
	top, err := newLayer(s.below(), maps.Keys(all), func(f *found, forms iter.Seq[fingerpost.HostPattern]) error {
		return s.content.find(f, forms, s.pieces)
	})
	if err != nil {
		return err
	}
	s.spent += top.size()
	s.top = top
	for _, w := range s.watch {
		maps.Copy(w.forms, changed)
	}
	return nil
}

// settle makes a top layer that is large the middle one, where there is none.
func (s *state) settle() {
	if s.mid.table == nil && s.top.size() > minFold {
		s.mid, s.top, s.pieces, s.spent = s.top, layer{}, nil, 0
	}
}

// minFold is a top layer that costs so little that it is left as it is.
const minFold = 256

// foldable reports whether the middle layer is due to be made anew.
func (s *state) foldable() bool {
	return s.top.size() > minFold && s.spent >= s.overlay()
}

func (s *state) beginWatch() *watch {
	w := &watch{forms: map[fingerpost.HostPattern]struct{}{}}
	s.watch = append(s.watch, w)
	return w
}

func (s *state) endWatch(w *watch) {
	s.watch = slices.DeleteFunc(s.watch, func(other *watch) bool { return other == w })
}
