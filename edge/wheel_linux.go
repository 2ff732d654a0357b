package edge

import (
	"runtime/debug"
	"time"

	"fingerpost/h1"
)

// wheelSlots is more than any time-out has seconds but a long idle one, which is
// looked at on the way.
const wheelSlots = 128

// seconds rounds a time-out up: the wheel goes by whole ones.
func seconds(d time.Duration) int64 { return int64((d+time.Second-1)/time.Second) + 1 }

// schedule puts s where the wheel comes by at its deadline, or before.
func (l *loop) schedule(s *socket) {
	at := min(s.deadline, l.second+wheelSlots-1)
	s.slot = int(at % wheelSlots)
	s.prev, s.next = nil, l.wheel[s.slot]
	if s.next != nil {
		s.next.prev = s
	}
	l.wheel[s.slot] = s
}

func (l *loop) unschedule(s *socket) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		l.wheel[s.slot] = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
}

// reschedule moves s only if its deadline is sooner than the wheel would come by:
// a later one is noticed when it does.
func (l *loop) reschedule(s *socket) {
	comesBy := l.second + (int64(s.slot)-l.second%wheelSlots+wheelSlots)%wheelSlots
	if s.deadline < comesBy {
		l.unschedule(s)
		l.schedule(s)
	}
}

// tickOn is tick, for which a fault of the program is no end of it either.
func (l *loop) tickOn(second int64) {
	defer l.recovered()
	l.tick(second)
}

// recovered, deferred, logs a panic and closes the connection that it was about.
func (l *loop) recovered() {
	r := recover()
	if r == nil {
		return
	}
	if s := l.current; s != nil && s.fd < len(l.conns) && l.conns[s.fd] == s {
		s.f.panicked(r)
		l.close(s)
		return
	}
	l.log().Error("panic in an event loop", "panic", r, "stack", string(debug.Stack()))
}

// tick closes what has been waited for long enough.
func (l *loop) tick(second int64) {
	if l.open == 0 {
		l.second = second
	}
	for l.second < second {
		l.second++
		for s := l.wheel[l.second%wheelSlots]; s != nil; {
			next := s.next
			switch {
			case s.deadline > l.second:
				l.unschedule(s)
				l.schedule(s)
			case s.state == reading && len(s.in) > 0:
				l.timedOut(s)
			default:
				l.close(s)
			}
			s = next
		}
	}
}

// timedOut tells a client that its head took too long.
func (l *loop) timedOut(s *socket) {
	l.current = s
	s.f.tooSlow(&l.head)
	l.peer.addr = s.addr
	l.out, _ = s.f.respond(l.out[:0], &l.ledger, &l.head, h1.Bad, l.x, &l.peer, l.now)
	l.head.Reset()
	if l.send(s, l.out) < len(l.out) {
		l.close(s)
		return
	}
	s.linger = true
	l.hangUp(s)
	l.unschedule(s) // the wheel has just passed
	l.schedule(s)
}
