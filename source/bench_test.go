package source

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
)

const (
	ruleLine = `  {"from": "host%[2]d.example.com/old/page-%[1]d", "to": "https://shop.example.com/new/%[1]d", "status": 302},` + "\n"
	pathLine = `  "/old/page-%[1]d": {"to": "https://shop.example.com/new/%[1]d", "statusCode": 30%[3]d},` + "\n"
)

func BenchmarkRead1e5(b *testing.B) { benchmarkRead(b, "redirects.json", 100_000, "[", ruleLine, "]") }

func BenchmarkReadPaths1e5(b *testing.B) {
	benchmarkRead(b, "redirects.json", 100_000, "{", pathLine, "}")
}

// BenchmarkReadYAML1e5 reads the same as YAML, in its flow style.
func BenchmarkReadYAML1e5(b *testing.B) {
	benchmarkRead(b, "redirects.yaml", 100_000, "[", ruleLine, "]")
}

func BenchmarkRead1e6(b *testing.B) {
	benchmarkRead(b, "redirects.json", 1_000_000, "[", ruleLine, "]")
}

func benchmarkRead(b *testing.B, name string, n int, begin, line, end string) {
	path := filepath.Join(b.TempDir(), name)
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	w := bufio.NewWriter(f)
	fmt.Fprintln(w, begin)
	for i := range n {
		fmt.Fprintf(w, line, i, i%5000, 1+i%2)
	}
	fmt.Fprintln(w, end)
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	var c Content
	for b.Loop() {
		var err error
		if c, err = Read(path); err != nil {
			b.Fatal(err)
		}
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.HeapAlloc)/float64(len(c.Redirects)), "B-kept/rule")
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		for line := range bytes.Lines(status) {
			if rest, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
				kb, _ := strconv.Atoi(string(bytes.Fields(rest)[0]))
				b.ReportMetric(float64(kb)/1024, "MiB-peak")
			}
		}
	}
	runtime.KeepAlive(c)
}
