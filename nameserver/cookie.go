package nameserver

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"time"
)

const (
	serverCookieSize = 16
	cookieAge        = time.Hour       // how old a server cookie may be (RFC 9018 4.3)
	cookieAhead      = 5 * time.Minute // and by how much the clock of another node may be before ours
)

// appendCookie appends the content of a COOKIE option, and reports whether the
// one that came, at least 8 bytes, was ours and still holds. A fresh one is sent
// each time: it costs no more than to look whether it is due.
func appendCookie(buf, cookie []byte, client netip.Addr, now time.Time, secret [16]byte) ([]byte, bool) {
	seconds := uint32(now.Unix())
	buf = append(buf, cookie[:8]...)
	buf = appendServerCookie(buf, cookie[:8], seconds, client, secret)
	if len(cookie) != 8+serverCookieSize || cookie[8] != 1 {
		return buf, false
	}
	made := binary.BigEndian.Uint32(cookie[12:])
	age := int32(seconds - made) // serial number arithmetic (RFC 1982)
	if age > int32(cookieAge/time.Second) || age < -int32(cookieAhead/time.Second) {
		return buf, false
	}
	var want [serverCookieSize]byte
	appendServerCookie(want[:0], cookie[:8], made, client, secret)
	// A hash that is known for one address helps with no other: comparing in
	// constant time would protect nothing.
	return buf, string(want[8:]) == string(cookie[16:])
}

// appendServerCookie makes the server cookie of RFC 9018 4, so that every node
// with the same secret, whatever its program, takes those of the others.
func appendServerCookie(buf, clientCookie []byte, seconds uint32, client netip.Addr, secret [16]byte) []byte {
	var in [8 + 8 + 16]byte
	copy(in[:], clientCookie)
	in[8] = 1 // version; three bytes are reserved
	binary.BigEndian.PutUint32(in[12:], seconds)
	n := 16
	if client = client.Unmap(); client.Is4() {
		a := client.As4()
		n += copy(in[16:], a[:])
	} else {
		a := client.As16()
		n += copy(in[16:], a[:])
	}
	buf = append(buf, in[8:16]...)
	return binary.LittleEndian.AppendUint64(buf, sipHash24(secret, in[:n]))
}

// sipHash24 is SipHash-2-4 with a result of 64 bits.
func sipHash24(key [16]byte, data []byte) uint64 {
	k0, k1 := binary.LittleEndian.Uint64(key[:]), binary.LittleEndian.Uint64(key[8:])
	v0, v1, v2, v3 := k0^0x736f6d6570736575, k1^0x646f72616e646f6d, k0^0x6c7967656e657261, k1^0x7465646279746573
	rounds := func(n int) {
		for range n {
			v0 += v1
			v1 = bits.RotateLeft64(v1, 13) ^ v0
			v0 = bits.RotateLeft64(v0, 32)
			v2 += v3
			v3 = bits.RotateLeft64(v3, 16) ^ v2
			v0 += v3
			v3 = bits.RotateLeft64(v3, 21) ^ v0
			v2 += v1
			v1 = bits.RotateLeft64(v1, 17) ^ v2
			v2 = bits.RotateLeft64(v2, 32)
		}
	}
	last := uint64(len(data)) << 56
	for ; len(data) >= 8; data = data[8:] {
		m := binary.LittleEndian.Uint64(data)
		v3 ^= m
		rounds(2)
		v0 ^= m
	}
	for i, c := range data {
		last |= uint64(c) << (8 * i)
	}
	v3 ^= last
	rounds(2)
	v0 ^= last
	v2 ^= 0xff
	rounds(4)
	return v0 ^ v1 ^ v2 ^ v3
}
