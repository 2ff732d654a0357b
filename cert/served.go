package cert

import (
	"bytes"
	"container/list"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fingerpost"
)

// Named says that a certificate of the store is for a name.
type Named struct {
	Certificate string // which one
	Rev         int64  // of its last change
	ECDSA       bool
	SealedBy    string // see [fingerpost.Certificate.SealedBy]
	Revoked     bool   // it goes before no other although it is chosen
	NotBefore   time.Time
	NotAfter    time.Time
}

// Served chooses a certificate for each handshake, among those of a folder and
// those of the store. Of the latter it keeps nothing but the ones that were asked
// for lately: a start does not depend on their number, and a renewed one is
// served as soon as Named tells so. Its methods may be called by several
// goroutines at once.
type Served struct {
	Files *Store // of a folder
	// Named gives the certificates of the store that are for just this name, a host
	// or a wildcard; Load gives one of them, with its revision. Both answer from
	// this node's own copy, without waiting for anybody. Nil without a store.
	Named func(name string) []Named
	Load  func(certificate string) (*fingerpost.Certificate, int64, error)
	// Version is another number whenever Named may answer otherwise than before; with
	// it the last answers are kept. Nil: each is asked for.
	Version func() uint64
	// Sealer opens their keys. One that it cannot open is as good as none: its host is
	// not covered, and another certificate for it goes before.
	Sealer *Sealer
	// Default names the certificate for clients that send no server name and reach
	// the given local address; empty for that of the folder. Nil for always empty.
	Default func(local netip.Addr) string
	// Chosen names the certificate that a host's settings ask for, of the folder or of
	// the store; empty if they leave the choice. Nil for always empty.
	Chosen func(host string) string
	// CacheBytes bounds what is kept of the store's certificates; default 256 MiB,
	// which is some 100,000 of one name or 40,000 of a hundred.
	CacheBytes int

	answers [answers]atomic.Pointer[answer] // of Named, by the hash of the name

	mu    sync.Mutex               // guards what follows
	ready map[string]*list.Element // of *loaded, by certificate
	order list.List                // of *loaded, the one used last first
	bytes int
	// issuers are the certificates that stand behind the leaves: few, for all.
	issuers map[string][]byte
}

// loaded is a certificate as crypto/tls wants it, or will be once it is built.
type loaded struct {
	name  string
	rev   int64
	bytes int // guarded by Served.mu

	once sync.Once // guards what follows: the first who wants it builds it, others wait
	cert tls.Certificate
	err  error
}

// answers is how many answers of Named are kept, of some 200 bytes each: for hosts
// that are asked for all the time, which a request over http may do in a microsecond,
// and which costs a handshake some ten.
const answers = 1 << 16

type answer struct {
	name    string
	version uint64
	list    []Named
}

var answersSeed = maphash.MakeSeed()

// named is Named, as it last answered where that still holds.
func (s *Served) named(name string) []Named {
	if s.Named == nil {
		return nil
	}
	if s.Version == nil {
		return s.Named(name)
	}
	slot := &s.answers[maphash.String(answersSeed, name)%answers]
	version := s.Version() // before Named is asked: what changes meanwhile makes the answer old
	if a := slot.Load(); a != nil && a.version == version && a.name == name {
		return a.list
	}
	a := &answer{strings.Clone(name), version, s.Named(name)}
	slot.Store(a)
	return a.list
}

// Certificate is for tls.Config.GetCertificate: see [Index.Certificate], whose
// rules hold for both kinds of certificates together, but that one which was chosen for
// the host, is for its name and within its dates goes first.
func (s *Served) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if hello.ServerName == "" {
		return s.preset(hello)
	}
	c, err := s.choose(hello, s.named)
	if err != nil { // between what is told and what is read, one may have gone for another
		c, err = s.choose(hello, s.Named)
	}
	return c, err
}

// choose is Certificate for a client that sends a server name.
func (s *Served) choose(hello *tls.ClientHelloInfo, named func(string) []Named) (*tls.Certificate, error) {
	host := strings.ToLower(hello.ServerName)
	now := time.Now()
	candidates := s.candidates(host, now, named)
	var fallback *tls.Certificate
	var failed error
	anyName := *hello // what is for the host was found by its names
	anyName.ServerName = ""
	for i := range candidates {
		c, err := s.load(&candidates[i])
		if err != nil {
			failed = err
			continue
		}
		if len(candidates) == 1 || anyName.SupportsCertificate(c) == nil {
			return c, nil
		}
		if fallback == nil {
			fallback = c // a client that can verify none shall see the best of them
		}
	}
	if fallback == nil {
		return nil, failed
	}
	return fallback, nil
}

// candidate is a certificate for a host.
type candidate struct {
	Named
	file *Certificate // of the folder; nil for one of the store
}

func (c *candidate) name() string {
	if c.file != nil {
		return c.file.Name
	}
	return c.Certificate
}

// candidates are all certificates for host, the best first: of use, the one that was
// chosen, by the exact name, ECDSA, valid longest.
func (s *Served) candidates(host string, now time.Time, named func(string) []Named) []candidate {
	var all []candidate
	exact, wild := s.Files.Index().find(host)
	at := 0 // where the wildcards begin
	add := func(files []*Certificate, stored []Named) {
		for _, c := range files {
			all = append(all, candidate{Named: Named{ECDSA: c.ecdsa, NotBefore: c.NotBefore, NotAfter: c.NotAfter}, file: c})
		}
		for _, n := range stored {
			all = append(all, candidate{Named: n})
		}
		slices.SortStableFunc(all[at:], func(a, b candidate) int {
			switch {
			case a.ECDSA != b.ECDSA && a.ECDSA:
				return -1
			case a.ECDSA != b.ECDSA:
				return 1
			}
			return b.NotAfter.Compare(a.NotAfter)
		})
	}
	chosen := ""
	if s.Chosen != nil {
		chosen = s.Chosen(host)
	}
	add(exact, named(host))
	if at = len(all); at == 1 && s.usable(&all[0].Named, now) && (chosen == "" || all[0].name() == chosen) {
		return all // nearly always
	}
	if label, suffix, ok := strings.Cut(host, "."); ok && label != "" {
		add(wild, named("*."+suffix))
	}
	isChosen := func(c *candidate) bool { return chosen != "" && c.name() == chosen && !c.Revoked }
	slices.SortStableFunc(all, func(a, b candidate) int {
		switch aUsable, bUsable := s.usable(&a.Named, now), s.usable(&b.Named, now); {
		case aUsable == bUsable && isChosen(&a) && !isChosen(&b):
			return -1
		case aUsable == bUsable && !isChosen(&a) && isChosen(&b):
			return 1
		case aUsable == bUsable:
			return 0
		case aUsable:
			return -1
		}
		return 1
	})
	return all
}

// usable reports whether a certificate is within its dates, and can be served.
func (s *Served) usable(n *Named, now time.Time) bool {
	return !now.Before(n.NotBefore) && !now.After(n.NotAfter) && (n.SealedBy == "" || s.Sealer.Opens(n.SealedBy))
}

// Covers reports whether a certificate of use is being served for host, in the form that fingerpost.ParseHost gives.
func (s *Served) Covers(host string) bool {
	if s.Files.Covers(host) {
		return true
	}
	if s.Named == nil {
		return false
	}
	now := time.Now()
	usable := func(n Named) bool { return s.usable(&n, now) }
	if slices.ContainsFunc(s.named(host), usable) {
		return true
	}
	label, suffix, ok := strings.Cut(host, ".")
	return ok && label != "" && slices.ContainsFunc(s.named("*."+suffix), usable)
}

// preset is for clients that send no server name.
func (s *Served) preset(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if s.Default != nil && hello.Conn != nil {
		var local netip.Addr
		if a, ok := hello.Conn.LocalAddr().(*net.TCPAddr); ok {
			local = a.AddrPort().Addr().Unmap()
		}
		if name := s.Default(local); name != "" {
			if c := s.Files.Index().Named(name); c != nil {
				return c.get()
			}
			if s.Load != nil {
				if _, rev, err := s.Load(name); err == nil {
					return s.load(&candidate{Named: Named{Certificate: name, Rev: rev}})
				}
			}
		}
	}
	return s.Files.Certificate(hello)
}

// load makes a candidate ready for a handshake.
func (s *Served) load(c *candidate) (*tls.Certificate, error) {
	if c.file != nil {
		return c.file.get()
	}
	l := s.find(c.Certificate, c.Rev)
	l.once.Do(func() { l.err = s.build(l) })
	if l.err != nil {
		s.drop(l)
		return nil, l.err
	}
	return &l.cert, nil
}

// find gives what is kept of a certificate, if it is of that revision, or begins
// to keep it.
func (s *Served) find(name string, rev int64) *loaded {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.ready[name]; e != nil {
		if l := e.Value.(*loaded); l.rev >= rev {
			s.order.MoveToFront(e)
			return l
		}
		s.remove(e)
	}
	l := &loaded{name: name, rev: rev}
	if s.ready == nil {
		s.ready = map[string]*list.Element{}
	}
	s.ready[name] = s.order.PushFront(l)
	return l
}

func (s *Served) remove(e *list.Element) {
	l := s.order.Remove(e).(*loaded)
	delete(s.ready, l.name)
	s.bytes -= l.bytes
}

// drop forgets one that could not be built, so that it is tried again.
func (s *Served) drop(l *loaded) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.ready[l.name]; e != nil && e.Value == l {
		s.remove(e)
	}
}

// overhead is what a certificate takes beside its chain: the key, the structures
// around it, its place in the map and the list. Measured.
const overhead = 900

// build reads a certificate and opens its key. The leaf stays unparsed: it would
// take three times the memory, and a server needs nothing of it.
func (s *Served) build(l *loaded) error {
	c, _, err := s.Load(l.name)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", l.name, err)
	}
	if len(c.Chain) == 0 {
		return fmt.Errorf("certificate %s is empty", l.name)
	}
	der, err := s.Sealer.Open(KeyPurpose(l.name), c.Key)
	if err != nil {
		return err
	}
	key, err := parseKey(der)
	if err != nil {
		return fmt.Errorf("the key of certificate %s: %s", l.name, trim(err))
	}
	max := s.CacheBytes
	if max == 0 {
		max = 256 << 20
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	size := overhead + len(c.Chain[0])
	chain := append(make([][]byte, 0, len(c.Chain)), bytes.Clone(c.Chain[0])) // what it was read from has room to spare
	for _, link := range c.Chain[1:] {
		chain = append(chain, s.shared(link))
	}
	if e := s.ready[l.name]; e != nil && e.Value == l {
		l.bytes = size
		s.bytes += size
	}
	for last := s.order.Back(); s.bytes > max && last != nil && last.Value != l; last = s.order.Back() {
		s.remove(last)
	}
	l.cert.Certificate, l.cert.PrivateKey = chain, key
	return nil
}

// shared gives one copy of an issuer's certificate for all. s.mu is held.
func (s *Served) shared(issuer []byte) []byte {
	const many = 1000 // somebody imports chains of his own
	if known := s.issuers[string(issuer)]; known != nil {
		return known
	}
	if s.issuers == nil || len(s.issuers) >= many {
		s.issuers = map[string][]byte{}
	}
	s.issuers[string(issuer)] = issuer
	return issuer
}

// KeyPurpose is what the private key of a certificate is sealed for. An order has the
// name of the certificate that it brings, so that the key goes there as it is.
func KeyPurpose(certificate string) string { return "private key of certificate " + certificate }

// Leaf parses the first certificate of a chain.
func Leaf(c *fingerpost.Certificate) (*x509.Certificate, error) {
	if len(c.Chain) == 0 {
		return nil, fmt.Errorf("certificate %s is empty", c.Name)
	}
	return x509.ParseCertificate(c.Chain[0])
}
