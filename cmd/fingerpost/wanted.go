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

// wantedNames are what the issuer of this node is told of: the names that need a
// certificate from a CA, and the certificates that hosts name in their settings. Who
// begins to order looks through all content; from then on it follows the changes.
type wantedNames struct {
	telling sync.Mutex // one at a time tells the issuer; guards again
	again   time.Time  // when all content may be looked through again

	mu  sync.Mutex // guards now, and what is in it
	now *wantedNow

	noting  sync.Mutex // guards what follows
	all     bool       // everything may be another
	changed map[string]struct{}
	wild    map[string]bool // wildcards that somebody has imported
	news    chan struct{}   // holds one
}

// wantedNow is all that is wanted at one moment.
type wantedNow struct {
	names   map[string]planner.Policy
	used    map[string]int      // hosts that name a certificate
	hosts   map[string]settings // of hosts that have any
	aliases map[string][]string // forms that hosts name beside their own, and the keys of those hosts
}

// settings are what a host says that reaches beyond its own name.
type settings struct {
	forms       []string // also and redirectFrom
	certificate string   // that it names
}

// note is told of items that are others; nil: all may be.
func (w *wantedNames) note(changes []replica.Change) {
	w.noting.Lock()
	defer w.noting.Unlock()
	w.all = w.all || changes == nil
	if w.changed == nil {
		w.changed, w.wild = map[string]struct{}{}, map[string]bool{}
	}
	for i := range changes {
		it := &changes[i].Item
		key, _, _ := strings.Cut(it.Key, "/")
		switch it.Kind {
		case store.KindHost, store.KindRedirect:
			w.changed[key] = struct{}{}
		case store.KindServerName:
			if strings.HasPrefix(key, "*.") { // all names below it may depend on one that was imported
				imported := changes[i].Op == replica.Put && isImported(it)
				w.all = w.all || imported || w.wild[key]
				w.wild[key] = imported || w.wild[key]
			}
			w.changed[key] = struct{}{}
		}
	}
	if len(w.changed) > mostChanged {
		w.all = true
	}
	if w.all {
		clear(w.changed)
	}
	if w.all || len(w.changed) > 0 {
		select {
		case w.news <- struct{}{}:
		default:
		}
	}
}

// mostChanged is how many changes are followed one by one.
const mostChanged = 10_000

// take gives what has changed since it was last asked. Where all has, that stays for
// later unless it may be looked through now.
func (w *wantedNames) take(mayAll bool) (all bool, changed map[string]struct{}) {
	w.noting.Lock()
	defer w.noting.Unlock()
	all, changed = w.all && mayAll, w.changed
	w.all, w.changed = w.all && !mayAll, map[string]struct{}{}
	return all, changed
}

func isImported(it *replica.Item) bool {
	item := store.Item(*it)
	s, _, err := item.ServerName()
	return err == nil && s.Imported
}

// wantedList is [order.Issuer.Wanted]: every name that is served and needs a
// certificate from a CA. It is made of the node's own copy. Whoever asks has just
// become the one that orders.
func (n *node) wantedList(ctx context.Context) ([]order.Want, error) {
	w := &n.certificates.wanted
	w.telling.Lock()
	defer w.telling.Unlock()
	now, err := n.allWanted(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]order.Want, 0, len(now.names))
	for _, name := range slices.Sorted(maps.Keys(now.names)) {
		list = append(list, order.Want{Name: name, Policy: now.names[name]})
	}
	return list, nil
}

// allWanted looks through all content: hosts that ask for a certificate or say
// nothing of it, and names that only redirects have. The caller holds telling.
func (n *node) allWanted(ctx context.Context) (*wantedNow, error) {
	w := &n.certificates.wanted
	w.take(true) // what changes from here on is looked at again
	begin := time.Now()
	now := &wantedNow{names: map[string]planner.Policy{}, used: map[string]int{}, hosts: map[string]settings{}, aliases: map[string][]string{}}
	if err := n.lookThrough(ctx, now); err != nil {
		w.note(nil)
		return nil, err
	}
	w.again = time.Now().Add(wantedShare * time.Since(begin))
	w.mu.Lock()
	w.now = now
	w.mu.Unlock()
	return now, nil
}

func (n *node) lookThrough(ctx context.Context, now *wantedNow) error {
	add := func(form, team string) {
		for _, name := range fingerpost.CertificateNames(form) {
			if !n.provided(name) {
				now.names[name] = n.policy(team)
			}
		}
	}
	settled := map[string]bool{} // forms whose hosts say what certificate they have
	for it, err := range n.shared.replica.Scan(replica.KindHost, "") {
		if err != nil {
			return err
		}
		h := asHost(it)
		if h == nil {
			continue // it is not served either
		}
		now.settle(it.Key, h)
		for _, form := range append([]string{it.Key}, formsOf(h)...) {
			if settled[form] = true; isAuto(h) {
				add(form, h.Team)
			}
		}
	}
	last := ""
	for it, err := range n.shared.replica.Scan(replica.KindRedirect, "") {
		if err != nil {
			return err
		}
		if form, _, _ := strings.Cut(it.Key, "/"); form != last {
			if last = form; !settled[form] {
				add(form, it.Team)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	var wild []replica.Change
	for it, err := range n.shared.replica.Scan(store.KindServerName, "*.") {
		if err != nil {
			return err
		}
		if isImported(it) {
			wild = append(wild, replica.Change{Op: replica.Put, Item: *it})
		}
	}
	w := &n.certificates.wanted
	w.noting.Lock()
	defer w.noting.Unlock()
	w.wild = map[string]bool{}
	for i := range wild {
		name, _, _ := strings.Cut(wild[i].Item.Key, "/")
		w.wild[name] = true
	}
	return nil
}

func asHost(it *replica.Item) *fingerpost.Host {
	if it == nil {
		return nil
	}
	item := store.Item(*it)
	h, err := item.Host()
	if err != nil {
		return nil
	}
	return h
}

// formsOf are the forms that a host names beside its own.
func formsOf(h *fingerpost.Host) (forms []string) {
	for _, name := range slices.Concat(h.Also, h.RedirectFrom) {
		if form, err := fingerpost.ParseHostPattern(name); err == nil {
			forms = append(forms, string(form))
		}
	}
	return forms
}

// isAuto reports whether a host leaves its certificate to us.
func isAuto(h *fingerpost.Host) bool { return h.Certificate == "" || h.Certificate == "auto" }

// settle takes a host's settings in place of those that it had; nil: it is gone.
func (now *wantedNow) settle(key string, h *fingerpost.Host) {
	before := now.hosts[key]
	delete(now.hosts, key)
	for _, form := range before.forms {
		keys := slices.DeleteFunc(now.aliases[form], func(k string) bool { return k == key })
		if now.aliases[form] = keys; len(keys) == 0 {
			delete(now.aliases, form)
		}
	}
	if before.certificate != "" {
		if now.used[before.certificate]--; now.used[before.certificate] == 0 {
			delete(now.used, before.certificate)
		}
	}
	if h == nil {
		return
	}
	s := settings{forms: formsOf(h)}
	if !isAuto(h) {
		s.certificate = h.Certificate
		now.used[s.certificate]++
	}
	for _, form := range s.forms {
		now.aliases[form] = append(now.aliases[form], key)
	}
	if len(s.forms) > 0 || s.certificate != "" {
		now.hosts[key] = s
	}
}

// certificateUsed reports whether a host names a certificate in its settings, as far as
// the issuer was told. What is merely served is not in use in this sense: another is
// there before it goes, and every node learns of both in that order.
func (n *node) certificateUsed(id string) bool {
	w := &n.certificates.wanted
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now != nil && w.now.used[id] > 0
}

// wants reports whether a name needs a certificate from a CA, and of which team it is.
func (n *node) wants(now *wantedNow, name string) (policy planner.Policy, wants bool, err error) {
	if n.provided(name) {
		return policy, false, nil
	}
	for _, form := range []string{name, "." + strings.TrimPrefix(name, "*.")} {
		settled := false
		for _, key := range append([]string{form}, now.aliases[form]...) {
			it, err := n.shared.replica.Get(replica.KindHost, key)
			if err != nil {
				return policy, false, err
			}
			if h := asHost(it); h != nil {
				settled = true
				if isAuto(h) {
					return n.policy(h.Team), true, nil
				}
			}
		}
		if settled {
			continue
		}
		for it, err := range n.shared.replica.Scan(replica.KindRedirect, form+"/") {
			if err != nil {
				return policy, false, err
			}
			return n.policy(it.Team), true, nil
		}
	}
	return policy, false, nil
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

// Looking through all content takes time where there are millions of names: it is done
// again at the earliest when it has not taken more than a twentieth of the time, and
// once an hour, since what is imported comes near its end.
const (
	wantedPause = 500 * time.Millisecond
	wantedShare = 20
	wantedAgain = time.Hour
)

// followWanted tells the issuer of names that have come and gone, until ctx ends.
func (n *node) followWanted(ctx context.Context) {
	w := &n.certificates.wanted
	hour := time.NewTicker(wantedAgain)
	defer hour.Stop()
	later := time.NewTicker(10 * time.Second) // what could not be told, or had to wait
	defer later.Stop()
	for ctx.Err() == nil {
		select {
		case <-w.news:
		case <-later.C:
		case <-hour.C:
			w.note(nil)
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(wantedPause): // what comes together is told together
		case <-ctx.Done():
			return
		}
		n.tellWanted(ctx)
	}
}

// tellWanted tells the issuer what is wanted, and is not any more.
func (n *node) tellWanted(ctx context.Context) {
	w, issuer := &n.certificates.wanted, n.certificates.issuer
	w.telling.Lock()
	defer w.telling.Unlock()
	w.mu.Lock()
	before := w.now
	w.mu.Unlock()
	if before == nil || !issuer.Ask(func(*planner.Planner, time.Time) {}) {
		return // another node orders; what is wanted is listed when this one does
	}
	all, changed := w.take(!time.Now().Before(w.again))
	err := error(nil)
	if all {
		err = n.tellAll(ctx, before)
	} else if len(changed) > 0 {
		err = n.tellChanged(ctx, before, changed)
	}
	if err != nil && ctx.Err() == nil {
		n.log.Warn("names that need certificates are told later", "err", err)
	}
}

// tellAll looks through all content again.
func (n *node) tellAll(ctx context.Context, before *wantedNow) error {
	now, err := n.allWanted(ctx)
	if err != nil {
		return err
	}
	for name, policy := range now.names {
		if was, ok := before.names[name]; ok && samePolicy(was, policy) {
			continue
		}
		if err := n.certificates.issuer.Want(ctx, order.Want{Name: name, Policy: policy}); err != nil {
			n.certificates.wanted.note(nil)
			return err
		}
	}
	for name := range before.names {
		if _, ok := now.names[name]; !ok {
			n.certificates.issuer.Drop(name)
		}
	}
	return nil
}

// tellChanged looks at what hosts, and names of certificates, have to do with.
func (n *node) tellChanged(ctx context.Context, now *wantedNow, changed map[string]struct{}) error {
	w, issuer := &n.certificates.wanted, n.certificates.issuer
	names := map[string]struct{}{}
	add := func(form string) {
		for _, name := range fingerpost.CertificateNames(form) {
			names[name] = struct{}{}
		}
	}
	again := func(err error) error { // all of it: that costs little
		w.note(asChanges(changed))
		return err
	}
	for key := range changed {
		it, err := n.shared.replica.Get(replica.KindHost, key)
		if err != nil {
			return again(err)
		}
		for range 2 { // as it was, and as it is
			add(key)
			for _, form := range now.hosts[key].forms {
				add(form)
			}
			w.mu.Lock()
			now.settle(key, asHost(it))
			w.mu.Unlock()
		}
	}
	for name := range names {
		policy, wants, err := n.wants(now, name)
		if err != nil {
			return again(err)
		}
		was, had := now.names[name]
		switch {
		case wants && had && samePolicy(was, policy):
		case wants:
			if err := issuer.Want(ctx, order.Want{Name: name, Policy: policy}); err != nil {
				return again(err)
			}
			now.names[name] = policy
		case had:
			issuer.Drop(name)
			delete(now.names, name)
		}
	}
	return nil
}

// asChanges are changed hosts as note is told of them.
func asChanges(changed map[string]struct{}) []replica.Change {
	changes := []replica.Change{}
	for key := range changed {
		changes = append(changes, replica.Change{Op: replica.Put, Item: replica.Item{Kind: store.KindHost, Key: key}})
	}
	return changes
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
