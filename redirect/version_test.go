package redirect

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
	"time"

	"fingerpost"
)

// TestFormHasAVersion fails when the form of the arena changes and its version
// does not. Tables are kept in files: one that is of another form, and says that
// it is of this one, answers nonsense. Give magic the next number, then write the
// new hash here; replicas make the table of such a file anew.
func TestFormHasAVersion(t *testing.T) {
	const version, want = "FPTABLE3", "0257b25bbe92b1c8d854747bc951697294be5bb9346f468aeffa6478144c2a3c"
	since := time.Unix(1_700_000_000, 0)
	hosts := []fingerpost.Host{
		{Name: "a.x", Also: []string{"b.x"}, RedirectFrom: []string{"c.x"}, HTTPS: "redirect-to-https", HSTS: &fingerpost.HSTS{MaxAge: 60}, Since: since,
			Fallback: &fingerpost.Fallback{Status: 404, Page: "<p>none"}},
		{Name: "*.d.x", To: "https://t.test/:sub"},
	}
	nb := when(fingerpost.When{Languages: []string{"nb"}, Percent: new(50), Header: map[string]string{"X-A": "*"}, Addresses: []string{"192.0.2.0/24"}, Before: &since})
	rules := []fingerpost.Redirect{
		to("1", "a.x/p"), to("2", "a.x/p?id=:x"), to("3", "a.x/p?lang=en"), to("4", "a.x/:a/b/*", nb), to("5", "a.x/pre*", priority(3)),
		to("6", "a.x", regexOf(`^/(?P<n>\d+)$`)), to("7", "a.x/Case/:x", anyCase), to("8", "https://.e.x/q/", strictly),
		{From: "*", To: "https://t.test/:splat|lower?u={url}#{host}", Status: 307, Query: "append", Cache: "10m", Headers: map[string]string{"X-B": "c"}, Since: since},
		{From: "e.x/gone", Status: 410, Page: "<p>gone"},
	}
	table, err := Compile(hosts, rules)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(table.Bytes())
	if got := hex.EncodeToString(sum[:]); magic != version || got != want {
		t.Errorf("version %s has the hash %s, and this test knows %s with %s", magic, got, version, want)
	}
}
