// Package e2e runs the scripts in testdata against the program itself: the
// binary is built once, runs as a process of its own and is asked over sockets,
// by curl and openssl where a script says so.
//
// It knows what an operator knows: the command line, files, ports, signals and
// what the documentation promises. It imports nothing that the program is made
// of, but to open what was sealed; certificates come from internal/testca and, where
// a CA is asked for them, from Pebble (internal/testacme), databases from
// internal/testpg, cut connections from internal/faults. README.md tells how to
// write a script.
//
// Start reading at [TestScripts] and its list of commands. Those that ask are in
// visit_test.go and raw_test.go, the server is in serve_test.go, what changes
// files in files_test.go, and what asks all the time in load_test.go. What a
// script has no words for, several nodes and how they die, is in faults_test.go;
// orders of certificates are in acme_test.go, certificates_test.go, killed_test.go and
// takeover_test.go, what people do with certificates in certs_test.go and doctor_test.go.
package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"

	"fingerpost/internal/testacme"
	"fingerpost/internal/testca"

	"github.com/rogpeppe/go-internal/testscript"
)

var (
	binary string         // the program
	ca     = testca.New() // every certificate is of this authority
	needed = []string{"bash", "curl", "git", "openssl", "script", "setpriv"}
)

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

// buildAndRun builds the program, with the race detector if the tests have it.
func buildAndRun(m *testing.M) int {
	for _, name := range needed {
		if _, err := exec.LookPath(name); err != nil {
			fmt.Fprintf(os.Stderr, "error: the scripts need %s\nhint: tools/install.sh test\n", name)
			return 1
		}
	}
	dir, err := os.MkdirTemp("", "fingerpost-e2e-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Chmod(dir, 0o755) // for nobody, see run
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	binary = filepath.Join(dir, "fingerpost")
	args := []string{"build", "-buildvcs=false", "-ldflags", "-X main.version=v0.0.0-e2e", "-o", binary}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "fingerpost/cmd/fingerpost")...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "error: build the program:", err)
		return 1
	}
	// Scripts wait more than they work.
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		parallel.Value.Set(strconv.Itoa(2 * runtime.GOMAXPROCS(0)))
	}
	defer stopCluster()
	defer testacme.RemovePebble()
	return m.Run()
}

// TestScripts runs every script of testdata, several at once.
func TestScripts(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			s := &script{t: env.T(), ca: filepath.Join(env.WorkDir, "ca.pem")}
			env.Values[scriptKey{}] = s
			env.Setenv("PATH", filepath.Dir(binary)+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("ROOT", root)
			env.Setenv("CA", s.ca)
			// The folder of all scripts is the owner's alone; nobody may pass.
			if err := os.Chmod(filepath.Dir(env.WorkDir), 0o711); err != nil {
				return err
			}
			return os.WriteFile(s.ca, ca.PEM(), 0o644)
		},
		Condition: condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fingerpost": command((*script).fingerpost),
			"exits":      command((*script).exits),
			"serve":      command((*script).serve),
			"signal":     command((*script).signal),
			"shutdown":   command((*script).shutdown),
			"log":        orNot((*script).log),
			"http":       orNot((*script).http),
			"answers":    command((*script).answers),
			"waitfor":    command((*script).waitfor),
			"dial":       command((*script).dial),
			"send":       command((*script).send),
			"receive":    orNot((*script).receive),
			"cert":       command((*script).cert),
			"write":      command((*script).write),
			"flip":       command((*script).flip),
			"keep":       command((*script).keep),
			"postgres":   command((*script).postgres),
			"workflow":   command((*script).workflow),
			"rotate":     command((*script).rotate),
			"load":       command((*script).load),
		},
	})
}

// condition tells what a script may ask in brackets: privileged-ports, whether
// a port below 1024 needs a right. Containers often let everybody have them; the
// message is tested in cmd/fingerpost too.
func condition(name string) (bool, error) {
	if name != "privileged-ports" {
		return false, fmt.Errorf("unknown condition %q", name)
	}
	first, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if errors.Is(err, os.ErrNotExist) {
		return true, nil // older kernels
	}
	return strings.TrimSpace(string(first)) == "1024", err
}

// script is the state of one script. Its commands run one after the other.
type script struct {
	t      testscript.T
	ca     string // file
	dir    string // in which the command runs
	server *server
	raw    map[string]*rawConn
	loads  []*load
}

type scriptKey struct{}

func scriptOf(ts *testscript.TestScript) *script {
	s := ts.Value(scriptKey{}).(*script)
	s.dir = ts.MkAbs(".")
	return s
}

// command is a command of scripts that cannot be negated.
func command(run func(*script, *testscript.TestScript, []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg {
			ts.Fatalf("this command has no !")
		}
		run(scriptOf(ts), ts, args)
	}
}

// orNot is one that can.
func orNot(run func(*script, *testscript.TestScript, bool, []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		run(scriptOf(ts), ts, neg, args)
	}
}

// fingerpost runs a verb that ends by itself, and well.
func (s *script) fingerpost(ts *testscript.TestScript, args []string) {
	s.run(ts, 0, append([]string{"fingerpost"}, args...))
}

// exits runs a program that must end with a status.
func (s *script) exits(ts *testscript.TestScript, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits STATUS [nobody] PROGRAM [ARGUMENT...]")
	}
	status, err := strconv.Atoi(args[0])
	ts.Check(err)
	s.run(ts, status, args[1:])
}

// run runs a program. Behind "nobody" it has the rights of a user who owns
// nothing: root may read and bind everything.
func (s *script) run(ts *testscript.TestScript, want int, args []string) {
	if args[0] == "nobody" {
		args = args[1:]
		if os.Geteuid() == 0 {
			args = append([]string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"}, args...)
		}
	}
	err := ts.Exec(args[0], args[1:]...)
	status := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if status != want {
		ts.Fatalf("exit status %d, want %d", status, want)
	}
}
