package source

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"fingerpost"
)

type kind uint8

const (
	kindNull kind = iota
	kindText
	kindNumber // its text is as it was written
	kindBool
	kindList
	kindMap
)

// maxDepth is how deep lists and maps may stand in one another. The deepest that
// means anything is hosts.NAME.redirects.N.tests.N.headers.NAME.
const maxDepth = 64

// node is a value of a file with the place where it stands, whatever language
// the file is in. A file of a million rules has five million of them, so it is
// small, and its text is a part of the file's text.
type node struct {
	line, column int32
	kind         kind
	text         string
	items        []node // of a list; of a map key, value, key, value, …
}

// get gives the value of a key of a map, or nil.
func (n *node) get(key string) *node {
	if n.kind == kindMap {
		for i := 0; i < len(n.items); i += 2 {
			if n.items[i].text == key {
				return &n.items[i+1]
			}
		}
	}
	return nil
}

// find follows a dotted field as far as the tree knows it.
func (n *node) find(field string) (at *node, whole bool) {
	at = n
	for key := range strings.SplitSeq(field, ".") {
		next := at.get(key)
		if next == nil {
			return at, false
		}
		at = next
	}
	return at, true
}

// found says in plain words what stands at n.
func (n *node) found() string {
	switch n.kind {
	case kindText:
		return "the text " + quote(n.text)
	case kindNumber:
		return "the number " + n.text
	case kindBool:
		return n.text
	case kindList:
		return "a list"
	case kindMap:
		return "a map of keys"
	}
	return "nothing"
}

// quote quotes what was written, shortened to what fits on a line.
func quote(s string) string {
	if len(s) > 60 {
		cut := 60
		for !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	return strconv.Quote(s)
}

// equal reports whether two trees mean the same, wherever they stand.
func (n *node) equal(other *node) bool {
	if n.kind != other.kind || n.text != other.text || len(n.items) != len(other.items) {
		return false
	}
	for i := range n.items {
		if !n.items[i].equal(&other.items[i]) {
			return false
		}
	}
	return true
}

// parser is what the two languages have in common.
type parser struct {
	file  string
	text  string
	errs  []error // that leave a tree
	stack []node  // children of the lists and maps that are not finished
}

func (p *parser) fail(code string, line, column int, message, hint string) error {
	return &fingerpost.Error{Code: code, Message: message, Hint: hint, At: fingerpost.Position{File: p.file, Line: line, Column: column}}
}

// collect takes the children above mark off the stack into n.
func (p *parser) collect(n *node, mark int) {
	if len(p.stack) > mark {
		n.items = make([]node, len(p.stack)-mark)
		copy(n.items, p.stack[mark:])
		p.stack = p.stack[:mark]
	}
	if n.kind == kindMap {
		p.duplicates(n.items)
	}
}

func (p *parser) duplicates(items []node) {
	const few = 32
	var seen map[string]int
	if len(items) > few {
		seen = make(map[string]int, len(items)/2)
	}
	for i := 0; i < len(items); i += 2 {
		key, first := items[i].text, -1
		if seen != nil {
			if j, ok := seen[key]; ok {
				first = j
			} else {
				seen[key] = i
			}
		} else {
			for j := 0; j < i && first < 0; j += 2 {
				if items[j].text == key {
					first = j
				}
			}
		}
		if first >= 0 {
			p.errs = append(p.errs, p.fail("duplicate_key", int(items[i].line), int(items[i].column),
				"the key "+quote(key)+" is there twice, first at "+strconv.Itoa(int(items[first].line))+":"+strconv.Itoa(int(items[first].column)), "remove one of them"))
		}
	}
}

// tooDeep is for data that would take the program's memory, not a person's.
func (p *parser) tooDeep(line, column int) error {
	return p.fail("bad_syntax", line, column, "lists and maps stand more than "+strconv.Itoa(maxDepth)+" deep in one another", "no setting is that deep; check the brackets and the indentation")
}
