// Bench measures what the documentation promises, with the real program where that
// is possible: processes of their own, real sockets, disks that are synced. It
// prints one table, and fails on no figure: a busy machine is no fault.
//
//	go run ./bench              all figures
//	go run ./bench -only edit   those whose name has this in it
//	go run ./bench -short       small ones, to see that it works
//
// Start reading at figures, the list of what is measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"fingerpost/bench/lab"
)

// row is one line of the table.
type row struct{ name, goal, measured, note string }

// bench is one run.
type bench struct {
	ctx    context.Context
	dir    string // for everything that is made, removed at the end
	binary string
	short  bool
}

var figures = []struct {
	name    string
	measure func(*bench) ([]row, error)
}{
	{"edit", (*bench).edits},
	{"burst", (*bench).bursts},
	{"start", (*bench).starts},
	{"import", (*bench).imports},
	{"certificates", (*bench).certificates},
	{"limits", (*bench).limits},
}

func main() {
	only := flag.String("only", "", "measure what fits this regular `EXPRESSION`: edit, burst, start, import, certificates, limits")
	short := flag.Bool("short", false, "small figures, to see that it works")
	flag.Parse()
	if err := run(*only, *short); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(only string, short bool) error {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "fingerpost-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{ctx: ctx, dir: dir, binary: filepath.Join(dir, "fingerpost"), short: short}
	if err := lab.Build(ctx, b.binary); err != nil {
		return err
	}
	var rows []row
	var errs []error
	for _, f := range figures {
		if !wanted.MatchString(f.name) || ctx.Err() != nil {
			continue
		}
		begin := time.Now()
		fmt.Fprintf(os.Stderr, "%s…", f.name)
		more, err := f.measure(b)
		fmt.Fprintf(os.Stderr, " %v\n", time.Since(begin).Round(time.Second))
		rows = append(rows, more...)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.name, err))
		}
	}
	print(os.Stdout, rows)
	return errors.Join(append(errs, ctx.Err())...)
}

func print(w io.Writer, rows []row) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "what\tgoal\tmeasured\tnote\n----\t----\t--------\t----\n")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", r.name, r.goal, r.measured, r.note)
	}
	t.Flush()
	fmt.Fprintf(w, "\n%d cores, %s, %s/%s. Everything runs on this machine, the one who measures too.\n", runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// sample is how long each of several tries took.
type sample []time.Duration

func (s sample) at(percent int) time.Duration {
	s = slices.Sorted(slices.Values(s))
	if len(s) == 0 {
		return 0
	}
	return s[min(len(s)*percent/100, len(s)-1)]
}

func (s sample) median() time.Duration { return s.at(50) }

// of tells p50 and p99.
func (s sample) String() string {
	return fmt.Sprintf("p50 %s, p99 %s", lab.Short(s.at(50)), lab.Short(s.at(99)))
}
