package main

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"time"

	"fingerpost/cert"
	"fingerpost/cert/order"
	"fingerpost/cert/planner"
	"fingerpost/replica"
	"fingerpost/store"
	"fingerpost/telemetry"
)

// What a node tells of its certificates: in metrics, in /readyz, in the log.

// Looking through the names of all certificates takes a second where there are a
// million: it is done again when it has not taken more than a twentieth of the time.
const (
	heldPause = time.Second
	heldShare = 20
)

// followHeld tells of the store's certificates whenever they are others, until ctx
// ends.
func (n *node) followHeld(ctx context.Context) {
	if n.shared == nil {
		return
	}
	for ctx.Err() == nil {
		begin := time.Now()
		n.lookHeld(ctx)
		pause := max(heldPause, heldShare*time.Since(begin))
		select {
		case <-n.certificates.changed:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(pause): // what comes together is looked at together
		case <-ctx.Done():
		}
	}
}

// lookHeld finds the name that is left without a certificate first: of several
// certificates for a name the last counts, so that one that was renewed does not.
func (n *node) lookHeld(ctx context.Context) {
	status := n.shared.replica.Status()
	held := telemetry.Held{Certificates: int(status.Items[store.KindCertificate])}
	var name string
	var last int64
	end := func() {
		if at := time.Unix(last, 0); name != "" && (held.FirstExpiry.IsZero() || at.Before(held.FirstExpiry)) {
			held.FirstExpiry = at
		}
	}
	for it, err := range n.shared.replica.Scan(store.KindServerName, "") {
		if err != nil || ctx.Err() != nil {
			return // no content yet, or the end
		}
		item := store.Item(*it)
		s, _, err := item.ServerName()
		if err != nil {
			continue // it is not served either
		}
		if of, _, _ := strings.Cut(it.Key, "/"); of != name {
			end()
			name, last = of, 0
		}
		last = max(last, s.NotAfter)
	}
	end()
	if err := n.tryKey(); errors.Is(err, cert.ErrSealed) {
		held.Sealed = 1
		if !n.certificates.sealed.Swap(true) {
			n.logSealed("")
		}
	} else {
		n.certificates.sealed.Store(false)
	}
	n.metrics.Stored(held)
}

// tryKey opens the key of one certificate of the store: what one node has sealed
// the others open, or they have another cluster key.
func (n *node) tryKey() error {
	for it, err := range n.shared.replica.Scan(store.KindCertificate, "") {
		if err != nil {
			return err
		}
		item := store.Item(*it)
		c, err := item.Certificate()
		if err == nil {
			_, err = n.certificates.sealer.Open(cert.KeyPurpose, c.Key)
		}
		return err
	}
	return nil
}

func (n *node) logSealed(host string) {
	args := []any{"hint", "give this node the " + clusterKeyFile + " of the first, or the same clusterKeyFile or clusterKeyEnv; what needs no such key is served"}
	if host != "" {
		args = append(args, "host", host)
	}
	n.log.Error("certificates of the store cannot be served: this node's cluster key does not open their private keys", args...)
}

// certificate is [cert.Served.Certificate]; the log hears of those that cannot be
// given, now and then.
func (n *node) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c, err := n.certificates.served.Certificate(hello)
	if err != nil {
		n.certificates.failing.Do(time.Now(), func() {
			if errors.Is(err, cert.ErrSealed) {
				n.logSealed(hello.ServerName)
				return
			}
			n.log.Error("a certificate cannot be served", "host", hello.ServerName, "err", oneLine(err))
		})
	}
	return c, err
}

// heldDetail is what /readyz says of certificates.
func (n *node) heldDetail() string {
	if n.certificates.sealed.Load() {
		return "this node's cluster key does not open the private keys of the store's certificates: they are not served"
	}
	return plural(int(n.shared.replica.Status().Items[store.KindCertificate]), "certificate") + " in the store"
}

// countOrders puts what is ordered into the metrics.
func (n *node) countOrders() {
	issuer := n.certificates.issuer
	issuer.Ended = func(ca string, result order.Result) { n.metrics.Order(ca, string(result)) }
	n.metrics.Issuing(func() (s telemetry.Issuing, ok bool) {
		ok = issuer.Ask(func(p *planner.Planner, now time.Time) {
			t := p.Totals()
			s = telemetry.Issuing{Names: map[string]int{}, Open: t.Open, Queued: t.Queued}
			for state, count := range t.Names {
				s.Names[string(state)] = count
			}
			for _, r := range p.Rooms(now) {
				s.Rooms = append(s.Rooms, telemetry.Room{CA: r.CA, Orders: r.Orders, ParkedUntil: r.ParkedUntil})
			}
		})
		return s, ok
	})
}

// certificatesChanged makes what was said of names old, and lets followHeld look.
func (n *node) certificatesChanged(changes []replica.Change) {
	other := changes == nil
	for i := range changes {
		other = other || changes[i].Item.Kind == store.KindServerName
	}
	if !other {
		return
	}
	n.certificates.version.Add(1)
	select {
	case n.certificates.changed <- struct{}{}:
	default: // it is told already
	}
}
