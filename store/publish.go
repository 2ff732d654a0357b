package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// PublishOptions are the conditions of a publication.
type PublishOptions struct {
	Key, Sum    string // as of a Batch
	Base, Since int64  // as of a Batch
	// MaxRemoved, if not 0, is how many items may be removed; -1 for none. More
	// is ErrTooLarge.
	MaxRemoved int64
}

// Publish brings a changeset into force: one revision, all or nothing, whatever
// its size. On nil it is on disk. Up to MaxTold differences, and
// MaxBytes of them, are told by the feed one by one; more are one change with the op
// Reload, after which followers fetch a snapshot. It changes only what differs.
//
// While a large changeset is published, other writes wait; readers do not.
//
// Errors: [Conflicts] if it would change items of other sources without Take;
// [ErrMoved]; [ErrStale]; [ErrPaused]; [ErrTooLarge] by MaxRemoved; an [ErrConflict] if it is published or
// cancelled already (under the same Key: the first receipt); [ErrNotFound].
func (c *Changeset) Publish(ctx context.Context, o PublishOptions) (Receipt, error) {
	db := c.db
	if len(o.Key) > MaxKey || !isText(o.Key) || !isText(o.Sum) {
		return Receipt{}, invalid("the idempotency key is over %d bytes or no text", MaxKey)
	}
	sum := cmp.Or(o.Sum, hashOf([]byte("publish "+c.ID)))
	if err := db.retry(ctx, func(int) error { return db.engine.beforeCompare(ctx, c.Count) }); err != nil {
		return Receipt{}, err
	}
	r, repeated, err := once(ctx, db, o.Key, sum, func(t tx) (Receipt, error) { return c.publish(ctx, t, o) })
	if err != nil {
		return Receipt{}, err
	}
	r.Repeated = repeated && o.Key != ""
	db.announce()
	db.background(&db.cleaning, func() {
		if err := db.dropStaged(db.ctx, c.ID); err != nil && db.ctx.Err() == nil {
			db.log.Warn("drop what was staged for a published changeset; the next Tidy does", "changeset", c.ID, "error", err)
		}
		if r.Changes() > MaxChanges {
			if err := db.engine.settle(db.ctx); err != nil && db.ctx.Err() == nil {
				db.log.Debug("settle after a large publication", "error", err)
			}
		}
	})
	return r, nil
}

func (c *Changeset) publish(ctx context.Context, t tx, o PublishOptions) (Receipt, error) {
	db := c.db
	a := &applying{db: db, now: db.now().UTC().Truncate(time.Microsecond), items: map[itemName]*Item{}}
	if err := lockFeed(ctx, t, &a.head, +1); err != nil {
		return Receipt{}, err
	}
	a.rev = a.head.Rev
	r := Receipt{Epoch: a.head.Epoch, Rev: a.rev, At: a.now}
	if o.Base != 0 && o.Base != a.rev-1 {
		return r, fmt.Errorf("%w: the newest revision is %d, not %d", ErrMoved, a.rev-1, o.Base)
	}
	if err := c.mayPublish(ctx, t, o.Since, &a.head); err != nil {
		return r, err
	}
	ended := do(`UPDATE changesets SET state = 'published', seen = $2 WHERE id = $1 AND state = 'open'`, c.ID, micros(a.now))
	if err := t.run(ctx, ended, a.chain.load()); err != nil {
		return r, err
	}
	if ended.affected == 0 {
		return r, c.notOpen(ctx, t, 0)
	}
	s, kinds, err := c.compare(ctx, t)
	if err != nil {
		return r, err
	}
	switch limit := max(o.MaxRemoved, 0); {
	case o.MaxRemoved != 0 && s.Removed > limit:
		return r, fmt.Errorf("%w: %d items would be removed, and %d may be", ErrTooLarge, s.Removed, limit)
	case s.Foreign > 0 && !c.Take:
		return r, c.foreign(ctx, t)
	case s.Changes() == 0:
		r.Rev--
		return r, t.run(ctx, do(`UPDATE feed SET rev = rev - 1 WHERE shard = 0`))
	default:
		err = errLarge
		if s.Changes() <= MaxChanges {
			err = c.publishSmall(ctx, t, a, kinds, &r)
		}
		if errors.Is(err, errLarge) {
			err = c.publishLarge(ctx, t, a, s, kinds, &r)
		}
	}
	if err != nil {
		return r, err
	}
	a.write = append(a.write, insertRevision(&r, c.Actor, c.Note), a.chain.save())
	return r, t.run(ctx, a.write...)
}

// mayPublish decides what does not depend on the changes.
func (c *Changeset) mayPublish(ctx context.Context, t tx, since int64, h *Head) error {
	if since != 0 {
		var last touched
		if err := t.run(ctx, last.load(since)...); err != nil {
			return err
		}
		if err := last.check(since, h, h.Rev-1); err != nil {
			return err
		}
	}
	var found, paused bool
	if err := t.run(ctx, one(&found, []any{&paused}, `SELECT paused FROM sources WHERE label = $1`, c.Source)); err != nil {
		return err
	}
	if paused {
		return fmt.Errorf("%w: %s", ErrPaused, c.Source)
	}
	return nil
}

// foreign names some of the items that belong to other sources.
func (c *Changeset) foreign(ctx context.Context, t tx) error {
	var all Conflicts
	err := each(ctx, t, func(r rows) error {
		var it Item
		if err := scanItem(r, &it); err != nil {
			return err
		}
		all = append(all, &Conflict{Kind: it.Kind, Key: it.Key, Now: &it, Reason: "it belongs to the source " + it.Source})
		return nil
	}, `SELECT i.kind, i.key, i.rev, i.since, i.source, i.team, i.value `+joinStaged+` AND i.source <> s.source ORDER BY s.changeset, s.kind, s.key LIMIT 100`, c.ID)
	if err != nil {
		return err
	}
	return all
}

// differences gives each change that publishing makes: those staged that are not so
// already, then the deletes of what is left over of kinds.
func (c *Changeset) differences(ctx context.Context, t tx, kinds []string, fn func(Change) error) error {
	if err := each(ctx, t, func(r rows) error {
		var change Change
		if err := scanStaged(r, &change); err != nil {
			return err
		}
		return fn(change)
	}, `SELECT s.op, s.kind, s.key, s.since, s.source, s.team, s.value `+joinStaged+`
		AND (s.op = 'put' AND (i.key IS NULL OR `+differs+`) OR s.op = 'delete' AND i.key IS NOT NULL) ORDER BY s.changeset, s.kind, s.key`, c.ID); err != nil {
		return err
	}
	for _, kind := range kinds {
		if err := each(ctx, t, func(r rows) error {
			change := Change{Op: Delete, Item: Item{Kind: kind}}
			if err := r.Scan(&change.Item.Key); err != nil {
				return err
			}
			return fn(change)
		}, `SELECT i.key FROM items i WHERE `+leftOver+` ORDER BY i.source, i.kind, i.key`, c.Source, kind, c.ID); err != nil {
			return err
		}
	}
	return nil
}

// Differences lists the changes that publishing would make now, as far as they are
// not more than most: then it is ErrTooLarge. However much is staged, it holds in
// memory only what is different.
func (c *Changeset) Differences(ctx context.Context, most int) (list []Change, err error) {
	if err := c.db.engine.beforeCompare(ctx, c.Count); err != nil {
		return nil, err
	}
	err = c.db.read(ctx, true, func(t tx) error {
		list = nil
		var kinds []string
		if c.Mode == Replace {
			var err error
			if kinds, err = c.replaced(ctx, t); err != nil {
				return err
			}
		}
		return c.differences(ctx, t, kinds, func(change Change) error {
			if len(list) == most {
				return fmt.Errorf("%w: more than %d", ErrTooLarge, most)
			}
			list = append(list, change)
			return nil
		})
	})
	return list, err
}

// errLarge says that changes are too large for memory.
var errLarge = errors.New("the changes are large")

// publishSmall writes what a Batch of the differences would. errLarge: it has
// written nothing.
func (c *Changeset) publishSmall(ctx context.Context, t tx, a *applying, kinds []string, r *Receipt) error {
	p := &pending{Batch: Batch{Actor: c.Actor, Note: c.Note}, ownKey: true}
	bytes := 0
	if err := c.differences(ctx, t, kinds, func(change Change) error {
		if bytes += len(change.Item.Value); bytes > MaxBytes {
			return errLarge
		}
		p.Changes = append(p.Changes, change)
		return nil
	}); err != nil {
		return err
	}
	if err := a.read(t, []*pending{p}, 0); err != nil {
		return err
	}
	for seq := range p.Changes {
		a.change(p, &p.Changes[seq], int64(seq), r)
	}
	return nil
}

// publishLarge moves rows within the database.
func (c *Changeset) publishLarge(ctx context.Context, t tx, a *applying, s Summary, kinds []string, r *Receipt) error {
	const intoHistory = `INSERT INTO history (kind, key, rev, until, since, source, team, value)
		SELECT i.kind, i.key, i.rev, CAST($4 AS BIGINT), i.since, i.source, i.team, i.value FROM items i WHERE `
	rev, now := a.rev, micros(a.now)
	for _, kind := range kinds {
		if err := t.run(ctx,
			do(intoHistory+leftOver, c.Source, kind, c.ID, rev),
			do(`DELETE FROM items AS i WHERE `+leftOver, c.Source, kind, c.ID)); err != nil {
			return err
		}
	}
	if s.Changed+s.Removed > 0 {
		if err := t.run(ctx,
			do(`INSERT INTO history (kind, key, rev, until, since, source, team, value)
				SELECT i.kind, i.key, i.rev, CAST($2 AS BIGINT), i.since, i.source, i.team, i.value
				FROM staged s JOIN items i ON i.kind = s.kind AND i.key = s.key
				WHERE s.changeset = $1 AND (s.op = 'delete' OR `+differs+`)`, c.ID, rev),
			do(`DELETE FROM items WHERE (kind, key) IN (SELECT kind, key FROM staged WHERE changeset = $1 AND op = 'delete')`, c.ID)); err != nil {
			return err
		}
	}
	insert := `INSERT INTO items (` + itemColumns + `)
		SELECT s.kind, s.key, CAST($2 AS BIGINT), CASE WHEN s.since = 0 THEN CAST($3 AS BIGINT) ELSE s.since END, s.source, s.team, s.value
		FROM staged s WHERE s.changeset = $1 AND s.op = 'put' ORDER BY s.changeset, s.kind, s.key`
	if s.Changed+s.Same > 0 { // an insert that expects none to be there is the quicker one
		insert += ` ON CONFLICT (kind, key) DO UPDATE SET rev = excluded.rev, source = excluded.source, team = excluded.team, value = excluded.value
			WHERE items.value <> excluded.value OR items.source <> excluded.source OR items.team <> excluded.team`
	}
	if err := t.run(ctx, do(insert, c.ID, rev, now)); err != nil {
		return err
	}
	r.Added, r.Changed, r.Removed = s.Added, s.Changed, s.Removed
	if err := c.tell(ctx, t, a, &s); err != nil {
		return err
	}
	a.write = append(a.write,
		a.chain.add(Entry{At: a.now, Rev: rev, Actor: c.Actor, Action: "publish", Kind: "changeset", Key: c.ID,
			After: fmt.Sprintf(`{"mode":%q,"added":%d,"changed":%d,"removed":%d}`, c.Mode, s.Added, s.Changed, s.Removed)}))
	return nil
}

// tell writes for the feed what was published: one by one, or that it is too much.
func (c *Changeset) tell(ctx context.Context, t tx, a *applying, s *Summary) error {
	const into = `INSERT INTO changes (shard, rev, seq, kind, op, key, since, source, team, value, at) `
	rev, now := a.rev, micros(a.now)
	if s.Changes() <= MaxTold {
		var found bool
		var bytes int64
		if err := t.run(ctx,
			do(into+`SELECT 0, CAST($2 AS BIGINT), row_number() OVER (ORDER BY i.kind, i.key) - 1, i.kind, 'put', i.key, i.since, i.source, i.team, i.value, CAST($3 AS BIGINT)
				FROM staged s JOIN items i ON i.kind = s.kind AND i.key = s.key WHERE s.changeset = $1 AND s.op = 'put' AND i.rev = CAST($2 AS BIGINT)`, c.ID, rev, now),
			do(into+`SELECT 0, CAST($1 AS BIGINT), CAST($2 AS BIGINT) + row_number() OVER (ORDER BY h.kind, h.key) - 1, h.kind, 'delete', h.key, h.since, h.source, h.team, '', CAST($3 AS BIGINT)
				FROM history h WHERE h.until = CAST($1 AS BIGINT) AND NOT EXISTS (SELECT 1 FROM items i WHERE i.kind = h.kind AND i.key = h.key)`, rev, s.Added+s.Changed, now),
			one(&found, []any{&bytes}, `SELECT COALESCE(sum(octet_length(value) + octet_length(key)), 0) FROM changes WHERE shard = 0 AND rev = $1`, rev)); err != nil {
			return err
		}
		if bytes <= int64(MaxBytes) {
			return nil
		}
		if err := t.run(ctx, do(`DELETE FROM changes WHERE shard = 0 AND rev = $1`, rev)); err != nil {
			return err
		}
	}
	return t.run(ctx, do(into+`VALUES (0, $1, 0, '', 'snapshot', $2, 0, $3, '', '', $4)`, rev, c.ID, c.Source, now))
}
