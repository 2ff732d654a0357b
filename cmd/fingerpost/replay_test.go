package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// replayOf compares two lists of rules, written as "from to" lines.
func replayOf(t testing.TB, o replayFlags, old, new string) *replay {
	t.Helper()
	file := func(name, rules string) []string {
		var b strings.Builder
		b.WriteString("redirects:\n")
		for line := range strings.Lines(rules) {
			from, to, _ := strings.Cut(strings.TrimSpace(line), " ")
			fmt.Fprintf(&b, "  - {from: %q, to: %q}\n", from, to)
		}
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{path}
	}
	o.old, o.new, o.output, o.scheme = file("old.yaml", old), file("new.yaml", new), "table", "https"
	if o.maxDistinct == 0 {
		o.maxDistinct = 1000
	}
	r, err := newReplay(&o)
	if err != nil {
		t.Fatal(err)
	}
	if r.old, err = readRules(o.old); err != nil {
		t.Fatal(err)
	}
	if r.new, err = readRules(o.new); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReplayCountsEveryLine(t *testing.T) {
	r := replayOf(t, replayFlags{format: "urls"}, "a.example/x /1", "a.example/x /2")
	log := "https://a.example/x\n\n# c\nhttps://a.example/x\r\n" + strings.Repeat("x", 2*maxLine) + "\nnoise here\nhttps://a.example/%zz\nhttps://a..example/\nhttps://a.example/x?y"
	if err := r.log("l", strings.NewReader(log)); err != nil {
		t.Fatal(err)
	}
	if r.Lines != 7 || r.Requests != 5 || r.Changed != 3 || r.Distinct != 2 || r.Unreadable != 2 || r.Invalid != 2 || len(r.Groups) != 1 || r.Groups[0].Count != 3 {
		t.Errorf("%+v", r)
	}
	var lines []string
	for _, b := range r.BadLines {
		lines = append(lines, fmt.Sprintf("%d %s", b.Line, b.Reason))
	}
	if got, want := strings.Join(lines, "; "), "5 it is longer than a megabyte; 6 it is not a URL; 7 its path: "; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "; 8 its host is none") {
		t.Errorf("got %s", got)
	}
}

func TestReplayIsBounded(t *testing.T) {
	r := replayOf(t, replayFlags{format: "urls", maxDistinct: 10}, "a.example/* https://b.example/:splat", "a.example/* https://c.example/:splat")
	var log strings.Builder
	for i := range 100 {
		fmt.Fprintf(&log, "https://a.example/%d\nhttps://a.example/%d\n", i, i)
	}
	if err := r.log("l", strings.NewReader(log.String())); err != nil {
		t.Fatal(err)
	}
	if r.Changed != 200 || r.Distinct != 10 || r.Exact || len(r.seen) != 10 {
		t.Errorf("changed %d, distinct %d, exact %v", r.Changed, r.Distinct, r.Exact)
	}
}

func TestReplayedTextIsNoFormula(t *testing.T) {
	for cell, want := range map[string]string{"=1+1": "'=1+1", "@x": "'@x", "https://a.example/": "https://a.example/", "": ""} {
		if got := inert(cell); got != want {
			t.Errorf("%q became %q, want %q", cell, got, want)
		}
	}
}

// BenchmarkReplay gives the lines that are replayed in a second.
func BenchmarkReplay(b *testing.B) {
	for _, format := range []struct{ name, line string }{
		{"json", `{"time":"2026-11-20T10:00:00.000Z","remote":"192.0.2.1:51234","scheme":"https","proto":"2","method":"GET","host":"www.example.com","target":"/p%d?x=1","status":301,"location":"https://shop.example/1","rule":"abc","durationUs":12,"bytes":0,"userAgent":"Mozilla/5.0 (X11; Linux x86_64)"}`},
		{"combined", `192.0.2.1 - - [20/Nov/2026:10:00:00 +0000] "GET /p%d HTTP/1.1" 301 0 "-" "Mozilla/5.0 (X11; Linux x86_64)"`},
		{"urls", "https://www.example.com/p%d"},
	} {
		b.Run(format.name, func(b *testing.B) {
			r := replayOf(b, replayFlags{format: format.name, host: "www.example.com"}, "www.example.com/p1 /1", "www.example.com/* https://b.example/:splat")
			var log bytes.Buffer
			const lines = 10_000
			for i := range lines {
				fmt.Fprintf(&log, format.line+"\n", i)
			}
			for b.Loop() {
				if err := r.log("l", bytes.NewReader(log.Bytes())); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*lines/b.Elapsed().Seconds(), "lines/s")
		})
	}
}
