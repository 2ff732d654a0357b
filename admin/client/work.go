package client

import (
	"context"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"strconv"

	"fingerpost/admin"
)

// Job reads one job.
func (c *Client) Job(ctx context.Context, id string) (j admin.Job, err error) {
	return j, c.get(ctx, path("jobs", id), nil, &j)
}

// Drafts lists drafts, of a team and in a state, or all.
func (c *Client) Drafts(ctx context.Context, team, state string) (drafts []admin.DraftResource, err error) {
	var page admin.Page[admin.DraftResource]
	err = c.get(ctx, "/drafts", values("team", team, "state", state), &page)
	return page.Items, err
}

// Draft reads one draft, with what publishing it would do.
func (c *Client) Draft(ctx context.Context, id string) (d admin.DraftResource, err error) {
	return d, c.get(ctx, path("drafts", id), nil, &d)
}

// DraftDiff lists what a draft would change.
func (c *Client) DraftDiff(ctx context.Context, id string) iter.Seq2[admin.Difference, error] {
	return pages[admin.Difference](ctx, c, path("drafts", id, "diff"), nil)
}

// AddDraft streams the rows of a draft as NDJSON.
func (c *Client) AddDraft(ctx context.Context, rows io.Reader, team, note string) (d admin.DraftResource, err error) {
	resp, err := c.send(ctx, call{method: http.MethodPost, path: "/drafts", query: values("team", team, "note", note),
		header: http.Header{"Content-Type": {"application/x-ndjson"}}, body: rows})
	if err != nil {
		return d, err
	}
	defer resp.Body.Close()
	return d, json.NewDecoder(resp.Body).Decode(&d)
}

// ReviewDraft approves or rejects a draft.
func (c *Client) ReviewDraft(ctx context.Context, id string, approve bool, note string) (d admin.DraftResource, err error) {
	in := map[string]any{"approve": approve}
	if note != "" {
		in["note"] = note
	}
	return d, c.do(ctx, http.MethodPost, path("drafts", id, "review"), nil, nil, in, &d)
}

// PublishDraft brings a draft into force; with overwrite also what was changed since
// it was made.
func (c *Client) PublishDraft(ctx context.Context, id string, allowRemoving int64, overwrite bool) (r admin.Result, err error) {
	q := values()
	if allowRemoving > 0 {
		q.Set("allowRemoving", strconv.FormatInt(allowRemoving, 10))
	}
	if overwrite {
		q.Set("overwrite", "true")
	}
	return r, c.do(ctx, http.MethodPost, path("drafts", id, "publish"), q, nil, nil, &r)
}

// DeleteDraft deletes a draft.
func (c *Client) DeleteDraft(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, path("drafts", id), nil, nil, nil, nil)
}

// Source reads one source.
func (c *Client) Source(ctx context.Context, label string) (s admin.SourceResource, err error) {
	return s, c.get(ctx, path("sources", label), nil, &s)
}

// User reads one user.
func (c *Client) User(ctx context.Context, name string) (u admin.UserResource, err error) {
	return u, c.get(ctx, path("users", name), nil, &u)
}

// Team reads one team.
func (c *Client) Team(ctx context.Context, name string) (t admin.TeamResource, err error) {
	return t, c.get(ctx, path("teams", name), nil, &t)
}

// AuditEntry reads one entry of the audit.
func (c *Client) AuditEntry(ctx context.Context, seq int64) (e admin.AuditEntry, err error) {
	resp, err := c.send(ctx, call{method: http.MethodGet, path: "/audit/export", query: values("after", strconv.FormatInt(seq-1, 10))})
	if err != nil {
		return e, err
	}
	defer resp.Body.Close()
	return e, json.NewDecoder(resp.Body).Decode(&e)
}
