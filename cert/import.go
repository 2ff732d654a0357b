package cert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"fingerpost"

	"software.sslmate.com/src/go-pkcs12"
)

// A Bundle is what somebody gives us to import one certificate from.
type Bundle struct {
	// Text is PEM in any order, or one PKCS #12 file: the certificate, its key
	// unless Key is set, and the certificates of its issuers.
	Text     []byte
	Password string // of a PKCS #12 file

	// Key signs for the certificate where the bundle holds none: the one that
	// [Request] made.
	Key crypto.Signer

	// Roots are the CAs that clients know; nil for those that this machine trusts.
	Roots *x509.CertPool
}

// Import reads and checks a bundle. It refuses what a browser would: a key that
// is not the certificate's, a weak one, a certificate that is not valid now or not for
// servers, be it one of the chain, one without names, and a chain with a gap. What may
// be meant so is a warning. Both kinds are *fingerpost.Error, with a hint.
//
// A chain is complete if one of its certificates was signed by a root that is in the
// bundle or known to Roots. Else the last one tells: if it says where its issuer's
// certificate is kept, or if one of that issuer's name is there with another key, a
// link is missing; if it says nothing, clients may have the issuer already, as with a
// private CA, and there is a warning. A private CA is known by putting its root into
// the bundle, or into the machine's trust store.
//
// The result has no name, team or type yet, and its key is not sealed: that is
// the PKCS #8 form in key.
func Import(b Bundle, now time.Time) (c *fingerpost.Certificate, key []byte, warnings []error, err error) {
	fail := func(message, hint string) error {
		return &fingerpost.Error{Code: "bad_certificate", Message: message, Hint: hint}
	}
	m, err := b.read(fail)
	if err != nil {
		return nil, nil, nil, err
	}
	signer := b.Key
	switch {
	case len(m.certs) == 0:
		return nil, nil, nil, fail("there is no certificate in it", "paste the blocks from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----, with these lines")
	case len(m.keys) > 0:
		signer = m.keys[0].value
		for _, other := range m.keys[1:] {
			if !samePublicKey(other.value.Public(), signer.Public()) {
				return nil, nil, nil, fail("there are several keys in it", "import each certificate with its own key")
			}
		}
	case signer == nil:
		return nil, nil, nil, fail("the certificate has no key", "add its private key; if it was requested with `certs csr`, import it under the same name")
	}
	cred, ok := m.credential(func(public crypto.PublicKey) bool { return samePublicKey(public, signer.Public()) }, now)
	if !ok {
		return nil, nil, nil, fail("the certificate does not belong to the key", "take the key that the certificate was requested with")
	}
	leaf := cred.chain[0]
	if err := errors.Join(cred.check(fail), leafFaults(leaf, now, fail), cred.stale(now, fail)); err != nil {
		return nil, nil, nil, err
	}
	if g := cred.missing(b.Roots, nil, now); g != nil {
		if g.sure {
			return nil, nil, nil, fail(g.message(), g.hint())
		}
		warnings = append(warnings, fail("the certificate of "+g.issuer+" is not in it, and not known here", "fine if clients have it already, as with a CA of your own; else "+g.hint()))
	}
	if isSelfIssued(leaf) {
		warnings = append(warnings, fail("the certificate is signed by itself", "only clients that were told to will trust it"))
	}
	if cred.unused > 0 {
		not := "1 certificate does not belong to the chain"
		if cred.unused > 1 {
			not = fmt.Sprintf("%d certificates do not belong to the chain", cred.unused)
		}
		warnings = append(warnings, fail(not, "what does not is left out"))
	}
	if left := leaf.NotAfter.Sub(now); left < 30*24*time.Hour {
		warnings = append(warnings, fail(fmt.Sprintf("the certificate expires in %d days", int(left.Hours()/24)), "import its successor under the same name"))
	}
	if key, err = x509.MarshalPKCS8PrivateKey(signer); err != nil {
		return nil, nil, nil, err
	}
	c = Describe(cred.chain)
	return c, key, warnings, nil
}

// read finds out which form the bundle has.
func (b *Bundle) read(fail func(message, hint string) error) (material, error) {
	if err := b.mistaken(fail); err != nil {
		return material{}, err
	}
	b.Text = bytes.ReplaceAll(b.Text, []byte("\ufeff"), nil) // which editors put before a text
	var m material
	if bytes.Contains(b.Text, []byte("-----BEGIN ")) {
		fault := func(_, message, hint string) error {
			if message == "the key is encrypted" {
				hint = "decrypt it: openssl pkey -in encrypted.key -out plain.key"
			}
			return fail(message, hint)
		}
		if err := m.addPEM("", b.Text, fault); err != nil {
			return m, err
		}
		return m, m.parseKeys(fault)
	}
	if len(b.Text) == 0 || b.Text[0] != 0x30 { // an ASN.1 sequence
		return m, fail("this is neither PEM nor PKCS #12", "paste PEM text, or give a .p12 or .pfx file")
	}
	key, leaf, chain, err := pkcs12.DecodeChain(b.Text, b.Password)
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword):
		return m, fail("the password of the PKCS #12 file is wrong", "give the one that it was exported with")
	case err != nil:
		if _, certErr := x509.ParseCertificate(b.Text); certErr == nil {
			return m, fail("this is a DER certificate without a key", "convert it with openssl x509 -inform der, and add its key")
		}
		if bytes.Contains(b.Text[:min(len(b.Text), 32)], signedData) {
			return m, fail("this is PKCS #7, which has no place for a key", pkcs7Hint)
		}
		return m, fail("the PKCS #12 file cannot be read: "+strings.TrimPrefix(err.Error(), "pkcs12: "), "export it again with its key and chain: openssl pkcs12 -export")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return m, fail(fmt.Sprintf("a %T cannot sign", key), "RSA or ECDSA")
	}
	m.keys = append(m.keys, found[crypto.Signer]{value: signer})
	for _, c := range append(chain, leaf) {
		m.addCertificate("", c)
	}
	return m, nil
}

// mistaken tells what people take for a certificate or its key.
func (b *Bundle) mistaken(fail func(message, hint string) error) error {
	if bytes.HasPrefix(b.Text, []byte{0xff, 0xfe}) || bytes.HasPrefix(b.Text, []byte{0xfe, 0xff}) {
		return fail("this text is UTF-16, and PEM is plain text", "save it as UTF-8 or ASCII, or give the file as the CA sent it")
	}
	for rest := b.Text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil
		}
		switch block.Type {
		case "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST":
			return fail("this is a signing request, which a CA makes a certificate of", "import what the CA sends back")
		case "PUBLIC KEY", "RSA PUBLIC KEY":
			return fail("this is the public key, which the certificate has itself", "add the private key: -----BEGIN PRIVATE KEY-----")
		case "OPENSSH PRIVATE KEY":
			return fail("this is a key of SSH", "take the key that the certificate was requested with; to convert one: ssh-keygen -p -m PEM -f FILE")
		case "TRUSTED CERTIFICATE":
			return fail("this is a certificate in a form of openssl's own", "convert it: openssl x509 -in trusted.pem -out plain.crt")
		case "PKCS7", "CMS":
			return fail("this is PKCS #7, which has no place for a key", pkcs7Hint)
		case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
			// An error of ASN.1 tells nobody anything.
			if _, err := parseKey(block.Bytes); err != nil && block.Headers["Proc-Type"] == "" {
				return fail("the key cannot be read", "RSA or ECDSA in PKCS #8, PKCS #1 or SEC 1 form; is the file whole?")
			}
		}
	}
}

const pkcs7Hint = "convert it: openssl pkcs7 -print_certs -in chain.p7b -out chain.pem (of DER: -inform der), and import that with the key"

// signedData begins a PKCS #7 file with certificates (RFC 5652): its object identifier.
var signedData = []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02}

// leafFaults is what a certificate may be in a folder, where somebody put it with
// care, but not in an import: it would be noticed by visitors first.
func leafFaults(leaf *x509.Certificate, now time.Time, fail func(message, hint string) error) error {
	const day = "2006-01-02"
	switch {
	case now.After(leaf.NotAfter):
		return fail("the certificate expired on "+leaf.NotAfter.Format(day), "have it renewed, then import it")
	case now.Before(leaf.NotBefore):
		return fail("the certificate is not valid before "+leaf.NotBefore.Format(day), "import it then; is the clock right?")
	case leaf.Version != 3:
		return fail(fmt.Sprintf("the certificate is X.509 version %d", leaf.Version), "browsers take version 3; have it issued again")
	case leaf.IsCA && isSelfIssued(leaf):
		return fail("this is the certificate of a CA", "import the one that it signed for your names; of openssl req -x509: -addext basicConstraints=CA:FALSE makes one for a server")
	case leaf.IsCA:
		return fail("this is the certificate of a CA", "import the one that it signed for your names")
	}
	switch key := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n > 4096 {
			return fail(fmt.Sprintf("the key is RSA with %d bits, which costs more than it protects", n), "have it issued again with 2048 to 4096 bits or ECDSA P-256")
		}
	case *ecdsa.PublicKey:
		if bits := key.Curve.Params().BitSize; bits < 256 {
			return fail("the key is ECDSA "+key.Curve.Params().Name+", which browsers refuse", "have it issued again with P-256")
		}
	default:
		return fail(fmt.Sprintf("the key is of type %T", key), "browsers take RSA and ECDSA")
	}
	return nil
}

// Describe tells what a chain, leaf first, is about.
func Describe(chain []*x509.Certificate) *fingerpost.Certificate {
	leaf := chain[0]
	c := &fingerpost.Certificate{
		Names:     hosts(leaf),
		KeyType:   KeyType(leaf.PublicKey),
		NotBefore: leaf.NotBefore.UTC(),
		NotAfter:  leaf.NotAfter.UTC(),
		Issuer:    leaf.Issuer.String(),
		Serial:    fmt.Sprintf("%x", leaf.SerialNumber),
	}
	for _, link := range chain {
		c.Chain = append(c.Chain, link.Raw)
	}
	return c
}

// KeyType names the type of a key for people, as in "ECDSA P-256".
func KeyType(public crypto.PublicKey) string {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Curve.Params().Name
	}
	return fmt.Sprintf("%T", public)
}

// NewKey makes a private key: ECDSA P-256, or RSA with 2048 bits for clients that
// know nothing newer.
func NewKey(rsaKey bool) (crypto.Signer, error) {
	if rsaKey {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// Subject is what a bought certificate may say of its owner (RFC 5280 4.1.2.6).
type Subject struct {
	Organization, Locality, Province, Country string
}

// Request makes a certificate signing request for names, as PEM (RFC 2986).
func Request(key crypto.Signer, names []string, of Subject) ([]byte, error) {
	var subject pkix.Name
	if len(names[0]) <= 64 { // RFC 5280, ub-common-name; clients look at the names alone
		subject.CommonName = names[0]
	}
	for _, part := range []struct {
		into *[]string
		text string
	}{{&subject.Organization, of.Organization}, {&subject.Locality, of.Locality}, {&subject.Province, of.Province}, {&subject.Country, of.Country}} {
		if part.text != "" {
			*part.into = []string{part.text}
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject, DNSNames: names}, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// ParseKey reads a private key in any of the DER forms that are about.
func ParseKey(der []byte) (crypto.Signer, error) { return parseKey(der) }

// MarshalKey is the PKCS #8 form of a private key.
func MarshalKey(key crypto.Signer) ([]byte, error) { return x509.MarshalPKCS8PrivateKey(key) }
