package admin

import (
	"context"
	"errors"
	"fmt"
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
	return DraftResource{ID: d.ID, Team: d.Team, State: d.State, Author: d.Author, Reviewer: d.Reviewer, Note: d.Note, Base: d.Base, Created: d.Created, Updated: d.Updated}
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
	out := &draftsOutput{Page[DraftResource]{Items: []DraftResource{}}}
	for i := range all {
		if (in.Team == "" || in.Team == all[i].Team) && (in.State == "" || in.State == all[i].State) {
			out.Body.Items = append(out.Body.Items, showDraft(&all[i]))
		}
	}
	return out, nil
}

type postDraftInput struct {
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
	rows, err := readRows(in.ContentType, bodyOf(ctx))
	if err != nil {
		return nil, err
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
	id := newID("draft-")
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
	d := store.Draft{ID: id, Team: in.Team, State: DraftOpen, Author: p.Name, Note: in.Note, Changeset: c.ID, Base: base, Created: s.now()}
	if err := s.Store.PutDraft(ctx, p.actor(), d); err != nil {
		return drop(err)
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

func (s *Server) getDraft(ctx context.Context, in *DraftInput) (*draftOutput, error) {
	d, err := s.Store.Draft(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	out := &draftOutput{Status: http.StatusOK, Body: showDraft(&d)}
	if d.State == DraftPublished {
		return out, nil
	}
	c, err := s.Store.Changeset(ctx, d.Changeset)
	if err != nil {
		return nil, err
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
	d, err := s.Store.Draft(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if d.State == DraftPublished {
		return nil, isPublished()
	}
	staged, err := s.Store.Changeset(ctx, d.Changeset)
	if err != nil {
		return nil, err
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
	d, err := s.openDraft(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	p := principalOf(ctx)
	d.Reviewer = p.Name
	if d.State = DraftRejected; in.Body.Approve {
		d.State = DraftApproved
	}
	if in.Body.Note != "" {
		d.Note += "\n" + p.Name + ": " + in.Body.Note
	}
	if err := s.Store.PutDraft(ctx, p.actor(), *d); err != nil {
		return nil, err
	}
	return &draftOutput{Status: http.StatusOK, Body: showDraft(d)}, nil
}

// openDraft reads a draft that the caller may review or publish.
func (s *Server) openDraft(ctx context.Context, id string) (*store.Draft, error) {
	d, err := s.Store.Draft(ctx, id)
	if err != nil {
		return nil, err
	}
	p := principalOf(ctx)
	if err := authorize(p, Publish, d.Team); err != nil {
		return nil, err
	}
	reviews, err := s.reviews(ctx, d.Team)
	if err != nil {
		return nil, err
	}
	switch {
	case d.State == DraftPublished:
		return nil, isPublished()
	case reviews && d.Author == p.Name:
		return nil, forbidden("the team has its drafts read by a second person", "ask another publisher of "+d.Team)
	}
	return &d, nil
}

// publishDraft brings a draft into force, unless somebody has changed the same
// things since.
func (s *Server) publishDraft(ctx context.Context, in *struct {
	DraftInput
	AllowRemoving int64 `query:"allowRemoving" minimum:"0" doc:"how many redirects may be removed, where it is more than a tenth of the team's"`
	Overwrite     bool  `query:"overwrite" doc:"also where the same things were changed since"`
}) (*resultOutput, error) {
	d, err := s.openDraft(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if d.State == DraftRejected {
		return nil, problem(http.StatusConflict, "rejected", "the draft was rejected", "approve it first, or make another one")
	}
	p := principalOf(ctx)
	c, err := s.Store.Changeset(ctx, d.Changeset)
	if err != nil {
		return nil, err
	}
	if c.State == store.StatePublished { // and its node died before it said so
		r, _, err := s.Store.Receipt(ctx, keyOfDraft(d.ID))
		if err != nil && !isNotFound(err) {
			return nil, err
		}
		return s.notePublished(ctx, d, r)
	}
	var r store.Receipt
	var a *assembly
	err = s.serialised(ctx, func(base int64) error {
		a = s.newAssembly(p, &changesetInput{Mode: string(store.Merge)})
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
			// The owner may be another one than when the draft was made.
			team := change.Item.Team
			if now != nil {
				team = now.Team
			}
			if change.Item.Kind == store.KindHost {
				a.moves(change.Item.Key)
			}
			if change.Op == store.Delete && now != nil && now.Kind == store.KindRedirect {
				a.removed[team]++
			}
			if err := authorize(p, Publish, team); err != nil {
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
		r, err = c.Publish(context.WithoutCancel(ctx), store.PublishOptions{Base: base, Key: keyOfDraft(d.ID)})
		return err
	})
	if err != nil {
		return nil, err
	}
	s.relabel(ctx, p.actor(), a.moved, &r)
	return s.notePublished(ctx, d, r)
}

// keyOfDraft is the store's key of a draft's publication.
func keyOfDraft(id string) string { return "draft:" + id }

func (s *Server) notePublished(ctx context.Context, d *store.Draft, r store.Receipt) (*resultOutput, error) {
	p := principalOf(ctx)
	d.State, d.Reviewer = DraftPublished, p.Name
	return &resultOutput{resultOf(r)}, s.Store.PutDraft(context.WithoutCancel(ctx), p.actor(), *d)
}

func (s *Server) deleteDraft(ctx context.Context, in *DraftInput) (*struct{}, error) {
	d, err := s.Store.Draft(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	p := principalOf(ctx)
	action := Publish
	if d.Author == p.Name {
		action = Draft
	}
	if err := authorize(p, action, d.Team); err != nil {
		return nil, err
	}
	if d.State != DraftPublished {
		c, err := s.Store.Changeset(ctx, d.Changeset)
		if err == nil {
			err = c.Cancel(ctx)
		}
		if err != nil && !isNotFound(err) && !errors.Is(err, store.ErrConflict) {
			return nil, err
		}
	}
	return nil, s.Store.DeleteDraft(ctx, p.actor(), in.ID)
}
