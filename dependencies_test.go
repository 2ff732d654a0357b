package fingerpost_test

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const dependenciesPage = "docs/dependencies.md"

// TestDependenciesHaveALine holds docs/dependencies.md to the go.mod files: what
// is required directly has a line with all its cells, and no line has outlived
// its requirement.
func TestDependenciesHaveALine(t *testing.T) {
	page, err := os.ReadFile(dependenciesPage)
	if err != nil {
		t.Fatal(err)
	}
	required := map[string]string{}
	for _, file := range []string{"go.mod", "tools/go.mod"} {
		for _, module := range directRequirements(t, file) {
			required[module] = file
		}
	}
	for _, problem := range checkDependencies(string(page), required) {
		t.Error(problem)
	}
}

// TestDependenciesCheckerFails shows that the check can fail.
func TestDependenciesCheckerFails(t *testing.T) {
	const head = "| module | why | who keeps it | how we would leave it |\n|---|---|---|---|\n"
	required := map[string]string{"example.com/a": "go.mod"}
	tests := []struct{ name, page, want string }{
		{"right", head + "| `example.com/a` | x | y | z |\n", ""},
		{"no line", head, "go.mod requires example.com/a"},
		{"stale", head + "| `example.com/a` | x | y | z |\n| `example.com/b` | x | y | z |\n", "example.com/b, which no go.mod requires directly"},
		{"twice", head + "| `example.com/a` | x | y | z |\n| `example.com/a` | x | y | z |\n", "two lines for example.com/a"},
		{"empty cell", head + "| `example.com/a` | x |  | z |\n", "empty cell"},
	}
	for _, tt := range tests {
		got := strings.Join(checkDependencies(tt.page, required), "\n")
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

var dependencyLine = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|(.*)\\|$")

// checkDependencies compares the tables of page with the modules required, each
// with the file that requires it.
func checkDependencies(page string, required map[string]string) []string {
	var problems []string
	lines := map[string]bool{}
	for _, m := range dependencyLine.FindAllStringSubmatch(page, -1) {
		module := m[1]
		if lines[module] {
			problems = append(problems, dependenciesPage+" has two lines for "+module)
		}
		lines[module] = true
		if required[module] == "" {
			problems = append(problems, dependenciesPage+" has a line for "+module+", which no go.mod requires directly: remove the line")
		}
		for cell := range strings.SplitSeq(m[2], "|") {
			if strings.TrimSpace(cell) == "" {
				problems = append(problems, dependenciesPage+" has an empty cell for "+module)
			}
		}
	}
	for _, module := range slices.Sorted(maps.Keys(required)) {
		if !lines[module] {
			problems = append(problems, required[module]+" requires "+module+": add a line to "+dependenciesPage+" that says why, who keeps it and how we would leave it")
		}
	}
	return problems
}

// directRequirements lists the modules that file requires and that are not
// marked indirect, and those that hold its tools.
func directRequirements(t *testing.T, file string) []string {
	t.Helper()
	out, err := exec.Command("go", "mod", "edit", "-json", file).Output()
	if err != nil {
		t.Fatalf("go mod edit -json %s: %v", file, err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
		Tool []struct{ Path string }
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	var direct []string
	for _, r := range mod.Require {
		isTool := slices.ContainsFunc(mod.Tool, func(tool struct{ Path string }) bool {
			return strings.HasPrefix(tool.Path+"/", r.Path+"/")
		})
		if !r.Indirect || isTool {
			direct = append(direct, r.Path)
		}
	}
	return direct
}
