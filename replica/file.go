package replica

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fingerpost"
	"fingerpost/redirect"
)

// A snapshot file holds the state of one revision: all items, and the table that
// they make. It is written once, front to back, and mapped:
//
//	preamble  64 bytes: what it is, and the version of this form
//	content   the items in order, in blocks of some 4 KiB
//	index     for each block: string first name · uvarint offset · uvarint length · CRC32C;
//	          then the offsets of these entries as uint64
//	table     from the next multiple of pageSize on, as redirect.Table.Bytes gives it
//	sums      CRC32C of each chunk of 4 MiB of the index (up to the table), then of the table
//	trailer   a frame with JSON, its length as uint32, and eight bytes that end the file
//
// Opening it reads index, table, sums and trailer, and checks every byte of them:
// code that follows offsets relies on it. Content is checked block by block
// whenever it is read, and all of it by verify. None of this looks at a mapping.
const (
	preambleSize = 64
	preamble     = "fingerpost snapshot 1\n"
	ending       = "FPSNAP.1"
	endingSize   = 4 + len(ending)
	pageSize     = 64 << 10 // a multiple of every processor's pages
	chunkSize    = 4 << 20
	blockSize    = 4 << 10
	frameTrailer = 'E'

	rebuildSuffix = ".rebuild"

	kindNames = "~names" // beside the items: key form NUL host, for each form that a host names besides its own
)

// ErrDamaged says that a snapshot file is not what was written.
var ErrDamaged = errors.New("damaged snapshot")

// errOldTable says that a table is whole, and of another version of the program.
var errOldTable = errors.New("table of another version")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrDamaged, fmt.Errorf(format, args...))
}

// Header says what a snapshot is a snapshot of. Followed from Cursor, its rows
// may be newer than the revisions that come; from CursorEnd on it is one state.
type Header struct {
	Epoch     string `json:"epoch"`
	Cursor    int64  `json:"cursor"`
	CursorEnd int64  `json:"cursor_end"`
	Digest    string `json:"digest,omitempty"` // of the revision Cursor, as of a Place
	Bytes     int64  `json:"bytes"`            // of the whole file
	Body      int64  `json:"body"`             // of the file without its trailer
	SHA256    string `json:"sha256"`           // of the body, in hex
}

// trailer is all that is known of a file.
type trailer struct {
	Header
	Index   int64            `json:"index"` // offset
	Blocks  int64            `json:"blocks"`
	Table   int64            `json:"table"` // offset
	TableN  int64            `json:"tableBytes"`
	Sums    uint32           `json:"sums"` // CRC32C of them
	Counts  map[string]int64 `json:"counts"`
	Refused []string         `json:"refused,omitempty"` // the first of what the table leaves out
}

// file is an open snapshot. Its content is unmapped some time after nothing
// refers to it, its table some time after nothing refers to that.
type file struct {
	path string
	trailer
	table *redirect.Table

	mapped  []byte // up to the table
	index   []byte // entries, within mapped
	offsets []byte // of the entries

	labels atomic.Pointer[map[string]string] // see label
	leads  leads                             // see Naming
}

// grace is how long a mapping outlives the last reference to what stands in it:
// strings of a table may be kept for a moment without it, by a log for example.
var grace = time.Minute // a variable for its test

// unmapAfter gives a cleanup that frees a mapping when the grace is over.
func unmapAfter(grace time.Duration) func([]byte) {
	return func(b []byte) { time.AfterFunc(grace, func() { unmap(b) }) }
}

// openFile maps a snapshot. A file that was cut, or changed at any byte of its
// table or index, is ErrDamaged.
// A table of another version is errOldTable, and the file comes without it.
func openFile(path string) (*file, error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	f := &file{path: path}
	table, err := f.open(src)
	if errors.Is(err, errOldTable) {
		unmap(table)
		runtime.AddCleanup(f, unmapAfter(grace), f.mapped)
		return f, err // for rebuild
	}
	if err != nil {
		unmap(f.mapped)
		unmap(table)
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	runtime.AddCleanup(f, unmapAfter(grace), f.mapped)
	runtime.AddCleanup(f.table, unmapAfter(grace), table)
	return f, nil
}

// open gives the mapping of the table besides, also with an error.
func (f *file) open(src *os.File) (table []byte, err error) {
	if err := f.readTrailer(src); err != nil {
		return nil, err
	}
	if f.mapped, err = mapFile(src, 0, f.Table); err != nil {
		return nil, err
	}
	if table, err = mapFile(src, f.Table, f.TableN); err != nil {
		return nil, err
	}
	if err := f.check(src); err != nil {
		return table, err
	}
	if f.table, err = redirect.Open(table); err != nil {
		return table, fmt.Errorf("%w: %w", errOldTable, err)
	}
	return table, nil
}

// openOrRebuild opens a snapshot. Where its table is of another version of the
// program, it is made anew from the content, which takes time for each redirect,
// and the file at path is replaced.
func openOrRebuild(path string, refused func(error)) (*file, error) {
	f, err := openFile(path)
	if !errors.Is(err, errOldTable) {
		return f, err
	}
	if len(f.Counts) == 0 && f.Epoch == "" {
		return nil, err // a table alone
	}
	tmp := path + rebuildSuffix + tempSuffix
	err = writeFile(tmp, Content{Cursor: Cursor{f.Epoch, f.Cursor}, Digest: f.Digest, About: int(f.Counts[KindRedirect]), End: func() int64 { return f.CursorEnd },
		Items: (&view{base: f}).items("")}, refused)
	if err == nil {
		err = install(tmp, path)
	}
	if err != nil {
		return nil, err
	}
	return openFile(path)
}

func (f *file) readTrailer(src *os.File) error {
	info, err := src.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if size < preambleSize+frameHeader+int64(endingSize) {
		return damaged("%d bytes are too few", size)
	}
	b := make([]byte, preambleSize)
	if _, err := src.ReadAt(b, 0); err != nil {
		return err
	}
	if string(b) != preambleBytes {
		return damaged("it does not begin as a snapshot of this version does")
	}
	b = make([]byte, endingSize)
	if _, err := src.ReadAt(b, size-int64(endingSize)); err != nil {
		return err
	}
	if string(b[4:]) != ending {
		return damaged("it does not end as a snapshot does")
	}
	n := int64(binary.LittleEndian.Uint32(b))
	if n > size-int64(endingSize)-preambleSize || n > 1<<20 {
		return damaged("a trailer of %d bytes in %d", n, size)
	}
	b = make([]byte, n)
	if _, err := src.ReadAt(b, size-int64(endingSize)-n); err != nil {
		return err
	}
	kind, payload, rest, err := cutFrame(b)
	if err != nil || kind != frameTrailer || len(rest) > 0 {
		return damaged("its trailer is none")
	}
	if err := json.Unmarshal(payload, &f.trailer); err != nil {
		return damaged("trailer: %w", err)
	}
	f.Bytes = size
	t := &f.trailer
	sums := t.Table + t.TableN
	if t.Index < preambleSize || t.Table < t.Index || t.Table%pageSize != 0 || t.TableN < 0 || t.Blocks < 0 || t.Blocks > t.Table/8 ||
		t.Body != size-int64(endingSize)-n || t.Body != sums+4*chunks(t.Table-t.Index)+4*chunks(t.TableN) {
		return damaged("its parts do not fit its %d bytes", size)
	}
	return nil
}

func chunks(n int64) int64 { return (n + chunkSize - 1) / chunkSize }

// extent is some bytes of a file.
type extent struct{ at, n int64 }

// readSize is how much of a file is read at once to be checked. It is read, and not
// looked at where it is mapped: what is touched of a mapping is memory of the
// process, and most of a file is touched for nothing else.
const readSize = 256 << 10

// sum is the CRC32C of an extent.
func (e extent) sum(src io.ReaderAt, buf []byte) (sum uint32, err error) {
	for e.n > 0 {
		b := buf[:min(e.n, int64(len(buf)))]
		if _, err := src.ReadAt(b, e.at); err != nil {
			return 0, err
		}
		sum = crc32.Update(sum, castagnoli, b)
		e.at, e.n = e.at+int64(len(b)), e.n-int64(len(b))
	}
	return sum, nil
}

// check compares the sums of index and table.
func (f *file) check(src *os.File) error {
	sums := make([]byte, f.Body-f.Table-f.TableN)
	if _, err := src.ReadAt(sums, f.Table+f.TableN); err != nil {
		return err
	}
	if crc32.Checksum(sums, castagnoli) != f.Sums {
		return damaged("its checksums do not match their own")
	}
	var all []extent
	for _, section := range []extent{{f.Index, f.Table - f.Index}, {f.Table, f.TableN}} {
		for ; section.n > 0; section = (extent{section.at + chunkSize, section.n - chunkSize}) {
			all = append(all, extent{section.at, min(section.n, chunkSize)})
		}
	}
	var wrong atomic.Int64
	wrong.Store(-1)
	var next atomic.Int64
	var workers sync.WaitGroup
	errs := make([]error, min(runtime.GOMAXPROCS(0), len(all)))
	for w := range errs {
		workers.Go(func() {
			buf := make([]byte, readSize)
			for errs[w] == nil {
				i := next.Add(1) - 1
				if i >= int64(len(all)) {
					return
				}
				var sum uint32
				if sum, errs[w] = all[i].sum(src, buf); sum != binary.LittleEndian.Uint32(sums[4*i:]) {
					wrong.Store(i)
				}
			}
		})
	}
	workers.Wait()
	if err := errors.Join(errs...); err != nil {
		return damaged("%w", err) // a disk that has lost it
	}
	if i := wrong.Load(); i >= 0 {
		return damaged("checksum %d of index and table does not match", i)
	}
	head := f.mapped[f.Index:]
	entries := int64(len(head)) - f.padding() - 8*f.Blocks
	if entries < 0 {
		return damaged("%d blocks do not fit the index", f.Blocks)
	}
	f.index, f.offsets = head[:entries], head[entries:entries+8*f.Blocks]
	return nil
}

// padding is what stands between index and table: the last byte of it, if there
// is any, counts it.
func (f *file) padding() int64 {
	return int64(binary.LittleEndian.Uint32(f.mapped[f.Table-4:]))
}

// block is an entry of the index.
type block struct {
	first []byte // name
	data  []byte
	sum   uint32
}

func (f *file) block(i int) (b block, err error) {
	at := binary.LittleEndian.Uint64(f.offsets[8*i:])
	if at > uint64(len(f.index)) {
		return b, damaged("entry %d of the index", i)
	}
	d := decoder{b: f.index[at:]}
	b.first = d.bytes()
	from, n := d.uvarint(), d.uvarint()
	if d.err != nil || len(d.b) < 4 || from > uint64(f.Index) || n > uint64(f.Index)-from {
		return b, damaged("entry %d of the index", i)
	}
	b.data, b.sum = f.mapped[from:from+n], binary.LittleEndian.Uint32(d.b)
	return b, nil
}

// scan calls fn with the items from a name on, in order, until it gives false.
// The item's Value lives in the file.
func (f *file) scan(from string, fn func(*Item) bool) (err error) {
	defer runtime.KeepAlive(f)
	i := sort.Search(int(f.Blocks), func(i int) bool {
		b, berr := f.block(i)
		if berr != nil {
			err = berr
		}
		return string(b.first) > from
	})
	var d decoder
	for i = max(i-1, 0); err == nil && i < int(f.Blocks); i++ {
		b, err := f.block(i)
		if err != nil {
			return err
		}
		if crc32.Checksum(b.data, castagnoli) != b.sum {
			return damaged("%s: block %d of its content", f.path, i)
		}
		d.b = b.data
		for from != "" && len(d.b) > 0 && d.skipBefore(from) {
		}
		for len(d.b) > 0 && d.err == nil {
			from = ""
			var it Item
			if d.item(&it); d.err == nil && !fn(&it) {
				return nil
			}
		}
		if d.err != nil {
			return damaged("%s: block %d of its content: %w", f.path, i, d.err)
		}
	}
	return err
}

// get finds one item; nil if there is none.
func (f *file) get(kind, key string) (found *Item, err error) {
	err = f.scan(name(kind, key), func(it *Item) bool {
		if it.Kind == kind && it.Key == key {
			found = it
		}
		return false
	})
	return found, err
}

// find is get for those who ask often: it makes nothing but the item, which does
// not live in the file.
func (f *file) find(kind, key string) (*Item, error) {
	defer runtime.KeepAlive(f)
	// The last block whose first name is not behind the one that is looked for.
	low, high := 0, int(f.Blocks)
	for low < high {
		mid := int(uint(low+high) >> 1)
		b, err := f.block(mid)
		if err != nil {
			return nil, err
		}
		if behind(b.first, kind, key) {
			high = mid
		} else {
			low = mid + 1
		}
	}
	if low == 0 {
		return nil, nil
	}
	b, err := f.block(low - 1)
	if err != nil {
		return nil, err
	}
	if crc32.Checksum(b.data, castagnoli) != b.sum {
		return nil, damaged("%s: block %d of its content", f.path, low-1)
	}
	d := decoder{b: b.data}
	for len(d.b) > 0 && d.err == nil {
		k, name := d.bytes(), d.bytes()
		source, team := d.bytes(), d.bytes()
		rev, since, value := d.varint(), d.time(), d.bytes()
		if string(k) == kind && string(name) == key && d.err == nil {
			it := &Item{Kind: kind, Key: key, Source: f.label(source), Team: f.label(team), Rev: rev, Since: since}
			if len(value) > 0 {
				it.Value = append(it.Value, value...)
			}
			return it, nil
		}
	}
	if d.err != nil {
		return nil, damaged("%s: block %d of its content: %w", f.path, low-1, d.err)
	}
	return nil, nil
}

// behind reports whether a name comes after that of kind and key.
func behind(n []byte, kind, key string) bool {
	k := len(kind)
	switch {
	case len(n) <= k:
		return string(n) > kind[:len(n)]
	case string(n[:k]) != kind:
		return string(n[:k]) > kind
	case n[k] != 0:
		return true
	}
	return string(n[k+1:]) > key
}

// maxLabels bounds the names of sources and teams that a file keeps; there are few.
const maxLabels = 1000

// label gives a string of the name of a source or team, the same one for the same
// bytes.
func (f *file) label(b []byte) string {
	known := f.labels.Load()
	if known != nil {
		if s, ok := (*known)[string(b)]; ok {
			return s
		}
	}
	s := string(b)
	next := map[string]string{}
	if known != nil && len(*known) < maxLabels {
		maps.Copy(next, *known)
	}
	next[s] = s
	f.labels.Store(&next) // of two at once one is forgotten, and comes again
	return s
}

// prefix calls fn with the items of a kind whose keys begin with a text.
func (f *file) prefix(kind, prefix string, fn func(*Item)) error {
	return f.scan(name(kind, prefix), func(it *Item) bool {
		if it.Kind != kind || !strings.HasPrefix(it.Key, prefix) {
			return false
		}
		fn(it)
		return true
	})
}

// claims lists the hosts that name a form besides their own.
func (f *file) claims(form fingerpost.HostPattern) (hosts []string, err error) {
	prefix := string(form) + "\x00"
	err = f.prefix(kindNames, prefix, func(it *Item) { hosts = append(hosts, it.Key[len(prefix):]) })
	return hosts, err
}

// verify reads all content and checks it, unless it is told to stop. What has been
// removed meanwhile needs no check.
func (f *file) verify(stop <-chan struct{}) error {
	src, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer src.Close()
	// The blocks stand one behind another, and so do their entries.
	content := bufio.NewReaderSize(io.NewSectionReader(src, preambleSize, f.Index-preambleSize), readSize)
	entries := bufio.NewReaderSize(io.NewSectionReader(src, f.Index, int64(len(f.index))), 16<<10)
	at := int64(preambleSize)
	for i := range f.Blocks {
		select {
		case <-stop:
			return nil
		default:
		}
		b, want, err := readEntry(entries)
		if err != nil {
			return damaged("%s: entry %d of the index: %w", f.path, i, err)
		}
		if b.at != at {
			return damaged("%s: block %d of its content does not follow on the one before", f.path, i)
		}
		var sum uint32
		for at += b.n; b.n > 0 && err == nil; {
			var some []byte
			some, err = content.Peek(int(min(b.n, readSize)))
			sum = crc32.Update(sum, castagnoli, some)
			b.n -= int64(len(some))
			content.Discard(len(some))
		}
		if err != nil {
			return damaged("%s: block %d of its content: %w", f.path, i, err)
		}
		if sum != want {
			return damaged("%s: block %d of its content", f.path, i)
		}
	}
	if at != f.Index {
		return damaged("%s: its content has %d bytes in blocks and %d in all", f.path, at, f.Index)
	}
	return nil
}

// readEntry reads where a block is, and its sum; see block.
func readEntry(r *bufio.Reader) (b extent, sum uint32, err error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return b, 0, err
	}
	if _, err := r.Discard(int(n)); err != nil {
		return b, 0, err
	}
	at, err := binary.ReadUvarint(r)
	if err != nil {
		return b, 0, err
	}
	n, err = binary.ReadUvarint(r)
	if err != nil {
		return b, 0, err
	}
	var four [4]byte
	_, err = io.ReadFull(r, four[:])
	return extent{int64(at), int64(n)}, binary.LittleEndian.Uint32(four[:]), err
}
