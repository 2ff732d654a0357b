package store

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// What a cluster needs beside its content is a few small tables of the same
// form: rows with a name, which are put, read, listed and deleted. table has the
// four statements for all of them, made of the columns' names.
//
// fields gives pointers to a record's fields in the order of the columns, the
// name first; they serve as arguments too.
type table[T any] struct {
	name    string
	columns []string
	fields  func(*T) []any
	what    string       // one record, for errors and the audit
	public  func(*T) any // what the audit may say of it, of tables that are audited: no hashes of secrets
}

func (tb *table[T]) selectAll() string {
	return `SELECT ` + strings.Join(tb.columns, ", ") + ` FROM ` + tb.name
}

func (tb *table[T]) insert(tail string) string {
	places := make([]string, len(tb.columns))
	for i := range places {
		places[i] = "$" + strconv.Itoa(i+1)
	}
	return `INSERT INTO ` + tb.name + ` (` + strings.Join(tb.columns, ", ") + `) VALUES (` + strings.Join(places, ", ") + `) ON CONFLICT (` + tb.columns[0] + `) DO ` + tail
}

// put inserts or overwrites.
func (tb *table[T]) put(v *T) *statement {
	set := make([]string, 0, len(tb.columns))
	for _, c := range tb.columns[1:] {
		set = append(set, c+" = excluded."+c)
	}
	return do(tb.insert("UPDATE SET "+strings.Join(set, ", ")), tb.fields(v)...)
}

// add inserts, or affects nothing.
func (tb *table[T]) add(v *T) *statement { return do(tb.insert("NOTHING"), tb.fields(v)...) }

func (tb *table[T]) check(v *T) error {
	for i, f := range tb.fields(v) {
		var s string
		switch f := f.(type) {
		case *string:
			s = *f
		case *document:
			s = string(*f)
		case *words:
			s = lines(*f)
		}
		if !isText(s) || i == 0 && (s == "" || len(s) > MaxKey) {
			return invalid("%s: the %s is empty, too long, or no text", tb.what, tb.columns[i])
		}
	}
	return nil
}

func (tb *table[T]) get(ctx context.Context, db *DB, column, value string) (v T, err error) {
	var found bool
	err = db.read(ctx, false, func(t tx) error {
		return t.run(ctx, one(&found, tb.fields(&v), tb.selectAll()+` WHERE `+column+` = $1`, value))
	})
	if err == nil && !found {
		err = fmt.Errorf("%s %s: %w", tb.what, value, ErrNotFound)
	}
	return v, err
}

func (tb *table[T]) list(ctx context.Context, db *DB) (all []T, err error) {
	err = db.read(ctx, false, func(t tx) error {
		all = nil
		return each(ctx, t, func(r rows) error {
			var v T
			err := r.Scan(tb.fields(&v)...)
			all = append(all, v)
			return err
		}, tb.selectAll()+` ORDER BY `+tb.columns[0])
	})
	return all, err
}

// save puts a record and says so in the audit. With create it must be new, else
// ErrExists. What goes with it is done before it, in the same transaction.
func (tb *table[T]) save(ctx context.Context, db *DB, by Actor, v *T, create bool, with ...*statement) error {
	if err := tb.check(v); err != nil {
		return err
	}
	_, _, err := once(ctx, db, "", "", func(t tx) (struct{}, error) {
		name := *tb.fields(v)[0].(*string)
		before, err := tb.before(ctx, t, name)
		if err != nil {
			return struct{}{}, err
		}
		if before != "" && create {
			return struct{}{}, fmt.Errorf("%s %s: %w", tb.what, name, ErrExists)
		}
		after, err := json.Marshal(tb.public(v))
		if err != nil {
			return struct{}{}, err
		}
		put := tb.put(v)
		if create {
			put = tb.add(v)
		}
		if err := t.run(ctx, append(with, put)...); err != nil {
			return struct{}{}, err
		}
		if put.affected == 0 { // another's transaction came between
			return struct{}{}, fmt.Errorf("%s %s: %w", tb.what, name, ErrExists)
		}
		return struct{}{}, db.record(ctx, t, Entry{Actor: by, Action: "put", Kind: tb.what, Key: name, Before: before, After: string(after)})
	})
	return err
}

// drop deletes a record and says so in the audit; ErrNotFound if there is none.
func (tb *table[T]) drop(ctx context.Context, db *DB, by Actor, name string) error {
	_, _, err := once(ctx, db, "", "", func(t tx) (struct{}, error) {
		before, err := tb.before(ctx, t, name)
		if err == nil && before == "" {
			err = fmt.Errorf("%s %s: %w", tb.what, name, ErrNotFound)
		}
		if err != nil {
			return struct{}{}, err
		}
		gone := tb.delete(name)
		if err := t.run(ctx, gone); err != nil {
			return struct{}{}, err
		}
		if gone.affected == 0 { // another's transaction came between: one only has deleted it
			return struct{}{}, fmt.Errorf("%s %s: %w", tb.what, name, ErrNotFound)
		}
		return struct{}{}, db.record(ctx, t, Entry{Actor: by, Action: "delete", Kind: tb.what, Key: name, Before: before})
	})
	return err
}

// before is what the audit says of the record that is there, or empty.
func (tb *table[T]) before(ctx context.Context, t tx, name string) (string, error) {
	var v T
	var found bool
	if err := t.run(ctx, one(&found, tb.fields(&v), tb.selectAll()+` WHERE `+tb.columns[0]+` = $1`, name)); err != nil || !found {
		return "", err
	}
	text, err := json.Marshal(tb.public(&v))
	return string(text), err
}

// set puts a record, for what is set over and over and is not worth an audit.
func (tb *table[T]) set(ctx context.Context, db *DB, v *T) error {
	if err := tb.check(v); err != nil {
		return err
	}
	return db.write(ctx, func(t tx) error { return t.run(ctx, tb.put(v)) })
}

func (tb *table[T]) remove(ctx context.Context, db *DB, name string) error {
	return db.write(ctx, func(t tx) error { return t.run(ctx, tb.delete(name)) })
}

func (tb *table[T]) delete(name string) *statement {
	return do(`DELETE FROM `+tb.name+` WHERE `+tb.columns[0]+` = $1`, name)
}

// Fields that are stored as something else.

// instant is a time as microseconds.
type instant time.Time

func (i *instant) Value() (driver.Value, error) { return micros(time.Time(*i)), nil }

func (i *instant) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("a time is stored as %T", v)
	}
	*i = instant(fromMicros(n))
	return nil
}

// words is a list of texts without line breaks.
type words []string

func (w *words) Value() (driver.Value, error) { return lines(*w), nil }

func (w *words) Scan(v any) error {
	switch v := v.(type) {
	case string:
		*w = split(v)
	case []byte:
		*w = split(string(v))
	default:
		return fmt.Errorf("a list is stored as %T", v)
	}
	return nil
}

// roles are a map as JSON.
type roles map[string]string

func (r *roles) Value() (driver.Value, error) {
	if len(*r) == 0 {
		return "", nil
	}
	text, err := json.Marshal(*r)
	return string(text), err
}

func (r *roles) Scan(v any) error {
	var text document
	if err := text.Scan(v); err != nil {
		return err
	}
	if *r = nil; len(text) == 0 {
		return nil
	}
	return json.Unmarshal(text, r)
}

// document is JSON, or nothing.
type document json.RawMessage

func (d *document) Value() (driver.Value, error) { return string(*d), nil }

func (d *document) Scan(v any) error {
	switch v := v.(type) {
	case string:
		*d = document(v)
	case []byte:
		*d = append(document(nil), v...)
	default:
		return fmt.Errorf("text is stored as %T", v)
	}
	if len(*d) == 0 {
		*d = nil
	}
	return nil
}
