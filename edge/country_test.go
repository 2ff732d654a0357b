package edge

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"fingerpost"
)

// countryFile writes a country file that has these networks.
func countryFile(t testing.TB, file string, networks map[string]string) {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test-Country", IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	for cidr, code := range networks {
		_, network, err := net.ParseCIDR(cidr)
		if err != nil {
			t.Fatal(err)
		}
		record := mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String(code)}}
		if code == "" {
			record = mmdbtype.Map{"continent": mmdbtype.Map{"code": mmdbtype.String("EU")}}
		}
		if err := tree.Insert(network, record); err != nil {
			t.Fatal(err)
		}
	}
	var buf bytes.Buffer
	if _, err := tree.WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCountryOfAnAddress(t *testing.T) {
	file := filepath.Join(t.TempDir(), "country.mmdb")
	countryFile(t, file, map[string]string{"192.0.2.0/24": "NO", "2001:db8::/32": "SE", "198.51.100.0/24": ""})
	c, err := OpenCountries(file)
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{
		"192.0.2.7":        "NO",
		"::ffff:192.0.2.7": "NO",
		"2001:db8::1":      "SE",
		"198.51.100.1":     "", // known, without a country
		"203.0.113.1":      "", // not known
		"fe80::1%eth0":     "",
	} {
		if got := c.Country(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got %q, want %q", addr, got, want)
		}
	}
	if got := c.Country(netip.Addr{}); got != "" {
		t.Errorf("no address: got %q", got)
	}

	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, whole[:len(whole)-10], 0o600); err != nil { // a copy under way
		t.Fatal(err)
	}
	err = c.Reload()
	if e := fingerpost.Errors(err); len(e) != 1 || e[0].At.File != file || e[0].Hint == "" {
		t.Errorf("got %v", err)
	}
	if got := c.Country(netip.MustParseAddr("192.0.2.7")); got != "NO" {
		t.Errorf("after a refused file: got %q, want what was there before", got)
	}
	countryFile(t, file, map[string]string{"192.0.2.0/24": "DK"})
	if err := c.Reload(); err != nil || c.Country(netip.MustParseAddr("192.0.2.7")) != "DK" {
		t.Errorf("the new file is not taken: %v", err)
	}
}

func TestAMissingCountryFileIsAnError(t *testing.T) {
	if _, err := OpenCountries(filepath.Join(t.TempDir(), "absent.mmdb")); err == nil {
		t.Error("no error")
	}
}

func BenchmarkCountry(b *testing.B) {
	file := filepath.Join(b.TempDir(), "country.mmdb")
	countryFile(b, file, map[string]string{"192.0.2.0/24": "NO"})
	c, err := OpenCountries(file)
	if err != nil {
		b.Fatal(err)
	}
	addr := netip.MustParseAddr("192.0.2.7")
	b.ReportAllocs()
	for b.Loop() {
		c.Country(addr)
	}
}
