package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"fingerpost"
	"fingerpost/explain"
	"fingerpost/store"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

type explainInput struct {
	Body struct {
		URL     string            `json:"url" doc:"the whole address, as in https://www.example.com/path"`
		Method  string            `json:"method,omitempty" doc:"default GET"`
		Headers map[string]string `json:"headers,omitempty"`
		Country string            `json:"country,omitempty" doc:"of the visitor, as in NO"`
		Address string            `json:"address,omitempty" doc:"of the visitor"`
		At      *time.Time        `json:"at,omitempty" doc:"default now"`
	}
}

type explainOutput struct{ Body explain.Explanation }

func (s *Server) explain(ctx context.Context, in *explainInput) (*explainOutput, error) {
	if s.Explain == nil {
		return nil, problem(http.StatusNotImplemented, "no_table", "this node does not serve visitors", "ask one that does")
	}
	b := &in.Body
	e, err := s.Explain(ctx, &fingerpost.Case{URL: b.URL, Method: b.Method, Headers: b.Headers, Country: b.Country, Address: b.Address, At: b.At})
	if err != nil {
		return nil, err
	}
	return &explainOutput{*e}, nil
}

// AuditEntry is one line of the audit.
type AuditEntry = store.Entry

type AuditFilter struct {
	Kind string `query:"kind" doc:"only about this kind: host, redirect, token, user, …"`
	Key  string `query:"key" doc:"only about this one"`
	Who  string `query:"who" doc:"only what this user or token did"`
}

type auditOutput struct{ Body Page[AuditEntry] }

// listAudit gives entries, the newest first.
func (s *Server) listAudit(ctx context.Context, in *struct {
	PageInput
	AuditFilter
}) (*auditOutput, error) {
	list := listName("audit", in.Kind, in.Key, in.Who)
	before, err := readNumberCursor(list, in.Cursor)
	if err != nil {
		return nil, err
	}
	out := &auditOutput{Page[AuditEntry]{Items: []AuditEntry{}}}
	err = s.Store.Audit(ctx, store.AuditQuery{After: before, Kind: in.Kind, Key: in.Key, Who: in.Who, Limit: in.Limit + 1, Newest: true}, func(e *store.Entry) error {
		if len(out.Body.Items) == in.Limit {
			out.Body.Next = cursorOf(list, strconv.FormatInt(out.Body.Items[in.Limit-1].Seq, 10))
			return nil
		}
		out.Body.Items = append(out.Body.Items, *e)
		return nil
	})
	return out, err
}

// AuditEnd is the end of a chain that is whole.
type AuditEnd struct {
	Seq  int64  `json:"seq" doc:"how many entries there are"`
	Hash string `json:"hash" doc:"of the last one; keep it elsewhere to know later that nothing was rewritten"`
}

func (s *Server) verifyAudit(ctx context.Context, _ *struct{}) (*struct{ Body AuditEnd }, error) {
	seq, hash, err := s.Store.VerifyAudit(ctx)
	if errors.Is(err, store.ErrCorrupt) {
		return nil, problem(http.StatusConflict, "audit_broken", err.Error(), "somebody has written to the database by other means: compare it with a backup")
	}
	return &struct{ Body AuditEnd }{AuditEnd{seq, hash}}, err
}

type streamOutput struct {
	ContentType string `header:"Content-Type"`
	Body        func(huma.Context)
}

// exportAudit streams all entries, the oldest first, one on each line. It reads some
// at a time: a client that does not read on holds nothing of the store meanwhile.
func (s *Server) exportAudit(_ context.Context, in *struct {
	AuditFilter
	After int64 `query:"after" minimum:"0" doc:"only entries behind this seq"`
}) (*streamOutput, error) {
	return &streamOutput{ContentType: mediaNDJSON, Body: func(c huma.Context) {
		_, w := humago.Unwrap(c)
		out := &patientWriter{w, http.NewResponseController(w)}
		q := store.AuditQuery{After: in.After, Kind: in.Kind, Key: in.Key, Who: in.Who, Limit: 1000}
		for {
			var page bytes.Buffer
			n := 0
			err := s.Store.Audit(c.Context(), q, func(e *store.Entry) error {
				if page.Len() > auditPage {
					return errEnough
				}
				n, q.After = n+1, e.Seq
				return json.NewEncoder(&page).Encode(e)
			})
			full := errors.Is(err, errEnough)
			if err == nil || full {
				_, err = out.Write(page.Bytes())
			}
			if err != nil {
				if c.Context().Err() == nil {
					s.log().Warn("export the audit", "err", err)
				}
				panic(http.ErrAbortHandler) // so that the client sees that it is not whole
			}
			if n < q.Limit && !full {
				return
			}
		}
	}}, nil
}

// auditPage is how many bytes of the audit are read at once, and one entry more.
const auditPage = 1 << 20

// patientWriter gives a client some time for each part of an answer; the whole may
// take as long as it takes.
type patientWriter struct {
	w http.ResponseWriter
	c *http.ResponseController
}

func (p *patientWriter) Write(b []byte) (n int, err error) {
	for part := range slices.Chunk(b, 64<<10) {
		if err := p.c.SetWriteDeadline(time.Now().Add(idle)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return n, err
		}
		m, err := p.w.Write(part)
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}
