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
//	header · host blocks · pages · index
//
// A host block is the records of one host form: its paths, trie nodes and rules,
// and the host's own record behind them. One index finds all of them, by keys
// that are known from the request alone: where a path stands does not wait for
// where its host stands.
//
// A table may be a layer over another one: it then holds a few hosts anew, and
// the names of those that are gone; what it does not know is the base's.
type Table struct {
	arena   []byte
	base    *Table // nil but for a layer
	index   index
	depths  uint64                          // bit n: there is a wildcard with a suffix of n labels (63: or more), here or below
	flags   uint32                          // table flags, of the base too
	rules   int                             // number of redirects
	nhosts  int                             // number of host patterns, aliases included
	regexes []atomic.Pointer[regexp.Regexp] // by number
}

// lazyRegexp is compiled when a request first needs it, so that opening a table
// takes no time for its regexes.
type lazyRegexp struct {
	at   *atomic.Pointer[regexp.Regexp]
	expr string
	fold bool // ignore case
}

func (l lazyRegexp) get() *regexp.Regexp {
	if re := l.at.Load(); re != nil {
		return re
	}
	re, err := fingerpost.CompileRegex(l.expr, l.fold)
	if err != nil {
		re = neverMatches // it compiled when the table was built
	}
	l.at.Store(re)
	return re
}

// readRegexp reads the regex of a rule's record: itself, and a text that every
// path which it matches begins with.
func (t *Table) readRegexp(c *cursor, flags uint32) (re lazyRegexp, begin string) {
	re = lazyRegexp{expr: c.string(), fold: flags&flagFoldCase != 0}
	begin = c.string()
	re.at = &t.regexes[c.uvarint()]
	return re, begin
}

var neverMatches = regexp.MustCompile(`[^\x00-\x{10FFFF}]`)

const (
	magic      = "FPTABLE3"
	headerSize = 64

	tableCountries = 1 << 0 // a rule asks for the visitor's country
	tableDeclared  = 1 << 1 // a host has settings
	tableStar      = 1 << 2 // there is a host "*"
)

// header writes what Open reads.
func (t *Table) header() {
	b := t.arena[:headerSize]
	copy(b, magic)
	for i, v := range []uint64{t.index.at, t.index.n, t.depths, uint64(t.rules)} {
		binary.LittleEndian.PutUint64(b[8+8*i:], v)
	}
	binary.LittleEndian.PutUint32(b[40:], t.flags)
	binary.LittleEndian.PutUint32(b[44:], uint32(t.nhosts))
	binary.LittleEndian.PutUint32(b[48:], uint32(len(t.regexes)))
}

// Open makes a table of bytes that Bytes gave, without copying or parsing them:
// they must not change while the table is in use. Whether they are whole is for
// the caller to know (a checksum beside them).
func Open(b []byte) (*Table, error) {
	if len(b) < headerSize || string(b[:8]) != magic {
		return nil, fmt.Errorf("open table: not a table of this version (no %q at its start)", magic)
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8+8*i:]) }
	t := &Table{arena: b, index: index{word(0), word(1)}, depths: word(2), rules: int(word(3)),
		flags: binary.LittleEndian.Uint32(b[40:]), nhosts: int(binary.LittleEndian.Uint32(b[44:]))}
	size := uint64(len(b))
	if at, n := t.index.at, t.index.n; at < headerSize || at > size || n < minBuckets || n > size || at+n*cacheLine != size {
		return nil, fmt.Errorf("open table: its header does not fit its %d bytes", size)
	}
	if regexes := binary.LittleEndian.Uint32(b[48:]); word(3) > size || uint64(regexes) > word(3) {
		return nil, fmt.Errorf("open table: its header counts %d redirects and %d regexes", word(3), regexes)
	}
	t.regexes = make([]atomic.Pointer[regexp.Regexp], binary.LittleEndian.Uint32(b[48:]))
	return t, nil
}

// Bytes is the table as bytes, for Open. They must not be changed.
func (t *Table) Bytes() []byte { return t.arena }

// Rules is the number of redirects in t, without those of a base.
func (t *Table) Rules() int { return t.rules }

// Hosts is the number of host patterns in t, without those of a base.
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
	hostGone                   // in a layer: the base's host is no more; nothing follows
	hostCert                   // names the certificate that it is to be served with
)

const (
	policyAllowAll = iota
	policyRedirect
	policyHTTPSOnly
)

const hostPatterns = hostTrie | hostFoldTrie | hostRegex // rules that are not literal

// The owners of keys. A host has as many as there are spaces, a trie node has
// one for its literal children; ownerHosts is that of the hosts themselves.
const (
	ownerHosts = 0

	spaceExact      = iota - 1 // path
	spaceFold                  // path in lower case
	spaceExactQuery            // path, NUL, key, NUL, value
	spaceFoldQuery
	spaces
)

// hashIn is the hash of a key in a space of a host.
func hashIn(host uint64, space uint64, key uint64) uint64 {
	return mix(host+space*0xBF58476D1CE4E5B9, key)
}

// hostRecord is the record of a host form. What a literal path needs comes
// first and is read at once, the rest where it is asked for:
//
//	uvarint ownerHosts · string name · uvarint flags
//	[alias] offset of the record of the host that it is served as; nothing more
//	uvarint first owner number
//	[certificate] string
//	[declared] uvarint length · settings: byte policy · uint32 since · string HSTS · [fallback's record]
//	[patterns] uvarint smallest rank · [trie] offset · [fold trie] offset · [regex] group
type hostRecord struct {
	at    uint64
	flags uint64
	owner uint64
	names uint64 // behind the owner number: the certificate's name, if it has one
	rest  uint64 // behind that
}

func (h *hostRecord) read(b []byte, f form) {
	c := cursor{b, f.body}
	h.at, h.flags, h.owner = f.at, c.uvarint(), c.uvarint()
	h.names = c.at
	if h.flags&hostCert != 0 {
		c.skip()
	}
	h.rest = c.at
}

// hostName is the name of the host form whose record is at an offset, and the
// offset of what stands behind it.
func hostName(b []byte, at uint64) (name string, body uint64) {
	c := cursor{b, at + 1} // behind ownerHosts
	name = c.string()
	return name, c.at
}

// settings are those of a declared host.
type settings struct {
	policy   byte
	since    uint32 // when the host appeared, in Unix seconds, or 0
	hsts     string
	fallback uint64 // the offset of the rule's record, or 0
}

func (h *hostRecord) settings(b []byte) (s settings) {
	c := cursor{b, h.rest}
	if h.flags&hostDeclared == 0 {
		return s
	}
	n := c.uvarint()
	end := c.at + n
	s.policy, s.since, s.hsts = c.byte(), c.uint32(), c.string()
	if c.at < end {
		s.fallback = c.at
	}
	return s
}

// patterns are the places of the rules that are not literal.
type patterns struct {
	rank     uint64 // the smallest of them all
	trie     uint64
	foldTrie uint64
	regexes  uint64
}

func (h *hostRecord) patterns(b []byte) (p patterns) {
	c := cursor{b, h.rest}
	if h.flags&hostDeclared != 0 {
		c.skip()
	}
	p.rank = c.uvarint()
	if h.flags&hostTrie != 0 {
		p.trie = c.offset()
	}
	if h.flags&hostFoldTrie != 0 {
		p.foldTrie = c.offset()
	}
	p.regexes = c.at
	return p
}

// form is one way to see a host name: the record of a pattern that it is one
// of and the table that holds it, what stands behind that record's name, the
// name's hash, and how many bytes a wildcard took.
type form struct {
	t    *Table
	at   uint64
	body uint64
	hash uint64
	sub  int
}

// forms appends the forms of host, whose probe has begun, in the order in which
// they are asked: exact, then the wildcard with more labels, then "*".
func (t *Table) forms(dst []form, host string, p probe) []form {
	if host == "" {
		return dst
	}
	dst = t.appendForm(dst, host, p, 0)
	if t.depths != 0 && host[0] != '[' {
		dst = t.appendWildcards(dst, host)
	}
	if t.flags&tableStar != 0 {
		dst = t.appendForm(dst, "*", t.index.begin(t.arena, starHash), len(host))
	}
	return dst
}

var starHash = hashString("*")

func (t *Table) appendWildcards(dst []form, host string) []form {
	// name holds "*." and the host, so that each pattern is a part of it: what
	// stands left of a suffix is not needed again.
	var buf [256]byte
	name := append(append(buf[:0], '*', '.'), host...)
	labels := strings.Count(host, ".") + 1
	for start := 0; ; labels-- { // of the suffix, in host
		if t.depths&(1<<min(labels, 63)) != 0 {
			if start > 0 {
				name[start] = '*'
				pattern := unsafeString(name[start:])
				dst = t.appendForm(dst, pattern, t.index.begin(t.arena, hashString(pattern)), start-1)
			}
			pattern := unsafeString(name[start+1:])
			dst = t.appendForm(dst, pattern, t.index.begin(t.arena, hashString(pattern)), max(start-1, 0))
		}
		dot := strings.IndexByte(host[start:], '.')
		if dot < 0 {
			return dst
		}
		start += dot + 1
	}
}

func (t *Table) appendForm(dst []form, pattern string, p probe, sub int) []form {
	at, c, ok := t.index.find(t.arena, p, ownerHosts, pattern)
	if !ok {
		if t.base == nil {
			return dst
		}
		return t.base.appendForm(dst, pattern, t.base.index.begin(t.base.arena, p.hash), sub)
	}
	f := form{t, at, c.at, p.hash, sub}
	switch flags := c.uvarint(); {
	case flags&hostGone != 0:
		return dst
	case flags&hostAlias != 0:
		f.at = c.offset()
		var name string
		name, f.body = hostName(t.arena, f.at)
		f.hash = hashString(name)
	}
	return append(dst, f)
}

// unsafeString is b as a string, for as long as b does not change.
func unsafeString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// Serves reports whether host, as [fingerpost.ParseHost] gives it, is one of
// the names in t. The host "*" does not count: it names none.
func (t *Table) Serves(host string) bool {
	var buf [8]form
	forms := t.forms(buf[:0], host, t.index.begin(t.arena, hashString(host)))
	return len(forms) > 0 && (forms[0].hash != starHash || forms[0].sub == 0)
}

// Certificate is the name of the certificate that the settings of host, as
// [fingerpost.ParseHost] gives it, ask for; empty where they leave the choice, or want
// none. Those of the most specific form count.
func (t *Table) Certificate(host string) string {
	var buf [8]form
	for _, f := range t.forms(buf[:0], host, t.index.begin(t.arena, hashString(host))) {
		var h hostRecord
		h.read(f.t.arena, f)
		switch {
		case h.flags&hostCert != 0:
			c := cursor{f.t.arena, h.names}
			return strings.Clone(c.string())
		case h.flags&hostDeclared != 0:
			return ""
		}
	}
	return ""
}
