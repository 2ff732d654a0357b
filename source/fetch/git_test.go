package fetch

import (
	"io/fs"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"fingerpost/source"
)

// repository is a bare one, with a work tree of its own to commit from.
type repository struct {
	t          *testing.T
	bare, work string
}

func newRepository(t *testing.T) *repository {
	dir := t.TempDir()
	r := &repository{t, filepath.Join(dir, "web.git"), filepath.Join(dir, "work")}
	t.Setenv("GIT_CONFIG_GLOBAL", os.DevNull)
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	r.git(dir, "init", "-q", "--bare", "-b", "main", r.bare)
	r.git(dir, "init", "-q", "-b", "main", r.work)
	return r
}

func (r *repository) git(dir string, args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=A", "-c", "user.email=a@a.example", "-c", "commit.gpgsign=false"}, args...)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes files, names and texts by turns, pushes them to a branch and gives
// the commit's hash.
func (r *repository) commit(branch string, files ...string) string {
	r.t.Helper()
	for i := 0; i < len(files); i += 2 {
		name := filepath.Join(r.work, files[i])
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(files[i+1]), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	r.git(r.work, "add", "-A")
	r.git(r.work, "commit", "-q", "--allow-empty", "-m", "x")
	r.git(r.work, "push", "-q", r.bare, "HEAD:refs/heads/"+branch)
	return r.git(r.work, "rev-parse", "HEAD")
}

// serve serves the folder of the repository by git's own program, to who has the
// password, if there is one.
func (r *repository) serve(password string) (string, *httptest.Server) {
	r.t.Helper()
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		r.t.Fatal(err)
	}
	backend := &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"),
		Env: []string{"GIT_PROJECT_ROOT=" + filepath.Dir(r.bare), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}
	return server(r.t, false, func(w http.ResponseWriter, req *http.Request) {
		if _, got, _ := req.BasicAuth(); password != "" && got != password {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, req)
	})
}

// Each way to a repository gives the same.
func TestAGitRepositoryIsFetchedByEveryWay(t *testing.T) {
	r := newRepository(t)
	r.commit("main", "r.json", "[0]") // history that need not be fetched
	first := r.commit("main", "r.json", "[1]", "other.txt", "x", "d/a.yaml", "redirects: []", "d/b.json", "[]", "d/.c.json", "[]", "d/x.schema.json", "{}",
		"d/page.html", "<p>", "d/deep/c.json", "[]")
	r.commit("next", "r.json", "[2]")
	address, _ := r.serve("")
	for _, where := range []string{r.bare, "file://" + r.bare, address + "/web.git"} {
		e := source.Elsewhere{Git: where, Path: "r.json", MaxMiB: 1}
		prefix := "git:" + where + "@" + first[:10] + ":"
		f, err := New(e).Fetch(t.Context(), "")
		check(t, where, fetched(f, err), prefix+"r.json=[1]")
		if err == nil && (f.Version != first || f.Modified.IsZero()) {
			t.Errorf("%s: version %s of %v, want %s", where, f.Version, f.Modified, first)
		}
		check(t, where, fetched(New(e).Fetch(t.Context(), first)), "unchanged")
		e.Branch = "next"
		check(t, where, strings.Split(fetched(New(e).Fetch(t.Context(), first)), ":")[0], "git")
		e.Branch = "none"
		check(t, where, fetched(New(e).Fetch(t.Context(), first)), "error: the repository has no branch none")
		e.Branch, e.Path = "main", "d"
		f, err = New(e).Fetch(t.Context(), "")
		check(t, where, fetched(f, err), prefix+"d/a.yaml=redirects: [] "+prefix+"d/b.json=[]")
		if page, err := f.Beside("d/page.html", 10); string(page) != "<p>" {
			t.Errorf("%s: the page is %q, %v", where, page, err)
		}
		if _, err := f.Beside("d/none.html", 10); err != fs.ErrNotExist {
			t.Errorf("%s: no page gives %v", where, err)
		}
		e.Path = "gone.json"
		check(t, where, fetched(New(e).Fetch(t.Context(), "")), "error: commit "+first[:10]+" has no gone.json")
	}
	// A clone that is worked in is a repository as well.
	check(t, "work tree", fetched(New(source.Elsewhere{Git: r.work, Path: "r.json", MaxMiB: 1}).Fetch(t.Context(), "")), "git:")
}

func TestACommitIsSeen(t *testing.T) {
	r := newRepository(t)
	first := r.commit("main", "r.json", "[1]")
	address, _ := r.serve("")
	for _, where := range []string{r.bare, address + "/web.git"} {
		g := New(source.Elsewhere{Git: where, MaxMiB: 1})
		f, err := g.Fetch(t.Context(), first)
		check(t, where, fetched(f, err), "unchanged")
		second := r.commit("main", "r.json", "[2]")
		r.git(r.bare, "gc", "-q") // packs what was loose
		check(t, where, fetched(g.Fetch(t.Context(), first)), "git:"+where+"@"+second[:10]+":r.json=[2]")
		first = second
	}
}

func TestTheTokenOfARepository(t *testing.T) {
	r := newRepository(t)
	first := r.commit("main", "r.json", "[1]")
	address, _ := r.serve("hunter2")
	e := source.Elsewhere{Git: address + "/web.git", TokenEnv: "TEST_TOKEN", MaxMiB: 1}
	t.Setenv("TEST_TOKEN", "hunter2")
	check(t, "right", fetched(New(e).Fetch(t.Context(), "")), "git:"+e.Git+"@"+first[:10]+":r.json=[1]")
	t.Setenv("TEST_TOKEN", "hunter3")
	got := fetched(New(e).Fetch(t.Context(), ""))
	check(t, "wrong", got, "error: ")
	e.TokenEnv = ""
	check(t, "none", fetched(New(e).Fetch(t.Context(), "")), "error: authentication required")
	if strings.Contains(got, "hunter") {
		t.Errorf("an error tells the token: %s", got)
	}
}

func TestWhatARepositoryMayNot(t *testing.T) {
	r := newRepository(t)
	r.commit("main", "r.json", "[1]")
	noise := make([]byte, 2<<20) // that cannot be compressed much
	for i, x := 0, uint32(1); i < len(noise); i++ {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	if err := os.Symlink("r.json", filepath.Join(r.work, "link.json")); err != nil {
		t.Fatal(err)
	}
	r.commit("link")
	r.commit("large", "large.json", string(noise))
	address, _ := r.serve("")
	for _, where := range []string{r.bare, address + "/web.git"} {
		for branch, want := range map[string]string{"link": "error: link.json: it is a symbolic link, which is not followed", "large": "error: "} {
			got := fetched(New(source.Elsewhere{Git: where, Branch: branch, MaxMiB: 1}).Fetch(t.Context(), ""))
			check(t, where+" "+branch, got, want)
			if branch == "large" && !strings.Contains(got, "larger than 1 MiB") {
				t.Errorf("%s: %s", where, got)
			}
		}
	}
	empty := t.TempDir()
	check(t, "no repository", fetched(New(source.Elsewhere{Git: empty}).Fetch(t.Context(), "")), "error: there is no git repository")
	check(t, "no server", fetched(New(source.Elsewhere{Git: address + "/none.git"}).Fetch(t.Context(), "")), "error: ")
	r.git(empty, "init", "-q", "--bare", "-b", "main", empty)
	check(t, "no commit", fetched(New(source.Elsewhere{Git: empty}).Fetch(t.Context(), "")), "error: the repository has no commit on its default branch")
}
