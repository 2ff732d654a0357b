package admin

import (
	"context"
	"errors"
	"iter"

	"fingerpost"
	"fingerpost/store"
)

// Owners tells which team has a host pattern: that of the host, else that of the
// nearest wildcard host above it, else nobody (empty). It remembers what it has
// read: one is for one piece of work.
type Owners struct {
	db    *store.DB
	teams map[string]*string // by host; nil where there is no such host
	all   bool               // teams has every host
}

// NewOwners reads hosts as they are asked for.
func NewOwners(db *store.DB) *Owners { return &Owners{db: db, teams: map[string]*string{}} }

// Load reads all hosts at once, for who asks about many.
func (o *Owners) Load(ctx context.Context) error {
	teams := map[string]*string{}
	_, err := o.db.Scan(ctx, store.KindHost, func(it *store.Item) error {
		team := it.Team
		teams[it.Key] = &team
		return nil
	})
	if err == nil {
		o.teams, o.all = teams, true
	}
	return err
}

// Of gives the owner of a host pattern.
func (o *Owners) Of(ctx context.Context, host fingerpost.HostPattern) (string, error) {
	if host == "*" {
		return "", nil
	}
	for _, name := range above(host) {
		team, known := o.teams[string(name)]
		if !known && !o.all {
			it, err := o.db.Get(ctx, store.KindHost, string(name))
			switch {
			case err == nil:
				team = &it.Team
			case !errors.Is(err, store.ErrNotFound):
				return "", err
			}
			o.teams[string(name)] = team
		}
		if team != nil {
			return *team, nil
		}
	}
	return "", nil
}

// Put makes a host another's, or one's that was not there; it reports whether that
// changes anything.
func (o *Owners) Put(name, team string) (moved bool) {
	was := o.teams[name]
	o.teams[name] = &team
	return was == nil || *was != team
}

// Replace makes hosts all that a source has, and gives those that have another owner
// by it, or none any more.
func (o *Owners) Replace(ctx context.Context, source string, hosts []fingerpost.Host) (moved []fingerpost.HostPattern, err error) {
	has := map[fingerpost.HostPattern]bool{}
	for i := range hosts {
		name, err := fingerpost.ParseHostPattern(hosts[i].Name)
		if err != nil {
			return nil, err
		}
		if has[name] = true; o.Put(string(name), hosts[i].Team) {
			moved = append(moved, name)
		}
	}
	for q := (store.Query{Source: source, Limit: 1000}); ; {
		items, err := o.db.List(ctx, store.KindHost, q)
		if err != nil {
			return nil, err
		}
		for i := range items {
			if name := fingerpost.HostPattern(items[i].Key); !has[name] {
				o.teams[items[i].Key] = nil
				moved = append(moved, name)
			}
		}
		if len(items) < q.Limit {
			return moved, nil
		}
		q.After = items[len(items)-1].Key
	}
}

// Label gives the redirects among changes the team that owns their host.
func (o *Owners) Label(ctx context.Context, changes iter.Seq2[store.Change, error]) iter.Seq2[store.Change, error] {
	return func(yield func(store.Change, error) bool) {
		for c, err := range changes {
			if err == nil && c.Item.Kind == store.KindRedirect {
				host, _ := store.CutRedirectKey(c.Item.Key)
				c.Item.Team, err = o.Of(ctx, host)
			}
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

// manyMoved is from how many hosts on all redirects are looked at in one go.
const manyMoved = 100

// Relabel gives the redirects of hosts that have another owner now its team, those
// of all hosts where none are named. Who may change a redirect goes by the host;
// the team that stands with it is what lists and filters go by. It gives how many
// were changed, and the last revision, 0 if there is none.
func Relabel(ctx context.Context, db *store.DB, by store.Actor, moved []fingerpost.HostPattern) (n, rev int64, err error) {
	o := NewOwners(db)
	prefixes := []string{""}
	if len(moved) > 0 && len(moved) <= manyMoved {
		prefixes = nil
		for _, name := range moved {
			if name.IsWildcard() { // what is below it is anywhere
				prefixes = []string{""}
				break
			}
			prefixes = append(prefixes, string(name)+"/")
		}
	}
	if len(prefixes) == 1 && prefixes[0] == "" {
		if err := o.Load(ctx); err != nil {
			return 0, 0, err
		}
	}
	for _, prefix := range prefixes {
		for q := (store.Query{Prefix: prefix, Limit: store.MaxChanges}); ; {
			items, err := db.List(ctx, store.KindRedirect, q)
			if err != nil {
				return n, rev, err
			}
			b := store.Batch{Actor: by, Note: "redirects belong to the team of their host"}
			for i := range items {
				it := items[i]
				host, _ := store.CutRedirectKey(it.Key)
				team, err := o.Of(ctx, host)
				if err != nil {
					return n, rev, err
				}
				if it.Team != team {
					it.Team = team
					b.Changes = append(b.Changes, store.Change{Op: store.Put, Item: it, If: it.Rev})
				}
			}
			if len(b.Changes) > 0 {
				r, err := db.Commit(ctx, b)
				if errors.Is(err, store.ErrConflict) {
					continue // somebody has changed one of them meanwhile: the same page again
				}
				if err != nil {
					return n, rev, err
				}
				n, rev = n+r.Changes(), r.Rev
			}
			if len(items) < q.Limit {
				break
			}
			q.After = items[len(items)-1].Key
		}
	}
	return n, rev, nil
}

// relabel is Relabel after a write, whose result it brings up to date. That it fails
// does not undo the write: Tidy does it once more.
func (s *Server) relabel(ctx context.Context, by store.Actor, moved []fingerpost.HostPattern, r *store.Receipt) {
	if len(moved) == 0 {
		return
	}
	n, rev, err := Relabel(context.WithoutCancel(ctx), s.Store, by, moved)
	if r.Changed += n; rev > 0 {
		r.Rev = rev
	}
	if err != nil {
		s.log().Error("give redirects the team of their host; it is tried again", "err", err)
	}
}
