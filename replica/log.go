package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// The log holds the revisions behind a snapshot, in segments: files of frames,
// the first of which says which cursor the segment follows. A segment is only
// appended to, and only the last one is. A new one begins with each snapshot, so
// that what a snapshot has made useless is removed as whole files.
//
// Who changes it holds Replica.writer, or is opening it; floor, read and bytes are for
// everybody.
type log struct {
	dir  string
	slog *slog.Logger
	next int // number of the next segment

	// mu guards what follows, and what is in the segments. Nobody writes or syncs a
	// file while holding it. Who changes the log reads them without it.
	mu       sync.RWMutex
	segments []*segment
}

type segment struct {
	path    string
	f       *os.File
	after   Cursor
	offsets []int64 // of the frame of revision after.Rev+1+i
	size    int64   // of what is whole
	closed  bool    // a write has failed: what stands behind size is unknown, the next revision goes to a new segment
}

func (s *segment) last() int64 { return s.after.Rev + int64(len(s.offsets)) }

const (
	logPrefix  = "log-"
	badSuffix  = ".bad"
	tempSuffix = ".tmp"
)

func numbered(prefix string, n int) string { return fmt.Sprintf("%s%010d", prefix, n) }

// numberOf gives the number in a name that numbered made.
func numberOf(prefix, name string) (n int, ok bool) {
	_, err := fmt.Sscanf(name, prefix+"%d", &n)
	return n, err == nil && name == numbered(prefix, n)
}

// openLog reads the segments of dir. A record at the end of the last one that was
// not written to its end is cut off. A damaged record elsewhere is refused with
// all that stands behind it in its segment; what could not be used is kept beside
// it in a file that ends with .bad.
func openLog(dir string, l *slog.Logger) (*log, map[*segment][]Revision, error) {
	lg := &log{dir: dir, slog: l}
	entries, err := os.ReadDir(dir) // in order
	if err != nil {
		return nil, nil, err
	}
	revisions := map[*segment][]Revision{}
	for _, e := range entries {
		n, ok := numberOf(logPrefix, e.Name())
		if !ok {
			continue
		}
		lg.next = n + 1
		s, list, err := lg.openSegment(filepath.Join(dir, e.Name()))
		if err != nil {
			lg.close()
			return nil, nil, err
		}
		if s != nil {
			lg.segments = append(lg.segments, s)
			revisions[s] = list
		}
	}
	for i, s := range lg.segments {
		s.closed = s.closed || i < len(lg.segments)-1
	}
	return lg, revisions, nil
}

// openSegment gives nil for a segment of which nothing can be used.
func (l *log) openSegment(path string) (s *segment, revisions []Revision, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	b, err := io.ReadAll(f)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	s = &segment{path: path, f: f}
	kind, payload, rest, err := cutFrame(b)
	if err == nil && kind != frameSegment {
		err = ErrBadFrame
	}
	if err == nil {
		err = json.Unmarshal(payload, &s.after)
	}
	if err != nil {
		f.Close()
		if len(b) > 0 && !errors.Is(err, errShort) { // else it was never begun
			l.slog.Error("refuse a segment of the log: its beginning is damaged", "file", path, "bytes", len(b))
			return nil, nil, os.Rename(path, path+badSuffix)
		}
		return nil, nil, os.Remove(path)
	}
	for s.size = int64(len(b) - len(rest)); len(rest) > 0; s.size = int64(len(b) - len(rest)) {
		kind, payload, behind, err := cutFrame(rest)
		var r Revision
		if err == nil && kind != frameRevision {
			err = ErrBadFrame
		}
		if err == nil {
			r, err = decodeRevision(payload)
		}
		if err == nil && r.Rev != s.last()+1 {
			err = fmt.Errorf("revision %d follows %d", r.Rev, s.last())
		}
		if err != nil {
			return s, revisions, l.cutOff(s, rest, err)
		}
		s.offsets = append(s.offsets, s.size)
		revisions = append(revisions, r)
		rest = behind
	}
	return s, revisions, nil
}

// cutOff ends a segment before rest, which begins with what is no record.
func (l *log) cutOff(s *segment, rest []byte, why error) error {
	if errors.Is(why, errShort) {
		l.slog.Warn("cut a record off the log that was not written to its end", "file", s.path, "revision", s.last()+1, "bytes", len(rest))
	} else {
		l.slog.Error("refuse what is damaged in the log, and all behind it", "file", s.path, "revision", s.last()+1, "bytes", len(rest), "error", why)
		if err := os.WriteFile(s.path+badSuffix, rest, 0o600); err != nil {
			l.slog.Error("keep the damaged part of the log", "error", err)
		}
	}
	if err := s.f.Truncate(s.size); err != nil {
		return fmt.Errorf("cut %s: %w", s.path, err)
	}
	return s.f.Sync()
}

// begin starts a segment behind a cursor. It is on disk on return.
func (l *log) begin(after Cursor, frames []byte, offsets []int64) (err error) {
	path := filepath.Join(l.dir, numbered(logPrefix, l.next))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(path)
		}
	}()
	l.next++ // never again, whatever becomes of it
	b := appendJSONFrame(nil, frameSegment, after)
	s := &segment{path: path, f: f, after: after}
	for _, at := range offsets {
		s.offsets = append(s.offsets, int64(len(b))+at)
	}
	b = append(b, frames...)
	s.size = int64(len(b))
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := syncDir(l.dir); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.segments); n > 0 {
		l.segments[n-1].closed = true
	}
	l.segments = append(l.segments, s)
	return nil
}

// tail is the segment that may be appended to; nil if there is none.
func (l *log) tail() *segment {
	if n := len(l.segments); n > 0 && !l.segments[n-1].closed {
		return l.segments[n-1]
	}
	return nil
}

// write appends frames, which follow the cursor that is given. They are on disk
// when sync has returned nil. After an error they are not
// there; undo, which takes an error of sync along, makes it so later on.
func (l *log) write(after Cursor, frames []byte, offsets []int64) (sync func() error, undo func(error) error, err error) {
	s := l.tail()
	begun := s == nil || s.after.Epoch != after.Epoch || s.last() != after.Rev
	if begun {
		if err := l.begin(after, nil, nil); err != nil {
			return nil, nil, err
		}
		s = l.tail()
	}
	size, n := s.size, len(s.offsets)
	undo = func(err error) error {
		l.mu.Lock()
		s.size, s.offsets = size, s.offsets[:n]
		// What a failed fsync has left on disk nobody knows: this file is done with.
		s.closed = err != nil
		l.mu.Unlock()
		return errors.Join(err, s.f.Truncate(size))
	}
	if _, err := s.f.WriteAt(frames, s.size); err != nil {
		if undo(nil) != nil {
			l.mu.Lock()
			s.closed = true
			l.mu.Unlock()
		}
		return nil, nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, at := range offsets {
		s.offsets = append(s.offsets, s.size+at)
	}
	s.size += int64(len(frames))
	return s.f.Sync, undo, nil
}

// read gives whole revisions behind a cursor: as many as have at most limit
// changes together, but at least one if there is one.
func (l *log) read(after Cursor, limit int) (revisions []Revision, err error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	total := 0
	for _, s := range l.segments {
		if s.after.Epoch != after.Epoch || s.after.Rev > after.Rev {
			continue
		}
		for after.Rev < s.last() {
			i := int(after.Rev - s.after.Rev)
			end := s.size
			if i+1 < len(s.offsets) {
				end = s.offsets[i+1]
			}
			b := make([]byte, end-s.offsets[i])
			if _, err := s.f.ReadAt(b, s.offsets[i]); err != nil {
				return nil, err
			}
			_, payload, _, err := cutFrame(b)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.path, err)
			}
			r, err := decodeRevision(payload)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.path, err)
			}
			if total += len(r.Changes); total > limit && len(revisions) > 0 {
				return revisions, nil
			}
			revisions = append(revisions, r)
			after.Rev = r.Rev
		}
	}
	return revisions, nil
}

// floor is the revision of an epoch behind which all up to rev are there.
func (l *log) floor(c Cursor) int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	floor := c.Rev
	for _, s := range slices.Backward(l.segments) {
		if s.after.Epoch == c.Epoch && s.last() >= floor {
			floor = min(floor, s.after.Rev)
		}
	}
	return floor
}

// drop removes the segments that end at or before a cursor, or are of an epoch
// that is neither its nor the one of keep.
func (l *log) drop(c Cursor, epochs []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = slices.DeleteFunc(l.segments, func(s *segment) bool {
		if s == l.tail() || s.after.Epoch == c.Epoch && s.last() > c.Rev || s.after.Epoch != c.Epoch && slices.Contains(epochs, s.after.Epoch) {
			return false
		}
		s.f.Close()
		if err := os.Remove(s.path); err != nil {
			l.slog.Warn("remove a part of the log", "error", err)
		}
		return true
	})
}

// bytes is the size of what would be replayed behind a revision.
func (l *log) bytes(c Cursor) (n int64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, s := range l.segments {
		if s.after.Epoch == c.Epoch && s.last() > c.Rev {
			n += s.size
		}
	}
	return n
}

func (l *log) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segments {
		s.f.Close()
	}
}

// removeTemporary removes what a crash has left half made.
func removeTemporary(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), tempSuffix) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
