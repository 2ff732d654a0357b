package order

import (
	"cmp"
	"encoding/json"
	"encoding/pem"
	"fmt"

	"fingerpost"
	"fingerpost/cert"
)

// SplitCertificate takes the value of a [KindCertificate] record apart, for storage
// that tells nodes of certificates: what they serve, and what only an issuer needs.
// A record that [Storage.Range] gave without its chain has no Chain here either.
func SplitCertificate(value []byte) (served *fingerpost.Certificate, rest []byte, err error) {
	var c Certificate
	if err := json.Unmarshal(value, &c); err != nil {
		return nil, nil, fmt.Errorf("decode a certificate: %w", err)
	}
	served = new(fingerpost.Certificate)
	if len(c.Chain) > 0 {
		chain, err := parseChain(c.Chain)
		if err != nil {
			return nil, nil, fmt.Errorf("certificate %s: %w", c.ID, err)
		}
		served = cert.Describe(chain)
	}
	served.Name, served.Type, served.Key = c.ID, fingerpost.ACME, c.Key
	served.CA, served.Profile, served.Team = c.CA, cmp.Or(c.Profile, c.Policy.Profile), c.Policy.Team
	served.Revoked, served.RevokedFor = c.Revoked, c.RevokedFor
	c.Chain, c.Key = nil, nil
	rest, err = json.Marshal(&c)
	return served, rest, err
}

// JoinCertificate undoes SplitCertificate.
func JoinCertificate(rest []byte, chain [][]byte, key []byte) ([]byte, error) {
	var c Certificate
	if err := json.Unmarshal(rest, &c); err != nil {
		return nil, fmt.Errorf("decode a certificate: %w", err)
	}
	for _, der := range chain {
		c.Chain = append(c.Chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	c.Key = key
	return json.Marshal(&c)
}
