package source

import (
	"os"
	"strings"
	"testing"
)

// TestEveryErrorNamesItsPlace holds the exact words: they are what a person
// without a terminal at hand will be sent. Positions are file:line:column, the
// hint stands in parentheses.
func TestEveryErrorNamesItsPlace(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'i'; c++ {
		p := string(c - 1)
		bomb += string(c) + ": &" + string(c) + " [*" + p + strings.Repeat(",*"+p, 8) + "]\n"
	}
	const ext = "the name must end in .yaml or .yml, or in .json, .jsonc or .hujson"
	tests := []struct {
		name  string
		files []string // the first is read
		want  string
	}{
		// The file itself.
		{"no such file", []string{"x/r.json/other", ""}, `r.json: cannot be read: no such file or directory (check the name of the file and that it may be read)`},
		{"unknown ending", []string{"r.txt", "[]"}, `r.txt: the format of the file is not known by its name (` + ext + `)`},
		{"binary garbage", []string{"r.json", "[\n\x89PNG\xff"}, `r.json:2:1: the file is not text in UTF-8 (save it as UTF-8; a picture or an archive cannot be read)`},
		{"binary garbage in YAML", []string{"r.yaml", "a: æ\xff"}, `r.yaml:1:6: the file is not text in UTF-8 (save it as UTF-8; a picture or an archive cannot be read)`},
		{"empty JSON", []string{"r.json", " \n// nothing\n"}, `r.json: the file is empty (an empty list of redirects is [])`},

		// JSON.
		{"not JSON", []string{"r.json", "redirects:\n"}, `r.json:1:1: unexpected word "redirects" (text stands in double quotes)`},
		{"a scalar", []string{"r.json", `"x"`}, `r.json:1:1: a file of redirects must be a list or a map of keys, not the text "x" (for example {"/old": {"to": "https://example.com/new"}})`},
		{"a comma is missing", []string{"r.json", "{\n  \"/a\": {\"to\": \"/b\"}\n  \"/c\": {\"to\": \"/d\"}\n}"}, `r.json:3:3: unexpected '"' where a comma or } should be (put a comma behind what stands before it)`},
		{"a brace is missing", []string{"r.json", "[\n{\"from\": \"a.example\""}, `r.json:2:21: the file ends before the { of line 2 is closed (add the missing })`},
		{"cut after a key", []string{"r.json", `[{"from"`}, `r.json:1:9: the file ends behind the key "from" (a colon goes between a key and its value)`},
		{"cut after a colon", []string{"r.json", `[{"from":`}, `r.json:1:10: the file ends where a value should be`},
		{"a key without quotes", []string{"r.json", `{to: 1}`}, `r.json:1:2: unexpected 't' where a key should be (a key stands in double quotes: "to")`},
		{"single quotes", []string{"r.json", `['a']`}, `r.json:1:2: unexpected '\'' where a value should be (text stands in double quotes)`},
		{"a quote is missing", []string{"r.json", "[\"a\n]"}, `r.json:1:2: a text begins here and does not end on its line (a closing " is missing)`},
		{"a tab in a text", []string{"r.json", "[\"a\tb\"]"}, `r.json:1:4: a text has the control byte '\t' (a tab is written as \t; other control bytes have no use here)`},
		{"a bad escape", []string{"r.json", `["\q"]`}, `r.json:1:2: the text "\\q" has a backslash that means nothing (write a backslash as \\)`},
		{"a comment that never ends", []string{"r.json", "[] /* x"}, `r.json:1:4: a comment begins here and never ends (end it with */)`},
		{"a line separator in a comment", []string{"r.json", "// a\u2028b\n[]"}, `r.json:1:5: a comment has a Unicode line separator (break the line with the return key)`},
		{"half a comment", []string{"r.json", "/ x\n[]"}, `r.json:1:1: unexpected '/' where a value or a comment should be (a comment begins with // or /*)`},
		{"more after the end", []string{"r.json", "{}}"}, `r.json:1:3: unexpected '}' after the end of the content (check that brackets and braces come in pairs)`},
		{"a bad number", []string{"r.json", "[01]"}, `r.json:1:2: unexpected word "01" (text stands in double quotes)`},
		{"deep nesting", []string{"r.json", strings.Repeat("[", 1_000_000)}, `r.json:1:65: lists and maps stand more than 64 deep in one another (no setting is that deep; check the brackets and the indentation)`},
		{"duplicate keys", []string{"r.json", "{\"/a\": {\"to\": \"/b\",\n \"to\": \"/c\"}, \"/a\": {\"to\": \"/d\"}}"},
			"r.json:2:2: the key \"to\" is there twice, first at 1:9 (remove one of them)\nr.json:2:15: the key \"/a\" is there twice, first at 1:2 (remove one of them)"},

		// YAML.
		{"indentation", []string{"r.yaml", "redirects:\n  - from: a\n    to: b\n  - from: c\n   to: d\n  - from: e\n"}, `r.yaml:5: not valid YAML: did not find expected '-' indicator (look at the indentation of this line and of the one above it)`},
		{"a tab", []string{"r.yaml", "redirects:\n  - from: a\n\tto: b\n"}, `r.yaml:3: not valid YAML: found a tab character that violates indentation (indent with spaces, not tabs)`},
		{"a star without quotes", []string{"r.yaml", "redirects:\n  - from: *.example.com/x\n"}, `r.yaml:2: not valid YAML: a * or & without quotes (put text that begins with * or & in quotes: "*.example.com")`},
		{"a star and a name", []string{"r.yaml", "redirects:\n  - note: *b\n"}, `r.yaml:2:11: not valid YAML: *b without quotes stands for something that is not there (put text that begins with * in quotes: "*.example.com")`},
		{"a quote that never ends", []string{"r.yaml", "redirects:\n  - note: \"b\n  - x\n"}, `r.yaml:2: not valid YAML: a text begins here and never ends (a closing quote is missing)`},
		{"a brace that never ends", []string{"r.yaml", "- {from: a.example, to: /x\n- {from: b.example}\n"}, `r.yaml:2: not valid YAML: did not find expected ',' or '}' (a closing bracket or brace is missing, here or in a line above)`},
		{"a colon too many", []string{"r.yaml", "note: a: b\n"}, `r.yaml:1: not valid YAML: a colon where none can be (put text that has a colon and a space in quotes; look at the indentation of this line and of the one above it)`},
		{"a colon too few", []string{"r.yaml", "hosts: {}\nredirects\ntests: []\n"}, `r.yaml:2: not valid YAML: a key without a colon (write key: value, with a space behind the colon)`},
		{"two documents", []string{"r.yaml", "[]\n---\n[]\n"}, `r.yaml:2:1: a second document begins here (remove the line --- or make it a file of its own)`},
		{"duplicate keys in YAML", []string{"r.yaml", "- from: a.example\n  to: /x\n  from: b.example\n"}, `r.yaml:3:3: the key "from" is there twice, first at 1:3 (remove one of them)`},
		{"merge keys", []string{"r.yaml", "- &a {from: a.example, to: https://x.example}\n- {<<: *a, note: x}\n"}, `r.yaml:2:4: merge keys (<<) are not used here (write the keys out)`},
		{"a tag", []string{"r.yaml", "- {from: a.example, to: !url /x}\n"}, `r.yaml:1:25: the tag !url is not used here (remove it; what is text goes in quotes)`},
		{"a key that is a list", []string{"r.yaml", "hosts:\n  ? [a, b]\n  : {}\n"}, `r.yaml:2:5: a key must be text, not a list or map (look at the brackets and braces, or put the key in quotes)`},
		{"no key", []string{"r.yaml", "hosts:\n  ~: {}\n"}, `r.yaml:2:3: the key is missing (write what stands before the colon)`},
		{"deep nesting in YAML", []string{"r.yaml", strings.Repeat("[", 100) + strings.Repeat("]", 100)}, `r.yaml:1:66: lists and maps stand more than 64 deep in one another (no setting is that deep; check the brackets and the indentation)`},
		{"deeper nesting in YAML", []string{"r.yaml", strings.Repeat("[", 1_000_000)}, `r.yaml:1: not valid YAML: exceeded max depth of 10000 (look at the indentation of this line and of the one above it)`},
		{"aliases of aliases", []string{"r.yaml", bomb}, `r.yaml:1:14: aliases stand for more than 100000 values (write the values out)`},
		{"an alias of itself", []string{"r.yaml", "redirects: &a [*a]\n"}, `r.yaml:1:12: lists and maps stand more than 64 deep in one another (no setting is that deep; check the brackets and the indentation)`},

		// Keys and types.
		{"unknown keys", []string{"r.yaml", "- {form: a.example, to: https://x.example}\n- {from: a.example, statusCode: 301, destination: https://x.example, xyz: 1}\n"},
			`r.yaml:1:4: unknown key "form" (did you mean from?)
r.yaml:2:21: unknown key "statusCode" (did you mean status?)
r.yaml:2:38: unknown key "destination" (did you mean to?)
r.yaml:2:70: unknown key "xyz" (known here: cache, enabled, from, headers, id, ignoreCase, note, page, priority, query, regex, status, tags, tests, to, trailingSlash, when)`},
		{"an unknown key inside a field", []string{"r.yaml", "- {from: a.example, to: https://x.example, when: {method: [GET]}}\n"}, `r.yaml:1:51: unknown key "method" in when (did you mean methods?)`},
		{"every wrong type, with the other errors of the item", []string{"r.yaml", `
- from: 5
  to: [https://x.example]
  status: "301"
  priority: 1.5
  ignoreCase: "yes"
  tags: x
  headers: [a]
  note:
  cache: forever
  when: {methods: GET, percent: 010, header: {X: 1}, after: 2026-12-01, before: 7, cookie: x}
- text
`},
			`r.yaml:2:9: from must be text, not the number 5 (put it in quotes: "5")
r.yaml:3:7: to must be text, not a list (only one can stand here; text that begins with [ goes in quotes)
r.yaml:4:11: status must be a whole number, not the text "301" (remove the quotes)
r.yaml:5:13: priority must be a whole number, not the number 1.5 (write it in digits, as in 301)
r.yaml:6:15: ignoreCase must be true or false, not the text "yes" (write true or false, without quotes)
r.yaml:7:9: tags must be a list, not the text "x" (put it in brackets: [x])
r.yaml:8:12: headers must be a map of names to texts, not a list (for example {X-Name: "value"})
r.yaml:9:8: note must be text, not nothing (write its value, or remove the key)
r.yaml:10:10: cache "forever" is not a duration (for example 90s, 10m, 1h, 30d, or off)
r.yaml:11:19: when.methods must be a list, not the text "GET" (put it in brackets: [GET])
r.yaml:11:33: when.percent must be a whole number, not the number 010 (write it in digits, as in 301)
r.yaml:11:50: when.header.X must be text, not the number 1 (put it in quotes: "1")
r.yaml:11:61: when.after must be a point in time with its zone, not the text "2026-12-01" (write date, time and zone, as in 2026-12-01T00:00:00+01:00 or 2026-12-01T00:00:00Z)
r.yaml:11:81: when.before must be a point in time, not the number 7 (write date, time and zone, as in 2026-12-01T00:00:00+01:00 or 2026-12-01T00:00:00Z)
r.yaml:11:92: when.cookie must be a map of names to texts, not the text "x" (for example {X-Name: "value"})
r.yaml:12:3: an item must be a map of keys, not the text "text" (keys stand below it, each on a line of its own and indented, or in braces: {key: value})`},

		// Redirects, hosts, tests.
		{"a redirect that is wrong in itself", []string{"r.json", `[
{"from": "a.example/x", "to": "javascript:alert(1)"},
{"from": "a.example/x", "to": "https://x.example/\r\nSet-Cookie: a=b"},
{"from": "a.example/*/x", "to": "https://x.example"},
{"from": "a.example", "regex": "^(", "to": "https://x.example"},
{"from": "a b.example", "to": "https://x.example", "status": 200},
{"from": "a.example/x", "to": "https://x.example", "when": {"percent": 101}},
{"from": "a.example/x"},
{"from": "a.example/x", "to": "https://x.example", "status": 0},
]`},
			`r.json:2:31: to "javascript:alert(1)" is not an http or https URL (give an absolute URL (https://shop.example/path) or a path on the same host (/path))
r.json:3:31: to "https://x.example/\r\nSet-Cookie: a=b" has a space, line break or control byte (write a space as %20; a line break never belongs into a URL)
r.json:4:10: from "a.example/*/x" has a * inside the path (a * stands only at the end (/docs/* or /doc*); for anything else use regex)
r.json:5:32: regex "^(" does not compile: missing closing ): ` + "`^(`" + ` (the syntax is RE2: https://github.com/google/re2/wiki/Syntax)
r.json:6:10: from "a b.example" has a space, control byte or backslash (write a space as %20)
r.json:6:62: status 200 is not one that a redirect can have (one of 301, 302, 303, 307, 308 with to; 404, 410, 451 without)
r.json:7:72: percent 101 is not between 0 and 100
r.json:8:1: a redirect without to (say where to go, or use status 404, 410 or 451)
r.json:9:62: status 0 is not one that a redirect can have (remove it for the default, or use 301, 302, 303, 307 or 308)`},
		{"paths", []string{"r.json", `{
"/a": {"to": "https://x.example", "statusCode": 200},
"/b": {"too": "https://x.example"},
"/c": "https://x.example",
"/d": {"to": "ftp://x.example"},
"/e*f": {"to": "https://x.example"},
"/g": {"to": "https://x.example", "status": 301},
"/h": {},
"i": {"to": "/j"},
"hosts": {},
}`},
			`r.json:2:49: status 200 is not one that a redirect can have (one of 301, 302, 303, 307, 308 with to; 404, 410, 451 without)
r.json:3:8: unknown key "too" (did you mean to?)
r.json:4:7: /c must be a map of keys, not the text "https://x.example" (write {"to": "https://example.com/new", "statusCode": 301})
r.json:5:14: to "ftp://x.example" has the scheme "ftp" (only http and https are redirected to)
r.json:6:1: from "*/e*f" has a * inside the path (a * stands only at the end (/docs/* or /doc*); for anything else use regex)
r.json:7:35: unknown key "status" (did you mean statusCode?)
r.json:8:1: a redirect without to (say where to go, or use status 404, 410 or 451)
r.json:9:1: unknown key "i" among paths (here each key is a path, which begins with /)
r.json:10:1: unknown key "hosts" among paths (a file has either paths or the keys hosts, redirects and tests)`},
		{"hosts", []string{"r.yaml", `hosts:
  a b.example: {redirects: [{from: /x, to: /y}]}
  b.example: {https: always, hsts: {maxage: 1}}
  c.example: {to: "ftp://x", status: 301}
  d.example: {fallback: {to: https://x.example, status: 200}}
  e.example: {redirects: [{from: f.example/x, to: /y}], routes: []}
  f.example: {redirects: {from: /x}}
  g.example: {redirects: missing.json}
  h.example: {redirects: folder.json}
  i.example: {redirects: bad.json}
  j.example: {redirects: bad.json}
  k.example: {redirects: map.json}
  l.example: https://x.example
`, "folder.json/x", "", "bad.json", `{"redirects": [{"from": "/x", "to": "y"}], "hosts": {}}`, "map.json", `{"Items": [{"URL_Query": {"S": "a"}, "URL_Response": {"S": "b"}}]}`},
			`r.yaml:2:3: host a b.example: host "a b.example" has a space (remove it)
r.yaml:3:22: host b.example: unknown https policy "always" (one of allow-all, redirect-to-https, https-only)
r.yaml:3:37: unknown key "maxage" in hsts (did you mean maxAge?)
r.yaml:4:19: host c.example: to "ftp://x" has the scheme "ftp" (only http and https are redirected to)
r.yaml:5:57: host d.example: status 200 is not one that a redirect can have (one of 301, 302, 303, 307, 308 with to; 404, 410, 451 without)
r.yaml:6:34: from "f.example/x" is not of the host e.example (here stand the redirects of e.example; begin with the path (/…), or put it under its own host)
r.yaml:6:57: unknown key "routes" (this version does not have routes yet; remove it)
r.yaml:7:26: redirects must be a list or the name of a file, not a map of keys (for example redirects: redirects.json)
r.yaml:8:26: redirects "missing.json" cannot be read: no such file or directory (check the name of the file and that it may be read)
r.yaml:9:26: redirects "folder.json" cannot be read: it is a folder (check the name of the file and that it may be read)
r.yaml:13:14: an item must be a map of keys, not the text "https://x.example" (keys stand below it, each on a line of its own and indented, or in braces: {key: value})
bad.json:1:37: to "y" is not a URL (give an absolute URL (https://shop.example/path) or a path on the same host (/path))
bad.json:1:44: the redirects of a host cannot have hosts (put them into the file that names this one)
map.json:1:12: a host map is not the redirects of one host (give it with --redirects)`},
		{"hosts without the key hosts", []string{"r.yaml", "www.example.com: {to: https://x.example}\n"}, `r.yaml:1:1: unknown key "www.example.com" (put the hosts below the key hosts:, or begin a path with /)`},
		{"pages", []string{"r.yaml", `
- {from: a.example/1, status: 404, page: missing.html}
- {from: a.example/2, status: 404, page: ../r.yaml}
- {from: a.example/3, status: 404, page: empty.html}
- {from: a.example/4, status: 404, page: latin1.html}
- {from: a.example/5, status: 404, page: empty.html/x}
- {from: a.example/6, status: 404, page: large.html}
- {from: a.example/7, to: /x, page: "<p>"}
`, "empty.html", "\n", "latin1.html", "<p>\xe5", "large.html", strings.Repeat("x", maxPage+1)},
			`r.yaml:2:42: page "missing.html" cannot be read: no such file or directory (check the name of the page; it is relative to the file that names it)
r.yaml:3:42: page "../r.yaml" is not beside the file that names it (put the page into the same folder, or one below it)
r.yaml:4:42: page "empty.html" is empty (write something for the visitor to read)
r.yaml:5:42: page "latin1.html" is not text in UTF-8 (save it as UTF-8)
r.yaml:6:42: page "empty.html/x" is no HTML file (the name of a page ends in .html)
r.yaml:7:42: page "large.html" cannot be read: it is larger than 1 MiB (check the name of the page; it is relative to the file that names it)
r.yaml:8:37: status 301 sends no page (page goes with 404, 410 and 451)`},
		{"host maps", []string{"r.json", `{"Items": [
{"URL_Query": {"S": "https://a.example"}, "URL_Response": {"S": "b.example"}},
{"URL_Query": {"N": "1"}, "URL_Response": {"S": "b.example"}},
{"URL_Query": {"S": "c.example"}},
{"URL_Query": {"S": "d.example"}, "URL_Response": {"S": "b c"}, "Owner": {"S": "x"}},
{"URL_Query": {"S": "e.example"}, "URL_Response": {"S": "b c"}},
5
], "Count": 7, "LastEvaluatedKey": {"URL_Query": {"S": "x"}}}`},
			`r.json:2:21: host "https://a.example" is a URL (URL_Query is a host name without https:// and without a path)
r.json:3:15: URL_Query must be text, written {"S": "…"}, not a map of keys
r.json:4:1: URL_Response is missing (each item has URL_Query (the host) and URL_Response (where it goes))
r.json:5:65: unknown key "Owner" in a host map (a host map has URL_Query and URL_Response; export these two alone)
r.json:6:57: to "https://b c" has a space, line break or control byte (write a space as %20; a line break never belongs into a URL)
r.json:7:1: an item of Items must be a map of keys, not the number 5
r.json:8:36: the table's scan is not complete: LastEvaluatedKey says that more follows (export the table again with aws dynamodb scan, without --max-items and --no-paginate)`},
		{"tests", []string{"r.yaml", `tests:
  - {url: /x, to: /y}
  - {url: "https://a.example"}
  - {url: "https://a.example", to: /y, status: 404}
  - {url: "https://a.example", status: 99}
  - {url: "https://a.example", status: 301, address: here, country: Norway}
  - {to: /x}
`},
			`r.yaml:2:11: url "/x" is not an absolute http or https URL (write it as in https://example.com/page)
r.yaml:3:5: a test that expects nothing (add to (where it must lead), or status)
r.yaml:4:48: status 404 does not go with to (one of 301, 302, 303, 307, 308 with to)
r.yaml:5:40: status 99 is not one that an answer can have (for example 301 or 404)
r.yaml:6:54: address "here" is not an IP address (as in 192.0.2.1)
r.yaml:6:69: country "Norway" is not a code (two upper-case letters, as in NO)
r.yaml:7:5: a test without url (write the whole address that is asked for, as in https://example.com/page)`},
		{"settings among content", []string{"r.yaml", "listen: {http: ':80'}\nredirects: []\nzones: {}\n"},
			`r.yaml:1:1: listen is a setting of the node, not content (settings stand in the configuration file (--config); here only hosts, redirects and tests can be)
r.yaml:3:1: unknown key "zones" (this version does not have zones yet; remove it)`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tree(t, test.files...)
			name := test.files[0]
			if name == "x/r.json/other" {
				name = "r.json"
			}
			_, err := Read(name)
			if got := messages(err); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// A page is sent to every visitor: a link must not reach what is elsewhere. Links
// within the folder are how Kubernetes mounts its files.
func TestPageLinksStayInTheFolder(t *testing.T) {
	tree(t, "rules/r.yaml", "- {from: a.example/1, status: 404, page: out.html}\n- {from: a.example/2, status: 404, page: in.html}\n- {from: a.example/3, status: 404, page: up/key.html}\n",
		"key.html", "secret", "rules/.data/in.html", "<p>")
	for link, target := range map[string]string{"rules/out.html": "../key.html", "rules/in.html": ".data/in.html", "rules/up": ".."} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Read("rules/r.yaml")
	const hint = " (put the page itself into the same folder, or one below it)"
	want := `rules/r.yaml:1:42: page "out.html" is a link to another folder` + hint + `
rules/r.yaml:3:42: page "up/key.html" is a link to another folder` + hint
	if got := messages(err); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestEveryErrorOfSettingsNamesItsPlace(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"values", `listen: {http: "80", https: ":x", dns: ":53x", admin: 9090}
addresses: [192.0.2.1:80, host, 5]
log: {access: text, sample: 0}
limits: {headerTimeout: 10, idleTimeout: -1s, shutdownTimeout: soon}
certificates: ./certs
store: mysql://x
region: 
listenn: 5
`, `fingerpost.yaml:1:16: listen.http "80" is not an address to listen on (write address:port, as in ":80", "192.0.2.10:443" or "[2001:db8::1]:443"; "" switches it off; unix:FILE is a UNIX socket)
fingerpost.yaml:1:29: listen.https ":x" is not an address to listen on (write address:port, as in ":80", "192.0.2.10:443" or "[2001:db8::1]:443"; "" switches it off; unix:FILE is a UNIX socket)
fingerpost.yaml:1:40: listen.dns ":53x" is not an address to listen on (write address:port, as in ":80", "192.0.2.10:443" or "[2001:db8::1]:443"; "" switches it off)
fingerpost.yaml:1:55: listen.admin must be text, not the number 9090 (put it in quotes: "9090")
fingerpost.yaml:2:13: "192.0.2.1:80" is not an IP address (write the number itself, as in 192.0.2.10, without a port)
fingerpost.yaml:2:27: "host" is not an IP address (write the number itself, as in 192.0.2.10, without a port)
fingerpost.yaml:2:33: addresses must be text, not the number 5 (put it in quotes: "5")
fingerpost.yaml:3:15: log.access "text" is unknown (one of json, off)
fingerpost.yaml:3:29: log.sample must be 1 or more (1 logs every request, 100 one in a hundred)
fingerpost.yaml:4:25: limits.headerTimeout must be a duration, not the number 10 (a number with its unit, as in 500ms, 10s or 2m)
fingerpost.yaml:4:42: limits.idleTimeout must be a duration above zero, not the text "-1s" (a number with its unit, as in 500ms, 10s or 2m)
fingerpost.yaml:4:64: limits.shutdownTimeout must be a duration above zero, not the text "soon" (a number with its unit, as in 500ms, 10s or 2m)
fingerpost.yaml:5:15: certificates must be a map of keys, not the text "./certs" (keys stand below it, each on a line of its own and indented, or in braces: {key: value})
fingerpost.yaml:6:8: store "mysql://x" is of no known kind (sqlite:./data, or postgres://user@host/database)
fingerpost.yaml:7:8: region must be text, not nothing (write its value, or remove the key)
fingerpost.yaml:8:1: unknown key "listenn" (did you mean listen?)`},
		{"a store without a folder", "store: sqlite", `fingerpost.yaml:1:8: store names no folder (sqlite:./data, or postgres://user@host/database)`},
		{"a node", `listen: {adminTLS: {certificate: a.pem}}
role: boss
node: a b
store: "postgres://me:secret@db/x"
control: {url: "ftp://x", tokenEnv: A, tokenFile: b}
`, `fingerpost.yaml:1:20: listen.adminTLS needs both certificate and key ({certificate: FILE, key: FILE}, or auto, or the name that the certificate is for)
fingerpost.yaml:2:7: role "boss" is unknown (one of all, edge, control)
fingerpost.yaml:3:7: node "a b" cannot be the name of a node (letters, digits, dots, hyphens and underscores, 100 at most, as in edge-eu-1)
fingerpost.yaml:4:8: store has a password in it (put it into PGPASSWORD, into a file that passfile= or PGPASSFILE names, or give the whole as FINGERPOST_STORE)
fingerpost.yaml:5:16: control.url is not an address that begins with http, https and :// (as in https://host.example/path)
fingerpost.yaml:5:51: both control.tokenEnv and control.tokenFile (remove one of them)`},
		{"a certificate of a name that is none", "listen: {adminTLS: 'a b'}", `fingerpost.yaml:1:20: listen.adminTLS "a b" is not the name of a host ({certificate: FILE, key: FILE}, or auto, or the name that the certificate is for)`},
		{"a misspelt store", "stor: sqlite:./data\nlisten: {adminTls: auto}", `fingerpost.yaml:1:1: unknown key "stor" (did you mean store?)
fingerpost.yaml:2:10: unknown key "adminTls" in listen (did you mean adminTLS?)`},
		{"a list", "[]", `fingerpost.yaml:1:1: this is not a configuration file (a file of redirects is given by --redirects; a configuration file has keys such as listen and hosts)`},
		{"paths", "/x: {to: /y}", `fingerpost.yaml:1:1: this is not a configuration file (a file of redirects is given by --redirects; a configuration file has keys such as listen and hosts)`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tree(t, "fingerpost.yaml", test.text)
			_, _, err := ReadConfig("fingerpost.yaml")
			if got := messages(err); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// TestAFolderThatIsNone: a path through a file fails in the same way for root,
// whom permissions do not stop.
func TestAFolderThatIsNone(t *testing.T) {
	tree(t, "file", "", "r.json", `["not read"]`)
	_, err := Open("file/fingerpost.yaml", []string{"file/redirects", "r.json"})
	want := `file/fingerpost.yaml: cannot be read: not a directory (check the name of the file and that it may be read)
file/redirects: cannot be read: not a directory (check the name of the file and that it may be read)
r.json:1:2: an item must be a map of keys, not the text "not read" (keys stand below it, each on a line of its own and indented, or in braces: {key: value})`
	if got := messages(err); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSimilar(t *testing.T) {
	names := []string{"from", "to", "status", "trailingSlash", "when"}
	for s, want := range map[string]string{"form": "from", "TO": "to", "tto": "to", "trailing-slash": "trailingSlash", "code": "status", "zzz": "", "then": "when",
		strings.Repeat("x", 1000): "", "": ""} {
		if got := similar(s, names); got != want {
			t.Errorf("similar(%q) = %q, want %q", s, got, want)
		}
	}
}
