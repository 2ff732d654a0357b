package edge

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"fingerpost/h1"
	"fingerpost/telemetry"

	"golang.org/x/sys/unix"
)

// loop is the event loop of the plain lane, on a thread of its own: it accepts,
// reads, answers and writes by raw system calls on sockets that never block. Over
// nine tenths of what a redirect costs is the kernel's, and net's listener asks
// it for fourteen things where this asks for four (a new connection) or two.
//
// Only its own goroutine touches a loop, but for flags.
type loop struct {
	f     *front
	epoll int
	// The listener's socket, shared by all loops: whichever is free takes the next
	// connection. With a socket for each (SO_REUSEPORT) the system deals them out
	// blindly, those of a busy loop wait while another has nothing to do, and a
	// socket that systemd has opened cannot be multiplied.
	listen int
	waking sync.Mutex // guards wakeup against its end
	wakeup int        // eventfd: flags may have changed; -1 once the loop has ended
	tally  *telemetry.Tally

	conns   []*socket // by descriptor
	open    int
	spare   *socket // of a free list, by next
	wheel   [wheelSlots]*socket
	second  int64     // that the wheel stands at
	now     time.Time // of the last look at the clock
	in, out []byte
	head    h1.Head
	x       *exchange
	peer    client
	current *socket // that something is done for

	answered int // requests of the events at hand

	accepting bool
	paused    int64 // second at which accepting was given up for lack of descriptors
	draining  bool

	kill atomic.Bool // close everything
}

// socket is one connection. What it holds beside this struct is there only while
// a head is incomplete or an answer could not be sent.
type socket struct {
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
	wheelSlots = 128 // more than any time-out but a long idle one, which is looked at on the way
	loopBuffer = 64 << 10
	readTurn   = 16 << 10 // read of one connection before others have their turn, and kept of it at most
	acceptRun  = 64       // connections accepted before others have their turn
)

// serveLoops serves a TCP listener by one loop for each core, until Shutdown. It
// reports whether it could.
func (f *front) serveLoops(l net.Listener) (served bool, err error) {
	t, ok := l.(*net.TCPListener)
	if !ok {
		return false, nil
	}
	file, err := t.File() // a second descriptor of the same socket
	if err != nil {
		return false, err
	}
	fd := int(file.Fd())
	defer file.Close()
	if err := unix.SetNonblock(fd, true); err != nil {
		return false, err
	}
	// Both are inherited by what is accepted, or cost nothing there. A client that
	// connects and says nothing stays in the kernel for a while.
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, deferSeconds)
	loops := make([]*loop, f.s.loops())
	for i := range loops {
		if loops[i], err = newLoop(f, fd); err != nil {
			for _, l := range loops[:i] {
				l.free()
			}
			return false, err
		}
	}
	// The loops have descriptors of their own. While the listener has one, each new
	// connection wakes the runtime's poller, too: half of all switches of context.
	l.Close()
	f.mu.Lock() // Shutdown waits for the loops that there are when it begins
	late := f.draining.Load()
	for _, l := range loops {
		if late {
			l.free()
		} else {
			f.loops.Go(l.run)
		}
	}
	f.mu.Unlock()
	if late {
		return true, nil
	}
	f.onDrain(func() {
		for _, l := range loops {
			l.wake()
		}
	})
	f.onKill(func() {
		for _, l := range loops {
			l.kill.Store(true)
			l.wake()
		}
	})
	<-f.drained // the loops go on until their connections have ended
	return true, nil
}

const deferSeconds = 3

func newLoop(f *front, listen int) (*loop, error) {
	l := &loop{f: f, epoll: -1, wakeup: -1, in: make([]byte, loopBuffer), out: make([]byte, 0, loopBuffer), x: new(exchange), tally: f.s.Metrics.NewTally()}
	var err error
	if l.listen, err = unix.FcntlInt(uintptr(listen), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		l.wakeup, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err == nil {
		err = l.watch(unix.EPOLL_CTL_ADD, l.wakeup, unix.EPOLLIN)
	}
	if err == nil {
		err = l.accept(true)
	}
	if err != nil {
		l.free()
		return nil, os.NewSyscallError("epoll", err)
	}
	return l, nil
}

func (l *loop) free() {
	l.waking.Lock()
	defer l.waking.Unlock()
	for _, fd := range []*int{&l.listen, &l.wakeup, &l.epoll} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1 // the number is somebody else's soon
		}
	}
}

// wake makes the loop look at the flags.
func (l *loop) wake() {
	one := binary.NativeEndian.AppendUint64(nil, 1)
	l.waking.Lock()
	defer l.waking.Unlock()
	if l.wakeup >= 0 {
		unix.Write(l.wakeup, one)
	}
}

func (l *loop) watch(op, fd int, events uint32) error {
	e := unix.EpollEvent{Events: events, Fd: int32(fd)}
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(l.epoll), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&e)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// accept begins or ends to take new connections. One loop of all is woken by one.
func (l *loop) accept(on bool) error {
	if on == l.accepting {
		return nil
	}
	l.accepting = on
	if on {
		return l.watch(unix.EPOLL_CTL_ADD, l.listen, unix.EPOLLIN|unix.EPOLLEXCLUSIVE)
	}
	return l.watch(unix.EPOLL_CTL_DEL, l.listen, 0)
}

func (l *loop) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer l.free()
	defer l.tally.Close()
	var events [512]unix.EpollEvent
	l.now = l.f.now()
	l.second = l.now.Unix()
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
		l.now = l.f.now()
		before := l.open
		if second := l.now.Unix(); second != l.second {
			l.tickOn(second) // first: deadlines are counted from here
		}
		for i := 0; i < n; {
			i += l.events(events[i:n])
		}
		if l.answered > 0 {
			// One look at the clock for all that came together: a look costs as much
			// as a lookup.
			l.tally.Took(l.f.now().Sub(l.now), l.answered)
			l.answered = 0
		}
		l.count(before)
		if l.draining && l.open == 0 {
			return
		}
	}
}

// untilTick is how long to wait at most, in milliseconds.
func (l *loop) untilTick() int {
	if l.open == 0 && l.accepting {
		return -1
	}
	return 1 + int(time.Second-time.Duration(time.Now().Nanosecond()))/int(time.Millisecond)
}

// count tells the listener how many connections have come or gone, and ends or
// begins accepting where there are too many.
func (l *loop) count(before int) {
	switch d := l.open - before; {
	case d > 0:
		l.f.conns.came(d)
	case d < 0:
		l.f.conns.gone(-d)
	}
	if l.draining {
		return
	}
	if full := l.f.conns.full() || l.paused == l.second; full == l.accepting {
		l.accept(!full)
	}
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
	switch fd {
	case l.wakeup:
		var waste [8]byte
		unix.Read(fd, waste[:])
		l.flags()
	case l.listen:
		l.acceptSome()
	default:
		if s := l.conns[fd]; s != nil {
			l.ready(s)
		}
	}
}

// flags does what was asked from outside.
func (l *loop) flags() {
	if l.f.draining.Load() && !l.draining {
		for l.acceptSome() { // those whom the system has told already that we are there
		}
		l.accept(false)
		unix.Close(l.listen)
		l.listen = -1
		l.draining = true
		for _, s := range l.conns {
			if s == nil || s.state != reading || len(s.in) > 0 {
				continue
			}
			l.ready(s) // what it has sent already is answered
			if l.conns[s.fd] == s && s.state == reading && len(s.in) == 0 {
				l.close(s)
			}
		}
	}
	if l.kill.Load() {
		for _, s := range l.conns {
			if s != nil {
				l.close(s)
			}
		}
	}
}

// acceptSome takes new connections, and tells whether there may be more.
func (l *loop) acceptSome() (more bool) {
	var raw unix.RawSockaddrAny
	for range acceptRun {
		size := uint32(unix.SizeofSockaddrAny)
		r, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(l.listen), uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case 0:
		case unix.ECONNABORTED, unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		default: // EMFILE and its like: what waits would wake us for ever
			if l.paused != l.second {
				l.f.log.Warn("cannot accept a connection; it is tried again", "err", error(errno), "in", time.Second)
			}
			l.paused = l.second
			return false
		}
		s := l.take(int(r), addrOf(&raw))
		// With deferred accept the request is here already: nine times of ten there
		// is no need to wait for it.
		if l.ready(s); l.conns[s.fd] != s {
			continue // answered and gone, without a word to epoll
		}
		events := uint32(unix.EPOLLIN)
		if s.state == writing {
			events = unix.EPOLLOUT
		}
		if err := l.watch(unix.EPOLL_CTL_ADD, s.fd, events); err != nil {
			l.close(s)
		}
	}
	return true
}

// take begins a connection.
func (l *loop) take(fd int, addr netip.AddrPort) *socket {
	s := l.spare
	if s == nil {
		s = new(socket)
	} else {
		l.spare = s.next
	}
	*s = socket{fd: fd, addr: addr}
	if fd >= len(l.conns) {
		l.conns = append(l.conns, make([]*socket, max(fd+1-len(l.conns), len(l.conns), 64))...)
	}
	l.conns[fd] = s
	l.open++
	s.deadline = l.second + seconds(l.f.limits.Header)
	s.began = true // the first head has begun with the connection
	l.schedule(s)
	return s
}

// drop forgets a connection, whose descriptor is somebody else's from now on.
func (l *loop) drop(s *socket) {
	l.conns[s.fd] = nil
	l.open--
	l.unschedule(s)
	s.in, s.out = nil, nil
	s.next = l.spare
	l.spare = s
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
	f := l.f
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
		l.out, keep = f.respond(l.out, l.tally, &l.head, v, l.x, &l.peer, l.now)
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
		s.deadline = l.second + seconds(l.f.limits.Idle)
	case !s.began: // else the whole head has the time, not each piece of it
		s.began = true
		s.deadline = l.second + seconds(l.f.limits.Header)
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
	s.deadline = l.second + 1
	l.become(s, lingering)
}

// handOver gives s to net/http, with what was read of it.
func (l *loop) handOver(s *socket, rest []byte) {
	peer := &client{addr: s.addr}
	rest = append([]byte(nil), rest...)
	l.watch(unix.EPOLL_CTL_DEL, s.fd, 0) // the socket lives on under another descriptor
	file := os.NewFile(uintptr(s.fd), "")
	l.drop(s)
	l.f.conns.came(1) // drop has it gone
	c, err := net.FileConn(file)
	file.Close()
	if err != nil {
		l.f.log.Warn("cannot hand a connection over", "err", err)
		l.f.conns.gone(1)
		return
	}
	// Never wait here: net/http may be behind.
	go l.f.give(&handed{c, rest, peer})
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
	l.f.panicked(r)
	if s := l.current; s != nil && s.fd < len(l.conns) && l.conns[s.fd] == s {
		l.close(s)
	}
}

// tick closes what has been waited for long enough.
func (l *loop) tick(second int64) {
	if second < l.second || second-l.second > wheelSlots { // the clock jumped: nobody's fault
		jump := second - l.second
		for _, s := range l.conns {
			if s != nil {
				s.deadline += jump
			}
		}
		l.wheel = [wheelSlots]*socket{}
		l.second = second
		for _, s := range l.conns {
			if s != nil {
				l.schedule(s)
			}
		}
		return
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
	l.f.tooSlow(&l.head)
	l.peer.addr = s.addr
	l.out, _ = l.f.respond(l.out[:0], l.tally, &l.head, h1.Bad, l.x, &l.peer, l.now)
	l.send(s, l.out)
	l.close(s)
}

// addrOf reads the address that accept4 has written.
func addrOf(raw *unix.RawSockaddrAny) netip.AddrPort {
	switch raw.Addr.Family {
	case unix.AF_INET:
		a := (*unix.RawSockaddrInet4)(unsafe.Pointer(raw))
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), port16(&a.Port))
	case unix.AF_INET6:
		a := (*unix.RawSockaddrInet6)(unsafe.Pointer(raw))
		addr := netip.AddrFrom16(a.Addr).Unmap()
		if a.Scope_id != 0 && addr.Is6() {
			addr = addr.WithZone(strconv.Itoa(int(a.Scope_id)))
		}
		return netip.AddrPortFrom(addr, port16(&a.Port))
	}
	return netip.AddrPort{}
}

func port16(p *uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(p))
	return binary.BigEndian.Uint16(b[:])
}
