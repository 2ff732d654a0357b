package redirect

import (
	"encoding/binary"
	"unsafe"

	"github.com/cespare/xxhash/v2"
)

// The arena is a table's one allocation: records of varints, strings and fixed
// little-endian words, which point at each other by offsets from its start. It
// holds no Go pointers, so that the garbage collector never looks into it, and
// it can be mapped from a file as it stands.

func appendString[S ~string | ~[]byte](b []byte, s S) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// An offset takes five bytes: tables up to 1 TiB.
const offsetSize = 5

func appendOffset(b []byte, off uint64) []byte {
	return append(b, byte(off), byte(off>>8), byte(off>>16), byte(off>>24), byte(off>>32))
}

// cursor reads a record from front to back.
type cursor struct {
	b  []byte // the arena
	at uint64
}

func (c *cursor) byte() byte {
	v := c.b[c.at]
	c.at++
	return v
}

func (c *cursor) uvarint() uint64 {
	if v := c.b[c.at]; v < 0x80 {
		c.at++
		return uint64(v)
	}
	v, n := binary.Uvarint(c.b[c.at:])
	c.at += uint64(n)
	return v
}

func (c *cursor) uint32() uint32 {
	v := binary.LittleEndian.Uint32(c.b[c.at:])
	c.at += 4
	return v
}

func (c *cursor) uint64() uint64 {
	v := binary.LittleEndian.Uint64(c.b[c.at:])
	c.at += 8
	return v
}

func (c *cursor) offset() uint64 {
	v := c.b[c.at : c.at+offsetSize]
	c.at += offsetSize
	return uint64(v[0]) | uint64(v[1])<<8 | uint64(v[2])<<16 | uint64(v[3])<<24 | uint64(v[4])<<32
}

// string reads a string without copying it: it points into the arena, and lives
// as long as the table does.
func (c *cursor) string() string {
	n := c.uvarint()
	if n == 0 {
		return ""
	}
	s := c.b[c.at : c.at+n]
	c.at += n
	return unsafe.String(&s[0], len(s))
}

// An index is an open-addressing hash over the records that begin with a key: an
// owner (which part of the table the key belongs to) and a string. A slot holds
// 24 bits of the hash above 40 bits of offset, so that a probe of a wrong slot
// hardly ever touches another cache line; an empty slot is zero.
type index struct {
	at uint64 // of the first slot
	n  uint64 // number of slots, at least one of them empty
}

const (
	slotSize  = 8
	minSlots  = 16 // so that a cache line stands behind every record
	cacheLine = 64
)

func hashString(s string) uint64 { return xxhash.Sum64String(s) }

// mix joins the hash of a key with that of what owns it.
func mix(owner, key uint64) uint64 { return owner ^ key*0x9E3779B97F4A7C15 }

// slotOf spreads hashes over any number of slots; the tag comes from other bits
// of the hash than the place does.
func slotOf(hash, n uint64) uint64 { return (hash >> 32) * n >> 32 }
func tagOf(hash uint64) uint64     { return hash << 40 >> 40 }

func (x index) slot(b []byte, i uint64) uint64 {
	return binary.LittleEndian.Uint64(b[x.at+i*slotSize:])
}

// A probe is a lookup that has begun: it has loaded the first slot, and touched
// the first two cache lines of the record behind it, so that the memory's answer is under way while the
// caller does something else. A lookup in a table that no cache holds is little
// but waiting for memory; two that do not wait for each other cost as one.
type probe struct {
	hash, i, slot uint64
	touched       byte
}

func (x index) begin(b []byte, hash uint64) probe {
	i := slotOf(hash, x.n)
	p := probe{hash: hash, i: i, slot: x.slot(b, i)}
	at := p.slot << 24 >> 24
	p.touched = b[at] + b[at+cacheLine]
	return p
}

// find gives the offset of the record for a key, and a cursor behind the key.
func (x index) find(b []byte, p probe, owner uint64, key string) (at uint64, c cursor, ok bool) {
	tag := tagOf(p.hash)
	for p.slot != 0 {
		if p.slot>>40 == tag {
			at = p.slot << 24 >> 24
			c = cursor{b, at}
			if c.uvarint() == owner && c.string() == key {
				return at, c, true
			}
		}
		if p.i++; p.i == x.n {
			p.i = 0
		}
		p.slot = x.slot(b, p.i)
	}
	return 0, cursor{}, false
}

// entry is one record to be put into the index.
type entry struct{ hash, at uint64 }

// appendIndex writes the slots of an index at four fifths load.
func appendIndex(b []byte, entries []entry) ([]byte, index) {
	x := index{at: uint64(len(b)), n: max(minSlots, uint64(len(entries))+uint64(len(entries))/4+1)}
	b = append(b, make([]byte, x.n*slotSize)...)
	slots := b[x.at:]
	for _, e := range entries {
		i := slotOf(e.hash, x.n)
		for binary.LittleEndian.Uint64(slots[i*slotSize:]) != 0 {
			if i++; i == x.n {
				i = 0
			}
		}
		binary.LittleEndian.PutUint64(slots[i*slotSize:], tagOf(e.hash)<<40|e.at)
	}
	return b, x
}
