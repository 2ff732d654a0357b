package cert

import (
	"crypto/tls"
	"sync"
	"sync/atomic"
)

// Store serves the certificates of a folder and can read it again while they
// are being served. Its methods may be called by several goroutines at once.
type Store struct {
	dir   string
	index atomic.Pointer[Index]

	reload sync.Mutex // one Reload at a time, so that an older reading never replaces a newer one
}

// Open reads the folder dir as [Load] does; an empty dir stands for no
// certificates. The Store is there even where err is not nil, with every
// certificate that is sound: the caller decides whether to serve so.
func Open(dir string) (s *Store, warnings []error, err error) {
	s = &Store{dir: dir}
	s.index.Store(newIndex(nil))
	warnings, err = s.Reload()
	return s, warnings, err
}

// Reload reads the folder again and swaps what is served, for the handshakes
// that come after. A certificate whose files are wrong now, maybe because they
// are just being copied, stays as it was read last; the others are taken. One
// whose files are gone is dropped. If the folder cannot be read at all, nothing
// changes.
func (s *Store) Reload() (warnings []error, err error) {
	if s.dir == "" {
		return nil, nil
	}
	s.reload.Lock()
	defer s.reload.Unlock()
	x, warnings, err := load(s.dir, s.index.Load())
	if x != nil {
		s.index.Store(x)
	}
	return warnings, err
}

// Index is what is being served now.
func (s *Store) Index() *Index { return s.index.Load() }

// Certificate is [Index.Certificate] of what is being served.
func (s *Store) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.index.Load().Certificate(hello)
}

// Covers is [Index.Covers] of what is being served.
func (s *Store) Covers(host string) bool { return s.index.Load().Covers(host) }
