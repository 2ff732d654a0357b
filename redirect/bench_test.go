package redirect

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"fingerpost"
)

// appendName makes the host and path of rule i: ten for each host, of the length
// that real ones have.
func appendName(dst []byte, i int) []byte {
	dst = strconv.AppendInt(append(dst, "www.brand-"...), int64(10_000+i/10), 10)
	dst = strconv.AppendInt(append(dst, ".example/campaign/"...), int64(2000+i%25), 10)
	return strconv.AppendInt(append(dst, "/item-"...), int64(i), 10)
}

// manyRules makes n literal redirects over n/10 hosts.
func manyRules(n int) []fingerpost.Redirect {
	rules := make([]fingerpost.Redirect, n)
	for i := range rules {
		rules[i] = fingerpost.Redirect{From: string(appendName(nil, i)), To: fmt.Sprintf("https://shop.example.com/products/item-%d", i)}
	}
	return rules
}

// BenchmarkLookup prints what a lookup costs at random over all rules, and what
// a rule takes in the table. A thousand rules fit into a cache, a million do
// not: the difference is the memory's, not the algorithm's. The peer is a plain
// map from host and path to the target: no wildcards, no query, no status, and
// its keys come joined.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			table, err := Compile(nil, manyRules(n))
			if err != nil {
				b.Fatal(err)
			}
			r, a := request(b, "https://www.example/"), Answer{}
			atRandom(b, n, func(host, path, _ string) bool {
				r.Host, r.Path = host, fingerpost.Path{Norm: path, Raw: path}
				table.Answer(&r, &a)
				return a.Kind == ByRule
			})
			b.ReportMetric(float64(len(table.Bytes()))/float64(n), "B/rule")
		})
	}
	const n = 1_000_000
	b.Run(fmt.Sprintf("map=%d", n), func(b *testing.B) {
		targets := make(map[string]string, n)
		for _, r := range manyRules(n) {
			targets[r.From] = r.To
		}
		location := make([]byte, 0, 256) // the table copies the target too
		atRandom(b, n, func(_, _, name string) bool {
			location = append(location[:0], targets[name]...)
			return len(location) > 0
		})
	})
}

// atRandom measures lookup with the names of n rules at random. They are made
// in small batches outside the measured time: each is in the nearest cache, as
// it is when an edge has just read it off a connection, and takes none of the
// cache that the table needs, as a list of all requests would.
func atRandom(b *testing.B, n int, lookup func(host, path, name string) bool) {
	const batch = 64
	type key struct{ host, path, name string }
	var (
		text   [batch * 64]byte
		keys   [batch]key
		spent  time.Duration
		random = rand.New(rand.NewPCG(1, 2))
	)
	runtime.GC()
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += batch {
		dst := text[:0]
		for i := range keys {
			at := len(dst)
			dst = appendName(dst, random.IntN(n))
			name := unsafeString(dst[at:])
			slash := strings.IndexByte(name, '/')
			keys[i] = key{name[:slash], name[slash:], name}
		}
		start := time.Now()
		for i := range keys {
			if k := &keys[i]; !lookup(k.host, k.path, k.name) {
				b.Fatalf("%s was not found", k.name)
			}
		}
		spent += time.Since(start)
	}
	lookups := (b.N + batch - 1) / batch * batch
	b.ReportMetric(float64(spent.Nanoseconds())/float64(lookups), "ns/op")
}

// BenchmarkCompile prints the time that a rule takes from text to table.
func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{1_000, 1_000_000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			rules := manyRules(n)
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
	rules := manyRules(n)
	start := time.Now()
	table, err := Compile(nil, rules)
	if err != nil {
		t.Fatal(err)
	}
	built := time.Since(start)
	var a Answer
	start = time.Now()
	for i := range rules {
		r := request(t, "https://"+rules[i].From)
		table.Answer(&r, &a)
		if string(a.Location) != rules[i].To {
			t.Fatalf("%s leads to %q, want %q", rules[i].From, a.Location, rules[i].To)
		}
	}
	perRule := float64(len(table.Bytes())) / n
	t.Logf("%d rules on %d hosts: built in %v, %.1f bytes a rule, %v for each request parsed and answered",
		table.Rules(), table.Hosts(), built.Round(time.Millisecond), perRule, time.Since(start)/n)
	if perRule > 120 {
		t.Errorf("a rule takes %.1f bytes, the goal is 120", perRule)
	}
}
