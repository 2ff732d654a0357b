package edge

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"fingerpost/h1"

	"golang.org/x/sys/unix"
)

// loop is an event loop of the plain lane, on a thread of its own: it accepts,
// reads, answers and writes by raw system calls on sockets that never block. Over
// nine tenths of what a redirect costs is the kernel's, and net's listener asks
// it for fourteen things where this asks for four (a new connection) or two.
//
// Only its own goroutine touches a loop, but for what asks guards.
type loop struct {
	s      *Server
	all    *loops
	epoll  int
	wakeup int // eventfd: somebody asks for something

	asking sync.Mutex // guards what follows
	asks   []func()   // to be done by the loop
	ended  bool       // nothing is done any more

	listeners []*listening
	conns     []*socket // by descriptor
	open      int
	spare     *socket // of a free list of spares, by next
	spares    int
	ledger    ledger

	wheel   [wheelSlots]*socket
	start   time.Time
	second  int64     // since start, that the wheel stands at
	now     time.Time // of the last look at the clock, as rules and logs see it
	in, out []byte
	head    h1.Head
	x       *exchange
	peer    client
	current *socket // that something is done for

	answered int  // requests of the events at hand
	ending   bool // once there are no connections
}

// socket is one connection. What it holds beside this struct is there only while
// a head is incomplete or an answer could not be sent.
type socket struct {
	f        *front
	fd       int
	addr     netip.AddrPort
	deadline int64 // second after which it is closed
	slot     int   // of the wheel; where it stands there says when to look, not more
	prev     *socket
	next     *socket
	in       []byte // of a head that goes on, or behind an answer that is not sent yet
	out      []byte // not sent yet: then nothing is read
	scanned  int    // of in, see h1.Head
	state    socketState
	began    bool // the deadline is that of a whole head
	hangUp   bool // once out is sent
	linger   bool // and then read past what comes
}

type socketState uint8

const (
	reading   socketState = iota
	writing               // waits for room to write
	lingering             // answered and shut; what still comes is thrown away
)

const (
	loopBuffer = 64 << 10
	readTurn   = 16 << 10 // read of one connection before others have their turn, and kept of it at most
	maxSpares  = 4 << 10  // sockets kept for connections to come
)

func (l *loop) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer l.free()
	var events [512]unix.EpollEvent
	l.start = time.Now()
	for {
		// First a millisecond that the runtime need not know of, whose hand-over costs
		// more than the call; then wait, which lets other goroutines have the core.
		r, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_WAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 1, 0, 0)
		n := int(r)
		if errno != 0 {
			n = 0
		}
		if n == 0 {
			n, _ = unix.EpollWait(l.epoll, events[:], l.untilTick()) // its error is EINTR
		}
		now := time.Now()
		if l.now = now; l.s.Now != nil {
			l.now = l.s.Now()
		}
		if second := int64(now.Sub(l.start) / time.Second); second != l.second {
			l.tickOn(second) // first: deadlines are counted from here
		}
		for i := 0; i < n; {
			i += l.events(events[i:n])
		}
		if l.answered > 0 {
			// One look at the clock for all that came together: a look costs as much
			// as a lookup.
			l.ledger.tally.Took(time.Since(now), l.answered)
			l.answered = 0
		}
		l.balance()
		if l.ending && l.open == 0 {
			return
		}
	}
}

// untilTick is how long to wait at most, in milliseconds.
func (l *loop) untilTick() int {
	if l.open == 0 && l.acceptsAll() {
		return -1
	}
	return 1 + int((time.Second-time.Since(l.start)%time.Second)/time.Millisecond)
}

// events does what is due, and gives how many it has done: fewer than all only
// where one has panicked, whose connection is closed.
func (l *loop) events(list []unix.EpollEvent) (done int) {
	defer l.recovered()
	for i := range list {
		done++
		l.event(int(list[i].Fd))
	}
	return done
}

func (l *loop) event(fd int) {
	if fd < len(l.conns) && l.conns[fd] != nil {
		l.ready(l.conns[fd])
		return
	}
	if fd == l.wakeup {
		var waste [8]byte
		unix.Read(fd, waste[:])
		l.doAsked()
		return
	}
	for _, a := range l.listeners {
		if a.fd == fd {
			l.acceptSome(a)
			return
		}
	}
}

// take begins a connection.
func (l *loop) take(f *front, fd int, addr netip.AddrPort) *socket {
	s := l.spare
	if s == nil {
		s = new(socket)
	} else {
		l.spare = s.next
		l.spares--
	}
	*s = socket{f: f, fd: fd, addr: addr}
	if fd >= len(l.conns) {
		l.conns = append(l.conns, make([]*socket, max(fd+1-len(l.conns), len(l.conns), 64))...)
	}
	l.conns[fd] = s
	l.counts(f, 1)
	s.deadline = l.second + seconds(f.limits.Header)
	s.began = true // the first head has begun with the connection
	l.schedule(s)
	return s
}

// counts says that connections have come or gone.
func (l *loop) counts(f *front, n int) {
	l.open += n
	l.all.open.Add(int64(n))
	if n > 0 {
		f.conns.came(n)
	} else {
		f.conns.gone(-n)
	}
}

// drop forgets a connection, whose descriptor is somebody else's from now on.
func (l *loop) drop(s *socket) {
	l.conns[s.fd] = nil
	l.unschedule(s)
	l.counts(s.f, -1)
	s.in, s.out = nil, nil
	if l.spares < maxSpares {
		s.next = l.spare
		l.spare = s
		l.spares++
	}
}

func (l *loop) close(s *socket) {
	unix.RawSyscall(unix.SYS_CLOSE, uintptr(s.fd), 0, 0)
	l.drop(s)
}

// ready reads and answers, or goes on writing.
func (l *loop) ready(s *socket) {
	l.current = s
	switch s.state {
	case writing:
		l.flush(s)
		return
	case lingering:
		if n, errno := l.recv(s.fd, l.in); n == 0 || errno != 0 && errno != unix.EAGAIN {
			l.close(s)
		}
		return
	}
	have := copy(l.in, s.in)
	n, errno := l.recv(s.fd, l.in[have:min(have+readTurn, len(l.in))])
	switch {
	case errno == unix.EAGAIN:
		return
	case errno != 0 || n == 0: // gone, or half closed with nothing left to answer
		l.close(s)
		return
	}
	l.answer(s, l.in[:have+n])
}

// answer answers all whole heads in b, and keeps what is left.
func (l *loop) answer(s *socket, b []byte) {
	f := s.f
	l.peer.addr = s.addr
	used, answered, keep, more := 0, 0, true, false
	l.out = l.out[:0]
	v := h1.Incomplete
	l.head.Reset()
	l.head.Scanned = s.scanned
	for used < len(b) && keep && len(l.out) < maxPipelined {
		v = l.head.Read(b[used:], f.headLimits())
		last := f.isLast(&l.head, v)
		if last {
			v = h1.Redirectable
		}
		if v == h1.Incomplete || v == h1.HandOver {
			break
		}
		l.out, keep = f.respond(l.out, &l.ledger, &l.head, v, l.x, &l.peer, l.now)
		more = last || mayGoOn(&l.head, v)
		answered++
		used += l.head.Size
		l.head.Reset()
		s.began = false
	}
	scanned := l.head.Scanned
	l.head.Reset()
	s.hangUp, s.linger = !keep, more

	rest := b[used:]
	sent := l.send(s, l.out)
	l.answered += answered
	switch {
	case sent < 0:
		l.close(s)
	case sent < len(l.out):
		s.out = append(s.out[:0], l.out[sent:]...)
		l.keep(s, rest, 0)
		s.deadline = l.second + seconds(f.limits.Request)
		l.become(s, writing)
	case !keep:
		l.hangUp(s)
	case v == h1.HandOver:
		l.handOver(s, rest)
	case v != h1.Incomplete && len(rest) > 0: // so many answers that they were sent in between
		l.keep(s, rest, 0)
		l.answerKept(s)
	default:
		l.keep(s, rest, scanned)
		l.extend(s)
	}
}

// answerKept goes on with what is left of a pipeline.
func (l *loop) answerKept(s *socket) {
	n := copy(l.in, s.in)
	l.answer(s, l.in[:n])
}

// keep remembers what was read of s beyond its last answer.
func (l *loop) keep(s *socket, rest []byte, scanned int) {
	s.scanned = scanned
	if len(rest) == 0 {
		s.in = nil // an idle connection has no buffer
		s.scanned = 0
		return
	}
	s.in = append(s.in[:0], rest...)
}

// extend sets the time that s has for what comes next.
func (l *loop) extend(s *socket) {
	switch {
	case len(s.in) == 0:
		s.began = false
		s.deadline = l.second + seconds(s.f.limits.Idle)
	case !s.began: // else the whole head has the time, not each piece of it
		s.began = true
		s.deadline = l.second + seconds(s.f.limits.Header)
	}
	l.reschedule(s)
}

// become changes what epoll is to tell of s, which may not know it yet.
func (l *loop) become(s *socket, state socketState) {
	s.state = state
	events := uint32(unix.EPOLLIN)
	if state == writing {
		events = unix.EPOLLOUT
	}
	l.watch(unix.EPOLL_CTL_MOD, s.fd, events) // ENOENT while it is being accepted
	l.reschedule(s)
}

// flush goes on with an answer.
func (l *loop) flush(s *socket) {
	sent := l.send(s, s.out)
	switch {
	case sent < 0:
		l.close(s)
	case sent < len(s.out):
		s.out = append(s.out[:0], s.out[sent:]...)
	case s.hangUp:
		l.hangUp(s)
	default:
		s.out = nil
		l.become(s, reading)
		if len(s.in) > 0 {
			l.answerKept(s)
		} else {
			l.extend(s)
		}
	}
}

// hangUp ends a connection after its last answer. Where the client may be sending
// still, closing at once could make it lose the answer (RFC 9112 9.6).
func (l *loop) hangUp(s *socket) {
	if !s.linger {
		l.close(s)
		return
	}
	unix.Shutdown(s.fd, unix.SHUT_WR)
	s.in, s.out = nil, nil
	s.deadline = l.second + 2 // a second at least
	l.become(s, lingering)
}

// handOver gives s to net/http, with what was read of it.
func (l *loop) handOver(s *socket, rest []byte) {
	f, peer := s.f, &client{addr: s.addr}
	rest = append([]byte(nil), rest...)
	l.watch(unix.EPOLL_CTL_DEL, s.fd, 0) // the socket lives on under another descriptor
	file := os.NewFile(uintptr(s.fd), "")
	f.conns.came(1) // drop has it gone
	l.drop(s)
	c, err := net.FileConn(file)
	file.Close()
	if err != nil {
		f.log.Warn("cannot hand a connection over", "err", err)
		f.conns.gone(1)
		return
	}
	// Never wait here: net/http may be behind.
	go f.give(&handed{c, rest, peer})
}

func (l *loop) recv(fd int, b []byte) (int, unix.Errno) {
	for {
		r, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
		if errno != unix.EINTR {
			return int(r), errno
		}
	}
}

// send gives how much was sent, -1 if the connection is broken.
func (l *loop) send(s *socket, b []byte) int {
	if len(b) == 0 {
		return 0
	}
	for {
		r, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(r)
		case unix.EINTR:
		case unix.EAGAIN:
			return 0
		default:
			return -1
		}
	}
}
