package order

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// Types of challenges.
const (
	HTTP01       = acme.ChallengeTypeHTTP01
	TLSALPN01    = acme.ChallengeTypeTLSALPN01
	DNS01        = acme.ChallengeTypeDNS01
	DNSPersist01 = acme.ChallengeTypeDNSPersist01 // a draft: only where it is asked for by name
)

// DNSProvider01 is a method of ours and no type of challenge: dns-01, with the TXT
// value set in the domain's own zone through its DNS provider.
const DNSProvider01 = "dns-01-provider"

// CodeProvider is the code of a failure of the domain's DNS provider. Its Detail is
// what the provider has said.
const CodeProvider = "dnsProvider"

// Challenge is what a CA wants to see, once it is told to look.
type Challenge struct {
	Name string `json:"name"` // without "*."
	Type string `json:"type"`

	// Of http-01: the body at /.well-known/acme-challenge/TOKEN. Of tls-alpn-01:
	// what [TLSALPNCertificate] takes.
	Token            string `json:"token,omitempty"`
	KeyAuthorization string `json:"keyAuthorization,omitempty"`

	// Of dns-01: a TXT value at a name, beside others. Of dns-persist-01: the
	// same, to stay.
	Record string `json:"record,omitempty"` // without a dot at the end
	TXT    string `json:"txt,omitempty"`
	// Provider: the value goes to the domain's DNS provider, not into our own zone.
	Provider bool `json:"provider,omitempty"`
}

// Solver shows challenges to the world.
type Solver interface {
	// Present returns once every node that the CA may ask, and that could be
	// reached, gives the answers. It may be called again with the same. An [Unshown]
	// has those that could not be shown; all others are.
	Present(ctx context.Context, challenges []Challenge) error
	// Remove forgets them. What was never presented is no error.
	Remove(ctx context.Context, challenges []Challenge) error
}

// Unshown is the error of a [Solver] about some of the challenges, each the fault of
// its own name.
type Unshown map[Challenge]Failure

func (u Unshown) Error() string {
	for _, f := range u {
		if len(u) > 1 {
			return fmt.Sprintf("%s; and %d more", f.Reason, len(u)-1)
		}
		return f.Reason
	}
	return "nothing"
}

// choose picks the challenge of an authorization by the name's methods, and gives
// that method. The challenge is a copy: the library decodes later answers into the
// slice it came from.
func choose(authz acme.Authorization, methods []string) (c acme.Challenge, method string, err error) {
	if len(methods) == 0 {
		methods = []string{HTTP01, TLSALPN01, DNS01}
	}
	var offered []string
	for _, c := range authz.Challenges {
		offered = append(offered, c.Type)
	}
	for _, method := range methods {
		if authz.Wildcard && method != DNS01 && method != DNSProvider01 && method != DNSPersist01 {
			continue
		}
		if i := slices.Index(offered, challengeType(method)); i >= 0 {
			return authz.Challenges[i], method, nil
		}
	}
	if authz.Wildcard {
		return c, "", fmt.Errorf("a wildcard is proven by DNS only, for which the CA offers %s and we may use %s", strings.Join(offered, ", "), strings.Join(methods, ", "))
	}
	return c, "", fmt.Errorf("the CA offers %s, we may use %s", strings.Join(offered, ", "), strings.Join(methods, ", "))
}

// challengeType is the type of challenge that a method answers.
func challengeType(method string) string {
	if method == DNSProvider01 {
		return DNS01
	}
	return method
}

// presentation is what c wants to see, by a method.
func presentation(c acme.Challenge, method string, account acme.Account, wildcard bool) Challenge {
	out := Challenge{Name: c.Identifier.Value, Type: c.Type, Provider: method == DNSProvider01}
	switch c.Type {
	case DNS01:
		out.Record, out.TXT = c.DNS01TXTRecordName(), c.DNS01KeyAuthorization()
	case DNSPersist01:
		if len(c.IssuerDomainNames) > 0 {
			out.Record, out.TXT = c.DNSPersist01TXTRecordName(), c.DNSPersist01TXTRecordValue(account, c.IssuerDomainNames[0], wildcard)
		}
	default:
		out.Token, out.KeyAuthorization = c.Token, c.KeyAuthorization
	}
	return out
}

// ACMETLS is the only protocol of the handshakes that [TLSALPNCertificate] is
// for (RFC 8737).
const ACMETLS = "acme-tls/1"

var idACMEIdentifier = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31} // RFC 8737 6.1

// TLSALPNCertificate makes the certificate that answers a tls-alpn-01 challenge
// in handshakes that offer [ACMETLS] and nothing else.
func TLSALPNCertificate(name, keyAuthorization string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte(keyAuthorization))
	extension, err := asn1.Marshal(digest[:])
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:    big.NewInt(1),
		Subject:         pkix.Name{CommonName: "ACME challenge"},
		NotBefore:       now.Add(-24 * time.Hour), // the CA's clock and ours may differ
		NotAfter:        now.Add(7 * 24 * time.Hour),
		DNSNames:        []string{name},
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		ExtraExtensions: []pkix.Extension{{Id: idACMEIdentifier, Critical: true, Value: extension}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the challenge's certificate for %s: %w", name, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
