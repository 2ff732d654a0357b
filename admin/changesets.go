package admin

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"maps"
	"net/http"
	"time"

	"fingerpost/store"
)

type changesetInput struct {
	Mode          string   `query:"mode" enum:"merge,replace" default:"merge" doc:"merge leaves alone what is not named; replace removes what the source has and the rows do not name"`
	DryRun        bool     `query:"dryRun" doc:"check everything and tell what would happen, but change nothing"`
	Source        string   `query:"source" default:"api" maxLength:"200" doc:"whose items these are"`
	Kinds         []string `query:"kinds" enum:"host,redirect" doc:"what replace may remove; default all"`
	Take          bool     `query:"take" doc:"items of other sources may be changed; needs the role publisher"`
	AllowRemoving int64    `query:"allowRemoving" minimum:"0" doc:"how many redirects may be removed, where it is more than a tenth of a team's"`
	Base          int64    `query:"base" minimum:"-1" default:"-1" doc:"the revision that this was planned on, as a dry run gives it: 412 if hosts or redirects were changed since"`
	Note          string   `query:"note" maxLength:"1000" doc:"why, for the audit"`
	KeyInput
	ContentType string `header:"Content-Type" doc:"application/x-ndjson, text/csv or application/json"`
}

// ChangesetResult is what a changeset has come to: a result, or the job that
// brings it into force.
type ChangesetResult struct {
	Result
	DryRun bool `json:"dryRun,omitempty"`
	// AllowRemoving is set by a dry run of what removes more than a tenth of a
	// team's redirects.
	AllowRemoving int64 `json:"allowRemoving,omitempty" doc:"what allowRemoving has to be for this to come into force"`
	Job           *Job  `json:"job,omitempty" doc:"of a changeset with more than 1,000 changes: look at jobs/{id} until its state is done, failed or cancelled"`
}

type changesetOutput struct {
	Status   int
	Location string `header:"Location"`
	Body     ChangesetResult
}

// maxFaults is how many faults are counted before the reading stops.
const maxFaults = 100

// idle is how long a client may send nothing of a changeset.
const idle = 30 * time.Second

// postChangeset takes any number of rows. Up to store.MaxChanges are committed
// at once. More are staged while they come in, and a job brings them into force.
func (s *Server) postChangeset(ctx context.Context, in *changesetInput) (*changesetOutput, error) {
	p := principalOf(ctx)
	if !in.DryRun { // else it is admitted with the right to read
		if err := authorize(p, Write, anyTeam); err != nil {
			return nil, err
		}
	}
	others, err := s.mayUseSource(ctx, p, in)
	if err != nil {
		return nil, err
	}
	digest := newDigest(in)
	body := digest.read(bodyOf(ctx))
	rows, err := readRows(in.ContentType, body)
	if err != nil {
		return nil, err
	}
	j, err := s.beginJob(ctx, p, in.Key)
	if err != nil {
		return nil, err
	}
	if j.repeated != nil { // it was done before: the same if it is the same
		if _, err := io.Copy(io.Discard, body); err != nil {
			return nil, cutShort(0, err)
		}
		return j.repeated.again(digest.sum())
	}
	defer j.leave()
	if since := in.since(); since != 0 {
		if err := s.Store.Unchanged(ctx, since); err != nil { // before a million rows come in
			return nil, err
		}
	}
	a := s.newAssembly(p, in)
	a.published = in.Take || others
	a.readOnly = readsOnly(p, in)
	out, err := s.takeChangeset(j.ctx(ctx), j, a, in, rows, digest)
	if err != nil {
		j.fail(err)
		if j.cancelled() {
			err = problem(http.StatusConflict, "cancelled", "the job was cancelled; nothing has changed", "")
		}
		return nil, err
	}
	return out, nil
}

// since is the base as the store takes it.
func (in *changesetInput) since() int64 {
	switch in.Base {
	case -1:
		return 0
	case 0:
		return store.Absent
	}
	return in.Base
}

// readsOnly reports whether a changeset is a dry run of somebody who may not write at
// all: it is not decided about their rights.
func readsOnly(p *Principal, in *changesetInput) bool {
	return in.DryRun && authorize(p, Write, anyTeam) != nil
}

// labelled is what the store keeps of a source that nobody follows, in the settings
// of store.Source.
type labelled struct {
	Writer string `json:"writer"` // the identity of who wrote under the label first
}

// mayUseSource decides about the label of a changeset. A label stands for items that
// only its source may change: so it belongs to whoever wrote under it first, and to
// them alone if they have the one team only. Whoever else uses it needs the role that
// it takes to take over what others have: then others is true.
//
// A source that is paused does not apply anything, by whichever way, and one that the
// server follows itself is not written to.
func (s *Server) mayUseSource(ctx context.Context, p *Principal, in *changesetInput) (others bool, err error) {
	reads := readsOnly(p, in)
	if in.Take && !reads {
		if err := authorize(p, Publish, anyTeam); err != nil {
			return false, err
		}
	}
	if isOurs(in.Source) {
		return false, nil
	}
	src, err := s.Store.Source(ctx, in.Source)
	if isNotFound(err) {
		src, err = s.claimSource(ctx, p, in)
	}
	if err != nil {
		return false, err
	}
	var l labelled
	if len(src.Settings) > 0 {
		if err := json.Unmarshal(src.Settings, &l); err != nil {
			return false, err
		}
	}
	switch {
	case s.followed(in.Source) != nil || src.Kind != "" && src.Kind != kindApply:
		return false, problem(http.StatusConflict, "followed", "the server follows the source "+in.Source+" itself", "change it where it comes from; or use a label of your own, and take=true for what it has")
	case src.Paused && !in.DryRun:
		return false, fmt.Errorf("%w: %s", store.ErrPaused, in.Source)
	case reads:
		return false, nil
	case l.Writer != p.identity():
		if err := authorize(p, Publish, cmp.Or(src.Team, anyTeam)); err != nil {
			return false, forbidden("the source "+in.Source+" is another's", "use a label of your own, or have a publisher apply it")
		}
		return true, nil
	case src.Team != "":
		return false, authorize(p, Write, src.Team)
	}
	return false, nil
}

// claimSource makes a label p's, unless something is there under it: of what was
// before there were owners nobody knows whose it is. A dry run makes nothing.
func (s *Server) claimSource(ctx context.Context, p *Principal, in *changesetInput) (store.Source, error) {
	src := store.Source{Label: in.Source, Kind: kindApply}
	if s.followed(in.Source) != nil {
		return src, nil
	}
	for _, kind := range []string{store.KindHost, store.KindRedirect} {
		items, err := s.Store.List(ctx, kind, store.Query{Source: in.Source, Limit: 1})
		if err != nil || len(items) > 0 {
			return src, err
		}
	}
	var err error
	if src.Settings, err = json.Marshal(labelled{Writer: p.identity()}); err != nil {
		return src, err
	}
	if len(p.Roles) == 1 {
		for team := range p.Roles {
			if team != EveryTeam {
				src.Team = team
			}
		}
	}
	if in.DryRun {
		return src, nil
	}
	err = s.Store.AddSource(ctx, p.actor(), src)
	if errors.Is(err, store.ErrExists) { // somebody else was first
		return s.Store.Source(ctx, in.Source)
	}
	return src, err
}

// takeChangeset reads the rows, and commits them or hands them to a job.
func (s *Server) takeChangeset(ctx context.Context, j *job, a *assembly, in *changesetInput, rows iter.Seq2[row, error], digest *digest) (*changesetOutput, error) {
	next, stop := iter.Pull2(a.changes(ctx, rows, j))
	defer stop()
	const most = 4 << 20 // bytes of them; one row may be as long
	var first []store.Change
	small, bytes := true, 0
	for small {
		c, err, ok := next()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		first = append(first, c)
		bytes += len(c.Item.Value)
		small = len(first) <= store.MaxChanges && bytes <= most
	}
	if small && !in.DryRun {
		changes, err := a.withLeftOver(ctx, first)
		if err != nil {
			return nil, err
		}
		if len(changes) <= store.MaxChanges {
			return s.commitSmall(ctx, j, a, in, changes, digest)
		}
	}
	rest := func(yield func(store.Change, error) bool) {
		for _, c := range first {
			if !yield(c, nil) {
				return
			}
		}
		for first = nil; ; {
			c, err, ok := next()
			if !ok || !yield(c, err) {
				return
			}
		}
	}
	return s.stage(ctx, j, a, in, rest, digest)
}

// changes gives the change of each row. What is wrong with rows is collected, and
// ends the reading as one problem.
func (a *assembly) changes(ctx context.Context, rows iter.Seq2[row, error], j *job) iter.Seq2[store.Change, error] {
	return func(yield func(store.Change, error) bool) {
		var bad *Problem
		note := func(err error) (more bool) {
			var p *Problem
			if !errors.As(err, &p) || p.Status >= http.StatusInternalServerError {
				yield(store.Change{}, err)
				return false
			}
			if bad == nil {
				bad = p
			} else {
				bad.Errors = append(bad.Errors, p.Errors...)
			}
			return len(bad.Errors) < maxFaults
		}
		for r, err := range rows {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				if !note(err) {
					break
				}
				continue
			}
			if a.rows == store.MaxChanges && !a.all {
				if err := a.loadHosts(ctx); err != nil {
					yield(store.Change{}, err)
					return
				}
			}
			c, err := a.change(ctx, &r)
			j.progress(a.rows)
			if err != nil {
				if !note(err) {
					break
				}
				continue
			}
			if bad == nil && !yield(c, nil) {
				return
			}
		}
		if bad != nil {
			yield(store.Change{}, bad)
		}
	}
}

func (a *assembly) withLeftOver(ctx context.Context, changes []store.Change) ([]store.Change, error) {
	removed, deleted := maps.Clone(a.removed), a.deleted // by rows that say so
	err := a.leftOver(ctx, func(it *store.Item) error {
		if len(changes) > store.MaxChanges {
			return errEnough
		}
		changes = append(changes, store.Change{Op: store.Delete, Item: store.Item{Kind: it.Kind, Key: it.Key, Source: it.Source}})
		return nil
	})
	if errors.Is(err, errEnough) {
		a.removed, a.deleted, err = removed, deleted, nil // the rest is counted again
	}
	return changes, err
}

var errEnough = errors.New("enough")

func (s *Server) commitSmall(ctx context.Context, j *job, a *assembly, in *changesetInput, changes []store.Change, digest *digest) (*changesetOutput, error) {
	if err := a.checkRemoved(ctx, in.AllowRemoving); err != nil {
		return nil, err
	}
	var r store.Receipt
	var err error
	if len(changes) > 0 {
		b := store.Batch{Changes: changes, Actor: a.p.actor(), Note: in.Note, Since: in.since(), Source: in.Source}
		if j.keyed {
			b.Key, b.Sum = keyOfJob(j.id), digest.sum()
		}
		if err := j.tooLate(); err != nil {
			return nil, err
		}
		// A client that goes now does not make it another result.
		if r, err = s.Commit(context.WithoutCancel(ctx), b); err != nil {
			return nil, err
		}
		s.relabel(ctx, a.p.actor(), a.moved, &r)
	} else if r.Rev, err = s.newest(ctx); err != nil {
		return nil, err
	}
	out := &changesetOutput{Status: http.StatusOK, Body: ChangesetResult{Result: resultOf(r)}}
	return out, j.finish(out.Body.Result, digest.sum())
}

func (s *Server) newest(ctx context.Context) (int64, error) {
	h, err := s.Store.Head(ctx)
	return h.Rev, err
}

// stage writes the changes beside the content and hands them to a job; a dry run
// compares them, and drops them.
func (s *Server) stage(ctx context.Context, j *job, a *assembly, in *changesetInput, changes iter.Seq2[store.Change, error], digest *digest) (*changesetOutput, error) {
	c, err := s.Store.Stage(ctx, store.StageOptions{Source: in.Source, Mode: a.mode, Kinds: in.Kinds, Take: in.Take, Actor: a.p.actor(), Note: in.Note})
	if err != nil {
		return nil, err
	}
	drop := func(err error) error { return errors.Join(err, c.Cancel(context.WithoutCancel(ctx))) }
	j.stages(c.ID)
	if err := j.save(ctx, JobReceiving); err != nil {
		return nil, drop(err)
	}
	if _, err := c.Add(ctx, changes); err != nil {
		return nil, drop(err)
	}
	if err := a.leftOver(ctx, func(*store.Item) error { return ctx.Err() }); err != nil {
		return nil, drop(err)
	}
	much, err := a.removesMuch(ctx, in.AllowRemoving)
	if err == nil && much > 0 && !in.DryRun {
		err = tooMuch(much)
	}
	if err != nil {
		return nil, drop(err)
	}
	sum := digest.sum()
	w := &staged{s: s, c: c, a: a, dryRun: in.DryRun, options: store.PublishOptions{Key: keyOfJob(j.id), Sum: sum, Since: in.since()}}
	if in.DryRun {
		result, err := w.bringIntoForce(ctx, j)
		if err != nil {
			return nil, err
		}
		out := &changesetOutput{Status: http.StatusOK, Body: ChangesetResult{Result: result, DryRun: true, AllowRemoving: much}}
		return out, j.finish(result, sum)
	}
	if j.cancelled() { // since the last row
		return nil, drop(context.Canceled)
	}
	shown := j.show()
	j.run(func(ctx context.Context) {
		result, err := w.bringIntoForce(ctx, j)
		if err == nil {
			err = j.finish(result, sum)
		}
		if err != nil {
			j.fail(err)
		}
	})
	return &changesetOutput{Status: http.StatusAccepted, Location: Prefix + "/jobs/" + j.id, Body: ChangesetResult{Job: &shown}}, nil
}

// staged is a changeset that is whole.
type staged struct {
	s       *Server
	c       *store.Changeset
	a       *assembly
	dryRun  bool
	options store.PublishOptions
}

func (w *staged) bringIntoForce(ctx context.Context, j *job) (Result, error) {
	if err := j.save(ctx, JobChecking); err != nil {
		return Result{}, errors.Join(err, w.c.Cancel(context.WithoutCancel(ctx)))
	}
	var r store.Receipt
	err := w.s.patiently(ctx, func(base int64) error {
		err := w.s.accept(ctx, Proposal{Base: base, Changes: w.c.Each(ctx), Changeset: w.c, Replaces: w.c.Mode == store.Replace, Source: w.c.Source, Kinds: w.c.Kinds})
		if err != nil {
			return err
		}
		if w.dryRun {
			sum, err := w.c.Summary(ctx)
			r = store.Receipt{Rev: base, Added: sum.Added, Changed: sum.Changed, Removed: sum.Removed}
			if err == nil && sum.Foreign > 0 && !w.c.Take {
				err = &store.Conflict{Kind: "changeset", Key: "", Reason: fmt.Sprintf("%d items belong to other sources", sum.Foreign)}
			}
			return err
		}
		if err := j.save(ctx, JobPublishing); err != nil {
			return err
		}
		most := w.a.deleted
		if most == 0 {
			most = -1
		}
		// From here on it is too late to cancel: the store has it or not.
		o := w.options
		o.Base, o.MaxRemoved = base, most
		r, err = w.c.Publish(context.WithoutCancel(ctx), o)
		return err
	})
	if err != nil || w.dryRun {
		err = errors.Join(err, w.c.Cancel(context.WithoutCancel(ctx)))
	} else {
		w.s.relabel(ctx, w.a.p.actor(), w.a.moved, &r)
	}
	return resultOf(r), err
}

// digest is the hash of a changeset, by which a repeated request is known.
type digest struct {
	h    hash.Hash
	text string
}

func newDigest(in *changesetInput) *digest {
	d := &digest{h: sha256.New()}
	json.NewEncoder(d.h).Encode(in) // strings, numbers and lists: they always have a form
	return d
}

func (d *digest) read(body io.Reader) io.Reader { return io.TeeReader(body, d.h) }

// sum is the hash of what was read; the body is at its end.
func (d *digest) sum() string {
	if d.text == "" {
		d.text = hex.EncodeToString(d.h.Sum(nil))
	}
	return d.text
}
