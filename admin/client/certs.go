package client

import (
	"context"
	"io"
	"iter"
	"net/http"
	"net/url"

	"fingerpost/admin"
)

// CertificateFilter chooses certificates. Empty fields choose all.
type CertificateFilter struct {
	Status string
	Team   string
	Name   string // a host name that they are for
}

// Certificates lists certificates, then names that wait for one, then open requests.
func (c *Client) Certificates(ctx context.Context, f CertificateFilter) iter.Seq2[admin.CertificateResource, error] {
	return pages[admin.CertificateResource](ctx, c, "/certificates", values("status", f.Status, "team", f.Team, "name", f.Name))
}

// Certificate reads one.
func (c *Client) Certificate(ctx context.Context, name string) (v admin.CertificateResource, err error) {
	return v, c.get(ctx, path("certificates", name), nil, &v)
}

// Import is a certificate to bring. What it is, the server finds out.
type Import struct {
	Name        string // of the certificate
	Bundle      string // PEM, or PEM or PKCS #12 in base64
	Password    string // of PKCS #12
	Team        string
	AllowLosing bool
	DryRun      bool
	Note        string
	Key         string // the Idempotency-Key
}

// ImportCertificate brings a certificate into force.
func (c *Client) ImportCertificate(ctx context.Context, i Import) (out admin.Imported, err error) {
	q := values("note", i.Note)
	flag(q, "allowLosing", i.AllowLosing)
	flag(q, "dryRun", i.DryRun)
	in := map[string]string{"name": i.Name, "bundle": i.Bundle}
	for name, v := range map[string]string{"password": i.Password, "team": i.Team} {
		if v != "" {
			in[name] = v
		}
	}
	return out, c.do(ctx, http.MethodPost, "/certificates/import", q, Write{Key: i.Key}.header(), in, &out)
}

func flag(q url.Values, name string, set bool) {
	if set {
		q.Set(name, "true")
	}
}

// Signing is what a signing request is to say. The names of its JSON are the API's.
type Signing struct {
	Name         string   `json:"name"`
	Names        []string `json:"names"`
	KeyType      string   `json:"keyType,omitempty"` // ecdsa or rsa
	Organization string   `json:"organization,omitempty"`
	Locality     string   `json:"locality,omitempty"`
	Province     string   `json:"province,omitempty"`
	Country      string   `json:"country,omitempty"`
	Team         string   `json:"team,omitempty"`
	Replace      bool     `json:"replace,omitempty"`
}

// RequestSigning makes a signing request, which is in Request of the result.
func (c *Client) RequestSigning(ctx context.Context, in Signing) (v admin.CertificateResource, err error) {
	return v, c.do(ctx, http.MethodPost, "/certificates/csr", nil, nil, in, &v)
}

// RenewCertificate begins the renewal of a certificate now.
func (c *Client) RenewCertificate(ctx context.Context, name string) (v admin.CertificateResource, err error) {
	return v, c.do(ctx, http.MethodPost, path("certificates", name, "renew"), nil, nil, nil, &v)
}

// AddCertificateName orders a certificate again with one name more, or only tells what
// that costs.
func (c *Client) AddCertificateName(ctx context.Context, certificate, name string, dryRun bool) (cost admin.CostResource, err error) {
	q := url.Values{}
	flag(q, "dryRun", dryRun)
	return cost, c.do(ctx, http.MethodPost, path("certificates", certificate, "names"), q, nil, map[string]string{"name": name}, &cost)
}

// ExportCertificate gives a certificate with its key.
func (c *Client) ExportCertificate(ctx context.Context, name string) (v admin.ExportedCertificate, err error) {
	return v, c.do(ctx, http.MethodPost, path("certificates", name, "export"), nil, nil, nil, &v)
}

// DeleteCertificate deletes a certificate or an open request; with force also one that
// hosts are left without.
func (c *Client) DeleteCertificate(ctx context.Context, name string, force bool, w Write) (r admin.Result, err error) {
	q := w.query()
	flag(q, "force", force)
	return r, c.do(ctx, http.MethodDelete, path("certificates", name), q, w.header(), nil, &r)
}

// HostCertificate tells how the names of a host stand with their certificates.
func (c *Client) HostCertificate(ctx context.Context, host string) (v admin.HostCertificateResource, err error) {
	return v, c.get(ctx, path("hosts", host, "certificate"), nil, &v)
}

// Probe gives what only nodes of ours answer for a host over http.
func (c *Client) Probe(ctx context.Context, host string) (v admin.ProbeResource, err error) {
	return v, c.get(ctx, path("hosts", host, "probe"), nil, &v)
}

// RequestHostCertificate has the names of a host checked and ordered now.
func (c *Client) RequestHostCertificate(ctx context.Context, host string) (v admin.HostCertificateResource, err error) {
	return v, c.do(ctx, http.MethodPost, path("hosts", host, "certificate"), nil, nil, nil, &v)
}

// CNAMEs streams the records that let domains be validated over DNS, as csv, bind or
// json. The caller closes it.
func (c *Client) CNAMEs(ctx context.Context, format, team string) (io.ReadCloser, error) {
	resp, err := c.send(ctx, call{method: http.MethodGet, path: "/certificates/cnames", query: values("format", format, "team", team)})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}
