package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"fingerpost/internal/testpg"

	"github.com/rogpeppe/go-internal/testscript"
	"go.yaml.in/yaml/v3"
)

// keep puts what the last program printed into a variable: the first group of a
// regular expression.
func (s *script) keep(ts *testscript.TestScript, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: keep NAME REGEXP")
	}
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	m := re.FindStringSubmatch(ts.ReadFile("stdout"))
	if len(m) != 2 {
		ts.Fatalf("no match with one group for %#q in what was printed", args[1])
	}
	ts.Setenv(args[0], m[1])
}

// cluster is the PostgreSQL of all scripts, started by the first that needs it.
var cluster struct {
	once   sync.Once
	server *testpg.Server
	err    error
}

func stopCluster() {
	if cluster.server != nil {
		cluster.server.Stop()
	}
}

// postgres makes an empty database, whose DSN is in $POSTGRES.
func (s *script) postgres(ts *testscript.TestScript, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: postgres DATABASE")
	}
	cluster.once.Do(func() { cluster.server, cluster.err = testpg.Start(testpg.Options{}) })
	ts.Check(cluster.err)
	_, err := cluster.server.Exec(context.Background(), "postgres", "CREATE DATABASE "+args[0])
	ts.Check(err)
	ts.Setenv("POSTGRES", cluster.server.DSN(args[0]))
}

// workflow runs what a job of a CI workflow runs: the `run` of each step in GitHub's
// way, each `script` in GitLab's. The program is there already.
func (s *script) workflow(ts *testscript.TestScript, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: workflow FILE JOB")
	}
	type job struct {
		Steps  []struct{ Name, Run string }
		Script []string
	}
	text := []byte(ts.ReadFile(args[0]))
	var github struct{ Jobs map[string]job }
	ts.Check(yaml.Unmarshal(text, &github))
	j, ok := github.Jobs[args[1]]
	if github.Jobs == nil {
		var gitlab map[string]yaml.Node
		ts.Check(yaml.Unmarshal(text, &gitlab))
		var node yaml.Node
		if node, ok = gitlab[args[1]]; ok {
			ts.Check(node.Decode(&j))
		}
	}
	if !ok {
		ts.Fatalf("%s has no job %s", args[0], args[1])
	}
	commands := j.Script
	for _, step := range j.Steps {
		if step.Run != "" && step.Name != "Get fingerpost" {
			commands = append(commands, step.Run)
		}
	}
	if len(commands) == 0 {
		ts.Fatalf("the job %s of %s runs nothing", args[1], args[0])
	}
	for _, command := range commands {
		if strings.Contains(command, "${{") {
			ts.Fatalf("an expression within a command: what somebody named a branch would be run:\n%s", command)
		}
		ts.Check(ts.Exec("bash", "-e", "-o", "pipefail", "-c", command))
	}
}

// TestProgressIsALineWithoutATerminal keeps a replay waiting for its log, until it
// has said how far it is.
func TestProgressIsALineWithoutATerminal(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes five seconds")
	}
	end := slowReplay(t, regexp.MustCompile(`(?m)^replay: 0\.0 MB \(5s\)$`), func(args []string) *exec.Cmd { return exec.Command(binary, args...) })
	if strings.Contains(end, "\r") {
		t.Errorf("it printed\n%q", end)
	}
}

// TestProgressIsABarOnATerminal does the same on a terminal, as script(1) makes one.
func TestProgressIsABarOnATerminal(t *testing.T) {
	t.Parallel()
	end := slowReplay(t, regexp.MustCompile(`replay \(20 B`), func(args []string) *exec.Cmd {
		cmd := exec.Command("script", "-qec", binary+" "+strings.Join(args, " "), "/dev/null")
		cmd.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR=1")
		return cmd
	})
	if strings.Contains(end, "\x1b[3") {
		t.Errorf("colours in\n%q", end)
	}
}

// slowReplay replays a log that does not end before progress is seen, and gives all
// that was printed.
func slowReplay(t *testing.T, progress *regexp.Regexp, command func(args []string) *exec.Cmd) string {
	t.Helper()
	dir := t.TempDir()
	rules, log := filepath.Join(dir, "rules.yaml"), filepath.Join(dir, "log")
	if err := os.WriteFile(rules, []byte("redirects:\n  - {from: a.example/x, to: \"https://b.example/\"}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(log, 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.OpenFile(log, os.O_RDWR, 0) // a reader alone would wait for a writer
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var out output
	cmd := command([]string{"replay", "--old", rules, "--new", rules, log})
	cmd.Stdout, cmd.Stderr = &out, &out
	exited := start(t, cmd)
	if _, err := in.WriteString("https://a.example/x\n"); err != nil {
		t.Fatal(err)
	}
	if !eventually(startLimit, func() bool { return progress.MatchString(out.String()) }) {
		t.Fatalf("no progress, but\n%q", out.String())
	}
	in.Close()
	<-exited
	if status := cmd.ProcessState.ExitCode(); status != 0 || !strings.Contains(out.String(), "1 request read") {
		t.Errorf("exit status %d\n%q", status, out.String())
	}
	return out.String()
}
