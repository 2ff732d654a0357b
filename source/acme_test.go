package source

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestACMESettings(t *testing.T) {
	dir := tree(t, "f.yaml", `acme:
  email: ops@example.com
  profile: tlsserver
  pack: 25
  validationZone: ACME.example.net
  preflight: off
  dnsHook: [./bin/hook, "--zone", example]
  dnsPersist: true
  fallback:
    - {name: second, directory: "https://ca.example/dir", caRoots: roots.pem, eab: {keyID: k1, keyFile: eab.key}}
resolvers: [192.0.2.53, "127.0.0.1:5353", "2001:db8::53"]
clusterKeyEnv: CLUSTER
certificates: {defaults: {192.0.2.10: shop}}
listen: {dns: ":53"}
`)
	set, err := Open(filepath.Join(dir, "f.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := set.Settings()
	want := ACME{Pack: 25, DNSHook: []string{filepath.Join(dir, "bin/hook"), "--zone", "example"}, DNSPersist: true, ValidationZone: "acme.example.net", CAs: []CA{
		{Name: "acme-v02.api.letsencrypt.org", Directory: LetsEncrypt, Email: "ops@example.com", Profile: "tlsserver"},
		{Name: "second", Directory: "https://ca.example/dir", Email: "ops@example.com", Roots: filepath.Join(dir, "roots.pem"), EAB: EAB{KeyID: "k1", KeyFile: filepath.Join(dir, "eab.key")}},
	}}
	if !reflect.DeepEqual(s.ACME, want) {
		t.Errorf("got  %+v\nwant %+v", s.ACME, want)
	}
	if strings.Join(s.Resolvers, " ") != "192.0.2.53:53 127.0.0.1:5353 [2001:db8::53]:53" || s.ClusterKeyEnv != "CLUSTER" || s.DefaultCerts["192.0.2.10"] != "shop" || *s.Listen.DNS != ":53" {
		t.Errorf("got %+v", s)
	}
}

func TestACMESettingsThatAreWrong(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"acme: {directory: 'http://ca.example/dir'}", "is not an https address"},
		{"acme: {directory: here}", "is not an https address"},
		{"acme: {eab: {keyID: k}}", "needs one of keyEnv and keyFile"},
		{"acme: {eab: {keyEnv: K}}", "has no keyID"},
		{"acme: {pack: 0}", "acme.pack is not a number of names"},
		{"acme: {pack: many}", "acme.pack is not a number of names"},
		{"acme: {validationZone: '*.example.net'}", "is not a DNS name"},
		{"acme: {validationZone: 'a b'}", "is not a DNS name"},
		{"acme: {preflight: maybe}", "is unknown"},
		{"acme: {fallback: [{directory: '" + LetsEncrypt + "'}]}", "two CAs are called"},
		{"acme: {dnsHook: ./hook}", "acme.dnsHook is not a list"},
		{"acme: {dnsHook: []}", "acme.dnsHook is not a list"},
		{"acme: {dnsHook: ['', a]}", "acme.dnsHook is not a list"},
		{"acme: {dnsHook: [./hook, [a]]}", "acme.dnsHook is not a list"},
		{"acme: {mail: me@example.com}", `unknown key "mail"`},
		{"acme: []", "must be a map of keys"},
		{"resolvers: [ns.example]", "is not the address of a name server"},
		{"certificates: {defaults: {www.example: shop}}", "is not an IP address"},
		{"{clusterKeyEnv: A, clusterKeyFile: b}", "one of them"},
		{"{clusterKeyEnv: A, clusterKeyCommand: [b]}", "clusterKeyCommand is not alone"},
		{"{clusterKeyCommand: b}", "clusterKeyCommand is not a list"},
		{"{clusterKeyCommand: []}", "clusterKeyCommand is not a list"},
	} {
		dir := tree(t, "f.yaml", tt.text+"\n")
		if _, err := Open(filepath.Join(dir, "f.yaml"), nil); err == nil || !strings.Contains(messages(err), tt.want) {
			t.Errorf("%s: error %v, want %s", tt.text, err, tt.want)
		}
	}
}
