package source

import (
	"net/netip"
	"net/url"
	"strings"
)

// OIDC lets people log in at a provider of OpenID Connect. The zero value is none.
type OIDC struct {
	Issuer           string      `json:"issuer"`           // https; http on the same machine only
	ClientID         string      `json:"clientID"`         //
	ClientSecretEnv  string      `json:"clientSecretEnv"`  // the environment variable that holds the client's secret
	ClientSecretFile string      `json:"clientSecretFile"` // or the file, an absolute path
	Scopes           []string    `json:"scopes"`           // beside openid, profile and email
	GroupsClaim      string      `json:"groupsClaim"`      // default groups
	Groups           []OIDCGroup `json:"groups"`
}

// OIDCGroup gives the members of a group a role in a team.
type OIDCGroup struct {
	Group string `json:"group"`
	Team  string `json:"team"` // * for every team
	Role  string `json:"role"` // viewer, editor, publisher or admin
}

// oidc checks the provider that people log in at.
func (f *reader) oidc(o *OIDC, bad func(field, message, hint string)) OIDC {
	u, err := url.Parse(o.Issuer)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || !onLoopback(u)):
		bad("oidc.issuer", "oidc.issuer is not an https address", "as the provider calls itself, for example https://login.example.com/realms/main")
	case o.ClientID == "":
		bad("oidc", "oidc without clientID", "the provider gives one when the program is registered there")
	case (o.ClientSecretEnv == "") == (o.ClientSecretFile == ""):
		bad("oidc", "oidc needs one of clientSecretEnv and clientSecretFile", "the environment variable, or the file, that holds the client's secret")
	}
	for _, g := range o.Groups {
		switch {
		case g.Group == "" || g.Team == "":
			bad("oidc.groups", "an item of oidc.groups lacks its group or its team", `{group: web, team: marketing, role: editor}, with team: "*" for every team`)
		case !strings.Contains(" viewer editor publisher admin ", " "+g.Role+" "):
			bad("oidc.groups", "the group "+quote(g.Group)+" has the role "+quote(g.Role), "one of viewer, editor, publisher, admin")
		}
	}
	o.ClientSecretFile = f.absolute(o.ClientSecretFile)
	return *o
}

func onLoopback(u *url.URL) bool {
	addr, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && addr.IsLoopback()
}
