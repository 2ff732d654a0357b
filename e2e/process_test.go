package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// start starts the program and ends it with the test, if it is still there.
func start(t *testing.T, cmd *exec.Cmd) (exited chan struct{}) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited = make(chan struct{})
	go func() {
		cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-exited
	})
	return exited
}

// interrupt ends the program as Ctrl-C does, and wants status 0.
func interrupt(t *testing.T, cmd *exec.Cmd, exited chan struct{}) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-exited:
	case <-time.After(startLimit):
		t.Fatal("the program did not end")
	}
	if status := cmd.ProcessState.ExitCode(); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
}

// TestDemoCommandsCanBePasted runs what `fingerpost demo` says to paste.
func TestDemoCommandsCanBePasted(t *testing.T) {
	t.Parallel()
	var stdout output
	cmd := exec.Command(binary, "demo")
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	cmd.Stdout, cmd.Stderr = &stdout, os.Stderr
	exited := start(t, cmd)
	if !eventually(startLimit, func() bool { return strings.Contains(stdout.String(), "Ctrl-C") }) {
		t.Fatalf("the demo did not come to its end:\n%s", stdout.String())
	}
	_, suggested, ok := strings.Cut(stdout.String(), "Now you")
	if !ok || strings.Contains(stdout.String(), "WRONG") {
		t.Fatalf("the demo says:\n%s", stdout.String())
	}
	wants := []string{
		`(?m)^HTTP/1.1 301 .*(?s).*^Location: https://www\.fingerpost\.test/products/one\r$`,
		`(?m)^HTTP/2 301 .*(?s).*^location: /resources/followup\r$`,
		`(?m)^HTTP/1.1 307 .*(?s).*^Location: https://www\.fingerpost\.test/form\r$`,
		`(?m)^301 Moved Permanently \(rule .*(?s).*^  Location: https://www\.fingerpost\.test/item/7/red\?ref=shop$`,
		`(?m)^HTTP/2 301 .*(?s).*^location: https://jobs\.example\.net/\r$`,
	}
	lines := regexp.MustCompile(`(?m)^  (.+)$`).FindAllStringSubmatch(suggested, -1)
	if len(lines) != len(wants) {
		t.Fatalf("%d commands are suggested, want %d:\n%s", len(lines), len(wants), suggested)
	}
	for i, line := range lines {
		out, err := exec.Command("sh", "-c", line[1]).CombinedOutput()
		if err != nil || !regexp.MustCompile(wants[i]).Match(out) {
			t.Errorf("%s\n%v\n%s\nwant %s", line[1], err, out, wants[i])
		}
	}
	dir := regexp.MustCompile(`(?m)^  files +(\S+)$`).FindStringSubmatch(stdout.String())
	interrupt(t, cmd, exited)
	if dir == nil {
		t.Fatalf("no folder is named:\n%s", stdout.String())
	}
	if _, err := os.Stat(dir[1]); !os.IsNotExist(err) {
		t.Errorf("the demo left %s behind (%v)", dir[1], err)
	}
}

// TestServingOutlivesTheReaderOfItsLog closes the other end of standard output,
// as a log collector that crashes does.
func TestServingOutlivesTheReaderOfItsLog(t *testing.T) {
	t.Parallel()
	rules := t.TempDir() + "/rules.json"
	if err := os.WriteFile(rules, []byte(`{"/a": {"to": "https://b.example/"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr output
	cmd := exec.Command(binary, "serve", "--redirects", rules, "--http", "127.0.0.1:0", "--https", "", "--admin", "")
	cmd.Stdout, cmd.Stderr = w, &stderr
	exited := start(t, cmd)
	w.Close()
	r.Close()
	if !eventually(startLimit, func() bool { return readyLine.MatchString(stderr.String()) }) {
		t.Fatalf("not ready: %s", stderr.String())
	}
	url := "http://" + listenLine.FindStringSubmatch(stderr.String())[2] + "/a"
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for end := time.Now().Add(1300 * time.Millisecond); time.Now().Before(end); time.Sleep(100 * time.Millisecond) { // the log is written once a second
		resp, err := client.Get(url)
		if err != nil {
			t.Fatalf("%v; the program says: %s", err, stderr.String())
		}
		resp.Body.Close()
	}
	interrupt(t, cmd, exited)
	if !strings.Contains(stderr.String(), "records of the access log were lost") {
		t.Errorf("nothing is said of the lost records: %s", stderr.String())
	}
}
