package admin

import (
	"context"
	"net/http"
	"time"

	"fingerpost"
	"fingerpost/cert/order"
	"fingerpost/store"
)

type revokeInput struct {
	CertificateInput
	Note string `query:"note" maxLength:"1000" doc:"why, for the audit"`
	Body *struct {
		Reason string `json:"reason,omitempty" enum:"keyCompromise,superseded,cessationOfOperation" doc:"what the CA is told; keyCompromise: it takes this key from nobody any more"`
	}
}

// revokeCertificate has the CA revoke a certificate. It is served until another one,
// with a new key, is live, whatever the reason: who has stolen a key shows the
// certificate without us, and visitors would find nobody. One that was imported is
// only marked: its CA takes that from whoever bought it.
func (s *Server) revokeCertificate(ctx context.Context, in *revokeInput) (*certificateOutput, error) {
	c, err := s.certificates()
	if err != nil {
		return nil, err
	}
	p := principalOf(ctx)
	it, err := s.Store.Get(ctx, store.KindCertificate, in.Name)
	if err != nil {
		return nil, err
	}
	if err := authorize(p, Revoke, it.Team); err != nil {
		return nil, err
	}
	v, err := it.Certificate()
	if err != nil {
		return nil, err
	}
	reason := ""
	if in.Body != nil {
		reason = in.Body.Reason
	}
	if !v.Revoked.IsZero() {
		return nil, problem(http.StatusConflict, "revoked", "the certificate "+v.Name+" is revoked already", "GET certificates/{name} says what comes next")
	}
	status := http.StatusAccepted
	if v.Type == fingerpost.Imported {
		status = http.StatusOK
		err = s.markRevoked(ctx, p, &it, v, reason, in.Note)
	} else if c, err = s.asking(); err == nil {
		err = c.Ask(ctx, Ask{Do: order.AskRevoke, Certificate: v.Name, Reason: reason})
	}
	if err != nil {
		return nil, err
	}
	if err := s.noteCertificate(ctx, p, "revoke", v.Name, map[string]any{"reason": reason, "note": in.Note, "serial": v.Serial}); err != nil {
		return nil, err
	}
	r, err := s.certificateResource(ctx, c, v.Name)
	if err != nil {
		return nil, err
	}
	return &certificateOutput{Status: status, ETag: entityTag(r.Rev), Body: *r}, nil
}

func (s *Server) markRevoked(ctx context.Context, p *Principal, it *store.Item, v *fingerpost.Certificate, reason, note string) error {
	marked := *v
	marked.Revoked, marked.RevokedFor = s.now().UTC().Truncate(time.Second), reason
	changes, err := store.CertificateChanges(v, &marked)
	if err != nil {
		return err
	}
	changes[0].If = it.Rev
	_, err = s.Store.Commit(ctx, store.Batch{Changes: changes, Actor: p.actor(), Note: note})
	return err
}

// describeRevoked says of a certificate that it was revoked, and what comes next.
func describeRevoked(r *CertificateResource, v *fingerpost.Certificate) {
	r.Status = StatusRevoked
	day := v.Revoked.UTC().Format(time.DateOnly)
	r.Reason = "its CA has revoked it, as was asked for on " + day
	r.NextStep = "another one, with a new key, is being ordered; this one is served until that is live"
	if v.Type == fingerpost.Imported {
		r.Reason = "it was marked as revoked on " + day
		r.NextStep = "have its CA revoke it, and import its successor under the same name; until then it is served, and where a CA is set up another one is ordered"
	}
	if v.RevokedFor != "" {
		r.Reason += " (" + v.RevokedFor + ")"
	}
}
