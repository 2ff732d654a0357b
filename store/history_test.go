package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// contentAt gives all items of a revision, asked one by one.
func contentAt(t testing.TB, db *DB, rev int64, keys []string) string {
	t.Helper()
	var b strings.Builder
	for _, key := range keys {
		it, err := db.ItemAt(t.Context(), KindRedirect, key, rev)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %s %s %s %s\n", it.Kind, it.Key, it.Value, it.Source, it.Team)
	}
	return b.String()
}

// TestHistoryOfRandomEdits compares each question about the past with copies of
// the content that were taken then.
func TestHistoryOfRandomEdits(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		random := rand.New(rand.NewPCG(3, 5))
		var keys []string
		for i := range 12 {
			keys = append(keys, fmt.Sprintf("a/%02d", i))
		}
		was := []string{""} // by revision
		for len(was) < 40 {
			c.jump(time.Hour)
			var list []Change
			for _, key := range keys {
				_, err := db.Get(t.Context(), KindRedirect, key)
				switch n := random.IntN(8); {
				case n == 0 && err == nil:
					list = append(list, remove(key))
				case n <= 2:
					list = append(list, put(key, fmt.Sprint(random.IntN(3))))
				}
			}
			r, err := db.Commit(t.Context(), batch(list...))
			if err != nil {
				t.Fatal(err)
			}
			if r.Changes() > 0 {
				was = append(was, content(t, db))
			}
		}
		last := int64(len(was) - 1)
		for rev := range was {
			if got := contentAt(t, db, int64(rev), keys); got != was[rev] {
				t.Errorf("at revision %d:\n%s\nit was:\n%s", rev, got, was[rev])
			}
		}
		asLines := func(text string) map[string]string {
			m := map[string]string{}
			for line := range strings.Lines(text) {
				m[strings.Fields(line)[1]] = line
			}
			return m
		}
		for range 60 {
			from, to := random.Int64N(last+1), random.Int64N(last+1)
			var got, want []string
			if err := db.Diff(t.Context(), from, to, Name{}, func(d *Difference) error {
				line := func(it *Item) string {
					if it == nil {
						return ""
					}
					return fmt.Sprintf("%s %s %s %s %s\n", it.Kind, it.Key, it.Value, it.Source, it.Team)
				}
				got = append(got, line(d.Before)+"→ "+line(d.After))
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			before, after := asLines(was[from]), asLines(was[to])
			for _, key := range keys {
				if before[key] != after[key] {
					want = append(want, before[key]+"→ "+after[key])
				}
			}
			if len(keys) > 0 { // a page begins behind the last item of the one before
				cut, rest := keys[random.IntN(len(keys))], 0
				for _, key := range keys {
					if key > cut && before[key] != after[key] {
						rest++
					}
				}
				n := 0
				if err := db.Diff(t.Context(), from, to, Name{KindRedirect, cut}, func(d *Difference) error {
					if n++; d.Key <= cut {
						t.Errorf("behind %s comes %s", cut, d.Key)
					}
					return nil
				}); err != nil || n != rest {
					t.Errorf("behind %s: %d of %d, %v", cut, n, rest, err)
				}
			}
			if strings.Join(got, "") != strings.Join(want, "") {
				t.Errorf("from %d to %d:\n%s\nwant:\n%s", from, to, got, want)
			}
		}
		for range 8 {
			rev := random.Int64N(last + 1)
			cs, err := db.Restore(t.Context(), rev, Restoring{Actor: Actor{Who: "ann"}})
			if err != nil {
				t.Fatal(err)
			}
			publish(t, cs)
			if got := content(t, db); got != was[rev] {
				t.Errorf("restored %d:\n%s\nit was:\n%s", rev, got, was[rev])
			}
		}
		if got, want := replay(t, db), content(t, db); got != want {
			t.Errorf("replayed:\n%s\ncontent:\n%s", got, want)
		}
		for _, rev := range []int64{-1, 9999} {
			if _, err := db.ItemAt(t.Context(), KindRedirect, keys[0], rev); !errors.Is(err, ErrNotFound) {
				t.Errorf("item at revision %d: %v", rev, err)
			}
			if _, err := db.Restore(t.Context(), rev, Restoring{}); !errors.Is(err, ErrNotFound) {
				t.Errorf("restore of revision %d: %v", rev, err)
			}
		}
		if n := staged(t, db); n != 0 {
			db.cleaning.Wait()
			if n = staged(t, db); n != 0 {
				t.Errorf("%d staged rows are left", n)
			}
		}
		states, err := db.History(t.Context(), KindRedirect, keys[0], 100)
		if err != nil || len(states) < 3 {
			t.Fatal(states, err)
		}
		for i, s := range states[1:] {
			if s.Until == 0 || s.Until > states[i].Rev {
				t.Errorf("state %d was until %d, the next is of %d", i+1, s.Until, states[i].Rev)
			}
		}
	})
}

func TestRevert(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		commit(t, db, put("a/1", "x"), put("a/2", "x"))                             // 1
		rev := commit(t, db, put("a/1", "y"), remove("a/2"), put("a/3", "new")).Rev // 2
		commit(t, db, put("a/4", "later"))                                          // 3
		by := Restoring{Actor: Actor{Who: "ann"}, Note: "was wrong"}
		c, err := db.Revert(t.Context(), rev, nil, by)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := c.Summary(t.Context()); err != nil || s != (Summary{Added: 1, Changed: 1, Removed: 1}) {
			t.Errorf("%+v, %v", s, err)
		}
		publish(t, c)
		if got, want := content(t, db), "redirect a/1 {\"to\":\"x\"} api web\nredirect a/2 {\"to\":\"x\"} api web\nredirect a/4 {\"to\":\"later\"} api web\n"; got != want {
			t.Errorf("reverted:\n%s", got)
		}
		// A second time everything has changed since.
		var conflicts Conflicts
		if _, err := db.Revert(t.Context(), rev, nil, by); !errors.As(err, &conflicts) {
			t.Fatal(err)
		}
		want := "redirect a/1: it was changed again in revision 4\nredirect a/2: it was changed again in revision 4\nredirect a/3: it was changed again, and is gone now"
		if conflicts.Error() != want || conflicts[0].Now == nil || conflicts[2].Now != nil {
			t.Errorf("conflicts:\n%v", conflicts)
		}
		// One item of a revision, the others changed since or not.
		rev = commit(t, db, put("b/1", "x"), put("b/2", "x")).Rev
		commit(t, db, put("b/1", "y"))
		if c, err = db.Revert(t.Context(), rev, []Name{{KindRedirect, "b/2"}}, by); err != nil {
			t.Fatal(err)
		}
		publish(t, c)
		if _, err := db.Get(t.Context(), KindRedirect, "b/2"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if it, _ := db.Get(t.Context(), KindRedirect, "b/1"); string(it.Value) != string(value("y")) {
			t.Errorf("%s", it.Value)
		}
		revisions, err := db.Revisions(t.Context(), 0, 3)
		if err != nil || len(revisions) != 3 || revisions[0].Note != "was wrong" || revisions[0].Who != "ann" || revisions[0].Removed != 1 {
			t.Errorf("%+v, %v", revisions, err)
		}
	})
}

func TestRevertOfALargeRevision(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		publish(t, stage(t, db, StageOptions{}, many("a", 2500, "x")))
		before := content(t, db)
		r := publish(t, stage(t, db, StageOptions{Mode: Replace}, many("a", 1200, "y"), many("b", 1200, "y")))
		commit(t, db, put("c/1", "later"))
		c, err := db.Revert(t.Context(), r.Rev, nil, Restoring{})
		if err != nil {
			t.Fatal(err)
		}
		publish(t, c)
		if got := content(t, db); got != before+"redirect c/1 {\"to\":\"later\"} api web\n" {
			t.Errorf("%d bytes, want %d", len(got), len(before))
		}
	})
}

func TestVersions(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		ann := Actor{Who: "ann"}
		rev := commit(t, db, put("a/1", "x")).Rev
		if err := db.NameVersion(t.Context(), ann, Version{Name: "spring", Rev: rev}); err != nil {
			t.Fatal(err)
		}
		if err := db.NameVersion(t.Context(), ann, Version{Name: "spring", Rev: rev}); !errors.Is(err, ErrExists) {
			t.Error(err)
		}
		if err := db.NameVersion(t.Context(), ann, Version{Name: "future", Rev: rev + 1}); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if v, err := db.Version(t.Context(), "spring"); err != nil || v.Rev != rev || v.Who != "ann" || v.At.IsZero() {
			t.Errorf("%+v, %v", v, err)
		}
		if all, err := db.Revisions(t.Context(), 0, 10); err != nil || len(all) != 1 || len(all[0].Names) != 1 || all[0].Names[0] != "spring" {
			t.Errorf("%+v, %v", all, err)
		}
		if err := db.DeleteVersion(t.Context(), ann, "spring"); err != nil {
			t.Error(err)
		}
		if all, err := db.Versions(t.Context()); err != nil || len(all) != 0 {
			t.Errorf("%+v, %v", all, err)
		}
	})
}

func TestTidy(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		begin, err := db.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		day := func(v string) { // one revision a day
			c.jump(24 * time.Hour)
			commit(t, db, put("a/1", v))
		}
		for i := range 10 {
			day(fmt.Sprint(i))
		}
		done, err := db.Tidy(t.Context(), Retention{Changes: 73 * time.Hour, History: 6*24*time.Hour + time.Hour})
		if err != nil || done.Revisions != 6 || done.History != 2 || done.Receipts != 9 {
			t.Errorf("%+v, %v", done, err)
		}
		h, _ := db.Head(t.Context())
		if h.Floor != 6 || h.HistoryFloor != 3 {
			t.Errorf("%+v", h)
		}
		for _, tt := range []struct {
			after int64
			want  int
			err   error
		}{{5, 0, ErrTooOld}, {6, 4, nil}, {10, 0, nil}} {
			got, err := db.Changes(t.Context(), Cursor{begin.Epoch, tt.after}, 100)
			if len(got) != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("changes after %d: %d, %v", tt.after, len(got), err)
			}
		}
		for _, tt := range []struct {
			rev  int64
			want string
			err  error
		}{{2, "", ErrTooOld}, {3, "2", nil}, {9, "8", nil}, {10, "9", nil}} {
			it, err := db.ItemAt(t.Context(), KindRedirect, "a/1", tt.rev)
			if !errors.Is(err, tt.err) || err == nil && string(it.Value) != string(value(tt.want)) {
				t.Errorf("at %d: %s, %v", tt.rev, it.Value, err)
			}
		}
		// Two snapshots keep what is behind them.
		for rev := int64(7); rev <= 8; rev++ {
			if err := db.AddSnapshot(t.Context(), Snapshot{ID: fmt.Sprint(rev), Epoch: begin.Epoch, Rev: rev}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 5 {
			day(fmt.Sprint(i))
		}
		if _, err := db.Tidy(t.Context(), Retention{}); err != nil {
			t.Fatal(err)
		}
		if h, _ := db.Head(t.Context()); h.Floor != 7 {
			t.Errorf("two snapshots at 7 and 8, and the floor is %d", h.Floor)
		}
		// A clock that jumps ahead while nothing is committed takes nothing along.
		for _, s := range []string{"7", "8"} {
			if err := db.DeleteSnapshot(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		c.jump(1000 * 24 * time.Hour)
		if _, err := db.Tidy(t.Context(), Retention{}); err != nil {
			t.Fatal(err)
		}
		if h, _ := db.Head(t.Context()); h.Floor != 12 || h.HistoryFloor != 3 {
			t.Errorf("after a jump of the clock: %+v", h)
		}
		// Staging that nobody has touched goes, but not a draft's.
		left := stage(t, db, StageOptions{}, many("x", 10, "x"))
		kept := stage(t, db, StageOptions{}, many("y", 10, "x"))
		if err := db.PutDraft(t.Context(), Actor{Who: "ann"}, Draft{ID: "d1", State: "open", Changeset: kept.ID}); err != nil {
			t.Fatal(err)
		}
		c.jump(25 * time.Hour)
		young := stage(t, db, StageOptions{}, many("z", 10, "x"))
		if done, err := db.Tidy(t.Context(), Retention{}); err != nil || done.Changesets != 1 {
			t.Errorf("%+v, %v", done, err)
		}
		if n := staged(t, db); n != 20 {
			t.Errorf("%d staged rows, want 20", n)
		}
		if _, err := db.Changeset(t.Context(), left.ID); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if _, err := db.Changeset(t.Context(), young.ID); err != nil {
			t.Error(err)
		}
		// Two at once do no harm.
		publish(t, kept)
	})
}

// TestClockThatJumps: order and idempotency do not rest on the time.
func TestClockThatJumps(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		var revs []int64
		for i, jump := range []time.Duration{0, -1000 * time.Hour, 5000 * time.Hour, -4000 * time.Hour, 0} {
			c.jump(jump)
			revs = append(revs, commit(t, db, put("a/1", fmt.Sprint(i))).Rev)
		}
		if fmt.Sprint(revs) != "[1 2 3 4 5]" {
			t.Errorf("revisions %v", revs)
		}
		if got, want := replay(t, db), content(t, db); got != want {
			t.Errorf("replayed:\n%s\ncontent:\n%s", got, want)
		}
		if it, err := db.ItemAt(t.Context(), KindRedirect, "a/1", 3); err != nil || string(it.Value) != string(value("2")) {
			t.Errorf("%s, %v", it.Value, err)
		}
	})
}

// TestClockThatJumpsAnHour: leases are fenced, so that two who believe to have one
// are told apart; what is kept is kept, and what expires does so by the clock as it is.
func TestClockThatJumpsAnHour(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		ctx := t.Context()
		mine, err := db.Acquire(ctx, "renew", "n1", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		// Backwards: it is n1's for longer, and nobody else's.
		c.jump(-time.Hour)
		if _, err := db.Acquire(ctx, "renew", "n2", time.Minute); !errors.Is(err, ErrFenced) {
			t.Errorf("taken by n2: %v", err)
		}
		if again, err := db.Acquire(ctx, "renew", "n1", time.Minute); err != nil || again.Fence != mine.Fence {
			t.Errorf("renewed: %+v, %v; it was %+v", again, err, mine)
		}
		// Forwards: n2 has it, under a higher fence, and n1 is told so.
		c.jump(time.Hour)
		theirs, err := db.Acquire(ctx, "renew", "n2", time.Minute)
		if err != nil || theirs.Fence <= mine.Fence {
			t.Errorf("taken over: %+v, %v; before it was %+v", theirs, err, mine)
		}
		if err := db.Release(ctx, mine); !errors.Is(err, ErrFenced) {
			t.Errorf("given back by who had it before: %v", err)
		}
		if l, err := db.Acquire(ctx, "renew", "n1", time.Minute); !errors.Is(err, ErrFenced) || l.Holder != "n2" {
			t.Errorf("taken back: %+v, %v", l, err)
		}

		b := batch(put("a/1", "x"))
		b.Key = "k"
		first, err := db.Commit(ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		open := stage(t, db, StageOptions{}, many("z", 10, "x"))
		for _, jump := range []time.Duration{time.Hour, -2 * time.Hour, time.Hour} {
			c.jump(jump)
			if again, err := db.Commit(ctx, b); err != nil || !again.Repeated || again.Rev != first.Rev {
				t.Errorf("repeated: %+v, %v", again, err)
			}
			commit(t, db, put("a/2", fmt.Sprint(c.now())))
			if done, err := db.Tidy(ctx, Retention{}); err != nil || done != (Tidied{}) {
				t.Errorf("tidied %+v, %v", done, err)
			}
		}
		publish(t, open)
		if got, want := replay(t, db), content(t, db); got != want {
			t.Errorf("replayed:\n%s\ncontent:\n%s", got, want)
		}
		if _, _, err := db.VerifyAudit(ctx); err != nil {
			t.Error(err)
		}
	})
}
