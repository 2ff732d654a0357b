package admin

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"

	"fingerpost/store"
)

// DraftResource is a change that waits for a reviewer.
type DraftResource struct {
	ID       string    `json:"id"`
	Team     string    `json:"team"`
	State    string    `json:"state" enum:"open,approved,rejected,published"`
	Author   string    `json:"author"`
	Reviewer string    `json:"reviewer,omitempty"`
	Note     string    `json:"note,omitempty"`
	Base     int64     `json:"base" doc:"the revision that it was made on"`
	Created  time.Time `json:"created,omitzero"`
	Updated  time.Time `json:"updated,omitzero"`
	// Would is what publishing it would do now.
	Would *store.Summary `json:"would,omitempty" doc:"what publishing it would do now"`
}

// The states of a draft.
const (
	DraftOpen      = "open"
	DraftApproved  = "approved"
	DraftRejected  = "rejected"
	DraftPublished = "published"
)

// maxDraft bounds a draft: somebody is to read it.
const maxDraft = 10_000

func showDraft(d *store.Draft) DraftResource {
	return DraftResource{ID: d.ID, Team: d.Team, State: d.State, Author: nameOf(d.Author), Reviewer: nameOf(d.Reviewer), Note: d.Note, Base: d.Base, Created: d.Created, Updated: d.Updated}
}

type draftsOutput struct{ Body Page[DraftResource] }

func (s *Server) listDrafts(ctx context.Context, in *struct {
	Team  string `query:"team" doc:"only those of this team"`
	State string `query:"state" enum:"open,approved,rejected,published" doc:"only those in this state"`
}) (*draftsOutput, error) {
	all, err := s.Store.Drafts(ctx)
	if err != nil {
		return nil, err
	}
	sets, err := s.Store.Changesets(ctx)
	if err != nil {
		return nil, err
	}
	out := &draftsOutput{Page[DraftResource]{Items: []DraftResource{}}}
	for i := range all {
		for _, c := range sets {
			if c.ID == all[i].Changeset {
				settled(&all[i], c)
			}
		}
		if (in.Team == "" || in.Team == all[i].Team) && (in.State == "" || in.State == all[i].State) {
			out.Body.Items = append(out.Body.Items, showDraft(&all[i]))
		}
	}
	return out, nil
}

type postDraftInput struct {
	KeyInput
	Team        string `query:"team" required:"true" doc:"whose content it changes"`
	Note        string `query:"note" maxLength:"1000" doc:"why, for the reviewer"`
	ContentType string `header:"Content-Type" doc:"application/x-ndjson, text/csv or application/json"`
}

type draftOutput struct {
	Status   int
	Location string `header:"Location"`
	Body     DraftResource
}

// postDraft stages a change for a reviewer: the rows are those of a changeset.
func (s *Server) postDraft(ctx context.Context, in *postDraftInput) (*draftOutput, error) {
	p := principalOf(ctx)
	if err := authorize(p, Draft, in.Team); err != nil {
		return nil, err
	}
	digest := &digest{h: sha256.New()}
	body := digest.read(bodyOf(ctx))
	rows, err := readRows(in.ContentType, body)
	if err != nil {
		return nil, err
	}
	id := newID("draft-")
	if in.Key != "" {
		id = idOf("draft-", p, in.Key)
		if made, err := s.madeDraft(ctx, p, in.KeyInput, id, body, digest); err != nil || made != nil {
			return made, err
		}
	}
	base, err := s.newest(ctx)
	if err != nil {
		return nil, err
	}
	cs := &changesetInput{Mode: string(store.Merge), Source: p.source(), Note: in.Note}
	a := s.newAssembly(p, cs)
	a.draft = in.Team
	c, err := s.Store.Stage(ctx, store.StageOptions{Source: cs.Source, Actor: p.actor(), Note: in.Note})
	if err != nil {
		return nil, err
	}
	drop := func(err error) (*draftOutput, error) {
		return nil, errors.Join(err, c.Cancel(context.WithoutCancel(ctx)))
	}
	n, err := c.Add(ctx, atMostRows(a.changes(ctx, rows, nil), maxDraft))
	if err == nil && n == 0 {
		err = problem(http.StatusUnprocessableEntity, "empty", "the draft has no rows", "")
	}
	if err == nil {
		err = s.serialised(ctx, func(base int64) error {
			return s.accept(ctx, Proposal{Base: base, Changes: c.Each(ctx), Changeset: c})
		})
	}
	if err != nil {
		return drop(err)
	}
	d := store.Draft{ID: id, Team: in.Team, State: DraftOpen, Author: p.identity(), Note: in.Note, Changeset: c.ID, Base: base, Created: s.now()}
	if err := s.Store.PutDraft(ctx, p.actor(), d); err != nil {
		return drop(err)
	}
	if in.Key != "" {
		if err := s.note(sumWith(ctx, digest), in.KeyInput); err != nil {
			return nil, err
		}
	}
	return &draftOutput{http.StatusCreated, Prefix + "/drafts/" + id, showDraft(&d)}, nil
}

// sumWith gives the request the hash of the rows that were read of it.
func sumWith(ctx context.Context, d *digest) context.Context {
	whole := exchange{sum: sumOf(requestSum(ctx), d.sum())}
	return context.WithValue(ctx, requestKey{}, &whole)
}

// madeDraft is what an earlier request with the same key has made; nil if there was
// none.
func (s *Server) madeDraft(ctx context.Context, p *Principal, in KeyInput, id string, body io.Reader, digest *digest) (*draftOutput, error) {
	d, err := s.Store.Draft(ctx, id)
	gone := isNotFound(err)
	if err != nil && !gone {
		return nil, err
	}
	_, _, err = s.Store.Receipt(ctx, keyOf(p, in.Key))
	if isNotFound(err) && gone {
		return nil, nil
	}
	if err != nil && !isNotFound(err) {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return nil, cutShort(0, err)
	}
	if _, err := s.done(sumWith(ctx, digest), in); err != nil {
		return nil, err
	}
	if gone {
		return nil, problem(http.StatusGone, "gone", "the draft that this Idempotency-Key has made is deleted", "a new key for each new request")
	}
	return &draftOutput{http.StatusCreated, Prefix + "/drafts/" + id, showDraft(&d)}, nil
}

func atMostRows(changes iter.Seq2[store.Change, error], most int) iter.Seq2[store.Change, error] {
	return func(yield func(store.Change, error) bool) {
		n := 0
		for c, err := range changes {
			if n++; n > most && err == nil {
				err = problem(http.StatusUnprocessableEntity, "too_large", fmt.Sprintf("a draft has at most %d rows", most), "a publisher uses POST changesets for more")
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

type DraftInput struct {
	ID string `path:"id"`
}

// settled makes a draft published whose changeset is: its node was lost before it
// said so, or is about to say it.
func settled(d *store.Draft, c *store.Changeset) {
	if c.State == store.StatePublished {
		d.State = DraftPublished
	}
}

// draft reads a draft, with its changeset unless it is published.
func (s *Server) draft(ctx context.Context, id string) (*store.Draft, *store.Changeset, error) {
	d, err := s.Store.Draft(ctx, id)
	if err != nil || d.State == DraftPublished {
		return &d, nil, err
	}
	c, err := s.Store.Changeset(ctx, d.Changeset)
	if err != nil {
		return nil, nil, err
	}
	settled(&d, c)
	return &d, c, nil
}

func (s *Server) getDraft(ctx context.Context, in *DraftInput) (*draftOutput, error) {
	d, c, err := s.draft(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	out := &draftOutput{Status: http.StatusOK, Body: showDraft(d)}
	if d.State == DraftPublished {
		return out, nil
	}
	would, err := c.Summary(ctx)
	out.Body.Would = &would
	return out, err
}

// getDraftDiff shows what a draft would change.
func (s *Server) getDraftDiff(ctx context.Context, in *struct {
	DraftInput
	PageInput
}) (*diffOutput, error) {
	list := listName("draft", in.ID)
	after, err := readCursor(list, in.Cursor)
	if err != nil {
		return nil, err
	}
	d, staged, err := s.draft(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if d.State == DraftPublished {
		return nil, isPublished()
	}
	out := &Page[Difference]{Items: []Difference{}}
	last := ""
	for c, err := range staged.Each(ctx) {
		if err != nil {
			return nil, err
		}
		at := c.Item.Kind + " " + c.Item.Key
		if at <= after {
			continue
		}
		if len(out.Items) == in.Limit {
			out.Next = cursorOf(list, last)
			break
		}
		last = at
		diff := &store.Difference{Kind: c.Item.Kind, Key: c.Item.Key}
		if diff.Before, err = s.get(ctx, diff.Kind, diff.Key); err != nil {
			return nil, err
		}
		if c.Op == store.Put {
			diff.After = &c.Item
		}
		shown, err := showDifference(diff)
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, shown)
	}
	return &diffOutput{out}, nil
}

func isPublished() *Problem {
	return problem(http.StatusConflict, "published", "the draft is published", "GET /api/v1/changes lists what was published")
}

type reviewInput struct {
	DraftInput
	Body struct {
		Approve bool   `json:"approve"`
		Note    string `json:"note,omitempty" maxLength:"1000"`
	}
}

// reviewDraft approves or rejects a draft.
func (s *Server) reviewDraft(ctx context.Context, in *reviewInput) (*draftOutput, error) {
	d, _, err := s.openDraft(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	p := principalOf(ctx)
	d.Reviewer = p.identity()
	if d.State = DraftRejected; in.Body.Approve {
		d.State = DraftApproved
	}
	if in.Body.Note != "" {
		d.Note += "\n" + p.Name + ": " + in.Body.Note
	}
	if err := s.Store.ChangeDraft(ctx, p.actor(), *d); err != nil {
		return nil, err
	}
	// Somebody may have published it at that very moment.
	if d, _, err = s.draft(ctx, in.ID); err == nil && d.State == DraftPublished {
		err = isPublished()
	}
	if err != nil {
		return nil, err
	}
	return &draftOutput{Status: http.StatusOK, Body: showDraft(d)}, nil
}

// openDraft reads a draft that the caller may review or publish.
func (s *Server) openDraft(ctx context.Context, id string) (*store.Draft, *store.Changeset, error) {
	d, c, err := s.draft(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	p := principalOf(ctx)
	if err := authorize(p, Publish, d.Team); err != nil {
		return nil, nil, err
	}
	reviews, err := s.reviews(ctx, d.Team)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case d.State == DraftPublished:
		return nil, nil, isPublished()
	case reviews && d.Author == p.identity():
		return nil, nil, forbidden("the team has its drafts read by a second person", "ask another publisher of "+d.Team)
	}
	return d, c, nil
}

// publishDraft brings a draft into force, unless somebody has changed the same
// things since. Each of its rows is decided about anew: what it is about may be
// another team's by now.
func (s *Server) publishDraft(ctx context.Context, in *struct {
	DraftInput
	KeyInput
	AllowRemoving int64 `query:"allowRemoving" minimum:"0" doc:"how many redirects may be removed, where it is more than a tenth of the team's"`
	Overwrite     bool  `query:"overwrite" doc:"also where the same things were changed since"`
}) (*resultOutput, error) {
	p := principalOf(ctx)
	sum := ""
	if in.Key != "" {
		sum = sumOf(keyOf(p, in.Key), requestSum(ctx))
	}
	if first, err := s.wasPublished(ctx, p, in.ID, sum); err != nil || first != nil {
		return first, err
	}
	d, c, err := s.openDraft(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if d.State == DraftRejected {
		return nil, problem(http.StatusConflict, "rejected", "the draft was rejected", "approve it first, or make another one")
	}
	var r store.Receipt
	var a *assembly
	err = s.serialised(ctx, func(base int64) error {
		// An editor may have drafted what it takes a publisher to bring into force.
		a = s.newAssembly(p, &changesetInput{Mode: string(store.Merge)})
		a.published = true
		var conflicts store.Conflicts
		for change, err := range c.Each(ctx) {
			if err != nil {
				return err
			}
			now, err := s.get(ctx, change.Item.Kind, change.Item.Key)
			if err != nil {
				return err
			}
			if now != nil && now.Rev > d.Base && len(conflicts) < maxFaults {
				conflicts = append(conflicts, &store.Conflict{Kind: now.Kind, Key: now.Key, Now: now, Reason: fmt.Sprintf("it was changed in revision %d, after the draft was made", now.Rev)})
			}
			if err := a.mayPublish(ctx, &change, now); err != nil {
				return err
			}
		}
		if len(conflicts) > 0 && !in.Overwrite {
			return conflicts
		}
		if err := a.checkRemoved(ctx, in.AllowRemoving); err != nil {
			return err
		}
		if err := s.accept(ctx, Proposal{Base: base, Changes: c.Each(ctx), Changeset: c}); err != nil {
			return err
		}
		r, err = c.Publish(context.WithoutCancel(ctx), store.PublishOptions{Base: base, Key: keyOfDraft(d.ID), Sum: sum})
		return err
	})
	if err != nil {
		return nil, err
	}
	s.relabel(ctx, p.actor(), a.moved, &r)
	s.notePublished(ctx, d.ID)
	return &resultOutput{resultOf(r)}, nil
}

// wasPublished gives what the publication of a draft has come to that this request
// is a repetition of, or whose node was lost before it said so; nil if there is none.
func (s *Server) wasPublished(ctx context.Context, p *Principal, id, sum string) (*resultOutput, error) {
	first, was, err := s.Store.Receipt(ctx, keyOfDraft(id))
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d, err := s.Store.Draft(ctx, id)
	if err == nil {
		err = authorize(p, Publish, d.Team)
	}
	if err != nil || d.State == DraftPublished && was != sum {
		return nil, err
	}
	s.notePublished(ctx, id)
	return &resultOutput{resultOf(first)}, nil
}

// mayPublish decides about a row of a draft as it would about the same row of a
// changeset. now is the item as it is; nil if there is none.
func (a *assembly) mayPublish(ctx context.Context, c *store.Change, now *store.Item) error {
	switch {
	case c.Op == store.Delete && now == nil:
		return nil
	case c.Op == store.Delete:
		return a.mayRemove(ctx, now)
	case c.Item.Kind == store.KindHost:
		h, err := c.Item.Host()
		if err == nil {
			_, err = a.putHost(ctx, h)
		}
		return err
	}
	host, _ := store.CutRedirectKey(c.Item.Key)
	team, err := a.mayWrite(ctx, host)
	if err == nil && team != c.Item.Team {
		a.moves(string(host)) // it was drafted for another team
	}
	return err
}

// keyOfDraft is the store's key of a draft's publication.
func keyOfDraft(id string) string { return "draft:" + id }

// notePublished says of a draft what its changeset decides. That it fails does no
// harm: whoever looks at the draft sees it, and Tidy does it once more.
func (s *Server) notePublished(ctx context.Context, id string) {
	ctx, p := context.WithoutCancel(ctx), principalOf(ctx)
	for range attempts {
		d, err := s.Store.Draft(ctx, id)
		if err == nil && d.State != DraftPublished {
			d.State, d.Reviewer = DraftPublished, p.identity()
			err = s.Store.ChangeDraft(ctx, p.actor(), d)
		}
		switch {
		case err == nil || isNotFound(err):
			return
		case !errors.Is(err, store.ErrConflict): // nobody reviews it meanwhile
			s.log().Error("note that a draft is published; it is tried again", "draft", id, "err", err)
			return
		}
	}
}

// tidyDrafts says of drafts that they are published, where a node was lost before it
// did.
func (s *Server) tidyDrafts(ctx context.Context) error {
	all, err := s.Store.Drafts(ctx)
	for i := range all {
		if all[i].State == DraftPublished {
			continue
		}
		d, _, bad := s.draft(ctx, all[i].ID)
		if bad == nil && d.State == DraftPublished {
			bad = s.Store.ChangeDraft(ctx, store.Actor{Who: "tidy"}, *d)
		}
		if isNotFound(bad) || errors.Is(bad, store.ErrConflict) {
			bad = nil // somebody is at it
		}
		err = errors.Join(err, bad)
	}
	return err
}

func (s *Server) deleteDraft(ctx context.Context, in *DraftInput) (*struct{}, error) {
	d, c, err := s.draft(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	p := principalOf(ctx)
	action := Publish
	if d.Author == p.identity() {
		action = Draft
	}
	if err := authorize(p, action, d.Team); err != nil {
		return nil, err
	}
	if d.State != DraftPublished {
		if err := c.Cancel(ctx); err != nil && !isNotFound(err) {
			return nil, err // ErrConflict: it is published at this moment
		}
	}
	return nil, s.Store.DeleteDraft(ctx, p.actor(), in.ID)
}
