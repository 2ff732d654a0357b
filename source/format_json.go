package source

import (
	"strings"
)

// formatJSON lays JSON with comments out as gofmt does composite literals: what
// stands on one line stays on one, what was broken is broken at each item, two
// spaces deep. So a redirect that was written on a line of its own stays there,
// however long, and a change of one line changes no other. text has been parsed.
func formatJSON(_, text string) (string, error) {
	f := jsonFormatter{text: text}
	doc := f.items(0)
	var b strings.Builder
	doc.print(&b, "", false)
	return b.String(), nil
}

// jsonItem is a member of an object, an element of an array, or the document's
// value, with the comments around it.
type jsonItem struct {
	blank bool     // an empty line stands before it
	lead  []string // comments on lines of their own before it
	key   string   // with its quotes; empty outside objects
	value string   // a scalar as written, or the opening bracket
	items jsonItems
	trail []string // comments behind it on its line
}

// jsonItems is what stands between brackets.
type jsonItems struct {
	list   []jsonItem
	end    []string // comments before the closing bracket
	broken bool     // over several lines
	comma  bool     // behind the last item
}

type jsonFormatter struct {
	text string
	pos  int
}

// gap reads white space and comments. lines counts the ends of lines before each
// comment, and at last those before the next token.
func (f *jsonFormatter) gap() (comments []string, lines []int) {
	n := 0
	for f.pos < len(f.text) {
		rest := f.text[f.pos:]
		size := 1
		switch {
		case rest[0] == '\n':
			n++
		case strings.HasPrefix(rest, "//"):
			if size = strings.IndexByte(rest, '\n'); size < 0 {
				size = len(rest)
			}
			comments, lines, n = append(comments, strings.TrimRight(rest[:size], " \t\r")), append(lines, n), 0
		case strings.HasPrefix(rest, "/*"):
			size = strings.Index(rest, "*/") + 2
			comments, lines, n = append(comments, rest[:size]), append(lines, n), 0
		case strings.IndexByte(" \t\r", rest[0]) < 0:
			return comments, append(lines, n)
		}
		f.pos += size
	}
	return comments, append(lines, n)
}

// items reads items up to the closing bracket, or the document's one up to the
// end of the text.
func (f *jsonFormatter) items(open byte) jsonItems {
	var x jsonItems
	first := true
	for {
		comments, lines := f.gap()
		newline := lines[0] > 0
		// Comments on the line of what came before belong to it.
		for len(x.list) > 0 && len(comments) > 0 && lines[0] == 0 {
			last := &x.list[len(x.list)-1]
			last.trail = append(last.trail, comments[0])
			comments, lines = comments[1:], lines[1:]
		}
		x.broken = x.broken || len(comments) > 0
		blank := lines[0] > 1 && !first
		if f.pos < len(f.text) && f.text[f.pos] == ',' {
			f.pos++
			x.comma = true
			if len(comments) > 0 {
				last := &x.list[len(x.list)-1]
				last.trail = append(last.trail, comments...)
			}
			continue
		}
		if f.pos == len(f.text) || open != 0 && (f.text[f.pos] == '}' || f.text[f.pos] == ']') {
			f.pos++
			x.end = comments
			for _, item := range x.list {
				x.broken = x.broken || item.items.broken || len(item.trail) > 0
			}
			return x
		}
		x.broken = x.broken || newline
		first, x.comma = false, false
		item := jsonItem{blank: blank, lead: comments}
		if open == '{' {
			item.key = f.scalar()
			before, _ := f.gap()
			f.pos++ // the colon
			after, _ := f.gap()
			item.lead = append(append(item.lead, before...), after...)
		}
		if c := f.text[f.pos]; c == '{' || c == '[' {
			f.pos++
			item.value = string(c)
			item.items = f.items(c)
		} else {
			item.value = f.scalar()
		}
		x.list = append(x.list, item)
	}
}

// scalar cuts a text or a word.
func (f *jsonFormatter) scalar() string {
	start := f.pos
	if f.text[f.pos] == '"' {
		for f.pos++; f.text[f.pos] != '"'; f.pos++ {
			if f.text[f.pos] == '\\' {
				f.pos++
			}
		}
		f.pos++
		return f.text[start:f.pos]
	}
	for f.pos < len(f.text) && strings.IndexByte(" \t\r\n,:]}/", f.text[f.pos]) < 0 {
		f.pos++
	}
	return f.text[start:f.pos]
}

// print writes items; inside says that they stand between brackets.
func (x *jsonItems) print(b *strings.Builder, indent string, inside bool) {
	for i := range x.list {
		item := &x.list[i]
		if item.blank {
			b.WriteByte('\n')
		}
		for _, c := range item.lead {
			b.WriteString(indent + c + "\n")
		}
		b.WriteString(indent)
		item.print(b, indent)
		if inside && (i < len(x.list)-1 || x.comma) {
			b.WriteByte(',')
		}
		for _, c := range item.trail {
			b.WriteString(" " + c)
		}
		b.WriteByte('\n')
	}
	for _, c := range x.end {
		b.WriteString(indent + c + "\n")
	}
}

func (item *jsonItem) print(b *strings.Builder, indent string) {
	if item.key != "" {
		b.WriteString(item.key + ": ")
	}
	b.WriteString(item.value)
	closing := map[string]string{"{": "}", "[": "]"}[item.value]
	switch {
	case closing == "":
		return
	case item.items.broken:
		b.WriteByte('\n')
		item.items.print(b, indent+"  ", true)
		b.WriteString(indent)
	default:
		for i := range item.items.list {
			if i > 0 {
				b.WriteString(", ")
			}
			item.items.list[i].print(b, indent)
		}
	}
	b.WriteString(closing)
}
