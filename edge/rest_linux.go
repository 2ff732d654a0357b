package edge

import (
	"net"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rest has a connection wait for its next request without what serveConn holds: a
// stack that a handshake has grown, and buffers. It reports whether it could; c is then
// somebody else's. What came before has been read: c had nothing more to give.
func (f *front) rest(c net.Conn, peer *client, until time.Time) bool {
	socket, ok := peer.conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	go f.wait(raw, c, peer, until)
	return true
}

// wait is a goroutine with a small stack, until something comes.
func (f *front) wait(raw syscall.RawConn, c net.Conn, peer *client, until time.Time) {
	peer.conn.SetReadDeadline(until)
	if f.draining.Load() { // Shutdown's interruption may have come before
		f.close(c, peer)
		return
	}
	if err := raw.Read(readable); err != nil {
		f.close(c, peer)
		return
	}
	f.serveConn(c, peer)
}

// readable reports whether reading from a socket would not wait: for the end of the
// connection, too.
func readable(fd uintptr) bool {
	var b [1]byte
	_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	return errno != unix.EAGAIN && errno != unix.EINTR
}
