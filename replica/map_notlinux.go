//go:build !linux

package replica

func prefault([]byte) {}
