// Package replica is a node's own copy of all hosts and redirects: a snapshot
// file that is mapped, a log of the revisions behind it, and the table that an
// edge answers from. It keeps the copy current from a feed, and goes on without
// one: a node starts and serves from its own disk.
//
// It knows what an item is (a kind, a key, a JSON value), which host forms an
// item has a say in, and how files get lost in crashes. It does not know the
// store, nor who may follow: [Upstream], [Feed] and [Snapshots] are made of
// functions that cmd/fingerpost joins.
//
// Begin to read at [Open], then [Replica.Follow], state (state.go) and file
// (file.go).
package replica

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fingerpost"
	"fingerpost/redirect"
)

var (
	// ErrTooOld says that a feed does not hold what follows a cursor, or is of
	// another epoch: a snapshot is needed.
	ErrTooOld = errors.New("older than what is kept")
	// ErrGap says that a feed has left a revision out.
	ErrGap = errors.New("gap in the feed")
	// ErrNoState says that a replica has no content yet.
	ErrNoState = errors.New("no content yet")

	errReload = errors.New("a large change was published")
)

// Options may all be left zero but Dir.
type Options struct {
	Dir string       // the replica's own folder; one process at a time
	Log *slog.Logger // default none

	// Changed is called, one call at a time, whenever Table gives another one. It
	// holds the replica up, and calls nothing of it but Table, Cursor and Status.
	Changed func()

	// Items is called, one call at a time, when items may be others than before: in
	// the order of the revisions, each time after what it tells is on disk and given
	// out, with the changes, of several revisions where they have come together, and
	// of hosts and redirects with kind and key alone; and with nil after a whole
	// snapshot has come, when all of them may be others. What Open found is not told. It
	// holds the replica up, and calls nothing of it but Table, Cursor, Status, Get
	// and Scan. The changes are the receiver's.
	Items func(changes []Change)

	// Compaction begins when the layers hold more than a share of the snapshot's
	// redirects (default 0.05), and at least so many (default 10,000); at the
	// latest at MaxOverlay (default 200,000), so that a start stays short.
	Share                  float64
	MinOverlay, MaxOverlay int
	MaxLog                 int64 // bytes of the log at which it begins; default 64 MiB

	// Eager applies each change as soon as it comes, where otherwise many that come
	// one by one are waited for and taken together: for a node whose writers wait
	// for its own copy before they write on.
	Eager bool

	backoff, maxBackoff time.Duration // pauses after failures; default 100 ms, doubled up to 10 s

	fault func(at string) // for tests: called at points where a crash or a failure may come
}

// Replica is safe for use by many goroutines. One process at a time has a folder
// open.
type Replica struct {
	o     Options
	lock  *os.File
	table atomic.Pointer[redirect.Table] // what Table gives
	view  atomic.Pointer[view]           // what Get and Scan read, of the same revision; nil: nothing yet
	stop  context.CancelFunc             // ends what runs in the background
	ctx   context.Context
	tasks sync.WaitGroup

	// writer is held by whoever changes live or the files: apply, install, and the
	// ends of folding and compacting. It is taken before mu.
	writer sync.Mutex
	files  []string // the snapshots in the folder, the oldest first; guarded by writer
	nextID int      // of a snapshot file; guarded by writer

	log *log // which writer guards; see there

	// mu guards live and the content in it. The holder of writer reads them without
	// it; it takes mu to change them, and writes no file meanwhile.
	mu   sync.RWMutex
	live *state        // nil: nothing yet
	news chan struct{} // closed at the next change of served

	// served is where live is as of the table that is given out, and shown what there
	// is to tell of its layers: while a revision is on its way to disk, live is ahead
	// of it. Guarded by mu.
	served Place
	shown  struct {
		overlay int
		refused []error
	}

	folding, compacting atomic.Bool
	retry               time.Time // no compaction before, after one has failed; guarded by writer

	statusMu sync.Mutex // guards status
	status   following
}

const snapshotPrefix = "snapshot-"

// Open reads the copy in o.Dir, which it creates if need be, and makes it ready
// to serve. It takes time for the checksums of the snapshot's table and for the
// log, not for each redirect. Where the newest snapshot is damaged it takes the
// one before, with a longer log. With nothing there, or nothing whole, it is an
// empty replica, which a feed fills.
func Open(o Options) (r *Replica, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	defaults(&o.Share, 0.05)
	defaults(&o.MinOverlay, 10_000)
	defaults(&o.MaxOverlay, 200_000)
	defaults(&o.MaxLog, 64<<20)
	defaults(&o.backoff, 100*time.Millisecond)
	defaults(&o.maxBackoff, 10*time.Second)
	if o.fault == nil {
		o.fault = func(string) {}
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Items == nil {
		o.Items = func([]Change) {}
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	r = &Replica{o: o, news: make(chan struct{})}
	empty, err := redirect.Compile(nil, nil)
	if err != nil {
		return nil, err
	}
	r.table.Store(empty)
	if r.lock, err = os.OpenFile(filepath.Join(o.Dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	opened := r
	defer func() {
		if err != nil {
			opened.Close()
		}
	}()
	switch mine, err := lock(r.lock); {
	case err != nil:
		return nil, err
	case !mine:
		return nil, fmt.Errorf("%s is open in another process", o.Dir)
	}
	if err := removeTemporary(o.Dir); err != nil {
		return nil, err
	}
	var revisions map[*segment][]Revision
	if r.log, revisions, err = openLog(o.Dir, o.Log); err != nil {
		return nil, err
	}
	if err := r.load(revisions); err != nil {
		return nil, err
	}
	return r, nil
}

func defaults[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Close stops what runs in the background and frees the folder. A table that was
// given out goes on working.
func (r *Replica) Close() error {
	r.writer.Lock()
	r.stop() // nobody who holds writer begins a task any more
	r.writer.Unlock()
	r.tasks.Wait()
	r.writer.Lock()
	defer r.writer.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.log != nil {
		r.log.close()
	}
	return r.lock.Close()
}

// load takes the newest snapshot that is whole, and the log behind it.
func (r *Replica) load(revisions map[*segment][]Revision) error {
	entries, err := os.ReadDir(r.o.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if n, ok := numberOf(snapshotPrefix, e.Name()); ok {
			r.files = append(r.files, filepath.Join(r.o.Dir, e.Name()))
			r.nextID = n + 1
		}
	}
	for _, path := range slices.Backward(r.files) {
		f, err := openOrRebuild(path, nil)
		var s *state
		if err == nil {
			s = newState(f)
			err = r.replay(s, revisions)
		}
		if errors.Is(err, ErrDamaged) {
			r.o.Log.Error("refuse a snapshot; the one before it takes its place if there is one", "error", err)
			if err := os.Rename(path, path+badSuffix); err != nil {
				return err
			}
			r.files = slices.DeleteFunc(r.files, func(s string) bool { return s == path })
			continue
		}
		if err != nil {
			return err
		}
		s.settle()
		r.live = s
		r.show()
		r.view.Store(s.content.view())
		r.table.Store(s.table())
		r.seen()
		r.tasks.Go(func() { r.scrub(f) })
		r.maintain()
		break
	}
	return nil
}

// replay brings s to the end of the log.
func (r *Replica) replay(s *state, revisions map[*segment][]Revision) error {
	forms := map[fingerpost.HostPattern]struct{}{}
	for _, seg := range r.log.segments {
		if seg.after.Epoch != s.cursor.Epoch || seg.last() <= s.cursor.Rev {
			continue
		}
		changed, _, err := s.change(revisions[seg])
		if errors.Is(err, ErrGap) {
			r.o.Log.Error("leave out what stands in the log behind a gap", "file", seg.path, "error", err)
			continue // what comes later may follow on what comes before
		}
		if err != nil {
			return err
		}
		maps.Copy(forms, changed)
	}
	if s.cursor.Rev < s.end {
		return damaged("%s is a state from revision %d on, and the log ends at %d", s.content.base.path, s.end, s.cursor.Rev)
	}
	return s.renew(forms)
}

// scrub reads all content once after a start, so that damage is found while the
// snapshot before and the feed are still there to repair it.
func (r *Replica) scrub(f *file) {
	if err := f.verify(r.ctx.Done()); err != nil {
		r.o.Log.Error("the content of the snapshot is damaged; the table is not, and serves on until the next snapshot is fetched", "error", err)
		r.damage(f)
	}
}

// Table is the newest table, empty at first. It stays valid for as long as the
// caller refers to it; strings of its answers, for a minute longer.
func (r *Replica) Table() *redirect.Table { return r.table.Load() }

// Cursor is where the copy is; false if there is none.
func (r *Replica) Cursor() (Cursor, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.live == nil {
		return Cursor{}, false
	}
	return r.served.Cursor, true
}

// place is where a feed is followed from.
func (r *Replica) place() Place {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.served
}

// Get gives one item, as of Table; nil if there is none. The item is the caller's to
// keep. It takes some microseconds, reads one block of the snapshot, and waits for
// nobody: it may be called for each handshake, and by the threads of event loops.
func (r *Replica) Get(kind, key string) (*Item, error) {
	v := r.view.Load()
	if v == nil {
		return nil, ErrNoState
	}
	return v.get(kind, key)
}

// Scan gives the items of a kind whose keys begin with prefix, in order, as of the
// moment when it is ranged over; it waits for nobody either. An item is the
// receiver's to keep. It reads only what it gives.
func (r *Replica) Scan(kind, prefix string) iter.Seq2[*Item, error] {
	return func(yield func(*Item, error) bool) {
		v := r.view.Load()
		if v == nil {
			yield(nil, ErrNoState)
			return
		}
		for it, err := range v.items(name(kind, prefix)) {
			if err == nil {
				it = it.clone()
			}
			if !yield(it, err) {
				return
			}
		}
	}
}

// apply brings revisions into force that follow the cursor of live: in the log,
// durably, then in the table. After an error nothing has changed.
func (r *Replica) apply(revisions []Revision) error {
	r.writer.Lock()
	defer r.writer.Unlock()
	s := r.live
	if len(revisions) > 0 && revisions[0].Rev <= s.cursor.Rev {
		return fmt.Errorf("%w: revision %d comes after %d", ErrGap, revisions[0].Rev, s.cursor.Rev)
	}
	var frames []byte
	offsets := make([]int64, len(revisions))
	for i := range revisions {
		var err error
		offsets[i] = int64(len(frames))
		if frames, err = appendRevisionFrame(frames, &revisions[i]); err != nil {
			return err
		}
	}
	before, old := s.cursor, s.top
	r.mu.Lock()
	forms, undo, err := s.change(revisions)
	r.mu.Unlock()
	if err != nil {
		return r.blame(err)
	}
	r.o.fault("log begun")
	sync, unwrite, err := r.log.write(before, frames, offsets)
	if err != nil {
		r.mu.Lock()
		undo()
		r.mu.Unlock()
		return fmt.Errorf("write the log: %w", err)
	}
	r.o.fault("log written")
	synced := make(chan error, 1)
	go func() { synced <- sync() }()
	renewErr := s.renew(forms) // while the disk is busy
	if err := <-synced; err != nil || renewErr != nil {
		r.mu.Lock()
		s.top = old
		undo()
		r.mu.Unlock()
		unwriteErr := unwrite(err)
		if err != nil {
			return fmt.Errorf("write the log: %w", unwriteErr)
		}
		return r.blame(renewErr)
	}
	r.o.fault("log synced")
	r.tell(old.refused, s.top.refused)
	r.publish()
	if changes := changesOf(revisions); len(changes) > 0 {
		r.o.Items(changes)
	}
	r.maintain()
	return nil
}

// changesOf are the changes that Options.Items is told of. Of what is applied none is
// older than its item: that ends where a snapshot is taken into use.
func changesOf(revisions []Revision) (changes []Change) {
	for i := range revisions {
		for _, c := range revisions[i].Changes {
			if c.Item.Kind == KindHost || c.Item.Kind == KindRedirect {
				c.Item = Item{Kind: c.Item.Kind, Key: c.Item.Key}
			} else {
				c.Item = *c.Item.clone()
			}
			changes = append(changes, c)
		}
	}
	return changes
}

// tell logs what the table leaves out now and did not before.
func (r *Replica) tell(before, now []error) {
	known := map[string]bool{}
	for _, err := range before {
		known[err.Error()] = true
	}
	for _, err := range now {
		if !known[err.Error()] {
			r.o.Log.Warn("the table leaves an item out", "error", err)
		}
	}
}

// show notes what there is to tell of live. The caller holds writer and mu.
func (r *Replica) show() {
	s := r.live
	r.served = Place{s.cursor, s.digest}
	r.shown.overlay, r.shown.refused = s.overlay(), slices.Concat(s.mid.refused, s.top.refused)
}

// publish makes live what is served. The caller holds writer.
func (r *Replica) publish() {
	table := r.live.table()
	r.view.Store(r.live.content.view()) // before the table: a host that is new there finds what it needs
	changed := r.table.Swap(table) != table
	r.mu.Lock()
	r.show()
	close(r.news)
	r.news = make(chan struct{})
	r.mu.Unlock()
	r.applied(r.live)
	if changed {
		r.o.Changed()
	}
}
