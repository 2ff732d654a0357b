package fingerpost

import (
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// HostPattern names the hosts that a redirect or a host's settings are for, in
// lower case and A-labels:
//
//	example.com    that host (also an IPv4 address, or an IPv6 address in brackets)
//	*.example.com  any depth below, not the apex
//	.example.com   the apex and any depth below
//	*              every host
type HostPattern string

// IsWildcard reports whether p can stand for more than one host.
func (p HostPattern) IsWildcard() bool {
	return p != "" && (p[0] == '*' || p[0] == '.')
}

// Suffix is the name below which a wildcard reaches: example.com for
// *.example.com and for .example.com, empty for * and for an exact host.
func (p HostPattern) Suffix() string {
	switch {
	case strings.HasPrefix(string(p), "*."):
		return string(p[2:])
	case strings.HasPrefix(string(p), "."):
		return string(p[1:])
	}
	return ""
}

// Match reports whether host, as [ParseHost] gives it, is one of p's, and which
// of its labels the wildcard took: "a.b" of a.b.example.com.
func (p HostPattern) Match(host string) (sub string, ok bool) {
	switch suffix := p.Suffix(); {
	case p == "*":
		return host, true
	case suffix == "":
		return "", string(p) == host
	case p[0] == '.' && host == suffix:
		return "", true
	default:
		sub, ok = strings.CutSuffix(host, suffix)
		if !ok || len(sub) < 2 || sub[len(sub)-1] != '.' {
			return "", false
		}
		return sub[:len(sub)-1], true
	}
}

// CertificateNames lists the names that stand for a host pattern in a certificate:
// shop.example and *.shop.example for .shop.example. There are none for * and for
// addresses.
func CertificateNames(pattern string) []string {
	p, err := ParseHostPattern(pattern)
	if err != nil || p == "*" || p[0] == '[' {
		return nil
	}
	if p[0] == '.' {
		return []string{string(p[1:]), "*" + string(p)}
	}
	if _, err := netip.ParseAddr(string(p)); err == nil {
		return nil
	}
	return []string{string(p)}
}

// toASCII maps a name to A-labels as a browser does (UTS 46, non-transitional).
// Hyphens are not checked: hosts like r3---sn.example exist.
var toASCII = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.Transitional(false),
	idna.StrictDomainName(true), idna.CheckHyphens(false), idna.VerifyDNSLength(true))

// ParseHostPattern reads a host as people write it: any case, U-labels, a final
// dot. A port is refused, since no pattern looks at it.
func ParseHostPattern(s string) (HostPattern, error) {
	bad := func(message, hint string) (HostPattern, error) {
		return "", &Error{Code: "bad_host", Message: "host " + strconv.Quote(s) + " " + message, Hint: hint}
	}
	prefix, name := "", s
	switch {
	case s == "":
		return "", &Error{Code: "bad_host", Message: "the host is missing", Hint: "write the host first, for example example.com/path, or * for every host"}
	case s == "*":
		return "*", nil
	case strings.HasPrefix(s, "*."):
		prefix, name = "*.", s[2:]
	case strings.HasPrefix(s, "."):
		prefix, name = ".", s[1:]
	case s[0] == '[':
		host, port, err := ParseHost(s)
		if err != nil {
			return "", err
		}
		if port != "" {
			return bad("has a port", "remove it: a rule holds for every port")
		}
		return HostPattern(host), nil
	}
	if isPlainName(name) {
		return HostPattern(s), nil
	}
	if strings.Contains(name, "://") {
		return bad("is a URL", "write the host alone, as in shop.example")
	}
	switch i := strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || strings.ContainsRune("*:@_%\\\"<>", r) }); {
	case i < 0:
	case name[i] == '*':
		return bad("has a * that is not its first label", "a wildcard is *.example.com, .example.com or * alone")
	case name[i] == ':':
		return bad("has a port", "remove it: a rule holds for every port; an IPv6 address goes in brackets")
	case name[i] <= ' ':
		return bad("has a space", "remove it")
	default:
		return bad("has the character "+strconv.Quote(name[i:i+1]), "a host has letters, digits, - and .")
	}
	// The final dot goes after the mapping, which knows other full stops too.
	ascii, err := toASCII.ToASCII(name)
	ascii = strings.TrimSuffix(ascii, ".")
	if err != nil || !utf8.ValidString(name) || ascii == "" || strings.HasPrefix(ascii, ".") || strings.HasSuffix(ascii, ".") || strings.Contains(ascii, "..") {
		return bad("is not a host name", "each label has 1 to 63 letters, digits and hyphens, the whole at most 253 characters")
	}
	for label := range strings.SplitSeq(ascii, ".") {
		if label[0] == '-' || label[len(label)-1] == '-' {
			return bad("has a label that begins or ends with a hyphen", "")
		}
	}
	return HostPattern(prefix + ascii), nil
}

// isPlainName reports whether a name is one of those, by far the most, that
// toASCII gives as they are. A table reads three names for each rule, and to map
// all of them took a third of its compilation.
func isPlainName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		n := len(label)
		if n == 0 || n > 63 || label[0] == '-' || label[n-1] == '-' || strings.HasPrefix(label, "xn--") {
			return false
		}
		for i := range n {
			if c := label[i]; (c < 'a' || 'z' < c) && !isDigit(c) && c != '-' {
				return false
			}
		}
	}
	return true
}

// ParseHost brings the Host of a request (RFC 9110 7.2) to the form that tables
// hold: lower case, no port, no final dot, an IPv6 address canonical in
// brackets. It does not allocate for a host that is in this form already. The
// error is for a client that must get 400.
func ParseHost(authority string) (host, port string, err error) {
	if authority != "" && authority[0] == '[' {
		return parseIPv6Host(authority)
	}
	host = authority
	if i := strings.IndexByte(host, ':'); i >= 0 {
		host, port = host[:i], host[i+1:]
		if !isPort(port) {
			return "", "", badAuthority(authority)
		}
	}
	host = strings.TrimSuffix(host, ".")
	if host == "" || len(host) > 253 {
		return "", "", badAuthority(authority)
	}
	upper := false
	for i := range len(host) {
		switch c := host[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-':
		case c == '.' && 0 < i && i < len(host)-1 && host[i-1] != '.': // no label is empty
		case 'A' <= c && c <= 'Z':
			upper = true
		default:
			return "", "", badAuthority(authority)
		}
	}
	if upper {
		host = strings.ToLower(host)
	}
	return host, port, nil
}

func parseIPv6Host(authority string) (host, port string, err error) {
	inner, rest, ok := strings.Cut(authority[1:], "]")
	addr, parseErr := netip.ParseAddr(inner)
	if !ok || parseErr != nil || !addr.Is6() || addr.Zone() != "" {
		return "", "", badAuthority(authority)
	}
	if rest != "" {
		if port = rest[1:]; rest[0] != ':' || !isPort(port) {
			return "", "", badAuthority(authority)
		}
	}
	return "[" + addr.String() + "]", port, nil
}

// isPort accepts the empty port: "example.com:" is legal (RFC 3986 3.2.3).
func isPort(s string) bool {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		n = n*10 + int(s[i]-'0')
		if n > 65535 {
			return false
		}
	}
	return true
}

func badAuthority(s string) error {
	return &Error{Code: "bad_host", Message: "bad host " + strconv.Quote(s)}
}
