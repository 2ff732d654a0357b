package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// Where no content is ever committed, what people leave behind goes all the same.
func TestTidyWithoutContent(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		ctx, by := t.Context(), Actor{Who: "root"}
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		ok(db.AddToken(ctx, by, Token{ID: "session", Hash: "1", Scope: "session", Expires: c.now().Add(time.Hour)}))
		ok(db.AddToken(ctx, by, Token{ID: "for ever", Hash: "2", Scope: "api"}))
		ok(db.PutJob(ctx, Job{ID: "job", Kind: "k", State: "done"}))
		for _, state := range []string{"published", "open", "rejected"} {
			ok(db.PutDraft(ctx, by, Draft{ID: state, State: state, Changeset: "none"}))
		}
		if _, err := db.Commit(ctx, Batch{Key: "k"}); err != nil {
			t.Fatal(err)
		}
		c.jump(1000 * 24 * time.Hour) // a clock that jumps ahead takes nothing along
		if done, err := db.Tidy(ctx, Retention{}); err != nil || done != (Tidied{}) {
			t.Errorf("after a jump of the clock: %+v, %v", done, err)
		}
		ok(db.Record(ctx, Entry{Actor: by, Action: "login", Kind: "user", Key: "root"}))
		done, err := db.Tidy(ctx, Retention{})
		if err != nil || done.Tokens != 1 || done.Jobs != 1 || done.Drafts != 1 || done.Receipts == 0 {
			t.Errorf("%+v, %v", done, err)
		}
		left, err := db.Drafts(ctx)
		if ok(err); len(left) != 2 || left[0].State != "open" || left[1].State != "rejected" {
			t.Errorf("drafts: %+v", left)
		}
		if _, _, err := db.Receipt(ctx, "k"); !errors.Is(err, ErrNotFound) {
			t.Errorf("the receipt: %v", err)
		}
	})
}

func TestTidyKeepsTwoSnapshotsForAWhile(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		head, err := db.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for rev := int64(1); rev <= 4; rev++ {
			c.jump(24 * time.Hour)
			commit(t, db, put("a/1", fmt.Sprint(rev)))
			if err := db.AddSnapshot(t.Context(), Snapshot{ID: fmt.Sprint(rev), Epoch: head.Epoch, Rev: rev}); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.AddSnapshot(t.Context(), Snapshot{ID: "other", Epoch: "of another life", Rev: 9}); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			days  int
			left  int
			floor int64
		}{{0, 2, 1}, {5, 2, 3}, {4, 0, 5}} {
			for range tt.days {
				c.jump(24 * time.Hour)
				commit(t, db, put("a/1", c.now().String()))
			}
			if _, err := db.Tidy(t.Context(), Retention{}); err != nil {
				t.Fatal(err)
			}
			all, err := db.Snapshots(t.Context())
			h, _ := db.Head(t.Context())
			if err != nil || len(all) != tt.left || tt.left > 0 && h.Floor > 3 || tt.left == 0 && h.Floor < tt.floor {
				t.Errorf("%d days later: %d snapshots, the floor is %d, %v", tt.days, len(all), h.Floor, err)
			}
		}
	})
}

func TestDraftIsChangedAsItWasRead(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		ctx, by := t.Context(), Actor{Who: "root"}
		if err := db.PutDraft(ctx, by, Draft{ID: "d", State: "open", Author: "ann", Changeset: "cs"}); err != nil {
			t.Fatal(err)
		}
		mine, err := db.Draft(ctx, "d")
		if err != nil {
			t.Fatal(err)
		}
		theirs := mine
		mine.State, theirs.State = "published", "rejected"
		if err := db.ChangeDraft(ctx, by, mine); err != nil {
			t.Error(err)
		}
		if err := db.ChangeDraft(ctx, by, theirs); !errors.Is(err, ErrConflict) {
			t.Errorf("what another has changed: %v", err)
		}
		if d, err := db.Draft(ctx, "d"); err != nil || d.State != "published" || d.Author != "ann" {
			t.Errorf("%+v, %v", d, err)
		}
		theirs.ID = "none"
		if err := db.ChangeDraft(ctx, by, theirs); !errors.Is(err, ErrNotFound) {
			t.Errorf("none: %v", err)
		}
		entries := 0
		if err := db.Audit(ctx, AuditQuery{Kind: "draft"}, func(*Entry) error { entries++; return nil }); err != nil || entries != 2 {
			t.Errorf("%d entries of the audit, %v", entries, err)
		}
	})
}

func TestHasItemsCountsThoseOfATeam(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		for i := range 5 {
			commit(t, db, put(fmt.Sprintf("a/%d", i), "x"))
		}
		for _, tt := range []struct {
			kind, team string
			n          int64
			want       bool
		}{{KindRedirect, "web", 5, true}, {KindRedirect, "web", 6, false}, {KindRedirect, "other", 1, false}, {KindHost, "web", 1, false}, {KindHost, "web", 0, true}} {
			if got, err := db.HasItems(t.Context(), tt.kind, tt.team, tt.n); err != nil || got != tt.want {
				t.Errorf("%d of kind %s of %s: %v, %v", tt.n, tt.kind, tt.team, got, err)
			}
		}
	})
}

// Whoever waits for another's transaction can be told to stop, and a token is used
// without waiting at all.
func TestWaitForAnotherWriterEndsWithTheContext(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		by := Actor{Who: "root"}
		if err := db.AddToken(t.Context(), by, Token{ID: "t", Hash: "h", Scope: "api"}); err != nil {
			t.Fatal(err)
		}
		token, err := db.TokenByHash(t.Context(), "h")
		if err != nil {
			t.Fatal(err)
		}
		begun, end, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			var once bool
			done <- db.write(context.Background(), func(x tx) error {
				if err := x.run(context.Background(), do(`UPDATE audit_head SET seq = seq`), do(`UPDATE tokens SET name = name`)); err != nil || once {
					return err
				}
				once = true
				close(begun)
				<-end
				return nil
			})
		}()
		<-begun
		db.UseToken(&token)
		db.UseToken(&token)
		ctx, stop := context.WithCancel(t.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- db.Record(ctx, Entry{Actor: by, Action: "x", Kind: "k", Key: "k"}) }()
		stop()
		if err := <-stopped; !errors.Is(err, context.Canceled) {
			t.Errorf("a write that was stopped while it waited: %v", err)
		}
		close(end)
		if err := <-done; err != nil {
			t.Error(err)
		}
		db.cleaning.Wait()
		if token, err = db.TokenByHash(t.Context(), "h"); err != nil || token.Used.IsZero() {
			t.Errorf("the use of the token is not noted: %+v, %v", token, err)
		}
	})
}
