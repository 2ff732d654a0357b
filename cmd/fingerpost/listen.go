package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"

	"fingerpost"

	"github.com/coreos/go-systemd/v22/activation"
)

// sockets are those that one listener of the configuration comes to. Packets has
// the UDP socket beside a stream: of HTTP/3 where https has one, and of dns, which
// always has.
type sockets struct {
	streams []net.Listener
	packets map[net.Listener]net.PacketConn
}

// inherited are the sockets that the service manager has opened for us, by the name
// that its unit gives them (FileDescriptorName=). They take the place of addresses.
func inherited(log *slog.Logger) (map[string]*sockets, error) {
	byName := map[string]*sockets{}
	datagrams := map[string][]net.PacketConn{}
	for _, file := range activation.Files(true) {
		name := file.Name()
		switch name {
		case "http", "https", "dns", "admin":
		default:
			log.Warn("a socket of the service manager is not used: its name is none of http, https, dns, admin", "name", name, "hint", "set FileDescriptorName= in the socket unit, one unit for each name")
			file.Close()
			continue
		}
		if byName[name] == nil {
			byName[name] = &sockets{packets: map[net.Listener]net.PacketConn{}}
		}
		s := byName[name]
		// Both have descriptors of their own then.
		if stream, err := net.FileListener(file); err == nil {
			s.streams = append(s.streams, stream)
		} else if packet, packetErr := net.FilePacketConn(file); packetErr == nil && (name == "https" || name == "dns") {
			datagrams[name] = append(datagrams[name], packet)
		} else {
			return nil, &fingerpost.Error{Code: "listen", Message: fmt.Sprintf("the socket %s of the service manager cannot be used: %v", name, err), Hint: "http and admin take ListenStream=, https and dns take ListenDatagram= too"}
		}
		file.Close()
	}
	for name, packets := range datagrams {
		for _, packet := range packets {
			if !byName[name].pair(packet) {
				return nil, &fingerpost.Error{Code: "listen", Message: fmt.Sprintf("the datagram socket %s of the service manager, on %s, has no stream socket beside it", name, packet.LocalAddr()), Hint: "ListenStream= and ListenDatagram= have the same port"}
			}
		}
	}
	if dns := byName["dns"]; dns != nil {
		for i, stream := range dns.streams {
			udp, ok := dns.packets[stream].(*net.UDPConn)
			if !ok {
				return nil, &fingerpost.Error{Code: "listen", Message: fmt.Sprintf("the stream socket dns of the service manager, on %s, has no datagram socket beside it", stream.Addr()), Hint: "ListenStream= and ListenDatagram= have the same address and port"}
			}
			dns.streams[i] = &dnsListener{stream, udp}
		}
		dns.packets = nil // each has its own
	}
	return byName, nil
}

// close gives up what is not to be used: who connects learns of it at once.
func (s *sockets) close() {
	for _, stream := range s.streams {
		stream.Close()
		if packet := s.packets[stream]; packet != nil {
			packet.Close()
		}
	}
}

// pair gives a UDP socket to the stream of its port.
func (s *sockets) pair(packet net.PacketConn) bool {
	udp, ok := packet.LocalAddr().(*net.UDPAddr)
	for _, stream := range s.streams {
		tcp, isTCP := stream.Addr().(*net.TCPAddr)
		if ok && isTCP && tcp.Port == udp.Port && tcp.IP.Equal(udp.IP) && s.packets[stream] == nil {
			s.packets[stream] = packet
			return true
		}
	}
	return false
}

// listenStream opens an address of listen.http or listen.https.
func listenStream(addr string) (net.Listener, error) {
	path, unix := strings.CutPrefix(addr, "unix:")
	if !unix {
		// Every connection has a time by which it must say something, so none needs the
		// system to ask whether it is alive: four calls less for each.
		quiet := net.ListenConfig{KeepAlive: -1}
		return quiet.Listen(context.Background(), "tcp", addr)
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && abandoned(path) {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		l, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, err
	}
	// Whoever may enter the folder may connect, as to a port.
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// abandoned reports whether a file is the socket of a program that is gone.
func abandoned(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&fs.ModeSocket == 0 {
		return false
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// listenHTTP3 opens the UDP socket beside a listener for https. Without it visitors
// come over TCP as before, so what fails is logged and no more.
func listenHTTP3(l net.Listener, log *slog.Logger) net.PacketConn {
	at, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return nil
	}
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port, Zone: at.Zone})
	if err != nil {
		e := listenError("HTTP/3", at.String(), err).(*fingerpost.Error)
		if errors.Is(err, syscall.EADDRINUSE) {
			e.Hint = "another program has this UDP port"
		}
		log.Error(e.Message, "hint", e.Hint+"; https is answered without HTTP/3, and listen.http3: off does so silently")
		return nil
	}
	// quic-go would print its advice on the system's buffers past the log.
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	return c
}

func listenError(name, addr string, err error) error {
	e := &fingerpost.Error{Code: "listen", Message: fmt.Sprintf("listen for %s on %s: %v", name, addr, err)}
	var cause *net.OpError
	if errors.As(err, &cause) {
		e.Message = fmt.Sprintf("listen for %s on %s: %v", name, addr, cause.Err)
	}
	unix := strings.HasPrefix(addr, "unix:")
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && unix:
		e.Hint = "another program listens on this file, or it is no socket; stop the one, remove the other, or choose another file"
	case unix && errors.Is(err, fs.ErrPermission):
		e.Hint = "the program needs the right to write into the folder of the socket"
	case unix && errors.Is(err, fs.ErrNotExist):
		e.Hint = "the folder of the socket must be there; in a service unit RuntimeDirectory= makes one below /run"
	case unix && errors.Is(err, syscall.EINVAL):
		e.Hint = "the path of a socket has 107 bytes at most"
	case errors.Is(err, syscall.EADDRINUSE):
		e.Hint = fmt.Sprintf("another program has this port; stop it, or choose another one with --%s", name)
	case errors.Is(err, fs.ErrPermission):
		e.Hint = "ports below 1024 need a right: setcap cap_net_bind_service=+ep on the binary, AmbientCapabilities=CAP_NET_BIND_SERVICE in the service unit, or a port above"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		e.Hint = "this machine does not have that address"
	case errors.As(err, new(*net.AddrError)), errors.As(err, new(*net.DNSError)):
		e.Hint = `write address:port, as in ":80", "192.0.2.10:443" or "[2001:db8::1]:443"; "" switches it off`
	}
	return e
}
