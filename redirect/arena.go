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

// An index is an open-addressing hash over records of the arena that begin with
// their key: a space (which kind of key this is) and a string. A slot holds 24
// bits of the hash above 40 bits of offset, so that a probe of a wrong slot
// hardly ever touches another cache line; an empty slot is zero.
type index struct {
	at uint64 // of the first slot
	n  uint64 // number of slots, at least one of them empty
}

const slotSize = 8

func hashKey(space uint32, key string) uint64 {
	return xxhash.Sum64String(key) ^ uint64(space)*0x9E3779B97F4A7C15
}

// slotOf spreads hashes over any number of slots; the tag comes from other bits
// of the hash than the place does.
func slotOf(hash, n uint64) uint64 { return (hash >> 32) * n >> 32 }
func tagOf(hash uint64) uint64     { return hash << 40 >> 40 }

// find gives the offset of the record for (space, key), and a cursor behind its
// key.
func (x index) find(b []byte, space uint32, key string) (at uint64, c cursor, ok bool) {
	if x.n == 0 {
		return 0, cursor{}, false
	}
	hash := hashKey(space, key)
	tag := tagOf(hash)
	for i := slotOf(hash, x.n); ; {
		slot := binary.LittleEndian.Uint64(b[x.at+i*slotSize:])
		if slot == 0 {
			return 0, cursor{}, false
		}
		if slot>>40 == tag {
			at = slot << 24 >> 24
			c = cursor{b, at}
			if c.uvarint() == uint64(space) && c.string() == key {
				return at, c, true
			}
		}
		if i++; i == x.n {
			i = 0
		}
	}
}

// entry is one record to be put into an index.
type entry struct{ hash, at uint64 }

// appendIndex writes the slots of an index at four fifths load and returns where.
func appendIndex(b []byte, entries []entry) ([]byte, index) {
	x := index{at: uint64(len(b))}
	if len(entries) == 0 {
		return b, x
	}
	x.n = uint64(len(entries)) + uint64(len(entries))/4 + 1
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
