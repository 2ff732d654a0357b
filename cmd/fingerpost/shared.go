package main

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
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
	noted     atomic.Pointer[replica.Header] // of the snapshot that the store knows of
	name      string                         // of the node
	log       *slog.Logger
	setBack   seldom // noticed that the store was
}

// The roles of a node.
const (
	roleAll     = "all"
	roleEdge    = "edge"
	roleControl = "control"
)

// openShared opens the store and the node's own copy. With a copy it needs no other
// machine: a store that is away is joined when it comes back.
func (n *node) openShared(ctx context.Context) error {
	o := &n.o
	if o.data == "" {
		return nil
	}
	if err := makeData(o.data); err != nil {
		return dataError(o.data, err)
	}
	if err := o.checkFolder(); err != nil {
		return err
	}
	if err := o.identify(); err != nil {
		return err
	}
	n.shared = &shared{name: o.name, log: n.log}
	var err error
	if n.shared.replica, err = replica.Open(replica.Options{Dir: filepath.Join(o.data, "replica"), Log: n.log, Changed: n.tableChanged, Items: n.itemsChanged, Eager: o.control == ""}); err != nil {
		return dataError(o.data, err)
	}
	n.instance = newInstance()
	if o.control != "" {
		h, err := trusting(o.ca)
		if err != nil {
			return err
		}
		h.Transport = hinting{h.Transport}
		n.shared.up = &replica.Client{URL: o.control, Token: o.token, HTTP: h, Reports: n.reports}
		n.followFeed()
		return nil
	}
	dsn := o.store
	if dsn == "" {
		dsn = "sqlite:" + o.data
	}
	_, hasCopy := n.shared.replica.Cursor()
	if n.shared.db, err = store.Open(ctx, dsn, store.Options{Log: n.log, Later: hasCopy}); err != nil {
		return storeError(err)
	}
	if _, err := n.shared.db.Head(ctx); errors.Is(err, store.ErrUnavailable) {
		n.away.Store(true)
		n.log.Warn("the store is away: the node serves its own copy, and joins when the store is back", "err", oneLine(err))
	} else if err != nil {
		return storeError(err)
	}
	n.shared.join(filepath.Join(o.data, "snapshots"), func(ctx context.Context, at replica.Cursor) error {
		own := n.report(at)
		if err := n.noteNode(ctx, &own); err != nil {
			n.twins.Do(time.Now(), func() { n.logErrors("the name of this node is another's too", err) })
		}
		return nil
	})
	n.followFeed()
	return nil
}

// makeData makes the data folder, if need be. It holds a token and may lie where
// somebody works with git, so it keeps itself out of that.
func makeData(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, ".gitignore"), []byte("*\n"), 0o600)
}

// oneLine is the text of an error that comes in several.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

func storeError(err error) error {
	if own := new(fingerpost.Error); errors.As(err, &own) {
		return err
	}
	return &fingerpost.Error{Code: "store", Message: oneLine(err), Hint: "is the address right (--store or store:), and the database there? A node that has been in touch with it before starts without it"}
}

// rejoinEvery is how often a node looks whether the store is back.
const rejoinEvery = time.Second

// rejoin does what has waited for the store once that is back, until ctx ends:
// files that could not be applied, the first token.
func (n *node) rejoin(ctx context.Context) {
	if n.shared == nil || n.shared.db == nil {
		return
	}
	tick := time.NewTicker(rejoinEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !n.away.Load() {
			continue
		}
		if _, err := n.shared.db.Head(ctx); err != nil {
			continue
		}
		n.away.Store(false)
		n.log.Info("the store is back")
		n.bootstrap(ctx)
		if n.unapplied {
			err := n.contents.replace(0, n.set.Content())
			n.unapplied = err != nil
			n.logErrors("content of files was refused", err)
		}
		n.retry(true, -1)
	}
}

// followFeed keeps the node's own copy current until the node ends.
func (n *node) followFeed() {
	go n.shared.replica.Follow(n.life, n.shared.up) // its error is that of n.life
}

// openRules reads the files of rules. A node that keeps content needs none.
func (n *node) openRules() (*source.Set, error) {
	f := &n.o.ruleFlags
	if keeps := !n.o.given("data") || n.o.data != ""; keeps && f.config == "" && len(f.redirects) == 0 {
		if _, err := os.Stat(defaultConfig); errors.Is(err, fs.ErrNotExist) {
			return source.Open("", nil)
		}
	}
	return f.open()
}

// checkEdge refuses content in the files of an edge, which takes nothing from
// them but its settings.
func (n *node) checkEdge() error {
	if c := n.set.Content(); n.o.role == roleEdge && len(c.Hosts)+len(c.Redirects) > 0 {
		return &fingerpost.Error{Code: "edge_content", Message: "an edge has its content from the node that it follows, not from files", Hint: "leave hosts and redirects to the control node; settings may stay"}
	}
	return nil
}

// fileLabel begins the label of the files' part, and is all of it where there are none.
const fileLabel = "file:"

// label names a part of the content of files and sources in the store.
func (n *node) label(part int) string {
	if part > 0 {
		return n.remotes[part-1].State().Label
	}
	files := slices.DeleteFunc(append([]string{n.o.config}, n.o.redirects...), func(s string) bool { return s == "" })
	if len(files) == 0 {
		return fileLabel
	}
	return fileSource(files)
}

// newAdmin makes the admin listener's server, with the API where there is a store.
func (n *node) newAdmin() (*admin.Server, error) {
	a := &admin.Server{Metrics: n.metrics.Handler(), Log: n.log, Dir: n.o.data, Node: n.o.name}
	if n.shared == nil {
		return a, nil
	}
	s := n.shared
	a.Checks = []admin.Check{{Name: "content", Err: func() error {
		if status := s.replica.Status(); !status.Ready {
			return errors.New("no content yet: waiting for the first snapshot")
		}
		return nil
	}, Detail: func() string { return age(s.replica.Status(), time.Now()) }},
		{Name: "certificates", Err: func() error { return nil }, Detail: n.heldDetail}}
	a.Debug = func() any { return n.debugState() }
	n.metrics.FeedLag(func() time.Duration { status := s.replica.Status(); return status.Lag(time.Now()) })
	if s.db == nil {
		var err error
		if a.LocalToken, err = admin.LocalToken(n.o.data); err != nil {
			return nil, dataError(n.o.data, err)
		}
		a.NodeToken = n.o.token
		a.Feed = replica.FeedHandler(s.replica.Feed(), func(_ *http.Request, reports []replica.Report) error {
			n.relayed.put(reports)
			return nil
		})
		a.Snapshot = replica.SnapshotHandler(s.replica.Snapshot)
		return a, nil
	}
	a.Store, a.Accept, a.Explain = s.db, n.accept, n.explain
	for _, l := range n.listeners {
		if l.name == "admin" {
			a.URL = n.adminURL(l.Addr())
		}
	}
	a.Feed = replica.FeedHandler(s.feed(), n.followed)
	a.OIDC = n.oidc()
	a.Certificates = n.adminCertificates()
	a.Sources, a.SourcesChanged = n.sourcesOf(), n.contents.kept.look
	a.Snapshot = replica.SnapshotHandler(s.snapshot)
	return a, nil
}

// adminURL is where a browser on this machine finds the admin listener; with a
// certificate for a name, by that name.
func (n *node) adminURL(addr net.Addr) string {
	scheme, host, port := "http", "", ""
	if tcp, ok := addr.(*net.TCPAddr); ok {
		host, port = tcp.IP.String(), strconv.Itoa(tcp.Port)
		if tcp.IP.IsUnspecified() {
			host = "localhost"
		}
	}
	if n.adminHTTP.TLSConfig != nil {
		scheme = "https"
		if name := n.settings.Listen.AdminTLS.Name; name != "" && name != "auto" {
			host = name
		} else if n.adminPair != nil {
			if names := n.adminPair.current.Load().Leaf.DNSNames; len(names) > 0 && !strings.HasPrefix(names[0], "*") {
				host = names[0]
			}
		}
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// age says how old the state is that a node serves.
func age(s replica.Status, now time.Time) string {
	lag := s.Lag(now)
	switch {
	case lag == 0:
		return fmt.Sprintf("current, at revision %d", s.Cursor.Rev)
	case s.Connected && s.Head.Rev > s.Cursor.Rev:
		return fmt.Sprintf("at revision %d, %s behind", s.Cursor.Rev, plural(int(s.Head.Rev-s.Cursor.Rev), "revision"))
	case lag < 0:
		return fmt.Sprintf("at revision %d; no word from the feed yet", s.Cursor.Rev)
	}
	return fmt.Sprintf("at revision %d, which was current %s ago; the feed is away", s.Cursor.Rev, lag.Round(time.Second))
}

// debugState is what /debug/status tells of the node's own copy.
func (n *node) debugState() any {
	s := n.shared.replica.Status()
	cause := ""
	if s.Err != nil {
		cause = oneLine(s.Err)
	}
	return map[string]any{"role": n.o.role, "version": version, "ready": s.Ready, "cursor": s.Cursor, "head": s.Head, "connected": s.Connected, "asOf": s.AsOf, "feedError": cause,
		"lagSeconds": s.Lag(time.Now()).Seconds(), "items": s.Items, "overlay": s.Overlay, "logBytes": s.LogBytes, "fileBytes": s.FileBytes,
		"folding": s.Folding, "compacting": s.Compact, "leftOut": s.LeftOut}
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
	if n.away.Load() {
		return // with the store
	}
	token, link, err := n.admin.Bootstrap(ctx, n.o.terminal != nil && n.admin.URL != "")
	if err != nil {
		n.log.Error("cannot make the first token", "err", err)
	}
	if token == "" {
		return
	}
	n.log.Info("first start: a token for the API is in the data folder", "file", filepath.Join(n.o.data, "admin.token"))
	if link != "" { // for whoever looks on; a log would keep it
		fmt.Fprintf(n.o.terminal, "\nLog in, once and within a quarter of an hour: %s\n\n", link)
	}
}

// join makes the store's feed and snapshots what the node's own copy follows.
func (s *shared) join(dir string, ack func(ctx context.Context, at replica.Cursor) error) {
	s.snapshots = &replica.Snapshots{Dir: dir, Feed: s.feed(), Scan: s.scan}
	s.up = replica.Join(s.feed(), s.snapshot, ack)
}

func (s *shared) head(ctx context.Context) (replica.Head, error) {
	h, err := s.db.Head(ctx)
	return feedHead(h), feedError(err)
}

// snapshot gives a snapshot for somebody to follow the feed from, and has the store
// keep the changes behind it.
func (s *shared) snapshot(ctx context.Context, atLeast replica.Cursor) (*replica.Snapshot, error) {
	snapshot, err := s.snapshots.Get(ctx, atLeast)
	if err != nil {
		return nil, err
	}
	h := snapshot.Header
	if last := s.noted.Swap(&h); last == nil || *last != h {
		err := s.db.AddSnapshot(ctx, store.Snapshot{ID: fmt.Sprintf("%s-%s-%d", s.name, h.Epoch, h.Cursor), Epoch: h.Epoch, Rev: h.Cursor, SHA256: h.SHA256, Bytes: h.Bytes})
		if err != nil { // whoever is too slow with it fetches another one
			s.noted.Store(nil)
			s.log.Warn("note a snapshot in the store", "err", err)
		}
	}
	return snapshot, nil
}

func (s *shared) feed() replica.Feed {
	return replica.Feed{
		Head: s.head,
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
		Diverged: s.diverged,
	}
}

// diverged begins another epoch: a node that follows has a revision that the store
// does not have, so the store was set back, and all nodes have to fetch its content.
func (s *shared) diverged(ctx context.Context, after replica.Cursor) {
	s.setBack.Do(time.Now(), func() {
		epoch, err := s.db.EndEpoch(ctx, after.Epoch)
		if err != nil {
			s.log.Error("the store was set back, and no new epoch could be begun; it is tried again", "err", err)
			return
		}
		s.log.Error("the store was set back: a node has a revision that it does not have. All nodes fetch the content anew, and what was undone is not served any more", "rev", after.Rev, "was", after.Epoch, "epoch", epoch)
	})
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
	var about int64
	if err := s.db.View(ctx, func(v *store.View) (err error) {
		about, err = v.Count(store.KindRedirect)
		return err
	}); err != nil {
		return replica.Content{}, err
	}
	return replica.Content{
		Cursor: replica.Cursor{Epoch: h.Epoch, Rev: h.Rev},
		About:  int(about),
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

// checkedAtOnce is how many changes are checked together: all rules of the host
// forms that they are about are in memory then.
const checkedAtOnce = 2_000

// accept checks a proposal on top of what the node's own copy has.
func (n *node) accept(ctx context.Context, p admin.Proposal) error {
	list, many, err := different(ctx, &p)
	if err != nil || !many && len(list) == 0 {
		return err
	}
	if err := n.reach(ctx, p.Base, p.Changeset != nil); err != nil {
		return err
	}
	if !many {
		return n.shared.replica.Check(list)
	}
	return n.shared.replica.CheckAll(replica.Proposal{Changes: changesOf(p.Changeset.Each(ctx)), Gone: gone(&p)})
}

// different gives what a proposal changes, unless that is more than is checked at
// once.
func different(ctx context.Context, p *admin.Proposal) (list []replica.Change, many bool, err error) {
	if p.Changeset == nil {
		for c, err := range changesOf(p.Changes) {
			if err != nil {
				return nil, false, err
			}
			list = append(list, c)
		}
		return list, false, nil
	}
	changes, err := p.Changeset.Differences(ctx, checkedAtOnce)
	if errors.Is(err, store.ErrTooLarge) {
		return nil, true, nil
	}
	for i := range changes {
		list = append(list, changeOf(&changes[i]))
	}
	return list, false, err
}

func changeOf(c *store.Change) replica.Change {
	return replica.Change{Op: replica.Op(c.Op), Item: replica.Item(c.Item)}
}

func changesOf(changes iter.Seq2[store.Change, error]) iter.Seq2[replica.Change, error] {
	return func(yield func(replica.Change, error) bool) {
		for c, err := range changes {
			if !yield(changeOf(&c), err) {
				return
			}
		}
	}
}

// gone tells what a proposal that replaces takes away.
func gone(p *admin.Proposal) func(*replica.Item) bool {
	if !p.Replaces {
		return nil
	}
	return func(it *replica.Item) bool {
		return it.Source == p.Source && (len(p.Kinds) == 0 || slices.Contains(p.Kinds, it.Kind))
	}
}

// patience is how long a request waits for the node's own copy to have what was
// written before it.
const patience = 10 * time.Second

// reach waits until the node's own copy is at a revision of the store, for as long
// as it takes or for patience. ErrMoved: it is beyond, or the store is.
func (n *node) reach(ctx context.Context, rev int64, long bool) error {
	head, err := n.shared.db.Head(ctx)
	switch {
	case err != nil:
		return err
	case head.Rev != rev:
		return store.ErrMoved
	}
	err = n.await(ctx, head.Cursor(), long)
	if at, _ := n.shared.replica.Cursor(); err == nil && at.Rev != rev {
		return store.ErrMoved
	}
	return err
}

// await waits until the node's own copy has a revision of the store.
func (n *node) await(ctx context.Context, want store.Cursor, long bool) error {
	begin, told := time.Now(), time.Now()
	for {
		at, changed := n.cursor()
		if at.Epoch == want.Epoch && at.Rev >= want.Rev {
			return nil
		}
		if !long && time.Since(begin) > patience {
			return admin.CatchingUp(fmt.Sprintf("the node's own copy is at revision %d, and the store at %d", at.Rev, want.Rev))
		}
		if time.Since(told) > patience {
			told = time.Now()
			n.log.Info("waiting for the node's own copy", "at", at.Rev, "store", want.Rev, "for", time.Since(begin).Round(time.Second))
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Millisecond): // a revision that changes no table
			head, err := n.shared.db.Head(ctx)
			if err != nil {
				return err
			}
			if head.Epoch != want.Epoch {
				return store.ErrMoved
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// cursor is where the node's own copy is, and a channel that is closed when
// it may be another.
func (n *node) cursor() (at replica.Cursor, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.news == nil {
		n.news = make(chan struct{})
	}
	at, _ = n.shared.replica.Cursor()
	return at, n.news
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
	n.tellNews()
}

// tellNews wakes those who wait for another cursor.
func (n *node) tellNews() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.news != nil {
		close(n.news)
		n.news = nil
	}
}

// publish makes content all that a source has in the store: what it does not name
// any more goes. Content of other sources stays as it is.
func (n *node) publish(ctx context.Context, label string, content source.Content) (err error) {
	db := n.shared.db
	defer func() { err = n.storeAway(err) }()
	by := store.Actor{Who: label}
	if s, err := db.Source(ctx, label); err == nil && s.Paused { // publishing would say so, too late
		return fmt.Errorf("%w: %s", store.ErrPaused, label)
	}
	if receipt, done, err := n.publishFew(ctx, label, content); err != nil {
		return err
	} else if done {
		n.published(ctx, label, receipt)
		return nil
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
	receipt, err := n.publishSet(ctx, set)
	if err != nil {
		return err
	}
	if len(moved) > 0 {
		if _, rev, err := admin.Relabel(ctx, db, by, moved); err != nil {
			n.log.Error("give redirects the team of their host; it is tried again", "err", err)
		} else {
			receipt.Rev = max(receipt.Rev, rev)
		}
	}
	n.published(ctx, label, receipt)
	return nil
}

// published notes that a source's content is in force, and waits until this node
// serves it. It is in force whatever becomes of the wait: that is for the log.
func (n *node) published(ctx context.Context, label string, receipt store.Receipt) {
	if receipt.Changes() > 0 {
		n.contents.kept.published(label, receipt.Rev)
	}
	if err := n.await(ctx, store.Cursor{Epoch: receipt.Epoch, Rev: receipt.Rev}, true); err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrMoved) {
		n.log.Warn("content is in the store, and the node's own copy does not have it yet", "source", label, "rev", receipt.Rev, "err", err)
	}
}

// publishAttempts bounds how often a publication is tried while others write.
const publishAttempts = 100

// A source may take away a share of what it has, and some items, without a word: more
// is a mistake as often as not, such as an export that has failed.
const (
	freeToGo  = 50
	shareToGo = 10 // one in so many
	codeMuch  = "removes_much"
)

// allowedToGo is how many items a source may take away at once.
func (n *node) allowedToGo(ctx context.Context, label string) (most, have int64, err error) {
	all, err := n.shared.db.CountBySource(ctx)
	have = all[label]
	if n.o.maxRemoved > 0 {
		return n.o.maxRemoved, have, err
	}
	return max(freeToGo, have/shareToGo), have, err
}

// refusedAsMuch reports whether content was refused because too much would go.
func refusedAsMuch(err error) bool {
	own := new(fingerpost.Error)
	return errors.As(err, &own) && own.Code == codeMuch
}

// publishSet brings what a source has staged into force, unless nothing is different.
func (n *node) publishSet(ctx context.Context, set *store.Changeset) (receipt store.Receipt, err error) {
	most, have, err := n.allowedToGo(ctx, set.Source)
	if err != nil {
		return receipt, err
	}
	for i := range publishAttempts {
		head, err := n.shared.db.Head(ctx)
		if err != nil {
			return receipt, err
		}
		err = n.accept(ctx, admin.Proposal{Base: head.Rev, Replaces: true, Source: set.Source, Changeset: set})
		if err == nil {
			receipt, err = set.Publish(ctx, store.PublishOptions{Base: head.Rev, MaxRemoved: most})
		}
		if errors.Is(err, store.ErrTooLarge) {
			return receipt, &fingerpost.Error{Code: codeMuch, Message: fmt.Sprintf("%s would take away more than %d of its %d items; what was there before is served", set.Source, most, have),
				Hint: "if that is meant, start the node once with --max-removed and a number that is large enough, or take them away in steps"}
		}
		if !errors.Is(err, store.ErrMoved) {
			return receipt, err
		}
		select {
		case <-time.After(min(time.Duration(i)*10*time.Millisecond, time.Second)):
		case <-ctx.Done():
			return receipt, ctx.Err()
		}
	}
	return receipt, store.ErrMoved
}

// publishFew is publish for a source of which little has changed: the node's own
// copy tells what, so that a large file with one new line costs no more than to
// look through it. False: nothing was done, since it is too much for one
// transaction, or the copy is not where the store is.
func (n *node) publishFew(ctx context.Context, label string, content source.Content) (receipt store.Receipt, done bool, err error) {
	db := n.shared.db
	head, err := db.Head(ctx)
	if err != nil {
		return receipt, false, err
	}
	if at, ok := n.shared.replica.Cursor(); !ok || at.Epoch != head.Epoch || at.Rev != head.Rev {
		return receipt, false, nil
	}
	owners := admin.NewOwners(db)
	if err := owners.Load(ctx); err != nil {
		return receipt, false, err
	}
	if moved, err := owners.Replace(ctx, label, content.Hosts); err != nil || len(moved) > 0 {
		return receipt, false, err
	}
	changes, few, err := n.differences(label, owners.Label(ctx, itemsOf(label, content)))
	if err != nil || !few {
		return receipt, false, err
	}
	if len(changes) == 0 {
		return store.Receipt{Epoch: head.Epoch, Rev: head.Rev}, true, nil
	}
	removed := int64(0)
	for i := range changes {
		if changes[i].Op == store.Delete {
			removed++
		}
	}
	if most, _, err := n.allowedToGo(ctx, label); err != nil || removed > most {
		return receipt, false, err // the other way says so
	}
	all := func(yield func(store.Change, error) bool) {
		for _, c := range changes {
			if !yield(c, nil) {
				return
			}
		}
	}
	err = n.accept(ctx, admin.Proposal{Base: head.Rev, Changes: all, Source: label})
	if err == nil {
		// What was compared is of this revision, or it is not taken.
		receipt, err = db.Commit(ctx, store.Batch{Changes: changes, Source: label, Base: head.Rev, Actor: store.Actor{Who: label}})
	}
	if errors.Is(err, store.ErrMoved) {
		return receipt, false, nil
	}
	return receipt, err == nil, err
}

// differences lists what content would change of what a source has in the node's
// own copy; false if that is more than one transaction takes.
func (n *node) differences(label string, items iter.Seq2[store.Change, error]) (changes []store.Change, few bool, err error) {
	seed := maphash.MakeSeed()
	sum := func(value []byte, team string) uint64 {
		var h maphash.Hash
		h.SetSeed(seed)
		h.Write(value)
		h.WriteByte(0)
		h.WriteString(team)
		return h.Sum64()
	}
	type name struct{ kind, key string }
	has := map[name]uint64{}
	for _, kind := range []string{store.KindHost, store.KindRedirect} {
		for it, err := range n.shared.replica.Scan(kind, "") {
			if err != nil {
				return nil, false, err
			}
			if it.Source == label {
				has[name{kind, it.Key}] = sum(it.Value, it.Team)
			}
		}
	}
	for c, err := range items {
		if err != nil {
			return nil, false, err
		}
		key := name{c.Item.Kind, c.Item.Key}
		was, had := has[key]
		delete(has, key)
		if had && was == sum(c.Item.Value, c.Item.Team) {
			continue
		}
		if changes = append(changes, c); len(changes) > store.MaxChanges {
			return nil, false, nil
		}
	}
	if len(changes)+len(has) > store.MaxChanges {
		return nil, false, nil
	}
	for key := range has {
		changes = append(changes, store.Change{Op: store.Delete, Item: store.Item{Kind: key.kind, Key: key.key, Source: label}})
	}
	return changes, true, nil
}

// errStoreAway says that content could not be brought into force now.
var errStoreAway = &fingerpost.Error{Code: "store_away", Message: "the store is away, and content of files and sources is not applied", Hint: "it is by itself once the store is back; what was there before is served"}

// storeAway makes one line of an error that says so, and lets rejoin look.
func (n *node) storeAway(err error) error {
	if errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrUnknown) {
		n.away.Store(true)
		return errStoreAway
	}
	return err
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
	req, err := explain.NewRequest(c, time.Now(), n.certificates.served.Covers)
	if err != nil {
		return nil, err
	}
	if req.Country == "" && n.countries != nil {
		req.Country = n.countries.Country(req.Addr)
	}
	x := explain.Explainer{Table: n.current(), Covers: n.certificates.served.Covers, Header: func(a *redirect.Answer) http.Header { return edge.Header(a) },
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

// current is the table that answers visitors.
func (n *node) current() *redirect.Table {
	if n.shared != nil {
		return n.shared.replica.Table()
	}
	return n.table.Load()
}

// tidyEvery is how often a store is tidied, by one of its control nodes, and tidySoon
// how long after its start: one that never runs for an hour tidies, too.
const (
	tidyEvery = time.Hour
	tidySoon  = time.Minute
)

// ticks come soon, and then every so often, until ctx ends.
func ticks(ctx context.Context, soon, every time.Duration) <-chan time.Time {
	tick := make(chan time.Time)
	go func() {
		for next := time.NewTimer(soon); ; next.Reset(every) {
			select {
			case at := <-next.C:
				select {
				case tick <- at:
				case <-ctx.Done():
				}
			case <-ctx.Done():
				next.Stop()
				return
			}
		}
	}()
	return tick
}

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
		lease, err := db.Acquire(ctx, "tidy", n.o.name, tidyEvery/2)
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
