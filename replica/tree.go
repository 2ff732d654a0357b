package replica

import (
	"hash/maphash"
	"strings"
)

// tree is an ordered map from names to entries, a treap: whoever has one sees it as
// it was, without a lock, while put makes another that shares most of its nodes.
// Nil is empty.
type tree struct {
	name        string
	entry       entry
	weight      uint64 // a node's is not below those of its children
	made        uint64 // put may change nodes of its own number in place
	left, right *tree
}

var weights = maphash.MakeSeed()

// put gives a tree in which name has an entry. Calls with one number change what
// earlier ones with it have made: the results between are the caller's alone.
func (t *tree) put(name string, e entry, number uint64) *tree {
	if t == nil {
		return &tree{name: name, entry: e, weight: maphash.String(weights, name), made: number}
	}
	if t.made != number {
		own := *t
		own.made = number
		t = &own
	}
	switch c := strings.Compare(name, t.name); {
	case c == 0:
		t.entry = e
	case c < 0:
		t.left = t.left.put(name, e, number)
		if top := t.left; top.weight > t.weight {
			t.left, top.right = top.right, t
			return top
		}
	default:
		t.right = t.right.put(name, e, number)
		if top := t.right; top.weight > t.weight {
			t.right, top.left = top.left, t
			return top
		}
	}
	return t
}

func (t *tree) find(name []byte) (entry, bool) {
	for t != nil {
		switch {
		case string(name) == t.name:
			return t.entry, true
		case string(name) < t.name:
			t = t.left
		default:
			t = t.right
		}
	}
	return entry{}, false
}

// prefix calls fn in order with what has a name that begins with from, until fn
// says no.
func (t *tree) prefix(from string, fn func(*tree) bool) bool {
	if t == nil {
		return true
	}
	begins := strings.HasPrefix(t.name, from)
	if (begins || from < t.name) && !t.left.prefix(from, fn) {
		return false
	}
	if begins && !fn(t) {
		return false
	}
	return !begins && from < t.name || t.right.prefix(from, fn)
}

// newest gives what trees, the newest first, hold under names that begin with from,
// in order and each name once.
func newest(trees []*tree, from string) (list []*tree) {
	for _, t := range trees {
		var own []*tree
		t.prefix(from, func(n *tree) bool {
			own = append(own, n)
			return true
		})
		list = join(list, own)
	}
	return list
}

// join merges two lists in order; what is in both comes from the first.
func join(first, second []*tree) []*tree {
	if len(first) == 0 || len(second) == 0 {
		return append(first, second...)
	}
	all := make([]*tree, 0, len(first)+len(second))
	for len(first) > 0 && len(second) > 0 {
		switch c := strings.Compare(first[0].name, second[0].name); {
		case c < 0:
			all, first = append(all, first[0]), first[1:]
		case c > 0:
			all, second = append(all, second[0]), second[1:]
		default:
			second = second[1:]
		}
	}
	return append(append(all, first...), second...)
}
