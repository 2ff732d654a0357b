package zone

import (
	"strconv"
	"strings"

	"fingerpost"
)

// Name is an absolute domain name as it stands in a message: each label with
// its length before it, the root's zero at the end, no compression, ASCII
// letters in lower case (RFC 4343). Two names are the same if the strings are.
// The zero Name is no name.
type Name string

// Root is the name above all others.
const Root Name = "\x00"

const (
	maxName  = 255 // bytes of a name with all lengths and the root (RFC 1035 2.3.4)
	maxLabel = 63
)

// ParseName reads a name as people write it, with or without the final dot. In
// it \. is a dot that separates nothing, and \DDD the byte of that decimal
// number (RFC 1035 5.1). It does not map international names: A-labels are what
// DNS knows.
func ParseName(s string) (Name, error) {
	bad := func(message, hint string) (Name, error) {
		return "", &fingerpost.Error{Code: "bad_name", Message: "name " + strconv.Quote(s) + " " + message, Hint: hint}
	}
	if s == "." {
		return Root, nil
	}
	wire := make([]byte, 1, len(s)+2) // [0] is the length of the label that is being read
	start := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '.':
			n := len(wire) - start - 1
			if n == 0 {
				return bad("has an empty label", "write one dot between two labels")
			}
			wire[start] = byte(n)
			start = len(wire)
			wire = append(wire, 0)
			continue
		case c != '\\':
		case i+3 < len(s) && isDigit(s[i+1]) && isDigit(s[i+2]) && isDigit(s[i+3]):
			n := int(s[i+1]-'0')*100 + int(s[i+2]-'0')*10 + int(s[i+3]-'0')
			if n > 255 {
				return bad("has an escape above \\255", "an escape is \\ and the decimal number of a byte")
			}
			c, i = byte(n), i+3
		case i+1 < len(s) && !isDigit(s[i+1]):
			c, i = s[i+1], i+1
		default:
			return bad("has an unfinished escape", "write \\ and three digits, or \\ and the character")
		}
		wire = append(wire, lower(c))
		if len(wire)-start-1 > maxLabel {
			return bad("has a label of more than 63 bytes", "")
		}
	}
	if n := len(wire) - start - 1; n > 0 {
		wire[start] = byte(n)
		wire = append(wire, 0)
	} else if len(wire) == 1 {
		return bad("is empty", "write . for the root")
	}
	if len(wire) > maxName {
		return bad("is longer than 255 bytes", "")
	}
	return Name(wire), nil
}

// MustParseName is ParseName for names that are written in the program.
func MustParseName(s string) Name {
	n, err := ParseName(s)
	if err != nil {
		panic(err)
	}
	return n
}

// String writes the name with its final dot, so that ParseName gives it back.
func (n Name) String() string {
	if n == Root {
		return "."
	}
	var b strings.Builder
	for n != "" && n[0] != 0 {
		label := n[1 : 1+int(n[0])]
		for i := range len(label) {
			switch c := label[i]; {
			case c == '.' || c == '\\':
				b.WriteByte('\\')
				b.WriteByte(c)
			case c <= ' ' || c >= 0x7f || strings.IndexByte(`"();@$`, c) >= 0:
				b.WriteByte('\\')
				b.WriteString(strconv.Itoa(1000 + int(c))[1:])
			default:
				b.WriteByte(c)
			}
		}
		b.WriteByte('.')
		n = n.Parent()
	}
	return b.String()
}

// Parent is n without its first label; the root's is the zero Name.
func (n Name) Parent() Name {
	return n[1+int(n[0]):]
}

// Label is the first label of n; the root has an empty one.
func (n Name) Label() string {
	return string(n[1 : 1+int(n[0])])
}

// Child is the name of one label more, or the zero Name if that is too long.
func (n Name) Child(label string) Name {
	if label == "" || len(label) > maxLabel || 1+len(label)+len(n) > maxName {
		return ""
	}
	wire := make([]byte, 0, 1+len(label)+len(n))
	wire = append(wire, byte(len(label)))
	for i := range len(label) {
		wire = append(wire, lower(label[i]))
	}
	return Name(append(wire, n...))
}

// IsIn reports whether n is apex or stands below it.
func (n Name) IsIn(apex Name) bool {
	for len(n) > len(apex) {
		n = n.Parent()
	}
	return n == apex
}

// nameEnd is where the name that data begins with ends, or -1 if there is none,
// or none that a Name could be.
func nameEnd(data string) int {
	for i := 0; i < len(data) && i < maxName; i += 1 + int(data[i]) {
		if data[i] == 0 {
			return i + 1
		}
		if data[i] > maxLabel || i+1+int(data[i]) >= len(data) {
			return -1
		}
		for _, c := range []byte(data[i+1 : i+1+int(data[i])]) {
			if c != lower(c) {
				return -1
			}
		}
	}
	return -1
}

func (n Name) isWildcard() bool { return len(n) > 2 && n[0] == 1 && n[1] == '*' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
