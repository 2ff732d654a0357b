// Package testca is a certificate authority inside the process, for tests and
// for `fingerpost demo`. Nobody trusts it but who is handed its certificate.
//
// It knows x509 and nothing of fingerpost. Start reading at [New].
package testca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// CA signs certificates. It may be used by several goroutines at once.
type CA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// New makes a root that is valid for ten years.
func New() *CA {
	return NewNamed("fingerpost test CA")
}

// NewNamed is [New] with a name of its own, where a test needs several.
func NewNamed(name string) *CA {
	key := NewKey()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	return &CA{cert: sign(template, nil, key.Public(), key), key: key}
}

// NewIntermediate makes a CA that c has signed.
func (c *CA) NewIntermediate(name string) *CA {
	return c.NewIntermediateFrom(&x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().AddDate(5, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
	})
}

// NewIntermediateFrom makes a CA from a template that c signs.
func (c *CA) NewIntermediateFrom(template *x509.Certificate) *CA {
	key := NewKey()
	return &CA{cert: sign(template, c.cert, key.Public(), c.key), key: key}
}

// Cross gives another certificate for the key of other, signed by c, as PEM.
func (c *CA) Cross(other *CA, template *x509.Certificate) []byte {
	return encode("CERTIFICATE", sign(template, c.cert, other.key.Public(), c.key).Raw)
}

// PEM is the certificate of the CA itself.
func (c *CA) PEM() []byte { return encode("CERTIFICATE", c.cert.Raw) }

// Pool holds the certificate of the CA itself, for a client that trusts it.
func (c *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.cert)
	return pool
}

// Issue makes a key (ECDSA P-256) and a certificate for names, host names,
// wildcards or IP addresses, that is valid from an hour ago for 90 days.
func (c *CA) Issue(names ...string) (certPEM, keyPEM []byte) {
	return c.IssueFrom(Template(names...), NewKey())
}

// Template is what [CA.Issue] signs, to be changed before [CA.IssueFrom].
func Template(names ...string) *x509.Certificate {
	t := &x509.Certificate{
		NotBefore:   time.Now().Add(-time.Hour),
		NotAfter:    time.Now().AddDate(0, 0, 90),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	return t
}

// IssueFrom signs template for key.
func (c *CA) IssueFrom(template *x509.Certificate, key crypto.Signer) (certPEM, keyPEM []byte) {
	cert := sign(template, c.cert, key.Public(), c.key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(fmt.Sprintf("testca: encode a key: %v", err))
	}
	return encode("CERTIFICATE", cert.Raw), encode("PRIVATE KEY", der)
}

// Sign signs template for a public key, as a CA does that is given a request.
// The result is in DER.
func (c *CA) Sign(template *x509.Certificate, public crypto.PublicKey) []byte {
	return sign(template, c.cert, public, c.key).Raw
}

// NewKey makes an ECDSA P-256 key.
func NewKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(fmt.Sprintf("testca: make a key: %v", err))
	}
	return key
}

// sign signs template by parent, or by itself where parent is nil. It panics on
// a template that x509 refuses: the caller's code is wrong.
func sign(template, parent *x509.Certificate, public any, signer crypto.Signer) *x509.Certificate {
	if template.SerialNumber == nil {
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
		if err != nil {
			panic(fmt.Sprintf("testca: make a serial number: %v", err))
		}
		template.SerialNumber = serial
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		panic(fmt.Sprintf("testca: sign: %v", err))
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(fmt.Sprintf("testca: parse what was signed: %v", err))
	}
	return cert
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
