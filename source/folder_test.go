package source

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestAFolderTellsWhenToLook: each way in which files are changed is told of by
// events, and each but writing over a file in its place also without them.
func TestAFolderTellsWhenToLook(t *testing.T) {
	link := func(t *testing.T, to, path string) {
		t.Helper()
		if err := os.Symlink(to, path+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name     string
		prepare  func(t *testing.T, dir string) // a.pem holds "old"
		change   func(t *testing.T, dir string) // and now "new"
		needsOne bool                           // an event
	}{
		{"replaced", func(t *testing.T, dir string) { replace(t, filepath.Join(dir, "a.pem"), "old") },
			func(t *testing.T, dir string) { replace(t, filepath.Join(dir, "a.pem"), "new") }, false},
		{"written over", func(t *testing.T, dir string) { replace(t, filepath.Join(dir, "a.pem"), "old") },
			func(t *testing.T, dir string) {
				if err := os.WriteFile(filepath.Join(dir, "a.pem"), []byte("new"), 0o600); err != nil {
					t.Fatal(err)
				}
			}, true},
		{"a secret of Kubernetes", func(t *testing.T, dir string) {
			for version, text := range map[string]string{"..1": "old", "..2": "new"} {
				os.Mkdir(filepath.Join(dir, version), 0o700)
				replace(t, filepath.Join(dir, version, "a.pem"), text)
			}
			link(t, "..1", filepath.Join(dir, "..data"))
			link(t, "..data/a.pem", filepath.Join(dir, "a.pem"))
		}, func(t *testing.T, dir string) { link(t, "..2", filepath.Join(dir, "..data")) }, false},
		{"certbot behind a link", func(t *testing.T, dir string) {
			le := filepath.Join(filepath.Dir(dir), "letsencrypt")
			for _, sub := range []string{"live/a", "archive/a"} {
				os.MkdirAll(filepath.Join(le, sub), 0o700)
			}
			replace(t, filepath.Join(le, "archive/a/cert1.pem"), "old")
			replace(t, filepath.Join(le, "archive/a/cert2.pem"), "new") // long before its link
			link(t, "../../archive/a/cert1.pem", filepath.Join(le, "live/a/cert.pem"))
			link(t, filepath.Join(le, "live/a/cert.pem"), filepath.Join(dir, "a.pem"))
		}, func(t *testing.T, dir string) {
			link(t, "../../archive/a/cert2.pem", filepath.Join(filepath.Dir(dir), "letsencrypt/live/a/cert.pem"))
		}, false},
		{"a link that is changed itself", func(t *testing.T, dir string) {
			replace(t, filepath.Join(filepath.Dir(dir), "1"), "old")
			replace(t, filepath.Join(filepath.Dir(dir), "2"), "new")
			link(t, "../1", filepath.Join(dir, "a.pem"))
		}, func(t *testing.T, dir string) { link(t, "../2", filepath.Join(dir, "a.pem")) }, false},
	} {
		for _, events := range []bool{true, false} {
			name := tt.name
			if !events {
				name += ", without events"
			}
			if tt.needsOne && !events {
				continue
			}
			t.Run(name, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "certificates")
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				tt.prepare(t, dir)
				past := time.Now().Add(-time.Minute) // times may be as coarse as a tick of the clock
				filepath.WalkDir(filepath.Dir(dir), func(path string, e os.DirEntry, _ error) error {
					if e.IsDir() {
						return os.Chtimes(path, past, past)
					}
					return nil
				})
				f := OpenFolder(dir)
				f.n.every = time.Hour
				if !events {
					f.n.close()
					f.n = &notifier{events: make(chan struct{}, 1), every: 5 * time.Millisecond}
				}
				idle, texts := make(chan struct{}, 1), make(chan string, 100)
				f.n.idle = func() {
					select {
					case idle <- struct{}{}:
					default:
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					f.Watch(ctx, func() {
						text, _ := os.ReadFile(filepath.Join(dir, "a.pem"))
						texts <- string(text)
					})
				}()
				defer func() { cancel(); <-done }()
				<-idle
				if got := <-texts; got != "old" {
					t.Fatalf("the first look sees %q", got)
				}
				tt.change(t, dir)
				timeout := time.After(lookEvery - 5*time.Second) // before the slow look
				for got := "old"; got != "new"; {
					select {
					case got = <-texts:
					case <-timeout:
						t.Fatal("nobody told to look")
					}
				}
			})
		}
	}
}

// TestAFolderIsLeftAlone: where nothing changes, files are looked at every half a
// minute, and less often where that takes long.
func TestAFolderIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	replace(t, filepath.Join(dir, "a.pem"), "x")
	f := OpenFolder(dir)
	defer f.n.close()
	f.looked = f.changes()
	for _, tt := range []struct {
		ago, took time.Duration
		stale     bool
	}{{20 * time.Second, 0, false}, {31 * time.Second, 0, true}, {31 * time.Second, 60 * time.Millisecond, true}, {31 * time.Second, time.Second, false}, {501 * time.Second, time.Second, true}} {
		f.last, f.took = time.Now().Add(-tt.ago), tt.took
		if got := f.stale(); got != tt.stale {
			t.Errorf("%v after a look that took %v: stale is %v", tt.ago, tt.took, got)
		}
	}
}

// TestAFolderThatIsSwappedIsFollowed: another folder comes in its place, and is the
// one that is watched from then on.
func TestAFolderThatIsSwappedIsFollowed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certificates")
	fill := func(dir, text string) {
		t.Helper()
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		replace(t, filepath.Join(dir, "a.pem"), text)
	}
	fill(dir, "1")
	f := OpenFolder(dir)
	texts := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Watch(ctx, func() {
			text, _ := os.ReadFile(filepath.Join(dir, "a.pem"))
			texts <- string(text)
		})
	}()
	defer func() { cancel(); <-done }()
	expect := func(want string) {
		t.Helper()
		timeout := time.After(lookEvery - 5*time.Second)
		for got := ""; got != want; {
			select {
			case got = <-texts:
			case <-timeout:
				t.Fatalf("nobody told to look for %q", want)
			}
		}
	}
	expect("1")
	for _, version := range []string{"2", "4", "6"} {
		fill(dir+version, version)
		if err := os.Rename(dir, dir+version+".old"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(dir+version, dir); err != nil {
			t.Fatal(err)
		}
		expect(version)
		replace(t, filepath.Join(dir, "a.pem"), version+"b")
		expect(version + "b")
	}
}
