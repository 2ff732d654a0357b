package admin

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fingerpost/store"
)

// TestNodesAreBehindAndGone wants what a list says of a node that is current, of
// one that is behind, and of one that has not been heard of.
func TestNodesAreBehindAndGone(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	db, err := store.Open(t.Context(), "sqlite:"+t.TempDir(), store.Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := &Server{Store: db, Now: func() time.Time { return now }}
	it := store.Item{Kind: "x", Key: "k", Value: []byte("{}"), Source: "api"}
	for _, value := range []string{"1", "2", "3"} {
		it.Value = []byte(value)
		if _, err := db.Commit(t.Context(), store.Batch{Changes: []store.Change{{Op: store.Put, Item: it}}}); err != nil {
			t.Fatal(err)
		}
	}
	head, err := db.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	report := func(id, epoch string, rev int64) {
		if err := db.ReportNode(t.Context(), store.Node{ID: id, Epoch: epoch, Rev: rev}); err != nil {
			t.Fatal(err)
		}
	}
	report("silent", head.Epoch, 3)
	now = now.Add(vanished + time.Second)
	report("behind", head.Epoch, 1)
	report("current", head.Epoch, 3)
	report("other-life", "e0", 3)
	out, err := s.listNodes(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]NodeResource{"behind": {Behind: 2}, "current": {}, "other-life": {Behind: 3, Other: true}, "silent": {Gone: true}}
	if len(out.Body.Items) != len(want) {
		t.Errorf("%d nodes, want %d", len(out.Body.Items), len(want))
	}
	for _, n := range out.Body.Items {
		if w := want[n.ID]; n.Behind != w.Behind || n.Gone != w.Gone || n.Other != w.Other {
			t.Errorf("%s: %d behind, gone %v, want %d and %v", n.ID, n.Behind, n.Gone, w.Behind, w.Gone)
		}
	}
}

// TestWithoutAStoreTokensAreThoseOfTheNode holds the feed of a relay and the
// debug pages of an edge to the one token that opens each.
func TestWithoutAStoreTokensAreThoseOfTheNode(t *testing.T) {
	s := newServer()
	s.Feed = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("feed")) })
	s.Snapshot = s.Feed
	s.NodeToken, s.LocalToken = "fpt_node", "fpt_local"
	s.Debug = func() any { return map[string]int{"rev": 7} }
	h := s.Routes()
	for _, tt := range []struct {
		path, token string
		status      int
		body        string
	}{
		{"/v1/feed", "", 401, "unauthorized"},
		{"/v1/feed", "fpt_local", 401, ""},
		{"/v1/feed", "fpt_node", 200, "feed"},
		{"/v1/snapshot", "fpt_nod", 401, ""},
		{"/debug/status", "", 401, ""},
		{"/debug/status", "fpt_node", 401, ""},
		{"/debug/status", "fpt_local", 200, `"rev":7`},
		{"/debug/", "fpt_local", 200, "/debug/pprof/heap"},
		{"/debug/pprof/goroutine?debug=1", "fpt_local", 200, "goroutine profile"},
		{"/debug/pprof/cmdline", "fpt_local", 404, ""},
		{"/debug/none", "fpt_local", 404, ""},
	} {
		r := httptest.NewRequest("GET", tt.path, nil)
		r.RemoteAddr = "127.0.0.1:1"
		if tt.token != "" {
			r.Header.Set("Authorization", "Bearer "+tt.token)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.body) {
			t.Errorf("%s with %q: %d %s, want %d %q", tt.path, tt.token, w.Code, w.Body, tt.status, tt.body)
		}
	}
	s.NodeToken, s.LocalToken = "", ""
	r := httptest.NewRequest("GET", "/v1/feed", nil)
	r.RemoteAddr = "127.0.0.1:1"
	r.Header.Set("Authorization", "Bearer ")
	w := httptest.NewRecorder()
	if s.Routes().ServeHTTP(w, r); w.Code != 401 {
		t.Errorf("an empty token opens the feed of a node that has none: %d", w.Code)
	}
}

func TestDetailsOfChecksAreShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		since := time.Now()
		s := newServer(Check{Name: "content", Err: func() error { return nil }, Detail: func() string { return time.Since(since).String() + " old" }})
		h := s.Routes()
		if got := s.Health(); got != "starting" {
			t.Errorf("health %q before it serves", got)
		}
		s.Serving()
		time.Sleep(32 * time.Second)
		if status, body := get(t, h, "GET", "/readyz"); status != 200 || !strings.Contains(body, `"detail":"32s old"`) {
			t.Errorf("%d %s", status, body)
		}
		if got := s.Health(); got != "ok" {
			t.Errorf("health %q", got)
		}
	})
}

func TestLocalTokenIsMadeOnceAndForItsOwnerAlone(t *testing.T) {
	dir := t.TempDir()
	first, err := LocalToken(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LocalToken(dir)
	if err != nil || again != first || !strings.HasPrefix(first, tokenPrefix) {
		t.Errorf("%q, then %q: %v", first, again, err)
	}
	info, err := os.Stat(filepath.Join(dir, "admin.token"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v, want mode 0600", info.Mode(), err)
	}
}
