package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"fingerpost/bench/lab"
	"fingerpost/internal/testpg"
)

const (
	jsonType   = "application/json"
	ndjsonType = "application/x-ndjson"
)

// engines are a control node's arguments for each store, one after the other.
func (b *bench) engines(measure func(name string, args ...string) error) error {
	if err := measure("SQLite"); err != nil {
		return fmt.Errorf("SQLite: %w", err)
	}
	server, err := testpg.Start(testpg.Options{Fsync: true})
	if err != nil {
		return err
	}
	defer server.Stop()
	if err := measure("PostgreSQL", "--store", server.DSN("postgres")); err != nil {
		return fmt.Errorf("PostgreSQL: %w", err)
	}
	return nil
}

// edits measures one write after the other: from sending the request to the API of
// a control node to the answer of an edge that has it.
func (b *bench) edits() (rows []row, err error) {
	n := 500
	if b.short {
		n = 20
	}
	err = b.engines(func(engine string, args ...string) error {
		control, err := b.serve("", append([]string{"--role", "control"}, args...)...)
		if err != nil {
			return err
		}
		defer control.stop()
		edge, err := b.edge(control)
		if err != nil {
			return err
		}
		defer edge.stop()
		// A host of its own; then one of ten thousand redirects, all of which are
		// compiled with each change of one.
		for _, host := range []struct {
			redirects, edits int
		}{{1, n}, {10_000, n / 10}} {
			name := fmt.Sprintf("host%d.example", host.redirects)
			var others bytes.Buffer
			for i := range host.redirects - 1 {
				fmt.Fprintf(&others, "{\"from\": \"%s/p%d\", \"to\": \"https://t.example/\"}\n", name, i)
			}
			fmt.Fprintf(&others, "{\"from\": \"%s/last\", \"to\": \"https://t.example/last\"}\n", name)
			if _, err := control.ask("POST", "changesets", ndjsonType, others.Bytes()); err != nil {
				return err
			}
			if err := edge.until(b.ctx, name, "/last", "https://t.example/last", time.Millisecond); err != nil {
				return err
			}
			var answered, effect sample
			for i := range host.edits + 20 {
				to := fmt.Sprintf("https://t.example/%d", i)
				begin := time.Now()
				if _, err := control.ask("PUT", "redirects/x?host="+name, jsonType, fmt.Appendf(nil, `{"from": "%s/x", "to": %q}`, name, to)); err != nil {
					return err
				}
				written := time.Since(begin)
				if err := edge.until(b.ctx, name, "/x", to, 50*time.Microsecond); err != nil {
					return err
				}
				if i >= 20 { // the first ones open connections
					answered, effect = append(answered, written), append(effect, time.Since(begin))
				}
			}
			r := row{"edit → effect on an edge, " + engine, "p50 < 5 ms, p99 < 50 ms", effect.String(),
				fmt.Sprintf("%d edits; the API had answered after %s", host.edits, answered)}
			if host.redirects > 1 {
				r.name, r.goal = "    on a host of "+lab.Thousands(float64(host.redirects))+" redirects", ""
			}
			rows = append(rows, r)
		}
		return nil
	})
	return rows, err
}

// bursts measures how long 10,000 changes take to ten edges.
func (b *bench) bursts() (rows []row, err error) {
	edges, changes, runs := 10, 10_000, 3
	if b.short {
		edges, changes, runs = 2, 2000, 1
	}
	err = b.engines(func(name string, args ...string) error {
		control, err := b.serve("", append([]string{"--role", "control"}, args...)...)
		if err != nil {
			return err
		}
		defer control.stop()
		var all []*node
		for range edges {
			edge, err := b.edge(control)
			if err != nil {
				return err
			}
			defer edge.stop()
			all = append(all, edge)
		}
		reached := func(series string, last int) error {
			errs := make([]error, len(all))
			var wg sync.WaitGroup
			for i, edge := range all {
				wg.Go(func() {
					errs[i] = edge.until(b.ctx, shop(series, last), fmt.Sprintf("/p%d", last), target(series, last), 5*time.Millisecond)
				})
			}
			wg.Wait()
			return errors.Join(errs...)
		}
		// In ten requests: each is one revision of a thousand changes.
		var many, one, manyWritten, oneWritten sample
		for run := range runs {
			series := fmt.Sprintf("many%d", run)
			begin := time.Now()
			for from := 0; from < changes; from += 1000 {
				if _, err := control.ask("POST", "changesets", ndjsonType, changeset(series, from, from+1000)); err != nil {
					return err
				}
			}
			manyWritten = append(manyWritten, time.Since(begin))
			if err := reached(series, changes-1); err != nil {
				return err
			}
			many = append(many, time.Since(begin))
			// In one request: it is staged, checked, and published as one revision.
			series = fmt.Sprintf("one%d", run)
			begin = time.Now()
			if _, err := control.ask("POST", "changesets", ndjsonType, changeset(series, 0, changes)); err != nil {
				return err
			}
			oneWritten = append(oneWritten, time.Since(begin))
			if err := reached(series, changes-1); err != nil {
				return err
			}
			one = append(one, time.Since(begin))
		}
		// Each by itself: 10,000 requests, and as many revisions.
		series, each := "each", changes/5 // what is measured is how far behind they are
		begin := time.Now()
		if err := together(32, each, func(i int) error {
			_, err := control.ask("POST", "redirects", jsonType, changeset(series, i, i+1))
			return err
		}); err != nil {
			return err
		}
		writes := time.Since(begin)
		begin = time.Now()
		for last := each - 32; last < each; last++ { // any of these may have been the last
			if err := reached(series, last); err != nil {
				return err
			}
		}
		behind := time.Since(begin)
		what := fmt.Sprintf("%s changes → %d edges, %s, ", lab.Thousands(float64(changes)), edges, name)
		rows = append(rows,
			row{what + "in 10 requests", "2 s", lab.Short(many.median()), fmt.Sprintf("median of %d, from the first byte sent; the last answer of the API came after %s", runs, lab.Short(manyWritten.median()))},
			row{what + "in 1 request", "2 s", lab.Short(one.median()), fmt.Sprintf("median of %d; staged after %s, then checked and published", runs, lab.Short(oneWritten.median()))},
			row{"    " + lab.Thousands(float64(each)) + " requests of one each", "2 s", lab.Short(behind) + " behind", fmt.Sprintf("after the last answer; %s writes/s from 32 clients", lab.Thousands(float64(each)/writes.Seconds()))})
		return nil
	})
	return rows, err
}

// The redirects of the figures: ten for each host, as most hosts have.
func shop(series string, i int) string   { return fmt.Sprintf("shop-%d.%s.example", i/10, series) }
func target(series string, i int) string { return fmt.Sprintf("https://t.example/%s/%d", series, i) }

// changeset is a range of redirects, one on each line.
func changeset(series string, from, to int) []byte {
	var b bytes.Buffer
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, "{\"from\": \"%s/p%d\", \"to\": %q}\n", shop(series, i), i, target(series, i))
	}
	return b.Bytes()
}

// together calls fn for 0 to n-1 from several goroutines.
func together(workers, n int, fn func(i int) error) error {
	work := make(chan int)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range work {
				if errs[w] == nil {
					errs[w] = fn(i)
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}

// starts measures an edge that starts from its own files, no control node being
// there: to the line that says ready, and to the first right answer.
func (b *bench) starts() (rows []row, err error) {
	sizes := []struct {
		redirects int
		goal      time.Duration
	}{{1_000_000, time.Second}, {10_000_000, 3 * time.Second}}
	if b.short {
		sizes = sizes[:1]
		sizes[0].redirects = 10_000
	}
	for _, size := range sizes {
		dir, err := os.MkdirTemp(b.dir, "start")
		if err != nil {
			return rows, err
		}
		begin := time.Now()
		file, err := lab.WriteCopy(b.ctx, filepath.Join(dir, "replica"), size.redirects)
		if err != nil {
			return rows, err
		}
		made := time.Since(begin)
		info, err := os.Stat(file)
		if err != nil {
			return rows, err
		}
		host, last := lab.Host(size.redirects-1), size.redirects-1
		var cold, warm, answer sample
		for run := range 10 {
			if run%2 == 0 { // the file is not in memory
				if out, err := exec.CommandContext(b.ctx, "dd", "of="+file, "oflag=nocache", "conv=notrunc,fdatasync", "count=0").CombinedOutput(); err != nil {
					return rows, fmt.Errorf("put %s out of the page cache: %w: %s", file, err, out)
				}
			}
			n, err := b.serve(dir, "--role", "edge", "--control", "http://127.0.0.1:1", "--token", "none")
			if err != nil {
				return rows, err
			}
			got, err := n.leads(host, lab.Path(last))
			first := time.Since(n.said.begin)
			n.stop()
			if err != nil || got != lab.Target(last) {
				return rows, fmt.Errorf("it leads to %q, want %q (%v)", got, lab.Target(last), err)
			}
			if run%2 == 0 {
				cold = append(cold, n.readyAfter)
			} else {
				warm, answer = append(warm, n.readyAfter), append(answer, first)
			}
		}
		os.RemoveAll(dir)
		name := "start of an edge with " + lab.Thousands(float64(size.redirects)) + " redirects, to ready"
		rows = append(rows, row{name, lab.Short(size.goal), lab.Short(warm.median()),
			fmt.Sprintf("median of %d; first answer %s; file not in memory: %s; %s MB, written in %s", len(warm), lab.Short(answer.median()), lab.Short(cold.median()), lab.Thousands(float64(info.Size()>>20)), lab.Short(made))})
	}
	return rows, nil
}

// imports runs the store's own benchmark and reads its figures.
func (b *bench) imports() (rows []row, err error) {
	cmd := exec.CommandContext(b.ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkImport$", "-benchtime", "1x", "-timeout", "30m", "fingerpost/store")
	if b.short {
		cmd.Args = append(cmd.Args, "-short")
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	rates := map[string]float64{}
	figure := regexp.MustCompile(`([0-9.e+]+) (\S+)`)
	var rest strings.Builder
	for in := bufio.NewScanner(io.TeeReader(out, &rest)); in.Scan(); {
		name, ok := strings.CutPrefix(in.Text(), "BenchmarkImport/")
		if !ok {
			continue
		}
		name, _, _ = strings.Cut(name, " ")
		if i := strings.LastIndexByte(name, '-'); i > 0 { // the number of cores
			if _, err := strconv.Atoi(name[i+1:]); err == nil {
				name = name[:i]
			}
		}
		values := map[string]float64{}
		for _, m := range figure.FindAllStringSubmatch(lab.Trim(in.Text()), -1) {
			values[m[2]], _ = strconv.ParseFloat(m[1], 64) // the expression takes numbers only
		}
		engine, order, _ := strings.Cut(name, "/")
		goal := map[string]string{"sqlite": "30,000/s", "postgres": "60,000/s"}[engine]
		rates[name] = values["redirects/s"]
		note := fmt.Sprintf("%s, %s read/s, cleaned up in %.1f s", strings.ReplaceAll(order, "-", " "), lab.Thousands(values["scanned/s"]), values["s-cleanup"])
		if other := rates[map[bool]string{true: engine + "/by-host", false: "sqlite/by-host"}[order == "shuffled"]]; other > 0 && name != "sqlite/by-host" {
			note = fmt.Sprintf("%.2f × %s; ", rates[name]/other, map[bool]string{true: "by host", false: "SQLite"}[order == "shuffled"]) + note
		}
		rows = append(rows,
			row{"import of 1,000,000 redirects, " + name, goal, lab.Thousands(values["redirects/s"]) + "/s", note},
			row{"    its memory above start", "200 MB", fmt.Sprintf("%.0f MB", values["MB-above-start"]), "resident"})
	}
	if err := cmd.Wait(); err != nil {
		return rows, fmt.Errorf("%w:\n%s", err, rest.String())
	}
	return rows, nil
}

// limits runs the simulation of a CA's limits at its full size and reads its
// figures.
func (b *bench) limits() (rows []row, err error) {
	cmd := exec.CommandContext(b.ctx, "go", "test", "-count=1", "-run", "^TestSimulate$", "-v", "-timeout", "30m", "fingerpost/cert/planner")
	if !b.short {
		cmd.Args = append(cmd.Args, "-full")
	}
	out, err := cmd.CombinedOutput()
	figure := regexp.MustCompile(`(?m)simulate_test.go:\d+: (\S.*?) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) +([0-9.]+) +(\d+) +[0-9.]+s$`)
	for _, m := range figure.FindAllStringSubmatch(string(out), -1) {
		count := func(i int) string {
			n, _ := strconv.ParseFloat(m[i], 64) // the expression takes numbers only
			return lab.Thousands(n)
		}
		r := row{"limits of a CA: " + count(2) + " names of " + count(3) + " teams, all live", "", m[7] + " days",
			fmt.Sprintf("simulated, one account; %s; %s orders, of which %s failed; %s certificates; limits hit %s times", m[1], count(4), count(5), count(6), m[8])}
		if strings.HasPrefix(m[1], "packed") {
			r.goal = "6 days"
		}
		rows = append(rows, r)
	}
	if err != nil {
		err = fmt.Errorf("%w:\n%s", err, out)
	}
	return rows, err
}
