package fingerpost

import (
	"encoding/hex"
	"time"
)

// The types of certificates.
const (
	ACME     = "acme"     // got from a CA and renewed by us
	Imported = "imported" // bought or made elsewhere
)

// Certificate serves a set of names over TLS. Its name is its identity: renewed or
// imported again, it stays the same certificate with other dates.
type Certificate struct {
	Name       string    `json:"-"`
	Type       string    `json:"type"`    // ACME or Imported
	Names      []string  `json:"names"`   // what it is valid for: lower case, A-labels, *.example.com; sorted
	Chain      [][]byte  `json:"chain"`   // DER: the leaf, then each issuer after what it signed; no root
	Key        []byte    `json:"key"`     // PKCS #8, sealed: see [fingerpost/cert.Sealer]
	KeyType    string    `json:"keyType"` // as in "ECDSA P-256", "RSA 2048"
	NotBefore  time.Time `json:"notBefore"`
	NotAfter   time.Time `json:"notAfter"`
	Issuer     string    `json:"issuer"`
	Serial     string    `json:"serial"`               // hexadecimal
	CA         string    `json:"ca,omitempty"`         // directory URL of the CA; of type ACME only
	Profile    string    `json:"profile,omitempty"`    // of the CA; of type ACME only
	Team       string    `json:"team,omitempty"`       // the owner
	Revoked    time.Time `json:"revoked,omitzero"`     // it is served still, until there is another
	RevokedFor string    `json:"revokedFor,omitempty"` // the reason that was given, as in "keyCompromise"
}

// SealedBy names the secret that opens the key: what is sealed begins with that. A
// node sees by it whether it can serve the certificate.
func (c *Certificate) SealedBy() string { return hex.EncodeToString(c.Key[:min(5, len(c.Key))]) }
