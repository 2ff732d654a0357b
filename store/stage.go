package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"
)

// Mode says what a changeset leaves alone.
type Mode string

const (
	Merge   Mode = "merge"   // all that it does not name
	Replace Mode = "replace" // what belongs to other sources: it is all that its source has
)

// The states of a changeset.
const (
	StateOpen      = "open"
	StatePublished = "published"
	StateCancelled = "cancelled"
)

// StageOptions begin a changeset.
type StageOptions struct {
	Source string   // of all its items that name no other
	Mode   Mode     // default Merge
	Kinds  []string // of Replace: only items of these kinds are removed; default all
	Take   bool     // it may change items of other sources
	Actor  Actor
	Note   string
}

// Changeset is a change of any size, which is staged beside the content and then
// published at once. Its fields are of the time when it was read.
//
// One goroutine at a time adds to a changeset.
type Changeset struct {
	ID    string    `json:"id"`
	State string    `json:"state"`
	Count int64     `json:"count"` // items staged
	Seen  time.Time `json:"seen"`  // of the last Add or Touch
	StageOptions

	db    *DB
	chunk int64 // transactions that staged it
}

// The rows of one transaction that stages: bounded in number and in bytes, since
// they are held for a retry.
const (
	chunkRows  = 20_000
	chunkBytes = 8 << 20
)

// keepStaged is how long a changeset lives that nobody adds to, unless a draft
// has it.
const keepStaged = 24 * time.Hour

// Stage begins a changeset. It changes nothing but the staging until
// [Changeset.Publish].
func (db *DB) Stage(ctx context.Context, o StageOptions) (*Changeset, error) {
	if o.Mode == "" {
		o.Mode = Merge
	}
	switch {
	case o.Mode != Merge && o.Mode != Replace:
		return nil, invalid("mode %q", o.Mode)
	case o.Source == "" && o.Mode == Replace:
		return nil, invalid("replace needs a source: it removes what that source does not have any more")
	case !isText(o.Source) || !isText(o.Note) || !isText(o.Actor.Who) || !isText(o.Actor.Token):
		return nil, invalid("source, note or actor is no text")
	}
	for _, kind := range o.Kinds {
		if !isName(kind) {
			return nil, invalid("kind %q", kind)
		}
	}
	c := &Changeset{ID: "cs-" + newEpoch()[:10], State: StateOpen, StageOptions: o, Seen: db.now(), db: db}
	err := db.write(ctx, func(t tx) error {
		return t.run(ctx, do(`INSERT INTO changesets (id, state, mode, source, kinds, take, who, token, note, count, chunk, seen)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, 0, $10) ON CONFLICT (id) DO NOTHING`,
			c.ID, c.State, string(c.Mode), c.Source, lines(c.Kinds), c.Take, c.Actor.Who, c.Actor.Token, c.Note, micros(c.Seen)))
	})
	return c, err
}

const selectChangeset = `SELECT id, state, mode, source, kinds, take, who, token, note, count, chunk, seen FROM changesets`

// Changeset reads one changeset; ErrNotFound if there is none.
func (db *DB) Changeset(ctx context.Context, id string) (*Changeset, error) {
	all, err := db.changesets(ctx, selectChangeset+` WHERE id = $1`, id)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("changeset %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// Changesets lists those that are there, also some that are published or
// cancelled already.
func (db *DB) Changesets(ctx context.Context) ([]*Changeset, error) {
	return db.changesets(ctx, selectChangeset+` ORDER BY id`)
}

func (db *DB) changesets(ctx context.Context, text string, args ...any) (all []*Changeset, err error) {
	err = db.read(ctx, false, func(t tx) error {
		all = nil
		return each(ctx, t, func(r rows) error {
			c := &Changeset{db: db}
			var mode, kinds string
			var seen int64
			err := r.Scan(&c.ID, &c.State, &mode, &c.Source, &kinds, &c.Take, &c.Actor.Who, &c.Actor.Token, &c.Note, &c.Count, &c.chunk, &seen)
			c.Mode, c.Kinds, c.Seen = Mode(mode), split(kinds), fromMicros(seen)
			all = append(all, c)
			return err
		}, text, args...)
	})
	return all, err
}

// Add stages what changes yields, some thousands in each transaction; memory
// stays the same however many there are. On nil all of them are on disk. After
// an error, which may be one that changes yielded, some of them may be staged:
// Cancel, or go on with the rest.
//
// A change without a source has the changeset's. Preconditions (If) are not for
// staging: ErrInvalid, as for an item that comes twice.
func (c *Changeset) Add(ctx context.Context, changes iter.Seq2[Change, error]) (n int64, err error) {
	w := c.newWriter(ctx)
	var chunk []Change
	bytes := 0
	for change, err := range changes {
		if err != nil {
			return w.end(err)
		}
		if change.Item.Source == "" {
			change.Item.Source = c.Source
		}
		if err := c.check(&change); err != nil {
			return w.end(err)
		}
		if chunk == nil {
			chunk = make([]Change, 0, chunkRows)
		}
		chunk = append(chunk, change)
		if bytes += len(change.Item.Value) + len(change.Item.Key); len(chunk) == chunkRows || bytes > chunkBytes {
			if !w.write(chunk) {
				return w.end(nil)
			}
			chunk, bytes = nil, 0
		}
	}
	if len(chunk) > 0 {
		w.write(chunk)
	}
	return w.end(nil)
}

// Each gives what is staged, in the order of kind and key, each time anew and in
// bounded memory, on whichever handle. It ends with an [ErrConflict] if the
// changeset was published or cancelled meanwhile, and with an [ErrCorrupt] if
// rows are missing.
func (c *Changeset) Each(ctx context.Context) iter.Seq2[Change, error] {
	const together = 1000 // rows of one query, unless they are large
	return func(yield func(Change, error) bool) {
		var n int64
		var last itemName
		for {
			var page []Change
			bytes := 0
			err := c.db.read(ctx, false, func(t tx) error {
				page, bytes = page[:0], 0
				err := each(ctx, t, func(r rows) error {
					var change Change
					if err := scanStaged(r, &change); err != nil {
						return err
					}
					page = append(page, change)
					if bytes += len(change.Item.Value); bytes > chunkBytes {
						return errPageFull
					}
					return nil
				}, `SELECT s.op, s.kind, s.key, s.since, s.source, s.team, s.value FROM staged s
					WHERE s.changeset = $1 AND (s.kind, s.key) > ($2, $3) ORDER BY s.changeset, s.kind, s.key LIMIT $4`, c.ID, last.kind, last.key, int64(together))
				if errors.Is(err, errPageFull) {
					err = nil
				}
				return err
			})
			if err != nil {
				yield(Change{}, err)
				return
			}
			for _, change := range page {
				change.Take = c.Take
				if n++; !yield(change, nil) {
					return
				}
				last = itemName{change.Item.Kind, change.Item.Key}
			}
			if len(page) < together && bytes <= chunkBytes {
				break
			}
		}
		now, err := c.db.Changeset(ctx, c.ID)
		switch {
		case err != nil:
		case now.State != StateOpen:
			err = c.ended(now.State)
		case now.Count != n:
			err = fmt.Errorf("%w: %d items were staged for the changeset %s, and %d are there: stage them again", ErrCorrupt, now.Count, c.ID, n)
		}
		if err != nil {
			yield(Change{}, err)
		}
	}
}

// errPageFull ends a page of rows that are large.
var errPageFull = errors.New("the page is full")

func scanStaged(r rows, change *Change) error {
	var op string
	var since int64
	it := &change.Item
	err := r.Scan(&op, &it.Kind, &it.Key, &since, &it.Source, &it.Team, (*[]byte)(&it.Value))
	if change.Op, it.Since = Op(op), fromMicros(since); len(it.Value) == 0 {
		it.Value = nil
	}
	return err
}

// chunkWriter stages one chunk while the next is being read.
type chunkWriter struct {
	chunks chan []Change
	done   chan struct{} // closed after the last chunk, or the first error
	n      int64         // staged; read after done
	err    error         // read after done
}

func (c *Changeset) newWriter(ctx context.Context) *chunkWriter {
	w := &chunkWriter{chunks: make(chan []Change), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for chunk := range w.chunks {
			if w.err = c.addChunk(ctx, chunk); w.err != nil {
				return
			}
			w.n += int64(len(chunk))
		}
	}()
	return w
}

// write reports whether there is sense in going on.
func (w *chunkWriter) write(chunk []Change) bool {
	select {
	case w.chunks <- chunk:
		return true
	case <-w.done:
		return false
	}
}

// end waits until all is on disk.
func (w *chunkWriter) end(err error) (int64, error) {
	close(w.chunks)
	<-w.done
	if w.err != nil {
		err = w.err
	}
	return w.n, err
}

func (c *Changeset) check(change *Change) error {
	switch {
	case change.Op != Put && change.Op != Delete:
		return invalid("the change of %s %s has the op %q", change.Item.Kind, change.Item.Key, change.Op)
	case change.If != 0:
		return invalid("%s %s: a changeset has no preconditions for single items", change.Item.Kind, change.Item.Key)
	case change.Op == Put && c.Mode == Replace && change.Item.Source != c.Source:
		return invalid("%s %s is of the source %s, in a changeset that replaces %s", change.Item.Kind, change.Item.Key, change.Item.Source, c.Source)
	}
	return change.Item.check(change.Op == Put)
}

var stagedColumns = []string{"changeset", "kind", "key", "op", "since", "source", "team", "value"}

// addChunk stages rows in one transaction. The number of the chunk tells a retry
// whether the first try came through.
func (c *Changeset) addChunk(ctx context.Context, chunk []Change) error {
	seen := make(map[itemName]bool, len(chunk))
	for i := range chunk {
		name := itemName{chunk[i].Item.Kind, chunk[i].Item.Key}
		if seen[name] {
			return c.twice(name)
		}
		seen[name] = true
	}
	err := c.db.retry(ctx, func(attempt int) error {
		return c.db.engine.write(ctx, func(t tx) error {
			took := do(`UPDATE changesets SET count = count + $2, chunk = chunk + 1, seen = $3 WHERE id = $1 AND state = 'open' AND chunk = $4`,
				c.ID, int64(len(chunk)), micros(c.db.now()), c.chunk)
			if err := t.run(ctx, took); err != nil {
				return err
			}
			if took.affected == 0 {
				return c.notOpen(ctx, t, attempt)
			}
			return t.fill(ctx, "staged", stagedColumns, len(chunk), func(i int) []any {
				it := &chunk[i].Item
				return []any{c.ID, it.Kind, it.Key, string(chunk[i].Op), micros(it.Since), it.Source, it.Team, string(it.Value)}
			})
		})
	})
	switch {
	case err == nil:
		c.chunk++
		c.Count += int64(len(chunk))
		return nil
	case c.db.engine.duplicate(err):
		return c.findTwice(ctx, chunk, err)
	}
	return err
}

func (c *Changeset) notOpen(ctx context.Context, t tx, attempt int) error {
	var found bool
	var state string
	var chunk int64
	if err := t.run(ctx, one(&found, []any{&state, &chunk}, `SELECT state, chunk FROM changesets WHERE id = $1`, c.ID)); err != nil {
		return err
	}
	switch {
	case !found:
		return fmt.Errorf("changeset %s: %w", c.ID, ErrNotFound)
	case state != StateOpen:
		return c.ended(state)
	case chunk == c.chunk+1 && attempt > 0:
		return nil // the answer to the first try was lost
	}
	return fmt.Errorf("%w: somebody else adds to the changeset %s", ErrConflict, c.ID)
}

func (c *Changeset) ended(state string) error {
	if state == StateCancelled {
		return fmt.Errorf("%w: the changeset %s is %w", ErrConflict, c.ID, ErrCancelled)
	}
	return fmt.Errorf("%w: the changeset %s is %s", ErrConflict, c.ID, state)
}

func (c *Changeset) twice(name itemName) error {
	return invalid("%s %s comes twice in the changeset", name.kind, name.key)
}

// findTwice says which item of chunk is staged already.
func (c *Changeset) findTwice(ctx context.Context, chunk []Change, err error) error {
	for i := range chunk {
		var found bool
		var op string
		name := itemName{chunk[i].Item.Kind, chunk[i].Item.Key}
		look := c.db.read(ctx, false, func(t tx) error {
			return t.run(ctx, one(&found, []any{&op}, `SELECT op FROM staged WHERE changeset = $1 AND kind = $2 AND key = $3`, c.ID, name.kind, name.key))
		})
		if look != nil {
			return errors.Join(err, look)
		}
		if found {
			return c.twice(name)
		}
	}
	return err
}

// Touch keeps a changeset from being taken for a leftover.
func (c *Changeset) Touch(ctx context.Context) error {
	return c.db.write(ctx, func(t tx) error {
		touched := do(`UPDATE changesets SET seen = $2 WHERE id = $1 AND state = 'open'`, c.ID, micros(c.db.now()))
		if err := t.run(ctx, touched); err != nil || touched.affected > 0 {
			return err
		}
		return c.notOpen(ctx, t, 0)
	})
}

// Cancel drops a changeset that is not published. It may be called again.
func (c *Changeset) Cancel(ctx context.Context) error {
	err := c.db.write(ctx, func(t tx) error {
		ended := do(`UPDATE changesets SET state = 'cancelled', seen = $2 WHERE id = $1 AND state <> 'published'`, c.ID, micros(c.db.now()))
		if err := t.run(ctx, ended); err != nil || ended.affected > 0 {
			return err
		}
		return c.notOpen(ctx, t, 0)
	})
	if err == nil {
		err = c.db.dropStaged(ctx, c.ID)
	}
	return err
}

// dropStaged removes staged rows, some thousands in each transaction so that
// other writers come in between.
func (db *DB) dropStaged(ctx context.Context, id string) error {
	if done, err := db.engine.truncateStaged(ctx, id); done || err != nil {
		return err
	}
	var from itemName
	for {
		var next itemName
		var more bool
		err := db.write(ctx, func(t tx) error {
			more = false
			if err := t.run(ctx, one(&more, []any{&next.kind, &next.key}, `SELECT kind, key FROM staged
				WHERE changeset = $1 AND (kind, key) >= ($2, $3) ORDER BY changeset, kind, key LIMIT 1 OFFSET 10000`, id, from.kind, from.key)); err != nil {
				return err
			}
			if !more {
				return t.run(ctx, do(`DELETE FROM staged WHERE changeset = $1`, id))
			}
			// From where it was left: what was deleted before still stands in the index.
			return t.run(ctx, do(`DELETE FROM staged WHERE changeset = $1 AND (kind, key) >= ($2, $3) AND (kind, key) < ($4, $5)`,
				id, from.kind, from.key, next.kind, next.key))
		})
		if err != nil || !more {
			return err
		}
		from = next
	}
}

// Summary is what publishing a changeset would do now.
type Summary struct {
	Added   int64 `json:"added"`
	Changed int64 `json:"changed"`
	Removed int64 `json:"removed"`
	Same    int64 `json:"same"`    // staged, and so already
	Foreign int64 `json:"foreign"` // of those changed or removed: another source's
}

// Changes is how many items would be different.
func (s *Summary) Changes() int64 { return s.Added + s.Changed + s.Removed }

// What a staged row s and an item i have to do with each other.
const (
	joinStaged = `FROM staged s LEFT JOIN items i ON i.kind = s.kind AND i.key = s.key WHERE s.changeset = $1`
	differs    = `(i.value <> s.value OR i.source <> s.source OR i.team <> s.team)`
	leftOver   = `i.source = $1 AND i.kind = $2 AND NOT EXISTS (SELECT 1 FROM staged s WHERE s.changeset = $3 AND s.kind = i.kind AND s.key = i.key)`
)

// Summary compares the changeset with the content. It reads all that is staged.
// An [ErrConflict]: it is published or cancelled.
func (c *Changeset) Summary(ctx context.Context) (s Summary, err error) {
	if err := c.db.engine.beforeCompare(ctx, c.Count); err != nil {
		return s, err
	}
	err = c.db.read(ctx, true, func(t tx) error {
		var open bool
		var id string
		if err := t.run(ctx, one(&open, []any{&id}, `SELECT id FROM changesets WHERE id = $1 AND state = 'open'`, c.ID)); err != nil {
			return err
		}
		if !open {
			return c.notOpen(ctx, t, 0)
		}
		s, _, err = c.compare(ctx, t)
		return err
	})
	return s, err
}

// compare also gives the kinds of which items are removed because they are left
// over.
func (c *Changeset) compare(ctx context.Context, t tx) (s Summary, kinds []string, err error) {
	var found bool
	var count, expected int64
	if err := t.run(ctx, one(&found, []any{&expected}, `SELECT count FROM changesets WHERE id = $1`, c.ID),
		one(&found, []any{&count, &s.Added, &s.Changed, &s.Removed, &s.Same, &s.Foreign}, `SELECT count(*),
		COALESCE(sum(CASE WHEN i.key IS NULL AND s.op = 'put' THEN 1 ELSE 0 END), 0),
		COALESCE(sum(CASE WHEN s.op = 'put' AND `+differs+` THEN 1 ELSE 0 END), 0),
		COALESCE(sum(CASE WHEN s.op = 'delete' AND i.key IS NOT NULL THEN 1 ELSE 0 END), 0),
		COALESCE(sum(CASE WHEN s.op = 'put' AND i.key IS NOT NULL AND NOT `+differs+` THEN 1 ELSE 0 END), 0),
		COALESCE(sum(CASE WHEN i.source <> s.source THEN 1 ELSE 0 END), 0) `+joinStaged, c.ID)); err != nil {
		return s, nil, err
	}
	if count != expected {
		return s, nil, fmt.Errorf("%w: %d items were staged for the changeset %s, and %d are there: stage them again", ErrCorrupt, expected, c.ID, count)
	}
	if c.Mode != Replace {
		return s, nil, nil
	}
	if kinds, err = c.replaced(ctx, t); err != nil {
		return s, nil, err
	}
	for _, kind := range kinds {
		var n int64
		if err := t.run(ctx, one(&found, []any{&n}, `SELECT count(*) FROM items i WHERE `+leftOver, c.Source, kind, c.ID)); err != nil {
			return s, nil, err
		}
		s.Removed += n
	}
	return s, kinds, nil
}

// replaced lists the kinds that the source has and that may be replaced.
func (c *Changeset) replaced(ctx context.Context, t tx) (kinds []string, err error) {
	for last := ""; ; {
		var found bool
		if err := t.run(ctx, one(&found, []any{&last}, `SELECT kind FROM items WHERE source = $1 AND kind > $2 ORDER BY source, kind LIMIT 1`, c.Source, last)); err != nil || !found {
			return kinds, err
		}
		if len(c.Kinds) == 0 || slices.Contains(c.Kinds, last) {
			kinds = append(kinds, strings.Clone(last))
		}
	}
}
