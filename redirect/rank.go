package redirect

import (
	"cmp"

	"fingerpost"
)

// class is the kind of a path pattern, in the order of precedence.
type class uint8

const (
	literal class = iota // one path
	pattern              // :name, or /* at the end
	prefix               // text and * at the end
	regex
)

func classOf(r *rule) class {
	switch {
	case r.parsed.Regexp != nil:
		return regex
	case r.parsed.From.Tail == fingerpost.TailPrefix:
		return prefix
	case r.parsed.From.IsLiteral():
		return literal
	}
	return pattern
}

// compare orders the rules of one host form by precedence, the winner first. It
// looks at what rules are, never at a request, so that it is done once, when
// the table is built: a rule's place in this order is its rank, and matching
// finds the smallest rank among the rules that hold.
func compare(a, b *rule) int {
	fa, fb := &a.parsed.From, &b.parsed.From
	if c := cmp.Or(
		cmp.Compare(b.source.Priority, a.source.Priority),
		cmp.Compare(a.class, b.class),
	); c != 0 {
		return c
	}
	switch a.class {
	case pattern:
		if c := compareSegments(fa, fb); c != 0 {
			return c
		}
	case prefix:
		if c := cmp.Or(
			cmp.Compare(len(fb.Segments), len(fa.Segments)),
			compareSegments(fa, fb),
			cmp.Compare(len(fb.Prefix), len(fa.Prefix)),
		); c != 0 {
			return c
		}
	}
	return cmp.Or(
		before(a.strict(), b.strict()),
		before(!a.source.IgnoreCase, !b.source.IgnoreCase),
		before(fa.Scheme != "", fb.Scheme != ""),
		cmp.Compare(len(fb.Query), len(fa.Query)),
		cmp.Compare(b.source.When.Conditions(), a.source.When.Conditions()),
		cmp.Compare(a.id, b.id),
	)
}

// compareSegments compares two patterns from the left: a literal segment before
// a name, a name before the pattern's end, and the end before /*. (Were /a/:x/*
// before /a/:x, the latter could never win.)
func compareSegments(a, b *fingerpost.From) int {
	kind := func(f *fingerpost.From, i int) int {
		switch {
		case i < len(f.Segments) && f.Segments[i].Name == "":
			return 0
		case i < len(f.Segments):
			return 1
		case f.Tail == fingerpost.TailNone:
			return 2
		}
		return 3
	}
	for i := range max(len(a.Segments), len(b.Segments)) + 1 {
		if c := cmp.Compare(kind(a, i), kind(b, i)); c != 0 {
			return c
		}
	}
	return 0
}

func before(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
