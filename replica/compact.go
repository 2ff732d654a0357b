package replica

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"fingerpost"
)

// maintain begins in the background what has become due. The caller holds writer.
func (r *Replica) maintain() {
	s := r.live
	if r.ctx.Err() != nil {
		return
	}
	if s.foldable() && r.folding.CompareAndSwap(false, true) {
		w := s.beginWatch()
		forms := maps.Clone(s.mid.forms)
		if forms == nil {
			forms = maps.Clone(s.top.forms)
		}
		maps.Copy(forms, s.top.forms)
		base := s.content.base
		r.tasks.Go(func() {
			defer r.folding.Store(false)
			r.fold(s, base, w, forms)
		})
	}
	overlay := s.overlay()
	due := overlay >= r.o.MaxOverlay || overlay >= max(r.o.MinOverlay, int(r.o.Share*float64(s.content.base.table.Rules()))) ||
		r.log.bytes(Cursor{s.cursor.Epoch, s.content.base.Cursor}) > r.o.MaxLog
	if due && time.Now().After(r.retry) && r.compacting.CompareAndSwap(false, true) {
		r.tasks.Go(func() {
			defer r.compacting.Store(false)
			if err := r.compact(); err != nil && r.ctx.Err() == nil {
				r.o.Log.Error("compact the log into a snapshot", "error", err)
				r.writer.Lock()
				r.retry = time.Now().Add(time.Minute)
				r.writer.Unlock()
			}
		})
	}
}

// fold makes a middle layer of the forms of both layers. Changes go on meanwhile:
// what it has of the forms that they are about does not count, since the new top
// layer has these.
func (r *Replica) fold(s *state, base *file, w *watch, forms map[fingerpost.HostPattern]struct{}) {
	mid, err := newLayer(base.table, maps.Keys(forms), r.findIn(s))
	r.writer.Lock()
	defer r.writer.Unlock()
	s.endWatch(w)
	if err != nil {
		r.o.Log.Error("fold the layers of the table", "error", r.blame(err))
		return
	}
	if r.live != s || s.content.base != base {
		return // a new snapshot has made it useless
	}
	was := [2]layer{s.mid, s.top}
	s.mid, s.top, s.pieces, s.spent = mid, layer{}, nil, 0
	if err := s.renew(w.forms); err != nil {
		s.mid, s.top, s.pieces = was[0], was[1], nil
		r.o.Log.Error("fold the layers of the table", "error", r.blame(err))
		return
	}
	r.publish()
}

// Compact writes a snapshot of the content as it is now, and takes it into use.
// It does so by itself when enough has changed. It does nothing, and gives nil,
// where nothing has.
func (r *Replica) Compact() error {
	for !r.compacting.CompareAndSwap(false, true) {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-r.ctx.Done():
			return r.ctx.Err()
		}
	}
	defer r.compacting.Store(false)
	return r.compact()
}

// compact is run by one goroutine at a time. A crash at any point leaves the old
// snapshot with all segments of the log, or the new one beside them.
func (r *Replica) compact() error {
	r.writer.Lock()
	s := r.live
	if s == nil || s.cursor.Rev == s.content.base.CursorEnd && s.cursor.Rev == s.content.base.Cursor {
		r.writer.Unlock()
		return nil
	}
	// From here on changes go to a level and a segment of their own.
	frozen := content{levels: s.content.levels, base: s.content.base}
	all := frozen.view()
	at, digest, about := s.cursor, s.digest, int(s.counts[KindRedirect])
	err := r.log.begin(at, nil, nil)
	if err == nil {
		r.mu.Lock()
		s.content.levels = append([]*changes{newChanges()}, s.content.levels...)
		r.mu.Unlock()
	}
	path := r.newFile()
	w := s.beginWatch()
	r.writer.Unlock()
	if err == nil {
		r.o.fault("frozen")
		err = r.writeSnapshot(path, Content{Cursor: at, Digest: digest, About: about, Items: all.items("")})
	}
	var f *file
	if err == nil {
		r.o.fault("built")
		f, err = openFile(path + tempSuffix)
	}
	r.writer.Lock()
	defer r.writer.Unlock()
	s.endWatch(w)
	switch {
	case err == nil && r.live != s:
		err = errors.New("another snapshot came first")
	case err == nil:
		err = r.swap(s, f, path, w)
	}
	if err != nil {
		os.Remove(path + tempSuffix)
		r.mu.Lock()
		s.content.thaw(&frozen)
		r.mu.Unlock()
		return r.blame(err)
	}
	r.o.fault("swapped")
	r.clean()
	r.publish()
	return nil
}

func (r *Replica) writeSnapshot(path string, c Content) error {
	items := c.Items
	c.Items = func(yield func(*Item, error) bool) {
		for it, err := range items {
			if err == nil {
				err = r.ctx.Err()
			}
			if !yield(it, err) || err != nil {
				return
			}
		}
	}
	return writeFile(path+tempSuffix, c, nil)
}

// swap puts a snapshot of s in the place of its base and of the levels that are
// in it; what changed meanwhile is a layer over it. The caller holds writer.
func (r *Replica) swap(s *state, f *file, path string, w *watch) error {
	next := &state{cursor: s.cursor, digest: s.digest, end: s.end, counts: s.counts,
		content: content{levels: s.content.levels[:1:1], base: f}}
	if err := next.renew(w.forms); err != nil {
		return err
	}
	next.settle()
	if err := install(path+tempSuffix, path); err != nil {
		return err
	}
	f.path = path
	r.files = append(r.files, path)
	r.o.fault("installed")
	r.mu.Lock()
	s.content, s.mid, s.top, s.pieces, s.spent = next.content, next.mid, next.top, next.pieces, next.spent
	r.mu.Unlock()
	return nil
}

// thaw joins the levels that were frozen with the one that was put above them.
func (c *content) thaw(frozen *content) {
	if c.base != frozen.base || len(c.levels) <= len(frozen.levels) {
		return
	}
	lower := c.levels[1]
	lower.freeze()
	c.levels[0].tree.prefix("", func(n *tree) bool {
		lower.tree = lower.tree.put(n.name, n.entry, lower.number)
		return true
	})
	for form, hosts := range c.levels[0].claims {
		for host := range hosts {
			insert(lower.claims, form, host)
		}
	}
	c.levels = c.levels[1:]
}

// newFile gives the path of the next snapshot. The caller holds writer.
func (r *Replica) newFile() string {
	path := filepath.Join(r.o.Dir, numbered(snapshotPrefix, r.nextID))
	r.nextID++
	return path
}

// clean removes all snapshots but the newest two, and the log that neither of
// them needs. The one before the newest is for the day when that is damaged. The
// caller holds writer.
func (r *Replica) clean() {
	for len(r.files) > 2 {
		if err := os.Remove(r.files[0]); err != nil && !errors.Is(err, os.ErrNotExist) {
			r.o.Log.Warn("remove an old snapshot", "error", err)
			return
		}
		r.files = slices.Delete(r.files, 0, 1)
	}
	keep, epochs := Cursor{}, []string{}
	for _, path := range r.files {
		h, err := readHeader(path)
		if err != nil {
			r.o.Log.Warn("look at a snapshot", "error", err)
			return
		}
		if h.Epoch == r.live.cursor.Epoch && (keep.Epoch == "" || h.Cursor < keep.Rev) {
			keep = Cursor{h.Epoch, h.Cursor}
		}
		epochs = append(epochs, h.Epoch)
	}
	r.log.drop(keep, epochs)
}

// readHeader reads what a snapshot is of, without checking the rest of it.
func readHeader(path string) (Header, error) {
	src, err := os.Open(path)
	if err != nil {
		return Header{}, err
	}
	defer src.Close()
	var f file
	if err := f.readTrailer(src); err != nil {
		return Header{}, fmt.Errorf("%s: %w", path, err)
	}
	return f.Header, nil
}

// install takes a snapshot that was fetched, at path+tempSuffix, into use, with
// revisions that were replayed on it. The caller holds writer.
func (r *Replica) install(s *state, path string, frames []byte, offsets []int64) error {
	if s.cursor.Rev < s.end {
		return fmt.Errorf("at revision %d of %d it is no state yet", s.cursor.Rev, s.end)
	}
	// The log before the snapshot: where a crash comes between, the segment is of
	// no use, and of no harm.
	if err := r.log.begin(Cursor{s.cursor.Epoch, s.content.base.Cursor}, frames, offsets); err != nil {
		return err
	}
	r.o.fault("segment begun")
	if err := install(path+tempSuffix, path); err != nil {
		return err
	}
	s.content.base.path = path
	r.files = append(r.files, path)
	r.o.fault("installed")
	r.mu.Lock()
	r.live = s // served is of the old one for a moment yet, as the table is
	r.mu.Unlock()
	r.clean()
	r.publish()
	r.o.Items(nil)
	return nil
}
