package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/cert"
	"fingerpost/cert/order"
	"fingerpost/explain"
	"fingerpost/store"
)

// document is what the client is held to: docs/openapi.json.
type document struct {
	Paths map[string]map[string]struct {
		Parameters []struct{ Name, In string }
	}
}

// watched notes each request, and that the document knows its route and its
// parameters.
type watched struct {
	t    *testing.T
	doc  document
	seen map[string]bool
}

func (w *watched) RoundTrip(r *http.Request) (*http.Response, error) {
	given := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), admin.Prefix), "/")
	best := ""
	for route := range w.doc.Paths {
		want := strings.Split(route, "/")
		fits := len(want) == len(given)
		for i := 0; fits && i < len(want); i++ {
			fits = want[i] == given[i] || strings.HasPrefix(want[i], "{")
		}
		if fits && (best == "" || strings.Count(route, "{") < strings.Count(best, "{")) {
			best = route
		}
	}
	op, ok := w.doc.Paths[best][strings.ToLower(r.Method)]
	if !ok {
		w.t.Errorf("the document has no %s %s", r.Method, r.URL.Path)
	}
	known := map[string]bool{"header Authorization": true, "header Content-Type": true}
	for _, p := range op.Parameters {
		known[p.In+" "+p.Name] = true
	}
	for name := range r.URL.Query() {
		if !known["query "+name] {
			w.t.Errorf("the document has no parameter %s of %s %s", name, r.Method, best)
		}
	}
	for name := range r.Header {
		if !known["header "+name] {
			w.t.Errorf("the document has no header %s of %s %s", name, r.Method, best)
		}
	}
	w.seen[r.Method+" "+best] = true
	return http.DefaultTransport.RoundTrip(r)
}

func newTestClient(t *testing.T) (*Client, *watched) {
	t.Helper()
	dir := t.TempDir()
	db, err := store.Open(t.Context(), "sqlite:"+dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := cert.NewSealer(cert.NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	s := &admin.Server{Store: db, Dir: dir,
		Certificates: &admin.Certificates{Storage: new(order.Memory), Sealer: sealer, Probe: func(string) (string, string) { return "/check", "ours" }, Ask: func(context.Context, admin.Ask) error { return nil },
			CNAME: func(name string) (string, string, error) {
				return "_acme-challenge." + name + ".", "x.acme.example.net.", nil
			}},
		Metrics: http.NotFoundHandler(), Accept: admin.AcceptByCompiling(db),
		Explain: func(_ context.Context, c *fingerpost.Case) (*explain.Explanation, error) {
			req, err := explain.NewRequest(c, time.Now(), nil)
			return &explain.Explanation{Request: explain.Request{URL: req.URL(), Method: req.Method}}, err
		}}
	token, _, err := s.Bootstrap(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s.Routes())
	t.Cleanup(func() {
		h.CloseClientConnections()
		s.Close()
		h.Close()
		db.Close()
	})
	w := &watched{t: t, seen: map[string]bool{}}
	text, err := os.ReadFile("../../docs/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &w.doc); err != nil {
		t.Fatal(err)
	}
	c, err := New(h.URL, token, &http.Client{Transport: w})
	if err != nil {
		t.Fatal(err)
	}
	return c, w
}

func collect[T any](t *testing.T, list iter.Seq2[T, error]) (items []T) {
	t.Helper()
	for item, err := range list {
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, item)
	}
	return items
}

// TestClientDoesWhatTheDocumentSays uses every method against a real server, and
// holds each request to the document.
func TestClientDoesWhatTheDocumentSays(t *testing.T) {
	c, w := newTestClient(t)
	ctx := t.Context()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.PutTeam(ctx, admin.TeamResource{Name: "a"})
	ok(err)
	host, err := c.PutHost(ctx, admin.HostResource{Name: "*.a.example", Host: fingerpost.Host{Team: "a"}}, Write{Note: "new", Rev: -1})
	ok(err)
	if got, err := c.Host(ctx, "*.a.example"); err != nil || got.Rev != host.Rev || got.Team != "a" {
		t.Errorf("the host is %+v: %v", got, err)
	}
	const to = "https://t.example/"
	made, err := c.PutRedirect(ctx, "w.a.example", "odd/id%2F?#ø", fingerpost.Redirect{From: "w.a.example/x", To: to}, Write{})
	ok(err)
	if got, err := c.Redirect(ctx, "w.a.example", "odd/id%2F?#ø"); err != nil || got.Rev != made.Rev || got.ID != "odd/id%2F?#ø" {
		t.Errorf("the redirect is %+v: %v", got, err)
	}
	added, err := c.AddRedirect(ctx, fingerpost.Redirect{From: "w.a.example/y", To: to}, Write{Key: "k"})
	ok(err)
	var p *admin.Problem
	if _, err := c.PutRedirect(ctx, "w.a.example", added.ID, fingerpost.Redirect{From: "w.a.example/y", To: to + "2"}, Write{Rev: 1}); !errors.As(err, &p) || p.Code != "precondition_failed" {
		t.Errorf("with an old revision: %v", err)
	}
	_, err = c.NameVersion(ctx, "v", 0, "good")
	ok(err)
	if _, err := c.DeleteRedirect(ctx, "w.a.example", added.ID, Write{Rev: added.Rev}); err != nil {
		t.Error(err)
	}

	var rows strings.Builder
	for i := range 2500 {
		fmt.Fprintf(&rows, "{\"from\": \"a.a.example/%d\", \"to\": \"https://t.example/%d\"}\n", i, i)
	}
	dry, err := c.PostChangeset(ctx, strings.NewReader(rows.String()), Changeset{DryRun: true, Mode: "replace", Source: "git:x", Kinds: []string{"redirect"}})
	if err != nil || dry.Added != 2500 {
		t.Errorf("dry run: %+v, %v", dry, err)
	}
	big, err := c.PostChangeset(ctx, strings.NewReader(rows.String()), Changeset{Source: "git:x", Note: "big", Key: "big", Take: true, AllowRemoving: 1})
	ok(err)
	if big.Job == nil {
		t.Fatalf("no job but %+v", big)
	}
	news := 0
	j, err := c.WaitJob(ctx, big.Job.ID, func(admin.Job) { news++ })
	if err != nil || j.Result.Added != 2500 || news == 0 {
		t.Errorf("the job is %+v after %d news: %v", j, news, err)
	}
	if jobs, err := c.Jobs(ctx); err != nil || len(jobs) == 0 {
		t.Errorf("the jobs are %v: %v", jobs, err)
	}
	if _, err := c.CancelJob(ctx, big.Job.ID); !errors.As(err, &p) || p.Code != "too_late" {
		t.Errorf("cancelled late: %v", err)
	}
	if n := len(collect(t, c.Redirects(ctx, Filter{Host: "a.a.example", Team: "a", Source: "git:x", Text: "t.example"}))); n != 2500 {
		t.Errorf("%d redirects", n)
	}
	if n := len(collect(t, c.Hosts(ctx, Filter{}))); n != 1 {
		t.Errorf("%d hosts", n)
	}
	if n := len(collect(t, c.Diff(ctx, "v", ""))); n != 2501 {
		t.Errorf("%d differences", n)
	}
	changes := collect(t, c.Changes(ctx))
	if len(changes) == 0 || changes[0].Note != "big" {
		t.Fatalf("the changes are %+v", changes)
	}
	if n := len(collect(t, c.Change(ctx, changes[0].Rev))); n != 2500 {
		t.Errorf("%d changes in one", n)
	}
	_, err = c.Revert(ctx, changes[0].Rev, []admin.ItemName{{Kind: "redirect", Key: "a.a.example/none"}}, BringBack{DryRun: true})
	if err != nil {
		t.Error(err)
	}
	if r, err := c.Restore(ctx, "v", BringBack{AllowRemoving: 2500, Note: "back"}); err != nil || r.Removed != 2500 || r.Added != 1 {
		t.Errorf("restored %+v: %v", r, err)
	}
	if versions, err := c.Versions(ctx); err != nil || len(versions) != 1 {
		t.Errorf("the versions are %v: %v", versions, err)
	}
	_, err = c.Version(ctx, "v")
	ok(err)
	ok(c.DeleteVersion(ctx, "v"))

	for e, err := range c.Events(ctx, "1") {
		ok(err)
		if e.Rev == 0 {
			t.Errorf("the event is %+v", e)
		}
		break
	}
	_, err = c.PutHost(ctx, admin.HostResource{Name: "a.example"}, Write{})
	ok(err)
	useCertificates(t, c)
	e, err := c.Explain(ctx, fingerpost.Case{URL: "https://a.example/", Method: "POST", Headers: map[string]string{"X": "y"}})
	if err != nil || e.Request.Method != "POST" {
		t.Errorf("explained %+v: %v", e, err)
	}
	_, err = c.Nodes(ctx)
	ok(err)
	if err := c.DeleteNode(ctx, "none"); !errors.As(err, &p) || p.Code != "not_found" {
		t.Errorf("deleted no node: %v", err)
	}
	_, err = c.Sources(ctx)
	ok(err)
	if _, err := c.PauseSource(ctx, "none", true); !errors.As(err, &p) || p.Code != "not_found" {
		t.Errorf("paused nothing: %v", err)
	}
	if err := c.CheckSource(ctx, "none"); !errors.As(err, &p) || p.Code != "not_found" {
		t.Errorf("a check of no source: %v", err)
	}
	if _, err := c.PauseSource(ctx, "none", false); !errors.As(err, &p) || p.Code != "not_found" {
		t.Errorf("resumed nothing: %v", err)
	}

	token, err := c.AddToken(ctx, admin.TokenResource{Name: "ci", Role: admin.Publisher, Team: "a"})
	if err != nil || token.Secret == "" {
		t.Fatalf("the token is %+v: %v", token, err)
	}
	if list, err := c.Tokens(ctx); err != nil || len(list) != 2 {
		t.Errorf("the tokens are %v: %v", list, err)
	}
	ok(c.DeleteToken(ctx, token.ID))
	_, err = c.PutUser(ctx, admin.UserResource{Name: "kari", Roles: map[string]admin.Role{"a": admin.Editor}})
	ok(err)
	if users, err := c.Users(ctx); err != nil || len(users) != 1 {
		t.Errorf("the users are %v: %v", users, err)
	}
	ok(c.DeleteUser(ctx, "kari"))
	if s, err := c.Session(ctx); err != nil || s.Roles["*"] != admin.Admin {
		t.Errorf("the session is %+v: %v", s, err)
	}
	if teams, err := c.Teams(ctx); err != nil || len(teams) != 1 {
		t.Errorf("the teams are %v: %v", teams, err)
	}
	if _, err := c.DeleteHost(ctx, "*.a.example", "", 0, Write{}); err != nil {
		t.Error(err)
	}
	ok(c.DeleteTeam(ctx, "a"))
	end, err := c.VerifyAudit(ctx)
	ok(err)
	if n := len(collect(t, c.Audit(ctx, "", "", ""))); int64(n) != end.Seq {
		t.Errorf("%d entries of %d", n, end.Seq)
	}
	var export bytes.Buffer
	if ok(c.ExportAudit(ctx, &export)); int64(bytes.Count(export.Bytes(), []byte("\n"))) != end.Seq {
		t.Errorf("the export has %d bytes", export.Len())
	}

	// What has no method here is for the console, or one reads it in a list.
	without := map[string]bool{"GET /jobs/{id}": true, "POST /session": true, "DELETE /session": true, "GET /sources/{label}": true, "POST /sources/{label}/hook": true, "GET /users/{user}": true, "GET /teams/{team}": true}
	for route, methods := range w.doc.Paths {
		for method := range methods {
			name := strings.ToUpper(method) + " " + route
			if !w.seen[name] && !without[name] && !strings.Contains(name, "/drafts") {
				t.Errorf("no method uses %s", name)
			}
		}
	}
}

func TestClientTellsAServerThatIsNone(t *testing.T) {
	h := httptest.NewServer(http.NotFoundHandler())
	defer h.Close()
	c, err := New(h.URL, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	var p *admin.Problem
	if _, err := c.Session(t.Context()); !errors.As(err, &p) || p.Code != "no_problem" || p.Hint == "" {
		t.Errorf("got %v", err)
	}
	if _, err := New("127.0.0.1:9090", "", nil); err == nil {
		t.Error("an address without a scheme is taken")
	}
}
