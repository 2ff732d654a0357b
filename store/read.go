package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Get reads one item; ErrNotFound if there is none.
func (db *DB) Get(ctx context.Context, kind, key string) (it Item, err error) {
	var found bool
	err = db.read(ctx, false, func(t tx) error {
		return t.run(ctx, &statement{sql: selectItem, args: []any{kind, key}, row: func(r rows) error {
			found = true
			return scanItem(r, &it)
		}})
	})
	if err == nil && !found {
		err = fmt.Errorf("%s %s: %w", kind, key, ErrNotFound)
	}
	return it, err
}

// Query chooses items of one kind. Empty fields choose all.
type Query struct {
	Prefix string // of the key
	After  string // only keys behind this one: the last key of the page before
	Source string
	Team   string
	Limit  int // 0 for no limit
}

// List gives items of one kind in the order of their keys, as of one instant.
func (db *DB) List(ctx context.Context, kind string, q Query) ([]Item, error) {
	var items []Item
	err := db.read(ctx, false, func(t tx) error {
		items = nil
		return list(ctx, t, kind, q, func(it *Item) error {
			items = append(items, *it)
			return nil
		})
	})
	return items, err
}

// list builds the one statement whose conditions vary.
func list(ctx context.Context, t tx, kind string, q Query, fn func(*Item) error) error {
	text, args := `SELECT `+itemColumns+` FROM items WHERE kind = $1`, []any{kind}
	and := func(condition string, arg any) {
		args = append(args, arg)
		text += " AND " + condition + " $" + strconv.Itoa(len(args))
	}
	if q.Prefix != "" {
		and("key >=", q.Prefix)
		if end := prefixEnd(q.Prefix); end != "" {
			and("key <", end)
		}
	}
	if q.After != "" {
		and("key >", q.After)
	}
	if q.Source != "" {
		and("source =", q.Source)
	}
	if q.Team != "" {
		and("team =", q.Team)
	}
	text += " ORDER BY kind, key"
	if q.Limit > 0 {
		args = append(args, int64(q.Limit))
		text += " LIMIT $" + strconv.Itoa(len(args))
	}
	return each(ctx, t, func(r rows) error {
		var it Item
		if err := scanItem(r, &it); err != nil {
			return err
		}
		return fn(&it)
	}, text, args...)
}

// prefixEnd is the first text behind all that begin with prefix and are valid
// UTF-8; empty if there is none. The last byte of a prefix is below 0x7f in all
// that we use, so one more is text still.
func prefixEnd(prefix string) string {
	b := []byte(prefix)
	last := len(b) - 1
	if b[last] >= 0x7f {
		return prefix + "\U0010FFFF"
	}
	b[last]++
	return string(b)
}

// View is the content at one instant.
type View struct {
	Head Head
	ctx  context.Context
	t    tx
}

// View runs fn on the content of one instant, whatever is committed meanwhile.
// It is not retried. A view that stays open for minutes keeps the database from
// tidying up behind it.
func (db *DB) View(ctx context.Context, fn func(*View) error) error {
	return db.engine.read(ctx, true, func(t tx) error {
		v := &View{ctx: ctx, t: t}
		if err := readHead(ctx, t, &v.Head); err != nil {
			return err
		}
		return fn(v)
	})
}

// Scan streams all items of one kind in the order of their keys. The item is
// fn's only during the call.
func (v *View) Scan(kind string, fn func(*Item) error) error {
	return list(v.ctx, v.t, kind, Query{}, fn)
}

// Kinds lists the kinds of which there are items.
func (v *View) Kinds() (kinds []string, err error) {
	for last := ""; ; { // a step of the index for each, where DISTINCT would read it all
		var found bool
		if err := v.t.run(v.ctx, one(&found, []any{&last}, `SELECT kind FROM items WHERE kind > $1 ORDER BY kind LIMIT 1`, last)); err != nil || !found {
			return kinds, err
		}
		kinds = append(kinds, last)
	}
}

// Count counts the items of one kind.
func (v *View) Count(kind string) (n int64, err error) {
	var found bool
	err = v.t.run(v.ctx, one(&found, []any{&n}, `SELECT count(*) FROM items WHERE kind = $1`, kind))
	return n, err
}

// Scan streams all items of one kind in the order of their keys, in constant
// memory, and gives the revision that they are of: followed from this cursor,
// nothing is missed and nothing comes twice. It is not retried.
func (db *DB) Scan(ctx context.Context, kind string, fn func(*Item) error) (c Cursor, err error) {
	err = db.View(ctx, func(v *View) error {
		c = v.Head.Cursor()
		return v.Scan(kind, fn)
	})
	return c, err
}

// lines joins names for a column, and split takes them apart.
func lines(names []string) string { return strings.Join(names, "\n") }

func split(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
