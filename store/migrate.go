package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// A node that finds another migrating looks again that often.
const (
	migrationPoll  = 200 * time.Millisecond
	migrationPolls = 600
)

//go:embed migrations/*.sql
var migrations embed.FS

// checkSchema refuses what is no store, or one that would have to be migrated.
func checkSchema(ctx context.Context, db *sql.DB) error {
	var version int64
	if err := db.QueryRowContext(ctx, `SELECT max(version_id) FROM goose_db_version WHERE is_applied`).Scan(&version); err != nil {
		return fmt.Errorf("%w: there is no store: %w", ErrNotFound, err)
	}
	all, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	if newest := int64(len(all)); version != newest {
		return fmt.Errorf("the database has the schema %d and this program knows %d: use the program that the nodes use", version, newest)
	}
	return nil
}

// migrate brings the schema up to date. A schema that is newer than the program
// is an error: an old node must not write what it does not know.
func migrate(ctx context.Context, dialect goose.Dialect, db *sql.DB, guard func(up func() error) error, options ...goose.ProviderOption) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	options = append(options, goose.WithDisableGlobalRegistry(true), goose.WithSlog(slog.New(slog.DiscardHandler)))
	provider, err := goose.NewProvider(dialect, db, files, options...)
	if err != nil {
		return err
	}
	known := provider.ListSources()
	newest := known[len(known)-1].Version
	if version, err := provider.GetDBVersion(ctx); err == nil && version >= newest {
		if version > newest {
			return fmt.Errorf("the database has the schema %d and this program knows %d: use a newer program", version, newest)
		}
		return nil
	}
	return guard(func() error {
		_, err := provider.Up(ctx)
		return err
	})
}

// migratePostgres holds a lock in a table of its own meanwhile; a node that dies
// with it loses it after half a minute.
func migratePostgres(ctx context.Context, config *pgx.ConnConfig, existing bool) error {
	conn, err := pgx.ConnectConfig(ctx, config.Copy())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if err := checkPostgres(ctx, conn); err != nil {
		return err
	}
	db := stdlib.OpenDB(*config.Copy())
	defer db.Close()
	if existing {
		return checkSchema(ctx, db)
	}
	locker, err := lock.NewPostgresTableLocker(
		lock.WithTableLogger(slog.New(slog.DiscardHandler)),
		lock.WithTableLockTimeout(migrationPoll, migrationPolls))
	if err != nil {
		return err
	}
	return migrate(ctx, goose.DialectPostgres, db, func(up func() error) error { return up() }, goose.WithLocker(locker))
}

// migrateSQLite holds the write lock of a second, empty database meanwhile: the
// operating system takes it from a process that dies.
func migrateSQLite(ctx context.Context, path string, existing bool) error {
	db, err := sql.Open("sqlite", sqliteURL(path, "journal_mode(WAL)", "synchronous(FULL)"))
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if existing {
		return checkSchema(ctx, db)
	}
	return migrate(ctx, goose.DialectSQLite3, db, func(up func() error) error {
		guard, err := sql.Open("sqlite", "file:"+filepath.ToSlash(path)+"-migrating?_pragma=busy_timeout(60000)")
		if err != nil {
			return err
		}
		defer guard.Close()
		conn, err := guard.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.ExecContext(ctx, "BEGIN EXCLUSIVE"); err != nil {
			return fmt.Errorf("wait for another process that migrates: %w", err)
		}
		err = up()
		if _, end := conn.ExecContext(ctx, "ROLLBACK"); err == nil {
			err = end
		}
		return err
	})
}
