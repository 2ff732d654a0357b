package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/cert/dnsapi"
	"fingerpost/cert/order"
	"fingerpost/replica"
	"fingerpost/store"
	"fingerpost/zone"
)

// solver shows challenges on every node: they are items, which all nodes follow.
//
// Keys: http-01/TOKEN, tls-alpn-01/HOST/HASH, dns-01/LABEL/HASH.
//
// Those that are for a domain's DNS provider go there instead.
type solver struct {
	n        *node
	provider *dnsapi.Solver // nil without acme.dnsHook
}

// challenge is the value of such an item.
type challenge struct {
	Host             string `json:"host,omitempty"`
	KeyAuthorization string `json:"keyAuthorization,omitempty"`
	TXT              string `json:"txt,omitempty"`
}

const challengeSource = "certificates"

// item makes what stands for a challenge.
func (s *solver) item(c *order.Challenge) (store.Item, error) {
	it := store.Item{Kind: store.KindChallenge, Source: challengeSource}
	value := challenge{Host: c.Name, KeyAuthorization: c.KeyAuthorization}
	switch c.Type {
	case order.HTTP01:
		it.Key = "http-01/" + c.Token
	case order.TLSALPN01:
		it.Key = "tls-alpn-01/" + c.Name + "/" + short(c.KeyAuthorization)
	case order.DNS01:
		if s.n.settings.ACME.ValidationZone == "" {
			return it, &fingerpost.Error{Code: "no_validation_zone", Message: "DNS validation of " + c.Name + " needs a zone", Hint: "set acme.validationZone"}
		}
		it.Key = "dns-01/" + s.n.challengeLabel(c.Name) + "/" + short(c.TXT)
		value = challenge{TXT: c.TXT}
	default:
		return it, fmt.Errorf("challenges of type %s are not answered here", c.Type)
	}
	var err error
	it.Value, err = json.Marshal(value)
	return it, err
}

// short names a text in a key.
func short(text string) string {
	sum := sha256.Sum256([]byte(text))
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:10]))
}

// divide tells what nodes answer from what a DNS provider does. What stays where a
// person has set it is neither.
func divide(challenges []order.Challenge) (ours, provided []order.Challenge) {
	for _, c := range challenges {
		switch {
		case c.Provider:
			provided = append(provided, c)
		case c.Type != order.DNSPersist01:
			ours = append(ours, c)
		}
	}
	return ours, provided
}

// Present returns when the nodes that live answer the challenges, or after a while
// where some do not say so, and when DNS providers' servers do.
func (s *solver) Present(ctx context.Context, challenges []order.Challenge) error {
	ours, provided := divide(challenges)
	if len(ours) > 0 {
		if err := s.show(ctx, ours); err != nil {
			return err
		}
	}
	switch {
	case len(provided) == 0:
		return nil
	case s.provider != nil:
		return s.provider.Present(ctx, provided)
	}
	unshown := order.Unshown{} // the settings are others than when the order was opened
	for _, c := range provided {
		unshown[c] = order.Failure{Name: c.Name, Code: order.CodeProvider, Method: order.DNSProvider01, Reason: c.Name + " was to be proven at its DNS provider, and acme.dnsHook is not set any more", Hint: "set it, or nothing: the name is looked at again"}
	}
	return unshown
}

// show puts challenges where all nodes find them.
func (s *solver) show(ctx context.Context, challenges []order.Challenge) error {
	var rev int64
	for batch := range chunks(challenges, store.MaxChanges) {
		var b store.Batch
		for i := range batch {
			it, err := s.item(&batch[i])
			if err != nil {
				return err
			}
			b.Changes = append(b.Changes, store.Change{Op: store.Put, Item: it})
		}
		b.Actor = store.Actor{Who: challengeSource}
		b.Changes = distinct(b.Changes)
		r, err := s.n.shared.db.Commit(ctx, b)
		if err != nil {
			return fmt.Errorf("show challenges: %w", err)
		}
		rev = r.Rev
	}
	return s.everywhere(ctx, rev)
}

// Remove takes challenges back.
func (s *solver) Remove(ctx context.Context, challenges []order.Challenge) error {
	ours, provided := divide(challenges)
	err := s.hide(ctx, ours)
	if len(provided) > 0 && s.provider != nil {
		err = errors.Join(err, s.provider.Remove(ctx, provided))
	}
	return err
}

// hide takes back what show has put there.
func (s *solver) hide(ctx context.Context, challenges []order.Challenge) error {
	for batch := range chunks(challenges, store.MaxChanges) {
		var b store.Batch
		for i := range batch {
			it, err := s.item(&batch[i])
			if err != nil {
				return err
			}
			switch _, err := s.n.shared.db.Get(ctx, it.Kind, it.Key); {
			case errors.Is(err, store.ErrNotFound):
				continue
			case err != nil:
				return err
			}
			b.Changes = append(b.Changes, store.Change{Op: store.Delete, Item: store.Item{Kind: it.Kind, Key: it.Key, Source: challengeSource}})
		}
		if b.Changes = distinct(b.Changes); len(b.Changes) == 0 {
			continue
		}
		b.Actor = store.Actor{Who: challengeSource}
		if _, err := s.n.shared.db.Commit(ctx, b); err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("take challenges back: %w", err)
		}
	}
	return nil
}

// distinct leaves one change for each item: a wildcard and its base share some.
func distinct(changes []store.Change) []store.Change {
	seen := map[string]bool{}
	kept := changes[:0]
	for _, c := range changes {
		if !seen[c.Item.Key] {
			seen[c.Item.Key] = true
			kept = append(kept, c)
		}
	}
	return kept
}

func chunks[T any](list []T, n int) func(yield func([]T) bool) {
	return func(yield func([]T) bool) {
		for len(list) > 0 {
			m := min(n, len(list))
			if !yield(list[:m]) {
				return
			}
			list = list[m:]
		}
	}
}

// How long to wait for nodes that live but are behind, and how often to look.
const (
	presentFor  = 5 * time.Second
	presentStep = 25 * time.Millisecond
)

// everywhere waits until every node that lives has a revision.
func (s *solver) everywhere(ctx context.Context, rev int64) error {
	ctx, cancel := context.WithTimeout(ctx, presentFor)
	defer cancel()
	for {
		behind, err := s.behind(ctx, rev)
		if err == nil && behind == "" {
			return nil
		}
		select {
		case <-time.After(presentStep):
		case <-ctx.Done():
			if behind != "" { // the CA may ask another; if not, it is tried again
				s.n.log.Warn("a node does not have the answer to a CA's challenge yet", "node", behind, "rev", rev)
				return nil
			}
			return err
		}
	}
}

// behind names a node that lives and does not have a revision yet, this one first.
func (s *solver) behind(ctx context.Context, rev int64) (string, error) {
	if at, _ := s.n.shared.replica.Cursor(); at.Rev < rev {
		return s.n.o.name, nil
	}
	nodes, err := s.n.shared.db.Nodes(ctx)
	if err != nil {
		return "", err
	}
	for _, v := range nodes {
		if v.Rev < rev && v.ID != s.n.o.name && time.Since(v.Seen) < nodeVanished {
			return v.ID, nil
		}
	}
	return "", nil
}

// nodeVanished is how long a node may say nothing before nobody waits for it.
const nodeVanished = 20 * time.Second

// acmeChallenges is where CAs ask over http (RFC 8555 8.3).
const acmeChallenges = "/.well-known/acme-challenge/"

// answerHTTP is what a CA is answered at /.well-known/acme-challenge/.
func (n *node) answerHTTP(host, token string) (string, bool) {
	if len(token) > 200 {
		return "", false
	}
	if strings.HasPrefix(token, order.CheckToken) {
		return n.checkAnswer(host, token), true
	}
	it, err := n.shared.replica.Get(store.KindChallenge, "http-01/"+token)
	if err != nil || it == nil {
		return "", false
	}
	var c challenge
	if json.Unmarshal(it.Value, &c) != nil || c.Host != host {
		return "", false
	}
	return c.KeyAuthorization, true
}

// probe is a check of how a host is reached, by somebody who asks for it himself.
func (n *node) probe(host string) (path, answer string) {
	token := order.CheckToken + rand.Text()
	return acmeChallenges + token, n.checkAnswer(host, token)
}

// checkAnswer is what every node of the cluster, and no other server, says to the token of
// a check. It is no key authorization, which has the form TOKEN.THUMBPRINT.
func (n *node) checkAnswer(host, token string) string {
	secret := n.certificates.sealer.Labels() // which all nodes have, while secrets change too
	mac := hmac.New(sha256.New, secret[:])
	mac.Write([]byte("check over http\x00" + host + "\x00" + token))
	return hex.EncodeToString(mac.Sum(nil))
}

// answerHandshake is what a CA is shown in a handshake. A handshake names no token:
// of several challenges it is the newest, since the others were left by a process
// that died.
func (n *node) answerHandshake(host string) (*tls.Certificate, error) {
	var newest *replica.Item
	for it, err := range n.shared.replica.Scan(store.KindChallenge, "tls-alpn-01/"+host+"/") {
		if err != nil {
			return nil, err
		}
		if newest == nil || it.Rev > newest.Rev {
			newest = it
		}
	}
	if newest == nil {
		return nil, nil
	}
	var c challenge
	if err := json.Unmarshal(newest.Value, &c); err != nil {
		return nil, err
	}
	return order.TLSALPNCertificate(host, c.KeyAuthorization)
}

// staleChallenge is when nobody asks for the answer to a challenge any more.
const staleChallenge = time.Hour

// tidyChallenges takes back what processes that died have left, in the node that orders.
func (n *node) tidyChallenges(ctx context.Context) {
	if err := (&solver{n: n}).removeStale(ctx); err != nil && ctx.Err() == nil {
		n.log.Warn("old challenges are not removed; it is tried again in an hour", "err", err)
	}
}

// removeStale takes back what a process that died has left: the token of a
// pre-flight, which no journal has. An order that is still open shows its own again.
func (s *solver) removeStale(ctx context.Context) error {
	var stale []store.Change
	for it, err := range s.n.shared.replica.Scan(store.KindChallenge, "") {
		if err != nil {
			return err
		}
		if time.Since(it.Since) > staleChallenge {
			stale = append(stale, store.Change{Op: store.Delete, Item: store.Item{Kind: it.Kind, Key: it.Key, Source: challengeSource}})
		}
	}
	for changes := range chunks(stale, store.MaxChanges) {
		if _, err := s.n.shared.db.Commit(ctx, store.Batch{Changes: changes, Actor: store.Actor{Who: challengeSource}}); err != nil {
			return err
		}
	}
	return nil
}

// challengeLabel is the label of a domain in the validation zone; a wildcard has
// that of its base.
func (n *node) challengeLabel(domain string) string {
	secret := n.certificates.sealer.Labels()
	return zone.ValidationLabel(strings.TrimPrefix(domain, "*."), secret[:])
}

// challengeTarget is where _acme-challenge.NAME must point to; "" without a zone.
func (n *node) challengeTarget(name string) string {
	if n.settings.ACME.ValidationZone == "" {
		return ""
	}
	return n.challengeLabel(name) + "." + n.settings.ACME.ValidationZone
}
