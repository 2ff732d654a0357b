package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func sortLines(lines []string) { slices.Sort(lines) }

func TestCommitAndRead(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		r := commit(t, db, put("a.example/1", "x"), put("a.example/2", "y"))
		if r.Rev != 1 || r.Added != 2 || r.Changes() != 2 || r.Epoch == "" {
			t.Errorf("first receipt: %+v", r)
		}
		it, err := db.Get(t.Context(), KindRedirect, "a.example/1")
		if err != nil {
			t.Fatal(err)
		}
		if string(it.Value) != `{"to":"x"}` || it.Rev != 1 || it.Source != "api" || it.Team != "web" || !it.Since.Equal(r.At) {
			t.Errorf("item: %+v, committed at %v", it, r.At)
		}
		c.jump(time.Hour)
		if r := commit(t, db, put("a.example/1", "z"), remove("a.example/2"), put("b.example/1", "w")); r.Rev != 2 || r.Added != 1 || r.Changed != 1 || r.Removed != 1 {
			t.Errorf("second receipt: %+v", r)
		}
		if changed, _ := db.Get(t.Context(), KindRedirect, "a.example/1"); !changed.Since.Equal(it.Since) || changed.Rev != 2 {
			t.Errorf("a changed item must keep its since: %+v", changed)
		}
		if _, err := db.Get(t.Context(), KindRedirect, "a.example/2"); !errors.Is(err, ErrNotFound) {
			t.Errorf("a deleted item: %v", err)
		}
		// The same again is no revision.
		if r := commit(t, db, put("b.example/1", "w")); r.Rev != 2 || r.Changes() != 0 {
			t.Errorf("a batch without effect: %+v", r)
		}
		want := "redirect a.example/1 {\"to\":\"z\"} api web\nredirect b.example/1 {\"to\":\"w\"} api web\n"
		if got := content(t, db); got != want {
			t.Errorf("content:\n%s", got)
		}
		if got := replay(t, db); got != want {
			t.Errorf("replayed:\n%s", got)
		}
	})
}

func TestPreconditions(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		commit(t, db, put("a/1", "x"))
		commit(t, db, put("a/2", "x"))
		with := func(c Change, rev int64) Change { c.If = rev; return c }
		from := func(c Change, source string) Change { c.Item.Source = source; return c }
		take := func(c Change) Change { c.Take = true; return c }
		tests := []struct {
			name   string
			batch  Batch
			is     error
			reason string
		}{
			{"at the revision", batch(with(put("a/1", "y"), 1)), nil, ""},
			{"at another", batch(with(put("a/1", "z"), 1)), ErrConflict, "redirect a/1: it was changed in revision 3; revision 1 was expected"},
			{"there, but must be absent", batch(with(put("a/1", "z"), Absent)), ErrConflict, "redirect a/1: it exists, since revision 3"},
			{"absent, as it must be", batch(with(put("a/3", "x"), Absent)), nil, ""},
			{"gone", batch(with(put("a/9", "x"), 7)), ErrConflict, "redirect a/9: it is gone; revision 7 was expected"},
			{"delete of nothing", batch(remove("a/9")), ErrNotFound, "redirect a/9: not found"},
			{"all or nothing", batch(put("a/4", "x"), remove("a/9")), ErrNotFound, ""},
			{"another's item", batch(from(put("a/1", "z"), "file:r.json")), ErrConflict, "redirect a/1: it belongs to the source api"},
			{"delete of another's item", batch(from(remove("a/1"), "file:r.json")), ErrConflict, "redirect a/1: it belongs to the source api"},
			{"another's item, taken", batch(take(from(put("a/1", "z"), "file:r.json"))), nil, ""},
			{"base moved", Batch{Base: 2, Changes: []Change{put("a/5", "x")}}, ErrMoved, "the store has moved on: the newest revision is 5, not 2"},
			{"base", Batch{Base: 5, Changes: []Change{put("a/5", "x")}}, nil, ""},
			{"twice", batch(put("a/6", "x"), put("a/6", "y")), ErrInvalid, ""},
			{"no JSON", batch(Change{Op: Put, Item: Item{Kind: "host", Key: "k", Source: "api", Value: []byte("{")}}), ErrInvalid, ""},
			{"no UTF-8", batch(Change{Op: Put, Item: Item{Kind: "host", Key: "k", Source: "api", Value: []byte("\"\xff\"")}}), ErrInvalid, ""},
			{"zero byte in the key", batch(put("a\x00", "x")), ErrInvalid, ""},
			{"no key", batch(put("", "x")), ErrInvalid, ""},
			{"no source", batch(from(put("a/7", "x"), "")), ErrInvalid, ""},
			{"no kind", batch(Change{Op: Put, Item: Item{Key: "k", Source: "api", Value: []byte("1")}}), ErrInvalid, ""},
			{"no op", batch(Change{Item: item("k", "x")}), ErrInvalid, ""},
			{"too many", batch(make([]Change, MaxChanges+1)...), ErrTooLarge, ""},
		}
		for _, tt := range tests {
			before, _ := db.Head(t.Context())
			_, err := db.Commit(t.Context(), tt.batch)
			if !errors.Is(err, tt.is) || tt.reason != "" && err.Error() != tt.reason {
				t.Errorf("%s: %v", tt.name, err)
			}
			after, _ := db.Head(t.Context())
			if moved := after.Rev - before.Rev; moved != 0 && err != nil || moved != 1 && err == nil {
				t.Errorf("%s: the head moved by %d", tt.name, moved)
			}
		}
		var conflict *Conflict
		if _, err := db.Commit(t.Context(), batch(with(put("a/1", "q"), 1))); !errors.As(err, &conflict) || conflict.Now == nil || string(conflict.Now.Value) != `{"to":"z"}` {
			t.Errorf("a conflict must say what the item is now: %+v", conflict)
		}
		if got, want := replay(t, db), content(t, db); got != want {
			t.Errorf("replayed:\n%s\ncontent:\n%s", got, want)
		}
	})
}

func TestIdempotencyKeys(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		b := batch(put("a/1", "x"))
		b.Key = "ann/1"
		first, err := db.Commit(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		commit(t, db, put("a/1", "later"))
		again, err := db.Commit(t.Context(), b)
		if err != nil || !again.Repeated || again.Rev != first.Rev || !again.At.Equal(first.At) || again.Added != 1 {
			t.Errorf("the same key again: %+v, %v", again, err)
		}
		if it, _ := db.Get(t.Context(), KindRedirect, "a/1"); string(it.Value) != `{"to":"later"}` {
			t.Errorf("the repeated batch was applied twice: %s", it.Value)
		}
		other := batch(put("a/1", "other"))
		other.Key = b.Key
		if _, err := db.Commit(t.Context(), other); !errors.Is(err, ErrKeyReused) {
			t.Errorf("the same key for something else: %v", err)
		}
		// A batch that failed leaves no key behind.
		failing := batch(remove("a/2"))
		failing.Key = "ann/2"
		if _, err := db.Commit(t.Context(), failing); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		commit(t, db, put("a/2", "x"))
		if r, err := db.Commit(t.Context(), failing); err != nil || r.Repeated {
			t.Errorf("the key of a failed batch: %+v, %v", r, err)
		}
		// Both at once are one.
		both := batch(put("a/3", "x"))
		both.Key = "ann/3"
		var wg sync.WaitGroup
		receipts := make([]Receipt, 8)
		for i := range receipts {
			wg.Go(func() {
				var err error
				if receipts[i], err = db.Commit(t.Context(), both); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		first = receipts[0]
		for _, r := range receipts {
			if r.Rev != first.Rev {
				t.Errorf("one key, two revisions: %d and %d", r.Rev, first.Rev)
			}
		}
		// After a day the key is free.
		c.jump(25 * time.Hour)
		if r, err := db.Commit(t.Context(), b); err != nil || r.Repeated {
			t.Errorf("a key after 25 hours: %+v, %v", r, err)
		}
	})
}

// TestWritersAndTail: a reader that follows sees each revision once, in order and
// whole, whatever the writers do.
func TestWritersAndTail(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		dsn := p.dsn(t)
		const writers, each = 8, 40
		reader := open(t, dsn, Options{})
		h, err := reader.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		type seen struct {
			rev  int64
			keys string
		}
		tail := make(chan []seen)
		go func() {
			var all []seen
			defer func() { tail <- all }()
			c := h.Cursor()
			for len(all) < writers*each {
				if _, err := reader.Wait(t.Context(), c); err != nil {
					t.Error(err)
					return
				}
				revisions, err := reader.Changes(t.Context(), c, 7)
				if err != nil {
					t.Error(err)
					return
				}
				for _, r := range revisions {
					var keys []string
					for _, change := range r.Changes {
						keys = append(keys, change.Item.Key)
					}
					all = append(all, seen{r.Rev, strings.Join(keys, " ")})
					c.Rev = r.Rev
				}
			}
		}()
		// Two handles, as two control nodes, each with half of the writers.
		handles := []*DB{open(t, dsn, Options{}), open(t, dsn, Options{})}
		var wg sync.WaitGroup
		var mu sync.Mutex
		written := map[int64]string{}
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					a, b := fmt.Sprintf("w%d/%d", w, i), fmt.Sprintf("w%d/%d-b", w, i)
					r, err := handles[w%2].Commit(t.Context(), batch(put(a, "x"), put(b, "x")))
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					written[r.Rev] = a + " " + b
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		for i, s := range <-tail {
			if s.rev != int64(i+1) {
				t.Fatalf("revision %d came as number %d", s.rev, i+1)
			}
			if s.keys != written[s.rev] {
				t.Errorf("revision %d has %s, written was %s", s.rev, s.keys, written[s.rev])
			}
		}
		if got, want := replay(t, reader), content(t, reader); got != want {
			t.Error("the feed and the items differ")
		}
		if _, _, err := reader.VerifyAudit(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestTwoNodesOneItem: of several writers that expect the same revision, one wins.
func TestTwoNodesOneItem(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		dsn := p.dsn(t)
		nodes := []*DB{open(t, dsn, Options{}), open(t, dsn, Options{})}
		rev := commit(t, nodes[0], put("a/1", "0")).Rev
		for round := range 10 {
			var wg sync.WaitGroup
			var won [4]int64
			for w := range won {
				wg.Go(func() {
					c := put("a/1", fmt.Sprintf("%d by %d", round, w))
					c.If = rev
					r, err := nodes[w%2].Commit(t.Context(), batch(c))
					if err == nil {
						won[w] = r.Rev
					} else if !errors.Is(err, ErrConflict) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			winner := slices.IndexFunc(won[:], func(rev int64) bool { return rev != 0 })
			count := 0
			for _, r := range won {
				if r != 0 {
					count++
				}
			}
			if count != 1 {
				t.Fatalf("round %d: %d writers won", round, count)
			}
			rev = won[winner]
			it, err := nodes[0].Get(t.Context(), KindRedirect, "a/1")
			if err != nil || string(it.Value) != string(value(fmt.Sprintf("%d by %d", round, winner))) || it.Rev != rev {
				t.Errorf("round %d: %d won with revision %d, and the item is %s of %d (%v)", round, winner, rev, it.Value, it.Rev, err)
			}
		}
	})
}

func TestLimits(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		var changes []Change
		for i := range MaxChanges {
			changes = append(changes, put(fmt.Sprintf("a/%04d", i), "x"))
		}
		commit(t, db, changes...)
		commit(t, db, put("b/1", "x"))
		h, _ := db.Head(t.Context())
		// A revision comes whole, whatever the limit.
		got, err := db.Changes(t.Context(), Cursor{h.Epoch, 0}, 1)
		if err != nil || len(got) != 1 || len(got[0].Changes) != MaxChanges {
			t.Fatalf("%d revisions, %v", len(got), err)
		}
		for i, c := range got[0].Changes {
			if want := fmt.Sprintf("a/%04d", i); c.Item.Key != want {
				t.Fatalf("change %d is of %s, want %s", i, c.Item.Key, want)
			}
		}
		for _, tt := range []struct {
			cursor Cursor
			limit  int
			want   int
			err    error
		}{
			{Cursor{h.Epoch, 0}, MaxChanges, 1, nil},
			{Cursor{h.Epoch, 0}, MaxChanges + 1, 2, nil},
			{Cursor{h.Epoch, 1}, 10, 1, nil},
			{Cursor{h.Epoch, 2}, 10, 0, nil},
			{Cursor{h.Epoch, 3}, 10, 0, ErrTooOld},
			{Cursor{"other", 0}, 10, 0, ErrTooOld},
		} {
			got, err := db.Changes(t.Context(), tt.cursor, tt.limit)
			if len(got) != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("Changes(%v, %d): %d revisions, %v", tt.cursor, tt.limit, len(got), err)
			}
		}
	})
}

func TestClosed(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Commit(t.Context(), batch(put("a/1", "x"))); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}
