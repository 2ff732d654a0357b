package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fingerpost/internal/testacme"
	"fingerpost/internal/testdns"
)

// authority is a CA with the DNS that it asks, and the configuration of a node that
// orders from it.
type authority struct {
	*testacme.Pebble
	dns    *testdns.Server
	config string // a file
	roots  *x509.CertPool
}

// newAuthority starts Pebble, which looks for challenges at httpAddr and httpsAddr.
func newAuthority(t *testing.T, httpAddr, httpsAddr, more string) *authority {
	t.Helper()
	return newAuthorityWith(t, testacme.PebbleOptions{}, httpAddr, httpsAddr, more)
}

func newAuthorityWith(t *testing.T, o testacme.PebbleOptions, httpAddr, httpsAddr, more string) *authority {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no Pebble")
	}
	port := func(addr string) int {
		_, text, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	a := &authority{dns: testdns.New(t)}
	o.DNS, o.HTTPPort, o.TLSPort = a.dns.Addr(), port(httpAddr), port(httpsAddr)
	a.Pebble = testacme.StartPebble(t, o)
	a.roots = x509.NewCertPool()
	a.roots.AppendCertsFromPEM(a.Root(t, 0))
	a.config = a.configure(t, a.Directory, a.RootsPEM, more)
	return a
}

// configure writes a configuration that orders at a directory.
func (a *authority) configure(t *testing.T, directory string, roots []byte, more string) (file string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "roots.pem"), roots, 0o600); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "fingerpost.yaml")
	text := fmt.Sprintf("acme: {directory: %q, email: ops@example.com, caRoots: roots.pem, private: true%s}\nresolvers: [%q]\naddresses: [127.0.0.1]\n", directory, more, a.dns.Addr())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// visit asks https://host/ of a node, and gives status, Location and the leaf; the
// leaf is nil if there was no handshake.
func (a *authority) visit(addr, host string) (status int, location string, leaf *x509.Certificate) {
	c := http.Client{
		Timeout:       5 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: a.roots, ServerName: host}},
	}
	req, err := http.NewRequest("GET", "https://"+addr+"/", nil)
	if err != nil {
		return 0, "", nil
	}
	req.Host = host
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", nil
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header.Get("Location"), resp.TLS.PeerCertificates[0]
}

// leads waits until https://host/ leads to a target with a certificate of the CA.
func (a *authority) leads(t *testing.T, addr, host, to string) *x509.Certificate {
	t.Helper()
	var leaf *x509.Certificate
	var location string
	if !eventually(startLimit, func() bool {
		_, location, leaf = a.visit(addr, host)
		return location == to
	}) {
		t.Fatalf("https://%s/ leads to %q, want %q", host, location, to)
	}
	return leaf
}

// TestOneCommandEndsInHTTPS is the seeds' automation: a host is set, and nothing
// else; its https address answers with a valid certificate once its DNS leads here.
func TestOneCommandEndsInHTTPS(t *testing.T) {
	t.Parallel()
	httpAddr, httpsAddr := freeAddr(t), freeAddr(t)
	a := newAuthority(t, httpAddr, httpsAddr, "")
	n := newNode(t, t.TempDir(), "--config", a.config, "--http", httpAddr, "--https", httpsAddr)
	a.dns.Set("shop.example", "A", "127.0.0.1")
	begin := time.Now()
	n.run("hosts", "set", "shop.example", "--to", "https://www.example.com/shop", "--https", "redirect-to-https")
	leaf := a.leads(t, httpsAddr, "shop.example", "https://www.example.com/shop")
	t.Logf("%.1f s from the command to https", time.Since(begin).Seconds())
	if err := leaf.VerifyHostname("shop.example"); err != nil {
		t.Error(err)
	}
	// Now that the certificate is live, http sends visitors there.
	if status, to := n.visit("shop.example/"); status != 301 || to != "https://shop.example:"+strings.Split(httpsAddr, ":")[1]+"/" && to != "https://shop.example/" {
		t.Errorf("http: %d %s", status, to)
	}
	// A host whose DNS leads elsewhere costs nothing, and serves over http.
	n.run("hosts", "set", "typo.example", "--to", "https://www.example.com/", "--https", "redirect-to-https")
	n.leads("typo.example/", "https://www.example.com/")
	if _, _, leaf := a.visit(httpsAddr, "typo.example"); leaf != nil {
		t.Error("it has a certificate")
	}
	// It is found once the DNS is right, by itself.
	a.dns.Set("typo.example", "A", "127.0.0.1")
	begin = time.Now()
	if !eventually(issueLimit, func() bool { _, to, _ := a.visit(httpsAddr, "typo.example"); return to == "https://www.example.com/" }) {
		t.Error("a name whose DNS was set right has no certificate")
	}
	t.Logf("%.1f s from the right DNS to https", time.Since(begin).Seconds())
	n.stop()
	for _, secret := range []string{"PRIVATE KEY", "BEGIN"} {
		if strings.Contains(n.stderr.String(), secret) {
			t.Errorf("the log has %s", secret)
		}
	}
	n.start()
	if _, to, _ := a.visit(httpsAddr, "shop.example"); to != "https://www.example.com/shop" {
		t.Errorf("after a restart it leads to %q", to)
	}
}

// TestWildcardByDelegation gets a wildcard and its base by a CNAME into the node's
// own zone, which Pebble's resolver follows to the node.
func TestWildcardByDelegation(t *testing.T) {
	t.Parallel()
	httpAddr, httpsAddr, dnsAddr := freeAddr(t), freeAddr(t), freeAddr(t)
	a := newAuthority(t, httpAddr, httpsAddr, ", validationZone: acme.example.net")
	n := newNode(t, t.TempDir(), "--config", a.config, "--http", httpAddr, "--https", httpsAddr, "--dns", dnsAddr)
	a.dns.Forward("acme.example.net", dnsAddr)
	n.run("hosts", "set", ".w.example", "--to", "https://www.example.com/w")
	records := n.verb("certs", "export-cname")
	record := strings.Fields(records.stdout) // NAME TTL IN CNAME TARGET
	if len(record) != 5 || record[0] != "_acme-challenge.w.example." || !strings.HasSuffix(record[4], ".acme.example.net.") {
		t.Fatalf("the record to set: %d %q %s", records.status, records.stdout, records.stderr)
	}
	a.dns.Set(record[0], record[3], record[4])
	n.steps(
		step{args: "certs export-cname -o csv", stdout: `^w\.example,_acme-challenge\.w\.example\.,CNAME,` + record[4] + `,\.w\.example,$`},
		step{args: "certs request .w.example --wait --timeout 60s", stdout: `^\*\.w\.example +issued .* dns-01 `, stderr: `^\.w\.example is live$`},
	)
	leaf := a.leads(t, httpsAddr, "any.w.example", "https://www.example.com/w")
	for _, name := range []string{"w.example", "other.w.example"} {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	a.leads(t, httpsAddr, "w.example", "https://www.example.com/w")
}

// TestEdgesAnswerChallengesAndServe has the CA ask an edge, which has it from the
// feed, and serve what control has ordered.
func TestEdgesAnswerChallengesAndServe(t *testing.T) {
	t.Parallel()
	httpAddr, httpsAddr := freeAddr(t), freeAddr(t)
	a := newAuthority(t, httpAddr, httpsAddr, ", preflight: off")
	control := newControl(t, "--config", a.config)
	dir := t.TempDir()
	key, err := os.ReadFile(filepath.Join(control.dir, "cluster.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cluster.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	edge := newNode(t, dir, "--role", "edge", "--control", "http://"+control.admin, "--token", control.nodeToken(), "--http", httpAddr, "--https", httpsAddr)
	a.dns.Set("edge.example", "A", "127.0.0.1")
	control.run("hosts", "set", "edge.example", "--to", "https://www.example.com/edge")
	a.leads(t, httpsAddr, "edge.example", "https://www.example.com/edge")
	// An edge serves its certificates without control, and from its own disk.
	control.kill()
	edge.kill()
	edge.start()
	a.leads(t, httpsAddr, "edge.example", "https://www.example.com/edge")
}
