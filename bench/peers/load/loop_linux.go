package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

type options struct {
	port, conns                      int
	addresses                        int // 127.0.0.1 and on: ports of a client last longer
	warm, time                       time.Duration
	close, tls, resume, hybrid, idle bool
	each                             bool // target is asked for once before the time that counts
	targets                          []target
}

// loop is all connections and what came of them.
type loop struct {
	options
	epoll   int
	conns   map[int]*conn // by descriptor
	keys    *keys
	dialed  int
	visited int // targets, of each
	active  int // that wait for an answer
	start   time.Time
	now     time.Time // of the last look at the clock
	heard   time.Time // when something last happened
	in      []byte
	out     []byte

	counting bool
	result   result
	took     []uint32 // answers by ten microseconds
}

// conn is one connection at a time, in one of the places that options.conns has.
type conn struct {
	fd      int
	target  *target
	begin   time.Time
	in      []byte // that is no whole record or answer yet
	session *session
	ticket  *ticket
	unsent  []byte // that waits for the connection
	done    bool   // answered, and waits for the server to close
}

const (
	readSize = 64 << 10
	dialing  = 32 // idle connections that are made at once: a server's queue is short
	sampled  = 16 // one answer in so many has its Location checked
)

func newLoop(o options) (*loop, error) {
	l := &loop{options: o, conns: map[int]*conn{}, in: make([]byte, readSize), took: make([]uint32, 200_000)}
	var err error
	if o.tls {
		if l.keys, err = newKeys(o.hybrid); err != nil {
			return nil, err
		}
	}
	l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return l, err
}

func (l *loop) run() (*result, error) {
	l.start = time.Now()
	l.now, l.heard = l.start, l.start
	for range l.options.conns {
		if err := l.dial(new(conn)); err != nil {
			return nil, err
		}
		for l.idle && l.active >= dialing {
			if err := l.wait(); err != nil {
				return nil, err
			}
		}
	}
	if l.idle {
		for l.active > 0 {
			if err := l.wait(); err != nil {
				return nil, err
			}
		}
		fmt.Println("begin")
		return &l.result, nil
	}
	for time.Since(l.start) < l.warm || l.each && l.visited < len(l.targets) {
		if err := l.wait(); err != nil {
			return nil, err
		}
	}
	fmt.Println("begin")
	trouble := l.result.Trouble
	l.result = result{Trouble: trouble}
	l.counting = true
	begin, cpu := time.Now(), cpuTime()
	for time.Since(begin) < l.time {
		if err := l.wait(); err != nil {
			return nil, err
		}
	}
	l.result.Seconds, l.result.CPU = time.Since(begin).Seconds(), cpuTime()-cpu
	l.result.P50, l.result.P99 = l.percentile(50), l.percentile(99)
	return &l.result, nil
}

func cpuTime() float64 {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func (l *loop) percentile(p int) float64 {
	sum := 0
	for i, n := range l.took {
		if sum += int(n); sum*100 >= l.result.Requests*p {
			return float64(i) / 100
		}
	}
	return float64(len(l.took)) / 100
}

// wait takes what has happened, for a while at most.
func (l *loop) wait() error {
	var events [256]unix.EpollEvent
	// The runtime need not know that this thread waits: there is no other goroutine
	// to run, and telling it costs.
	r, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 100, 0, 0)
	n := int(r)
	if errno != 0 {
		if n = 0; errno != unix.EINTR {
			return fmt.Errorf("epoll_wait: %w", errno)
		}
	}
	l.now = time.Now()
	if n > 0 {
		l.heard = l.now
	}
	if n == 0 && l.now.Sub(l.heard) > time.Minute {
		return errors.New("the server has stopped answering")
	}
	for i := range n {
		c := l.conns[int(events[i].Fd)]
		if c == nil {
			continue
		}
		if err := l.ready(c); err != nil {
			if l.result.Errors++; l.result.Trouble == "" {
				l.result.Trouble = err.Error()
			}
			if l.result.Errors > 1000 {
				return fmt.Errorf("over 1000 errors, the first: %s", l.result.Trouble)
			}
			if err := l.again(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// again begins a new connection in the place of c.
func (l *loop) again(c *conn) error {
	delete(l.conns, c.fd)
	unix.Close(c.fd)
	if !c.done {
		l.active--
	}
	return l.dial(c)
}

func (l *loop) dial(c *conn) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	*c = conn{fd: fd, in: c.in[:0], ticket: c.ticket, begin: l.now}
	l.dialed++
	addr := unix.SockaddrInet4{Port: l.port, Addr: [4]byte{127, 0, 0, byte(1 + l.dialed%l.addresses)}}
	if err := unix.Connect(fd, &addr); err != nil && err != unix.EINPROGRESS {
		return fmt.Errorf("connect: %w", err)
	}
	l.conns[fd] = c
	l.active++
	c.target = &l.targets[rand.IntN(len(l.targets))]
	if l.each && l.visited < len(l.targets) {
		c.target = &l.targets[l.visited]
		l.visited++
	}
	l.out = append(l.out[:0], c.target.request...)
	if l.tls {
		c.session = newSession(l.keys, c.ticket)
		l.out = c.session.appendHello(l.out[:0], c.target.host, l.now)
	}
	// On one machine a connection is there when connect returns; else the queue of
	// the server is full, and epoll tells when there is room.
	events := uint32(unix.EPOLLIN)
	switch err := l.send(c, l.out); {
	case errors.Is(err, unix.EAGAIN):
		c.unsent = append([]byte(nil), l.out...)
		events = unix.EPOLLOUT
	case err != nil:
		return err
	}
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// ready goes on with a connection.
func (l *loop) ready(c *conn) error {
	if c.unsent != nil {
		if err := l.send(c, c.unsent); err != nil {
			return err
		}
		c.unsent = nil
		return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.fd)})
	}
	have := copy(l.in, c.in)
	n, err := unix.Read(c.fd, l.in[have:])
	switch {
	case err == unix.EAGAIN:
		return nil
	case c.done && (n <= 0 || err != nil):
		return l.again(c)
	case err != nil:
		return fmt.Errorf("read: %w", err)
	case n == 0:
		return errors.New("the server has closed before its answer")
	case c.done:
		return nil // what TLS says at the end
	}
	if !l.tls {
		return l.answer(c, l.in[:have+n])
	}
	return l.records(c, l.in[:have+n])
}

// records opens what is in b.
func (l *loop) records(c *conn, b []byte) error {
	s := c.session
	for len(b) > 0 && !c.done {
		size := recordSize(b)
		if size > len(b) {
			break
		}
		before := s.established
		data, err := s.record(b[:size], l.now)
		if err != nil {
			return err
		}
		b = b[size:]
		switch {
		case s.established && !before:
			if s.resumed {
				l.result.Resumed++
			}
			l.out = s.appendSealed(s.appendFinished(l.out[:0]), c.target.request)
			if err := l.send(c, l.out); err != nil {
				return err
			}
		case len(data) > 0:
			s.text = append(s.text, data...)
			whole, err := l.whole(c, s.text)
			if err != nil {
				return err
			}
			if whole {
				s.text = s.text[:0]
				if l.resume && c.ticket == nil {
					c.ticket = s.ticket
				}
				if err := l.next(c); err != nil {
					return err
				}
			}
		}
	}
	c.in = append(c.in[:0], b...)
	return nil
}

// answer reads a plain answer.
func (l *loop) answer(c *conn, b []byte) error {
	whole, err := l.whole(c, b)
	if err != nil {
		return err
	}
	if !whole {
		c.in = append(c.in[:0], b...)
		return nil
	}
	c.in = c.in[:0]
	return l.next(c)
}

var (
	headEnd    = []byte("\r\n\r\n")
	lengthName = []byte("\r\ncontent-length: ")
	moved      = []byte("HTTP/1.1 301 ")
)

// whole tells whether b is an answer to its end, and counts it if so.
func (l *loop) whole(c *conn, b []byte) (bool, error) {
	end := bytes.Index(b, headEnd)
	if end < 0 {
		return false, nil
	}
	head := b[:end+2]
	length := 0
	if at := indexFold(head, lengthName); at >= 0 {
		value := head[at+len(lengthName):]
		var err error
		if length, err = strconv.Atoi(string(value[:bytes.IndexByte(value, '\r')])); err != nil {
			return false, err
		}
	}
	switch size := end + len(headEnd) + length; {
	case len(b) < size:
		return false, nil
	case len(b) > size:
		return false, fmt.Errorf("%d bytes behind an answer", len(b)-size)
	}
	if !bytes.HasPrefix(b, moved) || l.result.Requests%sampled == 0 && indexFold(head, c.target.location) < 0 {
		l.result.Wrong++
		if l.result.Trouble == "" {
			l.result.Trouble = fmt.Sprintf("%q is answered by %q", c.target.request, head)
		}
	}
	l.result.Requests++
	if l.counting {
		l.took[min(int(l.now.Sub(c.begin)/(10*time.Microsecond)), len(l.took)-1)]++
	}
	return true, nil
}

// indexFold finds a line in a head by its name in any case; line has a name in
// lower case.
func indexFold(head, line []byte) int {
	colon := bytes.IndexByte(line, ':')
	for from := 0; ; {
		at := bytes.Index(head[from:], line[:2])
		if at < 0 {
			return -1
		}
		at += from
		if rest := head[at:]; len(rest) >= len(line) && bytes.EqualFold(rest[:colon], line[:colon]) && bytes.Equal(rest[colon:len(line)], line[colon:]) {
			return at
		}
		from = at + 2
	}
}

// next goes on after an answer.
func (l *loop) next(c *conn) error {
	if l.close || l.idle {
		c.done = true
		l.active--
		return nil
	}
	c.begin = l.now
	c.target = &l.targets[rand.IntN(len(l.targets))]
	if !l.tls {
		return l.send(c, c.target.request)
	}
	l.out = c.session.appendSealed(l.out[:0], c.target.request)
	return l.send(c, l.out)
}

// send sends all of b: what is sent at once fits into any socket's buffer.
func (l *loop) send(c *conn, b []byte) error {
	n, err := unix.Write(c.fd, b)
	if err == nil && n < len(b) {
		err = errors.New("no room")
	}
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
