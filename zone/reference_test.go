package zone

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// reference answers from a list of records, step by step as RFC 1034 4.3.2 and
// RFC 4592 say it, with nothing prepared. It gives the kind and the answer
// section.
func reference(apex Name, records []Record, name Name, t Type) (Kind, []Record) {
	if !name.IsIn(apex) {
		return Refused, nil
	}
	at := func(n Name, t Type) (found []Record) {
		for _, r := range records {
			if r.Name == n && r.Type == t && !slices.Contains(found, r) {
				found = append(found, r)
			}
		}
		return found
	}
	exists := func(n Name) bool {
		return n == apex || slices.ContainsFunc(records, func(r Record) bool { return r.Name.IsIn(n) })
	}
	var answer []Record
	var been []Name
	for {
		been = append(been, name)
		// Down from the apex, the first delegation takes it all.
		var path []Name
		for up := name; up != apex; up = up.Parent() {
			path = append(path, up)
		}
		slices.Reverse(path)
		for _, step := range path {
			if at(step, TypeNS) != nil && !(step == name && t == TypeDS) {
				return Delegation, answer
			}
		}
		source := name
		if !exists(name) {
			encloser := name.Parent()
			for !exists(encloser) {
				encloser = encloser.Parent()
			}
			if source = encloser.Child("*"); !exists(source) {
				return NXDomain, answer
			}
		}
		add := func(found []Record) {
			for _, r := range found {
				r.Name = name
				answer = append(answer, r)
			}
		}
		if found := at(source, t); found != nil {
			add(found)
			return Found, answer
		}
		cname := at(source, TypeCNAME)
		if cname == nil {
			return NoData, answer
		}
		add(cname)
		name = Name(cname[0].Data)
		if !name.IsIn(apex) || slices.Contains(been, name) || len(answer) == maxChain {
			return Found, answer
		}
	}
}

// TestLookupAgainstReference compares the two on random zones whose names are few
// and close together, so that everything meets.
func TestLookupAgainstReference(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	apex := MustParseName("x")
	name := func() Name {
		n := apex
		for range rng.IntN(5) {
			n = n.Child([]string{"a", "b", "c", "*"}[rng.IntN(4)])
		}
		return n
	}
	zones, kinds := 0, map[Kind]int{}
	for zones < 3000 {
		records := []Record{
			SOA{Server: apex, Mailbox: apex, Minimum: 1}.Record(apex, 1),
			NS(apex, 1, apex),
		}
		for range rng.IntN(12) {
			n := name()
			switch rng.IntN(5) {
			case 0:
				records = append(records, CNAME(n, 1, name()))
			case 1:
				records = append(records, NS(n, 1, name()))
			case 2:
				records = append(records, Record{n, TypeDS, 1, fmt.Sprint(rng.IntN(2))})
			default:
				records = append(records, TXT(n, 1, fmt.Sprint(rng.IntN(2))))
			}
		}
		z, err := New(apex, records)
		if err != nil {
			continue // what cannot stand together is another test's
		}
		zones++
		s, _ := NewSet(z)
		var a Answer
		for range 50 {
			asked, qtype := name(), []Type{TypeTXT, TypeCNAME, TypeNS, TypeDS, TypeA}[rng.IntN(5)]
			if qtype == TypeDS && asked == apex {
				continue // the reference knows one zone only
			}
			s.Lookup(asked, qtype, &a)
			var got []Record
			for _, o := range a.Answer {
				owner := o.Owner
				if owner == "" {
					owner = asked
				}
				for _, data := range o.Data {
					got = append(got, Record{owner, o.Type, o.TTL, data})
				}
			}
			kind, want := reference(apex, records, asked, qtype)
			kinds[kind]++
			if a.Kind != kind || !slices.Equal(got, want) {
				t.Fatalf("%v %v in %v:\n%v %v, want\n%v %v", asked, qtype, records, a.Kind, got, kind, want)
			}
		}
	}
	for kind := Found; kind <= Delegation; kind++ {
		if kinds[kind] < 100 {
			t.Errorf("only %d questions were %v", kinds[kind], kind)
		}
	}
}
