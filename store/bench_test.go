package store

import (
	"bytes"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/internal/testpg"
)

// benchPlaces are SQLite and a PostgreSQL that writes to the disk as in
// production.
func benchPlaces(b *testing.B) []place {
	if os.Getenv("FINGERPOST_TEST_DSN") != "" {
		return places(b)
	}
	server, err := testpg.Start(testpg.Options{Fsync: true, Settings: []string{"shared_buffers = '1GB'"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(server.Stop)
	return []place{
		{"sqlite", func(t testing.TB) string { return "sqlite:" + t.TempDir() }},
		{"postgres", func(t testing.TB) string { return schema(t, server.DSN("postgres")) }},
	}
}

// resident is the memory of this process in bytes.
func resident(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Skip(err)
	}
	_, rest, _ := bytes.Cut(status, []byte("VmRSS:"))
	kb, err := strconv.ParseFloat(string(bytes.Fields(rest)[0]), 64)
	if err != nil {
		b.Fatal(err)
	}
	return kb * 1024
}

// watchMemory gives the highest resident memory above that of now, in MB.
func watchMemory(b *testing.B) (stop func() float64) {
	debug.FreeOSMemory()
	start, peak := resident(b), 0.0
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			case <-time.After(20 * time.Millisecond):
				peak = max(peak, resident(b))
			}
		}
	}()
	return func() float64 {
		close(quit)
		<-done
		return (peak - start) / 1e6
	}
}

// redirects yields n redirects of n/10 hosts: host by host, as exports are, or
// shuffled, which is the worst for an index.
func redirects(n int, shuffled bool) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		random := rand.New(rand.NewPCG(1, 2))
		for i := range n {
			host := i / 10
			if shuffled {
				host = random.IntN(n/10 + 1)
			}
			r := fingerpost.Redirect{
				From: fmt.Sprintf("shop-%06d.example.com/products/%d/%x", host, i, random.Uint32()),
				To:   fmt.Sprintf("https://www.example.com/catalogue/%d?from=%x", i, random.Uint32()),
			}
			it, err := RedirectItem(&r, "", "web")
			if !yield(Change{Op: Put, Item: it}, err) {
				return
			}
		}
	}
}

// BenchmarkImport puts a million redirects into an empty store, from the noun to
// the published revision, and reads them all.
func BenchmarkImport(b *testing.B) {
	const n = 1_000_000
	for _, p := range benchPlaces(b) {
		for _, order := range []string{"by-host", "shuffled"} {
			b.Run(p.name+"/"+order, func(b *testing.B) {
				for range b.N {
					importOnce(b, p, n, order == "shuffled")
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

func importOnce(b *testing.B, p place, n int, shuffled bool) {
	db := open(b, p.dsn(b), Options{})
	defer db.Close()
	memory := watchMemory(b)
	begin := time.Now()
	c := stage(b, db, StageOptions{Source: "file:a"}, redirects(n, shuffled))
	staged := time.Since(begin)
	if r := publish(b, c); r.Added != int64(n) {
		b.Fatalf("%+v", r)
	}
	total := time.Since(begin)
	begin = time.Now()
	db.cleaning.Wait()
	b.ReportMetric(time.Since(begin).Seconds(), "s-cleanup")
	begin = time.Now()
	count := 0
	if _, err := db.Scan(b.Context(), KindRedirect, func(*Item) error { count++; return nil }); err != nil || count != n {
		b.Fatal(count, err)
	}
	b.ReportMetric(float64(count)/time.Since(begin).Seconds(), "scanned/s")
	b.ReportMetric(float64(n)/total.Seconds(), "redirects/s")
	b.ReportMetric(float64(n)/staged.Seconds(), "staged/s")
	b.ReportMetric((total - staged).Seconds(), "s-publish")
	b.ReportMetric(memory(), "MB-above-start")
}

// BenchmarkCommit is one change after the other, and from eight writers at once.
func BenchmarkCommit(b *testing.B) {
	for _, p := range benchPlaces(b) {
		for _, writers := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("%s/%d", p.name, writers), func(b *testing.B) {
				db := open(b, p.dsn(b), Options{})
				b.ResetTimer()
				var wg sync.WaitGroup
				for w := range writers {
					wg.Go(func() {
						for i := w; i < b.N; i += writers {
							if _, err := db.Commit(b.Context(), batch(put("a/"+strconv.Itoa(i), "x"))); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
			})
		}
	}
}
