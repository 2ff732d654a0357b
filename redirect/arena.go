package redirect

import (
	"bytes"
	"encoding/binary"
	"math/bits"
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
	return c.longUvarint()
}

func (c *cursor) longUvarint() uint64 {
	v, n := binary.Uvarint(c.b[c.at:])
	c.at += uint64(n)
	return v
}

// skip passes over what stands behind its own length.
func (c *cursor) skip() {
	n := c.uvarint()
	c.at += n
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

// An index is a hash over the records that begin with a key: an owner (which
// part of the table the key belongs to) and a string. A bucket is one cache line
// for eight keys, filled from the first place on: eight tags of a byte, zero for
// a free place, then eight offsets of seven bytes. What finds its bucket full
// stands in the next one that is not.
//
// A lookup in a table that no cache holds is little but waiting for memory, and
// two waits that do not depend on each other cost as one. So a lookup has two
// steps: begin, which starts the loads, and find, which needs their values. And a
// bucket's tags are compared all at once, without a branch: a processor that
// guesses a branch on a value which has not come yet, and is wrong, throws away
// what it has begun behind it. Figures: docs/adr/0005-lookup.md.
type index struct {
	at uint64 // of the first bucket, a multiple of cacheLine
	n  uint64 // number of buckets
}

const (
	cacheLine  = 64
	bucketKeys = 8
	minBuckets = 2 // so that what a probe touches stands behind every record
)

func hashString(s string) uint64 { return xxhash.Sum64String(s) }

// mix joins the hash of a key with that of what owns it.
func mix(owner, key uint64) uint64 { return owner ^ key*0x9E3779B97F4A7C15 }

// bucketOf spreads hashes over any number of buckets. The tag comes from other
// bits of the hash.
func bucketOf(hash, n uint64) uint64 { return (hash >> 32) * n >> 32 }
func tagOf(hash uint64) byte         { return max(byte(hash), 1) }

func (x index) bucket(b []byte, i uint64) *[cacheLine]byte {
	return (*[cacheLine]byte)(b[x.at+i*cacheLine:])
}

// hitsOf finds the tags of a bucket that are equal to tag: the highest bit of
// byte i stands for place i. It may err above a hit, never below the first one,
// and never where there is none.
func hitsOf(bucket *[cacheLine]byte, tag byte) uint64 {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	differ := binary.LittleEndian.Uint64(bucket[:]) ^ uint64(tag)*ones
	return (differ - ones) &^ differ & highs // the bytes that are zero
}

// offsetOf is the offset at the first hit, and some offset where there is none.
func offsetOf(bucket *[cacheLine]byte, hits uint64) uint64 {
	place := bits.TrailingZeros64(hits) / 8 % bucketKeys
	return binary.LittleEndian.Uint64(bucket[bucketKeys-1+7*place:]) >> 8
}

// A probe is a lookup that has begun: it knows the bucket, and has touched the
// record behind its first hit.
type probe struct {
	hash    uint64
	bucket  uint64
	hits    uint64
	touched byte
}

// reach is how much of a record a probe touches: what a literal path and its
// rule take, as a rule.
const reach = 96

func (x index) begin(b []byte, hash uint64) probe {
	i := bucketOf(hash, x.n)
	bucket := x.bucket(b, i)
	hits := hitsOf(bucket, tagOf(hash))
	// Without a hit this touches a record for nothing, but needs no branch.
	record := (*[reach + 1]byte)(b[offsetOf(bucket, hits):])
	return probe{hash, i, hits, record[0] + record[cacheLine] + record[reach]}
}

// find gives the offset of the record for a key, and a cursor behind the key.
func (x index) find(b []byte, p probe, owner uint64, key string) (at uint64, c cursor, ok bool) {
	for {
		bucket := x.bucket(b, p.bucket)
		for ; p.hits != 0; p.hits &= p.hits - 1 {
			at = offsetOf(bucket, p.hits)
			c = cursor{b, at}
			if c.uvarint() == owner && c.string() == key {
				return at, c, true
			}
		}
		if bucket[bucketKeys-1] == 0 {
			return 0, cursor{}, false // here was room for it
		}
		if p.bucket++; p.bucket == x.n {
			p.bucket = 0
		}
		p.hits = hitsOf(x.bucket(b, p.bucket), tagOf(p.hash))
	}
}

// entry is one record to be put into the index.
type entry struct{ hash, at uint64 }

// appendIndex writes an index at four fifths load, from the next cache line on.
func appendIndex(b []byte, entries []entry) ([]byte, index) {
	b = append(b, make([]byte, -len(b)&(cacheLine-1))...)
	x := index{at: uint64(len(b)), n: minBuckets + uint64(len(entries))*5/4/bucketKeys}
	b = append(b, make([]byte, x.n*cacheLine)...)
	for _, e := range entries {
		i := bucketOf(e.hash, x.n)
		for x.bucket(b, i)[bucketKeys-1] != 0 {
			if i++; i == x.n {
				i = 0
			}
		}
		bucket := x.bucket(b, i)
		place := bytes.IndexByte(bucket[:bucketKeys], 0)
		bucket[place] = tagOf(e.hash)
		for j := range 7 {
			bucket[bucketKeys+7*place+j] = byte(e.at >> (8 * j))
		}
	}
	return b, x
}
