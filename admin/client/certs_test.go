package client

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"fingerpost/admin"
	"fingerpost/internal/testca"
)

// useCertificates calls every method about certificates, for a host a.example.
func useCertificates(t *testing.T, c *Client) {
	t.Helper()
	ctx := t.Context()
	var p *admin.Problem
	asked, err := c.RequestSigning(ctx, Signing{Name: "shop", Names: []string{"a.example"}, Organization: "Shop"})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(asked.Request))
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	root := testca.New()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Sign(testca.Template("a.example"), request.PublicKey)})
	imported, err := c.ImportCertificate(ctx, Import{Name: "shop", Bundle: string(text), Note: "new", Key: "import"})
	if err != nil || !imported.Changed || imported.Certificate.Serial == "" {
		t.Fatalf("imported %+v: %v", imported, err)
	}
	if list := collect(t, c.Certificates(ctx, CertificateFilter{Status: admin.StatusIssued, Name: "a.example"})); len(list) != 1 {
		t.Errorf("listed %+v", list)
	}
	if one, err := c.Certificate(ctx, "shop"); err != nil || !slices.Contains(one.InUse, "a.example") {
		t.Errorf("got %+v: %v", one, err)
	}
	if _, err := c.RenewCertificate(ctx, "shop"); !errors.As(err, &p) || p.Code != "imported" {
		t.Errorf("renewed: %v", err)
	}
	if _, err := c.AddCertificateName(ctx, "shop", "b.example", true); !errors.As(err, &p) || p.Code != "imported" {
		t.Errorf("added: %v", err)
	}
	for e, err := range c.CertificateEvents(ctx, EventFilter{Since: time.Now().Add(-time.Hour), What: "issued"}) {
		t.Errorf("an event where nothing was ordered: %+v, %v", e, err)
	}
	if v, err := c.RevokeCertificate(ctx, "shop", "superseded", "test"); err != nil || v.Status != "revoked" {
		t.Errorf("revoke: %+v, %v", v, err)
	}
	if _, err := c.RevokeCertificate(ctx, "shop", "", ""); !errors.As(err, &p) || p.Code != "revoked" {
		t.Errorf("revoke again: %v", err)
	}
	if out, err := c.ExportCertificate(ctx, "shop"); err != nil || !strings.Contains(out.Key, "PRIVATE KEY") {
		t.Errorf("exported %d bytes: %v", len(out.Key), err)
	}
	if h, err := c.HostCertificate(ctx, "a.example"); err != nil || !h.Live {
		t.Errorf("the host is %+v: %v", h, err)
	}
	if p, err := c.Probe(ctx, "a.example"); err != nil || p.Path == "" || p.Answer == "" {
		t.Errorf("the probe: %+v %v", p, err)
	}
	if h, err := c.RequestHostCertificate(ctx, "a.example"); err != nil || h.Host != "a.example" {
		t.Errorf("asked for %+v: %v", h, err)
	}
	body, err := c.CNAMEs(ctx, "bind", "")
	if err != nil {
		t.Fatal(err)
	}
	lines, err := io.ReadAll(body)
	if body.Close(); err != nil || !strings.Contains(string(lines), "_acme-challenge.a.example.") {
		t.Errorf("records %s: %v", lines, err)
	}
	if _, err := c.DeleteCertificate(ctx, "shop", false, Write{}); !errors.As(err, &p) || p.Code != "in_use" {
		t.Errorf("deleted in use: %v", err)
	}
	if r, err := c.DeleteCertificate(ctx, "shop", true, Write{Note: "gone"}); err != nil || r.Removed != 2 {
		t.Errorf("deleted %+v: %v", r, err)
	}
}
