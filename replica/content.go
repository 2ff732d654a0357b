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
	tree   *tree
	number uint64                                         // of what the next put may change in place
	claims map[fingerpost.HostPattern]map[string]struct{} // hosts by each form that they named, at any time, besides their own
}

type entry struct {
	item *Item // nil: deleted
	rev  int64
}

func newChanges() *changes {
	return &changes{claims: map[fingerpost.HostPattern]map[string]struct{}{}}
}

// freeze makes what tree is now stay as it is, for whoever keeps it, and gives a
// function that goes back to it.
func (l *changes) freeze() (undo func()) {
	before := l.tree
	l.number++
	return func() {
		l.tree = before
		l.number++
	}
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
		if e, ok := l.tree.find(n); ok {
			return e, i, true
		}
	}
	return entry{}, 0, false
}

// set changes an item.
func (l *changes) set(kind, key string, e entry) {
	l.tree = l.tree.put(name(kind, key), e, l.number)
	if kind != KindHost || e.item == nil {
		return
	}
	if h, err := e.item.host(); err == nil {
		for _, form := range namesOf(h)[1:] {
			insert(l.claims, form, key)
		}
	}
}

// redirectsOf calls fn with the redirects of a form, in no order.
func (c *content) redirectsOf(form fingerpost.HostPattern, fn func(*Item)) error {
	prefix := string(form) + "/"
	seen := map[string]struct{}{}
	for i, l := range c.levels {
		l.tree.prefix(name(KindRedirect, prefix), func(n *tree) bool {
			key := n.name[len(KindRedirect)+1:]
			if _, newer := seen[key]; newer {
				return true
			}
			seen[key] = struct{}{}
			if it := n.entry.item; it != nil && !c.goes(i, it) {
				fn(it)
			}
			return true
		})
	}
	return c.base.prefix(KindRedirect, prefix, func(it *Item) {
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

// view is the content as it is now; what changes later does not show in it.
func (c *content) view() *view {
	v := &view{base: c.base}
	for _, l := range c.levels {
		l.freeze()
		v.trees = append(v.trees, l.tree)
	}
	return v
}

// view is all items at one moment: what Get and Scan read, without a lock. It never
// changes.
type view struct {
	trees []*tree // over base, the newest first
	base  *file
}

// get gives one item; nil if there is none.
func (v *view) get(kind, key string) (*Item, error) {
	var short [128]byte // most names need no memory of their own
	n := append(append(append(short[:0], kind...), 0), key...)
	for _, t := range v.trees {
		if e, ok := t.find(n); ok && e.item == nil {
			return nil, nil
		} else if ok {
			return e.item.clone(), nil
		}
	}
	return v.base.find(kind, key)
}

// items gives those in order whose names begin with from.
func (v *view) items(from string) iter.Seq2[*Item, error] {
	return func(yield func(*Item, error) bool) {
		changed := newest(v.trees, from)
		done := false
		// emit gives what has changed before a name, or all that is left.
		emit := func(upTo string, all bool) {
			for len(changed) > 0 && !done && (all || changed[0].name < upTo) {
				if it := changed[0].entry.item; it != nil { // else it was deleted
					done = !yield(it, nil)
				}
				changed = changed[1:]
			}
		}
		err := v.base.scan(from, func(it *Item) bool {
			n := it.name()
			if it.Kind == kindNames || !strings.HasPrefix(n, from) {
				return false
			}
			emit(n, false)
			if len(changed) > 0 && changed[0].name == n {
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
