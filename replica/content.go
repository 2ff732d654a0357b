package replica

import (
	"iter"
	"maps"
	"slices"
	"strings"

	"fingerpost"
)

// changes are the items that differ from what is below: in memory, by name.
// Entries are never changed, only replaced.
type changes struct {
	entries   map[string]entry
	redirects map[fingerpost.HostPattern]map[string]struct{} // keys by form, of all that ever were in entries
	claims    map[fingerpost.HostPattern]map[string]struct{} // hosts by each form that they named, at any time, besides their own
	others    map[string]map[string]struct{}                 // names by group, of all that ever were in entries and are neither host nor redirect
}

type entry struct {
	item *Item // nil: deleted
	rev  int64
}

func newChanges() *changes {
	return &changes{entries: map[string]entry{}, redirects: map[fingerpost.HostPattern]map[string]struct{}{}, claims: map[fingerpost.HostPattern]map[string]struct{}{}, others: map[string]map[string]struct{}{}}
}

func (c *changes) other(name string) {
	g := group(name)
	names := c.others[g]
	if names == nil {
		names = map[string]struct{}{}
		c.others[g] = names
	}
	names[name] = struct{}{}
}

// group is a name as far as the first slash in its key, or its kind alone: what is
// looked for in each handshake is found without all others of its kind.
func group(name string) string {
	kind := strings.IndexByte(name, 0) + 1
	if i := strings.IndexByte(name[kind:], '/'); i >= 0 {
		return name[:kind+i+1]
	}
	return name[:kind]
}

func insert(m map[fingerpost.HostPattern]map[string]struct{}, form fingerpost.HostPattern, key string) {
	set := m[form]
	if set == nil {
		set = map[string]struct{}{}
		m[form] = set
	}
	set[key] = struct{}{}
}

// content is all items: levels of changes, the newest first, over a snapshot.
type content struct {
	levels []*changes
	base   *file

	// Of a proposal: what is not in the first own levels goes where gone says so.
	own  int
	gone func(*Item) bool // nil: nothing
}

// goes reports whether an item of a level, or of base behind all of them, goes.
func (c *content) goes(level int, it *Item) bool {
	return c.gone != nil && level >= c.own && it != nil && c.gone(it)
}

// get finds one item; rev is that of its last change if that is known, also
// where it was a deletion.
func (c *content) get(kind, key string) (it *Item, rev int64, err error) {
	if e, level, ok := c.changed(kind, key); ok {
		if c.goes(level, e.item) {
			return nil, 0, nil
		}
		return e.item, e.rev, nil
	}
	if it, err = c.base.get(kind, key); c.goes(len(c.levels), it) {
		return nil, 0, nil
	}
	if it != nil {
		rev = it.Rev
	}
	return it, rev, err
}

// changed gives the newest change of an item that the snapshot does not have.
func (c *content) changed(kind, key string) (e entry, level int, ok bool) {
	var short [128]byte // most names need no memory of their own
	n := append(append(append(short[:0], kind...), 0), key...)
	for i, l := range c.levels {
		if e, ok := l.entries[string(n)]; ok {
			return e, i, true
		}
	}
	return entry{}, 0, false
}

// set changes an item in the newest level, and gives a function that undoes it.
func (c *content) set(kind, key string, e entry) (undo func()) { return c.levels[0].set(kind, key, e) }

func (l *changes) set(kind, key string, e entry) (undo func()) {
	n := name(kind, key)
	old, had := l.entries[n]
	l.entries[n] = e
	switch kind {
	case KindRedirect:
		insert(l.redirects, form(key), key)
	case KindHost:
		if e.item == nil {
			break
		}
		if h, err := e.item.host(); err == nil {
			for _, form := range namesOf(h)[1:] {
				insert(l.claims, form, key)
			}
		}
	default:
		l.other(n)
	}
	return func() {
		if had {
			l.entries[n] = old
		} else {
			delete(l.entries, n)
		}
	}
}

// redirectsOf calls fn with the redirects of a form, in no order.
func (c *content) redirectsOf(form fingerpost.HostPattern, fn func(*Item)) error {
	seen := map[string]struct{}{}
	for i, l := range c.levels {
		for key := range l.redirects[form] {
			e, ok := l.entries[name(KindRedirect, key)]
			if _, newer := seen[key]; newer || !ok {
				continue
			}
			seen[key] = struct{}{}
			if e.item != nil && !c.goes(i, e.item) {
				fn(e.item)
			}
		}
	}
	return c.base.prefix(KindRedirect, string(form)+"/", func(it *Item) {
		if _, newer := seen[it.Key]; !newer && !c.goes(len(c.levels), it) {
			fn(it)
		}
	})
}

// hostsNaming gives the keys of all hosts that may name a form: more than do.
func (c *content) hostsNaming(form fingerpost.HostPattern) ([]string, error) {
	hosts, err := c.base.claims(form)
	hosts = append(hosts, string(form))
	for _, l := range c.levels {
		hosts = slices.AppendSeq(hosts, maps.Keys(l.claims[form]))
	}
	slices.Sort(hosts)
	return slices.Compact(hosts), err
}

// items gives all items in order. Nothing must change the levels meanwhile.
func (c *content) items() iter.Seq2[*Item, error] {
	all := func(string) bool { return true }
	return merge(c.newest("", ""), "", c.base, all)
}

// newest gives what the levels hold of a kind under keys that begin with prefix, nil
// for what is deleted; of all kinds where there is none.
func (c *content) newest(kind, prefix string) map[string]*Item {
	newest := map[string]*Item{}
	from := name(kind, prefix)
	add := func(n string, e entry) {
		if _, ok := newest[n]; !ok && (kind == "" || strings.HasPrefix(n, from)) {
			newest[n] = e.item
		}
	}
	for _, l := range c.levels {
		of := func(names map[string]struct{}) {
			for n := range names {
				if e, ok := l.entries[n]; ok {
					add(n, e)
				}
			}
		}
		switch g := group(from); {
		case kind == "", kind == KindHost, kind == KindRedirect:
			for n, e := range l.entries {
				add(n, e)
			}
		case strings.HasSuffix(g, "/"):
			of(l.others[g])
		default:
			for other, names := range l.others {
				if strings.HasPrefix(other, g) {
					of(names)
				}
			}
		}
	}
	return newest
}

// merge gives the items of changes over those of base, from a name on for as
// long as want holds. A nil change is a deletion.
func merge(changes map[string]*Item, from string, base *file, want func(name string) bool) iter.Seq2[*Item, error] {
	return func(yield func(*Item, error) bool) {
		names := slices.Sorted(maps.Keys(changes))
		done := false
		emit := func(upTo string, all bool) {
			for len(names) > 0 && !done && (all || names[0] < upTo) {
				if it := changes[names[0]]; it != nil {
					done = !yield(it, nil)
				}
				names = names[1:]
			}
		}
		err := base.scan(from, func(it *Item) bool {
			n := it.name()
			if it.Kind == kindNames || !want(n) {
				return false
			}
			emit(n, false)
			if len(names) > 0 && names[0] == n {
				return !done // the change comes in its turn
			}
			if !done {
				done = !yield(it, nil)
			}
			return !done
		})
		switch {
		case done:
		case err != nil:
			yield(nil, err)
		default:
			emit("", true)
		}
	}
}

// found is what belongs together: host forms, with all hosts and redirects that
// the table's answers for these forms depend on.
type found struct {
	forms     map[fingerpost.HostPattern]struct{}
	hosts     map[string]*fingerpost.Host // by key
	redirects []fingerpost.Redirect
	wrong     []error
}

func newFound() *found {
	return &found{forms: map[fingerpost.HostPattern]struct{}{}, hosts: map[string]*fingerpost.Host{}}
}

// piece is what stands under one form: the hosts that name it, by their keys, and
// its redirects in the order of theirs.
type piece struct {
	hosts     map[string]*fingerpost.Host
	redirects []fingerpost.Redirect
	wrong     []error
}

// piece reads what stands under a form. It changes only when the form is one of
// those that state.change gives.
func (c *content) piece(form fingerpost.HostPattern) (*piece, error) {
	p := &piece{}
	keys, err := c.hostsNaming(form)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		it, _, err := c.get(KindHost, key)
		if err != nil {
			return nil, err
		}
		if it == nil {
			continue
		}
		h, err := it.host()
		if err != nil {
			p.wrong = append(p.wrong, err)
		} else if slices.Contains(namesOf(h), form) {
			if p.hosts == nil {
				p.hosts = map[string]*fingerpost.Host{}
			}
			p.hosts[key] = h
		}
	}
	err = c.redirectsOf(form, func(it *Item) {
		if r, err := it.redirect(); err != nil {
			p.wrong = append(p.wrong, err)
		} else {
			p.redirects = append(p.redirects, r)
		}
	})
	byID := func(a, b fingerpost.Redirect) int { return strings.Compare(a.ID, b.ID) }
	if !slices.IsSortedFunc(p.redirects, byID) {
		slices.SortFunc(p.redirects, byID)
	}
	return p, err
}

// find adds forms, and all that they hang together with: a form that is named by
// a host (also, redirectFrom) comes with that host, and a host with all the forms
// that it names. In a table layer each of them is whole then. known, which may be
// nil, has pieces that were read before, and gets those that are read now.
func (c *content) find(f *found, forms iter.Seq[fingerpost.HostPattern], known map[fingerpost.HostPattern]*piece) (err error) {
	var todo []fingerpost.HostPattern
	add := func(form fingerpost.HostPattern) {
		if _, ok := f.forms[form]; !ok {
			f.forms[form] = struct{}{}
			todo = append(todo, form)
		}
	}
	for form := range forms {
		add(form)
	}
	for len(todo) > 0 {
		form := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		p := known[form]
		if p == nil {
			if p, err = c.piece(form); err != nil {
				return err
			}
			if known != nil {
				known[form] = p
			}
		}
		f.wrong = append(f.wrong, p.wrong...)
		f.redirects = append(f.redirects, p.redirects...)
		for key, h := range p.hosts {
			if f.hosts[key] == nil {
				f.hosts[key] = h
				for _, name := range namesOf(h) {
					add(name)
				}
			}
		}
	}
	return nil
}

// input is what redirect.Layer takes. The order of the hosts, and that of the
// redirects of each form, depend on nothing but the content: of two that contradict
// each other the same one stays everywhere.
func (f *found) input() (hosts []fingerpost.Host, redirects []fingerpost.Redirect, gone []fingerpost.HostPattern) {
	for _, key := range slices.Sorted(maps.Keys(f.hosts)) {
		hosts = append(hosts, *f.hosts[key])
	}
	return hosts, f.redirects, slices.Sorted(maps.Keys(f.forms))
}
