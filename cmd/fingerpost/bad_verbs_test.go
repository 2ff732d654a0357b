package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestWhatIsWrongIsSaidInOneLine holds verbs to what they say of bad input: one line
// of what is wrong, one of what to do where there is something, and nothing changed.
func TestWhatIsWrongIsSaidInOneLine(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	n.must("hosts", "set", "a.test", "--to", "https://whole.test/")
	empty := filepath.Join(t.TempDir(), "empty.yaml")
	writeRulesFile(t, empty, "redirects: []\n")
	const a = "a.test/x --to https://b.test/ "
	for _, tt := range []struct {
		line   string
		status int
		want   string
	}{
		{"hosts set a.test --status abc", exitUsage, "error: --status \"abc\" is not a whole number\nhint: see fingerpost hosts set --help\n"},
		{"hosts set a.test --https always", exitError, "error: https: host a.test: unknown https policy \"always\"\nhint: one of allow-all, redirect-to-https, https-only\n"},
		{"hosts set b.test --status 302", exitError, "error: status: host b.test: a status without a target\n"},
		{"hosts set a.test --hsts forever", exitUsage, "error: --hsts \"forever\": it is SECONDS"},
		{"hosts set a.test --hsts -1", exitUsage, "error: --hsts \"-1\": it is SECONDS"},
		{"hosts set a.test --hsts 1,2", exitUsage, "error: --hsts \"1,2\": it is SECONDS"},
		{"hosts set a.test --like none.test", exitError, "error: --like none.test: there is no such host\nhint: fingerpost hosts list shows them\n"},
		{"hosts set a.test --fallback-page none.html", exitError, "error: none.html: cannot be read: no such file or directory\n"},
		{"hosts set a.test --fallback-status 200", exitError, "error: fallback.status: host a.test: status 200"},
		{"hosts set a.test --also a.test", exitError, "error: also: host a.test: \"a.test\" is listed twice\n"},
		{"hosts get none.test", exitError, "error: host none.test: not found\nhint: fingerpost hosts list shows what there is\n"},
		{"hosts delete none.test --yes", exitError, "error: host none.test: not found\nhint: "},
		{"hosts delete a.test --redirects some", exitUsage, "error: --redirects some: delete or keep\n"},
		{"redirects set a.test/x", exitError, "error: to: a redirect without to\nhint: say where to go"},
		{"redirects set " + a + "--status 299", exitError, "error: status: status 299 is not one"},
		{"redirects set " + a + "--query keep", exitError, "error: query: query \"keep\" is unknown\nhint: one of merge, append, drop\n"},
		{"redirects set " + a + "--cache forever", exitError, "error: cache: cache \"forever\" is not a duration\n"},
		{"redirects set " + a + "--header nocolon", exitUsage, "error: --header \"nocolon\": it is a name and a value with \":\" in between\n"},
		{"redirects set " + a + "--header Location:x", exitError, "error: headers: header Location cannot be set by a rule\n"},
		{"redirects set " + a + "--when-country Norway", exitError, "error: when.countries: country \"Norway\" is not a code\n"},
		{"redirects set " + a + "--when-cookie =b", exitUsage, "error: --when-cookie \"=b\": it is a name and a value"},
		{"redirects set " + a + "--when-percent 150", exitError, "error: when.percent: percent 150 is not between 0 and 100\n"},
		{"redirects set " + a + "--after tomorrow", exitUsage, "error: --after \"tomorrow\" is not a time with a zone"},
		{"redirects set " + a + "--enabled=perhaps", exitUsage, "error: --enabled \"perhaps\" is neither true nor false\n"},
		{"redirects set " + a + "--regex [", exitError, "error: "},
		{"redirects get nothing", exitUsage, "error: \"nothing\" is not HOST/ID, as redirects list has them\n"},
		{"redirects delete a.test none", exitError, "error: redirect a.test/none: not found\nhint: fingerpost redirects list shows what there is\n"},
		{"users set ka/ri", exitError, "error: \"ka/ri\" cannot be the name of a user\n"},
		{"users set kari --role shop", exitUsage, "error: --role shop: it is TEAM=ROLE"},
		{"users set kari --role shop=editor", exitError, "error: roles.shop: there is no team \"shop\"\nhint: fingerpost teams set NAME makes one\n"},
		{"users set kari --role *=boss", exitError, "error: roles.*: \"boss\" is no role\n"},
		{"users get none", exitError, "error: user none: not found\nhint: fingerpost users list shows what there is\n"},
		{"teams set shop --review maybe", exitUsage, "error: --review maybe: on or off\n"},
		{"teams delete none --yes", exitError, "error: team none: not found\nhint: "},
		{"tokens add ci", exitUsage, "error: whose rights? --role ROLE --team NAME, or --scope node\n"},
		{"tokens add ci --role boss --team *", exitError, "error: role: expected value to be one of"},
		{"tokens add ci --role viewer --team none", exitError, "error: team: there is no team \"none\"\nhint: fingerpost teams set NAME makes one\n"},
		{"tokens add ci --role viewer --team * --expires 3days", exitUsage, "error: --expires \"3days\" is not a duration, as in 90s, 15m or 720h\n"},
		{"tokens add ci --role viewer --team * --expires -1h", exitUsage, "error: --expires -1h0m0s: the token would be good for nothing\n"},
		{"tokens delete none", exitError, "error: there is no token none\nhint: fingerpost tokens list lists them\n"},
		{"jobs get none", exitError, "error: job none: not found\nhint: fingerpost jobs list shows what there is\n"},
		{"jobs watch none", exitError, "error: job none: not found\nhint: "},
		{"drafts create", exitUsage, "error: which change? -f PATH or --delete HOST/ID\n"},
		{"drafts create --delete x", exitUsage, "error: whose content is it? --team NAME\n"},
		{"drafts publish none --yes", exitError, "error: draft none: not found\nhint: "},
		{"drafts list --state new", exitUsage, "error: --state new: one of open, approved, rejected, published\n"},
		{"versions name 5", exitError, "error: \"5\" cannot be the name of a version\n"},
		{"versions name v x", exitUsage, "error: \"x\" is not the number of a revision\n"},
		{"versions restore none --yes", exitError, "error: version none: not found\nhint: fingerpost versions list shows what there is\n"},
		{"changes show 99", exitError, "error: there is no revision 99\nhint: fingerpost changes list lists them\n"},
		{"changes revert abc", exitUsage, "error: \"abc\" is not the number of a revision\n"},
		{"diff none", exitError, "error: version none: not found\n"},
		{"audit verify none", exitError, "error: none: cannot be read: no such file or directory\n"},
		{"audit export /nowhere/x", exitError, "error: /nowhere/x: cannot be written: no such file or directory\n"},
		{"sources get none", exitError, "error: there is no source \"none\"\nhint: fingerpost sources list lists them\n"},
		{"nodes delete none", exitError, "error: there is no node none\nhint: fingerpost nodes list "},
		{"export -o csv", exitUsage, "error: -o csv: a file is yaml or json\n"},
		{"plan -f " + empty, exitOK, "note: there are no hosts and no redirects in " + empty + "\n"},
		{"plan -f " + empty + " --source " + strings.Repeat("x", 201), exitError, "error: source: expected length <= 200\n"},
	} {
		got := n.runAt(strings.Fields(tt.line)...)
		said, errs := got.errors, strings.Count(got.errors, "error: ")
		if tt.status != exitOK {
			_, said, _ = strings.Cut(said, "error: ")
			said = "error: " + said
		}
		if got.status != tt.status || !strings.HasPrefix(said, tt.want) || errs > 1 {
			t.Errorf("%s\nexit status %d, want %d\n%s", tt.line, got.status, tt.status, got.errors)
		}
	}
	if got := n.must("changes", "list", "-o", "ndjson"); strings.Count(got, "\n") != 1 {
		t.Errorf("something has changed:\n%s", got)
	}
	if got := capture(t, "backup", "--data", filepath.Join(t.TempDir(), "none"), filepath.Join(t.TempDir(), "b")); got.status != exitError || !strings.Contains(got.errors, "there is no store in ") {
		t.Errorf("a backup of nothing: %+v", got)
	}
}
