package replica

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const heartbeat = 5 * time.Second

// Feed is a feed, as the functions that it is read by: those of a store, or of a
// replica ([Replica.Feed]).
type Feed struct {
	// Head gives the ends of the feed.
	Head func(ctx context.Context) (Head, error)
	// Changes gives whole revisions behind after, in order and without a gap: as
	// many as have at most limit changes together, but at least one if there is
	// one. ErrTooOld: it does not know after.
	Changes func(ctx context.Context, after Cursor, limit int) ([]Revision, error)
	// Wait returns when there is a revision behind after, or the epoch is another.
	Wait func(ctx context.Context, after Cursor) (Head, error)

	Heartbeat time.Duration // default 5 s

	// Diverged is called when a follower of this epoch has a revision that is not in
	// the feed: one beyond its end, or another one of that number. The database was
	// set back then, by other means than our restore. May be nil.
	Diverged func(ctx context.Context, after Cursor)
}

// digest gives the digest of the revision at a cursor; "" where the feed does not
// reach back to it.
func (f Feed) digest(ctx context.Context, at Cursor) (string, error) {
	if at.Rev == 0 {
		return "", nil
	}
	list, err := f.Changes(ctx, Cursor{at.Epoch, at.Rev - 1}, 1)
	if errors.Is(err, ErrTooOld) {
		return "", nil
	}
	if err != nil || len(list) == 0 || list[0].Rev != at.Rev {
		return "", err
	}
	return digestOf(&list[0]), nil
}

// check reports whether the feed can be followed from a place, and gives its ends.
func (f Feed) check(ctx context.Context, after Place) (h Head, err error) {
	diverged := func(format string, args ...any) error {
		if f.Diverged != nil {
			f.Diverged(ctx, after.Cursor)
		}
		return fmt.Errorf("%w: "+format, append([]any{ErrTooOld}, args...)...)
	}
	h, err = f.Head(ctx)
	switch {
	case err != nil:
		return h, err
	case h.Epoch != after.Epoch:
		return h, fmt.Errorf("%w: the epoch is %s", ErrTooOld, h.Epoch)
	case after.Rev > h.Rev:
		return h, diverged("revision %d is beyond %d", after.Rev, h.Rev)
	case after.Rev < h.Floor:
		return h, fmt.Errorf("%w: revision %d is not in (%d, %d]", ErrTooOld, after.Rev, h.Floor, h.Rev)
	case after.Digest == "":
		return h, nil
	}
	digest, err := f.digest(ctx, after.Cursor)
	if err == nil && differ(digest, after.Digest) {
		err = diverged("revision %d is another one here", after.Rev)
	}
	return h, err
}

// Follow calls fn with the head, with the revisions behind after as they come,
// and with the head again whenever it has been silent for a while. flush, which
// may be nil, is called before it waits.
func (f Feed) Follow(ctx context.Context, after Place, fn func(Frame) error, flush func() error) error {
	if f.Heartbeat == 0 {
		f.Heartbeat = heartbeat
	}
	tellHead := func() error {
		h, err := f.check(ctx, after)
		if err != nil {
			return err
		}
		after.Digest = "" // what comes from here on is known to follow
		return fn(Frame{Head: h})
	}
	if err := tellHead(); err != nil {
		return err
	}
	for {
		revisions, err := f.Changes(ctx, after.Cursor, 1000)
		if err != nil {
			return err
		}
		for i := range revisions {
			if err := fn(Frame{Revision: &revisions[i]}); err != nil {
				return err
			}
			after.Rev = revisions[i].Rev
		}
		if len(revisions) > 0 {
			continue
		}
		if flush != nil {
			if err := flush(); err != nil {
				return err
			}
		}
		beat, cancel := context.WithTimeout(ctx, f.Heartbeat)
		_, err = f.Wait(beat, after.Cursor)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			err = tellHead()
		}
		if err != nil {
			return err
		}
	}
}

// Join makes an Upstream of this process: the store of a node that is edge and
// control in one, or another replica. ack may be nil.
func Join(feed Feed, snapshot func(ctx context.Context, atLeast Cursor) (*Snapshot, error), ack func(ctx context.Context, at Cursor) error) Upstream {
	return joined{feed, snapshot, ack}
}

type joined struct {
	feed     Feed
	snapshot func(ctx context.Context, atLeast Cursor) (*Snapshot, error)
	ack      func(ctx context.Context, at Cursor) error
}

func (j joined) Snapshot(ctx context.Context, atLeast Cursor) (io.ReadCloser, error) {
	s, err := j.snapshot(ctx, atLeast)
	if err != nil {
		return nil, err
	}
	pr, pw := io.Pipe()
	go func() {
		_, err := s.WriteTo(pw)
		s.Close()
		pw.CloseWithError(err)
	}()
	return pr, nil
}

func (j joined) Revisions(ctx context.Context, after Place, fn func(Frame) error) error {
	return j.feed.Follow(ctx, after, fn, nil)
}

func (j joined) Acknowledge(ctx context.Context, at Cursor) error {
	if j.ack == nil {
		return nil
	}
	return j.ack(ctx, at)
}

// Snapshot is a snapshot to be sent. It stays readable when the file is removed.
type Snapshot struct {
	Header
	f *os.File
}

func openSnapshot(path string) (*Snapshot, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var head file
	if err := head.readTrailer(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Snapshot{head.Header, f}, nil
}

// WriteTo sends the snapshot: a frame with its header, then the file.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(appendJSONFrame(nil, frameSnapshot, s.Header))
	if err != nil {
		return int64(n), err
	}
	m, err := io.Copy(w, io.NewSectionReader(s.f, 0, s.Bytes))
	return int64(n) + m, err
}

// Close frees it.
func (s *Snapshot) Close() error { return s.f.Close() }

// Snapshots makes snapshots of a store, and keeps the newest one for as long as
// the feed holds what follows it.
type Snapshots struct {
	Dir  string // a folder of its own
	Feed Feed
	Scan func(ctx context.Context) (Content, error)

	mu     sync.Mutex // held while one is made, so that followers share it
	newest string     // its path
	header Header
	n      int
}

// Get gives a snapshot of this epoch that the feed can be followed from, and that
// is not before atLeast if that is of this epoch.
func (s *Snapshots) Get(ctx context.Context, atLeast Cursor) (*Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	head, err := s.Feed.Head(ctx)
	if err != nil {
		return nil, err
	}
	if atLeast.Epoch == head.Epoch && atLeast.Rev > head.Rev {
		// Another snapshot would not be of that revision either.
		if head, err = s.Feed.check(ctx, Place{Cursor: atLeast}); err != nil {
			return nil, err
		}
	}
	if s.newest != "" && s.header.Epoch == head.Epoch && s.header.Cursor >= head.Floor &&
		(atLeast.Epoch != head.Epoch || s.header.Cursor >= atLeast.Rev) {
		if snapshot, err := openSnapshot(s.newest); err == nil {
			return snapshot, nil
		}
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, err
	}
	if s.n == 0 { // what an earlier process has left; it may be of another database
		old, err := filepath.Glob(filepath.Join(s.Dir, snapshotPrefix+"*"))
		if err != nil {
			return nil, err
		}
		for _, path := range old {
			os.Remove(path)
		}
	}
	c, err := s.Scan(ctx)
	if err != nil {
		return nil, err
	}
	if c.Digest, err = s.Feed.digest(ctx, c.Cursor); err != nil {
		return nil, err
	}
	s.n++
	path := filepath.Join(s.Dir, numbered(snapshotPrefix, s.n))
	if err := writeFile(path+tempSuffix, c, nil); err != nil {
		return nil, err
	}
	if err := install(path+tempSuffix, path); err != nil {
		return nil, err
	}
	snapshot, err := openSnapshot(path)
	if err != nil {
		return nil, err
	}
	if s.newest != "" {
		os.Remove(s.newest)
	}
	s.newest, s.header = path, snapshot.Header
	return snapshot, nil
}

// Feed gives the replica's own feed, so that others can follow it instead of a
// control node. It reaches as far back as the replica's log.
func (r *Replica) Feed() Feed {
	head := func() (Head, <-chan struct{}, error) {
		r.mu.RLock()
		defer r.mu.RUnlock()
		if r.live == nil {
			return Head{}, r.news, ErrNoState
		}
		c := r.served.Cursor
		return Head{Epoch: c.Epoch, Rev: c.Rev, Floor: r.log.floor(c)}, r.news, nil
	}
	return Feed{
		Head: func(context.Context) (Head, error) {
			h, _, err := head()
			return h, err
		},
		Changes: func(_ context.Context, after Cursor, limit int) ([]Revision, error) {
			h, _, err := head()
			if err != nil {
				return nil, err
			}
			if after.Epoch != h.Epoch || after.Rev < h.Floor || after.Rev > h.Rev {
				return nil, fmt.Errorf("%w: %s is not in (%d, %d] of %s", ErrTooOld, after, h.Floor, h.Rev, h.Epoch)
			}
			return r.log.read(after, limit)
		},
		Wait: func(ctx context.Context, after Cursor) (Head, error) {
			for {
				h, news, err := head()
				if err != nil || h.Rev > after.Rev || h.Epoch != after.Epoch {
					return h, err
				}
				select {
				case <-news:
				case <-ctx.Done():
					return Head{}, ctx.Err()
				}
			}
		},
	}
}

// Snapshot gives the replica's newest snapshot, or makes one where that is before
// atLeast.
func (r *Replica) Snapshot(_ context.Context, atLeast Cursor) (*Snapshot, error) {
	for try := 0; ; try++ {
		r.writer.Lock()
		path := ""
		if r.live != nil {
			path = r.live.content.base.path
		}
		r.writer.Unlock()
		if path == "" {
			return nil, ErrNoState
		}
		s, err := openSnapshot(path)
		if err == nil && (atLeast.Epoch != s.Epoch || s.Cursor >= atLeast.Rev) {
			return s, nil
		}
		if err == nil {
			s.Close()
			err = fmt.Errorf("%w as of revision %d", ErrNoState, atLeast.Rev)
			if at, ok := r.Cursor(); !ok || at.Rev < atLeast.Rev || try > 0 {
				return nil, err
			}
			if err := r.Compact(); err != nil {
				return nil, err
			}
			continue
		}
		if try > 0 || !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
}

// readFeed decodes a feed until src or fn fails.
func readFeed(src io.Reader, fn func(Frame) error) error {
	in := frameReader{bufio.NewReaderSize(src, 64<<10)}
	for {
		kind, payload, err := in.next()
		if err != nil {
			return err
		}
		f, err := decodeFrame(kind, payload)
		if err != nil {
			return err
		}
		if err := fn(f); err != nil {
			return err
		}
	}
}
