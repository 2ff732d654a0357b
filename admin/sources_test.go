package admin

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"fingerpost/store"
)

// follow makes the node of the test follow sources, and counts how often each is
// looked at.
func (a *testAPI) follow() map[string]int {
	checked := map[string]int{}
	secret := func(text string, err error) func() (string, error) {
		return func() (string, error) { return text, err }
	}
	for label, f := range map[string]func() (string, error){
		"cms": secret("a secret", nil), "file:rules.yaml": nil, "empty": secret("", nil), "broken": secret("", errors.New("no such file")),
	} {
		a.Sources = append(a.Sources, Source{Label: label, Kind: "url", URL: "https://cms.example/", Secret: f, Check: func() { checked[label]++ }})
	}
	return checked
}

func TestEverySourceIsListed(t *testing.T) {
	a := newTestAPI(t)
	a.follow()
	a.must(nil, "POST", "changesets?source=git:ci", ruleRows("a.example", 3), asNDJSON)
	a.must(nil, "POST", "redirects", `{"from": "b.example/x", "to": "https://t.example/"}`)
	if err := a.Store.ReportSource(t.Context(), store.Source{Label: "cms", Kind: "url", State: SourceError, Error: "down", Version: "v1", Checked: time.Unix(1, 0)}); err != nil {
		t.Fatal(err)
	}
	var page Page[SourceResource]
	a.must(&page, "GET", "sources", "")
	got := map[string]SourceResource{}
	for _, s := range page.Items {
		got[s.Label] = s
	}
	for label, want := range map[string]SourceResource{
		"api":             {Kind: "api", Items: 4}, // three hosts of the test, and the redirect
		"console":         {Kind: "console"},
		"git:ci":          {Kind: "apply", Items: 3},
		"cms":             {Kind: "url", URL: "https://cms.example/", State: SourceError, Error: "down", Version: "v1", Checked: time.Unix(1, 0).UTC(), Here: true},
		"file:rules.yaml": {Kind: "url", URL: "https://cms.example/", State: SourceWaiting, Here: true},
	} {
		if want.Label = label; got[label] != want {
			t.Errorf("%s is %+v, want %+v", label, got[label], want)
		}
	}
	// The count follows the content.
	a.must(nil, "POST", "changesets?source=git:ci&mode=replace&allowRemoving=3", ruleRows("a.example", 1), asNDJSON)
	var one SourceResource
	a.must(&one, "GET", "sources/git:ci", "")
	if one.Items != 1 {
		t.Errorf("after a removal it has %d items", one.Items)
	}
	// What only brings changesets can be paused, too.
	a.must(&one, "POST", "sources/git:ci/pause", "")
	if !one.Paused || one.State != SourcePaused {
		t.Errorf("paused: %+v", one)
	}
	if r := a.do("root", "POST", "changesets?source=git:ci", ruleRows("a.example", 2), asNDJSON); r.problem(t).Code != "source_paused" {
		t.Errorf("while paused: %s", r.body)
	}
	for path, code := range map[string]string{"api/pause": "not_followed", "console/pause": "not_followed", "nothing/pause": "not_found", "nothing/check": "not_found", "git:ci/check": "not_followed"} {
		if r := a.do("root", "POST", "sources/"+path, ""); r.problem(t).Code != code {
			t.Errorf("%s: %s", path, r.body)
		}
	}
}

// TestSourceThatIsPausedWhileRowsComeInIsNotApplied: the pause is not overtaken by
// what began before it.
func TestSourceThatIsPausedWhileRowsComeInIsNotApplied(t *testing.T) {
	a := newTestAPI(t)
	c, err := a.Store.Stage(t.Context(), store.StageOptions{Source: "git:ci", Actor: a.by()})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Store.PutSource(t.Context(), a.by(), store.Source{Label: "git:ci", Kind: "apply", Paused: true}); err != nil {
		t.Fatal(err)
	}
	_, err = c.Publish(t.Context(), store.PublishOptions{})
	if p := problemOf(err); p.Code != "source_paused" || p.Status != 409 {
		t.Errorf("published: %v", err)
	}
}

func TestWebhookIsForWhoHasTheSecretAndTellsNothing(t *testing.T) {
	a := newTestAPI(t)
	now := time.Now()
	a.Now = func() time.Time { return now }
	checked := a.follow()
	const body = "payload=%7B%7D"
	sign := func(secret, body string) string {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(body))
		return "X-Hub-Signature-256: sha256=" + hex.EncodeToString(mac.Sum(nil))
	}
	form := "Content-Type: application/x-www-form-urlencoded"
	for _, tt := range []struct {
		name, label, header string
		status              int
	}{
		{"GitHub", "cms", sign("a secret", body), 202},
		{"GitLab", "cms", "X-Gitlab-Token: a secret", 202},
		{"bearer", "cms", "Authorization: Bearer a secret", 202},
		{"nothing", "cms", form, 401},
		{"another secret", "cms", sign("another", body), 401},
		{"another body", "cms", sign("a secret", body+"x"), 401},
		{"no signature", "cms", "X-Hub-Signature-256: sha256=", 401},
		{"no hexadecimal", "cms", "X-Hub-Signature-256: sha256=zz", 401},
		{"another token", "cms", "X-Gitlab-Token: a secre", 401},
		{"the token of an admin", "cms", "Authorization: Bearer " + a.tokens["root"], 401},
		{"without a webhook", "file:rules.yaml", sign("", body), 401},
		{"an empty secret", "empty", sign("", body), 401},
		{"an empty token", "empty", "Authorization: Bearer ", 401},
		{"a secret that cannot be read", "broken", sign("", body), 401},
		{"no such source", "nothing", sign("a secret", body), 401},
	} {
		before := checked[tt.label]
		r := a.do("", "POST", "sources/"+tt.label+"/hook", body, form, tt.header)
		if r.StatusCode != tt.status || (checked[tt.label] > before) != (tt.status == 202) {
			t.Errorf("%s: %d %s, looked at %d times", tt.name, r.StatusCode, r.body, checked[tt.label]-before)
		}
		if tt.status == 401 {
			p := r.problem(t)
			if p.Code != "bad_signature" || strings.Contains(r.body, tt.label) && tt.label != "empty" {
				t.Errorf("%s tells: %s", tt.name, r.body)
			}
		}
		now = now.Add(time.Minute / loginTries)
	}
	for i := range loginTries + 2 { // who guesses
		r := a.do("", "POST", "sources/cms/hook", body, "X-Gitlab-Token: guess")
		if last := i > loginTries; last && (r.StatusCode != 429 || r.Header.Get("Retry-After") == "") {
			t.Errorf("guess %d: %d", i, r.StatusCode)
		}
	}
	// Who knows is not held up by who guesses, but is bounded, too.
	status := 0
	for i := range loginTries + 2 {
		if status = a.do("", "POST", "sources/cms/hook", body, "X-Gitlab-Token: a secret").StatusCode; i == 0 && status != 202 {
			t.Errorf("after another's guesses: %d", status)
		}
	}
	if status != 429 {
		t.Errorf("after %d calls at once: %d", loginTries+2, status)
	}
}
