package replica

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"time"

	"fingerpost"
)

// Upstream is what a replica follows: a control node ([Client]), the store of the
// same process or another replica ([Join]).
type Upstream interface {
	// Snapshot begins to give a snapshot, in the form that Snapshot.WriteTo
	// writes: the newest there is, and not before atLeast if the epoch is that.
	Snapshot(ctx context.Context, atLeast Cursor) (io.ReadCloser, error)

	// Revisions calls fn with a head at once, then with all revisions behind after
	// as they come, in order, and with a head every few seconds. It returns when
	// fn or the connection fails. ErrTooOld: fetch a snapshot.
	Revisions(ctx context.Context, after Place, fn func(Frame) error) error

	// Acknowledge tells how far the follower is: durably, and serving it.
	Acknowledge(ctx context.Context, at Cursor) error
}

const (
	stalled  = 3 * heartbeat          // a feed that has been silent for so long is dead
	maxBatch = 4096                   // frames that are applied at once
	ackEvery = 100 * time.Millisecond // each is a write for the control node
	maxRest  = 20 * time.Millisecond
	noRest   = time.Millisecond // a batch that takes no longer is followed by the next at once
)

// Follow keeps the replica current until ctx ends, whose error it returns. What
// fails is logged and tried again. Whatever comes is verified, then in the log on
// disk, then in the table, then acknowledged. At most one call may run.
func (r *Replica) Follow(ctx context.Context, up Upstream) error {
	f := &follower{r: r, up: up}
	defer f.forget()
	acks := make(chan Cursor, 1)
	f.acks = acks
	done := make(chan struct{})
	go func() {
		defer close(done)
		told := ""
		for at := range acks {
			switch err := up.Acknowledge(ctx, at); {
			case err == nil:
				told = ""
			case ctx.Err() != nil:
			case errors.Is(err, ErrRefused) && err.Error() != told:
				told = err.Error()
				r.o.Log.Error("the node that is followed does not take what this one reports", "error", err)
			default:
				r.o.Log.Debug("acknowledge a revision", "error", err)
			}
			select { // the next one covers what comes until then
			case <-time.After(ackEvery):
			case <-ctx.Done():
			}
		}
	}()
	defer func() { close(acks); <-done }()
	pause := r.o.backoff
	for {
		f.progress, f.fetched = false, false
		err := f.run(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if f.progress {
			pause = r.o.backoff
		}
		r.disconnected(err)
		if f.need && !f.fetched {
			r.o.Log.Info("fetch a snapshot", "because", err)
			continue
		}
		r.o.Log.Warn("follow the feed", "error", err, "again", pause)
		select {
		case <-time.After(pause/2 + rand.N(pause/2+1)):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = min(2*pause, r.o.maxBackoff)
	}
}

// follower is one call of Follow.
type follower struct {
	r         *Replica
	up        Upstream
	acks      chan Cursor
	progress  bool      // this run has brought the replica on
	fetched   bool      // this run has fetched a snapshot
	fetchedAt time.Time // when the last one was asked for
	need      bool      // a snapshot is needed, not before atLeast
	atLeast   Cursor

	// cand is a snapshot that was fetched and is not of one state yet, with what
	// has been replayed on it; nil if there is none.
	cand    *state
	path    string
	forms   map[fingerpost.HostPattern]struct{}
	frames  []byte
	offsets []int64
}

// forget drops the candidate.
func (f *follower) forget() {
	if f.cand != nil {
		os.Remove(f.path + tempSuffix)
	}
	f.cand, f.frames, f.offsets, f.forms = nil, nil, nil, nil
}

// run fetches a snapshot if need be, then follows until something fails.
func (f *follower) run(ctx context.Context) error {
	at, ok := f.r.Cursor()
	switch {
	case f.cand != nil:
	case !ok || f.need || f.repair():
		if !f.need {
			f.atLeast = at
		}
		if err := f.fetch(ctx); err != nil && (!ok || f.need) {
			return fmt.Errorf("snapshot: %w", err)
		} else if err != nil {
			f.r.o.Log.Warn("fetch a snapshot in place of the damaged one; changes are followed meanwhile", "error", err)
		}
	}
	from := f.r.place()
	if f.cand != nil {
		from = Place{f.cand.cursor, f.cand.digest}
	}
	err := f.stream(ctx, from)
	if errors.Is(err, ErrTooOld) && !errors.Is(err, errReload) {
		f.forget()
		f.need, f.atLeast = true, Cursor{}
		if at, ok := f.r.Cursor(); ok {
			f.atLeast = at
		}
	}
	return err
}

// repair reports whether the content is damaged, and it is time to try and fetch
// it anew.
func (f *follower) repair() bool {
	return f.r.isDamaged() && time.Since(f.fetchedAt) > time.Minute
}

// stream follows the feed from a cursor. One goroutine reads, this one applies
// all that has come at once.
func (f *follower) stream(ctx context.Context, at Place) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	frames := make(chan Frame, maxBatch)
	var feedErr error
	silence := time.AfterFunc(stalled, func() { cancel(fmt.Errorf("nothing came for %v", stalled)) })
	defer silence.Stop()
	go func() {
		defer close(frames)
		feedErr = f.up.Revisions(ctx, at, func(fr Frame) error {
			silence.Reset(stalled)
			select {
			case frames <- fr:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	}()
	var err error
	var rest time.Duration // before the next batch
	var ended time.Time    // the last one
	for fr := range frames {
		if err != nil {
			continue // until the reader has seen that it is over
		}
		batch := []Frame{fr}
		wait := time.NewTimer(rest - time.Since(ended))
	more:
		for open := true; open && len(batch) < maxBatch; {
			select {
			case fr, open = <-frames:
				if open {
					batch = append(batch, fr)
				}
				continue
			default:
			}
			select {
			case fr, open = <-frames:
				if open {
					batch = append(batch, fr)
				}
			case <-wait.C:
				break more
			}
		}
		wait.Stop()
		start := time.Now()
		if err = f.batch(batch); err != nil {
			cancel(err)
		}
		// Many changes that come one by one are taken together: a batch costs little
		// more than a change. A change that comes alone never waits.
		ended = time.Now()
		if !f.r.o.Eager {
			rest = min(3*(ended.Sub(start)-noRest), maxRest)
		}
	}
	switch {
	case err != nil:
		return err
	case context.Cause(ctx) != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case feedErr == nil:
		return io.ErrUnexpectedEOF
	}
	return feedErr
}

// batch takes frames that have come one after another.
func (f *follower) batch(frames []Frame) error {
	var revisions []Revision
	var head *Head
	var over error
	for i := range frames {
		switch fr := &frames[i]; {
		case fr.Revision == nil:
			head = &fr.Head
		case fr.Revision.reloads():
			at, _ := f.r.Cursor()
			if f.cand != nil {
				at = f.cand.cursor
			}
			f.need, f.atLeast = true, Cursor{at.Epoch, fr.Revision.Rev}
			over = fmt.Errorf("%w as revision %d", errReload, fr.Revision.Rev)
		default:
			revisions = append(revisions, *fr.Revision)
		}
		if over != nil {
			break
		}
	}
	if err := f.take(revisions); err != nil {
		return err
	}
	if over != nil {
		f.forget() // a snapshot that is older than the reload
		return over
	}
	at, ok := f.r.Cursor()
	f.progress = f.progress || len(revisions) > 0 || head != nil && ok && head.Rev <= at.Rev
	if head != nil {
		epoch := at.Epoch
		if f.cand != nil {
			epoch = f.cand.cursor.Epoch
		}
		if head.Epoch != epoch {
			return fmt.Errorf("%w: the epoch is %s", ErrTooOld, head.Epoch)
		}
		f.r.heard(*head, f.cand == nil)
		if f.cand == nil && f.repair() {
			return fmt.Errorf("%w: fetch another one", ErrDamaged)
		}
	}
	if ok && f.cand == nil {
		select {
		case <-f.acks: // which this one covers
		default:
		}
		f.acks <- at
	}
	return nil
}

// take applies revisions, to the candidate if there is one.
func (f *follower) take(revisions []Revision) error {
	if len(revisions) == 0 {
		return nil
	}
	if f.cand == nil {
		return f.r.apply(revisions)
	}
	forms, _, err := f.cand.change(revisions)
	if err != nil {
		return err
	}
	maps.Copy(f.forms, forms)
	for i := range revisions {
		f.offsets = append(f.offsets, int64(len(f.frames)))
		if f.frames, err = appendRevisionFrame(f.frames, &revisions[i]); err != nil {
			return err
		}
	}
	return f.promote()
}

// promote takes the candidate into use once it is a state that was.
func (f *follower) promote() error {
	s := f.cand
	if s.cursor.Rev < s.end {
		return nil
	}
	if err := s.renew(f.forms); err != nil {
		return err
	}
	s.settle()
	f.r.writer.Lock()
	err := f.r.install(s, f.path, f.frames, f.offsets)
	f.r.writer.Unlock()
	if err != nil {
		return fmt.Errorf("take a snapshot into use: %w", err)
	}
	f.r.o.Log.Info("a snapshot is in use", "cursor", s.cursor.String())
	f.cand, f.need = nil, false
	f.forget()
	return nil
}

// fetch makes a snapshot the candidate, and takes it into use if it can be.
func (f *follower) fetch(ctx context.Context) error {
	f.fetched, f.fetchedAt = true, time.Now()
	body, err := f.up.Snapshot(ctx, f.atLeast)
	if err != nil {
		return err
	}
	defer body.Close()
	f.r.writer.Lock()
	path := f.r.newFile()
	f.r.writer.Unlock()
	file, err := receive(path+tempSuffix, body)
	if err != nil {
		os.Remove(path + tempSuffix)
		return err
	}
	if file.Epoch == f.atLeast.Epoch && file.Cursor < f.atLeast.Rev {
		os.Remove(path + tempSuffix)
		return fmt.Errorf("it is of revision %d, and %d is needed", file.Cursor, f.atLeast.Rev)
	}
	f.path, f.forms, f.cand = path, map[fingerpost.HostPattern]struct{}{}, newState(file)
	f.progress = true
	if err := f.promote(); err != nil {
		f.forget()
		return err
	}
	return nil
}

// receive writes a snapshot that comes as Snapshot.WriteTo sends it to path, and
// opens it. Only what is whole and of the header that came first is accepted.
func receive(path string, src io.Reader) (f *file, err error) {
	in := bufio.NewReaderSize(src, 1<<20)
	kind, payload, err := frameReader{in}.next()
	for err == nil && kind == frameHead { // it is being made
		kind, payload, err = frameReader{in}.next()
	}
	if err != nil {
		return nil, cut(err)
	}
	var h Header
	if kind != frameSnapshot {
		return nil, fmt.Errorf("%w: of type %q", ErrBadFrame, kind)
	}
	if err := json.Unmarshal(payload, &h); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadFrame, err)
	}
	if h.Body < 0 || h.Bytes < h.Body {
		return nil, fmt.Errorf("%w: a body of %d bytes in %d", ErrBadFrame, h.Body, h.Bytes)
	}
	dst, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer dst.Close()
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(dst, sum), in, h.Body); err != nil {
		return nil, cut(err)
	}
	if _, err := io.CopyN(dst, in, h.Bytes-h.Body); err != nil {
		return nil, cut(err)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		return nil, damaged("it does not end where it says")
	}
	if hex.EncodeToString(sum.Sum(nil)) != h.SHA256 {
		return nil, damaged("its SHA-256 is not %s", h.SHA256)
	}
	if err := dst.Sync(); err != nil {
		return nil, err
	}
	f, err = openFile(path)
	if err != nil && !errors.Is(err, errOldTable) {
		return nil, err
	}
	if f.Header != h {
		return nil, damaged("it is not what its header says")
	}
	if err != nil {
		return openOrRebuild(path, nil)
	}
	return f, nil
}
