package fingerpost

import (
	"slices"
	"strconv"
	"strings"
)

// From is a parsed Redirect.From: which requests a rule is for.
type From struct {
	Scheme   string // "http", "https", or "" for both
	Host     HostPattern
	Segments []Segment // of the path, from the left
	Tail     Tail      // what may follow them
	Prefix   string    // for TailPrefix: how the last segment begins, normalised
	Slash    bool      // the path was written with a final slash
	Query    []QueryCond
}

// Segment is one whole segment of a path pattern: a literal in normal form, or
// a name that captures whatever stands there.
type Segment struct {
	Literal string
	Name    string
}

// Tail says how a path pattern ends.
type Tail uint8

const (
	TailNone   Tail = iota // after its last segment
	TailFolder             // with /*: the folder itself and all below
	TailPrefix             // with text and *: all that begins so
)

// QueryCond is one condition on the query: the key must be there; with HasValue
// one of its values must be Value; a Name captures the first value. Key and
// Value are decoded.
type QueryCond struct {
	Key      string
	Value    string
	HasValue bool
	Name     string
}

// ParseFrom reads [http:// | https://] host [path] [?query], the language of
// Redirect.From:
//
//	example.com                     every path, as example.com/*
//	example.com/a/b                 that path; a final slash does not count unless trailingSlash is strict
//	example.com/a/:id/b             :id captures one whole segment
//	example.com/docs/*              /docs, /docs/ and all below; :splat captures what is below
//	example.com/doc*                every path that begins with /doc
//	example.com/p?id=:x&lang=en&v   the query has id (captured), lang=en, and v with any value
func ParseFrom(s string) (From, error) {
	var f From
	bad := func(message, hint string) (From, error) {
		return From{}, &Error{Code: "bad_from", Field: "from", Message: "from " + strconv.Quote(s) + " " + message, Hint: hint}
	}
	rest := s
	if scheme, after, ok := strings.Cut(s, "://"); ok && !strings.ContainsAny(scheme, "/?") {
		f.Scheme, rest = strings.ToLower(scheme), after
		if f.Scheme != "http" && f.Scheme != "https" {
			return bad("has the scheme "+strconv.Quote(scheme), "use http://, https://, or none for both")
		}
	}
	if indexUnsafe(rest) >= 0 {
		return bad("has a space, control byte or backslash", "write a space as %20")
	}
	if strings.Contains(rest, "#") {
		return bad("has a fragment", "browsers do not send what follows #; remove it")
	}
	rest, query, hasQuery := strings.Cut(rest, "?")
	host, path, hasPath := strings.Cut(rest, "/")
	var err error
	if f.Host, err = ParseHostPattern(host); err != nil {
		e := Errors(err)[0]
		e.Field = "from"
		return From{}, e
	}
	var names []string
	declare := func(name string) error {
		hint := "give each capture a name of its own"
		if name == "splat" || name == "sub" {
			hint = ":splat is what * takes and :sub what the host's wildcard takes; use another name"
		} else if !slices.Contains(names, name) {
			names = append(names, name)
			return nil
		}
		return &Error{Code: "bad_from", Field: "from", Message: "from " + strconv.Quote(s) + " uses the name :" + name + " twice", Hint: hint}
	}
	if !hasPath {
		f.Tail = TailFolder
	} else if message, hint := f.parsePath(path); message != "" {
		return bad(message, hint)
	}
	for _, seg := range f.Segments {
		if seg.Name != "" {
			if err := declare(seg.Name); err != nil {
				return From{}, err
			}
		}
	}
	if !hasQuery {
		return f, nil
	}
	keys := map[string]bool{}
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		key, value, hasValue := strings.Cut(pair, "=")
		c := QueryCond{Key: UnescapeQuery(key)}
		if name, rest := CutName(value); name != "" && rest == "" {
			c.Name = name
			if err := declare(name); err != nil {
				return From{}, err
			}
		} else if hasValue {
			c.Value, c.HasValue = UnescapeQuery(value), true
		}
		if keys[c.Key] {
			return bad("asks for the query key "+strconv.Quote(c.Key)+" twice", "one condition for each key")
		}
		keys[c.Key] = true
		f.Query = append(f.Query, c)
	}
	return f, nil
}

// parsePath reads the path of a from, without its first slash.
func (f *From) parsePath(path string) (message, hint string) {
	n := strings.Count(path, "/")
	add := func(s Segment) {
		if f.Segments == nil {
			f.Segments = make([]Segment, 0, n+1)
		}
		f.Segments = append(f.Segments, s)
	}
	for i := 0; i <= n; i++ {
		seg, below, _ := strings.Cut(path, "/")
		path = below
		last := i == n
		star := strings.IndexByte(seg, '*')
		name, rest := CutName(seg)
		switch {
		case seg == "":
			f.Slash = last && len(f.Segments) > 0
			continue
		case star >= 0 && (!last || star != len(seg)-1):
			return "has a * inside the path", "a * stands only at the end (/docs/* or /doc*); for anything else use regex"
		case seg == "*":
			f.Tail = TailFolder
			continue
		case name != "" && rest != "":
			return "has text after :" + name + " in one segment", ":name is a whole segment; for a part of one use regex"
		case name != "":
			add(Segment{Name: name})
			continue
		}
		norm := strings.TrimSuffix(seg, "*")
		if !isText(norm, charPath) {
			b, _, err := appendSegment(nil, nil, norm)
			if err != nil {
				return "has a bad percent escape", "write a percent sign as %25"
			}
			norm = string(b)
		}
		switch {
		case star < 0 && (norm == "." || norm == ".."):
			return "has a . or .. segment", "write the path that it stands for"
		case star >= 0:
			f.Tail, f.Prefix = TailPrefix, norm
		default:
			add(Segment{Literal: norm})
		}
	}
	return "", ""
}

// IsLiteral reports whether f is for exactly one path.
func (f *From) IsLiteral() bool {
	if f.Tail != TailNone {
		return false
	}
	for _, seg := range f.Segments {
		if seg.Name != "" {
			return false
		}
	}
	return true
}

// Path is the pattern's path in canonical form: normalised, names left out, so
// that two patterns with the same Path match the same requests.
func (f *From) Path() string {
	b := make([]byte, 0, 128)
	for _, seg := range f.Segments {
		b = append(b, '/')
		if seg.Name != "" {
			b = append(b, ":?"...) // no literal can be that
		} else {
			b = append(b, seg.Literal...)
		}
	}
	switch f.Tail {
	case TailFolder:
		b = append(b, "/*"...)
	case TailPrefix:
		b = append(append(append(b, '/'), f.Prefix...), '*')
	default:
		if f.Slash || len(f.Segments) == 0 {
			b = append(b, '/')
		}
	}
	return string(b)
}

// Captures lists the names that f declares, :splat and :sub included.
func (f *From) Captures() []string {
	var names []string
	for _, seg := range f.Segments {
		if seg.Name != "" {
			names = append(names, seg.Name)
		}
	}
	for _, c := range f.Query {
		if c.Name != "" {
			names = append(names, c.Name)
		}
	}
	if f.Tail != TailNone {
		names = append(names, "splat")
	}
	if f.Host.IsWildcard() {
		names = append(names, "sub")
	}
	return names
}

// indexUnsafe is where s has its first space, control byte or backslash, which
// neither a from nor a to may hold, or -1.
func indexUnsafe(s string) int {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f || c == '\\' {
			return i
		}
	}
	return -1
}

// CutName cuts a leading :name off s, a name being [A-Za-z][A-Za-z0-9_]* up to
// the first other character. Without one, name is empty.
func CutName(s string) (name, rest string) {
	if len(s) < 2 || s[0] != ':' || !isLetter(s[1]) {
		return "", s
	}
	i := 2
	for i < len(s) && (isLetter(s[i]) || isDigit(s[i]) || s[i] == '_') {
		i++
	}
	return s[1:i], s[i:]
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
