package nameserver

import (
	"net"
	"net/netip"
	"runtime"
	"sync"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// ServeUDP answers the datagrams of c until Shutdown, and closes c. The error is
// nil after Shutdown.
//
// A socket that is bound to no address answers from the one that was asked: a
// client takes no answer from another.
func (s *Server) ServeUDP(c *net.UDPConn) error {
	if !s.begin(c) {
		c.Close()
		return nil
	}
	defer s.end(c)
	local, _ := c.LocalAddr().(*net.UDPAddr)
	anyAddress := local != nil && local.IP.IsUnspecified()
	if anyAddress {
		// Which of the two applies depends on the socket's family.
		err4 := ipv4.NewPacketConn(c).SetControlMessage(ipv4.FlagDst, true)
		err6 := ipv6.NewPacketConn(c).SetControlMessage(ipv6.FlagDst, true)
		if err4 != nil && err6 != nil {
			return err6
		}
	}
	// Reading and answering takes a few microseconds and never waits: as many
	// readers as cores are enough.
	readers := runtime.GOMAXPROCS(0)
	errs := make([]error, readers)
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() { errs[i] = s.readUDP(c, anyAddress) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// maxReadErrors in a row mean that the socket is broken.
const maxReadErrors = 100

func (s *Server) readUDP(c *net.UDPConn, anyAddress bool) error {
	r := responder{s: s}
	in, out := make([]byte, maxQuery), make([]byte, 0, maxUDP)
	var control []byte
	if anyAddress {
		control = make([]byte, 128)
	}
	failed := 0
	for {
		n, controlSize, _, from, err := c.ReadMsgUDPAddrPort(in, control)
		if err != nil {
			// One datagram's fault (an ICMP message that came back) is not the socket's.
			if failed++; s.isClosed(err) {
				return nil
			} else if failed > maxReadErrors {
				return err
			}
			continue
		}
		failed = 0
		if from.Port() == 0 {
			continue // nobody can be there
		}
		if out = r.respond(out[:0], in[:n], from.Addr().Unmap(), false); len(out) == 0 {
			continue
		}
		// What cannot be sent is lost, as a datagram may be at any time; the client
		// asks again.
		c.WriteMsgUDPAddrPort(out, sourceOf(control[:controlSize]), from)
	}
}

// sourceOf makes, of the control message of a datagram, one that has its answer
// sent from the address that the datagram was sent to.
func sourceOf(control []byte) []byte {
	if len(control) == 0 {
		return nil
	}
	var m6 ipv6.ControlMessage
	var m4 ipv4.ControlMessage
	var dst net.IP
	if m6.Parse(control) == nil && m6.Dst != nil {
		dst = m6.Dst
	} else if m4.Parse(control) == nil {
		dst = m4.Dst
	}
	switch {
	case dst == nil:
		return nil
	case dst.To4() == nil:
		return (&ipv6.ControlMessage{Src: dst}).Marshal()
	}
	return (&ipv4.ControlMessage{Src: dst}).Marshal() // on a socket of both families too
}

// clientOf is the address that a's connection comes from.
func clientOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}
