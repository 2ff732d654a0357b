package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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
	heldAgain = 10 * time.Minute // hosts have come or gone
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
		case <-time.After(heldAgain):
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
// certificates for a name the last counts, so that one that was renewed does not. A
// name that is not served any more does not count either; a wildcard may be in use
// for any name below it.
func (n *node) lookHeld(ctx context.Context) {
	status := n.shared.replica.Status()
	held := telemetry.Held{Certificates: int(status.Items[store.KindCertificate])}
	sealed, opened := map[string]struct{}{}, false
	var name string
	var last int64
	table := n.current()
	end := func() {
		if at := time.Unix(last, 0); (strings.HasPrefix(name, "*.") || table.Serves(name)) && (held.FirstExpiry.IsZero() || at.Before(held.FirstExpiry)) {
			held.FirstExpiry = at
		}
	}
	for it, err := range n.shared.replica.Scan(store.KindServerName, "") {
		if err != nil || ctx.Err() != nil {
			return // no content yet, or the end
		}
		item := store.Item(*it)
		s, certificate, err := item.ServerName()
		if err != nil {
			continue // it is not served either
		}
		if n.opens(&s) {
			opened = true
		} else {
			sealed[certificate] = struct{}{}
		}
		if of, _, _ := strings.Cut(it.Key, "/"); of != name {
			end()
			name, last = of, 0
		}
		last = max(last, s.NotAfter)
	}
	end()
	held.Sealed = len(sealed)
	before := n.certificates.sealed.Swap(&sealedKeys{len(sealed), held.Certificates, len(sealed) > 0 && !opened})
	if len(sealed) > 0 && (before == nil || before.count == 0) {
		n.logSealed("")
	}
	n.metrics.Stored(held)
}

// sealedKeys is what there is of certificates that this node cannot serve.
type sealedKeys struct {
	count, of int
	all       bool
}

// opens reports whether this node can serve the certificate of a server name.
func (n *node) opens(s *store.ServerName) bool {
	return s.SealedBy == "" || n.certificates.sealer.Opens(s.SealedBy)
}

// sealedNow is what lookHeld has found. Until it has found any, the first
// certificate stands for all of them: a node that can serve none must not say that
// it is ready for as long as looking at a million takes.
func (n *node) sealedNow() sealedKeys {
	if s := n.certificates.sealed.Load(); s != nil && s.of > 0 {
		return *s
	}
	for it, err := range n.shared.replica.Scan(store.KindServerName, "") {
		if err != nil {
			break // no content yet: another check says so
		}
		item := store.Item(*it)
		if s, _, err := item.ServerName(); err == nil && !n.opens(&s) {
			return sealedKeys{1, int(n.shared.replica.Status().Items[store.KindCertificate]), true}
		}
		break
	}
	return sealedKeys{}
}

func (n *node) logSealed(host string) {
	args := []any{"hint", sealedHint + "; what needs no such key is served"}
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

// sealedHint is what helps.
const sealedHint = "copy " + clusterKeyFile + " from the data folder of the node that made them, or set the same clusterKeyFile or clusterKeyEnv, and start this node again"

// heldErr is nil unless this node can serve no certificate of the store at all.
func (n *node) heldErr() error {
	if s := n.sealedNow(); s.all {
		return errors.New("this node's cluster key does not open the private key of any certificate of the store: none is served; " + sealedHint)
	}
	return nil
}

// heldDetail is what /readyz says of certificates while some can be served.
func (n *node) heldDetail() string {
	if some := n.someSealed(); some != "" {
		return some + "; " + sealedHint
	}
	return plural(int(n.shared.replica.Status().Items[store.KindCertificate]), "certificate") + " in the store"
}

// someSealed tells in a few words that not all certificates are served; empty
// otherwise.
func (n *node) someSealed() string {
	if s := n.sealedNow(); s.count > 0 {
		return fmt.Sprintf("%d of %s not served: sealed with another cluster key", s.count, plural(s.of, "certificate"))
	}
	return ""
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
