package replica

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"fingerpost"
)

// manyItems are n redirects, ten for each host, in order, and one host with
// settings for each hundred of them.
func manyItems(n int) Content {
	since := time.UnixMicro(1_600_000_000_000_000).UTC()
	items := func(yield func(*Item, error) bool) {
		for i := 0; i < n; i += 100 {
			it := Item{Kind: KindHost, Key: manyHost(i), Source: "git:config", Team: "marketing", Since: since, Rev: 1,
				Value: []byte(`{"https":"redirect-to-https","team":"marketing"}`)}
			if !yield(&it, nil) {
				return
			}
		}
		for i := range n {
			it := manyItem(i, 0)
			it.Since, it.Rev = since, 1
			if !yield(&it, nil) {
				return
			}
		}
	}
	return Content{Cursor: Cursor{"bench", 1}, Items: items}
}

func manyHost(i int) string { return fmt.Sprintf("www.brand-%08d.example", i/10) }

func manyItem(i, version int) Item {
	return Item{Kind: KindRedirect, Key: fmt.Sprintf("%s/item-%08d", manyHost(i), i), Source: "git:config", Team: "marketing",
		Value: fmt.Appendf(nil, `{"from":"%s/campaign/%d/item-%d","to":"https://shop.example.com/products/item-%d/v%d"}`, manyHost(i), 2000+i%25, i, i, version)}
}

func manyURL(i int) string {
	return fmt.Sprintf("https://%s/campaign/%d/item-%d", manyHost(i), 2000+i%25, i)
}

// manyDir is a folder with a snapshot of n redirects.
func manyDir(t testing.TB, n int) string {
	t.Helper()
	dir := t.TempDir()
	start := time.Now()
	path := filepath.Join(dir, numbered(snapshotPrefix, 1))
	if err := writeFile(path, manyItems(n), nil); err != nil {
		t.Fatal(err)
	}
	h, err := readHeader(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d redirects: written in %v, %d MB", n, time.Since(start).Round(time.Millisecond), h.Bytes>>20)
	return dir
}

// TestMillionRedirectsStart prints what a start with a million redirects takes, and
// with a log of changes behind them, and looks one of them up.
func TestMillionRedirectsStart(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("takes some seconds, and measures")
	}
	dir := manyDir(t, 1_000_000)
	for _, log := range []int{0, 4500} {
		r := open(t, Options{Dir: dir, MinOverlay: 1 << 30, MaxOverlay: 1 << 30})
		for i := range log / 500 { // one change for each of so many hosts: 5 % of the redirects
			rev := Revision{Rev: int64(i + 2)}
			for j := range 500 {
				it := manyItem((i*500+j)*10, 1)
				it.Rev = rev.Rev
				rev.Changes = append(rev.Changes, Change{Put, it})
			}
			if err := r.apply([]Revision{rev}); err != nil {
				t.Fatal(err)
			}
		}
		overlay := r.Status().Overlay
		r.Close()
		start := time.Now()
		r = open(t, Options{Dir: dir, MinOverlay: 1 << 30, MaxOverlay: 1 << 30})
		took := time.Since(start)
		if got, want := location(t, r.Table(), manyURL(123_456)), "https://shop.example.com/products/item-123456/v0"; got != want {
			t.Errorf("it leads to %s, want %s", got, want)
		}
		t.Logf("start with 1,000,000 redirects, %d changes in the log (%d redirects and hosts in layers): %v, the goal is 1 s", log, overlay, took.Round(time.Millisecond))
		r.Close()
	}
}

// BenchmarkStart prints how long it takes from Open to the first answer. The
// file is in the page cache: a disk that gives b bytes a second adds the table's
// size divided by b.
func BenchmarkStart(b *testing.B) {
	for _, n := range []int{1_000_000, 10_000_000} {
		b.Run(fmt.Sprintf("redirects=%d", n), func(b *testing.B) {
			dir := manyDir(b, n)
			for b.Loop() {
				r, err := Open(Options{Dir: dir})
				if err != nil {
					b.Fatal(err)
				}
				if got := location(b, r.Table(), manyURL(n/2)); got[:8] != "https://" {
					b.Fatal(got)
				}
				b.StopTimer()
				r.stop()
				r.Close()
				b.StartTimer()
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/start")
		})
	}
}

// BenchmarkCompact prints what a compaction takes.
func BenchmarkCompact(b *testing.B) {
	dir := manyDir(b, 1_000_000)
	r, err := Open(Options{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	rev := int64(1)
	for b.Loop() {
		rev++
		it := manyItem(int(rev)*10, 1)
		it.Rev = rev
		if err := r.apply([]Revision{{Rev: rev, Changes: []Change{{Put, it}}}}); err != nil {
			b.Fatal(err)
		}
		if err := r.Compact(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/compaction")
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.Sys>>20), "MB-sys")
}

// BenchmarkApply prints what one change costs, from the call to the table, while
// changes of one host each accumulate up to 50,000 redirects in layers over a
// million.
func BenchmarkApply(b *testing.B) {
	dir := manyDir(b, 1_000_000)
	r, err := Open(Options{Dir: dir, MinOverlay: 1 << 30, MaxOverlay: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	g := rand.New(rand.NewPCG(1, 2))
	rev := int64(1)
	var took []time.Duration
	for b.Loop() {
		rev++
		it := manyItem(g.IntN(5000)*10, int(rev))
		it.Rev = rev
		start := time.Now()
		if err := r.apply([]Revision{{Rev: rev, Changes: []Change{{Put, it}}}}); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(r.Status().Overlay), "overlay")
}

// TestBurstReachesTenFollowers sends 10,000 changes, a revision each, to ten
// followers of one upstream over HTTP, and prints how long the last one takes.
func TestBurstReachesTenFollowers(t *testing.T) {
	const followers = 10
	changes := 10_000
	if testing.Short() || raceEnabled {
		changes = 1000
	}
	f := newFake(t, "e1")
	for i := range 100 {
		f.commit(putHost(manyHost(i*10), fingerpost.Host{}))
	}
	client := serve(t, f)
	var replicas []*Replica
	for range followers {
		r := open(t, Options{})
		follow(t, r, client)
		replicas = append(replicas, r)
	}
	at, _ := f.head(t.Context())
	for _, r := range replicas {
		reach(t, r, Cursor{at.Epoch, at.Rev})
	}
	start := time.Now()
	var last Cursor
	for i := range changes {
		last = f.commit(Change{Put, manyItem(i, 1)})
	}
	var all sync.WaitGroup
	for _, r := range replicas {
		all.Go(func() { reach(t, r, last) })
	}
	all.Wait()
	took := time.Since(start)
	for _, r := range replicas {
		if got, want := location(t, r.Table(), manyURL(changes-1)), fmt.Sprintf("https://shop.example.com/products/item-%d/v1", changes-1); got != want {
			t.Errorf("it leads to %s, want %s", got, want)
		}
	}
	t.Logf("%d changes, each a revision, have reached %d followers, on their disks and in their tables, after %v, the goal is 2 s for 10,000", changes, followers, took.Round(time.Millisecond))
}

// TestEditReachesFollower prints how long single edits take from their commit to
// the follower's table.
func TestEditReachesFollower(t *testing.T) {
	f := newFake(t, "e1")
	f.commit(putHost("a.x", fingerpost.Host{}))
	changed := make(chan struct{}, 1)
	r := open(t, Options{Changed: func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}})
	follow(t, r, serve(t, f))
	reach(t, r, Cursor{"e1", 1})
	var took []time.Duration
	for i := range 200 {
		start := time.Now()
		at := f.commit(putRedirect("r", fingerpost.Redirect{From: "a.x/p", To: fmt.Sprint("https://t.test/", i)}))
		reach(t, r, at)
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	t.Logf("an edit is in the table after p50 %v, p99 %v", took[100], took[198])
}
