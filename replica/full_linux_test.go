package replica

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"fingerpost"
)

// TestFullDisk fills the disk under a replica: what cannot be written is not
// applied, what is there serves on, and when there is room again, it goes on.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("mount a small disk: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	f := newFake(t, "e1")
	f.commit(putHost("a.x", fingerpost.Host{}))
	r := open(t, Options{Dir: dir, Log: testLog(t)})
	load(t, r, f)
	note := string(bytes.Repeat([]byte("x"), 50_000))
	for i := range 100 {
		f.commit(putRedirect(fmt.Sprint("r", i), fingerpost.Redirect{From: fmt.Sprintf("a.x/p%d", i), To: fmt.Sprint("https://t.test/", i), Note: note}))
	}
	full := func() (failed bool) {
		for {
			at, _ := r.Cursor()
			if at.Rev == int64(len(f.revisions)) {
				return false
			}
			if err := r.apply(f.revisions[at.Rev : at.Rev+1]); err != nil {
				t.Log(err)
				return true
			}
		}
	}
	if !full() {
		t.Fatal("the disk has room for all")
	}
	at, _ := r.Cursor()
	if at.Rev < 5 {
		t.Fatalf("only revision %d was reached", at.Rev)
	}
	check := func() {
		t.Helper()
		now, _ := r.Cursor()
		if now != at {
			t.Fatalf("the replica is at %v, want %v", now, at)
		}
		compare(t, r.Table(), tableAt(t, f, at.Rev))
	}
	check()
	if err := r.Compact(); err == nil {
		t.Error("a compaction had room")
	}
	check()
	if left, _ := filepath.Glob(filepath.Join(dir, "*"+tempSuffix)); len(left) > 0 {
		t.Errorf("%v is left behind", left)
	}
	fo := &follower{r: r, up: f.upstream()}
	if err := fo.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "space") {
		t.Errorf("a fetched snapshot had room: %v", err)
	}
	check()
	// A restart on the full disk.
	r.Close()
	r = open(t, Options{Dir: dir, Log: testLog(t)})
	check()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	if full() {
		t.Fatal("there is room, and it fails")
	}
	if err := r.Compact(); err != nil {
		t.Fatal(err)
	}
	at, _ = r.Cursor()
	check()
	r.Close()
	r = open(t, Options{Dir: dir})
	check()
}
