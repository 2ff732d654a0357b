package order

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"fingerpost"
)

// EAB binds an account to one that the CA knows by other means (RFC 8555 7.3.4).
type EAB struct {
	KeyID string
	Key   string // base64, of either alphabet: secret
}

// CAConfig is what is set about one CA.
type CAConfig struct {
	Name         string // what orders call it
	Directory    string // https, except on loopback
	Contact      []string
	AgreeToTerms bool // somebody has read the CA's terms of service
	EAB          EAB
	Roots        *x509.CertPool    // what the CA's own certificate hangs on; nil: the system's
	Transport    http.RoundTripper // for tests; nil makes one
	UserAgent    string
}

// CA is one certificate authority with our account at it. All orders share its
// client, so that nonces are used again.
type CA struct {
	config CAConfig
	http   *http.Client

	// Each holds one while the CA is asked for what all need: one asks, and those
	// that wait can be called off. The library would hold a lock of all CAs.
	reading, registering chan struct{}

	mu        sync.Mutex // guards what is below, and is never held while the CA is asked
	client    *acme.Client
	made      time.Time
	account   *acme.Account
	directory directory
}

// directory is what the CA has said about itself, or why it has not.
type directory struct {
	body []byte
	acme.Directory
	err error
	at  time.Time
}

func acquire(ctx context.Context, slot chan struct{}) error {
	select {
	case slot <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Limits of what a CA may do to us.
const (
	maxAnswer      = 1 << 20
	requestTimeout = time.Minute
	clientLife     = 12 * time.Hour   // the library never reads a directory again
	downFor        = 20 * time.Second // a CA without a directory is not asked again before
	knownIn        = 5 * time.Second  // what only wants to know its names waits no longer
)

// NewCA checks c; it asks nobody.
func NewCA(c CAConfig) (*CA, error) {
	u, err := url.Parse(c.Directory)
	if err != nil || u.Host == "" {
		return nil, &fingerpost.Error{Code: "bad_ca", Field: "acme.directory", Message: fmt.Sprintf("%q is no directory URL", c.Directory), Hint: "give the CA's directory, such as https://acme-v02.api.letsencrypt.org/directory"}
	}
	if !secure(u) {
		return nil, &fingerpost.Error{Code: "bad_ca", Field: "acme.directory", Message: fmt.Sprintf("the CA's directory %s is not https", c.Directory), Hint: "use the https address; http is for loopback only"}
	}
	if c.EAB.KeyID != "" {
		if _, err := macKey(c.EAB.Key); err != nil {
			return nil, &fingerpost.Error{Code: "bad_ca", Field: "acme.eab", Message: "the EAB key of " + c.Name + " is not base64", Hint: "copy it again from the CA's page, as it stands there"}
		}
	}
	transport := c.Transport
	if transport == nil {
		base := http.DefaultTransport.(*http.Transport).Clone()
		base.TLSClientConfig = &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12}
		base.MaxIdleConnsPerHost = parallel
		transport = base
	}
	ca := &CA{config: c, reading: make(chan struct{}, 1), registering: make(chan struct{}, 1)}
	ca.http = &http.Client{Transport: &caTransport{base: transport, ca: ca}, Timeout: requestTimeout}
	return ca, nil
}

// Name is what orders call the CA.
func (c *CA) Name() string { return c.config.Name }

func secure(u *url.URL) bool {
	if u.Scheme == "https" {
		return true
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())
}

// macKey turns what CAs show for an EAB key into what the library takes.
func macKey(key string) (string, error) {
	key = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(strings.TrimSpace(key), "="))
	if key == "" {
		return "", errors.New("empty")
	}
	_, err := base64.RawURLEncoding.DecodeString(key)
	return key, err
}

// acme gives the client that all share.
func (c *CA) acme() *acme.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client == nil || time.Since(c.made) > clientLife {
		agent := c.config.UserAgent
		if agent == "" {
			agent = "fingerpost"
		}
		// PollTimeout below zero: the library's own polling never begins; ours
		// writes down where it is.
		c.client, c.made = &acme.Client{Directory: c.config.Directory, HTTPClient: c.http, UserAgent: agent, PollTimeout: -1}, time.Now()
	}
	return c.client
}

// Directory is what the CA says about itself, asked for twice a day.
func (c *CA) Directory(ctx context.Context) (acme.Directory, error) {
	if err := acquire(ctx, c.reading); err != nil {
		return acme.Directory{}, err
	}
	defer func() { <-c.reading }()
	c.mu.Lock()
	have := c.directory
	c.mu.Unlock()
	age := time.Since(have.at)
	if have.body != nil && age < clientLife || have.err != nil && age < downFor {
		return have.Directory, have.err
	}
	fresh := directory{at: time.Now()}
	fresh.body, fresh.err = c.readDirectory(ctx)
	if fresh.err == nil {
		fresh.err = json.Unmarshal(fresh.body, &fresh.Directory)
	}
	if fresh.err == nil && (fresh.NewOrder == "" || fresh.NewNonce == "" || fresh.NewAccount == "") {
		fresh.err = &fingerpost.Error{Code: "bad_ca", Field: "acme.directory", Message: c.config.Directory + " is no ACME directory", Hint: "give the directory's own address; it names newNonce, newAccount and newOrder"}
	}
	fresh.err = c.failed("read the directory", fresh.err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return acme.Directory{}, ctx.Err()
	case fresh.err != nil && have.body != nil: // what was said before is better than nothing
		fresh = have
		fresh.at = time.Now().Add(downFor - clientLife)
	case fresh.err != nil:
		fresh.body = nil
	}
	c.mu.Lock()
	c.directory = fresh
	c.mu.Unlock()
	return fresh.Directory, fresh.err
}

// known is the directory as it was read last, or after a moment for which a CA that does not
// answer may hold up what others wait for.
func (c *CA) known(ctx context.Context) (acme.Directory, bool) {
	c.mu.Lock()
	have := c.directory
	c.mu.Unlock()
	if have.body != nil {
		return have.Directory, true
	}
	ctx, cancel := context.WithTimeout(ctx, knownIn)
	defer cancel()
	dir, err := c.Directory(ctx)
	return dir, err == nil
}

func (c *CA) readDirectory(ctx context.Context) (body []byte, err error) {
	err = call(ctx, false, func(ctx context.Context) error {
		ctx.Value(exchangeKey{}).(*exchange).directory = true
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.config.Directory, nil)
		if err != nil {
			return err
		}
		resp, err := c.http.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return &Problem{Type: "http", Status: max(resp.StatusCode, 500), Detail: "the directory answers with HTTP " + strconv.Itoa(resp.StatusCode)}
		}
		body, err = io.ReadAll(resp.Body)
		return err
	})
	return body, err
}

// accountRecord is the value of a KindAccount record.
type accountRecord struct {
	Directory string   `json:"directory"`
	URL       string   `json:"url,omitempty"` // empty: the key is kept, the account may exist
	Contact   []string `json:"contact,omitempty"`
	Key       []byte   `json:"key"` // PKCS #8, sealed
}

func (c *CA) accountKey() string {
	if c.config.EAB.KeyID != "" {
		return c.config.Directory + "#" + c.config.EAB.KeyID
	}
	return c.config.Directory
}

// AccountPurpose is what the key of an account is sealed for, by the key of its
// [KindAccount] record.
func AccountPurpose(record string) string { return "key of the account at " + record }

// accountAt gives our account, which it registers if need be. The key is kept before
// the CA hears of it, and the same key gives the same account, so an answer that
// is lost loses nothing.
func (c *CA) accountAt(ctx context.Context, d *Driver, fence int64) (acme.Account, error) {
	client := c.acme()
	dir, err := c.Directory(ctx)
	if err != nil {
		return acme.Account{}, err
	}
	if err := acquire(ctx, c.registering); err != nil {
		return acme.Account{}, err
	}
	defer func() { <-c.registering }()
	c.mu.Lock()
	known := c.account
	c.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	var record accountRecord
	var key crypto.Signer
	value, err := d.Storage.Get(ctx, KindAccount, c.accountKey())
	switch {
	case err == nil:
		if err := json.Unmarshal(value, &record); err != nil {
			return acme.Account{}, fmt.Errorf("account at %s: %w", c.config.Name, err)
		}
		if key, err = unsealKey(d, AccountPurpose(c.accountKey()), record.Key); err != nil {
			return acme.Account{}, fmt.Errorf("account at %s: %w", c.config.Name, err)
		}
	case errors.Is(err, ErrNoRecord):
		fresh, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return acme.Account{}, err
		}
		key, record.Directory = fresh, c.config.Directory
		if record.Key, err = sealKey(d, AccountPurpose(c.accountKey()), fresh); err != nil {
			return acme.Account{}, fmt.Errorf("account at %s: %w", c.config.Name, err)
		}
		if err := c.writeAccount(ctx, d, fence, record); err != nil {
			return acme.Account{}, err
		}
	default:
		return acme.Account{}, &Later{Err: fmt.Errorf("account at %s: %w", c.config.Name, err)}
	}
	account := acme.Account{Location: record.URL, PrivateKey: key, Contact: c.config.Contact}
	switch {
	case record.URL == "":
		if dir.Meta != nil && dir.Meta.TermsOfService != "" && !c.config.AgreeToTerms {
			return acme.Account{}, &fingerpost.Error{Code: "ca_terms", Field: "acme.agree", Message: "nobody has agreed to the terms of " + c.config.Name, Hint: "read " + dir.Meta.TermsOfService + " and set acme.agree"}
		}
		account.TermsOfServiceAgreed = c.config.AgreeToTerms
		if c.config.EAB.KeyID != "" {
			mac, _ := macKey(c.config.EAB.Key) // NewCA has seen that it is one
			if err := account.SetExternalAccountBinding(ctx, client, acme.EAB{KeyID: c.config.EAB.KeyID, MACKey: mac}); err != nil {
				return acme.Account{}, c.failed("bind the account", err)
			}
		} else if dir.Meta != nil && dir.Meta.ExternalAccountRequired {
			return acme.Account{}, &fingerpost.Error{Code: "ca_eab", Field: "acme.eab", Message: c.config.Name + " gives certificates to accounts that it knows only", Hint: "get a key id and a key for ACME (EAB) at the CA, and set them"}
		}
		err = call(ctx, false, func(ctx context.Context) (err error) {
			account, err = client.NewAccount(ctx, account)
			return err
		})
	case !slices.Equal(record.Contact, c.config.Contact):
		err = call(ctx, false, func(ctx context.Context) (err error) {
			account, err = client.UpdateAccount(ctx, account)
			account.Location = record.URL // CAs need not say it again
			return err
		})
	default:
		c.mu.Lock()
		c.account = &account
		c.mu.Unlock()
		return account, nil
	}
	if err != nil {
		return acme.Account{}, c.failed("register", err)
	}
	record.URL, record.Contact = account.Location, c.config.Contact
	if err := c.writeAccount(ctx, d, fence, record); err != nil {
		return acme.Account{}, err
	}
	account.ExternalAccountBinding = nil
	c.mu.Lock()
	c.account = &account
	c.mu.Unlock()
	return account, nil
}

func (c *CA) writeAccount(ctx context.Context, d *Driver, fence int64, record accountRecord) error {
	value, err := json.Marshal(record)
	if err == nil {
		err = d.Storage.Write(ctx, fence, Record{Kind: KindAccount, Key: c.accountKey(), Value: value})
	}
	if err != nil {
		return &Later{Err: fmt.Errorf("keep the account at %s: %w", c.config.Name, err)}
	}
	return nil
}

// forgetAccount makes the next call register again with the same key: the CA
// says that it does not know the account.
func (c *CA) forgetAccount(ctx context.Context, d *Driver, fence int64) error {
	if err := acquire(ctx, c.registering); err != nil {
		return err
	}
	defer func() { <-c.registering }()
	c.mu.Lock()
	c.account = nil
	c.mu.Unlock()
	value, err := d.Storage.Get(ctx, KindAccount, c.accountKey())
	if err != nil {
		return err
	}
	var record accountRecord
	if err := json.Unmarshal(value, &record); err != nil {
		return err
	}
	record.URL = ""
	return c.writeAccount(ctx, d, fence, record)
}

// failed says what was tried at which CA, and whether it may pass.
func (c *CA) failed(what string, err error) error {
	if err == nil {
		return nil
	}
	var e *fingerpost.Error
	if errors.As(err, &e) {
		if e.Code == "ca_html" {
			return &Later{Silent: true, Err: e} // the CA may be down behind a proxy's page
		}
		return e
	}
	var p *Problem
	if errors.As(err, &p) && !p.passes() && !p.limited() {
		return fmt.Errorf("%s at %s: %w", what, c.config.Name, err)
	}
	return &Later{Retry: RetryAfter(err), Silent: p == nil || !p.limited(), Err: fmt.Errorf("%s at %s: %w", what, c.config.Name, err)}
}

// An exchange is what one call of the library did not hand on about the answers.
type exchange struct {
	once      bool // a request whose answer is lost is not sent again
	directory bool // it asks the CA for its directory; the library is given what is known

	mu      sync.Mutex
	sent    bool  // such a request may have had its effect
	first   error // why its answer did not come
	problem *Problem
	retry   time.Time
}

type exchangeKey struct{}

var errLost = errors.New("the answer was lost")

// call runs one call of the library. Its error holds a *Problem where the CA
// gave one, with what its headers said as a *Later. With once, a POST that may
// have had its effect is not repeated below: the caller decides.
func call(ctx context.Context, once bool, fn func(context.Context) error) error {
	_, err := callRetry(ctx, once, fn)
	return err
}

// callRetry is [call], and says when the CA wants to be asked again.
func callRetry(ctx context.Context, once bool, fn func(context.Context) error) (time.Time, error) {
	x := &exchange{once: once}
	err := fn(context.WithValue(ctx, exchangeKey{}, x))
	x.mu.Lock()
	defer x.mu.Unlock()
	if err == nil {
		return x.retry, nil
	}
	var libraries acme.Problem
	switch {
	case x.problem != nil && (errors.As(err, &libraries) || errors.Is(err, errLost) || x.problem.limited()):
		err = x.problem
	case errors.Is(err, errLost) && x.first != nil:
		err = x.first
	}
	if !x.retry.IsZero() {
		err = &Later{Retry: x.retry, Err: err}
	}
	return x.retry, err
}

// caTransport looks at each answer before the library does: it keeps what the
// library drops (Retry-After of errors, the identifier of a problem), bounds
// it, and turns a web page into a clear error.
type caTransport struct {
	base http.RoundTripper
	ca   *CA
}

func (t *caTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !secure(r.URL) { // the CA gives addresses, too
		return nil, &fingerpost.Error{Code: "bad_ca", Message: fmt.Sprintf("%s refers to %s, which is not https", t.ca.config.Name, r.URL.Redacted()), Hint: "tell the CA; nothing was sent"}
	}
	x, _ := r.Context().Value(exchangeKey{}).(*exchange)
	if x == nil {
		x = new(exchange)
	}
	if r.Method == http.MethodGet && !x.directory && r.URL.String() == t.ca.config.Directory {
		t.ca.mu.Lock()
		body := t.ca.directory.body
		t.ca.mu.Unlock()
		if body != nil {
			return &http.Response{Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
				Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(body))}, nil
		}
	}
	post := r.Method == http.MethodPost
	x.mu.Lock()
	lost := x.once && x.sent && post
	x.mu.Unlock()
	if lost {
		return nil, errLost
	}
	effect := func(err error) {
		if post {
			x.mu.Lock()
			x.sent, x.first = true, err
			x.mu.Unlock()
		}
	}
	resp, err := t.base.RoundTrip(r)
	if err != nil {
		effect(err)
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	resp.Body.Close()
	if err == nil && len(body) > maxAnswer {
		err = fmt.Errorf("the answer of %s has more than %d bytes", t.ca.config.Name, maxAnswer)
	}
	if err != nil {
		effect(err)
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	// The library would fetch every other chain that the CA has, and the CA's first is
	// the one that we serve.
	resp.Header["Link"] = slices.DeleteFunc(resp.Header["Link"], func(link string) bool { return strings.Contains(link, "alternate") })
	x.mu.Lock()
	x.retry = parseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
	x.problem = nil
	if resp.StatusCode >= 400 {
		x.problem = parseProblem(resp.StatusCode, body)
	}
	if resp.StatusCode == http.StatusTooManyRequests && x.problem == nil { // by what stands before the CA
		x.problem = &Problem{Type: acme.ProblemTypeRateLimited, Status: resp.StatusCode, Detail: "too many requests"}
	}
	x.mu.Unlock()
	media, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if strings.EqualFold(strings.TrimSpace(media), "text/html") {
		err = &fingerpost.Error{Code: "ca_html",
			Message: fmt.Sprintf("%s answered with a web page (HTTP %d), not with ACME, at %s", t.ca.config.Name, resp.StatusCode, r.URL.Redacted()),
			Hint:    "check acme.directory: it must be the directory's own address; if it is, the CA may be down, or a proxy in between"}
		effect(err)
		return nil, err
	}
	if resp.StatusCode >= 500 {
		effect(fmt.Errorf("HTTP %d", resp.StatusCode))
	}
	return resp, nil
}

// parseRetryAfter reads both forms of the header (RFC 9110 10.2.3); what is
// neither, or ahead of a month, is none.
func parseRetryAfter(value string, now time.Time) time.Time {
	if value == "" {
		return time.Time{}
	}
	at, err := http.ParseTime(value)
	if seconds, numErr := strconv.Atoi(value); numErr == nil && seconds >= 0 {
		at, err = now.Add(time.Duration(seconds)*time.Second), nil
	}
	if err != nil || at.After(now.AddDate(0, 1, 0)) {
		return time.Time{}
	}
	return at
}
