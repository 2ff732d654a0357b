//go:build unix

package dnsapi

import (
	"os/exec"
	"syscall"
)

// killChildren has a hook that takes too long end with all that it has started.
func killChildren(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
