package replica

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"fingerpost"
	"fingerpost/redirect"
)

// logged is a replica's folder with a snapshot and some revisions behind it.
func logged(t *testing.T, revisions int) (f *fake, dir, path string, b []byte) {
	t.Helper()
	f = newFake(t, "e1")
	f.commit(putHost("a.x", fingerpost.Host{}))
	dir = t.TempDir()
	r := open(t, Options{Dir: dir})
	load(t, r, f)
	for i := range revisions {
		f.commit(putRedirect(fmt.Sprint("r", i), fingerpost.Redirect{From: fmt.Sprintf("a.x/p%d", i), To: "https://t.test/"}))
	}
	for i := range f.revisions[1:] {
		if err := r.apply(f.revisions[1+i : 2+i]); err != nil {
			t.Fatal(err)
		}
	}
	path = r.log.segments[0].path
	r.Close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return f, dir, path, b
}

// TestTornLog cuts the log at every byte: what was whole before is the state, and
// the next revisions follow on it.
func TestTornLog(t *testing.T) {
	f, dir, path, b := logged(t, 3)
	for n := len(b); n >= 0; n-- {
		if testing.Short() && n%7 != 0 {
			continue
		}
		if err := os.WriteFile(path, b[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Open(Options{Dir: dir})
		if err != nil {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(b), err)
		}
		at, ok := r.Cursor()
		if !ok || n == len(b) && at.Rev != 4 {
			t.Fatalf("cut to %d of %d bytes: the replica is at %v", n, len(b), at)
		}
		compare(t, r.Table(), tableAt(t, f, at.Rev))
		if err := r.apply(f.revisions[at.Rev:]); err != nil && at.Rev < 4 {
			t.Fatal(err)
		}
		r.Close()
		r = open(t, Options{Dir: dir})
		if again, _ := r.Cursor(); again.Rev != 4 {
			t.Fatalf("cut to %d bytes: after what followed the replica is at %v", n, again)
		}
		compare(t, r.Table(), f.table(t))
		r.Close()
		clearLog(t, dir)
	}
}

// tableAt is what the content was at a revision.
func tableAt(t *testing.T, f *fake, rev int64) *redirect.Table {
	t.Helper()
	items := map[string]*Item{}
	for _, r := range f.revisions[:rev] {
		for _, c := range r.Changes {
			if delete(items, c.Item.name()); c.Op == Put {
				items[c.Item.name()] = &c.Item
			}
		}
	}
	return tableOf(t, items, false)
}

// clearLog removes all segments.
func clearLog(t *testing.T, dir string) {
	old, _ := filepath.Glob(filepath.Join(dir, logPrefix+"*"))
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamagedLog changes every byte of the log: the state is one that was, not
// behind the damage, and what is refused is kept beside.
func TestDamagedLog(t *testing.T) {
	f, dir, path, b := logged(t, 3)
	for at := range b {
		if testing.Short() && at%5 != 0 {
			continue
		}
		damaged := append([]byte(nil), b...)
		damaged[at] ^= 1 << (at % 8)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Open(Options{Dir: dir})
		if err != nil {
			t.Fatalf("byte %d of %d is changed: %v", at, len(b), err)
		}
		cursor, ok := r.Cursor()
		if !ok || cursor.Rev >= 4 {
			t.Fatalf("byte %d of %d is changed, and the replica is at %v", at, len(b), cursor)
		}
		compare(t, r.Table(), tableAt(t, f, cursor.Rev))
		r.Close()
		clearLog(t, dir)
	}
}
