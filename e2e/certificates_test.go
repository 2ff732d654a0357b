package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fingerpost/internal/testacme"

	_ "modernc.org/sqlite"
)

// metric is one sample of /metrics by its name and labels; -1 if there is none.
func (n *node) metric(sample string) float64 {
	n.t.Helper()
	resp, err := n.client.Get("http://" + n.admin + "/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, sample+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				n.t.Fatal(err)
			}
			return v
		}
	}
	return -1
}

// until waits for a sample of /metrics, as long as it takes to issue many.
func (n *node) until(sample string, want float64) {
	n.t.Helper()
	got := -1.0
	if !eventually(issueLimit, func() bool { got = n.metric(sample); return got >= want }) {
		n.t.Fatalf("%s is %v, want %v", sample, got, want)
	}
}

// issueLimit is how long many certificates may take, on a machine that does other
// things too.
const issueLimit = 6 * time.Minute

// query reads a SQLite store beside its node; exec changes one without.
func (n *node) query(query string, row func(scan func(...any) error) error, args ...any) {
	n.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(n.dir, "fingerpost.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		n.t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(query, args...)
	if err != nil {
		n.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			n.t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) exec(statement string, args ...any) {
	n.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(n.dir, "fingerpost.db"))
	if err != nil {
		n.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement, args...); err != nil {
		n.t.Fatal(err)
	}
}

// nameState is what the store has of a name that needs a certificate.
type nameState struct {
	Name, State, Sentence, NextStep string
	Failure                         struct{ Code, Reason, Hint string }
}

func (n *node) nameStates() map[string]nameState {
	n.t.Helper()
	all := map[string]nameState{}
	n.query(`SELECT key, value FROM records WHERE kind = 'acme-name'`, func(scan func(...any) error) error {
		var key, value string
		if err := scan(&key, &value); err != nil {
			return err
		}
		var s nameState
		err := json.Unmarshal([]byte(value), &s)
		all[key] = s
		return err
	})
	return all
}

// restart ends the node at once and starts it again. Nobody waits for the lease of
// the one that is gone.
func (n *node) restart() {
	n.t.Helper()
	if !n.gone() {
		n.kill()
	}
	n.exec(`DELETE FROM leases`)
	n.start()
}

// chain shows what https://host/ is served with; nil if there is no handshake, or
// one that no client would trust.
func (a *authority) chain(addr, host string) []*x509.Certificate {
	c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: a.roots, ServerName: host})
	if err != nil {
		return nil
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates
}

// hostRows is a changeset of hosts that are only named in redirects.
func hostRows(n int, name func(int) string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"from\": \"%s/\", \"to\": \"https://www.example.com/%d\"}\n", name(i), i)
	}
	return b.String()
}

// TestHundredNamesOfWhichThreeAreBad: exactly these three are left out, with a
// reason, the others are live, and it takes no more than three orders.
func TestHundredNamesOfWhichThreeAreBad(t *testing.T) {
	t.Parallel()
	httpAddr, httpsAddr := freeAddr(t), freeAddr(t)
	a := newAuthority(t, httpAddr, httpsAddr, ", preflight: off, profile: classic, pack: 100")
	n := newNode(t, t.TempDir(), "--config", a.config, "--http", httpAddr, "--https", httpsAddr)
	name := func(i int) string { return fmt.Sprintf("n%02d.example", i) }
	bad := map[string]bool{name(7): true, name(42): true, name(99): true}
	for i := range 100 {
		if !bad[name(i)] {
			a.dns.Set(name(i), "A", "127.0.0.1")
		}
	}
	begin := time.Now()
	n.must(nil, "POST", "changesets", hostRows(100, name), ndjson)
	n.until(`fingerpost_acme_names{state="live"}`, 97)
	took := time.Since(begin)
	if !eventually(waitLimit, func() bool { return a.chain(httpsAddr, name(0)) != nil }) { // it is on its way
		t.Errorf("%s is not served", name(0))
	}
	if got := n.metric(`fingerpost_acme_names{state="failed"}`); got != 3 {
		t.Errorf("%v names have failed, want 3", got)
	}
	for i := range 100 {
		served := a.chain(httpsAddr, name(i)) != nil
		if served == bad[name(i)] {
			t.Errorf("%s is served: %v", name(i), served)
		}
	}
	orders := 0
	for line := range strings.Lines(n.stderr.String()) {
		if strings.Contains(line, `msg="order opened"`) {
			orders++
		}
	}
	if orders > 3 {
		t.Errorf("%d orders, want at most 3", orders)
	}
	for host, s := range n.nameStates() {
		if failed := s.Failure.Reason != ""; failed != bad[host] {
			t.Errorf("%s: %+v", host, s)
		}
		if bad[host] && (s.State != "failed" || s.Failure.Hint == "" || s.NextStep == "" || !strings.Contains(s.Sentence, host)) {
			t.Errorf("%s: %+v", host, s)
		}
	}
	t.Logf("%d orders, %.1f s from the changeset to 97 live names; %s", orders, took.Seconds(), n.nameStates()[name(42)].Sentence)
	remaining := func() float64 { return n.metric(`fingerpost_certificate_min_remaining_seconds`) }
	if !eventually(waitLimit, func() bool { return remaining() > 80*86400 }) {
		t.Errorf("%v s remain", remaining())
	}
}

// TestEAB gets a certificate from a CA that knows its accounts.
func TestEAB(t *testing.T) {
	t.Parallel()
	httpAddr, httpsAddr := freeAddr(t), freeAddr(t)
	const key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	file := filepath.Join(t.TempDir(), "eab")
	if err := os.WriteFile(file, []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := newAuthorityWith(t, testacme.PebbleOptions{EAB: map[string]string{"kid-1": key}}, httpAddr, httpsAddr, fmt.Sprintf(", eab: {keyID: kid-1, keyFile: %q}", file))
	n := newNode(t, t.TempDir(), "--config", a.config, "--http", httpAddr, "--https", httpsAddr)
	a.dns.Set("eab.example", "A", "127.0.0.1")
	n.run("hosts", "set", "eab.example", "--to", "https://www.example.com/eab")
	a.leads(t, httpsAddr, "eab.example", "https://www.example.com/eab")
	if strings.Contains(n.stderr.String(), key) {
		t.Error("the log has the EAB key")
	}
}

// TestOnlyHTTPS gets a certificate where nobody listens for http: the CA asks in a
// handshake, and so does the check before.
func TestOnlyHTTPS(t *testing.T) {
	t.Parallel()
	for _, preflight := range []string{"on", "off"} {
		t.Run("preflight "+preflight, func(t *testing.T) {
			t.Parallel()
			httpsAddr := freeAddr(t)
			a := newAuthority(t, freeAddr(t), httpsAddr, ", preflight: "+preflight)
			n := newNode(t, t.TempDir(), "--config", a.config, "--http", "", "--https", httpsAddr)
			a.dns.Set("alpn.example", "A", "127.0.0.1")
			n.run("hosts", "set", "alpn.example", "--to", "https://www.example.com/alpn")
			a.leads(t, httpsAddr, "alpn.example", "https://www.example.com/alpn")
		})
	}
}

// TestChallengesAreNotRedirected renews a host whose visitors are all sent to https.
// The CA forgets that the name was proven, so that it asks again over http.
func TestChallengesAreNotRedirected(t *testing.T) {
	t.Parallel()
	httpAddr, httpsAddr := freeAddr(t), freeAddr(t)
	a := newAuthorityWith(t, testacme.PebbleOptions{Forget: true}, httpAddr, httpsAddr, "")
	n := newNode(t, t.TempDir(), "--config", a.config, "--http", httpAddr, "--https", httpsAddr)
	a.dns.Set("secure.example", "A", "127.0.0.1")
	n.run("hosts", "set", "secure.example", "--to", "https://www.example.com/s", "--https", "redirect-to-https")
	first := a.leads(t, httpsAddr, "secure.example", "https://www.example.com/s")
	sentToHTTPS := func() {
		t.Helper()
		for _, path := range []string{"/", "/.well-known/acme-challenge/none"} { // no token of ours: a visitor as any other
			if _, to := n.visit("secure.example" + path); !strings.HasPrefix(to, "https://secure.example") {
				t.Errorf("http leads to %q", to)
			}
		}
	}
	if !eventually(startLimit, func() bool {
		_, to := n.visit("secure.example/")
		return strings.HasPrefix(to, "https://secure.example")
	}) {
		sentToHTTPS()
	}
	a.renewNow(t, a.chain(httpsAddr, "secure.example"))
	n.restart()
	if !eventually(startLimit, func() bool {
		c := a.chain(httpsAddr, "secure.example")
		return len(c) > 0 && c[0].SerialNumber.Cmp(first.SerialNumber) != 0
	}) {
		t.Fatal("it is not renewed")
	}
	sentToHTTPS()
}

// renewNow makes the CA say that a certificate is to be renewed now.
func (a *authority) renewNow(t *testing.T, chain []*x509.Certificate) {
	t.Helper()
	if len(chain) == 0 {
		t.Fatal("there is no certificate to renew")
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain[0].Raw})
	a.SetWindow(t, text, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
}

// TestRenewalStorm has the CA want 200 certificates renewed at once. All are, and
// every handshake meanwhile is good.
func TestRenewalStorm(t *testing.T) {
	const count = 200
	t.Parallel()
	httpAddr, httpsAddr := freeAddr(t), freeAddr(t)
	a := newAuthority(t, httpAddr, httpsAddr, ", preflight: off, pack: individual")
	n := newNode(t, t.TempDir(), "--config", a.config, "--http", httpAddr, "--https", httpsAddr)
	name := func(i int) string { return fmt.Sprintf("s%03d.example", i) }
	for i := range count {
		a.dns.Set(name(i), "A", "127.0.0.1")
	}
	begin := time.Now()
	n.must(nil, "POST", "changesets", hostRows(count, name), ndjson)
	n.until(`fingerpost_acme_names{state="live"}`, count)
	issued := time.Since(begin)
	before := map[string]string{}
	for i := range count {
		chain := a.chain(httpsAddr, name(i))
		a.renewNow(t, chain)
		before[name(i)] = chain[0].SerialNumber.String()
	}
	n.restart() // whoever begins to order asks what is due
	begin = time.Now()
	var stop atomic.Bool
	var shook, failed atomic.Int64
	var visitors sync.WaitGroup
	visitors.Go(func() {
		for i := 0; !stop.Load(); i++ {
			if shook.Add(1); a.chain(httpsAddr, name(i%count)) == nil {
				failed.Add(1)
			}
			time.Sleep(5 * time.Millisecond) // it is no load test
		}
	})
	ca := strings.Split(a.Directory, "/")[2]
	ca, _, _ = strings.Cut(ca, ":")
	n.until(fmt.Sprintf(`fingerpost_acme_orders_total{ca=%q,result="issued"}`, ca), count)
	renewed := time.Since(begin)
	stop.Store(true)
	visitors.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d handshakes failed while it was renewed", failed.Load(), shook.Load())
	}
	same := 0
	for i := range count {
		if chain := a.chain(httpsAddr, name(i)); chain == nil || chain[0].SerialNumber.String() == before[name(i)] {
			same++
		}
	}
	if same > 0 {
		t.Errorf("%d of %d are not renewed", same, count)
	}
	// What was replaced goes.
	if !eventually(startLimit, func() bool { return n.metric("fingerpost_certificates") == count }) {
		t.Errorf("%v certificates are kept, want %d", n.metric("fingerpost_certificates"), count)
		var page struct{ Items []json.RawMessage }
		n.must(&page, "GET", "certificates?limit=1000", "")
		byName := map[string][]string{}
		for _, item := range page.Items {
			var c struct {
				Name  string
				Names []string
			}
			json.Unmarshal(item, &c)
			for _, host := range c.Names {
				byName[host] = append(byName[host], c.Name)
			}
			if host := c.Names; len(host) == 1 && len(byName[host[0]]) > 1 {
				t.Logf("two for %s: %s", host[0], item)
			}
		}
		t.Logf("%d listed for %d names", len(page.Items), len(byName))
	}
	t.Logf("%d certificates issued in %.1f s, renewed in %.1f s; %d handshakes meanwhile, %d failed", count, issued.Seconds(), renewed.Seconds(), shook.Load(), failed.Load())
}

// TestTheNextCATakesOver: the first is down from the beginning.
func TestTheNextCATakesOver(t *testing.T) {
	t.Parallel()
	for _, down := range []string{"a web page", "nobody"} {
		t.Run(down, func(t *testing.T) {
			t.Parallel()
			httpAddr, httpsAddr := freeAddr(t), freeAddr(t)
			a := newAuthority(t, httpAddr, httpsAddr, "")
			directory, roots := "https://"+freeAddr(t)+"/dir", a.RootsPEM
			if down == "a web page" {
				p := testacme.NewProxy(t, a.Directory, a.Roots)
				p.Fault = func(*http.Request) testacme.Fault { return testacme.Fault{HTML: true} }
				directory, roots = p.Directory, p.RootsPEM
			}
			file := filepath.Join(t.TempDir(), "second.pem")
			if err := os.WriteFile(file, a.RootsPEM, 0o600); err != nil {
				t.Fatal(err)
			}
			config := a.configure(t, directory, roots, fmt.Sprintf(", name: first, fallback: [{name: second, directory: %q, caRoots: %q}]", a.Directory, file))
			n := newNode(t, t.TempDir(), "--config", config, "--http", httpAddr, "--https", httpsAddr)
			a.dns.Set("two.example", "A", "127.0.0.1")
			begin := time.Now()
			n.run("hosts", "set", "two.example", "--to", "https://www.example.com/two")
			parked := 0.0
			if !eventually(issueLimit, func() bool { parked = n.metric(`fingerpost_acme_parked_seconds{ca="first"}`); return parked > 0 }) || parked > 10*60 {
				t.Errorf("the first CA is parked for %v s, want some minutes", parked)
			}
			n.until(`fingerpost_acme_orders_total{ca="second",result="issued"}`, 1)
			a.leads(t, httpsAddr, "two.example", "https://www.example.com/two")
			if got := n.metric(`fingerpost_acme_orders_total{ca="first",result="issued"}`); got > 0 {
				t.Errorf("the first CA has issued %v", got)
			}
			t.Logf("%.0f s until the second CA had issued", time.Since(begin).Seconds())
		})
	}
}

// TestAFailingCATakesNoHostDown: a host that works goes on working, whatever the CA
// does when its certificate is to be renewed; one that has no certificate yet
// serves over http; and all of it goes on when the CA is back.
func TestAFailingCATakesNoHostDown(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		fault testacme.Fault
		log   string        // what is said of it
		lasts time.Duration // from the first to the last request that meets it: 80 s are the end of the second wave, a minute after the first
	}{
		{"a web page", testacme.Fault{HTML: true}, "answered with a web page (HTTP 503), not with ACME", 0},
		{"an error", testacme.Fault{Refuse: &testacme.Problem{Type: "serverInternal", Status: 500, Detail: "out of order"}}, "HTTP 500", 80 * time.Second},
		{"a limit", testacme.Fault{Refuse: &testacme.Problem{Type: "rateLimited", Status: 429, Detail: "too many new orders", RetryAfter: "5"}}, "result=limited", 20 * time.Second},
		{"nothing", testacme.Fault{LoseRequest: true}, "an order does not go on", 80 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			httpAddr, httpsAddr := freeAddr(t), freeAddr(t)
			a := newAuthorityWith(t, testacme.PebbleOptions{}, httpAddr, httpsAddr, "")
			proxy := testacme.NewProxy(t, a.Directory, a.Roots)
			var failing atomic.Bool
			var met, lasted atomic.Int64 // the first fault, in nanoseconds of Unix, and for how long there were others
			proxy.Fault = func(r *http.Request) testacme.Fault {
				// What says that it is time for the renewal is not at fault.
				if !failing.Load() || r.URL.Path == "/dir" || strings.HasPrefix(r.URL.Path, "/draft-ietf-acme-ari") {
					return testacme.Fault{}
				}
				now := time.Now().UnixNano()
				met.CompareAndSwap(0, now)
				lasted.Store(now - met.Load())
				return tt.fault
			}
			config := a.configure(t, proxy.Directory, proxy.RootsPEM, "")
			n := newNode(t, t.TempDir(), "--config", config, "--http", httpAddr, "--https", httpsAddr)
			a.dns.Set("old.example", "A", "127.0.0.1")
			a.dns.Set("new.example", "A", "127.0.0.1")
			n.run("hosts", "set", "old.example", "--to", "https://www.example.com/old", "--https", "redirect-to-https")
			first := a.leads(t, httpsAddr, "old.example", "https://www.example.com/old")
			a.renewNow(t, a.chain(httpsAddr, "old.example"))
			works := func() {
				t.Helper()
				if _, to, leaf := a.visit(httpsAddr, "old.example"); to != "https://www.example.com/old" || leaf.SerialNumber.Cmp(first.SerialNumber) != 0 {
					t.Errorf("https leads to %q", to)
				}
				if _, to := n.visit("old.example/"); !strings.HasPrefix(to, "https://old.example") {
					t.Errorf("http leads to %q", to)
				}
			}
			failing.Store(true)
			n.restart()
			n.run("hosts", "set", "new.example", "--to", "https://www.example.com/new", "--https", "redirect-to-https")
			if !eventually(startLimit, func() bool { return strings.Contains(n.stderr.String(), tt.log) }) {
				t.Fatalf("the log does not say %q", tt.log)
			}
			works()
			if !eventually(issueLimit, func() bool { return lasted.Load() >= int64(tt.lasts) }) {
				t.Fatalf("the CA is not asked again: the last time after %v", time.Duration(lasted.Load()))
			}
			works()
			if status, to := n.visit("new.example/"); status != 301 || to != "https://www.example.com/new" {
				t.Errorf("http of a host without a certificate: %d %q", status, to)
			}
			failing.Store(false)
			back := time.Now()
			for _, host := range []string{"old.example", "new.example"} {
				if !eventually(issueLimit, func() bool {
					c := a.chain(httpsAddr, host)
					return len(c) > 0 && c[0].SerialNumber.Cmp(first.SerialNumber) != 0
				}) {
					t.Errorf("%s has no new certificate when the CA is back", host)
				}
			}
			t.Logf("the CA failed for %.0f s; both have new certificates %.0f s after it is back", time.Duration(lasted.Load()).Seconds(), time.Since(back).Seconds())
			if !eventually(startLimit, func() bool { _, to := n.visit("new.example/"); return strings.HasPrefix(to, "https://new.example") }) {
				t.Error("visitors of new.example are not sent to https")
			}
		})
	}
}
