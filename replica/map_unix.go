//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package replica

import (
	"errors"
	"os"
	"syscall"
)

// mapFile gives n bytes of f from an offset, a multiple of pageSize, without
// reading them. They stay after f is closed, until unmap.
func mapFile(f *os.File, at, n int64) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	b, err := syscall.Mmap(int(f.Fd()), at, int(n), syscall.PROT_READ, syscall.MAP_SHARED)
	return b, os.NewSyscallError("mmap", err)
}

func unmap(b []byte) {
	if b != nil {
		syscall.Munmap(b)
	}
}

// lock makes f this process's; false if it is another's.
func lock(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, os.NewSyscallError("flock", err)
}
