package fingerpost_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The layers of the program. A package may import what is in a lower layer than
// its own; up is never allowed, and sideways is not either. A folder below one
// that is listed belongs to it. docs/ARCHITECTURE.md says what each layer is for.
const (
	nouns = iota
	pure
	state
	servers
	wiring
)

var layerNames = [...]string{"nouns", "pure", "state", "servers", "wiring"}

var layers = map[string]int{
	"": nouns, // the root package

	"redirect": pure, "h1": pure, "zone": pure, "formats": pure,
	"accesslog": pure, // lines in, requests out: fuzzed alone, and of use to whoever reads logs

	"source": state, "store": state, "replica": state, "cert": state,
	"health": state, "cache": state, "analytics": state, "telemetry": state, "explain": state,

	"edge": servers, "nameserver": servers, "origin": servers, "admin": servers,

	"cmd/fingerpost": wiring,
}

// These hold tests and helpers of tests, and may import anything.
var testFolders = []string{"internal", "e2e", "bench"}

// What a package that is not a test may import of internal/.
var internalFor = map[string][]string{
	"cmd/fingerpost": {"internal/testca"}, // demo has a certificate authority of its own
}

// Why an arrow is forbidden.
var (
	whyUp = [...]string{
		nouns:   "the nouns know nothing of what is made of them, so that every package can use them",
		pure:    "a pure package takes values and gives values, so that it can be tested, fuzzed and run offline without the rest",
		state:   "state does not know who serves from it; hand it a function from cmd/fingerpost/serve.go",
		servers: "only cmd/fingerpost knows how the parts are wired",
	}
	whySideways = [...]string{
		pure:    "pure packages stand alone, so that each can be read and replaced alone; what two of them share is a noun",
		state:   "state packages meet in cmd/fingerpost/serve.go, by function types and small interfaces that the user of a thing declares",
		servers: "servers meet in cmd/fingerpost/serve.go as http.Handler, so that each can be left out of a node",
		wiring:  "there is one place that wires",
	}
)

// What the layers without I/O must not import, each by itself and all below it.
var (
	ioPackages = []string{
		"os", "io/fs", "io/ioutil", "net", "crypto/tls", "log", "syscall", "database/sql",
		"golang.org/x/sys", "golang.org/x/net/http2", "golang.org/x/net/http3", "golang.org/x/net/quic",
	}
	ioExceptions   = []string{"net/netip", "net/url"} // they parse, and touch no network
	nounsMayImport = []string{"golang.org/x/net/idna", "golang.org/x/net/http/httpguts", "golang.org/x/net/publicsuffix"}
	clockCalls     = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}
)

const whyPure = "these layers have no files, sockets, clocks, environment or log of their own; take the value as an argument"

// goPackage is what the rules look at: all files of one folder but its tests.
type goPackage struct {
	dir     string              // "" is the root
	imports map[string]string   // path → file:line of one import
	calls   map[string][]string // "go" and calls such as "time.Now" → file:line of each
}

// TestLayers holds the direction of all imports, and keeps I/O, clocks and
// goroutines out of the lower layers.
func TestLayers(t *testing.T) {
	pkgs, err := readTree(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) == 0 || pkgs[0].dir != "" {
		t.Fatalf("the root package was not found among %d packages", len(pkgs))
	}
	for _, problem := range checkLayers(pkgs) {
		t.Error(problem)
	}
}

// TestLayersCheckerFails shows that each rule of the check can fail.
func TestLayersCheckerFails(t *testing.T) {
	tests := []struct {
		name, dir, source string
		want              string // part of the only problem; empty for none
	}{
		{"down", "edge", `package edge; import _ "fingerpost/redirect"`, ""},
		{"two layers down", "cmd/fingerpost", `package main; import _ "fingerpost"`, ""},
		{"within one folder", "admin/ui", `package ui; import _ "fingerpost/admin"`, ""},
		{"test helper in demo", "cmd/fingerpost", `package main; import _ "fingerpost/internal/testca"`, ""},
		{"anything in e2e", "e2e", `package e2e; import _ "fingerpost/internal/faults"; import _ "fingerpost/edge"`, ""},
		{"addresses in pure", "redirect", `package redirect; import _ "net/netip"; import _ "net/url"`, ""},
		{"a time given to pure", "redirect", `package redirect; import "time"; var _ = time.Unix(0, 0)`, ""},
		{"a method named Now", "redirect", `package redirect; var _ = clock.Now()`, ""},

		{"up from nouns", "", `package fingerpost; import _ "fingerpost/redirect"`, "imports fingerpost/redirect, which is above it (nouns → pure)"},
		{"up from pure", "redirect", `package redirect; import _ "fingerpost/source"`, "above it (pure → state)"},
		{"up from state", "source", `package source; import _ "fingerpost/edge"`, "above it (state → servers)"},
		{"up from servers", "edge", `package edge; import _ "fingerpost/cmd/fingerpost"`, "above it (servers → wiring)"},
		{"sideways in pure", "formats", `package formats; import _ "fingerpost/redirect"`, "stand alone"},
		{"sideways in state", "source", `package source; import _ "fingerpost/telemetry"`, "meet in cmd/fingerpost/serve.go"},
		{"sideways in servers", "admin/ui", `package ui; import _ "fingerpost/edge"`, "as http.Handler"},
		{"test helper in a server", "edge", `package edge; import _ "fingerpost/internal/testca"`, "imports fingerpost/internal/testca, which only tests may"},
		{"other test helper in demo", "cmd/fingerpost", `package main; import _ "fingerpost/internal/faults"`, "which only tests may"},
		{"tests as a library", "edge", `package edge; import _ "fingerpost/e2e"`, "which only tests may"},
		{"no layer", "util", `package util`, "util is in no layer"},
		{"import of no layer", "edge", `package edge; import _ "fingerpost/util"`, "imports fingerpost/util, which is in no layer"},

		{"file in nouns", "", `package fingerpost; import _ "os"`, "imports os"},
		{"library in nouns", "", `package fingerpost; import _ "go.yaml.in/yaml/v3"`, "the nouns need nothing but the standard library"},
		{"socket in pure", "redirect", `package redirect; import _ "net"`, "imports net"},
		{"http in pure", "h1", `package h1; import _ "net/http"`, "imports net/http"},
		{"log in pure", "zone", `package zone; import _ "log/slog"`, "imports log/slog"},
		{"library in h1", "h1", `package h1; import _ "github.com/cespare/xxhash/v2"`, "h1 needs nothing but the standard library"},
		{"clock in pure", "redirect", `package redirect; import "time"; var _ = time.Now()`, "calls time.Now"},
		{"clock under another name", "redirect", `package redirect; import c "time"; var now = c.Now`, "calls time.Now"},
		{"goroutine in pure", "redirect", `package redirect; func f() { go f() }`, "starts a goroutine"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := goPackage{dir: tt.dir}
			if err := p.add("x.go", []byte(tt.source)); err != nil {
				t.Fatal(err)
			}
			got := checkLayers([]goPackage{p})
			switch {
			case tt.want == "" && len(got) > 0:
				t.Errorf("%q has problems: %q", tt.source, got)
			case tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)):
				t.Errorf("%q gives %q, want one problem with %q", tt.source, got, tt.want)
			}
		})
	}
}

// checkLayers gives a sentence for each rule that is broken.
func checkLayers(pkgs []goPackage) []string {
	var problems []string
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for _, p := range pkgs {
		name := path.Join("fingerpost", p.dir)
		folder, layer, known := layerOf(p.dir)
		if !known {
			say("%s is in no layer: add it to the table in layers_test.go and to docs/ARCHITECTURE.md, or put the code where it belongs", name)
			continue
		}
		if layer > wiring {
			continue
		}
		for _, imp := range slices.Sorted(maps.Keys(p.imports)) {
			at := p.imports[imp]
			rel, ours := strings.CutPrefix(imp+"/", "fingerpost/")
			rel = strings.TrimSuffix(rel, "/")
			if !ours {
				switch {
				case layer > pure:
				case isBelow(imp, ioPackages) && !slices.Contains(ioExceptions, imp):
					say("%s: %s imports %s: %s", at, name, imp, whyPure)
				case layer == nouns && !isStd(imp) && !slices.Contains(nounsMayImport, imp):
					say("%s: %s imports %s: the nouns need nothing but the standard library and %s, so that they never become a drawer", at, name, imp, strings.Join(nounsMayImport, ", "))
				case folder == "h1" && !isStd(imp):
					say("%s: %s imports %s: h1 needs nothing but the standard library, since it reads what strangers send", at, name, imp)
				}
				continue
			}
			other, otherLayer, known := layerOf(rel)
			switch {
			case !known:
				say("%s: %s imports %s, which is in no layer", at, name, imp)
			case other == folder:
			case otherLayer > wiring:
				if !slices.Contains(internalFor[folder], rel) {
					say("%s: %s imports %s, which only tests may", at, name, imp)
				}
			case otherLayer > layer:
				say("%s: %s imports %s, which is above it (%s → %s): %s", at, name, imp, layerNames[layer], layerNames[otherLayer], whyUp[layer])
			case otherLayer == layer:
				say("%s: %s imports %s, which is beside it (%s): %s", at, name, imp, layerNames[layer], whySideways[layer])
			}
		}
		if layer > pure {
			continue
		}
		for _, call := range slices.Sorted(maps.Keys(p.calls)) {
			for _, at := range p.calls[call] {
				if call == "go" {
					say("%s: %s starts a goroutine: %s", at, name, "who runs what at once is decided above the pure layer")
				} else {
					say("%s: %s calls %s: %s", at, name, call, whyPure)
				}
			}
		}
	}
	return problems
}

// layerOf gives the listed folder that dir belongs to, and its layer; test
// folders are above all layers.
func layerOf(dir string) (folder string, layer int, ok bool) {
	for folder = dir; ; folder = path.Dir(folder) {
		if layer, ok := layers[folder]; ok {
			return folder, layer, true
		}
		if slices.Contains(testFolders, folder) {
			return folder, wiring + 1, true
		}
		if !strings.Contains(folder, "/") {
			return "", 0, false
		}
	}
}

// readTree reads all packages of the module, the root first; folders with a
// go.mod of their own are other modules.
func readTree(root fs.FS) ([]goPackage, error) {
	byDir := map[string]*goPackage{}
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, noModule := fs.Stat(root, path.Join(name, "go.mod"))
			base := d.Name()
			if name != "." && (noModule == nil || base == "testdata" || base == "vendor" || base[0] == '.' || base[0] == '_') {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		dir := path.Dir(name)
		if dir == "." {
			dir = ""
		}
		if byDir[dir] == nil {
			byDir[dir] = &goPackage{dir: dir}
		}
		source, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		return byDir[dir].add(name, source)
	})
	var pkgs []goPackage
	for _, dir := range slices.Sorted(maps.Keys(byDir)) {
		pkgs = append(pkgs, *byDir[dir])
	}
	return pkgs, err
}

// add reads one file of p, whatever its build constraints.
func (p *goPackage) add(name string, source []byte) error {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, source, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	at := func(n ast.Node) string {
		pos := fset.Position(n.Pos())
		return filepath.ToSlash(pos.Filename) + ":" + strconv.Itoa(pos.Line)
	}
	if p.imports == nil {
		p.imports, p.calls = map[string]string{}, map[string][]string{}
	}
	clock := "" // what this file calls the package time
	for _, spec := range file.Imports {
		imp, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		p.imports[imp] = at(spec)
		if imp == "time" {
			if clock = "time"; spec.Name != nil {
				clock = spec.Name.Name
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			p.calls["go"] = append(p.calls["go"], at(n))
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && clock != "" && x.Name == clock && slices.Contains(clockCalls, n.Sel.Name) {
				call := "time." + n.Sel.Name
				p.calls[call] = append(p.calls[call], at(n))
			}
		}
		return true
	})
	return nil
}

func isStd(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return !strings.Contains(first, ".")
}

func isBelow(imp string, list []string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return imp == s || strings.HasPrefix(imp, s+"/") })
}
