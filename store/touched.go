package store

import (
	"context"
	"fmt"
)

// touched is the last revision behind another one that changed hosts or
// redirects; 0 if none did. What is there now stands in items with the revision
// of its last change, and what was there in history with the one that ended it:
// the greatest of both is exact, whichever way the changes came.
type touched struct{ last int64 }

func (v *touched) load(since int64) []*statement {
	v.last = 0
	greatest := func(r rows) error {
		var n int64
		err := r.Scan(&n)
		v.last = max(v.last, n)
		return err
	}
	const kinds = `kind IN ('` + KindHost + `', '` + KindRedirect + `')`
	since = max(since, 0)
	return []*statement{
		{sql: `SELECT COALESCE(max(rev), 0) FROM items WHERE rev > $1 AND ` + kinds, args: []any{since}, row: greatest},
		{sql: `SELECT COALESCE(max(until), 0) FROM history WHERE until > $1 AND ` + kinds, args: []any{since}, row: greatest},
	}
}

// check reports that the content is not what it was at revision since. newest is
// the newest revision.
func (v *touched) check(since int64, h *Head, newest int64) error {
	since = max(since, 0)
	switch {
	case since > newest:
		return fmt.Errorf("%w: the newest revision is %d, and %d is not there", ErrStale, newest, since)
	case since < h.HistoryFloor:
		return fmt.Errorf("%w: what was changed since revision %d is not known any more", ErrStale, since)
	case v.last > 0:
		return fmt.Errorf("%w in revision %d, after revision %d", ErrStale, v.last, since)
	}
	return nil
}

// Unchanged reports whether hosts and redirects are as they were at revision
// since: nil, or ErrStale. It is for early answers; what must hold goes with the
// write, as Since.
func (db *DB) Unchanged(ctx context.Context, since int64) error {
	var v touched
	var h Head
	if err := db.read(ctx, true, func(t tx) error {
		if err := readHead(ctx, t, &h); err != nil {
			return err
		}
		return t.run(ctx, v.load(since)...)
	}); err != nil {
		return err
	}
	return v.check(since, &h, h.Rev)
}

// Receipt gives what a call with a caller's key has come to, and its sum, for as
// long as keys are known; ErrNotFound if there was none.
func (db *DB) Receipt(ctx context.Context, key string) (first Receipt, sum string, err error) {
	var r receipt
	if err := db.read(ctx, false, func(t tx) error {
		r = receipt{}
		return t.run(ctx, r.load(key))
	}); err != nil {
		return Receipt{}, "", err
	}
	if !r.known(db.now()) {
		return Receipt{}, "", fmt.Errorf("key %q: %w", key, ErrNotFound)
	}
	first, err = r.receipt(r.hash)
	return first, r.hash, err
}
