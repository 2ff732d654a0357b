package redirect

import (
	"strconv"
	"strings"

	"fingerpost"
)

// render fills the answer from the best candidate.
func (m *matcher) render() {
	a, rec, c := m.a, &m.best.ruleRecord, cursor{m.t.arena, m.best.target}
	a.Rule = RuleRef{m.t, m.host.at, m.best.at}
	a.Status = rec.status()
	age := fingerpost.DefaultCacheAge(a.Status)
	if rec.flags&flagExtras != 0 {
		age = int(c.uvarint()) - 1
		a.Headers = append(a.Headers, c.string()...)
		if page := c.offset(); page != 0 {
			p := cursor{m.t.arena, page}
			a.Page = p.string()
		}
	}
	if a.Status < 400 {
		m.location(c)
	}
	m.cacheControl(age)
}

// youngAge is the max-age of a permanent redirect in its first hour, so that an
// error can be taken back.
const (
	youngAge  = 60
	youngTime = 3600
)

// cacheControl writes Cache-Control from an age in seconds, or CacheNone.
func (m *matcher) cacheControl(age int) {
	a := m.a
	if a.Status >= 500 { // a loop or a bad target is not to be kept
		return
	}
	if age != fingerpost.CacheNone {
		if since := int64(m.best.since); since != 0 && m.r.Now < since+youngTime {
			age = min(age, youngAge)
		}
		if m.best.expires != neverExpires {
			age = int(min(int64(age), m.best.expires-m.r.Now))
		}
	}
	if m.private {
		a.CacheControl = append(a.CacheControl, "private"...)
		if age != fingerpost.CacheNone {
			a.CacheControl = append(a.CacheControl, ", "...)
		}
	}
	if age != fingerpost.CacheNone {
		a.CacheControl = append(a.CacheControl, "max-age="...)
		a.CacheControl = strconv.AppendInt(a.CacheControl, int64(age), 10)
	}
}

// location expands the target at c.
func (m *matcher) location(c cursor) {
	a, flags := m.a, m.best.flags
	dst := a.Location[:0]
	if flags&flagPlain != 0 {
		if flags&flagCommon != 0 {
			common := cursor{c.b, c.offset()}
			dst = append(dst, common.string()...)
		}
		dst = append(dst, c.string()...)
	} else {
		dst = m.expand(dst, &c)
	}
	path := len(dst)
	if flags&flagEmptyPath != 0 {
		dst = append(dst, '/') // taken back if no query follows
	}
	dst = append(dst, '?')
	query := len(dst)
	if flags&flagToQuery != 0 {
		dst = m.expand(dst, &c)
	}
	if flags&flagDrop == 0 && m.r.Query != "" {
		dst = m.addQuery(dst, query)
	}
	if len(dst) == query {
		dst = dst[:path] // a bare ? never appears
	}
	if flags&flagToFragment != 0 {
		dst = append(dst, '#')
		dst = m.expand(dst, &c)
	}
	a.Location = dst
	if flags&flagCheck == 0 {
		return
	}
	switch {
	case !m.isSafe(unsafeString(dst)):
		a.Kind, a.Status, a.Location = BadTarget, 500, dst[:0]
	case m.isRequest(unsafeString(dst)):
		a.Kind, a.Status, a.Location = Loop, 508, dst[:0]
	}
}

// addQuery adds the request's pairs to the target's own, which stand in dst from
// query on: all of them (append), or those whose key the target lacks (merge);
// never those that the rule's from has named.
func (m *matcher) addQuery(dst []byte, query int) []byte {
	flags := m.best.flags
	own := len(dst) > query
	if !own && flags&flagQueryCond == 0 || own && flags&(flagQueryCond|flagAppend) == flagAppend {
		if own {
			dst = append(dst, '&')
		}
		return appendRawQuery(dst, m.r.Query)
	}
	target := dst[query:]
	for pair := range strings.SplitSeq(m.r.Query, "&") {
		if pair == "" {
			continue
		}
		key, _, _ := strings.Cut(pair, "=")
		key = fingerpost.UnescapeQuery(key)
		if flags&flagQueryCond != 0 && m.consumes(key) {
			continue
		}
		if flags&flagAppend == 0 && own && queryHas(unsafeString(target), key, "", false) {
			continue
		}
		if len(dst) > query {
			dst = append(dst, '&')
		}
		dst = appendRawQuery(dst, pair)
	}
	return dst
}

// consumes reports whether the winner's from names a query key.
func (m *matcher) consumes(key string) bool {
	c := m.best.behindID(m.t.arena)
	if m.best.flags&flagRegex != 0 {
		m.t.readRegexp(&c, 0)
	}
	for n := c.uvarint(); n > 0; n-- {
		if c.string() == key {
			return true
		}
		if c.byte() != 0 {
			c.string()
		}
	}
	return false
}

// appendRawQuery appends query text as it was sent, but for bytes that a URL may
// not hold.
func appendRawQuery(dst []byte, s string) []byte {
	for {
		i := strings.IndexByte(s, '%')
		if i < 0 {
			return fingerpost.AppendText(dst, s, fingerpost.InRawQuery)
		}
		// A stray percent sign is the visitor's own.
		dst = append(fingerpost.AppendText(dst, s[:i], fingerpost.InRawQuery), '%')
		s = s[i+1:]
	}
}

// queryHas reports whether a query has a key, with the value if one is given.
func queryHas(query, key, value string, given bool) bool {
	_, ok := queryValue(query, key, func(v string) bool { return !given || fingerpost.UnescapeQuery(v) == value })
	return ok
}

// queryValue is the first value of a key for which ok holds, as sent.
func queryValue(query, key string, ok func(string) bool) (string, bool) {
	for pair := range strings.SplitSeq(query, "&") {
		if k, v, _ := strings.Cut(pair, "="); pair != "" && fingerpost.UnescapeQuery(k) == key && ok(v) {
			return v, true
		}
	}
	return "", false
}

// expand appends one template.
func (m *matcher) expand(dst []byte, c *cursor) []byte {
	for n := c.uvarint(); n > 0; n-- {
		b := c.byte()
		op, place, transform := int(b&7), fingerpost.Place(b>>3&7), b>>6
		switch op {
		case opLiteral:
			dst = append(dst, c.string()...)
			continue
		case opProperty:
			dst = m.property(dst, fingerpost.Properties[c.byte()], place)
			continue
		case opSub:
			dst = m.sub(dst, c.byte() != 0, place, transform)
			continue
		}
		dst = appendCapture(dst, m.capture(op, c), place, transform)
	}
	return dst
}

// capture is the text that a capture stands for, as the visitor sent it.
func (m *matcher) capture(op int, c *cursor) string {
	raw := m.r.Path.Raw
	switch op {
	case opSegment:
		seg := segmentsFrom(raw, int(c.uvarint()))
		seg, _, _ = strings.Cut(seg, "/")
		return seg
	case opFolder:
		return segmentsFrom(raw, int(c.uvarint()))
	case opPrefix:
		seg := segmentsFrom(raw, int(c.uvarint()))
		return cutNormalized(seg, int(c.uvarint()))
	case opQuery:
		v, _ := queryValue(m.r.Query, c.string(), func(string) bool { return true })
		if strings.Contains(v, "+") {
			v = strings.ReplaceAll(v, "+", "%20") // a space, in a query and nowhere else
		}
		return v
	}
	group := int(c.uvarint()) // opGroup
	winner := m.best.behindID(m.t.arena)
	re, _ := m.t.readRegexp(&winner, m.best.flags)
	if loc := re.get().FindStringSubmatchIndex(m.r.Path.Norm); loc != nil && loc[2*group] >= 0 {
		return m.r.Path.Norm[loc[2*group]:loc[2*group+1]]
	}
	return ""
}

// segmentsFrom is what of a path stands from segment n on.
func segmentsFrom(path string, n int) string {
	path = path[1:]
	for ; n > 0; n-- {
		i := strings.IndexByte(path, '/')
		if i < 0 {
			return ""
		}
		path = path[i+1:]
	}
	return path
}

// cutNormalized cuts off s, in the visitor's own escapes, what has n bytes in
// normal form.
func cutNormalized(s string, n int) string {
	for n > 0 && s != "" {
		if s[0] != '%' {
			s, n = s[1:], n-1
			continue
		}
		if p, err := fingerpost.ParsePath("/-" + s[:3]); err == nil { // - lest %2E be a dot segment
			n -= len(p.Norm) - len("/-")
		}
		s = s[3:]
	}
	return s
}

// appendCapture transforms a capture and appends it for its place.
func appendCapture(dst []byte, s string, place fingerpost.Place, transform byte) []byte {
	switch transform {
	case lower:
		s = mapASCII(s, 'A', 'Z')
	case upper:
		s = mapASCII(s, 'a', 'z')
	case slug:
		s = slugOf(s)
	}
	return fingerpost.AppendText(dst, s, place)
}

// mapASCII changes the case of the letters from first to last, but for the hex
// digits of escapes.
func mapASCII(s string, first, last byte) string {
	b := []byte(s)
	for i := 0; i < len(b); i++ {
		if b[i] == '%' {
			i += 2
		} else if first <= b[i] && b[i] <= last {
			b[i] ^= 0x20
		}
	}
	return string(b)
}

// slugOf is s in lower case with spaces and underscores as hyphens, runs of them
// joined.
func slugOf(s string) string {
	s = mapASCII(strings.ReplaceAll(s, "%20", "-"), 'A', 'Z')
	b := make([]byte, 0, len(s))
	for i := range len(s) {
		c := s[i]
		if c == ' ' || c == '_' {
			c = '-'
		}
		if c != '-' || len(b) == 0 || b[len(b)-1] != '-' {
			b = append(b, c)
		}
	}
	return string(b)
}

// sub appends the labels that the host's wildcard took, and the dot behind them
// if it belongs to them: on the apex there are none, and no dot.
func (m *matcher) sub(dst []byte, dot bool, place fingerpost.Place, transform byte) []byte {
	if m.form.sub == 0 {
		return dst
	}
	dst = appendCapture(dst, m.r.Host[:m.form.sub], place, transform)
	if dot {
		dst = append(dst, '.')
	}
	return dst
}

func (m *matcher) property(dst []byte, name string, place fingerpost.Place) []byte {
	r := m.r
	switch name {
	case "scheme":
		return append(dst, r.scheme()...)
	case "host":
		return fingerpost.AppendText(dst, r.Host, place) // an IPv6 address has brackets
	case "port":
		return append(dst, r.port()...)
	case "method":
		return fingerpost.AppendText(dst, r.Method, place)
	case "path":
		return fingerpost.AppendText(dst, r.Path.Raw, place)
	case "query":
		if place == fingerpost.InQuery {
			return appendRawQuery(dst, r.Query)
		}
		return fingerpost.AppendText(dst, r.Query, place)
	}
	return fingerpost.AppendComponent(dst, r.URL())
}

func (r *Request) scheme() string {
	if r.HTTPS {
		return "https"
	}
	return "http"
}

func (r *Request) port() string {
	switch {
	case r.Port != "":
		return r.Port
	case r.HTTPS:
		return "443"
	}
	return "80"
}

// appendUpgrade writes the URL of r over https: its own bytes, but for those
// that a URL may not hold, and without the port.
func appendUpgrade(dst []byte, r *Request) []byte {
	dst = append(append(dst, "https://"...), r.Host...)
	if r.HTTPSPort != "" {
		dst = append(append(dst, ':'), r.HTTPSPort...)
	}
	path, query, hasQuery := strings.Cut(r.Target, "?")
	dst = fingerpost.AppendText(dst, path, fingerpost.InPath)
	if hasQuery {
		dst = appendRawQuery(append(dst, '?'), query)
	}
	return dst
}

// isSafe reports whether an expanded Location has the form of its template: a
// path on the same host, or an http(s) URL whose authority is a plain host name.
func (m *matcher) isSafe(loc string) bool {
	for i := range len(loc) {
		if c := loc[i]; c <= ' ' || c >= 0x7f || c == '\\' || c == '"' || c == '<' || c == '>' {
			return false
		}
	}
	if m.best.flags&flagRelative != 0 {
		return !strings.HasPrefix(loc, "//")
	}
	_, host, _, _ := splitURL(loc)
	_, _, err := fingerpost.ParseHost(host)
	return err == nil
}

// splitURL cuts an absolute URL of http or https; scheme is empty for another.
func splitURL(s string) (scheme, authority, path, query string) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || scheme != "http" && scheme != "https" {
		return "", "", "", ""
	}
	rest, _, _ = strings.Cut(rest, "#")
	rest, query, _ = strings.Cut(rest, "?")
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return scheme, rest[:i], rest[i:], query
	}
	return scheme, rest, "/", query
}

// isRequest reports whether a Location is the request's own URL after
// normalisation: following it would come here again.
func (m *matcher) isRequest(loc string) bool {
	r := m.r
	var path, query string
	if m.best.flags&flagRelative != 0 {
		path, _, _ = strings.Cut(loc, "#")
		path, query, _ = strings.Cut(path, "?")
	} else {
		var scheme, authority string
		scheme, authority, path, query = splitURL(loc)
		if scheme != r.scheme() {
			return false
		}
		host, port, err := fingerpost.ParseHost(authority)
		there := Request{HTTPS: r.HTTPS, Port: port}
		if err != nil || host != r.Host || there.port() != r.port() {
			return false
		}
	}
	if query != r.Query {
		return false
	}
	p, err := fingerpost.ParsePath(path)
	return err == nil && p.Norm == r.Path.Norm
}

// addVary joins two lists of header names.
func addVary(list []byte, names string) []byte {
	for name := range strings.SplitSeq(names, ", ") {
		known := false
		for other := range strings.SplitSeq(string(list), ", ") {
			known = known || strings.EqualFold(other, name)
		}
		if !known && name != "" {
			if len(list) > 0 {
				list = append(list, ", "...)
			}
			list = append(list, name...)
		}
	}
	return list
}
