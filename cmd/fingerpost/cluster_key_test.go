package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/cert"
	"fingerpost/cert/order"
	"fingerpost/store"
)

// clusterKeyRun runs a verb of cluster-key.
func clusterKeyRun(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	cmd := clusterKeyCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	err := cmd.Execute()
	return out.String(), err
}

// keep writes records that hold a sealed key, as they stand in the store.
func (r *running) keep(kind, key, sealedFor string) {
	r.t.Helper()
	value, err := json.Marshal(map[string]any{"id": key, "directory": "https://127.0.0.1:1/dir", "names": []string{"x.example"}, "key": r.certificates.sealer.Seal((&sealedKey{kind: kind, key: key}).purpose(), []byte(sealedFor))})
	if err == nil {
		_, err = r.shared.db.Commit(r.t.Context(), store.Batch{Records: []store.Record{{Kind: kind, Key: key, Value: value}}, Actor: store.Actor{Who: "test"}})
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// kept opens what keep wrote.
func (r *running) kept(kind, key string) string {
	r.t.Helper()
	record, err := r.shared.db.GetRecord(r.t.Context(), kind, key)
	if err != nil {
		r.t.Fatal(err)
	}
	var v struct{ Key []byte }
	if err := json.Unmarshal(record.Value, &v); err != nil {
		r.t.Fatal(err)
	}
	plain, err := r.certificates.sealer.Open((&sealedKey{kind: kind, key: key}).purpose(), v.Key)
	if err != nil {
		r.t.Errorf("%s %s: %v", kind, key, err)
	}
	return string(plain)
}

// shakes has a client see the certificate of a host.
func (r *running) shakes(host string) {
	r.t.Helper()
	c, err := tls.Dial("tcp", r.addr("https"), &tls.Config{RootCAs: testCA.Pool(), ServerName: host})
	if err != nil {
		r.t.Errorf("%s: %v", host, err)
		return
	}
	c.Close()
}

// TestTheClusterKeyIsChanged in its three steps, with a node that starts after each,
// and no certificate that is not served.
func TestTheClusterKeyIsChanged(t *testing.T) {
	dir := t.TempDir()
	config := validated(t)
	begin := func() *running {
		return startNode(t, dir, func(o *options) { o.https, o.config = "127.0.0.1:0", config })
	}
	step := func(verb, want string) {
		t.Helper()
		if out, err := clusterKeyRun(t, verb, "--data", dir); err != nil || !strings.Contains(out, want) {
			t.Fatalf("%s: %q, %v; want %q", verb, out, err, want)
		}
	}
	refused := func(verb, code string) {
		t.Helper()
		own := new(fingerpost.Error)
		if _, err := clusterKeyRun(t, verb, "--data", dir); !errors.As(err, &own) || own.Code != code || own.Hint == "" {
			t.Errorf("%s: %v, want %s with a hint", verb, err, code)
		}
	}
	r := begin()
	old := r.certificates.sealer
	r.put(nil, r.issued("first", 1, "first.example"))
	r.keep(order.KindAccount, "https://127.0.0.1:1/dir", "account")
	r.keep(admin.KindRequest, "bought", "request")
	refused("use", "no_new_key")
	step("add", "start each again")
	refused("add", "key_added")
	refused("drop", "old_key")
	r.end()

	r = begin()
	if r.certificates.sealer.ID() != old.ID() {
		t.Error("the new secret is sealed with before all nodes have it")
	}
	r.put(nil, r.issued("second", 2, "second.example"))
	step("use", "start each control node again")
	r.end()

	r = begin()
	if r.certificates.sealer.ID() == old.ID() {
		t.Error("the old secret is still sealed with")
	}
	r.put(nil, r.issued("third", 3, "third.example"))
	step("status", "4 private keys\n") // of the old one
	value, _ := json.Marshal(map[string]any{"id": "o1", "key": old.Seal(cert.KeyPurpose("o1"), []byte("order"))})
	open := []store.Record{{Kind: order.KindOrder, Key: "o1", Value: value}}
	if _, err := r.shared.db.Commit(t.Context(), store.Batch{Records: open, Actor: store.Actor{Who: "test"}}); err != nil {
		t.Fatal(err)
	}
	refused("drop", "key_needed") // an order under way
	open[0].Value = nil
	if _, err := r.shared.db.Commit(t.Context(), store.Batch{Records: open, Actor: store.Actor{Who: "test"}}); err != nil {
		t.Fatal(err)
	}
	step("drop", "has one secret")
	for _, host := range []string{"first.example", "second.example", "third.example"} {
		r.shakes(host)
	}
	r.end()

	r = begin()
	text, err := os.ReadFile(filepath.Join(dir, clusterKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, clusterKeyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if strings.Count(string(text), "fpk_") != 1 || r.certificates.sealer.Has(old.ID()) {
		t.Error("the old secret is still there")
	}
	for _, host := range []string{"first.example", "second.example", "third.example"} {
		r.shakes(host)
	}
	if r.kept(order.KindAccount, "https://127.0.0.1:1/dir") != "account" || r.kept(admin.KindRequest, "bought") != "request" {
		t.Error("the keys of account and request are others")
	}
	if r.certificates.sealer.Labels() != old.Labels() {
		t.Error("the CNAMEs of customers lead nowhere")
	}
}

// TestALostClusterKeyIsForgotten: the node does not start, says what to do, and after
// that orders anew.
func TestALostClusterKeyIsForgotten(t *testing.T) {
	dir := t.TempDir()
	config := validated(t)
	r := startNode(t, dir, func(o *options) { o.https, o.config = "127.0.0.1:0", config })
	r.put(nil, r.issued("ordered", 1, "shop.example"))
	for _, name := range []string{"free", "named"} {
		c := r.issued(name, 2, name+".example")
		c.Type = fingerpost.Imported
		r.put(nil, c)
	}
	r.must("hosts", "set", "named.example", "--to", "https://to.example/", "--certificate", "named")
	r.keep(order.KindAccount, "https://127.0.0.1:1/dir", "account")
	r.keep(admin.KindRequest, "bought", "request")
	own := new(fingerpost.Error)
	if out, err := clusterKeyRun(t, "forget", "--yes", "--data", dir); err != nil || !strings.Contains(out, "opens all 5 private keys") {
		t.Fatalf("nothing is lost: %s%v", out, err)
	}
	r.end()
	if err := os.Remove(filepath.Join(dir, clusterKeyFile)); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), "sqlite:"+dir, store.Options{Existing: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	has := func(what string) bool {
		t.Helper()
		kind, key, _ := strings.Cut(what, "/")
		_, err := db.GetRecord(t.Context(), kind, key)
		if kind == store.KindCertificate || kind == store.KindServerName {
			_, err = db.Get(t.Context(), kind, key)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
		return err == nil
	}
	if _, err := clusterKeyRun(t, "forget", "--data", dir); !errors.As(err, &own) || own.Code != "not_confirmed" || !has("certificate/ordered") {
		t.Errorf("nobody has said yes: %v", err)
	}
	// Another node orders: it keeps its lease.
	release := func(holder string) store.Lease {
		t.Helper()
		l, err := db.Acquire(t.Context(), issuerLease, holder, time.Minute)
		if err == nil {
			err = db.Release(t.Context(), l)
		}
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	release(r.instance) // which may have had no time for it
	if _, err := db.Acquire(t.Context(), issuerLease, "another", time.Minute); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	lives := make(chan struct{})
	go func() {
		defer close(lives)
		for tick := time.Tick(50 * time.Millisecond); ; {
			select {
			case <-tick:
				_, _ = db.Acquire(ctx, issuerLease, "another", time.Minute) // one that is missed is made good by the next
			case <-ctx.Done():
				return
			}
		}
	}()
	if _, err := clusterKeyRun(t, "forget", "--yes", "--data", dir); !errors.As(err, &own) || own.Code != "key_not_lost" || !has("certificate/ordered") {
		t.Errorf("another node orders: %v", err)
	}
	stop()
	<-lives
	release("another")
	n, err := start(options{http: "127.0.0.1:0", admin: "127.0.0.1:0", data: dir, role: roleAll, ruleFlags: ruleFlags{config: config}, given: func(string) bool { return true }, out: io.Discard, log: slog.New(slog.DiscardHandler)})
	if err == nil {
		n.close()
	}
	if !errors.As(err, &own) || own.Code != "other_cluster_key" || !strings.Contains(own.Hint, "cluster-key forget") {
		t.Errorf("with another key: %v", err)
	}
	out, err := clusterKeyRun(t, "forget", "--yes", "--data", dir)
	if err != nil || !strings.Contains(out, "opens 0 of 5 private keys") || !strings.Contains(out, "imported again, with their keys: free, named") {
		t.Fatalf("%s%v", out, err)
	}
	for what, want := range map[string]bool{
		"certificate/ordered": false, store.KindServerName + "/shop.example/ordered": false, order.KindAccount + "/https://127.0.0.1:1/dir": false, admin.KindRequest + "/bought": false,
		"certificate/free": false, "certificate/named": true, // a host names it: it would not start without
	} {
		if has(what) != want {
			t.Errorf("%s is there: %v, want %v", what, !want, want)
		}
	}
	r = startNode(t, dir, func(o *options) { o.https, o.config = "127.0.0.1:0", config })
	r.put(nil, r.issued("anew", 3, "shop.example"))
	r.shakes("shop.example")
}
