package admin

import (
	"fmt"
	"strings"
	"testing"

	"fingerpost/store"
)

// teams counts the redirects that stand with each team.
func (a *testAPI) teams() string {
	a.Helper()
	n := map[string]int{}
	if _, err := a.Store.Scan(a.Context(), store.KindRedirect, func(it *store.Item) error {
		n[it.Team]++
		return nil
	}); err != nil {
		a.Fatal(err)
	}
	return strings.TrimPrefix(fmt.Sprint(n), "map")
}

func (a *testAPI) fill(host string, n int, query string) {
	a.Helper()
	var got ChangesetResult
	a.must(&got, "POST", "changesets"+query, ruleRows(host, n), asNDJSON)
	if got.Job != nil {
		if j := a.finished(got.Job.ID); j.State != JobDone {
			a.Fatalf("the job ends as %+v", j)
		}
	}
}

func TestRedirectsStandWithTheTeamOfTheirHost(t *testing.T) {
	a := newTestAPI(t)
	a.fill("a.example", 3, "")
	a.fill("a.example", 2500, "?source=git:x&mode=replace&take=true") // more than one batch, of another source
	a.fill("w.a.example", 2, "")
	a.fill("b.example", 1, "")
	all := func(step, want string) {
		t.Helper()
		if got := a.teams(); got != want {
			t.Errorf("%s: %s, want %s", step, got, want)
		}
	}
	all("at first", "[a:2502 b:1]")
	a.put("hosts/a.example", `{"team": "b"}`)
	all("a host with many redirects moves", "[a:2 b:2501]")
	a.put("hosts/*.a.example", `{"team": "b"}`)
	all("a wildcard moves", "[b:2503]")
	a.must(nil, "POST", "changesets", `{"name": "a.example", "team": "a"}`, asNDJSON)
	all("a changeset moves a host", "[a:2500 b:3]")
	a.fill("a.example", 2500, "?source=git:x&mode=replace")
	all("the other source applies again", "[a:2500 b:3]")
	a.put("hosts/w.a.example", `{"team": "a"}`)
	all("a host of its own below a wildcard", "[a:2502 b:1]")
	a.must(nil, "DELETE", "hosts/w.a.example?redirects=keep", "")
	all("and away", "[a:2500 b:3]")
	a.must(nil, "DELETE", "hosts/a.example?redirects=keep", "")
	all("a host with many redirects is deleted", "[:2500 b:3]")
	// A node that died before it did this: Tidy does.
	it, err := a.Store.Get(t.Context(), store.KindHost, "b.example")
	if err != nil {
		t.Fatal(err)
	}
	it.Team = "a"
	if _, err := a.Store.Commit(t.Context(), store.Batch{Changes: []store.Change{{Op: store.Put, Item: it}}, Actor: a.by()}); err != nil {
		t.Fatal(err)
	}
	if err := a.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	all("after Tidy", "[:2500 a:1 b:2]")
	rev := a.rev()
	if err := a.Tidy(t.Context()); err != nil || a.rev() != rev {
		t.Errorf("Tidy with nothing to do: revision %d, was %d: %v", a.rev(), rev, err)
	}
}

func TestHostWithManyRedirectsIsDeletedWithThem(t *testing.T) {
	a := newTestAPI(t)
	a.fill("a.example", 2500, "")
	a.fill("b.example", 1, "")
	if r := a.do("publisher-a", "DELETE", "hosts/a.example", ""); r.problem(t).Code != "has_redirects" {
		t.Errorf("without a word about its redirects: %s", r.body)
	}
	rev := a.rev()
	if r := a.do("publisher-a", "DELETE", "hosts/a.example?redirects=delete&allowRemoving=2499", ""); r.problem(t).Code != "removes_much" || a.rev() != rev {
		t.Errorf("without a word about how many: %s", r.body)
	}
	if r := a.do("publisher-a", "DELETE", "hosts/a.example?redirects=delete&allowRemoving=2500", "", `If-Match: "999"`); r.StatusCode != 412 || a.rev() != rev {
		t.Errorf("with a stale ETag: %d %s", r.StatusCode, r.body)
	}
	a.fill("a.example", 1200, "?source=git:x&take=true")
	rev = a.rev()
	if r := a.do("publisher-a", "DELETE", "hosts/a.example?redirects=delete", ""); r.problem(t).Code != "foreign_source" || a.rev() != rev {
		t.Errorf("with redirects of another source: %s", r.body)
	}
	first := a.do("publisher-a", "DELETE", "hosts/a.example?redirects=delete&take=true&allowRemoving=2501", "", "Idempotency-Key: k")
	if first.StatusCode != 200 || !strings.Contains(first.body, `"removed":2501`) || a.count(store.KindRedirect) != 1 || a.rev() != rev+1 {
		t.Errorf("%d %s, %d redirects are left", first.StatusCode, first.body, a.count(store.KindRedirect))
	}
	if again := a.do("publisher-a", "DELETE", "hosts/a.example?redirects=delete&take=true&allowRemoving=2501", "", "Idempotency-Key: k"); again.StatusCode != 200 || !strings.Contains(again.body, `"repeated":true`) {
		t.Errorf("again with the key: %d %s", again.StatusCode, again.body)
	}
	if r := a.do("root", "DELETE", "hosts/a.example", ""); r.StatusCode != 404 {
		t.Errorf("again without: %d", r.StatusCode)
	}
	a.must(nil, "POST", fmt.Sprintf("changes/%d/revert", rev+1), "") // and back
	if n := a.count(store.KindRedirect); n != 2501 {
		t.Errorf("reverted: %d redirects", n)
	}
}
