package replica

import (
	"fmt"
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

// TestItemsAreToldInOrderOnceTheyAreServed wants each change of other kinds once,
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
	want := []string{"all", `put challenge t1 "one" @3`, `put certificate x "two" @3`, "delete challenge t1  @4", `put certificate x "three" @5`}
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
