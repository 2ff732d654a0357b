package nameserver

import (
	"bufio"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// ServeTCP answers the connections of l until Shutdown, and closes l. The error
// is nil: what goes wrong with accepting is tried again until l is closed. A
// listener that ends TLS makes it DNS over TLS (RFC 7858).
func (s *Server) ServeTCP(l net.Listener) error {
	if !s.begin(l) {
		l.Close()
		return nil
	}
	defer s.end(l)
	var delay time.Duration
	for {
		c, err := l.Accept()
		if err != nil {
			if s.isClosed(err) {
				return nil
			}
			// Out of file descriptors, for one: it passes.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.log().Warn("nameserver: cannot take a connection", slog.Any("error", err), slog.Duration("retry", delay))
			time.Sleep(delay)
			continue
		}
		delay = 0
		client := clientOf(c.RemoteAddr())
		if !s.admit(c, client) {
			c.Close()
			continue
		}
		if s.Connections != nil {
			s.Connections(1)
		}
		go func() {
			defer s.dismiss(c, client)
			s.serveConn(c, client)
		}()
	}
}

// admit counts a connection in, unless there are too many.
func (s *Server) admit(c net.Conn, client netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() || len(s.conns) >= s.limits.Connections || s.perClient[client] >= s.limits.PerClient {
		return false
	}
	s.conns[c] = struct{}{}
	s.perClient[client]++
	s.open.Store(int64(len(s.conns)))
	s.serving.Add(1)
	return true
}

func (s *Server) dismiss(c net.Conn, client netip.Addr) {
	c.Close()
	s.mu.Lock()
	delete(s.conns, c)
	if s.perClient[client]--; s.perClient[client] == 0 {
		delete(s.perClient, client)
	}
	s.open.Store(int64(len(s.conns)))
	s.mu.Unlock()
	if s.Connections != nil {
		s.Connections(-1)
	}
	s.serving.Done()
}

// maxBatch is how much of answers is collected while more queries are waiting.
const maxBatch = 16 << 10

// serveConn answers the queries of one connection. They may come without waiting
// for answers (RFC 7766 6.2.1.1); none takes long enough for another to overtake
// it.
func (s *Server) serveConn(c net.Conn, client netip.Addr) {
	r := responder{s: s}
	in := bufio.NewReaderSize(c, 1024)
	var msg, out []byte
	flush := func() error {
		if len(out) == 0 {
			return nil
		}
		c.SetWriteDeadline(time.Now().Add(s.limits.Write))
		_, err := c.Write(out)
		if out = out[:0]; cap(out) > 2*maxBatch {
			out = nil
		}
		return err
	}
	defer flush()
	for {
		// One deadline for a whole message: bytes that drip keep no connection open.
		c.SetReadDeadline(time.Now().Add(s.idle()))
		if s.closing.Load() {
			return // Shutdown set a deadline, which may just have been overwritten
		}
		var length [2]byte
		if _, err := io.ReadFull(in, length[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(length[:]))
		if n < headerSize || n > maxQuery {
			return
		}
		if cap(msg) < n {
			msg = make([]byte, max(n, 512))
		}
		msg = msg[:n]
		if _, err := io.ReadFull(in, msg); err != nil {
			return
		}
		start := len(out)
		out = r.respond(append(out, 0, 0), msg, client, true)
		if size := len(out) - start - 2; size > 0 {
			binary.BigEndian.PutUint16(out[start:], uint16(size))
		} else {
			out = out[:start]
		}
		if len(out) < maxBatch && nextIsThere(in) {
			continue
		}
		if flush() != nil {
			return
		}
	}
}

// nextIsThere reports whether a whole message can be read without waiting.
func nextIsThere(in *bufio.Reader) bool {
	if in.Buffered() < 2 {
		return false
	}
	length, err := in.Peek(2)
	return err == nil && in.Buffered() >= 2+int(binary.BigEndian.Uint16(length))
}
