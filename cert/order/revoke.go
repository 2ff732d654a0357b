package order

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"fingerpost/cert"
	"fingerpost/cert/planner"
)

// RevocationReasons are the reasons that a CA takes from us (RFC 5280 5.3.1, as far
// as the rules of public CAs leave them to subscribers).
var RevocationReasons = map[string]int{
	"":                     acme.ReasonUnspecified,
	"keyCompromise":        acme.ReasonKeyCompromise,
	"superseded":           acme.ReasonSuperseded,
	"cessationOfOperation": acme.ReasonCessationOfOperation,
}

// Pauses between two tries to revoke at a CA that does not answer.
const (
	revokePause = 5 * time.Second
	revokeMost  = 10 * time.Minute
)

// overSince is the window of a certificate that is to be renewed at once: one that was
// revoked is served until there is another, since it is the key that is of no worth
// and not the host.
func overSince(t time.Time) planner.Window {
	return planner.Window{Start: t.Add(-2 * time.Hour), End: t.Add(-time.Hour)}
}

// revoke does an AskRevoke: first at the CA, then in what is stored. A process that
// dies between them asks the CA again, which says that it is done. The error is that
// of a write.
func (i *Issuer) revoke(ctx context.Context, fence int64, key string) error {
	i.mu.Lock()
	t := i.asks[key]
	i.mu.Unlock()
	err := i.revokeAtCA(ctx, fence, &t.Ask)
	if ctx.Err() != nil {
		return nil // whoever comes next does it
	}
	now := time.Now()
	end := func(reason string, records ...Record) error {
		i.mu.Lock()
		records = append(records, i.over(now, key, reason)...)
		i.mu.Unlock()
		return i.write(ctx, fence, records...)
	}
	switch {
	case errors.Is(err, ErrNoRecord):
		return end("there is no certificate of that name any more")
	case passes(err):
		i.Log.WarnContext(ctx, "a certificate is not revoked yet; trying on", "certificate", t.Certificate, "error", err)
		i.mu.Lock()
		t.pause = min(max(2*t.pause, revokePause), revokeMost)
		t.busy, t.next = false, now.Add(t.pause)
		if retry := RetryAfter(err); retry.After(t.next) {
			t.next = retry
		}
		i.mu.Unlock()
		return nil
	case err != nil:
		return end(err.Error())
	}
	i.records <- struct{}{}
	defer func() { <-i.records }()
	c, err := i.stored(ctx, t.Certificate)
	switch {
	case errors.Is(err, ErrNoRecord): // deleted meanwhile
		return end("")
	case err != nil:
		i.mu.Lock()
		t.busy, t.next = false, now.Add(revokePause)
		i.mu.Unlock()
		return nil
	}
	if !c.Revoked.IsZero() { // somebody else has asked, too
		return end("")
	}
	c.Revoked, c.RevokedFor = now.UTC().Truncate(time.Second), t.Reason
	i.mu.Lock()
	e := i.event(now, Event{What: EventRevoked, Names: c.Names, Certificate: c.ID, CA: c.CA, Team: c.Policy.Team, Reason: t.Reason})
	i.mu.Unlock()
	if err := end("", record(KindCertificate, c.ID, c), e); err != nil {
		return err
	}
	i.Log.InfoContext(ctx, "certificate revoked", "certificate", c.ID, "ca", c.CA, "reason", t.Reason)
	i.tell(func(p *planner.Planner, now time.Time) error {
		p.Window(now, c.ID, c.plan().Window)
		return nil
	})
	return nil
}

// stored reads a certificate's record.
func (i *Issuer) stored(ctx context.Context, id string) (*Certificate, error) {
	value, err := i.Driver.Storage.Get(ctx, KindCertificate, id)
	if err != nil {
		return nil, err
	}
	c := new(Certificate)
	return c, json.Unmarshal(value, c)
}

// revokeAtCA has the CA revoke. With keyCompromise it is the certificate's own key
// that signs: a CA then takes that key from nobody any more.
func (i *Issuer) revokeAtCA(ctx context.Context, fence int64, a *Ask) error {
	c, err := i.stored(ctx, a.Certificate)
	switch {
	case errors.Is(err, ErrNoRecord):
		return err
	case err != nil:
		return &Later{Err: fmt.Errorf("read certificate %s: %w", a.Certificate, err)}
	case !c.Revoked.IsZero():
		return nil
	}
	ca := i.Driver.CAs[c.CA]
	if ca == nil {
		return fmt.Errorf("the CA %q, which issued it, is not in the configuration any more", c.CA)
	}
	reason, ok := RevocationReasons[a.Reason]
	if !ok {
		return fmt.Errorf("%q is no reason that a CA takes", a.Reason)
	}
	chain, err := parseChain(c.Chain)
	if err != nil {
		return fmt.Errorf("the stored certificate cannot be read: %w", err)
	}
	var own crypto.Signer
	if reason == acme.ReasonKeyCompromise {
		if own, err = unsealKey(i.Driver, cert.KeyPurpose(c.ID), c.Key); err != nil {
			return err
		}
	}
	account, err := ca.accountAt(ctx, i.Driver, fence)
	if err != nil {
		return err
	}
	err = call(ctx, false, func(ctx context.Context) error {
		return ca.acme().RevokeCertificate(ctx, account, chain[0], own, reason)
	})
	var p *Problem
	if errors.As(err, &p) {
		switch p.Code() {
		case "alreadyRevoked":
			return nil
		case "accountDoesNotExist":
			if err := ca.forgetAccount(ctx, i.Driver, fence); err != nil {
				return &Later{Err: err}
			}
			return &Later{Err: err}
		}
	}
	return ca.failed("revoke certificate "+c.ID, err)
}
