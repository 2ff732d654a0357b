package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/explain"
	"fingerpost/store"
)

// testAPI is a server with its own store, on a real socket.
type testAPI struct {
	*testing.T
	*Server
	url    string
	tokens map[string]string // by the name of who has it
	certs  *testCertificates
	logged *lockedText
}

// The people of the tests. Team a owns a.example and *.a.example, team b owns
// b.example; nobody owns free.example.
var people = map[string]store.Token{
	"root":        {Role: "admin", Team: "*"},
	"viewer-a":    {Role: "viewer", Team: "a"},
	"editor-a":    {Role: "editor", Team: "a"},
	"publisher-a": {Role: "publisher", Team: "a"},
	"admin-a":     {Role: "admin", Team: "a"},
	"admin-b":     {Role: "admin", Team: "b"},
	"viewer":      {Role: "viewer", Team: "*"},
	"publisher":   {Role: "publisher", Team: "*"},
	"reader":      {Role: "admin", Team: "*", Scope: "read"},
	"node":        {Scope: "node"},
}

func newTestAPI(t *testing.T) *testAPI { return newTestAPIAt(t, nil) }

// newTestAPIAt is one with a clock; nil for that of the machine.
func newTestAPIAt(t *testing.T, now func() time.Time) *testAPI {
	t.Helper()
	return newTestAPIOn(t, "sqlite:"+t.TempDir(), now)
}

// newTestAPIOn is one on any database.
func newTestAPIOn(t *testing.T, dsn string, now func() time.Time) *testAPI {
	t.Helper()
	ctx := context.Background()
	dir := t.TempDir()
	db, err := store.Open(ctx, dsn, store.Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	logged := new(lockedText)
	s := &Server{Store: db, Dir: dir, Metrics: http.NotFoundHandler(), Accept: AcceptByCompiling(db), Node: "n1", Now: now, Log: slog.New(slog.NewTextHandler(io.MultiWriter(testWriter{t}, logged), nil)),
		Explain: func(_ context.Context, c *fingerpost.Case) (*explain.Explanation, error) {
			req, err := explain.NewRequest(c, time.Now(), nil)
			return &explain.Explanation{Request: explain.Request{URL: req.URL()}}, err
		}}
	c := newTestCertificates(t)
	s.Certificates = &c.Certificates
	h := httptest.NewServer(s.Routes())
	a := &testAPI{T: t, Server: s, url: h.URL, tokens: map[string]string{}, certs: c, logged: logged}
	s.URL = h.URL
	t.Cleanup(func() {
		h.CloseClientConnections()
		s.Close()
		h.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	by := store.Actor{Who: "test"}
	for _, team := range []string{"a", "b"} {
		if err := db.PutTeam(ctx, by, store.Team{Name: team}); err != nil {
			t.Fatal(err)
		}
	}
	for name, token := range people {
		token.ID, token.Name = "tok-"+name, name
		if token.Scope == "" {
			token.Scope = "api"
		}
		a.tokens[name], token.Hash = newSecret(tokenPrefix)
		if err := db.AddToken(ctx, by, token); err != nil {
			t.Fatal(err)
		}
	}
	a.put("hosts/a.example", `{"team": "a"}`)
	a.put("hosts/*.a.example", `{"team": "a"}`)
	a.put("hosts/b.example", `{"team": "b"}`)
	return a
}

// another is a second control node on the same store.
func (a *testAPI) another() *testAPI {
	a.Helper()
	s := &Server{Store: a.Store, Dir: a.T.TempDir(), Metrics: http.NotFoundHandler(), Accept: a.Accept, Node: "n2", Log: a.Log, Now: a.Now}
	h := httptest.NewServer(s.Routes())
	s.URL = h.URL
	a.Cleanup(func() {
		h.CloseClientConnections()
		s.Close()
		h.Close()
	})
	return &testAPI{T: a.T, Server: s, url: h.URL, tokens: a.tokens}
}

// lockedText keeps what is written to it.
type lockedText struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

type testWriter struct{ testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// answer is what came back.
type answer struct {
	*http.Response
	body string
}

func (a answer) problem(t *testing.T) Problem {
	t.Helper()
	var p Problem
	if ct := a.Header.Get("Content-Type"); ct != "application/problem+json" {
		t.Fatalf("%s %s: %d with the type %q: %s", a.Request.Method, a.Request.URL, a.StatusCode, ct, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Fatal(err)
	}
	if p.Status != a.StatusCode || p.Code == "" || p.Title == "" {
		t.Errorf("the problem %s does not go with the status %d", a.body, a.StatusCode)
	}
	return p
}

// hinted reports whether it says what to do.
func (p *Problem) hinted() bool {
	return p.Hint != "" || slices.ContainsFunc(p.Errors, func(f Fault) bool { return f.Hint != "" })
}

// do sends a request as who; headers are "Name: value".
func (a *testAPI) do(who, method, path, body string, headers ...string) answer {
	a.Helper()
	return a.send(who, method, path, strings.NewReader(body), headers...)
}

func (a *testAPI) send(who, method, path string, body io.Reader, headers ...string) answer {
	a.Helper()
	req, err := http.NewRequest(method, a.url+Prefix+"/"+path, body)
	if err != nil {
		a.Fatal(err)
	}
	if who != "" {
		req.Header.Set("Authorization", "Bearer "+a.tokens[who])
	}
	if method != "GET" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		a.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		a.Fatal(err)
	}
	return answer{resp, string(text)}
}

// must sends as root and expects success; into takes the body.
func (a *testAPI) must(into any, method, path, body string, headers ...string) answer {
	a.Helper()
	r := a.do("root", method, path, body, headers...)
	if r.StatusCode/100 != 2 {
		a.Fatalf("%s %s: %d %s", method, path, r.StatusCode, r.body)
	}
	if into != nil {
		if err := json.Unmarshal([]byte(r.body), into); err != nil {
			a.Fatalf("%s %s: %v in %s", method, path, err, r.body)
		}
	}
	return r
}

func (a *testAPI) put(path, body string) { a.Helper(); a.must(nil, "PUT", path, body) }

// rev is the newest revision.
func (a *testAPI) rev() int64 {
	a.Helper()
	h, err := a.Store.Head(context.Background())
	if err != nil {
		a.Fatal(err)
	}
	return h.Rev
}

func TestRedirectsAreMadeReadChangedAndDeleted(t *testing.T) {
	a := newTestAPI(t)
	var made RedirectResource
	r := a.must(&made, "POST", "redirects", `{"from": "a.example/x", "to": "https://b.example/y", "note": "first"}`)
	if r.StatusCode != 201 || made.Host != "a.example" || made.Team != "a" || made.Source != "api" || made.ID == "" || made.Rev != a.rev() {
		t.Fatalf("made %d %+v", r.StatusCode, made)
	}
	path := "redirects/" + made.ID + "?host=a.example"
	if at := r.Header.Get("Location"); at != Prefix+"/"+path {
		t.Errorf("Location is %s, want %s", at, path)
	}
	var read RedirectResource
	if got := a.must(&read, "GET", path, ""); got.Header.Get("ETag") != r.Header.Get("ETag") || read.To != made.To || read.Rev != made.Rev {
		t.Errorf("read %+v with ETag %s, made %+v with %s", read, got.Header.Get("ETag"), made, r.Header.Get("ETag"))
	}
	// What was read can be sent back, read-only fields and all.
	sent, _ := json.Marshal(read)
	if got := a.must(nil, "PUT", path, string(sent), "If-Match: "+r.Header.Get("ETag")); got.StatusCode != 200 || got.Header.Get("ETag") != r.Header.Get("ETag") {
		t.Errorf("put back unchanged: %d ETag %s", got.StatusCode, got.Header.Get("ETag"))
	}
	var changed RedirectResource
	a.must(&changed, "PUT", path, `{"from": "a.example/x", "to": "https://b.example/z"}`, "If-Match: "+r.Header.Get("ETag"))
	if changed.To != "https://b.example/z" || changed.Note != "" || changed.Rev <= made.Rev || !changed.Since.Equal(made.Since) {
		t.Errorf("changed %+v", changed)
	}
	var result Result
	a.must(&result, "DELETE", path, "")
	if result.Removed != 1 {
		t.Errorf("deleted %+v", result)
	}
	if got := a.do("root", "GET", path, ""); got.problem(t).Code != "not_found" || got.StatusCode != 404 {
		t.Errorf("after the delete: %s", got.body)
	}
}
