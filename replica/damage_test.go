package replica

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestDamagedSnapshot: the one before takes the place of a damaged one, and the
// log is long enough for it.
func TestDamagedSnapshot(t *testing.T) {
	for _, part := range []string{"table", "content"} {
		t.Run(part, func(t *testing.T) {
			f := newFake(t, "e1")
			edits(f, 0, 3)
			dir := t.TempDir()
			r := open(t, Options{Dir: dir})
			load(t, r, f)
			edits(f, 3, 3)
			if err := r.apply(f.revisions[3:]); err != nil {
				t.Fatal(err)
			}
			if err := r.Compact(); err != nil {
				t.Fatal(err)
			}
			last := edits(f, 6, 2)
			if err := r.apply(f.revisions[6:]); err != nil {
				t.Fatal(err)
			}
			base := r.live.content.base
			at := base.Table + base.TableN/2
			if part == "content" {
				at = preambleSize + 20
			}
			r.Close()
			file, err := os.OpenFile(base.path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			var b [1]byte
			file.ReadAt(b[:], at)
			b[0] ^= 4
			file.WriteAt(b[:], at)
			file.Close()
			r = open(t, Options{Dir: dir, Log: testLog(t)})
			if at, ok := r.Cursor(); !ok || at != last {
				t.Fatalf("the replica is at %v, want %v", at, last)
			}
			compare(t, r.Table(), f.table(t))
			follow(t, r, f.upstream())
			last = edits(f, 8, 2)
			reach(t, r, last)
			compare(t, r.Table(), f.table(t))
		})
	}
}

// TestDamagedContentIsFetchedAnew: damage that a start does not touch is found
// beside the serving, and a follower repairs it.
func TestDamagedContentIsFetchedAnew(t *testing.T) {
	f := newFake(t, "e1")
	for i := range 20 {
		var changes []Change
		for j := range 50 {
			changes = append(changes, Change{Put, manyItem(i*50+j, 1)})
		}
		f.commit(changes...)
	}
	dir := t.TempDir()
	r := open(t, Options{Dir: dir})
	load(t, r, f)
	path := r.live.content.base.path
	r.Close()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt([]byte("?"), preambleSize+1000); err != nil {
		t.Fatal(err)
	}
	file.Close()
	r = open(t, Options{Dir: dir, Log: testLog(t)})
	if got := location(t, r.Table(), manyURL(7)); !strings.HasPrefix(got, "https") {
		t.Errorf("the table does not serve: %s", got)
	}
	r.tasks.Wait() // for the check of the content
	if !r.isDamaged() {
		t.Fatal("the damage was not found")
	}
	follow(t, r, f.upstream())
	reach(t, r, f.commit(Change{Put, manyItem(3, 2)}))
	if now := r.live.content.base.path; now == path || r.isDamaged() {
		t.Errorf("the damaged %s is in use", now)
	}
}

// TestCrashImages copies the folder at each point of a change, a compaction and
// the taking over of a snapshot, as a crash would leave it. Each copy opens as a
// state that was, not before what was acknowledged, and follows on to the end.
func TestCrashImages(t *testing.T) {
	f := newFake(t, "e1")
	edits(f, 0, 2)
	dir, images := t.TempDir(), t.TempDir()
	type image struct {
		at, dir string
		acked   Cursor
	}
	var all []image
	var mu sync.Mutex // guards all and r
	var r *Replica
	fault := func(at string) {
		mu.Lock()
		defer mu.Unlock()
		if r == nil {
			return
		}
		acked, _ := r.Cursor()
		copied := filepath.Join(images, fmt.Sprint(len(all)))
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Error(err)
		}
		all = append(all, image{at, copied, acked})
	}
	opened := open(t, Options{Dir: dir, fault: fault})
	load(t, opened, f)
	mu.Lock()
	r = opened
	mu.Unlock()
	stop := follow(t, opened, f.upstream())
	reach(t, opened, edits(f, 2, 3))
	if err := opened.Compact(); err != nil {
		t.Fatal(err)
	}
	reach(t, opened, edits(f, 5, 2))
	f.publish(manyItem(1, 1), manyItem(2, 1)) // revision 8
	reach(t, opened, edits(f, 7, 2))
	if err := opened.Compact(); err != nil {
		t.Fatal(err)
	}
	last := edits(f, 9, 1)
	reach(t, opened, last)
	stop()
	seen := map[string]int{}
	for _, im := range all {
		seen[im.at]++
		again := open(t, Options{Dir: im.dir})
		at, ok := again.Cursor()
		if !ok || at.Epoch != "e1" || at.Rev < im.acked.Rev {
			t.Fatalf("%s: the copy is at %v, acknowledged was %v", im.at, at, im.acked)
		}
		if at.Rev < 8 {
			compare(t, again.Table(), tableAt(t, f, at.Rev))
		}
		stop := follow(t, again, f.upstream())
		reach(t, again, last)
		stop()
		compare(t, again.Table(), f.table(t))
		again.Close()
	}
	t.Logf("copies at %v", seen)
	for _, at := range []string{"log begun", "log written", "log synced", "frozen", "built", "installed", "swapped", "segment begun"} {
		if seen[at] == 0 {
			t.Errorf("%q was never reached", at)
		}
	}
}
