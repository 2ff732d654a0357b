package fingerpost

import (
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// To is a parsed target. Its parts, one after another, make the Location:
// Base, then ? and Query, then # and Fragment. All literals are ready to be
// sent: ASCII, percent-encoded for their place, the host in A-labels.
type To struct {
	Base     []Part // scheme, authority and path
	Query    []Part
	Fragment []Part

	Scheme      string   // "http" or "https" where it is fixed
	Host        string   // the target's host where it is fixed; empty for a path on the same host too
	Relative    bool     // a path on the same host
	EmptyPath   bool     // an authority with nothing behind it
	HasQuery    bool     // a ? was written, maybe with nothing behind it
	HasFragment bool     //
	DropsQuery  bool     // has {query} or {url}, so that the request's query is not added again
	Undeclared  []string // names written like captures that from does not declare: they are literal
}

// Part is a piece of a target: a literal, a capture of from, or a property of
// the request. Exactly one of the three is set.
type Part struct {
	Literal   string
	Capture   string // the name, without the colon: "id", "splat", "sub", "1"
	Property  string // one of Properties
	Transform string // "", "lower", "upper" or "slug", of a capture
	Place     Place
}

// Properties are what {…} in a target may name.
var Properties = []string{"scheme", "host", "port", "path", "query", "url", "method"}

var transforms = []string{"lower", "upper", "slug"}

// ParseTo reads a target, an absolute http(s) URL or a path on the same host.
// declared lists the captures of the from beside it.
func ParseTo(s string, declared []string) (To, error) {
	p := toParser{text: s, declared: declared}
	p.parse()
	if p.err != nil {
		return To{}, p.err
	}
	return p.to, nil
}

type toParser struct {
	text     string
	declared []string
	to       To
	err      error // the first one
}

func (p *toParser) bad(message, hint string) {
	if p.err == nil {
		p.err = &Error{Code: "bad_to", Field: "to", Message: "to " + strconv.Quote(p.text) + " " + message, Hint: hint}
	}
}

func (p *toParser) parse() {
	const absolute = "give an absolute URL (https://shop.example/path) or a path on the same host (/path)"
	s := p.text
	switch i := indexUnsafe(s); {
	case s == "":
		p.bad("is empty", absolute)
		return
	case i >= 0 && s[i] == '\\':
		p.bad("has a backslash", "write / instead")
		return
	case i >= 0:
		p.bad("has a space, line break or control byte", "write a space as %20; a line break never belongs into a URL")
		return
	}
	p.to.Base = make([]Part, 0, 2) // authority and path
	s, fragment, hasFragment := strings.Cut(s, "#")
	s, query, hasQuery := strings.Cut(s, "?")
	path := s
	if strings.HasPrefix(s, "/") {
		p.to.Relative = true
		if strings.HasPrefix(s, "//") {
			p.bad("begins with //, which a browser reads as another host", absolute)
			return
		}
	} else {
		scheme, rest, ok := strings.Cut(s, "://")
		switch lower := strings.ToLower(scheme); {
		case !ok && strings.Contains(scheme, ":"):
			p.bad("is not an http or https URL", absolute)
			return
		case !ok:
			p.bad("is not a URL", absolute)
			return
		case scheme == "{scheme}":
			p.to.Base = append(p.to.Base, Part{Property: "scheme", Place: InAuthority})
			p.literal(&p.to.Base, "://", InAuthority)
		case lower == "http", lower == "https":
			p.to.Scheme = lower
			p.literal(&p.to.Base, lower+"://", InAuthority)
		default:
			p.bad("has the scheme "+strconv.Quote(scheme), "only http and https are redirected to")
			return
		}
		end := len(rest)
		for _, begin := range []string{"/", "{path}"} {
			if i := strings.Index(rest, begin); i >= 0 {
				end = min(end, i)
			}
		}
		p.authority(rest[:end])
		path = rest[end:]
	}
	p.to.EmptyPath = path == ""
	p.parts(&p.to.Base, path, InPath)
	p.parts(&p.to.Query, query, InQuery)
	p.parts(&p.to.Fragment, fragment, InFragment)
	p.to.HasQuery, p.to.HasFragment = hasQuery, hasFragment
}

// authority reads host[:port]. Only :sub and {host} may stand in it, since a
// visitor's text must never choose where a redirect leads.
func (p *toParser) authority(s string) {
	if strings.ContainsAny(s, "@") {
		p.bad("has a user name or password", "remove what stands before the @")
		return
	}
	var buf [4]Part
	parts := buf[:0]
	if strings.HasPrefix(s, "[") {
		p.literal(&parts, s, InAuthority) // the colons of an IPv6 address begin no captures
	} else {
		p.parts(&parts, s, InAuthority)
	}
	sample, fixed := "", true
	for _, part := range parts {
		switch {
		case part.Capture == "sub" && part.Transform == "", part.Property == "host":
			sample, fixed = sample+"a", false
		case part.Capture != "":
			p.bad("puts :"+part.Capture+" into the host name", "only :sub and {host} may stand there: a visitor must not choose the host")
			return
		case part.Property != "":
			p.bad("puts {"+part.Property+"} into the host name", "only :sub and {host} may stand there")
			return
		default:
			sample += part.Literal
		}
	}
	host, port, hasPort := sample, "", false
	if i := strings.LastIndexByte(sample, ':'); i >= 0 && !strings.HasSuffix(sample, "]") {
		host, port, hasPort = sample[:i], sample[i+1:], true
	}
	if hasPort {
		if n, err := strconv.Atoi(port); !isPort(port) || err != nil || n < 1 || n > 65535 {
			p.bad("has the port "+strconv.Quote(port), "a port is a number from 1 to 65535")
			return
		}
	}
	ascii, err := ParseHostPattern(host)
	if err != nil || ascii.IsWildcard() {
		p.bad("has no valid host name", "write it as in https://shop.example/path")
		return
	}
	if !fixed && !keepsDomain(parts) {
		p.bad("lets :sub choose the domain", "put a domain of yours behind it, as in https://:sub.example.com/")
		return
	}
	if !fixed {
		for i := range parts {
			if !isASCII(parts[i].Literal) {
				p.bad("mixes a capture with a host name that is not ASCII", "write the host name with xn-- labels")
			}
			parts[i].Literal = strings.ToLower(parts[i].Literal)
		}
		p.to.Base = append(p.to.Base, parts...)
		return
	}
	p.to.Host = string(ascii)
	if hasPort {
		port = ":" + port
	}
	p.literal(&p.to.Base, string(ascii)+port, InAuthority)
}

// keepsDomain reports whether the registrable domain of an authority (public
// suffix and one label) is fixed, whatever :sub and {host} stand for: else a
// visitor could make https://my:sub.com/ any domain. {host} at the end is the
// visitor's own host, which is one of ours.
func keepsDomain(parts []Part) bool {
	var sample string
	fixed := -1 // where in sample begins what follows the last capture
	for i, part := range parts {
		switch rest := parts[i+1:]; {
		case part.Literal != "":
			sample += part.Literal
		case part.Property == "host" && (len(rest) == 0 || strings.HasPrefix(rest[0].Literal, ":")):
			return true
		default:
			sample += "a"
			fixed = len(sample)
		}
	}
	sample, _, _ = strings.Cut(strings.ToLower(sample), ":")
	domain, err := publicsuffix.EffectiveTLDPlusOne(sample)
	return err == nil && fixed <= len(sample)-len(domain)-1
}

// parts splits s at captures and properties and appends the pieces.
func (p *toParser) parts(dst *[]Part, s string, place Place) {
	for s != "" && p.err == nil {
		i := strings.IndexAny(s, ":{}")
		if i < 0 {
			i = len(s)
		}
		p.encoded(dst, s[:i], place)
		s = s[i:]
		switch {
		case s == "":
		case s[0] == ':':
			name, rest := p.capture(s)
			if name == "" {
				p.encoded(dst, ":", place)
				s = s[1:]
				continue
			}
			part := Part{Capture: name, Place: place}
			if after, ok := strings.CutPrefix(rest, "|"); ok {
				word, tail := CutName(":" + after)
				if !slices.Contains(transforms, word) {
					p.bad("has an unknown transform after :"+name+"|", "one of lower, upper, slug")
					return
				}
				part.Transform, rest = word, tail
			}
			*dst = append(*dst, part)
			s = rest
		default:
			end := strings.IndexByte(s, '}')
			if s[0] == '}' || end < 0 || !slices.Contains(Properties, s[1:end]) {
				p.bad("has a brace that is not a property", "{scheme} {host} {port} {path} {query} {url} {method}; write a literal brace as %7B or %7D")
				return
			}
			name := s[1:end]
			if name == "query" || name == "url" {
				p.to.DropsQuery = true
			}
			*dst = append(*dst, Part{Property: name, Place: place})
			s = s[end+1:]
		}
	}
}

// capture cuts a declared :name or :1 off s. The longest name counts: with :id
// declared, :idx is another name, and literal.
func (p *toParser) capture(s string) (name, rest string) {
	name, rest = CutName(s)
	if name == "" {
		n := 1
		for n < len(s) && isDigit(s[n]) {
			n++
		}
		name, rest = s[1:n], s[n:]
	} else if !slices.Contains(p.declared, name) {
		p.to.Undeclared = append(p.to.Undeclared, name)
	}
	if !slices.Contains(p.declared, name) {
		return "", s
	}
	return name, rest
}

// encoded appends a literal, percent-encoded for its place.
func (p *toParser) encoded(dst *[]Part, s string, place Place) {
	if isText(s, charPath) { // what every place allows
		p.literal(dst, s, place)
		return
	}
	for i := range len(s) {
		if s[i] == '%' && (i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2])) {
			p.bad("has a bad percent escape", "write a percent sign as %25")
			return
		}
	}
	switch place {
	case InAuthority:
		p.literal(dst, s, place)
	case InQuery:
		p.literal(dst, string(AppendText(nil, s, InRawQuery)), place)
	default:
		p.literal(dst, string(AppendText(nil, s, place)), place)
	}
}

// literal appends s, joined to a literal before it.
func (p *toParser) literal(dst *[]Part, s string, place Place) {
	if s == "" {
		return
	}
	if n := len(*dst); n > 0 {
		if last := &(*dst)[n-1]; last.Capture == "" && last.Property == "" && last.Place == place {
			last.Literal += s
			return
		}
	}
	*dst = append(*dst, Part{Literal: s, Place: place})
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
