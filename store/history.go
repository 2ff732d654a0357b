package store

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// What items were is kept as intervals: a row of history says what an item was
// from revision rev until, not at, revision until; what it is now stands in
// items. So a new item costs no history, and each question below is one about
// intervals.

// asOf chooses the history rows that held at revision $1.
const asOf = `h.rev <= $1 AND h.until > $1`

// checkRev reports whether what items were at rev is known.
func checkRev(h *Head, rev int64) error {
	switch {
	case rev < 0 || rev > h.Rev:
		return fmt.Errorf("revision %d: %w", rev, ErrNotFound)
	case rev < h.HistoryFloor:
		return fmt.Errorf("revision %d: %w: history begins at revision %d", rev, ErrTooOld, h.HistoryFloor)
	}
	return nil
}

// ItemAt reads what an item was at a revision. ErrNotFound: there was none, or
// no such revision. ErrTooOld: it is not known any more.
func (db *DB) ItemAt(ctx context.Context, kind, key string, rev int64) (it Item, err error) {
	err = db.read(ctx, true, func(t tx) error {
		var h Head
		if err := readHead(ctx, t, &h); err != nil {
			return err
		}
		if err := checkRev(&h, rev); err != nil {
			return err
		}
		found := false
		row := func(r rows) error {
			found = true
			return scanItem(r, &it)
		}
		err := t.run(ctx,
			&statement{row: row, args: []any{rev, kind, key}, sql: `SELECT ` + itemColumns + ` FROM items WHERE kind = $2 AND key = $3 AND rev <= $1`},
			&statement{row: row, args: []any{rev, kind, key}, sql: `SELECT h.kind, h.key, h.rev, h.since, h.source, h.team, h.value FROM history h WHERE h.kind = $2 AND h.key = $3 AND ` + asOf})
		if err == nil && !found {
			err = fmt.Errorf("%s %s at revision %d: %w", kind, key, rev, ErrNotFound)
		}
		return err
	})
	return it, err
}

// State is what an item was from a revision on.
type State struct {
	Item
	Until int64 `json:"until,omitempty"` // the revision that ended it; 0: it is so now
}

// History gives what an item has been, the newest first.
func (db *DB) History(ctx context.Context, kind, key string, limit int) (states []State, err error) {
	err = db.read(ctx, true, func(t tx) error {
		states = nil
		return each(ctx, t, func(r rows) error {
			var s State
			var since int64
			err := r.Scan(&s.Kind, &s.Key, &s.Rev, &since, &s.Source, &s.Team, (*[]byte)(&s.Value), &s.Until)
			s.Since = fromMicros(since)
			states = append(states, s)
			return err
		}, `SELECT `+itemColumns+`, 0 AS until FROM items WHERE kind = $1 AND key = $2
			UNION ALL SELECT `+itemColumns+`, until FROM history WHERE kind = $1 AND key = $2 ORDER BY rev DESC LIMIT $3`, kind, key, int64(limit))
	})
	return states, err
}

// Difference is one item that is not the same at two revisions.
type Difference struct {
	Kind   string `json:"kind"`
	Key    string `json:"key"`
	Before *Item  `json:"before,omitempty"` // nil: there was none
	After  *Item  `json:"after,omitempty"`  // nil: there is none
}

// Diff streams what is different between two revisions, in the order of kinds and
// keys, in bounded memory. An item that was changed and changed back is none of
// it. It begins behind an item, of which the zero Name is before all. ErrNotFound and
// ErrTooOld as of [DB.ItemAt].
func (db *DB) Diff(ctx context.Context, from, to int64, after Name, fn func(*Difference) error) error {
	return db.engine.read(ctx, true, func(t tx) error {
		var h Head
		if err := readHead(ctx, t, &h); err != nil {
			return err
		}
		for _, rev := range []int64{from, to} {
			if err := checkRev(&h, rev); err != nil {
				return err
			}
		}
		early, late := min(from, to), max(from, to)
		// All states that held at one of the two but not at both. Side 0 is the early one.
		var d *Difference
		flush := func() error {
			if d == nil || d.Before != nil && d.After != nil && d.Before.sameAs(d.After) {
				return nil
			}
			if from > to {
				d.Before, d.After = d.After, d.Before
			}
			return fn(d)
		}
		err := each(ctx, t, func(r rows) error {
			it := new(Item)
			var side, since int64
			if err := r.Scan(&it.Kind, &it.Key, &side, &it.Rev, &since, &it.Source, &it.Team, (*[]byte)(&it.Value)); err != nil {
				return err
			}
			it.Since = fromMicros(since)
			if d == nil || d.Kind != it.Kind || d.Key != it.Key {
				if err := flush(); err != nil {
					return err
				}
				d = &Difference{Kind: it.Kind, Key: it.Key}
			}
			if side == 0 {
				d.Before = it
			} else {
				d.After = it
			}
			return nil
		}, `SELECT kind, key, 0 AS side, rev, since, source, team, value FROM history WHERE (kind, key) > ($3, $4) AND rev <= $1 AND until > $1 AND until <= $2
			UNION ALL SELECT kind, key, 1 AS side, rev, since, source, team, value FROM history WHERE (kind, key) > ($3, $4) AND rev > $1 AND rev <= $2 AND until > $2
			UNION ALL SELECT kind, key, 1 AS side, rev, since, source, team, value FROM items WHERE (kind, key) > ($3, $4) AND rev > $1 AND rev <= $2 AND `+isContentSQL("kind")+`
			ORDER BY 1, 2, 3`, early, late, after.Kind, after.Key)
		if err != nil {
			return err
		}
		return flush()
	})
}

// Restoring says who restores or reverts.
type Restoring struct {
	Actor Actor
	Note  string
}

// Restore makes the content again what it was at a revision, as a new revision:
// a changeset of the differences. What is equal stays as it is. The caller
// publishes it, or looks at its Summary and cancels it.
func (db *DB) Restore(ctx context.Context, rev int64, o Restoring) (*Changeset, error) {
	return db.stageFrom(ctx, o, rev, func(t tx, c *Changeset) ([]*statement, error) {
		return []*statement{
			do(`INSERT INTO staged (changeset, kind, key, op, since, source, team, value)
				SELECT CAST($2 AS TEXT), h.kind, h.key, 'put', h.since, h.source, h.team, h.value FROM history h WHERE `+asOf, rev, c.ID),
			do(`INSERT INTO staged (changeset, kind, key, op, since, source, team, value)
				SELECT CAST($2 AS TEXT), i.kind, i.key, 'delete', 0, i.source, i.team, '' FROM items i WHERE i.rev > $1 AND `+isContentSQL("i.kind")+`
				AND NOT EXISTS (SELECT 1 FROM history h WHERE h.kind = i.kind AND h.key = i.key AND `+asOf+`)`, rev, c.ID),
		}, nil
	})
}

// Revert undoes one revision and leaves later ones alone: a changeset that gives
// the items that it changed their former state. With only, just these items of
// it. The caller publishes it, or looks at its Summary and cancels it; what
// another changes between the two is overwritten unless Base guards it.
//
// [Conflicts] names each item that was changed again since.
func (db *DB) Revert(ctx context.Context, rev int64, only []Name, o Restoring) (*Changeset, error) {
	return db.stageFrom(ctx, o, rev-1, func(t tx, c *Changeset) ([]*statement, error) {
		var conflicts Conflicts
		err := each(ctx, t, func(r rows) error {
			var kind, key string
			if err := r.Scan(&kind, &key); err != nil {
				return err
			}
			if len(only) == 0 || slices.Contains(only, Name{kind, key}) {
				conflicts = append(conflicts, &Conflict{Kind: kind, Key: key, Want: rev})
			}
			return nil
		}, `SELECT kind, key FROM history WHERE rev = $1
			UNION SELECT h.kind, h.key FROM history h JOIN items i ON i.kind = h.kind AND i.key = h.key
				WHERE h.until = $1 AND i.rev > $1
			ORDER BY 1, 2 LIMIT 1000`, rev)
		if err != nil {
			return nil, err
		}
		for _, conflict := range conflicts {
			if err := conflict.explain(ctx, t); err != nil {
				return nil, err
			}
		}
		if len(conflicts) > 0 {
			return nil, conflicts
		}
		// Not changed since: what it made stands in items with this revision, and
		// what it took away stands in history until this revision.
		list := []*statement{
			do(`INSERT INTO staged (changeset, kind, key, op, since, source, team, value)
				SELECT CAST($2 AS TEXT), h.kind, h.key, 'put', h.since, h.source, h.team, h.value FROM history h WHERE h.until = $1`, rev, c.ID),
			do(`INSERT INTO staged (changeset, kind, key, op, since, source, team, value)
				SELECT CAST($2 AS TEXT), i.kind, i.key, 'delete', 0, i.source, i.team, '' FROM items i WHERE i.rev = $1 AND `+isContentSQL("i.kind")+`
				AND NOT EXISTS (SELECT 1 FROM history h WHERE h.kind = i.kind AND h.key = i.key AND h.until = $1)`, rev, c.ID),
		}
		if len(only) == 0 {
			return list, nil
		}
		for _, st := range list {
			whole := st.sql + ` AND %[1]s.kind = $3 AND %[1]s.key = $4`
			alias := "h"
			if st == list[1] {
				alias = "i"
			}
			for _, name := range only {
				list = append(list, do(fmt.Sprintf(whole, alias), rev, c.ID, name.Kind, name.Key))
			}
		}
		return list[2:], nil
	})
}

// Name names one item.
type Name struct{ Kind, Key string }

// explain says what has become of the item.
func (c *Conflict) explain(ctx context.Context, t tx) error {
	c.Reason = "it was changed again, and is gone now"
	return t.run(ctx, &statement{sql: selectItem, args: []any{c.Kind, c.Key}, row: func(r rows) error {
		c.Now = new(Item)
		err := scanItem(r, c.Now)
		c.Reason = fmt.Sprintf("it was changed again in revision %d", c.Now.Rev)
		return err
	}})
}

// stageFrom begins a changeset that statements within the database fill.
func (db *DB) stageFrom(ctx context.Context, o Restoring, rev int64, fill func(t tx, c *Changeset) ([]*statement, error)) (*Changeset, error) {
	c, err := db.Stage(ctx, StageOptions{Source: "history", Take: true, Actor: o.Actor, Note: o.Note})
	if err != nil {
		return nil, err
	}
	err = db.write(ctx, func(t tx) error {
		var h Head
		if err := readHead(ctx, t, &h); err != nil {
			return err
		}
		if err := checkRev(&h, rev); err != nil {
			return err
		}
		list, err := fill(t, c)
		if err != nil {
			return err
		}
		c.Count = 0
		// A first try whose answer was lost is done over.
		if err := t.run(ctx, append([]*statement{do(`DELETE FROM staged WHERE changeset = $1`, c.ID)}, list...)...); err != nil {
			return err
		}
		for _, st := range list {
			c.Count += st.affected
		}
		c.chunk = 1
		return t.run(ctx, do(`UPDATE changesets SET count = $2, chunk = 1 WHERE id = $1`, c.ID, c.Count))
	})
	if err != nil {
		_ = c.Cancel(context.WithoutCancel(ctx)) // it is empty, and Tidy finds it
		return nil, err
	}
	return c, nil
}

// RevisionInfo is what is known of a revision longer than its changes.
type RevisionInfo struct {
	Rev     int64     `json:"rev"`
	At      time.Time `json:"at"`
	Actor             // who
	Note    string    `json:"note,omitempty"`
	Added   int64     `json:"added"`
	Changed int64     `json:"changed"`
	Removed int64     `json:"removed"`
	Names   []string  `json:"names,omitempty"` // versions
}

// Revisions gives revisions, the newest first: those before one, if it is not 0.
func (db *DB) Revisions(ctx context.Context, before int64, limit int) (all []RevisionInfo, err error) {
	if before == 0 {
		before = 1<<63 - 1
	}
	err = db.read(ctx, true, func(t tx) error {
		all = nil
		if err := each(ctx, t, func(r rows) error {
			var i RevisionInfo
			var at int64
			err := r.Scan(&i.Rev, &at, &i.Who, &i.Token, &i.Note, &i.Added, &i.Changed, &i.Removed)
			i.At = fromMicros(at)
			all = append(all, i)
			return err
		}, `SELECT rev, at, who, token, note, added, changed, removed FROM revisions WHERE rev < $1 ORDER BY rev DESC LIMIT $2`, before, int64(limit)); err != nil || len(all) == 0 {
			return err
		}
		return each(ctx, t, func(r rows) error {
			var name string
			var rev int64
			err := r.Scan(&name, &rev)
			if i := all[0].Rev - rev; 0 <= i && i < int64(len(all)) && all[i].Rev == rev {
				all[i].Names = append(all[i].Names, name)
			}
			return err
		}, `SELECT name, rev FROM versions WHERE rev >= $1 AND rev <= $2 ORDER BY name`, all[len(all)-1].Rev, all[0].Rev)
	})
	return all, err
}
