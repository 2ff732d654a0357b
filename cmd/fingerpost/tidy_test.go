package main

import (
	"context"
	"testing"
	"time"

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
