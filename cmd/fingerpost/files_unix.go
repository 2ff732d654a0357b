//go:build unix

package main

import (
	"math"
	"syscall"
)

// openFiles is how many descriptors the program may have, 0 if nobody says. Go's
// runtime has raised the limit as far as it may.
func openFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(uint64(limit.Cur), math.MaxInt32))
}
