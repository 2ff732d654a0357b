package testca

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
)

func TestIssuedCertificateIsTrustedThroughTheCA(t *testing.T) {
	root := New()
	intermediate := root.NewIntermediate("intermediate")
	for _, issuer := range []*CA{root, intermediate} {
		certPEM, keyPEM := issuer.Issue("shop.example", "*.shop.example", "192.0.2.1")
		pair, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"shop.example", "a.shop.example", "192.0.2.1"} {
			_, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: root.Pool(), Intermediates: intermediate.Pool()})
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: New().Pool(), Intermediates: intermediate.Pool()}); err == nil {
			t.Error("another CA vouches for the certificate")
		}
	}
}
