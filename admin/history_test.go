package admin

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

func (a *testAPI) target(id string) string {
	a.Helper()
	var r RedirectResource
	if got := a.do("root", "GET", "redirects/"+id+"?host=a.example", ""); got.StatusCode == 404 {
		return ""
	} else if err := json.Unmarshal([]byte(got.body), &r); err != nil {
		a.Fatal(err)
	}
	return r.To
}

func (a *testAPI) rule(id, to string) {
	a.Helper()
	a.put("redirects/"+id+"?host=a.example", fmt.Sprintf(`{"from": "a.example/%s", "to": "https://t.example/%s"}`, id, to))
}

func TestChangesAreRevertedAndVersionsRestored(t *testing.T) {
	a := newTestAPI(t)
	a.rule("x", "1")
	a.put("versions/before", `{"note": "good"}`)
	a.rule("x", "2")
	second := a.rev()
	a.rule("y", "1")

	var result Result
	a.must(&result, "POST", fmt.Sprintf("changes/%d/revert?dryRun=true", second), "")
	if result.Changed != 1 || a.target("x") != "https://t.example/2" {
		t.Errorf("dry run: %+v, x goes to %s", result, a.target("x"))
	}
	a.must(&result, "POST", fmt.Sprintf("changes/%d/revert", second), "")
	if result.Changed != 1 || a.target("x") != "https://t.example/1" || a.target("y") == "" {
		t.Errorf("reverted: %+v, x goes to %s, y to %s", result, a.target("x"), a.target("y"))
	}
	if r := a.do("root", "POST", fmt.Sprintf("changes/%d/revert", second), ""); r.StatusCode != 409 || len(r.problem(t).Errors) != 1 {
		t.Errorf("reverted twice: %d %s", r.StatusCode, r.body)
	}

	var diff Page[struct {
		Key           string
		Before, After *RedirectResource
	}]
	a.must(&diff, "GET", "diff?from=before", "")
	if len(diff.Items) != 1 || diff.Items[0].Key != "a.example/y" || diff.Items[0].Before != nil || diff.Items[0].After.To != "https://t.example/1" {
		t.Errorf("the difference is %+v", diff.Items)
	}
	a.must(&diff, "GET", fmt.Sprintf("changes/%d", second), "")
	if len(diff.Items) != 1 || diff.Items[0].Before.To != "https://t.example/1" || diff.Items[0].After.To != "https://t.example/2" {
		t.Errorf("the change is %+v", diff.Items)
	}
	if r := a.do("admin-b", "POST", "versions/before/restore?allowRemoving=1", ""); r.StatusCode != 403 {
		t.Errorf("restored by another team: %d %s", r.StatusCode, r.body)
	}
	if r := a.do("root", "POST", "versions/before/restore", ""); r.problem(t).Code != "removes_much" {
		t.Errorf("restored without a word: %s", r.body)
	}
	a.must(&result, "POST", "versions/before/restore?allowRemoving=1", "")
	if result.Removed != 1 || a.target("y") != "" {
		t.Errorf("restored: %+v, y goes to %s", result, a.target("y"))
	}
	var changes Page[ChangeInfo]
	a.must(&changes, "GET", "changes?limit=2", "")
	if len(changes.Items) != 2 || changes.Items[0].Rev != a.rev() || changes.Items[0].Note != "restore before" || changes.Next == "" {
		t.Errorf("the changes are %+v", changes)
	}
	if r := a.do("root", "GET", "versions/999", ""); r.StatusCode != 404 {
		t.Errorf("a revision to come: %d", r.StatusCode)
	}
	var end AuditEnd
	a.must(&end, "GET", "audit/verify", "")
	export := a.must(nil, "GET", "audit/export", "")
	if lines := strings.Count(export.body, "\n"); int64(lines) != end.Seq || !strings.Contains(export.body, end.Hash) {
		t.Errorf("%d lines are exported, the chain ends at %d", lines, end.Seq)
	}
}

func TestEventsTellEachRevisionOnceAndInOrder(t *testing.T) {
	a := newTestAPI(t)
	req, _ := http.NewRequest("GET", a.url+Prefix+"/events", nil)
	req.Header.Set("Authorization", "Bearer "+a.tokens["viewer-a"])
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	next := func() (id string, e RevisionEvent) {
		t.Helper()
		for lines.Scan() {
			if s, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
				id = s
			}
			if s, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				if err := json.Unmarshal([]byte(s), &e); err != nil {
					t.Fatal(err)
				}
				return id, e
			}
		}
		t.Fatalf("the stream ends: %v", lines.Err())
		return
	}
	a.rule("x", "1")
	a.rule("x", "2")
	id, first := next()
	_, second := next()
	if second.Rev != first.Rev+1 || second.Rev != a.rev() || len(first.Changes) != 1 || first.Changes[0].Key != "a.example/x" || first.Changes[0].Op != "put" {
		t.Errorf("the events are %+v, %+v", first, second)
	}
	// Whoever comes back with the id of the first one gets the second.
	req.Header.Set("Last-Event-ID", id)
	again, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Body.Close()
	lines = bufio.NewScanner(again.Body)
	if _, e := next(); e.Rev != second.Rev {
		t.Errorf("after coming back: %+v", e)
	}
	if r := a.do("root", "GET", "events?after=another:1", ""); r.StatusCode != 410 {
		t.Errorf("another epoch: %d %s", r.StatusCode, r.body)
	}
}

func TestDraftIsPublishedByAnother(t *testing.T) {
	a := newTestAPI(t)
	a.rule("x", "1")
	a.put("teams/a", `{"review": true}`)
	const body = `[{"id": "x", "from": "a.example/x", "to": "https://t.example/2"}]`
	if r := a.do("editor-a", "PUT", "redirects/x?host=a.example", `{"from": "a.example/x", "to": "https://t.example/2"}`); r.StatusCode != 403 {
		t.Errorf("an editor writes past the review: %d", r.StatusCode)
	}
	if r := a.do("editor-a", "POST", "drafts?team=a", `[{"from": "b.example/x", "to": "https://t.example/"}]`); r.StatusCode != 403 {
		t.Errorf("a draft about another team: %d %s", r.StatusCode, r.body)
	}
	draft := func(who string) string {
		t.Helper()
		r := a.do(who, "POST", "drafts?team=a&note=why", body)
		if r.StatusCode != 201 {
			t.Fatalf("draft: %d %s", r.StatusCode, r.body)
		}
		return strings.TrimPrefix(r.Header.Get("Location"), Prefix+"/")
	}
	d := draft("editor-a")
	var read DraftResource
	a.must(&read, "GET", d, "")
	if read.State != DraftOpen || read.Author != "editor-a" || read.Would == nil || read.Would.Changed != 1 || a.target("x") != "https://t.example/1" {
		t.Errorf("the draft is %+v", read)
	}
	if r := a.do("editor-a", "POST", d+"/publish", ""); r.StatusCode != 403 {
		t.Errorf("published by its author: %d", r.StatusCode)
	}
	own := draft("publisher-a")
	if r := a.do("publisher-a", "POST", own+"/publish", ""); r.StatusCode != 403 {
		t.Errorf("published by its author, a publisher: %d", r.StatusCode)
	}
	a.must(nil, "POST", d+"/review", `{"approve": true, "note": "fine"}`)
	if r := a.do("publisher-a", "POST", d+"/publish", ""); r.StatusCode != 200 || a.target("x") != "https://t.example/2" {
		t.Errorf("published: %d %s", r.StatusCode, r.body)
	}
	// The other draft was made before: it must not undo unseen what came since.
	if r := a.do("root", "POST", own+"/publish", ""); r.StatusCode != 409 {
		t.Errorf("a draft that is overtaken: %d %s", r.StatusCode, r.body)
	}
	if r := a.do("publisher-a", "DELETE", own, ""); r.StatusCode != 204 {
		t.Errorf("deleted: %d %s", r.StatusCode, r.body)
	}
}

func TestPausedSourceIsNotApplied(t *testing.T) {
	a := newTestAPI(t)
	if err := a.Store.PutSource(t.Context(), a.by(), sourceOf("git:x", "a")); err != nil {
		t.Fatal(err)
	}
	if r := a.do("publisher-a", "POST", "sources/git:x/pause", ""); r.StatusCode != 200 {
		t.Fatalf("pause: %d %s", r.StatusCode, r.body)
	}
	row := `{"from": "a.example/x", "to": "https://t.example/"}`
	if r := a.do("publisher-a", "POST", "changesets?source=git:x", row, asNDJSON); r.problem(t).Code != "source_paused" {
		t.Errorf("while paused: %s", r.body)
	}
	a.do("publisher-a", "POST", "sources/git:x/resume", "")
	if r := a.do("publisher-a", "POST", "changesets?source=git:x", row, asNDJSON); r.StatusCode != 200 {
		t.Errorf("after: %s", r.body)
	}
}

// TestExportedAuditIsCheckedByWhoHasNothingButTheExport follows the chain as the
// documentation says it is made.
func TestExportedAuditIsCheckedByWhoHasNothingButTheExport(t *testing.T) {
	a := newTestAPI(t)
	a.rule("x", "1")
	a.rule("x", "2")
	a.must(nil, "DELETE", "redirects/x?host=a.example", "")
	a.fill("a.example", 1500, "")
	check := func(export string) (seq int64, hash string) {
		for line := range strings.Lines(export) {
			var e AuditEntry
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			h := sha256.New()
			number := func(n int64) { binary.Write(h, binary.BigEndian, n) }
			text := func(s string) { number(int64(len(s))); io.WriteString(h, s) }
			text(hash)
			number(e.Seq)
			number(e.At.UnixMicro())
			number(e.Rev)
			for _, s := range []string{e.Who, e.Token, e.Action, e.Kind, e.Key, e.Before, e.After} {
				text(s)
			}
			hash = hex.EncodeToString(h.Sum(nil))
			if seq++; seq != e.Seq || hash != e.Hash {
				return e.Seq, ""
			}
		}
		return seq, hash
	}
	export := a.must(nil, "GET", "audit/export", "").body
	var end AuditEnd
	a.must(&end, "GET", "audit/verify", "")
	if seq, hash := check(export); seq != end.Seq || hash != end.Hash || seq == 0 {
		t.Errorf("the export ends with %d %s, the chain with %+v", seq, hash, end)
	}
	if _, hash := check(strings.Replace(export, "https://t.example/2", "https://t.example/3", 1)); hash != "" {
		t.Error("a change in its middle is not seen")
	}
}
