package main

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"fingerpost"
)

func TestListenErrorsSayWhatToDo(t *testing.T) {
	op := func(errno syscall.Errno) error {
		return &net.OpError{Op: "listen", Net: "tcp", Err: os.NewSyscallError("bind", errno)}
	}
	tests := []struct {
		name       string
		err        error
		want, hint string
	}{
		{"port in use", op(syscall.EADDRINUSE), "listen for http on :80: bind: address already in use", "choose another one with --http"},
		{"no right", op(syscall.EACCES), "listen for http on :80: bind: permission denied", "setcap cap_net_bind_service=+ep"},
		{"not our address", op(syscall.EADDRNOTAVAIL), "listen for http on :80: bind: cannot assign requested address", "does not have that address"},
		{"no port", &net.OpError{Op: "listen", Net: "tcp", Err: &net.AddrError{Err: "missing port in address", Addr: "x"}}, "listen for http on :80: address x: missing port in address", "write address:port"},
		{"unknown name", &net.OpError{Op: "listen", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "x", IsNotFound: true}}, "listen for http on :80: lookup x: no such host", "write address:port"},
	}
	for _, tt := range tests {
		got := fingerpost.Errors(listenError("http", ":80", tt.err))
		if len(got) != 1 || got[0].Error() != tt.want || !strings.Contains(got[0].Hint, tt.hint) {
			t.Errorf("%s: got %+v, want %q with the hint %q", tt.name, got, tt.want, tt.hint)
		}
	}
}

func TestFileErrorsNameTheFileThatWasMeant(t *testing.T) {
	for _, err := range []error{
		&fs.PathError{Op: "open", Path: "/somewhere/.x.yaml.123", Err: syscall.EACCES},
		&os.LinkError{Op: "rename", Old: "/somewhere/.x.yaml.123", New: "x.yaml", Err: syscall.EACCES},
		errors.New("permission denied"),
	} {
		got := fingerpost.Errors(fileError("x.yaml", "written", err))
		if len(got) != 1 || got[0].Error() != "x.yaml: cannot be written: permission denied" || got[0].Hint == "" {
			t.Errorf("%v: got %+v", err, got)
		}
	}
}

func TestReplaceFileKeepsModeAndLink(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, []byte("old"), 0o640), os.Symlink("file", link), replaceFile(link, []byte("new"))); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil || string(data) != "new" {
		t.Errorf("the file holds %q (%v)", data, err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v (%v)", info, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the mode is %v (%v)", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("something was left behind: %v", entries)
	}
}
