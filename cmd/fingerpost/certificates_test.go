package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"fingerpost"
	"fingerpost/cert"
	"fingerpost/cert/order"
	"fingerpost/internal/testca"
	"fingerpost/store"
)

var testCA = testca.New()

// issued is a certificate with a serial number of the test's, sealed for a node.
func (r *running) issued(id string, serial int64, names ...string) *fingerpost.Certificate {
	r.t.Helper()
	return r.issuedFor(r.t, id, serial, names...)
}

func (n *node) issuedFor(t testing.TB, id string, serial int64, names ...string) *fingerpost.Certificate {
	t.Helper()
	template := testca.Template(names...)
	template.SerialNumber = big.NewInt(serial)
	leaf, key := testCA.IssueFrom(template, testca.NewKey())
	block, _ := pem.Decode(leaf)
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, _ := pem.Decode(key)
	c := cert.Describe([]*x509.Certificate{parsed})
	c.Name, c.Type, c.Key = id, fingerpost.ACME, n.certificates.sealer.Seal(cert.KeyPurpose(id), der.Bytes)
	return c
}

// put writes a certificate in the place of another; nil for none. It returns when
// this node has it.
func (r *running) put(before, c *fingerpost.Certificate) {
	r.t.Helper()
	changes, err := store.CertificateChanges(before, c)
	if err != nil {
		r.t.Fatal(err)
	}
	version := r.certificates.version.Load()
	receipt, err := r.shared.db.Commit(r.t.Context(), store.Batch{Changes: changes, Actor: store.Actor{Who: "test"}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.has(receipt.Rev)
	for r.certificates.version.Load() == version { // what was said of names before is kept until then
		runtime.Gosched()
	}
}

func (r *running) has(rev int64) {
	r.t.Helper()
	for {
		at, changed := r.cursor()
		if at.Rev >= rev {
			return
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			r.t.Fatalf("revision %d does not come, it is at %d", rev, at.Rev)
		}
	}
}

func (r *running) addr(listener string) string { return strings.TrimPrefix(r.url(listener), "http://") }

// validated writes the configuration of a node with a validation zone, and a CA
// that it never reaches.
func validated(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "fingerpost.yaml")
	text := "acme: {directory: \"https://127.0.0.1:1/dir\", email: ops@example.com, validationZone: acme.example.net, private: true}\nresolvers: [\"127.0.0.1:1\"]\naddresses: [127.0.0.1]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// follower starts an edge that follows r, with the same cluster key.
func (r *running) follower(change func(*options)) *running {
	r.t.Helper()
	var token struct{ Secret string }
	r.api("POST", "/tokens", map[string]string{"name": "edge", "scope": "node"}, &token)
	dir := r.t.TempDir()
	key, err := os.ReadFile(filepath.Join(r.dir, clusterKeyFile))
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, clusterKeyFile), key, 0o600); err != nil {
		r.t.Fatal(err)
	}
	return startNode(r.t, dir, func(o *options) {
		o.role, o.control, o.token = roleEdge, r.url("admin"), token.Secret
		change(o)
	})
}

// texts asks a name server for the TXT values of a name.
func texts(t *testing.T, network, server, name string) (values []string) {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), dns.TypeTXT)
	answer, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).Exchange(q, server)
	if err != nil {
		t.Fatal(err)
	}
	for _, rr := range answer.Answer {
		if txt, ok := rr.(*dns.TXT); ok {
			values = append(values, strings.Join(txt.Txt, ""))
		}
	}
	slices.Sort(values)
	return values
}

// TestValidationIsAnsweredOnAllNodesWithinASecond asks a control node and an edge,
// by UDP and TCP, for what was just written; a wildcard and its base have one label.
func TestValidationIsAnsweredOnAllNodesWithinASecond(t *testing.T) {
	config := validated(t)
	control := startNode(t, t.TempDir(), func(o *options) { o.config, o.dns = config, "127.0.0.1:0" })
	edge := control.follower(func(o *options) { o.config, o.dns = config, "127.0.0.1:0" })
	target := control.challengeTarget("shop.example")
	if other := edge.challengeTarget("*.shop.example"); other != target {
		t.Fatalf("the edge has the label %s, control %s", other, target)
	}
	at := control.shared.replica.Status().Cursor.Rev
	edge.has(at)
	var slowest time.Duration
	s := &solver{n: control.node}
	var challenges []order.Challenge
	var want []string
	for i := range 10 {
		value := fmt.Sprintf("value-%02d", i)
		c := order.Challenge{Name: "shop.example", Type: order.DNS01, Record: "_acme-challenge.shop.example", TXT: value}
		challenges, want = append(challenges, c), append(want, value)
		begin := time.Now()
		if err := s.Present(t.Context(), []order.Challenge{c}); err != nil {
			t.Fatal(err)
		}
		for _, node := range []*running{control, edge} {
			for _, network := range []string{"udp", "tcp"} {
				for got := texts(t, network, node.addr("dns"), target); !slices.Equal(got, want); got = texts(t, network, node.addr("dns"), target) {
					if time.Since(begin) > 10*time.Second {
						t.Fatalf("%s: %v, want %v", network, got, want)
					}
				}
			}
		}
		slowest = max(slowest, time.Since(begin))
	}
	t.Logf("written, and right from both nodes by UDP and TCP after %v at most", slowest.Round(time.Millisecond))
	if slowest > time.Second {
		t.Logf("that is longer than a second")
	}
	if err := s.Remove(t.Context(), challenges); err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); len(texts(t, "udp", edge.addr("dns"), target)) > 0; {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("what was taken back is still there")
		}
	}
}

// TestTheNewestHandshakeChallengeIsShown: an older one was left by a process that
// died, and goes when it is stale.
func TestTheNewestHandshakeChallengeIsShown(t *testing.T) {
	r := startNode(t, t.TempDir(), func(o *options) { o.https = "127.0.0.1:0" })
	s := &solver{n: r.node}
	for i := range 8 { // their keys are in no order
		c := order.Challenge{Name: "alpn.example", Type: order.TLSALPN01, KeyAuthorization: fmt.Sprint("auth", i)}
		if err := s.Present(t.Context(), []order.Challenge{c}); err != nil {
			t.Fatal(err)
		}
		conn, err := tls.Dial("tcp", r.addr("https"), &tls.Config{ServerName: "alpn.example", NextProtos: []string{order.ACMETLS}, InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		want, err := order.TLSALPNCertificate("alpn.example", c.KeyAuthorization)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(want.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		if got, want := acmeExtension(conn.ConnectionState().PeerCertificates[0]), acmeExtension(leaf); got == "" || got != want {
			t.Errorf("challenge %d: another is shown", i)
		}
		conn.Close()
	}
}

func acmeExtension(c *x509.Certificate) string {
	for _, e := range c.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}) {
			return string(e.Value)
		}
	}
	return ""
}

// TestAnotherClusterKeyIsSaid: a node that cannot open the keys is not ready, sends
// nobody to https, says so, and serves all else.
func TestAnotherClusterKeyIsSaid(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for some seconds")
	}
	dir := t.TempDir()
	r := startNode(t, dir, func(o *options) { o.https = "127.0.0.1:0" })
	r.put(nil, r.issued("c", 1, "sealed.example"))
	r.must("hosts", "set", "sealed.example", "--https", "redirect-to-https")
	r.must("redirects", "set", "sealed.example/", "--to", "https://to.example/")
	r.leads("sealed.example", "/", "https://sealed.example/") // as it can be served
	r.end()
	file := filepath.Join(dir, clusterKeyFile)
	if err := os.WriteFile(file, []byte(cert.NewSecret()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	r = startNode(t, dir, func(o *options) { o.https, o.log = "127.0.0.1:0", log.logger() })
	r.leads("sealed.example", "/", "https://to.example/") // over http
	if _, err := tls.Dial("tcp", r.addr("https"), &tls.Config{ServerName: "sealed.example", InsecureSkipVerify: true}); err == nil {
		t.Error("it is served")
	}
	const why = "this node's cluster key does not open the private key of any certificate of the store: none is served; copy cluster.key"
	if status, ready := get(t, r.url("admin")+"/readyz"); status != 503 || !strings.Contains(ready, why) { // from the first moment
		t.Errorf("/readyz: %d %s", status, ready)
	}
	r.until("what is wrong is told", func() bool {
		_, metrics := get(t, r.url("admin")+"/metrics")
		return strings.Contains(log.String(), "cluster key does not open their private keys") && strings.Contains(metrics, "fingerpost_certificates_sealed 1") &&
			strings.Contains(r.must("nodes", "list"), "does not open the private key")
	})
	if n := strings.Count(log.String(), "\n"); n > 30 {
		t.Errorf("the log has %d lines", n)
	}
	r.put(nil, r.issued("d", 2, "new.example")) // what is sealed from now on is served
	c, err := tls.Dial("tcp", r.addr("https"), &tls.Config{ServerName: "new.example", RootCAs: testCA.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	const some = "1 of 2 certificates not served: sealed with another cluster key"
	r.until("a node that can serve some is ready, and says which it cannot", func() bool {
		status, ready := get(t, r.url("admin")+"/readyz")
		return status == 200 && strings.Contains(ready, some) && strings.Contains(r.must("nodes", "list"), some)
	})
	r.put(nil, r.issued("e", 3, "sealed.example")) // the one that can be served goes before, though it is not valid longer
	r.leads("sealed.example", "/", "https://sealed.example/")
	if c, err = tls.Dial("tcp", r.addr("https"), &tls.Config{ServerName: "sealed.example", RootCAs: testCA.Pool()}); err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *lockedBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// BenchmarkCovers is what a request over http asks of a host that is sent to https.
func BenchmarkCovers(b *testing.B) {
	n, err := start(options{http: "127.0.0.1:0", data: b.TempDir(), role: roleAll, given: func(string) bool { return true }, out: io.Discard, log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer n.close()
	const count = 2000
	c := n.issuedFor(b, "c", 1, "www.example.com")
	var batch store.Batch
	for i := range count {
		next := *c
		next.Name, next.Names = fmt.Sprintf("c%d", i), []string{fmt.Sprintf("www.h%d.example", i)}
		changes, err := store.CertificateChanges(nil, &next)
		if err != nil {
			b.Fatal(err)
		}
		if batch.Changes = append(batch.Changes, changes...); len(batch.Changes) > 900 || i == count-1 {
			batch.Actor = store.Actor{Who: "test"}
			if _, err := n.shared.db.Commit(b.Context(), batch); err != nil {
				b.Fatal(err)
			}
			batch = store.Batch{}
		}
	}
	for n.shared.replica.Status().Items[store.KindCertificate] < count {
		time.Sleep(time.Millisecond)
	}
	for _, layer := range []string{"log", "snapshot"} {
		if layer == "snapshot" {
			if err := n.shared.replica.Compact(); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(layer, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if !n.certificates.served.Covers(fmt.Sprintf("www.h%d.example", i%count)) {
					b.Fatal("not covered")
				}
			}
		})
	}
}
