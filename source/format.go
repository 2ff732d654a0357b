package source

import (
	"bytes"
	"errors"
	"strings"

	"github.com/tailscale/hujson"
	"go.yaml.in/yaml/v3"

	"fingerpost"
)

// Format gives the canonical form of a file: two spaces of indentation for YAML,
// hujson's layout for JSON. Comments are kept, blank lines of YAML are not; the
// form of the form is itself. Only the syntax is checked. The file's name says
// which language it is in. Where the form would not mean the same, or a comment
// would be lost, it is an error.
func Format(name string, data []byte) ([]byte, error) {
	text := string(data)
	before, errs := parse(name, text)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	layout := formatJSON
	if format(name) == "yaml" {
		layout = formatYAML
	}
	// A comment may move by a step in a layout, so it is taken to its end.
	formed := strings.TrimPrefix(text, "\ufeff")
	for range 5 {
		next, err := layout(name, formed)
		if err != nil {
			return nil, err
		}
		if next == formed {
			break
		}
		formed = next
	}
	refuse := func(why string) ([]byte, error) {
		return nil, &fingerpost.Error{Code: "bad_format", Message: "cannot be formatted: " + why, Hint: "the file is good as it is; simplify its comments or its quoting to have it formatted",
			At: fingerpost.Position{File: name}}
	}
	if again, err := layout(name, formed); err != nil || again != formed {
		return refuse("its comments have no settled place")
	}
	if after, errs := parse(name, formed); len(errs) > 0 || !after.equal(before) {
		return refuse("it would not mean the same")
	}
	if strings.Count(formed, "#") < strings.Count(text, "#") && format(name) == "yaml" {
		return refuse("a comment would be lost")
	}
	return []byte(formed), nil
}

func formatJSON(name, text string) (string, error) {
	if !strings.HasSuffix(text, "\n") {
		text += "\n" // hujson wants an end of line behind a comment
	}
	data, err := hujson.Format([]byte(text))
	if err != nil {
		return "", &fingerpost.Error{Code: "bad_format", Message: "cannot be formatted: " + err.Error(), At: fingerpost.Position{File: name}}
	}
	return string(data), nil
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
			err = p.fail("bad_format", 0, 0, "cannot be formatted", "")
		}
	}()
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(doc), e.Close()); err != nil {
		return "", p.fail("bad_format", 0, 0, "cannot be formatted: "+strings.TrimPrefix(err.Error(), "yaml: "), "")
	}
	return b.String(), nil
}
