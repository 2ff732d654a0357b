package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"fingerpost/store"
)

// Whatever a request has done, repeated with its key it does nothing and is
// answered the same; for something else the key is refused.
func TestEveryWriteIsRepeatedByItsKey(t *testing.T) {
	a := newTestAPI(t)
	a.rule("x", "1")
	a.put("versions/v", `{}`)
	a.rule("x", "2")
	second := a.rev()
	a.rule("y", "1")
	draft := a.draftAs("editor-a", `{"from": "a.example/drafted", "to": "https://t.example/"}`)
	a.put("hosts/gone.example", `{"team": "a"}`)
	for _, tt := range []struct {
		method, path, body string
		status             int
		other              string // another request with the same key
	}{
		{"DELETE", "hosts/gone.example", "", 200, "hosts/a.example"},
		{"PUT", "hosts/b.example", `{"team": "a"}`, 200, "hosts/b.example?note=other"},
		{"PUT", "hosts/new.a.example", `{}`, 201, ""},
		{"PUT", "redirects/z?host=a.example", `{"from": "a.example/z", "to": "https://t.example/"}`, 201, "redirects/z?host=a.example&note=n"},
		{"DELETE", "redirects/y?host=a.example", "", 200, "redirects/x?host=a.example"},
		{"POST", fmt.Sprintf("changes/%d/revert", second), "", 200, "versions/v/restore"},
		{"POST", "versions/v/restore?allowRemoving=9", "", 200, "versions/v/restore"},
		{"POST", draft + "/publish", "", 200, ""},
		{"POST", "drafts?team=a", `[{"from": "a.example/d", "to": "https://t.example/"}]`, 201, "drafts?team=a&note=n"},
		{"POST", "tokens", `{"name": "t", "role": "editor", "team": "a"}`, 200, ""},
	} {
		key := "Idempotency-Key: " + tt.method + tt.path
		first := a.do("root", tt.method, tt.path, tt.body, key)
		if first.StatusCode != tt.status {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, first.StatusCode, first.body)
			continue
		}
		rev := a.rev()
		again := a.do("root", tt.method, tt.path, tt.body, key)
		// What it has come to; the secret of a token is told once, and a clock has more
		// digits than the store.
		told := func(r answer) string {
			before, _, _ := strings.Cut(strings.ReplaceAll(r.body, `,"repeated":true`, ""), `,"created":`)
			return before
		}
		if again.StatusCode != tt.status || told(again) != told(first) || strings.Contains(again.body, `"secret"`) || a.rev() != rev {
			t.Errorf("%s %s again: %d %s, first %s", tt.method, tt.path, again.StatusCode, again.body, first.body)
		}
		if tt.other == "" {
			continue
		}
		if r := a.do("root", tt.method, tt.other, tt.body, key); r.problem(t).Code != "key_reused" || a.rev() != rev {
			t.Errorf("%s %s with the key of %s: %s", tt.method, tt.other, tt.path, r.body)
		}
	}
	var drafts Page[DraftResource]
	if a.must(&drafts, "GET", "drafts?state=open", ""); len(drafts.Items) != 1 {
		t.Errorf("drafts: %+v", drafts.Items)
	}
	if r := a.do("root", "POST", "drafts?team=a", `[{"from": "a.example/other", "to": "https://t.example/"}]`, "Idempotency-Key: POSTdrafts?team=a"); r.problem(t).Code != "key_reused" {
		t.Errorf("other rows with the key of a draft: %s", r.body)
	}
	// A key is no way around a condition.
	if r := a.do("root", "PUT", "hosts/none.example", `{}`, "If-Match: *", "Idempotency-Key: k"); r.StatusCode != 412 {
		t.Errorf("If-Match for what is not there: %d %s", r.StatusCode, r.body)
	}
}

// A key does not switch the check of what is written off.
func TestWriteWithAKeyIsCheckedOnTopOfWhatIsThere(t *testing.T) {
	a := newTestAPI(t)
	accept, raced := a.Accept, false
	a.Server.Accept = func(ctx context.Context, p Proposal) error {
		err := accept(ctx, p)
		if !raced { // another node writes after the check
			raced = true
			it := store.Item{Kind: store.KindRedirect, Key: "a.example/back", Source: "api", Team: "a", Value: []byte(`{"id":"back","from":"a.example/y","to":"http://a.example/x"}`)}
			if _, err := a.Store.Commit(ctx, store.Batch{Changes: []store.Change{{Op: store.Put, Item: it}}}); err != nil {
				t.Error(err)
			}
		}
		return err
	}
	r := a.do("root", "POST", "redirects", `{"from": "a.example/x", "to": "http://a.example/y"}`, "Idempotency-Key: k")
	if r.StatusCode != 422 {
		t.Errorf("a circle is made: %d %s", r.StatusCode, r.body)
	}
}

// A client that hangs up while a changeset is committed gets nothing else for it.
func TestClientThatGoesDoesNotMakeADoneJobAFailedOne(t *testing.T) {
	a := newTestAPI(t)
	accept := a.Accept
	ctx, hangUp := context.WithCancel(t.Context())
	gone := make(chan struct{})
	a.Server.Accept = func(c context.Context, p Proposal) error {
		hangUp()
		<-gone
		if err := c.Err(); err != nil {
			t.Errorf("the check ends with the client: %v", err)
		}
		return accept(c, p)
	}
	request := func(ctx context.Context) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, "POST", a.url+Prefix+"/changesets", strings.NewReader(ruleRows("a.example", 3)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Authorization": {"Bearer " + a.tokens["root"]}, "Idempotency-Key": {"k"}, "Content-Type": {mediaNDJSON}}
		return http.DefaultClient.Do(req)
	}
	if _, err := request(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("the request ends with %v", err)
	}
	close(gone)
	var result ChangesetResult
	for result.Rev == 0 {
		resp, err := request(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		switch {
		case resp.StatusCode == 200 && strings.Contains(string(text), `"added":3`) && strings.Contains(string(text), `"repeated":true`):
			result.Rev = a.rev()
		case resp.StatusCode == 409: // it is under way
		default:
			t.Fatalf("%d %s", resp.StatusCode, text)
		}
	}
	all, err := a.Store.Jobs(t.Context())
	if err != nil || len(all) != 1 || all[0].State != JobDone {
		t.Errorf("the jobs are %+v, %v", all, err)
	}
}

// What rows delete, and what is left over, are counted together once.
func TestReplaceThatDeletesByRowsToo(t *testing.T) {
	a := newTestAPI(t)
	a.must(nil, "POST", "changesets?source=s", ruleRows("a.example", 1500), asNDJSON)
	if a.count(store.KindRedirect) == 0 {
		for _, j := range mustJobs(a) {
			a.finished(j)
		}
	}
	id := a.anyRedirect()
	row := `{"delete": "redirect", "host": "a.example", "id": "` + id + `"}`
	r := a.must(nil, "POST", "changesets?source=s&mode=replace&allowRemoving=1500", row, asNDJSON)
	if r.StatusCode != 202 {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	for _, j := range mustJobs(a) {
		if got := a.finished(j); got.State != JobDone {
			t.Errorf("the job ends as %+v", got)
		}
	}
	if n := a.count(store.KindRedirect); n != 0 {
		t.Errorf("%d redirects are left", n)
	}
}

func mustJobs(a *testAPI) (ids []string) {
	a.Helper()
	var page Page[Job]
	a.must(&page, "GET", "jobs", "")
	for _, j := range page.Items {
		ids = append(ids, j.ID)
	}
	slices.Sort(ids)
	return ids
}

func (a *testAPI) anyRedirect() string {
	a.Helper()
	var page Page[RedirectResource]
	if a.must(&page, "GET", "redirects?limit=1", ""); len(page.Items) != 1 {
		a.Fatal("there are no redirects")
	}
	return page.Items[0].ID
}

func TestHostsBelongToTeamsThatThereAre(t *testing.T) {
	a := newTestAPI(t)
	for _, team := range []string{"nobody", "*"} {
		body := `{"team": "` + team + `"}`
		if r := a.do("root", "PUT", "hosts/n.example", body); r.StatusCode != 422 || r.problem(t).Errors[0].Pointer != "/team" {
			t.Errorf("by PUT: %d %s", r.StatusCode, r.body)
		}
		if r := a.do("root", "POST", "changesets", `{"name": "n.example", "team": "`+team+`"}`, asNDJSON); r.StatusCode != 422 || r.problem(t).Errors[0].Line != 1 {
			t.Errorf("by a changeset: %d %s", r.StatusCode, r.body)
		}
	}
	// A team that was deleted meanwhile does not keep its hosts from being changed.
	if err := a.Store.DeleteTeam(t.Context(), a.by(), "b"); err != nil {
		t.Fatal(err)
	}
	a.put("hosts/b.example", `{"team": "b", "https": "https-only"}`)
}

func TestRevisionThatThereIsNoneOf(t *testing.T) {
	a := newTestAPI(t)
	for _, tt := range [][2]string{{"GET", "changes/99"}, {"POST", "changes/99/revert"}, {"GET", "versions/99"}} {
		if r := a.do("root", tt[0], tt[1], ""); r.StatusCode != 404 || r.problem(t).Detail != "there is no revision 99" {
			t.Errorf("%s %s: %d %s", tt[0], tt[1], r.StatusCode, r.body)
		}
	}
}

// A client that does not read on holds nothing of the store.
func TestExportThatIsNotReadKeepsNobodyWaiting(t *testing.T) {
	a := newTestAPI(t)
	note := strings.Repeat("x", 60<<10)
	for i := range 150 {
		it := store.Item{Kind: store.KindRedirect, Key: fmt.Sprintf("a.example/%03d", i), Source: "api", Team: "a", Value: []byte(`{"from":"a.example/` + fmt.Sprint(i) + `","to":"https://t.example/","note":"` + note + `"}`)}
		if _, err := a.Store.Commit(t.Context(), store.Batch{Changes: []store.Change{{Op: store.Put, Item: it}}}); err != nil {
			t.Fatal(err)
		}
	}
	for range 8 { // more than the store has readers
		req, _ := http.NewRequest("GET", a.url+Prefix+"/audit/export", nil)
		req.Header.Set("Authorization", "Bearer "+a.tokens["root"])
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close() // it has come to its first page, and nobody reads on
	}
	a.must(nil, "GET", "hosts", "")
	var end AuditEnd
	a.must(&end, "GET", "audit/verify", "")
	export := a.must(nil, "GET", "audit/export", "")
	if lines := strings.Count(export.body, "\n"); int64(lines) != end.Seq || !strings.Contains(export.body, end.Hash) {
		t.Errorf("%d lines are exported, the chain ends at %d", lines, end.Seq)
	}
	if r := a.must(nil, "GET", "audit/export?kind=host&after=3", ""); strings.Contains(r.body, `"kind":"redirect"`) || !strings.Contains(r.body, `"kind":"host"`) {
		t.Errorf("of hosts alone: %.300s", r.body)
	}
}

// withoutEnd is a body that begins in some way and never ends.
type withoutEnd struct {
	begin string
	read  int
}

func (e *withoutEnd) Read(p []byte) (int, error) {
	n := copy(p, e.begin)
	e.begin = e.begin[n:]
	for i := n; i < len(p); i++ {
		p[i] = 'x'
	}
	e.read += len(p)
	return len(p), nil
}

// However long a value is, it is not read further than a row may be long.
func TestRowWithoutAnEndIsNotReadToItsEnd(t *testing.T) {
	for media, begin := range map[string]string{
		mediaNDJSON: `{"from": "`,
		mediaCSV:    "from,to\na.example/x,\"",
		mediaJSON:   `[{"from": "`,
	} {
		body := &withoutEnd{begin: begin}
		rows, err := readRows(media, body)
		if err != nil {
			t.Fatal(err)
		}
		for _, err = range rows {
			if err != nil {
				break
			}
		}
		var p *Problem
		if !errors.As(err, &p) || len(p.Errors) != 1 || p.Errors[0].Code != "too_long" || body.read > 2*betweenRows {
			t.Errorf("%s: %v after %d bytes", media, err, body.read)
		}
	}
}
