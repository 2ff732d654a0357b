package source

import (
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	quiet     = 100 * time.Millisecond // without an event before files are read
	patience  = 500 * time.Millisecond // at most, for a folder that is never quiet
	pollEvery = 2 * time.Second        // for file systems without events
	pollShare = 50                     // a look at many files comes so many times its own duration later
)

// Watch waits for changes of the inputs and of the files that they name until
// ctx is done. After a change it reads what has changed and calls apply with the
// joined content, then report once with all errors that stand, or nil.
//
// A file that cannot be read, or is no longer there, keeps its last good version
// while the changes of others take effect. A file that is gone from a folder is
// gone, unless all its files are. Where apply refuses, the changed files keep
// their last good versions and are tried again with the next change, if need be
// after a second apply without them. apply and report are called from this
// goroutine, one at a time. Watch is called once.
func (s *Set) Watch(ctx context.Context, apply func(Content) error, report func(error)) {
	s.watch(ctx, newNotifier(), apply, report)
}

func (s *Set) watch(ctx context.Context, n *notifier, apply func(Content) error, report func(error)) {
	defer n.close()
	for ctx.Err() == nil {
		n.follow(s.paths())
		if attempted, err := s.reload(apply); attempted {
			report(err)
			continue // the files to follow may be others now
		}
		n.wait(ctx, s.stale, s.wake)
	}
}

// Paths are files and folders that are watched without being read as content:
// certificates, a country file.
type Paths struct {
	paths []string
	files map[string]stamp
}

// OpenPaths remembers how the files look now, so that no change between it and
// Watch is lost: call it before reading them. A folder stands for all files right
// in it but hidden ones. What does not exist yet may come.
func OpenPaths(paths ...string) *Paths {
	p := &Paths{paths: paths, files: map[string]stamp{}}
	for _, path := range p.list() {
		_, s, _ := load(path, maxFile)
		p.files[path] = s
	}
	return p
}

// Watch calls changed after each change of a file's bytes, and when files come
// or go, until ctx is done. Several changes within a moment are one.
func (p *Paths) Watch(ctx context.Context, changed func()) {
	n := newNotifier()
	defer n.close()
	for ctx.Err() == nil {
		follow := slices.Concat(p.paths, p.list())
		for _, path := range p.paths {
			follow = append(follow, filepath.Join(path, "*")) // a folder that is empty still
		}
		n.follow(follow)
		if p.renew() {
			changed()
			continue
		}
		n.wait(ctx, p.stale, nil)
	}
}

func (p *Paths) list() []string {
	var files []string
	for _, path := range p.paths {
		info, err := os.Stat(path)
		if err != nil || !info.IsDir() {
			files = append(files, path)
			continue
		}
		entries, _ := os.ReadDir(path)
		for _, e := range entries {
			file := filepath.Join(path, e.Name())
			if info, err := os.Stat(file); !strings.HasPrefix(e.Name(), ".") && (err != nil || !info.IsDir()) {
				files = append(files, file)
			}
		}
	}
	slices.Sort(files)
	return slices.Compact(files)
}

func (p *Paths) stale() bool {
	if !slices.Equal(p.list(), slices.Sorted(maps.Keys(p.files))) {
		return true
	}
	for path, s := range p.files {
		if s.stale(path) {
			return true
		}
	}
	return false
}

func (p *Paths) renew() (changed bool) {
	now := map[string]stamp{}
	for _, path := range p.list() {
		s, known := p.files[path]
		var other bool
		now[path], other = s.renew(path, maxFile)
		changed = changed || other || !known
	}
	for path := range p.files {
		_, still := now[path]
		changed = changed || !still
	}
	p.files = now
	return changed
}

// Folder is a folder of files that somebody else reads, maybe tens of thousands of
// them: it tells when to look at them again.
type Folder struct {
	dir    string
	n      *notifier
	looked map[string]int64 // when the folders that are followed had changed last; see changes
	last   time.Time        // when the files were looked at
	took   time.Duration    // to do so
}

const (
	// A look at all files, for what nothing tells of: a file that is written over in
	// its place on a file system without events, a link that is changed behind
	// another one.
	lookEvery = 30 * time.Second
	lookShare = 500 // it comes so many times its own duration later, at least
)

// OpenFolder begins to listen for changes right in dir, so that none is lost that
// comes after it: call it before the files are read.
func OpenFolder(dir string) *Folder {
	f := &Folder{dir: dir, n: newNotifier()}
	f.n.every = time.Second
	f.n.follow([]string{filepath.Join(dir, "*")})
	return f
}

// Watch calls look at once, and then, until ctx is done, whenever files in the folder
// or where links in it lead may have changed: within a second where files come, go
// or are replaced, or where the system tells, and else with the next look at all of
// them. What has changed is for look to find out. Watch is called once.
func (f *Folder) Watch(ctx context.Context, look func()) {
	defer f.n.close()
	for ctx.Err() == nil {
		f.last = time.Now()
		f.n.follow(append(links(f.dir), filepath.Join(f.dir, "*")))
		f.looked = f.changes()
		look()
		f.took = time.Since(f.last)
		f.n.wait(ctx, f.stale, nil)
	}
}

func (f *Folder) stale() bool {
	return time.Since(f.last) > max(lookEvery, lookShare*f.took) || !maps.Equal(f.looked, f.changes())
}

// changes gives for each folder that is followed when its list of files was changed.
func (f *Folder) changes() map[string]int64 {
	times := make(map[string]int64, len(f.n.dirs))
	for dir := range f.n.dirs {
		if info, err := os.Stat(dir); err == nil {
			times[dir] = info.ModTime().UnixNano()
		}
	}
	return times
}

// links gives each step of where the links among the files of a folder lead. A
// program that renews certificates changes one of them in the middle.
func links(dir string) (steps []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink == 0 || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		for range 40 { // as many as the system follows
			to, err := os.Readlink(path)
			if err != nil {
				break
			}
			if !filepath.IsAbs(to) {
				to = filepath.Dir(path) + string(filepath.Separator) + to // not joined: .. is of where a link leads
			}
			steps, path = append(steps, to), to
		}
	}
	return steps
}

// notifier tells when it is worth to look at files again: after events in their
// folders, or after a slow look has found something.
type notifier struct {
	fs     *fsnotify.Watcher // nil where the system gives none; then there is the slow look
	dirs   map[string]bool   // the folders that are followed
	every  time.Duration     // between slow looks
	events chan struct{}     // holds one: there were some
	idle   func()            // of tests: called when wait begins
}

func newNotifier() *notifier {
	n := &notifier{events: make(chan struct{}, 1), every: pollEvery}
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		return n
	}
	n.fs = fs
	// The library must be listened to at all times: it may hold a lock that
	// follow needs while it hands over an error. This ends with close.
	go func() {
		for events, errs := fs.Events, fs.Errors; events != nil || errs != nil; {
			select {
			case e, ok := <-events:
				if !ok {
					events = nil
				}
				if !ok || e.Op == fsnotify.Chmod {
					continue
				}
			case _, ok := <-errs: // events were lost
				if !ok {
					errs = nil
					continue
				}
			}
			select {
			case n.events <- struct{}{}:
			default:
			}
		}
	}()
	return n
}

func (n *notifier) close() {
	if n.fs != nil {
		n.fs.Close()
	}
}

// follow asks for the events of the folders in which paths stand. The folders
// and not the files: editors put a new file into an old one's place. Where a
// path leads through links, the folders of the links count, and its real folder.
func (n *notifier) follow(paths []string) {
	want := map[string]bool{}
	for _, path := range paths {
		dir := absolute(filepath.Dir(path))
		for up := dir; !want[dir] && up != filepath.Dir(up); up = filepath.Dir(up) {
			if info, err := os.Lstat(up); err == nil && info.Mode()&os.ModeSymlink != 0 {
				want[filepath.Dir(up)] = true
			}
		}
		want[dir] = true
		if real, err := filepath.EvalSymlinks(path); err == nil {
			want[absolute(filepath.Dir(real))] = true
		}
	}
	n.dirs = want
	if n.fs == nil {
		return
	}
	add := maps.Clone(want)
	for _, dir := range n.fs.WatchList() {
		if !want[dir] {
			_ = n.fs.Remove(dir) // it may be gone already
		}
		delete(add, dir)
	}
	for dir := range add {
		_ = n.fs.Add(dir) // one that does not exist, or is one too many, gets the slow look
	}
}

// wait returns when files may have changed and their folders have been quiet for
// a moment, so that a file is not read while it is being written; after wake; or
// when ctx is done.
func (n *notifier) wait(ctx context.Context, stale func() bool, wake <-chan struct{}) {
	if n.idle != nil {
		n.idle()
	}
	poll := time.NewTimer(n.every)
	defer poll.Stop()
	for seen := false; !seen; {
		select {
		case <-ctx.Done():
			return
		case <-n.events:
			seen = true
		case <-wake:
			seen = true
		case <-poll.C:
			begin := time.Now()
			seen = stale()
			poll.Reset(max(n.every, pollShare*time.Since(begin)))
		}
	}
	end := time.NewTimer(patience)
	defer end.Stop()
	still := time.NewTimer(quiet)
	defer still.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.events:
			still.Reset(quiet)
		case <-still.C:
			return
		case <-end.C:
			return
		}
	}
}
