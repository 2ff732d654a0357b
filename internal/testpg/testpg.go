//go:build unix

// Package testpg runs a private PostgreSQL for tests: a cluster of its own in a
// temporary folder, on a unix socket and a free port of loopback, as an ordinary
// user, gone at the end. It installs nothing: tools/install.sh does.
//
// Read it from [Start].
package testpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options of a cluster.
type Options struct {
	// Fsync writes to the disk as in production: for tests of durability and for
	// figures. Without it a cluster is quicker, and loses data with the machine but
	// not with a killed process.
	Fsync bool
	// Settings are further lines of postgresql.conf.
	Settings []string
}

// Server is a running cluster.
type Server struct {
	options Options
	dir     string // holds data/ and the socket
	bin     string
	port    int
	as      *syscall.Credential // nil for the user of this process

	mu     sync.Mutex // guards cmd and exited
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended
}

// Find gives the folder of the newest initdb, or an error that says how to
// install one.
func Find() (string, error) {
	candidates, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(strings.Split(path, "/")[4]) // a folder that is no number is the oldest
		return n
	}
	slices.SortFunc(candidates, func(a, b string) int { return version(b) - version(a) })
	if len(candidates) > 0 {
		return filepath.Dir(candidates[0]), nil
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	return "", errors.New("no PostgreSQL found: run tools/install.sh test")
}

// Start makes a cluster and waits until it answers.
func Start(o Options) (*Server, error) {
	bin, err := Find()
	if err != nil {
		return nil, err
	}
	s := &Server{options: o, bin: bin}
	// A unix socket's path is short, so the folder is not one of go test's.
	if s.dir, err = os.MkdirTemp("", "testpg"); err != nil {
		return nil, err
	}
	if err := s.create(); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func (s *Server) create() error {
	if os.Geteuid() == 0 { // PostgreSQL refuses to run as root
		if err := s.giveAway(); err != nil {
			return err
		}
	}
	if out, err := s.command("initdb", "-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions").CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	var err error
	if s.port, err = freePort(); err != nil {
		return err
	}
	onOff := map[bool]string{true: "on", false: "off"}[s.options.Fsync]
	settings := append([]string{
		"listen_addresses = '127.0.0.1'", "port = " + strconv.Itoa(s.port), "unix_socket_directories = '" + s.dir + "'",
		"fsync = " + onOff, "synchronous_commit = on", "full_page_writes = " + onOff,
		"max_connections = 200", "shared_buffers = '128MB'", "max_wal_size = '2GB'", "log_min_messages = warning",
	}, s.options.Settings...)
	f, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(settings, "\n") + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return s.run()
}

// giveAway makes the folder nobody's.
func (s *Server) giveAway() error {
	nobody, err := user.Lookup("nobody")
	if err != nil {
		return err
	}
	uid, err := strconv.ParseUint(nobody.Uid, 10, 32)
	if err != nil {
		return err
	}
	gid, err := strconv.ParseUint(nobody.Gid, 10, 32)
	if err != nil {
		return err
	}
	s.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(s.dir, int(uid), int(gid))
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/bin:/bin", "HOME=" + s.dir}
	cmd.SysProcAttr = attributes(s.as)
	return cmd
}

// run starts the server and waits until it answers.
func (s *Server) run() error {
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := s.command("postgres", "-D", s.data())
	cmd.Stdout, cmd.Stderr = log, log
	started := make(chan error)
	exited := make(chan struct{})
	go func() {
		// Pdeathsig follows the thread that started the child, not the process: this
		// goroutine keeps its thread until the child has ended.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in the log
			close(exited)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	s.mu.Lock()
	s.cmd, s.exited = cmd, exited
	s.mu.Unlock()
	return s.ready(exited)
}

func (s *Server) ready(exited <-chan struct{}) error {
	deadline := time.Now().Add(60 * time.Second)
	for time.Now().Before(deadline) {
		if s.command("pg_isready", "-q", "-h", s.dir, "-p", strconv.Itoa(s.port)).Run() == nil {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("postgres ended at its start:\n%s", s.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("postgres does not answer:\n%s", s.Log())
}

// Log is what the server wrote.
func (s *Server) Log() string {
	f, err := os.Open(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Addr is the server's address on loopback.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.port) }

// DSN connects to a database of the cluster over loopback, with further settings
// such as "search_path=x" or "default_transaction_isolation=serializable".
func (s *Server) DSN(database string, settings ...string) string {
	return DSN(s.Addr(), database, settings...)
}

// DSN is as [Server.DSN], by another address: that of a proxy.
func DSN(addr, database string, settings ...string) string {
	q := url.Values{"sslmode": {"disable"}}
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		q.Set(name, value)
	}
	return "postgres://postgres@" + addr + "/" + database + "?" + strings.ReplaceAll(q.Encode(), "+", "%20")
}

// Restart stops the server in PostgreSQL's fast way, or with kill as a crash
// would, and starts it on the same data and port.
func (s *Server) Restart(kill bool) error {
	signal := syscall.SIGINT
	if kill {
		signal = syscall.SIGQUIT // immediate: no checkpoint, recovery at the start
	}
	s.end(signal)
	return s.run()
}

func (s *Server) end(signal syscall.Signal) {
	s.mu.Lock()
	cmd, exited := s.cmd, s.exited
	s.cmd = nil
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(signal) // it may have ended by itself
	select {
	case <-exited:
	case <-time.After(30 * time.Second):
		_ = cmd.Process.Kill()
		<-exited
	}
}

// Stop ends the server and removes all of it.
func (s *Server) Stop() {
	s.end(syscall.SIGQUIT)
	_ = os.RemoveAll(s.dir) // what stays is in the system's folder for temporary files
}

// Exec runs one statement through psql, for what a test does beside the program.
func (s *Server) Exec(ctx context.Context, database, sql string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
		"-h", s.dir, "-p", strconv.Itoa(s.port), "-U", "postgres", "-d", database, "-c", sql)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", sql, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
