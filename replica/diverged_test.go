package replica

import (
	"testing"
	"time"

	"fingerpost"
)

// TestFeedOfAnotherPastIsNotFollowed sets a database back without a word, as a copied
// file does, and lets it write on: fewer revisions than the follower has, as many,
// and more. The follower must end with what the database holds.
func TestFeedOfAnotherPastIsNotFollowed(t *testing.T) {
	rule := func(id string) Change {
		return putRedirect(id, fingerpost.Redirect{From: "a.x/" + id, To: "https://t.test/" + id})
	}
	for _, tt := range []struct {
		name string
		more int // revisions after it was set back by two
		cold bool
	}{{"behind", 1, false}, {"equal", 2, false}, {"beyond", 5, false}, {"beyond, after a compaction and a restart", 5, true}, {"equal, after a compaction and a restart", 2, true}} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, "e1")
			f.commit(rule("1"))
			old := f.content()
			dir := t.TempDir()
			r := open(t, Options{Dir: dir})
			stop := follow(t, r, f.upstream())
			f.commit(rule("2"))
			reach(t, r, f.commit(rule("3")))
			stop()
			if tt.cold {
				if err := r.Compact(); err != nil {
					t.Fatal(err)
				}
				r.Close()
				r = open(t, Options{Dir: dir})
			}
			f.restore("e1", old, 1)
			f.mu.Lock()
			f.floor = 0
			f.mu.Unlock()
			for i := range tt.more {
				f.commit(rule(string(rune('a' + i))))
			}
			told := 0
			f.diverged = func(after Cursor) {
				if told++; after != (Cursor{"e1", 3}) {
					t.Errorf("diverged at %v", after)
				}
				f.mu.Lock()
				defer f.mu.Unlock()
				f.epoch = "e2"
				f.wake()
			}
			follow(t, r, f.upstream())
			reach(t, r, Cursor{"e2", int64(1 + tt.more)})
			if told != 1 {
				t.Errorf("told %d times", told)
			}
			compare(t, r.Table(), f.table(t))
			reach(t, r, f.commit(rule("z")))
			compare(t, r.Table(), f.table(t))
		})
	}
}

// TestFollowerOfTheSamePastIsNotDiverged reconnects at each revision, from the log
// and from snapshots.
func TestFollowerOfTheSamePastIsNotDiverged(t *testing.T) {
	f := newFake(t, "e1")
	f.diverged = func(after Cursor) { t.Errorf("diverged at %v", after) }
	dir := t.TempDir()
	f.commit(putHost("a.x", fingerpost.Host{}))
	for i := range 12 {
		r := open(t, Options{Dir: dir})
		stop := follow(t, r, f.upstream())
		at := f.commit(putRedirect("1", fingerpost.Redirect{From: "a.x/", To: "https://t.test/" + string(rune('a'+i))}))
		reach(t, r, at)
		if i%3 == 0 {
			if err := r.Compact(); err != nil {
				t.Fatal(err)
			}
		}
		stop()
		if digest, err := f.feed().digest(t.Context(), at); err != nil || digest == "" || digest != r.place().Digest {
			t.Errorf("at %v the digest is %q, and the feed's %q (%v)", at, r.place().Digest, digest, err)
		}
		r.Close()
	}
}

// TestDigestKeepsItsForm: nodes of another build compare it.
func TestDigestKeepsItsForm(t *testing.T) {
	r := Revision{Rev: 7, At: time.UnixMicro(1_700_000_000_000_007), Changes: []Change{
		{Put, Item{Kind: KindRedirect, Key: "a.x/1", Value: []byte(`{"to":"/"}`), Source: "api", Team: "web", Since: time.UnixMicro(1_600_000_000_000_000), Rev: 7}},
		{Delete, Item{Kind: KindHost, Key: "a.x", Source: "api", Rev: 7}}}}
	const want = "1-46a211342a75324aa32425e6f77e5aae"
	if got := digestOf(&r); got != want {
		t.Errorf("got %s, want %s: a change of the form needs another digestVersion", got, want)
	}
	if b := appendRevision(nil, &r); len(b) > 0 {
		again, err := decodeRevision(b)
		if err != nil || digestOf(&again) != want {
			t.Errorf("read back it is %s (%v)", digestOf(&again), err)
		}
	}
	if differ("1-a", "2-b") || differ("", "1-a") || differ("1-a", "1-a") || !differ("1-a", "1-b") {
		t.Error("differ")
	}
}
