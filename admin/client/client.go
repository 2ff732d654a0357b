// Package client speaks the API of package admin, for the command line and for
// programs of the same repository.
//
// It knows routes, paging, streams and problems. It does not retry: a caller
// that may repeat a write gives it a Key.
//
// Start reading at [New].
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/explain"
)

// Client asks one server. All methods may be called at once. An error that the
// server gives is a *[admin.Problem].
type Client struct {
	base  string
	token string
	http  *http.Client
}

// New gives a client of the server at a URL such as http://127.0.0.1:9090, with a
// token; without one only what is open can be asked. A nil http is
// http.DefaultClient.
func New(server, token string, h *http.Client) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, &fingerpost.Error{Code: "bad_url", Field: "server", Message: fmt.Sprintf("the server %q is not a URL", server), Hint: "as in http://127.0.0.1:9090"}
	}
	if h == nil {
		h = http.DefaultClient
	}
	return &Client{base: strings.TrimSuffix(server, "/") + admin.Prefix, token: token, http: h}, nil
}

// call is one request.
type call struct {
	method, path string
	query        url.Values
	header       http.Header
	body         io.Reader
}

// send gives the answer of a call that went well; the caller closes its body.
func (c *Client) send(ctx context.Context, k call) (*http.Response, error) {
	target := c.base + k.path
	if len(k.query) > 0 {
		target += "?" + k.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, k.method, target, k.body)
	if err != nil {
		return nil, err
	}
	for name, values := range k.header {
		req.Header[name] = values
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	p := new(admin.Problem)
	if err := json.Unmarshal(text, p); err != nil || p.Code == "" {
		return nil, &admin.Problem{Title: http.StatusText(resp.StatusCode), Status: resp.StatusCode, Code: "no_problem",
			Detail: fmt.Sprintf("%s answers %s, which is no answer of Fingerpost", c.base, resp.Status), Hint: "is this the address of the admin listener?"}
	}
	return nil, p
}

// do sends in as JSON, if it is not nil, and reads the answer into out, if that
// is not nil.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, header http.Header, in, out any) error {
	k := call{method: method, path: path, query: query, header: header}
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return err
		}
		k.body = bytes.NewReader(body)
		if k.header == nil {
			k.header = http.Header{}
		}
		k.header.Set("Content-Type", "application/json")
	}
	resp, err := c.send(ctx, k)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the answer to %s %s: %w", method, path, err)
	}
	return nil
}

// pages walks through all pages of a list.
func pages[T any](ctx context.Context, c *Client, path string, query url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		q := url.Values{"limit": {"1000"}}
		for name, values := range query {
			q[name] = values
		}
		for {
			var page admin.Page[T]
			if err := c.do(ctx, http.MethodGet, path, q, nil, nil, &page); err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			q.Set("cursor", page.Next)
		}
	}
}

// all gives a list that has one page.
func all[T any](ctx context.Context, c *Client, path string) ([]T, error) {
	var page admin.Page[T]
	err := c.do(ctx, http.MethodGet, path, nil, nil, nil, &page)
	return page.Items, err
}

// Filter chooses hosts and redirects. Empty fields choose all.
type Filter struct {
	Host   string // of redirects
	Team   string
	Source string
	Text   string
}

func (f Filter) query() url.Values {
	return values("host", f.Host, "team", f.Team, "source", f.Source, "text", f.Text)
}

// values makes a query of those pairs that have a value.
func values(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

// Write says how one thing is written.
type Write struct {
	Rev  int64  // the revision that it must have; -1: there must be none; 0: any
	Key  string // the Idempotency-Key
	Take bool   // take it over from another source
	Note string
}

func (w Write) query() url.Values {
	q := values("note", w.Note)
	if w.Take {
		q.Set("take", "true")
	}
	return q
}

func (w Write) header() http.Header {
	h := http.Header{}
	switch {
	case w.Rev > 0:
		h.Set("If-Match", strconv.Quote(strconv.FormatInt(w.Rev, 10)))
	case w.Rev < 0:
		h.Set("If-None-Match", "*")
	}
	if w.Key != "" {
		h.Set("Idempotency-Key", w.Key)
	}
	return h
}

func path(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString("/" + url.PathEscape(p))
	}
	return b.String()
}

// Hosts lists hosts by name.
func (c *Client) Hosts(ctx context.Context, f Filter) iter.Seq2[admin.HostResource, error] {
	f.Host = ""
	return pages[admin.HostResource](ctx, c, "/hosts", f.query())
}

// Host reads one host.
func (c *Client) Host(ctx context.Context, name string) (h admin.HostResource, err error) {
	return h, c.get(ctx, path("hosts", name), nil, &h)
}

func (c *Client) get(ctx context.Context, path string, query url.Values, out any) error {
	return c.do(ctx, http.MethodGet, path, query, nil, nil, out)
}

// PutHost makes or changes a host.
func (c *Client) PutHost(ctx context.Context, h admin.HostResource, w Write) (now admin.HostResource, err error) {
	return now, c.do(ctx, http.MethodPut, path("hosts", h.Name), w.query(), w.header(), h, &now)
}

// DeleteHost deletes a host's settings. redirects says what becomes of its
// redirects: delete, keep, or empty if there should be none; allowRemoving how many
// may be deleted with it, where that is more than a tenth of a team's.
func (c *Client) DeleteHost(ctx context.Context, name, redirects string, allowRemoving int64, w Write) (r admin.Result, err error) {
	q := w.query()
	if allowRemoving > 0 {
		q.Set("allowRemoving", strconv.FormatInt(allowRemoving, 10))
	}
	if redirects != "" {
		q.Set("redirects", redirects)
	}
	return r, c.do(ctx, http.MethodDelete, path("hosts", name), q, w.header(), nil, &r)
}

// Redirects lists redirects by host and id.
func (c *Client) Redirects(ctx context.Context, f Filter) iter.Seq2[admin.RedirectResource, error] {
	return pages[admin.RedirectResource](ctx, c, "/redirects", f.query())
}

// Redirect reads one redirect.
func (c *Client) Redirect(ctx context.Context, host, id string) (r admin.RedirectResource, err error) {
	return r, c.get(ctx, path("redirects", id), values("host", host), &r)
}

// AddRedirect makes a redirect, which must not be there yet.
func (c *Client) AddRedirect(ctx context.Context, r fingerpost.Redirect, w Write) (now admin.RedirectResource, err error) {
	w.Rev = 0
	return now, c.do(ctx, http.MethodPost, "/redirects", w.query(), w.header(), r, &now)
}

// PutRedirect makes or changes the redirect of a host with an id.
func (c *Client) PutRedirect(ctx context.Context, host, id string, r fingerpost.Redirect, w Write) (now admin.RedirectResource, err error) {
	q := w.query()
	q.Set("host", host)
	return now, c.do(ctx, http.MethodPut, path("redirects", id), q, w.header(), r, &now)
}

// DeleteRedirect deletes one redirect.
func (c *Client) DeleteRedirect(ctx context.Context, host, id string, w Write) (r admin.Result, err error) {
	q := w.query()
	q.Set("host", host)
	return r, c.do(ctx, http.MethodDelete, path("redirects", id), q, w.header(), nil, &r)
}

// Changeset says how rows are taken.
type Changeset struct {
	Mode          string   // merge (default) or replace
	Source        string   // default api
	Kinds         []string // of replace; default all
	DryRun        bool
	Take          bool
	AllowRemoving int64
	// Base is the revision that this was planned on, as a dry run gives it in Rev:
	// 412 with the code base_moved if hosts or redirects were changed since. Nil: it
	// does not matter.
	Base        *int64
	Note        string
	Key         string // the Idempotency-Key
	ContentType string // default application/x-ndjson
}

// PostChangeset streams rows. A large one comes back as a job: see WaitJob.
func (c *Client) PostChangeset(ctx context.Context, rows io.Reader, o Changeset) (r admin.ChangesetResult, err error) {
	q := values("mode", o.Mode, "source", o.Source, "note", o.Note, "kinds", strings.Join(o.Kinds, ","))
	if o.DryRun {
		q.Set("dryRun", "true")
	}
	if o.Take {
		q.Set("take", "true")
	}
	if o.AllowRemoving > 0 {
		q.Set("allowRemoving", strconv.FormatInt(o.AllowRemoving, 10))
	}
	if o.Base != nil {
		q.Set("base", strconv.FormatInt(*o.Base, 10))
	}
	h := http.Header{"Content-Type": {o.ContentType}}
	if o.ContentType == "" {
		h.Set("Content-Type", "application/x-ndjson")
	}
	if o.Key != "" {
		h.Set("Idempotency-Key", o.Key)
	}
	resp, err := c.send(ctx, call{method: http.MethodPost, path: "/changesets", query: q, header: h, body: rows})
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	return r, json.NewDecoder(resp.Body).Decode(&r)
}

// Jobs lists all jobs.
func (c *Client) Jobs(ctx context.Context) ([]admin.Job, error) {
	return all[admin.Job](ctx, c, "/jobs")
}

// CancelJob cancels a job, if it is not too late.
func (c *Client) CancelJob(ctx context.Context, id string) (j admin.Job, err error) {
	return j, c.do(ctx, http.MethodDelete, path("jobs", id), nil, nil, nil, &j)
}

// WaitJob follows a job to its end, and calls progress, if it is not nil, for each
// news of it. The error is the problem of a job that failed.
func (c *Client) WaitJob(ctx context.Context, id string, progress func(admin.Job)) (j admin.Job, err error) {
	for data, err := range c.stream(ctx, path("jobs", id, "events"), nil, nil) {
		if err != nil {
			return j, err
		}
		j = admin.Job{}
		if err := json.Unmarshal(data, &j); err != nil {
			return j, err
		}
		if progress != nil {
			progress(j)
		}
	}
	switch {
	case j.Problem != nil:
		return j, j.Problem
	case !j.Ended():
		return j, fmt.Errorf("follow the job %s: %w", id, io.ErrUnexpectedEOF)
	}
	return j, nil
}

// stream gives the data of server-sent events, until the server ends.
func (c *Client) stream(ctx context.Context, path string, query url.Values, header http.Header) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		resp, err := c.send(ctx, call{method: http.MethodGet, path: path, query: query, header: header})
		if err != nil {
			yield(nil, err)
			return
		}
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 16<<20)
		event := ""
		for lines.Scan() {
			if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				event = name
			}
			data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
			switch {
			case !ok:
			case event == "problem":
				p := new(admin.Problem)
				if err := json.Unmarshal(data, p); err != nil {
					yield(nil, err)
					return
				}
				yield(nil, p)
				return
			case !yield(data, nil):
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(nil, err)
		}
	}
}

// Explain asks which rule answers an address, and why.
func (c *Client) Explain(ctx context.Context, r fingerpost.Case) (*explain.Explanation, error) {
	e := new(explain.Explanation)
	in := map[string]any{"url": r.URL}
	for name, v := range map[string]string{"method": r.Method, "country": r.Country, "address": r.Address} {
		if v != "" {
			in[name] = v
		}
	}
	if len(r.Headers) > 0 {
		in["headers"] = r.Headers
	}
	if r.At != nil {
		in["at"] = r.At
	}
	return e, c.do(ctx, http.MethodPost, "/explain", nil, nil, in, e)
}

// Events gives every revision from now on, or behind the event with the id after.
func (c *Client) Events(ctx context.Context, after string) iter.Seq2[admin.RevisionEvent, error] {
	return func(yield func(admin.RevisionEvent, error) bool) {
		for data, err := range c.stream(ctx, "/events", values("after", after), nil) {
			var e admin.RevisionEvent
			if err == nil {
				err = json.Unmarshal(data, &e)
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Nodes lists all nodes.
func (c *Client) Nodes(ctx context.Context) ([]admin.NodeResource, error) {
	return all[admin.NodeResource](ctx, c, "/nodes")
}

// DeleteNode forgets a node; if it lives, it reports itself again.
func (c *Client) DeleteNode(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, path("nodes", id), nil, nil, nil, nil)
}
