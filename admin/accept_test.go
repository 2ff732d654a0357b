package admin

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"fingerpost/redirect"
	"fingerpost/store"
)

// TestAcceptSeesTheContentAsItWouldBe compares what is compiled with a plain merge,
// for random proposals of each form.
func TestAcceptSeesTheContentAsItWouldBe(t *testing.T) {
	a := newTestAPI(t)
	ctx, random := t.Context(), rand.New(rand.NewPCG(1, 2))
	item := func(n int, to string, source string) store.Item {
		return store.Item{Kind: store.KindRedirect, Key: fmt.Sprintf("r%d.example/x", n), Source: source, Value: fmt.Appendf(nil, `{"from": "r%d.example/x", "to": "https://%s.example/x"}`, n, to)}
	}
	sources := []string{"one", "two"}
	now := map[string]store.Item{}
	for range 40 {
		c, err := a.Store.Stage(ctx, store.StageOptions{Source: "one", Mode: []store.Mode{store.Merge, store.Replace}[random.IntN(2)], Take: true, Actor: a.by()})
		if err != nil {
			t.Fatal(err)
		}
		var changes []store.Change
		next := map[string]store.Item{}
		for key, it := range now {
			if c.Mode == store.Merge || it.Source != "one" {
				next[key] = it
			}
		}
		for _, n := range random.Perm(8)[:random.IntN(6)] {
			it := item(n, fmt.Sprintf("r%d", random.IntN(8)), sources[random.IntN(2)]) // may close a circle
			if c.Mode == store.Replace {
				it.Source = "one"
			}
			change := store.Change{Op: store.Put, Item: it, Take: true}
			if _, had := now[it.Key]; had && random.IntN(3) == 0 {
				change = store.Change{Op: store.Delete, Item: store.Item{Kind: it.Kind, Key: it.Key}}
				delete(next, it.Key)
			} else {
				next[it.Key] = it
			}
			changes = append(changes, change)
		}
		if _, err := c.Add(ctx, each(slices.Clone(changes))); err != nil {
			t.Fatal(err)
		}
		var want merged
		for _, it := range next {
			if err := want.add(&it); err != nil {
				t.Fatal(err)
			}
		}
		p := Proposal{Base: a.rev(), Changes: each(changes), Replaces: c.Mode == store.Replace, Source: "one"}
		few := AcceptByCompiling(a.Store)(ctx, p)
		p.Changeset = c
		staged := AcceptByCompiling(a.Store)(ctx, p)
		_, wanted := redirect.Compile(want.hosts, want.redirects)
		if (few == nil) != (wanted == nil) || (staged == nil) != (wanted == nil) {
			t.Fatalf("few %v, staged %v, want %v", few, staged, wanted)
		}
		p.Base++
		if err := AcceptByCompiling(a.Store)(ctx, p); err == nil || problemOf(err).Code != "moved" {
			t.Fatalf("at another base: %v", err)
		}
		if wanted == nil {
			if _, err := c.Publish(ctx, store.PublishOptions{}); err != nil {
				t.Fatal(err)
			}
			now = next
		}
	}
}
