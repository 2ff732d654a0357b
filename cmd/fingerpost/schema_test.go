package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/source"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/tailscale/hujson"
	"go.yaml.in/yaml/v3"
)

const (
	nativeSchema = "fingerpost.schema.json"
	seedSchema   = "redirects.schema.json"
)

// schemaOnly are the fields that a file has and the noun lacks, since they say
// where to find other files.
var schemaOnly = map[string][]string{
	"host": {"redirects"},
}

// TestSchemaHasTheFieldsOfTheNouns holds the hand-written schema to the types
// that a document is decoded into: same fields, no more and no fewer.
func TestSchemaHasTheFieldsOfTheNouns(t *testing.T) {
	types := map[string]reflect.Type{}
	collectTypes(reflect.TypeFor[fingerpost.Host](), types)
	collectTypes(reflect.TypeFor[fingerpost.Redirect](), types)
	collectTypes(reflect.TypeFor[source.Elsewhere](), types)
	collectTypes(reflect.TypeFor[source.OIDC](), types)
	collectTypes(reflect.TypeFor[source.CA](), types)
	for _, name := range []string{"host", "redirect", "when", "case", "fallback", "hsts", "elsewhere", "s3"} {
		if types[name] == nil {
			t.Errorf("the nouns have no type %s any more: take it out of this list and of the schema", name)
		}
	}

	var schema struct {
		Defs map[string]struct {
			Properties map[string]struct {
				Ref         string `json:"$ref"`
				Description string
			}
			AdditionalProperties any
		} `json:"$defs"`
	}
	if err := json.Unmarshal(initFile(t, nativeSchema), &schema); err != nil {
		t.Fatal(err)
	}
	for name, typ := range types {
		def, ok := schema.Defs[name]
		if !ok {
			t.Errorf("%s has no $defs/%s for %s", nativeSchema, name, typ)
			continue
		}
		if def.AdditionalProperties != false {
			t.Errorf("%s: $defs/%s lets unknown fields through", nativeSchema, name)
		}
		fields := jsonFields(typ)
		for _, field := range fields {
			if _, ok := def.Properties[field]; !ok {
				t.Errorf("%s: $defs/%s lacks %s, which %s has", nativeSchema, name, field, typ)
			}
		}
		for property, p := range def.Properties {
			if !slices.Contains(fields, property) && !slices.Contains(schemaOnly[name], property) {
				t.Errorf("%s: $defs/%s has %s, which %s lacks", nativeSchema, name, property, typ)
			}
			if p.Description == "" && p.Ref == "" {
				t.Errorf("%s: $defs/%s/%s has no description", nativeSchema, name, property)
			}
		}
	}
	for name, def := range schema.Defs {
		if def.Properties != nil && types[name] == nil {
			t.Errorf("%s: $defs/%s describes no type", nativeSchema, name)
		}
	}
}

// collectTypes adds typ and the structs below it, by name in lower case.
func collectTypes(typ reflect.Type, types map[string]reflect.Type) {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		collectTypes(typ.Elem(), types)
	case reflect.Struct:
		name := strings.ToLower(typ.Name())
		if typ == reflect.TypeFor[time.Time]() || types[name] != nil {
			return
		}
		types[name] = typ
		for i := range typ.NumField() {
			if tag := typ.Field(i).Tag.Get("json"); tag != "-" {
				collectTypes(typ.Field(i).Type, types)
			}
		}
	}
}

func jsonFields(typ reflect.Type) []string {
	var names []string
	for i := range typ.NumField() {
		if name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ","); name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// TestInitFilesFitTheirSchemas holds what init writes to the schemas that it
// writes beside it.
func TestInitFilesFitTheirSchemas(t *testing.T) {
	native, seed := compileSchema(t, nativeSchema), compileSchema(t, seedSchema)
	for name, schema := range map[string]*jsonschema.Schema{"fingerpost.yaml": native, "tests.yaml": native, "redirects.json": seed} {
		if err := schema.Validate(decode(t, name, initFile(t, name))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"fingerpost.yaml", "tests.yaml"} {
		if !bytes.HasPrefix(initFile(t, name), []byte("# yaml-language-server: $schema=./"+nativeSchema+"\n")) {
			t.Errorf("%s does not begin with the line that tells editors its schema", name)
		}
	}
}

// TestInitFilesAreComplete holds the list of files, so that one that is left
// out or not meant to be written is seen.
func TestInitFilesAreComplete(t *testing.T) {
	want := []string{"README.md", "fingerpost.schema.json", "fingerpost.yaml", "github/workflows/redirects.yml", "redirects.json", "redirects.schema.json", "tests.yaml"}
	var got []string
	err := fs.WalkDir(initFiles, "initdir", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			got = append(got, strings.TrimPrefix(name, "initdir/"))
		}
		return err
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("files %q, err %v, want %q", got, err, want)
	}
}

// TestInitCommentsFitTheSchema uncomments the samples in fingerpost.yaml: what
// a reader switches on must be right too.
func TestInitCommentsFitTheSchema(t *testing.T) {
	var lines []string
	for line := range strings.Lines(string(initFile(t, "fingerpost.yaml"))) {
		text := strings.TrimLeft(line, " ")
		indent := line[:len(line)-len(text)]
		prose := strings.HasPrefix(text, "# ") && !strings.HasPrefix(text, "#  ")
		if text[0] == '#' && text != "#\n" && !prose {
			line = indent + text[1:]
		}
		lines = append(lines, line)
	}
	text := strings.Join(lines, "")
	doc := decode(t, "fingerpost.yaml", []byte(text))
	if err := compileSchema(t, nativeSchema).Validate(doc); err != nil {
		t.Errorf("%v in:\n%s", err, text)
	}
	keys := slices.Sorted(maps.Keys(doc.(map[string]any)))
	if want := []string{"certificates", "hosts", "listen", "redirects"}; !slices.Equal(keys, want) {
		t.Errorf("the samples give the keys %q, want %q:\n%s", keys, want, text)
	}
}

// TestExamplesFitTheSchema holds the examples of the repository to the schema
// for users.
func TestExamplesFitTheSchema(t *testing.T) {
	root := filepath.Join("..", "..", "examples")
	native, seed := compileSchema(t, nativeSchema), compileSchema(t, seedSchema)
	for name, schema := range map[string]*jsonschema.Schema{"company/fingerpost.yaml": native, "redirects.json": seed} {
		data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(decode(t, name, data)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDocumentationFitsTheSchema holds the YAML blocks of the pages for users to
// the schema: each is a document that can be copied.
func TestDocumentationFitsTheSchema(t *testing.T) {
	native := compileSchema(t, nativeSchema)
	block := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")
	for _, name := range []string{"README.md", "docs/REDIRECTS.md", "docs/CONFIGURATION.md"} {
		page, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		blocks := block.FindAllSubmatch(page, -1)
		if len(blocks) == 0 {
			t.Errorf("%s has no YAML block", name)
		}
		for _, m := range blocks {
			if err := native.Validate(decode(t, name, m[1])); err != nil {
				t.Errorf("%s: %v in:\n%s", name, err, m[1])
			}
		}
	}
}

// TestSchemasRefuse shows that the schemas see the mistakes that people make.
func TestSchemasRefuse(t *testing.T) {
	tests := []struct{ name, schema, text, want string }{
		{"unknown key", nativeSchema, "host: {}", "host"},
		{"unknown field of a rule", nativeSchema, "redirects: [{from: a.example, target: /b}]", "target"},
		{"unknown condition", nativeSchema, "redirects: [{from: a.example, to: /b, when: {country: [NO]}}]", "country"},
		{"rule without from", nativeSchema, "redirects: [{to: /b}]", "from"},
		{"rule of a host without from and regex", nativeSchema, "hosts: {a.example: {redirects: [{to: /b}]}}", "redirects"},
		{"test that expects nothing", nativeSchema, "tests: [{url: 'https://a.example/'}]", "tests"},
		{"status 200", nativeSchema, "redirects: [{from: a.example, to: /b, status: 200}]", "status"},
		{"date without a zone", nativeSchema, "redirects: [{from: a.example, to: /b, when: {after: '2026-12-01T00:00:00'}}]", "after"},
		{"source of two kinds", nativeSchema, "sources: [{git: 'https://a.example/r', url: 'https://a.example/f'}]", "sources"},
		{"unknown https policy", nativeSchema, "hosts: {a.example: {https: always}}", "https"},
		{"status as text", seedSchema, `{"/a": {"to": "/b", "statusCode": "301"}}`, "statusCode"},
		{"path without a slash", seedSchema, `{"a": {"to": "/b", "statusCode": 301}}`, "'a'"},
		{"no target", seedSchema, `{"/a": {"statusCode": 301}}`, "to"},
	}
	for _, tt := range tests {
		err := compileSchema(t, tt.schema).Validate(decode(t, "x.yaml", []byte(tt.text)))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one that names %s", tt.name, err, tt.want)
		}
	}
}

func initFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := initFiles.ReadFile(path.Join("initdir", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func compileSchema(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(initFile(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(name, doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile(name)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// decode gives the JSON value of a YAML file, or of JSON with comments.
func decode(t *testing.T, name string, data []byte) any {
	t.Helper()
	var err error
	if strings.HasSuffix(name, ".json") {
		data, err = hujson.Standardize(data)
	} else {
		var doc any
		if err = yaml.Unmarshal(data, &doc); err == nil {
			data, err = json.Marshal(doc)
		}
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, data)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, data)
	}
	return value
}
