package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// channel is what revisions are announced on. It carries no content.
const channel = "fingerpost_feed"

type postgresEngine struct{ pool *pgxpool.Pool }

func openPostgres(ctx context.Context, dsn string, existing bool) (*postgresEngine, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(dsn, "pool_max_conns") {
		config.MaxConns = max(config.MaxConns, 8)
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "fingerpost"
	}
	// A commit must be on the disk when it returns. A stricter setting than on
	// (remote_apply) is the operator's choice and stays.
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local')`)
		return err
	}
	if err := migratePostgres(ctx, config.ConnConfig, existing); err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return &postgresEngine{pool}, nil
}

// checkPostgres refuses databases that would put keys into another order than
// byte by byte, or that are too old.
func checkPostgres(ctx context.Context, conn *pgx.Conn) error {
	var version int
	var collation, encoding string
	err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, datcollate, pg_encoding_to_char(encoding)
		FROM pg_database WHERE datname = current_database()`).Scan(&version, &collation, &encoding)
	if err != nil {
		return err
	}
	if version < 150000 {
		return fmt.Errorf("PostgreSQL %d is too old: 15 is the first that is supported", version/10000)
	}
	var bytewise bool
	if err := conn.QueryRow(ctx, `SELECT 'Z' < 'a' AND 'a-c' < 'aab' AND '/' < '0'`).Scan(&bytewise); err != nil {
		return err
	}
	if encoding != "UTF8" || !bytewise {
		return fmt.Errorf("the database has the encoding %s and the collation %s, and keys need UTF8 and C: "+
			"CREATE DATABASE fingerpost TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C'", encoding, collation)
	}
	return nil
}

func (e *postgresEngine) close() { e.pool.Close() }

func (e *postgresEngine) write(ctx context.Context, fn func(tx) error) error {
	t, err := e.pool.Begin(ctx)
	if err != nil {
		return err
	}
	if err := fn(pgTx{t}); err != nil {
		e.rollback(ctx, t)
		return err
	}
	if err := t.Commit(ctx); err != nil {
		e.rollback(ctx, t)
		var said *pgconn.PgError
		if errors.As(err, &said) && !strings.HasPrefix(said.Code, "57P") || errors.Is(err, pgx.ErrTxCommitRollback) {
			return err // the server says that it did not commit
		}
		return &commitError{err}
	}
	return nil
}

// rollback frees the connection, even if ctx has ended; a broken one is closed.
func (e *postgresEngine) rollback(ctx context.Context, t pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = t.Rollback(ctx) // there is nothing to save on this connection
}

func (e *postgresEngine) read(ctx context.Context, snapshot bool, fn func(tx) error) error {
	if !snapshot {
		conn, err := e.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		return fn(pgTx{conn})
	}
	t, err := e.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer e.rollback(ctx, t)
	return fn(pgTx{t})
}

func (e *postgresEngine) retryable(err error) bool {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		switch said.Code {
		case "40001", "40P01", // serialization, deadlock
			"55P03", // lock not available
			"53300", // too many connections
			"25006": // read-only: a former primary
			return true
		}
		return strings.HasPrefix(said.Code, "08") || strings.HasPrefix(said.Code, "57P")
	}
	var connect *pgconn.ConnectError
	var network *net.OpError
	var commit *commitError
	return pgconn.SafeToRetry(err) || errors.As(err, &connect) || errors.As(err, &network) || errors.As(err, &commit) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, pgx.ErrTxClosed)
}

func (e *postgresEngine) full(err error) bool {
	var said *pgconn.PgError
	return errors.As(err, &said) && said.Code == "53100"
}

func (e *postgresEngine) duplicate(err error) bool {
	var said *pgconn.PgError
	return errors.As(err, &said) && said.Code == "23505"
}

func (e *postgresEngine) wake(ctx context.Context) error {
	_, err := e.pool.Exec(ctx, "NOTIFY "+channel)
	return err
}

func (e *postgresEngine) listen(ctx context.Context, heard func()) error {
	pooled, err := e.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	conn := pooled.Hijack() // LISTEN must not go back into the pool
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(ctx)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	for {
		heard() // what came before LISTEN was not announced to us
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return err
		}
	}
}

// truncateStaged takes the table for itself, if nobody else stages just now, so
// that its look at it stays true. Rows that are deleted one by one would cost as
// much as they did to stage, and leave their room to the vacuum.
func (e *postgresEngine) truncateStaged(ctx context.Context, id string) (done bool, err error) {
	// In any other isolation the look may be of a time before the lock, and what was
	// staged between the two would be lost.
	t, err := e.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return false, nil
	}
	defer e.rollback(ctx, t)
	if _, err := t.Exec(ctx, `LOCK TABLE staged IN ACCESS EXCLUSIVE MODE NOWAIT`); err != nil {
		return false, nil // an engine that has no such thing, or somebody stages: the rows go one by one
	}
	var others bool
	if err := t.QueryRow(ctx, `SELECT EXISTS (SELECT FROM staged WHERE changeset < $1) OR EXISTS (SELECT FROM staged WHERE changeset > $1)`, id).Scan(&others); err != nil || others {
		return false, nil
	}
	if _, err := t.Exec(ctx, `TRUNCATE staged`); err != nil {
		return false, nil
	}
	return t.Commit(ctx) == nil, nil
}

// beforeCompare: of tables that have just been filled the planner knows nothing,
// and would compare each row with each.
func (e *postgresEngine) beforeCompare(ctx context.Context, staged int64) error {
	if staged <= MaxChanges {
		return nil
	}
	_, err := e.pool.Exec(ctx, "ANALYZE staged, items")
	return err
}

func (e *postgresEngine) settle(ctx context.Context) error { return nil }

// pgConn is what a pgx.Tx and a pooled connection share.
type pgConn interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, from pgx.CopyFromSource) (int64, error)
}

type pgTx struct{ conn pgConn }

func (t pgTx) run(ctx context.Context, list ...*statement) (err error) {
	if len(list) == 0 {
		return nil
	}
	var batch pgx.Batch
	for _, st := range list {
		batch.Queue(st.sql, st.args...)
	}
	results := t.conn.SendBatch(ctx, &batch)
	defer func() {
		if closing := results.Close(); err == nil {
			err = closing
		}
	}()
	for _, st := range list {
		if st.row == nil {
			tag, err := results.Exec()
			if err != nil {
				return statementError(st.sql, err)
			}
			st.affected = tag.RowsAffected()
			continue
		}
		r, err := results.Query()
		if err != nil {
			return statementError(st.sql, err)
		}
		for r.Next() {
			if err := st.row(r); err != nil {
				r.Close()
				return err
			}
		}
		if err := r.Err(); err != nil {
			return statementError(st.sql, err)
		}
	}
	return nil
}

// statementError names the statement where the text of it is the fault.
func statementError(sql string, err error) error {
	var said *pgconn.PgError
	if errors.As(err, &said) && strings.HasPrefix(said.Code, "42") {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return err
}

func (t pgTx) query(ctx context.Context, sql string, args ...any) (rows, error) {
	r, err := t.conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, statementError(sql, err)
	}
	return r, nil
}

func (t pgTx) fill(ctx context.Context, table string, columns []string, n int, row func(i int) []any) error {
	_, err := t.conn.CopyFrom(ctx, pgx.Identifier{table}, columns, pgx.CopyFromSlice(n, func(i int) ([]any, error) { return row(i), nil }))
	return err
}
