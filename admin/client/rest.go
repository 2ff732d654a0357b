package client

import (
	"context"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"fingerpost/admin"
	"fingerpost/store"
)

// Versions lists named revisions.
func (c *Client) Versions(ctx context.Context) ([]store.Version, error) {
	return all[store.Version](ctx, c, "/versions")
}

// Version finds a revision by its name or number.
func (c *Client) Version(ctx context.Context, version string) (v store.Version, err error) {
	return v, c.get(ctx, path("versions", version), nil, &v)
}

// NameVersion names a revision; 0 is the newest one.
func (c *Client) NameVersion(ctx context.Context, name string, rev int64, note string) (v store.Version, err error) {
	in := map[string]any{}
	if rev != 0 {
		in["rev"] = rev
	}
	if note != "" {
		in["note"] = note
	}
	return v, c.do(ctx, http.MethodPut, path("versions", name), nil, nil, in, &v)
}

// DeleteVersion takes a name away.
func (c *Client) DeleteVersion(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, path("versions", name), nil, nil, nil, nil)
}

// BringBack says how content is brought back out of history.
type BringBack struct {
	DryRun        bool
	AllowRemoving int64
	Note          string
}

func (b BringBack) query() url.Values {
	q := values("note", b.Note)
	if b.DryRun {
		q.Set("dryRun", "true")
	}
	if b.AllowRemoving > 0 {
		q.Set("allowRemoving", strconv.FormatInt(b.AllowRemoving, 10))
	}
	return q
}

// Restore makes the content again what it was in a version.
func (c *Client) Restore(ctx context.Context, version string, b BringBack) (r admin.Result, err error) {
	return r, c.do(ctx, http.MethodPost, path("versions", version, "restore"), b.query(), nil, nil, &r)
}

// Revert undoes one revision, or just some items of it.
func (c *Client) Revert(ctx context.Context, rev int64, only []admin.ItemName, b BringBack) (r admin.Result, err error) {
	var in any
	if len(only) > 0 {
		in = map[string]any{"only": only}
	}
	return r, c.do(ctx, http.MethodPost, path("changes", strconv.FormatInt(rev, 10), "revert"), b.query(), nil, in, &r)
}

// Changes lists revisions, the newest first.
func (c *Client) Changes(ctx context.Context) iter.Seq2[admin.ChangeInfo, error] {
	return pages[admin.ChangeInfo](ctx, c, "/changes", nil)
}

// Change lists what one revision changed.
func (c *Client) Change(ctx context.Context, rev int64) iter.Seq2[admin.Difference, error] {
	return pages[admin.Difference](ctx, c, path("changes", strconv.FormatInt(rev, 10)), nil)
}

// Diff lists what is different between two versions; an empty to is what is in
// force.
func (c *Client) Diff(ctx context.Context, from, to string) iter.Seq2[admin.Difference, error] {
	return pages[admin.Difference](ctx, c, "/diff", values("from", from, "to", to))
}

// Sources lists where content comes from.
func (c *Client) Sources(ctx context.Context) ([]admin.SourceResource, error) {
	return all[admin.SourceResource](ctx, c, "/sources")
}

// PauseSource keeps a source from being applied, or lets it again.
func (c *Client) PauseSource(ctx context.Context, label string, paused bool) (s admin.SourceResource, err error) {
	verb := "resume"
	if paused {
		verb = "pause"
	}
	return s, c.do(ctx, http.MethodPost, path("sources", label, verb), nil, nil, nil, &s)
}

// CheckSource makes the server, which has to follow the source, look at it now.
func (c *Client) CheckSource(ctx context.Context, label string) error {
	return c.do(ctx, http.MethodPost, path("sources", label, "check"), nil, nil, nil, nil)
}

// Audit lists who did what, the newest first.
func (c *Client) Audit(ctx context.Context, kind, key, who string) iter.Seq2[admin.AuditEntry, error] {
	return pages[admin.AuditEntry](ctx, c, "/audit", values("kind", kind, "key", key, "who", who))
}

// VerifyAudit checks the chain of the audit.
func (c *Client) VerifyAudit(ctx context.Context) (end admin.AuditEnd, err error) {
	return end, c.get(ctx, "/audit/verify", nil, &end)
}

// ExportAudit writes the whole audit, an entry on each line, the oldest first.
func (c *Client) ExportAudit(ctx context.Context, w io.Writer) error {
	resp, err := c.send(ctx, call{method: http.MethodGet, path: "/audit/export"})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, resp.Body)
	return err
}

// Session says who the token is.
func (c *Client) Session(ctx context.Context) (s admin.SessionInfo, err error) {
	return s, c.get(ctx, "/session", nil, &s)
}

// Tokens lists those tokens that the caller could revoke.
func (c *Client) Tokens(ctx context.Context) ([]admin.TokenResource, error) {
	return all[admin.TokenResource](ctx, c, "/tokens")
}

// AddToken makes a token; its Secret is told this once.
func (c *Client) AddToken(ctx context.Context, t admin.TokenResource) (made admin.TokenResource, err error) {
	return made, c.do(ctx, http.MethodPost, "/tokens", nil, nil, t, &made)
}

// DeleteToken revokes a token.
func (c *Client) DeleteToken(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, path("tokens", id), nil, nil, nil, nil)
}

// Users lists people.
func (c *Client) Users(ctx context.Context) ([]admin.UserResource, error) {
	return all[admin.UserResource](ctx, c, "/users")
}

// PutUser makes or changes a user. An empty password stays as it is.
func (c *Client) PutUser(ctx context.Context, u admin.UserResource) (now admin.UserResource, err error) {
	return now, c.do(ctx, http.MethodPut, path("users", u.Name), nil, nil, u, &now)
}

// DeleteUser deletes a user and their tokens.
func (c *Client) DeleteUser(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, path("users", name), nil, nil, nil, nil)
}

// Teams lists teams.
func (c *Client) Teams(ctx context.Context) ([]admin.TeamResource, error) {
	return all[admin.TeamResource](ctx, c, "/teams")
}

// PutTeam makes or changes a team.
func (c *Client) PutTeam(ctx context.Context, t admin.TeamResource) (now admin.TeamResource, err error) {
	return now, c.do(ctx, http.MethodPut, path("teams", t.Name), nil, nil, t, &now)
}

// DeleteTeam deletes a team, and leaves alone what it owns.
func (c *Client) DeleteTeam(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, path("teams", name), nil, nil, nil, nil)
}
