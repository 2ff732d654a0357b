package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

// Entry is one line of the audit: who did what to which thing, and what it was
// before and after, as JSON. Entries are only added.
//
// Hash is SHA-256 over the hash of the entry before and all fields of this one,
// so that nobody changes or removes an entry in the middle unseen. Who can write
// the whole table can write a new chain: keep a hash elsewhere, as [DB.Audit]
// gives them.
type Entry struct {
	Seq    int64     `json:"seq"` // from 1, no gaps
	At     time.Time `json:"at"`
	Rev    int64     `json:"rev,omitempty"` // the revision that it belongs to; 0 for what is no content
	Actor            // who
	Action string    `json:"action"` // put, delete, publish, token.create, …
	Kind   string    `json:"kind"`
	Key    string    `json:"key"`
	Before string    `json:"before,omitempty"`
	After  string    `json:"after,omitempty"`
	Hash   string    `json:"hash"`
}

// seal sets the hash, given that of the entry before. Each field goes in with its
// length, so that no two entries have one form.
func (e *Entry) seal(previous string) {
	h := sha256.New()
	var n [8]byte
	number := func(v int64) {
		binary.BigEndian.PutUint64(n[:], uint64(v))
		h.Write(n[:])
	}
	text := func(s string) {
		number(int64(len(s)))
		h.Write([]byte(s))
	}
	text(previous)
	number(e.Seq)
	number(micros(e.At))
	number(e.Rev)
	for _, s := range []string{e.Who, e.Token, e.Action, e.Kind, e.Key, e.Before, e.After} {
		text(s)
	}
	e.Hash = hex.EncodeToString(h.Sum(nil))
}

// chain is the end of the audit within one transaction, which holds its row.
type chain struct {
	found bool
	seq   int64
	hash  string
}

// load takes the row until the transaction ends.
func (c *chain) load() *statement {
	return one(&c.found, []any{&c.seq, &c.hash}, `UPDATE audit_head SET seq = seq WHERE id = 0 RETURNING seq, hash`)
}

func (c *chain) add(e Entry) *statement {
	c.seq++
	e.Seq = c.seq
	e.seal(c.hash)
	c.hash = e.Hash
	return do(`INSERT INTO audit (seq, at, rev, who, token, action, kind, key, before, after, hash) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		e.Seq, micros(e.At), e.Rev, e.Who, e.Token, e.Action, e.Kind, e.Key, e.Before, e.After, e.Hash)
}

func (c *chain) save() *statement {
	return do(`UPDATE audit_head SET seq = $1, hash = $2 WHERE id = 0`, c.seq, c.hash)
}

// record adds one entry to the audit, within t.
func (db *DB) record(ctx context.Context, t tx, e Entry) error {
	var c chain
	if err := t.run(ctx, c.load()); err != nil {
		return err
	}
	e.At = db.now().UTC().Truncate(time.Microsecond)
	return t.run(ctx, c.add(e), c.save())
}

// Record adds an entry about what is not in the store, such as a login. Seq, At
// and Hash are set here.
func (db *DB) Record(ctx context.Context, e Entry) error {
	_, _, err := once(ctx, db, "", "", func(t tx) (struct{}, error) { return struct{}{}, db.record(ctx, t, e) })
	return err
}

// AuditQuery chooses entries. Empty fields choose all.
type AuditQuery struct {
	After     int64 // only entries behind this Seq
	Kind, Key string
	Who       string
	Limit     int
	Newest    bool // from the newest back; After then means: only entries before it, if not 0
}

// Audit streams entries as of one instant, in order.
func (db *DB) Audit(ctx context.Context, q AuditQuery, fn func(*Entry) error) error {
	return db.engine.read(ctx, true, func(t tx) error { return audit(ctx, t, q, fn) })
}

func audit(ctx context.Context, t tx, q AuditQuery, fn func(*Entry) error) error {
	text, args := `SELECT seq, at, rev, who, token, action, kind, key, before, after, hash FROM audit WHERE true`, []any(nil)
	and := func(format string, arg any) {
		args = append(args, arg)
		text += fmt.Sprintf(format, len(args))
	}
	if q.After != 0 {
		if q.Newest {
			and(" AND seq < $%d", q.After)
		} else {
			and(" AND seq > $%d", q.After)
		}
	}
	if q.Kind != "" {
		and(" AND kind = $%d", q.Kind)
	}
	if q.Key != "" {
		and(" AND key = $%d", q.Key)
	}
	if q.Who != "" {
		and(" AND who = $%d", q.Who)
	}
	text += " ORDER BY seq"
	if q.Newest {
		text += " DESC"
	}
	if q.Limit > 0 {
		and(" LIMIT $%d", int64(q.Limit))
	}
	return each(ctx, t, func(r rows) error {
		var e Entry
		var at int64
		if err := r.Scan(&e.Seq, &at, &e.Rev, &e.Who, &e.Token, &e.Action, &e.Kind, &e.Key, &e.Before, &e.After, &e.Hash); err != nil {
			return err
		}
		e.At = fromMicros(at)
		return fn(&e)
	}, text, args...)
}

// VerifyAudit follows the whole chain and gives its end. ErrCorrupt says at which
// entry it breaks.
func (db *DB) VerifyAudit(ctx context.Context) (seq int64, hash string, err error) {
	err = db.engine.read(ctx, true, func(t tx) error {
		if err := audit(ctx, t, AuditQuery{}, func(e *Entry) error {
			said := e.Hash
			e.seal(hash)
			if e.Seq != seq+1 || e.Hash != said {
				return fmt.Errorf("%w: audit entry %d, behind %d", ErrCorrupt, e.Seq, seq)
			}
			seq, hash = e.Seq, e.Hash
			return nil
		}); err != nil {
			return err
		}
		var end chain
		if err := t.run(ctx, one(&end.found, []any{&end.seq, &end.hash}, `SELECT seq, hash FROM audit_head WHERE id = 0`)); err != nil {
			return err
		}
		if end.seq != seq || end.hash != hash {
			return fmt.Errorf("%w: the audit ends at entry %d, not %d", ErrCorrupt, seq, end.seq)
		}
		return nil
	})
	return seq, hash, err
}
