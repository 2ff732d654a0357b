package source

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"fingerpost"
)

// tree writes files into a new folder and makes it the working directory, so
// that positions are short. Names and texts alternate.
func tree(t testing.TB, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		write(t, filepath.Join(dir, files[i]), files[i+1])
	}
	if t, ok := t.(*testing.T); ok {
		t.Chdir(dir)
	}
	return dir
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// messages gives the errors with their hints, one to a line.
func messages(err error) string {
	var lines []string
	for _, e := range fingerpost.Errors(err) {
		line := e.Error()
		if e.Hint != "" {
			line += " (" + e.Hint + ")"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func at(file string, line, column int) fingerpost.Position {
	return fingerpost.Position{File: file, Line: line, Column: column}
}

// withoutSince is for comparisons: files of a test are younger than an hour.
func withoutSince(rules []fingerpost.Redirect) []fingerpost.Redirect {
	for i := range rules {
		rules[i].Since = time.Time{}
	}
	return rules
}

func TestAConfigurationFileGivesSettingsAndContent(t *testing.T) {
	dir := tree(t, "fingerpost.yaml", `
listen: {http: ":80", https: ""}   # admin is not said
addresses: [192.0.2.10, "2001:db8::1"]
region: eu-north
certificates: {dir: ./certs}
geo: {country: /srv/country.mmdb}
log: {access: json, sample: 100}
limits: {headerTimeout: 10s, idleTimeout: 1m, shutdownTimeout: 500ms}
hosts:
  old.example.com: {to: "https://new.example.com/:splat", status: 308}
  "*.example.net":
  www.example.com:
    also: [example.org]
    redirectFrom: [example.com]
    https: redirect-to-https
    hsts: {maxAge: 63072000, includeSubDomains: true}
    certificate: none
    fallback: {status: 410, page: pages/gone.html}
    team: marketing
    redirects: lists/www.json
  shop.example.com:
    redirects:
      - {from: /a, to: /b}
      - {from: "https://shop.example.com/c", to: /d}
      - {regex: '^/p/(\d+)$', to: "/q/:1"}
redirects:
  - from: a.example/x/:id
    to: https://b.example/:id
    status: 302
    query: drop
    cache: off
    headers: {X-Robots-Tag: noindex}
    when: {methods: [GET], countries: [NO], percent: 50, after: 2026-12-01T00:00:00+01:00, cookie: {beta: "1"}}
    priority: -3
    ignoreCase: true
    enabled: false
    tags: [x]
    note: 2026-01-01
    tests: [{url: "https://a.example/x/1", to: "https://b.example/1"}]
  - {from: a.example/gone, status: 410, page: "<p>gone"}
tests:
  - {url: "http://a.example/x/1", status: 404}
`, "pages/gone.html", "<h1>Gone</h1>\n", "lists/www.json", `{"/jobs": {"to": "https://jobs.example"}}`)
	settings, content, err := ReadConfig("fingerpost.yaml")
	if err != nil {
		t.Fatal(messages(err))
	}
	wantSettings := &Settings{
		Listen:          Listen{HTTP: []string{":80"}, HTTPS: []string{}},
		Addresses:       []string{"192.0.2.10", "2001:db8::1"},
		Region:          "eu-north",
		CertificatesDir: filepath.Join(dir, "certs"),
		CountryFile:     "/srv/country.mmdb",
		Log:             Log{Access: "json", Sample: 100},
		Limits:          Limits{HeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, ShutdownTimeout: 500 * time.Millisecond},
	}
	if !reflect.DeepEqual(settings, wantSettings) {
		t.Errorf("settings\n%+v\nwant\n%+v", settings, wantSettings)
	}
	const f = "fingerpost.yaml"
	half, no := 50, false
	after, _ := time.Parse(time.RFC3339, "2026-12-01T00:00:00+01:00")
	want := Content{
		Hosts: []fingerpost.Host{
			{Name: "old.example.com", To: "https://new.example.com/:splat", Status: 308, Source: at(f, 10, 3)},
			{Name: "*.example.net", Source: at(f, 11, 3)},
			{Name: "www.example.com", Also: []string{"example.org"}, RedirectFrom: []string{"example.com"}, HTTPS: "redirect-to-https",
				HSTS: &fingerpost.HSTS{MaxAge: 63072000, IncludeSubDomains: true}, Certificate: "none",
				Fallback: &fingerpost.Fallback{Status: 410, Page: "<h1>Gone</h1>\n"}, Team: "marketing", Source: at(f, 12, 3)},
			{Name: "shop.example.com", Source: at(f, 21, 3)},
		},
		Redirects: []fingerpost.Redirect{
			{From: "www.example.com/jobs", To: "https://jobs.example", Source: at("lists/www.json", 1, 2)},
			{From: "shop.example.com/a", To: "/b", Source: at(f, 23, 9)},
			{From: "https://shop.example.com/c", To: "/d", Source: at(f, 24, 9)},
			{From: "shop.example.com", Regex: `^/p/(\d+)$`, To: "/q/:1", Source: at(f, 25, 9)},
			{From: "a.example/x/:id", To: "https://b.example/:id", Status: 302, Query: "drop", Cache: "off",
				Headers: map[string]string{"X-Robots-Tag": "noindex"}, Priority: -3, IgnoreCase: true, Enabled: &no, Tags: []string{"x"}, Note: "2026-01-01",
				When:  &fingerpost.When{Methods: []string{"GET"}, Countries: []string{"NO"}, Percent: &half, After: &after, Cookie: map[string]string{"beta": "1"}},
				Tests: []fingerpost.Case{{URL: "https://a.example/x/1", To: "https://b.example/1", Source: at(f, 39, 13)}}, Source: at(f, 27, 5)},
			{From: "a.example/gone", Status: 410, Page: "<p>gone", Source: at(f, 40, 5)},
		},
		Cases: []fingerpost.Case{{URL: "http://a.example/x/1", Status: 404, Source: at(f, 42, 5)}},
	}
	withoutSince(content.Redirects)
	for i := range content.Hosts {
		if content.Hosts[i].Since.IsZero() {
			t.Errorf("host %s has no Since", content.Hosts[i].Name)
		}
		content.Hosts[i].Since = time.Time{}
	}
	if !reflect.DeepEqual(content, want) {
		t.Errorf("content\n%+v\nwant\n%+v", content, want)
	}
}

func TestTheShapeOfAFileIsSeenFromWhatIsInIt(t *testing.T) {
	rule := func(from, to string, status, line, column int) fingerpost.Redirect {
		return fingerpost.Redirect{From: from, To: to, Status: status, Source: at("r.json", line, column)}
	}
	tests := []struct {
		name, text string
		want       []fingerpost.Redirect
	}{
		{"a list", `[{"from": "a.example/x", "to": "/y"}]`, []fingerpost.Redirect{rule("a.example/x", "/y", 0, 1, 2)}},
		{"an empty list", "[]", nil},
		{"a document", `{"redirects": [{"from": "a.example/x", "to": "/y"},],}`, []fingerpost.Redirect{rule("a.example/x", "/y", 0, 1, 16)}},
		{"paths, for every host, with a comment and a trailing comma", "\ufeff// marketing owns this file\n{\n  \"/jobs\": {\"to\": \"https://jobs.example/\", \"statusCode\": 301},\n  \"/\": {\"to\": \"/home\", \"statusCode\": 307}, /* home */\n}",
			[]fingerpost.Redirect{rule("*/jobs", "https://jobs.example/", 301, 3, 3), rule("*/", "/home", 307, 4, 3)}},
		{"no paths", "{}", nil},
		{"a DynamoDB scan", `{"Items": [
			{"URL_Query": {"S": "old.example"}, "URL_Response": {"S": "new.example/:splat/{x}"}},
			{"URL_Query": {"S": "b.example"}, "URL_Response": {"S": "http://c.example"}}], "Count": 2, "ScannedCount": 2, "ConsumedCapacity": null}`,
			[]fingerpost.Redirect{rule("old.example", "https://new.example/%3Asplat/%7Bx%7D", 0, 2, 4), rule("b.example", "http://c.example", 0, 3, 4)}},
		{"a plain host map", `[{"URL_Query": "old.example", "URL_Response": "new.example/blog"}]`, []fingerpost.Redirect{rule("old.example", "https://new.example/blog", 0, 1, 2)}},
		{"a comment at the end without a line end", "[] // none", nil},
		{"escapes", `[{"from": "a.example\/\u0078", "to": "\/y"}]`, []fingerpost.Redirect{rule("a.example/x", "/y", 0, 1, 2)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tree(t, "r.json", test.text)
			c, err := Read("r.json")
			if err != nil {
				t.Fatal(messages(err))
			}
			if got := withoutSince(c.Redirects); len(got) != len(test.want) || len(got) > 0 && !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestYAMLAliasesAreTheValuesTheyStandFor(t *testing.T) {
	tree(t, "r.yaml", "redirects:\n  - {from: a.example/x, to: /y, when: &nordic {countries: [NO, SE]}}\n  - {from: b.example/æø, to: /y, when: *nordic, note: *nordic}\n")
	_, err := Read("r.yaml")
	if got, want := messages(err), `r.yaml:3:57: note must be text, not a map of keys (text that begins with { goes in quotes)`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestColumnsCountBytes(t *testing.T) {
	tree(t, "r.yaml", "- {note: æøå, from: a.example/x, tp: /y}\n", "r.json", `[{"note": "æøå", "from": "a.example/x", "tp": "/y"}]`)
	for file, want := range map[string]string{"r.yaml": "r.yaml:1:37: ", "r.json": "r.json:1:44: "} {
		if _, err := Read(file); !strings.HasPrefix(messages(err), want) {
			t.Errorf("got %s, want %s", messages(err), want)
		}
	}
}

func TestAFolderIsItsFilesInOrder(t *testing.T) {
	tree(t,
		"d/b.yaml", "- {from: b.example, to: 'https://x.example'}",
		"d/a.json", `[{"from": "a.example", "to": "https://x.example"}]`,
		"d/c.yaml", "hosts:\n  c.example: {redirects: host.json}\n",
		"d/host.json", `{"/c": {"to": "/d"}}`, // of c.example, not of every host
		"d/empty.yaml", "redirects: [] # nothing yet\n",
		"d/.hidden.yaml", "}", "d/a.json~", "}", "d/.a.json.swp", "}", "d/fingerpost.schema.json", "}", "d/README.md", "}", "d/sub/e.yaml", "}")
	c, err := Read("d")
	if err != nil {
		t.Fatal(messages(err))
	}
	var got []string
	for _, r := range c.Redirects {
		got = append(got, r.From)
	}
	if want := []string{"a.example", "b.example", "c.example/c"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	c, err = Read(t.TempDir())
	if err != nil || len(c.Redirects) > 0 {
		t.Errorf("an empty folder gave %v, %v", c, err)
	}
}

func TestInputsAreJoinedInOrder(t *testing.T) {
	tree(t, "fingerpost.yaml", "hosts: {h.example: {to: 'https://x.example', redirects: d/host.json}}\nredirects: [{from: a.example, to: 'https://x.example'}]\n",
		"d/host.json", `[{"from": "/only-here", "to": "/y"}]`, "d/b.json", `[{"from": "b.example", "to": "https://x.example"}]`)
	s, err := Open("fingerpost.yaml", []string{"d", "./d/b.json"})
	if err != nil {
		t.Fatal(messages(err))
	}
	c := s.Content()
	var got []string
	for _, r := range c.Redirects {
		got = append(got, r.From)
	}
	if want := []string{"h.example/only-here", "a.example", "b.example"}; !reflect.DeepEqual(got, want) || len(c.Hosts) != 1 {
		t.Errorf("got %q and %d hosts, want %q", got, len(c.Hosts), want)
	}
	if s.Settings() == nil || s.Settings().Log.Sample != 1 {
		t.Errorf("settings %+v", s.Settings())
	}
}

func TestSinceIsTheTimeOfAYoungFile(t *testing.T) {
	tree(t, "r.json", `[{"from": "a.example", "to": "https://x.example"}]`)
	for _, test := range []struct {
		age  time.Duration
		zero bool
	}{{time.Minute, false}, {2 * time.Hour, true}} {
		then := time.Now().Add(-test.age).Truncate(time.Second)
		if err := os.Chtimes("r.json", then, then); err != nil {
			t.Fatal(err)
		}
		c, err := Read("r.json")
		if err != nil {
			t.Fatal(err)
		}
		if since := c.Redirects[0].Since; since.IsZero() != test.zero || !test.zero && !since.Equal(then) {
			t.Errorf("a file %v old gives since %v", test.age, since)
		}
	}
}

func TestKeepSince(t *testing.T) {
	rule := func(from string, since int64) fingerpost.Redirect {
		r := fingerpost.Redirect{From: from, To: "/x"}
		if from == "when" {
			n := 5
			r.When = &fingerpost.When{Percent: &n}
		}
		if since > 0 {
			r.Since = time.Unix(since, 0)
		}
		return r
	}
	old := []fingerpost.Redirect{rule("a", 1), rule("b", 0), rule("when", 2), rule("c", 3), rule("d", 4)}
	now := []fingerpost.Redirect{rule("a", 9), rule("new", 9), rule("c", 9), rule("when", 9), rule("b", 9), rule("d", 9)}
	now[2].Status = 302
	keepSince(old, now)
	want := []fingerpost.Redirect{rule("a", 1), rule("new", 9), rule("c", 9), rule("when", 2), rule("b", 0), rule("d", 4)}
	want[2].Status = 302
	if !reflect.DeepEqual(now, want) {
		t.Errorf("got  %v\nwant %v", now, want)
	}
}
