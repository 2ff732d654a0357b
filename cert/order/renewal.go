package order

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"fingerpost/cert/planner"
)

// windows asks the CAs when certificates should be renewed, each twice a day, by
// an index of when that is due.
func (i *Issuer) windows(ctx context.Context, fence int64, stop context.CancelCauseFunc) {
	for ctx.Err() == nil {
		now := time.Now()
		due, err := i.Driver.Storage.Range(ctx, KindDue, "", instant(now), page)
		if err == nil && len(due) > 0 {
			err = each(ctx, len(due), func(n int) error { return i.window(ctx, fence, due[n].Key) })
			if errors.Is(err, ErrFenced) {
				stop(err)
				return
			}
		}
		if err != nil && ctx.Err() == nil {
			i.Log.WarnContext(ctx, "renewal information is not asked for now; trying on", "error", err)
		}
		if err != nil || len(due) < page {
			sleep(ctx, i.untilDue(ctx))
		}
	}
}

// untilDue is how long nothing is due; a certificate that comes meanwhile can wait
// as long.
func (i *Issuer) untilDue(ctx context.Context) time.Duration {
	const most = 5 * time.Minute
	next, err := i.Driver.Storage.Range(ctx, KindDue, "", "", 1)
	if err != nil || len(next) == 0 {
		return most
	}
	text, _, _ := strings.Cut(next[0].Key, "/")
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return most
	}
	return min(max(time.Until(at), time.Second), most)
}

// window asks about one certificate.
func (i *Issuer) window(ctx context.Context, fence int64, key string) error {
	now := time.Now()
	_, id, _ := strings.Cut(key, "/")
	old := Record{Kind: KindDue, Key: key}
	value, err := i.Driver.Storage.Get(ctx, KindCertificate, id)
	if errors.Is(err, ErrNoRecord) {
		return i.write(ctx, fence, old)
	}
	if err != nil {
		return err
	}
	var c Certificate
	var chain []*x509.Certificate
	if err = json.Unmarshal(value, &c); err == nil {
		chain, err = parseChain(c.Chain)
	}
	if err != nil {
		i.Log.ErrorContext(ctx, "a stored certificate cannot be read; its renewal goes by its dates", "certificate", id, "error", err)
		return i.write(ctx, fence, old)
	}
	if c.Replaced || !c.Revoked.IsZero() || now.After(c.NotAfter) || i.Driver.CAs[c.CA] == nil {
		return i.write(ctx, fence, old)
	}
	window, next, err := i.Driver.CAs[c.CA].Window(ctx, chain[0])
	if ctx.Err() != nil {
		return ctx.Err()
	}
	settled := c.NotBefore.Add(min(24*time.Hour, c.NotAfter.Sub(c.NotBefore)/10))
	if err == nil && c.Replaces != "" && now.Before(settled) && window.Start.Before(now) && !window.Start.IsZero() {
		// A CA that wants each renewal renewed at once would never let us rest.
		i.Log.WarnContext(ctx, "the CA wants a fresh renewal renewed; it is asked again tomorrow", "certificate", id)
		window, next = c.Window, settled
	}
	if err != nil { // RFC 9773 4.3: what it said before stands until it answers
		next = now.Add(time.Hour)
		i.Log.DebugContext(ctx, "no renewal information", "certificate", id, "error", err)
	}
	records := []Record{old, {Kind: KindDue, Key: instant(next) + "/" + id, Value: []byte("{}")}}
	i.records <- struct{}{}
	defer func() { <-i.records }()
	changed := err == nil && window != c.Window
	if changed {
		// The CA has taken its time: it may be gone, or replaced, by now.
		value, getErr := i.Driver.Storage.Get(ctx, KindCertificate, id)
		if errors.Is(getErr, ErrNoRecord) {
			return i.write(ctx, fence, old)
		}
		c = Certificate{}
		if getErr == nil {
			getErr = json.Unmarshal(value, &c)
		}
		if getErr != nil {
			return getErr
		}
		if !c.Revoked.IsZero() {
			return i.write(ctx, fence, old)
		}
		c.Window = window
		records = append(records, record(KindCertificate, id, c))
	}
	if err := i.write(ctx, fence, records...); err != nil {
		return err
	}
	if changed {
		i.mu.Lock()
		if i.planner != nil {
			i.planner.Window(time.Now(), id, window)
		}
		i.mu.Unlock()
		i.wake()
	}
	return nil
}

// Window asks when the CA wants a certificate renewed (RFC 9773), and when to ask
// again. A CA that has no such thing gives the zero Window.
func (c *CA) Window(ctx context.Context, leaf *x509.Certificate) (w planner.Window, next time.Time, err error) {
	next = time.Now().Add(ariEvery - time.Duration(rand.Int64N(int64(ariEvery/10))))
	dir, err := c.Directory(ctx)
	if err != nil {
		return w, next, err
	}
	if dir.RenewalInfo == "" {
		return w, next, nil
	}
	err = call(ctx, false, func(ctx context.Context) error {
		info, err := c.acme().GetRenewalInfo(ctx, leaf)
		if err != nil {
			return err
		}
		w = planner.Window{Start: info.SuggestedWindow.Start.UTC(), End: info.SuggestedWindow.End.UTC()}
		if info.RetryAfter != nil { // RFC 9773 4.3: within reason
			next = time.Now().Add(min(max(time.Until(*info.RetryAfter), time.Minute), 24*time.Hour))
			next = minTime(next, time.Now().Add(ariEvery))
		}
		return nil
	})
	return w, next, c.failed("ask for renewal information", err)
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
