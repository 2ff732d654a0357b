package redirect

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"time"

	"fingerpost"
)

// rule is a redirect while a table is built.
type rule struct {
	source  *fingerpost.Redirect
	parsed  fingerpost.Parsed
	class   class
	rank    int
	keyHash uint64
	id      string
}

func (r *rule) strict() bool { return r.source.TrailingSlash == "strict" }

// The flags of a rule's record.
const (
	flagHTTP       = 1 << iota // only for http requests
	flagHTTPS                  // only for https requests
	flagStrict                 // a final slash must stand as in the pattern
	flagSlash                  // the pattern has a final slash
	flagID                     // has an id of its own
	flagQueryCond              // has conditions on the query
	flagWhen                   // has further conditions
	flagVaries                 // of which some depend on the request's headers
	flagPrivate                // of which some depend on the visitor
	flagExtras                 // has an age other than the default, headers or a page
	flagPlain                  // the target's base is literal
	flagToQuery                // the target has a query
	flagToFragment             // the target has a fragment
	flagDrop                   // the request's query is not added to the target's
	flagAppend                 // it is added whole, not merged
	flagRelative               // the target is a path on the same host
	flagEmptyPath              // the target has nothing behind the authority
	flagCheck                  // the Location could be the request's own URL, or a bad one
	flagRegex                  // is a regex
	flagFoldCase               // which ignores case
	flagCommon                 // the target's base is literal, and begins as those of others do

	statusShift = 24 // the rest of the word: an index into statuses
)

var statuses = [...]int{301, 302, 303, 307, 308, 404, 410, 451}

// A rule's record, as it stands in a group behind its length:
//
//	uvarint rank · uint32 flags · uint32 since
//	[flagID]         string id; without it, the uint64 hash of the key
//	[flagRegex]      string expression, string literal prefix, uvarint number
//	[flagQueryCond]  conditions on the query
//	[flagWhen]       [flagVaries: string Vary] conditions
//	[flagExtras]     uvarint age+1 · string headers · offset of the page
//	[a target]       base · [flagToQuery] query · [flagToFragment] fragment
//
// A base that is literal is a string, with flagCommon behind the offset of another one.
func (b *builder) appendRule(dst []byte, r *rule) []byte {
	src, to := r.source, &r.parsed.To
	status := src.StatusOrDefault()
	flags := uint32(slices.Index(statuses[:], status)) << statusShift
	set := func(flag uint32, on bool) {
		if on {
			flags |= flag
		}
	}
	target := src.To != ""
	extras := r.parsed.CacheAge != fingerpost.DefaultCacheAge(status) || len(src.Headers) > 0 || src.Page != ""
	vary := varyOf(src.When)
	set(flagHTTP, r.parsed.From.Scheme == "http")
	set(flagHTTPS, r.parsed.From.Scheme == "https")
	set(flagStrict, r.strict() && r.class != regex && r.parsed.From.Tail == fingerpost.TailNone)
	set(flagSlash, r.parsed.From.Slash)
	set(flagID, src.ID != "")
	set(flagQueryCond, len(r.parsed.From.Query) > 0)
	set(flagWhen, src.When.Conditions() > 0)
	set(flagVaries, vary != "")
	set(flagPrivate, isPrivate(src.When))
	set(flagExtras, extras)
	var plain []byte
	var common uint64
	if target {
		b.target = appendPlain(b.target[:0], to.Base)
		plain = b.target
		common, plain = b.common(plain)
	}
	set(flagPlain, len(plain) > 0 || common > 0)
	set(flagCommon, common > 0)
	set(flagToQuery, len(to.Query) > 0)
	set(flagToFragment, to.HasFragment)
	set(flagDrop, src.Query == "drop" || to.DropsQuery)
	set(flagAppend, src.Query == "append")
	set(flagRelative, to.Relative)
	set(flagEmptyPath, to.EmptyPath)
	set(flagCheck, target && b.needsCheck(r))
	set(flagRegex, r.class == regex)
	set(flagFoldCase, r.class == regex && src.IgnoreCase)

	dst = binary.AppendUvarint(dst, uint64(r.rank))
	dst = binary.LittleEndian.AppendUint32(dst, flags)
	dst = binary.LittleEndian.AppendUint32(dst, sinceOf(src))
	if src.ID != "" {
		dst = appendString(dst, src.ID)
	} else {
		dst = binary.LittleEndian.AppendUint64(dst, r.keyHash)
	}
	if r.class == regex {
		begin := ""
		if strings.HasPrefix(src.Regex, "^") && !src.IgnoreCase {
			begin, _ = r.parsed.Regexp.LiteralPrefix()
		}
		dst = appendString(dst, src.Regex)
		dst = appendString(dst, begin)
		dst = binary.AppendUvarint(dst, uint64(b.regexes))
		b.regexes++
	}
	if len(r.parsed.From.Query) > 0 {
		dst = binary.AppendUvarint(dst, uint64(len(r.parsed.From.Query)))
		for _, c := range r.parsed.From.Query {
			dst = appendString(dst, c.Key)
			if c.HasValue {
				dst = append(dst, 1)
				dst = appendString(dst, c.Value)
			} else {
				dst = append(dst, 0)
			}
		}
	}
	if src.When.Conditions() > 0 {
		if vary != "" {
			dst = appendString(dst, vary)
		}
		dst = appendWhen(dst, src.When)
	}
	if extras {
		dst = binary.AppendUvarint(dst, uint64(r.parsed.CacheAge+1))
		dst = appendString(dst, headerLines(src.Headers))
		dst = appendOffset(dst, b.page(src.Page))
	}
	if !target {
		return dst
	}
	if flags&flagPlain != 0 {
		if common > 0 {
			dst = appendOffset(dst, common)
		}
		dst = appendString(dst, plain)
	} else {
		dst = appendTemplate(dst, r, to.Base)
	}
	if len(to.Query) > 0 {
		dst = appendTemplate(dst, r, to.Query)
	}
	if to.HasFragment {
		dst = appendTemplate(dst, r, to.Fragment)
	}
	return dst
}

// appendPlain appends the text of parts that are all literal, else nothing.
func appendPlain(dst []byte, parts []fingerpost.Part) []byte {
	for _, p := range parts {
		if p.Literal == "" {
			return dst[:0]
		}
		dst = append(dst, p.Literal...)
	}
	return dst
}

const (
	minCommon = 12      // bytes; what stands in its place takes six
	maxCommon = 100_000 // that are looked out for
)

// common finds what a target has in common with others: all up to its last slash,
// from the second target on that begins so. Most targets of a table lead to few
// places, and with their beginnings written once it is a quarter smaller. It gives
// the offset of that text, zero where it is not worth it, and what is left.
func (b *builder) common(target []byte) (at uint64, rest []byte) {
	n := bytes.LastIndexByte(target, '/') + 1
	if n < minCommon {
		return 0, target
	}
	at, known := b.begins[string(target[:n])]
	switch {
	case at > 0:
	case known:
		at = uint64(len(b.table.arena))
		b.table.arena = appendString(b.table.arena, target[:n])
		b.begins[string(target[:n])] = at
	case len(b.begins) < maxCommon:
		b.begins[string(target[:n])] = 0
		fallthrough
	default:
		return 0, target
	}
	return at, target[n:]
}

// needsCheck reports whether an expanded target has to be looked at before it
// is sent. Not so the common one: a fixed authority other than the rule's host
// can neither be changed by a visitor nor be the request's own URL.
func (b *builder) needsCheck(r *rule) bool {
	from, to := &r.parsed.From, &r.parsed.To
	return to.Host == "" || from.Host.IsWildcard() || string(from.Host) == to.Host || b.hasAlias(from.Host)
}

// sinceOf is when a permanent redirect appeared, in Unix seconds; zero where it
// does not matter.
func sinceOf(r *fingerpost.Redirect) uint32 {
	if s := r.StatusOrDefault(); s != 301 && s != 308 {
		return 0
	}
	return unixSeconds(r.Since)
}

// unixSeconds is 0 for the zero time.
func unixSeconds(t time.Time) uint32 { return uint32(max(t.Unix(), 0)) }

func headerLines(h map[string]string) string {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		b.WriteString(name + ": " + h[name] + "\r\n")
	}
	return b.String()
}

// ruleRecord is the fixed part of a record, and where the rest begins.
type ruleRecord struct {
	rank  uint64
	flags uint32
	since uint32
	rest  uint64
}

func (r *ruleRecord) read(b []byte, at uint64) {
	c := cursor{b, at}
	r.rank = c.uvarint()
	r.flags, r.since = c.uint32(), c.uint32()
	r.rest = c.at
}

func (r *ruleRecord) status() int { return statuses[r.flags>>statusShift] }

func (r *ruleRecord) id(b []byte) string {
	c := cursor{b, r.rest}
	if r.flags&flagID != 0 {
		return c.string()
	}
	return fingerpost.DerivedID(c.uint64())
}

// behindID is a cursor behind the record's id.
func (r *ruleRecord) behindID(b []byte) cursor {
	c := cursor{b, r.rest}
	if r.flags&flagID != 0 {
		c.skip()
	} else {
		c.at += 8
	}
	return c
}

// RuleRef points at a rule of the table that gave it. The zero RuleRef points
// at none.
type RuleRef struct {
	t      *Table
	host   uint64 // of the host's record
	record uint64 // of the rule's
}

// IsZero reports whether r points at no rule.
func (r RuleRef) IsZero() bool { return r.record == 0 }

// Host is the pattern of the host form that the rule belongs to, empty for the
// zero RuleRef.
func (r RuleRef) Host() string {
	if r.IsZero() {
		return ""
	}
	name, _ := hostName(r.t.arena, r.host)
	return name
}

// ID is the rule's id, derived where the redirect has none, empty for the zero
// RuleRef and FallbackID for a host's fallback.
func (r RuleRef) ID() string {
	if r.IsZero() {
		return ""
	}
	var rec ruleRecord
	rec.read(r.t.arena, r.record)
	return rec.id(r.t.arena)
}

// isPrivate reports whether r's conditions depend on who the visitor is.
func (r RuleRef) isPrivate() bool {
	var rec ruleRecord
	rec.read(r.t.arena, r.record)
	return rec.flags&flagPrivate != 0
}

// The operations of a target's template. Captures are read off the request's
// path by the number of their segment, so that matching keeps no state.
const (
	opLiteral  = iota // string
	opSegment         // uvarint segment
	opFolder          // uvarint segment: all from there on
	opPrefix          // uvarint segment, uvarint length: all of it behind that
	opQuery           // string key
	opGroup           // uvarint group of the regex
	opSub             // byte: whether a dot follows; the labels that the host's wildcard took
	opProperty        // byte, an index into fingerpost.Properties
)

const (
	asIs = iota
	lower
	upper
	slug
)

// appendTemplate writes: uvarint count, then for each part a byte (operation,
// place, transform) and its operand.
func appendTemplate(dst []byte, r *rule, parts []fingerpost.Part) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(parts)))
	for i := range parts {
		p := parts[i]
		op, operand := operation(r, p)
		if op == opSub {
			// The dot behind :sub belongs to it: on the apex both are absent. Not so
			// behind text of the same label, where it would join two names.
			operand = []byte{0}
			begins := i > 0 && (strings.HasSuffix(parts[i-1].Literal, "/") || strings.HasSuffix(parts[i-1].Literal, "."))
			if begins && p.Place == fingerpost.InAuthority && i+1 < len(parts) && strings.HasPrefix(parts[i+1].Literal, ".") {
				operand[0] = 1
				parts = slices.Clone(parts)
				parts[i+1].Literal = parts[i+1].Literal[1:]
			}
		}
		transform := map[string]byte{"": asIs, "lower": lower, "upper": upper, "slug": slug}[p.Transform]
		dst = append(dst, byte(op)|byte(p.Place)<<3|transform<<6)
		dst = append(dst, operand...)
	}
	return dst
}

func operation(r *rule, p fingerpost.Part) (op int, operand []byte) {
	from := &r.parsed.From
	number := func(n int) []byte { return binary.AppendUvarint(nil, uint64(n)) }
	switch {
	case p.Property != "":
		return opProperty, []byte{byte(slices.Index(fingerpost.Properties, p.Property))}
	case p.Capture == "":
		return opLiteral, appendString(nil, p.Literal)
	case p.Capture == "sub":
		return opSub, nil
	case r.class == regex:
		n, err := strconv.Atoi(p.Capture)
		if err != nil {
			n = r.parsed.Regexp.SubexpIndex(p.Capture)
		}
		return opGroup, number(n)
	case p.Capture == "splat" && from.Tail == fingerpost.TailPrefix:
		return opPrefix, append(number(len(from.Segments)), number(len(from.Prefix))...)
	case p.Capture == "splat":
		return opFolder, number(len(from.Segments))
	}
	for i, seg := range from.Segments {
		if seg.Name == p.Capture {
			return opSegment, number(i)
		}
	}
	i := slices.IndexFunc(from.Query, func(c fingerpost.QueryCond) bool { return c.Name == p.Capture })
	return opQuery, appendString(nil, from.Query[i].Key)
}

// byRank sorts for the lookup: a group's rules are tried in this order.
func byRank(a, b *rule) int { return cmp.Compare(a.rank, b.rank) }
