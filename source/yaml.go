package source

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxAliased bounds the nodes that aliases add to a file: nine lines of aliases
// of aliases can stand for a billion.
const maxAliased = 100_000

// parseYAML reads one document. An empty one is null.
func (p *parser) parseYAML() (*node, error) {
	doc, err := p.decodeYAML()
	if err != nil || doc == nil {
		return &node{line: 1, column: 1}, err
	}
	y := yamlTree{parser: p, lines: lineStarts(p.text)}
	root, err := y.node(doc.Content[0], 0)
	if err != nil {
		return nil, err
	}
	return &root, nil
}

// decodeYAML gives the library's own tree, which has the comments too; nil for a
// document with nothing in it.
func (p *parser) decodeYAML() (doc *yaml.Node, err error) {
	defer func() {
		// The library reports by panics inside; one that escapes must not end
		// the program because of a bad file.
		if r := recover(); r != nil {
			doc, err = nil, p.fail("bad_syntax", 0, 0, "not valid YAML", "compare the file with an example")
		}
	}()
	d := yaml.NewDecoder(strings.NewReader(p.text))
	doc = new(yaml.Node)
	if err := d.Decode(doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, p.yamlError(err)
	}
	var second yaml.Node
	if err := d.Decode(&second); err == nil {
		return nil, p.fail("bad_syntax", second.Line, second.Column, "a second document begins here", "remove the line --- or make it a file of its own")
	} else if !errors.Is(err, io.EOF) {
		return nil, p.yamlError(err)
	}
	return doc, nil
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// yamlError finds the line of a syntax error. The library names the line where
// the enclosing list or map begins, and counts it in two ways; how far it had to
// read is closer to what a person must mend.
func (p *parser) yamlError(err error) error {
	m := yamlLine.FindStringSubmatch(err.Error())
	if m == nil {
		return p.fail("bad_syntax", 0, 0, "not valid YAML: "+err.Error(), "")
	}
	message := strings.TrimPrefix(err.Error(), m[0])
	line, _ := strconv.Atoi(m[1])
	column := 0
	hint := "look at the indentation of this line and of the one above it"
	if name, ok := strings.CutPrefix(message, "unknown anchor '"); ok {
		name = strings.TrimSuffix(name, "' referenced")
		before, _, _ := strings.Cut(p.text, "*"+name)
		line, column = strings.Count(before, "\n")+1, len(before)-strings.LastIndexByte(before, '\n')
		return p.fail("bad_syntax", line, column, "not valid YAML: *"+name+" without quotes stands for something that is not there", `put text that begins with * in quotes: "*.example.com"`)
	}
	switch {
	case strings.Contains(message, "unexpected end of stream"):
		message, hint = "a text begins here and never ends", "a closing quote is missing"
	case strings.Contains(message, "could not find expected ':'"):
		message, hint = "a key without a colon", "write key: value, with a space behind the colon"
	default:
		line = p.yamlReached()
		switch {
		case strings.Contains(message, "alphabetic or numeric"):
			message, hint = "a * or & without quotes", `put text that begins with * or & in quotes: "*.example.com"`
		case strings.Contains(message, "cannot start any token"):
			hint = "put text that begins with a sign in quotes, and indent with spaces, not tabs"
		case strings.Contains(message, "tab character"):
			hint = "indent with spaces, not tabs"
		case strings.Contains(message, "mapping values are not allowed"):
			message, hint = "a colon where none can be", "put text that has a colon and a space in quotes; look at the indentation of this line and of the one above it"
		case strings.Contains(message, "',' or"):
			hint = "a closing bracket or brace is missing, here or in a line above"
		case strings.Contains(message, "unknown escape"):
			hint = "use single quotes, in which a backslash is itself"
		}
	}
	return p.fail("bad_syntax", line, 0, "not valid YAML: "+message, hint)
}

// yamlReached gives the line of the last visible byte that the library asks for
// before it fails.
func (p *parser) yamlReached() int {
	r := &stingyReader{text: p.text}
	d := yaml.NewDecoder(r)
	for d.Decode(new(yaml.Node)) == nil {
	}
	return 1 + strings.Count(strings.TrimRight(p.text[:r.pos], " \t\r\n"), "\n")
}

// stingyReader hands out one byte at a time.
type stingyReader struct {
	text string
	pos  int
}

func (r *stingyReader) Read(b []byte) (int, error) {
	if r.pos == len(r.text) || len(b) == 0 {
		return 0, io.EOF
	}
	b[0] = r.text[r.pos]
	r.pos++
	return 1, nil
}

type yamlTree struct {
	*parser
	lines   []int // where each line begins; nil where columns need no conversion
	aliases int   // how many aliases enclose the node at hand
	aliased int   // nodes that came through them
}

// lineStarts is nil for ASCII, in which a column of characters is one of bytes.
func lineStarts(s string) []int {
	ascii := true
	for i := 0; i < len(s) && ascii; i++ {
		ascii = s[i] < utf8.RuneSelf
	}
	if ascii {
		return nil
	}
	starts := []int{0}
	for i, r := range s {
		switch r {
		case '\r':
			if i+1 < len(s) && s[i+1] == '\n' {
				continue
			}
			fallthrough
		case '\n', '\u0085', '\u2028', '\u2029': // the line breaks of YAML 1.1
			starts = append(starts, i+utf8.RuneLen(r))
		}
	}
	return starts
}

// column turns a column of characters into one of bytes.
func (y *yamlTree) column(line, column int) int {
	if line < 1 || line > len(y.lines) {
		return column
	}
	rest, n := y.text[y.lines[line-1]:], 0
	for range column - 1 {
		_, size := utf8.DecodeRuneInString(rest[n:])
		n += size
	}
	return n + 1
}

func (y *yamlTree) node(from *yaml.Node, depth int) (node, error) {
	n := node{line: int32(from.Line), column: int32(y.column(from.Line, from.Column))}
	bad := func(message, hint string) (node, error) {
		return n, y.fail("bad_syntax", int(n.line), int(n.column), message, hint)
	}
	if depth > maxDepth {
		return n, y.tooDeep(int(n.line), int(n.column))
	}
	if y.aliases > 0 {
		if y.aliased++; y.aliased > maxAliased {
			return bad(fmt.Sprintf("aliases stand for more than %d values", maxAliased), "write the values out")
		}
	}
	if from.Style&yaml.TaggedStyle != 0 && from.Tag != "!!str" {
		return bad("the tag "+from.Tag+" is not used here", "remove it; what is text goes in quotes")
	}
	switch from.Kind {
	case yaml.AliasNode:
		y.aliases++
		defer func() { y.aliases-- }()
		value, err := y.node(from.Alias, depth+1) // an alias inside its own anchor ends at maxDepth
		value.line, value.column = n.line, n.column
		return value, err
	case yaml.ScalarNode:
		n.text = from.Value
		switch from.Tag {
		case "!!null":
			n.kind, n.text = kindNull, ""
		case "!!bool":
			n.kind = kindBool
		case "!!int", "!!float":
			n.kind = kindNumber
		default: // a time is text, which the decoder reads
			n.kind = kindText
		}
		return n, nil
	case yaml.SequenceNode:
		n.kind = kindList
	case yaml.MappingNode:
		n.kind = kindMap
	}
	mark := len(y.stack)
	for i, c := range from.Content {
		if n.kind == kindMap && i%2 == 0 {
			key := c
			if c.Kind == yaml.AliasNode {
				key = c.Alias
			}
			k := node{line: int32(c.Line), column: int32(y.column(c.Line, c.Column)), kind: kindText, text: key.Value}
			switch n := k; {
			case key.Kind != yaml.ScalarNode:
				return n, y.fail("bad_syntax", int(n.line), int(n.column), "a key must be text, not a list or map", "look at the brackets and braces, or put the key in quotes")
			case key.Tag == "!!merge":
				return n, y.fail("bad_syntax", int(n.line), int(n.column), "merge keys (<<) are not used here", "write the keys out")
			case key.Tag == "!!null":
				return n, y.fail("bad_syntax", int(n.line), int(n.column), "the key is missing", "write what stands before the colon")
			}
			y.stack = append(y.stack, k)
			continue
		}
		child, err := y.node(c, depth+1)
		if err != nil {
			return n, err
		}
		y.stack = append(y.stack, child)
	}
	y.collect(&n, mark)
	return n, nil
}
