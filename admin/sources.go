package admin

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"fingerpost/store"

	"github.com/danielgtaylor/huma/v2"
)

// Source is one that this node follows.
type Source struct {
	Label, Kind, URL string
	Check            func()                 // looks at it now, in the background
	Secret           func() (string, error) // of its webhook; nil if it has none
}

// SourceResource is where content comes from, and how that goes.
type SourceResource struct {
	Label   string    `json:"label"`
	Kind    string    `json:"kind" doc:"file, git, url, s3; api and console for what people write; apply for what changesets bring under a label of their own"`
	URL     string    `json:"url,omitempty"`
	Team    string    `json:"team,omitempty"`
	State   string    `json:"state,omitempty" doc:"ok, error, paused, or waiting for its first version; absent where nobody follows it"`
	Error   string    `json:"error,omitempty" doc:"what is wrong now; its last good version serves"`
	Rev     int64     `json:"rev,omitempty" doc:"of what it published last"`
	Version string    `json:"version,omitempty" doc:"of what is in force: a commit, an ETag"`
	Items   int64     `json:"items" doc:"hosts and redirects in force that belong to it"`
	Paused  bool      `json:"paused,omitempty" doc:"it is not applied"`
	Checked time.Time `json:"checked,omitzero" doc:"when it was looked at last, to the minute"`
	Here    bool      `json:"here,omitempty" doc:"this node follows it: check and hook are asked of such a one"`
}

// The states of a source.
const (
	SourceOK      = "ok"
	SourceError   = "error"
	SourcePaused  = "paused"
	SourceWaiting = "waiting" // for its first version
)

const kindApply = "apply"

// sourceKind is the kind of a source that nobody follows.
func sourceKind(label string) string {
	if isOurs(label) {
		return label
	}
	return kindApply
}

func (s *Server) followed(label string) *Source {
	if i := slices.IndexFunc(s.Sources, func(f Source) bool { return f.Label == label }); i >= 0 {
		return &s.Sources[i]
	}
	return nil
}

func (s *Server) showSource(v *store.Source, items int64) SourceResource {
	r := SourceResource{v.Label, v.Kind, v.ShownURL(), v.Team, v.State, v.Error, v.Rev, v.Version, items, v.Paused, v.Checked, false}
	if f := s.followed(v.Label); f != nil {
		r.Here, r.Kind, r.URL = true, f.Kind, f.URL
	}
	if v.Paused {
		r.State, r.Error = SourcePaused, ""
	}
	return r
}

// itemCounts are the numbers of items by source, at a revision.
type itemCounts struct {
	mu  sync.Mutex // guards the rest
	at  store.Cursor
	all map[string]int64
}

// counts gives how many items each source has. They are counted once for each
// revision.
func (s *Server) counts(ctx context.Context) (map[string]int64, error) {
	h, err := s.Store.Head(ctx)
	if err != nil {
		return nil, err
	}
	c := &s.itemCounts
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all != nil && c.at == h.Cursor() {
		return c.all, nil
	}
	all, err := s.Store.CountBySource(ctx)
	if err == nil {
		c.at, c.all = h.Cursor(), all
	}
	return all, err
}

// allSources gives every source: those that the store knows, that this node
// follows, and that items belong to.
func (s *Server) allSources(ctx context.Context) (map[string]store.Source, map[string]int64, error) {
	stored, err := s.Store.Sources(ctx)
	if err != nil {
		return nil, nil, err
	}
	counts, err := s.counts(ctx)
	if err != nil {
		return nil, nil, err
	}
	all := map[string]store.Source{}
	for _, label := range append(slices.Collect(maps.Keys(counts)), sourceAPI, sourceConsole) {
		all[label] = store.Source{Label: label, Kind: sourceKind(label)}
	}
	for _, f := range s.Sources {
		all[f.Label] = store.Source{Label: f.Label, Kind: f.Kind, URL: f.URL, State: SourceWaiting}
	}
	for _, v := range stored {
		all[v.Label] = v
	}
	return all, counts, nil
}

type sourcesOutput struct{ Body Page[SourceResource] }

func (s *Server) listSources(ctx context.Context, _ *struct{}) (*sourcesOutput, error) {
	all, counts, err := s.allSources(ctx)
	if err != nil {
		return nil, err
	}
	out := &sourcesOutput{Page[SourceResource]{Items: []SourceResource{}}}
	for _, label := range slices.Sorted(maps.Keys(all)) {
		v := all[label]
		out.Body.Items = append(out.Body.Items, s.showSource(&v, counts[label]))
	}
	return out, nil
}

type SourceInput struct {
	Label string `path:"label" doc:"the label, escaped in the path"`
}

type sourceOutput struct{ Body SourceResource }

func (s *Server) getSource(ctx context.Context, in *SourceInput) (*sourceOutput, error) {
	v, counts, err := s.source(ctx, in.Label)
	if err != nil {
		return nil, err
	}
	return &sourceOutput{s.showSource(v, counts[in.Label])}, nil
}

func (s *Server) source(ctx context.Context, label string) (*store.Source, map[string]int64, error) {
	all, counts, err := s.allSources(ctx)
	if err != nil {
		return nil, nil, err
	}
	v, ok := all[label]
	if !ok {
		return nil, nil, problem(http.StatusNotFound, "not_found", fmt.Sprintf("there is no source %q", label), "GET /api/v1/sources lists them")
	}
	return &v, counts, nil
}

func (s *Server) pauseSource(ctx context.Context, in *SourceInput) (*sourceOutput, error) {
	return s.setPaused(ctx, in.Label, true)
}

func (s *Server) resumeSource(ctx context.Context, in *SourceInput) (*sourceOutput, error) {
	return s.setPaused(ctx, in.Label, false)
}

func (s *Server) setPaused(ctx context.Context, label string, paused bool) (*sourceOutput, error) {
	v, counts, err := s.source(ctx, label)
	if err != nil {
		return nil, err
	}
	p := principalOf(ctx)
	if err := authorize(p, Publish, v.Team); err != nil {
		return nil, err
	}
	if isOurs(label) {
		return nil, problem(http.StatusConflict, "not_followed", "people write to the source "+label+": it brings nothing by itself that could be paused", "take their roles away, or have the team review")
	}
	if v.Paused != paused {
		v.Paused = paused
		if err := s.Store.PutSource(ctx, p.actor(), *v); err != nil {
			return nil, err
		}
	}
	if s.SourcesChanged != nil {
		s.SourcesChanged()
	}
	return &sourceOutput{s.showSource(v, counts[label])}, nil
}

type acceptedOutput struct{ Status int }

// checkSource looks at a source now, without waiting for what comes of it.
func (s *Server) checkSource(ctx context.Context, in *SourceInput) (*acceptedOutput, error) {
	v, _, err := s.source(ctx, in.Label)
	if err != nil {
		return nil, err
	}
	if v.Team != "" {
		if err := authorize(principalOf(ctx), Write, v.Team); err != nil {
			return nil, err
		}
	}
	f := s.followed(in.Label)
	if f == nil {
		return nil, problem(http.StatusConflict, "not_followed", "this node does not follow the source "+in.Label, "ask a node that has it in its configuration, or apply it with POST changesets")
	}
	if v.Paused {
		return nil, fmt.Errorf("%w: %s", store.ErrPaused, in.Label)
	}
	f.Check()
	return &acceptedOutput{http.StatusAccepted}, nil
}

type hookInput struct {
	SourceInput
	GitHub string `header:"X-Hub-Signature-256" doc:"sha256= and the HMAC of the body: GitHub, Gitea, Forgejo"`
	GitLab string `header:"X-Gitlab-Token" doc:"the secret itself: GitLab"`
	Bearer string `header:"Authorization" doc:"Bearer and the secret itself: everybody else"`
}

// hookSource looks at a source because the place where it lives says that it was
// changed. Whoever calls has the secret of the source, or is told nothing: not
// even whether there is such a source, or has a secret.
func (s *Server) hookSource(ctx context.Context, in *hookInput) (*acceptedOutput, error) {
	f := s.followed(in.Label)
	secret := ""
	if f != nil && f.Secret != nil {
		var err error
		if secret, err = f.Secret(); err != nil {
			s.log().Error("read the secret of a webhook", "source", in.Label, "err", err)
		}
	}
	right, err := in.knows(secret, bodyOf(ctx))
	if err != nil {
		return nil, err
	}
	if !right {
		// By address only who is wrong: behind a proxy all have one.
		if err := s.hookLimit("address " + clientOf(requestOf(ctx))); err != nil {
			return nil, err
		}
		return nil, problem(http.StatusUnauthorized, "bad_signature", "there is no such source, it has no webhook, or this is not its secret", "webhookSecretEnv or webhookSecretFile of the source, and the same at the place that calls")
	}
	if err := s.hookLimit("source " + in.Label); err != nil {
		return nil, err
	}
	f.Check()
	return &acceptedOutput{http.StatusAccepted}, nil
}

func (s *Server) hookLimit(name string) error {
	var p *Problem
	if err := s.hooks.allow(s.now(), loginTries, name); errors.As(err, &p) {
		return retryLater(problem(http.StatusTooManyRequests, "too_many_requests", "this webhook is called too often", "the source is also looked at by itself, now and then"), p.after)
	}
	return nil
}

// knows reports whether the request shows the secret, in one of the ways that
// there are. It reads the body to its end only where that is signed.
func (in *hookInput) knows(secret string, body io.Reader) (bool, error) {
	same := func(given string) bool {
		a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(secret))
		return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && secret != ""
	}
	switch {
	case in.GitHub != "":
		mac := hmac.New(sha256.New, []byte(secret))
		if _, err := io.Copy(mac, body); err != nil {
			return false, cutShort(0, err)
		}
		given, err := hex.DecodeString(strings.TrimPrefix(in.GitHub, "sha256="))
		return hmac.Equal(given, mac.Sum(nil)) && err == nil && secret != "", nil
	case in.GitLab != "":
		return same(in.GitLab), nil
	}
	scheme, given, _ := strings.Cut(in.Bearer, " ")
	return same(strings.TrimSpace(given)) && strings.EqualFold(scheme, "Bearer"), nil
}

// hook marks a route whose caller is known by a secret of its own, and whose body
// is whatever it is.
func hook(op *huma.Operation, r *route) {
	r.ownSecret = true
	op.Description = "Called by the place where the source lives. One of the three headers shows the secret of the source; the body counts for its signature only."
}
