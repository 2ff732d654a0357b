package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fingerpost/internal/faults"
	"fingerpost/internal/testpg"
)

// The faults that docs/GUARANTEES.md speaks of, made to the program itself. Each
// test ends with the same question: is all there that was acknowledged, and
// nothing else?

// jobDone waits for the end of the job that a changeset was handed to.
func (n *node) jobDone(r reply) {
	n.t.Helper()
	var accepted struct{ Job struct{ ID string } }
	if err := json.Unmarshal([]byte(r.body), &accepted); err != nil {
		n.t.Fatal(err)
	}
	if r.status == 200 {
		return
	}
	var job struct{ State string }
	if !eventually(time.Minute, func() bool {
		n.must(&job, "GET", "jobs/"+accepted.Job.ID, "")
		return job.State != "receiving" && job.State != "checking" && job.State != "publishing"
	}) || job.State != "done" {
		n.t.Errorf("the job ends as %q: %s", job.State, r.body)
	}
}

// TestControlKilledDuringAnImport kills a control node while rows come in, while a
// job brings them into force, and in the middle of small changesets. Its clients
// repeat what was not answered.
func TestControlKilledDuringAnImport(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for some seconds")
	}
	t.Parallel()
	control := newControl(t)
	edge := newEdge(t, control)
	want := map[string]string{}
	const large = 12_000
	imports := func() (n int) {
		for _, r := range control.revisions() {
			if r.Added == large {
				n++
			}
		}
		return n
	}
	for round, name := range []string{"rows come in", "it was accepted", "a moment later", "later still"} {
		host := fmt.Sprintf("large%d.example", round)
		body := rows(host, large)
		key := "import-" + host
		if name == "rows come in" {
			in, out := io.Pipe()
			go func() {
				out.Write(body[:len(body)/2])
				for !control.gone() {
					time.Sleep(waitStep)
				}
				out.CloseWithError(errors.New("the server has gone"))
			}()
			answered := make(chan error, 1)
			go func() {
				_, err := control.ask("", "POST", "changesets", in, ndjson, "Idempotency-Key: "+key)
				answered <- err
			}()
			if !eventually(startLimit, func() bool {
				var jobs struct{ Items []struct{ Done int64 } }
				control.must(&jobs, "GET", "jobs", "")
				return len(jobs.Items) > 0 && jobs.Items[0].Done > 1000
			}) {
				t.Fatal("the import does not begin")
			}
			control.kill()
			if err := <-answered; err == nil {
				t.Error("half an import was answered")
			}
		} else {
			r, err := control.ask("", "POST", "changesets", bytes.NewReader(body), ndjson, "Idempotency-Key: "+key)
			if err != nil || r.status != 202 {
				t.Fatalf("%s: %d %s %v", name, r.status, r.body, err)
			}
			time.Sleep(time.Duration(round-1) * 200 * time.Millisecond) // the job goes on
			control.kill()
		}
		control.start()
		var jobs struct{ Items []struct{ State string } }
		control.must(&jobs, "GET", "jobs", "")
		for _, j := range jobs.Items {
			if j.State != "done" && j.State != "failed" {
				t.Errorf("killed when %s: a job is still %s", name, j.State)
			}
		}
		there := len(control.redirects(host))
		if there != 0 && there != large {
			t.Errorf("killed when %s: %d of %d rows are there", name, there, large)
		}
		t.Logf("killed when %s: %d of %d rows are there after the start", name, there, large)
		begin := time.Now()
		control.jobDone(control.insist("", "POST", "changesets", body, key, ndjson))
		if got := control.redirects(host); len(got) != large {
			t.Errorf("killed when %s, and repeated: %d of %d rows are there", name, len(got), large)
		}
		t.Logf("repeated, it is done after %v", time.Since(begin).Round(time.Millisecond))
		last := fmt.Sprintf("%s/p%d", host, large-1)
		want[last] = fmt.Sprintf("https://t.example/%s/%d", host, large-1)
		edge.leads(last, want[last])
	}
	if n := imports(); n != 4 {
		t.Errorf("%d revisions have a whole import, want 4: %+v", n, control.revisions())
	}

	// Small changesets, each acknowledged or not at the moment of the kill.
	const clients, size = 3, 20
	var mu sync.Mutex
	sent, acked := map[string]bool{}, map[string]bool{}
	host := func(c, i int) string { return fmt.Sprintf("small%d-%d.example", c, i) }
	var all sync.WaitGroup
	for c := range clients {
		all.Go(func() {
			for i := 0; ; i++ {
				name := host(c, i)
				mu.Lock()
				sent[name] = true
				mu.Unlock()
				r, err := control.ask("", "POST", "changesets", bytes.NewReader(rows(name, size)), ndjson, "Idempotency-Key: "+name)
				if err != nil {
					return
				}
				if r.status != 200 {
					t.Errorf("%d %s", r.status, r.body)
					return
				}
				mu.Lock()
				acked[name] = true
				mu.Unlock()
			}
		})
	}
	if !eventually(startLimit, func() bool { mu.Lock(); defer mu.Unlock(); return len(acked) >= 25 }) {
		t.Error("nothing is acknowledged")
	}
	control.kill()
	all.Wait()
	control.start()
	for name := range sent {
		switch n := len(control.redirects(name)); {
		case acked[name] && n != size:
			t.Errorf("acknowledged and lost: %s, of which there are %d", name, n)
		case n != 0 && n != size:
			t.Errorf("%d of %s are there", n, name)
		}
		if r := control.insist("", "POST", "changesets", rows(name, size), name, ndjson); r.status != 200 || acked[name] && !strings.Contains(r.body, `"repeated":true`) {
			t.Errorf("%s again: %d %s", name, r.status, r.body)
		}
		for i := range size {
			want[fmt.Sprintf("%s/p%d", name, i)] = fmt.Sprintf("https://t.example/%s/%d", name, i)
		}
	}
	if got, wantAll := len(control.redirects("")), 4*large+len(sent)*size; got != wantAll {
		t.Errorf("%d redirects are there, want %d", got, wantAll)
	}
	n := 0
	for _, r := range control.revisions() {
		if r.Added == size {
			n++
		}
	}
	if n != len(sent) {
		t.Errorf("%d small changesets came into force, %d were sent", n, len(sent))
	}
	control.put("end.example", "https://t.example/end")
	edge.leads("end.example/", "https://t.example/end")
	edge.serves(want)
}

// TestEdgeKilledDuringCompaction kills an edge while it writes a new snapshot, cuts
// the end of its log, and starts it, alone and with its control node.
func TestEdgeKilledDuringCompaction(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for some seconds")
	}
	t.Parallel()
	control := newControl(t)
	edge := newEdge(t, control)
	dir := filepath.Join(edge.dir, "replica")
	compacting := func() bool {
		files, _ := filepath.Glob(filepath.Join(dir, "snapshot*.tmp"))
		return len(files) > 0
	}
	killed := 0
	for round := 0; round < 12 && killed < 3; round++ {
		caught, enough := make(chan bool, 1), make(chan struct{})
		go func() {
			for !compacting() {
				select {
				case <-enough:
					caught <- false
					return
				default:
				}
			}
			edge.cmd.Process.Kill()
			caught <- true
		}()
		for i := range 12 { // a compaction is due at 10,000 changes
			control.must(nil, "POST", "changesets", string(rows(fmt.Sprintf("r%d-%d.example", round, i), 1000)), ndjson)
		}
		timer := time.AfterFunc(3*time.Second, func() { close(enough) })
		hit := <-caught
		timer.Stop()
		if !hit {
			continue
		}
		killed++
		<-edge.exited
		// It starts by itself, with what it had acknowledged, and comes to the end.
		edge.start()
		for i := range 12 {
			edge.leads(fmt.Sprintf("r%d-%d.example/p999", round, i), fmt.Sprintf("https://t.example/r%d-%d.example/999", round, i))
		}
	}
	t.Logf("killed %d times", killed)
	if killed == 0 {
		t.Error("no compaction was seen")
	}
	sample := map[string]string{}
	for from, to := range control.redirects("") {
		if strings.HasSuffix(from, "/p1") || strings.HasSuffix(from, "/p999") {
			sample[from] = to
		}
	}
	edge.serves(sample)

	// A last record that was not written to its end.
	snapshots := func() (names []string) {
		names, _ = filepath.Glob(filepath.Join(dir, "snapshot*"))
		return names
	}
	last := func() (path string, text []byte) { // segment of the log
		logs, _ := filepath.Glob(filepath.Join(dir, "log-*"))
		if len(logs) > 0 {
			path = slices.Max(logs)
			text, _ = os.ReadFile(path)
		}
		return path, text
	}
	torn := ""
	for i := 0; torn == ""; i++ {
		before := snapshots()
		host := fmt.Sprintf("torn%d.example", i)
		control.put(host, "https://t.example/torn")
		edge.leads(host+"/", "https://t.example/torn")
		for begun := time.Now(); compacting() && time.Since(begun) < 30*time.Second; {
			time.Sleep(waitStep) // what was begun comes to its end
		}
		edge.kill()
		if _, text := last(); slices.Equal(before, snapshots()) && !compacting() && bytes.Contains(text, []byte(host)) {
			torn = host + "/" // it is in the log alone
		} else if i == 10 {
			t.Fatal("it compacts for ever")
		} else {
			sample[host+"/"] = "https://t.example/torn"
			edge.start()
		}
	}
	control.kill()
	path, text := last()
	if err := os.Truncate(path, int64(len(text)-3)); err != nil {
		t.Fatal(err)
	}
	edge.start()
	edge.serves(sample)
	if _, to := edge.visit(torn); to != "" {
		t.Errorf("a record without its end leads to %q", to)
	}
	control.start()
	edge.leads(torn, "https://t.example/torn") // it is fetched again
	edge.serves(sample)
}

// TestFullDiskOfControl fills the disk of a control node: what does not fit is
// refused with a problem, and visitors and readers do not notice.
func TestFullDiskOfControl(t *testing.T) {
	if testing.Short() {
		t.Skip("mounts a file system")
	}
	t.Parallel()
	dir := t.TempDir()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		const why = "a small tmpfs is mounted for this test: run it as root on Linux"
		if os.Getenv("CI") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount a small tmpfs: %v\n%s", err, out)
	}
	t.Cleanup(func() { // behind the node's end
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	n := newNode(t, dir) // control and edge in one
	edge := newEdge(t, n)
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	note := strings.Repeat("x", 900)
	body := func(host string, rows int) []byte {
		var b bytes.Buffer
		for i := range rows {
			fmt.Fprintf(&b, "{\"from\": \"%s/%d\", \"to\": \"https://t.example/%s/%d\", \"note\": %q}\n", host, i, host, i, note)
		}
		return b.Bytes()
	}
	accept := func(host string, rows int) {
		for i := range rows {
			want[fmt.Sprintf("%s/%d", host, i)] = fmt.Sprintf("https://t.example/%s/%d", host, i)
		}
	}
	refused := 0
	for i := 0; refused < 3; i++ {
		if i == 400 {
			t.Fatal("the disk does not get full")
		}
		host := fmt.Sprintf("h%d.example", i)
		r, err := n.ask("", "POST", "changesets", bytes.NewReader(body(host, 200)), ndjson)
		if err != nil {
			t.Fatalf("changeset %d: %v", i, err)
		}
		if r.status == 200 {
			accept(host, 200)
			continue
		}
		if refused == 0 {
			t.Logf("after %d changesets: %d %s", i, r.status, r.body)
		}
		refused++
		if r.status != 507 || r.problem(t).Hint == "" {
			t.Errorf("a full disk is answered with %d %s", r.status, r.body)
		}
	}
	// The node hangs up on what is still being sent, and the client may see only that.
	if r, err := n.ask("", "POST", "changesets", bytes.NewReader(body("large.example", 20_000)), ndjson); err == nil && (r.status != 507 || r.problem(t).Hint == "") {
		t.Errorf("a large changeset on a full disk: %d %s", r.status, r.body)
	}
	if got := n.redirects(""); len(got) != len(want) {
		t.Errorf("%d redirects are there, acknowledged were %d", len(got), len(want))
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	r := n.insist("", "POST", "changesets", body("room.example", 200), "room", ndjson)
	if r.status != 200 {
		t.Errorf("with room again: %d %s", r.status, r.body)
	}
	accept("room.example", 200)
	for _, each := range []*node{n, edge} {
		each.leads("room.example/199", "https://t.example/room.example/199")
		each.serves(want)
	}
	n.kill()
	n.start()
	if got := n.redirects(""); len(got) != len(want) {
		t.Errorf("after a restart %d redirects are there, acknowledged were %d", len(got), len(want))
	}
	n.serves(want)
}

// controlPair starts two control nodes on one PostgreSQL.
func controlPair(t *testing.T) (*testpg.Server, []*node) {
	t.Helper()
	server, err := testpg.Start(testpg.Options{Fsync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	first := newControl(t, "--store", server.DSN("postgres"))
	second := newControl(t, "--store", server.DSN("postgres"))
	token := first.token()
	if err := os.WriteFile(filepath.Join(second.dir, "admin.token"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	return server, []*node{first, second}
}

// TestPostgresRestartsUnderControl restarts the database, in its quick way and as
// in a crash, while clients write through two control nodes.
func TestPostgresRestartsUnderControl(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	t.Parallel()
	server, controls := controlPair(t)
	edge := newEdge(t, controls[1])
	const clients, each = 4, 60
	var mu sync.Mutex
	done := 0
	want := map[string]string{}
	var all sync.WaitGroup
	for c := range clients {
		all.Go(func() {
			n := controls[c%2]
			for i := range each {
				from, to := fmt.Sprintf("c%d.example/%d", c, i), fmt.Sprintf("https://t.example/%d/%d", c, i)
				r := n.insist("", "POST", "redirects", fmt.Appendf(nil, `{"from": %q, "to": %q}`, from, to), from)
				if r.status != 201 {
					t.Errorf("%s: %d %s", from, r.status, r.body)
				}
				mu.Lock()
				want[from] = to
				done++
				mu.Unlock()
			}
		})
	}
	for i, kill := range []bool{false, true} {
		eventually(time.Minute, func() bool { mu.Lock(); defer mu.Unlock(); return done > clients*each*(i+1)/3 })
		if err := server.Restart(kill); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
	for _, n := range controls {
		got := n.redirects("")
		for from, to := range want {
			if got[from] != to {
				t.Errorf("%s leads to %q, want %q", from, got[from], to)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d redirects are there, acknowledged were %d", len(got), len(want))
		}
	}
	if n := len(controls[0].revisions()); n != len(want) {
		t.Errorf("%d revisions for %d writes: one came twice", n, len(want))
	}
	controls[0].put("end.example", "https://t.example/end")
	edge.leads("end.example/", "https://t.example/end")
	edge.serves(want)
}

// TestTwoControlNodesWriteOneRedirect: of those that send the same ETag one wins;
// of those that send none each is in the history, and the last one is in force.
func TestTwoControlNodesWriteOneRedirect(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	t.Parallel()
	_, controls := controlPair(t)
	edge := newEdge(t, controls[0])
	controls[0].must(nil, "PUT", "redirects/x?host=a.example", `{"from": "a.example/x", "to": "https://t.example/0"}`)
	for round := range 8 {
		_, etag := get(controls[round%2], "redirects/x?host=a.example")
		type result struct {
			to string
			r  reply
		}
		results := make(chan result, 4)
		for w := range cap(results) {
			go func() {
				to := fmt.Sprintf("https://t.example/%d/%d", round, w)
				r, err := controls[w%2].ask("", "PUT", "redirects/x?host=a.example", strings.NewReader(fmt.Sprintf(`{"from": "a.example/x", "to": %q}`, to)), "If-Match: "+etag)
				if err != nil {
					t.Error(err)
				}
				results <- result{to, r}
			}()
		}
		won := ""
		for range cap(results) {
			switch res := <-results; {
			case res.r.status == 200 && won == "":
				won = res.to
			case res.r.status != 412 || res.r.problem(t).Hint == "":
				t.Errorf("round %d, and %s has won: %d %s", round, won, res.r.status, res.r.body)
			}
		}
		for _, n := range controls {
			if now, _ := get(n, "redirects/x?host=a.example"); now != won {
				t.Errorf("round %d: it leads to %s, and who won wrote %s", round, now, won)
			}
		}
		edge.leads("a.example/x", won)
	}
	// Without an ETag nobody is refused, and nothing is lost from the history.
	before := len(controls[0].revisions())
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			r, err := controls[w%2].ask("", "PUT", "redirects/x?host=a.example", strings.NewReader(fmt.Sprintf(`{"from": "a.example/x", "to": "https://t.example/all/%d"}`, w)))
			if err != nil || r.status != 200 {
				t.Errorf("%d %s %v", r.status, r.body, err)
			}
		})
	}
	all.Wait()
	if n := len(controls[1].revisions()) - before; n != 8 {
		t.Errorf("8 writes made %d revisions", n)
	}
	now, _ := get(controls[0], "redirects/x?host=a.example")
	edge.leads("a.example/x", now)
}

// get reads where a redirect leads to, and its ETag.
func get(n *node, path string) (to, etag string) {
	n.t.Helper()
	var redirect struct{ To string }
	r := n.must(&redirect, "GET", path, "")
	return redirect.To, r.header.Get("ETag")
}

// TestAnswersLostBeforeTheClient cuts the connection of a client of the API after
// its request has come through, so that it never hears what it has come to.
func TestAnswersLostBeforeTheClient(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	t.Parallel()
	control := newControl(t)
	proxy, err := faults.NewProxy(control.admin)
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	lose := func() (lost func() bool) {
		var mu sync.Mutex
		times := 0
		proxy.LoseAnswerTo(func(b []byte) bool {
			mu.Lock()
			defer mu.Unlock()
			if times > 0 || !bytes.Contains(b, []byte("/api/v1/")) {
				return false
			}
			times++
			return true
		})
		return func() bool { mu.Lock(); defer mu.Unlock(); return times == 1 }
	}
	steps := []struct {
		method, path string
		body         []byte
		media        string
		want         int // status of the repeated request
	}{
		{"POST", "redirects", []byte(`{"from": "a.example/x", "to": "https://t.example/1"}`), "", 201},
		{"PUT", "redirects/y?host=a.example", []byte(`{"from": "a.example/y", "to": "https://t.example/1"}`), "", 201},
		{"PUT", "redirects/y?host=a.example", []byte(`{"from": "a.example/y", "to": "https://t.example/2"}`), "", 200},
		{"PUT", "hosts/b.example", []byte(`{"https": "allow-all"}`), "", 201},
		{"DELETE", "redirects/y?host=a.example", nil, "", 200},
		{"POST", "changesets", rows("c.example", 100), ndjson, 200},
		{"POST", "changesets", rows("d.example", 1500), ndjson, 200},
		{"POST", "changesets?mode=replace&source=git:x", rows("e.example", 10), ndjson, 200},
	}
	for i, step := range steps {
		before := control.revisions()
		lost := lose()
		headers := []string{"Idempotency-Key: " + fmt.Sprint("k", i)}
		if step.media != "" {
			headers = append(headers, step.media)
		}
		if r, err := control.ask(proxy.Addr(), step.method, step.path, bytes.NewReader(step.body), headers...); err == nil {
			t.Fatalf("%s %s: an answer came: %d %s", step.method, step.path, r.status, r.body)
		}
		if !lost() {
			t.Fatal("no answer was lost")
		}
		proxy.LoseAnswerTo(nil)
		// It is done, though nobody has heard of it; somebody else goes on meanwhile.
		if !eventually(startLimit, func() bool { return len(control.revisions()) == len(before)+1 }) {
			t.Fatalf("%s %s: %d revisions, want one more than %d", step.method, step.path, len(control.revisions()), len(before))
		}
		r := control.insist(proxy.Addr(), step.method, step.path, step.body, fmt.Sprint("k", i), headers[1:]...)
		if r.status != step.want {
			t.Errorf("%s %s again: %d %s, want %d", step.method, step.path, r.status, r.body, step.want)
		}
		if after := control.revisions(); len(after) != len(before)+1 {
			t.Errorf("%s %s came %d times", step.method, step.path, len(after)-len(before))
		}
		// The key is for this request only.
		path, body := "redirects", `{"from": "z.example", "to": "https://t.example/"}`
		if step.media != "" {
			path = "changesets"
		}
		if r, err := control.ask("", "POST", path, strings.NewReader(body), headers...); err != nil || r.problem(t).Code != "key_reused" {
			t.Errorf("the key for something else: %d %s %v", r.status, r.body, err)
		}
	}
	// A repeated request does not undo what somebody else did in between.
	first := []byte(`{"id": "x", "from": "f.example/x", "to": "https://t.example/first"}` + "\n")
	lose()
	if _, err := control.ask(proxy.Addr(), "POST", "changesets", bytes.NewReader(first), ndjson, "Idempotency-Key: mine"); err == nil {
		t.Fatal("an answer came")
	}
	proxy.LoseAnswerTo(nil)
	if !eventually(startLimit, func() bool { return len(control.redirects("f.example")) == 1 }) {
		t.Fatal("it is not done")
	}
	control.must(nil, "PUT", "redirects/x?host=f.example", `{"from": "f.example/x", "to": "https://t.example/second"}`)
	control.insist(proxy.Addr(), "POST", "changesets", first, "mine", ndjson)
	if got := control.redirects("f.example")["f.example/x"]; got != "https://t.example/second" {
		t.Errorf("a repeated request has undone a later one: it leads to %s", got)
	}
	want := 1 + 100 + 1500 + 10 + 1
	if got := len(control.redirects("")); got != want {
		t.Errorf("%d redirects are there, want %d", got, want)
	}
}

// TestRestoredStore: backup, change, restore. Edges come over to what the backup
// has, and to what is changed afterwards.
func TestRestoredStore(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	t.Parallel()
	control := newControl(t)
	edge := newEdge(t, control)
	control.put("a.example/kept", "https://t.example/kept")
	control.must(nil, "PUT", "redirects/x?host=a.example", `{"from": "a.example/x", "to": "https://t.example/old"}`)
	file := filepath.Join(t.TempDir(), "backup")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(binary, args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	run("backup", "--data", control.dir, file) // while it runs
	control.must(nil, "PUT", "redirects/x?host=a.example", `{"from": "a.example/x", "to": "https://t.example/new"}`)
	for i := range 5 {
		control.put(fmt.Sprintf("a.example/lost%d", i), "https://t.example/lost")
	}
	edge.leads("a.example/lost4", "https://t.example/lost")
	edge.leads("a.example/x", "https://t.example/new")
	control.stop()
	token := control.token()
	control.dir = t.TempDir()
	run("restore", "--data", control.dir, file)
	if err := os.WriteFile(filepath.Join(control.dir, "admin.token"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	control.start()
	restored := control.redirects("")
	if len(restored) != 2 || restored["a.example/x"] != "https://t.example/old" {
		t.Fatalf("restored: %v", restored)
	}
	// As many changes as were lost: the numbers of the revisions are the same again.
	for i := range 6 {
		control.put(fmt.Sprintf("a.example/again%d", i), "https://t.example/again")
	}
	for _, when := range []string{"running", "restarted alone"} {
		edge.leads("a.example/again5", "https://t.example/again")
		edge.leads("a.example/x", "https://t.example/old")
		edge.leads("a.example/lost0", "")
		edge.serves(control.redirects(""))
		if when == "running" {
			all := control.redirects("")
			control.kill()
			edge.kill()
			edge.start()
			edge.serves(all)
			control.start()
		}
	}
}
