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
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/publicsuffix"

	"fingerpost"
)

// Preflight looks at a name as a CA would, at no cost with the CA.
type Preflight struct {
	Resolver *Resolver
	Solver   Solver // shows what the check looks for
	// Answer is what every node says over HTTP to a token that begins with [CheckToken], with
	// nothing to be told to it before. nil: the Solver shows one.
	Answer func(name, token string) string
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
	// ZoneRecord has the TXT value ZoneTXT on all nodes, in the zone that CNAMEs lead to:
	// if the resolvers do not find it there, a CA does not either. "": it is not looked at.
	ZoneRecord, ZoneTXT string

	zone struct {
		sync.Mutex // guards the rest: one asks for all
		at         time.Time
		fault      string
	}
}

// zoneEvery is how long what was found out about the zone holds for all names.
const zoneEvery = time.Minute

// zoneFault says why a CNAME does not lead a CA to us; "" if it does.
func (p *Preflight) zoneFault(ctx context.Context) string {
	if p.ZoneRecord == "" {
		return ""
	}
	p.zone.Lock()
	defer p.zone.Unlock()
	if time.Since(p.zone.at) < zoneEvery {
		return p.zone.fault
	}
	// For all names, whatever becomes of the check of this one.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkFor)
	defer cancel()
	records, err := p.Resolver.Ask(ctx, p.ZoneRecord, dns.TypeTXT)
	p.zone.at, p.zone.fault = time.Now(), ""
	switch {
	case err != nil:
		p.zone.fault = fmt.Sprintf("the validation zone is not found through the resolvers: %v", err)
	case !slices.ContainsFunc(records, func(rr dns.RR) bool { return strings.Join(rr.(*dns.TXT).Txt, "") == p.ZoneTXT }):
		p.zone.fault = "the validation zone is answered by another server, or for another cluster"
	}
	return p.zone.fault
}

// Question is what is to be known of a name.
type Question struct {
	Name  string
	CNAME string      // where _acme-challenge.NAME must point to for dns-01; "" where that is not set up
	CAs   []Authority // that are to issue for it, the preferred first; none: CAA is not looked at
}

// Authority is a CA as the DNS of a name speaks of it.
type Authority struct {
	Name    string
	Issuers []string // its caaIdentities; none: it looks at CAA itself
	Account string   // URL of our account there; "" if there is none yet
}

// Verdict is what came of it. With a Failure there are no methods.
type Verdict struct {
	Methods []string // those that would do, the best first
	CAs     []string // that may issue for the name; none: all that were asked about
	Failure *Failure
	// Unsure says that nothing could be asked: no fault of the name.
	Unsure error
}

// checkFor is how long a check may take, without what a DNS provider needs: whoever runs
// the domain's servers decides how slow they are.
const checkFor = 30 * time.Second

// Check looks at one name: its form, CAA, then whether it can be proven.
func (p *Preflight) Check(whole context.Context, q Question) Verdict {
	if f := CheckName(q.Name, p.Private); f != nil {
		return Verdict{Failure: f}
	}
	ctx, cancel := context.WithTimeout(whole, checkFor)
	defer cancel()
	allowed, failure, err := p.caa(ctx, q)
	if err != nil {
		return p.unanswered(whole, q.Name, err)
	}
	if failure != nil {
		return Verdict{Failure: failure}
	}
	may := func(method string) bool {
		return slices.ContainsFunc(allowed, func(a allowance) bool { return a.may(method) })
	}
	var reasons, methods []string
	var provider *Failure
	zone := ""
	if q.CNAME != "" && may(DNS01) {
		reason, err := p.delegated(ctx, q)
		switch {
		case err != nil:
			return p.unanswered(whole, q.Name, err)
		case reason == "":
			if zone = p.zoneFault(ctx); zone != "" {
				reasons = append(reasons, zone)
				break
			}
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
		case errors.As(err, new(notShown)):
			return Verdict{Unsure: err}
		case err != nil:
			return p.unanswered(whole, q.Name, err)
		case reason == "":
			methods = append(methods, direct)
		default:
			reasons = append(reasons, reason)
		}
	}
	if p.Provider && len(methods) == 0 && may(DNS01) {
		failure, err := p.provided(whole, q)
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
		ctx, cancel := context.WithTimeout(whole, checkFor) // the provider has taken its time
		defer cancel()
		reason, persist, err = p.persistent(ctx, q.Name, allowed[0].ca)
		switch {
		case err != nil:
			return p.unanswered(whole, q.Name, err)
		case reason == "":
			methods = append(methods, DNSPersist01)
		default:
			reasons = append(reasons, reason)
		}
	}
	if len(methods) > 0 {
		v := Verdict{Methods: methods}
		for _, a := range allowed {
			if a.may(methods[0]) {
				v.CAs = append(v.CAs, a.ca.Name)
			}
		}
		if len(v.CAs) >= len(q.CAs) {
			v.CAs = nil
		}
		return v
	}
	f := &Failure{Name: q.Name, Code: "notHere", Reason: strings.Join(reasons, ", and ")}
	if zone != "" { // the name is as it must be
		f.Code, f.Hint = "zone", "delegate the zone (NS records) to the nodes, and let UDP and TCP to their port 53 in; `fingerpost doctor` looks at it"
		return Verdict{Failure: f}
	}
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

// unanswered is the verdict where DNS could not be asked. If our resolvers answer for
// another name, it is the domain's own servers that do not, or its DNSSEC.
func (p *Preflight) unanswered(ctx context.Context, name string, err error) Verdict {
	base := strings.TrimPrefix(name, "*.")
	suffix, _ := publicsuffix.PublicSuffix(base)
	ctx, cancel := context.WithTimeout(ctx, checkFor)
	defer cancel()
	if suffix == base || p.Resolver.Answers(ctx, suffix) != nil {
		return Verdict{Unsure: err}
	}
	return Verdict{Failure: &Failure{Name: name, Code: "dns", Detail: err.Error(),
		Reason: "the DNS of " + base + " gives no answer, while that of other names does",
		Hint:   "check that the name servers of " + base + " answer, and that its DNSSEC is in order"}}
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
func (p *Preflight) persistent(ctx context.Context, name string, ca Authority) (reason, set string, err error) {
	base, wildcard := strings.CutPrefix(name, "*.")
	record := "_validation-persist." + base
	if len(ca.Issuers) == 0 || ca.Account == "" {
		return "the TXT record of " + record + " cannot be looked at before the CA has given its name and our account", "the TXT record of " + record + ", once its value is shown here", nil
	}
	server, err := p.Resolver.missingTXT(ctx, record, func(text string) bool {
		return persists(text, ca, wildcard)
	})
	if err != nil || server == "" {
		return "", "", err
	}
	value := ca.Issuers[0] + "; accounturi=" + ca.Account
	if wildcard {
		value += "; policy=wildcard"
	}
	return "the TXT record of " + record + " is not set", fmt.Sprintf("%s TXT %q", record, value), nil
}

// persists reports whether a TXT value lets our account have certificates for a name.
func persists(text string, ca Authority, wildcard bool) bool {
	issuer, rest, _ := strings.Cut(text, ";")
	if !slices.Contains(ca.Issuers, strings.ToLower(strings.TrimSpace(issuer))) {
		return false
	}
	account, wild := false, false
	for parameter := range strings.SplitSeq(rest, ";") {
		tag, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		switch value = strings.TrimSpace(value); strings.ToLower(strings.TrimSpace(tag)) {
		case "accounturi":
			account = value == ca.Account
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

// CAA looks at the CAA records of a name alone: nil if they let one of the CAs issue
// for it.
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

// allowance is a CA that CAA lets issue, by some methods: nil are all.
type allowance struct {
	ca      Authority
	methods []string
}

func (a allowance) may(method string) bool {
	return a.methods == nil || slices.Contains(a.methods, method)
}

// caa climbs to the CAA records that count (RFC 8659 3), and tells which CAs they leave,
// or why none.
func (p *Preflight) caa(ctx context.Context, q Question) (allowed []allowance, failure *Failure, err error) {
	asks := q.CAs
	if len(asks) == 0 {
		asks = []Authority{{}}
	}
	first := slices.IndexFunc(asks, func(a Authority) bool { return len(a.Issuers) > 0 })
	if first < 0 {
		for _, ca := range asks {
			allowed = append(allowed, allowance{ca: ca})
		}
		return allowed, nil, nil
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
	var others []string
	for _, r := range relevant {
		if issuer := caaIssuer(r); issuer != "" && !slices.Contains(others, issuer) {
			others = append(others, issuer)
		}
	}
	for _, ca := range asks {
		if a, ok := ca.allowedBy(relevant); ok {
			allowed = append(allowed, a)
		}
	}
	if len(allowed) > 0 {
		return allowed, nil, nil
	}
	ca := asks[first]
	f := &Failure{Name: q.Name, Code: "caa", Reason: fmt.Sprintf("the CAA records of %s allow no CA to issue for %s", at, q.Name),
		Hint: fmt.Sprintf("add to the CAA records of %s: 0 %s %q", at, strings.ToLower(relevant[0].Tag), ca.Issuers[0])}
	if len(others) > 0 {
		f.Reason = fmt.Sprintf("the CAA records of %s allow %s to issue for %s, not %s", at, strings.Join(others[:min(len(others), maxServers)], " and "), q.Name, ca.Issuers[0])
		if slices.Contains(others, ca.Issuers[0]) {
			f.Reason = fmt.Sprintf("the CAA records of %s allow another account than ours", at)
			f.Hint = "set accounturi to " + ca.Account + ", or remove it"
		}
	}
	return nil, f, nil
}

func caaIssuer(r *dns.CAA) string {
	issuer, _, _ := strings.Cut(r.Value, ";")
	return strings.ToLower(strings.TrimSpace(issuer))
}

// allowedBy reports whether the CAA records that count let a CA issue.
func (ca Authority) allowedBy(records []*dns.CAA) (a allowance, ok bool) {
	a.ca = ca
	if len(records) == 0 || len(ca.Issuers) == 0 {
		return a, true
	}
	for _, r := range records {
		if !slices.Contains(ca.Issuers, caaIssuer(r)) {
			continue
		}
		_, rest, _ := strings.Cut(r.Value, ";")
		if a.methods, ok = caaParameters(rest, ca.Account); ok {
			return a, true
		}
	}
	return a, false
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
		for _, a := range p.Resolver.askEach(ctx, servers, name, dns.TypeCNAME, recurse) {
			if ctx.Err() != nil {
				return "", ctx.Err()
			}
			if errors.Is(a.err, errNoName) {
				return "the CNAME of " + name + " is not set", nil
			}
			if a.err != nil {
				ownErr = a.err
				continue
			}
			answered++
			if got := strings.ToLower(a.records[0].(*dns.CNAME).Target); got != want {
				return fmt.Sprintf("the CNAME of %s points to %s", name, strings.TrimSuffix(got, ".")), nil
			}
		}
	}
	if answered == 0 {
		return "", fmt.Errorf("no name server answers for %s: %w", name, ownErr)
	}
	return "", nil
}

// CheckToken begins the tokens of checks over HTTP. No CA's token has a dot.
const CheckToken = "check."

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
	addrs = addrs[:min(len(addrs), maxServers)]
	for _, a := range addrs {
		if !p.Private && !public(a) {
			return fmt.Sprintf("%s points to %s, which nobody outside can reach", name, a), nil
		}
	}
	probe := Challenge{Name: name, Type: method, Token: CheckToken + rand.Text(), KeyAuthorization: rand.Text()}
	if method == HTTP01 && p.Answer != nil {
		probe.KeyAuthorization = p.Answer(name, probe.Token)
	} else {
		if err := p.Solver.Present(ctx, []Challenge{probe}); err != nil {
			return "", notShown{fmt.Errorf("show the token of the check: %w", err)}
		}
		defer p.Solver.Remove(context.WithoutCancel(ctx), []Challenge{probe})
	}
	scheme, port, usual, ask := "http", p.Port, 80, fetch
	if method == TLSALPN01 {
		scheme, port, usual, ask = "https", p.TLSPort, 443, shake
	}
	if port == 0 {
		port = usual
	}
	errs := make([]error, len(addrs))
	each(ctx, len(addrs), func(i int) error {
		errs[i] = ask(ctx, probe, net.JoinHostPort(addrs[i].String(), strconv.Itoa(port)))
		return nil
	})
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	return elsewhere(scheme+"://"+name, addrs, errs), nil
}

// elsewhere says at which address a name does not come to us; "" if it does at all of them.
// One that this node has no way to is the CA's to look at, where another is ours.
func elsewhere(url string, addrs []netip.Addr, errs []error) string {
	reason, ours := "", false
	for i, err := range errs {
		switch {
		case err == nil:
			ours = true
		case !errors.Is(err, errNoRoute):
			return fmt.Sprintf("%s does not reach us at %s: %v", url, addrs[i], err)
		case reason == "":
			reason = fmt.Sprintf("%s cannot be looked at: for %s, %v", url, addrs[i], err)
		}
	}
	if ours {
		return ""
	}
	return reason
}

// notShown is that a check could not show its own token.
type notShown struct{ error }

func (e notShown) Unwrap() error { return e.error }

var errNoRoute = errors.New("this node has no route")

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
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return errNoRoute
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
