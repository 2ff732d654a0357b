package source

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"
)

// jsonParser reads JSON with comments and trailing commas (JWCC) into nodes. The
// language is that of hujson, whose tree takes ten times the memory of ours and
// is recursive without a bound. A test holds the two together.
type jsonParser struct {
	*parser
	pos   int
	line  int
	start int // where the line begins
}

func (p *parser) parseJSON() (*node, error) {
	j := jsonParser{parser: p, line: 1}
	if err := j.skip(); err != nil {
		return nil, err
	}
	if j.pos == len(j.text) {
		return nil, p.fail("bad_syntax", 0, 0, "the file is empty", "an empty list of redirects is []")
	}
	root, err := j.value(0)
	if err == nil {
		err = j.skip()
	}
	if err == nil && j.pos < len(j.text) {
		err = j.unexpected("after the end of the content", "check that brackets and braces come in pairs")
	}
	if err != nil {
		return nil, err
	}
	return &root, nil
}

func (j *jsonParser) column() int { return j.pos - j.start + 1 }

func (j *jsonParser) bad(message, hint string) error {
	return j.fail("bad_syntax", j.line, j.column(), message, hint)
}

func (j *jsonParser) unexpected(where, hint string) error {
	if j.pos >= len(j.text) {
		return j.bad("the file ends "+where, hint)
	}
	r, _ := utf8.DecodeRuneInString(j.text[j.pos:])
	return j.bad("unexpected "+strconv.QuoteRune(r)+" "+where, hint)
}

// skip passes white space and comments.
func (j *jsonParser) skip() error {
	for j.pos < len(j.text) {
		switch c := j.text[j.pos]; c {
		case '\n':
			j.pos++
			j.line, j.start = j.line+1, j.pos
		case ' ', '\t', '\r':
			j.pos++
		case '/':
			if err := j.comment(); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	return nil
}

func (j *jsonParser) comment() error {
	rest := j.text[j.pos:]
	switch {
	case strings.HasPrefix(rest, "//"):
		end := strings.IndexByte(rest, '\n')
		if end < 0 {
			end = len(rest)
		}
		if i := strings.IndexAny(rest[:end], "\u2028\u2029"); i >= 0 {
			// A line end for some programs and none for others.
			j.pos += i
			return j.bad("a comment has a Unicode line separator", "break the line with the return key")
		}
		j.pos += end
	case strings.HasPrefix(rest, "/*"):
		end := strings.Index(rest[2:], "*/")
		if end < 0 {
			return j.bad("a comment begins here and never ends", "end it with */")
		}
		comment := rest[:2+end+2]
		if i := strings.LastIndexByte(comment, '\n'); i >= 0 {
			j.line += strings.Count(comment, "\n")
			j.start = j.pos + i + 1
		}
		j.pos += len(comment)
	default:
		return j.unexpected("where a value or a comment should be", "a comment begins with // or /*")
	}
	return nil
}

func (j *jsonParser) value(depth int) (node, error) {
	n := node{line: int32(j.line), column: int32(j.column())}
	if j.pos == len(j.text) {
		return n, j.unexpected("where a value should be", "")
	}
	var err error
	switch c := j.text[j.pos]; {
	case (c == '{' || c == '[') && depth == maxDepth:
		return n, j.tooDeep(j.line, j.column())
	case c == '{':
		n.kind = kindMap
		return n, j.members(&n, '}', depth)
	case c == '[':
		n.kind = kindList
		return n, j.members(&n, ']', depth)
	case c == '"':
		n.kind = kindText
		n.text, err = j.quoted()
		return n, err
	}
	return n, j.word(&n)
}

// members reads what stands between brackets or braces.
func (j *jsonParser) members(n *node, end byte, depth int) error {
	mark := len(j.stack)
	opened := "the " + string(end-2) + " of line " + strconv.Itoa(j.line) // { and [ come two before } and ]
	j.pos++
	for {
		if err := j.skip(); err != nil {
			return err
		}
		if j.pos < len(j.text) && j.text[j.pos] == end {
			j.pos++
			j.collect(n, mark)
			return nil
		}
		if j.pos == len(j.text) {
			return j.bad("the file ends before "+opened+" is closed", "add the missing "+string(end))
		}
		if end == '}' {
			if err := j.key(); err != nil {
				return err
			}
		}
		child, err := j.value(depth + 1)
		if err != nil {
			return err
		}
		j.stack = append(j.stack, child)
		if err := j.skip(); err != nil {
			return err
		}
		switch {
		case j.pos < len(j.text) && j.text[j.pos] == ',':
			j.pos++
		case j.pos < len(j.text) && j.text[j.pos] == end:
		case j.pos == len(j.text):
			return j.bad("the file ends before "+opened+" is closed", "add the missing "+string(end))
		default:
			return j.unexpected("where a comma or "+string(end)+" should be", "put a comma behind what stands before it")
		}
	}
}

// key reads a key and its colon, and pushes the key.
func (j *jsonParser) key() error {
	key := node{line: int32(j.line), column: int32(j.column()), kind: kindText}
	if j.text[j.pos] != '"' {
		return j.unexpected("where a key should be", `a key stands in double quotes: "to"`)
	}
	var err error
	if key.text, err = j.quoted(); err != nil {
		return err
	}
	j.stack = append(j.stack, key)
	if err := j.skip(); err != nil {
		return err
	}
	if j.pos == len(j.text) || j.text[j.pos] != ':' {
		return j.unexpected("behind the key "+quote(key.text), "a colon goes between a key and its value")
	}
	j.pos++
	return j.skip()
}

func (j *jsonParser) quoted() (string, error) {
	escaped := false
	for i := j.pos + 1; i < len(j.text); i++ {
		switch c := j.text[i]; {
		case c == '"':
			s := j.text[j.pos+1 : i]
			if escaped {
				var plain string
				if json.Unmarshal([]byte(j.text[j.pos:i+1]), &plain) != nil {
					return "", j.bad("the text "+quote(s)+" has a backslash that means nothing", `write a backslash as \\`)
				}
				s = plain
			}
			j.pos = i + 1
			return s, nil
		case c == '\\':
			escaped = true
			i++
		case c == '\n' || c == '\r':
			return "", j.bad("a text begins here and does not end on its line", `a closing " is missing`)
		case c < ' ':
			j.pos = i
			return "", j.bad("a text has the control byte "+strconv.QuoteRune(rune(c)), `a tab is written as \t; other control bytes have no use here`)
		}
	}
	return "", j.bad("a text begins here and does not end on its line", `a closing " is missing`)
}

// word reads true, false, null or a number.
func (j *jsonParser) word(n *node) error {
	end := j.pos
	for end < len(j.text) && (j.text[end] == '-' || j.text[end] == '+' || j.text[end] == '.' || isAlnum(j.text[end])) {
		end++
	}
	switch n.text = j.text[j.pos:end]; {
	case n.text == "":
		return j.unexpected("where a value should be", "text stands in double quotes")
	case n.text == "true", n.text == "false":
		n.kind = kindBool
	case n.text == "null":
		n.text = ""
	case json.Valid([]byte(n.text)):
		n.kind = kindNumber
	default:
		return j.bad("unexpected word "+quote(n.text), "text stands in double quotes")
	}
	j.pos = end
	return nil
}

func isAlnum(c byte) bool {
	return 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
}
