package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/edge"
	"fingerpost/explain"
	"fingerpost/redirect"
	"fingerpost/replica"
	"fingerpost/source"
	"fingerpost/store"
)

// shared is a node's part in the truth that many nodes and people share: the
// store, if it is a control node, and its own copy of the content. Without a data
// folder a node has no part in it: it serves its files and keeps nothing.
type shared struct {
	db        *store.DB // nil on an edge
	replica   *replica.Replica
	up        replica.Upstream
	snapshots *replica.Snapshots
}

// The roles of a node.
const (
	roleAll     = "all"
	roleEdge    = "edge"
	roleControl = "control"
)

// checkRole finds out what the flags contradict each other in.
func (o *options) checkRole() error {
	switch o.role {
	case roleAll, roleEdge, roleControl:
	default:
		return usage(fmt.Errorf("--role %s: one of all, edge, control", o.role))
	}
	switch {
	case o.role == roleEdge && o.control == "":
		return usage(errors.New("--role edge needs --control URL: the node that it follows"))
	case o.control != "" && o.role != roleEdge:
		return usage(errors.New("--control goes with --role edge"))
	case o.data == "" && (o.store != "" || o.role != roleAll):
		return usage(errors.New("--role and --store need --data DIR: a folder for what the node keeps"))
	case o.control != "" && o.store != "":
		return usage(errors.New("--store is for nodes that own it; an edge follows --control"))
	}
	return nil
}

// openShared opens the store and the node's own copy. It needs no other machine
// but the store's.
func (n *node) openShared(ctx context.Context) error {
	o := &n.o
	if o.data == "" {
		return nil
	}
	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	n.shared = &shared{}
	var err error
	if n.shared.replica, err = replica.Open(replica.Options{Dir: filepath.Join(o.data, "replica"), Log: n.log, Changed: n.tableChanged}); err != nil {
		return err
	}
	if o.control != "" {
		n.shared.up = &replica.Client{URL: o.control, Token: o.token}
		n.followFeed()
		return nil
	}
	dsn := o.store
	if dsn == "" {
		dsn = "sqlite:" + o.data
	}
	if n.shared.db, err = store.Open(ctx, dsn, store.Options{Log: n.log}); err != nil {
		return err
	}
	n.shared.join(filepath.Join(o.data, "snapshots"), n.id())
	n.followFeed()
	return nil
}

// followFeed keeps the node's own copy current until the node ends.
func (n *node) followFeed() {
	go n.shared.replica.Follow(n.life, n.shared.up) // its error is that of n.life
}

// openRules reads the files of rules. A node that keeps content needs none; an edge
// takes nothing from them but its settings.
func (n *node) openRules() (*source.Set, error) {
	f := &n.o.ruleFlags
	if n.o.data != "" && f.config == "" && len(f.redirects) == 0 {
		if _, err := os.Stat(defaultConfig); errors.Is(err, fs.ErrNotExist) {
			return source.Open("", nil)
		}
	}
	set, err := f.open()
	if err != nil || n.o.role != roleEdge {
		return set, err
	}
	if c := set.Content(); len(c.Hosts)+len(c.Redirects) > 0 {
		return nil, &fingerpost.Error{Code: "edge_content", Message: "an edge has its content from the node that it follows, not from files", Hint: "leave hosts and redirects to the control node; settings may stay"}
	}
	return set, nil
}

// fileLabel begins the label of the files' part.
const fileLabel = "file:"

// label names a part of the content of files and sources in the store.
func (n *node) label(part int) string {
	if part > 0 {
		return n.remotes[part-1].State().Label
	}
	return fileLabel + strings.Join(append(slices.DeleteFunc([]string{n.o.config}, func(s string) bool { return s == "" }), n.o.redirects...), ",")
}

// newAdmin makes the admin listener, with the API where there is a store.
func (n *node) newAdmin() *admin.Server {
	a := &admin.Server{Metrics: n.metrics.Handler(), Log: n.log}
	if n.shared == nil {
		return a
	}
	s := n.shared
	a.Checks = []admin.Check{{Name: "content", Err: func() error {
		status := s.replica.Status()
		if !status.Ready {
			return errors.New("no content yet: waiting for the first snapshot")
		}
		return nil
	}}}
	n.metrics.FeedLag(func() time.Duration { status := s.replica.Status(); return status.Lag(time.Now()) })
	if s.db == nil {
		return a
	}
	a.Store, a.Accept, a.Explain, a.Dir, a.Node = s.db, n.accept, n.explain, n.o.data, n.id()
	a.URL = "http://" + n.address("admin", n.o.admin, n.settings.Listen.Admin)
	a.Feed = replica.FeedHandler(s.feed(), func(r *http.Request, at replica.Cursor) {
		if err := s.db.ReportNode(r.Context(), store.Node{ID: nodeOf(r), Roles: []string{roleEdge}, Epoch: at.Epoch, Rev: at.Rev}); err != nil {
			n.log.Warn("cannot note how far a node is", "err", err)
		}
	})
	a.OIDC = n.oidc()
	a.Sources, a.SourcesChanged = n.sourcesOf(), n.contents.kept.look
	a.Snapshot = replica.SnapshotHandler(s.snapshots.Get)
	return a
}

// nodeOf names the node that a request comes from.
func nodeOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// bootstrap makes the first admin's token, on the first start.
func (n *node) bootstrap(ctx context.Context) {
	if n.shared == nil || n.shared.db == nil {
		return
	}
	switch _, link, err := n.admin.Bootstrap(ctx); {
	case err != nil:
		n.log.Error("cannot make the first token", "err", err)
	case link != "":
		n.log.Info("first start: a token for the API is in the data folder", "file", filepath.Join(n.o.data, "admin.token"), "link", link)
	}
}

// join makes the store's feed and snapshots what the node's own copy follows.
func (s *shared) join(dir, node string) {
	head := func(ctx context.Context) (replica.Head, error) {
		h, err := s.db.Head(ctx)
		return feedHead(h), feedError(err)
	}
	s.snapshots = &replica.Snapshots{Dir: dir, Head: head, Scan: s.scan}
	s.up = replica.Join(s.feed(), s.snapshots.Get, func(ctx context.Context, at replica.Cursor) error {
		return s.db.ReportNode(ctx, store.Node{ID: node, Roles: []string{roleControl, roleEdge}, Version: version, Health: "ok", Epoch: at.Epoch, Rev: at.Rev})
	})
}

func (s *shared) feed() replica.Feed {
	return replica.Feed{
		Head: func(ctx context.Context) (replica.Head, error) {
			h, err := s.db.Head(ctx)
			return feedHead(h), feedError(err)
		},
		Changes: func(ctx context.Context, after replica.Cursor, limit int) ([]replica.Revision, error) {
			list, err := s.db.Changes(ctx, store.Cursor(after), limit)
			revisions := make([]replica.Revision, 0, len(list))
			for _, r := range list {
				rev := replica.Revision{Rev: r.Rev, At: r.At, Changes: make([]replica.Change, 0, len(r.Changes))}
				for _, c := range r.Changes {
					rev.Changes = append(rev.Changes, replica.Change{Op: replica.Op(c.Op), Item: replica.Item(c.Item)})
				}
				revisions = append(revisions, rev)
			}
			return revisions, feedError(err)
		},
		Wait: func(ctx context.Context, after replica.Cursor) (replica.Head, error) {
			h, err := s.db.Wait(ctx, store.Cursor(after))
			return feedHead(h), feedError(err)
		},
	}
}

func feedHead(h store.Head) replica.Head {
	return replica.Head{Epoch: h.Epoch, Rev: h.Rev, Floor: h.Floor}
}

// feedError makes the store's word for a cursor that it cannot serve the feed's.
func feedError(err error) error {
	if errors.Is(err, store.ErrTooOld) {
		return fmt.Errorf("%w: %w", replica.ErrTooOld, err)
	}
	return err
}

// errEnough ends a scan that nobody reads on.
var errEnough = errors.New("enough")

// scan gives all content, of one instant at or behind the cursor.
func (s *shared) scan(ctx context.Context) (replica.Content, error) {
	h, err := s.db.Head(ctx)
	if err != nil {
		return replica.Content{}, err
	}
	end := h.Rev
	return replica.Content{
		Cursor: replica.Cursor{Epoch: h.Epoch, Rev: h.Rev},
		Items: func(yield func(*replica.Item, error) bool) {
			err := s.db.View(ctx, func(v *store.View) error {
				end = v.Head.Rev
				kinds, err := v.Kinds()
				if err != nil {
					return err
				}
				for _, kind := range slices.Sorted(slices.Values(kinds)) {
					if err := v.Scan(kind, func(it *store.Item) error {
						item := replica.Item(*it)
						if !yield(&item, nil) {
							return errEnough
						}
						return nil
					}); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil && !errors.Is(err, errEnough) {
				yield(nil, err)
			}
		},
		End: func() int64 { return end },
	}, nil
}

// accept checks a proposal on top of what the node's own copy has.
func (n *node) accept(ctx context.Context, p admin.Proposal) error {
	s := n.shared
	if err := n.reach(ctx, p.Base); err != nil {
		return err
	}
	list, err := few(ctx, &p)
	if err != nil {
		return err
	}
	if list != nil {
		err = s.replica.Check(list)
	}
	if list == nil || errors.Is(err, replica.ErrNoState) {
		return admin.AcceptByCompiling(s.db)(ctx, p)
	}
	return err
}

// few gives the changes of a proposal, those that change something, if they are so few
// that they are checked beside what is compiled already; nil if not.
func few(ctx context.Context, p *admin.Proposal) ([]replica.Change, error) {
	const most = 10_000
	list := []replica.Change{}
	add := func(c *store.Change) {
		list = append(list, replica.Change{Op: replica.Op(c.Op), Item: replica.Item(c.Item)})
	}
	if p.Changeset != nil {
		different, err := p.Changeset.Differences(ctx, most)
		if errors.Is(err, store.ErrTooLarge) {
			return nil, nil
		}
		for i := range different {
			add(&different[i])
		}
		return list, err
	}
	for c, err := range p.Changes {
		if err != nil {
			return nil, err
		}
		if add(&c); len(list) > most {
			return nil, nil
		}
	}
	return list, nil
}

// reach waits until the node's own copy is at a revision.
func (n *node) reach(ctx context.Context, rev int64) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		at, changed := n.cursor()
		switch {
		case at > rev:
			return store.ErrMoved
		case at == rev:
			return nil
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Millisecond): // a revision that changes no table
		case <-ctx.Done():
			return fmt.Errorf("the node's own copy is at revision %d, not yet at %d: %w", at, rev, ctx.Err())
		}
	}
}

// cursor is the revision of the node's own copy, and a channel that is closed when
// it may be another.
func (n *node) cursor() (rev int64, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.news == nil {
		n.news = make(chan struct{})
	}
	at, _ := n.shared.replica.Cursor()
	return at.Rev, n.news
}

// tableChanged is called by the node's own copy whenever its table is another.
func (n *node) tableChanged() {
	if n.shared == nil || n.shared.replica == nil {
		return // it is being opened
	}
	status := n.shared.replica.Status()
	n.metrics.Table(int(status.Items[replica.KindRedirect]), int(status.Items[replica.KindHost]))
	for _, item := range status.LeftOut {
		n.log.Warn("an item is not served: it contradicts others, or cannot be read", "item", item)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.news != nil {
		close(n.news)
		n.news = nil
	}
}

// publish makes content all that a source has in the store: what it does not name
// any more goes. Content of other sources stays as it is.
func (n *node) publish(ctx context.Context, label string, content source.Content) error {
	db := n.shared.db
	by := store.Actor{Who: label}
	if s, err := db.Source(ctx, label); err == nil && s.Paused { // publishing would say so, too late
		return fmt.Errorf("%w: %s", store.ErrPaused, label)
	}
	set, err := db.Stage(ctx, store.StageOptions{Source: label, Mode: store.Replace, Actor: by})
	if err != nil {
		return err
	}
	defer set.Cancel(context.WithoutCancel(ctx)) // without effect on one that is published
	owners := admin.NewOwners(db)
	if err := owners.Load(ctx); err != nil {
		return err
	}
	moved, err := owners.Replace(ctx, label, content.Hosts)
	if err != nil {
		return err
	}
	changes := owners.Label(ctx, itemsOf(label, content))
	if _, err := set.Add(ctx, changes); err != nil {
		return err
	}
	for {
		head, err := db.Head(ctx)
		if err != nil {
			return err
		}
		err = n.accept(ctx, admin.Proposal{Base: head.Rev, Changes: changes, Replaces: true, Source: label, Changeset: set})
		var receipt store.Receipt
		if err == nil {
			receipt, err = set.Publish(ctx, store.PublishOptions{Base: head.Rev})
		}
		if err == nil {
			if receipt.Changes() > 0 {
				n.contents.kept.published(label, receipt.Rev)
			}
			if len(moved) > 0 {
				if _, rev, err := admin.Relabel(ctx, db, by, moved); err != nil {
					n.log.Error("give redirects the team of their host; it is tried again", "err", err)
				} else {
					receipt.Rev = max(receipt.Rev, rev)
				}
			}
			if err = n.reach(ctx, receipt.Rev); errors.Is(err, store.ErrMoved) {
				err = nil // and further
			}
			return err
		}
		if !errors.Is(err, store.ErrMoved) {
			return err
		}
	}
}

// itemsOf makes store items of a source's content.
func itemsOf(label string, content source.Content) iter.Seq2[store.Change, error] {
	return func(yield func(store.Change, error) bool) {
		teams := map[string]string{}
		put := func(it store.Item, err error) bool {
			return yield(store.Change{Op: store.Put, Item: it}, err)
		}
		for i := range content.Hosts {
			h := &content.Hosts[i]
			if name, err := fingerpost.ParseHostPattern(h.Name); err == nil {
				teams[string(name)] = h.Team
			}
			if !put(store.HostItem(h, label)) {
				return
			}
		}
		for i := range content.Redirects {
			r := &content.Redirects[i]
			host, err := redirect.HostOf(r.From)
			if err != nil {
				yield(store.Change{}, err)
				return
			}
			if !put(store.RedirectItem(r, label, teams[string(host)])) {
				return
			}
		}
	}
}

// explain answers the API's question which rule answers an address.
func (n *node) explain(ctx context.Context, c *fingerpost.Case) (*explain.Explanation, error) {
	req, err := explain.NewRequest(c, time.Now(), n.certs.Covers)
	if err != nil {
		return nil, err
	}
	if req.Country == "" && n.countries != nil {
		req.Country = n.countries.Country(req.Addr)
	}
	x := explain.Explainer{Table: n.current(), Covers: n.certs.Covers, Header: func(a *redirect.Answer) http.Header { return edge.Header(a) },
		Redirect: func(host, id string) *fingerpost.Redirect {
			it, err := n.shared.replica.Get(replica.KindRedirect, store.RedirectKey(fingerpost.HostPattern(host), id))
			if err != nil || it == nil {
				return nil
			}
			item := store.Item(*it)
			r, err := item.Redirect()
			if err != nil {
				return nil
			}
			return r
		}}
	return x.Explain(req), nil
}

// id names this node among the others.
func (n *node) id() string {
	host, err := os.Hostname()
	if err != nil {
		host = "node"
	}
	return host
}

// current is the table that answers visitors.
func (n *node) current() *redirect.Table {
	if n.shared != nil {
		return n.shared.replica.Table()
	}
	return n.table.Load()
}

// tidyEvery is how often a store is tidied, by one of its control nodes.
const tidyEvery = time.Hour

// tidy removes from the store, at each tick, what is older than it has to be, until
// ctx ends.
func (n *node) tidy(ctx context.Context, tick <-chan time.Time) {
	if n.shared == nil || n.shared.db == nil {
		return
	}
	db := n.shared.db
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		lease, err := db.Acquire(ctx, "tidy", n.id(), tidyEvery/2)
		if errors.Is(err, store.ErrFenced) {
			continue // another node does it
		}
		if err == nil {
			_, err = db.Tidy(ctx, store.Retention{})
			err = errors.Join(err, n.admin.Tidy(ctx), db.Release(ctx, lease))
		}
		if err != nil && ctx.Err() == nil {
			n.log.Warn("the store could not be tidied; it is tried again", "err", err, "in", tidyEvery)
		}
	}
}

// closeShared frees what openShared took.
func (n *node) closeShared() {
	s := n.shared
	if s == nil {
		return
	}
	if s.replica != nil {
		s.replica.Close()
	}
	if s.db != nil {
		s.db.Close()
	}
}
