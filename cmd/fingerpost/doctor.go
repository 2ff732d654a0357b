package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/admin/client"
	"fingerpost/cert/order"
	"fingerpost/source"

	"github.com/spf13/cobra"
)

// finding is one line of the doctor.
type finding struct {
	Level   string `json:"level"` // ok, warn or fail
	Check   string `json:"check"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"` // what to do
}

const (
	levelOK   = "ok"
	levelWarn = "warn"
	levelFail = "fail"
)

// doctor looks at what certificates depend on and no node controls: clocks, ports,
// name servers, CAs.
type doctor struct {
	ctx       context.Context
	found     func(finding)
	resolver  *order.Resolver
	cas       []source.CA
	issuers   []string     // the first CA's caaIdentities
	own       []string     // public addresses of the nodes; none if not known
	private   bool         // names and addresses that are not public are fine
	zone      string       // that CNAMEs of domains lead to; "" without one
	http      *http.Client // for the server
	httpPort  int
	httpsPort int
	// probe gives what our nodes alone answer for a name over http. Nil without a server.
	probe func(name string) (admin.ProbeResource, error)
}

func (d *doctor) ok(check, format string, args ...any) {
	d.found(finding{levelOK, check, fmt.Sprintf(format, args...), ""})
}

func (d *doctor) warn(check, hint, format string, args ...any) {
	d.found(finding{levelWarn, check, fmt.Sprintf(format, args...), hint})
}

func (d *doctor) fail(check, hint, format string, args ...any) {
	d.found(finding{levelFail, check, fmt.Sprintf(format, args...), hint})
}

// doctorHosts is how many hosts are looked at where none is named.
const doctorHosts = 5

func doctorCommand() *cobra.Command {
	var f remoteFlags
	var config string
	var hosts, resolvers []string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check clock, name servers, CAs, and whether hosts can be reached and may have certificates",
		Long: `Check what certificates depend on: the clock, name servers, CAs, and of some hosts
their addresses, ports 80 and 443, and CAA records. Each line is ok, warn or fail, with
what to do. It changes nothing. Run it on a node, with its --config; with --server it
also looks at that server and its hosts, and whether it is nodes of ours that answer on
port 80, be they at addresses that it knows or not.`,
		Example: `  fingerpost doctor --config /etc/fingerpost/fingerpost.yaml
  fingerpost doctor --server https://admin.example.net:9090 --host shop.example`,
		Args: exactArgs(0),
	}
	f.register(cmd)
	cmd.Flags().StringVar(&config, "config", "", "configuration `FILE` of the node")
	cmd.Flags().StringArrayVar(&hosts, "host", nil, "`HOST` to look at; may be given several times (default: some of the configuration's or the server's)")
	cmd.Flags().StringArrayVar(&resolvers, "resolver", nil, "`ADDRESS:PORT` of a name server to ask (default: those of the configuration, else of the system)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkFormat(f.output); err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		d := &doctor{ctx: ctx, httpPort: 80, httpsPort: 443}
		s := &session{cmd: cmd, ctx: ctx, format: f.output}
		failed := false
		var all []finding
		d.found = func(v finding) {
			failed = failed || v.Level == levelFail
			if f.output != formatTable {
				all = append(all, v)
				return
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%-5s %s: %s\n", v.Level, v.Check, printable(v.Message))
			if v.Hint != "" {
				fmt.Fprintf(cmd.OutOrStdout(), "      hint: %s\n", printable(v.Hint))
			}
		}
		if err := d.run(&f, config, hosts, resolvers, cmd.Flags().Changed("server") || config == ""); err != nil {
			return err
		}
		if f.output != formatTable {
			if err := printSlice(s, all, nil, column[finding]{"level", func(v *finding) string { return v.Level }}, column[finding]{"check", func(v *finding) string { return v.Check }},
				column[finding]{"message", func(v *finding) string { return v.Message }}, column[finding]{"hint", func(v *finding) string { return v.Hint }}); err != nil {
				return err
			}
		}
		if failed {
			return exitStatus(exitError)
		}
		return nil
	}
	return cmd
}

func (d *doctor) run(f *remoteFlags, config string, hosts, resolvers []string, server bool) error {
	if config != "" {
		set, err := source.Open(config, nil)
		if err != nil {
			return err
		}
		if s := set.Settings(); s != nil {
			d.cas, d.own, d.private, d.zone = s.ACME.CAs, s.Addresses, s.ACME.Private, s.ACME.ValidationZone
			if d.private { // where orders look for challenges, too
				d.httpPort = cmp.Or(loopbackPort(s.Listen.HTTP), d.httpPort)
				d.httpsPort = cmp.Or(loopbackPort(s.Listen.HTTPS), d.httpsPort)
			}
			if len(resolvers) == 0 {
				resolvers = s.Resolvers
			}
		}
		d.ok("config", "%s can be read", config)
		if len(d.cas) == 0 {
			d.warn("ca", "set acme, or import certificates", "no CA is set up in %s", config)
		}
		if len(hosts) == 0 {
			content := set.Content()
			hosts = some(content.Hosts)
		}
	} else {
		d.cas = []source.CA{{Name: "Let's Encrypt", Directory: source.LetsEncrypt}}
	}
	if server {
		c, err := f.client()
		if err != nil {
			return err
		}
		if d.http, err = trusting(f.ca); err != nil {
			return err
		}
		if d.server(f.address()) {
			d.probe = func(name string) (admin.ProbeResource, error) { return c.Probe(d.ctx, name) }
			if len(hosts) == 0 {
				hosts = d.hostsOf(c)
			}
		}
	}
	d.resolvers(resolvers)
	for i := range d.cas {
		d.ca(&d.cas[i], i == 0)
	}
	d.validation()
	if len(hosts) == 0 {
		d.warn("hosts", "name some with --host", "there are no hosts to look at")
	}
	for _, host := range hosts {
		d.host(host)
	}
	return d.ctx.Err()
}

// some gives hosts that can be looked at by their own name.
func some(hosts []fingerpost.Host) []string {
	var names []string
	for i := range hosts {
		name, err := fingerpost.ParseHostPattern(hosts[i].Name)
		if err == nil && !name.IsWildcard() && name != "*" && hosts[i].Certificate != "none" && len(names) < doctorHosts {
			names = append(names, string(name))
		}
	}
	return names
}

func (d *doctor) hostsOf(c *client.Client) []string {
	var list []fingerpost.Host
	for h, err := range c.Hosts(d.ctx, client.Filter{}) {
		if err != nil {
			d.warn("hosts", "give a token with --token or --data, or hosts with --host", "the hosts of the server cannot be listed: %v", remoteError(err))
			return nil
		}
		h.Host.Name = h.Name
		if list = append(list, h.Host); len(list) == 100 {
			break
		}
	}
	return some(list)
}

// Clocks may differ by this much before it is spoken of, and before it does harm:
// certificates are valid from the moment on that they are issued.
const (
	clockWarn = 10 * time.Second
	clockFail = 5 * time.Minute
)

// clock compares this machine's clock with the Date of an answer.
func (d *doctor) clock(of string, resp *http.Response, asked time.Time) {
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		d.warn("clock", "", "%s tells no time", of)
		return
	}
	took := time.Since(asked)
	off := time.Since(date) - took/2 - 500*time.Millisecond // Date has whole seconds
	const hint = "set the clocks by NTP: timedatectl set-ntp true"
	switch size := off.Abs(); {
	case size > clockFail+took:
		d.fail("clock", hint, "this machine's clock and that of %s differ by %s", of, size.Round(time.Second))
	case size > clockWarn+took:
		d.warn("clock", hint, "this machine's clock and that of %s differ by %s", of, size.Round(time.Second))
	default:
		d.ok("clock", "the same as that of %s", of)
	}
}

func (d *doctor) get(c *http.Client, url string) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(d.ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "fingerpost/"+version+" doctor")
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	resp.Body.Close()
	resp.Body = io.NopCloser(strings.NewReader(string(body)))
	return resp, err
}

// server looks at the admin listener, and reports whether it answers.
func (d *doctor) server(url string) bool {
	asked := time.Now()
	resp, err := d.get(d.http, url+"/readyz")
	if err != nil {
		e := new(fingerpost.Error)
		errors.As(remoteError(err), &e)
		d.fail("server", e.Hint, "%s", cmp.Or(e.Message, err.Error()))
		return false
	}
	d.clock("the server", resp, asked)
	if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
		d.expires("server", url, resp.TLS.PeerCertificates[0].NotAfter)
	}
	if resp.StatusCode != http.StatusOK {
		d.fail("server", "GET /readyz says which of its checks fail", "%s is not ready (HTTP %d)", url, resp.StatusCode)
		return true
	}
	d.ok("server", "%s is ready", url)
	return true
}

func (d *doctor) expires(check, of string, at time.Time) {
	switch left := time.Until(at); {
	case left < 0:
		d.fail(check, "fingerpost certs list --name shows what it waits for", "the certificate of %s expired on %s", of, at.Format(time.DateOnly))
	case left < 7*24*time.Hour:
		d.warn(check, "fingerpost certs list --name shows what it waits for", "the certificate of %s expires in %d days", of, int(left.Hours()/24))
	}
}

// resolvers looks which name servers answer, and goes on with those.
func (d *doctor) resolvers(list []string) {
	d.resolver = &order.Resolver{Private: d.private}
	if len(list) == 0 {
		list = systemResolvers("/etc/resolv.conf")
	}
	if len(list) == 0 {
		d.fail("resolvers", "set resolvers in the configuration", "no name server is known to ask")
	}
	probe := "letsencrypt.org"
	if len(d.cas) > 0 {
		probe = hostOf(d.cas[0].Directory)
	}
	for _, server := range list {
		one := order.Resolver{Servers: []string{server}}
		begun := time.Now()
		if _, err := netip.ParseAddr(probe); err == nil {
			probe = "localhost" // of a CA that has no name
		}
		if err := one.Answers(d.ctx, probe); err != nil {
			d.fail("resolvers", "set resolvers in the configuration to name servers that answer, and let UDP and TCP to port 53 out", "%s does not answer: %v", server, err)
			continue
		}
		d.ok("resolvers", "%s answers in %s", server, time.Since(begun).Round(time.Millisecond))
		d.resolver.Servers = append(d.resolver.Servers, server)
	}
}

// validation looks whether CAs find the zone that CNAMEs of domains lead to.
func (d *doctor) validation() {
	if d.zone == "" || len(d.resolver.Servers) == 0 {
		return
	}
	const hint = "delegate it to the nodes (NS records to their addresses), set listen.dns, and let UDP and TCP to port 53 in"
	switch zone, err := d.resolver.Zone(d.ctx, d.zone); {
	case err != nil:
		d.fail("validation zone", hint, "%s is not answered: %v", d.zone, err)
	case zone != d.zone:
		d.fail("validation zone", hint, "%s is not delegated: it is a part of the zone %s", d.zone, zone)
	default:
		d.ok("validation zone", "%s is answered", d.zone)
	}
}

func hostOf(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	rest, _, _ = strings.Cut(rest, "/")
	host, _, err := net.SplitHostPort(rest)
	if err != nil {
		return rest
	}
	return host
}

// ca looks at the directory of a CA.
func (d *doctor) ca(ca *source.CA, first bool) {
	name := cmp.Or(ca.Name, hostOf(ca.Directory))
	pool, err := roots(ca.Roots)
	if err != nil {
		d.fail("ca", "see acme.caRoots", "%s: %v", name, err)
		return
	}
	c := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	asked := time.Now()
	resp, err := d.get(c, ca.Directory)
	if err != nil {
		d.fail("ca", cmp.Or(tlsHint(err), "let this machine reach "+ca.Directory+"; is the clock right?"), "%s cannot be reached: %v", name, err)
		return
	}
	var directory struct {
		NewOrder string `json:"newOrder"`
		Meta     struct {
			CAA []string `json:"caaIdentities"`
		} `json:"meta"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&directory); resp.StatusCode != http.StatusOK || err != nil || directory.NewOrder == "" {
		d.fail("ca", "acme.directory is the address of an ACME directory, such as "+source.LetsEncrypt, "%s answers %s, which is no ACME directory", ca.Directory, resp.Status)
		return
	}
	d.clock(name, resp, asked)
	d.ok("ca", "%s can be reached", name)
	if first {
		d.issuers = directory.Meta.CAA
	}
}

// host looks at one name as a CA and as visitors do.
func (d *doctor) host(name string) {
	pattern, err := fingerpost.ParseHostPattern(name)
	if err != nil || pattern.IsWildcard() || pattern == "*" {
		d.fail("host", "give a name without a wildcard", "%s cannot be looked at by itself", name)
		return
	}
	name = string(pattern)
	if f := order.CheckName(name, d.private); f != nil {
		d.warn("host", f.Hint, "%s", f.Reason)
	}
	if len(d.resolver.Servers) == 0 {
		return
	}
	pre := &order.Preflight{Resolver: d.resolver, Private: d.private}
	if len(d.issuers) > 0 {
		switch f, err := pre.CAA(d.ctx, order.Question{Name: name, CAs: []order.Authority{{Issuers: d.issuers}}}); {
		case err != nil:
			d.warn("caa", "a CA refuses a name whose CAA records cannot be looked up: see its name servers", "%s: %v", name, err)
		case f != nil:
			d.fail("caa", f.Hint, "%s", f.Reason)
		default:
			d.ok("caa", "%s may have a certificate of %s", name, strings.Join(d.issuers, ", "))
		}
	}
	addrs, err := d.resolver.Addresses(d.ctx, name)
	if err != nil || len(addrs) == 0 {
		d.fail("dns", "let its A and AAAA records, or its CNAME, point to the nodes", "%s has no address in DNS", name)
		return
	}
	var foreign []string
	for _, a := range addrs {
		if len(d.own) > 0 && !slices.Contains(d.own, a.String()) {
			foreign = append(foreign, a.String())
		}
	}
	if len(foreign) > 0 {
		d.warn("dns", "let all A and AAAA records of "+name+" point to the nodes: CAs and visitors take any of them", "%s points to %s, which is not among addresses", name, strings.Join(foreign, ", "))
	} else {
		d.ok("dns", "%s points to %s", name, addrText(addrs))
	}
	probe := d.probeOf(name)
	for _, a := range addrs {
		d.port80(name, a, probe)
		d.port443(name, a)
	}
}

func addrText(addrs []netip.Addr) string {
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ", ")
}

// probeOf gives what tells our nodes from other servers; nil if that is not known.
func (d *doctor) probeOf(name string) *admin.ProbeResource {
	if d.probe == nil {
		return nil
	}
	probe, err := d.probe(name)
	if err != nil {
		e := new(fingerpost.Error)
		errors.As(remoteError(err), &e)
		d.warn("probe", cmp.Or(e.Hint, "give a token with --token or --data"), "the server does not say what only nodes of ours answer: %s", cmp.Or(e.Message, err.Error()))
		return nil
	}
	return &probe
}

// port80 asks for what our nodes alone answer, as a CA asks for its challenges. Where that
// is not known, an answer proves nothing but at addresses that are said to be ours.
func (d *doctor) port80(name string, a netip.Addr, probe *admin.ProbeResource) {
	check := "port " + strconv.Itoa(d.httpPort)
	at := net.JoinHostPort(a.String(), strconv.Itoa(d.httpPort))
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, at)
	}}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	path := "/"
	if probe != nil {
		path = probe.Path
	}
	resp, err := d.get(c, "http://"+name+path)
	if err != nil {
		d.fail(check, "let visitors and CAs reach it from everywhere: firewall, security group, load balancer, listen.http", "%s does not answer at %s: %v", name, at, plainNetError(err))
		return
	}
	switch body, _ := io.ReadAll(resp.Body); {
	case probe != nil && resp.StatusCode == http.StatusOK && strings.TrimSpace(string(body)) == probe.Answer:
		d.ok(check, "%s answers at %s: a node of ours", name, at)
	case probe != nil:
		how := fmt.Sprintf("HTTP %d", resp.StatusCode)
		if to := resp.Header.Get("Location"); to != "" {
			how += ", to " + cut(to, 200)
		}
		d.fail(check, "let its A and AAAA records, or its CNAME, point to the nodes, and what stands before them pass "+acmeChallenges+" on; all nodes have the same cluster.key",
			"another server answers for %s at %s (%s), or a node of another cluster", name, at, how)
	case slices.Contains(d.own, a.String()):
		d.ok(check, "%s answers at %s (HTTP %d)", name, at, resp.StatusCode)
	default:
		d.warn(check, "say --server, and --token or --data, and the nodes are asked for what no other server knows; or set addresses in the configuration",
			"%s answers at %s (HTTP %d), and whether it is a node of ours is not known", name, at, resp.StatusCode)
	}
}

func (d *doctor) port443(name string, a netip.Addr) {
	check := "port " + strconv.Itoa(d.httpsPort)
	at := net.JoinHostPort(a.String(), strconv.Itoa(d.httpsPort))
	ctx, cancel := context.WithTimeout(d.ctx, 10*time.Second)
	defer cancel()
	// Not verified: what is wrong with a certificate is for the lines about it.
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{ServerName: name, InsecureSkipVerify: true}}
	conn, err := dialer.DialContext(ctx, "tcp", at)
	var alert *net.OpError
	switch {
	case errors.As(err, &alert) && alert.Op == "remote error": // crypto/tls has no other sign of an alert
		d.warn(check, "fingerpost hosts get "+name+" shows what its certificate waits for", "%s is reached at %s, and has no certificate yet (%v)", name, at, alert.Err)
		return
	case err != nil:
		d.fail(check, "let visitors reach it from everywhere: firewall, security group, load balancer, listen.https", "%s does not answer at %s: %v", name, at, plainNetError(err))
		return
	}
	defer conn.Close()
	leaf := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	if err := leaf.VerifyHostname(name); err != nil {
		d.fail(check, "another server answers, or the host's certificate is the default one: fingerpost hosts get "+name, "the certificate that is shown at %s is not for %s", at, name)
		return
	}
	d.expires(check, name, leaf.NotAfter)
	d.ok(check, "%s answers at %s, with a certificate until %s", name, at, leaf.NotAfter.Format(time.DateOnly))
}

// plainNetError says what happened without the addresses, which stand before it.
func plainNetError(err error) string {
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "nobody answers"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection is refused"
	case errors.As(err, &op):
		return op.Err.Error()
	}
	return err.Error()
}
