//go:build !linux

package edge

import (
	"net"
	"time"
)

func (f *front) rest(net.Conn, *client, time.Time) bool { return false }
