package store

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Head is where the feed ends and begins.
type Head struct {
	Epoch        string `json:"epoch"`
	Rev          int64  `json:"rev"`          // the newest revision
	Floor        int64  `json:"floor"`        // changes after it are there, those up to it are not
	HistoryFloor int64  `json:"historyFloor"` // what items were is known from this revision on
}

const headColumns = `rev, floor, history_floor, epoch`

func (h *Head) dest() []any { return []any{&h.Rev, &h.Floor, &h.HistoryFloor, &h.Epoch} }

// Cursor gives the place behind the newest revision.
func (h *Head) Cursor() Cursor { return Cursor{Epoch: h.Epoch, Rev: h.Rev} }

// Cursor is a place in the feed: behind revision Rev. It means nothing in
// another epoch.
type Cursor struct {
	Epoch string `json:"epoch"`
	Rev   int64  `json:"rev"`
}

// Revision is all that changed in one revision.
type Revision struct {
	Rev     int64        `json:"rev"`
	At      time.Time    `json:"at"`
	Changes []FeedChange `json:"changes"`
}

// FeedChange is one change as followers get it. Of a Put, Item is what the item
// is from then on; of a Delete it has no value; of a Reload only Key counts, the
// changeset's id.
type FeedChange struct {
	Op   Op   `json:"op"`
	Item Item `json:"item"`
}

// Head reads the ends of the feed.
func (db *DB) Head(ctx context.Context) (h Head, err error) {
	err = db.read(ctx, false, func(t tx) error { return readHead(ctx, t, &h) })
	return h, err
}

func readHead(ctx context.Context, t tx, h *Head) error {
	var found bool
	err := t.run(ctx, one(&found, h.dest(), `SELECT `+headColumns+` FROM feed WHERE shard = 0`))
	if err == nil && !found {
		err = fmt.Errorf("table feed has no row")
	}
	return err
}

// Changes gives whole revisions behind after, in order and without a gap: as many
// as have at most limit changes and some MaxBytes together, but at least one if there
// is one.
// Nothing new gives none. ErrTooOld: after is below the floor, of another epoch,
// or of a future that a restore has undone; fetch a snapshot.
func (db *DB) Changes(ctx context.Context, after Cursor, limit int) ([]Revision, error) {
	var revisions []Revision
	err := db.read(ctx, false, func(t tx) error {
		revisions = nil
		var h Head
		// The changes are read before the ends: what a compaction takes away between
		// the two, the floor then tells.
		stopped := fmt.Errorf("limit")
		total, bytes := 0, 0
		row := func(r rows) error {
			var c FeedChange
			var rev, since, at int64
			var op string
			if err := r.Scan(&rev, &op, &c.Item.Kind, &c.Item.Key, &since, &c.Item.Source, &c.Item.Team, (*[]byte)(&c.Item.Value), &at); err != nil {
				return err
			}
			c.Op, c.Item.Rev, c.Item.Since = Op(op), rev, fromMicros(since)
			if len(c.Item.Value) == 0 {
				c.Item.Value = nil
			}
			if n := len(revisions); n == 0 || revisions[n-1].Rev != rev {
				if n > 0 && (total >= limit || bytes > MaxBytes) {
					return stopped
				}
				revisions = append(revisions, Revision{Rev: rev, At: fromMicros(at)})
			}
			last := &revisions[len(revisions)-1]
			last.Changes = append(last.Changes, c)
			total++
			bytes += len(c.Item.Value)
			return nil
		}
		const columns = `SELECT rev, op, kind, key, since, source, team, value, at FROM changes WHERE shard = 0 AND `
		most := max(limit, 0) + MaxChanges + 1
		err := each(ctx, t, row, columns+`rev > $1 ORDER BY shard, rev, seq LIMIT $2`, after.Rev, int64(most))
		if total == most && len(revisions) == 1 { // a long one: all of it
			revisions = nil
			total = limit
			err = each(ctx, t, row, columns+`rev = $1 ORDER BY shard, rev, seq`, after.Rev+1)
		}
		if err != nil && err != stopped {
			return err
		}
		if len(revisions) > 1 && total > limit {
			revisions = revisions[:len(revisions)-1] // it went over the limit, or is not whole
		}
		if err := readHead(ctx, t, &h); err != nil {
			return err
		}
		switch {
		case after.Epoch != h.Epoch:
			return fmt.Errorf("%w: the epoch is %s", ErrTooOld, h.Epoch)
		case after.Rev < h.Floor || after.Rev > h.Rev:
			return fmt.Errorf("%w: revision %d is not in (%d, %d]", ErrTooOld, after.Rev, h.Floor, h.Rev)
		}
		for i := range revisions {
			if want := after.Rev + 1 + int64(i); revisions[i].Rev != want {
				return fmt.Errorf("the feed has revision %d in place of %d", revisions[i].Rev, want)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return revisions, nil
}

// Waiting looks at the database after these times even if nobody says that there
// is something new. That is the truth; all else makes it quicker.
const (
	firstPoll = 50 * time.Millisecond
	lastPoll  = time.Second
)

// Wait returns when there is a revision behind after, or the epoch is another,
// and gives the ends of the feed then.
func (db *DB) Wait(ctx context.Context, after Cursor) (Head, error) {
	db.listen.Do(func() { db.background(&db.tasks, db.listener) })
	pause := firstPoll
	for {
		news := db.news.next() // before the look, so that nothing falls between the two
		h, err := db.Head(ctx)
		if err != nil || h.Rev > after.Rev || h.Epoch != after.Epoch {
			return h, err
		}
		poll := time.NewTimer(pause)
		select {
		case <-news:
			pause = firstPoll
		case <-poll.C:
			pause = min(2*pause, lastPoll)
		case <-db.ctx.Done():
			err = ErrClosed
		case <-ctx.Done():
			err = ctx.Err()
		}
		poll.Stop()
		if err != nil {
			return Head{}, err
		}
	}
}

// signal wakes all that wait for the next call of all.
type signal struct {
	mu sync.Mutex // guards ch
	ch chan struct{}
}

func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) all() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// announce is called after each commit that made a revision.
func (db *DB) announce() {
	db.news.all()
	select {
	case db.tell <- struct{}{}:
	default: // the announcer has one to come that will cover this too
	}
}

// announcer tells other handles, outside of the commits: NOTIFY within them would
// take a lock of the whole server.
func (db *DB) announcer() {
	for {
		select {
		case <-db.tell:
			ctx, cancel := context.WithTimeout(db.ctx, 5*time.Second)
			if err := db.engine.wake(ctx); err != nil && db.ctx.Err() == nil {
				db.log.Debug("announce a revision", "error", err) // the others poll
			}
			cancel()
		case <-db.ctx.Done():
			return
		}
	}
}

// listener hears of the commits of other handles.
func (db *DB) listener() {
	pause := firstPoll
	for db.ctx.Err() == nil {
		err := db.engine.listen(db.ctx, func() {
			pause = firstPoll
			db.news.all()
		})
		if db.ctx.Err() != nil {
			return
		}
		db.log.Debug("listen for revisions; polling meanwhile", "error", err)
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-db.ctx.Done():
			wait.Stop()
		}
		pause = min(2*pause, lastPoll)
	}
}

// NewEpoch makes every cursor that was given out so far useless, so that all
// followers fetch a snapshot. Call it after the database itself was set back by
// other means than [DB.ReadBackup], such as a copied file or a server restored to a
// point in time.
func (db *DB) NewEpoch(ctx context.Context) (string, error) { return db.newEpoch(ctx, "") }

// EndEpoch is NewEpoch if the epoch is still that one: of several that have found out
// that the database was set back, one makes another epoch. It gives the one there is.
func (db *DB) EndEpoch(ctx context.Context, epoch string) (string, error) {
	return db.newEpoch(ctx, epoch)
}

func (db *DB) newEpoch(ctx context.Context, old string) (string, error) {
	epoch := newEpoch()
	var h Head
	err := db.write(ctx, func(t tx) error {
		if err := t.run(ctx, do(`UPDATE feed SET epoch = $1 WHERE shard = 0 AND ($2 = '' OR epoch = $2)`, epoch, old)); err != nil {
			return err
		}
		return readHead(ctx, t, &h)
	})
	if err == nil {
		db.announce()
	}
	return h.Epoch, err
}
