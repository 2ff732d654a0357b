//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package replica

import (
	"io"
	"os"
)

// mapFile reads the bytes, where they cannot be mapped.
func mapFile(f *os.File, at, n int64) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(io.NewSectionReader(f, at, n), b)
	return b, err
}

func unmap([]byte) {}

func lock(*os.File) (bool, error) { return true, nil }
