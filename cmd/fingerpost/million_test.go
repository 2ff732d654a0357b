package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"fingerpost/admin"
)

// memoryMiB reads what the process has in memory that is not a mapped file.
func memoryMiB(t *testing.T) int64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc here")
	}
	_, rest, _ := strings.Cut(string(text), "RssAnon:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}

// TestMillionRulesAreTakenByANodeInBoundedMemory sends a million rules to a node as it
// is wired, and looks at its memory until they are in force. What the node's own copy
// takes, when it is made anew behind that, is printed.
func TestMillionRulesAreTakenByANodeInBoundedMemory(t *testing.T) {
	if testing.Short() || runtime.GOOS != "linux" {
		t.Skip("takes a minute, and /proc")
	}
	const rules = 1_000_000
	n := startNode(t, t.TempDir(), nil)
	token, err := os.ReadFile(filepath.Join(n.dir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	body, w := io.Pipe()
	go func() {
		out := bufio.NewWriter(w)
		for i := range rules {
			fmt.Fprintf(out, "{\"from\": \"h%d.a.example/p%d\", \"to\": \"https://t.example/%d\"}\n", i%10_000, i, i)
		}
		w.CloseWithError(out.Flush())
	}()
	before, start := memoryMiB(t), time.Now()
	req, err := http.NewRequest("POST", n.url("admin")+"/api/v1/changesets", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/x-ndjson")
	most := map[string]int64{}
	sent := make(chan *http.Response)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
		}
		sent <- resp
	}()
	var resp *http.Response
	for resp == nil {
		select {
		case resp = <-sent:
		case <-time.After(20 * time.Millisecond):
			most[admin.JobReceiving] = max(most[admin.JobReceiving], memoryMiB(t)-before)
		}
	}
	var result admin.ChangesetResult
	err = json.NewDecoder(resp.Body).Decode(&result)
	resp.Body.Close()
	if err != nil || result.Job == nil {
		t.Fatalf("%s %v", resp.Status, err)
	}
	took := map[string]time.Duration{admin.JobReceiving: time.Since(start)}
	var j admin.Job
	for !j.Ended() {
		time.Sleep(20 * time.Millisecond) // between two looks at its memory
		n.api("GET", "/jobs/"+result.Job.ID, nil, &j)
		took[j.State] = time.Since(start)
		most[j.State] = max(most[j.State], memoryMiB(t)-before)
	}
	if j.State != admin.JobDone || j.Result.Added != rules {
		t.Fatalf("the job ends as %+v", j)
	}
	n.leads("h7.a.example", "/p7", "https://t.example/7")
	copying := memoryMiB(t) - before
	t.Logf("%d rows a second; until the end of each step: %v; MiB more than before: %v, and %d with the node's own copy made", int(rules/took[admin.JobDone].Seconds()), took, most, copying)
	for _, step := range []string{admin.JobReceiving, admin.JobChecking, admin.JobPublishing} {
		if most[step] > 800 { // compiled whole it was 2,300. The collector may be behind, and the client is in it, too
			t.Errorf("%s takes %d MiB", step, most[step])
		}
	}
}
