package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fingerpost/replica"
)

// running is a node of a test, on free ports.
type running struct {
	*node
	t    *testing.T
	stop context.CancelFunc
	done chan error
	dir  string
}

// startNode starts a node that keeps its content in dir.
func startNode(t *testing.T, dir string, change func(*options)) *running {
	t.Helper()
	o := options{http: "127.0.0.1:0", admin: "127.0.0.1:0", data: dir, role: roleAll,
		given: func(string) bool { return true }, out: io.Discard, log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&o)
	}
	n, err := start(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{node: n, t: t, stop: stop, done: make(chan error, 1), dir: dir}
	go func() { r.done <- n.run(ctx) }()
	t.Cleanup(r.end)
	return r
}

func (r *running) end() {
	if r.stop == nil {
		return
	}
	r.stop()
	r.stop = nil
	if err := <-r.done; err != nil {
		r.t.Error(err)
	}
}

func (r *running) url(listener string) string {
	for _, l := range r.listeners {
		if l.name == listener {
			return "http://" + l.Addr().String()
		}
	}
	r.t.Fatalf("no listener %s", listener)
	return ""
}

// api calls the admin API as the first admin.
func (r *running) api(method, path string, body, into any) {
	r.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		r.t.Fatal(err)
	}
	token, err := os.ReadFile(filepath.Join(r.dir, "admin.token"))
	if err != nil {
		r.t.Fatal(err)
	}
	req, err := http.NewRequest(method, r.url("admin")+"/api/v1"+path, bytes.NewReader(b))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		r.t.Fatalf("%s %s: %d %s %v", method, path, resp.StatusCode, answer, err)
	}
	if into != nil {
		if err := json.Unmarshal(answer, into); err != nil {
			r.t.Fatal(err)
		}
	}
}

// leads waits until a visitor of url is sent to want.
func (r *running) leads(host, path, want string) {
	r.t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	deadline := time.Now().Add(20 * time.Second)
	for {
		req, err := http.NewRequest(http.MethodGet, r.url("http")+path, nil)
		if err != nil {
			r.t.Fatal(err)
		}
		req.Host = host
		resp, err := client.Do(req)
		if err != nil {
			r.t.Fatal(err)
		}
		resp.Body.Close()
		if resp.Header.Get("Location") == want {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s%s leads to %d %q, want %q", host, path, resp.StatusCode, resp.Header.Get("Location"), want)
		}
		time.Sleep(5 * time.Millisecond) // between two looks at another process's work
	}
}

func TestContentOfFilesAndOfTheAPIStandBesideEachOther(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "rules.yaml")
	write := func(to string) {
		if err := os.WriteFile(file, []byte("redirects:\n  - {from: a.test/x, to: \""+to+"\"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("https://one.test/")
	data := filepath.Join(dir, "data")
	withFile := func(o *options) { o.redirects = []string{file} }
	n := startNode(t, data, withFile)
	n.api("POST", "/redirects", map[string]string{"from": "a.test/y", "to": "https://api.test/"}, nil)
	n.leads("a.test", "/x", "https://one.test/")
	n.leads("a.test", "/y", "https://api.test/")
	write("https://two.test/")
	n.leads("a.test", "/x", "https://two.test/")
	n.leads("a.test", "/y", "https://api.test/") // the file prunes its own only
	n.end()
	again := startNode(t, data, withFile)
	again.leads("a.test", "/x", "https://two.test/")
	again.leads("a.test", "/y", "https://api.test/")
}

func TestAnEdgeFollowsAndGoesOnAlone(t *testing.T) {
	control := startNode(t, t.TempDir(), func(o *options) { o.role = roleControl })
	if len(control.listeners) != 1 {
		t.Errorf("a control node has %d listeners, want the admin's only", len(control.listeners))
	}
	var token struct{ Secret string }
	control.api("POST", "/tokens", map[string]string{"name": "edge", "scope": "node"}, &token)
	dir := t.TempDir()
	follow := func(o *options) { o.role, o.control, o.token = roleEdge, control.url("admin"), token.Secret }
	edge := startNode(t, dir, follow)
	control.api("POST", "/redirects", map[string]string{"from": "a.test", "to": "https://one.test/"}, nil)
	edge.leads("a.test", "/", "https://one.test/")
	var nodes struct {
		Items []struct {
			Roles []string
			Rev   int64
		}
	}
	for deadline := time.Now().Add(20 * time.Second); len(nodes.Items) != 2; time.Sleep(5 * time.Millisecond) { // a report follows what it is about
		if control.api("GET", "/nodes", nil, &nodes); time.Now().After(deadline) {
			t.Fatalf("nodes: %+v, want the control node and the edge", nodes.Items)
		}
	}
	address := control.url("admin")
	control.end()
	edge.leads("a.test", "/", "https://one.test/")
	edge.end()
	alone := startNode(t, dir, func(o *options) { o.role, o.control, o.token = roleEdge, address, token.Secret })
	alone.leads("a.test", "/", "https://one.test/")
	if s := alone.shared.replica.Status(); s.Connected || !s.Ready {
		t.Errorf("status %+v, want ready and not connected", s)
	}
}

func TestRolesThatContradictEachOther(t *testing.T) {
	for _, tt := range []struct {
		o    options
		want string
	}{
		{options{role: "boss"}, "one of all, edge, control"},
		{options{role: roleEdge, data: "d"}, "--role edge needs --control URL"},
		{options{role: roleAll, data: "d", control: "http://c"}, "--control goes with --role edge"},
		{options{role: roleControl}, "need --data DIR"},
		{options{role: roleAll, store: "postgres://x"}, "need --data DIR"},
		{options{role: roleEdge, data: "d", control: "http://c", store: "sqlite:x"}, "an edge follows --control"},
	} {
		if err := tt.o.checkRole(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.o, err, tt.want)
		}
	}
	if err := (&options{role: roleAll}).checkRole(); err != nil {
		t.Error(err)
	}
}

func TestChangesThatContradictTheContentAreRefused(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	n.api("POST", "/redirects", map[string]string{"from": "a.test/x", "to": "https://b.test/y"}, nil)
	n.leads("a.test", "/x", "https://b.test/y")
	err := n.shared.replica.Check([]replica.Change{})
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(filepath.Join(n.dir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest("POST", n.url("admin")+"/api/v1/redirects", strings.NewReader(`{"from": "b.test/y", "to": "https://a.test/x"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 422 || !strings.Contains(string(body), "in a circle") {
		t.Errorf("a circle gets %d %s", resp.StatusCode, body)
	}
}

// The link of the first start is as good as the token: it is for whoever sits at the
// terminal, and in no log.
func TestLinkOfTheFirstStartIsInNoLog(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		var log, screen strings.Builder
		n := startNode(t, t.TempDir(), func(o *options) {
			o.log = slog.New(slog.NewTextHandler(&log, nil))
			if terminal {
				o.terminal = &screen
			}
		})
		want := n.url("admin") + "/login#fpo_" // where it listens, whichever port that is
		n.end()
		if strings.Contains(screen.String(), want) != terminal {
			t.Errorf("terminal %v: the screen shows %q, want %q", terminal, screen.String(), want)
		}
		if strings.Contains(log.String(), "fpo_") || !strings.Contains(log.String(), "admin.token") {
			t.Errorf("terminal %v: the log says %s", terminal, log.String())
		}
	}
}
