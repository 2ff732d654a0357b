package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFileThatLosesMostOfItsRulesIsRefused, while it is watched and at a start, until
// somebody says that it is meant.
func TestFileThatLosesMostOfItsRulesIsRefused(t *testing.T) {
	dir := t.TempDir()
	file, data := filepath.Join(dir, "redirects.json"), filepath.Join(dir, "data")
	write := func(rules int) {
		var b strings.Builder
		b.WriteString(`{"redirects": [`)
		for i := range rules {
			if i > 0 {
				b.WriteString(",")
			}
			fmt.Fprintf(&b, `{"from": "a.test/%d", "to": "https://one.test/%d"}`, i, i)
		}
		b.WriteString("]}")
		if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	withFile := func(o *options) { o.redirects = []string{file} }
	shown := func(n *running, want string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			var list struct{ Items []struct{ Error string } }
			n.api("GET", "/sources", nil, &list)
			all := fmt.Sprint(list)
			if strings.Contains(all, want) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("sources: %s, want %q", all, want)
			}
		}
	}
	write(200)
	n := startNode(t, data, withFile)
	n.leads("a.test", "/199", "https://one.test/199")
	write(160) // a few are no matter
	n.leads("a.test", "/199", "")
	write(0)
	shown(n, "would take away more than 50 of its 160 items")
	n.leads("a.test", "/159", "https://one.test/159")
	n.end()
	n = startNode(t, data, withFile)
	n.leads("a.test", "/159", "https://one.test/159")
	shown(n, "would take away more than 50 of its 160 items")
	write(159) // mended
	n.leads("a.test", "/159", "")
	n.leads("a.test", "/158", "https://one.test/158")
	n.end()
	write(0)
	n = startNode(t, data, func(o *options) { withFile(o); o.maxRemoved = 200 })
	n.leads("a.test", "/158", "")
}
