package store

import (
	"context"
	"strings"
)

// engine is one of the two databases below a DB. A statement is written once,
// with $1, $2, …; what differs between the two is in sqlite.go and postgres.go.
type engine interface {
	// write runs fn in a transaction that may write, once. An error of the commit
	// itself whose outcome is open is marked by unknown.
	write(ctx context.Context, fn func(tx) error) error
	// read runs fn on one connection; with snapshot all that it reads is of one
	// instant.
	read(ctx context.Context, snapshot bool, fn func(tx) error) error
	// retryable reports whether the same transaction may succeed when it is run again.
	retryable(err error) bool
	// full reports whether the disk has no room.
	full(err error) bool
	// duplicate reports whether a primary key was there already.
	duplicate(err error) bool
	// wake tells other handles that there are new revisions. It may fail, or tell
	// nobody: it only shortens their wait.
	wake(ctx context.Context) error
	// listen calls heard after each wake of another handle, and once it hears,
	// until ctx ends or the connection does.
	listen(ctx context.Context, heard func()) error
	// truncateStaged empties table staged if it holds nothing but this changeset
	// and there is a way that is quicker than to delete the rows.
	truncateStaged(ctx context.Context, id string) (done bool, err error)
	// beforeCompare prepares for a comparison of so many staged rows with the items.
	beforeCompare(ctx context.Context, staged int64) error
	// settle tidies up after a large write.
	settle(ctx context.Context) error
	close()
}

// tx is one transaction, or one connection.
type tx interface {
	// run executes the statements in order; on PostgreSQL they travel together.
	run(ctx context.Context, list ...*statement) error
	// query streams rows in bounded memory. The caller closes them.
	query(ctx context.Context, sql string, args ...any) (rows, error)
	// fill inserts n rows into table by the fastest way there is.
	fill(ctx context.Context, table string, columns []string, n int, row func(i int) []any) error
}

type rows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
	Close()
}

// statement is one statement of a run. Arguments are int64, string, bool, or
// know how to become one of these.
type statement struct {
	sql      string
	args     []any
	row      func(rows) error // called for each row of the result; nil if there is none
	affected int64            // set by run
}

func do(sql string, args ...any) *statement { return &statement{sql: sql, args: args} }

// one reads the only row of a result into dest, and sets *found.
func one(found *bool, dest []any, sql string, args ...any) *statement {
	return &statement{sql: sql, args: args, row: func(r rows) error {
		*found = true
		return r.Scan(dest...)
	}}
}

// each runs fn for every row of a query.
func each(ctx context.Context, t tx, fn func(rows) error, sql string, args ...any) error {
	r, err := t.query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer r.Close()
	for r.Next() {
		if err := fn(r); err != nil {
			return err
		}
	}
	return r.Err()
}

// forSQLite gives a statement SQLite's placeholders: ?1 for $1.
func forSQLite(sql string) string { return strings.ReplaceAll(sql, "$", "?") }

// commitError marks a commit whose outcome is not known.
type commitError struct{ err error }

func (e *commitError) Error() string { return "commit: " + e.err.Error() }
func (e *commitError) Unwrap() error { return e.err }
