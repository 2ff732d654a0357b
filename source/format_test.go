package source

import (
	"strings"
	"testing"

	"github.com/tailscale/hujson"
)

func TestFormatKeepsMeaningAndComments(t *testing.T) {
	tests := []struct{ name, file, text, want string }{
		{"YAML", "r.yaml", `# the campaign of spring
redirects:
    -   from:   "a.example/x"   # why
        to: /y

        # how many see it
        when: {percent: 50,  methods: [GET]}
    - {from: '*.example.com', to: "https://x.example"}
# the end
`, `# the campaign of spring
redirects:
  - from: "a.example/x" # why
    to: /y

    # how many see it
    when: {percent: 50, methods: [GET]}
  - {from: '*.example.com', to: "https://x.example"}
# the end
`},
		{"YAML with Windows line ends and a byte order mark", "r.yaml", "\ufeffhosts:\r\n    a.example:\r\n        to: https://x.example\r\n", "hosts:\n  a.example:\n    to: https://x.example\n"},
		{"a text of several lines", "r.yaml", "- from: a.example\n  status: 404\n\n\n\n  page: |\n      <h1>\n\n      # gone\n", "- from: a.example\n  status: 404\n\n  page: |\n    <h1>\n\n    # gone\n"},
		{"comments alone", "r.yaml", "\n# none yet", "# none yet\n"},
		{"an empty file", "r.yaml", "", ""},
		{"anchors", "r.yaml", "- &a\n    from: a.example\n    to: https://x.example\n- *a\n", "- &a\n  from: a.example\n  to: https://x.example\n- *a\n"},
		{"JSON", "r.json", `{ // marketing
"/jobs":{"to":"https:\/\/jobs.example","statusCode":301},

"/x": {"to": "/y"} /* last */
} // end`, `{
  // marketing
  "/jobs": {"to": "https:\/\/jobs.example", "statusCode": 301},

  "/x": {"to": "/y"} /* last */
} // end
`},
		{"JSON on one line stays there", "r.json", `[{"from":"a.example/x",
"to":"/y" , "tests":[{"url":"https://a.example/x"}],},
{"from":"a.example/z","to":"/y"}
]`, `[
  {
    "from": "a.example/x",
    "to": "/y",
    "tests": [{"url": "https://a.example/x"}],
  },
  {"from": "a.example/z", "to": "/y"}
]
`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := Format(test.file, []byte(test.text))
			if err != nil {
				t.Fatal(messages(err))
			}
			if string(got) != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
			again, err := Format(test.file, got)
			if err != nil || string(again) != string(got) {
				t.Errorf("the form of the form is\n%s\n%v", again, err)
			}
		})
	}
}

func TestFormatRefusesWhatCannotBeRead(t *testing.T) {
	for _, file := range []string{"r.json", "r.yaml", "r.txt"} {
		if got, err := Format(file, []byte(`{"a": "`)); err == nil {
			t.Errorf("%s gave %q", file, got)
		}
	}
}

func FuzzFormat(f *testing.F) {
	for _, s := range []string{"[]", "{}", "# x", "a: b # c\n\n# d\ne:\n- f\n# g\n", `{"a": [1, "é\n", null, true], /* x */ "b": {},} // y`,
		"a: |\n  x\n  y\nb: >-\n  z\n", "? a\n: b\n", "- - x\n  # c\n  - y\n# d\n", "a: \"\\x23\"\n", "\ufeff[]", "a: &x [1]\nb: *x\n", "--- # c\n[a, # d\nb]\n", "a: 'x\n\n  y'\n"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, text string, yaml bool) {
		name := "r.json"
		if yaml {
			name = "r.yaml"
		}
		before, errs := parse(name, text)
		formed, err := Format(name, []byte(text))
		if len(errs) > 0 {
			if err == nil {
				t.Fatalf("formatted what cannot be read: %q", text)
			}
			return
		}
		if err != nil {
			if !yaml {
				t.Fatalf("%q is read but not formatted: %v", text, err)
			}
			return // a comment that the library cannot keep in place
		}
		after, errs := parse(name, string(formed))
		if len(errs) > 0 || !after.equal(before) {
			t.Fatalf("%q became %q: %v", text, formed, errs)
		}
		again, err := Format(name, formed)
		if err != nil || string(again) != string(formed) {
			t.Fatalf("%q became %q and that %q: %v", text, formed, again, err)
		}
	})
}

// FuzzJSON holds our parser to hujson's: both read the same texts, but for
// duplicate keys, the depth and the byte order mark, which are ours.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{"[]", "{}", `{"a": 1,}`, "[1,,]", `[-0.5e+3, "\ud800", "\u00e5" /**/]//`, "[\"\x7f\"]", "/", "[tru]", "{\"a\" // c\n: 1}", "\u2028[]", "[1 2]", "\"\\\"", "[]\r// x\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.HasPrefix(text, "\ufeff") || strings.Count(text, "[")+strings.Count(text, "{") > maxDepth {
			return
		}
		ours, errs := parse("r.json", text)
		theirs, err := hujson.Parse([]byte(text + "\n"))
		if (ours == nil) != (err != nil) && !(ours == nil && strings.ToValidUTF8(text, "") != text) {
			t.Fatalf("%q: we say %v, hujson says %v", text, errs, err)
		}
		if ours != nil {
			same(t, ours, theirs)
		}
	})
}

func same(t *testing.T, ours *node, theirs hujson.Value) {
	switch v := theirs.Value.(type) {
	case *hujson.Object:
		if ours.kind != kindMap || len(ours.items) != 2*len(v.Members) {
			t.Fatalf("%v, want %s", ours, theirs.String())
		}
		for i, m := range v.Members {
			same(t, &ours.items[2*i], m.Name)
			same(t, &ours.items[2*i+1], m.Value)
		}
	case *hujson.Array:
		if ours.kind != kindList || len(ours.items) != len(v.Elements) {
			t.Fatalf("%v, want %s", ours, theirs.String())
		}
		for i, e := range v.Elements {
			same(t, &ours.items[i], e)
		}
	case hujson.Literal:
		want := v.String()
		if v.Kind() == 'n' {
			want = ""
		}
		kinds := map[hujson.Kind]kind{'n': kindNull, 'f': kindBool, 't': kindBool, '"': kindText, '0': kindNumber}
		if ours.kind != kinds[v.Kind()] || ours.text != want {
			t.Fatalf("%v, want %s", ours, v)
		}
	}
}

// FuzzRead decodes whatever parses, as content and as a configuration: no panic,
// and every error has a place.
func FuzzRead(f *testing.F) {
	for _, s := range []string{"[]", "{}", `[{"from": "a.example", "to": "/x"}]`, `{"/a": {"to": "/b", "statusCode": 301}}`,
		`{"Items": [{"URL_Query": {"S": "a"}, "URL_Response": {"S": "b"}}]}`, "hosts:\n  a.example: {to: 'https://x.example', redirects: [{from: /x, to: /y}], fallback: {page: x.html}}\n",
		"listen: {http: ':80'}\nlog: {sample: 5}\naddresses: [1]\n", "redirects: [{when: {percent: 5, after: 2026-12-01T00:00:00Z}, tests: [{url: x}]}]\ntests: [{}]\n",
		"{Items: }", "[{URL_Query: [], URL_Response: {}}]", "redirects:\n- &a [*a]\n"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, text string, yaml bool) {
		name := "r.json"
		if yaml {
			name = "r.yaml"
		}
		for _, config := range []configKind{notConfig, isConfig} {
			root, errs := parse(name, text)
			if root != nil {
				r := &reader{run: newRun(config), file: name, errs: errs}
				r.document(root)
				errs = r.sorted()
			}
			for _, err := range errs {
				if !strings.HasPrefix(err.Error(), name+":") && !strings.Contains(err.Error(), ".json: ") && !strings.Contains(err.Error(), ".yaml: ") {
					t.Errorf("%q gives an error without its place: %v", text, err)
				}
			}
		}
	})
}
