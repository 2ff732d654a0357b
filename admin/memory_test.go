package admin

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

// residentMiB reads what the process has in memory.
func residentMiB(t *testing.T) int64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc here")
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}

// mostMiB looks at the memory of the process until it is stopped, which gives how
// much more it was at most than at the beginning.
func mostMiB(t *testing.T) (stop func() int64) {
	before := residentMiB(t)
	done, most := make(chan struct{}), make(chan int64)
	go func() {
		var high int64
		for {
			select {
			case <-done:
				most <- high
				return
			case <-time.After(50 * time.Millisecond):
				high = max(high, residentMiB(t))
			}
		}
	}()
	return func() int64 {
		close(done)
		return <-most - before
	}
}

// TestMillionRulesStayInBoundedMemory streams a million rules and looks at the
// memory of the process meanwhile. The client is in it, too. Then it prints what it
// costs to check a change by reading and compiling all of them.
func TestMillionRulesStayInBoundedMemory(t *testing.T) {
	if testing.Short() || runtime.GOOS != "linux" {
		t.Skip("takes half a minute, and /proc")
	}
	a := newTestAPI(t)
	a.Accept = nil // the replica's memory is its own
	const rules = 1_000_000
	body, w := io.Pipe()
	go func() {
		out := bufio.NewWriter(w)
		for i := range rules {
			fmt.Fprintf(out, "{\"from\": \"h%d.a.example/p%d\", \"to\": \"https://t.example/%d\"}\n", i%10_000, i, i)
		}
		out.Flush()
		w.Close()
	}()
	stop := mostMiB(t)
	start := time.Now()
	r := a.send("publisher-a", "POST", "changesets", body, asNDJSON)
	if r.StatusCode != http.StatusAccepted {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	j := a.finished(strings.TrimPrefix(r.Header.Get("Location"), Prefix+"/jobs/"))
	took := time.Since(start)
	grown := stop()
	t.Logf("%d rows in %v (%.0f/s), %d MiB more than before", j.Done, took.Round(time.Millisecond), float64(rules)/took.Seconds(), grown)
	if j.State != JobDone || j.Result.Added != rules || grown > 200 {
		t.Errorf("the job ends as %+v, with %d MiB more", j, grown)
	}
	debug.FreeOSMemory()
	stop, start = mostMiB(t), time.Now()
	err := AcceptByCompiling(a.Store)(t.Context(), Proposal{Base: a.rev(), Changes: each(nil)})
	t.Logf("checked by compiling in %v, %d MiB more: %v", time.Since(start).Round(time.Millisecond), stop(), err)
	if err != nil {
		t.Error(err)
	}
}
