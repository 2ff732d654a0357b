// Package testacme is a certificate authority that speaks ACME (RFC 8555, and
// RFC 9773 for renewals) inside the process of a test. Its requests need no
// socket, so that a test may run on a clock of its own.
//
// It checks what it is sent as a CA does: signatures, nonces, the state of
// orders. What it leaves out: limits, revocation, changes of keys. Start reading
// at [CA.Transport].
package testacme

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"fingerpost/internal/testca"
)

// Problem is an error as it goes over the wire.
type Problem struct {
	Type        string      `json:"type"` // without the prefix
	Detail      string      `json:"detail"`
	Status      int         `json:"status,omitempty"`
	Identifier  *Identifier `json:"identifier,omitempty"`
	Subproblems []Problem   `json:"subproblems,omitempty"`

	RetryAfter string `json:"-"`
}

// Identifier names what a certificate is for.
type Identifier struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// CA is set before the first request, except where a field says otherwise.
type CA struct {
	// Validate decides whether a challenge is met; nil means that all are. It is
	// given the name without "*.".
	Validate func(name, method, token, keyAuthorization string) *Problem
	// NewOrder and Finalize may refuse; nil lets all pass.
	NewOrder, Finalize func(names []string) *Problem

	ReuseOrders   bool              // a new order for the names of a pending one is that one, as at Let's Encrypt
	ValidateFor   time.Duration     // how long a validation takes
	FinalizeFor   time.Duration     // how long the issuance takes
	PreAuthorized bool              // orders are ready at once
	EAB           map[string]string // key id → base64url key; non-empty: required
	Terms         string            // address of the terms
	Profiles      []string
	Lifetime      time.Duration       // of certificates; 90 days if zero
	Window        func() [2]time.Time // what ARI suggests; nil: the last third
	Methods       []string            // offered; all if nil
	BadNonces     int                 // each n-th good nonce is refused
	Issuer        *testca.CA          // made if nil
	Now           func() time.Time    // time.Now if nil

	mu       sync.Mutex
	once     sync.Once
	nonces   map[string]bool
	count    int // nonces seen
	accounts []*account
	orders   []*order
	authzs   []*authz
	certs    []*certificate
}

type account struct {
	url        string
	key        *ecdsa.PublicKey
	thumbprint string
	contact    []string
}

type order struct {
	id       int
	account  *account
	names    []string
	profile  string
	replaces string
	authzs   []*authz
	status   string // of its own; pending is computed
	ready    time.Time
	cert     *certificate
}

type authz struct {
	id       int
	account  *account
	name     string // with "*."
	token    string
	method   string // accepted
	accepted time.Time
	looked   bool
	problem  *Problem
	status   string
}

type certificate struct {
	id       int
	der      []byte
	order    *order
	replaced bool
	revoked  *int // the reason
}

const base = "https://ca.test"

// Directory is the address of the CA's directory; host tells several CAs apart.
func Directory(host string) string { return "https://" + host + "/dir" }

// Transport carries requests to the CA, whatever their host.
func (c *CA) Transport() http.RoundTripper { return transport{c} }

type transport struct{ ca *CA }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	t.ca.ServeHTTP(w, r)
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

// Orders counts the orders that were made.
func (c *CA) Orders() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.orders)
}

// Issued counts the certificates.
func (c *CA) Issued() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.certs)
}

// Accounts counts the accounts.
func (c *CA) Accounts() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.accounts)
}

// Replaced lists what orders said that they replace.
func (c *CA) Replaced() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, o := range c.orders {
		if o.replaces != "" {
			all = append(all, o.replaces)
		}
	}
	return all
}

// Revoked is the reason that a certificate was revoked for, -1 while it was not.
func (c *CA) Revoked(leaf *x509.Certificate) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.certs {
		if bytes.Equal(k.der, leaf.Raw) && k.revoked != nil {
			return *k.revoked
		}
	}
	return -1
}

// revoke takes a request of the account that ordered, or one signed with the
// certificate's own key.
func (c *CA) revoke(w http.ResponseWriter, h *header, payload []byte, who *account) {
	var body struct {
		Certificate string
		Reason      int
	}
	json.Unmarshal(payload, &body)
	i := slices.IndexFunc(c.certs, func(k *certificate) bool { return bytes.Equal(k.der, decode(body.Certificate)) })
	if i < 0 {
		refuse(w, &Problem{Type: "malformed", Detail: "no such certificate", Status: http.StatusNotFound})
		return
	}
	k := c.certs[i]
	leaf, err := x509.ParseCertificate(k.der)
	own := err == nil && h.JWK != nil && h.JWK.key().Equal(leaf.PublicKey)
	switch {
	case !own && (who == nil || who != k.order.account):
		refuse(w, &Problem{Type: "unauthorized", Detail: "not your certificate", Status: http.StatusForbidden})
	case k.revoked != nil:
		refuse(w, problem("alreadyRevoked", "it is revoked already"))
	default:
		k.revoked = &body.Reason
		w.WriteHeader(http.StatusOK)
	}
}

// Forget loses all accounts, as a CA does whose test database is emptied.
func (c *CA) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.accounts = nil
}

// Expire gives up all orders that have not issued.
func (c *CA) Expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.orders {
		if o.cert == nil {
			o.status = "invalid"
		}
	}
}

func (c *CA) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// ServeHTTP answers one request.
func (c *CA) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.once.Do(func() {
		if c.Issuer == nil {
			c.Issuer = testca.NewNamed("testacme")
		}
		c.nonces = map[string]bool{}
	})
	root := base
	if r.Host != "" {
		root = "https://" + r.Host
	}
	w.Header().Set("Replay-Nonce", c.nonce())
	head, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case head == "dir":
		c.directory(w, root)
	case head == "nonce":
		w.WriteHeader(http.StatusOK)
	case head == "ari":
		c.renewalInfo(w, rest)
	case r.Method == http.MethodPost:
		c.post(w, r, root, head, rest)
	default:
		http.NotFound(w, r)
	}
}

func (c *CA) nonce() string {
	n := rand.Text()
	c.nonces[n] = true
	return n
}

func (c *CA) directory(w http.ResponseWriter, root string) {
	meta := map[string]any{"caaIdentities": []string{"ca.test"}, "externalAccountRequired": len(c.EAB) > 0}
	if c.Terms != "" {
		meta["termsOfService"] = c.Terms
	}
	if len(c.Profiles) > 0 {
		profiles := map[string]string{}
		for _, p := range c.Profiles {
			profiles[p] = p
		}
		meta["profiles"] = profiles
	}
	reply(w, http.StatusOK, map[string]any{
		"newNonce": root + "/nonce", "newAccount": root + "/account", "newOrder": root + "/order",
		"revokeCert": root + "/revoke", "keyChange": root + "/key", "renewalInfo": root + "/ari", "meta": meta,
	})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, p *Problem) {
	out := *p
	prefix(&out)
	if out.Status == 0 {
		out.Status = http.StatusBadRequest
	}
	if p.RetryAfter != "" {
		w.Header().Set("Retry-After", p.RetryAfter)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(out.Status)
	json.NewEncoder(w).Encode(out)
}

func prefix(p *Problem) {
	p.Type = "urn:ietf:params:acme:error:" + p.Type
	p.Subproblems = slices.Clone(p.Subproblems)
	for i := range p.Subproblems {
		prefix(&p.Subproblems[i])
	}
}

func problem(kind, format string, args ...any) *Problem {
	return &Problem{Type: kind, Detail: fmt.Sprintf(format, args...)}
}

type jws struct {
	Protected, Payload, Signature string
}

type header struct {
	Alg, Nonce, URL, KID string
	JWK                  *jwk
}

type jwk struct {
	Crv string `json:"crv"`
	Kty string `json:"kty"`
	X   string `json:"x"`
	Y   string `json:"y"`
}

func (k *jwk) key() *ecdsa.PublicKey {
	point := append([]byte{4}, append(decode(k.X), decode(k.Y)...)...)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil
	}
	return key
}

func (k *jwk) thumbprint() string {
	data, _ := json.Marshal(k) // the fields are in the order that RFC 7638 wants
	sum := sha256.Sum256(data)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func decode(s string) []byte {
	b, _ := base64.RawURLEncoding.DecodeString(s)
	return b
}

// open checks a signed request.
func (c *CA) open(r *http.Request) (h header, payload []byte, who *account, p *Problem) {
	body, err := io.ReadAll(r.Body)
	var j jws
	if err != nil || json.Unmarshal(body, &j) != nil || json.Unmarshal(decode(j.Protected), &h) != nil {
		return h, nil, nil, problem("malformed", "no JWS")
	}
	if !c.nonces[h.Nonce] {
		return h, nil, nil, problem("badNonce", "nonce %s is not ours or was used", h.Nonce)
	}
	delete(c.nonces, h.Nonce)
	if c.count++; c.BadNonces > 0 && c.count%c.BadNonces == 0 {
		return h, nil, nil, problem("badNonce", "nonce refused for the test's sake")
	}
	if h.URL != "https://"+r.Host+r.URL.Path {
		return h, nil, nil, problem("malformed", "the header is for %s", h.URL)
	}
	var key *ecdsa.PublicKey
	if h.JWK != nil {
		key = h.JWK.key()
		thumbprint := h.JWK.thumbprint()
		for _, a := range c.accounts {
			if a.thumbprint == thumbprint {
				who = a
			}
		}
	} else {
		for _, a := range c.accounts {
			if a.url == h.KID {
				who, key = a, a.key
			}
		}
		if who == nil {
			return h, nil, nil, &Problem{Type: "accountDoesNotExist", Detail: "no account " + h.KID, Status: http.StatusBadRequest}
		}
	}
	if key == nil {
		return h, nil, nil, problem("badPublicKey", "the key is not on P-256")
	}
	digest, signature := sha256.Sum256([]byte(j.Protected+"."+j.Payload)), decode(j.Signature)
	if len(signature) != 64 || !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		return h, nil, nil, &Problem{Type: "unauthorized", Detail: "bad signature", Status: http.StatusUnauthorized}
	}
	return h, decode(j.Payload), who, nil
}

func (c *CA) post(w http.ResponseWriter, r *http.Request, root, head, rest string) {
	h, payload, who, p := c.open(r)
	if p != nil {
		refuse(w, p)
		return
	}
	if head == "account" && rest == "" {
		c.newAccount(w, root, h, payload, who)
		return
	}
	if head == "revoke" {
		c.revoke(w, &h, payload, who)
		return
	}
	if who == nil {
		refuse(w, &Problem{Type: "accountDoesNotExist", Detail: "register first"})
		return
	}
	var id int
	fmt.Sscan(rest, &id)
	switch {
	case head == "account":
		var body struct{ Contact []string }
		json.Unmarshal(payload, &body)
		who.contact = body.Contact
		reply(w, http.StatusOK, map[string]any{"status": "valid", "contact": who.contact})
	case head == "order" && rest == "":
		c.newOrder(w, root, payload, who)
	case head == "order" && id < len(c.orders) && c.orders[id].account == who:
		c.showOrder(w, root, http.StatusOK, c.orders[id])
	case head == "authz" && id < len(c.authzs) && c.authzs[id].account == who:
		c.showAuthz(w, root, c.authzs[id])
	case head == "challenge":
		c.challenge(w, root, rest, who)
	case head == "finalize" && id < len(c.orders) && c.orders[id].account == who:
		c.finalize(w, root, payload, c.orders[id])
	case head == "cert" && id < len(c.certs) && c.certs[id].order.account == who:
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: c.certs[id].der})
		w.Write(c.Issuer.PEM())
	default:
		refuse(w, &Problem{Type: "malformed", Detail: "there is nothing at " + r.URL.Path, Status: http.StatusNotFound})
	}
}

func (c *CA) newAccount(w http.ResponseWriter, root string, h header, payload []byte, who *account) {
	if h.JWK == nil {
		refuse(w, problem("malformed", "a new account needs its key"))
		return
	}
	if who == nil {
		var body struct {
			Contact                []string
			TermsOfServiceAgreed   bool
			ExternalAccountBinding *jws
		}
		json.Unmarshal(payload, &body)
		if c.Terms != "" && !body.TermsOfServiceAgreed {
			refuse(w, problem("userActionRequired", "agree to the terms"))
			return
		}
		if len(c.EAB) > 0 {
			if body.ExternalAccountBinding == nil {
				refuse(w, &Problem{Type: "externalAccountRequired", Detail: "EAB is required", Status: http.StatusForbidden})
				return
			}
			e := body.ExternalAccountBinding
			var eh header
			json.Unmarshal(decode(e.Protected), &eh)
			mac := hmac.New(sha256.New, decode(c.EAB[eh.KID]))
			mac.Write([]byte(e.Protected + "." + e.Payload))
			if c.EAB[eh.KID] == "" || !hmac.Equal(mac.Sum(nil), decode(e.Signature)) {
				refuse(w, &Problem{Type: "unauthorized", Detail: "the EAB is not signed with the key " + eh.KID, Status: http.StatusForbidden})
				return
			}
		}
		who = &account{url: fmt.Sprintf("%s/account/%d", root, len(c.accounts)), key: h.JWK.key(), thumbprint: h.JWK.thumbprint(), contact: body.Contact}
		c.accounts = append(c.accounts, who)
	}
	w.Header().Set("Location", who.url)
	reply(w, http.StatusCreated, map[string]any{"status": "valid", "contact": who.contact})
}

func (c *CA) newOrder(w http.ResponseWriter, root string, payload []byte, who *account) {
	var body struct {
		Identifiers       []Identifier
		Profile, Replaces string
	}
	json.Unmarshal(payload, &body)
	o := &order{id: len(c.orders), account: who, profile: body.Profile, replaces: body.Replaces}
	for _, i := range body.Identifiers {
		o.names = append(o.names, i.Value)
	}
	slices.Sort(o.names)
	if c.ReuseOrders {
		for _, old := range c.orders {
			if s := c.status(old); old.account == who && old.profile == o.profile && slices.Equal(old.names, o.names) && (s == "pending" || s == "ready") {
				w.Header().Set("Location", fmt.Sprintf("%s/order/%d", root, old.id))
				c.showOrder(w, root, http.StatusCreated, old)
				return
			}
		}
	}
	if c.NewOrder != nil {
		if p := c.NewOrder(o.names); p != nil {
			refuse(w, p)
			return
		}
	}
	if o.replaces != "" {
		i := slices.IndexFunc(c.certs, func(k *certificate) bool { return certID(k.der) == o.replaces })
		if i < 0 || c.certs[i].replaced {
			refuse(w, &Problem{Type: "alreadyReplaced", Detail: "it is replaced already", Status: http.StatusConflict})
			return
		}
		c.certs[i].replaced = true
	}
	for _, name := range o.names {
		i := slices.IndexFunc(c.authzs, func(a *authz) bool {
			c.look(a)
			return a.account == who && a.name == name && (a.status == "valid" || a.status == "pending" && a.method == "")
		})
		if i < 0 {
			i = len(c.authzs)
			a := &authz{id: i, account: who, name: name, token: rand.Text(), status: "pending"}
			if c.PreAuthorized {
				a.status = "valid"
			}
			c.authzs = append(c.authzs, a)
		}
		o.authzs = append(o.authzs, c.authzs[i])
	}
	c.orders = append(c.orders, o)
	w.Header().Set("Location", fmt.Sprintf("%s/order/%d", root, o.id))
	c.showOrder(w, root, http.StatusCreated, o)
}

// look brings an authorization up to now.
func (c *CA) look(a *authz) {
	if a.status != "pending" || a.method == "" || c.now().Sub(a.accepted) < c.ValidateFor {
		return
	}
	if !a.looked {
		a.looked = true
		if c.Validate != nil {
			a.problem = c.Validate(strings.TrimPrefix(a.name, "*."), a.method, a.token, a.token+"."+a.account.thumbprint)
		}
	}
	a.status = "valid"
	if a.problem != nil {
		a.status = "invalid"
	}
}

func (c *CA) status(o *order) string {
	switch {
	case o.status == "processing" && !c.now().Before(o.ready):
		o.status = "valid"
	case o.status == "":
		ready := true
		for _, a := range o.authzs {
			c.look(a)
			if a.status == "invalid" {
				o.status = "invalid"
				return o.status
			}
			ready = ready && a.status == "valid"
		}
		if ready {
			return "ready"
		}
		return "pending"
	}
	return o.status
}

func (c *CA) showOrder(w http.ResponseWriter, root string, code int, o *order) {
	var ids []Identifier
	var authzs []string
	for i, n := range o.names {
		ids = append(ids, Identifier{"dns", n})
		authzs = append(authzs, fmt.Sprintf("%s/authz/%d", root, o.authzs[i].id))
	}
	out := map[string]any{"status": c.status(o), "expires": c.now().Add(7 * 24 * time.Hour), "identifiers": ids, "authorizations": authzs, "finalize": fmt.Sprintf("%s/finalize/%d", root, o.id)}
	switch out["status"] {
	case "valid":
		out["certificate"] = fmt.Sprintf("%s/cert/%d", root, o.cert.id)
	case "processing":
		w.Header().Set("Retry-After", "3")
	}
	reply(w, code, out)
}

func (c *CA) showAuthz(w http.ResponseWriter, root string, a *authz) {
	c.look(a)
	methods := c.Methods
	if methods == nil {
		methods = []string{"http-01", "tls-alpn-01", "dns-01"}
	}
	name, wildcard := strings.CutPrefix(a.name, "*.")
	if wildcard {
		methods = []string{"dns-01"}
	}
	var challenges []map[string]any
	for _, m := range methods {
		if a.method != "" && a.method != m && a.status != "pending" {
			continue
		}
		ch := map[string]any{"type": m, "url": fmt.Sprintf("%s/challenge/%d/%s", root, a.id, m), "token": a.token, "status": "pending"}
		if a.method == m {
			ch["status"] = map[string]string{"pending": "processing", "valid": "valid", "invalid": "invalid"}[a.status]
			if a.problem != nil && a.status == "invalid" {
				p := *a.problem
				prefix(&p)
				ch["error"] = p
			}
		}
		challenges = append(challenges, ch)
	}
	out := map[string]any{"status": a.status, "identifier": Identifier{"dns", name}, "challenges": challenges, "expires": c.now().Add(24 * time.Hour)}
	if wildcard {
		out["wildcard"] = true
	}
	reply(w, http.StatusOK, out)
}

func (c *CA) challenge(w http.ResponseWriter, root, rest string, who *account) {
	number, method, _ := strings.Cut(rest, "/")
	var id int
	fmt.Sscan(number, &id)
	if id >= len(c.authzs) || c.authzs[id].account != who {
		refuse(w, &Problem{Type: "malformed", Detail: "no such challenge", Status: http.StatusNotFound})
		return
	}
	a := c.authzs[id]
	if a.status != "pending" {
		refuse(w, problem("malformed", "the authorization is %s", a.status))
		return
	}
	if a.method == "" {
		a.method, a.accepted = method, c.now()
	}
	reply(w, http.StatusOK, map[string]any{"type": method, "status": "processing", "token": a.token, "url": fmt.Sprintf("%s/challenge/%s", root, rest)})
}

func (c *CA) finalize(w http.ResponseWriter, root string, payload []byte, o *order) {
	if s := c.status(o); s != "ready" {
		refuse(w, &Problem{Type: "orderNotReady", Detail: "the order is " + s, Status: http.StatusForbidden})
		return
	}
	var body struct{ CSR string }
	json.Unmarshal(payload, &body)
	csr, err := x509.ParseCertificateRequest(decode(body.CSR))
	if err != nil || csr.CheckSignature() != nil {
		refuse(w, problem("badCSR", "the CSR cannot be read"))
		return
	}
	names := slices.Sorted(slices.Values(csr.DNSNames))
	if !slices.Equal(names, o.names) {
		refuse(w, problem("badCSR", "the CSR has other names than the order"))
		return
	}
	if c.Finalize != nil {
		if p := c.Finalize(o.names); p != nil {
			if p.Status < 500 {
				o.status = "invalid"
			}
			refuse(w, p)
			return
		}
	}
	template := testca.Template(o.names...)
	life := c.Lifetime
	if life == 0 {
		life = 90 * 24 * time.Hour
	}
	template.NotBefore, template.NotAfter = c.now().Add(-time.Hour), c.now().Add(life)
	o.cert = &certificate{id: len(c.certs), order: o, der: c.Issuer.Sign(template, csr.PublicKey)}
	c.certs = append(c.certs, o.cert)
	o.status, o.ready = "processing", c.now().Add(c.FinalizeFor)
	c.showOrder(w, root, http.StatusOK, o)
}

func certID(der []byte) string {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return ""
	}
	serial := leaf.SerialNumber.Bytes()
	if len(serial) > 0 && serial[0]&0x80 != 0 {
		serial = append([]byte{0}, serial...)
	}
	return base64.RawURLEncoding.EncodeToString(leaf.AuthorityKeyId) + "." + base64.RawURLEncoding.EncodeToString(serial)
}

func (c *CA) renewalInfo(w http.ResponseWriter, id string) {
	for _, k := range c.certs {
		if certID(k.der) != id {
			continue
		}
		leaf, _ := x509.ParseCertificate(k.der)
		life := leaf.NotAfter.Sub(leaf.NotBefore)
		window := [2]time.Time{leaf.NotAfter.Add(-life / 3), leaf.NotAfter.Add(-life/3 + 48*time.Hour)}
		if c.Window != nil {
			window = c.Window()
		}
		w.Header().Set("Retry-After", "21600")
		reply(w, http.StatusOK, map[string]any{"suggestedWindow": map[string]any{"start": window[0], "end": window[1]}})
		return
	}
	refuse(w, &Problem{Type: "malformed", Detail: "no such certificate", Status: http.StatusNotFound})
}
