package store

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"fingerpost/internal/faults"
)

// TestOpenBeforeTheDatabaseIsThere opens a PostgreSQL that is away, wants every
// call to fail at once as not available, and all to work once it is back.
func TestOpenBeforeTheDatabaseIsThere(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	server := postgres(t)
	proxy, err := faults.NewProxy(server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	direct := schema(t, server.DSN("postgres"))
	away := strings.Replace(direct, server.Addr(), proxy.Addr(), 1)
	proxy.Refuse(true)
	if db, err := Open(t.Context(), away, Options{}); err == nil {
		db.Close()
		t.Fatal("without Later a database that is away is opened")
	}
	db, err := Open(t.Context(), away, Options{Later: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	begin := time.Now()
	if _, err := db.Head(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Head: %v, want ErrUnavailable", err)
	}
	if _, err := db.Commit(t.Context(), batch(put("a/1", "x"))); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Commit: %v, want ErrUnavailable", err)
	}
	if _, err := db.Tokens(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Tokens: %v, want ErrUnavailable", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v to learn that the database is away: these calls must not retry", took)
	}
	proxy.Refuse(false)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		if _, err = db.Commit(ctx, batch(put("a/1", "x"))); err == nil || ctx.Err() != nil {
			break
		}
		time.Sleep(20 * time.Millisecond) // between two looks at another process
	}
	if err != nil {
		t.Fatal(err)
	}
	if h, err := db.Wait(ctx, Cursor{}); err != nil || h.Rev != 1 || h.Epoch == "" {
		t.Errorf("Wait: %+v, %v", h, err)
	}
}

// TestLaterIsNotForMistakes wants errors that no waiting mends at once.
func TestLaterIsNotForMistakes(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	for _, dsn := range []string{"postgres://x:y@[::1", postgres(t).DSN("nosuchdatabase"), "mysql://x"} {
		if db, err := Open(t.Context(), dsn, Options{Later: true}); err == nil {
			db.Close()
			t.Errorf("%s is opened", dsn)
		}
	}
}
