package e2e

import (
	"bytes"
	"errors"
	"os/exec"
	"testing"
)

// said is what a verb has printed, and its exit status.
type said struct {
	status         int
	stdout, stderr string
}

// verb runs a verb against the node, by its own token, with nobody at the keyboard.
func (n *node) verb(args ...string) said {
	n.t.Helper()
	cmd := exec.Command(binary, append(args, "--server", "http://"+n.admin, "--data", n.dir)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		n.t.Fatal(err)
	}
	return said{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func TestExplore(t *testing.T) {
	httpAddr, httpsAddr := freeAddr(t), freeAddr(t)
	a := newAuthority(t, httpAddr, httpsAddr, ", preflight: off")
	n := newNode(t, t.TempDir(), "--config", a.config, "--http", httpAddr, "--https", httpsAddr)
	a.dns.Set("shop.example", "A", "127.0.0.1")
	show := func(args ...string) {
		s := n.verb(args...)
		t.Logf("$ %v  → %d\n%s--- stderr\n%s", args, s.status, s.stdout, s.stderr)
	}
	n.run("hosts", "set", "shop.example", "--to", "https://www.example.com/shop")
	show("certs", "request", "shop.example", "--wait", "--timeout", "60s")
	_, _, leaf := a.visit(httpsAddr, "shop.example")
	t.Log(leaf != nil)
	show("certs", "list")
	show("certs", "list", "-o", "json")
	n.run("hosts", "set", "bad.example", "--to", "https://www.example.com/shop")
	show("certs", "request", "bad.example", "--wait", "--timeout", "60s")
	show("certs", "list")
	show("hosts", "list")
	show("hosts", "get", "bad.example")
	show("hosts", "get", "shop.example")
	show("certs", "get", "bad.example")
	show("certs", "export-cname")
}
