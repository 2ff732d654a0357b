package redirect

import (
	"fmt"
	"iter"
	"testing"

	"fingerpost"
)

func seqOf(rules ...fingerpost.Redirect) iter.Seq2[fingerpost.Redirect, error] {
	return func(yield func(fingerpost.Redirect, error) bool) {
		for _, r := range rules {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// TestAcceptedContentLeavesContradictionsOut: what two writers made at the same
// moment must not keep a table from being built; of two things that contradict
// each other the first stays, whether the table is built at once or in a layer.
func TestAcceptedContentLeavesContradictionsOut(t *testing.T) {
	hosts := []fingerpost.Host{
		{Name: "a.x", Also: []string{"b.x"}, RedirectFrom: []string{"c.x"}},
		{Name: "b.x", To: "https://t.test/not"},      // a.x has the name
		{Name: "d.x", Also: []string{"b.x"}},         // here too
		{Name: "e.x", HTTPS: "sometimes"},            // wrong by itself
		{Name: "f.x", RedirectFrom: []string{"b.x"}}, // an alias cannot be sent away
	}
	rules := []fingerpost.Redirect{
		to("first", "a.x/p"), to("second", "a.x/p/"), to("circle", "a.x/q", func(r *fingerpost.Redirect) { r.To = "https://a.x/q" }),
		to("alias", "b.x/p"), to("twice", "c.x"), to("last", "g.x/p"),
	}
	var refused []error
	refuse := func(err error) { refused = append(refused, err) }
	built, err := CompileSorted(hosts, seqOf(rules...), len(rules), refuse)
	if err != nil {
		t.Fatal(err)
	}
	atOnce := len(refused)
	if _, err := CompileSorted(hosts, seqOf(rules...), 0, nil); len(fingerpost.Errors(err)) == 0 {
		t.Error("without refused the same content is accepted")
	}
	refused = nil
	layer := LayerAccepted(compileOne(t, to("stale", "a.x"), to("stale", "g.x")), hosts, rules, nil, refuse)
	if atOnce != 7 || len(refused) != atOnce {
		t.Errorf("%d refused at once, %d in a layer: %v", atOnce, len(refused), refused)
	}
	for _, table := range []*Table{built, layer} {
		for url, want := range map[string]string{
			"https://a.x/p": "https://t.test/first", "https://b.x/p": "https://t.test/first", "https://c.x/z": "https://a.x/z",
			"https://d.x/p": "", "https://e.x/p": "", "https://f.x/p": "", "https://g.x/p": "https://t.test/last", "https://a.x/q": "",
		} {
			r := request(t, url)
			var a Answer
			table.Answer(&r, &a)
			if got := string(a.Location); got != want {
				t.Errorf("%s leads to %q (kind %d), want %q", url, got, a.Kind, want)
			}
		}
	}
}

// TestCompileSortedWantsOrder: hosts come as the keys HOST/ID of a store are
// ordered, which is not the order of their names.
func TestCompileSortedWantsOrder(t *testing.T) {
	for _, tt := range []struct {
		from []string
		ok   bool
	}{
		{[]string{"a-b.x/1", "a.x.y/1", "a.x/1", "a.x/2"}, true},
		{[]string{"a.x/1", "a.x.y/1"}, false},
		{[]string{"a.x/1", "b.x/1", "a.x/2"}, false},
	} {
		var rules []fingerpost.Redirect
		for i, from := range tt.from {
			rules = append(rules, to(fmt.Sprint(i), from))
		}
		if _, err := CompileSorted(nil, seqOf(rules...), 0, nil); (err == nil) != tt.ok {
			t.Errorf("%v: %v", tt.from, err)
		}
	}
}
