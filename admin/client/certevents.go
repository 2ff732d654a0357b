package client

import (
	"context"
	"iter"
	"net/http"
	"time"

	"fingerpost/admin"
)

// EventFilter chooses events of certificates. Empty fields choose all.
type EventFilter struct {
	Since       time.Time
	What        string
	Name        string // a host name
	Certificate string
	Team        string
}

// CertificateEvents lists what has happened to names and certificates, the oldest first.
func (c *Client) CertificateEvents(ctx context.Context, f EventFilter) iter.Seq2[admin.CertificateEvent, error] {
	since := ""
	if !f.Since.IsZero() {
		since = f.Since.UTC().Format(time.RFC3339)
	}
	return pages[admin.CertificateEvent](ctx, c, "/certificates/events", values("since", since, "what", f.What, "name", f.Name, "certificate", f.Certificate, "team", f.Team))
}

// RevokeCertificate has the CA revoke a certificate for a reason, "" for none.
func (c *Client) RevokeCertificate(ctx context.Context, name, reason, note string) (v admin.CertificateResource, err error) {
	in := map[string]string{}
	if reason != "" {
		in["reason"] = reason
	}
	return v, c.do(ctx, http.MethodPost, path("certificates", name, "revoke"), values("note", note), nil, in, &v)
}
