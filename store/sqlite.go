package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// sqliteEngine is one file: one connection writes, some read. Another process
// may have the same file open; its transactions are waited for.
type sqliteEngine struct {
	path    string
	pool    *sql.DB
	reading *sql.DB

	writing chan struct{} // holds one while somebody writes; guards writer
	writer  *sqliteConn
	readers chan *sqliteConn
}

const (
	sqliteReaders = 4
	// A transaction of another process is waited for this long, then it is a
	// retryable error like others.
	sqliteBusy = 5000 // milliseconds
)

// sqlitePath gives the file of a DSN's path: a folder holds fingerpost.db.
func sqlitePath(path string) (string, error) {
	if path == "" {
		return "", invalid("sqlite: needs a file or folder behind the colon")
	}
	ext := filepath.Ext(path)
	if info, err := os.Stat(path); err == nil && !info.IsDir() || err != nil && (ext == ".db" || ext == ".sqlite") {
		return path, os.MkdirAll(filepath.Dir(path), 0o700)
	}
	return filepath.Join(path, "fingerpost.db"), os.MkdirAll(path, 0o700)
}

func sqliteURL(path string, pragmas ...string) string {
	q := url.Values{"_pragma": append([]string{"busy_timeout(" + strconv.Itoa(sqliteBusy) + ")"}, pragmas...)}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
}

func openSQLite(ctx context.Context, path string, existing bool) (*sqliteEngine, error) {
	// The file holds hashes of passwords: nobody else reads it. SQLite gives its
	// -wal and -shm files the same mode.
	mode := os.O_CREATE | os.O_RDWR
	if existing {
		mode = os.O_RDWR
	}
	f, err := os.OpenFile(path, mode, 0o600)
	if existing && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no store at %s", ErrNotFound, path)
	}
	if err != nil {
		return nil, err
	}
	f.Close()
	if err := migrateSQLite(ctx, path, existing); err != nil {
		return nil, err
	}
	e := &sqliteEngine{path: path, readers: make(chan *sqliteConn, sqliteReaders), writing: make(chan struct{}, 1)}
	// FULL: a commit is on the disk when it returns, not only in the log's cache.
	e.pool, err = sql.Open("sqlite", sqliteURL(path, "journal_mode(WAL)", "synchronous(FULL)",
		"cache_size(-65536)", "journal_size_limit(67108864)", "wal_autocheckpoint(16384)", "temp_store(FILE)"))
	if err != nil {
		return nil, err
	}
	e.reading, err = sql.Open("sqlite", sqliteURL(path, "query_only(1)", "cache_size(-4096)"))
	if err != nil {
		e.pool.Close()
		return nil, err
	}
	open := func(pool *sql.DB) (*sqliteConn, error) {
		conn, err := pool.Conn(ctx)
		if err != nil {
			return nil, err
		}
		return &sqliteConn{conn: conn, prepared: map[string]*sql.Stmt{}}, nil
	}
	e.writer, err = open(e.pool)
	for range sqliteReaders {
		var c *sqliteConn
		if err == nil {
			c, err = open(e.reading)
		}
		e.readers <- c
	}
	if err != nil {
		e.close()
		return nil, err
	}
	var journal string
	if err := e.writer.conn.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&journal); err != nil {
		e.close()
		return nil, err
	}
	if journal != "wal" {
		e.close()
		return nil, fmt.Errorf("%s has the journal mode %s instead of wal: put it on a local disk", path, journal)
	}
	return e, nil
}

// close waits for what is being read or written. The last connection takes the
// log with it.
func (e *sqliteEngine) close() {
	for range cap(e.readers) {
		if c := <-e.readers; c != nil {
			c.close()
		}
	}
	close(e.readers)
	e.reading.Close()
	e.writing <- struct{}{}
	defer func() { <-e.writing }()
	if e.writer != nil {
		e.writer.close()
		e.writer = nil
	}
	e.pool.Close()
}

func (e *sqliteEngine) write(ctx context.Context, fn func(tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case e.writing <- struct{}{}:
		defer func() { <-e.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if e.writer == nil {
		return ErrClosed
	}
	// IMMEDIATE takes the write lock first: a later upgrade of a read transaction
	// could not wait, only fail.
	if err := e.writer.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := fn(e.writer)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		if err = e.writer.exec("COMMIT"); err == nil {
			return nil
		}
	}
	// A failed statement may have ended the transaction already.
	if rollback := e.writer.exec("ROLLBACK"); rollback != nil && !strings.Contains(rollback.Error(), "no transaction is active") {
		err = errors.Join(err, rollback)
	}
	return err
}

func (e *sqliteEngine) read(ctx context.Context, snapshot bool, fn func(tx) error) error {
	var c *sqliteConn
	select {
	case c = <-e.readers:
		if c == nil {
			return ErrClosed
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { e.readers <- c }()
	if !snapshot {
		return fn(c)
	}
	if err := c.exec("BEGIN"); err != nil {
		return err
	}
	err := fn(c)
	return errors.Join(err, c.exec("ROLLBACK"))
}

func (e *sqliteEngine) retryable(err error) bool {
	var lite *sqlite.Error
	if !errors.As(err, &lite) {
		return false
	}
	code := lite.Code() & 0xff
	return code == sqlite3.SQLITE_BUSY || code == sqlite3.SQLITE_LOCKED
}

func (e *sqliteEngine) full(err error) bool {
	var lite *sqlite.Error
	return errors.As(err, &lite) && lite.Code()&0xff == sqlite3.SQLITE_FULL
}

func (e *sqliteEngine) duplicate(err error) bool {
	var lite *sqlite.Error
	return errors.As(err, &lite) && (lite.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY || lite.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE)
}

// Other handles of the same file look once in a while.
func (e *sqliteEngine) wake(context.Context) error { return nil }

func (e *sqliteEngine) listen(ctx context.Context, heard func()) error {
	<-ctx.Done()
	return ctx.Err()
}

// truncateStaged: a DELETE without WHERE frees the pages without looking at the
// rows. The write lock keeps the look before it true.
func (e *sqliteEngine) truncateStaged(ctx context.Context, id string) (done bool, err error) {
	err = e.write(ctx, func(t tx) error {
		var before, behind bool
		var other string
		if err := t.run(ctx,
			one(&before, []any{&other}, `SELECT changeset FROM staged WHERE changeset < $1 LIMIT 1`, id),
			one(&behind, []any{&other}, `SELECT changeset FROM staged WHERE changeset > $1 LIMIT 1`, id)); err != nil || before || behind {
			return err
		}
		done = true
		return t.run(ctx, do(`DELETE FROM staged`))
	})
	if e.retryable(err) {
		return false, nil
	}
	return done, err
}

func (e *sqliteEngine) beforeCompare(context.Context, int64) error { return nil }

// settle shortens a log that a large transaction has made long.
func (e *sqliteEngine) settle(ctx context.Context) error {
	select {
	case e.writing <- struct{}{}:
		defer func() { <-e.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if e.writer == nil {
		return ErrClosed
	}
	return e.writer.exec("PRAGMA wal_checkpoint(TRUNCATE)")
}

// sqliteConn is one connection with its prepared statements. Statements are run
// without the caller's context: the driver would start a goroutine for each to
// watch it. Queries look at it for every row instead.
type sqliteConn struct {
	conn     *sql.Conn
	prepared map[string]*sql.Stmt
}

func (c *sqliteConn) close() {
	for _, s := range c.prepared {
		s.Close()
	}
	c.conn.Close()
}

func (c *sqliteConn) prepare(text string) (*sql.Stmt, error) {
	if s := c.prepared[text]; s != nil {
		return s, nil
	}
	s, err := c.conn.PrepareContext(context.Background(), forSQLite(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", text, err)
	}
	c.prepared[text] = s
	return s, nil
}

func (c *sqliteConn) exec(text string, args ...any) error {
	s, err := c.prepare(text)
	if err != nil {
		return err
	}
	_, err = s.ExecContext(context.Background(), args...)
	return err
}

func (c *sqliteConn) run(ctx context.Context, list ...*statement) error {
	for _, st := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		if st.row != nil {
			if err := each(ctx, c, st.row, st.sql, st.args...); err != nil {
				return err
			}
			continue
		}
		s, err := c.prepare(st.sql)
		if err != nil {
			return err
		}
		result, err := s.ExecContext(context.Background(), st.args...)
		if err != nil {
			return err
		}
		if st.affected, err = result.RowsAffected(); err != nil {
			return err
		}
	}
	return nil
}

type sqliteRows struct {
	*sql.Rows
	ctx context.Context
	err error
}

func (r *sqliteRows) Next() bool {
	if r.err = r.ctx.Err(); r.err != nil {
		return false
	}
	return r.Rows.Next()
}

func (r *sqliteRows) Err() error { return errors.Join(r.err, r.Rows.Err()) }
func (r *sqliteRows) Close()     { r.Rows.Close() }

func (c *sqliteConn) query(ctx context.Context, text string, args ...any) (rows, error) {
	s, err := c.prepare(text)
	if err != nil {
		return nil, err
	}
	r, err := s.QueryContext(context.Background(), args...)
	if err != nil {
		return nil, err
	}
	return &sqliteRows{Rows: r, ctx: ctx}, nil
}

// fill inserts many rows with each statement, since the way into the engine
// costs more than a row.
func (c *sqliteConn) fill(ctx context.Context, table string, columns []string, n int, row func(i int) []any) error {
	const together = 64
	insert := func(rows int) string {
		tuple := "(" + strings.TrimSuffix(strings.Repeat("?,", len(columns)), ",") + ")"
		return "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") VALUES " +
			strings.TrimSuffix(strings.Repeat(tuple+",", rows), ",")
	}
	many, single := insert(together), insert(1)
	args := make([]any, 0, together*len(columns))
	for i := 0; i < n; {
		if err := ctx.Err(); err != nil {
			return err
		}
		text, size := many, together
		if n-i < together {
			text, size = single, 1
		}
		args = args[:0]
		for range size {
			args = append(args, row(i)...)
			i++
		}
		if err := c.exec(text, args...); err != nil {
			return err
		}
	}
	return nil
}
