package main

import (
	"fingerpost/admin"
	"fingerpost/source/fetch"
)

// oidc is the provider that people log in at; nil if there is none. A secret that
// cannot be read does not keep the node from serving.
func (n *node) oidc() *admin.OIDC {
	o := &n.settings.OIDC
	if o.Issuer == "" {
		return nil
	}
	secret, err := fetch.ClientSecret(o)
	if err != nil {
		n.log.Error("nobody can log in by OIDC: the client's secret cannot be read", "err", err, "hint", "mend it and start again; passwords and tokens go on")
		return nil
	}
	groups := map[string]map[string]admin.Role{}
	for _, g := range o.Groups {
		if groups[g.Group] == nil {
			groups[g.Group] = map[string]admin.Role{}
		}
		groups[g.Group][g.Team] = admin.Role(g.Role)
	}
	return &admin.OIDC{Issuer: o.Issuer, ClientID: o.ClientID, ClientSecret: secret, Scopes: o.Scopes, Groups: groups, GroupsClaim: o.GroupsClaim}
}
