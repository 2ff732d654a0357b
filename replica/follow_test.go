package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fingerpost"
)

// edits commits n small revisions, and gives the last.
func edits(f *fake, from, n int) (at Cursor) {
	for i := range n {
		at = f.commit(putRedirect(fmt.Sprint("r", (from+i)%5), fingerpost.Redirect{From: fmt.Sprintf("a.x/p%d", (from+i)%5), To: fmt.Sprint("https://t.test/", from+i)}))
	}
	return at
}

// TestFeedCutAtEveryFrame fails the feed before and after each frame's effect:
// nothing is lost, nothing comes twice, and what was acknowledged is on disk.
func TestFeedCutAtEveryFrame(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			f := newFake(t, "e1")
			edits(f, 0, 1)
			var acked atomic.Int64
			f.acked = func(at Cursor) { acked.Store(at.Rev) }
			upto := 0 // frames that the next connection gives
			cut := func(n int, _ *Frame) error {
				if n < upto {
					return nil
				}
				upto++
				return errors.New("cut")
			}
			if when == "before" {
				f.beforeFrame = cut
			} else {
				f.afterFrame = cut
			}
			dir := t.TempDir()
			r := open(t, Options{Dir: dir})
			load(t, r, f)
			last := edits(f, 1, 12)
			stop := follow(t, r, f.upstream())
			reach(t, r, last)
			stop()
			compare(t, r.Table(), f.table(t))
			r.Close()
			r = open(t, Options{Dir: dir})
			if at, _ := r.Cursor(); at != last || acked.Load() > at.Rev {
				t.Errorf("after a restart the replica is at %v, acknowledged %d, the feed at %v", at, acked.Load(), last)
			}
			compare(t, r.Table(), f.table(t))
		})
	}
}

// cutter is a transport whose answers end after a number of bytes, one more for
// each answer.
type cutter struct{ n, step int64 }

func (c *cutter) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(r)
	if err == nil && r.Method == http.MethodGet {
		c.n += c.step
		res.Body = &cutBody{res.Body, c.n}
	}
	return res, err
}

type cutBody struct {
	io.ReadCloser
	left int64
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// TestFeedCutAtEveryByte cuts the connection after 1, 2, 3… bytes.
func TestFeedCutAtEveryByte(t *testing.T) {
	f := newFake(t, "e1")
	edits(f, 0, 1)
	r := open(t, Options{})
	load(t, r, f)
	last := edits(f, 1, 6)
	client := serve(t, f)
	client.HTTP = &http.Client{Transport: &cutter{step: 1}}
	if testing.Short() {
		client.HTTP = &http.Client{Transport: &cutter{step: 9}}
	}
	follow(t, r, client)
	reach(t, r, last)
	compare(t, r.Table(), f.table(t))
}

// TestSnapshotCutAnywhere cuts a snapshot on its way, until it comes whole.
func TestSnapshotCutAnywhere(t *testing.T) {
	f := newFake(t, "e1")
	last := edits(f, 0, 5)
	client := serve(t, f)
	client.HTTP = &http.Client{Transport: &cutter{step: 1777}}
	r := open(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	fo := &follower{r: r, up: client}
	for try := 0; ; try++ {
		err := fo.fetch(ctx)
		if err == nil {
			t.Logf("it came whole at try %d", try)
			break
		}
		if _, ok := r.Cursor(); ok || try > 200 {
			t.Fatalf("try %d: a part is taken for the whole, or it never comes: %v", try, err)
		}
		if left, _ := filepath.Glob(filepath.Join(r.o.Dir, "*"+tempSuffix)); len(left) > 0 {
			t.Fatalf("%v is left behind", left)
		}
	}
	if at, _ := r.Cursor(); at != last {
		t.Errorf("the replica is at %v, the feed at %v", at, last)
	}
}

// TestOlderThanTheFloor: a node that was away for too long fetches a snapshot.
func TestOlderThanTheFloor(t *testing.T) {
	f := newFake(t, "e1")
	edits(f, 0, 3)
	client := serve(t, f)
	r := open(t, Options{Log: testLog(t)})
	stop := follow(t, r, client)
	reach(t, r, Cursor{"e1", 3})
	stop()
	last := edits(f, 3, 20)
	f.mu.Lock()
	f.floor = 15
	f.mu.Unlock()
	follow(t, r, client)
	reach(t, r, last)
	compare(t, r.Table(), f.table(t))
}

// TestRestoredDatabase: a new epoch makes followers take the older content.
func TestRestoredDatabase(t *testing.T) {
	f := newFake(t, "e1")
	edits(f, 0, 3)
	old := f.content()
	client := serve(t, f)
	dir := t.TempDir()
	r := open(t, Options{Dir: dir, Log: testLog(t)})
	stop := follow(t, r, client)
	reach(t, r, Cursor{"e1", 3})
	reach(t, r, f.commit(putRedirect("lost", fingerpost.Redirect{From: "lost.x", To: "https://t.test/"})))
	f.restore("e2", old, 3)
	reach(t, r, Cursor{"e2", 3})
	if got := location(t, r.Table(), "https://lost.x/"); strings.HasPrefix(got, "https") {
		t.Errorf("what the restore undid still leads to %s", got)
	}
	last := edits(f, 9, 2)
	reach(t, r, last)
	stop()
	r.Close()
	r = open(t, Options{Dir: dir})
	if at, _ := r.Cursor(); at != last {
		t.Errorf("after a restart the replica is at %v, want %v", at, last)
	}
	compare(t, r.Table(), f.table(t))
}

// TestLargeChangeset: a change that the feed does not tell one by one makes
// followers fetch a snapshot that has it; until then they serve what was before.
func TestLargeChangeset(t *testing.T) {
	f := newFake(t, "e1")
	edits(f, 0, 3)
	client := serve(t, f)
	r := open(t, Options{Log: testLog(t)})
	follow(t, r, client)
	reach(t, r, Cursor{"e1", 3})
	var items []Item
	for i := range 2000 {
		items = append(items, manyItem(i, 1))
	}
	f.publish(items...)
	last := edits(f, 3, 2)
	reach(t, r, last)
	compare(t, r.Table(), f.table(t))
	if got, want := location(t, r.Table(), manyURL(1999)), "https://shop.example.com/products/item-1999/v1"; got != want {
		t.Errorf("it leads to %s, want %s", got, want)
	}
}

// TestStateBeforeCursorEndIsNotServed: rows of a snapshot that was read while
// others wrote are of many revisions. It counts from the last of these on.
func TestStateBeforeCursorEndIsNotServed(t *testing.T) {
	f := newFake(t, "e1")
	edits(f, 0, 3)
	f.scanned = func() { // while it is read: rows are replaced, added and removed
		edits(f, 3, 3)
		f.commit(putRedirect("new", fingerpost.Redirect{From: "b.x", To: "https://t.test/new"}))
		f.commit(remove(KindRedirect, "a.x/r1"))
	}
	hold := make(chan struct{})
	f.beforeFrame = func(n int, fr *Frame) error {
		if fr.Revision != nil && fr.Revision.Rev == 8 {
			<-hold
		}
		return nil
	}
	r := open(t, Options{})
	waiting := make(chan struct{})
	f.afterFrame = func(n int, fr *Frame) error {
		if fr.Revision != nil && fr.Revision.Rev == 7 {
			close(waiting)
		}
		return nil
	}
	follow(t, r, f.upstream())
	<-waiting
	if at, ok := r.Cursor(); ok {
		t.Errorf("a state of no moment is served, at %v", at)
	}
	close(hold)
	reach(t, r, Cursor{"e1", 8})
	compare(t, r.Table(), f.table(t))
}

// TestGapReconnects: a revision that is left out is never skipped.
func TestGapReconnects(t *testing.T) {
	f := newFake(t, "e1")
	edits(f, 0, 2)
	r := open(t, Options{})
	load(t, r, f)
	once := false
	f.beforeFrame = func(n int, fr *Frame) error {
		if fr.Revision != nil && fr.Revision.Rev == 4 && !once {
			once = true
			later := *fr.Revision
			later.Rev = 5
			fr.Revision = &later
		}
		return nil
	}
	last := edits(f, 2, 5)
	follow(t, r, f.upstream())
	reach(t, r, last)
	compare(t, r.Table(), f.table(t))
	if !once {
		t.Error("there was no gap")
	}
}

// TestLag: nothing while the feed is there, growing from when it is not.
func TestLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "e1")
		edits(f, 0, 2)
		r := open(t, Options{backoff: 100 * time.Millisecond, maxBackoff: 10 * time.Second})
		load(t, r, f)
		if s := r.Status(); !s.Ready || s.Connected {
			t.Errorf("status %+v", s)
		}
		var dead atomic.Bool
		up := f.upstream()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.Follow(ctx, silent{up, f, &dead}) }()
		synctest.Wait()
		time.Sleep(time.Minute)
		synctest.Wait()
		s := r.Status()
		if lag := s.Lag(time.Now()); lag != 0 || !s.Connected || s.Head.Rev != 2 {
			t.Errorf("with the feed there: lag %v, status %+v", lag, s)
		}
		dead.Store(true)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		s = r.Status()
		if lag := s.Lag(time.Now()); s.Connected || lag < 115*time.Second || lag > 125*time.Second {
			t.Errorf("two minutes without the feed: lag %v, status %+v", lag, s)
		}
		dead.Store(false)
		last := edits(f, 2, 1)
		time.Sleep(time.Minute) // the silence, and a pause, are behind it
		synctest.Wait()
		s = r.Status()
		if lag := s.Lag(time.Now()); lag != 0 || s.Cursor != last {
			t.Errorf("with the feed back: lag %v, status %+v", lag, s)
		}
		cancel()
		<-done
		r.Close()
	})
}

// silent gives nothing more once it is dead, and does not end by itself.
type silent struct {
	Upstream
	f    *fake
	dead *atomic.Bool
}

func (s silent) Revisions(ctx context.Context, after Place, fn func(Frame) error) error {
	if s.dead.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	return joined{feed: s.f.feed()}.Revisions(ctx, after, func(fr Frame) error {
		if s.dead.Load() {
			<-ctx.Done()
			return ctx.Err()
		}
		return fn(fr)
	})
}

// TestRelay: an edge follows an edge, from its snapshot and its log.
func TestRelay(t *testing.T) {
	f := newFake(t, "e1")
	edits(f, 0, 3)
	first := open(t, Options{})
	follow(t, first, f.upstream())
	reach(t, first, Cursor{"e1", 3})
	second := open(t, Options{Log: testLog(t)})
	follow(t, second, Join(first.Feed(), first.Snapshot, nil))
	last := edits(f, 3, 10)
	reach(t, second, last)
	compare(t, second.Table(), f.table(t))
	f.publish(manyItem(1, 1), manyItem(2, 1))
	last = edits(f, 13, 2)
	reach(t, second, last)
	compare(t, second.Table(), f.table(t))
	if got := location(t, second.Table(), manyURL(2)); !strings.HasPrefix(got, "https") {
		t.Errorf("what was published is not there: %s", got)
	}
}

// TestMappingOutlivesItsFile: a table that was given out answers when its file is
// gone and others have come; its memory is given back once nobody has it.
func TestMappingOutlivesItsFile(t *testing.T) {
	grace = 0
	t.Cleanup(func() { grace = time.Minute })
	f := newFake(t, "e1")
	edits(f, 0, 5)
	r := open(t, Options{})
	load(t, r, f)
	if err := r.apply([]Revision{{Rev: 6, Changes: []Change{putRedirect("r9", fingerpost.Redirect{From: "z.x", To: "https://t.test/"})}}}); err != nil {
		t.Fatal(err)
	}
	table, want := r.Table(), f.table(t)
	path := r.live.content.base.path
	for i := range 4 {
		if err := r.apply([]Revision{{Rev: int64(7 + i), Changes: []Change{putRedirect("r1", fingerpost.Redirect{From: "a.x/p1", To: fmt.Sprint("https://t.test/later/", i)})}}}); err != nil {
			t.Fatal(err)
		}
		if err := r.Compact(); err != nil {
			t.Fatal(err)
		}
		runtime.GC()
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("%s is still there: %v", path, err)
	}
	if got, want := location(t, table, "https://a.x/p1"), location(t, want, "https://a.x/p1"); got != want {
		t.Errorf("it leads to %s, want %s", got, want)
	}
	if runtime.GOOS != "linux" {
		return
	}
	mapped := func() int {
		b, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(b), path)
	}
	if mapped() == 0 {
		t.Error("the table in use is not mapped")
	}
	runtime.KeepAlive(table)
	table = nil
	for deadline := time.Now().Add(10 * time.Second); mapped() > 0; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatal("a mapping that nobody uses is never given back")
		}
		runtime.Gosched()
	}
}
