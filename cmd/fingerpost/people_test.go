package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// as runs a command line with the token of somebody else.
func (r *running) as(token string, args ...string) ran {
	r.t.Helper()
	return capture(r.t, append(args, "--server", r.url("admin"), "--token", token)...)
}

// token makes a token.
func (r *running) newToken(name, role, team string) string {
	r.t.Helper()
	var made struct{ Secret string }
	if err := json.Unmarshal([]byte(r.must("tokens", "add", name, "--role", role, "--team", team, "-o", "json")), &made); err != nil {
		r.t.Fatal(err)
	}
	return made.Secret
}

// typed gives a command line its input.
func typed(t *testing.T, text string) {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	stdin := os.Stdin
	os.Stdin = f
	t.Cleanup(func() {
		os.Stdin = stdin
		f.Close()
	})
}

func TestUsersAndTeamsAreSetShownAndDeleted(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	n.must("teams", "set", "shop", "--title", "The shop", "--review", "on")
	n.must("teams", "set", "news")
	wants(t, "the teams", n.must("teams", "list"), "NAME", "The shop", "yes", "news")
	n.must("teams", "set", "shop", "--review", "off")
	wants(t, "the team", n.must("teams", "get", "shop"), "title: The shop\n")
	if got := n.must("teams", "get", "shop"); strings.Contains(got, "review") {
		t.Errorf("a review that is off: %s", got)
	}
	typed(t, "a long password\n")
	n.must("users", "set", "kari", "--email", "kari@a.test", "--role", "shop=editor", "--role", "news=viewer", "--password")
	n.must("users", "set", "kari", "--role", "news=", "--role", "shop=publisher", "--disabled")
	wants(t, "the user", n.must("users", "get", "kari"), "email: kari@a.test\n", "shop: publisher\n", "disabled: true\n")
	wants(t, "the users", n.must("users", "list", "-o", "csv"), "kari,kari@a.test,shop=publisher,yes,")
	if got := n.must("users", "list", "-o", "json"); strings.Contains(got, "news") || strings.Contains(got, "password") {
		t.Errorf("a role that was taken away, or a password: %s", got)
	}
	n.must("hosts", "set", "a.test", "--team", "shop")
	if got := n.runAt("teams", "delete", "shop"); got.status != exitError || !strings.Contains(got.errors, "1 host of it") || !strings.Contains(got.errors, "say --yes") {
		t.Errorf("a team that has something: %+v", got)
	}
	n.must("users", "delete", "kari", "--yes")
	n.must("teams", "delete", "shop", "--yes")
	if got := n.must("users", "list", "-o", "json"); got != "[]\n" {
		t.Errorf("the users are %s", got)
	}
	token := n.newToken("ci", "viewer", "news")
	got := n.as(token, "whoami")
	wants(t, "whoami", got.out, "name: ", "news: viewer\n")
}

func TestADraftGoesFromAnEditorToAPublisher(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	n.must("teams", "set", "shop", "--review", "on")
	n.must("hosts", "set", "a.test", "--team", "shop")
	n.must("redirects", "set", "a.test/old", "--to", "https://one.test/", "--id", "old")
	editor, publisher := n.newToken("editor", "editor", "shop"), n.newToken("publisher", "publisher", "shop")
	file := filepath.Join(t.TempDir(), "rules.yaml")
	writeRulesFile(t, file, "redirects:\n  - {from: a.test/x, to: \"https://one.test/\"}\n")
	create := func(args ...string) string {
		t.Helper()
		got := n.as(editor, append([]string{"drafts", "create", "-o", "json"}, args...)...)
		var d struct{ ID string }
		if err := json.Unmarshal([]byte(got.out), &d); err != nil {
			t.Fatalf("%+v", got)
		}
		return d.ID
	}
	if got := n.as(editor, "redirects", "set", "a.test/x", "--to", "https://one.test/"); got.status != exitError {
		t.Errorf("an editor publishes: %+v", got)
	}
	id := create("-f", file, "--delete", "a.test/old", "--note", "why not")
	wants(t, "the list", n.as(editor, "drafts", "list", "--state", "open").out, id, "shop", "open", "why not")
	wants(t, "the draft", n.as(editor, "drafts", "get", id).out, "added: 1\n", "removed: 1\n")
	wants(t, "its changes", n.as(publisher, "drafts", "show", id).out, "+ redirect a.test/", "- redirect a.test/old")
	if got := n.as(editor, "drafts", "publish", id, "--yes"); got.status != exitError {
		t.Errorf("an editor publishes a draft: %+v", got)
	}
	if got := n.as(publisher, "drafts", "publish", id); got.status != exitError || !strings.Contains(got.errors, "- redirect a.test/old") || !strings.Contains(got.errors, "say --yes") {
		t.Errorf("nobody is asked: %+v", got)
	}
	wants(t, "a review", n.as(publisher, "drafts", "reject", id, "--note", "not now").out, "state: rejected\n", "not now")
	if got := n.as(publisher, "drafts", "publish", id, "--yes"); got.status != exitError {
		t.Errorf("a rejected draft: %+v", got)
	}
	n.as(publisher, "drafts", "approve", id)
	wants(t, "what publish prints", n.as(publisher, "drafts", "publish", id, "--yes", "--allow-removing", "1").out, "1 added, 0 changed, 1 removed")
	n.leads("a.test", "/x", "https://one.test/")
	n.leads("a.test", "/old", "")
	if got := n.as(publisher, "drafts", "publish", id, "--yes"); got.status != exitError || !strings.Contains(got.errors, "published already") {
		t.Errorf("for the second time: %+v", got)
	}
	got := n.as(editor, "drafts", "create", "--delete", "a.test/nothing")
	if want := "error: --delete a.test/nothing: redirect a.test/nothing does not exist\n"; got.status != exitError || !strings.HasPrefix(got.errors, want) {
		t.Errorf("a draft that deletes what is not there: %+v", got)
	}
	if got := n.as(editor, "drafts", "create"); got.status != exitUsage {
		t.Errorf("a draft of nothing: %+v", got)
	}
}

func TestDraftsAreDiscarded(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	n.must("teams", "set", "shop")
	n.must("hosts", "set", "a.test", "--team", "shop")
	var d struct{ ID string }
	if err := json.Unmarshal([]byte(n.must("drafts", "create", "--team", "shop", "--delete", "a.test", "-o", "json")), &d); err != nil {
		t.Fatal(err)
	}
	if got := n.runAt("drafts", "delete", d.ID); got.status != exitError || !strings.Contains(got.errors, "say --yes") {
		t.Errorf("nobody is asked: %+v", got)
	}
	n.must("drafts", "delete", d.ID, "--yes")
	if got := n.must("drafts", "list", "-o", "json"); got != "[]\n" {
		t.Errorf("the drafts are %s", got)
	}
}

func TestAnAuditIsExportedAndStillGoesOnFromThere(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	dir := t.TempDir()
	kept := filepath.Join(dir, "audit.ndjson")
	n.must("redirects", "set", "a.test/x", "--to", "https://one.test/", "--why", "because")
	n.must("audit", "export", kept)
	n.must("redirects", "set", "a.test/y", "--to", "https://one.test/")
	wants(t, "verify", n.must("audit", "verify", kept), "seq: ", "hash: ")
	text, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	if out := n.must("audit", "export"); !strings.HasPrefix(out, string(text)) || strings.Count(out, "\n") != strings.Count(string(text), "\n")+1 {
		t.Errorf("the audit on standard output:\n%s\nand in a file:\n%s", out, text)
	}
	for name, tt := range map[string]struct{ text, want string }{
		"another hash":   {strings.ReplaceAll(string(text), `"hash":"`, `"hash":"0`), "is not the one of the export"},
		"an empty file":  {"", "no whole export"},
		"something else": {"{}\n", "no whole export"},
		"cut":            {string(text[:len(text)-9]), "no whole export"},
		"a gap":          {strings.Join(append(strings.SplitAfter(string(text), "\n")[:1], strings.ReplaceAll(strings.SplitAfter(string(text), "\n")[0], `"seq":1`, `"seq":3`)), ""), "no whole export"},
	} {
		file := filepath.Join(dir, "bad.ndjson")
		writeRulesFile(t, file, tt.text)
		if got := n.runAt("audit", "verify", file); got.status != exitError || !strings.Contains(got.errors, "bad.ndjson: ") || !strings.Contains(got.errors, tt.want) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	other := startNode(t, t.TempDir(), nil)
	if got := other.runAt("audit", "verify", kept); got.status != exitError || !strings.Contains(got.errors, "is not the one of the export") {
		t.Errorf("the audit of another server: %+v", got)
	}
}

func TestJobsAreShownAndWatched(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	file := filepath.Join(t.TempDir(), "rules.yaml")
	var text strings.Builder
	text.WriteString("redirects:\n")
	for i := range 1500 {
		text.WriteString("  - {from: a.test/" + number(i+1) + ", to: \"https://one.test/\"}\n")
	}
	writeRulesFile(t, file, text.String())
	n.must("apply", "-f", file, "--yes")
	var jobs []struct{ ID, State string }
	if err := json.Unmarshal([]byte(n.must("jobs", "list", "-o", "json")), &jobs); err != nil || len(jobs) == 0 {
		t.Fatalf("%+v %v", jobs, err)
	}
	for _, j := range jobs {
		if j.State != "done" {
			t.Errorf("the job is %+v", j)
		}
	}
	wants(t, "the job", n.must("jobs", "get", jobs[0].ID), "state: done\n", "done: 1500\n")
	wants(t, "its end", n.must("jobs", "watch", jobs[0].ID), "state: done\n")
	if got := n.runAt("jobs", "cancel", jobs[0].ID); got.status != exitError {
		t.Errorf("cancelled late: %+v", got)
	}
}

func TestEveryFieldOfAHostAndARedirectHasAFlag(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	page := filepath.Join(t.TempDir(), "gone.html")
	writeRulesFile(t, page, "<h1>gone</h1>")
	n.must("redirects", "set", "a.test/x", "--id", "x", "--to", "https://one.test/", "--status", "302", "--query", "append", "--cache", "5m", "--header", "X-A: b: c", "--header", "X-B:d",
		"--priority", "3", "--ignore-case", "--trailing-slash", "strict", "--tags", "a,b", "--note", "a note", "--enabled=false",
		"--when-method", "GET,POST", "--when-country", "NO", "--when-language", "nb", "--when-address", "192.0.2.0/24", "--when-header", "X-Beta: *", "--when-cookie", "a=b=c", "--when-percent", "50",
		"--after", "2026-01-01T00:00:00Z", "--before", "2026-12-24T18:00:00+01:00")
	wants(t, "the redirect", n.must("redirects", "get", "a.test/x"), "status: 302\n", "query: append\n", "cache: 5m\n", "X-A: 'b: c'\n", "X-B: d\n", "priority: 3\n", "ignoreCase: true\n", "trailingSlash: strict\n",
		"- a\n", "note: a note\n", "enabled: false\n", "- POST\n", "- NO\n", "- nb\n", "- 192.0.2.0/24\n", "X-Beta: '*'\n", "a: b=c\n", "percent: 50\n", "after: ", "before: ")
	n.must("redirects", "set", "a.test/x", "--id", "x", "--status", "0", "--query", "", "--cache", "", "--header", "x-a:", "--header", "X-B:", "--priority", "0", "--ignore-case=false", "--trailing-slash", "", "--tags", "", "--note", "", "--enabled",
		"--when-method", "", "--when-country", "", "--when-language", "", "--when-address", "", "--when-header", "x-beta:", "--when-cookie", "a=", "--when-percent", "-1", "--after", "", "--before", "")
	if got := n.must("redirects", "get", "a.test", "x", "-o", "csv"); got != "host,id,from,regex,to,status,tags,source,rev\na.test,x,a.test/x,,https://one.test/,,,api,2\n" {
		t.Errorf("all taken away: %s", got)
	}
	if got := n.must("redirects", "get", "a.test", "x"); strings.Contains(got, "when") || strings.Contains(got, "headers") {
		t.Errorf("all taken away: %s", got)
	}
	n.must("redirects", "set", "a.test/gone", "--status", "410", "--page", page)
	n.must("redirects", "set", "a.test/gone", "--status", "451", "--when-country", "NO")
	wants(t, "two with the same from", n.must("redirects", "list"), "410", "451")
	n.must("hosts", "set", "h.test", "--https", "https-only", "--hsts", "max-age=63072000; includeSubDomains; preload", "--certificate", "none", "--fallback-status", "410", "--fallback-page", page, "--redirect-from", "i.test")
	wants(t, "the host", n.must("hosts", "get", "h.test"), "maxAge: 63072000\n", "includeSubDomains: true\n", "preload: true\n", "status: 410\n", "page: <h1>gone</h1>\n", "- i.test\n")
	n.must("hosts", "set", "h.test", "--hsts", "", "--fallback-status", "0", "--fallback-page", "", "--redirect-from", "")
	if got := n.must("hosts", "get", "h.test"); strings.Contains(got, "hsts") || strings.Contains(got, "fallback") || strings.Contains(got, "redirectFrom") {
		t.Errorf("all taken away: %s", got)
	}
}

func TestADifferenceToFilesNeedsOnlyToRead(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	file := filepath.Join(t.TempDir(), "rules.yaml")
	writeRulesFile(t, file, twoRedirects)
	n.must("apply", "-f", file, "--yes")
	viewer := n.newToken("viewer", "viewer", "*")
	if got := n.as(viewer, "diff", "-f", file, "--prune", "--exit-code"); got.status != exitOK || got.out != "" {
		t.Errorf("no difference: %+v", got)
	}
	writeRulesFile(t, file, "redirects:\n  - {from: a.test/x, to: \"https://two.test/\"}\n  - {from: a.test/z, to: \"https://two.test/\"}\n")
	got := n.as(viewer, "diff", "-f", file, "--prune", "--exit-code")
	if got.status != exitDifferences || strings.Count(got.out, "\n") != 3 {
		t.Errorf("%+v", got)
	}
	wants(t, "the difference", got.out, "~ redirect a.test/", "+ redirect a.test/", "- redirect a.test/")
	for _, args := range [][]string{{"diff"}, {"diff", "1", "-f", file}, {"diff", "1", "--prune"}, {"diff", "1", "2", "3"}} {
		if got := n.as(viewer, args...); got.status != exitUsage {
			t.Errorf("%v: %+v", args, got)
		}
	}
}

func TestReplayAsksAVersionOfTheServer(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	n.must("hosts", "set", "h.test", "--to", "https://h1.test/")
	n.must("redirects", "set", "a.test/x", "--to", "https://one.test/")
	n.must("redirects", "set", "a.test/y", "--to", "https://one.test/", "--id", "y")
	n.must("versions", "name", "good")
	n.must("redirects", "set", "a.test/x", "--to", "https://two.test/")
	n.must("redirects", "delete", "a.test/y")
	n.must("hosts", "set", "h.test", "--to", "https://h2.test/")
	n.must("redirects", "set", "a.test/z", "--to", "https://three.test/")
	dir := t.TempDir()
	log, same, next := filepath.Join(dir, "log"), filepath.Join(dir, "same.yaml"), filepath.Join(dir, "next.yaml")
	writeRulesFile(t, log, "https://a.test/x\nhttps://a.test/y\nhttps://a.test/z\nhttps://h.test/\n")
	const was = "hosts:\n  h.test: {to: \"https://h1.test/\"}\n" + twoRedirects
	writeRulesFile(t, same, was)
	writeRulesFile(t, next, strings.Replace(was, "a.test/x, to: \"https://one.test", "a.test/x, to: \"https://other.test", 1))
	server := []string{"--server", n.url("admin"), "--data", n.dir}
	for _, tt := range []struct{ old, new, want string }{
		{"good", same, "4 requests read, 0 would"},
		{"good", next, "4 requests read, 1 would"},
		{"current", same, "4 requests read, 4 would"},
		{"good", "current", "4 requests read, 4 would"},
		{"3", "good", "4 requests read, 0 would"},
	} {
		got := capture(t, append([]string{"replay", "--old", tt.old, "--new", tt.new, log}, server...)...)
		if got.status != exitOK || !strings.Contains(got.out, tt.want) {
			t.Errorf("from %s to %s: %+v", tt.old, tt.new, got)
		}
	}
	for _, tt := range []struct{ old, want string }{
		{"bad", "bad is neither a file nor a version of http://"},
		{"bad.yaml", "bad.yaml: cannot be read"},
		{"./bad", "bad: cannot be read"},
	} {
		got := capture(t, append([]string{"replay", "--old", tt.old, "--new", same, log}, server...)...)
		if got.status != exitError || !strings.Contains(got.errors, tt.want) {
			t.Errorf("from %s: %+v", tt.old, got)
		}
	}
}
