package cert

import (
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
	// Sealer opens their keys.
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

// loaded is a certificate as crypto/tls wants it, or will be once get returns.
type loaded struct {
	name  string
	rev   int64
	bytes int
	get   func() (*tls.Certificate, error) // runs once, waits for whoever runs it
}

// answers is how many answers of Named are kept: for hosts that are asked for all
// the time, which a request over http may do in a microsecond.
const answers = 4096

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

// candidates are all certificates for host, the best first: within their dates,
// the one that was chosen, by the exact name, ECDSA, valid longest.
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
	if at = len(all); at == 1 && all[0].live(now) && (chosen == "" || all[0].name() == chosen) {
		return all // nearly always
	}
	if label, suffix, ok := strings.Cut(host, "."); ok && label != "" {
		add(wild, named("*."+suffix))
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		switch aLive, bLive := a.live(now), b.live(now); {
		case aLive == bLive && chosen != "" && a.name() == chosen && b.name() != chosen:
			return -1
		case aLive == bLive && chosen != "" && a.name() != chosen && b.name() == chosen:
			return 1
		case aLive == bLive:
			return 0
		case aLive:
			return -1
		}
		return 1
	})
	return all
}

func (n *Named) live(now time.Time) bool { return !now.Before(n.NotBefore) && !now.After(n.NotAfter) }

// Covers reports whether a certificate within its dates is being served for
// host, in the form that fingerpost.ParseHost gives.
func (s *Served) Covers(host string) bool {
	if s.Files.Covers(host) {
		return true
	}
	if s.Named == nil {
		return false
	}
	now := time.Now()
	live := func(n Named) bool { return n.live(now) }
	if slices.ContainsFunc(s.named(host), live) {
		return true
	}
	label, suffix, ok := strings.Cut(host, ".")
	return ok && label != "" && slices.ContainsFunc(s.named("*."+suffix), live)
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
				return &c.tls, nil
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
		return &c.file.tls, nil
	}
	l := s.find(c.Certificate, c.Rev)
	ready, err := l.get()
	if err != nil {
		s.drop(l)
	}
	return ready, err
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
	l.get = sync.OnceValues(func() (*tls.Certificate, error) { return s.build(l) })
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
func (s *Served) build(l *loaded) (*tls.Certificate, error) {
	c, _, err := s.Load(l.name)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", l.name, err)
	}
	if len(c.Chain) == 0 {
		return nil, fmt.Errorf("certificate %s is empty", l.name)
	}
	der, err := s.Sealer.Open(KeyPurpose, c.Key)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(der)
	if err != nil {
		return nil, fmt.Errorf("the key of certificate %s: %s", l.name, trim(err))
	}
	max := s.CacheBytes
	if max == 0 {
		max = 256 << 20
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	size := overhead + len(c.Chain[0])
	for i, link := range c.Chain[1:] {
		c.Chain[i+1] = s.shared(link)
	}
	if e := s.ready[l.name]; e != nil && e.Value == l {
		l.bytes = size
		s.bytes += size
	}
	for last := s.order.Back(); s.bytes > max && last != nil && last.Value != l; last = s.order.Back() {
		s.remove(last)
	}
	return &tls.Certificate{Certificate: c.Chain, PrivateKey: key}, nil
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

// KeyPurpose is what private keys of certificates and of accounts at CAs are sealed
// for: one for all, so that a key need not be opened to go from an order into its
// certificate.
const KeyPurpose = "private key"

// Leaf parses the first certificate of a chain.
func Leaf(c *fingerpost.Certificate) (*x509.Certificate, error) {
	if len(c.Chain) == 0 {
		return nil, fmt.Errorf("certificate %s is empty", c.Name)
	}
	return x509.ParseCertificate(c.Chain[0])
}
