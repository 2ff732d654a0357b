//go:build unix

package main

import (
	"io/fs"
	"os"
	"syscall"
)

// giveTo gives f to the owner and group of old, as far as we may.
func giveTo(f *os.File, old fs.FileInfo) {
	if stat, ok := old.Sys().(*syscall.Stat_t); ok {
		_ = f.Chown(int(stat.Uid), int(stat.Gid))
	}
}
