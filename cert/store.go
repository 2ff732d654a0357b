package cert

import (
	"crypto/tls"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Store serves the certificates of a folder and can read it again while they
// are being served. Its methods may be called by several goroutines at once.
type Store struct {
	dir     string
	index   atomic.Pointer[Index]
	issuers issuers

	reload sync.Mutex // one reading at a time, so that an older one never replaces a newer one; guards what follows
	groups []group    // as they were read last, in the order of their names; nil until then
	unread error      // why the folder could not be read
}

func newStore(dir string) *Store {
	s := &Store{dir: dir}
	s.index.Store(newIndex(nil))
	return s
}

// Open reads the folder dir as [Load] does; an empty dir stands for no
// certificates. The Store is there even where err is not nil, with every
// certificate that is sound: the caller decides whether to serve so.
//
// Of ten thousand certificates most of the time would go into their keys, so Open
// believes what a key says about itself, and leaves signatures within chains alone.
// The first Reload does what is left; a key is also checked before its first use.
func Open(dir string) (s *Store, warnings []error, err error) {
	s = newStore(dir)
	if dir == "" {
		return s, nil, nil
	}
	_, warnings, err = s.read(true)
	return s, warnings, err
}

// Reload looks whether files have changed, reads those, and swaps what is served,
// for the handshakes that come after. A certificate whose files are wrong now, maybe
// because they are just being copied, stays as it was read last; the others are
// taken. One whose files are gone is dropped. If the folder cannot be read at all,
// nothing changes.
//
// changed tells whether something else is served, or something else wrong, than
// before; warnings and err are about all files, whenever they were read.
func (s *Store) Reload() (changed bool, warnings []error, err error) {
	if s.dir == "" {
		return false, nil, nil
	}
	return s.read(false)
}

func (s *Store) read(quick bool) (changed bool, warnings []error, err error) {
	s.reload.Lock()
	defer s.reload.Unlock()
	groups, err := listFolder(s.dir)
	if err != nil {
		changed = s.unread == nil || s.unread.Error() != err.Error()
		s.unread = err
		return changed, nil, err
	}
	workers := 1 // beside visitors
	if s.groups == nil {
		workers = runtime.GOMAXPROCS(0)
	}
	var wg sync.WaitGroup
	next := make(chan int, len(groups))
	for i := range groups {
		next <- i
	}
	close(next)
	for range workers {
		wg.Go(func() {
			var buf []byte
			for i := range next {
				g := &groups[i]
				if last := findGroup(s.groups, g.name); last != nil && g.stands(s.dir, last) {
					*g = *last
					continue
				}
				g.quick = quick
				g.read(s.dir, &s.issuers, &buf)
				runtime.Gosched() // visitors come first
			}
		})
	}
	wg.Wait()

	before, served := s.groups, s.index.Load()
	s.groups = groups
	all := make([]*Certificate, 0, len(groups))
	changed = len(groups) != len(before) || s.unread != nil
	s.unread = nil
	var errs []error
	for i := range groups {
		g := &groups[i]
		c, last := g.cert, served.byName[g.name]
		switch {
		case g.err != nil:
			errs = append(errs, g.err)
			if c = last; c != nil {
				if _, err := c.get(); err != nil { // it was never good, only believed
					c = nil
				}
			}
		case last != nil && last.same(c):
			c, g.cert = last, last
		}
		if c != nil {
			all = append(all, c)
		}
		warnings = append(warnings, g.warnings...)
		changed = changed || c != last || !g.saysAs(findGroup(before, g.name))
	}
	if changed {
		s.index.Store(newIndex(all))
	}
	return changed, warnings, errors.Join(errs...)
}

func findGroup(groups []group, name string) *group {
	i, ok := slices.BinarySearchFunc(groups, name, func(g group, name string) int { return strings.Compare(g.name, name) })
	if !ok {
		return nil
	}
	return &groups[i]
}

// saysAs reports whether what is wrong with g is what was wrong before.
func (g *group) saysAs(before *group) bool {
	if before == nil || (g.err == nil) != (before.err == nil) || g.err != nil && g.err.Error() != before.err.Error() {
		return false
	}
	return slices.EqualFunc(g.warnings, before.warnings, func(a, b error) bool { return a.Error() == b.Error() })
}

// Index is what is being served now.
func (s *Store) Index() *Index { return s.index.Load() }

// Certificate is [Index.Certificate] of what is being served.
func (s *Store) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.index.Load().Certificate(hello)
}

// Covers is [Index.Covers] of what is being served.
func (s *Store) Covers(host string) bool { return s.index.Load().Covers(host) }
