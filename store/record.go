package store

import (
	"context"
	"encoding/json"
	"fmt"
)

// Record is what a control node has to remember of its own work, and another to
// go on with: no node follows it, and it has no revisions.
type Record struct {
	Kind, Key string
	Value     json.RawMessage // nil deletes, in a Batch
}

func (r *Record) check() error {
	it := Item{Kind: r.Kind, Key: r.Key, Value: r.Value, Source: "records"}
	return it.check(r.Value != nil)
}

func (r *Record) write() *statement {
	if r.Value == nil {
		return do(`DELETE FROM records WHERE kind = $1 AND key = $2`, r.Kind, r.Key)
	}
	return do(`INSERT INTO records (kind, key, value) VALUES ($1, $2, $3) ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value`, r.Kind, r.Key, string(r.Value))
}

// GetRecord reads one record; ErrNotFound if there is none.
func (db *DB) GetRecord(ctx context.Context, kind, key string) (r Record, err error) {
	var found bool
	err = db.read(ctx, false, func(t tx) error {
		return t.run(ctx, one(&found, []any{(*[]byte)(&r.Value)}, `SELECT value FROM records WHERE kind = $1 AND key = $2`, kind, key))
	})
	if err == nil && !found {
		err = fmt.Errorf("%s %s: %w", kind, key, ErrNotFound)
	}
	r.Kind, r.Key = kind, key
	return r, err
}

// Records lists at most limit records of a kind with from <= key < to, in the
// order of the bytes of their keys; an empty to has no end.
func (db *DB) Records(ctx context.Context, kind, from, to string, limit int) (all []Record, err error) {
	err = db.read(ctx, false, func(t tx) error {
		all = nil
		row := func(r rows) error {
			record := Record{Kind: kind}
			err := r.Scan(&record.Key, (*[]byte)(&record.Value))
			all = append(all, record)
			return err
		}
		if to == "" {
			return each(ctx, t, row, `SELECT key, value FROM records WHERE kind = $1 AND key >= $2 ORDER BY key LIMIT $3`, kind, from, int64(limit))
		}
		return each(ctx, t, row, `SELECT key, value FROM records WHERE kind = $1 AND key >= $2 AND key < $3 ORDER BY key LIMIT $4`, kind, from, to, int64(limit))
	})
	return all, err
}
