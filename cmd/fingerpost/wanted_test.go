package main

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/internal/testca"
)

// TestWhatSomebodyBringsIsNotOrdered: neither the name itself nor one below a wildcard,
// until it is about to end.
func TestWhatSomebodyBringsIsNotOrdered(t *testing.T) {
	const day = 24 * time.Hour
	files := t.TempDir()
	for name, tt := range map[string]struct {
		left  time.Duration
		names []string
	}{
		"wide":  {30 * day, []string{"*.wide.example"}},
		"shop":  {30 * day, []string{"shop.example", "wildcard.shop.example"}},
		"ends":  {6 * day, []string{"ends.example"}},
		"dated": {8 * day, []string{"dated.example"}},
	} {
		template := testca.Template(tt.names...)
		template.NotAfter = time.Now().Add(tt.left)
		leaf, key := testCA.IssueFrom(template, testca.NewKey())
		if err := os.WriteFile(filepath.Join(files, name+".pem"), append(leaf, key...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(t.TempDir(), "fingerpost.yaml")
	if err := os.WriteFile(config, []byte("certificates: {dir: "+files+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startNode(t, t.TempDir(), func(o *options) { o.config = config })
	imported := func(id string, left time.Duration, change func(*fingerpost.Certificate), names ...string) {
		c := r.issued(id, 1, names...)
		c.Type, c.NotAfter = fingerpost.Imported, time.Now().Add(left)
		if change != nil {
			change(c)
		}
		r.put(nil, c)
	}
	imported("i-wide", 30*day, nil, "*.bought.example", "bought.example")
	imported("i-ends", 6*day, nil, "*.over.example")
	imported("i-rsa", 30*day, func(c *fingerpost.Certificate) { c.KeyType = "RSA 2048" }, "*.rsa.example", "rsa.example")
	imported("ordered", 30*day, func(c *fingerpost.Certificate) { c.Type = fingerpost.ACME }, "*.ours.example", "ours.example")
	for name, want := range map[string]bool{
		"bought.example": true, "a.bought.example": true, "*.bought.example": true,
		"a.b.bought.example": false, "*.b.bought.example": false, "*.example": false, "example": false,
		"a.over.example": false,
		"rsa.example":    false, "a.rsa.example": false, // it is served beside ours
		"ours.example": false, "a.ours.example": false,
		"a.wide.example": true, "*.wide.example": true, "wide.example": false,
		"shop.example": true, "wildcard.shop.example": true, "*.shop.example": false,
		"ends.example": false, "dated.example": true,
	} {
		if got := r.provided(name); got != want {
			t.Errorf("%s: provided %v, want %v", name, got, want)
		}
	}
}

// TestTheCertificateOfAHostIsServed: the one that its settings name, for all its names.
func TestTheCertificateOfAHostIsServed(t *testing.T) {
	r := startNode(t, t.TempDir(), func(o *options) { o.https = "127.0.0.1:0" })
	names := []string{"shop.example", "also.example", "from.example"}
	longer := r.issued("a", 1, names...)
	longer.NotAfter = longer.NotAfter.Add(time.Hour)
	r.put(nil, longer)
	r.put(nil, r.issued("b", 2, names...))
	shows := func(want int64) {
		t.Helper()
		for _, name := range names {
			c, err := tls.Dial("tcp", r.addr("https"), &tls.Config{RootCAs: testCA.Pool(), ServerName: name})
			if err != nil {
				t.Fatal(err)
			}
			if got := c.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); got != want {
				t.Errorf("%s shows the certificate %d, want %d", name, got, want)
			}
			c.Close()
		}
	}
	set := []string{"hosts", "set", "shop.example", "--to", "https://to.example/", "--also", "also.example", "--redirect-from", "from.example", "--certificate"}
	for _, tt := range []struct {
		certificate string
		serial      int64
	}{{"b", 2}, {"auto", 1}} {
		r.must(append(set, tt.certificate)...)
		head, err := r.shared.db.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r.has(head.Rev)
		shows(tt.serial)
	}
}
