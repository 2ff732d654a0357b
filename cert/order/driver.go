package order

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"fingerpost/cert"
)

const (
	parallel     = 16               // requests at once to a CA
	authorizeFor = 10 * time.Minute // what a CA has not checked until then has failed
	finalizeFor  = 2 * time.Minute  // a CA that takes longer is looked at again, and others get on meanwhile
	silentFor    = time.Minute      // the same for one that does not answer
)

// Driver brings orders to their end. It may do several at once, each of them by
// one goroutine.
type Driver struct {
	CAs     map[string]*CA
	Storage Storage
	Solver  Solver
	// Seal makes of a private key what is stored, Unseal the key again, for the same
	// purpose only. No key is stored without.
	Seal, Unseal func(purpose string, key []byte) ([]byte, error)
	Log          *slog.Logger // nil: none
}

// run is one call of Drive.
type run struct {
	*Driver
	ca      *CA
	client  *acme.Client
	account acme.Account
	o       *Order
	csr     bool // it was sent in this run
	fence   int64
	log     *slog.Logger
}

// Drive brings the order with that id from wherever it stands to its end, and
// gives it with its Outcome, which is then durable in its journal; the journal
// is the caller's to delete. An error decides nothing: call again, after
// [RetryAfter] where it says so.
//
// New orders are asked for once a call. A CA does not list our orders, so where
// its answer is lost the next call asks again with the same names and profile:
// Let's Encrypt then gives the order that it has, while others make a second
// one and the first is lost, without harm, until it expires. That is one for
// each lost answer, and the authorizations are shared.
func (d *Driver) Drive(ctx context.Context, fence int64, id string) (*Order, error) {
	value, err := d.Storage.Get(ctx, KindOrder, id)
	if errors.Is(err, ErrNoRecord) {
		return nil, err
	}
	if err != nil {
		return nil, &Later{Err: fmt.Errorf("read the journal: %w", err)}
	}
	o, err := decodeOrder(Record{Kind: KindOrder, Key: id, Value: value})
	if err != nil {
		return nil, err
	}
	r := &run{Driver: d, o: o, fence: fence, log: d.Log}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.log = r.log.With("order", o.ID, "ca", o.Spec.CA)
	if err := r.drive(ctx); err != nil {
		return o, fmt.Errorf("order %s (%s): %w", o.ID, describe(o.Spec.Names), err)
	}
	return o, nil
}

func describe(names []Name) string {
	if len(names) == 1 {
		return names[0].Name
	}
	return fmt.Sprintf("%s and %d more", names[0].Name, len(names)-1)
}

func (r *run) drive(ctx context.Context) error {
	if r.o.Step == StepDone {
		r.remove(ctx) // whoever wrote that may have died before
		return nil
	}
	if r.ca = r.CAs[r.o.Spec.CA]; r.ca == nil {
		return fmt.Errorf("there is no CA %q in the configuration", r.o.Spec.CA)
	}
	r.client = r.ca.acme()
	var err error
	if r.account, err = r.ca.accountAt(ctx, r.Driver, r.fence); err != nil {
		return err
	}
	var order acme.Order
	if r.o.URL == "" {
		order, err = r.open(ctx)
	} else {
		order, err = r.get(ctx)
	}
	for err == nil && r.o.Step != StepDone {
		switch order.Status {
		case acme.StatusPending:
			order, err = r.authorize(ctx, order)
		case acme.StatusReady:
			order, err = r.finalize(ctx, order)
		case acme.StatusProcessing:
			patience := time.Duration(0)
			if r.csr {
				patience = finalizeFor
			}
			order, err = r.await(ctx, patience, acme.StatusProcessing)
		case acme.StatusValid:
			err = r.download(ctx, order)
		case acme.StatusInvalid:
			err = r.invalid(ctx, order)
		default:
			err = &Later{Err: fmt.Errorf("%s gives the order the status %q", r.ca.Name(), order.Status)}
		}
	}
	return err
}

// step writes the journal.
func (r *run) step(ctx context.Context, s Step) error {
	r.o.Step = s
	if err := r.Storage.Write(ctx, r.fence, r.o.Record()); err != nil {
		return &Later{Err: fmt.Errorf("write the journal: %w", err)}
	}
	return nil
}

// end writes how it ended, and takes the challenges away: in this order, since the
// write fails where the order is another node's by now, which may need them.
func (r *run) end(ctx context.Context, outcome Outcome) error {
	r.o.Outcome = &outcome
	if outcome.Result == Issued {
		r.o.Key = nil // the outcome has it
	}
	if err := r.step(ctx, StepDone); err != nil {
		return err
	}
	r.remove(ctx)
	return nil
}

// remove takes away what is presented. What cannot be taken away is in nobody's
// way.
func (r *run) remove(ctx context.Context) {
	gone := slices.DeleteFunc(slices.Clone(r.o.Presented), func(c Challenge) bool { return c.Type == DNSPersist01 })
	if len(gone) > 0 {
		if err := r.Solver.Remove(ctx, gone); err != nil {
			r.log.WarnContext(ctx, "challenges could not be removed", "error", err)
			return
		}
	}
	r.o.Presented = nil
}

// open asks for a new order.
func (r *run) open(ctx context.Context) (acme.Order, error) {
	for {
		r.o.Asked++
		if err := r.step(ctx, StepAsked); err != nil {
			return acme.Order{}, err
		}
		want := acme.Order{Profile: r.o.Spec.Profile, Replaces: r.o.Spec.Replaces}
		for _, n := range r.o.Spec.Names {
			want.Identifiers = append(want.Identifiers, acme.Identifier{Type: "dns", Value: n.Name})
		}
		var order acme.Order
		err := call(ctx, true, func(ctx context.Context) (err error) {
			order, err = r.client.NewOrder(ctx, r.account, want)
			return err
		})
		if err == nil && order.Location == "" {
			err = errors.New("the CA gave an order without an address")
		}
		if err == nil {
			r.log.InfoContext(ctx, "order opened", "names", len(r.o.Spec.Names), "status", order.Status, "asked", r.o.Asked)
			r.o.URL = order.Location
			return order, r.step(ctx, StepOpen)
		}
		var p *Problem
		var dial *net.OpError
		if errors.As(err, &dial) && dial.Op == "dial" {
			r.o.Asked-- // nothing has reached the CA
			if r.o.Asked == 0 {
				if err := r.step(ctx, StepNew); err != nil {
					return acme.Order{}, err
				}
			}
		}
		if errors.As(err, &p) && p.Code() == "accountDoesNotExist" {
			if forgetErr := r.ca.forgetAccount(ctx, r.Driver, r.fence); forgetErr != nil {
				return acme.Order{}, forgetErr
			}
			return acme.Order{}, &Later{Err: err}
		}
		if errors.As(err, &p) && r.o.Spec.Replaces != "" && aboutReplaces(p) {
			// RFC 9773 5: a new order without it is what is left.
			r.log.InfoContext(ctx, "the CA does not let this order replace its certificate; ordering without", "reason", p)
			r.o.Spec.Replaces = ""
			continue
		}
		return acme.Order{}, r.decide(ctx, "open", err)
	}
}

// aboutReplaces reports whether p refuses only what an order replaces.
func aboutReplaces(p *Problem) bool {
	return p.Code() == "alreadyReplaced" || strings.Contains(p.Detail, "replac") || strings.Contains(p.Detail, "given certificate") || strings.Contains(p.Detail, "CertID") ||
		strings.Contains(p.Detail, "identifier in the new order and existing order")
}

// decide ends the order where the CA has said no for good, and hands on what may
// pass.
func (r *run) decide(ctx context.Context, what string, err error) error {
	var p *Problem
	if !errors.As(err, &p) {
		return r.ca.failed(what+" the order", err)
	}
	retry := RetryAfter(err)
	failed := blame(p, r.o.Spec.Names, retry)
	switch {
	case len(failed) > 0:
		return r.end(ctx, Outcome{Result: Failed, Failed: failed, Problem: p})
	case p.limited() && strings.Contains(p.Detail, "exact set"):
		for _, n := range r.o.Spec.Names {
			f := explain(n.Name, "", p, retry)
			f.Reason = "the CA has issued for exactly these names too often of late"
			failed = append(failed, f)
		}
		return r.end(ctx, Outcome{Result: Failed, Failed: failed, Problem: p})
	case p.limited():
		return r.end(ctx, Outcome{Result: Limited, Retry: retry, Problem: p})
	case p.passes():
		return r.ca.failed(what+" the order", err)
	case isAccounts(p):
		return fmt.Errorf("%s the order at %s: %w", what, r.ca.Name(), err)
	case len(r.o.Spec.Names) == 1:
		return r.end(ctx, Outcome{Result: Failed, Failed: []Failure{explain(r.o.Spec.Names[0].Name, "", p, retry)}, Problem: p})
	}
	return r.end(ctx, Outcome{Result: Refused, Problem: p})
}

// isAccounts reports whether p is about our account or request and no name: to
// order other names would fail the same way.
func isAccounts(p *Problem) bool {
	switch p.Code() {
	case "unauthorized", "accountDoesNotExist", "externalAccountRequired", "userActionRequired", "invalidProfile", "badPublicKey", "badSignatureAlgorithm":
		return true
	}
	return false
}

// get looks the order up.
func (r *run) get(ctx context.Context) (acme.Order, error) {
	order, _, err := r.look(ctx)
	if isGone(err) {
		return order, r.end(ctx, Outcome{Result: Lost})
	}
	return order, r.ca.failed("look up the order", err)
}

func (r *run) look(ctx context.Context) (order acme.Order, retry time.Time, err error) {
	retry, err = callRetry(ctx, false, func(ctx context.Context) (err error) {
		order, err = r.client.GetOrder(ctx, r.account, acme.Order{Location: r.o.URL})
		return err
	})
	order.Location = r.o.URL
	return order, retry, err
}

// await looks again until the order has another status.
func (r *run) await(ctx context.Context, atMost time.Duration, status string) (acme.Order, error) {
	begin, pace := time.Now(), pacer{}
	heard := begin
	for {
		order, retry, err := r.look(ctx)
		switch {
		case isGone(err):
			return order, r.end(ctx, Outcome{Result: Lost})
		case err == nil && order.Status != status:
			return order, nil
		case err == nil && time.Since(begin) >= atMost:
			return order, &Later{Retry: retry, Err: fmt.Errorf("%s has had the order for %v and is not done", r.ca.Name(), time.Since(r.o.Begun).Round(time.Second))}
		case err == nil:
			heard = time.Now()
		case time.Since(heard) >= min(atMost, silentFor):
			return order, r.ca.failed("look up the order", err)
		}
		if err := pace.wait(ctx, retry); err != nil {
			return order, err
		}
	}
}

// pacer is the time between two looks: what the CA asks for, or ours, which
// grows from a quarter of a second to five.
type pacer struct{ pause time.Duration }

func (p *pacer) wait(ctx context.Context, retry time.Time) error {
	p.pause = min(max(2*p.pause, 250*time.Millisecond), 5*time.Second)
	pause := p.pause
	if !retry.IsZero() {
		pause = min(max(time.Until(retry), 100*time.Millisecond), time.Minute)
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// proof is one authorization on its way.
type proof struct {
	name      string
	url       string
	authz     acme.Authorization
	challenge acme.Challenge
	shown     Challenge
	accepted  bool // the CA has answered that it will look
	done      bool
	failure   *Failure
	unread    error // why the authorization could not be read the last time
}

// authorize proves all names, each to its end, whatever becomes of the others.
// A valid authorization is never given up: the next order uses it again.
func (r *run) authorize(ctx context.Context, order acme.Order) (acme.Order, error) {
	proofs := make([]*proof, len(order.Authorizations))
	err := each(ctx, len(proofs), func(i int) error {
		proofs[i] = &proof{url: order.Authorizations[i]}
		_, err := r.fetch(ctx, proofs[i])
		return err
	})
	if err != nil {
		return order, r.ca.failed("read the authorizations", err)
	}
	var show []Challenge
	for _, p := range proofs {
		if p.done {
			continue
		}
		c, method, err := choose(p.authz, r.methods(p.name))
		if err != nil {
			p.done, p.failure = true, &Failure{Name: p.name, Code: "noMethod", Reason: fmt.Sprintf("%s cannot be proven to %s: %v", p.name, r.ca.Name(), err),
				Hint: "set the CNAME of _acme-challenge." + strings.TrimPrefix(p.name, "*.") + " as shown, which serves every kind of name"}
			continue
		}
		p.challenge, p.shown = c, presentation(c, method, r.account, p.authz.Wildcard)
		show = append(show, p.shown)
	}
	if len(show) > 0 {
		for _, c := range show { // beside what a run before this one has left
			if !slices.Contains(r.o.Presented, c) {
				r.o.Presented = append(r.o.Presented, c)
			}
		}
		if err := r.step(ctx, StepPresented); err != nil {
			return order, err
		}
		err := r.Solver.Present(ctx, show)
		var unshown Unshown
		switch {
		case errors.As(err, &unshown):
			for _, p := range proofs {
				if f, ok := unshown[p.shown]; ok && !p.done {
					f.Name = p.name
					p.done, p.failure = true, &f
				}
			}
		case err != nil:
			return order, &Later{Err: fmt.Errorf("present the challenges: %w", err)}
		}
		if err := r.prove(ctx, proofs); err != nil {
			return order, err
		}
	}
	var failed []Failure
	for _, p := range proofs {
		if p.failure != nil {
			failed = append(failed, *p.failure)
		}
	}
	if len(failed) > 0 {
		slices.SortFunc(failed, func(a, b Failure) int { return strings.Compare(a.Name, b.Name) })
		r.log.InfoContext(ctx, "names failed", "failed", len(failed), "of", len(r.o.Spec.Names))
		return order, r.end(ctx, Outcome{Result: Failed, Failed: failed})
	}
	// The order follows its authorizations, at some CAs a little later.
	return r.await(ctx, time.Minute, acme.StatusPending)
}

// methods are those of the spec for a name.
func (r *run) methods(name string) []string {
	for _, n := range r.o.Spec.Names {
		if n.Name == name {
			return n.Methods
		}
	}
	return nil
}

// fetch reads an authorization anew, into a value of its own.
func (r *run) fetch(ctx context.Context, p *proof) (time.Time, error) {
	var authz acme.Authorization
	retry, err := callRetry(ctx, false, func(ctx context.Context) (err error) {
		authz, err = r.client.GetAuthorization(ctx, r.account, p.url)
		return err
	})
	p.unread = err
	if err != nil {
		return retry, err
	}
	p.authz, p.name = authz, authz.IdentifierValue()
	switch authz.Status {
	case acme.StatusPending:
	case acme.StatusValid:
		p.done = true
	default:
		p.done = true
		f := Failure{Name: p.name, Code: "authorization", Reason: fmt.Sprintf("the CA's authorization for %s is %s", p.name, authz.Status), Hint: "it is tried again"}
		for _, c := range authz.Challenges {
			if c.Error != nil {
				method := c.Type
				if method == DNS01 && slices.Contains(r.methods(p.name), DNSProvider01) {
					method = DNSProvider01
				}
				f = explain(p.name, method, fromLibrary(c.Error), time.Time{})
				break
			}
		}
		p.failure = &f
	}
	return retry, nil
}

// prove tells the CA to look, and waits until it has looked at all. That the CA cannot be
// asked is no name's fault.
func (r *run) prove(ctx context.Context, proofs []*proof) error {
	begin, pace := time.Now(), pacer{}
	heard := begin
	for {
		open := slices.DeleteFunc(slices.Clone(proofs), func(p *proof) bool { return p.done })
		if len(open) == 0 {
			return nil
		}
		if slices.ContainsFunc(open, func(p *proof) bool { return p.unread == nil }) {
			heard = time.Now()
		}
		unread := slices.IndexFunc(open, func(p *proof) bool { return p.unread != nil })
		if late := time.Since(begin) > authorizeFor; unread >= 0 && (late || time.Since(heard) > silentFor) {
			return r.ca.failed("read the authorization of "+open[unread].name, open[unread].unread)
		} else if late {
			for _, p := range open {
				p.done, p.failure = true, &Failure{Name: p.name, Code: "timeout", Method: p.challenge.Type,
					Reason: fmt.Sprintf("%s has not looked at %s within %v", r.ca.Name(), p.name, authorizeFor), Hint: "it is tried again"}
			}
			return nil
		}
		var mu sync.Mutex
		var latest time.Time
		err := each(ctx, len(open), func(i int) error {
			p := open[i]
			if !p.accepted {
				// An error is no answer about the name: the authorization tells.
				err := call(ctx, false, func(ctx context.Context) error {
					_, err := r.client.InitiateChallenge(ctx, r.account, p.challenge)
					return err
				})
				var problem *Problem
				p.accepted = err == nil || errors.As(err, &problem) && !problem.passes() && !problem.limited()
				if err == nil {
					return nil
				}
				if fatal(err) {
					return err
				}
			}
			retry, err := r.fetch(ctx, p)
			mu.Lock()
			defer mu.Unlock()
			if retry.After(latest) && !p.done {
				latest = retry
			}
			if fatal(err) {
				return err
			}
			return nil
		})
		if err != nil {
			return r.ca.failed("prove the names", err)
		}
		if err := pace.wait(ctx, latest); err != nil {
			return err
		}
	}
}

// fatal reports whether going on would lead nowhere.
func fatal(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, ErrFenced)
}

// finalize sends the CSR. The key is in the journal before.
func (r *run) finalize(ctx context.Context, order acme.Order) (acme.Order, error) {
	if len(r.o.Key) == 0 {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return order, fmt.Errorf("make a key: %w", err)
		}
		if r.o.Key, err = sealKey(r.Driver, cert.KeyPurpose(r.o.ID), key); err != nil {
			return order, err
		}
	}
	if err := r.step(ctx, StepFinalize); err != nil {
		return order, err
	}
	key, err := unsealKey(r.Driver, cert.KeyPurpose(r.o.ID), r.o.Key)
	if err != nil {
		return order, err
	}
	template := &x509.CertificateRequest{}
	for _, n := range r.o.Spec.Names {
		template.DNSNames = append(template.DNSNames, n.Name)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return order, fmt.Errorf("make the CSR: %w", err)
	}
	var after acme.Order
	err = call(ctx, false, func(ctx context.Context) (err error) {
		after, err = r.client.FinalizeOrder(ctx, r.account, acme.Order{Location: r.o.URL, Finalize: order.Finalize}, csr)
		return err
	})
	r.csr = true
	if after.Status != "" { // the library calls all but "valid" an error
		after.Location = r.o.URL
		if after.Status == acme.StatusReady {
			return after, &Later{Err: fmt.Errorf("%s has not taken the CSR", r.ca.Name())}
		}
		return after, nil
	}
	var p *Problem
	if !errors.As(err, &p) || p.Code() == "orderNotReady" || p.Code() == "malformed" {
		// The answer was lost, or the CSR was sent twice: the order's state tells.
		now, _, lookErr := r.look(ctx)
		if lookErr == nil && now.Status != acme.StatusReady {
			return now, nil
		}
	}
	return order, r.decide(ctx, "finalize", err)
}

// invalid finds out why the CA has given up the order.
func (r *run) invalid(ctx context.Context, order acme.Order) error {
	var failed []Failure
	if order.Error != nil {
		p := fromLibrary(order.Error)
		if failed = blame(p, r.o.Spec.Names, time.Time{}); len(failed) > 0 || !p.passes() {
			return r.decide(ctx, "finalize", p)
		}
	}
	proofs := make([]*proof, len(order.Authorizations))
	err := each(ctx, len(proofs), func(i int) error {
		proofs[i] = &proof{url: order.Authorizations[i]}
		_, err := r.fetch(ctx, proofs[i])
		return err
	})
	if err != nil {
		return r.ca.failed("read the authorizations", err)
	}
	for _, p := range proofs {
		if p.failure != nil {
			failed = append(failed, *p.failure)
		}
	}
	if len(failed) == 0 {
		return r.end(ctx, Outcome{Result: Lost}) // expired, or given up for what passes
	}
	slices.SortFunc(failed, func(a, b Failure) int { return strings.Compare(a.Name, b.Name) })
	return r.end(ctx, Outcome{Result: Failed, Failed: failed})
}

// download takes the certificate, and looks whether it is the one ordered.
func (r *run) download(ctx context.Context, order acme.Order) error {
	if len(r.o.Key) == 0 {
		return r.end(ctx, Outcome{Result: Lost}) // somebody else's CSR
	}
	var chains []acme.Certificate
	err := call(ctx, false, func(ctx context.Context) (err error) {
		chains, err = r.client.GetCertificateChain(ctx, r.account, order.Certificate)
		return err
	})
	if isGone(err) {
		return r.end(ctx, Outcome{Result: Lost})
	}
	if err == nil && len(chains) == 0 {
		err = errors.New("the CA gave no certificate")
	}
	if err != nil {
		return r.ca.failed("download the certificate", err)
	}
	chain, err := parseChain(chains[0].ChainPEM)
	if err != nil {
		return r.ca.failed("read the certificate", err)
	}
	key, err := unsealKey(r.Driver, cert.KeyPurpose(r.o.ID), r.o.Key)
	if err != nil {
		return err
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(chain[0].PublicKey) {
		return r.end(ctx, Outcome{Result: Lost})
	}
	for _, n := range r.o.Spec.Names {
		if !slices.Contains(chain[0].DNSNames, n.Name) {
			return r.end(ctx, Outcome{Result: Refused, Problem: &Problem{Type: "incomplete", Detail: "the CA left out " + n.Name}})
		}
	}
	var out bytes.Buffer
	for _, c := range chain {
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			return err
		}
	}
	r.log.InfoContext(ctx, "certificate issued", "names", len(r.o.Spec.Names), "until", chain[0].NotAfter, "took", time.Since(r.o.Begun).Round(time.Millisecond))
	return r.end(ctx, Outcome{Result: Issued, Chain: out.Bytes(), Key: r.o.Key})
}

// parseChain reads a chain, the leaf first, each certificate once.
func parseChain(data []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for {
		var block *pem.Block
		block, data = pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("the chain holds a %s", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(chain, c.Equal) {
			chain = append(chain, c)
		}
	}
	if len(chain) == 0 {
		return nil, errors.New("the chain is empty")
	}
	return chain, nil
}

// CertID names a certificate in the field replaces of an order (RFC 9773 4.1).
func CertID(leaf *x509.Certificate) (string, error) { return acme.ARIUniqueIdentifier(leaf) }

func sealKey(d *Driver, purpose string, key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	sealed, err := d.Seal(purpose, der)
	if err != nil {
		return nil, fmt.Errorf("encrypt a key: %w", err)
	}
	return sealed, nil
}

func unsealKey(d *Driver, purpose string, sealed []byte) (crypto.Signer, error) {
	der, err := d.Unseal(purpose, sealed)
	if err != nil {
		return nil, fmt.Errorf("decrypt a key: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("what was decrypted is no key") // not err: it may quote what it read
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("what was decrypted cannot sign")
	}
	return signer, nil
}

// each runs fn for 0 to n-1, some at once, and gives the first error after all
// have ended.
func each(ctx context.Context, n int, fn func(int) error) error {
	var group sync.WaitGroup
	slots := make(chan struct{}, parallel)
	errs := make([]error, n)
	for i := range n {
		slots <- struct{}{}
		if errs[i] = ctx.Err(); errs[i] != nil {
			break
		}
		group.Go(func() {
			defer func() { <-slots }()
			errs[i] = fn(i)
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
