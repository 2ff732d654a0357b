package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// aNode is a node of its own process.
type aNode struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr output
	exited chan struct{}
	addrs  map[string]string
}

// startNode starts the program with a configuration, and waits until it is ready.
func startNode(t *testing.T, config string) *aNode {
	t.Helper()
	n := &aNode{t: t, cmd: exec.Command(binary, "serve", "--config", config), addrs: map[string]string{}}
	n.cmd.Stderr = &n.stderr
	n.exited = start(t, n.cmd)
	t.Cleanup(func() { t.Logf("[%s]\n%s", filepath.Base(config), n.stderr.String()) })
	if !eventually(startLimit, func() bool { return readyLine.MatchString(n.stderr.String()) }) {
		t.Fatalf("%s is not ready:\n%s", config, n.stderr.String())
	}
	for _, m := range listenLine.FindAllStringSubmatch(n.stderr.String(), -1) {
		n.addrs[m[1]] = m[2]
	}
	return n
}

func (n *aNode) kill() {
	n.t.Helper()
	if err := n.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
	<-n.exited
}

// leads waits until a visitor of the node is sent to want.
func (n *aNode) leads(host, want string) {
	n.t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	got := ""
	if !eventually(startLimit, func() bool {
		req, err := http.NewRequest(http.MethodGet, "http://"+n.addrs["http"]+"/", nil)
		if err != nil {
			n.t.Fatal(err)
		}
		req.Host = host
		resp, err := client.Do(req)
		if err != nil {
			got = err.Error()
			return false
		}
		resp.Body.Close()
		got = resp.Header.Get("Location")
		return got == want
	}) {
		n.t.Fatalf("%s leads to %q, want %q", host, got, want)
	}
}

func runVerb(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var stderr strings.Builder
	cmd := exec.Command(binary, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%v: %w\n%s", args, err, stderr.String())
	}
	return string(out), err
}

// TestControlDiesAndComesBack has a control node with TLS, an edge that follows it
// over https with a node token, and a second one behind the first. Control is
// killed; the edge serves on, is killed too, starts alone and serves; control
// comes back and both go on.
func TestControlDiesAndComesBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, key := ca.Issue("127.0.0.1", "localhost")
	file("admin.pem", string(cert))
	file("admin.key", string(key))
	caFile := file("ca.pem", string(ca.PEM()))
	controlFile := func(admin string) string {
		return file("control.yaml", `
listen: {admin: "`+admin+`", adminTLS: {certificate: admin.pem, key: admin.key}}
log: {access: "off"}
role: control
node: control-1
region: eu-north
data: control
`)
	}
	control := startNode(t, controlFile("127.0.0.1:0"))
	admin := control.addrs["admin"]
	ask := func(args ...string) string {
		t.Helper()
		out, err := runVerb(t, append(args, "--server", "https://"+admin, "--ca", caFile, "--data", filepath.Join(dir, "control"))...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if strings.Contains(control.stderr.String(), "fpo_") {
		t.Error("the link of the first start is in the log")
	}
	var token struct{ Secret string }
	if err := json.Unmarshal([]byte(ask("tokens", "add", "edges", "--scope", "node", "-o", "json")), &token); err != nil {
		t.Fatal(err)
	}
	file("token", token.Secret+"\n")
	edgeConfig := file("edge.yaml", `
listen: {http: "127.0.0.1:0", https: "", admin: "127.0.0.1:0"}
log: {access: "off"}
role: edge
node: edge-1
region: us-east
addresses: [192.0.2.10, 192.0.2.20]
data: edge
control: {url: "https://`+admin+`", tokenFile: token, ca: ca.pem}
`)
	edge := startNode(t, edgeConfig)
	second := startNode(t, file("second.yaml", `
listen: {http: "127.0.0.1:0", https: "", admin: "127.0.0.1:0"}
log: {access: "off"}
role: edge
node: edge-2
data: second
control: {url: "http://`+edge.addrs["admin"]+`", tokenFile: token}
`))
	ask("redirects", "set", "a.test", "--to", "https://one.test/")
	edge.leads("a.test", "https://one.test/")
	second.leads("a.test", "https://one.test/")

	type nodeRow struct {
		ID, Region, Version, Health string
		Addresses, Roles            []string
		Rev, Behind                 int64
		Gone                        bool
	}
	list := func() map[string]nodeRow {
		t.Helper()
		var rows []nodeRow
		if err := json.Unmarshal([]byte(ask("nodes", "list", "-o", "json")), &rows); err != nil {
			t.Fatal(err)
		}
		byID := map[string]nodeRow{}
		for _, r := range rows {
			byID[r.ID] = r
		}
		return byID
	}
	var rows map[string]nodeRow
	if !eventually(startLimit, func() bool {
		rows = list()
		return len(rows) == 3 && rows["edge-1"].Behind == 0 && rows["edge-1"].Health == "ok" && rows["edge-2"].Behind == 0 && rows["edge-2"].Health == "ok" && rows["control-1"].Health == "ok"
	}) {
		t.Fatalf("the list of nodes is %+v", rows)
	}
	if e := rows["edge-1"]; e.Region != "us-east" || !slices.Equal(e.Addresses, []string{"192.0.2.10", "192.0.2.20"}) || !slices.Equal(e.Roles, []string{"edge"}) || e.Version != "v0.0.0-e2e" || e.Rev == 0 {
		t.Errorf("the edge is listed as %+v", e)
	}
	if c := rows["control-1"]; c.Region != "eu-north" || !slices.Equal(c.Roles, []string{"control"}) {
		t.Errorf("the control node is listed as %+v", c)
	}

	control.kill()
	edge.leads("a.test", "https://one.test/")
	edge.kill()
	edge = startNode(t, edgeConfig) // alone
	edge.leads("a.test", "https://one.test/")
	var ready string
	if !eventually(startLimit, func() bool {
		resp, err := http.Get("http://" + edge.addrs["admin"] + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var body struct {
			Checks []struct{ Name, Detail string }
		}
		err = json.NewDecoder(resp.Body).Decode(&body)
		ready = fmt.Sprint(resp.StatusCode, body, err)
		return resp.StatusCode == 200 && strings.Contains(ready, "the feed is away")
	}) {
		t.Errorf("/readyz of an edge alone: %s", ready)
	}

	startNode(t, controlFile(admin))
	ask("redirects", "set", "b.test", "--to", "https://two.test/")
	edge.leads("b.test", "https://two.test/")
	edge.leads("a.test", "https://one.test/")
	// The second edge has lost the one that it follows, which has another port now.
	second.leads("a.test", "https://one.test/")
	ask("nodes", "delete", "edge-2")
	if _, there := list()["edge-2"]; there {
		t.Error("a node that was deleted is still listed")
	}
}
