package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"fingerpost/replica"
	"fingerpost/store"
)

func TestOneNodeTidiesTheStoreAtEachTick(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	ctx := context.Background()
	db := n.shared.db
	if err := db.AddToken(ctx, store.Actor{Who: "test"}, store.Token{ID: "old", Hash: "h", Scope: "session", Expires: time.Now().Add(-30 * 24 * time.Hour)}); err != nil {
		t.Fatal(err)
	}
	n.api("POST", "/redirects", map[string]string{"from": "a.test/x", "to": "https://b.test/y"}, nil)
	there := func() bool {
		t.Helper()
		all, err := db.Tokens(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, token := range all {
			if token.ID == "old" {
				return true
			}
		}
		return false
	}
	ticks := make(chan time.Time)
	tidying, stop := context.WithCancel(ctx)
	defer stop()
	go n.tidy(tidying, ticks)
	lease, err := db.Acquire(ctx, "tidy", "another", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	ticks <- time.Now()
	ticks <- time.Now() // it is taken when the one before is done
	if !there() {
		t.Error("it was tidied while another node has the lease")
	}
	ticks <- time.Now()
	if err := db.Release(ctx, lease); err != nil {
		t.Fatal(err)
	}
	ticks <- time.Now()
	ticks <- time.Now()
	if there() {
		t.Error("a session that expired a month ago is there after a tick")
	}
}

func TestSnapshotThatSomebodyFollowsFromIsNotedInTheStore(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	ctx := context.Background()
	for range 2 { // the same one: it is noted once
		s, err := n.shared.snapshot(ctx, replica.Cursor{})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		all, err := n.shared.db.Snapshots(ctx)
		if err != nil || len(all) != 1 || all[0].Rev != s.Cursor || all[0].Epoch != s.Epoch || all[0].SHA256 != s.SHA256 {
			t.Errorf("the store knows of %+v, %v", all, err)
		}
	}
}

func TestTicksComeSoonAndThenEverySoOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		begin := time.Now()
		tick := ticks(ctx, time.Minute, time.Hour)
		for _, want := range []time.Duration{time.Minute, time.Hour + time.Minute, 2*time.Hour + time.Minute} {
			if got := (<-tick).Sub(begin); got != want {
				t.Errorf("a tick after %s, want %s", got, want)
			}
		}
	})
}
