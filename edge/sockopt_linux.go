package edge

import (
	"net"

	"golang.org/x/sys/unix"
)

// quickAck acknowledges at once what a client sends next. Without it, one that
// has not set TCP_NODELAY waits 40 ms after the handshake with its request.
func quickAck(c net.Conn) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := t.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
	}
}

// deferAccept has connections accepted when their first bytes are there: one read,
// and nothing to wait for. A client that says nothing stays in the kernel for a while.
func deferAccept(l net.Listener) {
	t, ok := l.(*net.TCPListener)
	if !ok {
		return
	}
	if raw, err := t.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, deferSeconds) })
	}
}

const deferSeconds = 3
