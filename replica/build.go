package replica

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/crc32"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fingerpost"
	"fingerpost/redirect"
)

// Content is all items of one state, to be made into a snapshot.
type Content struct {
	Cursor Cursor                  // read before the first item
	Digest string                  // of its revision, as of a Place; may be left empty
	About  int                     // how many redirects there are, about; 0 where that is not known
	Items  iter.Seq2[*Item, error] // in the order of Kind, then Key; an item is the receiver's until the next
	End    func() int64            // the newest revision, asked for after the last item; nil if the items are of one instant
}

// preambleBytes is the preamble as it stands in a file.
var preambleBytes = preamble + strings.Repeat("\x00", preambleSize-len(preamble))

// writeFile builds a snapshot at path, which must be a name that nothing reads
// yet. It is on disk when this returns nil. What is wrong with an item keeps it
// out of the table, not out of the content, and is told to refused.
func writeFile(path string, c Content, refused func(error)) (err error) {
	b, err := newFileBuilder(path)
	if err != nil {
		return err
	}
	defer func() {
		b.dst.Close()
		if err != nil {
			os.Remove(path)
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	table, err := b.items(c, refused)
	if err != nil {
		return err
	}
	end := c.Cursor.Rev
	if c.End != nil {
		end = max(end, c.End())
	}
	b.t.Epoch, b.t.Cursor, b.t.CursorEnd, b.t.Digest = c.Cursor.Epoch, c.Cursor.Rev, end, c.Digest
	return b.finish(table)
}

// WriteTable writes a table, without the content that it was made of, as
// OpenTable reads it. It replaces what is at path, at once and durably.
func WriteTable(path string, t *redirect.Table) error {
	tmp := path + ".tmp"
	b, err := newFileBuilder(tmp)
	if err != nil {
		return err
	}
	defer b.dst.Close()
	if err := b.finish(t); err != nil {
		os.Remove(tmp)
		return fmt.Errorf("write %s: %w", path, err)
	}
	return install(tmp, path)
}

// OpenTable maps the table of a file that WriteTable or a replica wrote. It stays
// mapped for as long as something refers to the table, and for a minute longer:
// strings of its answers must not be kept beyond that.
func OpenTable(path string) (*redirect.Table, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err // a table of another version too: there is nothing to make it of
	}
	return f.table, nil
}

// install gives a finished file its name. It has it, durably, on return.
func install(tmp, path string) error {
	if err := os.Rename(tmp, path); err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// fileBuilder writes the parts of a snapshot one after another.
type fileBuilder struct {
	dst *os.File
	w   *bufio.Writer
	sha hash.Hash
	at  int64
	t   trailer

	block   []byte // items that are not written yet
	first   string // name of the first of them
	index   []byte // entries
	offsets []byte // of the entries
	last    string // name of the item before
	sums    []byte
}

func newFileBuilder(path string) (*fileBuilder, error) {
	dst, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	b := &fileBuilder{dst: dst, w: bufio.NewWriterSize(dst, 1<<20), sha: sha256.New(), t: trailer{Counts: map[string]int64{}}}
	return b, b.write([]byte(preambleBytes))
}

func (b *fileBuilder) write(p []byte) error {
	for part := range slices.Chunk(p, 1<<20) { // so that hash and copy find it in a cache
		b.sha.Write(part)
		if _, err := b.w.Write(part); err != nil {
			return err
		}
	}
	b.at += int64(len(p))
	return nil
}

// items writes the content and gives its table. Hosts come before redirects.
func (b *fileBuilder) items(c Content, refused func(error)) (*redirect.Table, error) {
	refuse := func(err error) {
		if len(b.t.Refused) < 20 {
			b.t.Refused = append(b.t.Refused, err.Error())
		}
		if refused != nil {
			refused(err)
		}
	}
	var names []string
	table, err := compileItems(c.Items, c.About, b.item, func(h *fingerpost.Host) {
		for _, form := range namesOf(h)[1:] {
			names = append(names, string(form)+"\x00"+h.Name)
		}
	}, refuse)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, key := range slices.Compact(names) {
		if err := b.item(&Item{Kind: kindNames, Key: key}); err != nil {
			return nil, err
		}
	}
	return table, nil
}

// compileItems gives the table of items, which come in order. each is called with
// every one of them, named with every host.
func compileItems(items iter.Seq2[*Item, error], about int, each func(*Item) error, named func(*fingerpost.Host), refuse func(error)) (*redirect.Table, error) {
	next, stop := iter.Pull2(items)
	defer stop()
	var it *Item
	var failed error
	advance := func() bool {
		var err error
		var ok bool
		if it, err, ok = next(); err == nil && ok {
			err = each(it)
		}
		if !ok {
			it = nil
		}
		failed = err
		return ok && err == nil
	}
	var hosts []fingerpost.Host
	for advance() && it.Kind < KindRedirect {
		if it.Kind != KindHost {
			continue
		}
		h, err := it.host()
		if err != nil {
			refuse(err)
			continue
		}
		hosts = append(hosts, *h)
		named(h)
	}
	redirects := func(yield func(fingerpost.Redirect, error) bool) {
		for failed == nil && it != nil && it.Kind == KindRedirect {
			if r, err := it.redirect(); err != nil {
				refuse(err)
			} else if !yield(r, nil) {
				return
			}
			advance()
		}
		if failed != nil {
			yield(fingerpost.Redirect{}, failed)
		}
	}
	if failed != nil {
		return nil, failed
	}
	table, err := redirect.CompileSorted(hosts, redirects, about, refuse)
	if err != nil {
		return nil, err
	}
	for failed == nil && it != nil {
		advance()
	}
	if failed != nil {
		return nil, failed
	}
	return table, nil
}

func (b *fileBuilder) item(it *Item) error {
	name := it.name()
	if name <= b.last && b.last != "" {
		return fmt.Errorf("items are out of order: %q comes after %q", name, b.last)
	}
	b.last = name
	if len(b.block) == 0 {
		b.first = name
	}
	b.block = appendItem(b.block, it)
	b.t.Counts[it.Kind]++
	if len(b.block) < blockSize {
		return nil
	}
	return b.endBlock()
}

func (b *fileBuilder) endBlock() error {
	if len(b.block) == 0 {
		return nil
	}
	b.offsets = binary.LittleEndian.AppendUint64(b.offsets, uint64(len(b.index)))
	b.index = appendString(b.index, b.first)
	b.index = binary.AppendUvarint(b.index, uint64(b.at))
	b.index = binary.AppendUvarint(b.index, uint64(len(b.block)))
	b.index = binary.LittleEndian.AppendUint32(b.index, crc32.Checksum(b.block, castagnoli))
	b.t.Blocks++
	err := b.write(b.block)
	b.block = b.block[:0]
	return err
}

// section writes a part that is checked in chunks.
func (b *fileBuilder) section(p []byte) error {
	for part := range slices.Chunk(p, chunkSize) {
		b.sums = binary.LittleEndian.AppendUint32(b.sums, crc32.Checksum(part, castagnoli))
	}
	return b.write(p)
}

func (b *fileBuilder) finish(table *redirect.Table) error {
	if err := b.endBlock(); err != nil {
		return err
	}
	// The index is filled up to the table; its last word says by how much.
	b.t.Index = b.at
	index := append(b.index, b.offsets...)
	end := (b.at + int64(len(index)) + 4 + pageSize - 1) / pageSize * pageSize
	padding := make([]byte, end-b.at-int64(len(index)))
	binary.LittleEndian.PutUint32(padding[len(padding)-4:], uint32(len(padding)))
	if err := b.section(append(index, padding...)); err != nil {
		return err
	}
	b.t.Table, b.t.TableN = b.at, int64(len(table.Bytes()))
	if err := b.section(table.Bytes()); err != nil {
		return err
	}
	b.t.Sums = crc32.Checksum(b.sums, castagnoli)
	if err := b.write(b.sums); err != nil {
		return err
	}
	b.t.Body, b.t.SHA256 = b.at, hex.EncodeToString(b.sha.Sum(nil))
	tail := appendJSONFrame(nil, frameTrailer, &b.t)
	tail = binary.LittleEndian.AppendUint32(tail, uint32(len(tail)))
	if _, err := b.w.Write(append(tail, ending...)); err != nil {
		return err
	}
	if err := b.w.Flush(); err != nil {
		return err
	}
	if err := b.dst.Sync(); err != nil {
		return err
	}
	return b.dst.Close()
}
