package replica

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fingerpost"
)

// smallFile writes a snapshot of a few items.
func smallFile(t testing.TB) (path string, b []byte) {
	t.Helper()
	f := newFake(t, "e1")
	f.commit(putHost("a.x", fingerpost.Host{Also: []string{"b.x"}, RedirectFrom: []string{"c.x"}}))
	f.commit(putRedirect("r1", fingerpost.Redirect{From: "a.x/p", To: "https://t.test/1"}), putRedirect("r2", fingerpost.Redirect{From: "d.y/p/*", To: "https://t.test/:splat"}))
	c, _ := f.scan(t.Context())
	path = filepath.Join(t.TempDir(), "small")
	if err := writeFile(path, c, nil); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, b
}

// openAndVerify looks at all of a file, and frees it at once.
func openAndVerify(path string) error {
	src, err := os.Open(path)
	if err != nil {
		return err
	}
	defer src.Close()
	f := &file{path: path}
	table, err := f.open(src)
	if err == nil {
		err = f.verify(nil)
	}
	unmap(f.mapped)
	unmap(table)
	return err
}

// TestEveryFlipIsRefused changes each byte of a small file, one after another.
// The many bytes of padding are tried in steps in a short run.
func TestEveryFlipIsRefused(t *testing.T) {
	path, b := smallFile(t)
	if err := openAndVerify(path); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tried := 0
	for at := 0; at < len(b); at++ {
		if (testing.Short() || raceEnabled) && b[at] == 0 && at%97 != 0 {
			continue
		}
		tried++
		if _, err := f.WriteAt([]byte{b[at] ^ 1<<(at%8)}, int64(at)); err != nil {
			t.Fatal(err)
		}
		if err := openAndVerify(path); !errors.Is(err, ErrDamaged) {
			t.Errorf("byte %d of %d is changed, and the file is read: %v", at, len(b), err)
		}
		if _, err := f.WriteAt(b[at:at+1], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of %d bytes were changed", tried, len(b))
}

// TestEveryCutIsRefused cuts a small file at each place, and adds to it.
func TestEveryCutIsRefused(t *testing.T) {
	path, b := smallFile(t)
	for n := len(b) - 1; n >= 0; n-- {
		if (testing.Short() || raceEnabled) && n%97 != 0 && n < len(b)-2000 && n > 2000 {
			continue
		}
		if err := os.Truncate(path, int64(n)); err != nil {
			t.Fatal(err)
		}
		if err := openAndVerify(path); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d of %d bytes, and the file is read: %v", n, len(b), err)
		}
	}
	if err := os.WriteFile(path, append(b, 0), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openAndVerify(path); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte is added, and the file is read: %v", err)
	}
}

// TestLargeFileFlips changes bytes of a file of many blocks and chunks at random,
// and cuts it at random.
func TestLargeFileFlips(t *testing.T) {
	n, flips := 200_000, 100
	if testing.Short() || raceEnabled {
		n, flips = 5_000, 50
	}
	path := filepath.Join(t.TempDir(), "large")
	if err := writeFile(path, manyItems(n), nil); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, _ := f.Stat()
	g := rand.New(rand.NewPCG(1, 2))
	for range flips {
		at := g.Int64N(info.Size())
		var b [1]byte
		f.ReadAt(b[:], at)
		old := b
		b[0] ^= 1 << g.IntN(8)
		f.WriteAt(b[:], at)
		if err := openAndVerify(path); !errors.Is(err, ErrDamaged) {
			t.Errorf("byte %d of %d is changed, and the file is read: %v", at, info.Size(), err)
		}
		f.WriteAt(old[:], at)
	}
	if err := openAndVerify(path); err != nil {
		t.Fatal(err)
	}
	for size := info.Size(); size > 0; {
		size -= 1 + g.Int64N(info.Size()/20)
		f.Truncate(max(size, 0))
		if err := openAndVerify(path); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d of %d bytes, and the file is read: %v", size, info.Size(), err)
		}
	}
}

// TestContentIsFoundByKey compares lookups with what was written.
func TestContentIsFoundByKey(t *testing.T) {
	const n = 3000
	path := filepath.Join(t.TempDir(), "snapshot")
	if err := writeFile(path, manyItems(n), nil); err != nil {
		t.Fatal(err)
	}
	f, err := openFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for it := range manyItems(n).Items {
		got, err := f.get(it.Kind, it.Key)
		if err != nil || got == nil || string(got.Value) != string(it.Value) || got.Team != it.Team || !got.Since.Equal(it.Since) {
			t.Fatalf("%s %s is %+v, %v; want %+v", it.Kind, it.Key, got, err, it)
		}
		if got, err := f.get(it.Kind, it.Key+"x"); got != nil || err != nil {
			t.Fatalf("%sx is there: %+v, %v", it.Key, got, err)
		}
	}
	for _, kind := range []string{"a", "host", "redirect", "zone"} {
		for _, key := range []string{"a", "zzz"} {
			if got, err := f.get(kind, key); got != nil || err != nil {
				t.Errorf("%s %s is %+v, %v", kind, key, got, err)
			}
		}
	}
	for i := 0; i < n; i += 10 {
		found := 0
		if err := f.prefix(KindRedirect, manyHost(i)+"/", func(it *Item) { found++ }); err != nil || found != 10 {
			t.Fatalf("%s has %d redirects, %v", manyHost(i), found, err)
		}
	}
}

// TestWriteFileRefusesDisorder: a scan that is out of order must never become a
// snapshot in which items are not found.
func TestWriteFileRefusesDisorder(t *testing.T) {
	items := []*Item{{Kind: "zone", Key: "b"}, {Kind: "zone", Key: "a"}}
	dir := t.TempDir()
	err := writeFile(filepath.Join(dir, "x"), Content{Items: func(yield func(*Item, error) bool) {
		for _, it := range items {
			if !yield(it, nil) {
				return
			}
		}
	}}, nil)
	if err == nil || !strings.Contains(err.Error(), "out of order") {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%v is left behind", left)
	}
}

// TestTableOfAnotherVersion: after an upgrade, and from an upstream that is newer
// or older, a table that cannot be read is made anew from the content.
func TestTableOfAnotherVersion(t *testing.T) {
	f := newFake(t, "e1")
	edits(f, 0, 5)
	dir := t.TempDir()
	r := open(t, Options{Dir: dir})
	load(t, r, f)
	path := r.live.content.base.path
	last := edits(f, 5, 2)
	if err := r.apply(f.revisions[5:]); err != nil {
		t.Fatal(err)
	}
	r.Close()
	old := otherVersion(t, path)
	if _, err := OpenTable(path); !errors.Is(err, errOldTable) {
		t.Fatalf("the table of another version: %v", err)
	}
	r = open(t, Options{Dir: dir})
	if at, _ := r.Cursor(); at != last {
		t.Fatalf("the replica is at %v, want %v", at, last)
	}
	compare(t, r.Table(), f.table(t))
	// The same over the wire.
	s, err := openSnapshot(old)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var b bytes.Buffer
	s.WriteTo(&b)
	got, err := receive(filepath.Join(t.TempDir(), "received"), &b)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, got.table, tableAt(t, f, 5))
}

// otherVersion makes the table in a snapshot one that this version cannot read,
// with all checksums right, and gives a copy of the file.
func otherVersion(t *testing.T, path string) (copied string) {
	t.Helper()
	f, err := openFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := newFileBuilder(path + tempSuffix)
	if err != nil {
		t.Fatal(err)
	}
	b.t = trailer{Header: Header{Epoch: f.Epoch, Cursor: f.Cursor, CursorEnd: f.CursorEnd}, Counts: map[string]int64{}}
	items := Content{Items: (&view{base: f}).items("")}
	table, err := b.items(items, nil)
	if err != nil {
		t.Fatal(err)
	}
	copy(table.Bytes(), "FPTABLE0")
	if err := b.finish(table); err != nil {
		t.Fatal(err)
	}
	if err := install(path+tempSuffix, path); err != nil {
		t.Fatal(err)
	}
	copied = filepath.Join(t.TempDir(), "old")
	data, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(copied, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return copied
}

// TestTableFile writes a table alone and opens it again; what fails leaves the
// file that was there.
func TestTableFile(t *testing.T) {
	f := newFake(t, "e1")
	f.commit(putRedirect("r1", fingerpost.Redirect{From: "a.x/p", To: "https://t.test/1"}))
	path := filepath.Join(t.TempDir(), "table.fpt")
	for range 2 {
		if err := WriteTable(path, f.table(t)); err != nil {
			t.Fatal(err)
		}
	}
	table, err := OpenTable(path)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, table, f.table(t))
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("%v is there", left)
	}
	if _, err := OpenTable("file_test.go"); !errors.Is(err, ErrDamaged) {
		t.Errorf("a Go file is opened as a table: %v", err)
	}
}
