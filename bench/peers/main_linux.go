// Peers measures Fingerpost beside nginx, HAProxy and Caddy, which serve the same
// rules and certificates on the same core, and beside a program in C that does no
// more than it must. The figure is the server's CPU for each request; what is
// quoted are ratios of one round. It fails on no figure.
//
//	go run ./bench/peers              everything, a quarter of an hour
//	go run ./bench/peers -only W4     the rows whose name fits
//	go run ./bench/peers -short       for moments, to see that it works
//
// Start reading at workloads, the list of what is asked; peers_linux.go has how each
// server is set up.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"fingerpost/bench/lab"
	"fingerpost/internal/testca"
)

// bench is one run.
type bench struct {
	ctx    context.Context
	dir    string // for everything that is made, removed at the end
	ca     *testca.CA
	wants  func(name string) bool
	short  bool
	rounds int
	time   time.Duration // that each contestant is asked in a round
	report bytes.Buffer

	load, limitBinary, caddyBinary string

	limit, fingerpost, nginx, haproxy, caddy *peer
	other                                    *peer // another build of Fingerpost; may be nil
}

func main() {
	only := flag.String("only", "", "measure the rows whose name fits this regular `EXPRESSION`: W1 … W6, log, start, idle")
	short := flag.Bool("short", false, "a round of moments with few rules and certificates, to see that it works")
	rounds := flag.Int("rounds", 3, "how often each server has its turn")
	each := flag.Duration("time", 2*time.Second, "how long a turn is")
	results := flag.String("results", "", "put the tables of a whole run into this `FILE`, between its marks")
	tools := flag.String("tools", "bin", "`DIR` that Caddy is built into, and found in the next time")
	binary := flag.String("binary", "", "measure this `FILE` instead of building Fingerpost")
	against := flag.String("against", "", "another build of Fingerpost in `FILE`, which takes part too")
	flag.Parse()
	if err := run(*only, *short, *rounds, *each, *results, *tools, *binary, *against); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(only string, short bool, rounds int, each time.Duration, results, tools, binary, against string) error {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	if runtime.NumCPU() < 2 {
		return errors.New("two cores are needed: one for the server, one for who asks")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	dir, err := os.MkdirTemp("", "fingerpost-peers-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{ctx: ctx, dir: dir, ca: testca.New(), wants: wanted.MatchString, short: short, rounds: rounds, time: each}
	if short {
		b.rounds, b.time = 1, 300*time.Millisecond
	}
	if err := b.prepare(tools, binary, against); err != nil {
		return err
	}
	var errs []error
	b.conditions()
	errs = append(errs, b.measureWorkloads(), b.measureStarts(), b.measureIdle())
	b.printf("Load average at the end: %s.\n", loadAverage())
	fmt.Print(b.report.String())
	if results != "" && only == "" && !short && ctx.Err() == nil {
		errs = append(errs, record(results, b.report.String()))
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// prepare builds the programs and finds the peers. A peer that is not to be had is
// left out and named.
func (b *bench) prepare(tools, binary, against string) error {
	// All that is started may have as many descriptors as is allowed.
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil {
		files.Cur = files.Max
		syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files)
	}
	b.load, b.limitBinary = filepath.Join(b.dir, "load"), filepath.Join(b.dir, "limit")
	revision, _ := output(b.ctx, "git", "describe", "--tags", "--always", "--dirty")
	if binary == "" {
		binary = filepath.Join(b.dir, "fingerpost")
		if err := lab.Build(b.ctx, binary); err != nil {
			return err
		}
	} else {
		revision, _ = output(b.ctx, binary, "version")
	}
	b.fingerpost = fingerpost("Fingerpost", binary)
	b.fingerpost.version = revision + ", " + runtime.Version()
	if against != "" {
		b.other = fingerpost("other build", against)
		b.other.version, _ = output(b.ctx, against, "version")
	}
	if out, err := output(b.ctx, "go", "build", "-o", b.load, "fingerpost/bench/peers/load"); err != nil {
		return fmt.Errorf("build the generator: %w: %s", err, out)
	}
	b.limit = &peer{name: "C limit", command: limitCommand}
	b.nginx = &peer{name: "nginx", command: nginxCommand}
	b.haproxy = &peer{name: "HAProxy", command: haproxyCommand}
	b.caddy = &peer{name: "Caddy", command: caddyCommand, version: caddyVersion + ", " + runtime.Version()}

	source, err := output(b.ctx, "go", "list", "-f", "{{.Dir}}", "fingerpost/bench/peers")
	if err != nil {
		return err
	}
	if out, err := output(b.ctx, "gcc", "-O2", "-Wall", "-o", b.limitBinary, filepath.Join(source, "limit", "limit.c"), "-lssl", "-lcrypto"); err != nil {
		b.limit.missing = fmt.Errorf("%w: %s", err, tail(out))
	}
	b.limit.version, _ = output(b.ctx, "openssl", "version")
	version := func(p *peer, name, arg string) {
		var text string
		if text, p.missing = output(b.ctx, name, arg); p.missing == nil {
			p.version, _, _ = strings.Cut(strings.TrimPrefix(text, "nginx version: "), "\n")
		}
	}
	version(b.nginx, "nginx", "-v")
	version(b.haproxy, "haproxy", "-v")
	if tools, err = filepath.Abs(tools); err != nil {
		return err
	}
	if b.caddyBinary, err = buildCaddy(b.ctx, tools); err != nil {
		b.caddy.missing = err
	}
	for _, p := range b.peers() {
		if p.missing != nil {
			fmt.Fprintf(os.Stderr, "%s takes no part: %v\n", p.name, p.missing)
		}
	}
	return b.ctx.Err()
}

// peers are all, in the order of the tables.
func (b *bench) peers() []*peer {
	all := []*peer{b.limit, b.fingerpost, b.nginx, b.haproxy, b.caddy}
	if b.other != nil {
		all = append(all, b.other)
	}
	return all
}

func (b *bench) printf(format string, args ...any) { fmt.Fprintf(&b.report, format, args...) }

// conditions says where and with what it is measured.
func (b *bench) conditions() {
	model := "unknown processor"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for in := bufio.NewScanner(f); in.Scan(); {
			if name, value, ok := strings.Cut(in.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel, _ := output(b.ctx, "uname", "-sr")
	b.printf("%s, %s, %d cores, %s. Load average at the start: %s (2 is two busy cores, ours among them: over that, others worked here too, and the figures are rough).\n\n",
		time.Now().UTC().Format("2006-01-02 15:04 UTC"), model, runtime.NumCPU(), kernel, loadAverage())
	b.printf("%d rounds of %v for each server.\n\n| | version |\n|---|---|\n", b.rounds, b.time)
	for _, p := range b.peers() {
		version := p.version
		if p.missing != nil {
			version = "takes no part: " + lab.Trim(p.missing.Error())
		}
		b.printf("| %s | %s |\n", p.name, version)
	}
	b.printf("\n")
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	words := strings.Fields(string(text))
	return strings.Join(words[:min(3, len(words))], " ")
}

const (
	beginMark = "<!-- measured: written by make bench-peers -->"
	endMark   = "<!-- end of what is measured -->"
)

// record puts the tables into a file, between its marks.
func record(file, tables string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no %q and %q", file, beginMark, endMark)
	}
	return os.WriteFile(file, []byte(before+beginMark+"\n\n"+tables+"\n"+endMark+after), 0o644)
}
