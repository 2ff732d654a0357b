package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestWritesThatWerePlannedOnARevisionAreRefusedOnceItMoved(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		ctx := t.Context()
		// Each of these moves hosts or redirects, or does not.
		steps := []struct {
			name  string
			moves bool
			do    func() error
		}{
			{"add", true, func() error { commit(t, db, put("a/1", "x")); return nil }},
			{"the same again", false, func() error { commit(t, db, put("a/1", "x")); return nil }},
			{"another kind", false, func() error {
				it := item("z", "x")
				it.Kind = "zone"
				_, err := db.Commit(ctx, batch(Change{Op: Put, Item: it}))
				return err
			}},
			{"a team", false, func() error { return db.PutTeam(ctx, Actor{Who: "ann"}, Team{Name: "web"}) }},
			{"change", true, func() error { commit(t, db, put("a/1", "y")); return nil }},
			{"add another", true, func() error { commit(t, db, put("a/2", "y")); return nil }},
			{"delete", true, func() error { commit(t, db, remove("a/2")); return nil }},
			{"large", true, func() error {
				publish(t, stage(t, db, StageOptions{}, many("b", MaxChanges+1, "x")))
				return nil
			}},
			{"large removal", true, func() error {
				publish(t, stage(t, db, StageOptions{Mode: Replace}, many("b", 1, "x")))
				return nil
			}},
		}
		for _, s := range steps {
			h, err := db.Head(ctx)
			if err != nil {
				t.Fatal(err)
			}
			since := h.Rev
			if since == 0 {
				since = Absent
			}
			if err := s.do(); err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
			if err := db.Unchanged(ctx, since); errors.Is(err, ErrStale) != s.moves || err != nil && !s.moves {
				t.Errorf("%s: unchanged since %d: %v", s.name, since, err)
			}
			before := content(t, db)
			b := batch(put("c/1", s.name))
			b.Since = since
			_, err = db.Commit(ctx, b)
			if errors.Is(err, ErrStale) != s.moves || err != nil && !s.moves {
				t.Errorf("%s: commit: %v", s.name, err)
			}
			c := stage(t, db, StageOptions{}, changes(put("c/2", s.name)))
			if !s.moves { // the commit has moved it
				if h, err = db.Head(ctx); err != nil {
					t.Fatal(err)
				}
				since = h.Rev
			}
			_, err = c.Publish(ctx, PublishOptions{Since: since})
			if errors.Is(err, ErrStale) != s.moves || err != nil && !s.moves {
				t.Errorf("%s: publish: %v", s.name, err)
			}
			if s.moves && content(t, db) != before {
				t.Errorf("%s: a refused write changed the content", s.name)
			}
		}
		if err := db.Unchanged(ctx, 1000); !errors.Is(err, ErrStale) {
			t.Errorf("a revision that is not there: %v", err)
		}
	})
}

func TestARepeatedCallIsTheSameWhateverItsConditions(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		ctx := t.Context()
		commit(t, db, put("a/0", "x"))
		b := batch(put("a/1", "x"))
		b.Key, b.Base, b.Since = "k", 1, 1
		first, err := db.Commit(ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		b.Base, b.Since = 2, 2
		commit(t, db, put("a/2", "x"))
		if again, err := db.Commit(ctx, b); err != nil || !again.Repeated || again.Rev != first.Rev {
			t.Errorf("again: %+v, %v", again, err)
		}
		c := stage(t, db, StageOptions{}, changes(put("a/3", "x")))
		if _, err := c.Publish(ctx, PublishOptions{Key: "p", Sum: "s", Since: 3}); err != nil {
			t.Fatal(err)
		}
		other := stage(t, db, StageOptions{}, changes(put("a/3", "x")))
		if again, err := other.Publish(ctx, PublishOptions{Key: "p", Sum: "s", Since: 3}); err != nil || !again.Repeated {
			t.Errorf("another changeset of the same request: %+v, %v", again, err)
		}
		if _, err := other.Publish(ctx, PublishOptions{Key: "p", Sum: "t"}); !errors.Is(err, ErrKeyReused) {
			t.Errorf("the key for another request: %v", err)
		}
		if r, sum, err := db.Receipt(ctx, "p"); err != nil || sum != "s" || r.Added != 1 {
			t.Errorf("receipt %+v %q, %v", r, sum, err)
		}
		if _, _, err := db.Receipt(ctx, "q"); !errors.Is(err, ErrNotFound) {
			t.Errorf("a key that was not used: %v", err)
		}
	})
}

func TestStagedRowsAreReadBackInOrderOnAnyHandle(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		dsn := p.dsn(t)
		db, other := open(t, dsn, Options{}), open(t, dsn, Options{})
		host := Change{Op: Put, Item: Item{Kind: KindHost, Key: "z", Value: value("x"), Source: "api"}}
		large := put("m/0", strings.Repeat("x", 3<<20)) // three of them are more than a page
		large2, large3, large4 := large, large, large
		large2.Item.Key, large3.Item.Key, large4.Item.Key = "m/1", "m/2", "m/3"
		c := stage(t, db, StageOptions{Take: true}, many("b", 2500, "x"), changes(remove("a/1"), host, large, large2, large3, large4))
		there, err := other.Changeset(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // each time anew
			var got []string
			for change, err := range there.Each(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				if change.Op == Put && len(change.Item.Value) == 0 || change.Op == Delete && change.Item.Value != nil || !change.Take {
					t.Fatalf("%s %s has the value %s", change.Op, change.Item.Key, change.Item.Value)
				}
				got = append(got, change.Item.Kind+" "+change.Item.Key)
			}
			if len(got) != 2506 || !slices.IsSorted(got) || got[0] != "host z" || got[1] != "redirect a/1" {
				t.Fatalf("%d rows, the first are %v", len(got), got[:2])
			}
		}
		last := func() (err error) {
			for _, err = range there.Each(t.Context()) {
			}
			return err
		}
		publish(t, c)
		if err := last(); !errors.Is(err, ErrConflict) {
			t.Errorf("published: %v", err)
		}
		gone := stage(t, db, StageOptions{}, changes(put("a/9", "x")))
		if err := gone.Cancel(t.Context()); err != nil {
			t.Fatal(err)
		}
		if there = gone; !errors.Is(last(), ErrConflict) {
			t.Errorf("cancelled: %v", last())
		}
	})
}

func TestAPausedSourcePublishesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		ctx := t.Context()
		by := Actor{Who: "ann"}
		c := stage(t, db, StageOptions{Source: "git:x"}, changes(Change{Op: Put, Item: Item{Kind: KindRedirect, Key: "a/1", Value: value("x")}}))
		if err := db.PutSource(ctx, by, Source{Label: "git:x", Kind: "git", Paused: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Publish(ctx, PublishOptions{}); !errors.Is(err, ErrPaused) || content(t, db) != "" {
			t.Errorf("paused: %v", err)
		}
		b := batch(put("a/2", "x"))
		b.Source = "git:x"
		if _, err := db.Commit(ctx, b); !errors.Is(err, ErrPaused) || content(t, db) != "" {
			t.Errorf("paused, at once: %v", err)
		}
		b.Source, b.Changes = "git:y", nil // nobody knows it
		if _, err := db.Commit(ctx, b); err != nil {
			t.Errorf("another source: %v", err)
		}
		if err := db.PutSource(ctx, by, Source{Label: "git:x", Kind: "git"}); err != nil {
			t.Fatal(err)
		}
		publish(t, c)
		if n, err := db.CountBySource(ctx); err != nil || fmt.Sprint(n) != "map[git:x:1]" {
			t.Errorf("counted %v, %v", n, err)
		}
	})
}

func TestTidyRemovesOldJobsAndWhatHasExpired(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		ctx := t.Context()
		by := Actor{Who: "ann"}
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		now := c.now()
		ok(db.PutJob(ctx, Job{ID: "old", State: "done"}))
		ok(db.AddToken(ctx, by, Token{ID: "session", Hash: "1", Scope: "session", Expires: now.Add(time.Hour)}))
		ok(db.AddToken(ctx, by, Token{ID: "for-ever", Hash: "2"}))
		ok(db.AddToken(ctx, by, Token{ID: "long", Hash: "3", Expires: now.Add(1000 * time.Hour)}))
		c.jump(31 * 24 * time.Hour)
		ok(db.PutJob(ctx, Job{ID: "new", State: "failed"}))
		// A clock that has jumped ahead by itself takes nothing along.
		if done, err := db.Tidy(ctx, Retention{}); err != nil || done.Jobs+done.Tokens != 0 {
			t.Errorf("without a revision: %+v, %v", done, err)
		}
		commit(t, db, put("a/1", "x"))
		done, err := db.Tidy(ctx, Retention{})
		if err != nil || done.Jobs != 1 || done.Tokens != 1 {
			t.Errorf("%+v, %v", done, err)
		}
		jobs, err := db.Jobs(ctx)
		ok(err)
		tokens, err := db.Tokens(ctx)
		ok(err)
		if len(jobs) != 1 || jobs[0].ID != "new" || len(tokens) != 2 {
			t.Errorf("left are %+v and %+v", jobs, tokens)
		}
	})
}
