package source

import (
	"bytes"
	"errors"
	"strings"

	"go.yaml.in/yaml/v3"

	"fingerpost"
)

// Format gives the canonical form of a file, two spaces deep. Comments and the blank lines between items are kept;
// the form of the form is itself. Only the syntax is checked. The file's name
// says which language it is in. Where the form would not mean the same, or a
// comment would be lost, it is an error.
func Format(name string, data []byte) ([]byte, error) {
	text := string(data)
	tree, errs := parse(name, text)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	text = strings.TrimLeft(text, "\ufeff")
	for range 6 { // a comment may take some steps to its place
		next, err := step(name, text, tree)
		if err != nil {
			return nil, err
		}
		if next == text {
			return []byte(next), nil
		}
		text = next
	}
	return nil, cannotFormat(name, "its comments have no settled place")
}

// step writes text, whose tree is given, anew in the first layout that keeps its
// meaning and its comments.
func step(name, text string, tree *node) (next string, err error) {
	layouts := []func(name, text string) (string, error){formatJSON}
	if format(name) == "yaml" {
		layouts = []func(name, text string) (string, error){formatSpacedYAML, formatYAML}
	}
	for _, layout := range layouts {
		if next, err = layout(name, text); err != nil {
			continue
		}
		if after, errs := parse(name, next); len(errs) > 0 || !after.equal(tree) {
			err = cannotFormat(name, "it would not mean the same")
		} else if format(name) == "yaml" && strings.Count(next, "#") < strings.Count(text, "#") {
			err = cannotFormat(name, "a comment would be lost")
		} else {
			return next, nil
		}
	}
	return "", err
}

func cannotFormat(name, why string) error {
	return &fingerpost.Error{Code: "bad_format", Message: "cannot be formatted: " + why, At: fingerpost.Position{File: name},
		Hint: "the file is good as it is; simplify its comments or its quoting to have it formatted"}
}

// blankLine stands for one while the library writes, which drops blank lines but
// keeps comments. Inside a text of several lines it would change the meaning;
// then Format goes without.
const blankLine = "#\u00a0blank line\u00a0#"

func formatSpacedYAML(name, text string) (string, error) {
	const space = " \t\r"
	isBlank := func(line string) bool { return strings.Trim(line, space) == "" }
	text = strings.TrimRight(strings.ReplaceAll(text, "\r\n", "\n"), space+"\n")
	if text == "" {
		return "", nil
	}
	lines := strings.Split(text, "\n")
	marked := make([]string, 0, len(lines))
	for i, line := range lines {
		if !isBlank(line) {
			marked = append(marked, line)
		} else if next := lines[i+1]; !isBlank(next) { // several are one; the last line is none
			indent := next[:len(next)-len(strings.TrimLeft(next, " "))]
			marked = append(marked, indent+blankLine)
		}
	}
	formed, err := formatYAML(name, strings.Join(marked, "\n")+"\n")
	if err != nil {
		return "", err
	}
	lines = lines[:0]
	for line := range strings.Lines(formed) {
		line = strings.TrimSuffix(line, "\n")
		if !isBlank(line) && strings.Trim(line, space) != blankLine {
			lines = append(lines, line)
		} else if len(lines) > 0 && lines[len(lines)-1] != "" {
			lines = append(lines, "")
		}
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n") + "\n", nil
}

func formatYAML(name, text string) (formed string, err error) {
	p := parser{file: name, text: text}
	doc, err := p.decodeYAML()
	if err != nil {
		return "", err
	}
	if doc == nil { // nothing, or comments alone
		if text = strings.TrimSpace(text); text != "" {
			text += "\n"
		}
		return text, nil
	}
	defer func() {
		if r := recover(); r != nil { // see decodeYAML
			err = cannotFormat(name, "its YAML is too unusual")
		}
	}()
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(doc), e.Close()); err != nil {
		return "", cannotFormat(name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return b.String(), nil
}
