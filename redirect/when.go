package redirect

import (
	"encoding/binary"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"

	"fingerpost"

	"github.com/cespare/xxhash/v2"
)

// The conditions of a rule, as they stand in its record: uvarint count, then
// for each its kind and operand.
const (
	whenMethods   = iota // list
	whenCountries        // list
	whenLanguages        // list, in lower case
	whenHeader           // string name, string pattern
	whenCookie           // string name, string pattern
	whenAddresses        // uvarint count, then for each: byte bits, string address
	whenPercent          // byte
	whenAfter            // uint64 Unix seconds
	whenBefore           // uint64 Unix seconds
)

func appendList(dst []byte, list []string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	for _, s := range list {
		dst = appendString(dst, s)
	}
	return dst
}

// appendWhen writes the conditions, the cheap ones first.
func appendWhen(dst []byte, w *fingerpost.When) []byte {
	count := w.Conditions()
	dst = binary.AppendUvarint(dst, uint64(count))
	if w.After != nil {
		dst = binary.LittleEndian.AppendUint64(append(dst, whenAfter), uint64(w.After.Unix()))
	}
	if w.Before != nil {
		dst = binary.LittleEndian.AppendUint64(append(dst, whenBefore), uint64(w.Before.Unix()))
	}
	if w.Methods != nil {
		dst = appendList(append(dst, whenMethods), w.Methods)
	}
	if w.Countries != nil {
		dst = appendList(append(dst, whenCountries), w.Countries)
	}
	if w.Languages != nil {
		list := make([]string, len(w.Languages))
		for i, l := range w.Languages {
			list[i] = strings.ToLower(l)
		}
		dst = appendList(append(dst, whenLanguages), list)
	}
	if w.Addresses != nil {
		dst = binary.AppendUvarint(append(dst, whenAddresses), uint64(len(w.Addresses)))
		for _, s := range w.Addresses {
			p, _ := fingerpost.ParsePrefix(s) // Parse has seen it
			dst = append(dst, byte(p.Bits()))
			dst = appendString(dst, p.Addr().AsSlice())
		}
	}
	if w.Percent != nil {
		dst = append(dst, whenPercent, byte(*w.Percent))
	}
	for _, m := range []struct {
		kind     byte
		patterns map[string]string
	}{{whenHeader, w.Header}, {whenCookie, w.Cookie}} {
		for _, name := range slices.Sorted(maps.Keys(m.patterns)) {
			dst = appendString(append(dst, m.kind), name)
			dst = appendString(dst, m.patterns[name])
		}
	}
	return dst
}

// varyOf lists the request headers that w looks at (RFC 9110 12.5.5).
func varyOf(w *fingerpost.When) string {
	if w == nil {
		return ""
	}
	var names []string
	if w.Languages != nil {
		names = append(names, "Accept-Language")
	}
	if len(w.Cookie) > 0 {
		names = append(names, "Cookie")
	}
	for _, name := range slices.Sorted(maps.Keys(w.Header)) {
		if !slices.ContainsFunc(names, func(s string) bool { return strings.EqualFold(s, name) }) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// isPrivate reports whether w looks at who the visitor is, which no cache that
// is shared can know.
func isPrivate(w *fingerpost.When) bool {
	return w != nil && (w.Countries != nil || w.Addresses != nil || w.Percent != nil)
}

// Why a candidate lost, in the words of explain.
type reason string

const (
	holds        reason = ""
	lostScheme   reason = "is for the other scheme"
	lostSlash    reason = "is strict about the final slash"
	lostRegex    reason = "the regex does not match"
	lostQuery    reason = "the query lacks"
	lostMethod   reason = "is not for this method"
	lostCountry  reason = "is not for this country"
	lostLanguage reason = "is not for this language"
	lostHeader   reason = "does not hold for the header"
	lostCookie   reason = "does not hold for the cookie"
	lostAddress  reason = "is not for this address"
	lostPercent  reason = "is for another share of the visitors"
	lostAfter    reason = "has not begun yet"
	lostBefore   reason = "is over"
	lostRank     reason = "another redirect comes first"
)

// neverExpires is the end of a rule without before.
const neverExpires = math.MaxInt64

// when evaluates the conditions at c and moves c behind them. expires is the
// instant at which the rule stops holding, in Unix seconds.
func (r *Request) when(c *cursor, rec *ruleRecord) (why reason, detail string, expires int64) {
	expires = neverExpires
	for n := c.uvarint(); n > 0; n-- {
		switch c.byte() {
		case whenAfter:
			if at := int64(c.uint64()); r.Now < at {
				return lostAfter, "", expires
			}
		case whenBefore:
			expires = int64(c.uint64())
			if r.Now >= expires {
				return lostBefore, "", expires
			}
		case whenMethods:
			if !c.listHas(func(m string) bool { return m == r.Method || m == "GET" && r.Method == "HEAD" }) {
				return lostMethod, r.Method, expires
			}
		case whenCountries:
			if !c.listHas(func(s string) bool { return s == r.Country && r.Country != "" }) {
				return lostCountry, r.Country, expires
			}
		case whenLanguages:
			lang := r.language()
			if !c.listHas(func(tag string) bool { return looksUp(lang, tag) }) {
				return lostLanguage, lang, expires
			}
		case whenAddresses:
			found := false
			for k := c.uvarint(); k > 0; k-- {
				bits := int(c.byte())
				addr, _ := netip.AddrFromSlice([]byte(c.string()))
				found = found || netip.PrefixFrom(addr, bits).Contains(r.Addr)
			}
			if !found {
				return lostAddress, "", expires
			}
		case whenPercent:
			if share(r.Addr, rec.id(c.b)) >= int(c.byte()) {
				return lostPercent, "", expires
			}
		case whenHeader:
			name, pattern := c.string(), c.string()
			if !r.headerMatches(name, pattern) {
				return lostHeader, name, expires
			}
		case whenCookie:
			name, pattern := c.string(), c.string()
			if !r.cookieMatches(name, pattern) {
				return lostCookie, name, expires
			}
		}
	}
	return holds, "", expires
}

// listHas reads a whole list and reports whether ok holds for one of it.
func (c *cursor) listHas(ok func(string) bool) bool {
	found := false
	for n := c.uvarint(); n > 0; n-- {
		s := c.string()
		found = found || ok(s)
	}
	return found
}

// language is the first language range of the request, in lower case.
func (r *Request) language() string {
	if r.Header == nil {
		return ""
	}
	for _, v := range r.Header.Values("Accept-Language") {
		v, _, _ = strings.Cut(v, ",")
		v, weight, _ := strings.Cut(v, ";")
		if v = strings.TrimSpace(v); v != "" {
			// RFC 9110 12.4.2: a weight of 0 means "not acceptable".
			if q, ok := strings.CutPrefix(strings.TrimSpace(weight), "q="); ok && strings.Trim(q, "0.") == "" {
				return ""
			}
			return strings.ToLower(v)
		}
	}
	return ""
}

// looksUp reports whether RFC 4647 3.4 lookup of a range finds tag: the range is
// shortened from its end, subtag by subtag, a single letter or digit at the new
// end going with it.
func looksUp(lang, tag string) bool {
	for lang != "" && lang != "*" {
		if lang == tag {
			return true
		}
		lang = lang[:max(strings.LastIndexByte(lang, '-'), 0)]
		if n := len(lang); n >= 2 && lang[n-2] == '-' {
			lang = lang[:n-2]
		}
	}
	return false
}

// share puts a visitor into one of a hundred parts, another one for each rule.
func share(addr netip.Addr, id string) int {
	b := addr.As16()
	var h xxhash.Digest
	h.Reset()
	h.Write(b[:])
	h.WriteString(id)
	return int(h.Sum64() % 100)
}

func (r *Request) headerMatches(name, pattern string) bool {
	if r.Header == nil {
		return false
	}
	for _, v := range r.Header.Values(name) {
		if globMatches(pattern, v) {
			return true
		}
	}
	return false
}

func (r *Request) cookieMatches(name, pattern string) bool {
	if r.Header == nil {
		return false
	}
	for _, line := range r.Header.Values("Cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			k, v, _ := strings.Cut(strings.TrimSpace(pair), "=")
			if len(v) > 1 && v[0] == '"' && v[len(v)-1] == '"' {
				v = v[1 : len(v)-1]
			}
			if k == name && globMatches(pattern, v) {
				return true
			}
		}
	}
	return false
}

// globMatches compares a text with a pattern in which * stands for any text.
func globMatches(pattern, s string) bool {
	begin, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	if !strings.HasPrefix(s, begin) {
		return false
	}
	s = s[len(begin):]
	for {
		part, more, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part) // the leftmost: it leaves most for the others
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], more
	}
}
