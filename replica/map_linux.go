package replica

import "syscall"

// prefault maps all pages of b at once (MADV_POPULATE_READ, since Linux 5.14),
// which is cheaper than one fault for every few of them. Where the kernel does
// not know it, reading does the same.
func prefault(b []byte) {
	const populateRead = 22
	syscall.Madvise(b, populateRead)
}
