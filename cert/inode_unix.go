//go:build unix

package cert

import (
	"os"
	"syscall"
)

// inode tells a file from another one that has come in its place with the same size
// and time.
func inode(info os.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(stat.Ino)
	}
	return 0
}
