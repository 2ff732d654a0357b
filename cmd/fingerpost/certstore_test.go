package main

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"fingerpost/cert/order"
	"fingerpost/cert/planner"
	"fingerpost/store"
)

// TestADeletedCertificateDoesNotComeBack: neither when it is deleted by another node's API
// between the reading of its record and the write of what follows, nor later.
func TestADeletedCertificateDoesNotComeBack(t *testing.T) {
	db, err := store.Open(t.Context(), "sqlite:"+t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s := &certStore{db: db, holder: "test"}
	fence, err := s.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	chain, _ := testCA.Issue("a.example")
	value := func(windowEnd time.Time) order.Record {
		v, err := json.Marshal(order.Certificate{ID: "c1", Names: []string{"a.example"}, CA: "test", Chain: chain, Key: []byte("sealed"), Window: planner.Window{End: windowEnd}})
		if err != nil {
			t.Fatal(err)
		}
		return order.Record{Kind: order.KindCertificate, Key: "c1", Value: v}
	}
	if err := s.Write(t.Context(), fence, value(time.Time{})); err != nil {
		t.Fatal(err)
	}
	// What a write has read, and what it would do.
	changes, _, err := s.certificate(t.Context(), value(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	c, err := db.Get(t.Context(), store.KindCertificate, "c1")
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := c.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	gone, err := store.CertificateChanges(certificate, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Commit(t.Context(), store.Batch{Changes: gone}); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Commit(t.Context(), store.Batch{Changes: changes}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the write of what was read before the deletion: %v, want a conflict", err)
	}
	if err := s.Write(t.Context(), fence, value(time.Now())); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Get(t.Context(), store.KindCertificate, "c1"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("it is back: %v", err)
	}
	if _, err := s.Get(t.Context(), order.KindCertificate, "c1"); !errors.Is(err, order.ErrNoRecord) {
		t.Errorf("its record is left: %v", err)
	}
	// A write that the store will never take is told apart from one that fails.
	big := order.Record{Kind: order.KindName, Key: "x", Value: make([]byte, 40<<20)}
	if err := s.Write(t.Context(), fence, big); !errors.Is(err, order.ErrRefused) {
		t.Errorf("40 MB: %v, want that it is refused", err)
	}
}
