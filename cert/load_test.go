package cert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/internal/testca"
)

var ca = testca.New()

// folder writes files into a new folder.
func folder(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		write(t, dir, name, text)
	}
	return dir
}

func write(t testing.TB, dir, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// pair gives the two files of a certificate.
func pair(name string, hosts ...string) map[string][]byte {
	certPEM, keyPEM := ca.Issue(hosts...)
	return map[string][]byte{name + ".crt": certPEM, name + ".key": keyPEM}
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func names(x *Index) []string {
	var list []string
	for _, c := range x.All() {
		list = append(list, c.Name)
	}
	return list
}

func TestEveryFormOfFilesLoads(t *testing.T) {
	intermediate := ca.NewIntermediate("intermediate")
	certPEM, keyPEM := intermediate.Issue("chain.example")
	plainCert, plainKey := ca.Issue("plain.example")
	block, _ := pem.Decode(plainKey)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey := rsaKey(t, 2048)
	rsaCert, _ := ca.IssueFrom(testca.Template("rsa.example"), rsaKey)
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)})
	sec1DER, err := x509.MarshalECPrivateKey(parsed.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	sec1 := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1DER})
	params := []byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n")
	for name, tt := range map[string]struct {
		files map[string][]byte
		chain int
	}{
		"crt and key":                {map[string][]byte{"a.crt": plainCert, "a.key": plainKey}, 1},
		"pem and key":                {map[string][]byte{"a.pem": plainCert, "a.key": plainKey}, 1},
		"cer and key, upper case":    {map[string][]byte{"a.CER": plainCert, "a.KEY": plainKey}, 1},
		"bundle":                     {map[string][]byte{"a.pem": join(plainCert, plainKey)}, 1},
		"bundle, key first":          {map[string][]byte{"a.pem": join(plainKey, plainCert)}, 1},
		"bundle beside its key":      {map[string][]byte{"a.pem": join(plainCert, plainKey), "a.key": plainKey}, 1},
		"same certificate twice":     {map[string][]byte{"a.pem": plainCert, "a.crt": plainCert, "a.key": plainKey}, 1},
		"chain":                      {map[string][]byte{"a.crt": join(certPEM, intermediate.PEM()), "a.key": keyPEM}, 2},
		"chain with root, reversed":  {map[string][]byte{"a.crt": join(ca.PEM(), intermediate.PEM(), certPEM), "a.key": keyPEM}, 2},
		"chain in a file of its own": {map[string][]byte{"a.crt": certPEM, "a.pem": intermediate.PEM(), "a.key": keyPEM}, 2},
		"text around the blocks":     {map[string][]byte{"a.crt": join([]byte("subject=x\n\n"), plainCert, []byte("\n# end\n")), "a.key": plainKey}, 1},
		"PKCS #1":                    {map[string][]byte{"a.crt": rsaCert, "a.key": pkcs1}, 1},
		"SEC 1 with parameters":      {map[string][]byte{"a.crt": plainCert, "a.key": join(params, sec1)}, 1},
		"other files beside it":      {map[string][]byte{"a.crt": plainCert, "a.key": plainKey, "README.md": []byte("x"), ".hidden.crt": []byte("x"), "old.csr": []byte("x")}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			x, warnings, err := Load(folder(t, tt.files))
			if err != nil || len(warnings) > 0 {
				t.Fatalf("errors %v, warnings %v", err, warnings)
			}
			c := x.Named("a")
			if x.Len() != 1 || c == nil {
				t.Fatalf("loaded %v, want one named a", names(x))
			}
			if len(c.chain) != tt.chain {
				t.Errorf("%d certificates in the chain, want %d with the leaf first", len(c.chain), tt.chain)
			}
			if leaf := leafOf(t, c); len(leaf.DNSNames) != 1 {
				t.Errorf("took %v for the leaf", leaf.Subject)
			}
			if _, err := c.get(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWrongFilesAreErrorsWithAHint(t *testing.T) {
	certPEM, keyPEM := ca.Issue("a.example")
	_, otherKey := ca.Issue("a.example")
	noNames, noNamesKey := ca.IssueFrom(testca.Template(), testca.NewKey())
	smallKey := rsaKey(t, 1024)
	small, smallKeyPEM := ca.IssueFrom(testca.Template("a.example"), smallKey)
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})
	legacy := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}, Bytes: []byte("x")})
	sha1, sha1Key := selfSigned(t, x509.SHA1WithRSA)
	for name, tt := range map[string]struct {
		files   map[string][]byte
		file    string
		message string
		hint    string
	}{
		"certificate without key": {map[string][]byte{"a.crt": certPEM}, "a.crt", "has no key", "a.key"},
		"key without certificate": {map[string][]byte{"a.key": keyPEM}, "a.key", "has no certificate", "a.crt"},
		"key of another":          {map[string][]byte{"a.crt": certPEM, "a.key": otherKey}, "a.crt", "a.key", "requested with"},
		"two keys":                {map[string][]byte{"a.pem": join(certPEM, keyPEM), "a.key": otherKey}, "a.pem", "a.key", "file name of its own"},
		"encrypted key":           {map[string][]byte{"a.crt": certPEM, "a.key": encrypted}, "a.key", "encrypted", "openssl pkey"},
		"old encrypted key":       {map[string][]byte{"a.crt": certPEM, "a.key": legacy}, "a.key", "encrypted", "openssl pkey"},
		"no names":                {map[string][]byte{"a.crt": noNames, "a.key": noNamesKey}, "a.crt", "names no host", "subject alternative"},
		"small RSA key":           {map[string][]byte{"a.crt": small, "a.key": smallKeyPEM}, "a.crt", "1024 bits", "2048"},
		"SHA-1":                   {map[string][]byte{"a.crt": sha1, "a.key": sha1Key}, "a.crt", "SHA1", "SHA-256"},
		"empty file":              {map[string][]byte{"a.crt": nil}, "a.crt", "no certificate and no key", "PEM"},
		"DER":                     {map[string][]byte{"a.crt": {0x30, 0x82}, "a.key": keyPEM}, "a.key", "no certificate", "a.crt"},
		"cut off":                 {map[string][]byte{"a.crt": certPEM[:len(certPEM)-40], "a.key": keyPEM}, "a.crt", "cannot be read", "whole"},
		"damaged":                 {map[string][]byte{"a.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), "a.key": keyPEM}, "a.crt", "cannot be read", "whole"},
		"damaged key":             {map[string][]byte{"a.crt": certPEM, "a.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})}, "a.key", "cannot be read", "PKCS #8"},
		"intermediate only":       {map[string][]byte{"a.crt": ca.NewIntermediate("x").PEM(), "a.key": keyPEM}, "a.crt", "does not belong", "requested with"},
	} {
		t.Run(name, func(t *testing.T) {
			good := pair("good", "good.example")
			for name, text := range tt.files {
				good[name] = text
			}
			dir := folder(t, good)
			x, _, err := Load(dir)
			all := fingerpost.Errors(err)
			if len(all) != 1 {
				t.Fatalf("errors %v, want one", all)
			}
			e := all[0]
			if !strings.Contains(e.Message, tt.message) || !strings.Contains(e.Hint, tt.hint) || e.At.File != filepath.Join(dir, tt.file) {
				t.Errorf("got %q at %s, hint %q", e.Message, e.At.File, e.Hint)
			}
			if strings.ContainsRune(e.Error()+e.Hint, '\n') {
				t.Error("not one line")
			}
			if got := names(x); !slices.Equal(got, []string{"good"}) {
				t.Errorf("loaded %v; one that is wrong must not stop the others", got)
			}
		})
	}
}

func TestAFolderThatCannotBeReadIsAnError(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "absent")
	x, _, err := Load(dir)
	if e := fingerpost.Errors(err); x != nil || len(e) != 1 || e[0].At.File != dir || e[0].Hint == "" {
		t.Errorf("got %v, %v", x, err)
	}
}

func TestWhatMayStillWorkIsAWarning(t *testing.T) {
	expired := testca.Template("a.example")
	expired.NotBefore, expired.NotAfter = time.Now().AddDate(0, 0, -90), time.Now().AddDate(0, 0, -1)
	early := testca.Template("a.example")
	early.NotBefore = time.Now().AddDate(0, 0, 1)
	public := testca.Template("a.example")
	public.IssuingCertificateURL = []string{"http://ca.example/i.crt"}
	for name, tt := range map[string]struct {
		template *x509.Certificate
		extra    []byte
		message  string
	}{
		"expired":         {expired, nil, "expired on"},
		"not yet valid":   {early, nil, "not valid before"},
		"no intermediate": {public, nil, "chain lacks"},
		"foreign block":   {testca.Template("a.example"), testca.NewNamed("another").PEM(), "do not belong to the chain"},
	} {
		t.Run(name, func(t *testing.T) {
			certPEM, keyPEM := ca.IssueFrom(tt.template, testca.NewKey())
			x, warnings, err := Load(folder(t, map[string][]byte{"a.crt": join(tt.extra, certPEM), "a.key": keyPEM}))
			if err != nil || x.Len() != 1 {
				t.Fatalf("not loaded: %v", err)
			}
			if len(warnings) != 1 || !strings.Contains(warnings[0].Error(), tt.message) || fingerpost.Errors(warnings[0])[0].Hint == "" {
				t.Errorf("warnings %v", warnings)
			}
		})
	}
}

func TestReloadKeepsWhatIsBrokenAndTakesTheRest(t *testing.T) {
	dir := folder(t, pair("a", "a.example"))
	for name, text := range pair("b", "b.example") {
		write(t, dir, name, text)
	}
	s, _, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	oldA, oldB := s.Index().Named("a"), s.Index().Named("b")

	// A copy under way: the certificate of a is there already, its key is not.
	newA := pair("a", "a.example")
	write(t, dir, "a.crt", newA["a.crt"])
	for name, text := range pair("b", "b.example", "c.example") {
		write(t, dir, name, text)
	}
	if _, _, err := s.Reload(); err == nil {
		t.Error("the torn pair is not reported")
	}
	if s.Index().Named("a") != oldA || s.Index().Named("b") == oldB || !s.Covers("a.example") || !s.Covers("c.example") {
		t.Error("want the old a and the new b")
	}
	write(t, dir, "a.key", newA["a.key"])
	if _, _, err := s.Reload(); err != nil {
		t.Error(err)
	}
	if s.Index().Named("a") == oldA {
		t.Error("the new a is not taken once it is whole")
	}

	for _, name := range []string{"a.crt", "a.key"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.Reload(); err != nil || s.Covers("a.example") {
		t.Error("a certificate whose files are gone is still served")
	}
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Reload(); err == nil || !s.Covers("b.example") {
		t.Error("a folder that cannot be read must change nothing")
	}
}

func TestNoFolderIsNoCertificates(t *testing.T) {
	s, warnings, err := Open("")
	if err != nil || warnings != nil || s.Index().Len() != 0 || s.Covers("a.example") || !s.Index().FirstExpiry().IsZero() {
		t.Errorf("got %v, %v", warnings, err)
	}
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func selfSigned(t *testing.T, algorithm x509.SignatureAlgorithm) (certPEM, keyPEM []byte) {
	t.Helper()
	key := rsaKey(t, 2048)
	template := testca.Template("a.example")
	template.SignatureAlgorithm = algorithm
	template.SerialNumber = big.NewInt(1)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
}

func BenchmarkLoad10000(b *testing.B) {
	dir := b.TempDir()
	for i := range 10_000 {
		for name, text := range pair(fmt.Sprintf("c%05d", i), fmt.Sprintf("host%d.example", i)) {
			write(b, dir, name, text)
		}
	}
	for b.Loop() {
		x, warnings, err := Load(dir)
		if err != nil || len(warnings) > 0 || x.Len() != 10_000 {
			b.Fatal(err, warnings, x.Len())
		}
	}
}
