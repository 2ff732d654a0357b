package store

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A token that lets somebody in once is deleted by whoever uses it.
func TestOneOfManyDeletesARecord(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		by := Actor{Who: "root"}
		for range 5 {
			if err := db.AddToken(t.Context(), by, Token{ID: "once", Hash: "h", Scope: "once", Expires: c.now().Add(time.Hour)}); err != nil {
				t.Fatal(err)
			}
			var done atomic.Int64
			var all sync.WaitGroup
			begin := make(chan struct{})
			for range 4 {
				all.Go(func() {
					<-begin
					switch err := db.DeleteToken(t.Context(), by, "once"); {
					case err == nil:
						done.Add(1)
					case !errors.Is(err, ErrNotFound):
						t.Error(err)
					}
				})
			}
			close(begin)
			if all.Wait(); done.Load() != 1 {
				t.Fatalf("%d of 4 have deleted it", done.Load())
			}
		}
	})
}

func TestNewPasswordEndsSessions(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		ctx, by := t.Context(), Actor{Who: "root"}
		ann := User{Name: "ann", Password: "one", Roles: map[string]string{"web": "editor"}}
		put := func() {
			t.Helper()
			if err := db.PutUser(ctx, by, ann); err != nil {
				t.Fatal(err)
			}
		}
		put()
		for _, v := range []Token{{ID: "ann1", Owner: "ann", Scope: "session"}, {ID: "ann2", Owner: "ann", Scope: "api"}, {ID: "bob1", Owner: "bob", Scope: "session"}} {
			v.Hash = v.ID
			if err := db.AddToken(ctx, by, v); err != nil {
				t.Fatal(err)
			}
		}
		there := func() (ids string) {
			all, err := db.Tokens(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range all {
				ids += v.ID + " "
			}
			return ids
		}
		ann.Email = "ann@example.com"
		put()
		if got := there(); got != "ann1 ann2 bob1 " {
			t.Errorf("after another e-mail address: %s", got)
		}
		ann.Password = "two"
		put()
		if got := there(); got != "ann2 bob1 " {
			t.Errorf("after another password: %s", got)
		}
		if err := db.AddToken(ctx, by, Token{ID: "ann3", Hash: "ann3", Owner: "ann", Scope: "session"}); err != nil {
			t.Fatal(err)
		}
		ann.Disabled = true
		put()
		if got := there(); got != "ann2 bob1 " {
			t.Errorf("after she was disabled: %s", got)
		}
	})
}

func TestAuditHasNoSecretsOfSources(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		ctx, by := t.Context(), Actor{Who: "root"}
		for _, v := range []Source{
			{Label: "s", Kind: "url", URL: "https://user:hunter2@h.example/x?sig=hunter2#hunter2", Settings: []byte(`{"password":"hunter2"}`)},
			{Label: "s", Kind: "git", URL: "git:https://hunter2@h.example/x.git", Paused: true},
		} {
			if err := db.PutSource(ctx, by, v); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.DeleteSource(ctx, by, "s"); err != nil {
			t.Fatal(err)
		}
		n := 0
		if err := db.Audit(ctx, AuditQuery{Kind: "source"}, func(e *Entry) error {
			n++
			if strings.Contains(e.Before+e.After, "hunter2") {
				t.Errorf("the audit says %s and %s", e.Before, e.After)
			}
			if !strings.Contains(e.Before+e.After, "h.example/x") {
				t.Errorf("the audit says nothing of the address: %s and %s", e.Before, e.After)
			}
			return nil
		}); err != nil || n != 3 {
			t.Errorf("%d entries, %v", n, err)
		}
	})
}
