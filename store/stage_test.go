package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"
)

func changes(list ...Change) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		for _, c := range list {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// many yields n puts of keys that begin with prefix.
func many(prefix string, n int, v string) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		for i := range n {
			if !yield(put(fmt.Sprintf("%s/%06d", prefix, i), v), nil) {
				return
			}
		}
	}
}

func stage(t testing.TB, db *DB, o StageOptions, all ...iter.Seq2[Change, error]) *Changeset {
	t.Helper()
	if o.Source == "" {
		o.Source = "api"
	}
	o.Actor = Actor{Who: "ann"}
	c, err := db.Stage(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range all {
		if _, err := c.Add(t.Context(), list); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func publish(t testing.TB, c *Changeset) Receipt {
	t.Helper()
	r, err := c.Publish(t.Context(), PublishOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func opsOf(t testing.TB, db *DB, rev int64) string {
	t.Helper()
	h, err := db.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := db.Changes(t.Context(), Cursor{h.Epoch, rev - 1}, 1)
	if err != nil || len(got) != 1 {
		t.Fatalf("revision %d: %d revisions, %v", rev, len(got), err)
	}
	var ops []string
	for _, c := range got[0].Changes {
		ops = append(ops, string(c.Op)+" "+c.Item.Key)
	}
	return strings.Join(ops, ", ")
}

func TestDifferencesAreWhatPublishingWouldChange(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		publish(t, stage(t, db, StageOptions{}, many("a", 50, "x")))
		commit(t, db, Change{Op: Put, Item: Item{Kind: KindRedirect, Key: "z", Value: value("x"), Source: "git"}})
		for _, tt := range []struct {
			mode Mode
			want string
		}{
			{Merge, "put a/000003, delete a/000007, put b"},
			{Replace, "put a/000003, delete a/000007, put b, delete a/000049"},
		} {
			c := stage(t, db, StageOptions{Mode: tt.mode}, func(yield func(Change, error) bool) {
				for change := range many("a", 49, "x") {
					switch change.Item.Key {
					case "a/000003":
						change.Item.Value = value("y")
					case "a/000007":
						change = remove("a/000007")
					}
					if !yield(change, nil) {
						return
					}
				}
			}, changes(put("b", "x")))
			list, err := c.Differences(t.Context(), 4)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, change := range list {
				got = append(got, string(change.Op)+" "+change.Item.Key)
			}
			if strings.Join(got, ", ") != tt.want {
				t.Errorf("%s: %v, want %s", tt.mode, got, tt.want)
			}
			if _, err := c.Differences(t.Context(), len(list)-1); !errors.Is(err, ErrTooLarge) {
				t.Errorf("%s: one too many: %v", tt.mode, err)
			}
		}
	})
}

func TestSmallChangesetIsToldOneByOne(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		commit(t, db, put("a/1", "x"), put("a/2", "x"), put("a/3", "x"))
		c := stage(t, db, StageOptions{Mode: Replace, Note: "from git"}, changes(put("a/1", "x"), put("a/2", "y"), put("a/4", "x")))
		if s, err := c.Summary(t.Context()); err != nil || s != (Summary{Added: 1, Changed: 1, Removed: 1, Same: 1}) {
			t.Errorf("summary: %+v, %v", s, err)
		}
		if h, _ := db.Head(t.Context()); h.Rev != 1 {
			t.Error("staging is visible")
		}
		if r := publish(t, c); r.Rev != 2 || r.Added != 1 || r.Changed != 1 || r.Removed != 1 {
			t.Errorf("receipt: %+v", r)
		}
		if got, want := opsOf(t, db, 2), "put a/2, put a/4, delete a/3"; got != want {
			t.Errorf("the feed tells %s, want %s", got, want)
		}
		if got, want := replay(t, db), content(t, db); got != want || strings.Count(got, "\n") != 3 {
			t.Errorf("replayed:\n%s\ncontent:\n%s", got, want)
		}
		// The same again changes nothing and is no revision.
		c = stage(t, db, StageOptions{Mode: Replace}, changes(put("a/1", "x"), put("a/2", "y"), put("a/4", "x")))
		if r := publish(t, c); r.Rev != 2 || r.Changes() != 0 {
			t.Errorf("receipt: %+v", r)
		}
	})
}

// told sets what a revision tells at the most.
func told(t *testing.T, changes int64, bytes int) {
	mostChanges, mostBytes := MaxTold, MaxBytes
	MaxTold, MaxBytes = changes, bytes
	t.Cleanup(func() { MaxTold, MaxBytes = mostChanges, mostBytes })
}

// TestLargeChangesetIsToldOneByOne wants of a changeset that is more than a batch
// what the feed tells of a batch.
func TestLargeChangesetIsToldOneByOne(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		publish(t, stage(t, db, StageOptions{Source: "api", Mode: Replace}, many("a", 3000, "x")))
		c.jump(time.Hour)
		// 500 stay, 1,500 change, 1,000 go, 2 come.
		publish(t, stage(t, db, StageOptions{Source: "api", Mode: Replace}, many("a", 500, "x"), func(yield func(Change, error) bool) {
			i := 0
			for c, err := range many("a", 2000, "y") {
				if i++; i > 500 && !yield(c, err) {
					return
				}
			}
		}, changes(put("b/1", "x"), put("b/2", "x"))))
		h, err := db.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		revisions, err := db.Changes(t.Context(), Cursor{h.Epoch, 0}, 10)
		if err != nil || len(revisions) != 1 || len(revisions[0].Changes) != 3000 {
			t.Fatalf("%d revisions, %v", len(revisions), err)
		}
		revisions, err = db.Changes(t.Context(), Cursor{h.Epoch, 1}, 10)
		if err != nil || len(revisions) != 1 {
			t.Fatalf("%d revisions, %v", len(revisions), err)
		}
		got := map[Op]int{}
		for _, change := range revisions[0].Changes {
			got[change.Op]++
			now, err := db.Get(t.Context(), change.Item.Kind, change.Item.Key)
			switch {
			case change.Op == Delete:
				if !errors.Is(err, ErrNotFound) || change.Item.Value != nil {
					t.Fatalf("%s is told as deleted: %v", change.Item.Key, err)
				}
			case err != nil || now.Rev != 2 || !now.sameAs(&change.Item) || !now.Since.Equal(change.Item.Since):
				t.Fatalf("told %+v, and it is %+v (%v)", change.Item, now, err)
			}
		}
		if got[Put] != 1502 || got[Delete] != 1000 {
			t.Errorf("told: %v", got)
		}
		if all := stage(t, db, StageOptions{Source: "api", Mode: Replace}, many("a", 1, "y")); publish(t, all).Removed != 2001 {
			t.Error("not all that was left over is removed")
		}
	})
}

// TestRevisionIsBoundedInBytes: what a follower has to hold in memory, and what a
// frame can hold.
func TestRevisionIsBoundedInBytes(t *testing.T) {
	told(t, MaxTold, 10_000)
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		long := strings.Repeat("x", 900)
		var list []Change
		for i := range 20 {
			list = append(list, put(fmt.Sprintf("a/%02d", i), long))
		}
		if _, err := db.Commit(t.Context(), batch(list...)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("a batch of 18,000 bytes: %v", err)
		}
		cs := stage(t, db, StageOptions{}, changes(list...))
		if r := publish(t, cs); r.Added != 20 {
			t.Errorf("%+v", r)
		}
		if got, want := opsOf(t, db, 1), "snapshot "+cs.ID; got != want {
			t.Errorf("the feed tells %s, want %s", got, want)
		}
		commit(t, db, list[:10]...) // as they are: no revision
		for i := range 10 {
			commit(t, db, put(fmt.Sprintf("a/%02d", i), strings.Repeat("y", 3000)))
		}
		h, _ := db.Head(t.Context())
		got, err := db.Changes(t.Context(), Cursor{h.Epoch, 1}, 1000)
		if err != nil || len(got) == 0 || len(got) > 5 {
			t.Errorf("%d revisions at once, %v", len(got), err)
		}
	})
}

func TestLargeChangesetIsOneReload(t *testing.T) {
	told(t, 2000, MaxBytes)
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		const n = 3000
		first := publish(t, stage(t, db, StageOptions{}, many("a", n, "x")))
		if first.Rev != 1 || first.Added != n {
			t.Errorf("first: %+v", first)
		}
		c.jump(time.Hour)
		// 1,500 stay, 1,500 change, 1,200 come, none goes: merge.
		cs := stage(t, db, StageOptions{}, many("a", n/2, "y"), many("b", 1200, "x"))
		second := publish(t, cs)
		if second.Rev != 2 || second.Added != 1200 || second.Changed != n/2 || second.Removed != 0 {
			t.Errorf("second: %+v", second)
		}
		if got, want := opsOf(t, db, 2), "snapshot "+cs.ID; got != want {
			t.Errorf("the feed tells %s", got)
		}
		for _, tt := range []struct {
			key, value string
			rev        int64
		}{{"a/000000", "y", 2}, {"a/001499", "y", 2}, {"a/001500", "x", 1}, {"b/000000", "x", 2}} {
			it, err := db.Get(t.Context(), KindRedirect, tt.key)
			if err != nil || string(it.Value) != string(value(tt.value)) || it.Rev != tt.rev {
				t.Errorf("%s is %s of %d, want %s of %d (%v)", tt.key, it.Value, it.Rev, tt.value, tt.rev, err)
			}
		}
		if it, _ := db.Get(t.Context(), KindRedirect, "a/000000"); !it.Since.Equal(first.At) {
			t.Errorf("a changed item must keep its since: %v, want %v", it.Since, first.At)
		}
		// Replace removes what is left over, of its source only.
		other := item("c/1", "x")
		other.Source = "file:other.json"
		host := Item{Kind: KindHost, Key: "a", Value: []byte("{}"), Source: "api"}
		commit(t, db, Change{Op: Put, Item: other}, Change{Op: Put, Item: host})
		cs = stage(t, db, StageOptions{Mode: Replace, Kinds: []string{KindRedirect}}, many("a", 2000, "y"))
		want := Summary{Changed: 500, Removed: n - 2000 + 1200, Same: n / 2}
		if s, err := cs.Summary(t.Context()); err != nil || s != want {
			t.Errorf("summary: %+v, want %+v (%v)", s, want, err)
		}
		if _, err := cs.Publish(t.Context(), PublishOptions{MaxRemoved: 100}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("more removed than allowed: %v", err)
		}
		publish(t, cs)
		got := strings.Split(strings.TrimSpace(content(t, db)), "\n")
		if len(got) != 2002 || !slices.Contains(got, `redirect c/1 {"to":"x"} file:other.json web`) || !slices.Contains(got, `host a {} api `) {
			t.Errorf("%d items are left", len(got))
		}
		if _, _, err := db.VerifyAudit(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestChangesetsThatAreRefused(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		other := item("a/2", "x")
		other.Source = "git:shop"
		commit(t, db, put("a/1", "x"), Change{Op: Put, Item: other})
		if _, err := db.Stage(t.Context(), StageOptions{Mode: Replace}); !errors.Is(err, ErrInvalid) {
			t.Errorf("replace without a source: %v", err)
		}
		c := stage(t, db, StageOptions{})
		for _, tt := range []struct {
			name string
			list []Change
		}{
			{"twice in one chunk", []Change{put("b/1", "x"), put("b/1", "x")}},
			{"a precondition", []Change{{Op: Put, Item: item("b/1", "x"), If: 1}}},
			{"no JSON", []Change{{Op: Put, Item: Item{Kind: "host", Key: "a", Source: "api", Value: []byte("{")}}}},
			{"a reload", []Change{{Op: Reload, Item: item("b/1", "x")}}},
		} {
			if _, err := c.Add(t.Context(), changes(tt.list...)); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
		if _, err := c.Add(t.Context(), changes(put("b/1", "x"))); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Add(t.Context(), changes(put("b/0", "x"), put("b/1", "x"))); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "redirect b/1 comes twice") {
			t.Errorf("twice in two chunks: %v", err)
		}
		broken := errors.New("line 7 is cut")
		if _, err := c.Add(t.Context(), func(yield func(Change, error) bool) { yield(Change{}, broken) }); !errors.Is(err, broken) {
			t.Errorf("an error of the source: %v", err)
		}
		if _, err := c.Add(t.Context(), changes(put("a/2", "y"))); err != nil {
			t.Fatal(err)
		}
		before := content(t, db)
		var conflicts Conflicts
		if _, err := c.Publish(t.Context(), PublishOptions{}); !errors.As(err, &conflicts) || len(conflicts) != 1 || conflicts[0].Error() != "redirect a/2: it belongs to the source git:shop" {
			t.Errorf("another's item: %v", err)
		}
		if _, err := c.Publish(t.Context(), PublishOptions{Base: 7}); !errors.Is(err, ErrMoved) {
			t.Errorf("another base: %v", err)
		}
		if err := c.Cancel(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Cancel(t.Context()); err != nil {
			t.Errorf("cancelled twice: %v", err)
		}
		if _, err := c.Publish(t.Context(), PublishOptions{}); !errors.Is(err, ErrConflict) {
			t.Errorf("publish after cancel: %v", err)
		}
		if _, err := c.Add(t.Context(), changes(put("b/3", "x"))); !errors.Is(err, ErrConflict) {
			t.Errorf("add after cancel: %v", err)
		}
		if got := content(t, db); got != before {
			t.Errorf("content changed:\n%s", got)
		}
		if n := staged(t, db); n != 0 {
			t.Errorf("%d staged rows are left", n)
		}
		// With a key, publishing again is the first receipt; without, a conflict.
		c = stage(t, db, StageOptions{Take: true}, changes(put("a/2", "y"), Change{Op: Delete, Item: Item{Kind: KindRedirect, Key: "a/1"}}))
		first, err := c.Publish(t.Context(), PublishOptions{Key: "ann/9"})
		if err != nil || first.Changed != 1 || first.Removed != 1 {
			t.Fatal(first, err)
		}
		if again, err := c.Publish(t.Context(), PublishOptions{Key: "ann/9"}); err != nil || !again.Repeated || again.Rev != first.Rev {
			t.Errorf("again: %+v, %v", again, err)
		}
		if _, err := c.Publish(t.Context(), PublishOptions{}); !errors.Is(err, ErrConflict) {
			t.Errorf("again without a key: %v", err)
		}
		if err := c.Cancel(t.Context()); !errors.Is(err, ErrConflict) {
			t.Errorf("cancel after publish: %v", err)
		}
		if _, err := db.Changeset(t.Context(), "cs-none"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if again, err := db.Changeset(t.Context(), c.ID); err != nil || again.State != StatePublished || again.Count != 2 {
			t.Errorf("%+v, %v", again, err)
		}
	})
}

func staged(t testing.TB, db *DB) (n int64) {
	t.Helper()
	if err := db.read(context.Background(), false, func(tx tx) error {
		var found bool
		return tx.run(context.Background(), one(&found, []any{&n}, `SELECT count(*) FROM staged`))
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestStagingBesideCleaning: what is staged while another changeset is dropped
// stays, whichever comes first.
func TestStagingBesideCleaning(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		for round := range 60 {
			gone := stage(t, db, StageOptions{}, many("a", 3, "x"))
			kept := stage(t, db, StageOptions{})
			done := make(chan error)
			go func() { done <- gone.Cancel(t.Context()) }()
			_, err := kept.Add(t.Context(), many("b", 3, "x"))
			if err := errors.Join(err, <-done); err != nil {
				t.Fatal(err)
			}
			if s, err := kept.Summary(t.Context()); err != nil || s.Added != 3 {
				t.Fatalf("round %d: %+v, %v", round, s, err)
			}
			if err := kept.Cancel(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestLostStagingIsNotPublished: rows that are missing are noticed.
func TestLostStagingIsNotPublished(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		c := stage(t, db, StageOptions{}, many("a", 5, "x"))
		execAll(t, db, `DELETE FROM staged WHERE key = 'a/000003'`)
		if _, err := c.Publish(t.Context(), PublishOptions{}); !errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
		if got := content(t, db); got != "" {
			t.Errorf("published:\n%s", got)
		}
	})
}
