package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"fingerpost/internal/testca"

	"github.com/spf13/cobra"
)

//go:embed demo
var demoFiles embed.FS

func demoCommand() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the program at work: sample hosts and certificates on loopback",
		Long: `Show the program at work, on loopback only: a folder with sample hosts, redirects
and certificates of a CA of its own, a server for them, and some visitors. It goes
on until interrupted, and leaves nothing behind.

With --check it takes free ports, compares every answer with what it must be,
changes a file under way, and exits: 0 if all was right.`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			d, err := startDemo(check)
			if err != nil {
				return err
			}
			return d.run(ctx, cmd.OutOrStdout(), check)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "run it through, compare every answer, and exit")
	return cmd
}

// demo is a node on files in a folder of its own, and a visitor of it.
type demo struct {
	dir    string
	node   *node
	addrs  map[string]string // of the listeners, by name
	client *http.Client
	log    bytes.Buffer // the node's messages; read once it has stopped
}

func startDemo(anyPort bool) (d *demo, err error) {
	d = &demo{addrs: map[string]string{}}
	if d.dir, err = os.MkdirTemp("", "fingerpost-demo-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(d.dir)
		}
	}()
	pool, err := d.writeFiles()
	if err != nil {
		return nil, err
	}
	o := options{
		ruleFlags: ruleFlags{config: filepath.Join(d.dir, "fingerpost.yaml")},
		http:      "127.0.0.1:8080", https: "127.0.0.1:8443", admin: "127.0.0.1:9090",
		given: func(string) bool { return true },
		out:   io.Discard,
		log:   slog.New(slog.NewTextHandler(&d.log, nil)),
	}
	if !anyPort {
		d.node, err = start(o)
	}
	if anyPort || errors.Is(err, syscall.EADDRINUSE) {
		o.http, o.https, o.admin = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
		d.node, err = start(o)
	}
	if err != nil {
		return nil, err
	}
	for _, l := range d.node.listeners {
		d.addrs[l.name] = l.Addr().String()
	}
	d.client = d.visitor(pool)
	return d, nil
}

// writeFiles writes the sample files, and certificates for their hosts.
func (d *demo) writeFiles() (*x509.CertPool, error) {
	ca := testca.New()
	files := map[string][]byte{"ca.pem": ca.PEM()}
	for _, name := range []string{"fingerpost.yaml", "redirects.json"} {
		data, err := demoFiles.ReadFile("demo/" + name)
		if err != nil {
			return nil, err
		}
		files[name] = data
	}
	for name, hosts := range map[string][]string{
		"fingerpost": {"fingerpost.test", "*.fingerpost.test"},
		"product1":   {"product1.test"},
		"brand":      {"*.brand.test"},
	} {
		files["certs/"+name+".crt"], files["certs/"+name+".key"] = ca.Issue(hosts...)
	}
	if err := os.Mkdir(filepath.Join(d.dir, "certs"), 0o700); err != nil {
		return nil, err
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(d.dir, filepath.FromSlash(name)), data, 0o600); err != nil {
			return nil, err
		}
	}
	return ca.Pool(), nil
}

// visitor is a browser that finds every host here.
func (d *demo) visitor(pool *x509.CertPool) *http.Client {
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		name := "http"
		if strings.HasSuffix(addr, ":443") {
			name = "https"
		}
		return new(net.Dialer).DialContext(ctx, network, d.addrs[name])
	}
	return &http.Client{
		Timeout:       10 * time.Second,
		Transport:     &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// visit is one request of the demo, and what it must be answered.
type visit struct {
	what     string
	method   string
	url      string
	language string
	status   int
	location string
}

var demoVisits = []visit{
	{"a product's domain", "GET", "https://product1.test/", "", 301, "https://www.fingerpost.test/products/one"},
	{"the same without a certificate, over http", "GET", "http://product2.test/anything?utm=mail", "", 302, "https://www.fingerpost.test/products/two?utm=mail"},
	{"the name without www", "GET", "https://fingerpost.test/about?a=b", "", 301, "https://www.fingerpost.test/about?a=b"},
	{"http goes to https", "GET", "http://www.fingerpost.test/jobs", "", 301, "https://www.fingerpost.test/jobs"},
	{"and a form keeps its method", "POST", "http://www.fingerpost.test/form", "", 307, "https://www.fingerpost.test/form"},
	{"nothing over plain http", "GET", "http://secure.fingerpost.test/", "", 403, ""},
	{"a page of redirects.json", "GET", "https://www.fingerpost.test/resources/the-follow-up-formula", "", 301, "/resources/followup"},
	{"a pattern", "GET", "https://shop.fingerpost.test/products/7/red?size=m", "", 301, "https://www.fingerpost.test/item/7/red?ref=shop&size=m"},
	{"a wildcard host", "GET", "https://no.brand.test/about/us", "", 308, "https://www.brand.example/no/about/us"},
	{"a condition that holds", "GET", "https://welcome.fingerpost.test/", "nb-NO,nb;q=0.9,en;q=0.8", 302, "https://www.fingerpost.test/velkommen"},
	{"and one that does not", "GET", "https://welcome.fingerpost.test/", "de", 302, "https://www.fingerpost.test/welcome"},
	{"gone for good", "GET", "https://www.fingerpost.test/old-campaign", "", 410, ""},
	{"the host's own 404", "GET", "https://www.fingerpost.test/nothing", "", 404, ""},
	{"a host that nobody configured", "GET", "http://unknown.test/", "", 404, ""},
}

// run serves and visits until ctx ends, or until everything is compared.
func (d *demo) run(ctx context.Context, out io.Writer, check bool) error {
	defer os.RemoveAll(d.dir)
	serving, stop := context.WithCancel(ctx)
	defer stop()
	stopped := make(chan error, 1)
	go func() { stopped <- d.node.run(serving) }()
	if !check {
		d.introduce(out)
	}
	wrong := 0
	for _, v := range demoVisits {
		got, err := d.visit(ctx, v)
		if err != nil && ctx.Err() != nil {
			break
		}
		ok := err == nil && got == result(v.status, v.location)
		switch {
		case err != nil:
			got = err.Error()
			fallthrough
		case !ok:
			wrong++
			fmt.Fprintf(out, "  WRONG %s: %s %s\n    got  %s\n    want %s\n", v.what, v.method, v.url, got, result(v.status, v.location))
		default:
			fmt.Fprintf(out, "  %-43s %s %s\n    → %s\n", v.what, v.method, v.url, got)
		}
	}
	if check {
		for _, step := range []func(context.Context, io.Writer) error{d.checkChange, d.checkBadChange, d.checkHealth} {
			if err := step(ctx, out); err != nil {
				fmt.Fprintf(out, "  WRONG %v\n", err)
				wrong++
			}
		}
	} else if ctx.Err() == nil {
		d.suggest(out)
		select {
		case <-ctx.Done():
		case err := <-stopped:
			return err
		}
	}
	stop()
	if err := <-stopped; err != nil {
		return err
	}
	if check {
		fmt.Fprintf(out, "%d passed, %d failed\n", len(demoVisits)+3-wrong, wrong)
	}
	if wrong > 0 {
		os.Stderr.Write(d.log.Bytes())
		return exitStatus(exitError)
	}
	return nil
}

// visit sends one request and tells the answer.
func (d *demo) visit(ctx context.Context, v visit) (string, error) {
	req, err := http.NewRequestWithContext(ctx, v.method, v.url, nil)
	if err != nil {
		return "", err
	}
	if v.language != "" {
		req.Header.Set("Accept-Language", v.language)
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	return result(resp.StatusCode, resp.Header.Get("Location")), nil
}

const (
	demoLimit = 5 * time.Second       // for a change to be seen, on a busy machine
	demoRetry = 20 * time.Millisecond // between two looks
)

// eventually visits again and again until the answer is want.
func (d *demo) eventually(ctx context.Context, v visit, want string) error {
	ctx, cancel := context.WithTimeout(ctx, demoLimit)
	defer cancel()
	for {
		got, err := d.visit(ctx, v)
		if got == want {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: got %s (%v), want %s", v.what, got, err, want)
		case <-time.After(demoRetry):
		}
	}
}

var demoJobs = visit{what: "a change of redirects.json", method: "GET", url: "https://www.fingerpost.test/jobs"}

func (d *demo) checkChange(ctx context.Context, out io.Writer) error {
	file := filepath.Join(d.dir, "redirects.json")
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := replaceFile(file, bytes.Replace(data, []byte("careers.example.net"), []byte("jobs.example.net"), 1)); err != nil {
		return err
	}
	err = d.eventually(ctx, demoJobs, result(301, "https://jobs.example.net/"))
	if err == nil {
		fmt.Fprintf(out, "  a changed file took effect after %v\n", time.Since(start).Round(time.Millisecond))
	}
	return err
}

// checkBadChange breaks a file: the metric tells, and the answer stays.
func (d *demo) checkBadChange(ctx context.Context, out io.Writer) error {
	if err := replaceFile(filepath.Join(d.dir, "redirects.json"), []byte("{")); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, demoLimit)
	defer cancel()
	for {
		body, err := d.admin(ctx, "/metrics")
		if strings.Contains(body, "fingerpost_config_last_reload_successful 0") {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("a bad file does not show in the metrics (%v)", err)
		case <-time.After(demoRetry):
		}
	}
	got, err := d.visit(ctx, demoJobs)
	if want := result(301, "https://jobs.example.net/"); got != want {
		return fmt.Errorf("a bad file changed the answer to %s (%v), want %s", got, err, want)
	}
	fmt.Fprintln(out, "  a bad file was refused, the last good one keeps serving")
	return nil
}

func (d *demo) checkHealth(ctx context.Context, out io.Writer) error {
	body, err := d.admin(ctx, "/readyz")
	if err == nil && !strings.Contains(body, `"ready":true`) {
		err = fmt.Errorf("not ready: %s", body)
	}
	if err == nil {
		fmt.Fprintln(out, "  the node is ready")
	}
	return err
}

func (d *demo) admin(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.addrs["admin"]+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func (d *demo) introduce(out io.Writer) {
	fmt.Fprintf(out, `Fingerpost is serving sample hosts, on this machine only:
  http   %s
  https  %s, with certificates of a CA of its own
  admin  http://%s/metrics, /livez, /readyz
  files  %s

Some visitors:
`, d.addrs["http"], d.addrs["https"], d.addrs["admin"], d.dir)
}

// suggest prints five commands to paste.
func (d *demo) suggest(out io.Writer) {
	self := os.Args[0]
	if strings.Contains(self, "go-build") { // started by go run
		self = "go run ./cmd/fingerpost"
	}
	fmt.Fprintf(out, `
Now you, in another terminal:
  curl -i --connect-to ::%[1]s http://product1.test/
  curl -i --connect-to ::%[2]s --cacert %[3]s/ca.pem https://www.fingerpost.test/resources/the-follow-up-formula
  curl -i --connect-to ::%[1]s --data name=value http://www.fingerpost.test/form
  %[4]s explain --config %[3]s/fingerpost.yaml https://shop.fingerpost.test/products/7/red
  sed -i s/careers.example.net/jobs.example.net/ %[3]s/redirects.json && sleep 1 && curl -i --connect-to ::%[2]s --cacert %[3]s/ca.pem https://www.fingerpost.test/jobs

Ctrl-C ends it and removes its files.
`, d.addrs["http"], d.addrs["https"], d.dir, self)
}
