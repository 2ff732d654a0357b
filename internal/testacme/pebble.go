package testacme

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fingerpost/internal/testca"
)

// Pebble is Let's Encrypt's CA for tests, running as a process of its own on
// loopback.
type Pebble struct {
	Directory  string         // https
	Management string         // https, of the address that [Pebble.SetWindow] uses
	Roots      *x509.CertPool // what its own certificate hangs on
	RootsPEM   []byte
	client     *http.Client
}

// PebbleOptions say how it runs. It is strict, does not sleep before it
// validates, refuses 20 % of nonces, and reuses authorizations.
type PebbleOptions struct {
	DNS       string // address of the server that it asks, over TCP
	HTTPPort  int    // where it looks for http-01
	TLSPort   int    // where it looks for tls-alpn-01
	EAB       map[string]string
	Blocked   []string // names that it refuses
	AltRoots  int
	KeepNonce bool // refuse no nonces
	Forget    bool // reuse no authorizations
}

var pebbleBuilt atomic.Bool

var pebbleBinary = sync.OnceValues(func() (string, error) {
	pebbleBuilt.Store(true)
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(mod)))
	dir, err := os.MkdirTemp("", "pebble")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "pebble")
	build := exec.Command("go", "build", "-modfile="+filepath.Join(root, "tools", "go.mod"), "-o", bin, "github.com/letsencrypt/pebble/v2/cmd/pebble")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build pebble: %w\n%s", err, out)
	}
	return bin, nil
})

// RemovePebble deletes the program that [StartPebble] has built, if it has; for
// TestMain.
func RemovePebble() {
	if !pebbleBuilt.Load() {
		return
	}
	if bin, err := pebbleBinary(); err == nil {
		os.RemoveAll(filepath.Dir(bin))
	}
}

// StartPebble builds Pebble once a process and runs one for the time of the
// test. A test that cannot have it is skipped, or fails where CI is set.
func StartPebble(t testing.TB, o PebbleOptions) *Pebble {
	t.Helper()
	bin, err := pebbleBinary()
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	for range 5 { // the ports that we found free may be another's by then
		if p := startPebble(t, bin, o); p != nil {
			return p
		}
	}
	t.Fatal("pebble does not start")
	return nil
}

func startPebble(t testing.TB, bin string, o PebbleOptions) *Pebble {
	t.Helper()
	dir, own := t.TempDir(), testca.NewNamed("pebble's own")
	certPEM, keyPEM := own.Issue("127.0.0.1", "localhost")
	ports := freePorts(t, 2)
	profile := func(days int) map[string]any {
		return map[string]any{"description": "for tests", "validityPeriod": days * 24 * 3600}
	}
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": ports[0], "managementListenAddress": ports[1],
		"certificate": filepath.Join(dir, "cert.pem"), "privateKey": filepath.Join(dir, "key.pem"),
		"httpPort": o.HTTPPort, "tlsPort": o.TLSPort, "keyAlgorithm": "ecdsa",
		"externalAccountBindingRequired": len(o.EAB) > 0, "externalAccountMACKeys": o.EAB, "domainBlocklist": o.Blocked,
		"retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles":   map[string]any{"classic": profile(90), "tlsserver": profile(45), "shortlived": profile(6)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"cert.pem": certPEM, "key.pem": keyPEM, "config.json": config} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"-config", filepath.Join(dir, "config.json"), "-strict"}
	if o.DNS != "" {
		args = append(args, "-dnsserver", o.DNS)
	}
	reject := "20"
	if o.KeepNonce {
		reject = "0"
	}
	reuse := "100"
	if o.Forget {
		reuse = "0"
	}
	log := new(logBuffer)
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE="+reuse, "PEBBLE_WFE_NONCEREJECT="+reject, fmt.Sprint("PEBBLE_ALTERNATE_ROOTS=", o.AltRoots))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	stop := func() { cmd.Process.Kill(); <-ended }
	p := &Pebble{Directory: "https://" + ports[0] + "/dir", Management: "https://" + ports[1], Roots: own.Pool(), RootsPEM: own.PEM()}
	p.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.Roots}}}
	for {
		resp, err := p.client.Get(p.Directory)
		if err == nil {
			resp.Body.Close()
			break
		}
		select {
		case <-ended:
			t.Logf("pebble ended at its start: %s", log)
			return nil
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("pebble's log ends with: %s", log)
		}
	})
	return p
}

func freePorts(t testing.TB, n int) []string {
	t.Helper()
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		out = append(out, l.Addr().String())
	}
	return out
}

// logBuffer keeps the end of what a process prints.
type logBuffer struct {
	mu  sync.Mutex
	end []byte
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end = append(b.end, p...)
	b.end = b.end[max(0, len(b.end)-8<<10):]
	return len(p), nil
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.end)
}

// SetWindow makes Pebble suggest a window for the renewal of a certificate.
func (p *Pebble) SetWindow(t testing.TB, certPEM []byte, start, end time.Time) {
	t.Helper()
	window, _ := json.Marshal(map[string]any{"suggestedWindow": map[string]any{"start": start.UTC().Format(time.RFC3339), "end": end.UTC().Format(time.RFC3339)}})
	body, _ := json.Marshal(map[string]string{"Certificate": string(certPEM), "ARIResponse": string(window)})
	resp, err := p.client.Post(p.Management+"/set-renewal-info/", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("set-renewal-info: %s: %s", resp.Status, text)
	}
}

// Status is what Pebble says of a certificate: Valid or Revoked, and why.
func (p *Pebble) Status(t testing.TB, leaf *x509.Certificate) (status string, reason int) {
	t.Helper()
	resp, err := p.client.Get(p.Management + fmt.Sprintf("/cert-status-by-serial/%x", leaf.SerialNumber))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out struct {
		Status string
		Reason int
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out.Status, out.Reason
}

// Root gives the PEM of the n-th root that Pebble's certificates end at.
func (p *Pebble) Root(t testing.TB, n int) []byte {
	t.Helper()
	resp, err := p.client.Get(fmt.Sprintf("%s/roots/%d", p.Management, n))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Proxy stands in front of a CA and does what CAs do on bad days.
type Proxy struct {
	Directory string // of the CA, through the proxy
	Roots     *x509.CertPool
	RootsPEM  []byte

	// Fault is asked for each request, by its path. It may be set while the
	// proxy runs only where no request is under way.
	Fault func(r *http.Request) Fault

	mu   sync.Mutex
	seen map[string]int
}

// Fault is what happens to one request. The zero Fault is nothing.
type Fault struct {
	Refuse      *Problem  // answered in the CA's place
	HTML        bool      // answered with a web page, 503
	LoseRequest bool      // the connection is cut before the CA hears of it
	LoseAnswer  bool      // and after
	Replace     [2]string // in the CA's answer
}

// Seen counts the requests that reached the CA by the first part of their paths.
func (p *Proxy) Seen(head string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[head]
}

type faultKey struct{}

// NewProxy stands in front of the CA with that directory, whose own certificate
// hangs on roots.
func NewProxy(t testing.TB, directory string, roots *x509.CertPool) *Proxy {
	t.Helper()
	target, err := url.Parse(directory)
	if err != nil {
		t.Fatal(err)
	}
	own := testca.NewNamed("proxy's own")
	p := &Proxy{Roots: own.Pool(), RootsPEM: own.PEM(), seen: map[string]int{}}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	onward := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
			r.Out.Host = r.In.Host // the CA signs its addresses with it
		},
		ModifyResponse: func(resp *http.Response) error {
			f, _ := resp.Request.Context().Value(faultKey{}).(Fault)
			if f.LoseAnswer {
				return http.ErrAbortHandler
			}
			if f.Replace[0] == "" {
				return nil
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			resp.Body.Close()
			body = bytes.ReplaceAll(body, []byte(f.Replace[0]), []byte(f.Replace[1]))
			resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			resp.Header.Set("Content-Length", fmt.Sprint(len(body)))
			return nil
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var f Fault
		if p.Fault != nil {
			f = p.Fault(r)
		}
		switch {
		case f.LoseRequest:
			panic(http.ErrAbortHandler)
		case f.HTML:
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, "<html><body>down for maintenance</body></html>")
			return
		case f.Refuse != nil:
			refuse(w, f.Refuse)
			return
		}
		head, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		p.mu.Lock()
		p.seen[head]++
		p.mu.Unlock()
		onward.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), faultKey{}, f)))
	}))
	certPEM, keyPEM := own.Issue("127.0.0.1")
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	t.Cleanup(server.Close)
	p.Directory = server.URL + target.Path
	return p
}
