// Package cert holds the certificates that are served and chooses one for each
// handshake.
//
// It knows PEM files, chains, server names and what a client can verify. It
// knows nothing of hosts, redirects or listeners: those who serve ask it by
// name. It never waits for anything in a handshake.
//
// Start reading at [Open], then [Load] and [Index.Certificate]. What a folder of
// certificates looks like is told at [Load].
package cert

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Certificate is one certificate with its key and chain. It is immutable.
type Certificate struct {
	Name      string   // of its files, without the ending
	File      string   // the one that holds the certificate itself
	Hosts     []string // its names: lower case, A-labels, *.example.com; IPv6 addresses in brackets
	NotBefore time.Time
	NotAfter  time.Time

	ecdsa bool
	chain [][]byte // the certificate and what is sent behind it, in DER
	spki  []byte   // its public key, within chain
	key   []byte   // in DER

	ready atomic.Pointer[tls.Certificate] // nil until it is first wanted
}

// get makes c ready for a handshake. Most certificates of many are not asked for, so
// it is done for the first client that asks. The leaf stays unparsed: it would take
// three times the memory, and a server needs nothing of it.
func (c *Certificate) get() (*tls.Certificate, error) {
	if t := c.ready.Load(); t != nil {
		return t, nil
	}
	key, err := parseKey(c.key)
	if err != nil {
		return nil, fmt.Errorf("the key of certificate %s: %s", c.Name, trim(err))
	}
	if public, err := x509.ParsePKIXPublicKey(c.spki); err != nil || !samePublicKey(public, key.Public()) {
		return nil, fmt.Errorf("certificate %s does not belong to its key", c.Name)
	}
	c.ready.CompareAndSwap(nil, &tls.Certificate{Certificate: c.chain, PrivateKey: key})
	return c.ready.Load(), nil
}

// same reports whether c and d are served alike.
func (c *Certificate) same(d *Certificate) bool {
	return c.File == d.File && bytes.Equal(c.key, d.key) && slices.EqualFunc(c.chain, d.chain, bytes.Equal)
}

// live reports whether a client whose clock is right accepts c's dates.
func (c *Certificate) live(now time.Time) bool {
	return !now.Before(c.NotBefore) && !now.After(c.NotAfter)
}

// Index finds certificates by server name. It is immutable.
type Index struct {
	all    []*Certificate            // by name
	byName map[string]*Certificate   // by file name
	exact  map[string][]*Certificate // by host; best first
	wild   map[string][]*Certificate // *.example.com under example.com; best first
	preset *Certificate              // for clients that send no server name; nil only if all is empty
}

// newIndex arranges all. Of several certificates with the same name ECDSA comes
// before RSA, whose signatures cost a server twenty times as much, and among
// those the one that is valid longest.
func newIndex(all []*Certificate) *Index {
	x := &Index{
		all:    all,
		byName: make(map[string]*Certificate, len(all)),
		exact:  make(map[string][]*Certificate, len(all)),
		wild:   map[string][]*Certificate{},
	}
	slices.SortFunc(x.all, func(a, b *Certificate) int { return strings.Compare(a.Name, b.Name) })
	ones := make([]*Certificate, 0, len(all)) // most lists have one entry: they are pieces of this
	add := func(names map[string][]*Certificate, host string, c *Certificate) {
		if list := names[host]; list != nil {
			names[host] = append(list, c)
			return
		}
		ones = append(ones, c)
		names[host] = ones[len(ones)-1 : len(ones) : len(ones)]
	}
	for _, c := range x.all {
		x.byName[c.Name] = c
		for _, host := range c.Hosts {
			if suffix, ok := strings.CutPrefix(host, "*."); ok {
				add(x.wild, suffix, c)
			} else {
				add(x.exact, host, c)
			}
		}
	}
	for _, names := range []map[string][]*Certificate{x.exact, x.wild} {
		for _, list := range names {
			slices.SortStableFunc(list, func(a, b *Certificate) int {
				if a.ecdsa != b.ecdsa {
					if a.ecdsa {
						return -1
					}
					return 1
				}
				return cmp.Compare(b.NotAfter.UnixNano(), a.NotAfter.UnixNano())
			})
		}
	}
	if c, ok := x.byName["default"]; ok {
		x.preset = c
	} else if len(x.all) > 0 {
		x.preset = x.all[0]
	}
	return x
}

// Certificate is for tls.Config.GetCertificate: the certificate for the name
// that the client asks for. An exact name wins over a wildcard, a certificate
// within its dates over any other, and then the first that the client can
// verify. A client that sends no name gets the certificate of default.*, else
// the first by file name. For a name that no certificate has, the result is
// (nil, nil): crypto/tls then sends unrecognized_name (RFC 6066 3), where an
// error would send internal_error.
func (x *Index) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if hello.ServerName == "" {
		if x.preset == nil {
			return nil, nil
		}
		return x.preset.get()
	}
	exact, wild := x.find(strings.ToLower(hello.ServerName))
	now := time.Now()
	var fallback *tls.Certificate // a client that can verify none, or an expired one, shall see the best of them
	var failed error
	anyName := *hello // what is for the host was found by its names
	anyName.ServerName = ""
	for _, live := range []bool{true, false} {
		for _, list := range [][]*Certificate{exact, wild} {
			for _, c := range list {
				if c.live(now) != live {
					continue
				}
				ready, err := c.get()
				if err != nil {
					failed = err
					continue
				}
				if anyName.SupportsCertificate(ready) == nil {
					return ready, nil
				}
				if fallback == nil {
					fallback = ready
				}
			}
		}
		if fallback != nil {
			return fallback, nil
		}
	}
	return nil, failed
}

// find gives the certificates for host by its exact name and by the wildcard
// above it, which stands for one label (RFC 6125 6.4.3).
func (x *Index) find(host string) (exact, wild []*Certificate) {
	exact = x.exact[host]
	if label, suffix, ok := strings.Cut(host, "."); ok && label != "" {
		wild = x.wild[suffix]
	}
	return exact, wild
}

// Covers reports whether a certificate within its dates is being served for
// host, in the form that fingerpost.ParseHost gives.
func (x *Index) Covers(host string) bool {
	exact, wild := x.find(host)
	if len(exact) == 0 && len(wild) == 0 {
		return false
	}
	now := time.Now()
	live := func(c *Certificate) bool { return c.live(now) }
	return slices.ContainsFunc(exact, live) || slices.ContainsFunc(wild, live)
}

// CoversUntil reports whether a certificate is being served for name, a host or a
// wildcard as it stands in a certificate, that is within its dates now and at end.
func (x *Index) CoversUntil(name string, end time.Time) bool {
	exact, wild := x.find(name) // of *.example.com the latter
	now := time.Now()
	lasts := func(c *Certificate) bool { return c.live(now) && c.live(end) }
	return slices.ContainsFunc(exact, lasts) || slices.ContainsFunc(wild, lasts)
}

// Named gives the certificate whose files have that name, without their ending;
// nil if there is none. It is what `certificate: NAME` of a host means.
func (x *Index) Named(name string) *Certificate { return x.byName[name] }

// All gives the certificates by name. The caller does not change the slice.
func (x *Index) All() []*Certificate { return x.all }

// Len is the number of certificates.
func (x *Index) Len() int { return len(x.all) }

// FirstExpiry is when the first of the certificates expires, the zero time if
// there are none.
func (x *Index) FirstExpiry() time.Time {
	var first time.Time
	for _, c := range x.all {
		if first.IsZero() || c.NotAfter.Before(first) {
			first = c.NotAfter
		}
	}
	return first
}

// hosts gives the names of a certificate in the form of Certificate.Hosts. The
// common name is not one of them: no client looks at it (RFC 9525 2).
func hosts(leaf *x509.Certificate) []string {
	var names []string
	for _, name := range leaf.DNSNames {
		names = append(names, strings.TrimSuffix(strings.ToLower(name), "."))
	}
	for _, ip := range leaf.IPAddresses {
		if addr, ok := netip.AddrFromSlice(ip); ok {
			if addr = addr.Unmap(); addr.Is6() {
				names = append(names, "["+addr.String()+"]")
			} else {
				names = append(names, addr.String())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func isECDSA(leaf *x509.Certificate) bool {
	_, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	return ok
}
