package e2e

import (
	"testing"
	"time"
)

// TestAskedOfANodeThatIsKilled asks for a renewal and for a revocation, and kills the
// node as soon as it has answered: the next start does both, when the lease of the one
// before is over, with Pebble as the CA.
func TestAskedOfANodeThatIsKilled(t *testing.T) {
	t.Parallel()
	httpAddr, httpsAddr := freeAddr(t), freeAddr(t)
	a := newAuthority(t, httpAddr, httpsAddr, ", preflight: off")
	n := newNode(t, t.TempDir(), "--config", a.config, "--http", httpAddr, "--https", httpsAddr)
	a.dns.Set("asked.example", "A", "127.0.0.1")
	n.run("hosts", "set", "asked.example", "--to", "https://www.example.com/asked")
	served := a.leads(t, httpsAddr, "asked.example", "https://www.example.com/asked")
	for _, verb := range []string{"renew", "revoke"} {
		id := ""
		n.query(`SELECT key FROM records WHERE kind = 'acme-certificate' AND value NOT LIKE '%"replaced":true%'`, func(scan func(...any) error) error { return scan(&id) })
		n.must(nil, "POST", "certificates/"+id+"/"+verb, "{}")
		n.kill()
		killed := time.Now()
		n.start()
		if !eventually(issueLimit, func() bool {
			c := a.chain(httpsAddr, "asked.example")
			return len(c) > 0 && c[0].SerialNumber.Cmp(served.SerialNumber) != 0
		}) {
			t.Fatalf("%s was asked for, and nothing has come of it", verb)
		}
		t.Logf("%s: killed after the answer of the API; the next certificate is served %.0f s later, 20 of them the lease", verb, time.Since(killed).Seconds())
		status, _ := a.Status(t, served)
		if want := map[string]string{"renew": "Valid", "revoke": "Revoked"}[verb]; status != want {
			t.Errorf("after %s the CA has the certificate before as %s", verb, status)
		}
		served = a.chain(httpsAddr, "asked.example")[0]
	}
	left := 0
	if !eventually(startLimit, func() bool {
		n.query(`SELECT count(*) FROM records WHERE kind = 'acme-ask'`, func(scan func(...any) error) error { return scan(&left) })
		return left == 0
	}) {
		t.Errorf("%d asks are left", left)
	}
}
