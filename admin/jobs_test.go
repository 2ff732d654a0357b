package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"fingerpost/store"
)

func TestChangesetIsRefusedOnceItsBaseMoved(t *testing.T) {
	for _, n := range []int{3, 1500} { // at once, and as a job
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			a := newTestAPI(t)
			rows := ruleRows("a.example", n)
			var plan, got ChangesetResult
			a.must(&plan, "POST", "changesets?dryRun=true", rows, asNDJSON)
			if plan.Rev != a.rev() || plan.Added != int64(n) {
				t.Fatalf("the dry run gives %+v at revision %d", plan, a.rev())
			}
			path := fmt.Sprintf("changesets?base=%d", plan.Rev)
			a.put("teams/c", `{}`) // is no content
			a.put("redirects/other?host=b.example", `{"from": "b.example/other", "to": "https://t.example/"}`)
			rev := a.rev()
			r := a.do("root", "POST", path, rows, asNDJSON)
			if p := r.problem(t); r.StatusCode != 412 || p.Code != "base_moved" || p.Hint == "" || a.rev() != rev {
				t.Errorf("after a change: %s", r.body)
			}
			a.must(&plan, "POST", path[:strings.Index(path, "=")+1]+fmt.Sprint(rev)+"&dryRun=true", rows, asNDJSON)
			path = fmt.Sprintf("changesets?base=%d", plan.Rev)
			a.must(&got, "POST", path, rows, asNDJSON, "Idempotency-Key: k")
			if got.Job != nil {
				a.finished(got.Job.ID)
			}
			if a.count(store.KindRedirect) != int64(n)+1 {
				t.Fatalf("%d redirects are there", a.count(store.KindRedirect))
			}
			// The answer was lost: the same request finds what it did, though the base has moved by it.
			if r := a.must(&got, "POST", path, rows, asNDJSON, "Idempotency-Key: k"); !got.Repeated || got.Added != int64(n) {
				t.Errorf("repeated: %s", r.body)
			}
			if r := a.do("root", "POST", path, rows, asNDJSON); r.problem(t).Code != "base_moved" {
				t.Errorf("the plan a second time: %s", r.body)
			}
		})
	}
}

// underWay waits for a job that stages rows.
func (a *testAPI) underWay() (id string) {
	a.Helper()
	var page Page[Job]
	for until := time.Now().Add(20 * time.Second); len(page.Items) == 0; {
		if time.Now().After(until) {
			a.Fatal("there is no job")
		}
		a.must(&page, "GET", "jobs", "")
	}
	return page.Items[0].ID
}

// TestLargeChangesetLooksAtItsBaseOnceMoreAtTheEnd changes something while rows
// come in.
func TestLargeChangesetLooksAtItsBaseOnceMoreAtTheEnd(t *testing.T) {
	a := newTestAPI(t)
	body, w := io.Pipe()
	answered := make(chan answer)
	base := a.rev()
	go func() { answered <- a.send("root", "POST", fmt.Sprintf("changesets?base=%d", base), body, asNDJSON) }()
	if _, err := io.WriteString(w, ruleRows("a.example", 1500)); err != nil {
		t.Fatal(err)
	}
	a.underWay()
	a.put("redirects/other?host=b.example", `{"from": "b.example/other", "to": "https://t.example/"}`)
	w.Close()
	r := <-answered
	if r.StatusCode != 202 {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	var got ChangesetResult
	if err := json.Unmarshal([]byte(r.body), &got); err != nil {
		t.Fatal(err)
	}
	if j := a.finished(got.Job.ID); j.State != JobFailed || j.Problem.Code != "base_moved" || a.count(store.KindRedirect) != 1 {
		t.Errorf("the job ends as %+v", j)
	}
}

func TestDraftIsShownReviewedAndPublishedAtAnotherNode(t *testing.T) {
	a := newTestAPI(t)
	b := a.another()
	r := a.do("editor-a", "POST", "drafts?team=a", ruleRows("a.example", 25), asNDJSON)
	if r.StatusCode != 201 {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	draft := strings.TrimPrefix(r.Header.Get("Location"), Prefix+"/")
	seen := map[string]bool{}
	for next := ""; ; {
		var page Page[Difference]
		b.must(&page, "GET", draft+"/diff?limit=10&cursor="+next, "")
		for _, d := range page.Items {
			if d.Before != nil || d.After == nil || seen[d.Key] {
				t.Errorf("the diff has %+v", d)
			}
			seen[d.Key] = true
		}
		if next = page.Next; next == "" {
			break
		}
	}
	if len(seen) != 25 {
		t.Errorf("the diff has %d redirects, want 25", len(seen))
	}
	b.must(nil, "POST", draft+"/review", `{"approve": true}`)
	b.must(nil, "POST", draft+"/publish", "")
	if n := a.count(store.KindRedirect); n != 25 {
		t.Errorf("%d redirects are published, want 25", n)
	}
	if r := a.do("root", "GET", draft+"/diff", ""); r.problem(t).Code != "published" {
		t.Errorf("the diff of what is published: %s", r.body)
	}
}

// TestDraftWhoseNodeDiedAtTheLastStepIsFound: it is published, and nobody said so.
func TestDraftWhoseNodeDiedAtTheLastStepIsFound(t *testing.T) {
	a := newTestAPI(t)
	r := a.do("editor-a", "POST", "drafts?team=a", ruleRows("a.example", 3), asNDJSON)
	id := strings.TrimPrefix(r.Header.Get("Location"), Prefix+"/drafts/")
	d, err := a.Store.Draft(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.Store.Changeset(t.Context(), d.Changeset)
	if err != nil {
		t.Fatal(err)
	}
	first, err := c.Publish(t.Context(), store.PublishOptions{Key: keyOfDraft(id)})
	if err != nil {
		t.Fatal(err)
	}
	var got Result
	a.must(&got, "POST", "drafts/"+id+"/publish", "")
	if got.Rev != first.Rev || got.Added != 3 || a.rev() != first.Rev {
		t.Errorf("got %+v, want the result of revision %d", got, first.Rev)
	}
	var read DraftResource
	a.must(&read, "GET", "drafts/"+id, "")
	if read.State != DraftPublished {
		t.Errorf("the draft is %s", read.State)
	}
}

// leaveJob makes a job as a node leaves it that dies while it checks.
func (a *testAPI) leaveJob(id string, publish bool) *store.Changeset {
	a.Helper()
	return a.leaveJobOf(id, "root tok-root", publish)
}

func (a *testAPI) leaveJobOf(id, by string, publish bool) *store.Changeset {
	a.Helper()
	ctx := context.Background()
	c, err := a.Store.Stage(ctx, store.StageOptions{Source: "api", Actor: a.by()})
	if err != nil {
		a.Fatal(err)
	}
	if _, err := c.Add(ctx, each([]store.Change{{Op: store.Put, Item: store.Item{Kind: store.KindRedirect, Key: "a.example/" + id, Value: []byte(`{"from": "a.example/` + id + `", "to": "https://t.example/"}`)}}})); err != nil {
		a.Fatal(err)
	}
	record, _ := json.Marshal(jobRecord{By: by, Changeset: c.ID})
	if err := a.Store.PutJob(ctx, store.Job{ID: id, Kind: kindChangeset, State: JobChecking, Owner: "dead", Result: record, Created: time.Now()}); err != nil {
		a.Fatal(err)
	}
	if publish {
		if _, err := c.Publish(ctx, store.PublishOptions{Key: keyOfJob(id), Sum: "s"}); err != nil {
			a.Fatal(err)
		}
	}
	return c
}

func TestJobsOfALostNodeEnd(t *testing.T) {
	a := newTestAPI(t)
	ahead := time.Duration(0)
	a.Now = func() time.Time { return time.Now().Add(ahead) }
	lost := a.leaveJob("job-lost", false)
	a.leaveJob("job-listed", false)
	a.leaveJob("job-tidied", false)
	a.leaveJob("job-published", true)
	var j Job
	a.must(&j, "GET", "jobs/job-lost", "")
	if j.State != JobChecking {
		t.Errorf("a moment after, the job is %+v", j)
	}
	ahead = jobLost + time.Second
	a.must(&j, "GET", "jobs/job-lost", "")
	if j.State != JobFailed || j.Problem == nil || j.Problem.Code != "node_lost" || !strings.Contains(j.Problem.Detail, "the node dead") {
		t.Errorf("the job of a lost node is %+v", j)
	}
	if c, err := a.Store.Changeset(t.Context(), lost.ID); err != nil || c.State != store.StateCancelled {
		t.Errorf("its changeset is %+v: %v", c, err)
	}
	var page Page[Job]
	a.must(&page, "GET", "jobs", "")
	for _, j := range page.Items {
		want := JobFailed
		if j.ID == "job-published" {
			want = JobDone
		}
		if j.State != want || want == JobDone && (j.Result == nil || j.Result.Added != 1) {
			t.Errorf("listed: %+v, want %s", j, want)
		}
	}
	a.leaveJob("job-tidied", false)
	ahead += jobLost
	if err := a.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v, err := a.Store.Job(t.Context(), "job-tidied"); err != nil || v.State != JobFailed {
		t.Errorf("after Tidy: %+v, %v", v, err)
	}
	if n := a.count(store.KindRedirect); n != 1 {
		t.Errorf("%d redirects are there, want the published one", n)
	}
}

func TestJobIsCancelledAtAnotherNode(t *testing.T) {
	a := newTestAPI(t)
	b := a.another()
	body, w := io.Pipe()
	answered := make(chan answer)
	go func() { answered <- a.send("root", "POST", "changesets", body, asNDJSON) }()
	if _, err := io.WriteString(w, ruleRows("a.example", 1200)); err != nil {
		t.Fatal(err)
	}
	rev, id := a.rev(), b.underWay()
	if r := b.do("publisher-a", "DELETE", "jobs/"+id, ""); r.StatusCode != 403 {
		t.Errorf("cancelled by somebody else: %d %s", r.StatusCode, r.body)
	}
	b.must(nil, "DELETE", "jobs/"+id, "")
	w.Close()
	if r := <-answered; r.StatusCode != 409 || r.problem(t).Code != "cancelled" || a.rev() != rev {
		t.Errorf("the request ends with %d %s", r.StatusCode, r.body)
	}
	if j := b.finished(id); j.State != JobCancelled {
		t.Errorf("the job ends as %+v", j)
	}
}

// TestRequestThatWasDoneIsFoundThoughItsNodeDiedBeforeItSaidSo: the commit is on
// disk, the note of the job is not.
func TestRequestThatWasDoneIsFoundThoughItsNodeDiedBeforeItSaidSo(t *testing.T) {
	a := newTestAPI(t)
	const rows, key = `{"id": "x", "from": "a.example/x", "to": "https://t.example/"}`, "Idempotency-Key: k"
	var first, again ChangesetResult
	a.must(&first, "POST", "changesets", rows, asNDJSON, key)
	jobs, err := a.Store.Jobs(t.Context())
	if err != nil || len(jobs) != 1 {
		t.Fatalf("%+v, %v", jobs, err)
	}
	if err := a.Store.DeleteJob(t.Context(), jobs[0].ID); err != nil {
		t.Fatal(err)
	}
	a.must(nil, "DELETE", "redirects/x?host=a.example", "")
	a.must(&again, "POST", "changesets", rows, asNDJSON, key)
	if !again.Repeated || again.Rev != first.Rev || a.count(store.KindRedirect) != 0 {
		t.Errorf("again: %+v, first %+v", again, first)
	}
	if err := a.Store.DeleteJob(t.Context(), jobs[0].ID); err != nil && !isNotFound(err) {
		t.Fatal(err)
	}
	if r := a.do("root", "POST", "changesets", strings.ReplaceAll(rows, "x", "y"), asNDJSON, key); r.problem(t).Code != "key_reused" {
		t.Errorf("the key for other rows: %s", r.body)
	}
}
