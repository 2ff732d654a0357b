package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"fingerpost"
	"fingerpost/admin"
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

// current is the table that answers visitors.
func (n *node) current() *redirect.Table {
	if n.shared != nil {
		return n.shared.replica.Table()
	}
	return n.table.Load()
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
