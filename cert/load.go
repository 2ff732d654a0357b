package cert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
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
// A certificate outside its dates, be it one of the chain, and a chain that is surely
// incomplete (see [Import]) are warnings. All else that is wrong is an error, and the
// certificate is left out: the index has all that are sound even where err is not nil,
// and is nil only if the folder cannot be read. Both kinds are *fingerpost.Error, err
// several of them joined, with the file at fault and a hint.
func Load(dir string) (x *Index, warnings []error, err error) {
	s := newStore(dir)
	if _, warnings, err = s.read(false); s.groups == nil {
		return nil, nil, err
	}
	return s.Index(), warnings, err
}

// group is the files of one certificate, and what they came to.
type group struct {
	name  string
	files []string // without the folder; nil once they are read

	print uint64 // of how the files looked when they were read
	young bool   // one was written so lately that a second write may have left the same time behind
	quick bool   // they were read as Open does

	cert     *Certificate
	warnings []error
	err      error
}

const youngFile = 2 * time.Second // the coarsest clock of a file system (FAT)

var printSeed = maphash.MakeSeed()

// saw adds to the print of g how a file looks.
func (g *group) saw(name string, info os.FileInfo) {
	type look struct {
		before      uint64
		name        string
		size, mtime int64
		inode       uint64
	}
	g.print = maphash.Comparable(printSeed, look{g.print, name, info.Size(), info.ModTime().UnixNano(), inode(info)})
	g.young = g.young || time.Since(info.ModTime()) < youngFile
}

// stands reports whether what was read of last is still what the files of g hold, as
// far as can be told without reading them.
func (g *group) stands(dir string, last *group) bool {
	if last.quick || last.young {
		return false
	}
	var now group
	for _, file := range g.files {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil {
			return false
		}
		now.saw(file, info)
	}
	return now.print == last.print
}

func listFolder(dir string) ([]group, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, &fingerpost.Error{Code: "bad_certificate", Message: "read the certificates folder: " + cause(err),
			Hint: "create the folder, or correct certificates.dir", At: fingerpost.Position{File: dir}}
	}
	groups := make([]group, 0, len(entries))
	at := make(map[string]int, len(entries))
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
	slices.SortFunc(groups, func(a, b group) int { return strings.Compare(a.name, b.name) })
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
	certs  []found[*x509.Certificate]
	ders   []found[[]byte] // keys, not parsed yet
	keys   []found[crypto.Signer]
	shared *issuers // may be nil
	quick  bool     // see sortChain
}

// issuers are the certificates of CAs that have been read: few, and each stands in
// the files of many.
type issuers struct {
	mu     sync.Mutex // guards what follows
	byDER  map[string]*x509.Certificate
	byRoot map[*x509.Certificate]bool // see rooted
}

const maxIssuers = 1000 // somebody may have a CA for each certificate

// parse is [x509.ParseCertificate].
func (s *issuers) parse(der []byte) (*x509.Certificate, error) {
	if s == nil {
		return x509.ParseCertificate(der)
	}
	s.mu.Lock()
	c := s.byDER[string(der)]
	s.mu.Unlock()
	if c != nil {
		return c, nil
	}
	c, err := x509.ParseCertificate(der)
	if err == nil && c.IsCA {
		s.mu.Lock()
		if s.byDER == nil || len(s.byDER) >= maxIssuers {
			s.byDER = map[string]*x509.Certificate{}
		}
		s.byDER[string(der)] = c
		s.mu.Unlock()
	}
	return c, err
}

// rooted reports whether one of roots has signed c.
func (s *issuers) rooted(c *x509.Certificate, roots *x509.CertPool, now time.Time) bool {
	keep := s != nil && c.IsCA
	if keep {
		s.mu.Lock()
		is, known := s.byRoot[c]
		s.mu.Unlock()
		if known {
			return is
		}
	}
	_, err := c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	is := !errors.As(err, new(x509.UnknownAuthorityError)) // what else is wrong with it is told elsewhere
	if keep {
		s.mu.Lock()
		if s.byRoot == nil || len(s.byRoot) >= maxIssuers {
			s.byRoot = map[*x509.Certificate]bool{}
		}
		s.byRoot[c] = is
		s.mu.Unlock()
	}
	return is
}

// fault makes the error of something that is wrong in a file.
type fault func(file, message, hint string) error

// read reads and checks the certificate of one group. Where it is quick, it takes a
// key at its word about whose it is, and issuers by their names: what takes time is
// left for later. buf is for its use, and grows.
func (g *group) read(dir string, shared *issuers, buf *[]byte) {
	g.cert, g.warnings, g.err = g.parse(dir, shared, buf)
	if g.files = nil; g.cert != nil {
		g.name = g.cert.Name
	}
}

func (g *group) parse(dir string, shared *issuers, buf *[]byte) (c *Certificate, warnings []error, err error) {
	fault := fault(func(file, message, hint string) error {
		return &fingerpost.Error{Code: "bad_certificate", Message: message, Hint: hint, At: fingerpost.Position{File: filepath.Join(dir, file)}}
	})
	m := material{shared: shared, quick: g.quick}
	for _, file := range g.files {
		text, err := g.readFile(dir, file, buf)
		if err != nil {
			return nil, nil, fault(file, "read the file: "+cause(err), "fingerpost must be allowed to read it")
		}
		if err := m.addPEM(file, text, fault); err != nil {
			return nil, nil, err
		}
	}
	switch {
	case len(m.certs) == 0 && len(m.ders) == 0:
		return nil, nil, fault(g.files[0], "no certificate and no key in the file", "the file must hold PEM blocks (-----BEGIN CERTIFICATE-----); convert DER with openssl x509 -inform der")
	case len(m.ders) == 0:
		return nil, nil, fault(m.certs[0].file, "the certificate has no key", "put its key beside it as "+g.name+".key")
	case len(m.certs) == 0:
		return nil, nil, fault(m.ders[0].file, "the key has no certificate", "put its certificate beside it as "+g.name+".crt")
	}
	key := m.ders[0]
	now := time.Now()
	p, ok := credential{}, false
	if g.quick && len(m.ders) == 1 {
		p, ok = m.credential(func(public crypto.PublicKey) bool { return states(key.value, public) }, now)
	}
	if !ok {
		if err := m.parseKeys(fault); err != nil {
			return nil, nil, err
		}
		first := m.keys[0].value.Public()
		for _, other := range m.keys[1:] {
			if !samePublicKey(other.value.Public(), first) {
				return nil, nil, fault(other.file, "another key than in "+filepath.Join(dir, key.file), "keep the one that belongs to the certificate, and give each certificate a file name of its own")
			}
		}
		if p, ok = m.credential(func(public crypto.PublicKey) bool { return samePublicKey(public, first) }, now); !ok {
			return nil, nil, fault(m.certs[0].file, "the certificate does not belong to the key in "+filepath.Join(dir, key.file), "take the key that the certificate was requested with; several certificates need different file names")
		}
	}
	fail := func(message, hint string) error { return fault(p.file, message, hint) }
	if err := p.check(fail); err != nil {
		return nil, nil, err
	}

	leaf := p.chain[0]
	switch {
	case now.After(leaf.NotAfter):
		warnings = append(warnings, fail("the certificate expired on "+leaf.NotAfter.Format(time.DateOnly), "renew it; it is served only where no other covers the name"))
	case now.Before(leaf.NotBefore):
		warnings = append(warnings, fail("the certificate is not valid before "+leaf.NotBefore.Format(time.DateOnly), "it is served only where no other covers the name; is the clock right?"))
	}
	if err := p.stale(now, fail); err != nil {
		warnings = append(warnings, err)
	}
	if g := p.missing(nil, shared, now); g != nil && g.sure {
		warnings = append(warnings, fail(g.message(), g.hint()))
	}
	if p.unused > 0 {
		warnings = append(warnings, fail(fmt.Sprintf("%d certificates do not belong to the chain", p.unused), "they are not sent; remove them, or give each certificate a file name of its own"))
	}

	// What is kept of ten thousand is kept in few pieces, most of which the garbage
	// collector has nothing to find in.
	der := slices.Concat(leaf.Raw, key.value)
	chain := p.der()
	chain[0] = der[:len(leaf.Raw):len(leaf.Raw)]
	spki := bytes.Index(leaf.Raw, leaf.RawSubjectPublicKeyInfo)
	file := filepath.Join(dir, p.file)
	c = &Certificate{
		Name: file[len(file)-len(p.file):][:len(g.name)], File: file, Hosts: hosts(leaf),
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
		chain: chain, spki: der[spki : spki+len(leaf.RawSubjectPublicKeyInfo)], key: der[len(leaf.Raw):],
		ecdsa: isECDSA(leaf),
	}
	return c, warnings, nil
}

// readFile gives what a file holds, until buf is used again.
func (g *group) readFile(dir, name string, buf *[]byte) ([]byte, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would wait for its other end
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	g.saw(name, info)
	b := *buf
	for n := 0; ; {
		if len(b)-n <= int(max(0, info.Size()-int64(n))) { // room for one more, which says that it is all
			b = append(b, make([]byte, max(4<<10, int(info.Size())))...)
			*buf = b
		}
		more, err := f.Read(b[n:])
		if n += more; err == io.EOF || err == nil && int64(n) == info.Size() {
			return b[:n], nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// states reports whether a private key says that public is its own: its DER nearly
// always holds the point, or the modulus. What it says is checked before it is used.
func states(key []byte, public crypto.PublicKey) bool {
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		return err == nil && bytes.Contains(key, point)
	case *rsa.PublicKey:
		return bytes.Contains(key, public.N.Bytes())
	}
	return false
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
			c, err := m.shared.parse(block.Bytes)
			if err != nil {
				return fault(file, "a certificate cannot be read: "+trim(err), "is the file whole?")
			}
			m.addCertificate(file, c)
		case block.Type == "ENCRYPTED PRIVATE KEY", strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return fault(file, "the key is encrypted", "decrypt it: openssl pkey -in "+file+" -out plain.key, and take care who can read it")
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			m.ders = append(m.ders, found[[]byte]{block.Bytes, file})
		}
		// Other blocks (EC PARAMETERS, DH PARAMETERS) say nothing that the key
		// does not.
	}
	if bytes.Contains(text, []byte("-----BEGIN ")) {
		return fault(file, "a PEM block cannot be read", "is the file whole? each -----BEGIN needs its -----END, on lines of their own")
	}
	return nil
}

// parseKeys parses what addPEM has found.
func (m *material) parseKeys(fault fault) error {
	for _, der := range m.ders {
		key, err := parseKey(der.value)
		if err != nil {
			return fault(der.file, "the key cannot be read: "+trim(err), "RSA or ECDSA in PKCS #8, PKCS #1 or SEC 1 form")
		}
		m.keys = append(m.keys, found[crypto.Signer]{key, der.file})
	}
	m.ders = nil
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
	rooted bool                // whether a root was there that signed one of them, and is valid
	other  string              // why a certificate with the name of the next issuer, which was there, does not do
	unused int                 // certificates that belong to no such chain
}

// credential finds the certificate whose public key is the one, and its chain. Of
// several the one that is valid now and longest is taken.
func (m *material) credential(own func(crypto.PublicKey) bool, now time.Time) (p credential, ok bool) {
	var leaf *found[*x509.Certificate]
	for i := range m.certs {
		c := &m.certs[i]
		if (leaf == nil || compareDates(c.value, leaf.value, now) < 0) && own(c.value.PublicKey) {
			leaf = c
		}
	}
	if leaf == nil {
		return credential{}, false
	}
	p = sortChain(leaf.value, m.certs, m.quick, now)
	p.file = leaf.file
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

// stale is the fault of the first link behind the leaf that is not valid now.
func (p *credential) stale(now time.Time, fail func(message, hint string) error) error {
	for i, link := range p.chain[1:] {
		hint := "put its successor in its place: the CA that signed your certificate has it"
		if from := p.chain[i].IssuingCertificateURL; len(from) > 0 {
			hint += ", at " + from[0]
		}
		switch {
		case now.After(link.NotAfter):
			return fail("in the chain, "+link.Subject.String()+": the certificate expired on "+link.NotAfter.Format(time.DateOnly), hint)
		case now.Before(link.NotBefore):
			return fail("in the chain, "+link.Subject.String()+": the certificate is not valid before "+link.NotBefore.Format(time.DateOnly), hint)
		}
	}
	return nil
}

// gap is the certificate that a chain ends before.
type gap struct {
	issuer string
	url    string // where to get it, if the certificate says so
	other  string // why the one of that name that is there does not do
	sure   bool   // else clients may have it already
}

func (g *gap) message() string {
	message := "the chain lacks the certificate of " + g.issuer
	if g.other != "" {
		message += ": the one of that name " + g.other
	}
	return message
}

func (g *gap) hint() string {
	hint := "add it: your CA sends it along"
	if g.url != "" {
		hint += ", or get it from " + g.url
	}
	return hint + "; for a CA of your own add its root too, which is not sent to clients"
}

// missing tells what is missing between the chain and a root; nil if nothing is, as far
// as roots go, which are this machine's if nil. Only for a certificate that says where
// its issuer's is kept, or that has a namesake in its place, it is sure: a private CA
// that signs without an intermediate says nothing. What the roots say of issuers is
// kept in shared, which may be nil, and then is for one set of roots.
func (p *credential) missing(roots *x509.CertPool, shared *issuers, now time.Time) *gap {
	if p.rooted {
		return nil
	}
	last := p.chain[len(p.chain)-1]
	g := &gap{issuer: last.Issuer.String(), other: p.other, sure: p.other != ""}
	if len(last.IssuingCertificateURL) > 0 {
		g.url = last.IssuingCertificateURL[0]
	}
	if roots == nil {
		roots = systemRoots()
	}
	if roots == nil { // a machine that knows no CA cannot tell a root from an intermediate
		g.sure = g.sure || g.url != "" && len(p.chain) == 1
		return g
	}
	// A CA may send its root along as another one has signed it, for old clients. The
	// chain is complete before it, for all others (RFC 4158 2.3).
	for _, link := range slices.Backward(p.chain) {
		if shared.rooted(link, roots, now) {
			return nil
		}
	}
	g.sure = g.sure || g.url != ""
	return g
}

// systemRoots are the roots that this machine trusts, nil if it knows none.
var systemRoots = sync.OnceValue(func() *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err != nil || pool.Equal(x509.NewCertPool()) {
		return nil
	}
	return pool
})

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

// sortChain gives what is sent with leaf: leaf itself, then each issuer after what it
// signed, the best one where there are several, as when a CA has renewed its own. The
// root stays out, since a client that does not have it already does not trust it
// (RFC 8446 4.4.2). Where it is quick, issuers are known by name and number of their
// keys, without their signatures.
func sortChain(leaf *x509.Certificate, certs []found[*x509.Certificate], quick bool, now time.Time) (p credential) {
	p.chain = []*x509.Certificate{leaf}
	p.rooted = isSelfIssued(leaf) // whether it may be served so is for others to say
	used := map[*x509.Certificate]bool{leaf: true}
	for last := leaf; !isSelfIssued(last); {
		var next *x509.Certificate
		p.other = ""
		for _, f := range certs {
			c := f.value
			switch {
			case used[c] || !bytes.Equal(c.RawSubject, last.RawIssuer):
			case !(quick && len(c.SubjectKeyId) > 0 && bytes.Equal(c.SubjectKeyId, last.AuthorityKeyId)) && last.CheckSignatureFrom(c) != nil:
				p.other = "has another key than the one that signed"
			default:
				p.rooted = p.rooted || isSelfIssued(c) && validAt(c, now)
				if next == nil || compareDates(c, next, now) < 0 {
					next = c
				}
			}
		}
		if next == nil {
			break
		}
		p.other = ""
		used[next] = true
		if last = next; !isSelfIssued(last) {
			p.chain = append(p.chain, last)
		} else if !validAt(last, now) {
			p.other = "is valid from " + last.NotBefore.Format(time.DateOnly) + " to " + last.NotAfter.Format(time.DateOnly) + " only"
		}
	}
	p.unused = len(certs) - len(used)
	return p
}

func isSelfIssued(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, c.RawIssuer) }

// compareDates is negative if a is to be taken before b: valid now, then valid longest.
func compareDates(a, b *x509.Certificate, now time.Time) int {
	if validAt(a, now) != validAt(b, now) {
		if validAt(a, now) {
			return -1
		}
		return 1
	}
	return b.NotAfter.Compare(a.NotAfter)
}

func validAt(c *x509.Certificate, now time.Time) bool {
	return !now.Before(c.NotBefore) && !now.After(c.NotAfter)
}

// weakness says why no client should or would accept c.
func weakness(c *x509.Certificate) (message, hint string) {
	switch c.SignatureAlgorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return "the certificate is signed with " + c.SignatureAlgorithm.String() + ", which browsers refuse", "have it issued again, signed with SHA-256"
	}
	// Without any it is for all purposes (RFC 5280 4.2.1.12); of an issuer's certificate
	// browsers ask the same.
	if usages := c.ExtKeyUsage; len(usages)+len(c.UnknownExtKeyUsage) > 0 && !slices.Contains(usages, x509.ExtKeyUsageServerAuth) && !slices.Contains(usages, x509.ExtKeyUsageAny) {
		return "the certificate is not for servers", "have it issued for TLS web server authentication (serverAuth)"
	}
	if key, ok := c.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < 2048 {
		return fmt.Sprintf("the key is RSA with %d bits, which browsers refuse", key.N.BitLen()), "have it issued again with a key of 2048 bits or ECDSA P-256"
	}
	return "", ""
}
