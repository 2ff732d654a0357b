package edge

import (
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// loops are the event loops of a server, which share all its plain listeners.
type loops struct {
	list    []*loop
	open    atomic.Int64 // connections, of all
	running sync.WaitGroup
}

// listening is a listener in one loop. All loops have the same socket, each under a
// descriptor of its own: whichever is free takes the next connection. A socket for
// each (SO_REUSEPORT) costs the same, and one that systemd has opened cannot be
// multiplied; see ADR 0022.
type listening struct {
	f      *front
	fd     int
	on     bool  // new connections are taken
	full   bool  // f had as many as it may have
	paused int64 // second before which none is, for lack of descriptors
}

// acceptRun is how many connections are accepted before others have their turn.
const acceptRun = 64

// serveLoops serves a TCP listener by the server's loops, until Shutdown. It reports
// whether it could.
func (f *front) serveLoops(l net.Listener) (served bool, err error) {
	t, ok := l.(*net.TCPListener)
	if !ok {
		return false, nil
	}
	file, err := t.File() // a second descriptor of the same socket
	if err != nil && f.draining.Load() {
		return true, nil // Shutdown has closed it already
	}
	if err != nil {
		return false, err
	}
	defer file.Close() // for the ways out
	fd := int(file.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		return false, err
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // inherited by what is accepted
	all, err := f.s.plainLoops()
	if err != nil {
		return false, err
	}
	if all != nil {
		err = all.listen(f, fd)
	}
	if err != nil {
		return false, err
	}
	// The loops have descriptors of their own. While these two are in the runtime's
	// poller, too, each new connection wakes it: half of all switches of context.
	l.Close()
	file.Close()
	if all == nil {
		return true, nil
	}
	f.onDrain(func() { all.ask((*loop).drain) })
	f.onKill(func() { all.ask((*loop).kill) })
	<-f.drained // the loops go on until its connections have ended
	return true, nil
}

// plainLoops are the loops of a server, started the first time; nil after Shutdown.
func (s *Server) plainLoops() (*loops, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.plain != nil || s.closed {
		return s.plain, nil
	}
	all := new(loops)
	for range s.loops() {
		l, err := newLoop(s, all)
		if err != nil {
			for _, l := range all.list {
				l.free()
			}
			return nil, err
		}
		all.list = append(all.list, l)
	}
	for _, l := range all.list {
		all.running.Go(l.run)
	}
	s.plain = all
	return all, nil
}

// listen gives a listener to all loops.
func (all *loops) listen(f *front, fd int) error {
	var own []*listening
	for range all.list {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			for _, a := range own {
				unix.Close(a.fd)
			}
			return os.NewSyscallError("fcntl", err)
		}
		own = append(own, &listening{f: f, fd: dup})
	}
	if !f.listens(len(own)) { // it drains
		for _, a := range own {
			unix.Close(a.fd)
		}
		return nil
	}
	for i, l := range all.list {
		l.ask(func() { l.listeners = append(l.listeners, own[i]) })
	}
	return nil
}

// ask has every loop do something.
func (all *loops) ask(do func(*loop)) {
	for _, l := range all.list {
		l.ask(func() { do(l) })
	}
}

// stop ends the loops, once nothing is open.
func (all *loops) stop() {
	if all != nil {
		all.ask(func(l *loop) { l.ending = true })
		all.running.Wait()
	}
}

func newLoop(s *Server, all *loops) (*loop, error) {
	l := &loop{s: s, all: all, epoll: -1, wakeup: -1, in: make([]byte, loopBuffer), out: make([]byte, 0, loopBuffer), x: new(exchange), ledger: ledger{s.Metrics.NewTally(), s.Access.NewRecorder()}}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		l.wakeup, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err == nil {
		err = l.watch(unix.EPOLL_CTL_ADD, l.wakeup, unix.EPOLLIN)
	}
	if err != nil {
		l.free()
		return nil, os.NewSyscallError("epoll", err)
	}
	return l, nil
}

func (l *loop) free() {
	l.asking.Lock()
	defer l.asking.Unlock()
	l.ended = true // the descriptors are somebody else's soon
	l.ledger.close()
	for _, fd := range []int{l.wakeup, l.epoll} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// ask has the loop do something between two events.
func (l *loop) ask(do func()) {
	l.asking.Lock()
	defer l.asking.Unlock()
	if l.ended {
		return
	}
	l.asks = append(l.asks, do)
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	unix.Write(l.wakeup, one[:])
}

func (l *loop) doAsked() {
	l.asking.Lock()
	asks := l.asks
	l.asks = nil
	l.asking.Unlock()
	l.current = nil
	for _, do := range asks {
		do()
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

// accept begins or ends to take new connections.
func (l *loop) accept(a *listening, on bool) {
	if on == a.on {
		return
	}
	op := unix.EPOLL_CTL_DEL
	if on {
		op = unix.EPOLL_CTL_ADD
	}
	if err := l.watch(op, a.fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE); err != nil { // of all loops one is woken
		a.f.log.Error("cannot listen; it is tried again", "err", err, "in", time.Second)
		a.paused = l.second + 1
		return
	}
	a.on = on
}

func (l *loop) acceptsAll() bool {
	return !slices.ContainsFunc(l.listeners, func(a *listening) bool { return !a.on })
}

// balance begins or ends accepting. The system wakes the same loop for nearly all
// connections that come one by one, and those that stay would all be its own: so one
// that has many more than the others leaves the next to them.
func (l *loop) balance() {
	share := l.all.open.Load() / int64(len(l.all.list))
	share += share / 8
	open := int64(l.open)
	for _, a := range l.listeners {
		was := a.full
		a.full = a.f.conns.full()
		switch {
		case a.full:
			a.f.isFull()
			l.accept(a, false)
		case a.paused > l.second:
			l.accept(a, false)
		case a.on && open > share+slack:
			l.accept(a, false)
			l.all.ask((*loop).balance) // who had too many may have too few now
		case !a.on && open <= share:
			l.accept(a, true)
		}
		if was && !a.full {
			l.all.ask((*loop).balance)
		}
	}
}

// slack is how many connections besides its share a loop takes before it leaves the
// next to others.
const slack = 8

// acceptSome takes new connections, and tells whether there may be more.
func (l *loop) acceptSome(a *listening) (more bool) {
	var raw unix.RawSockaddrAny
	for range acceptRun {
		size := uint32(unix.SizeofSockaddrAny)
		r, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(a.fd), uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case 0:
		case unix.EAGAIN:
			return false
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM: // what waits would wake us for ever
			if a.paused <= l.second {
				a.f.log.Warn("cannot accept a connection; it is tried again", "err", error(errno), "in", time.Second)
			}
			a.paused = l.second + 1
			return false
		default: // it was that connection's trouble (accept(2))
			continue
		}
		s := l.take(a.f, int(r), addrOf(&raw))
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
		if a.on {
			if l.balance(); !a.on {
				return true
			}
		}
	}
	return true
}

// drain ends the listeners whose fronts drain, and their connections as soon as
// nothing is under way on them.
func (l *loop) drain() {
	l.listeners = slices.DeleteFunc(l.listeners, func(a *listening) bool {
		if !a.f.draining.Load() {
			return false
		}
		l.accept(a, false)
		// Those whom the system has told already that we are there: a queue at most.
		for n := 0; n < unix.SOMAXCONN/acceptRun && l.acceptSome(a); n++ {
		}
		unix.Close(a.fd)
		a.f.listening.Done()
		return true
	})
	for _, s := range l.conns {
		if s == nil || !s.f.draining.Load() || s.state != reading || len(s.in) > 0 {
			continue
		}
		l.ready(s) // what it has sent already is answered
		if l.conns[s.fd] == s && s.state == reading && len(s.in) == 0 {
			l.close(s)
		}
	}
}

// kill closes the connections of the fronts whose time to drain is over.
func (l *loop) kill() {
	for _, s := range l.conns {
		if s != nil && s.f.killed.Load() {
			l.close(s)
		}
	}
}

func (l *loop) log() *slog.Logger {
	if l.s.Log == nil {
		return slog.Default()
	}
	return l.s.Log
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
