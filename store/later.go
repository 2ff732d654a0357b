package store

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// later is the engine of a database that cannot be reached yet. Until it can,
// all that is asked of it is ErrUnavailable, at once.
type later struct {
	to  atomic.Pointer[engine]
	why atomic.Pointer[error] // the last try failed with
}

// firstTry bounds how long Open waits for a database that it need not reach.
const firstTry = 3 * time.Second

// Pauses between the tries to reach a database.
const (
	firstAgain = 250 * time.Millisecond
	lastAgain  = 5 * time.Second
)

// openPostgresLater gives an engine that does without the database for now, if it
// is away. What is wrong with the DSN or the database itself is an error, as ever.
func openPostgresLater(ctx context.Context, dsn string) (engine, error) {
	try, cancel := context.WithTimeout(ctx, firstTry)
	defer cancel()
	for {
		e, err := openPostgres(try, dsn, false)
		if err == nil {
			return e, nil
		}
		if ctx.Err() != nil || try.Err() == nil && !new(postgresEngine).retryable(err) {
			return nil, err
		}
		select {
		case <-time.After(firstTry / 20): // one that is just coming up is no reason to do without
		case <-try.Done():
			l := new(later)
			l.why.Store(&err)
			return l, nil
		}
	}
}

// reach tries until the database is there, or ctx ends.
func (l *later) reach(ctx context.Context, open func(context.Context) (engine, error), failed func(error)) bool {
	for pause := firstAgain; ; pause = min(2*pause, lastAgain) {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false
		}
		e, err := open(ctx)
		if err == nil {
			l.to.Store(&e)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if was := l.why.Swap(&err); (*was).Error() != err.Error() {
			failed(err)
		}
	}
}

func (l *later) engine() (engine, error) {
	if e := l.to.Load(); e != nil {
		return *e, nil
	}
	return nil, fmt.Errorf("%w: %w", ErrUnavailable, *l.why.Load())
}

func (l *later) write(ctx context.Context, fn func(tx) error) error {
	e, err := l.engine()
	if err != nil {
		return err
	}
	return e.write(ctx, fn)
}

func (l *later) read(ctx context.Context, snapshot bool, fn func(tx) error) error {
	e, err := l.engine()
	if err != nil {
		return err
	}
	return e.read(ctx, snapshot, fn)
}

func (l *later) retryable(err error) bool {
	e, away := l.engine()
	return away == nil && !errors.Is(err, ErrUnavailable) && e.retryable(err)
}

func (l *later) duplicate(err error) bool {
	e, away := l.engine()
	return away == nil && e.duplicate(err)
}

func (l *later) full(err error) bool {
	e, away := l.engine()
	return away == nil && e.full(err)
}

func (l *later) wake(ctx context.Context) error {
	e, err := l.engine()
	if err != nil {
		return err
	}
	return e.wake(ctx)
}

func (l *later) listen(ctx context.Context, heard func()) error {
	e, err := l.engine()
	if err != nil {
		return err
	}
	return e.listen(ctx, heard)
}

func (l *later) truncateStaged(ctx context.Context, id string) (bool, error) {
	e, err := l.engine()
	if err != nil {
		return false, err
	}
	return e.truncateStaged(ctx, id)
}

func (l *later) beforeCompare(ctx context.Context, staged int64) error {
	e, err := l.engine()
	if err != nil {
		return err
	}
	return e.beforeCompare(ctx, staged)
}

func (l *later) settle(ctx context.Context) error {
	e, err := l.engine()
	if err != nil {
		return err
	}
	return e.settle(ctx)
}

func (l *later) close() {
	if e, err := l.engine(); err == nil {
		e.close()
	}
}
