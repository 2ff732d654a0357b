package order

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Resolver asks name servers. It keeps nothing: what is looked up here is looked
// up because it has changed.
type Resolver struct {
	Servers []string      // addresses with ports, asked one after the other
	Timeout time.Duration // of one question to one server; 3 s if zero
	Port    string        // of the domains' own servers; 53 if empty
	// Private has domains' own servers asked at addresses that are not public, too. A
	// stranger's zone may name any address as its server's, such as one in our network.
	Private bool
}

// errNoName is an answer: there is no such name, or nothing of that kind at it.
var errNoName = errors.New("there is no such record")

func (r *Resolver) timeout() time.Duration {
	if r.Timeout == 0 {
		return 3 * time.Second
	}
	return r.Timeout
}

// Ask gives the records of a name from the first server that answers. Without
// any the error is errNoName.
func (r *Resolver) Ask(ctx context.Context, name string, kind uint16) ([]dns.RR, error) {
	if len(r.Servers) == 0 {
		return nil, errors.New("no resolver is configured")
	}
	var errs []error
	for _, server := range r.Servers {
		answer, err := r.askAt(ctx, server, name, kind, true)
		if err == nil || errors.Is(err, errNoName) || ctx.Err() != nil {
			return answer, err
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// askAt asks one server, by TCP where UDP is too small for the answer.
func (r *Resolver) askAt(ctx context.Context, server, name string, kind uint16, recurse bool) ([]dns.RR, error) {
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	q.RecursionDesired = recurse
	q.SetEdns0(1232, false)
	ask := func(network string) (*dns.Msg, error) {
		ctx, cancel := context.WithTimeout(ctx, r.timeout())
		defer cancel()
		client := &dns.Client{Net: network, Timeout: r.timeout(), UDPSize: 1232}
		m, _, err := client.ExchangeContext(ctx, q, server)
		return m, err
	}
	m, err := ask("udp")
	if err != nil || m.Truncated {
		m, err = ask("tcp")
	}
	if err != nil {
		return nil, fmt.Errorf("%s about %s %s: %w", server, name, dns.TypeToString[kind], err)
	}
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
	default:
		return nil, fmt.Errorf("%s says %s about %s %s", server, dns.RcodeToString[m.Rcode], name, dns.TypeToString[kind])
	}
	var records []dns.RR
	for _, rr := range m.Answer {
		if rr.Header().Rrtype == kind {
			records = append(records, rr)
		}
	}
	if len(records) == 0 {
		return nil, fmt.Errorf("%s %s: %w", name, dns.TypeToString[kind], errNoName)
	}
	return records, nil
}

// maxServers is how many servers of a domain are asked, and how many of its addresses are
// looked at: whose domain it is decides how many there are.
const maxServers = 8

// Own gives addresses of the name servers that have a name: of each server one, then of
// each another, up to maxServers.
func (r *Resolver) Own(ctx context.Context, name string) ([]string, error) {
	var names []string
	for zone := name; zone != ""; zone = parent(zone) {
		records, err := r.Ask(ctx, zone, dns.TypeNS)
		if err != nil && !errors.Is(err, errNoName) {
			return nil, err
		}
		for _, rr := range records {
			// A resolver follows CNAMEs, to the name servers of somebody else.
			if strings.EqualFold(rr.Header().Name, dns.Fqdn(zone)) {
				names = append(names, rr.(*dns.NS).Ns)
			}
		}
		if len(names) > 0 {
			break
		}
	}
	port := r.Port
	if port == "" {
		port = "53"
	}
	names = names[:min(len(names), maxServers)]
	addrs := make([][]netip.Addr, len(names))
	each(ctx, len(names), func(i int) error {
		addrs[i], _ = r.Addresses(ctx, names[i]) // another one may be found
		return nil
	})
	var servers []string
	inner := false
	for round := 0; round < maxServers; round++ {
		for _, list := range addrs {
			switch {
			case round >= len(list) || len(servers) == maxServers:
			case !r.Private && !public(list[round]):
				inner = true
			default:
				servers = append(servers, net.JoinHostPort(list[round].String(), port))
			}
		}
	}
	if len(servers) == 0 && inner {
		return nil, fmt.Errorf("the name servers of %s have addresses that are not public", name)
	}
	if len(servers) == 0 {
		return nil, fmt.Errorf("the name servers of %s were not found", name)
	}
	return servers, nil
}

// MissingTXT names a server of a domain that does not have a TXT value at a name; ""
// when all that answer do.
func (r *Resolver) MissingTXT(ctx context.Context, name, value string) (server string, err error) {
	return r.missingTXT(ctx, name, func(text string) bool { return text == value })
}

// missingTXT asks the domain's own servers; where none can be found, the resolvers.
func (r *Resolver) missingTXT(ctx context.Context, name string, right func(text string) bool) (server string, err error) {
	servers, err := r.Own(ctx, name)
	recurse := err != nil
	if recurse {
		servers = r.Servers
	}
	answered := false
	for i, a := range r.askEach(ctx, servers, name, dns.TypeTXT, recurse) {
		server := servers[i]
		switch {
		case ctx.Err() != nil:
			return "", ctx.Err()
		case errors.Is(a.err, errNoName):
			return server, nil
		case a.err != nil:
			err = a.err
			continue
		}
		answered = true
		if !slices.ContainsFunc(a.records, func(rr dns.RR) bool { return right(strings.Join(rr.(*dns.TXT).Txt, "")) }) {
			return server, nil
		}
	}
	if !answered {
		return "", fmt.Errorf("no name server answers for %s: %w", name, err)
	}
	return "", nil
}

type answer struct {
	records []dns.RR
	err     error
}

// askEach asks all servers at once. Once ctx is done, what it gives means nothing.
func (r *Resolver) askEach(ctx context.Context, servers []string, name string, kind uint16, recurse bool) []answer {
	all := make([]answer, len(servers))
	each(ctx, len(servers), func(i int) error {
		all[i].records, all[i].err = r.askAt(ctx, servers[i], name, kind, recurse)
		return nil
	})
	return all
}

// Zone gives the zone that a name is in: the nearest name above it, or itself, that
// has an SOA record.
func (r *Resolver) Zone(ctx context.Context, name string) (string, error) {
	for zone := name; zone != ""; zone = parent(zone) {
		records, err := r.Ask(ctx, zone, dns.TypeSOA)
		if err != nil && !errors.Is(err, errNoName) {
			return "", fmt.Errorf("look up the zone of %s: %w", name, err)
		}
		for _, rr := range records {
			// Behind a CNAME it is somebody else's.
			if strings.EqualFold(rr.Header().Name, dns.Fqdn(zone)) {
				return strings.ToLower(strings.TrimSuffix(zone, ".")), nil
			}
		}
	}
	return "", fmt.Errorf("the zone of %s was not found", name)
}

// Addresses gives all A and AAAA records. Without any the error is errNoName.
func (r *Resolver) Addresses(ctx context.Context, name string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		records, err := r.Ask(ctx, name, kind)
		if err != nil && !errors.Is(err, errNoName) {
			return nil, err
		}
		for _, rr := range records {
			var ip net.IP
			switch rr := rr.(type) {
			case *dns.A:
				ip = rr.A
			case *dns.AAAA:
				ip = rr.AAAA
			}
			if a, ok := netip.AddrFromSlice(ip); ok && !slices.Contains(out, a.Unmap()) {
				out = append(out, a.Unmap())
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s has neither A nor AAAA: %w", strings.TrimSuffix(name, "."), errNoName)
	}
	return out, nil
}

// parent is the name without its first label; "" above the top.
func parent(name string) string {
	_, rest, _ := strings.Cut(strings.TrimSuffix(name, "."), ".")
	return rest
}

// Answers reports why no server says anything about a name, be it that there is no
// such name; nil if one does.
func (r *Resolver) Answers(ctx context.Context, name string) error {
	_, err := r.Ask(ctx, name, dns.TypeA)
	if errors.Is(err, errNoName) {
		return nil
	}
	return err
}
