package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fingerpost/admin"
	"fingerpost/store"
)

// place is a source elsewhere: one file at an address.
type place struct {
	*httptest.Server
	text  atomic.Value
	asked atomic.Int64
}

func newPlace(t *testing.T, to string) *place {
	p := new(place)
	p.set(to)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p.asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, p.text.Load().(string))
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *place) set(to string) {
	p.text.Store(`{"redirects": [{"from": "u.test/x", "to": "` + to + `"}]}`)
}

func (r *running) source(label string) (s admin.SourceResource) {
	r.t.Helper()
	r.api("GET", "/sources/"+url.PathEscape(label), nil, &s)
	return s
}

// until waits for what another goroutine does.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come to it: %s", what)
		}
	}
}

func TestSourcesArePausedResumedAndCheckedByTheAPI(t *testing.T) {
	p := newPlace(t, "https://one.test/")
	dir := t.TempDir()
	t.Setenv("TEST_HOOK", "a secret of the webhook")
	file := filepath.Join(dir, "rules.json")
	config := filepath.Join(dir, "fingerpost.yaml")
	writeRulesFile(t, config, fmt.Sprintf("sources:\n  - {url: %q, name: cms, poll: 1h, webhookSecretEnv: TEST_HOOK}\n", p.URL))
	writeRulesFile(t, file, `{"redirects": [{"from": "f.test/x", "to": "https://one.test/"}]}`)
	data := filepath.Join(dir, "data")
	with := func(o *options) { o.config, o.redirects = config, []string{file} }
	n := startNode(t, data, with)
	n.leads("u.test", "/x", "https://one.test/")
	n.leads("f.test", "/x", "https://one.test/")
	files := "file:" + config + "," + file
	until(t, "both sources are told of", func() bool {
		cms, own := n.source("cms"), n.source(files)
		return cms.State == admin.SourceOK && cms.Kind == "url" && cms.Version != "" && cms.Items == 1 && cms.Rev > 0 && !cms.Checked.IsZero() && cms.Here &&
			own.State == admin.SourceOK && own.Kind == "file" && own.Items == 1 && !own.Checked.IsZero()
	})

	// A paused source keeps what it has, also over a restart.
	n.api("POST", "/sources/cms/pause", nil, nil)
	n.api("POST", "/sources/"+url.PathEscape(files)+"/pause", nil, nil)
	p.set("https://two.test/")
	writeRulesFile(t, file, `{"redirects": [{"from": "f.test/x", "to": "https://two.test/"}]}`)
	n.end()
	n = startNode(t, data, with)
	if s := n.source("cms"); s.State != admin.SourcePaused || !s.Paused || s.Error != "" {
		t.Errorf("while paused: %+v", s)
	}
	until(t, "the node has looked at the files", func() bool { return !n.source(files).Checked.IsZero() })
	n.leads("u.test", "/x", "https://one.test/")
	n.leads("f.test", "/x", "https://one.test/")
	if s := n.source(files); s.State != admin.SourcePaused || s.Error != "" {
		t.Errorf("paused files: %+v", s)
	}

	// What is there now is applied with the resume.
	n.api("POST", "/sources/cms/resume", nil, nil)
	n.api("POST", "/sources/"+url.PathEscape(files)+"/resume", nil, nil)
	n.leads("u.test", "/x", "https://two.test/")
	n.leads("f.test", "/x", "https://two.test/")

	// A pause while it runs: the files change meanwhile.
	n.api("POST", "/sources/"+url.PathEscape(files)+"/pause", nil, nil)
	before := n.source(files).Checked
	writeRulesFile(t, file, `{"redirects": [{"from": "f.test/x", "to": "https://three.test/"}]}`)
	until(t, "the files were looked at", func() bool { return n.contents.kept.filesChecked().After(before) })
	n.leads("f.test", "/x", "https://two.test/")
	n.api("POST", "/sources/"+url.PathEscape(files)+"/resume", nil, nil)
	n.leads("f.test", "/x", "https://three.test/")

	// Asked for, it looks at once, though its poll is an hour.
	p.set("https://four.test/")
	n.api("POST", "/sources/cms/check", nil, nil)
	n.leads("u.test", "/x", "https://four.test/")
	p.set("https://five.test/")
	body := `{"ref": "refs/heads/main"}`
	mac := hmac.New(sha256.New, []byte("a secret of the webhook"))
	io.WriteString(mac, body)
	if status := n.hook("cms", body, "X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil))); status != http.StatusAccepted {
		t.Errorf("the webhook answers %d", status)
	}
	n.leads("u.test", "/x", "https://five.test/")
	asked := p.asked.Load()
	if status := n.hook("cms", body, "X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum([]byte{1}))); status != http.StatusUnauthorized || p.asked.Load() != asked {
		t.Errorf("with another signature it answers %d", status)
	}

	// What is wrong with it is shown, and the last good version serves.
	p.text.Store(`{"redirects": [{"from": "u.test/x", "too": ""}]}`)
	n.api("POST", "/sources/cms/check", nil, nil)
	until(t, "the error is told", func() bool {
		s := n.source("cms")
		return s.State == admin.SourceError && strings.Contains(s.Error, "too")
	})
	n.leads("u.test", "/x", "https://five.test/")
	if os.Getenv("TEST_HOOK") == "" {
		t.Fatal("the secret is gone")
	}
}

func (r *running) hook(label, body, header, value string) (status int) {
	r.t.Helper()
	req, err := http.NewRequest("POST", r.url("admin")+"/api/v1/sources/"+url.PathEscape(label)+"/hook", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set(header, value)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func (k *keeper) filesChecked() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.files.Checked
}

// TestAPauseAtOneNodeHoldsAtAnother: both follow the same place and share a store.
func TestAPauseAtOneNodeHoldsAtAnother(t *testing.T) {
	p := newPlace(t, "https://one.test/")
	dir := t.TempDir()
	config := filepath.Join(dir, "fingerpost.yaml")
	writeRulesFile(t, config, fmt.Sprintf("sources:\n  - {url: %q, name: cms, poll: 1h}\n", p.URL))
	store := filepath.Join(dir, "store")
	start := func(data string) *running {
		return startNode(t, filepath.Join(dir, data), func(o *options) { o.config, o.store = config, "sqlite:"+store })
	}
	if err := os.Mkdir(store, 0o700); err != nil {
		t.Fatal(err)
	}
	a := start("a")
	b := start("b")
	b.dir = a.dir // has the token
	a.leads("u.test", "/x", "https://one.test/")
	a.api("POST", "/sources/cms/pause", nil, nil)
	// Even if b does not know yet, and looks: nothing is applied.
	p.set("https://two.test/")
	asked := p.asked.Load()
	b.remotes[0].Trigger()
	until(t, "b has looked, or knows of the pause", func() bool { return p.asked.Load() > asked || b.remotes[0].State().Paused })
	until(t, "b knows of the pause", func() bool { b.contents.kept.look(); return b.remotes[0].State().Paused })
	b.leads("u.test", "/x", "https://one.test/")
	a.api("POST", "/sources/cms/resume", nil, nil)
	a.leads("u.test", "/x", "https://two.test/")
	b.leads("u.test", "/x", "https://two.test/")
}

// TestRedirectsOfAFileStandWithTheTeamOfAHostOfTheAPI: the file does not name the
// host, and is applied again and again.
func TestRedirectsOfAFileStandWithTheTeamOfAHostOfTheAPI(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rules.json")
	write := func(to string) {
		writeRulesFile(t, file, `{"redirects": [{"id": "x", "from": "a.test/x", "to": "`+to+`"}, {"id": "y", "from": "w.b.test/y", "to": "`+to+`"}]}`)
	}
	write("https://one.test/")
	n := startNode(t, t.TempDir(), func(o *options) { o.redirects = []string{file} })
	n.api("PUT", "/teams/one", map[string]string{}, nil)
	n.api("PUT", "/teams/two", map[string]string{}, nil)
	n.api("PUT", "/hosts/a.test", map[string]string{"team": "one"}, nil)
	n.api("PUT", "/hosts/*.b.test", map[string]string{"team": "one"}, nil)
	team := func(want string) {
		t.Helper()
		for _, path := range []string{"/redirects/x?host=a.test", "/redirects/y?host=w.b.test"} {
			var r admin.RedirectResource
			n.api("GET", path, nil, &r)
			if r.Team != want {
				t.Errorf("%s stands with the team %q, want %q", path, r.Team, want)
			}
		}
	}
	team("one")
	write("https://two.test/")
	n.leads("a.test", "/x", "https://two.test/")
	team("one")
	n.api("PUT", "/hosts/a.test", map[string]string{"team": "two"}, nil)
	n.api("PUT", "/hosts/*.b.test", map[string]string{"team": "two"}, nil)
	team("two")
	write("https://three.test/")
	n.leads("a.test", "/x", "https://three.test/")
	team("two")
}

// A label that no node follows any more is free for others.
func TestSourceThatIsNotNamedAnyMoreIsForgotten(t *testing.T) {
	file, data := filepath.Join(t.TempDir(), "rules.json"), t.TempDir()
	writeRulesFile(t, file, `{"redirects": [{"id": "x", "from": "a.test/x", "to": "https://t.test/"}]}`)
	n := startNode(t, data, func(o *options) { o.redirects = []string{file} })
	label := n.label(0)
	known := func() bool {
		t.Helper()
		all, err := n.shared.db.Sources(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(all, func(s store.Source) bool { return s.Label == label })
	}
	until(t, "the store knows the source", known)
	if got := n.runAt("apply", "-f", file, "--source", label, "--yes"); got.status != exitError || !strings.Contains(got.errors, "follows the source") {
		t.Errorf("applied besides: %+v", got)
	}
	n.end()
	n = startNode(t, data, nil)
	if known() {
		t.Error("the store knows the source still")
	}
	n.must("apply", "-f", file, "--source", label, "--yes")
}
