// Package rulecases has cases of the rule language as data, for tests: package redirect
// asks its table, package edge asks by every door.
package rulecases

import "fingerpost"

// Case is a question about some rules. Each leads to https://t.test/ and its name, and
// drops the query.
type Case struct {
	Name  string
	Rules []fingerpost.Redirect
	URL   string
	Wins  string // name of the rule; empty: none
}

// Header is what every question is asked with: fields and values in turn.
var Header = []string{"Accept-Language", "nb", "X-App", "1"}

func to(name, from string, change ...func(*fingerpost.Redirect)) fingerpost.Redirect {
	r := fingerpost.Redirect{From: from, To: "https://t.test/" + name, Query: "drop"}
	for _, c := range change {
		c(&r)
	}
	return r
}

func priority(n int) func(*fingerpost.Redirect) {
	return func(r *fingerpost.Redirect) { r.Priority = n }
}
func id(s string) func(*fingerpost.Redirect) { return func(r *fingerpost.Redirect) { r.ID = s } }
func regexOf(s string) func(*fingerpost.Redirect) {
	return func(r *fingerpost.Redirect) { r.Regex = s }
}
func strictly(r *fingerpost.Redirect) { r.TrailingSlash = "strict" }
func anyCase(r *fingerpost.Redirect)  { r.IgnoreCase = true }
func off(r *fingerpost.Redirect)      { r.Enabled = new(bool) }
func when(w fingerpost.When) func(*fingerpost.Redirect) {
	return func(r *fingerpost.Redirect) { r.When = &w }
}

var (
	nb    = fingerpost.When{Languages: []string{"nb"}}
	nbApp = fingerpost.When{Languages: []string{"nb"}, Header: map[string]string{"X-App": "*"}}
	never = fingerpost.When{Percent: new(0)}
)

// Precedence has a case for each sentence of "Which one wins".
var Precedence = []Case{
	// 1. Host.
	{"exact host before a wildcard", []fingerpost.Redirect{to("exact", "b.a.x"), to("wild", "*.a.x")}, "http://b.a.x/", "exact"},
	{"exact host before the apex form", []fingerpost.Redirect{to("exact", "a.x"), to("apex", ".a.x")}, "http://a.x/", "exact"},
	{"wildcard with more labels first", []fingerpost.Redirect{to("long", "*.b.x"), to("short", "*.x")}, "http://a.b.x/", "long"},
	{"more labels count before the form", []fingerpost.Redirect{to("long", ".b.x"), to("short", "*.x")}, "http://a.b.x/", "long"},
	{"the apex of a longer name before a shorter wildcard", []fingerpost.Redirect{to("apex", ".b.x"), to("short", "*.x")}, "http://b.x/", "apex"},
	{"at equal labels *. before .", []fingerpost.Redirect{to("star", "*.b.x"), to("dot", ".b.x")}, "http://a.b.x/", "star"},
	{"*. is not the apex", []fingerpost.Redirect{to("star", "*.b.x"), to("dot", ".b.x")}, "http://b.x/", "dot"},
	{"every host comes last", []fingerpost.Redirect{to("all", "*"), to("wild", ".x")}, "http://a.b.x/", "wild"},
	{"every host takes the rest", []fingerpost.Redirect{to("all", "*"), to("wild", ".x")}, "http://a.y/", "all"},
	{"host before priority", []fingerpost.Redirect{to("exact", "a.x"), to("wild", "*.x", priority(9))}, "http://a.x/", "exact"},
	{"host before a literal path", []fingerpost.Redirect{to("exact", "a.x/*"), to("wild", "*.x/p")}, "http://a.x/p", "exact"},
	{"a form where nothing matches is left", []fingerpost.Redirect{to("exact", "b.a.x/other"), to("wild", "*.a.x/p")}, "http://b.a.x/p", "wild"},
	{"a form whose conditions do not hold is left", []fingerpost.Redirect{to("exact", "a.x", when(never)), to("wild", "*.x")}, "http://a.x/", "wild"},
	{"a form that is for the other scheme is left", []fingerpost.Redirect{to("exact", "https://a.x"), to("all", "*")}, "http://a.x/", "all"},
	{"several forms are left", []fingerpost.Redirect{to("1", "c.b.x/1"), to("2", "*.b.x/2"), to("3", ".b.x/3"), to("4", "*.x/4"), to("5", "*/5")}, "http://c.b.x/5", "5"},

	// 2. Priority.
	{"priority before a literal path", []fingerpost.Redirect{to("high", "a.x/*", priority(1)), to("literal", "a.x/p")}, "http://a.x/p", "high"},
	{"regex by priority before a literal path", []fingerpost.Redirect{to("high", "a.x", regexOf("^/p"), priority(1)), to("literal", "a.x/p")}, "http://a.x/p", "high"},
	{"negative priority is behind", []fingerpost.Redirect{to("low", "a.x/p", priority(-1)), to("folder", "a.x/*")}, "http://a.x/p", "folder"},
	{"priority of a rule that does not hold", []fingerpost.Redirect{to("high", "a.x/*", priority(1), when(never)), to("literal", "a.x/p")}, "http://a.x/p", "literal"},
	{"a disabled rule takes no part", []fingerpost.Redirect{to("off", "a.x/p", priority(1), off), to("on", "a.x/*")}, "http://a.x/p", "on"},

	// 3. Path.
	{"literal before :name", []fingerpost.Redirect{to("literal", "a.x/p"), to("name", "a.x/:p")}, "http://a.x/p", "literal"},
	{"literal before /*", []fingerpost.Redirect{to("literal", "a.x/p/q"), to("folder", "a.x/p/*")}, "http://a.x/p/q", "literal"},
	{"literal before a prefix", []fingerpost.Redirect{to("literal", "a.x/p"), to("prefix", "a.x/p*")}, "http://a.x/p", "literal"},
	{"literal before a regex", []fingerpost.Redirect{to("literal", "a.x/p"), to("regex", "a.x", regexOf("^/p$"))}, "http://a.x/p", "literal"},
	{"literal that ignores case before a pattern", []fingerpost.Redirect{to("literal", "a.x/P", anyCase), to("name", "a.x/:p")}, "http://a.x/p", "literal"},
	{"the leftmost literal segment counts", []fingerpost.Redirect{to("left", "a.x/a/:y"), to("right", "a.x/:x/b")}, "http://a.x/a/b", "left"},
	{"literal segment before :name before /*", []fingerpost.Redirect{to("literal", "a.x/a/b/*"), to("name", "a.x/a/:n/*"), to("star", "a.x/a/*")}, "http://a.x/a/b/c", "literal"},
	{":name before /*", []fingerpost.Redirect{to("name", "a.x/a/:n/*"), to("star", "a.x/a/*")}, "http://a.x/a/x/c", "name"},
	{"literal from the left before longer", []fingerpost.Redirect{to("literal", "a.x/a/*"), to("longer", "a.x/:x/b/c/*")}, "http://a.x/a/b/c/d", "literal"},
	{"longer before shorter", []fingerpost.Redirect{to("longer", "a.x/a/:b/:c/*"), to("shorter", "a.x/a/:b/*")}, "http://a.x/a/b/c", "longer"},
	{"/a/:x before /a/:x/*", []fingerpost.Redirect{to("name", "a.x/a/:x"), to("folder", "a.x/a/:x/*")}, "http://a.x/a/b", "name"},
	{"/a/:x/* has what is below", []fingerpost.Redirect{to("name", "a.x/a/:x"), to("folder", "a.x/a/:x/*")}, "http://a.x/a/b/c", "folder"},
	{"/:x/b before /:x/*", []fingerpost.Redirect{to("b", "a.x/:x/b"), to("folder", "a.x/:x/*")}, "http://a.x/a/b", "b"},
	{"pattern before a prefix", []fingerpost.Redirect{to("folder", "a.x/*"), to("prefix", "a.x/docs*")}, "http://a.x/docs2", "folder"},
	{"longer prefix first", []fingerpost.Redirect{to("long", "a.x/docs*"), to("short", "a.x/d*")}, "http://a.x/docs2", "long"},
	{"deeper prefix first", []fingerpost.Redirect{to("deep", "a.x/a/b*"), to("long", "a.x/a*")}, "http://a.x/a/bc", "deep"},
	{"shorter prefix where the longer does not fit", []fingerpost.Redirect{to("long", "a.x/docs*"), to("short", "a.x/d*")}, "http://a.x/do", "short"},
	{"prefix before a regex", []fingerpost.Redirect{to("prefix", "a.x/d*"), to("regex", "a.x", regexOf("^/docs$"))}, "http://a.x/docs", "prefix"},
	{"folder before a regex", []fingerpost.Redirect{to("folder", "a.x/*"), to("regex", "a.x", regexOf("^/docs$"))}, "http://a.x/docs", "folder"},
	{"regexes by id", []fingerpost.Redirect{to("b", "a.x", regexOf("^/docs$"), id("b")), to("a", "a.x", regexOf("."), id("a"))}, "http://a.x/docs", "a"},
	{"strict before ignore", []fingerpost.Redirect{to("strict", "a.x/p/", strictly), to("ignore", "a.x/p")}, "http://a.x/p/", "strict"},
	{"ignore takes the other form", []fingerpost.Redirect{to("strict", "a.x/p/", strictly), to("ignore", "a.x/p")}, "http://a.x/p", "ignore"},
	{"two strict ones share", []fingerpost.Redirect{to("with", "a.x/p/", strictly), to("without", "a.x/p", strictly)}, "http://a.x/p", "without"},
	{"strict pattern", []fingerpost.Redirect{to("strict", "a.x/:p/", strictly), to("ignore", "a.x/:p")}, "http://a.x/p/", "strict"},
	{"exact case before ignoreCase", []fingerpost.Redirect{to("exact", "a.x/P"), to("fold", "a.x/p", anyCase)}, "http://a.x/P", "exact"},
	{"ignoreCase takes other cases", []fingerpost.Redirect{to("exact", "a.x/P"), to("fold", "a.x/p", anyCase)}, "http://a.x/p", "fold"},
	{"strict before exact case", []fingerpost.Redirect{to("strict", "a.x/p", strictly, anyCase), to("exact", "a.x/p")}, "http://a.x/p", "strict"},

	// 4. Scheme.
	{"bound to a scheme before any", []fingerpost.Redirect{to("bound", "http://a.x/p"), to("any", "a.x/p")}, "http://a.x/p", "bound"},
	{"any takes the other scheme", []fingerpost.Redirect{to("bound", "http://a.x/p"), to("any", "a.x/p")}, "https://a.x/p", "any"},
	{"path before scheme", []fingerpost.Redirect{to("bound", "http://a.x/*"), to("literal", "a.x/p")}, "http://a.x/p", "literal"},
	{"exact case before scheme", []fingerpost.Redirect{to("bound", "http://a.x/p", anyCase), to("exact", "a.x/p")}, "http://a.x/p", "exact"},

	// 5. Query keys.
	{"more query keys first", []fingerpost.Redirect{to("two", "a.x/p?a&b"), to("one", "a.x/p?a=1"), to("none", "a.x/p")}, "http://a.x/p?a=1&b", "two"},
	{"fewer where the others do not hold", []fingerpost.Redirect{to("two", "a.x/p?a&b"), to("one", "a.x/p?a=1"), to("none", "a.x/p")}, "http://a.x/p?a=1", "one"},
	{"none where no key is there", []fingerpost.Redirect{to("two", "a.x/p?a&b"), to("one", "a.x/p?a=1"), to("none", "a.x/p")}, "http://a.x/p?a=2", "none"},
	{"scheme before query keys", []fingerpost.Redirect{to("bound", "http://a.x/p"), to("keys", "a.x/p?a&b")}, "http://a.x/p?a&b", "bound"},
	{"query keys on patterns", []fingerpost.Redirect{to("one", "a.x/*?a"), to("none", "a.x/*")}, "http://a.x/p?a", "one"},

	// 6. Conditions.
	{"more conditions first", []fingerpost.Redirect{to("two", "a.x/p", when(nbApp)), to("one", "a.x/p", when(nb)), to("none", "a.x/p")}, "http://a.x/p", "two"},
	{"query keys before conditions", []fingerpost.Redirect{to("key", "a.x/p?a"), to("two", "a.x/p", when(nbApp))}, "http://a.x/p?a", "key"},

	// 7. Id.
	{"smaller id", []fingerpost.Redirect{to("b", "a.x/p?b", id("b")), to("a", "a.x/p?a", id("a"))}, "http://a.x/p?a&b", "a"},
	{"conditions before id", []fingerpost.Redirect{to("a", "a.x/p", id("a")), to("b", "a.x/p", id("b"), when(nb))}, "http://a.x/p", "b"},
	{"ids compare as bytes", []fingerpost.Redirect{to("10", "a.x/p?b", id("10")), to("9", "a.x/p?a", id("9"))}, "http://a.x/p?a&b", "10"},

	{"none", []fingerpost.Redirect{to("a", "a.x/p")}, "http://a.x/q", ""},
}
