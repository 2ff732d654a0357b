package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fingerpost/cert"
	"fingerpost/cert/order"
	"fingerpost/internal/testacme"
)

// assassin kills a node at requests of its own choice.
type assassin struct {
	mu     sync.Mutex // guards what follows
	plan   []attack
	victim *node
}

// attack kills the node that sends a request for what head names; the CA hears of it
// or does not.
type attack struct {
	head  string
	heard bool
}

func (a *assassin) fault(r *http.Request) testacme.Fault {
	a.mu.Lock()
	defer a.mu.Unlock()
	head, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if len(a.plan) == 0 || a.plan[0].head != head {
		return testacme.Fault{}
	}
	next := a.plan[0]
	a.plan = a.plan[1:]
	a.victim.cmd.Process.Kill()
	<-a.victim.exited
	return testacme.Fault{LoseRequest: !next.heard, LoseAnswer: next.heard}
}

func (a *assassin) left() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.plan)
}

// TestKilledInEveryStepOfAnOrder kills a control node at each request of an order,
// before the CA hears of it and after, then at times of chance, while an edge
// answers the CA. No name is lost, the CA gets one order for each answer that was
// lost and no more, and no key is in a log or unsealed on a disk.
func TestKilledInEveryStepOfAnOrder(t *testing.T) {
	t.Parallel()
	httpAddr, httpsAddr := freeAddr(t), freeAddr(t)
	a := newAuthorityWith(t, testacme.PebbleOptions{KeepNonce: true}, httpAddr, httpsAddr, "")
	proxy := testacme.NewProxy(t, a.Directory, a.Roots)
	killer := new(assassin)
	proxy.Fault = killer.fault
	config := a.configure(t, proxy.Directory, proxy.RootsPEM, ", preflight: off, pack: 100")
	control := newControl(t, "--config", config)
	dir := t.TempDir()
	key, err := os.ReadFile(filepath.Join(control.dir, "cluster.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cluster.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	edge := newNode(t, dir, "--role", "edge", "--control", "http://"+control.admin, "--token", control.nodeToken(), "--http", httpAddr, "--https", httpsAddr)
	for _, host := range []string{"a.example", "b.example", "c.example", "d.example", "e.example", "f.example"} {
		a.dns.Set(host, "A", "127.0.0.1")
	}

	var logs strings.Builder
	kills := 0
	again := func() {
		kills++
		logs.WriteString(control.stderr.String())
		killer.mu.Lock() // it waits until the node is ready
		defer killer.mu.Unlock()
		control.restart()
	}
	killer.mu.Lock()
	killer.victim = control
	for _, head := range []string{"sign-me-up", "order-plz", "authZ", "chalZ", "my-order", "finalize-order", "certZ"} {
		killer.plan = append(killer.plan, attack{head, false}, attack{head, true})
	}
	killer.mu.Unlock()
	begin := time.Now()
	control.must(nil, "POST", "changesets", hostRows(3, func(i int) string { return string(rune('a'+i)) + ".example" }), ndjson)
	for killer.left() > 0 {
		select {
		case <-control.exited:
			again()
		case <-time.After(startLimit):
			killer.mu.Lock()
			t.Fatalf("nobody asks for %+v", killer.plan)
		}
	}
	if control.gone() {
		again()
	}
	for _, host := range []string{"a.example", "b.example", "c.example"} {
		if !eventually(startLimit, func() bool { return a.chain(httpsAddr, host) != nil }) {
			t.Fatalf("%s has no certificate", host)
		}
	}
	if got := proxy.Seen("order-plz"); got != 2 { // one whose answer was lost, and one
		t.Errorf("the CA got %d orders, want 2", got)
	}
	t.Logf("%d kills, one at each request: three names live after %.0f s, %d orders", kills, time.Since(begin).Seconds(), proxy.Seen("order-plz"))

	// At any time: what is written between the requests counts, too.
	before, planned := proxy.Seen("order-plz"), kills
	for i := range 3 {
		host := string(rune('d'+i)) + ".example"
		control.must(nil, "POST", "redirects", `{"from": "`+host+`/", "to": "https://www.example.com/"}`)
		open := func() (n int) {
			control.query(`SELECT count(*) FROM records WHERE kind = 'acme-order'`, func(scan func(...any) error) error { return scan(&n) })
			return n
		}
		for range 4 {
			if !eventually(startLimit, func() bool { return open() > 0 || a.chain(httpsAddr, host) != nil }) {
				t.Fatalf("no order for %s", host)
			}
			if a.chain(httpsAddr, host) != nil {
				break
			}
			time.Sleep(time.Duration(rand.IntN(700)) * time.Millisecond) // any time will do
			if !control.gone() {
				control.kill()
			}
			again()
		}
		if !eventually(startLimit, func() bool { return a.chain(httpsAddr, host) != nil }) {
			t.Fatalf("%s has no certificate", host)
		}
	}
	orders := proxy.Seen("order-plz") - before
	if orders > 3+kills-planned {
		t.Errorf("the CA got %d orders for 3 names and %d kills", orders, kills-planned)
	}
	t.Logf("%d kills at any time: three names live, %d orders", kills-planned, orders)
	if !eventually(startLimit, func() bool {
		n := -1
		control.query(`SELECT count(*) FROM records WHERE kind = 'acme-order'`, func(scan func(...any) error) error { return scan(&n) })
		return n == 0
	}) {
		t.Error("journals are left")
	}
	for host, s := range control.nameStates() {
		if s.State != "live" {
			t.Errorf("%s: %+v", host, s)
		}
	}
	logs.WriteString(control.stderr.String())
	logs.WriteString(edge.stderr.String())
	control.kill()
	edge.kill()
	for form, secret := range control.secrets(string(key)) {
		if strings.Contains(logs.String(), secret) {
			t.Errorf("a log has a key, as %s", form)
		}
		for _, dir := range []string{control.dir, edge.dir} {
			filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
				if err != nil || !e.Type().IsRegular() {
					return err
				}
				text, err := os.ReadFile(path)
				if bytes.Contains(text, []byte(secret)) {
					t.Errorf("%s has a key, as %s", path, form)
				}
				return err
			})
		}
	}
	if strings.Contains(logs.String(), "PRIVATE KEY") || strings.Contains(logs.String(), strings.TrimSpace(string(key))) {
		t.Error("a log has a key")
	}
}

// secrets are all private keys of the store, in the forms in which they could get
// out.
func (n *node) secrets(clusterKey string) map[string]string {
	n.t.Helper()
	sealer, err := cert.NewSealer(clusterKey)
	if err != nil {
		n.t.Fatal(err)
	}
	all := map[string]string{}
	n.query(`SELECT kind || ' ' || key, value FROM items WHERE kind = 'certificate' UNION ALL SELECT kind || ' ' || key, value FROM records WHERE kind = 'acme-account'`, func(scan func(...any) error) error {
		var name string
		var value []byte
		if err := scan(&name, &value); err != nil {
			return err
		}
		var sealed struct{ Key []byte }
		if err := json.Unmarshal(value, &sealed); err != nil {
			return err
		}
		kind, key, _ := strings.Cut(name, " ")
		purpose := cert.KeyPurpose(key)
		if kind != "certificate" {
			purpose = order.AccountPurpose(key)
		}
		der, err := sealer.Open(purpose, sealed.Key)
		if err != nil {
			return err
		}
		private, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			return err
		}
		secret, err := private.(*ecdsa.PrivateKey).Bytes()
		if err != nil {
			return err
		}
		for form, bytes := range map[string][]byte{"PKCS #8": der, "number": secret} {
			all[name+": "+form] = string(bytes)
			all[name+": "+form+" in hexadecimal"] = hex.EncodeToString(bytes)
			all[name+": "+form+" in base64"] = base64.RawStdEncoding.EncodeToString(bytes)
			all[name+": "+form+" in base64url"] = base64.RawURLEncoding.EncodeToString(bytes)
		}
		return nil
	})
	if len(all) < 8*5 {
		n.t.Errorf("%d forms of keys are not what four certificates and an account have", len(all))
	}
	return all
}
