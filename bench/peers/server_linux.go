package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fingerpost/bench/lab"
)

// server is a running contestant.
type server struct {
	b       *bench
	peer    *peer
	setting setting
	port    int
	targets string // file of what the generator asks it for
	cmd     *exec.Cmd
	exited  chan struct{}
	said    *os.File
	pids    []int // with its children, once it answers
	started time.Duration
}

// command is how a peer is started for a setting.
type command struct {
	args []string
	env  []string
}

const (
	serverCore    = "0"
	generatorCore = "1"
	// startPatience is enough for the slowest peer with a million rules.
	startPatience = time.Minute
)

// start runs a peer until it gives a right answer.
func (b *bench) start(p *peer, s setting) (srv *server, err error) {
	addr, err := lab.FreeAddr()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	dir, err := os.MkdirTemp(b.dir, strings.ToLower(strings.ReplaceAll(p.name, " ", "-"))+"-")
	if err != nil {
		return nil, err
	}
	srv = &server{b: b, peer: p, setting: s, exited: make(chan struct{})}
	srv.port, _ = strconv.Atoi(port)
	if srv.targets, err = b.targets(p, s); err != nil {
		return nil, err
	}
	c, err := p.command(b, s, dir, srv.port)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	if srv.said, err = os.Create(filepath.Join(dir, "said")); err != nil {
		return nil, err
	}
	srv.cmd = exec.Command("taskset", append([]string{"-c", serverCore}, c.args...)...)
	srv.cmd.Dir = dir
	srv.cmd.Env = append(os.Environ(), c.env...)
	srv.cmd.Stdout, srv.cmd.Stderr = srv.said, srv.said
	begin := time.Now() // all that has been written is in memory, not yet on disk
	if err := srv.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		srv.cmd.Wait()
		close(srv.exited)
	}()
	want := b.wanted(p, s)[0]
	for {
		if err = srv.answers(want); err == nil {
			break
		}
		select {
		case <-srv.exited:
			text, _ := os.ReadFile(srv.said.Name())
			return nil, fmt.Errorf("%s has ended: %s", p.name, tail(string(text)))
		case <-b.ctx.Done():
			err = b.ctx.Err()
		default:
		}
		if b.ctx.Err() != nil || time.Since(begin) > startPatience {
			srv.stop()
			return nil, fmt.Errorf("%s does not answer as it should after %v: %w", p.name, time.Since(begin).Round(time.Second), err)
		}
		time.Sleep(time.Millisecond)
	}
	srv.started = time.Since(begin)
	srv.pids = descendants(srv.cmd.Process.Pid)
	return srv, nil
}

func tail(text string) string {
	text = lab.Trim(text)
	return text[max(0, len(text)-500):]
}

// stop ends the server, its children too.
func (s *server) stop() {
	defer s.said.Close()
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
		return
	case <-time.After(5 * time.Second):
	}
	for _, pid := range descendants(s.cmd.Process.Pid) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	<-s.exited
}

// want is a request and its answer.
type want struct{ host, path, location string }

// answers asks as a client does that checks the certificate.
func (s *server) answers(w want) error {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", s.port), time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if s.setting.certs > 0 {
		conn = tls.Client(conn, &tls.Config{ServerName: w.host, RootCAs: s.b.ca.Pool(), MinVersion: tls.VersionTLS13})
	}
	req, err := http.NewRequest("GET", "http://"+w.host+w.path, nil)
	if err != nil {
		return err
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if got := resp.Header.Get("Location"); resp.StatusCode != http.StatusMovedPermanently || got != w.location {
		return fmt.Errorf("%s%s is answered by %s to %q, want 301 to %q", w.host, w.path, resp.Status, got, w.location)
	}
	return nil
}

// raw is an answer as it goes over the wire, to a request that keeps the
// connection or ends it.
func (s *server) raw(w want, hangUp bool) ([]byte, error) {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", s.port), time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if s.setting.certs > 0 {
		conn = tls.Client(conn, &tls.Config{ServerName: w.host, RootCAs: s.b.ca.Pool()})
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", w.path, w.host)
	answer, err := io.ReadAll(conn)
	if !hangUp {
		answer = bytes.Replace(answer, []byte("Connection: close\r\n"), nil, 1)
	}
	return answer, err
}

// load is what the generator says; see its result.
type load struct {
	Requests, Resumed, Errors, Wrong int
	Trouble                          string
	Seconds, CPU, P50, P99           float64
	server                           float64 // CPU seconds of the server meanwhile
}

// micros is the figure: server CPU per request, in microseconds.
func (l *load) micros() float64 { return l.server / float64(l.Requests) * 1e6 }

// drive runs the generator against s for a time that counts.
func (s *server) drive(ctx context.Context, args ...string) (*load, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "taskset", append([]string{"-c", generatorCore, s.b.load, "-port", strconv.Itoa(s.port), "-targets", s.targets}, args...)...)
	var trouble bytes.Buffer
	cmd.Stderr = &trouble
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	out := bufio.NewReader(stdout)
	_, beginErr := out.ReadString('\n') // "begin"
	before := cpu(s.pids)
	var l load
	decodeErr := json.NewDecoder(out).Decode(&l)
	l.server = cpu(s.pids) - before
	if err := errors.Join(cmd.Wait(), beginErr, decodeErr); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", s.peer.name, err, lab.Trim(trouble.String()))
	}
	if l.Requests == 0 || l.Wrong > 0 || l.Errors > l.Requests/1000 {
		return &l, fmt.Errorf("%s: %d answers, %d wrong, %d errors: %s", s.peer.name, l.Requests, l.Wrong, l.Errors, l.Trouble)
	}
	return &l, nil
}

// hold opens n connections, asks once on each, and calls fn while they are idle.
func (s *server) hold(ctx context.Context, n int, fn func(), args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "taskset", append([]string{"-c", generatorCore, s.b.load, "-port", strconv.Itoa(s.port), "-targets", s.targets, "-idle", "-conns", strconv.Itoa(n)}, args...)...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err == nil && line == "begin\n" {
		fn()
	}
	stdin.Close()
	return errors.Join(err, cmd.Wait())
}

// descendants are pid and the processes below it.
func descendants(pid int) []int {
	children := map[int][]int{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if words := stat(child); len(words) > 1 {
			parent, _ := strconv.Atoi(words[1])
			children[parent] = append(children[parent], child)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// stat is what the system tells of a process, from its state on; nothing if there
// is none.
func stat(pid int) []string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, text, _ = bytes.Cut(text, []byte(") ")) // after the name, which may hold anything
	return strings.Fields(string(text))
}

// ticksPerSecond is what /proc counts in, on every Linux of today.
const ticksPerSecond = 100

// cpu is the time that processes have spent, user and system, with children that
// have ended.
func cpu(pids []int) float64 {
	ticks := 0
	for _, pid := range pids {
		words := stat(pid)
		if len(words) < 15 {
			continue
		}
		for _, word := range words[11:15] {
			n, _ := strconv.Atoi(word) // the kernel writes numbers
			ticks += n
		}
	}
	return float64(ticks) / ticksPerSecond
}

// memory is the proportional set size of the server in bytes: what it shares is
// divided among those who share it.
func (s *server) memory() (bytes float64) {
	for _, pid := range descendants(s.cmd.Process.Pid) {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		for line := range strings.Lines(string(text)) {
			if words := strings.Fields(line); len(words) == 3 && words[0] == "Pss:" {
				kB, _ := strconv.Atoi(words[1])
				bytes += float64(kB) * 1024
			}
		}
	}
	return bytes
}

// median of figures, the lower one of two.
func median(figures []float64) float64 {
	sorted := slices.Sorted(slices.Values(figures))
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)-1)/2]
}
