package replica

import (
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"fingerpost"
)

// smallParts makes every form a part of its own.
func smallParts(t *testing.T) {
	rules, forms := partRules, partForms
	partRules, partForms = 1, 1
	t.Cleanup(func() { partRules, partForms = rules, forms })
}

func inOrder(list []Change) iter.Seq2[Change, error] {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Change) int { return strings.Compare(a.Item.name(), b.Item.name()) })
	return func(yield func(Change, error) bool) {
		for _, c := range list {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// TestCheckInPartsSaysWhatCheckSays holds CheckAll, with parts of one host form,
// to Check of all changes together: for random changes over random content, and
// such that replace what a source has.
func TestCheckInPartsSaysWhatCheckSays(t *testing.T) {
	smallParts(t)
	counts := map[bool]int{}
	for seed := range uint64(200) {
		g := generator{rand.New(rand.NewPCG(seed, 11))}
		f := newFake(t, "e1")
		r := open(t, Options{})
		f.commit(putHost("z.z", fingerpost.Host{}))
		load(t, r, f)
		for range g.IntN(30) { // content that is in order
			if c := g.change(); c.Op == Put && r.Check([]Change{c}) == nil {
				if g.chance(50) {
					c.Item.Source = "file"
				}
				f.commit(c)
				load(t, r, f)
			}
		}
		proposal := map[string]Change{}
		for range 1 + g.IntN(6) {
			c := g.change()
			proposal[c.Item.name()] = c
		}
		var list []Change
		for _, c := range proposal {
			list = append(list, c)
		}
		star := func(it *Item) bool { return strings.Contains(string(it.Value), `"*"`) }
		if slices.ContainsFunc(list, func(c Change) bool { return star(&c.Item) }) || slices.ContainsFunc(slices.Collect(maps.Values(f.content())), star) {
			continue // another name of a host that stands for all: redirect.Table.Serves counts it, Compile does not
		}
		p := Proposal{Changes: inOrder(list)}
		together := slices.Clone(list)
		if g.chance(40) {
			p.Gone = func(it *Item) bool { return it.Source == "file" }
			for n, it := range f.content() {
				if _, named := proposal[n]; !named && it.Source == "file" {
					together = append(together, remove(it.Kind, it.Key))
				}
			}
		}
		got, want := fingerpost.Errors(r.CheckAll(p)), fingerpost.Errors(r.Check(together))
		counts[len(want) == 0]++
		// Of what only goes, CheckAll follows no rule that is left: a circle among
		// these alone is what it may leave to be found.
		if len(got) > 0 && len(want) == 0 || len(got) == 0 && len(want) > 0 && (p.Gone == nil || want[0].Code != "cycle" && want[0].Code != "self_redirect") {
			t.Errorf("seed %d: CheckAll says %v, Check says %v", seed, got, want)
		}
	}
	if counts[true] < 20 || counts[false] < 20 {
		t.Errorf("%d proposals were right and %d wrong: this shows little", counts[true], counts[false])
	}
}

func TestCheckInPartsFindsWhatIsBetweenParts(t *testing.T) {
	smallParts(t)
	f := newFake(t, "e1")
	f.commit(putRedirect("r1", fingerpost.Redirect{From: "m.x/1", To: "https://z.x/1"}), putRedirect("r2", fingerpost.Redirect{From: "b.x/1", To: "https://a.x/1"}))
	r := open(t, Options{})
	load(t, r, f)
	rule := func(id, from, to string) Change { return putRedirect(id, fingerpost.Redirect{From: from, To: to}) }
	tests := []struct {
		name    string
		changes []Change
		code    string
	}{
		{"a circle of two parts", []Change{rule("n1", "n1.x/", "https://n2.x/"), rule("n2", "n2.x/", "https://n1.x/")}, "cycle"},
		{"a circle through what is there", []Change{rule("n1", "z.x/1", "https://n1.x/"), rule("n2", "n1.x/", "https://m.x/1")}, "cycle"},
		{"what was a circle with a rule that goes", []Change{rule("n1", "a.x/1", "https://b.x/1"), remove(KindRedirect, "b.x/r2")}, ""},
		{"a chain", []Change{rule("n1", "n1.x/", "https://n2.x/"), rule("n2", "n2.x/", "https://n3.x/"), rule("n3", "n3.x/", "https://t.test/")}, ""},
		{"a rule moves from a name to its host", []Change{putHost("c.x", fingerpost.Host{Also: []string{"b.x"}}), rule("n1", "c.x/1", "https://t.test/"), remove(KindRedirect, "b.x/r2")}, ""},
		{"a name that has a rule", []Change{putHost("c.x", fingerpost.Host{Also: []string{"b.x"}}), rule("n1", "c.x/1", "https://t.test/")}, "bad_from"},
		{"two hosts of one name", []Change{putHost("c.x", fingerpost.Host{Also: []string{"d.x"}}), putHost("d.x", fingerpost.Host{})}, "duplicate"},
	}
	for _, tt := range tests {
		errs := fingerpost.Errors(r.CheckAll(Proposal{Changes: inOrder(tt.changes)}))
		if tt.code == "" && len(errs) > 0 || tt.code != "" && (len(errs) == 0 || errs[0].Code != tt.code) {
			t.Errorf("%s: got %v, want %q", tt.name, errs, tt.code)
		}
	}
	bad := func(yield func(Change, error) bool) { yield(Change{}, fmt.Errorf("cut")) }
	if err := r.CheckAll(Proposal{Changes: bad}); err == nil || err.Error() != "cut" {
		t.Errorf("changes that cannot be read: %v", err)
	}
}
