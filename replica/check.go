package replica

import (
	"errors"
	"hash/maphash"
	"iter"
	"maps"
	"slices"
	"strings"

	"fingerpost"
	"fingerpost/redirect"
)

// findIn is content.find under mu, for callers that do not hold writer.
func (r *Replica) findIn(s *state) func(*found, iter.Seq[fingerpost.HostPattern]) error {
	return func(f *found, forms iter.Seq[fingerpost.HostPattern]) error {
		r.mu.RLock()
		defer r.mu.RUnlock()
		return s.content.find(f, forms, nil)
	}
}

// Check reports what would be wrong with the content after changes: whatever
// redirect.Compile refuses (duplicates, hosts declared twice, circles) on the
// host forms that they have a say in. It changes nothing. Each error is a
// [fingerpost.Error] whose place names an item: "redirect KEY" or "host NAME".
//
// A circle is found if it leads through a rule of these forms. Where a rule or a
// host goes away, and a wildcard that takes its place leads a third rule in a
// circle, it is not; then 508 is what stops a redirect to itself.
//
// What another writer commits between Check and a commit is not seen. A revision
// that contradicts the content all the same is followed like any other; the
// table leaves an item out (see [Status]).
func (r *Replica) Check(list []Change) error {
	c := &checking{r: r, hosts: newChanges(), touched: map[uint64]struct{}{}, seed: maphash.MakeSeed()}
	level, forms := newChanges(), map[fingerpost.HostPattern]struct{}{}
	for i := range list {
		if err := c.add(level, &list[i], forms); err != nil {
			return err
		}
	}
	f, err := c.find(level, maps.Keys(forms))
	if err != nil {
		return err
	}
	hosts, redirects, gone := f.input()
	_, err = redirect.Layer(r.Table(), hosts, redirects, gone)
	return errors.Join(append(append(c.wrong, f.wrong...), err)...)
}

// Proposal is a change of any size.
type Proposal struct {
	// Changes come in the order of kind and key, and the same each time: they are
	// read again where a circle is suspected.
	Changes iter.Seq2[Change, error]
	// Gone tells what goes of the items that Changes does not name; nil for nothing.
	Gone func(*Item) bool
}

const maxWrong = 100 // errors are enough

// What is checked at once, about: redirects, of which those of one host form stay
// together, and host forms. Variables for tests.
var partRules, partForms = 8_000, 250

// CheckAll is [Replica.Check] for any number of changes. It holds the hosts of the
// proposal in memory, and the redirects of some thousand at a time. Where rules lead
// to other hosts that are served it builds a table of all content beside the one
// that is there, since a circle may lead through any of them.
func (r *Replica) CheckAll(p Proposal) error {
	c := &checking{r: r, gone: p.Gone, hosts: newChanges(), targets: map[string]struct{}{}, touched: map[uint64]struct{}{}, seed: maphash.MakeSeed()}
	hostForms := map[fingerpost.HostPattern]struct{}{}
	level, forms, n := newChanges(), map[fingerpost.HostPattern]struct{}{}, 0
	var last fingerpost.HostPattern
	// One part is checked while the next is being read.
	parts, checked := make(chan part), make(chan error, 1)
	go func() {
		var err error
		for p := range parts {
			if err == nil && len(c.wrong)+len(c.elsewhere) < maxWrong {
				err = c.part(p)
			}
		}
		checked <- err
	}()
	flush := func() {
		parts <- part{level, forms}
		level, forms, n = newChanges(), map[fingerpost.HostPattern]struct{}{}, 0
	}
	read := func() error {
		defer close(parts)
		for change, err := range p.Changes {
			switch kind := change.Item.Kind; {
			case err != nil:
				return err
			case kind == KindHost:
				if err := c.add(c.hosts, &change, hostForms); err != nil {
					return err
				}
				continue
			case kind != KindRedirect:
				continue
			}
			at := form(change.Item.Key)
			if at != last && (n >= partRules || len(forms) >= partForms) {
				flush()
			}
			last = at
			forms[at] = struct{}{}
			c.touch(at)
			e := entry{rev: proposed}
			if change.Op == Put {
				it := change.Item
				e.item = &it
			}
			level.set(KindRedirect, change.Item.Key, e)
			n++
		}
		flush()
		for form := range hostForms {
			if c.isTouched(form) {
				continue // it was checked with its redirects
			}
			if forms[form] = struct{}{}; len(forms) >= partForms {
				flush()
			}
		}
		flush()
		for form := range hostForms { // when all that have redirects are known
			c.touch(form)
		}
		return nil
	}
	if err := errors.Join(read(), <-checked); err != nil {
		return err
	}
	for _, w := range c.elsewhere {
		if !c.isTouched(w.form) {
			c.wrong = append(c.wrong, w.err)
		}
	}
	if err := errors.Join(c.wrong[:min(len(c.wrong), maxWrong)]...); err != nil || !c.suspect() {
		return err
	}
	return c.findLoops(p)
}

// proposed is newer than all revisions.
const proposed = 1 << 62

// checking is one call of Check or CheckAll.
type checking struct {
	r     *Replica
	gone  func(*Item) bool
	hosts *changes // of the proposal

	wrong     []error
	elsewhere []misplaced
	circle    bool                // one was found within a part, as far as that knows
	targets   map[string]struct{} // hosts that rules lead to; these four are the checker's of parts, until it ends
	touched   map[uint64]struct{} // hashes of the forms of all parts
	seed      maphash.Seed
}

// misplaced is an error about a form that came with a part. It counts if no change
// is about that form: otherwise the part does not know what stands there.
type misplaced struct {
	form fingerpost.HostPattern
	err  error
}

func (c *checking) touch(form fingerpost.HostPattern) {
	c.touched[maphash.String(c.seed, string(form))] = struct{}{}
}

func (c *checking) isTouched(form fingerpost.HostPattern) bool {
	_, ok := c.touched[maphash.String(c.seed, string(form))]
	return ok
}

// content is what is live, below the proposal's hosts and a level of it. The caller
// holds mu.
func (c *checking) content(level *changes) (content, error) {
	live := c.r.live
	if live == nil {
		return content{}, ErrNoState
	}
	return content{levels: append([]*changes{level, c.hosts}, live.content.levels...), base: live.content.base, own: 2, gone: c.gone}, nil
}

// add puts a change into a level, and notes the forms that it has a say in.
func (c *checking) add(level *changes, change *Change, forms map[fingerpost.HostPattern]struct{}) error {
	if change.Op == Reload {
		return nil
	}
	if change.Op == Put {
		if err := change.Item.check(); err != nil {
			c.wrong = append(c.wrong, err)
			return nil
		}
	}
	c.r.mu.RLock()
	defer c.r.mu.RUnlock()
	live := c.r.live
	if live == nil {
		return ErrNoState
	}
	one := *change
	one.Item.Rev = proposed
	s := &state{content: content{levels: append([]*changes{level}, live.content.levels...), base: live.content.base}, counts: map[string]int64{}}
	return s.changeOne(&one, forms)
}

// find reads what stands under forms, some of them at a time: nobody who changes
// the content waits for long.
func (c *checking) find(level *changes, forms iter.Seq[fingerpost.HostPattern]) (*found, error) {
	f := newFound()
	for part := range slices.Chunk(slices.Collect(forms), partOfLayer) {
		if err := func() error {
			c.r.mu.RLock()
			defer c.r.mu.RUnlock()
			all, err := c.content(level)
			if err != nil {
				return err
			}
			return all.find(f, slices.Values(part), nil)
		}(); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// part is some of the changes, with the forms that they are about.
type part struct {
	level *changes
	forms map[fingerpost.HostPattern]struct{}
}

// part checks one part.
func (c *checking) part(p part) error {
	if len(p.forms) == 0 {
		return nil
	}
	f, err := c.find(p.level, maps.Keys(p.forms))
	if err != nil {
		return err
	}
	hosts, redirects, gone := f.input()
	err = redirect.CheckPart(c.r.Table(), hosts, redirects, gone, func(host string) {
		if _, known := c.targets[host]; !known {
			c.targets[strings.Clone(host)] = struct{}{}
		}
	})
	for _, e := range fingerpost.Errors(errors.Join(append(f.wrong, err)...)) {
		key, isRedirect := strings.CutPrefix(e.At.File, KindRedirect+" ")
		at := form(key)
		_, mine := p.forms[at]
		switch {
		case redirect.IsLoop(e):
			c.circle = true // where it leads through what other parts change, there may be none
		case isRedirect && !mine:
			c.elsewhere = append(c.elsewhere, misplaced{at, e})
		default:
			c.wrong = append(c.wrong, e)
		}
	}
	return nil
}

// suspect reports whether there may be circles that lead through several parts, or
// not through any.
func (c *checking) suspect() bool {
	if c.circle {
		return true
	}
	table := c.r.Table()
	for host := range c.targets {
		if host == "" || table.Serves(host) || c.isTouched("*") || c.isTouched(fingerpost.HostPattern(host)) {
			return true
		}
		for name := host; ; {
			_, suffix, ok := strings.Cut(name, ".")
			if !ok {
				break
			}
			if c.isTouched(fingerpost.HostPattern("*." + suffix)) {
				return true
			}
			name = suffix
		}
	}
	return false
}

// findLoops builds a table of all content with the proposal, and follows the rules
// of the forms that it has a say in.
func (c *checking) findLoops(p Proposal) error {
	table, err := compileItems(c.items(p), c.r.Table().Rules(), func(*Item) error { return nil }, func(*fingerpost.Host) {},
		func(error) {}) // what is wrong was found before, or was there before
	if err != nil {
		return err
	}
	var wrong []error
	var rules []fingerpost.Redirect
	look := func() {
		for _, e := range fingerpost.Errors(redirect.FindLoops(table, rules)) {
			wrong = append(wrong, e)
		}
		rules = rules[:0]
	}
	add := func(list ...fingerpost.Redirect) {
		for i := range list {
			if host, err := redirect.HostOf(list[i].From); err == nil && c.isTouched(host) {
				rules = append(rules, list[i])
			}
		}
	}
	for it, err := range c.items(p) {
		if err != nil {
			return err
		}
		switch it.Kind {
		case KindHost:
			if h, err := it.host(); err == nil {
				add(h.Redirects()...)
				if h.Fallback != nil && h.Fallback.To != "" {
					add(*h.FallbackRedirect())
				}
			}
		case KindRedirect:
			if !c.isTouched(form(it.Key)) {
				continue
			}
			if rule, err := it.redirect(); err == nil {
				add(rule)
			}
		}
		if len(rules) >= partRules {
			look()
		}
		if len(wrong) >= maxWrong {
			break
		}
	}
	look()
	return errors.Join(wrong[:min(len(wrong), maxWrong)]...)
}

// items gives all items as they would be, in order.
func (c *checking) items(p Proposal) iter.Seq2[*Item, error] {
	return func(yield func(*Item, error) bool) {
		now := c.r.view.Load()
		if now == nil {
			yield(nil, ErrNoState)
			return
		}
		next, stop := iter.Pull2(p.Changes)
		defer stop()
		change, err, more := next()
		// upTo gives the changes before a name, or all that are left.
		upTo := func(name string, last bool) bool {
			for more && err == nil && (last || change.Item.name() < name) {
				if change.Op == Put && !yield(&change.Item, nil) {
					return false
				}
				change, err, more = next()
			}
			if err != nil {
				yield(nil, err)
			}
			return err == nil
		}
		for it, err := range now.items("") {
			if err != nil {
				yield(nil, err)
				return
			}
			name := it.name()
			switch {
			case !upTo(name, false):
				return
			case more && change.Item.name() == name: // it comes in its turn, or goes
			case c.gone != nil && c.gone(it):
			case !yield(it, nil):
				return
			}
		}
		upTo("", true)
	}
}

// check reports a value that cannot be read.
func (it *Item) check() (err error) {
	switch it.Kind {
	case KindHost:
		_, err = it.host()
	case KindRedirect:
		_, err = it.redirect()
	}
	return err
}
