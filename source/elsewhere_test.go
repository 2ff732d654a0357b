package source

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestSourcesAreReadWithTheirDefaults(t *testing.T) {
	dir := tree(t, "fingerpost.yaml", `sources:
  - {git: "https://git.example.com/web.git", branch: main, path: /redirects/, poll: 30s, tokenFile: token, host: www.example.com}
  - {git: "git@git.example.com:team/web.git", sshKeyFile: key, knownHostsFile: hosts}
  - {git: web.git}
  - {url: "https://cms.example.com/redirects.json?site=a", name: campaigns, maxMiB: 1, webhookSecretFile: hook}
  - {url: "http://127.0.0.1:8000/x", tokenEnv: CMS_TOKEN}
  - {s3: {bucket: rules, prefix: live, region: eu-north-1, endpoint: "https://storage.example.net"}}
  - {s3: {bucket: rules, key: redirects.json}}
`)
	settings, _, err := ReadConfig("fingerpost.yaml")
	if err != nil {
		t.Fatal(messages(err))
	}
	want := []Elsewhere{
		{Git: "https://git.example.com/web.git", Branch: "main", Path: "redirects", Poll: 30 * time.Second, MaxMiB: 64, TokenFile: dir + "/token", Host: "www.example.com"},
		{Git: "git@git.example.com:team/web.git", Poll: time.Minute, MaxMiB: 64, SSHKeyFile: dir + "/key", KnownHostsFile: dir + "/hosts"},
		{Git: dir + "/web.git", Poll: time.Minute, MaxMiB: 64},
		{Name: "campaigns", URL: "https://cms.example.com/redirects.json?site=a", Poll: time.Minute, MaxMiB: 1, WebhookSecretFile: dir + "/hook"},
		{URL: "http://127.0.0.1:8000/x", Poll: time.Minute, MaxMiB: 64, TokenEnv: "CMS_TOKEN"},
		{S3: &S3{Bucket: "rules", Prefix: "live", Region: "eu-north-1", Endpoint: "https://storage.example.net"}, Poll: time.Minute, MaxMiB: 64},
		{S3: &S3{Bucket: "rules", Key: "redirects.json"}, Poll: time.Minute, MaxMiB: 64},
	}
	if !reflect.DeepEqual(settings.Sources, want) {
		t.Errorf("got\n%+v\nwant\n%+v", settings.Sources, want)
	}
	var labels []string
	for i := range settings.Sources {
		labels = append(labels, strings.ReplaceAll(settings.Sources[i].Label(), dir, "DIR"))
	}
	wantLabels := []string{"git:https://git.example.com/web.git@main:redirects", "git:git@git.example.com:team/web.git", "git:DIR/web.git",
		"campaigns", "http://127.0.0.1:8000/x", "s3://rules/live", "s3://rules/redirects.json"}
	if !reflect.DeepEqual(labels, wantLabels) {
		t.Errorf("labels %q, want %q", labels, wantLabels)
	}
	if got := settings.Sources[3].Address(); got != "https://cms.example.com/redirects.json?…" {
		t.Errorf("the address is shown as %q, which may hold a secret", got)
	}
}

func TestBadSourcesNameTheirPlace(t *testing.T) {
	tests := []struct{ name, source, want string }{
		{"no list", "{git: x}", "f.yaml:1:10: sources must be a list, not a map of keys"},
		{"no address", "[{poll: 1s}]", "f.yaml:1:11: a source has one of git, url and s3"},
		{"two addresses", `[{git: a, url: "https://b.example"}]`, "f.yaml:1:11: a source has one of git, url and s3"},
		{"unknown key", "[{git: a, brunch: main}]", "f.yaml:1:20: unknown key \"brunch\""},
		{"empty", `[{git: ""}]`, "f.yaml:1:17: git names no repository"},
		{"unknown scheme", `[{git: "ftp://h.example/a"}]`, "f.yaml:1:17: git is not an address that begins with http, https, ssh, file and ://"},
		{"password", `[{git: "https://me:hunter2@h.example/a"}]`, "f.yaml:1:17: git has a user or password in it"},
		{"token as user", `[{url: "https://hunter2@h.example/a"}]`, "f.yaml:1:17: url has a user or password in it"},
		{"password of ssh", `[{git: "ssh://git:hunter2@h.example/a", sshKeyFile: k}]`, "f.yaml:1:17: git has a user or password in it"},
		{"token in clear text", `[{url: "http://h.example/a", tokenEnv: T}]`, "f.yaml:1:17: a token would be sent over plain http"},
		{"ssh without a key", `[{git: "git@h.example:a"}]`, "f.yaml:1:17: a repository over ssh without sshKeyFile"},
		{"key without ssh", `[{git: "https://h.example/a", sshKeyFile: k}]`, "f.yaml:1:17: sshKeyFile and knownHostsFile are for a repository over ssh"},
		{"path out of it", `[{git: a, path: ../b}]`, "f.yaml:1:26: path \"../b\" does not stay in the repository"},
		{"branch of a url", `[{url: "https://h.example/a", branch: b}]`, "f.yaml:1:48: branch does not go with url"},
		{"token of s3", `[{s3: {bucket: a}, tokenEnv: T}]`, "f.yaml:1:39: tokenEnv does not go with s3, whose credentials"},
		{"no bucket", `[{s3: {key: a}}]`, "f.yaml:1:16: s3 without a bucket"},
		{"key and prefix", `[{s3: {bucket: b, key: a, prefix: c}}]`, "f.yaml:1:16: s3 has both key and prefix"},
		{"path of an endpoint", `[{s3: {bucket: b, endpoint: "https://h.example/x"}}]`, "f.yaml:1:38: s3.endpoint has a path or a query"},
		{"host", `[{git: a, host: "https://h.example"}]`, "f.yaml:1:26: host \"https://h.example\" is not the name of a host"},
		{"two tokens", `[{git: "https://h.example/a", tokenEnv: T, tokenFile: f}]`, "f.yaml:1:64: both tokenEnv and tokenFile"},
		{"two secrets", `[{url: "https://h.example/a", webhookSecretEnv: T, webhookSecretFile: f}]`, "f.yaml:1:80: both webhookSecretEnv and webhookSecretFile"},
		{"poll", `[{git: a, poll: 10ms}]`, "f.yaml:1:26: poll is shorter than a second"},
		{"poll as a number", `[{git: a, poll: 10}]`, "f.yaml:1:26: poll must be a duration, not the number 10"},
		{"size", `[{git: a, maxMiB: 0}]`, "f.yaml:1:28: maxMiB must be from 1 to 1024"},
		{"twice", `[{url: "https://h.example/?a"}, {url: "https://h.example/?b"}]`, "f.yaml:1:42: a second source with the name \"https://h.example/?…\""},
	}
	for _, tt := range tests {
		tree(t, "f.yaml", "sources: "+tt.source+"\n")
		_, _, err := ReadConfig("f.yaml")
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %s", tt.name, err, tt.want)
		} else if strings.Contains(messages(err), "hunter2") {
			t.Errorf("%s: the message tells a secret: %s", tt.name, messages(err))
		}
	}
}

func TestSourcesAreNoContent(t *testing.T) {
	tree(t, "f.yaml", "sources: []\nredirects: []\n")
	if _, err := Read("f.yaml"); err == nil || !strings.HasPrefix(err.Error(), "f.yaml:1:1: sources is a setting of the node, not content") {
		t.Errorf("error %v", err)
	}
}
