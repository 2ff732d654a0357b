package fingerpost

import (
	"strconv"
	"strings"
)

// Path is the path of a request in the two forms that matching needs. Both
// begin with a slash and have the same number of segments, so that segment i of
// the one is segment i of the other.
type Path struct {
	Norm string // RFC 3986 6.2.2: what rules are compared with
	Raw  string // the visitor's own escapes: what :splat, :name and {path} carry
}

// Character classes of RFC 3986, appendix A, and of the WHATWG URL standard's
// query percent-encode set, one bit each.
const (
	charUnreserved = 1 << iota
	charPath       // pchar without the escapes, and the slash
	charQuery      // what a query or fragment may carry as it is
)

var chars = func() (t [256]uint8) {
	for c := range 256 {
		b := byte(c)
		if 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || strings.IndexByte("-._~", b) >= 0 {
			t[c] |= charUnreserved | charPath
		}
		if strings.IndexByte("!$&'()*+,;=:@/", b) >= 0 {
			t[c] |= charPath
		}
		if b > ' ' && b < 0x7f && strings.IndexByte("\"<>#%\\", b) < 0 {
			t[c] |= charQuery
		}
	}
	return t
}()

// ParsePath reads the path of a request target: without the query, percent
// escapes as sent. Unreserved escapes are decoded, hex is upper-cased, dot
// segments are removed, several slashes count as one, an empty path is "/".
// Bytes that a URI may not hold (a raw é, a quote) are percent-encoded in both
// forms. Bad escapes, spaces, control bytes, # and backslashes are errors, for
// a client that must get 400. It does not allocate for a path that is in normal
// form already.
func ParsePath(s string) (Path, error) {
	if s == "" {
		return Path{"/", "/"}, nil
	}
	if s[0] != '/' {
		return Path{}, badPath(s, "does not begin with /")
	}
	if isNormalPath(s) {
		return Path{s, s}, nil
	}
	norm := make([]byte, 0, len(s)+16)
	raw := make([]byte, 0, len(s)+16)
	type start struct{ norm, raw int }
	var starts []start // of each segment kept so far, its slash included
	slash := true      // whether the path ends in one
	for seg := range strings.SplitSeq(s[1:], "/") {
		at := start{len(norm), len(raw)}
		norm, raw = append(norm, '/'), append(raw, '/')
		var err error
		if norm, raw, err = appendSegment(norm, raw, seg); err != nil {
			return Path{}, err
		}
		slash = false
		switch string(norm[at.norm+1:]) {
		case "..":
			if len(starts) > 0 {
				at = starts[len(starts)-1]
				starts = starts[:len(starts)-1]
			}
			fallthrough
		case "", ".":
			norm, raw, slash = norm[:at.norm], raw[:at.raw], true
		default:
			starts = append(starts, at)
		}
	}
	if slash {
		norm, raw = append(norm, '/'), append(raw, '/')
	}
	return Path{string(norm), string(raw)}, nil
}

// isNormalPath reports whether s, which begins with a slash, would come out of
// ParsePath as it is.
func isNormalPath(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%':
			if i+2 >= len(s) || !isUpperHex(s[i+1]) || !isUpperHex(s[i+2]) {
				return false
			}
			if chars[unhex(s[i+1])<<4|unhex(s[i+2])]&charUnreserved != 0 {
				return false
			}
		case chars[c]&charPath == 0:
			return false
		case c == '/' && i+1 < len(s) && (s[i+1] == '/' || s[i+1] == '.'):
			return false // maybe: "/.well-known" takes the slow way
		}
	}
	return true
}

// appendSegment appends both forms of one path segment.
func appendSegment(norm, raw []byte, seg string) ([]byte, []byte, error) {
	for i := 0; i < len(seg); i++ {
		c := seg[i]
		switch {
		case c == '%':
			if i+2 >= len(seg) || !isHex(seg[i+1]) || !isHex(seg[i+2]) {
				return nil, nil, badPath(seg, "has a bad percent escape")
			}
			b := unhex(seg[i+1])<<4 | unhex(seg[i+2])
			if chars[b]&charUnreserved != 0 {
				norm = append(norm, b)
			} else {
				norm = appendEscape(norm, b)
			}
			raw = append(raw, seg[i:i+3]...)
			i += 2
		case chars[c]&charPath != 0:
			norm, raw = append(norm, c), append(raw, c)
		case c <= ' ' || c == 0x7f:
			return nil, nil, badPath(seg, "has a space or control byte")
		case c == '\\' || c == '#' || c == '?':
			return nil, nil, badPath(seg, "has a raw "+string(rune(c)))
		default:
			norm, raw = appendEscape(norm, c), appendEscape(raw, c)
		}
	}
	return norm, raw, nil
}

func badPath(s, what string) error {
	return &Error{Code: "bad_path", Message: "path " + strconv.Quote(s) + " " + what}
}

func isHex(c byte) bool      { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }
func isUpperHex(c byte) bool { return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' }

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}

func appendEscape(dst []byte, b byte) []byte {
	const hex = "0123456789ABCDEF"
	return append(dst, '%', hex[b>>4], hex[b&15])
}

// UnescapeQuery decodes a key or value of a query string: + is a space, a
// percent escape its byte, a bad escape stays as it is. It allocates only where
// there is something to decode.
func UnescapeQuery(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '+':
			out = append(out, ' ')
		case s[i] == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			out = append(out, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
		default:
			out = append(out, s[i])
		}
	}
	return string(out)
}

// A Place is the part of a URL that a text is put into. It says which bytes
// have to be percent-encoded there.
type Place uint8

const (
	InAuthority Place = iota // scheme and authority: nothing is encoded, since only checked text comes here
	InPath
	InQuery    // as one key or value: & + = are data
	InRawQuery // as a whole query: & + = keep their meaning
	InFragment
)

// isText reports whether all bytes of s are of one of the classes.
func isText(s string, classes uint8) bool {
	for i := range len(s) {
		if chars[s[i]]&classes == 0 {
			return false
		}
	}
	return true
}

// AppendText appends visitor's text for its place: valid escapes stay, what the
// place does not allow is percent-encoded.
func AppendText(dst []byte, s string, place Place) []byte {
	if place == InAuthority {
		return append(dst, s...)
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		ok := false
		switch {
		case c == '%':
			ok = i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2])
		case place == InPath:
			ok = chars[c]&charPath != 0
		case place == InQuery:
			ok = chars[c]&charQuery != 0 && c != '&' && c != '+' && c != '='
		default:
			ok = chars[c]&charQuery != 0
		}
		if ok {
			dst = append(dst, c)
		} else {
			dst = appendEscape(dst, c)
		}
	}
	return dst
}

// AppendComponent appends s so that decoding it once gives s again: every byte
// but the unreserved ones is encoded, the percent sign too.
func AppendComponent(dst []byte, s string) []byte {
	for i := range len(s) {
		if chars[s[i]]&charUnreserved != 0 {
			dst = append(dst, s[i])
		} else {
			dst = appendEscape(dst, s[i])
		}
	}
	return dst
}
