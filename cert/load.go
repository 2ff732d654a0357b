package cert

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"fingerpost"
)

// Load reads the certificates of a folder. Files belong together by their name
// without the ending:
//
//	NAME.crt, NAME.pem or NAME.cer with NAME.key
//	NAME.pem (or any of these) that holds the key too
//
// A file has any number of PEM blocks in any order: the certificate of the key
// is found among them, and the chain sorted behind it. default.* is for clients
// that send no server name. Hidden files, folders and other endings are left
// alone.
//
// An expired certificate, one not yet valid and an incomplete chain are
// warnings. All else that is wrong is an error, and the certificate is left
// out: the index has all that are sound even where err is not nil, and is nil
// only if the folder cannot be read. Both kinds are *fingerpost.Error, err
// several of them joined, with the file at fault and a hint.
func Load(dir string) (x *Index, warnings []error, err error) {
	return load(dir, newIndex(nil))
}

// load is Load that puts the certificate of last in the place of one whose
// files are wrong.
func load(dir string, last *Index) (*Index, []error, error) {
	groups, err := listFolder(dir)
	if err != nil {
		return nil, nil, err
	}
	type result struct {
		cert     *Certificate
		warnings []error
		err      error
	}
	// Parsing a pair costs a point multiplication, so the work is spread.
	results := make([]result, len(groups))
	var wg sync.WaitGroup
	next := make(chan int, len(groups))
	for i := range groups {
		next <- i
	}
	close(next)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range next {
				r := &results[i]
				r.cert, r.warnings, r.err = groups[i].read(dir)
			}
		})
	}
	wg.Wait()

	var all []*Certificate
	var warnings, errs []error
	for i, r := range results {
		if r.err != nil {
			errs = append(errs, r.err)
			r.cert = last.byName[groups[i].name]
		}
		if r.cert != nil {
			all = append(all, r.cert)
		}
		warnings = append(warnings, r.warnings...)
	}
	return newIndex(all), warnings, errors.Join(errs...)
}

// group is the files of one certificate.
type group struct {
	name  string
	files []string // without the folder
}

func listFolder(dir string) ([]group, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, &fingerpost.Error{Code: "bad_certificate", Message: "read the certificates folder: " + cause(err),
			Hint: "create the folder, or correct certificates.dir", At: fingerpost.Position{File: dir}}
	}
	var groups []group
	at := map[string]int{}
	for _, e := range entries { // sorted by file name
		ext := filepath.Ext(e.Name())
		name := strings.TrimSuffix(e.Name(), ext)
		switch strings.ToLower(ext) {
		case ".crt", ".pem", ".cer", ".key":
		default:
			continue
		}
		// A link to a file counts: Kubernetes mounts secrets so.
		if e.IsDir() || strings.HasPrefix(name, ".") || name == "" {
			continue
		}
		i, ok := at[name]
		if !ok {
			i = len(groups)
			at[name] = i
			groups = append(groups, group{name: name})
		}
		groups[i].files = append(groups[i].files, e.Name())
	}
	return groups, nil
}

// cause is what went wrong with a file, without the path that the position of
// the error names already.
func cause(err error) string {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// found is a certificate or key with the file that it was in.
type found[T any] struct {
	value T
	file  string
}

// material is what somebody gave us for one certificate, in any order.
type material struct {
	certs []found[*x509.Certificate]
	keys  []found[crypto.Signer]
}

// fault makes the error of something that is wrong in a file.
type fault func(file, message, hint string) error

// read reads and checks the certificate of one group.
func (g *group) read(dir string) (c *Certificate, warnings []error, err error) {
	fault := fault(func(file, message, hint string) error {
		return &fingerpost.Error{Code: "bad_certificate", Message: message, Hint: hint, At: fingerpost.Position{File: filepath.Join(dir, file)}}
	})
	var m material
	for _, file := range g.files {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return nil, nil, fault(file, "read the file: "+cause(err), "fingerpost must be allowed to read it")
		}
		if err := m.addPEM(file, text, fault); err != nil {
			return nil, nil, err
		}
	}
	switch {
	case len(m.certs) == 0 && len(m.keys) == 0:
		return nil, nil, fault(g.files[0], "no certificate and no key in the file", "the file must hold PEM blocks (-----BEGIN CERTIFICATE-----); convert DER with openssl x509 -inform der")
	case len(m.keys) == 0:
		return nil, nil, fault(m.certs[0].file, "the certificate has no key", "put its key beside it as "+g.name+".key")
	case len(m.certs) == 0:
		return nil, nil, fault(m.keys[0].file, "the key has no certificate", "put its certificate beside it as "+g.name+".crt")
	}
	key := m.keys[0]
	for _, other := range m.keys[1:] {
		if !samePublicKey(other.value.Public(), key.value.Public()) {
			return nil, nil, fault(other.file, "another key than in "+filepath.Join(dir, key.file), "keep the one that belongs to the certificate, and give each certificate a file name of its own")
		}
	}
	p, ok := m.credential(key.value)
	if !ok {
		return nil, nil, fault(m.certs[0].file, "the certificate does not belong to the key in "+filepath.Join(dir, key.file), "take the key that the certificate was requested with; several certificates need different file names")
	}
	fail := func(message, hint string) error { return fault(p.file, message, hint) }
	if err := p.check(fail); err != nil {
		return nil, nil, err
	}

	const day = "2006-01-02"
	leaf := p.chain[0]
	switch now := time.Now(); {
	case now.After(leaf.NotAfter):
		warnings = append(warnings, fail("the certificate expired on "+leaf.NotAfter.Format(day), "renew it; it is served only where no other covers the name"))
	case now.Before(leaf.NotBefore):
		warnings = append(warnings, fail("the certificate is not valid before "+leaf.NotBefore.Format(day), "it is served only where no other covers the name; is the clock right?"))
	}
	if issuer, url := p.missing(); issuer != "" {
		warnings = append(warnings, fail("the chain lacks the certificate of "+issuer, "append it to the file: "+url))
	}
	if p.unused > 0 {
		warnings = append(warnings, fail(fmt.Sprintf("%d certificates do not belong to the chain", p.unused), "they are not sent; remove them, or give each certificate a file name of its own"))
	}

	c = &Certificate{
		Name: g.name, File: filepath.Join(dir, p.file), Hosts: hosts(leaf),
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
		tls:   tls.Certificate{PrivateKey: key.value, Leaf: leaf, Certificate: p.der()},
		ecdsa: isECDSA(leaf),
	}
	return c, warnings, nil
}

// addPEM appends what the text of one file holds.
func (m *material) addPEM(file string, text []byte, fault fault) error {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		switch {
		case block.Type == "CERTIFICATE", block.Type == "X509 CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return fault(file, "a certificate cannot be read: "+trim(err), "is the file whole?")
			}
			m.addCertificate(file, c)
		case block.Type == "ENCRYPTED PRIVATE KEY", strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return fault(file, "the key is encrypted", "decrypt it: openssl pkey -in "+file+" -out plain.key, and take care who can read it")
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			key, err := parseKey(block.Bytes)
			if err != nil {
				return fault(file, "the key cannot be read: "+trim(err), "RSA or ECDSA in PKCS #8, PKCS #1 or SEC 1 form")
			}
			m.keys = append(m.keys, found[crypto.Signer]{key, file})
		}
		// Other blocks (EC PARAMETERS, DH PARAMETERS) say nothing that the key
		// does not.
	}
	if bytes.Contains(text, []byte("-----BEGIN ")) {
		return fault(file, "a PEM block cannot be read", "is the file whole? each -----BEGIN needs its -----END, on lines of their own")
	}
	return nil
}

func (m *material) addCertificate(file string, c *x509.Certificate) {
	if !slices.ContainsFunc(m.certs, func(f found[*x509.Certificate]) bool { return f.value.Equal(c) }) {
		m.certs = append(m.certs, found[*x509.Certificate]{c, file})
	}
}

// credential is a certificate with what is sent behind it.
type credential struct {
	file   string              // that the leaf was in
	chain  []*x509.Certificate // the leaf first; see sortChain
	rooted bool                // whether a root ended the chain
	unused int                 // certificates that belong to no such chain
}

// credential finds the certificate of key, the one that is valid longest, and its chain.
func (m *material) credential(key crypto.Signer) (p credential, ok bool) {
	leaf := -1
	for i, c := range m.certs {
		if samePublicKey(c.value.PublicKey, key.Public()) && (leaf < 0 || c.value.NotAfter.After(m.certs[leaf].value.NotAfter)) {
			leaf = i
		}
	}
	if leaf < 0 {
		return credential{}, false
	}
	p.file = m.certs[leaf].file
	p.chain, p.rooted, p.unused = sortChain(m.certs[leaf].value, m.certs)
	return p, true
}

// check refuses what no browser takes.
func (p *credential) check(fail func(message, hint string) error) error {
	for i, link := range p.chain {
		if message, hint := weakness(link); message != "" {
			if i > 0 {
				message = "in the chain, " + link.Subject.String() + ": " + message
			}
			return fail(message, hint)
		}
	}
	if len(hosts(p.chain[0])) == 0 {
		return fail("the certificate names no host", "browsers look only at the subject alternative names; have it issued again with them")
	}
	return nil
}

// missing names the issuer that the chain lacks, and where to get it; empty if it
// lacks none. A private CA may sign without an intermediate, and names no place to
// get it from; public ones always have one.
func (p *credential) missing() (issuer, url string) {
	last := p.chain[len(p.chain)-1]
	if len(p.chain) > 1 || p.rooted || len(last.IssuingCertificateURL) == 0 || isSelfIssued(last) {
		return "", ""
	}
	return last.Issuer.String(), last.IssuingCertificateURL[0]
}

func (p *credential) der() [][]byte {
	der := make([][]byte, len(p.chain))
	for i, link := range p.chain {
		der[i] = link.Raw
	}
	return der
}

func trim(err error) string { return strings.TrimPrefix(err.Error(), "x509: ") }

// parseKey reads a key in any of the forms that openssl writes, whatever the
// type of its block says.
func parseKey(der []byte) (crypto.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		if key, err := x509.ParseECPrivateKey(der); err == nil {
			return key, nil
		}
		if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
			return key, nil
		}
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T cannot sign", key)
	}
	return signer, nil
}

func samePublicKey(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}

// sortChain gives what is sent with leaf: leaf itself, then each issuer after
// what it signed. The root stays out, since a client that does not have it
// already does not trust it (RFC 8446 4.4.2); rooted tells whether it was there.
// unused counts the certificates of certs that belong to no such chain.
func sortChain(leaf *x509.Certificate, certs []found[*x509.Certificate]) (chain []*x509.Certificate, rooted bool, unused int) {
	chain = []*x509.Certificate{leaf}
	used := map[*x509.Certificate]bool{leaf: true}
	last := leaf
	for !isSelfIssued(last) {
		i := slices.IndexFunc(certs, func(f found[*x509.Certificate]) bool {
			c := f.value
			return !used[c] && bytes.Equal(c.RawSubject, last.RawIssuer) && last.CheckSignatureFrom(c) == nil
		})
		if i < 0 {
			break
		}
		last = certs[i].value
		used[last] = true
		if !isSelfIssued(last) {
			chain = append(chain, last)
		}
	}
	return chain, isSelfIssued(last), len(certs) - len(used)
}

func isSelfIssued(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, c.RawIssuer) }

// weakness says why no client should or would accept c.
func weakness(c *x509.Certificate) (message, hint string) {
	switch c.SignatureAlgorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return "the certificate is signed with " + c.SignatureAlgorithm.String() + ", which browsers refuse", "have it issued again, signed with SHA-256"
	}
	if key, ok := c.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < 2048 {
		return fmt.Sprintf("the key is RSA with %d bits, which browsers refuse", key.N.BitLen()), "have it issued again with a key of 2048 bits or ECDSA P-256"
	}
	return "", ""
}
