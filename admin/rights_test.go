package admin

import (
	"net/http/httptest"
	"strings"
	"testing"

	"fingerpost/store"
)

// token makes a token of a user, or of nobody, that is named as it is said.
func (a *testAPI) token(who, id, name, owner string, role Role, team string) {
	a.Helper()
	t := store.Token{ID: id, Name: name, Owner: owner, Scope: scopeAPI, Role: string(role), Team: team}
	a.tokens[who], t.Hash = newSecret(tokenPrefix)
	if err := a.Store.AddToken(a.Context(), a.by(), t); err != nil {
		a.Fatal(err)
	}
}

func (a *testAPI) draftAs(who, rows string) (path string) {
	a.Helper()
	r := a.do(who, "POST", "drafts?team=a", rows, asNDJSON)
	if r.StatusCode != 201 {
		a.Fatalf("draft of %s: %d %s", who, r.StatusCode, r.body)
	}
	return strings.TrimPrefix(r.Header.Get("Location"), Prefix+"/")
}

// A person is not two people because they have two tokens, nor are two people one
// because their tokens have one name.
func TestDraftIsReadByASecondPerson(t *testing.T) {
	a := newTestAPI(t)
	a.put("teams/a", `{"review": true}`)
	a.put("users/kari", `{"roles": {"a": "publisher"}}`)
	a.token("kari-laptop", "tok-1", "laptop", "kari", Publisher, "a")
	a.token("kari-phone", "tok-2", "phone", "kari", Publisher, "a")
	a.token("namesake", "tok-3", "kari", "", Publisher, "a")
	draft := a.draftAs("kari-laptop", `{"from": "a.example/x", "to": "https://t.example/"}`)
	for _, who := range []string{"kari-laptop", "kari-phone"} {
		for _, what := range []string{"/publish", "/review"} {
			if r := a.do(who, "POST", draft+what, `{"approve": true}`); r.StatusCode != 403 {
				t.Errorf("%s of the author by %s: %d %s", what, who, r.StatusCode, r.body)
			}
		}
	}
	var shown DraftResource
	if a.must(&shown, "GET", draft, ""); shown.Author != "kari" {
		t.Errorf("the author is %q", shown.Author)
	}
	if r := a.do("namesake", "POST", draft+"/publish", ""); r.StatusCode != 200 {
		t.Errorf("published by another with a token of the same name: %d %s", r.StatusCode, r.body)
	}
	if a.must(&shown, "GET", draft, ""); shown.Reviewer != "kari" || shown.State != DraftPublished {
		t.Errorf("published: %+v", shown)
	}
}

// What is drafted may belong to another team when it is published.
func TestDraftIsDecidedAboutAnewWhenItIsPublished(t *testing.T) {
	a := newTestAPI(t)
	fresh := a.draftAs("editor-a", `{"from": "a.example/new", "to": "https://t.example/"}`)
	settings := a.draftAs("publisher-a", `{"name": "a.example", "team": "a", "https": "https-only"}`)
	a.rule("old", "1")
	gone := a.draftAs("editor-a", `{"delete": "redirect", "host": "a.example", "id": "old"}`)
	a.put("hosts/a.example", `{"team": "b"}`)
	for _, draft := range []string{fresh, settings, gone} {
		if r := a.do("publisher-a", "POST", draft+"/publish?overwrite=true&allowRemoving=9", ""); r.StatusCode != 403 {
			t.Errorf("published onto a host of another team: %d %s", r.StatusCode, r.body)
		}
	}
	if a.target("new") != "" || a.target("old") == "" {
		t.Error("something was published")
	}
	// Who has both teams may, and it belongs to the team of the host then.
	a.must(nil, "POST", fresh+"/publish?overwrite=true", "")
	var page Page[RedirectResource]
	if a.must(&page, "GET", "redirects?host=a.example&team=b", ""); len(page.Items) != 2 {
		t.Errorf("redirects of team b: %+v", page.Items)
	}
}

func TestJobIsCancelledByWhoBeganIt(t *testing.T) {
	a := newTestAPI(t)
	a.token("ci-a", "tok-1", "ci", "", Editor, "a")
	a.token("ci-b", "tok-2", "ci", "", Editor, "b")
	c := a.leaveJobOf("j", (&Principal{Name: "ci", Token: "tok-1"}).identity(), false)
	if r := a.do("ci-b", "DELETE", "jobs/j", ""); r.StatusCode != 403 {
		t.Errorf("cancelled by a namesake: %d %s", r.StatusCode, r.body)
	}
	if now, err := a.Store.Changeset(t.Context(), c.ID); err != nil || now.State != store.StateOpen {
		t.Errorf("the changeset is %+v, %v", now, err)
	}
	if r := a.do("ci-a", "DELETE", "jobs/j", ""); r.StatusCode != 200 || !strings.Contains(r.body, `"who":"ci"`) {
		t.Errorf("cancelled by who began it: %d %s", r.StatusCode, r.body)
	}
}

// A label is no way around the right to take.
func TestLabelBelongsToWhoUsedItFirst(t *testing.T) {
	a := newTestAPI(t)
	a.token("ci", "tok-1", "ci", "", Editor, "a")
	const row = `{"id": "x", "from": "a.example/x", "to": "https://t.example/`
	post := func(who, label, to string, want int) {
		t.Helper()
		if r := a.do(who, "POST", "changesets?source="+label, row+to+`"}`, asNDJSON); r.StatusCode != want {
			t.Errorf("%s as %s: %d %s, want %d", who, label, r.StatusCode, r.body, want)
		}
	}
	post("ci", "git:repo", "1", 200)
	post("ci", "git:repo", "2", 200)
	post("editor-a", "git:repo", "3", 403)
	post("admin-b", "git:repo", "3", 403)
	if got := a.target("x"); got != "https://t.example/2" {
		t.Errorf("x goes to %s", got)
	}
	post("publisher-a", "git:repo", "4", 200)
	var src SourceResource
	if a.must(&src, "GET", "sources/git:repo", ""); src.Team != "a" || src.Kind != kindApply {
		t.Errorf("the source is %+v", src)
	}
	// What the server follows is written by nobody, here or at another node.
	a.Server.Sources = []Source{{Label: "file:here", Kind: "file"}}
	if err := a.Store.ReportSource(t.Context(), store.Source{Label: "git:there", Kind: "git"}); err != nil {
		t.Fatal(err)
	}
	post("root", "file:here", "5", 409)
	post("root", "git:there", "5", 409)
	// Of what was there before labels had owners, nobody knows whose it is.
	it := store.Item{Kind: store.KindRedirect, Key: "a.example/old", Team: "a", Source: "old", Value: []byte(`{"id":"old","from":"a.example/old","to":"https://t.example/"}`)}
	if _, err := a.Store.Commit(t.Context(), store.Batch{Changes: []store.Change{{Op: store.Put, Item: it}}}); err != nil {
		t.Fatal(err)
	}
	if r := a.do("editor-a", "POST", "changesets?source=old", row+`6"}`, asNDJSON); r.StatusCode != 403 {
		t.Errorf("an old label, by an editor: %d %s", r.StatusCode, r.body)
	}
}

func TestPlanNeedsNoMoreThanToRead(t *testing.T) {
	a := newTestAPI(t)
	const row = `{"from": "a.example/x", "to": "https://t.example/"}`
	rev := a.rev()
	for _, who := range []string{"viewer-a", "reader"} {
		for _, query := range []string{"", "&source=git:x&mode=replace", "&take=true"} {
			if r := a.do(who, "POST", "changesets?dryRun=true"+query, row, asNDJSON); r.StatusCode != 200 || !strings.Contains(r.body, `"added":1`) {
				t.Errorf("%s plans %s: %d %s", who, query, r.StatusCode, r.body)
			}
		}
		for _, query := range []string{"", "dryRun=false", "dryRun=false&dryRun=true", "dryRun=true&dryRun=false"} {
			if r := a.do(who, "POST", "changesets?"+query, row, asNDJSON); a.rev() != rev {
				t.Fatalf("%s writes with %q: %d %s", who, query, r.StatusCode, r.body)
			}
		}
	}
	// Who may write is told what would be refused.
	if r := a.do("admin-b", "POST", "changesets?dryRun=true", row, asNDJSON); r.StatusCode != 403 {
		t.Errorf("an editor of another team plans: %d %s", r.StatusCode, r.body)
	}
	for _, who := range []string{"", "node"} {
		if r := a.do(who, "POST", "changesets?dryRun=true", row, asNDJSON); r.StatusCode != 401 && r.StatusCode != 403 {
			t.Errorf("%q plans: %d", who, r.StatusCode)
		}
	}
}

func TestNothingWithASecretComesInTheClear(t *testing.T) {
	a := newTestAPI(t)
	s := &Server{Store: a.Store, Metrics: a.Metrics, Feed: a.Metrics, Snapshot: a.Metrics}
	h := s.Routes()
	for path, want := range map[string]int{
		"/v1/feed": 403, "/v1/snapshot": 403, "/debug/": 403, "/login": 403, "/login/oidc": 403, oidcCallback: 403, "/": 403, Prefix + "/hosts": 403,
		"/livez": 200, Prefix + "/openapi.json": 200,
	} {
		for addr, want := range map[string]int{"192.0.2.1:1": want, "127.0.0.1:1": 0} {
			r := httptest.NewRequest("GET", path, nil)
			r.RemoteAddr = addr
			r.Header.Set("Authorization", "Bearer "+a.tokens["root"])
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if want != 0 && w.Code != want || want == 0 && w.Code == 403 {
				t.Errorf("%s from %s: %d %s", path, addr, w.Code, w.Body)
			}
		}
	}
}

// Behind a proxy everybody has one address.
func TestWrongLoginsKeepNobodyElseOut(t *testing.T) {
	a := newTestAPI(t)
	a.put("users/kari", `{"password": "correct horse battery", "roles": {"a": "editor"}}`)
	login := func(user, password string) int {
		status, _ := a.browse(a.browser(), "POST", Prefix+"/session", `{"user": "`+user+`", "password": "`+password+`"}`)
		return status
	}
	last := 0
	for range loginTries + 1 {
		last = login("mallory", "wrong")
	}
	if last != 429 {
		t.Errorf("who guesses gets %d", last)
	}
	if status := login("kari", "correct horse battery"); status != 200 {
		t.Errorf("everybody else gets %d", status)
	}
	// From a network the address counts, whoever is tried; and a user, from wherever.
	r := httptest.NewRequest("POST", "/", nil)
	for i := range loginTries + 1 {
		if err := a.mayTry(r, "user "+newID("")); (err != nil) != (i == loginTries) {
			t.Errorf("try %d from one address: %v", i, err)
		}
	}
}

func TestSourcesAreShownWithoutSecrets(t *testing.T) {
	a := newTestAPI(t)
	if err := a.Store.PutSource(t.Context(), a.by(), store.Source{Label: "s", Kind: "url", URL: "https://u:hunter2@h.example/x?token=hunter2", Settings: []byte(`{"k":"hunter2"}`)}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"sources", "sources/s", "audit", "audit/export"} {
		if r := a.must(nil, "GET", path, ""); strings.Contains(r.body, "hunter2") || !strings.Contains(r.body, "h.example/x") {
			t.Errorf("%s shows %s", path, r.body)
		}
	}
}

func TestRowThatDeletesSaysWhat(t *testing.T) {
	a := newTestAPI(t)
	a.rule("x", "1")
	for _, row := range []string{
		`{"delete": "redirects", "name": "a.example", "id": "x"}`,
		`{"delete": "", "name": "a.example"}`,
		`{"delete": "Host", "name": "a.example"}`,
		`{"delete": "host", "name": "a.example", "id": "x"}`,
		`{"delete": "host", "name": "a.example", "host": "a.example"}`,
		`{"delete": "redirect", "name": "a.example", "id": "x"}`,
		`{"delete": "redirect", "host": "a.example"}`,
	} {
		rev := a.rev()
		r := a.do("root", "POST", "changesets?allowRemoving=9", row, asNDJSON)
		if p := r.problem(t); r.StatusCode != 422 || len(p.Errors) != 1 || p.Errors[0].Line != 1 || !p.hinted() || a.rev() != rev {
			t.Errorf("%s: %d %s", row, r.StatusCode, r.body)
		}
	}
}
