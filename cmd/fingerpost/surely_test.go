package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// An answer that is lost, and a stream of a job that is cut, do not make an apply
// come twice, or fail.
func TestApplyFindsOutWhatHasBecomeOfIt(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	target, err := url.Parse(n.url("admin"))
	if err != nil {
		t.Fatal(err)
	}
	var lost, cut atomic.Int64 // so many are to come
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/changesets") && r.URL.Query().Get("dryRun") == "" && lost.Add(-1) >= 0:
			proxy.ServeHTTP(httptest.NewRecorder(), r) // it is done
			panic(http.ErrAbortHandler)
		case strings.HasSuffix(r.URL.Path, "/events") && cut.Add(-1) >= 0:
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	defer h.Close()
	dir := t.TempDir()
	for i, rules := range []int{3, 1500} {
		file := filepath.Join(dir, fmt.Sprintf("rules-%d.json", i))
		var list []string
		for k := range rules {
			list = append(list, fmt.Sprintf(`{"from": "h%d.test/%d", "to": "https://t.test/"}`, i, k))
		}
		writeRulesFile(t, file, `{"redirects": [`+strings.Join(list, ",")+`]}`)
		lost.Store(2)
		cut.Store(2)
		before, err := n.shared.db.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := capture(t, "apply", "-f", file, "--yes", "--server", h.URL, "--data", n.dir)
		if got.status != exitOK || !strings.Contains(got.out, fmt.Sprintf("%d added, 0 changed", rules)) || !strings.Contains(got.errors, "asking what has become of it") {
			t.Errorf("%d rules: exit status %d\n%s\n%s", rules, got.status, got.out, got.errors)
		}
		after, err := n.shared.db.Head(t.Context())
		if err != nil || after.Rev != before.Rev+1 || lost.Load() > 0 {
			t.Errorf("%d rules: from revision %d to %d, %v", rules, before.Rev, after.Rev, err)
		}
	}
	// What the server refuses is not asked again.
	if got := capture(t, "apply", "-f", filepath.Join(dir, "rules-0.json"), "--yes", "--server", h.URL, "--token", "fpt_wrong"); got.status != exitError || strings.Contains(got.errors, "asking") {
		t.Errorf("with a wrong token: %+v", got)
	}
}
