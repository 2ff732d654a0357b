package main

import (
	"context"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"fingerpost"
	"fingerpost/cert/order"
	"fingerpost/cert/planner"
	"fingerpost/replica"
	"fingerpost/store"
)

// wantedNames are the names that the issuer of this node was told of, and the
// certificates that hosts name in their settings.
type wantedNames struct {
	mu   sync.Mutex // guards both
	told map[string]planner.Policy
	used map[string]bool
}

// wantedList is [order.Issuer.Wanted]: every name that is served and needs a
// certificate from a CA. It is made of the node's own copy. Whoever asks has just
// become the one that orders.
func (n *node) wantedList(ctx context.Context) ([]order.Want, error) {
	names, used, err := n.wantedNames(ctx)
	if err != nil {
		return nil, err
	}
	w := &n.certificates.wanted
	w.mu.Lock()
	w.told, w.used = names, used
	w.mu.Unlock()
	list := make([]order.Want, 0, len(names))
	for _, name := range slices.Sorted(maps.Keys(names)) {
		list = append(list, order.Want{Name: name, Policy: names[name]})
	}
	return list, nil
}

// wantedNames gives the names that need a certificate: of hosts that ask for none or
// name one, none; of those that are only named in redirects, too. And the certificates
// that hosts name.
func (n *node) wantedNames(ctx context.Context) (names map[string]planner.Policy, used map[string]bool, err error) {
	names, used = map[string]planner.Policy{}, map[string]bool{}
	add := func(pattern, team string) {
		for _, name := range fingerpost.CertificateNames(pattern) {
			if !n.provided(name) {
				names[name] = n.policy(team)
			}
		}
	}
	settled := map[string]bool{} // hosts whose settings say what certificate they have
	for it, err := range n.shared.replica.Scan(replica.KindHost, "") {
		if err != nil {
			return nil, nil, err
		}
		item := store.Item(*it)
		h, err := item.Host()
		if err != nil {
			continue // it is not served either
		}
		auto := h.Certificate == "" || h.Certificate == "auto"
		if !auto {
			used[h.Certificate] = true
		}
		for _, pattern := range append(append([]string{h.Name}, h.Also...), h.RedirectFrom...) {
			if settled[pattern] = true; auto {
				add(pattern, h.Team)
			}
		}
	}
	last := ""
	for it, err := range n.shared.replica.Scan(replica.KindRedirect, "") {
		if err != nil {
			return nil, nil, err
		}
		if host, _, _ := strings.Cut(it.Key, "/"); host != last {
			if last = host; !settled[host] {
				add(host, it.Team)
			}
			if err := ctx.Err(); err != nil {
				return nil, nil, err
			}
		}
	}
	return names, used, nil
}

// certificateUsed reports whether a host names a certificate in its settings, as far as
// the issuer was told. What is merely served is not in use in this sense: another is
// there before it goes, and every node learns of both in that order.
func (n *node) certificateUsed(id string) bool {
	w := &n.certificates.wanted
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.used[id]
}

// importedLeft is how long a certificate that somebody brings must be valid still to
// keep a CA's from being ordered: whoever forgets its successor is not left without.
const importedLeft = 7 * 24 * time.Hour

// provided reports whether somebody brings a certificate for a name, a host or a
// wildcard, or for the wildcard above it: in the folder, or by an import.
func (n *node) provided(name string) bool {
	if n.certs.Index().CoversUntil(name, time.Now().Add(importedLeft)) || n.imported(name) {
		return true
	}
	label, suffix, ok := strings.Cut(name, ".")
	return ok && label != "*" && n.imported("*."+suffix)
}

// imported reports whether a name has an imported certificate that nearly all clients
// can verify. One for RSA stands beside ours.
func (n *node) imported(name string) bool {
	for it, err := range n.shared.replica.Scan(store.KindServerName, name+"/") {
		if err != nil {
			return false
		}
		item := store.Item(*it)
		if s, _, err := item.ServerName(); err == nil && s.Imported && s.ECDSA && !s.Revoked && time.Until(time.Unix(s.NotAfter, 0)) > importedLeft {
			return true
		}
	}
	return false
}

// policy is how names of a team are ordered.
func (n *node) policy(team string) planner.Policy {
	return planner.Policy{Team: team, Pack: n.settings.ACME.Pack}
}

// Looking through all names takes time where there are millions: it is done again
// at the earliest when it has not taken more than a twentieth of the time.
const (
	wantedPause = 500 * time.Millisecond
	wantedShare = 20
	wantedAgain = time.Minute
)

// followWanted tells the issuer of names that have come and gone, until ctx ends.
func (n *node) followWanted(ctx context.Context) {
	for ctx.Err() == nil {
		_, changed := n.cursor()
		begin := time.Now()
		n.tellWanted(ctx)
		pause := max(wantedPause, wantedShare*time.Since(begin))
		select {
		case <-changed:
		case <-time.After(wantedAgain): // what this node could not be told, or began to order since
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(pause): // what comes together is told together
		case <-ctx.Done():
		}
	}
}

func (n *node) tellWanted(ctx context.Context) {
	w, issuer := &n.certificates.wanted, n.certificates.issuer
	if !issuer.Ask(func(*planner.Planner, time.Time) {}) {
		return // another node orders; what is wanted is listed when this one does
	}
	now, used, err := n.wantedNames(ctx)
	if err != nil {
		if ctx.Err() == nil {
			n.log.Warn("the names that need certificates cannot be listed; it is tried again", "err", err)
		}
		return
	}
	w.mu.Lock()
	before := w.told
	w.told, w.used = now, used
	w.mu.Unlock()
	for name, policy := range now {
		if was, ok := before[name]; ok && samePolicy(was, policy) {
			continue
		}
		if err := issuer.Want(ctx, order.Want{Name: name, Policy: policy}); err != nil {
			n.log.Warn("a name that needs a certificate is told later", "name", name, "err", err)
			w.mu.Lock()
			delete(w.told, name)
			w.mu.Unlock()
		}
	}
	for name := range before {
		if _, ok := now[name]; !ok {
			issuer.Drop(name)
		}
	}
}

func samePolicy(a, b planner.Policy) bool {
	return a.Team == b.Team && a.Profile == b.Profile && a.Pack == b.Pack && slices.Equal(a.CAs, b.CAs)
}

// systemResolvers reads the name servers of a resolv.conf.
func systemResolvers(file string) []string {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var list []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "nameserver" {
			if addr, err := netip.ParseAddr(f[1]); err == nil {
				list = append(list, netip.AddrPortFrom(addr, 53).String())
			}
		}
	}
	return list
}
