package admin

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"slices"

	"fingerpost"
	"fingerpost/store"
)

// assembly makes the changes of a changeset from its rows, and decides about each
// of them. One goroutine uses it.
type assembly struct {
	s      *Server
	p      *Principal
	source string
	mode   store.Mode
	kinds  []string
	take   bool
	draft  string // the team whose draft it is; empty where it comes into force at once

	published bool // it takes a publisher for what an editor may write otherwise
	readOnly  bool // a dry run of somebody who may not write

	hosts   map[string]*store.Item // as they are, with those of this changeset; nil where there is none
	all     bool                   // hosts has every host
	teams   map[string]bool        // those that are known to exist
	reviews map[string]Action      // what it takes to write redirects of a team
	seed    maphash.Seed
	named   map[uint64]struct{} // the items that rows name, by the hash of kind and key; of a large merge nil
	asked   map[uint64]struct{} // the hosts whose owner redirects went by
	rows    int64
	removed map[string]int64 // redirects that are removed, by team
	deleted int64            // items that are removed
	put     int64
	moved   []fingerpost.HostPattern // hosts that get another owner, or have none any more; see Relabel
}

func (a *assembly) moves(host string) {
	if len(a.moved) <= manyMoved {
		a.moved = append(a.moved, fingerpost.HostPattern(host))
	}
}

func (s *Server) newAssembly(p *Principal, in *changesetInput) *assembly {
	return &assembly{s: s, p: p, source: in.Source, mode: store.Mode(in.Mode), kinds: in.Kinds, take: in.Take,
		hosts: map[string]*store.Item{}, reviews: map[string]Action{}, teams: map[string]bool{}, seed: maphash.MakeSeed(),
		named: map[uint64]struct{}{}, asked: map[uint64]struct{}{}, removed: map[string]int64{}}
}

func (a *assembly) hash(kind, key string) uint64 {
	return maphash.String(a.seed, kind+"\x00"+key)
}

// loadHosts reads all hosts at once, for changesets that name many.
func (a *assembly) loadHosts(ctx context.Context) error {
	mine := a.hosts
	a.hosts, a.all = map[string]*store.Item{}, true
	if _, err := a.s.Store.Scan(ctx, store.KindHost, func(it *store.Item) error {
		one := *it
		a.hosts[one.Key] = &one
		return nil
	}); err != nil {
		return err
	}
	for key, it := range mine {
		a.hosts[key] = it
	}
	return nil
}

func (a *assembly) host(ctx context.Context, name fingerpost.HostPattern) (*store.Item, error) {
	it, ok := a.hosts[string(name)]
	if ok || a.all {
		return it, nil
	}
	it, err := a.s.get(ctx, store.KindHost, string(name))
	if err == nil {
		a.hosts[string(name)] = it
	}
	return it, err
}

func (a *assembly) ownerOf(ctx context.Context, host fingerpost.HostPattern) (string, error) {
	for _, name := range above(host) {
		if it, err := a.host(ctx, name); err != nil || it != nil {
			if it != nil {
				return it.Team, nil
			}
			return "", err
		}
	}
	return "", nil
}

// mayWrite decides about the redirects of a host.
func (a *assembly) mayWrite(ctx context.Context, host fingerpost.HostPattern) (team string, err error) {
	if team, err = a.ownerOf(ctx, host); err != nil {
		return "", err
	}
	if host == "*" {
		team = ""
	}
	action, ok := a.reviews[team]
	if !ok {
		if action, err = a.s.writeAction(ctx, team); err != nil {
			return "", err
		}
		if a.published && action == Write {
			action = Publish
		}
		a.reviews[team] = action
	}
	return team, a.authorize(action, team)
}

// authorize is the rights of whoever sends the changeset; a draft asks for less.
func (a *assembly) authorize(action Action, team string) error {
	if a.readOnly {
		return authorize(a.p, Read, anyTeam)
	}
	if a.draft != "" && action != Govern {
		if team != a.draft {
			return forbidden(fmt.Sprintf("the draft is for the team %s, and this belongs to the team %q", a.draft, team), "make a draft for each team")
		}
		action = Draft
	}
	return authorize(a.p, action, team)
}

// change makes the change of one row. A *Problem is of the row's making.
func (a *assembly) change(ctx context.Context, r *row) (c store.Change, err error) {
	a.rows++
	switch {
	case r.redirect != nil:
		c, err = a.putRedirect(ctx, r.redirect)
	case r.host != nil:
		c, err = a.putHost(ctx, r.host)
	default:
		c, err = a.remove(ctx, r.delete)
	}
	if err != nil {
		return c, atLine(r.line, err)
	}
	if a.mode != store.Replace && a.rows > store.MaxChanges {
		a.named = nil // the staging finds what comes twice, without its line
		return c, nil
	}
	h := a.hash(c.Item.Kind, c.Item.Key)
	if _, twice := a.named[h]; twice {
		return c, rowError(r.line, Fault{Code: "duplicate", Detail: c.Item.Kind + " " + c.Item.Key + " comes twice", Hint: "keep one of the rows, or give one an id of its own"})
	}
	a.named[h] = struct{}{}
	return c, nil
}

// atLine makes what is wrong with a row a problem that says which row.
func atLine(line int64, err error) error {
	var fault *fingerpost.Error
	var p *Problem
	switch {
	case errors.As(err, &fault):
		p = problemOf(err)
	case errors.As(err, &p):
		if p.Status >= http.StatusInternalServerError {
			return err
		}
		if len(p.Errors) == 0 {
			one := *p
			one.Errors = []Fault{{Code: p.Code, Detail: p.Detail, Hint: p.Hint}}
			p = &one
		}
	default:
		return err
	}
	for i := range p.Errors {
		p.Errors[i].Line = line
	}
	return p
}

func (a *assembly) putRedirect(ctx context.Context, r *fingerpost.Redirect) (store.Change, error) {
	parsed, err := r.Parse()
	if err != nil {
		return store.Change{}, err
	}
	team, err := a.mayWrite(ctx, parsed.From.Host)
	if err != nil {
		return store.Change{}, err
	}
	a.asked[a.hash(store.KindHost, string(parsed.From.Host))] = struct{}{}
	it, err := store.RedirectItem(r, a.source, team)
	a.put++
	return store.Change{Op: store.Put, Item: it, Take: a.take}, err
}

func (a *assembly) putHost(ctx context.Context, h *fingerpost.Host) (store.Change, error) {
	if err := h.Validate(); err != nil {
		return store.Change{}, err
	}
	it, err := store.HostItem(h, a.source)
	if err != nil {
		return store.Change{}, err
	}
	before, err := a.host(ctx, fingerpost.HostPattern(it.Key))
	if err != nil {
		return store.Change{}, err
	}
	if err := mayPutHost(a.authorize, before, h, func(name fingerpost.HostPattern) (string, error) { return a.ownerOf(ctx, name) }); err != nil {
		return store.Change{}, err
	}
	if it, err = store.HostItem(h, a.source); err != nil { // with the team that mayPutHost has given it
		return store.Change{}, err
	}
	if before == nil || before.Team != it.Team {
		if err := a.knownOwner(ctx, it.Team); err != nil {
			return store.Change{}, err
		}
		if _, late := a.asked[a.hash(store.KindHost, it.Key)]; late {
			return store.Change{}, invalid(Fault{Code: "host_late", Detail: "the host " + it.Key + " gets a team after redirects of it", Hint: "hosts come first, then their redirects"})
		}
	}
	if before == nil || before.Team != it.Team {
		a.moves(it.Key)
	}
	a.hosts[it.Key] = &it
	a.put++
	return store.Change{Op: store.Put, Item: it, Take: a.take}, nil
}

// knownOwner is that of the Server, with the answer remembered.
func (a *assembly) knownOwner(ctx context.Context, team string) error {
	if a.teams[team] {
		return nil
	}
	err := a.s.knownOwner(ctx, team)
	a.teams[team] = err == nil
	return err
}

func (a *assembly) remove(ctx context.Context, d *deleteRow) (store.Change, error) {
	const hint = `{"delete": "host", "name": …} or {"delete": "redirect", "host": …, "id": …}`
	var kind, name string
	switch {
	case d.Delete == store.KindHost && d.Host == "" && d.ID == "":
		kind, name = store.KindHost, d.Name
	case d.Delete == store.KindRedirect && d.Name == "" && d.ID != "":
		kind, name = store.KindRedirect, d.Host
	case d.Delete == store.KindHost || d.Delete == store.KindRedirect:
		return store.Change{}, invalid(Fault{Code: "bad_row", Detail: "a row that deletes a " + d.Delete + " names it in another way", Hint: hint})
	default:
		return store.Change{}, invalid(Fault{Pointer: "/delete", Code: "bad_row", Detail: fmt.Sprintf("%q is nothing that can be deleted", d.Delete), Hint: hint})
	}
	host, err := fingerpost.ParseHostPattern(name)
	if err != nil {
		return store.Change{}, err
	}
	key := string(host)
	if kind == store.KindRedirect {
		key = store.RedirectKey(host, d.ID)
	}
	it, err := a.s.get(ctx, kind, key)
	if err != nil {
		return store.Change{}, err
	}
	if it == nil {
		return store.Change{}, problem(http.StatusUnprocessableEntity, "not_found", kind+" "+key+" does not exist", "remove the row")
	}
	if err := a.mayRemove(ctx, it); err != nil {
		return store.Change{}, err
	}
	item := store.Item{Kind: kind, Key: key, Source: a.source}
	if isOurs(it.Source) && isOurs(a.source) {
		item.Source = it.Source
	}
	return store.Change{Op: store.Delete, Item: item, Take: a.take}, nil
}

// mayRemove decides about an item that is to go, and counts it.
func (a *assembly) mayRemove(ctx context.Context, it *store.Item) error {
	a.deleted++
	if it.Kind == store.KindHost {
		a.moves(it.Key)
		team := it.Team
		if it.Key == "*" {
			team = ""
		}
		return a.authorize(Settings, team)
	}
	host, _ := store.CutRedirectKey(it.Key)
	if _, err := a.mayWrite(ctx, host); err != nil {
		return err
	}
	a.removed[it.Team]++
	return nil
}

// leftOver calls fn for each item that replacing removes: what the source has and
// no row names.
func (a *assembly) leftOver(ctx context.Context, fn func(*store.Item) error) error {
	if a.mode != store.Replace {
		return nil
	}
	for _, kind := range []string{store.KindHost, store.KindRedirect} {
		if len(a.kinds) > 0 && !slices.Contains(a.kinds, kind) {
			continue
		}
		for q := (store.Query{Source: a.source, Limit: 1000}); ; {
			items, err := a.s.Store.List(ctx, kind, q)
			if err != nil {
				return err
			}
			for i := range items {
				it := &items[i]
				if q.After = it.Key; a.isNamed(it) {
					continue
				}
				if err := a.mayRemove(ctx, it); err != nil {
					return err
				}
				if err := fn(it); err != nil {
					return err
				}
			}
			if len(items) < q.Limit {
				break
			}
		}
	}
	return nil
}

func (a *assembly) isNamed(it *store.Item) bool {
	_, ok := a.named[a.hash(it.Kind, it.Key)]
	return ok
}

// checkRemoved holds a changeset that removes much: more than a tenth of a team's
// redirects has to be said.
func (a *assembly) checkRemoved(ctx context.Context, allowed int64) error {
	much, err := a.removesMuch(ctx, allowed)
	if err == nil && much > 0 {
		err = tooMuch(much)
	}
	return err
}

// removesMuch gives how many redirects are removed, if that has to be said and was
// not.
func (a *assembly) removesMuch(ctx context.Context, allowed int64) (total int64, err error) {
	for _, n := range a.removed {
		total += n
	}
	if total == 0 || allowed >= total {
		return 0, nil
	}
	for team, n := range a.removed {
		enough, err := a.s.Store.HasItems(ctx, store.KindRedirect, team, n*10)
		if err != nil || !enough {
			return total, err
		}
	}
	return 0, nil
}

func tooMuch(total int64) error {
	return problem(http.StatusUnprocessableEntity, "removes_much",
		fmt.Sprintf("%d redirects would be removed, more than a tenth of those of a team; nothing has changed", total),
		fmt.Sprintf("if that is meant, say allowRemoving=%d", total))
}
