package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ran is what a command line came to.
type ran struct {
	status      int
	out, errors string
}

// runAt runs a command line against a node, as the first admin.
func (r *running) runAt(args ...string) ran {
	r.t.Helper()
	return capture(r.t, append(args, "--server", r.url("admin"), "--data", r.dir)...)
}

// must is runAt for what has to go well.
func (r *running) must(args ...string) string {
	r.t.Helper()
	got := r.runAt(args...)
	if got.status != exitOK {
		r.t.Fatalf("%v: exit status %d\n%s%s", args, got.status, got.out, got.errors)
	}
	return got.out
}

func capture(t *testing.T, args ...string) ran {
	t.Helper()
	stdout, stderr := os.Stdout, os.Stderr
	defer func() { os.Stdout, os.Stderr = stdout, stderr }()
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	os.Stdout, os.Stderr = files[0], files[1]
	got := ran{status: run(args)}
	for i, into := range []*string{&got.out, &got.errors} {
		if _, err := files[i].Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(files[i])
		if err != nil {
			t.Fatal(err)
		}
		*into = string(text)
	}
	return got
}

func writeRulesFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func wants(t *testing.T, what, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("%s has no %q:\n%s", what, part, got)
		}
	}
}

func TestPlanApplyAndThenNothingToDo(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	file := filepath.Join(t.TempDir(), "rules.yaml")
	writeRulesFile(t, file, "hosts:\n  b.test: {to: \"https://whole.test/\"}\nredirects:\n  - {from: a.test/x, to: \"https://one.test/\"}\n")
	wants(t, "the plan", n.must("plan", "-f", file), "+ host b.test", "+ redirect a.test/", "to https://one.test/", "2 to add, 0 to change, 0 to remove")
	if got := n.runAt("plan", "-f", file, "--exit-code"); got.status != exitDifferences {
		t.Errorf("plan --exit-code exits with %d, want %d", got.status, exitDifferences)
	}
	if got := n.runAt("apply", "-f", file); got.status != exitError || !strings.Contains(got.errors, "hint: say --yes") {
		t.Errorf("apply without anybody to ask: %+v", got)
	}
	wants(t, "what apply prints", n.must("apply", "-f", file, "--yes", "--wait"), "2 added, 0 changed, 0 removed")
	n.leads("a.test", "/x", "https://one.test/")
	n.leads("b.test", "/", "https://whole.test/")
	if got := n.runAt("plan", "-f", file, "--exit-code", "--prune"); got.status != exitOK || got.out != "nothing to do\n" {
		t.Errorf("a plan after apply: %+v", got)
	}
	writeRulesFile(t, file, "redirects:\n  - {from: a.test/x, to: \"https://two.test/\"}\n")
	wants(t, "the plan", n.must("plan", "-f", file), "~ redirect a.test/", "to https://one.test/ → https://two.test/", "0 to add, 1 to change, 0 to remove")
	var diffs []struct{ Kind, Key string }
	if err := json.Unmarshal([]byte(n.must("plan", "-f", file, "--prune", "-o", "json")), &diffs); err != nil || len(diffs) != 2 {
		t.Errorf("the plan as JSON: %+v %v", diffs, err)
	}
}

func TestPruneRemovesOnlyWhatTheSameSourceMade(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	file := filepath.Join(t.TempDir(), "rules.yaml")
	writeRulesFile(t, file, "redirects:\n  - {from: a.test/x, to: \"https://one.test/\"}\n  - {from: a.test/y, to: \"https://one.test/\"}\n")
	n.must("redirects", "set", "a.test/api", "--to", "https://api.test/")
	n.must("apply", "-f", file, "--source", "git", "--yes")
	writeRulesFile(t, file, "redirects:\n  - {from: a.test/y, to: \"https://one.test/\"}\n")
	if got := n.must("apply", "-f", file, "--source", "git", "--yes"); got != "nothing to do\n" {
		t.Errorf("without --prune: %s", got)
	}
	plan := n.must("plan", "-f", file, "--source", "git", "--prune")
	if strings.Count(plan, "\n") != 2 {
		t.Errorf("the plan names what stays as it is:\n%s", plan)
	}
	wants(t, "the plan", plan, "- redirect a.test/", "0 to add, 0 to change, 1 to remove")
	got := n.runAt("apply", "-f", file, "--source", "git", "--prune", "--yes")
	if got.status != exitError || !strings.Contains(got.errors, "hint: if that is meant, say --allow-removing 1") {
		t.Errorf("apply that removes half: %+v", got)
	}
	n.must("apply", "-f", file, "--source", "git", "--prune", "--yes", "--allow-removing", "1", "--wait")
	n.leads("a.test", "/x", "")
	n.leads("a.test", "/y", "https://one.test/")
	n.leads("a.test", "/api", "https://api.test/")
	other := n.runAt("apply", "-f", file, "--source", "elsewhere", "--yes")
	if other.status != exitError || !strings.HasPrefix(other.errors, "error: "+file+":2:") || !strings.Contains(other.errors, "belongs to the source git\nhint: change it where it comes from, or take it over with --take") {
		t.Errorf("another source with the same redirect: %+v", other)
	}
}

func TestTakeMakesItTheOtherSources(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	file := filepath.Join(t.TempDir(), "rules.yaml")
	writeRulesFile(t, file, "redirects:\n  - {from: a.test/x, to: \"https://one.test/\"}\n")
	n.must("redirects", "set", "a.test/x", "--to", "https://one.test/")
	if got := n.runAt("plan", "-f", file); got.status != exitError || !strings.Contains(got.errors, "belongs to the source api") {
		t.Errorf("without --take: %+v", got)
	}
	wants(t, "the plan", n.must("plan", "-f", file, "--take"), "~ redirect a.test/", "only its source", "0 to add, 1 to change, 0 to remove")
	n.must("apply", "-f", file, "--take", "--yes")
	wants(t, "the list", n.must("redirects", "list", "--source", "file:"+file), "a.test/x")
	if got := n.must("plan", "-f", file, "--prune"); got != "nothing to do\n" {
		t.Errorf("a plan after it: %s", got)
	}
}

func TestALargeApplyIsAJobThatIsWaitedFor(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	file := filepath.Join(t.TempDir(), "rules.yaml")
	var text strings.Builder
	text.WriteString("redirects:\n")
	for i := range 1500 {
		text.WriteString("  - {from: a.test/" + number(i+1) + ", to: \"https://one.test/\"}\n")
	}
	writeRulesFile(t, file, text.String())
	got := n.runAt("apply", "-f", file, "--yes", "--wait")
	if got.status != exitOK || !strings.Contains(got.out, "1500 added") || strings.Contains(got.errors, "rows") {
		t.Errorf("exit status %d, %d bytes of output\n%s", got.status, len(got.out), got.errors)
	}
	n.leads("a.test", "/1", "https://one.test/")
}

func TestFaultsOfTheServerNameThePlaceInTheFile(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	n.must("hosts", "set", "a.test", "--to", "https://whole.test/")
	n.api("PUT", "/teams/shop", map[string]string{}, nil)
	var token struct{ Secret string }
	if err := json.Unmarshal([]byte(n.must("tokens", "add", "ci", "--role", "editor", "--team", "shop", "-o", "json")), &token); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	writeRulesFile(t, file, "redirects:\n  - {from: a.test/x, to: \"https://one.test/\"}\n")
	got := capture(t, "apply", "-f", file, "--yes", "--server", n.url("admin"), "--token", token.Secret)
	if got.status != exitError || !strings.HasPrefix(got.errors, "error: "+file+":2:") {
		t.Errorf("%+v, want the line of %s", got, file)
	}
}

func TestHostsAreSetShownAndDeleted(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	n.must("hosts", "set", "a.test", "--to", "https://one.test/", "--status", "302", "--https", "allow-all", "--also", "aa.test")
	n.must("hosts", "set", "b.test", "--like", "a.test")
	n.leads("b.test", "/", "https://one.test/")
	wants(t, "the host", n.must("hosts", "get", "b.test"), "name: b.test\n", "to: https://one.test/\n", "status: 302\n")
	wants(t, "the list", n.must("hosts", "list"), "NAME", "a.test", "b.test", "https://one.test/")
	wants(t, "the CSV", n.must("hosts", "list", "-o", "csv"), "name,to,status,https,certificate,team,source,rev\n", "b.test,https://one.test/,302,allow-all,\"waiting: there is no certificate for it, and no CA is set up\",,api,")
	n.must("hosts", "set", "b.test", "--status", "301")
	wants(t, "the changed host", n.must("hosts", "get", "b.test"), "to: https://one.test/\n", "status: 301\n")
	n.must("redirects", "set", "b.test/x", "--to", "https://x.test/")
	if got := n.runAt("hosts", "delete", "b.test", "--yes"); got.status != exitError || !strings.Contains(got.errors, "hint: say --redirects delete") {
		t.Errorf("delete of a host with a redirect: %+v", got)
	}
	if got := n.runAt("hosts", "delete", "b.test", "--redirects", "delete"); got.status != exitError || !strings.Contains(got.errors, "- 1 redirect of it") {
		t.Errorf("delete with nobody to ask: %+v", got)
	}
	if got := n.runAt("hosts", "delete", "b.test", "--redirects", "delete", "--yes"); got.status != exitError || !strings.Contains(got.errors, "hint: if that is meant, say --allow-removing 1") {
		t.Errorf("delete of all redirects of a team without a word: %+v", got)
	}
	wants(t, "what delete prints", n.must("hosts", "delete", "b.test", "--redirects", "delete", "--allow-removing", "1", "--yes"), "2 removed")
	if got := n.runAt("hosts", "get", "b.test"); got.status != exitError || !strings.HasPrefix(got.errors, "error: ") {
		t.Errorf("a host that is gone: %+v", got)
	}
}

func TestRedirectsAreSetShownAndDeleted(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	var r struct{ Host, ID string }
	if err := json.Unmarshal([]byte(n.must("redirects", "set", "a.test/x", "--to", "https://one.test/", "-o", "json")), &r); err != nil {
		t.Fatal(err)
	}
	n.must("redirects", "set", "a.test/x", "--status", "302")
	wants(t, "the redirect", n.must("redirects", "get", r.Host, r.ID), "from: a.test/x\n", "to: https://one.test/\n", "status: 302\n")
	n.must("redirects", "set", "b.test/y", "--to", "https://two.test/")
	if got := n.must("redirects", "list", "--host", "a.test", "-o", "ndjson"); strings.Count(got, "\n") != 1 || !strings.Contains(got, "a.test/x") {
		t.Errorf("the redirects of a host: %s", got)
	}
	wants(t, "the list", n.must("redirects", "list"), "a.test/x", "b.test/y")
	wants(t, "what delete prints", n.must("redirects", "delete", r.Host, r.ID), "1 removed")
	if got := n.must("redirects", "list", "-o", "json", "--host", "a.test"); got != "[]\n" {
		t.Errorf("an empty list is %q", got)
	}
}

func TestAnExportIsAFileThatAnotherNodeTakes(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	n.must("hosts", "set", "a.test", "--to", "https://whole.test/", "--status", "302")
	n.must("redirects", "set", "a.test/x", "--to", "https://one.test/?q=a%20b", "--tags", "t1,true")
	n.must("redirects", "set", "b.test", "--regex", "^/r/(?P<n>[0-9]+)$", "--to", "https://two.test/:n", "--id", "007")
	dir := t.TempDir()
	for _, format := range []string{"yaml", "json"} {
		file := filepath.Join(dir, "all."+format)
		writeRulesFile(t, file, n.must("export", "-o", format))
		if got := capture(t, "check", file); got.status != exitOK {
			t.Fatalf("check of the export: %+v", got)
		}
		other := startNode(t, t.TempDir(), nil)
		other.must("apply", "-f", file, "--yes")
		for _, visit := range [][3]string{{"a.test", "/", "https://whole.test/"}, {"a.test", "/x", "https://one.test/?q=a%20b"}, {"b.test", "/r/12", "https://two.test/12"}} {
			n.leads(visit[0], visit[1], visit[2])
			other.leads(visit[0], visit[1], visit[2])
		}
		if again := other.must("export", "-o", format); again != n.must("export", "-o", format) {
			t.Errorf("the export of the other node is another:\n%s", again)
		}
	}
}

func TestPagesAreExportedAsFilesBesideTheDocument(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	dir := t.TempDir()
	t.Chdir(dir)
	writeRulesFile(t, "gone.html", "<h1>gone</h1>")
	writeRulesFile(t, "rules.yaml", "redirects:\n  - {from: a.test/x, status: 410, page: gone.html}\n")
	n.must("apply", "-f", "rules.yaml", "--yes")
	if got := n.runAt("export"); got.status != exitError || !strings.Contains(got.errors, "hint: say --pages DIR") {
		t.Errorf("export without a folder for pages: %+v", got)
	}
	writeRulesFile(t, "all.yaml", n.must("export", "--pages", "pages"))
	if got := n.must("plan", "-f", "all.yaml", "--source", fileSource([]string{"rules.yaml"}), "--prune"); got != "nothing to do\n" {
		t.Errorf("the plan of the export is\n%s", got)
	}
}

func TestHistoryIsNamedComparedAndBroughtBack(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	n.must("redirects", "set", "a.test/x", "--to", "https://one.test/")
	n.must("versions", "name", "good")
	n.must("redirects", "set", "a.test/x", "--to", "https://bad.test/", "--why", "a mistake")
	wants(t, "the difference", n.must("diff", "good"), "~ redirect a.test/", "to https://one.test/ → https://bad.test/")
	if got := n.runAt("diff", "good", "--exit-code"); got.status != exitDifferences {
		t.Errorf("diff --exit-code exits with %d", got.status)
	}
	wants(t, "the changes", n.must("changes", "list"), "a mistake", "good")
	wants(t, "one change", n.must("changes", "list", "--limit", "1"), "a mistake")
	n.must("versions", "restore", "good", "--yes")
	n.leads("a.test", "/x", "https://one.test/")
	var versions []struct{ Rev int64 }
	if err := json.Unmarshal([]byte(n.must("versions", "list", "-o", "json")), &versions); err != nil || len(versions) != 1 {
		t.Fatalf("versions: %+v %v", versions, err)
	}
	if got := n.runAt("changes", "revert", number(versions[0].Rev), "--yes", "--allow-removing", "1"); got.status != exitError || !strings.Contains(got.errors, "it was changed again") {
		t.Errorf("a revert of what was changed since: %+v", got)
	}
	n.must("redirects", "set", "a.test/x", "--to", "https://three.test/")
	var changes []struct{ Rev int64 }
	if err := json.Unmarshal([]byte(n.must("changes", "list", "-o", "json", "--limit", "1")), &changes); err != nil || len(changes) != 1 {
		t.Fatalf("changes: %+v %v", changes, err)
	}
	n.must("changes", "revert", number(changes[0].Rev), "--yes")
	n.leads("a.test", "/x", "https://one.test/")
}

func TestTheSmallerListsArePrinted(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	n.must("redirects", "set", "a.test/x", "--to", "https://one.test/")
	wants(t, "nodes list", n.must("nodes", "list"), "ID", "REV", "SEEN")
	wants(t, "audit list", n.must("audit", "list"), "ACTION", "redirect", "a.test/")
	wants(t, "audit verify", n.must("audit", "verify"), "seq: ", "hash: ")
	n.must("sources", "list")
	var made struct{ ID, Secret string }
	if err := json.Unmarshal([]byte(n.must("tokens", "add", "ci", "--scope", "read", "--role", "viewer", "--team", "*", "-o", "json")), &made); err != nil || made.Secret == "" {
		t.Fatalf("the token: %+v %v", made, err)
	}
	list := n.must("tokens", "list", "-o", "yaml")
	if wants(t, "tokens list", list, made.ID); strings.Contains(list, made.Secret) {
		t.Error("a secret is told twice")
	}
	n.must("tokens", "delete", made.ID)
	if got := capture(t, "hosts", "list", "--server", n.url("admin"), "--token", made.Secret); got.status != exitError {
		t.Errorf("a token that is revoked: %+v", got)
	}
}

func TestWhatIsWrongWithTheServerOrTheCommandLineIsSaid(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		want   []string
	}{
		{"a bad token", []string{"hosts", "list", "--server", n.url("admin"), "--token", "fpt_wrong"}, exitError, []string{"error: ", "hint: give a token with --token"}},
		{"no token", []string{"hosts", "list", "--server", n.url("admin")}, exitError, []string{"error: ", "hint: give a token with --token"}},
		{"no server", []string{"hosts", "list", "--server", "http://127.0.0.1:1"}, exitError, []string{"error: no answer from http://127.0.0.1:1: ", "hint: is fingerpost serve running"}},
		{"no URL", []string{"hosts", "list", "--server", "here"}, exitError, []string{"error: ", "hint: "}},
		{"not an admin listener", []string{"hosts", "list", "--server", n.url("http")}, exitError, []string{"error: ", "hint: is this the address of the admin listener?"}},
		{"no data", []string{"hosts", "list", "--data", filepath.Join(t.TempDir(), "none")}, exitError, []string{"admin.token", "hint: "}},
		{"a bad format", []string{"hosts", "list", "-o", "xml"}, exitUsage, []string{"table, json, ndjson, csv, yaml"}},
		{"no verb", []string{"hosts", "lits"}, exitUsage, []string{"error: unknown command \"lits\""}},
		{"no files", []string{"plan", "--server", n.url("admin")}, exitUsage, []string{"-f PATH"}},
	} {
		t.Setenv("FINGERPOST_TOKEN", "")
		got := capture(t, tt.args...)
		if got.status != tt.status {
			t.Errorf("%s: exit status %d, want %d", tt.name, got.status, tt.status)
		}
		wants(t, tt.name, got.errors, tt.want...)
		if got.out != "" {
			t.Errorf("%s: something on stdout: %s", tt.name, got.out)
		}
	}
}

func TestHintsOfTheAPIAreSaidInVerbs(t *testing.T) {
	for hint, want := range map[string]string{
		"take=true takes it over":                                         "--take takes it over",
		"if that is meant, say allowRemoving=7":                           "if that is meant, say --allow-removing 7",
		"ask one of them: GET /api/v1/session says who you are":           "ask one of them: fingerpost whoami says who you are",
		"GET /api/v1/changes lists them":                                  "fingerpost changes list lists them",
		"PUT /api/v1/teams/{team} makes one":                              "fingerpost teams set NAME makes one",
		"resume it: POST /api/v1/sources/{label}/resume":                  "resume it: fingerpost sources resume LABEL",
		"say redirects=delete to delete them too, or redirects=keep to …": "say --redirects delete to delete them too, or --redirects keep to …",
		"look at jobs/job-0a1b":                                           "look at fingerpost jobs get job-0a1b",
		"letters, digits and hyphens":                                     "letters, digits and hyphens",
	} {
		if got := asVerb(hint); got != want {
			t.Errorf("%q is %q, want %q", hint, got, want)
		}
	}
}
