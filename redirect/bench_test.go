package redirect

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"fingerpost"
)

// manyRules makes n literal redirects over n/10 hosts, of the length that real
// ones have, and the URLs that they are for.
func manyRules(n int) ([]fingerpost.Redirect, []string) {
	rules := make([]fingerpost.Redirect, n)
	urls := make([]string, n)
	for i := range rules {
		from := fmt.Sprintf("www.brand-%05d.example/campaign/%d/item-%d", i/10, 2000+i%25, i)
		rules[i] = fingerpost.Redirect{From: from, To: fmt.Sprintf("https://shop.example.com/products/item-%d", i)}
		urls[i] = "https://" + from
	}
	return rules, urls
}

// BenchmarkLookup prints what a lookup costs at random over all rules, and what
// a rule takes in the table. A thousand rules fit into a cache, a million do
// not: the difference is the memory's, not the algorithm's.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			rules, urls := manyRules(n)
			table, err := Compile(nil, rules)
			if err != nil {
				b.Fatal(err)
			}
			rules = nil
			// One request is filled in again and again, as an edge does, from
			// keys that stand in the order of their use: what is measured is
			// the table's memory, not the benchmark's.
			keys := make([]Request, min(n, 1<<17))
			random := rand.New(rand.NewPCG(1, 2))
			for i := range keys {
				keys[i] = request(b, strings.Clone(urls[random.IntN(n)]))
			}
			r, a := keys[0], Answer{}
			urls = nil
			runtime.GC()
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				key := &keys[i%len(keys)]
				r.Host, r.Path = key.Host, key.Path
				table.Answer(&r, &a)
				if a.Kind != ByRule {
					b.Fatal(a.Kind)
				}
			}
			b.ReportMetric(float64(len(table.Bytes()))/float64(n), "B/rule")
		})
	}
}

// BenchmarkCompile prints the time that a rule takes from text to table.
func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{1_000, 1_000_000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			rules, _ := manyRules(n)
			for b.Loop() {
				if _, err := Compile(nil, rules); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/rule")
		})
	}
}

// TestMillionRules loads a million rules over a hundred thousand hosts, finds
// each of them, and prints what they cost.
func TestMillionRules(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	const n = 1_000_000
	rules, urls := manyRules(n)
	start := time.Now()
	table, err := Compile(nil, rules)
	if err != nil {
		t.Fatal(err)
	}
	built := time.Since(start)
	var a Answer
	start = time.Now()
	for i, u := range urls {
		r := request(t, u)
		table.Answer(&r, &a)
		if string(a.Location) != rules[i].To {
			t.Fatalf("%s leads to %q, want %q", u, a.Location, rules[i].To)
		}
	}
	perRule := float64(len(table.Bytes())) / n
	t.Logf("%d rules on %d hosts: built in %v, %.1f bytes a rule, %v for each request parsed and answered",
		table.Rules(), table.Hosts(), built.Round(time.Millisecond), perRule, time.Since(start)/n)
	if perRule > 120 {
		t.Errorf("a rule takes %.1f bytes, the goal is 120", perRule)
	}
}
