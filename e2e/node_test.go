package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// node is a `fingerpost serve` of a test that is about several of them, or about
// how they end. It listens on the same addresses in each of its lives.
type node struct {
	t           *testing.T
	dir         string // of its data
	http, admin string // addresses
	args        []string
	client      http.Client

	cmd    *exec.Cmd
	exited chan struct{}
	stderr *output // of this life
}

// newNode starts a node with its data in dir; args come behind its own.
func newNode(t *testing.T, dir string, args ...string) *node {
	t.Helper()
	n := &node{t: t, dir: dir, http: freeAddr(t), admin: freeAddr(t), args: args}
	if i := slices.Index(args, "--http"); i >= 0 {
		n.http = args[i+1]
	}
	// What fails is to be seen, not tried again by the client of Go.
	n.client.Transport = &http.Transport{DisableKeepAlives: true}
	n.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	n.client.Timeout = time.Minute
	n.start()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the node in %s says:\n%s", filepath.Base(n.dir), n.stderr.String())
		}
	})
	return n
}

func newControl(t *testing.T, args ...string) *node {
	t.Helper()
	return newNode(t, t.TempDir(), append([]string{"--role", "control"}, args...)...)
}

// newEdge starts a node that follows control.
func newEdge(t *testing.T, control *node) *node {
	t.Helper()
	return newNode(t, t.TempDir(), "--role", "edge", "--control", "http://"+control.admin, "--token", control.nodeToken())
}

// freeAddr is an address that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start starts the node and waits until it is ready.
func (n *node) start() {
	n.t.Helper()
	n.stderr = &output{}
	n.cmd = exec.Command(binary, append([]string{"serve", "--data", n.dir, "--http", n.http, "--https", "", "--admin", n.admin}, n.args...)...)
	n.cmd.Dir = n.t.TempDir() // there is no configuration here
	n.cmd.Stderr = n.stderr
	n.exited = start(n.t, n.cmd)
	if !eventually(startLimit, func() bool { return readyLine.MatchString(n.stderr.String()) || n.gone() }) || n.gone() {
		n.t.Fatalf("the node did not become ready:\n%s", n.stderr.String())
	}
}

func (n *node) gone() bool {
	select {
	case <-n.exited:
		return true
	default:
		return false
	}
}

// kill ends the node at once, as kill -9 does.
func (n *node) kill() {
	n.t.Helper()
	if err := n.cmd.Process.Kill(); err != nil {
		n.t.Fatal(err)
	}
	<-n.exited
}

// stop ends the node as Ctrl-C does.
func (n *node) stop() {
	n.t.Helper()
	interrupt(n.t, n.cmd, n.exited)
}

// reply is what the API has answered.
type reply struct {
	status int
	header http.Header
	body   string
}

// problem reads the problem document, and holds it to its status.
func (r reply) problem(t *testing.T) (p struct{ Code, Detail, Hint string }) {
	t.Helper()
	if ct := r.header.Get("Content-Type"); ct != "application/problem+json" {
		t.Fatalf("%d with the type %q: %s", r.status, ct, r.body)
	}
	if err := json.Unmarshal([]byte(r.body), &p); err != nil || p.Code == "" {
		t.Fatalf("%s: %v", r.body, err)
	}
	return p
}

// token is the first admin's.
func (n *node) token() string {
	n.t.Helper()
	text, err := os.ReadFile(filepath.Join(n.dir, "admin.token"))
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// ask sends a request to the API, by the address given or the node's own; headers
// are "Name: value". An error is one of the connection.
func (n *node) ask(addr, method, path string, body io.Reader, headers ...string) (reply, error) {
	n.t.Helper()
	if addr == "" {
		addr = n.admin
	}
	req, err := http.NewRequest(method, "http://"+addr+"/api/v1/"+path, body)
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+n.token())
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := n.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(text)}, err
}

// must asks and expects success; into takes the answer, where it is not nil.
func (n *node) must(into any, method, path, body string, headers ...string) reply {
	n.t.Helper()
	r, err := n.ask("", method, path, strings.NewReader(body), headers...)
	if err != nil || r.status/100 != 2 {
		n.t.Fatalf("%s %s: %d %s %v", method, path, r.status, r.body, err)
	}
	if into != nil {
		if err := json.Unmarshal([]byte(r.body), into); err != nil {
			n.t.Fatalf("%s %s: %v in %s", method, path, err, r.body)
		}
	}
	return r
}

// insist repeats one request, under its idempotency key, until it is answered for
// good, as a client does that wants it done and never twice.
func (n *node) insist(addr, method, path string, body []byte, key string, headers ...string) (r reply) {
	n.t.Helper()
	headers = append(headers, "Idempotency-Key: "+key)
	var err error
	if !eventually(startLimit, func() bool {
		r, err = n.ask(addr, method, path, bytes.NewReader(body), headers...)
		return err == nil && r.status < 500 && !strings.Contains(r.body, `"in_progress"`)
	}) {
		n.t.Errorf("%s %s with the key %s is not done: %d %s %v", method, path, key, r.status, r.body, err)
	}
	return r
}

// put makes a redirect.
func (n *node) put(from, to string) {
	n.t.Helper()
	n.must(nil, "POST", "redirects", fmt.Sprintf(`{"from": %q, "to": %q}`, from, to))
}

// nodeToken makes a token for an edge.
func (n *node) nodeToken() string {
	n.t.Helper()
	var token struct{ Secret string }
	n.must(&token, "POST", "tokens", `{"name": "edge", "scope": "node"}`)
	return token.Secret
}

// redirects are all that the API lists, from → to, of a host or of all.
func (n *node) redirects(host string) map[string]string {
	n.t.Helper()
	all := map[string]string{}
	for cursor := ""; ; {
		var page struct {
			Items []struct{ From, To string }
			Next  string
		}
		path := "redirects?limit=1000&cursor=" + cursor
		if host != "" {
			path += "&host=" + host
		}
		n.must(&page, "GET", path, "")
		for _, r := range page.Items {
			all[r.From] = r.To
		}
		if cursor = page.Next; cursor == "" {
			return all
		}
	}
}

// revision is one line of the history.
type revision struct {
	Rev                     int64
	Added, Changed, Removed int64
}

// revisions are all, the newest first.
func (n *node) revisions() (all []revision) {
	n.t.Helper()
	for cursor := ""; ; {
		var page struct {
			Items []revision
			Next  string
		}
		n.must(&page, "GET", "changes?limit=1000&cursor="+cursor, "")
		all = append(all, page.Items...)
		if cursor = page.Next; cursor == "" {
			return all
		}
	}
}

// visit asks as a visitor does: url without its scheme.
func (n *node) visit(url string) (status int, location string) {
	n.t.Helper()
	host, path, _ := strings.Cut(url, "/")
	req, err := http.NewRequest("GET", "http://"+n.http+"/"+path, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	req.Host = host
	resp, err := n.client.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("Location")
}

// leads waits until a visitor of url is sent to want; "" is nowhere.
func (n *node) leads(url, want string) {
	n.t.Helper()
	var status int
	var got string
	if !eventually(startLimit, func() bool { status, got = n.visit(url); return got == want }) {
		n.t.Fatalf("%s leads to %d %q, want %q", url, status, got, want)
	}
}

// serves holds what visitors get to a content.
func (n *node) serves(content map[string]string) {
	n.t.Helper()
	for from, to := range content {
		if _, got := n.visit(from); got != to {
			n.t.Errorf("%s leads to %q, want %q", from, got, to)
		}
	}
}

// rows are n redirects of a host as a changeset, numbered from 0.
func rows(host string, n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "{\"from\": \"%s/p%d\", \"to\": \"https://t.example/%s/%d\"}\n", host, i, host, i)
	}
	return b.Bytes()
}

const ndjson = "Content-Type: application/x-ndjson"

// run runs a verb against the node, by its own token.
func (n *node) run(args ...string) {
	n.t.Helper()
	cmd := exec.Command(binary, append(args, "--server", "http://"+n.admin, "--data", n.dir)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
