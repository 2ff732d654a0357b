package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"fingerpost/admin"
	"fingerpost/store"
)

// TestHostsOfACertificateAreFound has hosts that a certificate is served for in each
// way there is, right after they were made.
func TestHostsOfACertificateAreFound(t *testing.T) {
	r := startNode(t, t.TempDir(), func(o *options) { o.https = "127.0.0.1:0" })
	r.put(nil, r.issued("shop", 1, "a.example", "b.example", "d.example", "*.w.example"))
	inUse := func() []string {
		t.Helper()
		var c admin.CertificateResource
		if err := json.Unmarshal([]byte(r.must("certs", "get", "shop", "-o", "json")), &c); err != nil {
			t.Fatal(err)
		}
		if c.InUseBy != len(c.InUse) {
			t.Errorf("in use by %d: %v", c.InUseBy, c.InUse)
		}
		return c.InUse
	}
	if got := inUse(); len(got) != 0 {
		t.Errorf("in use by %v, and there is no host", got)
	}
	for _, step := range []struct{ args, want string }{
		{"hosts set a.example --to https://www.example.com/", "a.example"},
		{"hosts set other.example --to https://www.example.com/ --also b.example", "a.example other.example"},
		{"redirects set d.example/x --to https://www.example.com/", "a.example d.example other.example"},
		{"hosts set one.w.example --to https://www.example.com/", "a.example d.example one.w.example other.example"},
		{"redirects set two.w.example/x --to https://www.example.com/", "a.example d.example one.w.example other.example two.w.example"},
		{"hosts set far.away.w.example --to https://www.example.com/", "a.example d.example one.w.example other.example two.w.example"}, // two labels
		{"hosts set one.w.example --certificate none", "a.example d.example other.example two.w.example"},
		{"hosts set named.example --to https://www.example.com/ --certificate shop", "a.example d.example named.example other.example two.w.example"},
		{"hosts set other.example --also=", "a.example d.example named.example two.w.example"},
		{"hosts set .w.example --to https://www.example.com/", ".w.example a.example d.example named.example two.w.example"},
		{"hosts delete a.example --yes", ".w.example d.example named.example two.w.example"},
	} {
		r.must(strings.Fields(step.args)...)
		if got := strings.Join(inUse(), " "); got != step.want {
			t.Errorf("%s: in use by %s, want %s", step.args, got, step.want)
		}
	}
	if got := r.runAt("certs", "delete", "shop", "--yes"); got.status != exitError || !strings.Contains(got.errors, "the host named.example uses it") {
		t.Errorf("deleted: %+v", got)
	}
}

// TestTenThousandCertificatesAreListed prints how long it takes.
func TestTenThousandCertificatesAreListed(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	const count = 10_000
	r := startNode(t, t.TempDir(), nil)
	one := r.issued("x", 1, "a.example")
	var changes []store.Change
	for i := range count {
		c := *one
		c.Name = fmt.Sprintf("%026d", i)
		c.Names = []string{fmt.Sprintf("a-rather-long-name-%05d.shop.example", i), fmt.Sprintf("www.a-rather-long-name-%05d.shop.example", i)}
		if i%100 == 0 {
			c.NotAfter = time.Now().Add(-time.Hour)
		}
		more, err := store.CertificateChanges(nil, &c)
		if err != nil {
			t.Fatal(err)
		}
		changes = append(changes, more...)
	}
	for part := range slices.Chunk(changes, store.MaxChanges) {
		if _, err := r.shared.db.Commit(t.Context(), store.Batch{Changes: part, Actor: store.Actor{Who: "test"}}); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	lines := strings.Split(strings.TrimSuffix(r.must("certs", "list"), "\n"), "\n")
	table := time.Since(begin)
	if len(lines) != count+1 {
		t.Errorf("%d lines, want %d and a head", len(lines), count)
	}
	for _, line := range lines {
		if n := utf8.RuneCountInString(line); n > 100 {
			t.Errorf("%d characters: %s", n, line)
			break
		}
	}
	begin = time.Now()
	var list []admin.CertificateResource
	if err := json.Unmarshal([]byte(r.must("certs", "list", "-o", "json")), &list); err != nil || len(list) != count {
		t.Errorf("%d as JSON, %v", len(list), err)
	}
	asJSON := time.Since(begin)
	begin = time.Now()
	if expired := r.must("certs", "list", "--status", "expired"); strings.Count(expired, "\n") != count/100+1 {
		t.Errorf("expired:\n%.500s", expired)
	}
	t.Logf("%d certificates listed as a table in %s, as JSON in %s, the expired ones of them in %s", count, table.Round(time.Millisecond), asJSON.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
}

func TestNamesAreShortened(t *testing.T) {
	for _, tt := range []struct{ names, want string }{
		{"", ""},
		{"a.example", "a.example"},
		{"a.example b.example", "a.example b.example"},
		{"a.example b.example c.example d.example", "a.example +3"},
		{"a.example b.example c.ex", "a.example +2"},
		{"a.example b", "a.example b"},
		{"a-long-name.shop.example", "a-long-name.shop.ex…"},
		{"a-long-name.shop.example b.example", "a-long-name.shop… +1"},
	} {
		var names []admin.NameResource
		for name := range strings.FieldsSeq(tt.names) {
			names = append(names, admin.NameResource{Name: name})
		}
		if got := shortNames(names, 20); got != tt.want || utf8.RuneCountInString(got) > 20 {
			t.Errorf("%s: %q, want %q", tt.names, got, tt.want)
		}
	}
}
