package testpg

import "syscall"

// attributes of a child: it must not outlive the tests, even if they are killed.
func attributes(as *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: as, Pdeathsig: syscall.SIGQUIT}
}
