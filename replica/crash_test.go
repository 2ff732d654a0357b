//go:build unix

package replica

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fingerpost"
)

// TestMain makes the test binary a node that is to be killed, where it is told so.
func TestMain(m *testing.M) {
	if dir := os.Getenv("REPLICA_CRASH_DIR"); dir != "" {
		crashing(dir)
		return
	}
	os.Exit(m.Run())
}

const crashRevisions = 4000

// crashFake is a store with the same revisions in every process.
func crashFake() *fake {
	g := generator{rand.New(rand.NewPCG(42, 1))}
	f := &fake{epoch: "e1", items: map[string]*Item{}, news: make(chan struct{})}
	f.commit(putHost("a.x", fingerpost.Host{}))
	for range crashRevisions {
		f.commit(g.change())
	}
	return f
}

// crashing applies revisions one by one, says which ones are acknowledged, and
// compacts all the while. At the n-th time it comes to a point it kills itself.
func crashing(dir string) {
	point, n, _ := strings.Cut(os.Getenv("REPLICA_CRASH_AT"), ":")
	left, _ := strconv.Atoi(n)
	die := func(err error) {
		if err != nil {
			fmt.Println("error", err)
			os.Exit(3)
		}
	}
	hits := make(chan string)
	go func() {
		for at := range hits {
			if at != "" && at == point {
				if left--; left <= 0 {
					syscall.Kill(os.Getpid(), syscall.SIGKILL)
					select {}
				}
			}
		}
	}()
	r, err := Open(Options{Dir: dir, MinOverlay: 1 << 30, fault: func(at string) { hits <- at; hits <- "" }})
	die(err)
	f := crashFake()
	if _, ok := r.Cursor(); !ok {
		fmt.Println("error no state")
		os.Exit(3)
	}
	go func() {
		for {
			die(r.Compact())
			time.Sleep(time.Millisecond)
		}
	}()
	at, _ := r.Cursor()
	for i := at.Rev; i < int64(len(f.revisions)); i++ {
		die(r.apply(f.revisions[i : i+1]))
		fmt.Println("acked", i+1)
	}
	fmt.Println("done")
	select {}
}

// TestKill kills a node with SIGKILL, at each point of a change and of a
// compaction and at random moments, again and again in the same folder. What was
// acknowledged is there, and what is there is a state that was.
func TestKill(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f := crashFake()
	dir := t.TempDir()
	r := open(t, Options{Dir: dir})
	whole := f.revisions
	f.revisions = whole[:1]
	f.items = map[string]*Item{whole[0].Changes[0].Item.name(): &whole[0].Changes[0].Item}
	f.snapshots = Snapshots{Dir: t.TempDir(), Feed: f.feed(), Scan: f.scan}
	load(t, r, f)
	f.revisions = whole
	r.Close()
	points := []string{"log begun", "log written", "log synced", "frozen", "built", "installed", "swapped"}
	rounds := 40
	if testing.Short() {
		rounds = 12
	}
	g := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	last := int64(1)
	for i := range rounds {
		point := ""
		if i < 2*len(points) {
			point = fmt.Sprintf("%s:%d", points[i%len(points)], 1+g.IntN(5))
		}
		acked, done := runAndKill(t, exe, dir, point, time.Duration(5+g.IntN(60))*time.Millisecond)
		last = max(last, acked)
		r, err := Open(Options{Dir: dir, Log: testLog(t), MinOverlay: 1 << 30})
		if err != nil {
			t.Fatalf("round %d, %q: %v", i, point, err)
		}
		at, ok := r.Cursor()
		if !ok || at.Rev < last || at.Rev > last+1 && !done {
			t.Fatalf("round %d, %q: the replica is at %v, acknowledged was %d", i, point, at, last)
		}
		compare(t, r.Table(), tableAt(t, f, at.Rev))
		if left, _ := os.ReadDir(dir); len(left) > 20 {
			t.Errorf("round %d: %d files are in the folder", i, len(left))
		}
		r.Close()
		last = at.Rev
	}
	t.Logf("%d kills, the last at revision %d of %d", rounds, last, len(f.revisions))
}

// runAndKill starts a node and kills it when it has acknowledged something and
// some time has passed, or lets it kill itself at a point.
func runAndKill(t *testing.T, exe, dir, point string, after time.Duration) (acked int64, done bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), "REPLICA_CRASH_DIR="+dir, "REPLICA_CRASH_AT="+point)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var timer *time.Timer
	for lines.Scan() {
		line := lines.Text()
		if s, ok := strings.CutPrefix(line, "acked "); ok {
			acked, _ = strconv.ParseInt(s, 10, 64)
			if timer == nil && point == "" {
				timer = time.AfterFunc(after, func() { cmd.Process.Kill() })
			}
		} else if line == "done" {
			done = true
			cmd.Process.Kill()
		} else {
			t.Errorf("the node says %q", line)
		}
	}
	if timer != nil {
		timer.Stop()
	}
	cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Errorf("the node was not killed at %q: %v\n%s", point, cmd.ProcessState, stderr.String())
	}
	return acked, done
}
