package admin

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fingerpost/store"
)

// TestClockThatJumps lets the clock of the machine jump by an hour, forwards and
// backwards, under people and their writes: what expires does so by the clock as it
// is; nothing else asks it.
func TestClockThatJumps(t *testing.T) {
	var at atomic.Int64 // seconds
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	jump := func(d time.Duration) { at.Add(int64(d / time.Second)) }
	a := newTestAPIAt(t, func() time.Time { return start.Add(time.Duration(at.Load()) * time.Second) })
	a.put("users/kari", `{"password": "correct horse battery", "roles": {"a": "editor"}}`)
	c := a.browser()
	if status, text := a.browse(c, "POST", Prefix+"/session", `{"user": "kari", "password": "correct horse battery"}`); status != 200 {
		t.Fatalf("login: %d %s", status, text)
	}
	var token struct{ Secret string }
	a.must(&token, "POST", "tokens", fmt.Sprintf(`{"name": "short", "role": "editor", "team": "a", "expires": %q}`, start.Add(30*time.Minute).Format(time.RFC3339)))
	a.tokens["short"] = token.Secret

	var revs []int64
	write := func(who string, want int) {
		t.Helper()
		n := len(revs)
		body := fmt.Sprintf(`{"from": "a.example/%d", "to": "https://t.example/"}`, n)
		key := fmt.Sprintf("Idempotency-Key: k%d", n)
		r := a.do(who, "POST", "redirects", body, key)
		if r.StatusCode != want {
			t.Fatalf("at %v %s gets %d %s, want %d", time.Duration(at.Load())*time.Second, who, r.StatusCode, r.body, want)
		}
		if want == 201 {
			revs = append(revs, a.rev())
		}
	}
	session := func(want int) {
		t.Helper()
		if status, text := a.browse(c, "GET", Prefix+"/hosts", ""); status != want {
			t.Errorf("at %v the session gets %d %s, want %d", time.Duration(at.Load())*time.Second, status, text, want)
		}
	}
	for _, tt := range []struct {
		jump           time.Duration
		token, session int
	}{
		{0, 201, 200},
		{time.Hour, 401, 200}, // the token has expired
		{-2 * time.Hour, 201, 200},
		{time.Hour, 201, 200},
		{13 * time.Hour, 401, 401}, // so has the session
		{-13 * time.Hour, 201, 200},
	} {
		jump(tt.jump)
		write("short", tt.token)
		write("root", 201)
		session(tt.session)
	}
	for i, rev := range revs {
		if rev != revs[0]+int64(i) {
			t.Errorf("revisions %v", revs)
		}
	}

	// A repeated request is known an hour before and after.
	for _, d := range []time.Duration{time.Hour, -2 * time.Hour, time.Hour} {
		jump(d)
		rev := a.rev()
		for i := range revs {
			for _, who := range []string{"root", "short"} {
				r := a.do(who, "POST", "redirects", fmt.Sprintf(`{"from": "a.example/%d", "to": "https://t.example/"}`, i), fmt.Sprintf("Idempotency-Key: k%d", i))
				if r.StatusCode != 201 && r.StatusCode != 412 && r.StatusCode != 401 {
					t.Errorf("repeated: %d %s", r.StatusCode, r.body)
				}
			}
		}
		if a.rev() != rev {
			t.Errorf("repeated requests have made %d revisions", a.rev()-rev)
		}
	}
	key := "Idempotency-Key: rows"
	first := a.must(nil, "POST", "changesets", ruleRows("b.example", 5), asNDJSON, key)
	for _, d := range []time.Duration{time.Hour, -2 * time.Hour, time.Hour} {
		jump(d)
		if again := a.must(nil, "POST", "changesets", ruleRows("b.example", 5), asNDJSON, key); !strings.Contains(again.body, `"repeated":true`) {
			t.Errorf("repeated: %s, first %s", again.body, first.body)
		}
	}

	// History and audit are in the order of the revisions, whatever the times say.
	var changes Page[struct{ Rev int64 }]
	a.must(&changes, "GET", "changes?limit=1000", "")
	for i, c := range changes.Items {
		if want := a.rev() - int64(i); c.Rev != want {
			t.Fatalf("line %d of the history is revision %d, want %d", i, c.Rev, want)
		}
	}
	a.must(nil, "GET", "audit/verify", "")

	// Nothing that was acknowledged goes because the clock is ahead for an hour.
	jump(time.Hour)
	if done, err := a.Store.Tidy(t.Context(), store.Retention{}); err != nil || done != (store.Tidied{}) {
		t.Errorf("tidied %+v, %v", done, err)
	}
	var all Page[RedirectResource]
	if a.must(&all, "GET", "redirects?limit=1000", ""); len(all.Items) != len(revs)+5 {
		t.Errorf("%d redirects are there, want %d", len(all.Items), len(revs)+5)
	}
}
