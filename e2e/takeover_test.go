package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fingerpost/internal/testacme"
	"fingerpost/internal/testpg"
)

// leading reports whether a node is the one that orders: it alone counts names.
func (n *node) leading() bool { return n.metric("fingerpost_acme_orders_open") >= 0 }

// TestTheOtherControlNodeEndsTheOrder has two control nodes on one PostgreSQL. The one
// that orders is killed in the middle of an order, or hangs there and comes back: the
// other brings it to its end, and the CA gets no order that it need not have.
func TestTheOtherControlNodeEndsTheOrder(t *testing.T) {
	t.Parallel()
	httpAddr, httpsAddr := freeAddr(t), freeAddr(t)
	a := newAuthorityWith(t, testacme.PebbleOptions{KeepNonce: true}, httpAddr, httpsAddr, "")
	server, err := testpg.Start(testpg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	proxy := testacme.NewProxy(t, a.Directory, a.Roots)
	killer := new(assassin)
	var hang atomic.Pointer[node] // who stops at the next finalize-order, which the CA hears of
	proxy.Fault = func(r *http.Request) testacme.Fault {
		if strings.HasPrefix(r.URL.Path, "/finalize-order/") {
			if n := hang.Swap(nil); n != nil {
				n.cmd.Process.Signal(syscall.SIGSTOP)
			}
		}
		return killer.fault(r)
	}
	config := a.configure(t, proxy.Directory, proxy.RootsPEM, ", preflight: off, pack: 100")
	first := newControl(t, "--config", config, "--store", server.DSN("postgres"))
	leads := func(n *node) {
		t.Helper()
		if !eventually(time.Minute, n.leading) {
			t.Fatal("nobody orders")
		}
	}
	leads(first)
	share := func(to string, files ...string) string {
		for _, name := range files {
			text, err := os.ReadFile(filepath.Join(first.dir, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(to, name), text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return to
	}
	second := newNode(t, share(t.TempDir(), "cluster.key", "admin.token"), "--role", "control", "--config", config, "--store", server.DSN("postgres"))
	edge := newNode(t, share(t.TempDir(), "cluster.key"), "--role", "edge", "--control", "http://"+second.admin, "--token", second.nodeToken(), "--http", httpAddr, "--https", httpsAddr)

	host := func(name string) {
		t.Helper()
		a.dns.Set(name, "A", "127.0.0.1")
		second.run("hosts", "set", name, "--to", "https://www.example.com/")
	}
	serial := func(name string) string {
		t.Helper()
		var chain = a.chain(httpsAddr, name)
		if !eventually(2*time.Minute, func() bool { chain = a.chain(httpsAddr, name); return chain != nil }) {
			t.Fatalf("%s has no certificate", name)
		}
		return chain[0].SerialNumber.String()
	}

	// What is asked of the one that does not order is done by the other.
	host("one.example")
	one := serial("one.example")
	host("two.example")
	serial("two.example")
	if second.leading() {
		t.Error("both order")
	}
	second.steps(
		step{args: "certs add-name one.example two.example --dry-run", stdout: `^unknown: true$`},
		step{args: "certs add-name one.example two.example --yes --wait --timeout 60s", stdout: `^asked: true$`, stderr: `another node orders certificates(?s:.*) is replaced$`},
	)
	if !eventually(startLimit, func() bool { now := serial("one.example"); return now != one && now == serial("two.example") }) {
		t.Error("the two names have no common certificate")
	}
	second.must(nil, "PUT", "teams/b", "{}")
	a.dns.Set("other.example", "A", "127.0.0.1")
	second.steps(
		step{args: "hosts set other.example --to https://www.example.com/ --team b"},
		step{args: "certs add-name one.example other.example --yes --wait --timeout 60s", status: 1, stderr: `^error: it was not done: add-name: other\.example and certificate \S+ belong to different teams\nhint: `},
	)
	serial("other.example")
	first.steps(step{args: "certs add-name one.example three.example --dry-run", status: 1, stderr: `^error: .*three\.example`})

	for i, tt := range []struct {
		name   string
		attack attack // zero: it hangs
		orders int
	}{
		{"killed before the answer about the order", attack{"order-plz", true}, 2},
		{"killed while the certificate is made", attack{"finalize-order", true}, 1},
		{"hangs while the certificate is made", attack{}, 1},
	} {
		leads(first)
		before := proxy.Seen("order-plz")
		if tt.attack.head == "" {
			hang.Store(first)
		} else {
			killer.mu.Lock()
			killer.victim, killer.plan = first, []attack{tt.attack}
			killer.mu.Unlock()
		}
		name := fmt.Sprintf("k%d.example", i)
		begin := time.Now()
		host(name)
		made := serial(name)
		took := time.Since(begin)
		if !second.leading() {
			t.Errorf("%s: who has ended the order?", tt.name)
		}
		if tt.attack.head == "" { // it comes back, and believes that it orders
			if err := first.cmd.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			if !eventually(startLimit, func() bool { return !first.leading() }) {
				t.Errorf("%s: both order", tt.name)
			}
		} else if !first.gone() {
			t.Fatalf("%s: it lives", tt.name)
		} else {
			first.start()
		}
		second.steps(step{args: "certs get " + name, stdout: `^status: issued$`})
		out, err := server.Exec(t.Context(), "postgres", "SELECT count(*) FROM records WHERE kind = 'acme-order'")
		if err != nil || strings.TrimSpace(out) != "0" {
			t.Errorf("%s: %s journals are left, %v", tt.name, out, err)
		}
		second.stop() // and gives the lease back
		leads(first)
		second.start()
		if got := serial(name); got != made {
			t.Errorf("%s: it was ordered again", tt.name)
		}
		if got := proxy.Seen("order-plz") - before; got != tt.orders {
			t.Errorf("%s: the CA got %d orders, want %d", tt.name, got, tt.orders)
		}
		t.Logf("%s: live after %.0f s, %d orders", tt.name, took.Seconds(), proxy.Seen("order-plz")-before)
	}
	for _, n := range []*node{first, second, edge} {
		if strings.Contains(n.stderr.String(), "PRIVATE KEY") {
			t.Error("a log has a key")
		}
	}
}
