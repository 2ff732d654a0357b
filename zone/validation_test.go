package zone

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

func TestValidationZone(t *testing.T) {
	label := ValidationLabel("shop.example", []byte("secret"))
	v := Validation{
		Apex:    "acme.example.net",
		Servers: []Server{{Host: "ns1.acme.example.net", Addresses: []netip.Addr{addr("192.0.2.10"), addr("2001:db8::10")}}, {Host: "ns.example.org"}},
		Mailbox: "dns.ops@example.net",
		Serial:  42,
		Values:  map[string][]string{label: {"second", "first", "second"}},
	}
	z, err := v.Zone()
	if err != nil {
		t.Fatal(err)
	}
	s, _ := NewSet(z)
	soa := `acme.example.net. 1 IN SOA ns1.acme.example.net. dns\.ops.example.net. 42 7200 900 1209600 1`
	runLookups(t, s, []lookupTest{
		{label + ".acme.example.net", "TXT", `found aa
			` + label + `.acme.example.net. 1 IN TXT "first"
			` + label + `.acme.example.net. 1 IN TXT "second"`},
		{label + ".acme.example.net", "A", "nodata aa\nauthority " + soa},
		{"other.acme.example.net", "TXT", "nxdomain aa\nauthority " + soa},
		{"acme.example.net", "NS", `found aa
			acme.example.net. 3600 IN NS ns1.acme.example.net.
			acme.example.net. 3600 IN NS ns.example.org.
			additional ns1.acme.example.net. 3600 IN A 192.0.2.10
			additional ns1.acme.example.net. 3600 IN AAAA 2001:db8::10`},
		{"ns1.acme.example.net", "A", "found aa\nns1.acme.example.net. 3600 IN A 192.0.2.10"},
		{"example.net", "TXT", "refused"},
	})
}

func TestValidationZoneRefuses(t *testing.T) {
	servers := []Server{{Host: "ns.example.org"}}
	for name, v := range map[string]Validation{
		"no apex":         {Servers: servers},
		"no server":       {Apex: "acme.example.net"},
		"bad server":      {Apex: "acme.example.net", Servers: []Server{{Host: "a..b"}}},
		"no address":      {Apex: "acme.example.net", Servers: []Server{{Host: "ns.acme.example.net"}}},
		"invalid address": {Apex: "acme.example.net", Servers: []Server{{Host: "ns.acme.example.net", Addresses: []netip.Addr{{}}}}},
		"mailbox":         {Apex: "acme.example.net", Servers: servers, Mailbox: "nobody"},
		"empty label":     {Apex: "acme.example.net", Servers: servers, Values: map[string][]string{"": {"x"}}},
		"two labels":      {Apex: "acme.example.net", Servers: servers, Values: map[string][]string{"a.b": {"x"}}},
		"too many values": {Apex: "acme.example.net", Servers: servers, Values: map[string][]string{"a": strings.Split(strings.Repeat("0123456789,", 9999), "")}},
	} {
		if name == "too many values" {
			for i := range v.Values["a"] {
				v.Values["a"][i] += strconv.Itoa(i)
			}
		}
		if z, err := v.Zone(); err == nil {
			t.Errorf("%s: taken as %v", name, z.Apex())
		}
	}
}

func TestValidationLabel(t *testing.T) {
	secret := []byte("secret")
	label := ValidationLabel("shop.example", secret)
	// People have written it into their DNS: it must never change.
	if want := "dhy2wpt5cfpfsobtrmozihw7hvfzkxmz"; label != want {
		t.Errorf("label is %s, want %s", label, want)
	}
	for _, same := range []string{"SHOP.example", "*.shop.example", "shop.example.", "*.Shop.Example."} {
		if got := ValidationLabel(same, secret); got != label {
			t.Errorf("%s has another label", same)
		}
	}
	seen := map[string]string{label: "shop.example"}
	for i := range 100000 {
		domain := "shop" + strconv.Itoa(i) + ".example"
		l := ValidationLabel(domain, secret)
		if len(l) > 63 || l != strings.ToLower(l) || seen[l] != "" {
			t.Fatalf("%s and %s: label %s", domain, seen[l], l)
		}
		seen[l] = domain
	}
	if ValidationLabel("shop.example", []byte("other")) == label || ValidationLabel("www.shop.example", secret) == label {
		t.Error("another secret or another domain has the same label")
	}
}

func TestValidationCNAME(t *testing.T) {
	secret := []byte("secret")
	for _, domain := range []string{"shop.example", "*.Shop.example."} {
		owner, target, err := ValidationCNAME(domain, "ACME.example.net", secret)
		if owner != "_acme-challenge.shop.example." || target != "dhy2wpt5cfpfsobtrmozihw7hvfzkxmz.acme.example.net." || err != nil {
			t.Errorf("%s: %s CNAME %s, %v", domain, owner, target, err)
		}
	}
	long := strings.Repeat(strings.Repeat("a", 59)+".", 4) + "example"
	for _, bad := range [][2]string{{"a..b", "acme.example.net"}, {"shop.example", ""}, {long, "acme.example.net"}} {
		if _, _, err := ValidationCNAME(bad[0], bad[1], secret); errorCodes(err) != "[bad_name]" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func BenchmarkValidationZone(b *testing.B) {
	v := Validation{Apex: "acme.example.net", Servers: []Server{{Host: "ns.example.org"}}, Values: map[string][]string{}}
	for i := range 1000 {
		v.Values[ValidationLabel(strconv.Itoa(i), nil)] = []string{strings.Repeat("x", 43)}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Zone(); err != nil {
			b.Fatal(err)
		}
	}
}
