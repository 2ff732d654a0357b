package redirect

import (
	"errors"
	"slices"
	"strings"

	"fingerpost"
)

const (
	codeCycle = "cycle"
	codeSelf  = "self_redirect"
)

// maxHops is more than any browser follows: a way that is longer never ends.
const maxHops = 20

// A Hop is one request on a visitor's way through redirects, and its answer.
type Hop struct {
	URL      string
	Kind     Kind
	Status   int
	Location string // empty where the way ends
	Rule     RuleRef
}

// Follow sends a request through the table as a browser would, as long as it
// stays on hosts that are served by name, and on the port. The way leads to last, which is not
// redirected any more, or not here; endless says that it comes back to where it
// was, or never ends.
func (t *Table) Follow(r Request) (way []Hop, last string, endless bool) {
	var a Answer
	seen := map[string]bool{}
	for len(way) < maxHops {
		url := r.URL()
		if seen[url] {
			return way, url, true
		}
		seen[url] = true
		t.Answer(&r, &a)
		loc := string(a.Location)
		way = append(way, Hop{url, a.Kind, a.Status, loc, a.Rule})
		if loc == "" {
			return way, url, a.Kind == Loop
		}
		next, ok := r.next(loc)
		if !ok || next.Port != r.Port || next.Host != r.Host && !t.Serves(next.Host) {
			return way, loc, false
		}
		r = next
	}
	return way, r.URL(), true
}

// URL is what r asks for.
func (r *Request) URL() string {
	s := r.scheme() + "://" + r.Host
	if r.Port != "" {
		s += ":" + r.Port
	}
	s += r.Path.Raw
	if r.Query != "" {
		s += "?" + r.Query
	}
	return s
}

// next is the request that follows a Location; everything else of the visitor
// stays the same.
func (r *Request) next(loc string) (Request, bool) {
	next := *r
	var path string
	if strings.HasPrefix(loc, "/") {
		path, _, _ = strings.Cut(loc, "#")
		path, next.Query, _ = strings.Cut(path, "?")
	} else {
		scheme, authority, p, query := splitURL(loc)
		host, port, err := fingerpost.ParseHost(authority)
		if err != nil {
			return next, false
		}
		next.HTTPS, next.Host, next.Port, next.Query, path = scheme == "https", host, port, query, p
	}
	next.Target = path
	if next.Query != "" {
		next.Target += "?" + next.Query
	}
	var err error
	next.Path, err = fingerpost.ParsePath(path)
	return next, err == nil
}

// findLoops follows sample requests of every rule that may stay on our hosts,
// and reports each circle once.
func findLoops(t *Table, rules []*fingerpost.Redirect) error {
	var errs []error
	known := map[string]bool{}
	for _, src := range rules {
		for _, sample := range samples(src, oneEach) {
			way, last, endless := t.Follow(sample)
			if !endless || len(way) == 0 || known[circle(way, last)] {
				continue
			}
			known[circle(way, last)] = true
			errs = append(errs, loopError(src, way, last))
			break
		}
	}
	return errors.Join(errs...)
}

// circle is the same for every way into a circle of the same rules.
func circle(way []Hop, last string) string {
	from := slices.IndexFunc(way, func(h Hop) bool { return h.URL == last })
	var rules []string
	for _, h := range way[max(from, 0):] { // -1: it grows with each hop
		if !h.Rule.IsZero() {
			rules = append(rules, h.Rule.Host()+" "+h.Rule.ID())
		}
	}
	slices.Sort(rules)
	return strings.Join(slices.Compact(rules), "\n")
}

func loopError(src *fingerpost.Redirect, way []Hop, last string) error {
	e := &fingerpost.Error{Code: codeCycle, Field: "to", At: src.Source, Hint: "change one of these targets, or exclude the target's own path or host with a rule of its own"}
	shown := way
	if len(shown) > 6 {
		shown = shown[:6]
	}
	var path strings.Builder
	for _, h := range shown {
		path.WriteString(h.URL + " → ")
		if h.Kind == Upgrade {
			path.WriteString("(https) ")
		}
	}
	if len(shown) < len(way) {
		path.WriteString("… ")
	} else {
		path.WriteString(last)
	}
	if way[len(way)-1].Kind == Loop {
		e.Code, e.Message = codeSelf, "redirect to itself: "+path.String()
	} else {
		e.Message = "redirects in a circle: " + path.String()
	}
	return e
}
