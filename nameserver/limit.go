package nameserver

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"

	"fingerpost/zone"
)

// verdict is what becomes of an answer over UDP.
type verdict uint8

const (
	send verdict = iota
	truncate
	drop
)

// answerKey says which answers count as the same.
type answerKey struct {
	code Rcode
	kind zone.Kind
	name zone.Name
}

// limiter bounds how many equal answers a network gets in a second. The source
// of a datagram can be forged, and the answers then hit whom it names. Of those
// over the limit every other one is truncated instead of dropped: it is no larger
// than the question, and a client that really asks comes again over TCP.
//
// It is a table of fixed size, without locks: each slot holds, for the network
// and answer that used it last, when its allowance will be full again (the
// generic cell rate algorithm). Two that meet in one slot take it from each other,
// which errs on the side of answering; which ones meet, nobody outside can know.
type limiter struct {
	interval time.Duration // between two answers at the full rate; 0 means no limit
	burst    time.Duration // of answers at once
	seed     maphash.Seed
	begin    time.Time
	over     atomic.Uint32
	slots    []atomic.Uint64 // 16 bits that tell keys apart, 48 bits of microseconds since begin
}

const (
	limiterSlots = 1 << 16
	burstSeconds = 5
)

func newLimiter(perSecond int, begin time.Time) *limiter {
	l := &limiter{begin: begin}
	if perSecond > 0 {
		l.interval = time.Second / time.Duration(perSecond)
		l.burst = burstSeconds * time.Second
		l.seed = maphash.MakeSeed()
		l.slots = make([]atomic.Uint64, limiterSlots)
	}
	return l
}

func (l *limiter) verdict(now time.Time, client netip.Addr, key answerKey) verdict {
	// Nobody elsewhere can make a datagram that seems to come from this machine.
	if l.interval == 0 || client.IsLoopback() {
		return send
	}
	const timeBits = 48
	hash := l.hash(client, key)
	slot := &l.slots[hash%limiterSlots]
	tag := hash >> timeBits
	nowMicros := max(0, now.Sub(l.begin).Microseconds())
	for {
		old := slot.Load()
		full := nowMicros // when the allowance is full again
		if old>>timeBits == tag {
			full = max(full, int64(old&(1<<timeBits-1)))
		}
		full += l.interval.Microseconds()
		if full-nowMicros > l.burst.Microseconds() {
			break
		}
		if slot.CompareAndSwap(old, tag<<timeBits|uint64(full)&(1<<timeBits-1)) {
			return send
		}
	}
	if l.over.Add(1)%2 == 0 {
		return truncate
	}
	return drop
}

// hash takes networks and not addresses together: whoever is hit by forged
// questions is hit as a network.
func (l *limiter) hash(client netip.Addr, key answerKey) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	if client = client.Unmap(); client.Is4() {
		a := client.As4()
		h.Write(a[:3])
	} else {
		a := client.As16()
		h.Write(a[:7])
	}
	h.WriteByte(byte(key.code))
	h.WriteByte(byte(key.kind))
	h.WriteString(string(key.name))
	return h.Sum64()
}
