package store

import (
	"context"
	"encoding/json"
	"time"
)

// keepReceipts is how long an idempotency key is known.
const keepReceipts = 24 * time.Hour

// receipt is a row of table receipts: what a call with a key has come to. It is
// written in the transaction that it is about.
type receipt struct {
	found        bool
	hash, result string
	at           int64
}

func (r *receipt) load(key string) *statement {
	return one(&r.found, []any{&r.hash, &r.result, &r.at}, `SELECT hash, result, at FROM receipts WHERE key = $1`, key)
}

func (r *receipt) known(now time.Time) bool {
	return r.found && r.at > micros(now.Add(-keepReceipts))
}

// receipt gives what was said the first time.
func (r *receipt) receipt(hash string) (Receipt, error) {
	if r.hash != hash {
		return Receipt{}, ErrKeyReused
	}
	var first Receipt
	err := json.Unmarshal([]byte(r.result), &first)
	first.Repeated = true
	return first, err
}

type savedReceipt struct {
	receipt
	*statement
}

func saveReceipt(key, hash string, result any, now time.Time) savedReceipt {
	text, err := json.Marshal(result)
	if err != nil {
		panic(err) // the results are structs of ours
	}
	r := receipt{found: true, hash: hash, result: string(text), at: micros(now)}
	return savedReceipt{r, do(`INSERT INTO receipts (key, hash, result, at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (key) DO UPDATE SET hash = excluded.hash, result = excluded.result, at = excluded.at`, key, hash, r.result, r.at)}
}

// once runs fn in a transaction whose effect must not come twice. If the answer
// to its commit is lost, the retry finds the result of the first time and gives
// that. A caller's key does the same for another call of its, within 24 hours.
func once[R any](ctx context.Context, db *DB, key, hash string, fn func(tx) (R, error)) (result R, repeated bool, err error) {
	own := key == ""
	if own {
		key = newKey()
	}
	err = db.retry(ctx, func(attempt int) error {
		return db.engine.write(ctx, func(t tx) error {
			repeated = false
			now := db.now()
			// The row is taken before it is looked at: a first try that is still
			// committing on the server is waited for here.
			taken := do(`INSERT INTO receipts (key, hash, result, at) VALUES ($1, $2, '', $3) ON CONFLICT (key) DO NOTHING`, key, hash, micros(now))
			if err := t.run(ctx, taken); err != nil {
				return err
			}
			if taken.affected == 0 {
				var r receipt
				if err := t.run(ctx, r.load(key)); err != nil {
					return err
				}
				if r.known(now) || r.found && own {
					if r.hash != hash {
						return ErrKeyReused
					}
					repeated = true
					return json.Unmarshal([]byte(r.result), &result)
				}
			}
			var err error
			if result, err = fn(t); err != nil {
				return err
			}
			return t.run(ctx, saveReceipt(key, hash, result, now).statement)
		})
	})
	return result, repeated, err
}
