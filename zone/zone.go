// Package zone holds DNS data and finds the answer to a question.
//
// It knows names, record sets and the algorithm of an authoritative server (RFC
// 1034 4.3.2 with 2308, 4343, 4592 and 8020). It knows nothing of messages,
// sockets, clocks or of who asks, and all of it is immutable: a change is
// another [Zone] in another [Set].
//
// Names and record data are held in the form of a message, from the moment they
// are read. An answer is then copied and not composed, and the package needs no
// DNS library, whose types would bring sockets and TLS into the pure layer; see
// docs/adr/0020-dns-data-in-wire-form.md.
//
// Start reading at [New], then [Set.Lookup].
package zone

import (
	"encoding/binary"
	"errors"
	"slices"
	"strconv"

	"fingerpost"
)

// Zone is the data of one zone. It is immutable.
type Zone struct {
	apex     Name
	nodes    map[Name]*node // every name of the zone, and those between them and the apex
	soa      *RRset
	negative *RRset // soa with the time that a negative answer may be remembered
}

// node is one name of a zone. One without sets only has names below it.
type node struct {
	name Name
	sets []*RRset // a CNAME stands alone
	wild *node    // the child *
	cut  *node    // the delegation that the name is at or below; the top-most one
}

func (n *node) find(t Type) *RRset {
	for _, s := range n.sets {
		if s.Type == t {
			return s
		}
	}
	return nil
}

// maxData bounds a record set so that it fits into one message over TCP, with
// the chain that led to it.
const maxData = 60000

// New makes a zone of all its records. The error holds one [fingerpost.Error]
// for each thing that is wrong with them. Records that are there twice count
// once.
func New(apex Name, records []Record) (*Zone, error) {
	var errs []error
	bad := func(code string, name Name, message, hint string) {
		errs = append(errs, &fingerpost.Error{Code: code, Message: "zone " + apex.String() + ": " + name.String() + " " + message, Hint: hint})
	}
	z := &Zone{apex: apex, nodes: map[Name]*node{}}
	z.nodes[apex] = &node{name: apex}
	for _, r := range records {
		switch {
		case r.Name == "" || !r.Name.IsIn(apex):
			bad("outside_zone", r.Name, "is not in the zone", "put it into the zone that it belongs to")
			continue
		case r.Type == TypeDNAME || r.Type == TypeOPT || r.Type == 0 || 128 <= r.Type && r.Type <= TypeANY:
			bad("bad_type", r.Name, "has a record of type "+r.Type.String()+", which cannot be served", "")
			continue
		case r.Type == TypeSOA && r.Name != apex:
			bad("bad_soa", r.Name, "has an SOA below the apex", "make it a zone of its own, or remove the record")
			continue
		case !wellFormed(r.Type, r.Data):
			bad("bad_data", r.Name, "has a record of type "+r.Type.String()+" whose data is not what the type has", "")
			continue
		case r.Type == TypeNS && r.Name.isWildcard():
			bad("bad_wildcard", r.Name, "is a wildcard with NS", "delegate each name by itself (RFC 4592 4.2)")
			continue
		case r.TTL > 1<<31-1:
			bad("bad_ttl", r.Name, "has a TTL above 2147483647 seconds", "")
			continue
		}
		n := z.node(r.Name)
		set := n.find(r.Type)
		if set == nil {
			set = &RRset{Type: r.Type, TTL: r.TTL}
			n.sets = append(n.sets, set)
		}
		if set.TTL != r.TTL {
			bad("ttl_differs", r.Name, "has "+r.Type.String()+" records with different TTLs", "give all of them the same (RFC 2181 5.2)")
			continue
		}
		set.Data = append(set.Data, r.Data)
	}
	for name, n := range z.nodes {
		for _, set := range n.sets {
			set.Data = unique(set.Data)
			size := 0
			for _, data := range set.Data {
				size += 12 + len(data)
			}
			switch {
			case size > maxData:
				bad("too_large", name, "has "+strconv.Itoa(len(set.Data))+" "+set.Type.String()+" records, which do not fit into one answer", "spread them over several names")
			case set.Type == TypeCNAME && name == apex:
				bad("cname_at_apex", name, "has a CNAME at the apex of its zone", "the apex has SOA and NS, which a CNAME excludes")
			case set.Type == TypeCNAME && len(set.Data) > 1:
				bad("cname_twice", name, "has more than one CNAME", "leave one of them")
			case set.Type == TypeCNAME && len(n.sets) > 1:
				bad("cname_and_others", name, "has a CNAME and other records", "leave the CNAME alone or remove it (RFC 1034 3.6.2)")
			}
		}
		if name.isWildcard() {
			z.nodes[name.Parent()].wild = n
		}
		for up := name; up != apex; up = up.Parent() {
			if at := z.nodes[up]; at.find(TypeNS) != nil {
				n.cut = at
			}
		}
	}
	z.soa = z.nodes[apex].find(TypeSOA)
	switch {
	case z.soa == nil:
		bad("bad_soa", apex, "has no SOA", "a zone begins with one")
	case len(z.soa.Data) > 1:
		bad("bad_soa", apex, "has more than one SOA", "leave one of them")
	}
	if z.nodes[apex].find(TypeNS) == nil {
		bad("no_ns", apex, "has no NS", "name the servers that answer for the zone")
	}
	if len(errs) > 0 {
		// They come out of a map.
		slices.SortFunc(errs, func(a, b error) int {
			if a.Error() < b.Error() {
				return -1
			}
			return 1
		})
		return nil, errors.Join(errs...)
	}
	soa := z.soa.Data[0]
	z.negative = &RRset{Type: TypeSOA, TTL: min(z.soa.TTL, binary.BigEndian.Uint32([]byte(soa[len(soa)-4:]))), Data: z.soa.Data}
	return z, nil
}

// node gives the node of name, which is in the zone, and makes it and those
// above it where they are missing.
func (z *Zone) node(name Name) *node {
	found := z.nodes[name]
	if found == nil {
		found = &node{name: name}
		z.nodes[name] = found
		for up := name.Parent(); z.nodes[up] == nil; up = up.Parent() {
			z.nodes[up] = &node{name: up}
		}
	}
	return found
}

// Apex is the name of the zone.
func (z *Zone) Apex() Name { return z.apex }

// Serial is the number in the zone's SOA.
func (z *Zone) Serial() uint32 {
	soa := z.soa.Data[0]
	return binary.BigEndian.Uint32([]byte(soa[len(soa)-20:]))
}

// unique removes what is there twice, and keeps the order.
func unique(data []string) []string {
	if len(data) < 2 {
		return data
	}
	seen := make(map[string]bool, len(data))
	return slices.DeleteFunc(data, func(d string) bool {
		was := seen[d]
		seen[d] = true
		return was
	})
}
