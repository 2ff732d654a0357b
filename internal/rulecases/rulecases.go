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

// To makes a rule that is named by where it leads; the functions below change one.
func To(name, from string, change ...func(*fingerpost.Redirect)) fingerpost.Redirect {
	r := fingerpost.Redirect{From: from, To: "https://t.test/" + name, Query: "drop"}
	for _, c := range change {
		c(&r)
	}
	return r
}

func Priority(n int) func(*fingerpost.Redirect) {
	return func(r *fingerpost.Redirect) { r.Priority = n }
}
func ID(s string) func(*fingerpost.Redirect) { return func(r *fingerpost.Redirect) { r.ID = s } }
func RegexOf(s string) func(*fingerpost.Redirect) {
	return func(r *fingerpost.Redirect) { r.Regex = s }
}
func Strictly(r *fingerpost.Redirect) { r.TrailingSlash = "strict" }
func AnyCase(r *fingerpost.Redirect)  { r.IgnoreCase = true }
func Off(r *fingerpost.Redirect)      { r.Enabled = new(bool) }
func When(w fingerpost.When) func(*fingerpost.Redirect) {
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
	{"exact host before a wildcard", []fingerpost.Redirect{To("exact", "b.a.x"), To("wild", "*.a.x")}, "http://b.a.x/", "exact"},
	{"exact host before the apex form", []fingerpost.Redirect{To("exact", "a.x"), To("apex", ".a.x")}, "http://a.x/", "exact"},
	{"wildcard with more labels first", []fingerpost.Redirect{To("long", "*.b.x"), To("short", "*.x")}, "http://a.b.x/", "long"},
	{"more labels count before the form", []fingerpost.Redirect{To("long", ".b.x"), To("short", "*.x")}, "http://a.b.x/", "long"},
	{"the apex of a longer name before a shorter wildcard", []fingerpost.Redirect{To("apex", ".b.x"), To("short", "*.x")}, "http://b.x/", "apex"},
	{"at equal labels *. before .", []fingerpost.Redirect{To("star", "*.b.x"), To("dot", ".b.x")}, "http://a.b.x/", "star"},
	{"*. is not the apex", []fingerpost.Redirect{To("star", "*.b.x"), To("dot", ".b.x")}, "http://b.x/", "dot"},
	{"every host comes last", []fingerpost.Redirect{To("all", "*"), To("wild", ".x")}, "http://a.b.x/", "wild"},
	{"every host takes the rest", []fingerpost.Redirect{To("all", "*"), To("wild", ".x")}, "http://a.y/", "all"},
	{"host before priority", []fingerpost.Redirect{To("exact", "a.x"), To("wild", "*.x", Priority(9))}, "http://a.x/", "exact"},
	{"host before a literal path", []fingerpost.Redirect{To("exact", "a.x/*"), To("wild", "*.x/p")}, "http://a.x/p", "exact"},
	{"a form where nothing matches is left", []fingerpost.Redirect{To("exact", "b.a.x/other"), To("wild", "*.a.x/p")}, "http://b.a.x/p", "wild"},
	{"a form whose conditions do not hold is left", []fingerpost.Redirect{To("exact", "a.x", When(never)), To("wild", "*.x")}, "http://a.x/", "wild"},
	{"a form that is for the other scheme is left", []fingerpost.Redirect{To("exact", "https://a.x"), To("all", "*")}, "http://a.x/", "all"},
	{"several forms are left", []fingerpost.Redirect{To("1", "c.b.x/1"), To("2", "*.b.x/2"), To("3", ".b.x/3"), To("4", "*.x/4"), To("5", "*/5")}, "http://c.b.x/5", "5"},

	// 2. Priority.
	{"priority before a literal path", []fingerpost.Redirect{To("high", "a.x/*", Priority(1)), To("literal", "a.x/p")}, "http://a.x/p", "high"},
	{"regex by priority before a literal path", []fingerpost.Redirect{To("high", "a.x", RegexOf("^/p"), Priority(1)), To("literal", "a.x/p")}, "http://a.x/p", "high"},
	{"negative priority is behind", []fingerpost.Redirect{To("low", "a.x/p", Priority(-1)), To("folder", "a.x/*")}, "http://a.x/p", "folder"},
	{"priority of a rule that does not hold", []fingerpost.Redirect{To("high", "a.x/*", Priority(1), When(never)), To("literal", "a.x/p")}, "http://a.x/p", "literal"},
	{"a disabled rule takes no part", []fingerpost.Redirect{To("off", "a.x/p", Priority(1), Off), To("on", "a.x/*")}, "http://a.x/p", "on"},

	// 3. Path.
	{"literal before :name", []fingerpost.Redirect{To("literal", "a.x/p"), To("name", "a.x/:p")}, "http://a.x/p", "literal"},
	{"literal before /*", []fingerpost.Redirect{To("literal", "a.x/p/q"), To("folder", "a.x/p/*")}, "http://a.x/p/q", "literal"},
	{"literal before a prefix", []fingerpost.Redirect{To("literal", "a.x/p"), To("prefix", "a.x/p*")}, "http://a.x/p", "literal"},
	{"literal before a regex", []fingerpost.Redirect{To("literal", "a.x/p"), To("regex", "a.x", RegexOf("^/p$"))}, "http://a.x/p", "literal"},
	{"literal that ignores case before a pattern", []fingerpost.Redirect{To("literal", "a.x/P", AnyCase), To("name", "a.x/:p")}, "http://a.x/p", "literal"},
	{"the leftmost literal segment counts", []fingerpost.Redirect{To("left", "a.x/a/:y"), To("right", "a.x/:x/b")}, "http://a.x/a/b", "left"},
	{"literal segment before :name before /*", []fingerpost.Redirect{To("literal", "a.x/a/b/*"), To("name", "a.x/a/:n/*"), To("star", "a.x/a/*")}, "http://a.x/a/b/c", "literal"},
	{":name before /*", []fingerpost.Redirect{To("name", "a.x/a/:n/*"), To("star", "a.x/a/*")}, "http://a.x/a/x/c", "name"},
	{"literal from the left before longer", []fingerpost.Redirect{To("literal", "a.x/a/*"), To("longer", "a.x/:x/b/c/*")}, "http://a.x/a/b/c/d", "literal"},
	{"longer before shorter", []fingerpost.Redirect{To("longer", "a.x/a/:b/:c/*"), To("shorter", "a.x/a/:b/*")}, "http://a.x/a/b/c", "longer"},
	{"/a/:x before /a/:x/*", []fingerpost.Redirect{To("name", "a.x/a/:x"), To("folder", "a.x/a/:x/*")}, "http://a.x/a/b", "name"},
	{"/a/:x/* has what is below", []fingerpost.Redirect{To("name", "a.x/a/:x"), To("folder", "a.x/a/:x/*")}, "http://a.x/a/b/c", "folder"},
	{"/:x/b before /:x/*", []fingerpost.Redirect{To("b", "a.x/:x/b"), To("folder", "a.x/:x/*")}, "http://a.x/a/b", "b"},
	{"pattern before a prefix", []fingerpost.Redirect{To("folder", "a.x/*"), To("prefix", "a.x/docs*")}, "http://a.x/docs2", "folder"},
	{"longer prefix first", []fingerpost.Redirect{To("long", "a.x/docs*"), To("short", "a.x/d*")}, "http://a.x/docs2", "long"},
	{"deeper prefix first", []fingerpost.Redirect{To("deep", "a.x/a/b*"), To("long", "a.x/a*")}, "http://a.x/a/bc", "deep"},
	{"shorter prefix where the longer does not fit", []fingerpost.Redirect{To("long", "a.x/docs*"), To("short", "a.x/d*")}, "http://a.x/do", "short"},
	{"prefix before a regex", []fingerpost.Redirect{To("prefix", "a.x/d*"), To("regex", "a.x", RegexOf("^/docs$"))}, "http://a.x/docs", "prefix"},
	{"folder before a regex", []fingerpost.Redirect{To("folder", "a.x/*"), To("regex", "a.x", RegexOf("^/docs$"))}, "http://a.x/docs", "folder"},
	{"regexes by id", []fingerpost.Redirect{To("b", "a.x", RegexOf("^/docs$"), ID("b")), To("a", "a.x", RegexOf("."), ID("a"))}, "http://a.x/docs", "a"},
	{"strict before ignore", []fingerpost.Redirect{To("strict", "a.x/p/", Strictly), To("ignore", "a.x/p")}, "http://a.x/p/", "strict"},
	{"ignore takes the other form", []fingerpost.Redirect{To("strict", "a.x/p/", Strictly), To("ignore", "a.x/p")}, "http://a.x/p", "ignore"},
	{"two strict ones share", []fingerpost.Redirect{To("with", "a.x/p/", Strictly), To("without", "a.x/p", Strictly)}, "http://a.x/p", "without"},
	{"strict pattern", []fingerpost.Redirect{To("strict", "a.x/:p/", Strictly), To("ignore", "a.x/:p")}, "http://a.x/p/", "strict"},
	{"exact case before ignoreCase", []fingerpost.Redirect{To("exact", "a.x/P"), To("fold", "a.x/p", AnyCase)}, "http://a.x/P", "exact"},
	{"ignoreCase takes other cases", []fingerpost.Redirect{To("exact", "a.x/P"), To("fold", "a.x/p", AnyCase)}, "http://a.x/p", "fold"},
	{"strict before exact case", []fingerpost.Redirect{To("strict", "a.x/p", Strictly, AnyCase), To("exact", "a.x/p")}, "http://a.x/p", "strict"},

	// 4. Scheme.
	{"bound to a scheme before any", []fingerpost.Redirect{To("bound", "http://a.x/p"), To("any", "a.x/p")}, "http://a.x/p", "bound"},
	{"any takes the other scheme", []fingerpost.Redirect{To("bound", "http://a.x/p"), To("any", "a.x/p")}, "https://a.x/p", "any"},
	{"path before scheme", []fingerpost.Redirect{To("bound", "http://a.x/*"), To("literal", "a.x/p")}, "http://a.x/p", "literal"},
	{"exact case before scheme", []fingerpost.Redirect{To("bound", "http://a.x/p", AnyCase), To("exact", "a.x/p")}, "http://a.x/p", "exact"},

	// 5. Query keys.
	{"more query keys first", []fingerpost.Redirect{To("two", "a.x/p?a&b"), To("one", "a.x/p?a=1"), To("none", "a.x/p")}, "http://a.x/p?a=1&b", "two"},
	{"fewer where the others do not hold", []fingerpost.Redirect{To("two", "a.x/p?a&b"), To("one", "a.x/p?a=1"), To("none", "a.x/p")}, "http://a.x/p?a=1", "one"},
	{"none where no key is there", []fingerpost.Redirect{To("two", "a.x/p?a&b"), To("one", "a.x/p?a=1"), To("none", "a.x/p")}, "http://a.x/p?a=2", "none"},
	{"scheme before query keys", []fingerpost.Redirect{To("bound", "http://a.x/p"), To("keys", "a.x/p?a&b")}, "http://a.x/p?a&b", "bound"},
	{"query keys on patterns", []fingerpost.Redirect{To("one", "a.x/*?a"), To("none", "a.x/*")}, "http://a.x/p?a", "one"},

	// 6. Conditions.
	{"more conditions first", []fingerpost.Redirect{To("two", "a.x/p", When(nbApp)), To("one", "a.x/p", When(nb)), To("none", "a.x/p")}, "http://a.x/p", "two"},
	{"query keys before conditions", []fingerpost.Redirect{To("key", "a.x/p?a"), To("two", "a.x/p", When(nbApp))}, "http://a.x/p?a", "key"},

	// 7. Id.
	{"smaller id", []fingerpost.Redirect{To("b", "a.x/p?b", ID("b")), To("a", "a.x/p?a", ID("a"))}, "http://a.x/p?a&b", "a"},
	{"conditions before id", []fingerpost.Redirect{To("a", "a.x/p", ID("a")), To("b", "a.x/p", ID("b"), When(nb))}, "http://a.x/p", "b"},
	{"ids compare as bytes", []fingerpost.Redirect{To("10", "a.x/p?b", ID("10")), To("9", "a.x/p?a", ID("9"))}, "http://a.x/p?a&b", "10"},

	{"none", []fingerpost.Redirect{To("a", "a.x/p")}, "http://a.x/q", ""},
}
