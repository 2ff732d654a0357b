package replica

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// serve mounts the handlers on a server of their own, and gives its client.
func serve(t testing.TB, f *fake) *Client {
	mux := http.NewServeMux()
	mux.Handle("/v1/feed", FeedHandler(f.feed(), func(_ *http.Request, reports []Report) error {
		if f.acked != nil {
			f.acked(reports[0].At)
		}
		return nil
	}))
	mux.Handle("/v1/snapshot", SnapshotHandler(f.snapshots.Get))
	guarded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer fpt_node" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	})
	server := httptest.NewServer(guarded)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return &Client{URL: server.URL + "/", Token: "fpt_node"}
}

// TestHandlersRefuse has a case for each answer that is not the feed.
func TestHandlersRefuse(t *testing.T) {
	f := newFake(t, "e1")
	edits(f, 0, 5)
	f.floor = 2
	client := serve(t, f)
	tests := []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/v1/feed?epoch=e1&cursor=1", "", 410},
		{"GET", "/v1/feed?epoch=e0&cursor=5", "", 410},
		{"GET", "/v1/feed?epoch=e1&cursor=6", "", 410},
		{"GET", "/v1/feed?epoch=e1&cursor=x", "", 400},
		{"GET", "/v1/snapshot?epoch=e1&cursor=-1", "", 400},
		{"POST", "/v1/snapshot", "", 405},
		{"PUT", "/v1/feed", "", 405},
		{"POST", "/v1/feed", "{", 400},
		{"POST", "/v1/feed", `{"epoch":"e1","rev":5}`, 204},
	}
	for _, tt := range tests {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, strings.TrimSuffix(client.URL, "/")+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+client.Token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != tt.status {
			t.Errorf("%s %s: %s, want %d", tt.method, tt.path, res.Status, tt.status)
		}
	}
	client.Reports = func(at Cursor) []Report { return []Report{{Node: "n", At: at}, {Node: "m", At: Cursor{"e1", 3}}} }
	var acked Cursor
	f.acked = func(at Cursor) { acked = at }
	if err := client.Acknowledge(t.Context(), Cursor{"e1", 4}); err != nil || acked != (Cursor{"e1", 4}) {
		t.Errorf("a report comes as %v: %v", acked, err)
	}
	if err := client.Revisions(t.Context(), Place{Cursor: Cursor{"e0", 1}}, nil); !errors.Is(err, ErrTooOld) {
		t.Errorf("410 is %v to the client", err)
	}
	client.Token = "fpt_other"
	if _, err := client.Snapshot(t.Context(), Cursor{}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "401") {
		t.Errorf("401 is %v to the client", err)
	}
}

// TestSnapshotsAreShared: followers get the same file while the feed holds what
// follows it, and another one when they need it.
func TestSnapshotsAreShared(t *testing.T) {
	f := newFake(t, "e1")
	edits(f, 0, 5)
	get := func(atLeast Cursor) Header {
		t.Helper()
		s, err := f.snapshots.Get(t.Context(), atLeast)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		return s.Header
	}
	first := get(Cursor{})
	edits(f, 5, 5)
	if again := get(Cursor{"e1", 5}); again != first {
		t.Errorf("another snapshot is made: %+v", again)
	}
	if newer := get(Cursor{"e1", 8}); newer.Cursor != 10 {
		t.Errorf("asked for revision 8, got %+v", newer)
	}
	edits(f, 10, 1)
	f.floor = 11
	if newer := get(Cursor{}); newer.Cursor != 11 {
		t.Errorf("the floor is 11, got %+v", newer)
	}
	f.restore("e2", f.content(), 11)
	if newer := get(Cursor{"e1", 11}); newer.Epoch != "e2" {
		t.Errorf("the epoch is e2, got %+v", newer)
	}
}
