package redirect

import (
	"encoding/binary"
	"sort"
	"strings"

	"fingerpost"
)

// Answer fills a with the answer to r. It allocates nothing where no rule that
// it meets has regexes or conditions, and a has been used before.
//
// The order is that of a request's way: method, host, https policy, redirects,
// fallback.
func (t *Table) Answer(r *Request, a *Answer) {
	m := matcher{top: t, t: t, r: r, a: a}
	m.answer()
}

// matcher is one request on its way through a table.
type matcher struct {
	top *Table // that was asked
	t   *Table // that holds the form in hand: top, or one below it
	r   *Request
	a   *Answer

	path  string // normalised, without a final slash; "/" for the root
	lower string // path in lower case, made when a rule first asks for it
	slash bool   // whether there was a final slash

	pathHash uint64
	early    probe // of path on the exact form of the host, in top

	form  form
	host  hostRecord
	best  candidate
	limit uint64 // no rule of this rank or a larger one can win any more

	private bool
	trace   *Trace // nil but for Explain
}

// candidate is a rule that holds.
type candidate struct {
	ruleRecord
	at      uint64 // of its record
	target  uint64 // in the record, behind the conditions
	expires int64
}

// dependency is a rule whose conditions the answer depends on, whether it holds
// or not.
type dependency struct {
	rank    uint64
	vary    string
	private bool
}

func (m *matcher) answer() {
	a, r := m.a, m.r
	a.reset()
	switch r.Method {
	case "CONNECT":
		a.Kind, a.Status = BadMethod, 400
		return
	case "TRACE":
		a.Kind, a.Status = BadMethod, 405
		return
	}
	m.path, m.slash = r.Path.Norm, false
	if n := len(m.path); n > 1 && m.path[n-1] == '/' {
		m.path, m.slash = m.path[:n-1], true
	}
	// Where a literal path stands does not wait for where its host stands: both
	// lookups begin before either is needed.
	hostHash := hashString(r.Host)
	host := m.t.index.begin(m.t.arena, hostHash)
	m.pathHash = hashString(m.path)
	m.early = m.t.index.begin(m.t.arena, hashIn(hostHash, spaceExact, m.pathHash))
	a.forms = m.t.forms(a.forms, r.Host, host)
	if len(a.forms) == 0 {
		a.Kind, a.Status = UnknownHost, 404
		if r.HTTPS {
			a.Status = 421
		}
		return
	}
	if m.t.flags&tableDeclared != 0 && m.policy() {
		return
	}
	for _, f := range a.forms {
		m.form, m.t = f, f.t
		m.host.read(m.t.arena, f)
		if m.match() {
			a.Kind = ByRule
			m.render()
			return
		}
		if at := m.host.settings(m.t.arena).fallback; at != 0 {
			a.Kind = ByFallback
			m.best = candidate{at: at, expires: neverExpires}
			m.best.read(m.t.arena, at)
			m.best.target = m.best.behindID(m.t.arena).at
			m.render()
			return
		}
	}
	a.Kind, a.Status = NotFound, 404
	m.cacheControl(fingerpost.CacheNone)
}

// policy applies the settings of the most specific form that has any: HSTS, and
// the https policy (the table of viewer protocol policies: GET and HEAD are
// redirected by 301, other methods by 307, which keeps method and body, but not
// below HTTP/1.1, where 307 is unknown).
func (m *matcher) policy() (done bool) {
	a, r := m.a, m.r
	for _, f := range a.forms {
		m.t = f.t
		h := &m.host
		h.read(m.t.arena, f)
		if h.flags&hostDeclared == 0 {
			continue
		}
		s := h.settings(m.t.arena)
		switch {
		case r.HTTPS:
			a.HSTS = s.hsts
			return false
		case s.policy == policyHTTPSOnly:
			a.Kind, a.Status = Forbidden, 403
			return true
		case s.policy == policyRedirect && r.Covered != nil && r.Covered(r.Host):
			a.Kind, a.Status = Upgrade, 301
			if r.Method != "GET" && r.Method != "HEAD" {
				if a.Status = 307; r.HTTP10 {
					a.Kind, a.Status = Forbidden, 403
					return true
				}
			}
			a.Location = appendUpgrade(a.Location, r)
			m.best = candidate{ruleRecord: ruleRecord{since: s.since}, expires: neverExpires}
			m.cacheControl(fingerpost.DefaultCacheAge(a.Status))
			return true
		}
		return false
	}
	return false
}

// match finds the best rule of the form in hand.
func (m *matcher) match() bool {
	h := &m.host
	m.limit = noLimit
	m.a.depends = m.a.depends[:0]
	if h.flags&hostExact != 0 {
		m.literals(spaceExact, m.path, m.pathHash)
	}
	if h.flags&hostFold != 0 {
		m.literals(spaceFold, m.folded(), hashString(m.folded()))
	}
	if h.flags&hostPatterns != 0 {
		m.patterns(h.patterns(m.t.arena))
	}
	for _, d := range m.a.depends {
		if d.rank <= m.limit { // no rule behind the winner had a say
			m.private = m.private || d.private
			m.a.Vary = addVary(m.a.Vary, d.vary)
		}
	}
	return m.limit != noLimit
}

const noLimit = 1<<63 - 1

// patterns tries the rules that are not literal.
func (m *matcher) patterns(p patterns) {
	if p.rank >= m.limit && m.trace == nil {
		return
	}
	if m.host.flags&hostTrie != 0 {
		m.walk(cursor{m.t.arena, p.trie}, m.segments(m.path))
	}
	if m.host.flags&hostFoldTrie != 0 {
		m.walk(cursor{m.t.arena, p.foldTrie}, m.segments(m.folded()))
	}
	if m.host.flags&hostRegex != 0 {
		m.group(cursor{m.t.arena, p.regexes})
	}
}

func (m *matcher) folded() string {
	if m.lower == "" {
		m.lower = lowerASCII(m.path)
	}
	return m.lower
}

func lowerASCII(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return strings.ToLower(s)
		}
	}
	return s
}

// segments is a path as walk takes it: "/a/b", or nothing for the root.
func (m *matcher) segments(path string) string {
	if path == "/" {
		return ""
	}
	return path
}

// literals tries the rules of one literal path.
func (m *matcher) literals(space uint64, path string, hash uint64) {
	c, ok := m.find(space, path, hash)
	if !ok {
		return
	}
	indexed := c.byte() != 0
	m.group(c)
	if !indexed {
		return
	}
	if m.trace != nil {
		c.skip()
		for n := c.uvarint(); n > 0; n-- {
			record := cursor{b: c.b, at: c.offset()}
			record.uvarint()
			record.string()
			m.group(record)
		}
		return
	}
	for pair := range strings.SplitSeq(m.r.Query, "&") {
		if pair == "" {
			continue
		}
		key, value, _ := strings.Cut(pair, "=")
		m.a.scratch = appendQueryKey(m.a.scratch[:0], path, fingerpost.UnescapeQuery(key), fingerpost.UnescapeQuery(value))
		full := unsafeString(m.a.scratch)
		if c, ok := m.find(space+spaceExactQuery, full, hashString(full)); ok {
			m.group(c)
		}
	}
}

// find looks a key of the host form in hand up.
func (m *matcher) find(space uint64, key string, hash uint64) (cursor, bool) {
	hash = hashIn(m.form.hash, space, hash)
	p := m.early
	if hash != p.hash || m.t != m.top {
		p = m.t.index.begin(m.t.arena, hash)
	}
	_, c, ok := m.t.index.find(m.t.arena, p, m.host.owner+space, key)
	return c, ok
}

// walk tries the patterns and prefixes at and below a node; rest is what of the
// path is still to be compared.
func (m *matcher) walk(c cursor, rest string) {
	owner, flags := c.uvarint(), c.byte()
	if rank := c.uvarint(); rank >= m.limit && m.trace == nil {
		return
	}
	var name uint64
	if flags&nodeName != 0 {
		name = c.offset()
	}
	ends, folders := c, c
	if flags&nodeEnds != 0 {
		c.skip()
		folders = c
	}
	if flags&nodeFolders != 0 {
		c.skip()
	}
	if rest == "" {
		if flags&nodeEnds != 0 {
			m.group(ends)
		}
		if flags&nodeFolders != 0 {
			m.group(folders)
		}
		return
	}
	seg, below := rest[1:], ""
	if i := strings.IndexByte(seg, '/'); i >= 0 {
		seg, below = seg[:i], seg[i:]
	}
	if flags&nodeChildren != 0 {
		p := m.t.index.begin(m.t.arena, mix(owner, hashString(seg)))
		if _, child, ok := m.t.index.find(m.t.arena, p, owner, seg); ok {
			m.walk(child, below)
		}
	}
	if name != 0 {
		m.walk(cursor{m.t.arena, name}, below)
	}
	if flags&nodeFolders != 0 {
		m.group(folders)
	}
	if flags&nodePrefixes != 0 {
		m.prefixes(c, seg)
	}
}

// prefixes tries the rules of every prefix of seg, from a table of prefixes.
func (m *matcher) prefixes(c cursor, seg string) {
	b := m.t.arena
	n := int(c.uvarint())
	entry := func(i int) cursor { return cursor{b, c.at + uint64(i)*prefixEntry} }
	record := func(i int) cursor {
		e := entry(i)
		return cursor{b, e.offset()}
	}
	// The last text that is not behind seg: all of seg's prefixes are on its
	// chain of parents, itself included.
	i := sort.Search(n, func(i int) bool { r := record(i); return r.string() > seg }) - 1
	for i >= 0 {
		r := record(i)
		if strings.HasPrefix(seg, r.string()) {
			m.group(r)
		}
		i = int(binary.LittleEndian.Uint32(b[entry(i).at+offsetSize:])) - 1
	}
}

// group tries the rules of one place.
func (m *matcher) group(c cursor) {
	n := c.uvarint()
	for end := c.at + n; c.at < end; {
		n := c.uvarint()
		m.try(c.at)
		c.at += n
	}
}

// try makes the rule at an offset the best one if it is better than that and
// holds.
func (m *matcher) try(at uint64) {
	cand := candidate{at: at, expires: neverExpires}
	cand.read(m.t.arena, at)
	if cand.rank >= m.limit && m.trace == nil {
		return
	}
	why, detail := m.holds(&cand)
	if m.trace != nil {
		m.trace.candidate(m, &cand, why, detail)
	}
	if why == holds && cand.rank < m.limit {
		m.best, m.limit = cand, cand.rank
	}
}

// holds decides whether a rule whose path fits is for this request, and leaves
// the cursor behind its conditions.
func (m *matcher) holds(cand *candidate) (reason, string) {
	r, flags := m.r, cand.flags
	switch {
	case flags&flagHTTP != 0 && r.HTTPS, flags&flagHTTPS != 0 && !r.HTTPS:
		return lostScheme, ""
	}
	c := cand.behindID(m.t.arena)
	if flags&flagRegex != 0 {
		re, begin := m.t.readRegexp(&c, flags)
		if !strings.HasPrefix(r.Path.Norm, begin) || !re.get().MatchString(r.Path.Norm) {
			return lostRegex, ""
		}
	} else if flags&flagStrict != 0 && (flags&flagSlash != 0) != m.slash {
		return lostSlash, ""
	}
	if flags&flagQueryCond != 0 {
		for n := c.uvarint(); n > 0; n-- {
			key := c.string()
			value, given := "", c.byte() != 0
			if given {
				value = c.string()
			}
			if !queryHas(r.Query, key, value, given) {
				return lostQuery, key
			}
		}
	}
	if flags&flagWhen != 0 {
		if flags&(flagVaries|flagPrivate) != 0 {
			d := dependency{rank: cand.rank, private: flags&flagPrivate != 0}
			if flags&flagVaries != 0 {
				d.vary = c.string()
			}
			m.a.depends = append(m.a.depends, d)
		}
		why, detail, expires := r.when(&c, &cand.ruleRecord)
		if why != holds {
			return why, detail
		}
		cand.expires = expires
	}
	cand.target = c.at
	return holds, ""
}
