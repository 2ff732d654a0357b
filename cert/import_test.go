package cert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/internal/testca"

	"software.sslmate.com/src/go-pkcs12"
)

func certificateOf(t testing.TB, text []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func keyPEM(t testing.TB, kind string, key crypto.Signer) []byte {
	t.Helper()
	var der []byte
	var err error
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if der = x509.MarshalPKCS1PrivateKey(k); kind == "PRIVATE KEY" {
			der, err = x509.MarshalPKCS8PrivateKey(k)
		}
	case *ecdsa.PrivateKey:
		if der, err = x509.MarshalECPrivateKey(k); kind == "PRIVATE KEY" {
			der, err = x509.MarshalPKCS8PrivateKey(k)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func template(change func(*x509.Certificate), names ...string) *x509.Certificate {
	c := testca.Template(names...)
	change(c)
	return c
}

func TestImportTakesEveryUsualForm(t *testing.T) {
	root := testca.NewNamed("root")
	middle := root.NewIntermediate("middle")
	inner := middle.NewIntermediate("inner")
	leaf, key := inner.Issue("shop.example")
	plain, plainKey := root.Issue("shop.example")
	signer := testca.NewKey()
	bought, _ := middle.IssueFrom(testca.Template("shop.example"), signer)
	other, _ := root.Issue("other.example")
	rsaKey := rsaKey(t, 2048)
	rsaLeaf, rsaPKCS8 := middle.IssueFrom(testca.Template("shop.example"), rsaKey)
	p384, p521 := ecKey(t, elliptic.P384()), ecKey(t, elliptic.P521())
	leaf384, _ := middle.IssueFrom(testca.Template("shop.example"), p384)
	leaf521, _ := middle.IssueFrom(testca.Template("shop.example"), p521)
	wild, wildKey := middle.Issue("*.shop.example", "shop.example")
	hundred := make([]string, 100)
	for i := range hundred {
		hundred[i] = strings.Repeat("a", i%50+1) + string(rune('a'+i/50)) + ".example"
	}
	many, manyKey := middle.Issue(hundred...)
	older, _ := middle.IssueFrom(template(func(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(0, 0, 40) }, "shop.example"), signer)
	aia, aiaKey := middle.IssueFrom(template(func(c *x509.Certificate) { c.IssuingCertificateURL = []string{"http://ca.example/middle.crt"} }, "shop.example"), testca.NewKey())
	soon, soonKey := middle.IssueFrom(template(func(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(0, 0, 9) }, "shop.example"), testca.NewKey())
	upper, upperKey := middle.Issue("SHOP.Example")
	p12 := func(password string) []byte {
		block, _ := pem.Decode(key)
		k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		text, err := pkcs12.Modern.Encode(k, certificateOf(t, leaf), []*x509.Certificate{certificateOf(t, middle.PEM()), certificateOf(t, inner.PEM())}, password)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	text := func(parts ...[]byte) Bundle { return Bundle{Text: join(parts...)} }
	shop := []string{"shop.example"}
	for name, tt := range map[string]struct {
		bundle   Bundle
		names    []string
		chain    int
		keyType  string
		warnings int
	}{
		"certificate, chain, key":       {text(leaf, inner.PEM(), middle.PEM(), key), shop, 3, "ECDSA P-256", 0},
		"key first":                     {text(key, leaf, inner.PEM(), middle.PEM()), shop, 3, "ECDSA P-256", 0},
		"chain in the wrong order":      {text(middle.PEM(), inner.PEM(), key, leaf), shop, 3, "ECDSA P-256", 0},
		"with its root":                 {text(root.PEM(), middle.PEM(), leaf, inner.PEM(), key), shop, 3, "ECDSA P-256", 0},
		"one block twice":               {text(leaf, leaf, inner.PEM(), middle.PEM(), middle.PEM(), key), shop, 3, "ECDSA P-256", 0},
		"Windows lines":                 {text(bytes.ReplaceAll(join(leaf, inner.PEM(), middle.PEM(), key), []byte("\n"), []byte("\r\n"))), shop, 3, "ECDSA P-256", 0},
		"words of openssl between":      {text([]byte("subject=CN = shop\nissuer=CN = middle\n"), leaf, []byte("Bag Attributes\n"), inner.PEM(), middle.PEM(), key), shop, 3, "ECDSA P-256", 0},
		"PKCS 12":                       {Bundle{Text: p12("secret"), Password: "secret"}, shop, 3, "ECDSA P-256", 0},
		"PKCS 12 without a password":    {Bundle{Text: p12("")}, shop, 3, "ECDSA P-256", 0},
		"bought, for a key of ours":     {Bundle{Text: join(bought, middle.PEM()), Key: signer}, shop, 2, "ECDSA P-256", 0},
		"RSA":                           {text(rsaLeaf, middle.PEM(), rsaPKCS8), shop, 2, "RSA 2048", 0},
		"RSA, PKCS 1":                   {text(rsaLeaf, middle.PEM(), keyPEM(t, "RSA PRIVATE KEY", rsaKey)), shop, 2, "RSA 2048", 0},
		"P-384, SEC 1":                  {text(leaf384, middle.PEM(), keyPEM(t, "EC PRIVATE KEY", p384)), shop, 2, "ECDSA P-384", 0},
		"P-521":                         {text(leaf521, middle.PEM(), keyPEM(t, "PRIVATE KEY", p521)), shop, 2, "ECDSA P-521", 0},
		"wildcard":                      {text(wild, middle.PEM(), wildKey), []string{"*.shop.example", "shop.example"}, 2, "ECDSA P-256", 0},
		"a hundred names":               {text(many, middle.PEM(), manyKey), slices.Sorted(slices.Values(hundred)), 2, "ECDSA P-256", 0},
		"the newer of two for one key":  {Bundle{Text: join(older, bought, middle.PEM()), Key: signer}, shop, 2, "ECDSA P-256", 1},
		"the intermediate that is due":  {text(aia, middle.PEM(), aiaKey), shop, 2, "ECDSA P-256", 0},
		"names in capitals":             {text(upper, middle.PEM(), upperKey), shop, 2, "ECDSA P-256", 0},
		"signed by a root of one's own": {text(plain, plainKey), shop, 1, "ECDSA P-256", 0},
		"with another's certificate":    {text(leaf, inner.PEM(), middle.PEM(), other, key), shop, 3, "ECDSA P-256", 1},
		"soon to expire":                {text(soon, middle.PEM(), soonKey), shop, 2, "ECDSA P-256", 1},
	} {
		t.Run(name, func(t *testing.T) {
			tt.bundle.Roots = root.Pool()
			c, key, warnings, err := Import(tt.bundle, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(c.Names, tt.names) || len(c.Chain) != tt.chain || c.KeyType != tt.keyType || len(warnings) != tt.warnings {
				t.Errorf("names %.60v, chain of %d, key %s, warnings %v; want %.60v, %d, %s, %d", c.Names, len(c.Chain), c.KeyType, warnings, tt.names, tt.chain, tt.keyType, tt.warnings)
			}
			first, err := x509.ParseCertificate(c.Chain[0])
			if err != nil {
				t.Fatal(err)
			}
			signer, err := ParseKey(key)
			if err != nil || !samePublicKey(signer.Public(), first.PublicKey) {
				t.Errorf("the key is not the certificate's: %v", err)
			}
			for i, link := range c.Chain[1:] {
				issuer, err := x509.ParseCertificate(link)
				if err != nil {
					t.Fatal(err)
				}
				below, _ := x509.ParseCertificate(c.Chain[i])
				if err := below.CheckSignatureFrom(issuer); err != nil {
					t.Errorf("link %d of the chain: %v", i+1, err)
				}
			}
		})
	}
}

func TestImportRefusesWhatBrowsersWould(t *testing.T) {
	root := testca.NewNamed("root")
	middle := root.NewIntermediate("middle")
	leaf, key := middle.Issue("shop.example")
	_, otherKey := middle.Issue("shop.example")
	issue := func(change func(*x509.Certificate), names ...string) []byte {
		key := testca.NewKey()
		leaf, keyText := middle.IssueFrom(template(change, names...), key)
		return join(leaf, middle.PEM(), keyText)
	}
	weak := func(key crypto.Signer) []byte {
		leaf, text := middle.IssueFrom(testca.Template("shop.example"), key)
		return join(leaf, middle.PEM(), text)
	}
	block, _ := pem.Decode(key)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	p12, err := pkcs12.Modern.Encode(parsed, certificateOf(t, leaf), nil, "secret")
	if err != nil {
		t.Fatal(err)
	}
	none := func(*x509.Certificate) {}
	for name, tt := range map[string]struct {
		bundle Bundle
		want   string // of the message
	}{
		"nothing":                     {Bundle{}, "neither PEM nor PKCS #12"},
		"a web page":                  {Bundle{Text: []byte("<html>log in</html>")}, "neither PEM nor PKCS #12"},
		"the key of another":          {Bundle{Text: join(leaf, middle.PEM(), otherKey)}, "does not belong to the key"},
		"two keys":                    {Bundle{Text: join(leaf, middle.PEM(), key, otherKey)}, "several keys"},
		"no key":                      {Bundle{Text: join(leaf, middle.PEM())}, "has no key"},
		"a key alone":                 {Bundle{Text: key}, "no certificate"},
		"an encrypted key":            {Bundle{Text: join(leaf, pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{1}}))}, "the key is encrypted"},
		"an old encrypted key":        {Bundle{Text: join(leaf, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: []byte{1}}))}, "the key is encrypted"},
		"expired":                     {Bundle{Text: issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, "shop.example")}, "expired on"},
		"not valid yet":               {Bundle{Text: issue(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }, "shop.example")}, "not valid before"},
		"no names":                    {Bundle{Text: issue(func(c *x509.Certificate) { c.Subject.CommonName = "shop.example" })}, "names no host"},
		"a CA":                        {Bundle{Text: issue(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, "shop.example")}, "certificate of a CA"},
		"RSA 1024":                    {Bundle{Text: weak(rsaKey(t, 1024))}, "RSA with 1024 bits"},
		"P-224":                       {Bundle{Text: weak(ecKey(t, elliptic.P224()))}, "P-224"},
		"SHA-1":                       {Bundle{Text: sha1Signed(t, leaf, key)}, "SHA1"},
		"the intermediate is missing": {Bundle{Text: withoutMiddle(middle)}, "lacks the certificate of CN=middle"},
		"a block without its end":     {Bundle{Text: join(leaf[:len(leaf)-10], key)}, "cannot be read"},
		"a block that is cut":         {Bundle{Text: join(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificateOf(t, leaf).Raw[:200]}), key)}, "cannot be read"},
		"a key that is cut":           {Bundle{Text: join(leaf, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: block.Bytes[:40]}))}, "the key cannot be read"},
		"PKCS 12, wrong password":     {Bundle{Text: p12, Password: "guess"}, "the password"},
		"PKCS 12 that is cut":         {Bundle{Text: p12[:300], Password: "secret"}, "cannot be read"},
		"DER":                         {Bundle{Text: certificateOf(t, leaf).Raw}, "DER certificate without a key"},
		"a signing request":           {Bundle{Text: join(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte{1}}), key)}, "signing request"},
		"a public key":                {Bundle{Text: join(leaf, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte{1}}))}, "public key"},
		"a key of SSH":                {Bundle{Text: join(leaf, pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: []byte{1}}))}, "key of SSH"},
		"PKCS 7":                      {Bundle{Text: join(pem.EncodeToMemory(&pem.Block{Type: "PKCS7", Bytes: []byte{1}}), key)}, "PKCS #7"},
		"PKCS 7 in DER":               {Bundle{Text: append([]byte{0x30, 0x82, 1, 0}, signedData...)}, "PKCS #7"},
		"openssl's own form":          {Bundle{Text: join(pem.EncodeToMemory(&pem.Block{Type: "TRUSTED CERTIFICATE", Bytes: []byte{1}}), key)}, "openssl's own"},
		"UTF-16":                      {Bundle{Text: []byte("\xff\xfe-\x00-\x00")}, "UTF-16"},
		"for clients":                 {Bundle{Text: issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, "shop.example")}, "not for servers"},
		"another's request":           {Bundle{Text: join(leaf, middle.PEM()), Key: testca.NewKey()}, "does not belong to the key"},
	} {
		t.Run(name, func(t *testing.T) {
			c, key, _, err := Import(tt.bundle, time.Now())
			if err == nil || c != nil || key != nil {
				t.Fatalf("it was taken: %v", c)
			}
			for _, e := range fingerpost.Errors(err) {
				if !strings.Contains(e.Message, tt.want) || e.Hint == "" || strings.Contains(e.Message, "\n") {
					t.Errorf("%q, hint %q; want %q", e.Message, e.Hint, tt.want)
				}
			}
		})
	}
	if _, _, _, err := Import(Bundle{Text: issue(none, "shop.example")}, time.Now()); err != nil {
		t.Errorf("the good one beside them: %v", err)
	}
}

func TestImportRefusesKeysThatCostTooMuch(t *testing.T) {
	leaf := &x509.Certificate{Version: 3, NotAfter: time.Now().AddDate(1, 0, 0), PublicKey: &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 8191), E: 65537}}
	err := leafFaults(leaf, time.Now(), func(message, hint string) error { return errors.New(message) })
	if err == nil || !strings.Contains(err.Error(), "RSA with 8192 bits") {
		t.Errorf("got %v", err)
	}
}

func withoutMiddle(middle *testca.CA) []byte {
	leaf, key := middle.IssueFrom(template(func(c *x509.Certificate) { c.IssuingCertificateURL = []string{"http://ca.example/middle.crt"} }, "shop.example"), testca.NewKey())
	return join(leaf, key)
}

// sha1Signed makes a certificate that says it is signed with SHA-1, and is:
// crypto/x509 does not make such any more.
func sha1Signed(t testing.TB, leaf, key []byte) []byte {
	t.Helper()
	var c struct {
		TBS       asn1.RawValue
		Algorithm struct{ OID asn1.ObjectIdentifier }
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(certificateOf(t, leaf).Raw, &c); err != nil {
		t.Fatal(err)
	}
	ecdsaSHA256, _ := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2})
	ecdsaSHA1, _ := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1})
	// The identifiers differ in length by one byte: the lengths around them too.
	tbs := certificateOf(t, leaf).RawTBSCertificate
	inner := asn1.RawValue{}
	if _, err := asn1.Unmarshal(tbs, &inner); err != nil {
		t.Fatal(err)
	}
	oldAlgorithm := append([]byte{0x30, byte(len(ecdsaSHA256))}, ecdsaSHA256...)
	newAlgorithm := append([]byte{0x30, byte(len(ecdsaSHA1))}, ecdsaSHA1...)
	body := bytes.Replace(inner.Bytes, oldAlgorithm, newAlgorithm, 1)
	tbs, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true, Bytes: body})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(tbs)
	signature, err := testca.NewKey().Sign(rand.Reader, sum[:], crypto.SHA1)
	if err != nil {
		t.Fatal(err)
	}
	bits, err := asn1.Marshal(asn1.BitString{Bytes: signature, BitLength: len(signature) * 8})
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true, Bytes: join(tbs, newAlgorithm, bits)})
	if err != nil {
		t.Fatal(err)
	}
	return join(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key)
}

func TestRequestHasTheNamesAndTheKey(t *testing.T) {
	key, err := NewKey(false)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("a", 60) + ".shop.example"
	text, err := Request(key, []string{long, "*.shop.example"}, Subject{Organization: "Shop Ltd", Country: "SE"})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.CheckSignature(); err != nil {
		t.Error(err)
	}
	if !slices.Equal(r.DNSNames, []string{long, "*.shop.example"}) || r.Subject.Organization[0] != "Shop Ltd" || !samePublicKey(r.PublicKey, key.Public()) {
		t.Errorf("names %v, subject %v", r.DNSNames, r.Subject)
	}
}

// issuer gives a template for an issuer's certificate.
func issuer(name string, change func(*x509.Certificate)) *x509.Certificate {
	c := &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(5, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true}
	change(c)
	return c
}

func TestImportWantsAChainThatIsCompleteAndValid(t *testing.T) {
	now := time.Now()
	root, stranger := testca.NewNamed("root"), testca.NewNamed("stranger")
	at := func(c *x509.Certificate) { c.IssuingCertificateURL = []string{"http://ca.example/above.crt"} }
	outer := root.NewIntermediateFrom(issuer("outer", at))
	inner := outer.NewIntermediateFrom(issuer("inner", at))
	silent := outer.NewIntermediate("silent")
	leaf, key := inner.IssueFrom(template(at, "shop.example"), testca.NewKey())
	quiet, quietKey := silent.Issue("shop.example")
	namesake := testca.NewNamed("outer").PEM()

	over := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.AddDate(-2, 0, 0), now.AddDate(0, 0, -3) }
	ahead := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.AddDate(0, 0, 3), now.AddDate(9, 0, 0) }
	oldInner, aheadInner := outer.Cross(inner, issuer("inner", over)), outer.Cross(inner, issuer("inner", ahead))
	shortInner := outer.Cross(inner, issuer("inner", func(c *x509.Certificate) { c.NotAfter = now.AddDate(0, 1, 0) }))
	clientOnly := outer.NewIntermediateFrom(issuer("client", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }))
	ofClient, ofClientKey := clientOnly.Issue("shop.example")
	crossed := stranger.Cross(root, issuer("root", at)) // as an older root has signed ours
	oldRoot := root.Cross(root, issuer("root", over))

	usage := func(usages ...x509.ExtKeyUsage) []byte {
		leaf, key := inner.IssueFrom(template(func(c *x509.Certificate) { c.ExtKeyUsage = usages }, "shop.example"), testca.NewKey())
		return join(leaf, key, inner.PEM(), outer.PEM())
	}
	none := x509.NewCertPool()
	for name, tt := range map[string]struct {
		text    []byte
		roots   *x509.CertPool // default: root is known
		refused string         // "": taken
		chain   [][]byte       // behind the leaf
		warned  string
	}{
		"to a known root":                     {text: join(leaf, key, inner.PEM(), outer.PEM()), chain: [][]byte{inner.PEM(), outer.PEM()}},
		"to a root in it":                     {text: join(leaf, key, inner.PEM(), outer.PEM(), root.PEM()), roots: none, chain: [][]byte{inner.PEM(), outer.PEM()}},
		"the second intermediate is missing":  {text: join(leaf, key, inner.PEM()), refused: "lacks the certificate of CN=outer"},
		"the first is missing":                {text: join(leaf, key, outer.PEM()), refused: "lacks the certificate of CN=inner"},
		"a root that nobody knows":            {text: join(leaf, key, inner.PEM(), outer.PEM()), roots: stranger.Pool(), refused: "lacks the certificate of CN=root"},
		"one that says nothing":               {text: join(quiet, quietKey, silent.PEM()), warned: "the certificate of CN=outer is not in it"},
		"one of the name, with another key":   {text: join(quiet, quietKey, silent.PEM(), namesake), refused: "CN=outer: the one of that name has another key"},
		"an intermediate that clients have":   {text: join(leaf, key, inner.PEM()), roots: outer.Pool(), chain: [][]byte{inner.PEM()}},
		"with its root signed by an old one":  {text: join(leaf, key, inner.PEM(), outer.PEM(), crossed), chain: [][]byte{inner.PEM(), outer.PEM(), crossed}},
		"a root in it that is over":           {text: join(leaf, key, inner.PEM(), outer.PEM(), oldRoot), roots: none, refused: "CN=root: the one of that name is valid from"},
		"the old intermediate first":          {text: join(leaf, key, oldInner, inner.PEM(), outer.PEM()), chain: [][]byte{inner.PEM(), outer.PEM()}, warned: "not belong"},
		"the next intermediate, too early":    {text: join(leaf, key, aheadInner, inner.PEM(), outer.PEM()), chain: [][]byte{inner.PEM(), outer.PEM()}, warned: "not belong"},
		"one that ends earlier, first":        {text: join(leaf, key, shortInner, inner.PEM(), outer.PEM()), chain: [][]byte{inner.PEM(), outer.PEM()}, warned: "not belong"},
		"the old intermediate alone":          {text: join(leaf, key, oldInner, outer.PEM()), refused: "in the chain, CN=inner: the certificate expired on"},
		"the next intermediate alone":         {text: join(leaf, key, aheadInner, outer.PEM()), refused: "in the chain, CN=inner: the certificate is not valid before"},
		"for clients alone":                   {text: usage(x509.ExtKeyUsageClientAuth), refused: "not for servers"},
		"for clients and servers":             {text: usage(x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth), chain: [][]byte{inner.PEM(), outer.PEM()}},
		"for anything":                        {text: usage(x509.ExtKeyUsageAny), chain: [][]byte{inner.PEM(), outer.PEM()}},
		"for nothing in particular":           {text: usage(), chain: [][]byte{inner.PEM(), outer.PEM()}},
		"by an intermediate for clients only": {text: join(ofClient, ofClientKey, clientOnly.PEM(), outer.PEM()), refused: "in the chain, CN=client: the certificate is not for servers"},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.roots == nil {
				tt.roots = root.Pool()
			}
			c, _, warnings, err := Import(Bundle{Text: tt.text, Roots: tt.roots}, now)
			if tt.refused != "" {
				if e := fingerpost.Errors(err); len(e) != 1 || !strings.Contains(e[0].Message, tt.refused) || e[0].Hint == "" {
					t.Errorf("got %v, want %q with a hint", err, tt.refused)
				}
				if strings.Contains(tt.refused, "lacks") && !strings.Contains(fingerpost.Errors(err)[0].Hint, "http://ca.example/above.crt") {
					t.Errorf("the hint does not say where to get it: %v", fingerpost.Errors(err)[0].Hint)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := errors.Join(warnings...); (got == nil) != (tt.warned == "") || got != nil && !strings.Contains(got.Error(), tt.warned) {
				t.Errorf("warnings %v, want %q", got, tt.warned)
			}
			if tt.chain != nil && !slices.EqualFunc(c.Chain[1:], tt.chain, func(der, text []byte) bool { return bytes.Equal(der, certificateOf(t, text).Raw) }) {
				t.Errorf("a chain of %d, not the one that is expected", len(c.Chain))
			}
		})
	}
}

func TestAFolderWarnsOfAChainThatBrowsersRefuse(t *testing.T) {
	if systemRoots() == nil {
		t.Skip("this machine knows no root, so that the chain may be complete")
	}
	root := testca.NewNamed("root")
	at := func(c *x509.Certificate) { c.IssuingCertificateURL = []string{"http://ca.example/above.crt"} }
	outer := root.NewIntermediateFrom(issuer("outer", at))
	inner := outer.NewIntermediateFrom(issuer("inner", at))
	old := outer.Cross(inner, issuer("inner", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().AddDate(-2, 0, 0), time.Now().AddDate(0, 0, -3)
	}))
	leaf, key := inner.Issue("a.example")
	for name, tt := range map[string]struct {
		files []byte
		want  string
	}{
		"a second intermediate is missing": {join(leaf, inner.PEM()), "chain lacks the certificate of CN=outer"},
		"an intermediate is over":          {join(leaf, old, outer.PEM(), root.PEM()), "in the chain, CN=inner: the certificate expired on"},
	} {
		t.Run(name, func(t *testing.T) {
			x, warnings, err := Load(folder(t, map[string][]byte{"a.crt": tt.files, "a.key": key}))
			if err != nil || x.Len() != 1 {
				t.Fatalf("not loaded: %v", err)
			}
			if len(warnings) != 1 || !strings.Contains(warnings[0].Error(), tt.want) || fingerpost.Errors(warnings[0])[0].Hint == "" {
				t.Errorf("warnings %v, want %q", warnings, tt.want)
			}
		})
	}
}
