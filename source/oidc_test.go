package source

import (
	"reflect"
	"strings"
	"testing"
)

func TestOIDCIsRead(t *testing.T) {
	dir := tree(t, "f.yaml", `oidc:
  issuer: https://login.example.com
  clientID: fingerpost
  clientSecretFile: secret
  scopes: [groups]
  groups:
    - {group: web, team: marketing, role: editor}
    - {group: ops, team: "*", role: admin}
`)
	settings, _, err := ReadConfig("f.yaml")
	if err != nil {
		t.Fatal(messages(err))
	}
	want := OIDC{Issuer: "https://login.example.com", ClientID: "fingerpost", ClientSecretFile: dir + "/secret", Scopes: []string{"groups"},
		Groups: []OIDCGroup{{"web", "marketing", "editor"}, {"ops", "*", "admin"}}}
	if !reflect.DeepEqual(settings.OIDC, want) {
		t.Errorf("got %+v, want %+v", settings.OIDC, want)
	}
	const rest = ", clientID: c, clientSecretEnv: S"
	for _, tt := range []struct{ oidc, want string }{
		{"{}", "f.yaml:1:7: oidc.issuer is not an https address"},
		{"{issuer: 'http://login.example.com'" + rest + "}", "f.yaml:1:16: oidc.issuer is not an https address"},
		{"{issuer: 'https://me@login.example.com'" + rest + "}", "f.yaml:1:16: oidc.issuer is not an https address"},
		{"{issuer: 'https://h.example', clientSecretEnv: S}", "f.yaml:1:7: oidc without clientID"},
		{"{issuer: 'https://h.example', clientID: c}", "f.yaml:1:7: oidc needs one of clientSecretEnv and clientSecretFile"},
		{"{issuer: 'https://h.example'" + rest + ", clientSecretFile: f}", "f.yaml:1:7: oidc needs one of"},
		{"{issuer: 'https://h.example'" + rest + ", clientSecret: hunter2}", "f.yaml:1:70: unknown key \"clientSecret\""},
		{"{issuer: 'http://127.0.0.1:8000'" + rest + ", groups: [{group: a, team: b, role: boss}]}", "f.yaml:1:"},
		{"{issuer: 'https://h.example'" + rest + ", groups: [{group: a, role: admin}]}", "f.yaml:1:"},
	} {
		tree(t, "f.yaml", "oidc: "+tt.oidc+"\n")
		if _, _, err := ReadConfig("f.yaml"); err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(messages(err), "hunter2") {
			t.Errorf("%s: error %v, want %s", tt.oidc, err, tt.want)
		}
	}
}
