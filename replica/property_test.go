package replica

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"fingerpost"
	"fingerpost/redirect"
)

// generator makes random changes over few names, so that they meet.
type generator struct{ *rand.Rand }

var forms = []string{"a.x", "b.x", "c.x", "b.a.x", "*.x", ".a.x", "*.a.x", "*", "a-b.x", "d.y"}

func (g generator) pick(list ...string) string { return list[g.IntN(len(list))] }
func (g generator) form() string               { return forms[g.IntN(len(forms))] }
func (g generator) exact() string              { return g.pick("a.x", "b.x", "c.x", "b.a.x", "a-b.x", "d.y") }
func (g generator) chance(percent int) bool    { return g.IntN(100) < percent }

func (g generator) change() Change {
	id := fmt.Sprintf("r%d", g.IntN(4))
	switch {
	case g.chance(20):
		return remove(KindRedirect, g.form()+"/"+id)
	case g.chance(10):
		return remove(KindHost, g.form())
	case g.chance(5):
		return Change{Put, Item{Kind: "zone", Key: g.form(), Value: []byte(`{"a":1}`), Source: "api"}}
	case g.chance(4): // what a newer version may write, and this one cannot read
		return Change{Put, Item{Kind: KindRedirect, Key: g.form() + "/" + id, Value: []byte(`{"from":7}`), Source: "api"}}
	case g.chance(30):
		h := fingerpost.Host{HTTPS: g.pick("", "", "allow-all", "https-only")}
		for range g.IntN(3) {
			h.Also = append(h.Also, g.form())
		}
		name := g.form()
		if name[0] != '*' && name[0] != '.' {
			for range g.IntN(3) {
				h.RedirectFrom = append(h.RedirectFrom, g.form())
			}
		}
		if g.chance(30) {
			h.To = "https://" + g.pick("t.test", "b.x") + "/" + id
		}
		if g.chance(30) {
			h.Fallback = &fingerpost.Fallback{To: "https://fallback.test/" + id}
		}
		if g.chance(30) {
			h.HSTS = &fingerpost.HSTS{MaxAge: 1 + g.IntN(9)}
		}
		return putHost(name, h)
	}
	r := fingerpost.Redirect{From: g.form() + g.pick("", "/p", "/p/*", "/q", "/p/:x"), To: g.pick("https://t.test/"+id, "https://t.test/:splat", "https://"+g.exact()+"/p")}
	if g.chance(20) {
		r.Status = 302
	}
	if g.chance(10) {
		r.Enabled = new(bool)
	}
	if g.chance(10) {
		r.Priority = g.IntN(3)
	}
	return putRedirect(id, r)
}

// compare holds one table to another on all hosts and paths that occur.
func compare(t testing.TB, got, want *redirect.Table) {
	t.Helper()
	var a, b redirect.Answer
	for _, host := range []string{"a.x", "b.x", "c.x", "b.a.x", "a-b.x", "d.y", "z.x", "z.a.x", "z.z.a.x", "other.test", "t.test"} {
		for _, path := range []string{"/", "/p", "/p/7", "/p/7/8", "/q", "/r"} {
			for _, scheme := range []string{"http", "https"} {
				r := request(t, scheme+"://"+host+path)
				want.Answer(&r, &a)
				got.Answer(&r, &b)
				if x, y := summary(&b), summary(&a); x != y {
					t.Fatalf("%s://%s%s\n got %s\nwant %s", scheme, host, path, x, y)
				}
			}
		}
	}
}

func summary(a *redirect.Answer) string {
	rule := ""
	if !a.Rule.IsZero() {
		rule = a.Rule.Host() + " " + a.Rule.ID()
	}
	return fmt.Sprintf("kind %d status %d to %s, rule %s, cache %q hsts %q vary %q page %q", a.Kind, a.Status, a.Location, rule, a.CacheControl, a.HSTS, a.Vary, a.Page)
}

// TestReplicaAnswersAsTheFinalState sends random changes through a replica that
// is restarted, folded and compacted at random, and holds what it answers to the
// table that redirect.Compile makes of the final content at once. Where the
// changes contradict each other, both must leave the same ones out.
func TestReplicaAnswersAsTheFinalState(t *testing.T) {
	runs := 300
	if testing.Short() || raceEnabled {
		runs = 24
	}
	for seed := range uint64(runs) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { randomRun(t, seed, seed%2 == 0) })
	}
}

// randomRun makes only such changes as Check accepts, or all.
func randomRun(t *testing.T, seed uint64, checked bool) {
	g := generator{rand.New(rand.NewPCG(seed, 7))}
	f := newFake(t, "e1")
	var first []Change
	for range g.IntN(20) {
		if !checked {
			first = append(first, g.change())
		}
	}
	for _, c := range first {
		f.commit(c)
	}
	o := Options{Dir: t.TempDir(), MinOverlay: 1 + g.IntN(200)}
	r := open(t, o)
	load(t, r, f)
	refused := 0
	for range 30 {
		switch n := g.IntN(20); n {
		case 0:
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			r = open(t, o)
		case 1:
			if err := r.Compact(); err != nil {
				t.Fatal(err)
			}
		case 2:
			foldNow(t, r)
		default:
			var changes []Change
			names := map[string]bool{}
			for range 1 + g.IntN(4) {
				if c := g.change(); !names[c.Item.name()] {
					names[c.Item.name()] = true
					changes = append(changes, c)
				}
			}
			if checked {
				if err := r.Check(changes); err != nil {
					refused++
					continue
				}
			}
			f.commit(changes...)
			at, _ := r.Cursor()
			if err := r.apply(f.revisions[at.Rev:]); err != nil {
				t.Fatal(err)
			}
		}
		compare(t, r.Table(), tableOf(t, f.content(), checked))
		if depth := layersOf(r); depth > 3 {
			t.Fatalf("%d layers", depth)
		}
	}
	t.Logf("%d revisions, %d refused by Check, %d items", len(f.revisions), refused, len(f.items))
	if at, _ := r.Cursor(); at.Rev != int64(len(f.revisions)) {
		t.Fatalf("the replica is at %v, the store at %d", at, len(f.revisions))
	}
	for n, it := range f.content() {
		got, err := r.Get(it.Kind, it.Key)
		if err != nil || got == nil || string(got.Value) != string(it.Value) || got.Rev != it.Rev || !got.Since.Equal(it.Since) {
			t.Fatalf("%q is %+v (%v), want %+v", n, got, err, it)
		}
	}
	var listed []string
	for it, err := range r.Scan(KindRedirect, "a.x/") {
		if err != nil {
			t.Fatal(err)
		}
		listed = append(listed, fmt.Sprint(it.Key, it.Rev))
	}
	var want []string
	for it := range sorted(f.content()) {
		if it.Kind == KindRedirect && strings.HasPrefix(it.Key, "a.x/") {
			want = append(want, fmt.Sprint(it.Key, it.Rev))
		}
	}
	if !slices.Equal(listed, want) {
		t.Errorf("listed are %v, want %v", listed, want)
	}
	if n := r.Status().Items["zone"]; n != int64(countKind(f.content(), "zone")) {
		t.Errorf("%d zones are counted", n)
	}
}

func countKind(items map[string]*Item, kind string) (n int) {
	for _, it := range items {
		if it.Kind == kind {
			n++
		}
	}
	return n
}

// load brings an empty replica to the state of a fake, as Follow would.
func load(t testing.TB, r *Replica, f *fake) {
	t.Helper()
	fo := &follower{r: r, up: f.upstream()}
	if err := fo.fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// foldNow makes the middle layer anew, as maintain would at some size.
func foldNow(t testing.TB, r *Replica) {
	t.Helper()
	r.writer.Lock()
	s := r.live
	forms := map[fingerpost.HostPattern]struct{}{}
	for _, l := range []layer{s.mid, s.top} {
		for f := range l.forms {
			forms[f] = struct{}{}
		}
	}
	w, base := s.beginWatch(), s.content.base
	r.writer.Unlock()
	r.fold(s, base, w, forms)
}

func layersOf(r *Replica) int {
	r.writer.Lock()
	defer r.writer.Unlock()
	n := 1
	for _, l := range []layer{r.live.mid, r.live.top} {
		if l.table != nil {
			n++
		}
	}
	return n
}

// TestEverythingAtOnce applies random changes while layers are folded, snapshots
// written, changes checked, and the replica read, all at the same time.
func TestEverythingAtOnce(t *testing.T) {
	revisions := 600
	if testing.Short() {
		revisions = 100
	}
	f := newFake(t, "e1")
	f.commit(putHost("a.x", fingerpost.Host{}))
	dir := t.TempDir()
	r := open(t, Options{Dir: dir, MinOverlay: 5})
	load(t, r, f)
	stop := make(chan struct{})
	var all sync.WaitGroup
	beside := func(seed uint64, fn func(g generator) error) {
		all.Go(func() {
			g := generator{rand.New(rand.NewPCG(seed, 3))}
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := fn(g); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	beside(1, func(generator) error { foldNow(t, r); return nil })
	beside(2, func(generator) error { return r.Compact() })
	beside(3, func(g generator) error {
		if err := r.Check([]Change{g.change()}); errors.Is(err, ErrDamaged) {
			return err
		}
		return nil
	})
	beside(4, func(g generator) error {
		if depth := r.Table().Rules(); depth < 0 {
			return errors.New("no table")
		}
		r.Status()
		_, err := r.Get(KindHost, g.form())
		return err
	})
	beside(5, func(generator) error {
		s, err := r.Snapshot(t.Context(), Cursor{})
		if err == nil {
			s.Close()
		}
		return err
	})
	relayed := open(t, Options{})
	follow(t, relayed, Join(r.Feed(), r.Snapshot, nil))
	g := generator{rand.New(rand.NewPCG(9, 9))}
	var last Cursor
	for range revisions {
		last = f.commit(g.change())
		if err := r.apply(f.revisions[last.Rev-1:]); err != nil {
			t.Fatal(err)
		}
	}
	reach(t, relayed, last)
	close(stop)
	all.Wait()
	compare(t, r.Table(), f.table(t))
	compare(t, relayed.Table(), f.table(t))
	r.Close()
	r = open(t, Options{Dir: dir})
	if at, _ := r.Cursor(); at != last {
		t.Errorf("after a restart the replica is at %v, want %v", at, last)
	}
	compare(t, r.Table(), f.table(t))
}
