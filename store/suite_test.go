package store

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"fingerpost/internal/testpg"
)

// place is one kind of database that the suite runs on.
type place struct {
	name string
	// dsn makes an empty database for one test.
	dsn func(t testing.TB) string
}

// cluster is the private PostgreSQL of this run, started by the first test that
// needs it.
var cluster struct {
	once   sync.Once
	server *testpg.Server
	err    error
}

func postgres(t testing.TB) *testpg.Server {
	t.Helper()
	cluster.once.Do(func() { cluster.server, cluster.err = testpg.Start(testpg.Options{}) })
	if cluster.err != nil {
		t.Fatal(cluster.err)
	}
	return cluster.server
}

func TestMain(m *testing.M) {
	if runChild() {
		return
	}
	code := m.Run()
	if cluster.server != nil {
		cluster.server.Stop()
	}
	os.Exit(code)
}

// schema makes an empty schema in the database of dsn, and gives the DSN with it.
func schema(t testing.TB, dsn string) string {
	t.Helper()
	name := "test_" + strings.ToLower(newEpoch()[:12])
	ctx := context.Background()
	conn := connect(t, dsn)
	if _, err := conn.Exec(ctx, "CREATE SCHEMA "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn := connect(t, dsn)
		if _, err := conn.Exec(ctx, "DROP SCHEMA "+name+" CASCADE"); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	return u.String()
}

// places are where the suite runs: on SQLite and on a private PostgreSQL, there
// also with every transaction serializable; or, with FINGERPOST_TEST_DSN, on that
// database alone, in schemas of its own.
func places(t testing.TB) []place {
	if dsn := os.Getenv("FINGERPOST_TEST_DSN"); dsn != "" {
		return []place{{"given", func(t testing.TB) string { return schema(t, dsn) }}}
	}
	all := []place{{"sqlite", func(t testing.TB) string { return "sqlite:" + t.TempDir() }}}
	if testing.Short() {
		return all
	}
	return append(all,
		place{"postgres", func(t testing.TB) string { return schema(t, postgres(t).DSN("postgres")) }},
		place{"serializable", func(t testing.TB) string {
			return schema(t, postgres(t).DSN("postgres", "default_transaction_isolation=serializable"))
		}})
}

// everywhere runs a test on each place.
func everywhere(t *testing.T, test func(t *testing.T, p place)) {
	for _, p := range places(t) {
		t.Run(p.name, func(t *testing.T) { test(t, p) })
	}
}

// onEach runs a test on an open, empty store of each place.
func onEach(t *testing.T, test func(t *testing.T, db *DB, c *clock)) {
	everywhere(t, func(t *testing.T, p place) {
		c := newClock()
		test(t, open(t, p.dsn(t), Options{Now: c.now}), c)
	})
}

func open(t testing.TB, dsn string, o Options) *DB {
	t.Helper()
	db, err := Open(t.Context(), dsn, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// clock is the time of a test; it goes on by a millisecond with each look.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(time.Millisecond)
	return c.t
}

func (c *clock) jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// item makes an item whose value is the text v.
func item(key, v string) Item {
	return Item{Kind: KindRedirect, Key: key, Value: value(v), Source: "api", Team: "web"}
}

func value(v string) json.RawMessage { return json.RawMessage(fmt.Sprintf(`{"to":%q}`, v)) }

func put(key, v string) Change { return Change{Op: Put, Item: item(key, v)} }

func remove(key string) Change {
	return Change{Op: Delete, Item: Item{Kind: KindRedirect, Key: key, Source: "api"}}
}

func batch(changes ...Change) Batch {
	return Batch{Changes: changes, Actor: Actor{Who: "ann", Token: "t1"}}
}

func commit(t testing.TB, db *DB, changes ...Change) Receipt {
	t.Helper()
	r, err := db.Commit(t.Context(), batch(changes...))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// content gives all items of a store, each as one line.
func content(t testing.TB, db *DB) string {
	t.Helper()
	var b strings.Builder
	err := db.View(t.Context(), func(v *View) error {
		kinds, err := v.Kinds()
		if err != nil {
			return err
		}
		for _, kind := range kinds {
			if err := v.Scan(kind, func(it *Item) error {
				fmt.Fprintf(&b, "%s %s %s %s %s\n", it.Kind, it.Key, it.Value, it.Source, it.Team)
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// replay gives all items by following the feed from its beginning.
func replay(t testing.TB, db *DB) string {
	t.Helper()
	items := map[itemName]Item{}
	h, err := db.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for c := (Cursor{Epoch: h.Epoch}); c.Rev < h.Rev; {
		revisions, err := db.Changes(t.Context(), c, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range revisions {
			for _, change := range r.Changes {
				name := itemName{change.Item.Kind, change.Item.Key}
				if change.Op == Put {
					items[name] = change.Item
				} else {
					delete(items, name)
				}
			}
			c.Rev = r.Rev
		}
	}
	var all []string
	for name, it := range items {
		all = append(all, fmt.Sprintf("%s %s %s %s %s\n", name.kind, name.key, it.Value, it.Source, it.Team))
	}
	sortLines(all)
	return strings.Join(all, "")
}
