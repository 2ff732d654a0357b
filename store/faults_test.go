package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"fingerpost/internal/faults"
	"fingerpost/internal/testpg"
)

// TestAnswerLostAtCommit cuts the connection between a commit and its answer, for
// each kind of write: it comes once, and the caller learns what it has come to.
func TestAnswerLostAtCommit(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	server := postgres(t)
	for _, isolation := range []string{"read committed", "serializable"} {
		t.Run(isolation, func(t *testing.T) {
			proxy, err := faults.NewProxy(server.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer proxy.Close()
			direct := schema(t, server.DSN("postgres", "default_transaction_isolation="+isolation))
			db := open(t, strings.Replace(direct, server.Addr(), proxy.Addr(), 1), Options{})
			judge := open(t, direct, Options{})
			lost := func(write func()) {
				t.Helper()
				var mu sync.Mutex
				times := 0
				proxy.LoseAnswerTo(func(b []byte) bool {
					mu.Lock()
					defer mu.Unlock()
					if times == 0 && bytes.Contains(b, []byte("commit")) {
						times++
						return true
					}
					return false
				})
				write()
				proxy.LoseAnswerTo(nil)
				if times != 1 {
					t.Error("no answer was lost")
				}
			}
			for i := range 10 {
				key := fmt.Sprintf("a/%d", i)
				b := batch(put(key, "x"))
				if i%2 == 1 {
					b.Key = key // a caller's key, and one of the call's own
				}
				var r Receipt
				lost(func() {
					if r, err = db.Commit(t.Context(), b); err != nil {
						t.Fatal(err)
					}
				})
				it, err := judge.Get(t.Context(), KindRedirect, key)
				h, _ := judge.Head(t.Context())
				if err != nil || it.Rev != r.Rev || r.Rev != int64(i+1) || h.Rev != r.Rev || r.Added != 1 {
					t.Errorf("commit %d: receipt %+v, item %+v, head %+v (%v)", i, r, it, h, err)
				}
			}
			var c *Changeset
			lost(func() { c, err = db.Stage(t.Context(), StageOptions{Source: "api"}) })
			if err != nil {
				t.Fatal(err)
			}
			lost(func() { _, err = c.Add(t.Context(), many("b", 1500, "x")) })
			if err != nil || staged(t, judge) != 1500 || c.Count != 1500 {
				t.Errorf("staged %d: %v", staged(t, judge), err)
			}
			var r Receipt
			lost(func() { r, err = c.Publish(t.Context(), PublishOptions{}) })
			if err != nil || r.Rev != 11 || r.Added != 1500 || r.Repeated {
				t.Errorf("published: %+v, %v", r, err)
			}
			lost(func() { err = db.AddUser(t.Context(), Actor{}, User{Name: "ann"}) })
			if err != nil {
				t.Errorf("a user: %v", err)
			}
			lost(func() { err = db.DeleteUser(t.Context(), Actor{}, "ann") })
			if err != nil {
				t.Errorf("a deleted user: %v", err)
			}
			var l Lease
			lost(func() { l, err = db.Acquire(t.Context(), "renew", "n1", time.Minute) })
			if err != nil || l.Fence != 1 {
				t.Errorf("a lease: %+v, %v", l, err)
			}
			if seq, _, err := judge.VerifyAudit(t.Context()); err != nil || seq != 13 {
				t.Errorf("the audit has %d entries: %v", seq, err)
			}
		})
	}
}

// TestConnectionsCutAtAnyTime cuts all connections over and over under writers.
func TestConnectionsCutAtAnyTime(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	server := postgres(t)
	proxy, err := faults.NewProxy(server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	direct := schema(t, server.DSN("postgres"))
	db := open(t, strings.Replace(direct, server.Addr(), proxy.Addr(), 1), Options{})
	revs := underFire(t, db, 4, 60, func(i int) {
		if i%20 == 7 {
			proxy.CutAll()
		}
	})
	checkRevs(t, open(t, direct, Options{}), revs)
}

// TestServerRestartsUnderWriters stops PostgreSQL in both ways under writers.
func TestServerRestartsUnderWriters(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	server, err := testpg.Start(testpg.Options{Fsync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	db := open(t, server.DSN("postgres"), Options{})
	revs := underFire(t, db, 4, 100, func(i int) {
		if i == 100 || i == 250 {
			if err := server.Restart(i == 250); err != nil {
				t.Error(err)
			}
		}
	})
	checkRevs(t, db, revs)
	db.Close()
}

// underFire commits from some writers and calls disturb after each commit, one
// at a time, counting from 0. It gives the revision of each key.
func underFire(t *testing.T, db *DB, writers, each int, disturb func(i int)) map[string]int64 {
	t.Helper()
	var wg sync.WaitGroup
	var mu, disturbing sync.Mutex
	revs := map[string]int64{}
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				key := fmt.Sprintf("w%d/%d", w, i)
				r, err := db.Commit(t.Context(), batch(put(key, "x")))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				n := len(revs)
				revs[key] = r.Rev
				mu.Unlock()
				if disturbing.TryLock() {
					disturb(n)
					disturbing.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return revs
}

// checkRevs holds the receipts to the content: each once, none lost, none more.
func checkRevs(t *testing.T, db *DB, revs map[string]int64) {
	t.Helper()
	h, err := db.Head(t.Context())
	if err != nil || h.Rev != int64(len(revs)) {
		t.Errorf("%d commits, and the head is %+v (%v)", len(revs), h, err)
	}
	if _, err := db.Scan(t.Context(), KindRedirect, func(it *Item) error {
		if revs[it.Key] != it.Rev {
			t.Errorf("%s is of revision %d, and the receipt said %d", it.Key, it.Rev, revs[it.Key])
		}
		delete(revs, it.Key)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for key := range revs {
		t.Errorf("acknowledged and lost: %s", key)
	}
	checkFeed(t, db)
}

// TestUnavailable: while no server answers, a write fails after RetryFor with
// nothing written, and later ones succeed.
func TestUnavailable(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	server := postgres(t)
	proxy, err := faults.NewProxy(server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	direct := schema(t, server.DSN("postgres"))
	db := open(t, strings.Replace(direct, server.Addr(), proxy.Addr(), 1), Options{RetryFor: 100 * time.Millisecond})
	proxy.Refuse(true)
	proxy.CutAll()
	if _, err := db.Commit(t.Context(), batch(put("a/1", "x"))); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	if err := db.PutTeam(t.Context(), Actor{}, Team{Name: "web"}); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	proxy.Refuse(false)
	if r := commit(t, db, put("a/2", "x")); r.Rev != 1 {
		t.Errorf("%+v", r)
	}
	// Nobody came back to say what became of it.
	proxy.LoseAnswerTo(func(b []byte) bool {
		if bytes.Contains(b, []byte("commit")) {
			proxyRefuse(proxy)
			return true
		}
		return false
	})
	b := batch(put("a/3", "x"))
	b.Key = "ann/3"
	if _, err := db.Commit(t.Context(), b); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	proxy.LoseAnswerTo(nil)
	proxy.Refuse(false)
	if r, err := db.Commit(t.Context(), b); err != nil || !r.Repeated || r.Rev != 2 {
		t.Errorf("repeated with the same key: %+v, %v", r, err)
	}
}

// proxyRefuse is for a match function, which runs under the proxy's lock.
func proxyRefuse(p *faults.Proxy) { go p.Refuse(true) }

// TestFullDisk: a write that does not fit fails and changes nothing; the store
// goes on with what fits, and so when there is room again.
func TestFullDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("mounts a file system")
	}
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		const why = "a small tmpfs is mounted for this test: run it as root on Linux"
		if os.Getenv("CI") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount a small tmpfs: %v\n%s", err, out)
	}
	defer func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	}()
	db, err := Open(t.Context(), "sqlite:"+dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	commit(t, db, put("a/1", "x"))
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", 50_000)
	acked := int64(1)
	for i := 0; ; i++ {
		if i == 1000 {
			t.Fatal("the disk does not get full")
		}
		r, err := db.Commit(t.Context(), batch(put(fmt.Sprintf("b/%d", i), big), put(fmt.Sprintf("b/%d-b", i), big)))
		if err != nil {
			t.Logf("after %d commits: %v", i, err)
			if !errors.Is(err, ErrFull) {
				t.Errorf("a full disk is %v", err)
			}
			break
		}
		acked = r.Rev
	}
	if h, err := db.Head(t.Context()); err != nil || h.Rev != acked {
		t.Errorf("the head is %+v, and revision %d was acknowledged (%v)", h, acked, err)
	}
	c, err := db.Stage(t.Context(), StageOptions{Source: "api"})
	if err == nil {
		_, err = c.Add(t.Context(), many("c", 100_000, strings.Repeat("y", 200)))
	}
	if err == nil {
		t.Error("a changeset that does not fit was staged")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if r := commit(t, db, put("a/2", "x")); r.Rev != acked+1 {
		t.Errorf("with room again: %+v, after %d", r, acked)
	}
	checkFeed(t, db)
	if problems := integrity(t, db); problems != "ok" {
		t.Error(problems)
	}
}

func integrity(t *testing.T, db *DB) (said string) {
	t.Helper()
	if err := db.read(context.Background(), false, func(x tx) error {
		return each(context.Background(), x, func(r rows) error { return r.Scan(&said) }, `PRAGMA integrity_check`)
	}); err != nil {
		t.Fatal(err)
	}
	return said
}

// TestManyOpenAtOnce: nodes that start together on an empty database migrate it
// once, and agree on its epoch.
func TestManyOpenAtOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		dsn := p.dsn(t)
		var wg sync.WaitGroup
		epochs := make([]string, 6)
		for i := range epochs {
			wg.Go(func() {
				db, err := Open(context.Background(), dsn, Options{})
				if err != nil {
					t.Error(err)
					return
				}
				defer db.Close()
				h, err := db.Head(context.Background())
				if err != nil {
					t.Error(err)
				}
				epochs[i] = h.Epoch
			})
		}
		wg.Wait()
		for _, e := range epochs {
			if e == "" || e != epochs[0] {
				t.Errorf("epochs %q", epochs)
			}
		}
	})
}

// TestWaitHearsOfOthers: Wait returns for a commit of its own handle and of
// another, and when its context ends or the store is closed.
func TestWaitHearsOfOthers(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		dsn := p.dsn(t)
		a, b := open(t, dsn, Options{}), open(t, dsn, Options{})
		h, err := a.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, writer := range []*DB{a, b} {
			got := make(chan Head)
			go func() {
				h, err := a.Wait(t.Context(), h.Cursor())
				if err != nil {
					t.Error(err)
				}
				got <- h
			}()
			r := commit(t, writer, put("a/1", fmt.Sprint(time.Now())))
			if h = <-got; h.Rev != r.Rev {
				t.Errorf("waited for %d, heard of %d", r.Rev, h.Rev)
			}
		}
		done := make(chan error)
		go func() {
			_, err := a.Wait(t.Context(), h.Cursor())
			done <- err
		}()
		epoch, err := b.NewEpoch(t.Context())
		if err := errors.Join(err, <-done); err != nil {
			t.Errorf("another epoch: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := a.Wait(ctx, Cursor{epoch, h.Rev}); !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled wait: %v", err)
		}
		go func() {
			_, err := a.Wait(t.Context(), Cursor{epoch, h.Rev})
			done <- err
		}()
		a.Close()
		if err := <-done; err == nil {
			t.Error("a wait on a closed store ended without an error")
		}
	})
}
