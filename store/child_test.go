package store

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// The test binary runs again as a writer, to be killed.
const childDSN, childPart = "FINGERPOST_STORE_TEST_WRITER", "FINGERPOST_STORE_TEST_PART"

// runChild reports whether this process is one: then it has written until it was
// killed. It prints each receipt once it has it.
func runChild() bool {
	dsn := os.Getenv(childDSN)
	if dsn == "" {
		return false
	}
	if err := write(dsn, os.Getenv(childPart)); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	return true
}

func write(dsn, part string) error {
	ctx := context.Background()
	db, err := Open(ctx, dsn, Options{})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	fail := make(chan error)
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				a, b := fmt.Sprintf("%s-%d/%d", part, w, i), fmt.Sprintf("%s-%d/%d-b", part, w, i)
				r, err := db.Commit(ctx, Batch{Changes: []Change{put(a, "x"), put(b, "x")}})
				if err != nil {
					fail <- err
					return
				}
				mu.Lock()
				fmt.Println("ack", r.Rev, a)
				mu.Unlock()
			}
		}()
	}
	// One more publishes changesets.
	go func() {
		for i := 0; ; i++ {
			prefix := fmt.Sprintf("%s-bulk%d", part, i)
			c, err := db.Stage(ctx, StageOptions{Source: "api"})
			if err == nil {
				_, err = c.Add(ctx, many(prefix, bulkOfChild, "x"))
			}
			var r Receipt
			if err == nil {
				r, err = c.Publish(ctx, PublishOptions{})
			}
			if err != nil {
				fail <- err
				return
			}
			mu.Lock()
			fmt.Println("bulk", r.Rev, prefix)
			mu.Unlock()
		}
	}()
	return <-fail
}

const bulkOfChild = 1100

// killed runs a writer until it has said so many lines and kills it. It gives
// what was acknowledged.
func killed(t *testing.T, dsn, part string, lines int) (acks []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDSN+"="+dsn, childPart+"="+part)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewScanner(out)
	for in.Scan() {
		line := in.Text()
		if strings.HasPrefix(line, "error") {
			t.Error(line)
			break
		}
		acks = append(acks, line)
		if len(acks) == lines {
			// From here on the writer dies at any point of its next transactions; what it
			// has still said is read on.
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	_ = cmd.Wait() // killed
	return acks
}

// TestKilledWriterLosesNothing: what was acknowledged before kill -9 is there;
// what was not is there whole or not at all, in the items and in the feed.
func TestKilledWriterLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	everywhere(t, func(t *testing.T, p place) {
		dsn := p.dsn(t)
		var acks []string
		begin := time.Now()
		for round := range 6 {
			acks = append(acks, killed(t, dsn, fmt.Sprint("r", round), 1+round*17)...)
		}
		t.Logf("%d acknowledged in %v", len(acks), time.Since(begin).Round(time.Millisecond))
		db := open(t, dsn, Options{})
		items := map[string]int64{}
		bulks := map[string]int{}
		if _, err := db.Scan(t.Context(), KindRedirect, func(it *Item) error {
			items[it.Key] = it.Rev
			if host, _ := CutRedirectKey(it.Key); strings.Contains(string(host), "bulk") {
				bulks[string(host)]++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for _, line := range acks {
			var kind, key string
			var rev int64
			if _, err := fmt.Sscan(line, &kind, &rev, &key); err != nil {
				t.Fatal(line, err)
			}
			switch {
			case kind == "ack" && (items[key] != rev || items[key+"-b"] != rev):
				t.Errorf("acknowledged and lost: %s (%d and %d)", line, items[key], items[key+"-b"])
			case kind == "bulk" && bulks[key] != bulkOfChild:
				t.Errorf("acknowledged and lost: %s, of which there are %d", line, bulks[key])
			}
		}
		for key, rev := range items {
			if other, ok := strings.CutSuffix(key, "-b"); ok && items[other] != rev || !ok && !strings.Contains(key, "bulk") && items[key+"-b"] != rev {
				t.Errorf("half of a batch is there: %s", key)
			}
		}
		for prefix, n := range bulks {
			if n != bulkOfChild {
				t.Errorf("%d of changeset %s are there", n, prefix)
			}
		}
		checkFeed(t, db)
	})
}

// checkFeed reads the whole feed: no gap, and what it says is what there is, but
// for what came by changesets.
func checkFeed(t *testing.T, db *DB) {
	t.Helper()
	h, err := db.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]int64{}
	for c := (Cursor{Epoch: h.Epoch}); c.Rev < h.Rev; {
		revisions, err := db.Changes(t.Context(), c, 500)
		if err != nil {
			t.Fatal(err)
		}
		if len(revisions) == 0 {
			t.Fatalf("the feed ends at %d, and the head is %d", c.Rev, h.Rev)
		}
		for _, r := range revisions {
			for _, change := range r.Changes {
				if change.Op == Put {
					told[change.Item.Key] = r.Rev
				}
			}
			c.Rev = r.Rev
		}
	}
	if _, err := db.Scan(t.Context(), KindRedirect, func(it *Item) error {
		if !strings.Contains(it.Key, "bulk") && told[it.Key] != it.Rev {
			t.Errorf("%s is of revision %d, and the feed says %d", it.Key, it.Rev, told[it.Key])
		}
		delete(told, it.Key)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for key, rev := range told {
		t.Errorf("the feed tells of %s in revision %d, and there is none", key, rev)
	}
	if _, _, err := db.VerifyAudit(t.Context()); err != nil {
		t.Error(err)
	}
}
