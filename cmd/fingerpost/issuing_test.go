package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/cert/order"
	"fingerpost/cert/planner"
	"fingerpost/internal/testacme"
	"fingerpost/store"
)

// ordering writes the configuration of a node that orders from a CA in this process.
func ordering(t *testing.T, ca *testacme.CA) string {
	t.Helper()
	server := httptest.NewTLSServer(ca)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	roots := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	text := fmt.Sprintf("acme: {directory: %q, email: ops@example.com, caRoots: roots.pem, private: true, preflight: off}\nresolvers: [\"127.0.0.1:1\"]\n", server.URL+"/dir")
	for name, data := range map[string]string{"roots.pem": string(roots), "fingerpost.yaml": text} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "fingerpost.yaml")
}

// until waits for what happens by itself.
func (r *running) until(what string, done func() bool) {
	r.t.Helper()
	for begin := time.Now(); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			r.t.Fatalf("%s: not after a minute", what)
		}
	}
}

// happened lists events of one kind.
func (r *running) happened(what string) []admin.CertificateEvent {
	r.t.Helper()
	var page admin.Page[admin.CertificateEvent]
	r.api("GET", "/certificates/events?what="+what+"&since="+time.Now().Add(-time.Hour).UTC().Format(time.RFC3339), nil, &page)
	return page.Items
}

// metric is one value of what monitoring is given.
func (r *running) metric(name string) (value float64, ok bool) {
	r.t.Helper()
	resp, err := http.Get(r.url("admin") + "/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, found := strings.CutPrefix(line, name+" "); found {
			value, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				r.t.Fatal(err)
			}
			return value, true
		}
	}
	return 0, false
}

// TestAnOrderShowsInMetricsAndEvents orders, revokes, and looks at what a person and
// monitoring see of it.
func TestAnOrderShowsInMetricsAndEvents(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for some seconds")
	}
	ca := &testacme.CA{Validate: func(name, _, _, _ string) *testacme.Problem {
		if strings.HasPrefix(name, "bad.") {
			return &testacme.Problem{Type: "dns", Detail: "NXDOMAIN"}
		}
		return nil
	}}
	config := ordering(t, ca)
	r := startNode(t, t.TempDir(), func(o *options) { o.config, o.https = config, "127.0.0.1:0" })
	for _, host := range []string{"shop.example.com", "bad.example.com"} {
		r.api("PUT", "/hosts/"+host, map[string]any{"to": "https://to.example/"}, nil)
	}
	r.until("the certificate and the failure", func() bool {
		return len(r.happened(order.EventIssued)) == 1 && len(r.happened(order.EventFailed)) == 1
	})
	issued, failed := r.happened(order.EventIssued)[0], r.happened(order.EventFailed)[0]
	if issued.Names[0] != "shop.example.com" || issued.CA == "" || failed.Names[0] != "bad.example.com" || !strings.Contains(failed.Reason, "bad.example.com") || failed.Hint == "" {
		t.Errorf("events: %+v, %+v", issued, failed)
	}
	r.until("the metric of what is left", func() bool { _, ok := r.metric("fingerpost_certificate_min_remaining_seconds"); return ok })
	if left, _ := r.metric("fingerpost_certificate_min_remaining_seconds"); left < 89*86400 || left > 90*86400 {
		t.Errorf("%v seconds are left of 90 days", left)
	}
	for name, want := range map[string]float64{
		fmt.Sprintf(`fingerpost_acme_orders_total{ca=%q,result="issued"}`, issued.CA): 1,
		fmt.Sprintf(`fingerpost_acme_orders_total{ca=%q,result="failed"}`, issued.CA): 1,
		`fingerpost_acme_names{state="live"}`:                                         1,
		`fingerpost_acme_names{state="failed"}`:                                       1,
		`fingerpost_acme_orders_open`:                                                 0,
		`fingerpost_acme_orders_queued`:                                               0,
		fmt.Sprintf(`fingerpost_acme_parked_seconds{ca=%q}`, issued.CA):               0,
	} {
		if got, ok := r.metric(name); !ok || got != want {
			t.Errorf("%s is %v (there: %v), want %v", name, got, ok, want)
		}
	}

	var c admin.CertificateResource
	r.api("POST", "/certificates/"+issued.Certificate+"/revoke", map[string]string{"reason": "keyCompromise"}, nil)
	r.until("revoked and renewed", func() bool {
		return len(r.happened(order.EventRevoked)) == 1 && len(r.happened(order.EventRenewed)) == 1
	})
	revoked, renewed := r.happened(order.EventRevoked)[0], r.happened(order.EventRenewed)[0]
	if revoked.Certificate != issued.Certificate || revoked.Reason != "keyCompromise" || renewed.Replaces != issued.Certificate {
		t.Errorf("events: %+v, %+v", revoked, renewed)
	}
	r.api("GET", "/certificates/"+renewed.Certificate, nil, &c)
	if c.Status != admin.StatusIssued {
		t.Errorf("the new one: %+v", c)
	}
	r.until("the revoked one is gone", func() bool { return len(r.happened(order.EventRemoved)) == 1 })
}

// TestRevokedCertificatesGiveWay: one is served while there is no other.
func TestRevokedCertificatesGiveWay(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	bought := r.issued("bought", 1, "a.example", "b.example")
	bought.Type, bought.Revoked = fingerpost.Imported, time.Now()
	r.put(nil, bought)
	if list := r.namedCertificates("a.example"); len(list) != 1 {
		t.Errorf("the only one, which is revoked: %v", list)
	}
	if r.imported("a.example") {
		t.Error("one that is revoked keeps another from being ordered")
	}
	r.put(nil, r.issued("other", 2, "a.example"))
	if list := r.namedCertificates("a.example"); len(list) != 1 || list[0].Certificate != "other" {
		t.Errorf("beside another: %v", list)
	}
	if list := r.namedCertificates("b.example"); len(list) != 1 || list[0].Certificate != "bought" {
		t.Errorf("where the other is not for the name: %v", list)
	}
}

// TestStaleChallengesGoWithTheLease has challenges left by a process that died: who
// begins to order takes back the old ones, and leaves those that may be asked for.
func TestStaleChallengesGoWithTheLease(t *testing.T) {
	dir := t.TempDir()
	r := startNode(t, dir, nil)
	const many = store.MaxChanges + 10
	left := func(r *running) (keys []string) {
		for it, err := range r.shared.replica.Scan(store.KindChallenge, "") {
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, it.Key)
		}
		return keys
	}
	var rev int64
	put := func(key string, since time.Time) store.Change {
		return store.Change{Op: store.Put, Item: store.Item{Kind: store.KindChallenge, Key: key, Value: json.RawMessage(`{}`), Source: challengeSource, Since: since}}
	}
	changes := []store.Change{put("http-01/fresh", time.Now())}
	for i := range many {
		changes = append(changes, put(fmt.Sprintf("http-01/stale%04d", i), time.Now().Add(-2*staleChallenge)))
	}
	for batch := range chunks(changes, store.MaxChanges) {
		receipt, err := r.shared.db.Commit(t.Context(), store.Batch{Changes: batch, Actor: store.Actor{Who: "test"}})
		if err != nil {
			t.Fatal(err)
		}
		rev = receipt.Rev
	}
	r.has(rev)
	if got := left(r); len(got) != many+1 {
		t.Fatalf("%d challenges", len(got))
	}
	r.end()
	config := ordering(t, new(testacme.CA))
	r = startNode(t, dir, func(o *options) { o.config = config })
	r.until("the lease", func() bool { return r.certificates.issuer.Ask(func(*planner.Planner, time.Time) {}) })
	r.until("the stale ones are gone", func() bool { return len(left(r)) <= 1 })
	if got := left(r); len(got) != 1 || got[0] != "http-01/fresh" {
		t.Errorf("left: %v", got)
	}
}

// TestCertificatesNamedByHostsAreUsed follows a host's settings.
func TestCertificatesNamedByHostsAreUsed(t *testing.T) {
	config := ordering(t, new(testacme.CA))
	r := startNode(t, t.TempDir(), func(o *options) { o.config = config })
	r.put(nil, r.issued("bought", 1, "a.example"))
	for _, tt := range []struct {
		certificate string
		used        bool
	}{{"bought", true}, {"none", false}} {
		r.api("PUT", "/hosts/a.example", map[string]any{"to": "https://to.example/", "certificate": tt.certificate}, nil)
		r.until(fmt.Sprintf("named: %v", tt.used), func() bool { return r.certificateUsed("bought") == tt.used })
	}
}

// TestAskOutlivesTheNode asks a node that orders nothing, as if it died before it
// could: the next start does what was asked.
func TestAskOutlivesTheNode(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for some seconds")
	}
	dir := t.TempDir()
	ca := new(testacme.CA)
	config := ordering(t, ca)
	r := startNode(t, dir, func(o *options) { o.config = config })
	r.api("PUT", "/hosts/shop.example.com", map[string]any{"to": "https://to.example/"}, nil)
	r.until("the certificate", func() bool { return len(r.happened(order.EventIssued)) == 1 })
	first := r.happened(order.EventIssued)[0].Certificate
	r.end()
	db, err := store.Open(context.Background(), "sqlite:"+dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ask := order.Ask{Do: order.AskRenew, Certificate: first}.Record(time.Now())
	if _, err := db.Commit(t.Context(), store.Batch{Records: []store.Record{{Kind: ask.Kind, Key: ask.Key, Value: ask.Value}}, Actor: store.Actor{Who: "test"}}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	r = startNode(t, dir, func(o *options) { o.config = config })
	r.until("the renewal", func() bool { return len(r.happened(order.EventRenewed)) == 1 })
	if e := r.happened(order.EventRenewed)[0]; e.Replaces != first || ca.Issued() != 2 {
		t.Errorf("%+v; %d certificates", e, ca.Issued())
	}
	list, err := r.shared.db.Records(t.Context(), order.KindAsk, "", "", 10)
	if err != nil || len(list) > 0 {
		t.Errorf("asks are left: %v, %v", list, err)
	}
}
