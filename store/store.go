// Package store is the truth that control nodes share: items (hosts, redirects,
// and kinds to come), the ordered feed of their changes, their history, and what
// belongs to running a cluster (people, nodes, leases, jobs).
//
// It knows SQLite and PostgreSQL, and what an item is in general: a kind, a key
// and a JSON value. It does not know what a redirect means beyond its key, who
// may change what, or who follows the feed.
//
// The rules of order, which all else rests on: a transaction takes the counter
// row of table feed first, then writes rows with the revision that it got from
// it, then appends to changes, then commits. So revisions have no gaps, and
// their order is the order of the commits: a reader that has seen revision n
// never finds a new change at or below n.
//
// Begin to read at [Open], then [DB.Commit], [DB.Changes] and [DB.Stage].
package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"time"
)

// DB is one handle. All methods may be called at once from many goroutines.
// Several handles, in one process or in many, may share a database; one SQLite
// file is for the processes of one machine.
//
// A method that writes has the result on disk when it returns nil. It retries
// what may pass (another's transaction, a lost connection, a server that
// restarts) by itself, for [Options.RetryFor]; callers do not retry, except
// after [ErrUnavailable] and [ErrUnknown].
type DB struct {
	engine   engine
	now      func() time.Time
	log      *slog.Logger
	retryFor time.Duration

	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	tasks    sync.WaitGroup // the committer, the announcer, the listener
	cleaning sync.WaitGroup // what goes on after a call and ends by itself

	queue  queue         // what waits for the committer
	news   signal        // there may be new revisions
	tell   chan struct{} // wakes the announcer; holds one
	listen sync.Once     // starts the listener with the first Wait
	using  sync.Map      // ids of tokens of which it is being noted that they are used
}

// Options may all be left zero.
type Options struct {
	Now      func() time.Time // for times that are recorded, never for order; default time.Now
	Log      *slog.Logger     // what passes by itself but may interest an operator; default none
	RetryFor time.Duration    // default 30 s

	// Later lets Open succeed while a PostgreSQL is away. It is tried for in the
	// background; until it is there all else is ErrUnavailable.
	Later bool

	// Existing keeps Open from making or migrating a database: without one it is
	// ErrNotFound.
	Existing bool
}

// Open connects to dsn, creates or migrates the schema, and checks what the
// guarantees rest on. dsn is
//
//	sqlite:FOLDER           FOLDER/fingerpost.db, created if need be
//	sqlite:FILE.db          that file
//	postgres://…            as libpq reads it; also postgresql://…
//
// When two nodes open an empty or old database at once, one migrates and the
// other waits.
func Open(ctx context.Context, dsn string, o Options) (*DB, error) {
	db := &DB{now: o.Now, log: o.Log, retryFor: o.RetryFor, tell: make(chan struct{}, 1)}
	if db.now == nil {
		db.now = time.Now
	}
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	if db.retryFor == 0 {
		db.retryFor = 30 * time.Second
	}
	db.queue.more, db.queue.drained = make(chan struct{}, 1), make(chan struct{})
	scheme, rest, _ := strings.Cut(dsn, ":")
	var err error
	switch scheme {
	case "sqlite":
		var path string
		if path, err = sqlitePath(rest); err == nil {
			db.engine, err = openSQLite(ctx, path, o.Existing)
		}
	case "postgres", "postgresql":
		if o.Later {
			db.engine, err = openPostgresLater(ctx, dsn)
		} else {
			db.engine, err = openPostgres(ctx, dsn, o.Existing)
		}
	default:
		err = invalid("the store %q is not known: use sqlite:FOLDER or postgres://…", scheme)
	}
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := db.start(ctx, dsn); err != nil {
		db.engine.close()
		return nil, fmt.Errorf("open store: %w", err)
	}
	return db, nil
}

func (db *DB) start(ctx context.Context, dsn string) error {
	db.ctx, db.cancel = context.WithCancel(context.Background())
	if l, ok := db.engine.(*later); ok {
		db.tasks.Go(func() {
			open := func(ctx context.Context) (engine, error) {
				e, err := openPostgres(ctx, dsn, false)
				if err != nil {
					return nil, err
				}
				if err := beginFeed(ctx, e); err != nil {
					e.close()
					return nil, err
				}
				return e, nil
			}
			if l.reach(db.ctx, open, func(err error) { db.log.Warn("the store cannot be reached yet; trying on", "error", err) }) {
				db.log.Info("the store is there")
				db.news.all()
			}
		})
	} else if err := db.retry(ctx, func(int) error { return beginFeed(ctx, db.engine) }); err != nil {
		return err
	}
	db.tasks.Go(db.committer)
	db.tasks.Go(db.announcer)
	return nil
}

// beginFeed makes the feed's row in a new database.
func beginFeed(ctx context.Context, e engine) error {
	return e.write(ctx, func(t tx) error {
		return t.run(ctx, do(`INSERT INTO feed (shard, rev, floor, history_floor, epoch) VALUES (0, 0, 0, 0, $1) ON CONFLICT (shard) DO NOTHING`, newEpoch()))
	})
}

// Close finishes the commits that were asked for before it, then frees what the
// handle holds. What is asked for later fails with [ErrClosed].
func (db *DB) Close() error {
	if !db.queue.close() {
		return nil
	}
	<-db.queue.drained
	db.cancel()
	db.tasks.Wait()
	db.cleaning.Wait()
	db.engine.close()
	return nil
}

// background runs what Close waits for; nothing once it was called.
func (db *DB) background(group *sync.WaitGroup, fn func()) {
	db.queue.mu.Lock()
	defer db.queue.mu.Unlock()
	if !db.queue.closed {
		group.Go(fn)
	}
}

// write runs fn in a transaction until it commits or fails for good. fn must be
// one that may be run again after a commit whose answer was lost: setting what
// is to be set. What is not so goes through [DB.once].
func (db *DB) write(ctx context.Context, fn func(tx) error) error {
	return db.retry(ctx, func(int) error { return db.engine.write(ctx, fn) })
}

// retry runs fn until it succeeds, fails for good, or time is up. fn is told how
// often it ran before.
func (db *DB) retry(ctx context.Context, fn func(attempt int) error) error {
	begin, pause, unknown := time.Now(), time.Millisecond, false
	for attempt := 0; ; attempt++ {
		err := fn(attempt)
		if err == nil {
			return nil
		}
		var commit *commitError
		if errors.As(err, &commit) {
			unknown = true
		}
		fail := func(why error) error {
			if unknown {
				return fmt.Errorf("%w: %w", ErrUnknown, why)
			}
			return why
		}
		switch {
		case ctx.Err() != nil:
			return fail(err)
		case !unknown && db.engine.full(err):
			return fmt.Errorf("%w: %w", ErrFull, err)
		case !db.engine.retryable(err):
			return fail(err)
		case time.Since(begin) > db.retryFor && unknown:
			return fail(err)
		case time.Since(begin) > db.retryFor:
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if attempt == 10 {
			db.log.WarnContext(ctx, "the database does not take a write; trying on", "error", err)
		}
		wait := time.NewTimer(pause/2 + mathrand.N(pause))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return fail(ctx.Err())
		}
		pause = min(2*pause, 250*time.Millisecond)
	}
}

// read runs fn on one connection, again after a lost connection; with snapshot
// all that it reads is of one instant. fn must start anew each time.
func (db *DB) read(ctx context.Context, snapshot bool, fn func(tx) error) error {
	return db.retry(ctx, func(int) error { return db.engine.read(ctx, snapshot, fn) })
}

// newEpoch names one life of a database.
func newEpoch() string { return strings.ToLower(rand.Text()) }

// micros is how times are stored; the zero time is 0.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}
