package main

import (
	"os/exec"

	"fingerpost"
	"fingerpost/cert/dnsapi"
	"fingerpost/cert/order"
)

// linkedProvider makes the provider of libdns that a build of one's own has linked
// in, where no acme.dnsHook is set: one more file in this folder, whose init sets it.
// None is linked in here: there are more than a hundred, each with its own modules.
var linkedProvider func() (dnsapi.Provider, error)

// dnsProvider is what sets TXT records at domains' DNS providers; nil without any.
func dnsProvider(hook []string, resolver *order.Resolver) (*dnsapi.Solver, error) {
	s := &dnsapi.Solver{Missing: resolver.MissingTXT}
	switch {
	case len(hook) > 0:
		if _, err := exec.LookPath(hook[0]); err != nil {
			return nil, &fingerpost.Error{Code: "no_dns_hook", Field: "acme.dnsHook", Message: "acme.dnsHook cannot be called: " + err.Error(), Hint: "an executable file; its path counts from the configuration file"}
		}
		s.Setter = &dnsapi.Hook{Command: hook}
	case linkedProvider != nil:
		p, err := linkedProvider()
		if err != nil {
			return nil, &fingerpost.Error{Code: "bad_dns_provider", Message: "the DNS provider that is linked in cannot be used: " + err.Error()}
		}
		s.Setter = &dnsapi.LibDNS{Provider: p, Zone: resolver.Zone}
	default:
		return nil, nil
	}
	return s, nil
}
