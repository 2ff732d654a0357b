package fingerpost

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Redirect is one rule: who asks for From (and holds When) is sent To.
type Redirect struct {
	ID            string            `json:"id,omitempty"`            // stable; see Key for the one derived where absent
	From          string            `json:"from"`                    // as ParseFrom reads it
	Regex         string            `json:"regex,omitempty"`         // RE2 on the normalised path; From then holds only the host
	To            string            `json:"to,omitempty"`            // as ParseTo reads it
	Status        int               `json:"status,omitempty"`        // default 301; 404, 410 and 451 go without To
	Query         string            `json:"query,omitempty"`         // merge (default), append or drop
	Cache         string            `json:"cache,omitempty"`         // a duration, or off; see CacheAge
	Headers       map[string]string `json:"headers,omitempty"`       // added to the answer
	When          *When             `json:"when,omitempty"`          // further conditions; all must hold
	Priority      int               `json:"priority,omitempty"`      // higher wins before all else is compared
	IgnoreCase    bool              `json:"ignoreCase,omitempty"`    // A-Z and a-z are one in the path
	TrailingSlash string            `json:"trailingSlash,omitempty"` // ignore (default) or strict
	Enabled       *bool             `json:"enabled,omitempty"`       // default true
	Page          string            `json:"page,omitempty"`          // HTML for 404, 410, 451; in a file, the name of a file beside it
	Tags          []string          `json:"tags,omitempty"`
	Note          string            `json:"note,omitempty"`
	Tests         []Case            `json:"tests,omitempty"`

	Source Position  `json:"-"` // where it was written
	Since  time.Time `json:"-"` // when it first appeared; zero if unknown
}

// When are conditions beside host, path and query. All that are given must hold.
type When struct {
	Methods   []string          `json:"methods,omitempty"`   // GET covers HEAD
	Countries []string          `json:"countries,omitempty"` // ISO 3166-1 alpha-2, of the client's address
	Languages []string          `json:"languages,omitempty"` // RFC 4647 lookup on the first range of Accept-Language
	Header    map[string]string `json:"header,omitempty"`    // "*" present, else equal, * in it standing for any text
	Cookie    map[string]string `json:"cookie,omitempty"`    // as Header
	Addresses []string          `json:"addresses,omitempty"` // of the client: addresses or CIDR prefixes
	Percent   *int              `json:"percent,omitempty"`   // 0 to 100, a share of the visitors by address
	After     *time.Time        `json:"after,omitempty"`     // not before this instant
	Before    *time.Time        `json:"before,omitempty"`    // before this instant
}

// Conditions counts what w asks for: each header and cookie is one.
func (w *When) Conditions() int {
	if w == nil {
		return 0
	}
	n := len(w.Header) + len(w.Cookie)
	for _, given := range []bool{w.Methods != nil, w.Countries != nil, w.Languages != nil, w.Addresses != nil,
		w.Percent != nil, w.After != nil, w.Before != nil} {
		if given {
			n++
		}
	}
	return n
}

// Case is a test of rules: what a request must be answered.
type Case struct {
	URL     string            `json:"url"`
	Method  string            `json:"method,omitempty"` // default GET
	Headers map[string]string `json:"headers,omitempty"`
	Country string            `json:"country,omitempty"`
	Address string            `json:"address,omitempty"`
	At      *time.Time        `json:"at,omitempty"`     // default now
	To      string            `json:"to,omitempty"`     // the Location expected; empty where none is
	Status  int               `json:"status,omitempty"` // the status expected; default any redirect with To, else any other

	Source Position `json:"-"`
}

// IsEnabled reports whether r takes part at all.
func (r *Redirect) IsEnabled() bool { return r.Enabled == nil || *r.Enabled }

// StatusOrDefault is the status that r answers.
func (r *Redirect) StatusOrDefault() int {
	if r.Status == 0 {
		return 301
	}
	return r.Status
}

// Cacheability of a rule's answer, in place of an age in seconds.
const CacheNone = -1 // no Cache-Control is sent

// DefaultCacheAge is the max-age of an answer that nothing is said about: an hour
// for 301 and 308, which browsers otherwise keep for good, and none for others.
func DefaultCacheAge(status int) int {
	if status == 301 || status == 308 {
		return 3600
	}
	return CacheNone
}

// CacheAge is the max-age that r's answer carries, in seconds, or CacheNone.
func (r *Redirect) CacheAge() (seconds int, err error) {
	switch r.Cache {
	case "":
		return DefaultCacheAge(r.StatusOrDefault()), nil
	case "off":
		return CacheNone, nil
	}
	s := r.Cache
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && 0 <= n && n <= 3650 {
			return n * 86400, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > 3650*24*time.Hour {
		return 0, &Error{Code: "bad_cache", Field: "cache", Message: "cache " + strconv.Quote(s) + " is not a duration", Hint: "for example 90s, 10m, 1h, 30d, or off"}
	}
	return int(d / time.Second), nil
}

// Parsed is a redirect taken apart.
type Parsed struct {
	From     From
	Regexp   *regexp.Regexp // nil without Regex
	To       To             // meaningful where the redirect has a To
	CacheAge int            // as [Redirect.CacheAge]
}

// Parse takes r apart and reports all that is wrong with it by itself, each
// error with its Field and at r.Source. What needs other rules to be seen
// (duplicates, cycles) is [fingerpost/redirect.Compile]'s.
func (r *Redirect) Parse() (Parsed, error) {
	var p Parsed
	var errs []error
	bad := func(code, field, message, hint string) {
		errs = append(errs, &Error{Code: code, Field: field, Message: message, Hint: hint, At: r.Source})
	}
	wrap := func(err error) {
		for _, e := range Errors(err) {
			bad(e.Code, e.Field, e.Message, e.Hint)
		}
	}
	var err error
	if err = r.parseURLs(&p); err != nil {
		wrap(err)
	}
	if p.CacheAge, err = r.CacheAge(); err != nil {
		wrap(err)
	}
	r.checkFields(bad)
	if r.When != nil {
		r.When.check(bad)
	}
	return p, errors.Join(errs...)
}

// Validate reports all that is wrong with r by itself.
func (r *Redirect) Validate() error {
	_, err := r.Parse()
	return err
}

// parseURLs reads from, regex and to.
func (r *Redirect) parseURLs(p *Parsed) error {
	var err error
	if p.From, err = ParseFrom(r.From); err != nil {
		return err
	}
	declared := p.From.Captures()
	if r.Regex != "" {
		host := r.From
		if p.From.Scheme != "" {
			host = host[len(p.From.Scheme)+len("://"):]
		}
		if strings.ContainsAny(host, "/?") {
			return &Error{Code: "bad_from", Field: "from", Message: "from " + strconv.Quote(r.From) + " has a path or query beside regex", Hint: "with regex, from holds only the host"}
		}
		if p.Regexp, err = CompileRegex(r.Regex, r.IgnoreCase); err != nil {
			return err
		}
		declared = slices.DeleteFunc(declared, func(s string) bool { return s == "splat" })
		for i, name := range p.Regexp.SubexpNames() {
			if i == 0 {
				continue
			}
			declared = append(declared, strconv.Itoa(i))
			if name == "" {
				continue
			}
			if slices.Contains(declared, name) || name == "splat" || name == "sub" {
				return &Error{Code: "bad_regex", Field: "regex", Message: "regex " + strconv.Quote(r.Regex) + " cannot have a group named " + name, Hint: "give each group a name of its own; splat and sub are taken"}
			}
			declared = append(declared, name)
		}
	}
	if r.To != "" {
		p.To, err = ParseTo(r.To, declared)
	}
	return err
}

// CompileRegex compiles a Redirect.Regex.
func CompileRegex(s string, ignoreCase bool) (*regexp.Regexp, error) {
	expr := s
	if ignoreCase {
		expr = "(?i:" + s + ")"
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		// Without the wrapping, so that the message shows what was written.
		if _, plain := regexp.Compile(s); plain != nil {
			err = plain
		}
		hint := "the syntax is RE2: https://github.com/google/re2/wiki/Syntax"
		if strings.Contains(s, "(?=") || strings.Contains(s, "(?!") || strings.Contains(s, "(?<!") || strings.Contains(s, "(?<=") {
			hint = "RE2 has no lookahead or lookbehind; use priority or a second rule instead"
		}
		return nil, &Error{Code: "bad_regex", Field: "regex", Message: "regex " + strconv.Quote(s) + " does not compile: " + strings.TrimPrefix(err.Error(), "error parsing regexp: "), Hint: hint}
	}
	return re, nil
}

// reservedHeaders are those that the answer itself sets or that frame it.
var reservedHeaders = []string{"Location", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Upgrade", "Trailer", "TE",
	"Date", "Content-Type", "Cache-Control", "Vary", "Strict-Transport-Security", "Alt-Svc"}

// MaxPage is how many bytes a page may have.
const MaxPage = 1 << 20

// checkFields checks what is neither a URL nor a condition.
func (r *Redirect) checkFields(bad func(code, field, message, hint string)) {
	switch status := r.StatusOrDefault(); status {
	case 301, 302, 303, 307, 308:
		if r.To == "" {
			bad("bad_to", "to", "a redirect without to", "say where to go, or use status 404, 410 or 451")
		}
		if r.Page != "" {
			bad("bad_page", "page", fmt.Sprintf("status %d sends no page", status), "page goes with 404, 410 and 451")
		}
	case 404, 410, 451:
		if r.To != "" {
			bad("bad_status", "status", fmt.Sprintf("status %d goes without to", status), "remove to, or use 301, 302, 303, 307 or 308")
		}
	default:
		bad("bad_status", "status", fmt.Sprintf("status %d is not one that a redirect can have", status), "one of 301, 302, 303, 307, 308 with to; 404, 410, 451 without")
	}
	if len(r.Page) > MaxPage {
		bad("bad_page", "page", fmt.Sprintf("the page has %d bytes, and %d are the most", len(r.Page), MaxPage), "serve large pages from where they are, and redirect there")
	}
	switch r.Query {
	case "", "merge", "append", "drop":
	default:
		bad("bad_value", "query", "query "+strconv.Quote(r.Query)+" is unknown", "one of merge, append, drop")
	}
	switch r.TrailingSlash {
	case "", "ignore", "strict":
	default:
		bad("bad_value", "trailingSlash", "trailingSlash "+strconv.Quote(r.TrailingSlash)+" is unknown", "one of ignore, strict")
	}
	if r.Priority < -1<<30 || r.Priority > 1<<30 {
		bad("bad_value", "priority", "priority is out of range", "between -1073741824 and 1073741824")
	}
	if len(r.ID) > 200 || strings.ContainsFunc(r.ID, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		bad("bad_id", "id", "id "+strconv.Quote(r.ID)+" has a space or is over 200 bytes", "letters, digits and hyphens, for example spring-campaign")
	}
	if len(r.Headers) > 0 {
		r.checkHeaders(bad)
	}
}

func (r *Redirect) checkHeaders(bad func(code, field, message, hint string)) {
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		value := r.Headers[name]
		switch {
		case !httpguts.ValidHeaderFieldName(name), !httpguts.ValidHeaderFieldValue(value):
			bad("bad_header", "headers", "header "+strconv.Quote(name)+" has a name or value that HTTP does not allow", "a name is a token, a value has no line breaks")
		case slices.ContainsFunc(reservedHeaders, func(s string) bool { return strings.EqualFold(s, name) }):
			bad("bad_header", "headers", "header "+name+" cannot be set by a rule", "use the field that stands for it: to, cache, or the host's hsts")
		}
	}
}

// check reports what is wrong with w.
func (w *When) check(bad func(code, field, message, hint string)) {
	for _, m := range w.Methods {
		if !httpguts.ValidHeaderFieldName(m) || m != strings.ToUpper(m) {
			bad("bad_when", "when.methods", "method "+strconv.Quote(m)+" is not one", "in upper case: GET, POST, …")
		}
	}
	for _, c := range w.Countries {
		if len(c) != 2 || !isLetter(c[0]) || !isLetter(c[1]) || c != strings.ToUpper(c) {
			bad("bad_when", "when.countries", "country "+strconv.Quote(c)+" is not a code", "two upper-case letters of ISO 3166-1: NO, SE, …")
		}
	}
	for _, l := range w.Languages {
		if !isLanguageTag(l) {
			bad("bad_when", "when.languages", "language "+strconv.Quote(l)+" is not a tag", "as in nb, pt-BR, zh-Hant")
		}
	}
	for _, m := range []struct {
		field    string
		patterns map[string]string
	}{{"when.header", w.Header}, {"when.cookie", w.Cookie}} {
		field := m.field
		for _, name := range slices.Sorted(maps.Keys(m.patterns)) {
			if !httpguts.ValidHeaderFieldName(name) {
				bad("bad_when", field, strconv.Quote(name)+" is not a name", "")
			} else if field == "when.header" && strings.EqualFold(name, "Host") {
				bad("bad_when", field, "Host is not a condition", "the host stands in from")
			}
		}
	}
	for _, a := range w.Addresses {
		if _, err := ParsePrefix(a); err != nil {
			bad("bad_when", "when.addresses", strconv.Quote(a)+" is not an address or a CIDR prefix", "as in 192.0.2.0/24 or 2001:db8::/32")
		}
	}
	if w.Percent != nil && (*w.Percent < 0 || *w.Percent > 100) {
		bad("bad_when", "when.percent", fmt.Sprintf("percent %d is not between 0 and 100", *w.Percent), "")
	}
	if w.After != nil && w.Before != nil && !w.After.Before(*w.Before) {
		bad("bad_when", "when.before", "before is not later than after, so the rule never holds", "exchange them")
	}
	for _, l := range []struct {
		field string
		list  []string
	}{{"when.methods", w.Methods}, {"when.countries", w.Countries}, {"when.languages", w.Languages}, {"when.addresses", w.Addresses}} {
		if l.list != nil && len(l.list) == 0 {
			bad("bad_when", l.field, l.field+" is an empty list, so the rule never holds", "remove it, or name what it is for")
		}
	}
}

func isLanguageTag(s string) bool {
	for sub := range strings.SplitSeq(s, "-") {
		if len(sub) < 1 || len(sub) > 8 {
			return false
		}
		for i := range len(sub) {
			if !isLetter(sub[i]) && !isDigit(sub[i]) {
				return false
			}
		}
	}
	return true
}

// ParsePrefix reads an address or a CIDR prefix; an address is a prefix of its
// whole length.
func ParsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		addr = addr.Unmap().WithZone("")
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err
}

// Key is what makes two rules duplicates: the same from (by what it matches,
// not by how it is written), scheme and when. f is r.From, parsed.
func (r *Redirect) Key(f *From) string {
	path := f.Path()
	strict := r.TrailingSlash == "strict"
	if !strict && len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	if r.IgnoreCase {
		path = strings.ToLower(path)
	}
	b := make([]byte, 0, 128)
	for _, s := range []string{f.Scheme, string(f.Host), path, r.Regex} {
		b = append(append(b, s...), 0)
	}
	b = strconv.AppendBool(strconv.AppendBool(b, strict), r.IgnoreCase)
	if len(f.Query) > 0 {
		conds := slices.Clone(f.Query)
		slices.SortFunc(conds, func(a, b QueryCond) int { return strings.Compare(a.Key, b.Key) })
		for _, c := range conds {
			b = append(append(b, 1), c.Key...)
			if c.HasValue {
				b = append(append(b, 2), c.Value...)
			}
		}
	}
	if r.When.Conditions() > 0 {
		w := *r.When
		for _, list := range []*[]string{&w.Methods, &w.Countries, &w.Languages, &w.Addresses} {
			*list = slices.Sorted(slices.Values(*list))
		}
		for _, at := range []**time.Time{&w.After, &w.Before} {
			if *at != nil {
				utc := (*at).UTC()
				*at = &utc
			}
		}
		j, _ := json.Marshal(w) // maps in the order of their keys
		b = append(append(b, 3), j...)
	}
	return string(b)
}

// KeyHash is a hash of [Redirect.Key]; DerivedID turns it into the id of a rule
// that has none of its own.
func KeyHash(key string) uint64 {
	var buf [256]byte // so that a key of common length is not copied to the heap
	sum := sha256.Sum256(append(buf[:0], key...))
	return binary.BigEndian.Uint64(sum[:])
}

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// DerivedID is "r-" and 13 letters and digits.
func DerivedID(keyHash uint64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], keyHash)
	id := [15]byte{'r', '-'}
	idEncoding.Encode(id[2:], b[:])
	return string(id[:])
}
