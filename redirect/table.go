package redirect

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"unsafe"

	"fingerpost"
)

// Table is the compiled, immutable form of all hosts and redirects: any number
// of goroutines may read it at once. It costs the garbage collector nothing,
// whatever its size, since all of it but the compiled regexes is one byte slice.
//
//	header · host blocks · pages · index of hosts
//
// A host block is the records of one host form: its paths, trie nodes and rules,
// the index that finds them, and the host's own record, which points at these.
type Table struct {
	arena   []byte
	hosts   index
	star    uint64       // the record of the host "*", or 0
	depths  uint64       // bit n: there is a wildcard with a suffix of n labels (63: or more)
	flags   uint32       // table flags
	rules   int          // number of redirects
	nhosts  int          // number of host patterns, aliases included
	regexes []lazyRegexp // by number
}

// lazyRegexp is compiled when a request first needs it, so that opening a table
// takes no time for its regexes.
type lazyRegexp struct{ p atomic.Pointer[regexp.Regexp] }

func (l *lazyRegexp) get(expr string, ignoreCase bool) *regexp.Regexp {
	if re := l.p.Load(); re != nil {
		return re
	}
	re, err := fingerpost.CompileRegex(expr, ignoreCase)
	if err != nil {
		re = neverMatches // it compiled when the table was built
	}
	l.p.Store(re)
	return re
}

var neverMatches = regexp.MustCompile(`[^\x00-\x{10FFFF}]`)

const (
	magic      = "FPTABLE1"
	headerSize = 64

	tableCountries = 1 << 0 // a rule asks for the visitor's country
	tableDeclared  = 1 << 1 // a host has settings
)

// header writes what Open reads.
func (t *Table) header() {
	b := t.arena[:headerSize]
	copy(b, magic)
	for i, v := range []uint64{t.hosts.at, t.hosts.n, t.star, t.depths, uint64(t.rules)} {
		binary.LittleEndian.PutUint64(b[8+8*i:], v)
	}
	binary.LittleEndian.PutUint32(b[48:], t.flags)
	binary.LittleEndian.PutUint32(b[52:], uint32(t.nhosts))
	binary.LittleEndian.PutUint32(b[56:], uint32(len(t.regexes)))
}

// Open makes a table of bytes that Bytes gave, without copying or parsing them:
// they must not change while the table is in use. Whether they are whole is for
// the caller to know (a checksum beside them).
func Open(b []byte) (*Table, error) {
	if len(b) < headerSize || string(b[:8]) != magic {
		return nil, fmt.Errorf("open table: not a table of this version (no %q at its start)", magic)
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8+8*i:]) }
	t := &Table{arena: b, hosts: index{word(0), word(1)}, star: word(2), depths: word(3), rules: int(word(4)),
		flags: binary.LittleEndian.Uint32(b[48:]), nhosts: int(binary.LittleEndian.Uint32(b[52:]))}
	if end := t.hosts.at + t.hosts.n*slotSize; end != uint64(len(b)) {
		return nil, fmt.Errorf("open table: %d bytes, but its header speaks of %d", len(b), end)
	}
	t.regexes = make([]lazyRegexp, binary.LittleEndian.Uint32(b[56:]))
	return t, nil
}

// Bytes is the table as bytes, for Open. They must not be changed.
func (t *Table) Bytes() []byte { return t.arena }

// Rules is the number of redirects in t.
func (t *Table) Rules() int { return t.rules }

// Hosts is the number of host patterns in t.
func (t *Table) Hosts() int { return t.nhosts }

// UsesCountries reports whether an answer can depend on Request.Country.
func (t *Table) UsesCountries() bool { return t.flags&tableCountries != 0 }

// The flags of a host's record.
const (
	hostDeclared   = 1 << iota // has settings; else it is named only by redirects
	hostQueryIndex             // some literal paths are indexed by query too
	hostExact                  // has literal paths
	hostFold                   // has literal paths that ignore case
	hostTrie                   // has patterns or prefixes
	hostFoldTrie               // has patterns or prefixes that ignore case
	hostRegex                  // has regexes
	hostDepends                // answers may vary, or be private
	hostAlias                  // nothing but another name: an offset follows the flags
)

const (
	policyAllowAll = iota
	policyRedirect
	policyHTTPSOnly
)

// The spaces of a host's own index; from spaceNode on, the literal children of
// trie node space-spaceNode.
const (
	spaceExact      = iota // path
	spaceFold              // path in lower case
	spaceExactQuery        // path, NUL, key, NUL, value
	spaceFoldQuery
	spaceNode
)

// spaceHost is the only space of the index of hosts.
const spaceHost = 0

// hostRecord is what the record of a host form says:
//
//	uvarint spaceHost · string name · uvarint flags
//	[alias] offset of the record of the host that it is served as; nothing more
//	[declared] byte policy · string HSTS · uvarint length · [fallback's record]
//	uvarint smallest rank of a rule that is not literal
//	uvarint slots, offset of the first one
//	[trie] offset · [fold trie] offset · [regex] a group
type hostRecord struct {
	at       uint64
	name     string
	flags    uint64
	policy   byte
	hsts     string
	fallback uint64 // the offset of the rule's record, or 0
	others   uint64
	index    index
	trie     uint64
	foldTrie uint64
	regexes  cursor
}

func readHost(c cursor) hostRecord {
	h := hostRecord{at: c.at}
	c.uvarint()
	h.name = c.string()
	h.flags = c.uvarint()
	if h.flags&hostDeclared != 0 {
		h.policy = c.byte()
		h.hsts = c.string()
		if n := c.uvarint(); n > 0 {
			h.fallback = c.at
			c.at += n
		}
	}
	h.others = c.uvarint()
	h.index.n = c.uvarint()
	h.index.at = c.offset()
	if h.flags&hostTrie != 0 {
		h.trie = c.offset()
	}
	if h.flags&hostFoldTrie != 0 {
		h.foldTrie = c.offset()
	}
	h.regexes = c
	return h
}

// form is one way to see a host name: the record of a pattern that it is one
// of, and how many of its bytes a wildcard took.
type form struct {
	at  uint64
	sub int
}

// forms appends the forms of host in the order in which they are asked: exact,
// then the wildcard with more labels, then "*".
func (t *Table) forms(dst []form, host string) []form {
	if host == "" {
		return dst
	}
	dst = t.appendForm(dst, host, 0)
	if t.depths != 0 && host[0] != '[' {
		// name holds "*." and the host, so that each pattern is a part of it:
		// what stands left of a suffix is not needed again.
		var buf [256]byte
		name := append(append(buf[:0], '*', '.'), host...)
		labels := strings.Count(host, ".") + 1
		for start := 0; ; labels-- { // of the suffix, in host
			if t.depths&(1<<min(labels, 63)) != 0 {
				if start > 0 {
					name[start] = '*'
					dst = t.appendForm(dst, unsafeString(name[start:]), start-1)
				}
				dst = t.appendForm(dst, unsafeString(name[start+1:]), max(start-1, 0))
			}
			dot := strings.IndexByte(host[start:], '.')
			if dot < 0 {
				break
			}
			start += dot + 1
		}
	}
	if t.star != 0 {
		dst = append(dst, form{t.star, len(host)})
	}
	return dst
}

func (t *Table) appendForm(dst []form, pattern string, sub int) []form {
	at, c, ok := t.hosts.find(t.arena, spaceHost, pattern)
	if !ok {
		return dst
	}
	if c.uvarint()&hostAlias != 0 {
		at = c.offset()
	}
	return append(dst, form{at, sub})
}

// unsafeString is b as a string, for as long as b does not change.
func unsafeString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// Serves reports whether host, as [fingerpost.ParseHost] gives it, is one of
// the names in t. The host "*" does not count: it names none.
func (t *Table) Serves(host string) bool {
	var buf [8]form
	forms := t.forms(buf[:0], host)
	return len(forms) > 0 && forms[0].at != t.star
}
