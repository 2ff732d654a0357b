package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestARepositoryHasOneNameHoweverItIsReached(t *testing.T) {
	for address, want := range map[string]string{
		"https://github.com/acme/rules.git":                   "github.com/acme/rules",
		"https://x-access-token:s3cret@GitHub.com/acme/rules": "github.com/acme/rules",
		"git@github.com:acme/rules.git":                       "github.com/acme/rules",
		"ssh://git@github.com:22/acme/rules.git/":             "github.com/acme/rules",
		"github.com:acme/rules":                               "github.com/acme/rules",
		"/srv/git/rules.git":                                  "/srv/git/rules",
		"file:///srv/git/rules.git":                           "/srv/git/rules",
	} {
		if got := repositoryName(address); got != want {
			t.Errorf("%s is %s, want %s", address, got, want)
		}
	}
}

func TestTheLabelIsTheSameFromEveryCheckoutAndFolder(t *testing.T) {
	git := func(dir string, args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@a.test"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	first, second := filepath.Join(t.TempDir(), "first"), filepath.Join(t.TempDir(), "second")
	for dir, origin := range map[string]string{first: "https://token@git.test/acme/rules.git", second: "git@git.test:acme/rules.git"} {
		if err := os.MkdirAll(filepath.Join(dir, "conf", "more"), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a.json", "b.json"} {
			writeRulesFile(t, filepath.Join(dir, "conf", name), "{}")
		}
		git(dir, "init", "-q")
		git(dir, "add", ".")
		git(dir, "commit", "-q", "-m", "all")
		git(dir, "remote", "add", "origin", origin)
	}
	tree := filepath.Join(t.TempDir(), "tree")
	git(first, "worktree", "add", "-q", tree)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(second, link); err != nil {
		t.Fatal(err)
	}
	const a, both = "git:git.test/acme/rules:conf/a.json", "git:git.test/acme/rules:conf/a.json,conf/b.json"
	for _, tt := range []struct {
		dir   string
		paths []string
		want  string
	}{
		{first, []string{"conf/a.json"}, a},
		{second, []string{"./conf/../conf/a.json"}, a},
		{filepath.Join(second, "conf", "more"), []string{"../a.json"}, a},
		{os.TempDir(), []string{filepath.Join(link, "conf", "a.json")}, a},
		{tree, []string{"conf/a.json"}, a},
		{first, []string{"conf/b.json", "conf/a.json"}, both},
		{first, []string{"."}, "git:git.test/acme/rules"},
		{first, []string{"conf/a.json", filepath.Join(os.TempDir(), "other.json")}, "file:" + filepath.Join(first, "conf", "a.json") + "," + filepath.Join(os.TempDir(), "other.json")},
		{os.TempDir(), []string{"rules/../a.json"}, "file:" + filepath.Join(os.TempDir(), "a.json")},
	} {
		t.Chdir(tt.dir)
		if got := applyLabel(tt.paths); got != tt.want {
			t.Errorf("%v in %s is %s, want %s", tt.paths, tt.dir, got, tt.want)
		}
	}
	long := fileSource([]string{"/" + strings.Repeat("ø", 300)})
	if other := fileSource([]string{"/" + strings.Repeat("ø", 301)}); len(long) > maxLabel+len("…") || long == other {
		t.Errorf("long labels: %s and %s", long, other)
	}
}
