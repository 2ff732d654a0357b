package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

const (
	startLimit = 20 * time.Second // to be ready, and to stop, on a busy machine
	waitLimit  = 10 * time.Second // for what the documentation promises within a second
	waitStep   = 20 * time.Millisecond
)

// server is a running `fingerpost serve`.
type server struct {
	cmd            *exec.Cmd
	stdout, stderr output
	addrs          map[string]string // of the listeners, by name
	exited         chan struct{}     // closed once cmd has ended
	signalled      bool
	over           bool // its end has been judged
}

// output is what a process has written so far.
type output struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

var (
	readyLine  = regexp.MustCompile(`(?m)\bready\b.*\n`)
	listenLine = regexp.MustCompile(`(?m)\blistening on=(\w+) addr=(\S+)$`)
)

// serve starts the program on free ports, but for listeners that the script
// gives by flag or environment, and waits until it is ready.
func (s *script) serve(ts *testscript.TestScript, args []string) {
	if s.server != nil && !s.server.over {
		ts.Fatalf("a server is running; shutdown comes first")
	}
	asIs := len(args) > 0 && args[0] == "-as-is"
	if asIs {
		args = args[1:]
	}
	args = append([]string{"serve"}, args...)
	for _, name := range []string{"http", "https", "admin"} {
		if !asIs && !hasFlag(args, "--"+name) && ts.Getenv("FINGERPOST_"+strings.ToUpper(name)) == "" {
			args = append(args, "--"+name, "127.0.0.1:0")
		}
	}
	srv := &server{cmd: exec.Command(binary, args...), addrs: map[string]string{}, exited: make(chan struct{})}
	srv.cmd.Dir = ts.MkAbs(".")
	srv.cmd.Stdout, srv.cmd.Stderr = &srv.stdout, &srv.stderr
	for _, name := range []string{"PATH", "TMPDIR", "GORACE", "GOCOVERDIR", "FINGERPOST_CONFIG", "FINGERPOST_REDIRECTS", "FINGERPOST_HTTP", "FINGERPOST_HTTPS", "FINGERPOST_ADMIN"} {
		if value := ts.Getenv(name); value != "" {
			srv.cmd.Env = append(srv.cmd.Env, name+"="+value)
		}
	}
	ts.Check(srv.cmd.Start())
	go func() {
		srv.cmd.Wait()
		close(srv.exited)
	}()
	if s.server == nil {
		ts.Defer(func() { s.end(ts) })
	}
	s.server = srv
	if !eventually(startLimit, func() bool { return readyLine.MatchString(srv.stderr.String()) || srv.gone() }) || srv.gone() {
		srv.over = srv.gone()
		ts.Fatalf("the server did not become ready")
	}
	for _, m := range listenLine.FindAllStringSubmatch(srv.stderr.String(), -1) {
		srv.addrs[m[1]] = m[2]
	}
	for _, name := range []string{"http", "https", "admin"} {
		_, port, _ := strings.Cut(srv.addrs[name], ":")
		ts.Setenv(strings.ToUpper(name), srv.addrs[name])
		ts.Setenv(strings.ToUpper(name)+"_PORT", port)
	}
}

func hasFlag(args []string, flag string) bool {
	for _, arg := range args {
		if arg == flag || strings.HasPrefix(arg, flag+"=") {
			return true
		}
	}
	return false
}

func (srv *server) gone() bool {
	select {
	case <-srv.exited:
		return true
	default:
		return false
	}
}

// eventually asks done again and again until it is true or limit is over.
func eventually(limit time.Duration, done func() bool) bool {
	for end := time.Now().Add(limit); ; time.Sleep(waitStep) {
		if done() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// signal sends a signal and does not wait.
func (s *script) signal(ts *testscript.TestScript, args []string) {
	signals := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP}
	if len(args) != 1 || signals[args[0]] == 0 {
		ts.Fatalf("usage: signal TERM|INT|HUP")
	}
	if s.server == nil {
		ts.Fatalf("no server is running")
	}
	ts.Check(s.server.cmd.Process.Signal(signals[args[0]]))
	if args[0] != "HUP" {
		s.server.signalled = true
	}
}

// shutdown ends the server by SIGTERM, unless a signal was sent already, and
// waits; its exit status must be 0.
func (s *script) shutdown(ts *testscript.TestScript, args []string) {
	if len(args) != 0 || s.server == nil || s.server.over {
		ts.Fatalf("usage: shutdown, while a server is running")
	}
	ts.Check(s.server.stop())
}

func (srv *server) stop() error {
	srv.over = true
	if !srv.signalled {
		if err := srv.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	select {
	case <-srv.exited:
	case <-time.After(startLimit):
		srv.cmd.Process.Kill()
		<-srv.exited
		return errors.New("the server did not stop in time")
	}
	if status := srv.cmd.ProcessState.ExitCode(); status != 0 {
		return errors.New("the server ended with status " + strconv.Itoa(status))
	}
	return nil
}

// end leaves nothing running, whatever became of the script.
func (s *script) end(ts *testscript.TestScript) {
	for _, l := range s.loads {
		l.stop()
	}
	for _, c := range s.raw {
		c.conn.Close()
	}
	var err error
	if !s.server.over {
		err = s.server.stop()
	}
	ts.Logf("[what the server said]\n%s", s.server.stderr.String())
	if err != nil {
		s.t.Fatal("FAIL: ", err)
	}
}

// log waits until the server has said something; with ! it must not have.
func (s *script) log(ts *testscript.TestScript, neg bool, args []string) {
	if s.server == nil {
		ts.Fatalf("no server was started")
	}
	out, count := &s.server.stderr, 0
	for ; len(args) > 1; args = args[1:] {
		switch n, isCount := strings.CutPrefix(args[0], "-count="); {
		case args[0] == "-access":
			out = &s.server.stdout
		case isCount && !neg:
			var err error
			count, err = strconv.Atoi(n)
			ts.Check(err)
		default:
			ts.Fatalf("usage: [!] log [-access] [-count=N] REGEXP")
		}
	}
	if len(args) != 1 {
		ts.Fatalf("usage: [!] log [-access] [-count=N] REGEXP")
	}
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	found := func() int { return len(re.FindAllString(out.String(), -1)) }
	if neg {
		if found() > 0 {
			ts.Fatalf("unexpected match for %#q in\n%s", args[0], out.String())
		}
		return
	}
	if !eventually(waitLimit, func() bool { return found() >= max(count, 1) }) || count > 0 && found() != count {
		ts.Fatalf("%d matches for %#q in\n%s", found(), args[0], out.String())
	}
}
