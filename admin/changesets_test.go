package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"fingerpost/store"
)

// ruleRows gives n rows of redirects of a host, as NDJSON.
func ruleRows(host string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"from\": \"%s/p%d\", \"to\": \"https://t.example/%d\"}\n", host, i, i)
	}
	return b.String()
}

const asNDJSON = "Content-Type: application/x-ndjson"

func (a *testAPI) count(kind string) (n int64) {
	a.Helper()
	if err := a.Store.View(context.Background(), func(v *store.View) (err error) {
		n, err = v.Count(kind)
		return err
	}); err != nil {
		a.Fatal(err)
	}
	return n
}

// finished waits for a job by its stream of events.
func (a *testAPI) finished(id string) Job {
	a.Helper()
	req, _ := http.NewRequest("GET", a.url+Prefix+"/jobs/"+id+"/events", nil)
	req.Header.Set("Authorization", "Bearer "+a.tokens["viewer"])
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		a.Fatal(err)
	}
	defer resp.Body.Close()
	var j Job
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			j = Job{}
			if err := json.Unmarshal([]byte(data), &j); err != nil {
				a.Fatal(err)
			}
		}
	}
	if !j.Ended() {
		a.Fatalf("the events end with the job %+v", j)
	}
	return j
}

func TestChangesetFormsSayTheSame(t *testing.T) {
	forms := []struct{ name, media, body string }{
		{"ndjson", "application/x-ndjson", "{\"name\": \"n.a.example\"}\n\n{\"from\": \"n.a.example/x\", \"to\": \"https://t.example/\", \"status\": 302}\n{\"from\": \"a.example/y\", \"to\": \"https://t.example/y\"}"},
		{"array", "application/json", `[{"name": "n.a.example"}, {"from": "n.a.example/x", "to": "https://t.example/", "status": 302}, {"from": "a.example/y", "to": "https://t.example/y"}]`},
		{"document", "application/json; charset=utf-8", `{"hosts": {"n.a.example": {}}, "redirects": [{"from": "n.a.example/x", "to": "https://t.example/", "status": 302}, {"from": "a.example/y", "to": "https://t.example/y"}]}`},
		{"csv", "text/csv", "from,to,status\nn.a.example/x,https://t.example/,302\na.example/y,https://t.example/y,\n"},
	}
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			a := newTestAPI(t)
			var got ChangesetResult
			a.must(&got, "POST", "changesets", f.body, "Content-Type: "+f.media)
			want := int64(3)
			if f.name == "csv" {
				want = 2 // hosts are not for tables
			}
			if got.Added != want || got.Rev != a.rev() || a.count(store.KindRedirect) != 2 {
				t.Errorf("got %+v", got)
			}
			var page Page[RedirectResource]
			a.must(&page, "GET", "redirects?host=n.a.example", "")
			if len(page.Items) != 1 || page.Items[0].Status != 302 || page.Items[0].Team != "a" {
				t.Errorf("there is %+v", page.Items)
			}
		})
	}
}

func TestChangesetReplaceRemovesWhatItsSourceHadAndAsksFirst(t *testing.T) {
	a := newTestAPI(t)
	a.must(nil, "POST", "changesets?source=git:x&mode=replace", ruleRows("a.example", 20), asNDJSON)
	a.must(nil, "POST", "changesets", ruleRows("b.example", 5), asNDJSON)
	rev := a.rev()

	r := a.do("root", "POST", "changesets?source=git:x&mode=replace", ruleRows("a.example", 15), asNDJSON)
	if p := r.problem(t); p.Code != "removes_much" || !strings.Contains(p.Hint, "allowRemoving=5") || a.rev() != rev {
		t.Errorf("removing 5 of 20: %s at revision %d, was %d", r.body, a.rev(), rev)
	}
	var got ChangesetResult
	a.must(&got, "POST", "changesets?source=git:x&mode=replace&dryRun=true", ruleRows("a.example", 15), asNDJSON)
	if got.Removed != 5 || got.Added != 0 || got.AllowRemoving != 5 || a.rev() != rev {
		t.Errorf("dry run: %+v at revision %d", got, a.rev())
	}
	a.must(&got, "POST", "changesets?source=git:x&mode=replace&allowRemoving=5", ruleRows("a.example", 15), asNDJSON)
	if got.Removed != 5 || got.Added != 0 || a.count(store.KindRedirect) != 20 {
		t.Errorf("replaced: %+v, %d redirects", got, a.count(store.KindRedirect))
	}
	// One of 15 is not much.
	a.must(&got, "POST", "changesets?source=git:x&mode=replace", ruleRows("a.example", 14), asNDJSON)
	if got.Removed != 1 {
		t.Errorf("replaced: %+v", got)
	}
}

func TestLargeChangesetIsAJobThatIsAllOrNothing(t *testing.T) {
	a := newTestAPI(t)
	rows := ruleRows("a.example", 2500)
	var got ChangesetResult
	r := a.must(&got, "POST", "changesets", rows, asNDJSON, "Idempotency-Key: one")
	if r.StatusCode != 202 || got.Job == nil || r.Header.Get("Location") != Prefix+"/jobs/"+got.Job.ID {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	j := a.finished(got.Job.ID)
	if j.State != JobDone || j.Result.Added != 2500 || j.Done != 2500 || a.count(store.KindRedirect) != 2500 {
		t.Fatalf("the job ends as %+v", j)
	}
	rev := a.rev()
	again := a.must(&got, "POST", "changesets", rows, asNDJSON, "Idempotency-Key: one")
	if again.StatusCode != 200 || !got.Repeated || got.Added != 2500 || a.rev() != rev {
		t.Errorf("repeated: %d %s", again.StatusCode, again.body)
	}
	if other := a.do("root", "POST", "changesets", rows+"\n{}", asNDJSON, "Idempotency-Key: one"); other.problem(t).Code != "key_reused" {
		t.Errorf("the key for other rows: %s", other.body)
	}

	// The last row is wrong with the whole: a circle.
	bad := ruleRows("b.example", 1500) + `{"from": "b.example/one", "to": "https://b.example/two"}` + "\n" + `{"from": "b.example/two", "to": "https://b.example/one"}`
	a.must(&got, "POST", "changesets", bad, asNDJSON)
	if j := a.finished(got.Job.ID); j.State != JobFailed || j.Problem == nil || len(j.Problem.Errors) == 0 || a.rev() != rev {
		t.Errorf("with a circle: %+v", j)
	}
	left, err := a.Store.Changesets(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range left {
		if c.State == store.StateOpen {
			t.Errorf("the changeset %+v is left over", c)
		}
	}
}

func TestJobIsCancelledWhileRowsComeIn(t *testing.T) {
	a := newTestAPI(t)
	body, w := io.Pipe()
	answered := make(chan answer)
	go func() { answered <- a.send("root", "POST", "changesets", body, asNDJSON) }()
	if _, err := io.WriteString(w, ruleRows("a.example", 1200)); err != nil {
		t.Fatal(err)
	}
	rev := a.rev()
	// The job is there once the first thousand is staged.
	var page Page[Job]
	for until := time.Now().Add(20 * time.Second); len(page.Items) == 0 && time.Now().Before(until); {
		a.must(&page, "GET", "jobs", "")
	}
	if len(page.Items) == 0 {
		t.Fatal("there is no job")
	}
	id := page.Items[0].ID
	if page.Items[0].State != JobReceiving {
		t.Errorf("the job is %+v", page.Items[0])
	}
	if r := a.do("publisher-a", "DELETE", "jobs/"+id, ""); r.StatusCode != 403 {
		t.Errorf("cancelled by another: %d %s", r.StatusCode, r.body)
	}
	a.must(nil, "DELETE", "jobs/"+id, "")
	w.Close()
	if r := <-answered; r.StatusCode != 409 || r.problem(t).Code != "cancelled" || a.rev() != rev {
		t.Errorf("the request ends with %d %s", r.StatusCode, r.body)
	}
	if j := a.finished(id); j.State != JobCancelled {
		t.Errorf("the job ends as %+v", j)
	}
}

// TestBadRowsAreToldByLineAndChangeNothing sends rows that are wrong each in one
// way, behind one that is right.
func TestBadRowsAreToldByLineAndChangeNothing(t *testing.T) {
	a := newTestAPI(t)
	const good = `{"from": "a.example/good", "to": "https://t.example/"}` + "\n"
	tests := []struct {
		name, who, row string
		line           int64
		pointer, text  string
	}{
		{"unknown field", "root", `{"from": "a.example/x", "too": "https://t.example/"}`, 2, "/too", "unexpected property"},
		{"unknown field in another case", "root", `{"from": "a.example/x", "To": "https://t.example/"}`, 2, "/To", "unexpected property"},
		{"unknown field inside", "root", `{"from": "a.example/x", "to": "https://t.example/", "when": {"method": []}}`, 2, "/when/method", "unexpected property"},
		{"wrong type", "root", `{"from": "a.example/x", "to": "https://t.example/", "status": "302"}`, 2, "/status", "expected integer"},
		{"wrong type in a list", "root", `{"from": "a.example/x", "to": "https://t.example/", "tags": ["x", 3]}`, 2, "/tags/1", "expected string"},
		{"bad value", "root", `{"from": "a.example/x", "to": "https://t.example/", "status": 200}`, 2, "/status", "status 200"},
		{"unfinished line", "root", `{"from": "a.example/x", "to": "htt`, 2, "", "not finished"},
		{"no object", "root", `["a.example/x"]`, 2, "", "not an object"},
		{"no row", "root", `{"to": "https://t.example/"}`, 2, "", "neither a redirect"},
		{"twice", "root", good, 2, "", "comes twice"},
		{"delete of nothing", "root", `{"delete": "redirect", "host": "a.example", "id": "x"}`, 2, "", "does not exist"},
		{"another team", "publisher-a", `{"from": "b.example/x", "to": "https://t.example/"}`, 2, "", "team b"},
		{"nobody's host", "publisher-a", `{"from": "free.example/x", "to": "https://t.example/"}`, 2, "", "admin of every team"},
		{"every host", "publisher-a", `{"from": "*/x", "to": "https://t.example/"}`, 2, "", "admin of every team"},
		{"a host of another team", "publisher-a", `{"name": "b.example", "team": "a"}`, 2, "", "team b"},
		{"a host given away", "publisher-a", `{"name": "a.example", "team": "b"}`, 2, "", `team "a"`},
		{"another's name taken", "publisher-a", `{"name": "a.example", "team": "a", "also": ["b.example"]}`, 2, "", "team b"},
		{"another's name redirected", "publisher-a", `{"name": "a.example", "team": "a", "redirectFrom": ["b.example"]}`, 2, "", "team b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rev := a.rev()
			r := a.do(tt.who, "POST", "changesets", good+tt.row, asNDJSON)
			p := r.problem(t)
			if len(p.Errors) != 1 || p.Errors[0].Line != tt.line || p.Errors[0].Pointer != tt.pointer || !strings.Contains(p.Errors[0].Detail, tt.text) {
				t.Errorf("got %d %s", r.StatusCode, r.body)
			}
			if !p.hinted() {
				t.Errorf("without a hint: %s", r.body)
			}
			if a.rev() != rev {
				t.Errorf("something has changed")
			}
		})
	}
}
