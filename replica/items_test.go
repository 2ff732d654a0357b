package replica

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"fingerpost"
)

func putOther(kind, key, value string) Change {
	return Change{Put, Item{Kind: kind, Key: key, Value: []byte(`"` + value + `"`), Source: "api", Team: "ops"}}
}

// told gathers what Options.Items is told.
type told struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (g *told) items(changes []Change) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if changes == nil {
		g.lines = append(g.lines, "all")
	}
	for _, c := range changes {
		g.lines = append(g.lines, fmt.Sprintf("%s %s %s %s @%d", c.Op, c.Item.Kind, c.Item.Key, c.Item.Value, c.Item.Rev))
	}
}

func (g *told) take() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	lines := g.lines
	g.lines = nil
	return lines
}

// TestItemsAreToldInOrderOnceTheyAreServed wants each change once, of hosts without
// what they are,
// when Get gives it already, and "all" after a snapshot.
func TestItemsAreToldInOrderOnceTheyAreServed(t *testing.T) {
	f := newFake(t, "e1")
	f.commit(putHost("a.x", fingerpost.Host{}), putOther("zone", "x", "before"))
	var g told
	var r *Replica
	r = open(t, Options{Items: func(changes []Change) {
		g.items(changes)
		last := changes
		if len(last) > 1 {
			last = last[len(last)-1:] // several revisions may come at once
		}
		for _, c := range last {
			it, err := r.Get(c.Item.Kind, c.Item.Key)
			if at, _ := r.Cursor(); err != nil || at.Rev < c.Item.Rev || (it == nil) != (c.Op == Delete) {
				t.Errorf("told of %s %s at revision %d, when Get gives %v, %v at %v", c.Op, c.Item.Key, c.Item.Rev, it, err, at)
			}
		}
	}})
	stop := follow(t, r, f.upstream())
	reach(t, r, Cursor{"e1", 1})
	f.commit(putHost("b.x", fingerpost.Host{}))
	f.commit(putOther("challenge", "t1", "one"), putHost("c.x", fingerpost.Host{}), putOther("certificate", "x", "two"))
	f.commit(remove("challenge", "t1"))
	reach(t, r, f.commit(putOther("certificate", "x", "three")))
	stop() // so that what was being told has been
	want := []string{"all", "put host b.x  @0", `put challenge t1 "one" @3`, "put host c.x  @0", `put certificate x "two" @3`, "delete challenge t1  @4", `put certificate x "three" @5`}
	if got := g.take(); !slices.Equal(got, want) {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	stop = follow(t, r, f.upstream())
	reach(t, r, f.publish(putOther("zone", "x", "after").Item))
	stop()
	if got := g.take(); !slices.Equal(got, []string{"all"}) {
		t.Errorf("after a snapshot told %q, want all", got)
	}
	if it, err := r.Get("zone", "x"); err != nil || string(it.Value) != `"after"` {
		t.Errorf("after a snapshot Get gives %v, %v", it, err)
	}
	if err := r.Compact(); err != nil {
		t.Fatal(err)
	}
	if got := g.take(); len(got) > 0 {
		t.Errorf("a compaction changes no item, but told %q", got)
	}
}

// TestGetAndScanAreWhatTheContentIs compares both with a plain map while changes
// and compactions go on.
func TestGetAndScanAreWhatTheContentIs(t *testing.T) {
	f := newFake(t, "e1")
	kinds := []string{"a", "cert", "certificate", "zone", KindRedirect}
	r := open(t, Options{MinOverlay: 1 << 30})
	follow(t, r, f.upstream())
	g := rand.New(rand.NewPCG(7, 7))
	key := func() string { return fmt.Sprintf("k%d.x/%d", g.IntN(30), g.IntN(30)) }
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() { // for the race detector, and for mappings that go
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				if it, err := r.Get("cert", fmt.Sprintf("k%d.x/%d", i%30, i%31)); err != nil && err != ErrNoState || it != nil && it.Kind != "cert" {
					t.Errorf("Get gives %v, %v", it, err)
					return
				}
			}
		})
	}
	for round := range 30 {
		var at Cursor
		for range 20 {
			c := putOther(kinds[g.IntN(len(kinds))], key(), fmt.Sprint(round))
			if g.IntN(3) == 0 {
				c = remove(c.Item.Kind, c.Item.Key)
			}
			at = f.commit(c)
		}
		reach(t, r, at)
		if round%4 == 1 {
			if err := r.Compact(); err != nil {
				t.Fatal(err)
			}
		}
		want := f.content()
		for _, kind := range kinds {
			for range 50 {
				k := key()
				it, err := r.Get(kind, k)
				if w := want[name(kind, k)]; err != nil || (w == nil) != (it == nil) || w != nil && (string(it.Value) != string(w.Value) || it.Source != w.Source || it.Team != w.Team || it.Rev != w.Rev || !it.Since.Equal(w.Since)) {
					t.Fatalf("Get(%s, %s) gives %v, %v, want %v", kind, k, it, err, w)
				}
			}
			for _, prefix := range []string{"", "k1", "k12.x/", "zz"} {
				var got, wanted []string
				for it, err := range r.Scan(kind, prefix) {
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, it.name()+string(it.Value))
				}
				for it := range sorted(want) {
					if it.Kind == kind && strings.HasPrefix(it.Key, prefix) {
						wanted = append(wanted, it.name()+string(it.Value))
					}
				}
				if !slices.Equal(got, wanted) {
					t.Fatalf("Scan(%s, %s) gives %q, want %q", kind, prefix, got, wanted)
				}
			}
		}
	}
	close(done)
	readers.Wait()
}

// TestReadersWaitForNoDisk holds a change up on its way to the disk, and all locks
// beside: Get and Scan answer, with what was before until the change is there.
func TestReadersWaitForNoDisk(t *testing.T) {
	f := newFake(t, "e1")
	f.commit(putOther("certificate", "x", "before"))
	stuck, on := make(chan string), make(chan struct{})
	slow := false
	r := open(t, Options{fault: func(at string) {
		if slow && strings.HasPrefix(at, "log ") {
			stuck <- at
			<-on
		}
	}})
	load(t, r, f)
	slow = true
	f.commit(putOther("certificate", "x", "after"), putOther("certificate", "y", "new"))
	applied := make(chan error, 1)
	go func() { applied <- r.apply(f.revisions[1:]) }()
	read := func() string {
		it, err := r.Get("certificate", "x")
		if err != nil {
			t.Fatal(err)
		}
		list := ""
		for it, err := range r.Scan("certificate", "") {
			if err != nil {
				t.Fatal(err)
			}
			list += it.Key + "=" + string(it.Value) + " "
		}
		return string(it.Value) + " of " + list
	}
	const before, after = `"before" of x="before" `, `"after" of x="after" y="new" `
	for _, want := range []string{"log begun", "log written", "log synced"} {
		if at := <-stuck; at != want {
			t.Fatalf("stuck at %q, want %q", at, want)
		}
		r.mu.Lock()
		r.log.mu.Lock()
		if got := read(); got != before {
			t.Errorf("at %q the items are %s, want %s", want, got, before)
		}
		r.log.mu.Unlock()
		r.mu.Unlock()
		on <- struct{}{}
	}
	if err := <-applied; err != nil {
		t.Fatal(err)
	}
	if got := read(); got != after {
		t.Errorf("in the end the items are %s, want %s", got, after)
	}

	slow = false
	r.log.tail().f.Close() // the disk is gone
	f.commit(putOther("certificate", "x", "lost"), remove("certificate", "y"))
	if err := r.apply(f.revisions[2:]); err == nil {
		t.Error("a change that is not in the log was applied")
	}
	if got := read(); got != after {
		t.Errorf("after a failed write the items are %s, want %s", got, after)
	}
	if it, _, err := r.live.content.get("certificate", "x"); err != nil || string(it.Value) != `"after"` {
		t.Errorf("after a failed write the content has %v, %v", it, err)
	}
}

// TestTreeIsAMapInOrderThatStays compares it with a map while it grows, and each
// tree that was kept with what it was.
func TestTreeIsAMapInOrderThatStays(t *testing.T) {
	g := rand.New(rand.NewPCG(3, 4))
	l, plain := newChanges(), map[string]int64{}
	type kept struct {
		tree *tree
		want map[string]int64
	}
	var all []kept
	var back func()
	last := kept{}
	for i := range int64(4000) {
		switch g.IntN(40) {
		case 0:
			all = append(all, kept{l.tree, maps.Clone(plain)})
			back, last = l.freeze(), all[len(all)-1]
		case 1:
			if back != nil {
				back()
				plain, back = maps.Clone(last.want), nil
			}
		}
		n := fmt.Sprintf("%c/%d", 'a'+rune(g.IntN(3)), g.IntN(300))
		l.tree = l.tree.put(n, entry{rev: i}, l.number)
		plain[n] = i
	}
	all = append(all, kept{l.tree, plain})
	for _, k := range all {
		for _, prefix := range []string{"", "a", "b/", "b/1", "c/299", "d"} {
			var want, got []string
			for _, n := range slices.Sorted(maps.Keys(k.want)) {
				if strings.HasPrefix(n, prefix) {
					want = append(want, fmt.Sprint(n, k.want[n]))
				}
			}
			for _, n := range newest([]*tree{k.tree}, prefix) {
				got = append(got, fmt.Sprint(n.name, n.entry.rev))
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%q: got %q, want %q", prefix, got, want)
			}
		}
		for i := range 300 {
			n := fmt.Sprintf("b/%d", i)
			e, ok := k.tree.find([]byte(n))
			if rev, want := k.want[n]; ok != want || e.rev != rev {
				t.Fatalf("%s: got %d %v, want %d %v", n, e.rev, ok, rev, want)
			}
		}
	}
	var depth func(t *tree) int
	depth = func(t *tree) int {
		if t == nil {
			return 0
		}
		return 1 + max(depth(t.left), depth(t.right))
	}
	rising := newChanges()
	for i := range 100_000 {
		rising.tree = rising.tree.put(fmt.Sprintf("%06d", i), entry{}, 0)
	}
	if d := depth(rising.tree); d > 70 {
		t.Errorf("100,000 names that come in order stand %d deep", d)
	}
}

// TestAFolderIsForOneAtATime wants an error, and nothing of the first one harmed.
func TestAFolderIsForOneAtATime(t *testing.T) {
	dir := t.TempDir()
	first := open(t, Options{Dir: dir})
	if r, err := Open(Options{Dir: dir}); err == nil || r != nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("the second gets %v, %v", r, err)
	}
	first.Close()
	open(t, Options{Dir: dir})
}

// BenchmarkGet prints what one Get of a snapshot of a million redirects costs, of
// what is there, of what is not, and of what has changed since.
func BenchmarkGet(b *testing.B) {
	const n = 1_000_000
	r, err := Open(Options{Dir: manyDir(b, n), MinOverlay: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	changed := putOther("certificate", "a.x", strings.Repeat("x", 200))
	changed.Item.Rev = 2
	if err := r.apply([]Revision{{Rev: 2, Changes: []Change{changed}}}); err != nil {
		b.Fatal(err)
	}
	g := rand.New(rand.NewPCG(1, 2))
	keys := make([]string, 4096)
	for i := range keys {
		keys[i] = manyItem(g.IntN(n), 0).Key
	}
	for _, tt := range []struct {
		what, kind string
		key        func(i int) string
		there      bool
	}{
		{"snapshot", KindRedirect, func(i int) string { return keys[i%len(keys)] }, true},
		{"none", "certificate", func(i int) string { return keys[i%len(keys)] }, false},
		{"changed", "certificate", func(int) string { return "a.x" }, true},
	} {
		b.Run(tt.what, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				it, err := r.Get(tt.kind, tt.key(i))
				if err != nil || (it != nil) != tt.there {
					b.Fatal(it, err)
				}
				i++
			}
		})
	}
}

// BenchmarkGetWhileChangesCome prints what a Get of several goroutines costs while
// revisions are written to the log, one after another.
func BenchmarkGetWhileChangesCome(b *testing.B) {
	r, err := Open(Options{Dir: manyDir(b, 1_000_000), MinOverlay: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		rev := int64(1)
		defer func() { done <- int(rev) }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			rev++
			c := putOther("certificate", fmt.Sprintf("x%d", rev%1000), strings.Repeat("x", 2000))
			c.Item.Rev = rev
			if err := r.apply([]Revision{{Rev: rev, Changes: []Change{c}}}); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := r.Get("certificate", "none"); err != nil {
				b.Error(err)
			}
		}
	})
	close(stop)
	b.ReportMetric(float64(<-done)/b.Elapsed().Seconds(), "revisions/s")
}
