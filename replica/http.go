package replica

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// The feed over HTTP. Who may ask is for the server that mounts the handlers.
//
//	GET  /v1/snapshot?epoch=&cursor=  a snapshot, not before that cursor if its epoch is that; while it is being made, frames of type H
//	GET  /v1/feed?epoch=&cursor=&digest=  a stream of frames, without end; 410: fetch a snapshot
//	POST /v1/feed                     JSON: how far the follower is, and reports of nodes
const (
	feedType     = "application/vnd.fingerpost.feed"
	snapshotType = "application/vnd.fingerpost.snapshot"
	writeTime    = 30 * time.Second // for each write: a follower that takes nothing is cut off
)

// Report is what a node tells of itself to the node that it follows: with each
// revision that it serves, and whenever the feed shows that it lives.
type Report struct {
	Node      string   `json:"node"`     // its name, which no other has
	Instance  string   `json:"instance"` // another one after each start
	Region    string   `json:"region,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
	Roles     []string `json:"roles,omitempty"`
	Version   string   `json:"version,omitempty"`
	Health    string   `json:"health,omitempty"`
	At        Cursor   `json:"at"` // what it serves
}

// acknowledgement is the body of a POST. A relay hands on the reports of those
// who follow it beside its own.
type acknowledgement struct {
	Cursor
	Nodes []Report `json:"nodes,omitempty"`
}

// maxReports bounds the body of a POST, which has one for each node at the most.
const maxReports = 4 << 20

// FeedHandler serves a feed, and takes acknowledgements for it. acknowledged,
// which may be nil, is called with each request that has one: with the reports in
// it, or with one that has a cursor alone. Its error is the follower's: 409.
func FeedHandler(feed Feed, acknowledged func(r *http.Request, reports []Report) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPost:
			var ack acknowledgement
			if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxReports)).Decode(&ack); err != nil {
				problem(w, http.StatusBadRequest, "the body is no cursor: "+err.Error())
				return
			}
			if len(ack.Nodes) == 0 {
				ack.Nodes = []Report{{At: ack.Cursor}}
			}
			if acknowledged != nil {
				if err := acknowledged(r, ack.Nodes); err != nil {
					problem(w, http.StatusConflict, err.Error())
					return
				}
			}
			w.WriteHeader(http.StatusNoContent)
		case http.MethodGet:
			at, err := cursorOf(r.URL.Query())
			if err != nil {
				problem(w, http.StatusBadRequest, err.Error())
				return
			}
			after := Place{at, r.URL.Query().Get("digest")}
			s := sender{w: w, rc: http.NewResponseController(w)}
			s.buf = bufio.NewWriterSize(&s, 64<<10)
			err = feed.Follow(r.Context(), after, s.frame, s.buf.Flush)
			s.fail(err)
		default:
			w.Header().Set("Allow", "GET, POST")
			problem(w, http.StatusMethodNotAllowed, "GET for the feed, POST to acknowledge")
		}
	})
}

// SnapshotHandler serves snapshots, as [Snapshots.Get] and [Replica.Snapshot] give
// them.
func SnapshotHandler(get func(ctx context.Context, atLeast Cursor) (*Snapshot, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", "GET")
			problem(w, http.StatusMethodNotAllowed, "GET a snapshot")
			return
		}
		atLeast, err := cursorOf(r.URL.Query())
		if err != nil {
			problem(w, http.StatusBadRequest, err.Error())
			return
		}
		var snapshot *Snapshot
		made := make(chan struct{})
		go func() {
			defer close(made)
			snapshot, err = get(r.Context(), atLeast)
		}()
		s := sender{w: w, rc: http.NewResponseController(w)}
		beat := time.NewTicker(heartbeat)
		defer beat.Stop()
		for making := true; making; {
			select {
			case <-made:
				making = false
			case <-beat.C: // so that the follower knows that somebody is there
				s.begin(snapshotType)
				s.Write(appendJSONFrame(nil, frameHead, Head{})) // where it fails, the request ends
				s.rc.Flush()
			}
		}
		if err != nil {
			s.fail(err)
			return
		}
		defer snapshot.Close()
		s.begin(snapshotType)
		if _, err := snapshot.WriteTo(&s); err != nil {
			s.fail(err)
		}
	})
}

// sender writes an answer that may take for ever, with a deadline for each write.
type sender struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	buf   *bufio.Writer // of a feed
	began bool
	frm   []byte
}

func (s *sender) Write(p []byte) (n int, err error) {
	s.rc.SetWriteDeadline(time.Now().Add(writeTime)) // a writer that cannot has none
	if n, err = s.w.Write(p); err == nil && s.buf != nil {
		err = s.rc.Flush()
	}
	return n, err
}

func (s *sender) begin(contentType string) {
	if !s.began {
		s.w.Header().Set("Content-Type", contentType)
		s.w.Header().Set("Cache-Control", "no-store")
		s.began = true
	}
}

func (s *sender) frame(f Frame) (err error) {
	s.begin(feedType)
	if f.Revision == nil {
		s.frm = appendJSONFrame(s.frm[:0], frameHead, f.Head)
	} else if s.frm, err = appendRevisionFrame(s.frm[:0], f.Revision); err != nil {
		return err
	}
	if _, err := s.buf.Write(s.frm); err != nil {
		return err
	}
	if f.Revision == nil {
		return s.buf.Flush()
	}
	return nil
}

// fail ends the answer: with a problem, or by cutting the connection when it has
// begun, so that the follower never takes what came for the whole.
func (s *sender) fail(err error) {
	switch {
	case s.began:
		panic(http.ErrAbortHandler)
	case errors.Is(err, ErrTooOld):
		problem(s.w, http.StatusGone, err.Error())
	default:
		s.w.Header().Set("Retry-After", "1")
		problem(s.w, http.StatusServiceUnavailable, err.Error())
	}
}

// problem answers with a document as of RFC 9457.
func problem(w http.ResponseWriter, status int, detail string) {
	b, _ := json.Marshal(map[string]any{"status": status, "title": http.StatusText(status), "detail": detail})
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}

func cursorOf(q url.Values) (c Cursor, err error) {
	c.Epoch = q.Get("epoch")
	if s := q.Get("cursor"); s != "" {
		if c.Rev, err = strconv.ParseInt(s, 10, 64); err != nil || c.Rev < 0 {
			return c, fmt.Errorf("cursor %q is no revision", s)
		}
	}
	return c, nil
}

// Client follows a control node, or another edge that relays.
type Client struct {
	URL   string       // of its admin listener, with or without a final slash
	Token string       // a node token
	HTTP  *http.Client // default http.DefaultClient; it must not have a Timeout

	// Reports gives what to tell with an acknowledgement: of this node first. Nil
	// tells the cursor alone. What was not told, since that failed, is gone.
	Reports func(at Cursor) []Report
}

// ErrRefused says that an upstream does not take what was sent, and will not when
// it is sent again: a token, a name that another node has.
var ErrRefused = errors.New("refused")

// Snapshot implements Upstream. An upstream that falls silent is given up.
func (c *Client) Snapshot(ctx context.Context, atLeast Cursor) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	b := &body{end: cancel, silence: time.AfterFunc(stalled, func() { cancel(fmt.Errorf("nothing came for %v", stalled)) })}
	var err error
	if b.ReadCloser, err = c.get(ctx, "/v1/snapshot", Place{Cursor: atLeast}); err != nil {
		b.silence.Stop()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return nil, err
	}
	b.ctx = ctx
	return b, nil
}

// body is the body of an answer that must go on coming.
type body struct {
	io.ReadCloser
	ctx     context.Context
	end     context.CancelCauseFunc
	silence *time.Timer
}

func (b *body) Read(p []byte) (n int, err error) {
	n, err = b.ReadCloser.Read(p)
	if b.silence.Reset(stalled); err != nil && err != io.EOF && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	return n, err
}

func (b *body) Close() error {
	b.silence.Stop()
	b.end(nil)
	return b.ReadCloser.Close()
}

// Revisions implements Upstream.
func (c *Client) Revisions(ctx context.Context, after Place, fn func(Frame) error) error {
	body, err := c.get(ctx, "/v1/feed", after)
	if err != nil {
		return err
	}
	defer body.Close()
	return readFeed(body, fn)
}

// Acknowledge implements Upstream.
func (c *Client) Acknowledge(ctx context.Context, at Cursor) error {
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	ack := acknowledgement{Cursor: at}
	if c.Reports != nil {
		ack.Nodes = c.Reports(at)
	}
	b, err := json.Marshal(ack)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url("/v1/feed"), bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	body, err := c.do(req)
	if err == nil {
		body.Close()
	}
	return err
}

func (c *Client) url(path string) string { return strings.TrimSuffix(c.URL, "/") + path }

func (c *Client) get(ctx context.Context, path string, at Place) (io.ReadCloser, error) {
	q := url.Values{}
	if at.Cursor != (Cursor{}) {
		q.Set("epoch", at.Epoch)
		q.Set("cursor", strconv.FormatInt(at.Rev, 10))
	}
	if at.Digest != "" {
		q.Set("digest", at.Digest)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url(path)+"?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	return c.do(req)
}

func (c *Client) do(req *http.Request) (io.ReadCloser, error) {
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	req.Header.Set("Accept-Encoding", "identity")
	h := c.HTTP
	if h == nil {
		h = http.DefaultClient
	}
	res, err := h.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode/100 == 2 {
		return res.Body, nil
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	var p struct{ Title, Detail string }
	json.Unmarshal(b, &p)
	err = fmt.Errorf("%s %s: %s", req.Method, req.URL.Path, strings.Join(strings.Fields(res.Status+" "+p.Detail), " "))
	switch {
	case res.StatusCode == http.StatusGone:
		err = fmt.Errorf("%w: %w", ErrTooOld, err)
	case res.StatusCode/100 == 4:
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil, err
}
