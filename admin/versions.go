package admin

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"fingerpost"
	"fingerpost/store"
)

// ChangeInfo is one revision: who changed how much, when, and why.
type ChangeInfo = store.RevisionInfo

// Difference is one item that is not the same at two revisions.
type Difference struct {
	Kind   string `json:"kind" enum:"host,redirect"`
	Key    string `json:"key"`
	Before any    `json:"before,omitempty" doc:"absent if there was none"`
	After  any    `json:"after,omitempty" doc:"absent if there is none"`
}

type changesOutput struct{ Body Page[ChangeInfo] }

func (s *Server) listChanges(ctx context.Context, in *struct{ PageInput }) (*changesOutput, error) {
	const list = "changes"
	before, err := readNumberCursor(list, in.Cursor)
	if err != nil {
		return nil, err
	}
	all, err := s.Store.Revisions(ctx, before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	out := &changesOutput{Page[ChangeInfo]{Items: append([]ChangeInfo{}, all...)}}
	if len(all) > in.Limit {
		out.Body.Items = out.Body.Items[:in.Limit]
		out.Body.Next = cursorOf(list, strconv.FormatInt(all[in.Limit-1].Rev, 10))
	}
	return out, nil
}

type ChangeInput struct {
	ID int64 `path:"id" minimum:"1" doc:"the revision"`
}

type diffOutput struct{ Body *Page[Difference] }

// getChange tells what a revision changed.
func (s *Server) getChange(ctx context.Context, in *struct {
	ChangeInput
	PageInput
}) (*diffOutput, error) {
	if err := s.hasChange(ctx, in.ID); err != nil {
		return nil, err
	}
	return s.diff(ctx, in.ID-1, in.ID, in.PageInput)
}

// hasChange is the problem of a revision that there is none of.
func (s *Server) hasChange(ctx context.Context, rev int64) error {
	head, err := s.newest(ctx)
	if err == nil && rev > head {
		err = noRevision(rev)
	}
	return err
}

func noRevision(rev int64) *Problem {
	return problem(http.StatusNotFound, "not_found", fmt.Sprintf("there is no revision %d", rev), "GET /api/v1/changes lists them")
}

type versionsOutput struct{ Body Page[store.Version] }

func (s *Server) listVersions(ctx context.Context, _ *struct{}) (*versionsOutput, error) {
	all, err := s.Store.Versions(ctx)
	return &versionsOutput{Page[store.Version]{Items: append([]store.Version{}, all...)}}, err
}

type VersionInput struct {
	Version string `path:"version" doc:"a name, or the number of a revision"`
}

type versionOutput struct{ Body store.Version }

// version finds a revision by its number or name; current is the newest one.
func (s *Server) version(ctx context.Context, name string) (store.Version, error) {
	if name == "current" {
		rev, err := s.newest(ctx)
		return store.Version{Rev: rev}, err
	}
	rev, err := strconv.ParseInt(name, 10, 64)
	if err != nil {
		return s.Store.Version(ctx, name)
	}
	all, err := s.Store.Revisions(ctx, rev+1, 1)
	if err == nil && (len(all) == 0 || all[0].Rev != rev) {
		err = noRevision(rev)
	}
	if err != nil {
		return store.Version{}, err
	}
	return store.Version{Rev: rev, At: all[0].At, Who: all[0].Who, Note: all[0].Note}, nil
}

func (s *Server) getVersion(ctx context.Context, in *VersionInput) (*versionOutput, error) {
	v, err := s.version(ctx, in.Version)
	return &versionOutput{v}, err
}

type putVersionInput struct {
	VersionInput
	Body struct {
		Rev  int64  `json:"rev,omitempty" minimum:"1" doc:"default the newest one"`
		Note string `json:"note,omitempty" maxLength:"1000"`
	}
}

// putVersion names a revision.
func (s *Server) putVersion(ctx context.Context, in *putVersionInput) (*versionOutput, error) {
	if _, err := strconv.ParseInt(in.Version, 10, 64); err == nil || in.Version == "current" || !isLabel(in.Version) {
		return nil, invalidName("version", in.Version)
	}
	rev := in.Body.Rev
	if rev == 0 {
		var err error
		if rev, err = s.newest(ctx); err != nil {
			return nil, err
		}
	}
	p := principalOf(ctx)
	if err := s.Store.NameVersion(ctx, p.actor(), store.Version{Name: in.Version, Rev: rev, Note: in.Body.Note}); err != nil {
		return nil, err
	}
	v, err := s.Store.Version(ctx, in.Version)
	return &versionOutput{v}, err
}

func (s *Server) deleteVersion(ctx context.Context, in *VersionInput) (*struct{}, error) {
	return nil, s.Store.DeleteVersion(ctx, principalOf(ctx).actor(), in.Version)
}

type diffInput struct {
	PageInput
	From string `query:"from" required:"true" doc:"a name, or the number of a revision"`
	To   string `query:"to" default:"current" doc:"a name, the number of a revision, or current"`
}

func (s *Server) getDiff(ctx context.Context, in *diffInput) (*diffOutput, error) {
	from, err := s.version(ctx, in.From)
	if err != nil {
		return nil, err
	}
	to, err := s.version(ctx, in.To)
	if err != nil {
		return nil, err
	}
	return s.diff(ctx, from.Rev, to.Rev, in.PageInput)
}

func (s *Server) diff(ctx context.Context, from, to int64, in PageInput) (*diffOutput, error) {
	list := listName("diff", strconv.FormatInt(from, 10), strconv.FormatInt(to, 10))
	after, err := readCursor(list, in.Cursor)
	if err != nil {
		return nil, err
	}
	out := &Page[Difference]{Items: []Difference{}}
	last := ""
	kind, key, _ := strings.Cut(after, " ")
	err = s.Store.Diff(ctx, from, to, store.Name{Kind: kind, Key: key}, func(d *store.Difference) error {
		if len(out.Items) == in.Limit {
			out.Next = cursorOf(list, last)
			return errEnough
		}
		last = d.Kind + " " + d.Key
		shown, err := showDifference(d)
		out.Items = append(out.Items, shown)
		return err
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return &diffOutput{out}, err
}

func showDifference(d *store.Difference) (Difference, error) {
	out := Difference{Kind: d.Kind, Key: d.Key}
	for _, side := range []struct {
		it *store.Item
		to *any
	}{{d.Before, &out.Before}, {d.After, &out.After}} {
		if side.it == nil {
			continue
		}
		var err error
		if *side.to, err = showItem(side.it); err != nil {
			return out, err
		}
	}
	return out, nil
}

func showItem(it *store.Item) (any, error) {
	switch it.Kind {
	case store.KindHost:
		return showHost(it)
	case store.KindRedirect:
		return showRedirect(it)
	}
	return it.Value, nil
}

type RestoreInput struct {
	KeyInput
	DryRun        bool   `query:"dryRun" doc:"tell what would happen, but change nothing"`
	AllowRemoving int64  `query:"allowRemoving" minimum:"0" doc:"how many redirects may be removed, where it is more than a tenth of a team's"`
	Note          string `query:"note" maxLength:"1000" doc:"why, for the audit"`
}

// restoreVersion makes the content again what it was, as a new revision.
func (s *Server) restoreVersion(ctx context.Context, in *struct {
	VersionInput
	RestoreInput
}) (*resultOutput, error) {
	v, err := s.version(ctx, in.Version)
	if err != nil {
		return nil, err
	}
	note := in.Note
	if note == "" {
		note = "restore " + in.Version
	}
	return s.bringBack(ctx, in.RestoreInput, func(base int64) (from, to int64) { return base, v.Rev }, nil,
		func(by store.Restoring) (*store.Changeset, error) { return s.Store.Restore(ctx, v.Rev, by) }, note)
}

// ItemName names one item.
type ItemName struct {
	Kind string `json:"kind" enum:"host,redirect"`
	Key  string `json:"key" doc:"of a host its name, of a redirect HOST/ID"`
}

type revertInput struct {
	ChangeInput
	RestoreInput
	Body *struct {
		Only []ItemName `json:"only,omitempty" doc:"just these items of the change; default all"`
	}
}

// revertChange undoes one revision and leaves later ones alone.
func (s *Server) revertChange(ctx context.Context, in *revertInput) (*resultOutput, error) {
	if err := s.hasChange(ctx, in.ID); err != nil {
		return nil, err
	}
	var only []store.Name
	if in.Body != nil {
		for _, n := range in.Body.Only {
			only = append(only, store.Name{Kind: n.Kind, Key: n.Key})
		}
	}
	note := in.Note
	if note == "" {
		note = "revert " + strconv.FormatInt(in.ID, 10)
	}
	return s.bringBack(ctx, in.RestoreInput, func(int64) (from, to int64) { return in.ID, in.ID - 1 }, only,
		func(by store.Restoring) (*store.Changeset, error) { return s.Store.Revert(ctx, in.ID, only, by) }, note)
}

// bringBack publishes a changeset that the store makes out of history. What it
// would change is the difference between two revisions, which depend on the
// newest one.
func (s *Server) bringBack(ctx context.Context, in RestoreInput, between func(base int64) (from, to int64), only []store.Name, stage func(store.Restoring) (*store.Changeset, error), note string) (*resultOutput, error) {
	p := principalOf(ctx)
	if first, err := s.done(ctx, in.KeyInput); err != nil {
		return nil, err
	} else if first != nil {
		return &resultOutput{resultOf(*first)}, nil
	}
	var r store.Receipt
	var a *assembly
	err := s.serialised(ctx, func(base int64) error {
		from, to := between(base)
		a = s.newAssembly(p, &changesetInput{Mode: string(store.Merge)})
		changes := s.differences(ctx, from, to, only)
		for c, err := range changes {
			if err != nil {
				return err
			}
			if err := a.mayBringBack(ctx, &c); err != nil {
				return err
			}
		}
		if !in.DryRun {
			if err := a.checkRemoved(ctx, in.AllowRemoving); err != nil {
				return err
			}
		}
		c, err := stage(store.Restoring{Actor: p.actor(), Note: note})
		if err != nil {
			return err
		}
		drop := func(err error) error { return errors.Join(err, c.Cancel(context.WithoutCancel(ctx))) }
		if err := s.accept(ctx, Proposal{Base: base, Changes: changes, Changeset: c}); err != nil {
			return drop(err)
		}
		if in.DryRun {
			sum, err := c.Summary(ctx)
			r = store.Receipt{Rev: base, Added: sum.Added, Changed: sum.Changed, Removed: sum.Removed}
			return drop(err)
		}
		if r, err = c.Publish(context.WithoutCancel(ctx), store.PublishOptions{Base: base, Key: keyOf(p, in.Key), Sum: requestSum(ctx)}); err != nil {
			return drop(err)
		}
		return nil
	})
	if err == nil && !in.DryRun {
		s.relabel(ctx, p.actor(), a.moved, &r)
	}
	return &resultOutput{resultOf(r)}, err
}

// differences gives what it takes to come from one revision to another.
func (s *Server) differences(ctx context.Context, from, to int64, only []store.Name) iter.Seq2[store.Change, error] {
	return func(yield func(store.Change, error) bool) {
		err := s.Store.Diff(ctx, from, to, store.Name{}, func(d *store.Difference) error {
			if len(only) > 0 && !slices.Contains(only, store.Name{Kind: d.Kind, Key: d.Key}) {
				return nil
			}
			c := store.Change{Op: store.Delete, Take: true}
			if d.After != nil {
				c.Op, c.Item = store.Put, *d.After
			} else {
				c.Item = *d.Before
			}
			if !yield(c, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(store.Change{}, err)
		}
	}
}

// mayBringBack decides about one change out of history: it needs the role of a
// publisher with the team that has the item now, and with the one that had it.
func (a *assembly) mayBringBack(ctx context.Context, c *store.Change) error {
	host := fingerpost.HostPattern(c.Item.Key)
	if c.Item.Kind == store.KindRedirect {
		host, _ = store.CutRedirectKey(c.Item.Key)
	} else {
		a.moves(c.Item.Key)
	}
	owner, err := a.ownerOf(ctx, host)
	if err != nil {
		return err
	}
	for _, team := range []string{owner, c.Item.Team} {
		if host == "*" {
			team = ""
		}
		if err := a.authorize(Publish, team); err != nil {
			return err
		}
	}
	if c.Op == store.Delete {
		if a.deleted++; c.Item.Kind == store.KindRedirect {
			a.removed[c.Item.Team]++
		}
	}
	return nil
}
