package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestDatabaseThatWasSetBackIsServedAsItIs sets the file of a store back beneath a
// node that has a newer copy, with a file of rules and an edge behind it.
func TestDatabaseThatWasSetBackIsServedAsItIs(t *testing.T) {
	for _, more := range []int{0, 1, 2, 4} { // revisions that the store makes before the edge is back
		t.Run(fmt.Sprint(more), func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "rules.yaml")
			if err := os.WriteFile(file, []byte("redirects:\n  - {from: f.test/x, to: \"https://file.test/\"}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			data, edgeData := filepath.Join(dir, "data"), filepath.Join(dir, "edge")
			withFile := func(o *options) { o.redirects = []string{file} }
			n := startNode(t, data, withFile)
			var token struct{ Secret string }
			n.api("POST", "/tokens", map[string]string{"name": "edge", "scope": "node"}, &token)
			n.api("POST", "/redirects", map[string]string{"from": "a.test/old", "to": "https://kept.test/"}, nil)
			n.leads("a.test", "/old", "https://kept.test/")
			n.end()
			db := filepath.Join(data, "fingerpost.db")
			copyFile(t, db, filepath.Join(dir, "earlier.db"))

			n = startNode(t, data, withFile)
			follow := func(o *options) { o.role, o.control, o.token = roleEdge, n.url("admin"), token.Secret }
			edge := startNode(t, edgeData, follow)
			for i := range 2 {
				n.api("POST", "/redirects", map[string]string{"from": fmt.Sprintf("a.test/%d", i), "to": "https://undone.test/"}, nil)
			}
			edge.leads("a.test", "/1", "https://undone.test/")
			n.leads("a.test", "/1", "https://undone.test/")
			edge.end()
			n.end()

			os.Remove(db + "-wal")
			os.Remove(db + "-shm")
			copyFile(t, filepath.Join(dir, "earlier.db"), db)
			n = startNode(t, data, withFile)
			for i := range more {
				n.api("POST", "/redirects", map[string]string{"from": fmt.Sprintf("b.test/%d", i), "to": "https://new.test/"}, nil)
			}
			edge = startNode(t, edgeData, follow)
			for _, node := range []*running{n, edge} {
				node.leads("a.test", "/1", "")
				node.leads("a.test", "/old", "https://kept.test/")
				node.leads("f.test", "/x", "https://file.test/")
				if more > 0 {
					node.leads("b.test", fmt.Sprintf("/%d", more-1), "https://new.test/")
				}
			}
			n.api("POST", "/redirects", map[string]string{"from": "c.test", "to": "https://later.test/"}, nil)
			edge.leads("c.test", "/", "https://later.test/")
			n.leads("c.test", "/", "https://later.test/")
		})
	}
}

// TestEdgeFollowsAnEdge: control, edge, edge; the control node is gone, and the last
// one begins with nothing.
func TestEdgeFollowsAnEdge(t *testing.T) {
	control := startNode(t, t.TempDir(), func(o *options) { o.role = roleControl })
	var token struct{ Secret string }
	control.api("POST", "/tokens", map[string]string{"name": "edge", "scope": "node"}, &token)
	near := startNode(t, t.TempDir(), func(o *options) { o.role, o.control, o.token = roleEdge, control.url("admin"), token.Secret })
	far := startNode(t, t.TempDir(), func(o *options) { o.role, o.control, o.token = roleEdge, near.url("admin"), token.Secret })
	control.api("POST", "/redirects", map[string]string{"from": "a.test", "to": "https://one.test/"}, nil)
	near.leads("a.test", "/", "https://one.test/")
	far.leads("a.test", "/", "https://one.test/")
	control.end()
	far.leads("a.test", "/", "https://one.test/")
	late := startNode(t, t.TempDir(), func(o *options) { o.role, o.control, o.token = roleEdge, near.url("admin"), token.Secret })
	late.leads("a.test", "/", "https://one.test/")
	last := startNode(t, t.TempDir(), func(o *options) { o.role, o.control, o.token = roleEdge, late.url("admin"), token.Secret })
	last.leads("a.test", "/", "https://one.test/")
	for _, tt := range []struct {
		token string
		want  int
	}{{token.Secret, 200}, {"fp_wrong", 401}, {"", 401}} {
		req, err := http.NewRequest("GET", near.url("admin")+"/v1/snapshot", nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.token != "" {
			req.Header.Set("Authorization", "Bearer "+tt.token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("a relay answers the token %q with %d, want %d", tt.token, resp.StatusCode, tt.want)
		}
	}
}

// TestBackupNeedsAStore: the wrong folder is told, and left as it is.
func TestBackupNeedsAStore(t *testing.T) {
	for _, cmd := range []*cobra.Command{backupCommand(), newEpochCommand()} {
		dir := t.TempDir()
		args := []string{"--data", dir}
		if cmd.Name() == "backup" {
			args = append(args, filepath.Join(t.TempDir(), "out"))
		}
		cmd.SetArgs(args)
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "there is no store") {
			t.Errorf("%s: %v", cmd.Name(), err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s leaves %v (%v)", cmd.Name(), left, err)
		}
	}
}

// TestNewEpochIsTold to those who follow.
func TestNewEpochIsTold(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir, nil)
	n.api("POST", "/redirects", map[string]string{"from": "a.test", "to": "https://one.test/"}, nil)
	n.leads("a.test", "/", "https://one.test/")
	before, _ := n.shared.replica.Cursor()
	cmd := newEpochCommand()
	cmd.SetArgs([]string{"--data", dir})
	cmd.SetOut(&strings.Builder{})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		now, _ := n.shared.replica.Cursor()
		if now.Epoch != before.Epoch && now.Rev == before.Rev {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("at %v, as before", now)
		}
	}
	db := n.shared.db
	head, err := db.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if epoch, err := db.EndEpoch(t.Context(), before.Epoch); err != nil || epoch != head.Epoch {
		t.Errorf("the end of an epoch that has ended: %s %v, want %s", epoch, err, head.Epoch)
	}
	n.leads("a.test", "/", "https://one.test/")
}
