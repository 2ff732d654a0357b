package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/cert/order"
	"fingerpost/cert/planner"
	"fingerpost/store"
)

// counted counts what is asked of a storage.
type counted struct {
	order.Storage
	gets, ranges atomic.Int64
}

func (c *counted) Get(ctx context.Context, kind, key string) ([]byte, error) {
	c.gets.Add(1)
	return c.Storage.Get(ctx, kind, key)
}

func (c *counted) Range(ctx context.Context, kind, from, to string, limit int) ([]order.Record, error) {
	c.ranges.Add(1)
	return c.Storage.Range(ctx, kind, from, to, limit)
}

// fillHosts makes n hosts with a certificate each and a state, straight in the store.
func (a *testAPI) fillHosts(t testing.TB, n int) {
	t.Helper()
	ctx := context.Background()
	now := time.Now()
	for from := 0; from < n; from += 250 {
		var changes []store.Change
		var records []order.Record
		for i := from; i < min(n, from+250); i++ {
			name := fmt.Sprintf("www.shop%07d.example", i)
			it, err := store.HostItem(&fingerpost.Host{Name: name, Team: "a", To: "https://www.example.com/"}, "api")
			if err != nil {
				t.Fatal(err)
			}
			v := &fingerpost.Certificate{Name: fmt.Sprintf("c%d", i), Type: fingerpost.ACME, Names: []string{name}, KeyType: "ECDSA P-256", NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(0, 0, 60), Team: "a"}
			more, err := store.CertificateChanges(nil, v)
			if err != nil {
				t.Fatal(err)
			}
			changes = append(append(changes, store.Change{Op: store.Put, Item: it}), more...)
			st := order.NameState{Name: planner.Name{Name: name, State: planner.Live}, Certificate: v.Name, NotAfter: v.NotAfter}
			value, err := json.Marshal(st)
			if err != nil {
				t.Fatal(err)
			}
			records = append(records, order.Record{Kind: order.KindName, Key: name, Value: value})
		}
		if _, err := a.Store.Commit(ctx, store.Batch{Changes: changes}); err != nil {
			t.Fatal(err)
		}
		if err := a.certs.memory.Write(ctx, 0, records...); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPageOfHostsCostsFewReads: how its certificates stand is in the list for each
// host, and not at the price of a read for each.
func TestPageOfHostsCostsFewReads(t *testing.T) {
	a := newTestAPI(t)
	a.fillHosts(t, 500)
	c := &counted{Storage: a.Certificates.Storage}
	a.Certificates.Storage = c
	var page Page[HostResource]
	a.must(&page, "GET", "hosts?limit=400", "")
	live := 0
	for _, h := range page.Items {
		if h.CertificateState.State == "live" {
			live++
		}
	}
	if live != 397 { // all but the three of the test itself
		t.Errorf("%d of %d are live", live, len(page.Items))
	}
	if c.ranges.Load() != 1 || c.gets.Load() > 3 {
		t.Errorf("a page took %d ranges and %d gets", c.ranges.Load(), c.gets.Load())
	}
}

// TestFiguresOfManyHosts prints what lists and scans take.
func TestFiguresOfManyHosts(t *testing.T) {
	if testing.Short() {
		t.Skip("figures only")
	}
	a := newTestAPI(t)
	const n = 5_000
	a.fillHosts(t, n)
	a.store(fingerpost.Imported, "shop", "a", "a.example")
	for _, path := range []string{"hosts?limit=100", "hosts?limit=1000", "certificates?limit=100", "certificates?limit=1000", "certificates/shop", "certificates?name=www.shop0001000.example"} {
		begin := time.Now()
		a.must(nil, "GET", path, "")
		t.Logf("%d hosts: GET %s takes %s", n, path, time.Since(begin).Round(time.Millisecond))
	}
}
