//go:build !linux

package edge

import "net"

// loops are none.
type loops struct{}

func (*loops) stop() {}

// serveLoops is for Linux; elsewhere the goroutine form serves.
func (f *front) serveLoops(net.Listener) (served bool, err error) { return false, nil }
