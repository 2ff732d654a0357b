package order

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/publicsuffix"

	"fingerpost"
)

// Preflight looks at a name as a CA would, at no cost with the CA.
type Preflight struct {
	Resolver *Resolver
	Solver   Solver // shows the token of the check over HTTP
	// Private allows addresses and names that are not public: for a CA of one's own.
	Private bool
	Port    int // of HTTP; 80 if zero
	// TLS has names proven by a handshake (RFC 8737), where nobody answers over
	// HTTP; TLSPort is 443 if zero.
	TLS     bool
	TLSPort int
	// Provider has the Solver set TXT records at the domains' own DNS providers, for
	// names that can be proven in no way that costs less.
	Provider bool
	// Persist looks for the record of dns-persist-01, where nothing else does.
	Persist bool
}

// Question is what is to be known of a name.
type Question struct {
	Name    string
	CNAME   string   // where _acme-challenge.NAME must point to for dns-01; "" where that is not set up
	Issuers []string // the CA's caaIdentities; none: CAA is not looked at
	Account string   // URL of our account there; "" if there is none yet
}

// Verdict is what came of it. With a Failure there are no methods.
type Verdict struct {
	Methods []string // those that would do, the best first
	Failure *Failure
	// Unsure says that nothing could be asked: no fault of the name.
	Unsure error
}

// Check looks at one name: its form, CAA, then whether it can be proven.
func (p *Preflight) Check(ctx context.Context, q Question) Verdict {
	if f := CheckName(q.Name, p.Private); f != nil {
		return Verdict{Failure: f}
	}
	may, failure, err := p.caa(ctx, q)
	if err != nil || failure != nil {
		return Verdict{Failure: failure, Unsure: err}
	}
	var reasons, methods []string
	var provider *Failure
	if q.CNAME != "" && may(DNS01) {
		reason, err := p.delegated(ctx, q)
		switch {
		case err != nil:
			return Verdict{Unsure: err}
		case reason == "":
			methods = append(methods, DNS01)
		default:
			reasons = append(reasons, reason)
		}
	}
	base, wildcard := strings.CutPrefix(q.Name, "*.")
	direct := HTTP01
	if p.TLS {
		direct = TLSALPN01
	}
	if !wildcard && len(methods) == 0 && may(direct) {
		reason, err := p.reachable(ctx, base, direct)
		switch {
		case err != nil:
			return Verdict{Unsure: err}
		case reason == "":
			methods = append(methods, direct)
		default:
			reasons = append(reasons, reason)
		}
	}
	if p.Provider && len(methods) == 0 && may(DNS01) {
		failure, err := p.provided(ctx, q)
		switch {
		case err != nil:
			return Verdict{Unsure: err}
		case failure == nil:
			methods = append(methods, DNSProvider01)
		default:
			provider = failure
			reasons = append(reasons, failure.Reason)
		}
	}
	persist := ""
	if p.Persist && len(methods) == 0 && may(DNSPersist01) {
		var reason string
		reason, persist, err = p.persistent(ctx, q)
		switch {
		case err != nil:
			return Verdict{Unsure: err}
		case reason == "":
			methods = append(methods, DNSPersist01)
		default:
			reasons = append(reasons, reason)
		}
	}
	if len(methods) > 0 {
		return Verdict{Methods: methods}
	}
	f := &Failure{Name: q.Name, Code: "notHere", Reason: strings.Join(reasons, ", and ")}
	cname := "set _acme-challenge." + base + " CNAME " + strings.TrimSuffix(q.CNAME, ".") + "."
	switch {
	case q.CNAME == "" && wildcard && !p.Provider && !p.Persist:
		f.Reason, f.Hint = "a wildcard needs DNS validation, which is not set up", "set acme.validationZone"
	case len(reasons) == 0:
		f.Reason = "the CAA records of " + base + " allow no way of validation that we have"
		f.Hint = "add dns-01 or " + direct + " to validationmethods in its CAA records"
	case provider != nil && wildcard && q.CNAME == "":
		f.Hint = provider.Hint
	case q.CNAME == "" && wildcard:
		f.Hint = "set " + persist
		persist = ""
	case q.CNAME == "":
		f.Hint = "let all A and AAAA records of " + base + " point here"
	case wildcard:
		f.Hint = cname
	default:
		f.Hint = "let all A and AAAA records of " + base + " point here, or " + cname
	}
	if persist != "" {
		f.Hint += ", or set " + persist
	}
	if provider != nil {
		f.Code, f.Method, f.Detail = provider.Code, provider.Method, provider.Detail
	}
	return Verdict{Failure: f}
}

// provided tries what a challenge would need, with a value of no worth: an order
// for a domain that is not at the provider would fail with the CA as well.
func (p *Preflight) provided(ctx context.Context, q Question) (*Failure, error) {
	base := strings.TrimPrefix(q.Name, "*.")
	probe := Challenge{Name: base, Type: DNS01, Record: "_acme-challenge." + base, TXT: "fingerpost-check-" + rand.Text(), Provider: true}
	defer func() {
		clean := ctx
		if ctx.Err() != nil { // we are to end, and do so soon, but not without a try
			var cancel context.CancelFunc
			clean, cancel = context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
		}
		p.Solver.Remove(clean, []Challenge{probe})
	}()
	err := p.Solver.Present(ctx, []Challenge{probe})
	var unshown Unshown
	if errors.As(err, &unshown) {
		f := unshown[probe]
		return &f, nil
	}
	return nil, err
}

// persistent says why the record of dns-persist-01 is not as it must be, and what to
// set; "" and nothing if it is (draft-ietf-acme-dns-persist).
func (p *Preflight) persistent(ctx context.Context, q Question) (reason, set string, err error) {
	base, wildcard := strings.CutPrefix(q.Name, "*.")
	record := "_validation-persist." + base
	if len(q.Issuers) == 0 || q.Account == "" {
		return "the TXT record of " + record + " cannot be looked at before the CA has given its name and our account", "the TXT record of " + record + ", once its value is shown here", nil
	}
	server, err := p.Resolver.missingTXT(ctx, record, func(text string) bool {
		return persists(text, q, wildcard)
	})
	if err != nil || server == "" {
		return "", "", err
	}
	value := q.Issuers[0] + "; accounturi=" + q.Account
	if wildcard {
		value += "; policy=wildcard"
	}
	return "the TXT record of " + record + " is not set", fmt.Sprintf("%s TXT %q", record, value), nil
}

// persists reports whether a TXT value lets our account have certificates for a name.
func persists(text string, q Question, wildcard bool) bool {
	issuer, rest, _ := strings.Cut(text, ";")
	if !slices.Contains(q.Issuers, strings.ToLower(strings.TrimSpace(issuer))) {
		return false
	}
	account, wild := false, false
	for parameter := range strings.SplitSeq(rest, ";") {
		tag, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		switch value = strings.TrimSpace(value); strings.ToLower(strings.TrimSpace(tag)) {
		case "accounturi":
			account = value == q.Account
		case "policy":
			wild = strings.EqualFold(value, "wildcard")
		case "persistuntil":
			seconds, err := strconv.ParseInt(value, 10, 64)
			if err != nil || time.Now().Unix() >= seconds {
				return false
			}
		}
	}
	return account && (wild || !wildcard)
}

// CAA looks at the CAA records of a name alone: nil if they let a CA with one of
// q.Issuers issue for it.
func (p *Preflight) CAA(ctx context.Context, q Question) (*Failure, error) {
	_, failure, err := p.caa(ctx, q)
	return failure, err
}

// CheckName says what is wrong with the form of a name. A name that is not
// public may have a certificate from a private CA.
func CheckName(name string, private bool) *Failure {
	pattern, err := fingerpost.ParseHostPattern(name)
	if err != nil || string(pattern) != name {
		return &Failure{Name: name, Code: "badName", Reason: fmt.Sprintf("%s is not a host name in the form that certificates have", name), Hint: "write it in lower case and in its ASCII form, without a port"}
	}
	base := strings.TrimPrefix(name, "*.")
	if _, err := netip.ParseAddr(base); err == nil {
		return &Failure{Name: name, Code: "badName", Reason: name + " is an address", Hint: "give a host name"}
	}
	if private {
		return nil
	}
	suffix, icann := publicsuffix.PublicSuffix(base)
	switch {
	case !strings.Contains(base, "."), !icann && !strings.Contains(suffix, "."):
		return &Failure{Name: name, Code: "notPublic", Reason: name + " does not end in a public top-level domain", Hint: "no public CA issues for it: use a CA of your own, or a public name"}
	case icann && suffix == base:
		return &Failure{Name: name, Code: "publicSuffix", Reason: base + " is a public suffix, under which others register names", Hint: "give a name below it"}
	}
	return nil
}

// caa climbs to the CAA records that count (RFC 8659 3), and tells which
// methods they leave.
func (p *Preflight) caa(ctx context.Context, q Question) (may func(method string) bool, failure *Failure, err error) {
	all := func(string) bool { return true }
	if len(q.Issuers) == 0 {
		return all, nil, nil
	}
	base, wildcard := strings.CutPrefix(q.Name, "*.")
	var set []*dns.CAA
	at := base
	for ; at != ""; at = parent(at) {
		records, err := p.Resolver.Ask(ctx, at, dns.TypeCAA)
		if err != nil && !errors.Is(err, errNoName) {
			return nil, nil, fmt.Errorf("look up CAA of %s: %w", at, err)
		}
		for _, rr := range records {
			set = append(set, rr.(*dns.CAA))
		}
		if len(set) > 0 {
			break
		}
	}
	with := func(tag string) (found []*dns.CAA) {
		for _, r := range set {
			if strings.EqualFold(r.Tag, tag) {
				found = append(found, r)
			}
		}
		return found
	}
	for _, r := range set {
		if known := []string{"issue", "issuewild", "iodef", "issuemail", "issuevmc", "contactemail", "contactphone"}; r.Flag&128 != 0 && !slices.Contains(known, strings.ToLower(r.Tag)) {
			return nil, &Failure{Name: q.Name, Code: "caa", Reason: fmt.Sprintf("a critical CAA record of %s (%s) is one that CAs do not know", at, r.Tag), Hint: "remove it"}, nil
		}
	}
	relevant := with("issue")
	if wild := with("issuewild"); wildcard && len(wild) > 0 {
		relevant = wild
	}
	if len(relevant) == 0 {
		return all, nil, nil
	}
	var allowed []string
	for _, r := range relevant {
		issuer, rest, _ := strings.Cut(r.Value, ";")
		issuer = strings.ToLower(strings.TrimSpace(issuer))
		if issuer != "" {
			allowed = append(allowed, issuer)
		}
		if !slices.Contains(q.Issuers, issuer) {
			continue
		}
		methods, ok := caaParameters(rest, q.Account)
		if !ok {
			continue
		}
		return func(method string) bool { return methods == nil || slices.Contains(methods, method) }, nil, nil
	}
	f := &Failure{Name: q.Name, Code: "caa", Reason: fmt.Sprintf("the CAA records of %s allow no CA to issue for %s", at, q.Name),
		Hint: fmt.Sprintf("add to the CAA records of %s: 0 %s %q", at, strings.ToLower(relevant[0].Tag), q.Issuers[0])}
	if len(allowed) > 0 {
		f.Reason = fmt.Sprintf("the CAA records of %s allow %s to issue for %s, not %s", at, strings.Join(slices.Compact(allowed), " and "), q.Name, q.Issuers[0])
		if slices.Contains(allowed, q.Issuers[0]) {
			f.Reason = fmt.Sprintf("the CAA records of %s allow another account than ours", at)
			f.Hint = "set accounturi to " + q.Account + ", or remove it"
		}
	}
	return nil, f, nil
}

// caaParameters reads what a CAA record adds to the issuer (RFC 8657): methods
// are nil where all are allowed; it is not ok if the record is for another
// account.
func caaParameters(text, account string) (methods []string, ok bool) {
	for parameter := range strings.SplitSeq(text, ";") {
		tag, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		switch strings.ToLower(strings.TrimSpace(tag)) {
		case "accounturi":
			if value = strings.TrimSpace(value); account != "" && value != account {
				return nil, false
			}
		case "validationmethods":
			for m := range strings.SplitSeq(value, ",") {
				methods = append(methods, strings.TrimSpace(m))
			}
		}
	}
	return methods, true
}

// delegated says why the CNAME of a name is not as it must be; "" if it is. The
// domain's own servers decide; where none can be asked, the resolvers do.
func (p *Preflight) delegated(ctx context.Context, q Question) (reason string, err error) {
	name := "_acme-challenge." + strings.TrimPrefix(q.Name, "*.")
	want := strings.ToLower(dns.Fqdn(q.CNAME))
	servers, ownErr := p.Resolver.Own(ctx, name)
	recurse := false
	if ownErr != nil {
		servers, recurse = p.Resolver.Servers, true
	}
	answered := 0
	for round := 0; round < 2 && answered == 0; round++ {
		if round == 1 {
			if recurse {
				break
			}
			servers, recurse = p.Resolver.Servers, true
		}
		for _, server := range servers {
			records, err := p.Resolver.askAt(ctx, server, name, dns.TypeCNAME, recurse)
			if ctx.Err() != nil {
				return "", ctx.Err()
			}
			if errors.Is(err, errNoName) {
				return "the CNAME of " + name + " is not set", nil
			}
			if err != nil {
				ownErr = err
				continue
			}
			answered++
			if got := strings.ToLower(records[0].(*dns.CNAME).Target); got != want {
				return fmt.Sprintf("the CNAME of %s points to %s", name, strings.TrimSuffix(got, ".")), nil
			}
		}
	}
	if answered == 0 {
		return "", fmt.Errorf("no name server answers for %s: %w", name, ownErr)
	}
	return "", nil
}

// reachable says why a challenge of a method does not come to us by each address of
// a name; "" if it does.
func (p *Preflight) reachable(ctx context.Context, name, method string) (reason string, err error) {
	addrs, err := p.Resolver.Addresses(ctx, name)
	if errors.Is(err, errNoName) {
		return name + " has no address in DNS", nil
	}
	if err != nil {
		return "", fmt.Errorf("look up the addresses of %s: %w", name, err)
	}
	for _, a := range addrs {
		if !p.Private && !public(a) {
			return fmt.Sprintf("%s points to %s, which nobody outside can reach", name, a), nil
		}
	}
	probe := Challenge{Name: name, Type: method, Token: rand.Text(), KeyAuthorization: rand.Text()}
	if err := p.Solver.Present(ctx, []Challenge{probe}); err != nil {
		return "", fmt.Errorf("show the token of the check: %w", err)
	}
	defer p.Solver.Remove(context.WithoutCancel(ctx), []Challenge{probe})
	scheme, port, usual, ask := "http", p.Port, 80, fetch
	if method == TLSALPN01 {
		scheme, port, usual, ask = "https", p.TLSPort, 443, shake
	}
	if port == 0 {
		port = usual
	}
	for _, a := range addrs {
		if err := ask(ctx, probe, net.JoinHostPort(a.String(), strconv.Itoa(port))); err != nil {
			if ctx.Err() != nil {
				return "", ctx.Err()
			}
			return fmt.Sprintf("%s://%s does not reach us at %s: %v", scheme, name, a, err), nil
		}
	}
	return "", nil
}

// shake makes a handshake as a CA does, at one address.
func shake(ctx context.Context, probe Challenge, address string) error {
	digest := sha256.Sum256([]byte(probe.KeyAuthorization))
	want, err := asn1.Marshal(digest[:])
	if err != nil {
		return err
	}
	ours := false
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{
		ServerName: probe.Name, NextProtos: []string{ACMETLS}, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, // the certificate signs itself; the digest in it is what counts
		VerifyConnection: func(s tls.ConnectionState) error {
			ours = slices.ContainsFunc(s.PeerCertificates[0].Extensions, func(e pkix.Extension) bool {
				return e.Id.Equal(idACMEIdentifier) && bytes.Equal(e.Value, want)
			})
			return nil
		},
	}}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err == nil {
		conn.Close()
	}
	var op *net.OpError
	switch {
	case ours:
		return nil
	case err == nil, errors.As(err, new(tls.RecordHeaderError)), errors.As(err, &op) && op.Op == "remote error": // an alert
		return errors.New("another server answers")
	}
	return unreached(err)
}

// unreached says why there was no connection.
func unreached(err error) error {
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "dial" && !op.Timeout():
		return errors.New("the connection is refused")
	case errors.As(err, &op) && op.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return errors.New("nobody answers")
	}
	return errors.New("the connection breaks")
}

// fetch asks for a token as a CA does, at one address.
func fetch(ctx context.Context, probe Challenge, address string) error {
	transport := &http.Transport{
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 16 << 10,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, address)
		},
	}
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+probe.Name+"/.well-known/acme-challenge/"+probe.Token, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return unreached(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return fmt.Errorf("another server answers, with a redirect to %s", plain(resp.Header.Get("Location"), 200))
	case resp.StatusCode != http.StatusOK || strings.TrimSpace(string(body)) != probe.KeyAuthorization:
		return fmt.Errorf("another server answers (HTTP %d)", resp.StatusCode)
	}
	return nil
}

var shared = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598

// public reports whether an address can be reached from elsewhere.
func public(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !shared.Contains(a)
}
