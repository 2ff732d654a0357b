package redirect

import (
	"maps"
	"net/netip"
	"regexp/syntax"
	"slices"
	"strings"

	"fingerpost"
)

// sampleText stands where a rule takes any text: no rule is expected to name it.
const sampleText = "any-name"

// sampleHeader holds the fields of a sample request by name in lower case.
type sampleHeader map[string][]string

func (h sampleHeader) Values(name string) []string { return h[strings.ToLower(name)] }

// sampling says how many of the requests that a rule is for are made up.
type sampling bool

const (
	oneEach sampling = false // one for each host, scheme and path form
	many    sampling = true  // for each method, country, time and visitor too
)

// samples makes requests that src is for: they fit its host, path, query and
// conditions. Which rule answers them is another matter. It gives none where it
// cannot make one up (a regex with assertions).
func samples(src *fingerpost.Redirect, how sampling) []Request {
	p, err := src.Parse()
	if err != nil {
		return nil
	}
	base := Request{Method: "GET", Query: sampleQuery(p.From.Query), Addr: netip.MustParseAddr("192.0.2.1"),
		Covered: func(string) bool { return true }} // as it will be
	header := sampleHeader{}
	w := src.When
	if w == nil {
		w = &fingerpost.When{}
	}
	sampleWhen(w, &base, header)
	base.Header = header

	var list []Request
	for _, path := range samplePaths(src, &p) {
		parsed, err := fingerpost.ParsePath(path)
		if err != nil {
			continue
		}
		if p.Regexp != nil && !p.Regexp.MatchString(parsed.Norm) {
			continue
		}
		for _, host := range sampleHosts(p.From.Host) {
			for _, https := range []bool{false, true} {
				if p.From.Scheme != "" && (p.From.Scheme == "https") != https {
					continue
				}
				r := base
				r.Host, r.Path, r.Target, r.HTTPS = host, parsed, path, https
				if r.Query != "" {
					r.Target += "?" + r.Query
				}
				list = append(list, r)
			}
		}
	}
	list = visit(list, w, src)
	if how == many {
		list = vary(list, w)
	}
	return list
}

func sampleHosts(p fingerpost.HostPattern) []string {
	switch suffix := p.Suffix(); {
	case p == "*":
		return []string{sampleText + ".invalid"}
	case suffix == "":
		return []string{string(p)}
	case p[0] == '.':
		return []string{suffix, sampleText + "." + suffix}
	default:
		return []string{sampleText + "." + suffix}
	}
}

func samplePaths(src *fingerpost.Redirect, p *fingerpost.Parsed) []string {
	if p.Regexp != nil {
		re, err := syntax.Parse(src.Regex, syntax.Perl)
		if err != nil {
			return nil
		}
		path := sampleRegex(re.Simplify())
		if !strings.HasPrefix(path, "/") {
			path = "/" + path
		}
		return []string{path}
	}
	var b strings.Builder
	for _, seg := range p.From.Segments {
		b.WriteByte('/')
		if seg.Name != "" {
			b.WriteString(sampleText)
		} else {
			b.WriteString(seg.Literal)
		}
	}
	path := b.String()
	switch {
	case p.From.Tail == fingerpost.TailFolder:
		return []string{path + "/", path + "/" + sampleText + "/x"}
	case p.From.Tail == fingerpost.TailPrefix:
		return []string{path + "/" + p.From.Prefix, path + "/" + p.From.Prefix + sampleText}
	case path == "":
		return []string{"/"}
	case src.TrailingSlash != "strict":
		return []string{path, path + "/"}
	case p.From.Slash:
		return []string{path + "/"}
	}
	return []string{path}
}

func sampleQuery(conds []fingerpost.QueryCond) string {
	var b []byte
	for _, c := range conds {
		if len(b) > 0 {
			b = append(b, '&')
		}
		b = append(fingerpost.AppendComponent(b, c.Key), '=')
		if c.HasValue {
			b = fingerpost.AppendComponent(b, c.Value)
		} else {
			b = append(b, sampleText...)
		}
	}
	return string(b)
}

// sampleWhen makes r one for which w holds.
func sampleWhen(w *fingerpost.When, r *Request, header sampleHeader) {
	if len(w.Methods) > 0 {
		r.Method = w.Methods[0]
	}
	if len(w.Countries) > 0 {
		r.Country = w.Countries[0]
	}
	if len(w.Languages) > 0 {
		header["accept-language"] = w.Languages[:1]
	}
	for name, pattern := range w.Header {
		header[strings.ToLower(name)] = []string{sampleGlob(pattern)}
	}
	for name, pattern := range w.Cookie {
		header["cookie"] = append(header["cookie"], name+"="+sampleGlob(pattern))
	}
	if len(w.Addresses) > 0 {
		if p, err := fingerpost.ParsePrefix(w.Addresses[0]); err == nil {
			r.Addr = p.Addr()
		}
	}
	if w.Before != nil && r.Now >= w.Before.Unix() {
		r.Now = w.Before.Unix() - 1
	}
	if w.After != nil && r.Now < w.After.Unix() {
		r.Now = w.After.Unix()
	}
}

func sampleGlob(pattern string) string { return strings.ReplaceAll(pattern, "*", sampleText) }

// vary multiplies requests along every dimension in which another rule's
// conditions could tell them apart: method, country, language, time. Where the
// rule itself does not ask, a value is taken that no other rule names.
func vary(list []Request, w *fingerpost.When) []Request {
	each := func(change func(r Request) []Request) {
		var out []Request
		for _, r := range list {
			out = append(out, change(r)...)
		}
		list = out
	}
	each(func(r Request) []Request {
		methods := w.Methods
		if methods == nil {
			methods = []string{"GET", "X-SAMPLE"}
		}
		return with(r, methods, func(r *Request, m string) { r.Method = m })
	})
	each(func(r Request) []Request {
		if len(w.Countries) < 2 {
			return []Request{r}
		}
		return with(r, w.Countries, func(r *Request, c string) { r.Country = c })
	})
	each(func(r Request) []Request {
		times := []int64{r.Now}
		if w.After == nil {
			times = append(times, 0)
		}
		if w.Before == nil {
			times = append(times, 1<<40)
		} else {
			times = append(times, w.Before.Unix()-1)
		}
		return with(r, times, func(r *Request, t int64) { r.Now = t })
	})
	each(func(r Request) []Request {
		if len(w.Languages) < 2 {
			return []Request{r}
		}
		return with(r, w.Languages, func(r *Request, tag string) {
			header := maps.Clone(r.Header.(sampleHeader))
			header["accept-language"] = []string{tag}
			r.Header = header
		})
	})
	return slices.Clip(list)
}

// visit makes each request come from several visitors, where the rule or another
// one may ask who they are: all are in the rule's own share.
func visit(list []Request, w *fingerpost.When, src *fingerpost.Redirect) []Request {
	if w.Percent == nil && w.Addresses == nil && w.Countries == nil {
		return list
	}
	_, id, err := Identify(src)
	if err != nil {
		return nil
	}
	ranges := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/22")}
	if w.Addresses != nil {
		ranges = nil
		for _, s := range w.Addresses {
			if p, err := fingerpost.ParsePrefix(s); err == nil {
				ranges = append(ranges, p)
			}
		}
	}
	var visitors []netip.Addr
	for _, p := range ranges {
		each := max(2, 32/len(ranges))
		addr := lastOf(p)
		for range 4096 {
			if w.Percent == nil || share(addr, id) < *w.Percent {
				if visitors, each = append(visitors, addr), each-1; each == 0 {
					break
				}
			}
			if addr == lastOf(p) {
				addr = p.Addr()
			} else {
				addr = addr.Next()
			}
		}
	}
	var out []Request
	for _, r := range list {
		out = append(out, with(r, visitors, func(r *Request, a netip.Addr) { r.Addr = a })...)
	}
	return out
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

func with[T any](r Request, values []T, set func(*Request, T)) []Request {
	out := make([]Request, 0, len(values))
	for _, v := range values {
		changed := r
		set(&changed, v)
		out = append(out, changed)
	}
	return out
}

// sampleRegex makes a text that a regex without assertions matches: the first
// alternative, the smallest character, the fewest repetitions.
func sampleRegex(re *syntax.Regexp) string {
	switch re.Op {
	case syntax.OpLiteral:
		return string(re.Rune)
	case syntax.OpCharClass:
		for _, want := range []rune{'a', '0', 'A', '-'} {
			for i := 0; i+1 < len(re.Rune); i += 2 {
				if re.Rune[i] <= want && want <= re.Rune[i+1] {
					return string(want)
				}
			}
		}
		if len(re.Rune) > 0 {
			return string(re.Rune[0])
		}
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return "x"
	case syntax.OpCapture, syntax.OpPlus:
		return sampleRegex(re.Sub[0])
	case syntax.OpRepeat:
		return strings.Repeat(sampleRegex(re.Sub[0]), max(re.Min, 1))
	case syntax.OpAlternate:
		return sampleRegex(re.Sub[0])
	case syntax.OpConcat:
		var b strings.Builder
		for _, sub := range re.Sub {
			b.WriteString(sampleRegex(sub))
		}
		return b.String()
	}
	return ""
}
