//go:build !linux

package edge

import "net"

func quickAck(net.Conn) {}

func deferAccept(net.Listener) {}
