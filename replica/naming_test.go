package replica

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"fingerpost"
)

// namingOf is Naming, by looking at everything; hosts only those that are meant.
func namingOf(items map[string]*Item, n Names) (hosts, alone []string) {
	wanted := func(f fingerpost.HostPattern) bool {
		return slices.Contains(n.Forms, f) || slices.Contains(n.Below, parentOf(f)) && parentOf(f) != ""
	}
	own, redirected := map[fingerpost.HostPattern]bool{}, map[fingerpost.HostPattern]bool{}
	for it := range sorted(items) {
		switch it.Kind {
		case KindHost:
			h, err := it.host()
			if err != nil {
				continue
			}
			names := namesOf(h)
			for _, f := range names {
				own[f] = true
			}
			if slices.ContainsFunc(names, wanted) || n.Certificate != "" && h.Certificate == n.Certificate {
				hosts = append(hosts, it.Key)
			}
		case KindRedirect:
			if f := form(it.Key); slices.Contains(n.Below, parentOf(f)) && parentOf(f) != "" {
				redirected[f] = true
			}
		}
	}
	for f := range redirected {
		if !own[f] {
			alone = append(alone, string(f))
		}
	}
	slices.Sort(alone)
	return hosts, alone
}

// TestNamingFindsWhatEverythingHas compares with a look at all items, in a snapshot,
// with changes over it, and in the snapshot that is made of both.
func TestNamingFindsWhatEverythingHas(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		pick := func() string {
			base := []string{"a.x", "b.x", "a.b.x", "c.b.x", "x", "*.b.x", ".b.x", ".c.x", "*", "a.y", "*.x"}
			return base[rnd.IntN(len(base))]
		}
		f := newFake(t, "e1")
		change := func() {
			var changes []Change
			for range 1 + rnd.IntN(4) {
				host := pick()
				switch rnd.IntN(5) {
				case 0:
					changes = append(changes, remove(KindHost, host))
				case 1:
					changes = append(changes, remove(KindRedirect, host+"/"+fmt.Sprint(rnd.IntN(2))))
				case 2:
					changes = append(changes, putRedirect(fmt.Sprint(rnd.IntN(2)), fingerpost.Redirect{From: host + fmt.Sprint("/", rnd.IntN(9)), To: "https://t.example/"}))
				default:
					h := fingerpost.Host{Certificate: []string{"", "auto", "none", "shop", "other"}[rnd.IntN(5)]}
					for range rnd.IntN(3) {
						h.Also = append(h.Also, pick())
					}
					if rnd.IntN(3) == 0 {
						h.RedirectFrom = []string{pick()}
					}
					changes = append(changes, putHost(host, h))
				}
			}
			seen := map[string]bool{}
			f.commit(slices.DeleteFunc(changes, func(c Change) bool { was := seen[c.Item.name()]; seen[c.Item.name()] = true; return was })...)
		}
		for range 20 {
			change()
		}
		r := open(t, Options{MinOverlay: 1 << 30, MaxOverlay: 1 << 30})
		load(t, r, f)
		look := func(when string) {
			t.Helper()
			for _, n := range []Names{
				{Forms: []fingerpost.HostPattern{"a.x"}}, {Below: []string{"x"}}, {Below: []string{"b.x"}, Forms: []fingerpost.HostPattern{"*.b.x", ".b.x"}}, {Certificate: "shop"},
				{Forms: []fingerpost.HostPattern{"c.b.x", "x"}, Below: []string{"x", "y"}, Certificate: "other"}, {},
			} {
				items, gone, err := r.Naming(n)
				if err != nil {
					t.Fatal(err)
				}
				mean, alone := namingOf(f.content(), n)
				var hosts []string
				for _, it := range items {
					hosts = append(hosts, it.Key)
				}
				// It may give hosts that only once named what is looked for.
				if extra := slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return slices.Contains(mean, h) }); len(hosts)-len(extra) != len(mean) || !slices.IsSorted(hosts) {
					t.Errorf("seed %d, %s, %+v: hosts %v, want %v", seed, when, n, hosts, mean)
				}
				var got []string
				for _, f := range gone {
					got = append(got, string(f))
				}
				if !slices.Equal(got, alone) {
					t.Errorf("seed %d, %s, %+v: alone %v, want %v", seed, when, n, got, alone)
				}
			}
		}
		look("in the snapshot")
		from := len(f.revisions)
		for range 30 {
			change()
		}
		if err := r.apply(f.revisions[from:]); err != nil {
			t.Fatal(err)
		}
		look("with changes")
		if err := r.Compact(); err != nil {
			t.Fatal(err)
		}
		look("compacted")
	}
}

// TestNamingWithoutContent is what a node has at its very first start.
func TestNamingWithoutContent(t *testing.T) {
	if _, _, err := open(t, Options{}).Naming(Names{Below: []string{"x"}}); err != ErrNoState {
		t.Error(err)
	}
}

// BenchmarkNaming finds the hosts of a certificate among a million, which name another
// million beside their own.
func BenchmarkNaming(b *testing.B) {
	const hosts = 1_000_000
	key := func(i int) string { // a thousand below each of a thousand names, and not beside each other
		return fmt.Sprintf("h%06d.brand-%03d.example", i, i%1000)
	}
	dir := b.TempDir()
	items := func(yield func(*Item, error) bool) {
		for i := range hosts {
			it := Item{Kind: KindHost, Key: key(i), Source: "git:config", Team: "marketing", Rev: 1, Value: fmt.Appendf(nil, `{"to":"https://www.example.com/%d","also":["www.h%06d.example"]}`, i, i)}
			if i%100_000 == 0 {
				it.Value = []byte(`{"certificate":"shop"}`)
			}
			if !yield(&it, nil) {
				return
			}
		}
	}
	if err := writeFile(filepath.Join(dir, numbered(snapshotPrefix, 1)), Content{Cursor: Cursor{"bench", 1}, Items: items}, nil); err != nil {
		b.Fatal(err)
	}
	r := open(b, Options{Dir: dir, MinOverlay: 1 << 30, MaxOverlay: 1 << 30})
	b.Run("index", func(b *testing.B) {
		base := r.live.content.base
		for b.Loop() {
			if err := base.readLeads(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(8*len(base.leads.entries))/1e6, "MB")
	})
	if _, _, err := r.Naming(Names{Certificate: "none"}); err != nil { // with the index
		b.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		names Names
		want  int
	}{
		{"name", Names{Forms: []fingerpost.HostPattern{"www.h123456.example", ".www.h123456.example"}}, 1},
		{"wildcard", Names{Below: []string{"brand-007.example"}}, 1000},
		{"settings", Names{Certificate: "shop"}, 10},
	} {
		b.Run(tt.name, func(b *testing.B) {
			for b.Loop() {
				if found, _, err := r.Naming(tt.names); err != nil || len(found) != tt.want {
					b.Fatalf("%d hosts, %v; want %d", len(found), err, tt.want)
				}
			}
		})
	}
}
