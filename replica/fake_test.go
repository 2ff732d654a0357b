package replica

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/redirect"
)

// fake is a store in memory: items, and all revisions. Its hooks are called
// before and after an effect, and their errors are what the caller gets.
type fake struct {
	mu        sync.Mutex // guards all below
	epoch     string
	floor     int64
	items     map[string]*Item
	revisions []Revision // 1 and so on
	news      chan struct{}

	beforeFrame func(n int, f *Frame) error // n counts the frames of one connection
	afterFrame  func(n int, f *Frame) error
	scanned     func() // after the rows of a snapshot were read, before its end is
	acked       func(at Cursor)
	diverged    func(after Cursor)

	snapshots Snapshots
	dir       string
}

func newFake(t testing.TB, epoch string) *fake {
	f := &fake{epoch: epoch, items: map[string]*Item{}, news: make(chan struct{}), dir: t.TempDir()}
	f.snapshots = Snapshots{Dir: filepath.Join(f.dir, "snapshots"), Feed: f.feed(), Scan: f.scan}
	return f
}

func (f *fake) head(context.Context) (Head, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.headLocked(), nil
}

func (f *fake) headLocked() Head {
	return Head{Epoch: f.epoch, Rev: int64(len(f.revisions)), Floor: f.floor}
}

// commit makes one revision.
func (f *fake) commit(changes ...Change) Cursor {
	f.mu.Lock()
	defer f.mu.Unlock()
	rev := int64(len(f.revisions)) + 1
	r := Revision{Rev: rev, At: time.UnixMicro(1_700_000_000_000_000 + rev).UTC()}
	for _, c := range changes {
		c.Item.Rev = rev
		if c.Op == Put && c.Item.Since.IsZero() {
			c.Item.Since = time.UnixMicro(1_600_000_000_000_000).UTC()
		}
		switch n := c.Item.name(); c.Op {
		case Put:
			f.items[n] = &c.Item
		case Delete:
			delete(f.items, n)
			c.Item.Value = nil
		}
		r.Changes = append(r.Changes, c)
	}
	f.revisions = append(f.revisions, r)
	f.wake()
	return Cursor{f.epoch, rev}
}

// publish changes much without telling: a large changeset.
func (f *fake) publish(items ...Item) Cursor {
	f.mu.Lock()
	defer f.mu.Unlock()
	rev := int64(len(f.revisions)) + 1
	for _, it := range items {
		it.Rev = rev
		f.items[it.name()] = &it
	}
	f.revisions = append(f.revisions, Revision{Rev: rev, Changes: []Change{{Op: Reload, Item: Item{Key: "changeset-1", Rev: rev}}}})
	f.wake()
	return Cursor{f.epoch, rev}
}

// restore goes back to a revision, in a new epoch.
func (f *fake) restore(epoch string, items map[string]*Item, rev int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch, f.items, f.revisions, f.floor = epoch, items, f.revisions[:rev:rev], rev
	f.wake()
}

func (f *fake) wake() {
	close(f.news)
	f.news = make(chan struct{})
}

func (f *fake) content() map[string]*Item {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.items)
}

func sorted(items map[string]*Item) iter.Seq2[*Item, error] {
	return func(yield func(*Item, error) bool) {
		for _, n := range slices.Sorted(maps.Keys(items)) {
			if !yield(items[n], nil) {
				return
			}
		}
	}
}

func (f *fake) scan(ctx context.Context) (Content, error) {
	h, _ := f.head(ctx)
	scanned := false
	return Content{
		Cursor: Cursor{h.Epoch, h.Rev},
		Items: func(yield func(*Item, error) bool) {
			if f.scanned != nil && !scanned {
				scanned = true
				f.scanned()
			}
			sorted(f.content())(yield)
		},
		End: func() int64 { h, _ := f.head(ctx); return h.Rev },
	}, nil
}

func (f *fake) feed() Feed {
	return Feed{
		Diverged: func(_ context.Context, after Cursor) {
			if f.diverged != nil {
				f.diverged(after)
			}
		},
		Head: f.head,
		Changes: func(_ context.Context, after Cursor, limit int) ([]Revision, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if h := f.headLocked(); after.Epoch != h.Epoch || after.Rev < h.Floor || after.Rev > h.Rev {
				return nil, fmt.Errorf("%w: the head is %v", ErrTooOld, h)
			}
			rest := f.revisions[after.Rev:]
			return slices.Clone(rest[:min(limit, len(rest))]), nil
		},
		Wait: func(ctx context.Context, after Cursor) (Head, error) {
			for {
				f.mu.Lock()
				h, news := f.headLocked(), f.news
				f.mu.Unlock()
				if h.Epoch != after.Epoch || h.Rev > after.Rev {
					return h, nil
				}
				select {
				case <-news:
				case <-ctx.Done():
					return h, ctx.Err()
				}
			}
		},
	}
}

// hooked is an Upstream with the hooks of a fake.
type hooked struct {
	Upstream
	f *fake
}

func (h hooked) Revisions(ctx context.Context, after Place, fn func(Frame) error) error {
	n := 0
	return h.Upstream.Revisions(ctx, after, func(fr Frame) error {
		if h.f.beforeFrame != nil {
			if err := h.f.beforeFrame(n, &fr); err != nil {
				return err
			}
		}
		if err := fn(fr); err != nil {
			return err
		}
		if h.f.afterFrame != nil {
			if err := h.f.afterFrame(n, &fr); err != nil {
				return err
			}
		}
		n++
		return nil
	})
}

func (f *fake) upstream() Upstream {
	ack := func(_ context.Context, at Cursor) error {
		if f.acked != nil {
			f.acked(at)
		}
		return nil
	}
	return hooked{Join(f.feed(), f.snapshots.Get, ack), f}
}

// The table that these items make, built at once.
func (f *fake) table(t testing.TB) *redirect.Table { return tableOf(t, f.content(), false) }

func tableOf(t testing.TB, items map[string]*Item, strict bool) *redirect.Table {
	t.Helper()
	var hosts []fingerpost.Host
	var redirects []fingerpost.Redirect
	for it := range sorted(items) {
		switch it.Kind {
		case KindHost:
			if h, err := it.host(); err == nil {
				hosts = append(hosts, *h)
			}
		case KindRedirect:
			if r, err := it.redirect(); err == nil {
				redirects = append(redirects, r)
			}
		}
	}
	table, err := redirect.Compile(hosts, redirects)
	if err == nil {
		return table
	}
	for _, e := range fingerpost.Errors(err) {
		// Circles that arise where a rule goes away are beyond Check.
		if strict && e.Code != "cycle" && e.Code != "self_redirect" {
			t.Fatalf("what Check accepted is refused as a whole: %v", err)
		}
	}
	// They contradict each other, or go in circles.
	table, err = redirect.CompileSorted(hosts, func(yield func(fingerpost.Redirect, error) bool) {
		for _, r := range redirects {
			if !yield(r, nil) {
				return
			}
		}
	}, 0, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func putHost(name string, h fingerpost.Host) Change {
	b, err := json.Marshal(h)
	if err != nil {
		panic(err)
	}
	return Change{Put, Item{Kind: KindHost, Key: name, Value: b, Source: "api"}}
}

func putRedirect(id string, r fingerpost.Redirect) Change {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	host, err := redirect.HostOf(r.From)
	if err != nil {
		panic(err)
	}
	return Change{Put, Item{Kind: KindRedirect, Key: string(host) + "/" + id, Value: b, Source: "api"}}
}

func remove(kind, key string) Change { return Change{Delete, Item{Kind: kind, Key: key}} }

// open opens a replica, and closes it at the end of the test.
func open(t testing.TB, o Options) *Replica {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.backoff == 0 {
		o.backoff, o.maxBackoff = time.Millisecond, 2*time.Millisecond
	}
	r, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// follow makes r follow until the end of the test, or until stop is called.
func follow(t testing.TB, r *Replica, up Upstream) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Follow(ctx, up) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// reach waits until r is at a cursor.
func reach(t testing.TB, r *Replica, want Cursor) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		r.mu.RLock()
		news := r.news
		r.mu.RUnlock()
		at, ok := r.Cursor()
		if ok && at.Epoch == want.Epoch && at.Rev >= want.Rev {
			return
		}
		select {
		case <-news:
		case <-ctx.Done():
			t.Fatalf("the replica is at %v, and should have reached %v; status %+v", at, want, r.Status())
		}
	}
}

// request is a GET of a URL.
func request(t testing.TB, raw string) redirect.Request {
	t.Helper()
	var scheme, rest string
	if n, _ := fmt.Sscanf(raw, "%5s", &scheme); n == 0 {
		t.Fatal(raw)
	}
	for i := range raw {
		if raw[i:min(i+3, len(raw))] == "://" {
			scheme, rest = raw[:i], raw[i+3:]
			break
		}
	}
	host, path := rest, "/"
	for i := range rest {
		if rest[i] == '/' {
			host, path = rest[:i], rest[i:]
			break
		}
	}
	p, err := fingerpost.ParsePath(path)
	if err != nil {
		t.Fatal(err)
	}
	return redirect.Request{Method: "GET", HTTPS: scheme == "https", Host: host, Path: p, Target: path, Now: 1_800_000_000}
}

// location is where a table sends a request, or what else it says.
func location(t testing.TB, table *redirect.Table, url string) string {
	t.Helper()
	r := request(t, url)
	var a redirect.Answer
	table.Answer(&r, &a)
	if len(a.Location) > 0 {
		return string(a.Location)
	}
	return fmt.Sprintf("kind %d, status %d", a.Kind, a.Status)
}

// testLog writes to the test's log.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}
