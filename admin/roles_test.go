package admin

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"fingerpost"
	"fingerpost/store"

	"github.com/danielgtaylor/huma/v2"
)

// matrixPeople are who asks in the matrix, those who may less before those who may more,
// so that what somebody deletes was still there for everybody who may not.
var matrixPeople = []string{"", "node", "reader", "admin-b", "viewer", "viewer-a", "editor-a", "publisher", "publisher-a", "admin-a", "root"}

// matrixExamples has a request for each route, about what team a owns.
var matrixExamples = map[string]struct{ path, body string }{
	"GET /hosts":                       {"hosts", ""},
	"GET /hosts/{host}":                {"hosts/a.example", ""},
	"PUT /hosts/{host}":                {"hosts/a.example", `{"team": "a", "https": "allow-all"}`},
	"DELETE /hosts/{host}":             {"hosts/gone.a.example", ""},
	"GET /hosts/{host}/probe":          {"hosts/a.example/probe", ""},
	"GET /hosts/{host}/certificate":    {"hosts/a.example/certificate", ""},
	"POST /hosts/{host}/certificate":   {"hosts/a.example/certificate", ""},
	"GET /certificates":                {"certificates", ""},
	"GET /certificates/cnames":         {"certificates/cnames", ""},
	"POST /certificates/import":        {"certificates/import", `{"name": "x", "bundle": "BUNDLE"}`},
	"POST /certificates/csr":           {"certificates/csr", `{"name": "y", "names": ["a.example"]}`},
	"GET /certificates/{name}":         {"certificates/ordered", ""},
	"DELETE /certificates/{name}":      {"certificates/gone", ""},
	"POST /certificates/{name}/renew":  {"certificates/ordered/renew", ""},
	"POST /certificates/{name}/revoke": {"certificates/ordered/revoke", "{}"},
	"GET /certificates/events":         {"certificates/events", ""},
	"POST /certificates/{name}/names":  {"certificates/ordered/names", `{"name": "new.a.example"}`},
	"POST /certificates/{name}/export": {"certificates/ordered/export", ""},
	"GET /redirects":                   {"redirects", ""},
	"POST /redirects":                  {"redirects", `{"from": "a.example/m", "to": "https://t.example/"}`},
	"GET /redirects/{id}":              {"redirects/x?host=a.example", ""},
	"PUT /redirects/{id}":              {"redirects/x?host=a.example", `{"from": "a.example/x", "to": "https://t.example/2"}`},
	"DELETE /redirects/{id}":           {"redirects/gone?host=a.example", ""},
	"POST /changesets":                 {"changesets", `[{"from": "a.example/c", "to": "https://t.example/"}]`},
	"GET /jobs":                        {"jobs", ""},
	"GET /jobs/{id}":                   {"jobs/j", ""},
	"DELETE /jobs/{id}":                {"jobs/j", ""},
	"GET /jobs/{id}/events":            {"jobs/j/events", ""},
	"GET /drafts":                      {"drafts", ""},
	"POST /drafts":                     {"drafts?team=a", `[{"from": "a.example/d", "to": "https://t.example/"}]`},
	"GET /drafts/{id}":                 {"drafts/DRAFT", ""},
	"GET /drafts/{id}/diff":            {"drafts/DRAFT/diff", ""},
	"POST /drafts/{id}/review":         {"drafts/DRAFT/review", `{"approve": true}`},
	"POST /drafts/{id}/publish":        {"drafts/DRAFT/publish", ""},
	"DELETE /drafts/{id}":              {"drafts/OTHER", ""},
	"GET /versions":                    {"versions", ""},
	"GET /versions/{version}":          {"versions/v", ""},
	"PUT /versions/{version}":          {"versions/w", `{}`},
	"DELETE /versions/{version}":       {"versions/gone", ""},
	"POST /versions/{version}/restore": {"versions/v/restore?dryRun=true&allowRemoving=9", ""},
	"GET /diff":                        {"diff?from=v", ""},
	"GET /changes":                     {"changes", ""},
	"GET /changes/{id}":                {"changes/REV", ""},
	"POST /changes/{id}/revert":        {"changes/REV/revert?dryRun=true&allowRemoving=9", ""},
	"GET /events":                      {"events?after=x", ""}, // a bad parameter, so that it ends
	"POST /explain":                    {"explain", `{"url": "https://a.example/"}`},
	"GET /nodes":                       {"nodes", ""},
	"DELETE /nodes/{id}":               {"nodes/n", ""},
	"GET /sources":                     {"sources", ""},
	"GET /sources/{label}":             {"sources/s", ""},
	"POST /sources/{label}/pause":      {"sources/s/pause", ""},
	"POST /sources/{label}/resume":     {"sources/s/resume", ""},
	"POST /sources/{label}/check":      {"sources/s/check", ""},
	"POST /sources/{label}/hook":       {"sources/s/hook", ""},
	"GET /audit":                       {"audit", ""},
	"GET /audit/verify":                {"audit/verify", ""},
	"GET /audit/export":                {"audit/export", ""},
	"POST /session":                    {"session", `{"once": "fpo_x"}`},
	"GET /session":                     {"session", ""},
	"DELETE /session":                  {"session", ""},
	"GET /tokens":                      {"tokens", ""},
	"POST /tokens":                     {"tokens", `{"name": "t", "role": "editor", "team": "a"}`},
	"DELETE /tokens/{id}":              {"tokens/tok-gone", ""},
	"GET /users":                       {"users", ""},
	"GET /users/{user}":                {"users/u", ""},
	"PUT /users/{user}":                {"users/u", `{"roles": {"a": "editor"}}`},
	"DELETE /users/{user}":             {"users/gone", ""},
	"GET /teams":                       {"teams", ""},
	"GET /teams/{team}":                {"teams/a", ""},
	"PUT /teams/{team}":                {"teams/c", `{}`},
	"DELETE /teams/{team}":             {"teams/gone", ""},
}

// TestEveryRouteForEveryRole sends each request as everybody, holds the answers
// to the action of the route, and writes them down in testdata/roles.txt.
func TestEveryRouteForEveryRole(t *testing.T) {
	a := newTestAPI(t)
	ctx, by := context.Background(), store.Actor{Who: "test"}
	a.put("hosts/gone.a.example", `{"team": "a"}`)
	a.put("redirects/gone?host=a.example", `{"from": "a.example/gone", "to": "https://t.example/"}`)
	a.put("versions/v", `{}`)
	a.put("versions/gone", `{}`)
	a.put("redirects/x?host=a.example", `{"from": "a.example/x", "to": "https://t.example/"}`)
	rev := a.rev()
	_, hash := newSecret(tokenPrefix)
	for _, err := range []error{
		a.Store.PutJob(ctx, store.Job{ID: "j", Kind: kindChangeset, State: JobDone}),
		a.Store.PutSource(ctx, by, store.Source{Label: "s", Kind: "git", Team: "a"}),
		a.Store.AddToken(ctx, by, store.Token{ID: "tok-gone", Hash: hash, Name: "gone", Scope: "api", Role: "viewer", Team: "a"}),
		a.Store.PutUser(ctx, by, store.User{Name: "u"}),
		a.Store.PutUser(ctx, by, store.User{Name: "gone"}),
		a.Store.PutTeam(ctx, by, store.Team{Name: "gone"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	a.store(fingerpost.ACME, "ordered", "a", "a.example")
	a.store(fingerpost.ACME, "gone", "a", "gone.a.example")
	ids := []string{"REV", fmt.Sprint(rev), "BUNDLE", a.certs.bundle("a.example")}
	for name, from := range map[string]string{"DRAFT": "draft", "OTHER": "other"} {
		r := a.do("admin-a", "POST", "drafts?team=a", `[{"from": "a.example/`+from+`", "to": "https://t.example/"}]`)
		if r.StatusCode != 201 {
			t.Fatalf("draft: %d %s", r.StatusCode, r.body)
		}
		ids = append(ids, name, strings.TrimPrefix(r.Header.Get("Location"), Prefix+"/drafts/"))
	}
	fill := strings.NewReplacer(ids...) // all in one go: random text may have any of the words

	type operation struct {
		name   string
		action Action
	}
	var operations []operation
	for path, item := range new(Server).api(http.NewServeMux()).OpenAPI().Paths {
		for method, o := range map[string]*huma.Operation{"GET": item.Get, "PUT": item.Put, "POST": item.Post, "DELETE": item.Delete} {
			if o != nil {
				action, _ := o.Extensions["x-action"].(string)
				operations = append(operations, operation{method + " " + path, Action(action)})
			}
		}
	}
	slices.SortFunc(operations, func(x, y operation) int {
		// What changes people comes last, so that the matrix has them until then.
		_, px, _ := strings.Cut(x.name, " ")
		_, py, _ := strings.Cut(y.name, " ")
		return strings.Compare(px+x.name, py+y.name)
	})
	var table strings.Builder
	fmt.Fprintf(&table, "%-34s %-9s", "", "action")
	for _, who := range matrixPeople {
		if who == "" {
			who = "nobody"
		}
		fmt.Fprintf(&table, " %-11s", who)
	}
	table.WriteString("\n")
	for _, op := range operations {
		example, ok := matrixExamples[op.name]
		if !ok {
			t.Errorf("%s has no example in the matrix", op.name)
			continue
		}
		path, body := fill.Replace(example.path), fill.Replace(example.body)
		method, _, _ := strings.Cut(op.name, " ")
		fmt.Fprintf(&table, "%-34s %-9s", op.name, op.action)
		for _, who := range matrixPeople {
			r := a.do(who, method, path, body)
			allowed := r.StatusCode != 401 && r.StatusCode != 403
			if op.action == Public {
				allowed = true // a login may fail, whoever tries it
			}
			if r.StatusCode >= 500 {
				t.Errorf("%s as %s: %d %s", op.name, who, r.StatusCode, r.body)
			}
			word := "-"
			if allowed {
				word = "yes"
			}
			fmt.Fprintf(&table, " %-11s", word)
			if want := matrixWants(op.name, op.action, who); allowed != want {
				t.Errorf("%s as %q: allowed %v, want %v: %d %s", op.name, who, allowed, want, r.StatusCode, r.body)
			}
		}
		table.WriteString("\n")
	}
	text := strings.ReplaceAll(table.String(), " \n", "\n")
	for strings.Contains(text, " \n") {
		text = strings.ReplaceAll(text, " \n", "\n")
	}
	const file = "testdata/roles.txt"
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(file); err != nil || string(want) != text {
		t.Errorf("%s is not what the routes do (%v): look at the difference, then -update\n%s", file, err, text)
	}
}

// matrixWants says in other words than authorize who may do what to what belongs
// to team a.
func matrixWants(name string, action Action, who string) bool {
	rank := map[string]int{"viewer-a": 1, "viewer": 1, "editor-a": 2, "publisher-a": 3, "publisher": 3, "admin-a": 4, "root": 4}[who]
	switch {
	case action == Public:
		return true
	case name == "DELETE /tokens/{id}":
		return rank == 4
	case name == "DELETE /drafts/{id}": // of another author
		return rank >= 3
	case who == "reader":
		return action == Read
	case who == "node" || who == "":
		return false
	case who == "admin-b":
		// Of what is every team's, an admin of another team has as much as others.
		return action == Read || name == "GET /tokens" || name == "PUT /versions/{version}" || name == "DELETE /versions/{version}" || name == "DELETE /jobs/{id}"
	case action == Govern:
		return who == "root"
	}
	return rank >= map[Action]int{Read: 1, Draft: 2, Write: 2, Settings: 3, Publish: 3, Revoke: 4, People: 4}[action]
}

func TestAuthorizeIsClosedToWhatItDoesNotKnow(t *testing.T) {
	for _, p := range []*Principal{
		{Name: "no roles"},
		{Name: "an unknown role", Roles: map[string]Role{"a": "owner", "*": "owner"}},
		{Name: "an empty role", Roles: map[string]Role{"a": "", "*": ""}},
		{Name: "an unknown scope", Scope: "all", Roles: map[string]Role{"*": Admin}},
		{Name: "a session's secret for once", Scope: scopeOnce, Roles: map[string]Role{"*": Admin}},
	} {
		for action := range needs {
			for _, team := range []string{"", "a", anyTeam} {
				if authorize(p, action, team) == nil {
					t.Errorf("%s may %s of %q", p.Name, action, team)
				}
			}
		}
	}
	if authorize(&Principal{Roles: map[string]Role{"*": Admin}}, "unknown", "a") == nil {
		t.Error("an unknown action is allowed")
	}
}
