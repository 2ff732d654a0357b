package main

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"fingerpost/store"
)

// lines is a log that a test reads.
type lines struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestAnEdgeThatWasAwayTooLong comes back when the changes behind its cursor are
// not kept any more: it is told so (410), serves what it has until it has fetched a
// snapshot, and goes on from there.
func TestAnEdgeThatWasAwayTooLong(t *testing.T) {
	control := startNode(t, t.TempDir(), func(o *options) { o.role = roleControl })
	var token struct{ Secret string }
	control.api("POST", "/tokens", map[string]string{"name": "edge", "scope": "node"}, &token)
	dir := t.TempDir()
	var log lines
	follow := func(o *options) {
		o.role, o.control, o.token = roleEdge, control.url("admin"), token.Secret
		o.log = slog.New(slog.NewTextHandler(&log, nil))
	}
	put := func(id, to string) {
		t.Helper()
		control.api("PUT", "/redirects/"+id+"?host=a.test", map[string]string{"from": "a.test/" + id, "to": to}, nil)
	}
	put("kept", "https://kept.test/")
	put("changed", "https://before.test/")
	put("deleted", "https://gone.test/")
	edge := startNode(t, dir, follow)
	edge.leads("a.test", "/deleted", "https://gone.test/")
	edge.end()

	put("changed", "https://after.test/")
	control.api("DELETE", "/redirects/deleted?host=a.test", nil, nil)
	for i := range 20 {
		put(fmt.Sprintf("new%d", i), "https://new.test/")
	}
	if _, err := control.shared.db.Tidy(t.Context(), store.Retention{Changes: time.Nanosecond, Snapshots: time.Nanosecond}); err != nil {
		t.Fatal(err)
	}
	head, err := control.shared.db.Head(t.Context())
	if err != nil || head.Floor <= 3 {
		t.Fatalf("the feed begins behind %d (%v), and the edge is at 3", head.Floor, err)
	}
	edge = startNode(t, dir, follow)
	edge.leads("a.test", "/new19", "https://new.test/")
	edge.leads("a.test", "/kept", "https://kept.test/")
	edge.leads("a.test", "/changed", "https://after.test/")
	edge.leads("a.test", "/deleted", "")
	if !strings.Contains(log.String(), "410 Gone") {
		t.Errorf("the edge was not told that it is too old:\n%s", log.String())
	}
	put("next", "https://next.test/")
	edge.leads("a.test", "/next", "https://next.test/")
	if at, _ := edge.shared.replica.Cursor(); at.Rev != head.Rev+1 {
		t.Errorf("the edge is at %+v, want revision %d", at, head.Rev+1)
	}
}
