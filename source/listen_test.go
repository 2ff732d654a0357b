package source

import (
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestListen(t *testing.T) {
	dir := tree(t, "f.yaml", `listen:
  http: [":80", "[::1]:8080", "unix:run/http.sock", "unix:/run/h.sock"]
  https: [":443"]
  http3: off
  proxyProtocol: {mode: require, from: [10.1.2.3/8, 192.0.2.7, "2001:db8::/32"]}
`)
	set, err := Open(filepath.Join(dir, "f.yaml"), nil)
	if err != nil {
		t.Fatal(messages(err))
	}
	want := Listen{
		HTTP:  []string{":80", "[::1]:8080", "unix:" + filepath.Join(dir, "run/http.sock"), "unix:/run/h.sock"},
		HTTPS: []string{":443"},
		HTTP3: "off",
		Proxy: Proxy{"require", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("2001:db8::/32")}},
	}
	got := set.Settings()
	if !reflect.DeepEqual(got.Listen, want) {
		t.Errorf("got  %+v\nwant %+v", got.Listen, want)
	}
	other := *got
	other.Listen = Listen{HTTPS: []string{":443"}, HTTP3: "on", HTTP: []string{}}
	if d := strings.Join(got.Differences(&other), " "); d != "listen.http listen.http3 listen.proxyProtocol" {
		t.Errorf("differences %s", d)
	}
}

func TestListenThatIsWrong(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"{http: [':80', '80']}", `listen.http "80" is not an address to listen on`},
		{"{http: [':80', '']}", "is not an address to listen on"},
		{"{http: [':80', ':80']}", "names \":80\" twice"},
		{"{http: [80]}", "must be text"},
		{"{https: {a: b}}", "must be text"},
		{"{https: 'unix:'}", "is not an address to listen on"},
		{"{http3: maybe}", "one of on, off"},
		{"{http3: true}", "must be text"},
		{"{proxyProtocol: use}", "must be a map of keys"},
		{"{proxyProtocol: {mode: use}}", "from names no proxy"},
		{"{proxyProtocol: {from: [10.0.0.0/8]}}", "one of use, require, ignore"},
		{"{proxyProtocol: {mode: on, from: [10.0.0.0/8]}}", "one of use, require, ignore"},
		{"{proxyProtocol: {mode: use, from: [proxy.example]}}", "neither an IP address nor a network"},
		{"{proxyProtocol: {mode: use, from: [10.0.0.0/40]}}", "neither an IP address nor a network"},
		{"{proxyProtocol: {mode: use, form: [10.0.0.0/8]}}", `unknown key "form"`},
	} {
		dir := tree(t, "f.yaml", "listen: "+tt.text+"\n")
		if _, err := Open(filepath.Join(dir, "f.yaml"), nil); err == nil || !strings.Contains(messages(err), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.text, err, tt.want)
		}
	}
}
