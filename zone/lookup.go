package zone

import "fingerpost"

// Set is all zones of a server. It is immutable.
type Set struct {
	zones map[Name]*Zone
}

// NewSet puts zones together. Two of one name are an error.
func NewSet(zones ...*Zone) (*Set, error) {
	s := &Set{zones: make(map[Name]*Zone, len(zones))}
	for _, z := range zones {
		if s.zones[z.apex] != nil {
			return nil, &fingerpost.Error{Code: "duplicate", Message: "zone " + z.apex.String() + " is there twice", Hint: "remove one of them"}
		}
		s.zones[z.apex] = z
	}
	return s, nil
}

// Zone is the zone that name belongs to, or nil.
func (s *Set) Zone(name Name) *Zone {
	for ; name != ""; name = name.Parent() {
		if z := s.zones[name]; z != nil {
			return z
		}
	}
	return nil
}

// Kind says what came of a lookup.
type Kind uint8

const (
	Refused    Kind = iota // no zone of ours has the name
	Found                  // the records, or a chain of CNAMEs that leaves the zone or does not end
	NoData                 // the name is there, or names below it are, but not the type
	NXDomain               // neither the name nor any below it is there (RFC 8020)
	Delegation             // other servers answer for the name
)

// String is the kind's name, for people.
func (k Kind) String() string {
	return [...]string{"refused", "found", "nodata", "nxdomain", "delegation"}[k]
}

// Answer is what a lookup found, by the sections of a message. A caller uses one
// again and again; the sets in it are the zone's own.
type Answer struct {
	Kind       Kind
	Zone       *Zone // nil only if refused
	Source     Name  // the name in the zone that answered first: itself, its wildcard, the delegation; the apex for NXDomain
	Answer     []Owned
	Authority  []Owned // the SOA of a negative answer, the NS of a delegation
	Additional []Owned // addresses of names that the others mention
}

// Owned is a record set with its name; an empty Owner is the name asked for,
// however it was written.
type Owned struct {
	Owner Name
	*RRset
}

// Authoritative reports whether the answer is the zone's own word (AA). It is
// said of the first record, or of the name asked for (RFC 1035 4.1.1).
func (a *Answer) Authoritative() bool {
	return a.Kind != Refused && (a.Kind != Delegation || len(a.Answer) > 0)
}

// maxChain bounds the CNAMEs that are followed in one answer.
const maxChain = 8

// minimalANY is what a question for ANY gets where there is something (RFC 8482
// 4.2): the question serves amplification better than anybody who looks names up.
var minimalANY = &RRset{Type: TypeHINFO, TTL: 3600, Data: []string{"\x07RFC8482\x00"}}

// Lookup finds what there is to say about name and t, and fills a, whose old
// content it drops. It does not keep name. A CNAME is followed as long as it
// stays in the zone: what another zone holds a resolver asks for itself, since it
// must not believe more (RFC 2181 5.4.1).
func (s *Set) Lookup(name Name, t Type, a *Answer) {
	*a = Answer{Answer: a.Answer[:0], Authority: a.Authority[:0], Additional: a.Additional[:0]}
	z := s.Zone(name)
	if z == nil {
		return
	}
	if t == TypeDS && name == z.apex && name != Root {
		// The parent's side of a delegation has it (RFC 4035 3.1.4.1).
		if parent := s.Zone(name.Parent()); parent != nil {
			z = parent
		}
	}
	a.Zone = z
	z.lookup(name, t, a)
}

func (z *Zone) lookup(name Name, t Type, a *Answer) {
	var owner Name
	first := name
	for {
		n := z.nodes[name]
		if n == nil {
			above := z.closest(name)
			switch {
			case above.cut != nil:
				n = above
			case above.wild != nil:
				n = above.wild
			default:
				if owner == "" {
					a.Source = z.apex
				}
				a.negative(NXDomain)
				return
			}
		}
		delegated := n.cut != nil && (t != TypeDS || n.cut != n || n.name != name)
		if owner == "" {
			if a.Source = n.name; delegated {
				a.Source = n.cut.name
			}
		}
		if delegated {
			a.Kind = Delegation
			ns := n.cut.find(TypeNS)
			a.Authority = append(a.Authority, Owned{n.cut.name, ns})
			a.addresses(ns)
			return
		}
		set := n.find(t)
		cname := n.find(TypeCNAME)
		if t == TypeANY && len(n.sets) > 0 {
			if set = cname; set == nil {
				set = minimalANY
			}
		}
		if set != nil {
			a.Kind = Found
			a.Answer = append(a.Answer, Owned{owner, set})
			a.addresses(set)
			return
		}
		if cname == nil {
			a.negative(NoData)
			return
		}
		a.Kind = Found
		a.Answer = append(a.Answer, Owned{owner, cname})
		owner = Name(cname.Data[0])
		if !owner.IsIn(z.apex) || owner == first || len(a.Answer) == maxChain || a.has(owner) {
			return
		}
		name = owner
	}
}

// closest is the lowest node above name, which is in the zone but has none.
func (z *Zone) closest(name Name) *node {
	for {
		name = name.Parent()
		if n := z.nodes[name]; n != nil {
			return n
		}
	}
}

func (a *Answer) negative(k Kind) {
	a.Kind = k
	a.Authority = append(a.Authority, Owned{a.Zone.apex, a.Zone.negative})
}

// has reports whether the chain so far came by name already.
func (a *Answer) has(name Name) bool {
	for _, o := range a.Answer {
		if o.Owner == name {
			return true
		}
	}
	return false
}

// addresses adds what the zone knows of the names that set mentions.
func (a *Answer) addresses(set *RRset) {
	if set.Type != TypeNS && set.Type != TypeMX && set.Type != TypeSRV {
		return
	}
	for _, data := range set.Data {
		host := Name(data[hostOffset[set.Type]:])
		n := a.Zone.nodes[host]
		if n == nil {
			continue
		}
		for _, t := range [...]Type{TypeA, TypeAAAA} {
			if s := n.find(t); s != nil {
				a.Additional = append(a.Additional, Owned{host, s})
			}
		}
	}
}
