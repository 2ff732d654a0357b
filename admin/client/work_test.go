package client

import (
	"errors"
	"strings"
	"testing"

	"fingerpost/admin"
)

// TestClientDoesTheWorkOfPeople uses the methods of work.go against a real server,
// and holds each request to the document.
func TestClientDoesTheWorkOfPeople(t *testing.T) {
	c, _ := newTestClient(t)
	ctx := t.Context()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.PutTeam(ctx, admin.TeamResource{Name: "a", Title: "A"})
	ok(err)
	if team, err := c.Team(ctx, "a"); err != nil || team.Title != "A" {
		t.Errorf("the team is %+v: %v", team, err)
	}
	_, err = c.PutUser(ctx, admin.UserResource{Name: "kari", Email: "k@a.example"})
	ok(err)
	if u, err := c.User(ctx, "kari"); err != nil || u.Email != "k@a.example" {
		t.Errorf("the user is %+v: %v", u, err)
	}
	host := `{"name": "a.example", "team": "a"}` + "\n"
	_, err = c.PostChangeset(ctx, strings.NewReader(host), Changeset{})
	ok(err)
	add := func() string {
		t.Helper()
		d, err := c.AddDraft(ctx, strings.NewReader(`{"from": "a.example/x", "to": "https://t.example/"}`+"\n"), "a", "why")
		ok(err)
		return d.ID
	}
	id := add()
	if list, err := c.Drafts(ctx, "a", "open"); err != nil || len(list) != 1 || list[0].Note != "why" {
		t.Errorf("the drafts are %+v: %v", list, err)
	}
	if list, err := c.Drafts(ctx, "b", ""); err != nil || len(list) != 0 {
		t.Errorf("the drafts of nobody are %+v: %v", list, err)
	}
	if d, err := c.Draft(ctx, id); err != nil || d.Would == nil || d.Would.Added != 1 {
		t.Errorf("the draft is %+v: %v", d, err)
	}
	if diff := collect(t, c.DraftDiff(ctx, id)); len(diff) != 1 || diff[0].Before != nil {
		t.Errorf("its changes are %+v", diff)
	}
	if d, err := c.ReviewDraft(ctx, id, false, "no"); err != nil || d.State != admin.DraftRejected {
		t.Errorf("rejected: %+v, %v", d, err)
	}
	_, err = c.ReviewDraft(ctx, id, true, "")
	ok(err)
	if r, err := c.PublishDraft(ctx, id, 1, true); err != nil || r.Added != 1 {
		t.Errorf("published: %+v, %v", r, err)
	}
	ok(c.DeleteDraft(ctx, add()))
	var p *admin.Problem
	for what, err := range map[string]error{
		"job":    func() error { _, err := c.Job(ctx, "none"); return err }(),
		"source": func() error { _, err := c.Source(ctx, "git:a/b c"); return err }(),
	} {
		if !errors.As(err, &p) || p.Code != "not_found" {
			t.Errorf("no %s: %v", what, err)
		}
	}
	if err := c.DeleteNode(ctx, "none"); err != nil && (!errors.As(err, &p) || p.Code != "not_found") {
		t.Errorf("no node: %v", err)
	}
	if e, err := c.AuditEntry(ctx, 2); err != nil || e.Seq != 2 || e.Hash == "" {
		t.Errorf("the entry is %+v: %v", e, err)
	}
}
