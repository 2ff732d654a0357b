package h1

import (
	"encoding/binary"
	"strings"
	"unsafe"
)

func indexByte(s string, c byte) int { return strings.IndexByte(s, c) }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// tokens has the bytes of a token (RFC 9110 5.6.2).
var tokens = func() (t [256]bool) {
	for c := range 256 {
		b := byte(c)
		t[c] = isDigit(b) || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", b) >= 0
	}
	return t
}()

func isToken(s string) bool {
	for i := range len(s) {
		if !tokens[s[i]] {
			return false
		}
	}
	return s != ""
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// below gives a word that is not zero if one of the 8 bytes of w is below n, which
// is at most 128. It may be wrong about a byte only where a lower one is below n,
// so whether there is any is right.
func below(w uint64, n byte) uint64 { return (w - ones*uint64(n)) &^ w & highs }

// anyDelete gives a word that is not zero if one of the 8 bytes of w is DEL.
func anyDelete(w uint64) uint64 { return below(w^ones*0x7f, 1) }

// isTarget reports whether s has neither spaces nor control bytes. Bytes over 127
// are no part of a URI either, but browsers of old send them; whoever reads the
// path decides.
func isTarget(s string) bool {
	for len(s) >= 8 {
		w := word(s)
		if below(w, '!')|anyDelete(w) != 0 {
			return false
		}
		s = s[8:]
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// isValue reports whether s has only what a field value may have (RFC 9110 5.5):
// no control bytes but tabs.
func isValue(s string) bool {
	for len(s) >= 8 {
		w := word(s)
		if below(w, ' ')|anyDelete(w) != 0 && !isValueSlow(s[:8]) {
			return false
		}
		s = s[8:]
	}
	return isValueSlow(s)
}

func isValueSlow(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func word(s string) uint64 {
	return binary.LittleEndian.Uint64(unsafe.Slice(unsafe.StringData(s), 8))
}

// trim removes white space around a value (RFC 9110 5.6.3).
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// equalFold reports whether a and b are the same but for the case of ASCII
// letters; b may be in any case too.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}
