package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/cert/order"
	"fingerpost/cert/planner"
	"fingerpost/internal/testca"
	"fingerpost/source"
	"fingerpost/store"
)

// TestWhatSomebodyBringsIsNotOrdered: neither the name itself nor one below a wildcard,
// until it is about to end.
func TestWhatSomebodyBringsIsNotOrdered(t *testing.T) {
	const day = 24 * time.Hour
	files := t.TempDir()
	for name, tt := range map[string]struct {
		left  time.Duration
		names []string
	}{
		"wide":  {30 * day, []string{"*.wide.example"}},
		"shop":  {30 * day, []string{"shop.example", "wildcard.shop.example"}},
		"ends":  {6 * day, []string{"ends.example"}},
		"dated": {8 * day, []string{"dated.example"}},
	} {
		template := testca.Template(tt.names...)
		template.NotAfter = time.Now().Add(tt.left)
		leaf, key := testCA.IssueFrom(template, testca.NewKey())
		if err := os.WriteFile(filepath.Join(files, name+".pem"), append(leaf, key...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(t.TempDir(), "fingerpost.yaml")
	if err := os.WriteFile(config, []byte("certificates: {dir: "+files+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startNode(t, t.TempDir(), func(o *options) { o.config = config })
	imported := func(id string, left time.Duration, change func(*fingerpost.Certificate), names ...string) {
		c := r.issued(id, 1, names...)
		c.Type, c.NotAfter = fingerpost.Imported, time.Now().Add(left)
		if change != nil {
			change(c)
		}
		r.put(nil, c)
	}
	imported("i-wide", 30*day, nil, "*.bought.example", "bought.example")
	imported("i-ends", 6*day, nil, "*.over.example")
	imported("i-rsa", 30*day, func(c *fingerpost.Certificate) { c.KeyType = "RSA 2048" }, "*.rsa.example", "rsa.example")
	imported("ordered", 30*day, func(c *fingerpost.Certificate) { c.Type = fingerpost.ACME }, "*.ours.example", "ours.example")
	for name, want := range map[string]bool{
		"bought.example": true, "a.bought.example": true, "*.bought.example": true,
		"a.b.bought.example": false, "*.b.bought.example": false, "*.example": false, "example": false,
		"a.over.example": false,
		"rsa.example":    false, "a.rsa.example": false, // it is served beside ours
		"ours.example": false, "a.ours.example": false,
		"a.wide.example": true, "*.wide.example": true, "wide.example": false,
		"shop.example": true, "wildcard.shop.example": true, "*.shop.example": false,
		"ends.example": false, "dated.example": true,
	} {
		if got := r.provided(name); got != want {
			t.Errorf("%s: provided %v, want %v", name, got, want)
		}
	}
}

// TestTheCertificateOfAHostIsServed: the one that its settings name, for all its names.
func TestTheCertificateOfAHostIsServed(t *testing.T) {
	r := startNode(t, t.TempDir(), func(o *options) { o.https = "127.0.0.1:0" })
	names := []string{"shop.example", "also.example", "from.example"}
	longer := r.issued("a", 1, names...)
	longer.NotAfter = longer.NotAfter.Add(time.Hour)
	r.put(nil, longer)
	r.put(nil, r.issued("b", 2, names...))
	shows := func(want int64) {
		t.Helper()
		for _, name := range names {
			c, err := tls.Dial("tcp", r.addr("https"), &tls.Config{RootCAs: testCA.Pool(), ServerName: name})
			if err != nil {
				t.Fatal(err)
			}
			if got := c.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); got != want {
				t.Errorf("%s shows the certificate %d, want %d", name, got, want)
			}
			c.Close()
		}
	}
	set := []string{"hosts", "set", "shop.example", "--to", "https://to.example/", "--also", "also.example", "--redirect-from", "from.example", "--certificate"}
	for _, tt := range []struct {
		certificate string
		serial      int64
	}{{"b", 2}, {"auto", 1}} {
		r.must(append(set, tt.certificate)...)
		head, err := r.shared.db.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r.has(head.Rev)
		shows(tt.serial)
	}
}

// TestWantedFollowsChanges makes hosts, redirects and imports come and go at random:
// who follows the changes wants what who looks through all content wants.
func TestWantedFollowsChanges(t *testing.T) {
	n, err := start(options{http: "127.0.0.1:0", data: t.TempDir(), role: roleAll, given: func(string) bool { return true }, out: io.Discard, log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.stop() })
	n.certificates.issuer = &order.Issuer{Driver: &order.Driver{Storage: new(order.Memory)}} // which does not run
	r := &running{node: n, t: t}
	r.settings.ACME.CAs = []source.CA{{Name: "test"}}
	random := rand.New(rand.NewPCG(3, 9))
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	name := func() string {
		return pick("a.example", "b.example", "x.a.example", "*.a.example", ".a.example", "*.example", ".b.example", "c.a.example")
	}
	var brought []*fingerpost.Certificate
	ctx := t.Context()
	r.certificates.wanted.telling.Lock()
	_, err = r.allWanted(ctx)
	r.certificates.wanted.telling.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	steps := 250
	if testing.Short() {
		steps = 50
	}
	for step := range steps {
		var changes []store.Change
		switch random.IntN(6) {
		case 0, 1:
			h := fingerpost.Host{Name: name(), To: "https://to.example/", Team: pick("", "web", "shop"), Certificate: pick("", "", "auto", "none", "bought")}
			for range random.IntN(3) {
				h.Also = append(h.Also, name())
			}
			item, err := store.HostItem(&h, "test")
			if err != nil {
				t.Fatal(err)
			}
			changes = append(changes, store.Change{Op: store.Put, Item: item})
		case 2:
			changes = append(changes, store.Change{Op: store.Delete, Item: store.Item{Kind: store.KindHost, Key: name()}})
		case 3:
			from := name()
			item, err := store.RedirectItem(&fingerpost.Redirect{ID: pick("r1", "r2"), From: from + "/x", To: "https://to.example/"}, "test", pick("", "web"))
			if err != nil {
				t.Fatal(err)
			}
			changes = append(changes, store.Change{Op: store.Put, Item: item})
		case 4:
			changes = append(changes, store.Change{Op: store.Delete, Item: store.Item{Kind: store.KindRedirect, Key: store.RedirectKey(fingerpost.HostPattern(name()), pick("r1", "r2"))}})
		case 5:
			if len(brought) > 0 && random.IntN(2) == 0 {
				if changes, err = store.CertificateChanges(brought[0], nil); err != nil {
					t.Fatal(err)
				}
				brought = brought[1:]
				break
			}
			c := r.issued(fmt.Sprint("c", step), int64(step+1), strings.TrimPrefix(name(), "."))
			c.Type, c.NotAfter = pick(fingerpost.Imported, fingerpost.ACME), time.Now().Add(30*24*time.Hour)
			if changes, err = store.CertificateChanges(nil, c); err != nil {
				t.Fatal(err)
			}
			brought = append(brought, c)
		}
		receipt, err := r.shared.db.Commit(ctx, store.Batch{Changes: changes, Actor: store.Actor{Who: "test"}})
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		r.has(receipt.Rev)
		if random.IntN(3) > 0 {
			continue // several together
		}
		w := &r.certificates.wanted
		r.until("the changes are told", func() bool { // they are a moment after they are served
			w.noting.Lock()
			defer w.noting.Unlock()
			return receipt.Changes() == 0 || w.all || len(w.changed) > 0
		})
		w.telling.Lock()
		all, changed := w.take(true)
		if all {
			_, err = r.allWanted(ctx)
		} else {
			err = r.tellChanged(ctx, w.now, changed)
		}
		fresh := &wantedNow{names: map[string]planner.Policy{}, used: map[string]int{}, hosts: map[string]settings{}, aliases: map[string][]string{}}
		if err == nil {
			err = r.lookThrough(ctx, fresh)
		}
		w.telling.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(w.now.used, fresh.used) {
			t.Fatalf("step %d: used %v, want %v", step, w.now.used, fresh.used)
		}
		if got, want := slices.Sorted(maps.Keys(w.now.names)), slices.Sorted(maps.Keys(fresh.names)); !slices.Equal(got, want) {
			t.Fatalf("step %d (all: %v, %v): wanted %v, want %v", step, all, changed, got, want)
		}
	}
}
