package redirect

import (
	"cmp"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"fingerpost"
)

// reference answers requests straight from the text of the language's
// definition (docs/REDIRECTS.md, "Which one wins"): it looks at every rule for
// every request, sorts those that hold, and takes the first. It shares the parser
// of from with the table, and nothing else.
type reference struct {
	hosts map[string]*fingerpost.Host // those with settings
	rules []fingerpost.Redirect
	from  []fingerpost.From
	ids   []string
}

func newReference(hosts []fingerpost.Host, rules []fingerpost.Redirect) *reference {
	ref := &reference{hosts: map[string]*fingerpost.Host{}, rules: rules}
	for i := range hosts {
		ref.hosts[hosts[i].Name] = &hosts[i]
	}
	for i := range rules {
		from, err := fingerpost.ParseFrom(rules[i].From)
		if err != nil {
			panic(err)
		}
		_, id, _ := Identify(&rules[i])
		ref.from = append(ref.from, from)
		ref.ids = append(ref.ids, id)
	}
	return ref
}

// verdict is what the reference says of a request.
type verdict struct {
	kind     Kind
	id       string
	location string
	vary     []string
	private  bool
}

func (v verdict) String() string {
	return fmt.Sprintf("kind %d, rule %s, to %q, vary %v, private %t", v.kind, v.id, v.location, v.vary, v.private)
}

func (ref *reference) answer(r *Request) verdict {
	var v verdict
	forms := ref.forms(r.Host)
	if len(forms) == 0 {
		return verdict{kind: UnknownHost}
	}
	for _, form := range forms {
		// All rules of the form whose host, path, scheme and query fit.
		var fit []int
		for i := range ref.rules {
			if string(ref.from[i].Host) == form && ref.fits(i, r) {
				fit = append(fit, i)
			}
		}
		slices.SortFunc(fit, ref.precedence)
		for _, i := range fit {
			v.depend(ref.rules[i].When)
			if ref.whenHolds(i, r) {
				v.kind, v.id = ByRule, ref.ids[i]
				v.location = ref.expand(i, r)
				return v
			}
		}
		if h := ref.hosts[form]; h != nil && h.Fallback != nil {
			v.kind, v.id = ByFallback, FallbackID
			return v
		}
	}
	v.kind = NotFound
	return v
}

func (v *verdict) depend(w *fingerpost.When) {
	if w == nil {
		return
	}
	add := func(name string) {
		if !slices.Contains(v.vary, name) {
			v.vary = append(v.vary, name)
		}
	}
	if len(w.Languages) > 0 {
		add("Accept-Language")
	}
	if len(w.Cookie) > 0 {
		add("Cookie")
	}
	for name := range w.Header {
		add(name)
	}
	slices.Sort(v.vary)
	v.private = v.private || len(w.Countries) > 0 || len(w.Addresses) > 0 || w.Percent != nil
}

// forms: exact, then the wildcard with more labels (at equal labels *. before .),
// then *.
func (ref *reference) forms(host string) []string {
	known := map[string]bool{}
	for name := range ref.hosts {
		known[name] = true
	}
	for _, f := range ref.from {
		known[string(f.Host)] = true
	}
	var forms []string
	for name := range known {
		switch {
		case name == host, name == "*",
			strings.HasPrefix(name, "*.") && strings.HasSuffix(host, name[1:]),
			strings.HasPrefix(name, ".") && strings.HasSuffix("."+host, name):
			forms = append(forms, name)
		}
	}
	slices.SortFunc(forms, func(a, b string) int {
		weight := func(s string) int {
			switch {
			case s == host:
				return 0
			case s == "*":
				return 1000
			case s[0] == '*':
				return 500 - 2*strings.Count(s, ".") // one dot for each label
			default:
				return 501 - 2*strings.Count(s, ".")
			}
		}
		return weight(a) - weight(b)
	})
	return forms
}

// fits: scheme, path and query.
func (ref *reference) fits(i int, r *Request) bool {
	f, rule := &ref.from[i], &ref.rules[i]
	if f.Scheme == "http" && r.HTTPS || f.Scheme == "https" && !r.HTTPS {
		return false
	}
	for _, c := range f.Query {
		found := false
		for _, pair := range strings.Split(r.Query, "&") {
			k, v, _ := strings.Cut(pair, "=")
			if pair != "" && k == c.Key && (!c.HasValue || v == c.Value) {
				found = true
			}
		}
		if !found {
			return false
		}
	}
	path := r.Path.Norm
	if rule.Regex != "" {
		re, _ := fingerpost.CompileRegex(rule.Regex, rule.IgnoreCase)
		return re.MatchString(path)
	}
	fold := func(s string) string {
		if rule.IgnoreCase {
			return strings.ToLower(s)
		}
		return s
	}
	var segs []string
	slash := strings.HasSuffix(path, "/") && path != "/"
	if trimmed := strings.Trim(path, "/"); trimmed != "" {
		segs = strings.Split(trimmed, "/")
	}
	if len(segs) < len(f.Segments) {
		return false
	}
	for k, want := range f.Segments {
		if want.Name == "" && fold(want.Literal) != fold(segs[k]) {
			return false
		}
	}
	rest := segs[len(f.Segments):]
	switch f.Tail {
	case fingerpost.TailFolder:
		return true
	case fingerpost.TailPrefix:
		return len(rest) > 0 && strings.HasPrefix(fold(rest[0]), fold(f.Prefix))
	}
	return len(rest) == 0 && (rule.TrailingSlash != "strict" || f.Slash == slash)
}

// precedence orders two rules that are for the same request.
func (ref *reference) precedence(i, j int) int {
	a, b, fa, fb := &ref.rules[i], &ref.rules[j], &ref.from[i], &ref.from[j]
	kind := func(r *fingerpost.Redirect, f *fingerpost.From) int {
		switch {
		case r.Regex != "":
			return 3
		case f.Tail == fingerpost.TailPrefix:
			return 2
		case f.Tail == fingerpost.TailFolder || strings.Contains(f.Path(), ":"):
			return 1
		}
		return 0
	}
	// The shape of a pattern, so that its order is that of strings: literal,
	// name, end, folder.
	shape := func(f *fingerpost.From) string {
		var b strings.Builder
		for _, s := range f.Segments {
			if s.Name == "" {
				b.WriteByte('a')
			} else {
				b.WriteByte('b')
			}
		}
		if f.Tail == fingerpost.TailFolder {
			b.WriteByte('d')
		} else {
			b.WriteByte('c')
		}
		return b.String()
	}
	flag := func(b bool) int {
		if b {
			return 0
		}
		return 1
	}
	order := []int{
		b.Priority - a.Priority,
		kind(a, fa) - kind(b, fb),
	}
	switch kind(a, fa) {
	case 1:
		order = append(order, strings.Compare(shape(fa), shape(fb)))
	case 2:
		order = append(order, len(fb.Segments)-len(fa.Segments), strings.Compare(shape(fa), shape(fb)), len(fb.Prefix)-len(fa.Prefix))
	}
	order = append(order,
		flag(a.TrailingSlash == "strict")-flag(b.TrailingSlash == "strict"),
		flag(!a.IgnoreCase)-flag(!b.IgnoreCase),
		flag(fa.Scheme != "")-flag(fb.Scheme != ""),
		len(fb.Query)-len(fa.Query),
		b.When.Conditions()-a.When.Conditions(),
		strings.Compare(ref.ids[i], ref.ids[j]))
	return cmp.Or(order...)
}

func (ref *reference) whenHolds(i int, r *Request) bool {
	w := ref.rules[i].When
	if w == nil {
		return true
	}
	h := r.Header.(http.Header)
	method := r.Method
	if method == "HEAD" && slices.Contains(w.Methods, "GET") {
		method = "GET"
	}
	ok := w.Methods == nil || slices.Contains(w.Methods, method)
	ok = ok && (w.Countries == nil || slices.Contains(w.Countries, r.Country))
	ok = ok && (w.After == nil || r.Now >= w.After.Unix()) && (w.Before == nil || r.Now < w.Before.Unix())
	for name, pattern := range w.Header {
		v := h.Get(name)
		ok = ok && v != "" && (pattern == "*" || v == pattern)
	}
	for name, pattern := range w.Cookie {
		c, err := (&http.Request{Header: h}).Cookie(name)
		ok = ok && err == nil && (pattern == "*" || c.Value == pattern)
	}
	if w.Languages != nil {
		first, _, _ := strings.Cut(h.Get("Accept-Language"), ",")
		found := false
		for _, tag := range w.Languages {
			found = found || first == tag || strings.HasPrefix(first, tag+"-")
		}
		ok = ok && found
	}
	if w.Addresses != nil {
		found := false
		for _, s := range w.Addresses {
			found = found || netip.MustParsePrefix(s).Contains(r.Addr)
		}
		ok = ok && found
	}
	if w.Percent != nil {
		ok = ok && share(r.Addr, ref.ids[i]) < *w.Percent
	}
	return ok
}

// expand fills the target's text in. Targets of the random rules are simple:
// captures in the path, at most one query pair.
func (ref *reference) expand(i int, r *Request) string {
	f, rule := &ref.from[i], &ref.rules[i]
	to, own, _ := strings.Cut(rule.To, "?")
	var segs []string
	if trimmed := strings.Trim(r.Path.Raw, "/"); trimmed != "" {
		segs = strings.Split(trimmed, "/")
	}
	for k, s := range f.Segments {
		if s.Name != "" {
			to = strings.ReplaceAll(to, ":"+s.Name, segs[k])
		}
	}
	switch f.Tail {
	case fingerpost.TailFolder:
		splat := strings.Join(segs[len(f.Segments):], "/")
		if splat != "" && strings.HasSuffix(r.Path.Raw, "/") {
			splat += "/"
		}
		to = strings.ReplaceAll(to, ":splat", splat)
	case fingerpost.TailPrefix:
		// The only escape of the random paths that is shorter in normal form.
		splat := strings.Join(segs[len(f.Segments):], "/")
		for range f.Prefix {
			if strings.HasPrefix(splat, "%61") {
				splat = splat[2:]
			}
			splat = splat[1:]
		}
		if strings.HasSuffix(r.Path.Raw, "/") {
			splat += "/"
		}
		to = strings.ReplaceAll(to, ":splat", splat)
	}
	consumed := map[string]bool{}
	for _, c := range f.Query {
		consumed[c.Key] = true
		if c.Name == "" {
			continue
		}
		for _, pair := range strings.Split(r.Query, "&") {
			if k, v, _ := strings.Cut(pair, "="); k == c.Key {
				to = strings.ReplaceAll(to, ":"+c.Name, v)
				break
			}
		}
	}
	var pairs []string
	ownKey, _, _ := strings.Cut(own, "=")
	if own != "" {
		pairs = append(pairs, own)
	}
	for _, pair := range strings.Split(r.Query, "&") {
		k, _, _ := strings.Cut(pair, "=")
		if pair == "" || consumed[k] || rule.Query == "drop" || rule.Query != "append" && own != "" && k == ownKey {
			continue
		}
		pairs = append(pairs, pair)
	}
	if len(pairs) > 0 {
		to += "?" + strings.Join(pairs, "&")
	}
	return to
}

// generator makes random rules and requests over a small alphabet, so that they
// meet.
type generator struct{ *rand.Rand }

func (g generator) pick(from ...string) string { return from[g.IntN(len(from))] }
func (g generator) chance(percent int) bool    { return g.IntN(100) < percent }

func (g generator) rule(n int) fingerpost.Redirect {
	r := fingerpost.Redirect{
		From: g.pick("", "", "", "http://", "https://") + g.pick("a.x", "a.x", "a.x", "b.a.x", "*.x", "*.a.x", ".a.x", ".x", "*"),
		To:   fmt.Sprintf("https://t.test/%d", n),
	}
	if g.chance(8) {
		r.Regex = g.pick(`^/a`, `/b$`, `^/(a|B)/`, `^/[ab]+/?$`)
	} else {
		path, names := "", 0
		for range g.IntN(4) {
			seg := g.pick("a", "b", "ab", "A", "%C3%A6", ":")
			if seg == ":" {
				seg = fmt.Sprintf(":n%d", names)
				r.To += "/" + seg
				names++
			}
			path += "/" + seg
		}
		if tail := g.pick("", "", "", "/", "/*", "/a*", "/ab*", "/A*"); tail != "/" || path != "" {
			path += tail
			if strings.HasSuffix(tail, "*") {
				r.To += "/:splat"
			}
		}
		r.From += path
		if g.chance(25) {
			q := g.pick("k=1", "k=2", "k=:q", "m", "m=&k=1")
			r.From += "?" + q
			if strings.Contains(q, ":q") {
				r.To += "/:q"
			}
		}
	}
	if g.chance(20) {
		r.To += g.pick("?k=9", "?z=9")
	}
	r.Query = g.pick("", "", "merge", "append", "drop")
	r.IgnoreCase = g.chance(15)
	if g.chance(15) {
		r.TrailingSlash = "strict"
	}
	if g.chance(10) {
		r.Priority = g.IntN(3) - 1
	}
	if g.chance(20) {
		r.ID = fmt.Sprintf("id-%d", g.IntN(1000)*1000+n)
	}
	if g.chance(30) {
		r.When = g.when()
	}
	return r
}

func (g generator) when() *fingerpost.When {
	w := &fingerpost.When{}
	for range 1 + g.IntN(2) {
		switch g.IntN(8) {
		case 0:
			w.Methods = []string{g.pick("GET", "POST")}
		case 1:
			w.Languages = []string{g.pick("nb", "en", "en-GB")}
		case 2:
			w.Header = map[string]string{g.pick("X-A", "X-B"): g.pick("*", "1")}
		case 3:
			w.Cookie = map[string]string{"c": g.pick("*", "1")}
		case 4:
			w.Addresses = []string{g.pick("192.0.2.0/25", "2001:db8::/32")}
		case 5:
			w.Percent = new(g.IntN(101))
		case 6:
			w.Countries = []string{g.pick("NO", "SE")}
		case 7:
			at := time.Unix(int64(1000+g.IntN(3)*1000), 0)
			if w.After = nil; g.chance(50) {
				w.After, w.Before = &at, nil
			} else {
				w.Before = &at
			}
		}
	}
	return w
}

func (g generator) request(t testing.TB) Request {
	path := ""
	for range g.IntN(5) {
		path += "/" + g.pick("a", "b", "ab", "abc", "A", "aB", "%c3%a6", "%61", ".", "..", "")
	}
	if path == "" || g.chance(20) {
		path += "/"
	}
	target := path
	if g.chance(50) {
		target += "?" + g.pick("k=1", "k=2&k=1", "m", "m&k=2", "z=1&k=1", "z=1", "m=&k=1&z=2&k=3")
	}
	r := request(t, g.pick("http://", "https://")+g.pick("a.x", "b.a.x", "c.b.a.x", "x", "q.x", "other.test")+target)
	r.Method = g.pick("GET", "GET", "HEAD", "POST")
	r.Country = g.pick("", "NO", "SE", "DK")
	r.Now = int64(500 + g.IntN(4)*1000)
	r.Addr = netip.MustParseAddr(g.pick("192.0.2.1", "192.0.2.200", "2001:db8::7", "198.51.100.4"))
	h := http.Header{}
	for _, name := range []string{"X-A", "X-B"} {
		if g.chance(40) {
			h.Set(name, g.pick("1", "2"))
		}
	}
	if g.chance(40) {
		h.Set("Cookie", g.pick("c=1", "d=1; c=2", "d=1"))
	}
	if g.chance(50) {
		h.Set("Accept-Language", g.pick("nb-NO,en;q=0.5", "en-GB", "en", "de,nb"))
	}
	r.Header = h
	return r
}

// TestTableAgreesWithReference holds the table to the reference on random rules
// and requests. A failure prints the seed.
func TestTableAgreesWithReference(t *testing.T) {
	tables := 3000
	if testing.Short() {
		tables = 400
	}
	for seed := range uint64(tables) {
		compareWithReference(t, seed)
		if t.Failed() {
			return
		}
	}
}

func compareWithReference(t *testing.T, seed uint64) {
	g := generator{rand.New(rand.NewPCG(seed, 1))}
	var rules []fingerpost.Redirect
	known := map[string]bool{}
	for n := range 1 + g.IntN(40) {
		r := g.rule(n)
		from, err := fingerpost.ParseFrom(r.From)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if key := r.Key(&from); !known[key] {
			known[key] = true
			rules = append(rules, r)
		}
	}
	var hosts []fingerpost.Host
	for _, name := range []string{"a.x", "*.x", ".a.x", "lonely.x"} {
		if g.chance(15) {
			h := fingerpost.Host{Name: name}
			if g.chance(50) {
				h.Fallback = &fingerpost.Fallback{}
			}
			hosts = append(hosts, h)
		}
	}
	table, err := Compile(hosts, rules)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	// What is opened from bytes, built from a sorted stream or layered over
	// another table must answer as what was built at once.
	switch seed % 4 {
	case 1:
		table, err = Open(table.Bytes())
	case 2:
		table, err = CompileSorted(hosts, sortedByHost(rules), 0, nil)
	case 3:
		table, err = g.layered(hosts, rules)
	}
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	ref := newReference(hosts, rules)
	var a, b Answer
	for range 60 {
		r := g.request(t)
		want := ref.answer(&r)
		table.Answer(&r, &a)
		got := verdict{kind: a.Kind, id: a.Rule.ID(), location: string(a.Location), private: strings.Contains(string(a.CacheControl), "private")}
		if len(a.Vary) > 0 {
			got.vary = strings.Split(string(a.Vary), ", ")
			slices.Sort(got.vary)
		}
		if got.String() != want.String() {
			t.Errorf("seed %d: %s %s header %v country %s now %d\n got %v\nwant %v", seed, r.Method, r.URL(), r.Header, r.Country, r.Now, got, want)
			for _, c := range table.Explain(&r, &b).Candidates {
				t.Logf("table: %+v", c)
			}
			return
		}
		// Explain must say what Answer does.
		trace := table.Explain(&r, &b)
		if string(b.Location) != string(a.Location) || b.Kind != a.Kind || b.Rule != a.Rule {
			t.Errorf("seed %d: %s: explain says %s %q, answer %s %q", seed, r.URL(), b.Rule.ID(), b.Location, a.Rule.ID(), a.Location)
			return
		}
		for i, c := range trace.Candidates {
			if c.Won != (c.Reason == "") || c.Won && a.Kind != ByRule {
				t.Errorf("seed %d: %s: candidate %d: %+v", seed, r.URL(), i, c)
				return
			}
		}
	}
}

// sortedByHost gives rules in the order that CompileSorted wants.
func sortedByHost(rules []fingerpost.Redirect) iter.Seq2[fingerpost.Redirect, error] {
	sorted := slices.Clone(rules)
	slices.SortStableFunc(sorted, func(a, b fingerpost.Redirect) int { return strings.Compare(formOf(&a)+"/", formOf(&b)+"/") })
	return func(yield func(fingerpost.Redirect, error) bool) {
		for _, r := range sorted {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func formOf(r *fingerpost.Redirect) string {
	name, err := HostOf(r.From)
	if err != nil {
		panic(err)
	}
	return string(name)
}

// layered puts the rules of some host forms into a base, among hosts and rules
// that are to be covered, and those of the others into one or two layers.
func (g generator) layered(hosts []fingerpost.Host, rules []fingerpost.Redirect) (*Table, error) {
	const layers = 3
	in := map[string]int{} // the layer that has the truth on a form
	home := func(form string) int {
		if _, ok := in[form]; !ok {
			in[form] = g.IntN(layers)
		}
		return in[form]
	}
	var table *Table
	for layer := range layers {
		var h []fingerpost.Host
		var r []fingerpost.Redirect
		truth := map[string]bool{}
		for i := range hosts {
			if home(hosts[i].Name) == layer {
				h, truth[hosts[i].Name] = append(h, hosts[i]), true
			}
		}
		for i := range rules {
			if form := formOf(&rules[i]); home(form) == layer {
				r, truth[form] = append(r, rules[i]), true
			}
		}
		var gone []fingerpost.HostPattern
		for _, form := range []string{"a.x", "*.x", ".x", "stale.x", "*"} {
			switch last, known := in[form]; {
			case truth[form]:
			case layer < layers-1 && (!known || last > layer):
				r = append(r, fingerpost.Redirect{From: form, To: "https://stale.test/"})
			case layer == layers-1 && !known:
				gone = append(gone, fingerpost.HostPattern(form))
			}
		}
		var err error
		if layer == 0 {
			table, err = Compile(h, r)
		} else {
			table, err = Layer(table, h, r, gone)
		}
		if err != nil {
			return nil, err
		}
	}
	return table, nil
}
