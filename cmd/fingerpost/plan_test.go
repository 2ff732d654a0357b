package main

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const twoRedirects = "redirects:\n  - {from: a.test/x, to: \"https://one.test/\"}\n  - {from: a.test/y, to: \"https://one.test/\"}\n"

func TestAPlanIsAppliedExactlyAndOnce(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	dir := t.TempDir()
	file, plan := filepath.Join(dir, "rules.yaml"), filepath.Join(dir, "next.plan")
	writeRulesFile(t, file, "hosts:\n  a.test: {https: allow-all, hsts: {maxAge: 5}}\n  b.test: {to: \"https://whole.test/\"}\n"+twoRedirects)
	n.must("apply", "-f", file, "--yes")
	writeRulesFile(t, file, "hosts:\n  a.test: {https: allow-all, hsts: {maxAge: 6}}\nredirects:\n  - {from: a.test/y, to: \"https://two.test/\", when: {countries: [NO]}, headers: {X-A: \"<&>\"}}\n  - {from: a.test/z, to: \"https://three.test{path}\"}\n")
	wants(t, "the plan", n.must("plan", "-f", file, "--prune", "--out", plan, "--allow-removing", "2"), "2 to add, 1 to change, 3 to remove")
	writeRulesFile(t, file, "redirects: []\n") // a plan has nothing to do with its files any more
	if got := n.runAt("apply", plan); got.status != exitError || !strings.Contains(got.errors, "hint: say --yes") || !strings.Contains(got.out, "- host b.test") {
		t.Errorf("a plan with nobody to ask: %+v", got)
	}
	wants(t, "what apply prints", n.must("apply", plan, "--yes", "--wait"), "2 added, 1 changed, 3 removed")
	n.leads("a.test", "/x", "")
	n.leads("a.test", "/z", "https://three.test/z")
	wants(t, "the host", n.must("hosts", "get", "a.test"), "maxAge: 6")
	if got := n.runAt("apply", plan, "--yes"); got.status != exitOK || !strings.Contains(got.errors, "this plan was applied before, as revision 2; nothing was changed now") {
		t.Errorf("the plan for the second time: %+v", got)
	}
}

func TestAPlanWhoseServerHasChangedIsRefused(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	dir := t.TempDir()
	file, plan := filepath.Join(dir, "rules.yaml"), filepath.Join(dir, "next.plan")
	writeRulesFile(t, file, twoRedirects)
	n.must("plan", "-f", file, "--out", plan)
	n.must("redirects", "set", "other.test/x", "--to", "https://one.test/")
	got := n.runAt("apply", plan, "--yes")
	if got.status != exitError || !strings.Contains(got.errors, "hint: plan again") {
		t.Errorf("%+v", got)
	}
	n.leads("a.test", "/x", "")
	n.must("apply", "-f", file, "--yes")
	n.must("plan", "-f", file, "--out", plan)
	if got := n.must("apply", plan, "--yes"); got != "" {
		t.Errorf("a plan without anything to do: %q", got)
	}
	n.must("redirects", "set", "other.test/x", "--to", "https://two.test/")
	if got := n.runAt("apply", plan, "--yes"); got.status != exitError || !strings.Contains(got.errors, "hint: plan again") {
		t.Errorf("a plan without anything to do, of another revision: %+v", got)
	}
}

func TestAPlanThatRemovesMuchHasToSayIt(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	dir := t.TempDir()
	file, plan := filepath.Join(dir, "rules.yaml"), filepath.Join(dir, "next.plan")
	writeRulesFile(t, file, twoRedirects)
	n.must("apply", "-f", file, "--yes")
	writeRulesFile(t, file, "redirects: []\n")
	if got := n.runAt("plan", "-f", file, "--prune", "--out", plan); got.status != exitOK || !strings.Contains(got.errors, "apply needs --allow-removing 2") {
		t.Errorf("the plan: %+v", got)
	}
	if got := n.runAt("apply", plan, "--yes"); got.status != exitError || !strings.Contains(got.errors, "hint: if that is meant, say --allow-removing 2") {
		t.Errorf("without the number: %+v", got)
	}
	n.must("apply", plan, "--yes", "--allow-removing", "2")
}

func TestBadPlansAreRefusedAndNothingChanges(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	dir := t.TempDir()
	file, good := filepath.Join(dir, "rules.yaml"), filepath.Join(dir, "good.plan")
	writeRulesFile(t, file, twoRedirects)
	n.must("plan", "-f", file, "--out", good)
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	resealed := func(text string) string {
		body := text[:strings.LastIndex(strings.TrimSuffix(text, "\n"), "\n")+1]
		sum := sha256.Sum256([]byte(body))
		return body + `{"sha256":"` + hex.EncodeToString(sum[:]) + `"}` + "\n"
	}
	lines := strings.SplitAfter(text, "\n")
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"an empty file", "", []string{"this is no plan", "hint: fingerpost plan -f PATH --out"}},
		{"a file of redirects", twoRedirects, []string{"this is no plan", "apply -f"}},
		{"JSON of something else", `{"redirects": []}` + "\n", []string{"this is no plan"}},
		{"what plan -o json prints", n.must("plan", "-f", file, "-o", "json"), []string{"this is no plan"}},
		{"a target that somebody changed", strings.Replace(text, "one.test", "bad.test", 1), []string{"changed or cut", "hint: plan again"}},
		{"another revision", strings.Replace(text, `"revision":0`, `"revision":7`, 1), []string{"changed or cut"}},
		{"cut within a line", text[:len(text)-3], []string{"changed or cut"}},
		{"cut before the last line", strings.Join(lines[:len(lines)-2], ""), []string{"changed or cut"}},
		{"only its head", lines[0], []string{"changed or cut"}},
		{"a line twice", lines[0] + lines[1] + strings.Join(lines[1:], ""), []string{"changed or cut"}},
		{"CR LF", strings.ReplaceAll(text, "\n", "\r\n"), []string{"changed or cut"}},
		{"of a later program", resealed(strings.Replace(text, planFormat, "fingerpost plan 2", 1)), []string{`this is a "fingerpost plan 2"`, "the same version"}},
		{"of another server", resealed(strings.Replace(text, n.url("admin"), "https://other.test", 1)), []string{"made for https://other.test", "hint: plan against this server"}},
		{"with a line that is no change", resealed(lines[0] + "{]\n" + "x\n"), []string{"changed or cut"}},
		{"with a rule that cannot be", resealed(strings.Replace(text, `"https://one.test/"`, `"one test"`, 1)), []string{"bad.plan:2: "}},
	} {
		plan := filepath.Join(dir, "bad.plan")
		writeRulesFile(t, plan, tt.text)
		got := n.runAt("apply", plan, "--yes")
		if got.status != exitError {
			t.Errorf("%s: %+v", tt.name, got)
		}
		wants(t, tt.name, got.errors, append(tt.want, "bad.plan")...)
	}
	if got := n.runAt("apply", filepath.Join(dir, "none.plan"), "--yes"); got.status != exitError || !strings.Contains(got.errors, "none.plan: cannot be read") {
		t.Errorf("a plan that is not there: %+v", got)
	}
	for _, args := range [][]string{{"apply", good, "-f", file}, {"apply", good, "--prune"}, {"apply", good, "--source", "x"}, {"apply", good, good}, {"apply"}} {
		if got := n.runAt(args...); got.status != exitUsage {
			t.Errorf("%v: %+v", args, got)
		}
	}
	if got := n.must("redirects", "list", "-o", "ndjson"); got != "" {
		t.Errorf("something has changed: %s", got)
	}
	if got := n.runAt("plan", "-f", file, "--out", filepath.Join(dir, "none", "next.plan")); got.status != exitError || !strings.Contains(got.errors, "next.plan: cannot be written") {
		t.Errorf("a plan that cannot be written: %+v", got)
	}
}
