package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/internal/faults"
	"fingerpost/internal/testpg"
	"fingerpost/replica"
	"fingerpost/source"
)

// TestSettingsFillInWhatFlagsLeaveOpen has a case for each rule of what comes
// before what.
func TestSettingsFillInWhatFlagsLeaveOpen(t *testing.T) {
	nothing, kept := "", "/srv/kept"
	for _, tt := range []struct {
		name     string
		flags    options
		given    []string
		settings source.Settings
		env      string
		want     options
	}{
		{"defaults", options{}, nil, source.Settings{}, "", options{role: roleAll, data: "data"}},
		{"systemd", options{}, nil, source.Settings{}, "/var/lib/fingerpost:/other", options{role: roleAll, data: "/var/lib/fingerpost"}},
		{"a store says where the data is", options{}, nil, source.Settings{Store: "sqlite:/srv/s"}, "/x", options{role: roleAll, store: "sqlite:/srv/s", data: "/srv/s"}},
		{"a file too", options{}, nil, source.Settings{Store: "sqlite:/srv/s/a.db"}, "", options{role: roleAll, store: "sqlite:/srv/s/a.db", data: "/srv/s"}},
		{"a server does not", options{}, nil, source.Settings{Store: "postgres://db/x"}, "", options{role: roleAll, store: "postgres://db/x", data: "data"}},
		{"data of the file", options{}, nil, source.Settings{Store: "sqlite:/srv/s", Data: &kept}, "/x", options{role: roleAll, store: "sqlite:/srv/s", data: kept}},
		{"nothing is kept", options{}, nil, source.Settings{Data: &nothing}, "/x", options{role: roleAll}},
		{"flags come first", options{data: "d", role: roleEdge, control: "https://c", name: "n"}, []string{"data", "role", "control", "node"},
			source.Settings{Data: &kept, Role: roleControl, Node: "other", Control: source.Control{URL: "https://other"}}, "/x", options{data: "d", role: roleEdge, control: "https://c", name: "n"}},
		{"a flag that is empty", options{}, []string{"data"}, source.Settings{Data: &kept}, "/x", options{role: roleAll}},
		{"an edge", options{}, nil, source.Settings{Role: roleEdge, Node: "e", Control: source.Control{URL: "https://c", CA: "/ca"}}, "", options{role: roleEdge, data: "data", control: "https://c", ca: "/ca", name: "e"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("STATE_DIRECTORY", tt.env)
			o := tt.flags
			o.given = func(flag string) bool { return strings.Contains(" "+strings.Join(tt.given, " ")+" ", " "+flag+" ") }
			n := &node{o: o, settings: &tt.settings}
			if err := n.settle(); err != nil {
				t.Fatal(err)
			}
			got := n.o
			show := func(o options) string {
				return fmt.Sprintf("role %q data %q store %q control %q ca %q node %q", o.role, o.data, o.store, o.control, o.ca, o.name)
			}
			if show(got) != show(tt.want) {
				t.Errorf("got  %s\nwant %s", show(got), show(tt.want))
			}
		})
	}
}

// TestTwoNodesWithOneNameAreNoticed starts a node anew, which is no fault, and
// then has a copy of it beside it, which is.
func TestTwoNodesWithOneNameAreNoticed(t *testing.T) {
	var r roster
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	report := func(instance string) error {
		now = now.Add(5 * time.Second)
		return r.admit(&replica.Report{Node: "edge", Instance: instance}, now)
	}
	for i, instance := range []string{"a", "a", "b", "b", "c", "c"} {
		if err := report(instance); err != nil {
			t.Fatalf("report %d, of %s: %v", i, instance, err)
		}
	}
	if err := report("b"); err == nil || !strings.Contains(err.Error(), "two nodes call themselves edge") {
		t.Errorf("the copy reports itself: %v", err)
	}
	if err := report("c"); err == nil {
		t.Error("the other one is told nothing")
	}
	now = now.Add(2 * time.Minute)
	if err := report("c"); err != nil {
		t.Errorf("after the copy has gone: %v", err)
	}
}

// TestARelayHandsReportsOnOnce: the newest of each node.
func TestARelayHandsReportsOnOnce(t *testing.T) {
	var r relayed
	r.put([]replica.Report{{Node: "a", At: replica.Cursor{Rev: 1}}, {}})
	r.put([]replica.Report{{Node: "a", At: replica.Cursor{Rev: 2}}, {Node: "b"}})
	got := map[string]int64{}
	for _, one := range r.take() {
		got[one.Node] = one.At.Rev
	}
	if len(got) != 2 || got["a"] != 2 {
		t.Errorf("got %v, want a at 2, and b", got)
	}
	if again := r.take(); len(again) != 0 {
		t.Errorf("handed on again: %v", again)
	}
}

// TestSourcesThatAreNotNamedGiveUpWhatTheyHad starts with other files each time:
// what is served is what they hold, and what the API made.
func TestSourcesThatAreNotNamedGiveUpWhatTheyHad(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	rules := func(name, to string) string {
		file := filepath.Join(dir, name)
		writeRulesFile(t, file, "redirects:\n  - {from: a.test/both, to: \""+to+"\"}\n  - {from: a.test/"+name+", to: \""+to+"\"}\n")
		return file
	}
	one, two := rules("one.yaml", "https://one.test/"), rules("two.yaml", "https://two.test/")
	with := func(files ...string) *running {
		return startNode(t, data, func(o *options) { o.redirects = files })
	}
	n := with(one)
	n.must("redirects", "set", "a.test/api", "--to", "https://api.test/")
	n.leads("a.test", "/both", "https://one.test/")
	n.end()
	n = with(two)
	n.leads("a.test", "/both", "https://two.test/")
	n.leads("a.test", "/two.yaml", "https://two.test/")
	n.leads("a.test", "/one.yaml", "")
	n.leads("a.test", "/api", "https://api.test/")
	n.end()
	n = with()
	n.leads("a.test", "/both", "")
	n.leads("a.test", "/api", "https://api.test/")
	n.end()
	with(one).leads("a.test", "/both", "https://one.test/")
}

// TestStartsAndServesWhileItsPostgreSQLIsAway loses the database, starts anew
// without it, changes a file meanwhile, and has it back.
func TestStartsAndServesWhileItsPostgreSQLIsAway(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	server, err := testpg.Start(testpg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	proxy, err := faults.NewProxy(server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "rules.yaml")
	write := func(to string) {
		writeRulesFile(t, file, "redirects:\n  - {from: a.test/file, to: \""+to+"\"}\n")
	}
	write("https://one.test/")
	data := filepath.Join(dir, "data")
	begin := func() *running {
		return startNode(t, data, func(o *options) {
			o.store, o.redirects = testpg.DSN(proxy.Addr(), "postgres"), []string{file}
		})
	}
	proxy.Refuse(true)
	if n, err := start(options{http: "127.0.0.1:0", data: filepath.Join(dir, "new"), store: testpg.DSN(proxy.Addr(), "postgres"), given: func(string) bool { return true }, out: io.Discard, log: testLogger(t)}); err == nil {
		n.close()
		t.Fatal("a node without a copy starts without its store")
	} else if own := new(fingerpost.Error); !errors.As(err, &own) || own.Hint == "" || strings.Contains(own.Message, "\n") {
		t.Errorf("it says %v", err)
	}
	proxy.Refuse(false)
	n := begin()
	n.must("redirects", "set", "a.test/api", "--to", "https://api.test/")
	n.leads("a.test", "/file", "https://one.test/")
	n.leads("a.test", "/api", "https://api.test/")

	proxy.Refuse(true)
	proxy.CutAll()
	n.leads("a.test", "/api", "https://api.test/") // while it runs
	n.end()
	write("https://two.test/")
	n = begin()
	n.leads("a.test", "/api", "https://api.test/")
	n.leads("a.test", "/file", "https://one.test/")
	if status, body := get(t, n.url("admin")+"/readyz"); status != 200 || !strings.Contains(body, "which was current") && !strings.Contains(body, "no word") {
		t.Errorf("/readyz: %d %s", status, body)
	}
	token, err := os.ReadFile(filepath.Join(data, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest("GET", n.url("admin")+"/api/v1/hosts", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(body), `"code":"unavailable"`) {
		t.Errorf("the API answers %d, Retry-After %q, %s", resp.StatusCode, resp.Header.Get("Retry-After"), body)
	}

	proxy.Refuse(false)
	n.leads("a.test", "/file", "https://two.test/")
	n.must("redirects", "set", "a.test/later", "--to", "https://later.test/")
	n.leads("a.test", "/later", "https://later.test/")
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func testLogger(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }
