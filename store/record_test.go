package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"fingerpost"
)

func certificate(name, serial string, names ...string) *fingerpost.Certificate {
	return &fingerpost.Certificate{Name: name, Type: fingerpost.ACME, Names: names, Chain: [][]byte{[]byte("leaf")}, Key: []byte("sealed key of " + name),
		KeyType: "ECDSA P-256", Serial: serial, NotBefore: time.Unix(1000, 0).UTC(), NotAfter: time.Unix(2000, 0).UTC(), Team: "web"}
}

func certificateBatch(t *testing.T, before, c *fingerpost.Certificate) Batch {
	t.Helper()
	changes, err := CertificateChanges(before, c)
	if err != nil {
		t.Fatal(err)
	}
	return batch(changes...)
}

// TestCertificatesAreFollowedButAreNoContent shows that a certificate is told to
// nodes, and that no restore of content takes it away or brings it back.
func TestCertificatesAreFollowedButAreNoContent(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		ctx := t.Context()
		before := commit(t, db, put("a.example/1", "https://b.example"))
		first := certificate("shop", "1", "a.example", "b.example")
		if _, err := db.Commit(ctx, certificateBatch(t, nil, first)); err != nil {
			t.Fatal(err)
		}
		renewed := certificate("shop", "2", "b.example", "c.example")
		r, err := db.Commit(ctx, certificateBatch(t, first, renewed))
		if err != nil {
			t.Fatal(err)
		}
		commit(t, db, put("a.example/1", "https://c.example"))

		it, err := db.Get(ctx, KindCertificate, "shop")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := it.Certificate(); err != nil || fmt.Sprint(got) != fmt.Sprint(renewed) {
			t.Errorf("got %v, %v", got, err)
		}
		names, err := db.List(ctx, KindServerName, Query{Limit: 10})
		if err != nil || len(names) != 2 || names[0].Key != "b.example/shop" || names[1].Key != "c.example/shop" || names[0].Rev != r.Rev {
			t.Errorf("names %v, %v", names, err)
		}
		if replay(t, db) != content(t, db) {
			t.Error("the feed does not tell all")
		}

		set, err := db.Restore(ctx, before.Rev, Restoring{Actor: Actor{Who: "ann"}})
		if err != nil {
			t.Fatal(err)
		}
		if s, err := set.Summary(ctx); err != nil || s.Changed != 1 || s.Removed+s.Added != 0 {
			t.Errorf("a restore would change %+v, %v", s, err)
		}
		if err := db.Diff(ctx, before.Rev, r.Rev, Name{}, func(d *Difference) error { return fmt.Errorf("%s %s", d.Kind, d.Key) }); err != nil {
			t.Error("a difference of content:", err)
		}
		if set, err := db.Revert(ctx, r.Rev, nil, Restoring{Actor: Actor{Who: "ann"}}); err != nil {
			t.Error(err)
		} else if s, err := set.Summary(ctx); err != nil || s.Changes() != 0 {
			t.Errorf("a revert would change %+v, %v", s, err)
		}
		if states, err := db.History(ctx, KindCertificate, "shop", 10); err != nil || len(states) != 1 {
			t.Errorf("history %v, %v", states, err)
		}
		lines := 0
		if err := db.Audit(ctx, AuditQuery{}, func(e *Entry) error {
			if e.Kind == KindCertificate {
				lines++
			}
			if strings.Contains(e.Before+e.After, "key\":\"") && !strings.Contains(e.Before+e.After, `"key":null`) {
				t.Errorf("the audit has a key: %s", e.After)
			}
			if e.Kind == KindServerName {
				t.Errorf("the audit has %s", e.Key)
			}
			return nil
		}); err != nil || lines != 2 {
			t.Errorf("%d lines in the audit, %v", lines, err)
		}
		if _, err := db.Commit(ctx, certificateBatch(t, renewed, nil)); err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{KindCertificate, KindServerName} {
			if left, err := db.List(ctx, kind, Query{Limit: 10}); err != nil || len(left) != 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		}
	})
}

func TestRecordsGoWithTheChangesUnderOneLease(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		ctx := t.Context()
		lease, err := db.Acquire(ctx, "orders", "node-1", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		write := func(l *Lease, records ...Record) error {
			_, err := db.Commit(ctx, Batch{Records: records, Lease: l})
			return err
		}
		head, _ := db.Head(ctx)
		if err := write(&lease, Record{"order", "b", value("1")}, Record{"order", "a", value("1")}, Record{"order", "c/1", value("1")}, Record{"other", "a", value("1")}); err != nil {
			t.Fatal(err)
		}
		if err := write(&lease, Record{"order", "a", value("2")}, Record{"order", "b", nil}, Record{"order", "gone", nil}); err != nil {
			t.Fatal(err)
		}
		if now, _ := db.Head(ctx); now != head {
			t.Errorf("records alone made a revision: %v after %v", now, head)
		}
		list := func(from, to string, limit int) string {
			all, err := db.Records(ctx, "order", from, to, limit)
			if err != nil {
				t.Fatal(err)
			}
			var keys []string
			for _, r := range all {
				keys = append(keys, r.Key+string(r.Value))
			}
			return strings.Join(keys, " ")
		}
		for _, tt := range []struct {
			from, to string
			limit    int
			want     string
		}{
			{"", "", 10, `a{"to":"2"} c/1{"to":"1"}`},
			{"", "", 1, `a{"to":"2"}`},
			{"b", "", 10, `c/1{"to":"1"}`},
			{"a", "c/1", 10, `a{"to":"2"}`},
		} {
			if got := list(tt.from, tt.to, tt.limit); got != tt.want {
				t.Errorf("from %q to %q: %s, want %s", tt.from, tt.to, got, tt.want)
			}
		}
		if r, err := db.GetRecord(ctx, "order", "a"); err != nil || string(r.Value) != `{"to":"2"}` {
			t.Errorf("%s, %v", r.Value, err)
		}
		if _, err := db.GetRecord(ctx, "order", "b"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}

		c.jump(2 * time.Minute)
		other, err := db.Acquire(ctx, "orders", "node-2", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		b := Batch{Lease: &lease, Records: []Record{{"order", "a", value("late")}}, Changes: []Change{put("late.example/1", "https://b.example")}}
		if _, err := db.Commit(ctx, b); !errors.Is(err, ErrFenced) {
			t.Errorf("the former holder wrote: %v", err)
		}
		if got := list("", "", 10); !strings.HasPrefix(got, `a{"to":"2"}`) || strings.Contains(content(t, db), "late") {
			t.Errorf("something of it is there: %s", got)
		}
		b.Lease, b.Key = &other, "k1"
		for range 2 { // repeated: the first receipt
			if _, err := db.Commit(ctx, b); err != nil {
				t.Fatal(err)
			}
		}
		for _, bad := range []Record{{"", "a", value("1")}, {"order", "", value("1")}, {"order", "a", []byte("{")}, {"order", strings.Repeat("a", MaxKey+1), nil}} {
			if err := write(&other, bad); !errors.Is(err, ErrInvalid) {
				t.Errorf("%v: %v", bad, err)
			}
		}
	})
}
