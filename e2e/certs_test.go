package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"fingerpost/internal/testca"
	"fingerpost/internal/testdns"
)

// said is what a verb has printed, and its exit status.
type said struct {
	status         int
	stdout, stderr string
}

// verb runs a verb against the node, by its own token, with nobody at the keyboard.
func (n *node) verb(args ...string) said {
	n.t.Helper()
	return runs(n.t, append(args, "--server", "http://"+n.admin, "--data", n.dir)...)
}

func runs(t *testing.T, args ...string) said {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Dir = t.TempDir()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return said{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// step is a verb, and what must come of it: regular expressions for what is printed.
type step struct {
	args           string // separated by spaces
	status         int
	stdout, stderr string
}

func (n *node) steps(steps ...step) {
	n.t.Helper()
	for _, s := range steps {
		got := n.verb(strings.Fields(s.args)...)
		if got.status != s.status || !regexp.MustCompile("(?m)"+s.stdout).MatchString(got.stdout) || !regexp.MustCompile("(?m)"+s.stderr).MatchString(got.stderr) {
			n.t.Fatalf("%s: %d, want %d; it printed\n%swant %s\nand said\n%swant %s", s.args, got.status, s.status, got.stdout, s.stdout, got.stderr, s.stderr)
		}
	}
}

// certificate is what certs get shows.
type certificate struct {
	Name, Status, Serial, KeyType string
	Names                         []struct{ Name string }
	InUse                         []string
	InUseBy                       int
	Renewal                       struct{ Status string }
}

func (n *node) certificate(name string) (c certificate) {
	n.t.Helper()
	got := n.verb("certs", "get", name, "-o", "json")
	if err := json.Unmarshal([]byte(got.stdout), &c); err != nil {
		n.t.Fatalf("certs get %s: %d %s%s", name, got.status, got.stdout, got.stderr)
	}
	return c
}

// TestCertificatesByVerbs has a person do with certificates of a CA what there is to
// do, each verb waiting for its end.
func TestCertificatesByVerbs(t *testing.T) {
	t.Parallel()
	httpAddr, httpsAddr := freeAddr(t), freeAddr(t)
	a := newAuthority(t, httpAddr, httpsAddr, ", preflight: off, profile: classic, pack: individual")
	n := newNode(t, t.TempDir(), "--config", a.config, "--http", httpAddr, "--https", httpsAddr)
	a.dns.Set("shop.example", "A", "127.0.0.1")
	serial := func(host string) string {
		t.Helper()
		chain := a.chain(httpsAddr, host)
		if chain == nil {
			t.Fatalf("https://%s/ is not served when it is said to be live", host)
		}
		return fmt.Sprintf("%x", chain[0].SerialNumber)
	}

	// A request ends when the certificate is served, and says so.
	n.steps(
		step{args: "hosts set shop.example --to https://www.example.com/shop"},
		step{args: "certs request shop.example --wait --timeout 60s", stdout: `^shop\.example +issued +\S+ +89 `, stderr: `^shop\.example is live$`},
	)
	first := serial("shop.example")
	c := n.certificate("shop.example")
	if c.Serial != first || c.Status != "issued" || !slices.Equal(c.InUse, []string{"shop.example"}) || c.InUseBy != 1 || c.Renewal.Status != "scheduled" {
		t.Errorf("shown as %+v, served with %s", c, first)
	}
	n.steps(
		step{args: "certs list", stdout: `^NAME +STATUS +DAYS +FOR\n` + c.Name + ` +issued +89 +shop\.example$`},
		step{args: "hosts get shop.example", stdout: `^    certificate: ` + c.Name + `$`},
		step{args: "certs delete shop.example --yes", status: 1, stderr: `^error: .*the host shop\.example uses it for shop\.example$`},
	)

	// A renewal ends when another is served.
	n.steps(step{args: "certs renew shop.example --wait --timeout 60s", stderr: c.Name + ` is replaced$`})
	second := serial("shop.example")
	if second == first {
		t.Error("it was not renewed")
	}

	// What the CA refuses ends the wait at once, with the reason; what is shown of it.
	n.steps(
		step{args: "hosts set bad.example --to https://www.example.com/ --https redirect-to-https"},
		step{args: "certs request bad.example --wait --timeout 60s", status: 1, stderr: `^error: bad\.example: .*\nhint: .*tried again on`},
		step{args: "certs get bad.example", stdout: `^nextTry: `},
		step{args: "hosts list", stdout: `^bad\.example .* failed: .*bad\.example; next try 20\d\d-`},
		step{args: "hosts get bad.example", stdout: `^    nextTry: `},
		step{args: "certs list --status failed", stdout: `^bad\.example +failed +the CA `},
		step{args: "certs request bad.example --wait --timeout 10ms", status: 1, stderr: `^error: bad\.example is not live after 10ms: .*\nhint: `},
		step{args: "certs delete bad.example --yes", status: 1, stderr: `^hint: set certificate: none for its host`},
	)
	n.leads("bad.example/", "https://www.example.com/") // it is not sent to https

	// The key may be taken out, which the audit has.
	n.steps(
		step{args: "certs export shop.example", stdout: `^-----BEGIN PRIVATE KEY-----$`},
		step{args: "audit list -o ndjson", stdout: `"action":"export","kind":"certificate"`},
		step{args: "certs export-cname", status: 1, stderr: `^hint: set acme\.validationZone`},
	)

	// Nobody needs it any more: it goes.
	n.steps(
		step{args: "hosts delete shop.example --yes"},
		step{args: "certs delete shop.example --yes", stderr: `^deleted `},
	)
	if strings.Contains(n.stderr.String(), "PRIVATE KEY") {
		t.Error("the log has a key")
	}
}

// TestAddNameByVerb tells first what another name costs, asks, and waits until it is
// there.
func TestAddNameByVerb(t *testing.T) {
	t.Parallel()
	httpAddr, httpsAddr := freeAddr(t), freeAddr(t)
	a := newAuthority(t, httpAddr, httpsAddr, ", preflight: off")
	n := newNode(t, t.TempDir(), "--config", a.config, "--http", httpAddr, "--https", httpsAddr)
	a.dns.Set("shop.example", "A", "127.0.0.1")
	a.dns.Set("more.example", "A", "127.0.0.1")
	n.steps(
		step{args: "hosts set shop.example --to https://www.example.com/shop"},
		step{args: "certs request shop.example --wait --timeout 60s"},
	)
	before := a.chain(httpsAddr, "shop.example")
	n.steps(
		step{args: "hosts set more.example --to https://www.example.com/more"},
		step{args: "certs add-name shop.example more.example --dry-run", stdout: `^orders: [01]$`},
		step{args: "certs add-name shop.example more.example", status: 1, stderr: `^one order; (?s:.*)^error: nothing was changed: there is nobody to ask.*\nhint: say --yes$`},
		step{args: "certs add-name shop.example shop.example --yes", status: 1, stderr: `^error: the certificate \S+ is for shop\.example already$`},
		step{args: "certs add-name shop.example nobody.example --yes", status: 1, stderr: `^error: none of its names is one that we serve: nobody\.example$`},
		step{args: "certs add-name none.example more.example --yes", status: 1, stderr: `^hint: fingerpost certs list`},
	)
	if now := a.chain(httpsAddr, "shop.example"); len(now) == 0 || !now[0].Equal(before[0]) {
		t.Error("it was ordered before anybody said yes")
	}
	n.steps(step{args: "certs add-name shop.example more.example --yes --wait --timeout 60s", stdout: `^asked: true$`, stderr: ` is replaced$`})
	if chain := a.chain(httpsAddr, "shop.example"); len(chain) == 0 || !slices.Equal(chain[0].DNSNames, []string{"more.example", "shop.example"}) {
		t.Errorf("it is served with %v", chain)
	}
	a.leads(t, httpsAddr, "more.example", "https://www.example.com/more")
}

// TestBoughtCertificatesByVerbs requests a certificate that an own CA signs, and
// imports one for RSA beside it: each client is served what it can use.
func TestBoughtCertificatesByVerbs(t *testing.T) {
	t.Parallel()
	httpsAddr := freeAddr(t)
	n := newNode(t, t.TempDir(), "--https", httpsAddr)
	middle := ca.NewIntermediate("bought CA")
	dir := t.TempDir()
	file := func(name string, text ...[]byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, slices.Concat(text...), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	n.steps(step{args: "hosts set bought.example --to https://www.example.com/bought --also www.bought.example"})
	made := n.verb("certs", "csr", "bought", "bought.example", "www.bought.example", "--organization", "Shop AS", "--country", "NO")
	block, _ := pem.Decode([]byte(made.stdout))
	if block == nil {
		t.Fatalf("certs csr: %d %s%s", made.status, made.stdout, made.stderr)
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || request.CheckSignature() != nil {
		t.Fatal(err)
	}
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: middle.Sign(testca.Template(request.DNSNames...), request.PublicKey)})
	n.steps(
		step{args: "certs list --status pending_validation", stdout: `^bought +pending_validation +it was requested on `},
		step{args: "certs import bought " + file("bought.crt", middle.PEM(), leaf), stdout: `^keyType: ECDSA P-256$`},
	)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	old, oldKey := middle.IssueFrom(testca.Template(request.DNSNames...), key)
	n.steps(
		step{args: "certs import bought-rsa " + file("old.crt", old, middle.PEM()) + " " + file("old.key", oldKey), stdout: `^keyType: RSA 2048$`},
		step{args: "certs list --name www.bought.example -o csv", stdout: `^bought,issued,(?s:.*)^bought-rsa,issued,`},
		step{args: "certs get www.bought.example", stdout: `^inUseBy: 1$`},
	)
	for _, tt := range []struct {
		client string
		config *tls.Config
		rsa    bool
	}{
		{client: "of today", config: new(tls.Config)},
		{client: "TLS 1.2", config: &tls.Config{MaxVersion: tls.VersionTLS12}},
		{client: "TLS 1.2, RSA alone", config: &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}, rsa: true},
	} {
		tt.config.RootCAs, tt.config.ServerName = ca.Pool(), "www.bought.example"
		var leaf *x509.Certificate
		if !eventually(startLimit, func() bool {
			c, err := tls.Dial("tcp", httpsAddr, tt.config)
			if err != nil {
				return false
			}
			defer c.Close()
			leaf = c.ConnectionState().PeerCertificates[0]
			_, isECDSA := leaf.PublicKey.(*ecdsa.PublicKey)
			return isECDSA != tt.rsa
		}) {
			t.Errorf("a client %s: served %v", tt.client, leaf)
		}
	}
	// An old client by another implementation.
	out, err := exec.Command("openssl", "s_client", "-connect", httpsAddr, "-servername", "bought.example", "-sigalgs", "RSA-PSS+SHA256", "-CAfile", file("ca.pem", ca.PEM()), "-verify_return_error").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "2048 bit") {
		t.Errorf("openssl: %v\n%s", err, out)
	}
	n.steps(
		step{args: "certs delete bought-rsa --yes", stderr: `^deleted bought-rsa$`}, // the other one stands for it
		step{args: "certs delete bought --yes", status: 1, stderr: `^error: .*the host bought\.example uses it for bought\.example$`},
		step{args: "certs renew bought", status: 1, stderr: `^error: .*was imported.*\nhint: have a new one issued`},
	)
}

// TestACAThatIsNone has a person wait for a CA that answers with web pages: what is
// wrong is said, and nothing else happens to the host.
func TestACAThatIsNone(t *testing.T) {
	t.Parallel()
	web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>please log in</html>") }))
	defer web.Close()
	httpAddr := freeAddr(t)
	a := &authority{dns: testdns.New(t)}
	config := a.configure(t, web.URL+"/dir", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), ", preflight: off, profile: classic")
	n := newNode(t, t.TempDir(), "--config", config, "--http", httpAddr)
	n.steps(
		step{args: "hosts set web.example --to https://www.example.com/ --https redirect-to-https"},
	)
	if !eventually(startLimit, func() bool { return strings.Contains(n.verb("hosts", "list").stdout, "web page") }) {
		t.Error("nobody is told")
	}
	n.steps(
		step{args: "certs request web.example --wait --timeout 2s", status: 1, stderr: `^error: web\.example is not live after 2s: web\.example: 127\.0\.0\.1 answered with a web page \(HTTP 200\), not with ACME, at https://.*\nhint: `},
	)
	// Whoever looks later sees why, too.
	n.steps(
		step{args: "hosts list", stdout: `waiting: 127\.0\.0\.1 answered with a web page`},
		step{args: "certs list", stdout: `^web\.example +pending_validation +127\.0\.0\.1 answered with a web page`},
	)
	n.leads("web.example/", "https://www.example.com/")
}
