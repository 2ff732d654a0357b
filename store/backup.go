package store

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"
)

// A backup is gzip over lines of JSON, which either engine writes and reads:
//
//	{"fingerpost":"backup","format":1,"at":…,"head":{…}}
//	{"table":"items","columns":["kind",…]}      then its rows, each a list
//	["host","shop.example",…]
//	…
//	{"end":true,"rows":123,"sha256":…}          over all bytes before this line
//
// The order of the rows is that of the primary keys. Columns go by name: a later
// program can read an older backup.
const backupFormat = 1

// dumpedTable lists columns as name:type, the type i for numbers, s for text, b
// for booleans; the first key columns are the primary key.
type dumpedTable struct {
	name    string
	key     int
	columns string
}

// Not in a backup: the feed's changes (no cursor survives a restore), receipts,
// and what nodes report anew (nodes, snapshots).
var dumped = []dumpedTable{
	{"feed", 1, "shard:i rev:i floor:i history_floor:i epoch:s"},
	{"items", 2, "kind:s key:s rev:i since:i source:s team:s value:s"},
	{"history", 4, "kind:s key:s until:i rev:i since:i source:s team:s value:s"},
	{"revisions", 1, "rev:i at:i who:s token:s note:s added:i changed:i removed:i"},
	{"versions", 1, "name:s rev:i at:i who:s note:s"},
	{"audit", 1, "seq:i at:i rev:i who:s token:s action:s kind:s key:s before:s after:s hash:s"},
	{"audit_head", 1, "id:i seq:i hash:s"},
	{"teams", 1, "name:s title:s review:b created:i"},
	{"users", 1, "name:s email:s password:s subject:s roles:s disabled:b created:i seen:i"},
	{"tokens", 1, "id:s hash:s name:s owner:s scope:s role:s team:s created:i expires:i used:i"},
	{"sources", 1, "label:s kind:s url:s settings:s team:s state:s error:s rev:i version:s paused:b checked:i"},
	{"leases", 1, "name:s holder:s fence:i expires:i"},
	{"drafts", 1, "id:s team:s state:s author:s reviewer:s note:s changeset:s base:i created:i updated:i"},
	{"jobs", 1, "id:s kind:s state:s owner:s done:i total:i result:s created:i updated:i"},
	{"changesets", 1, "id:s state:s mode:s source:s kinds:s take:b who:s token:s note:s count:i chunk:i seen:i"},
	{"records", 2, "kind:s key:s value:s"},
	{"staged", 3, "changeset:s kind:s key:s op:s since:i source:s team:s value:s"},
}

func (d *dumpedTable) fields() (names, types []string) {
	for field := range strings.FieldsSeq(d.columns) {
		name, kind, _ := strings.Cut(field, ":")
		names, types = append(names, name), append(types, kind)
	}
	return names, types
}

type backupHeader struct {
	Fingerpost string    `json:"fingerpost"`
	Format     int       `json:"format"`
	At         time.Time `json:"at"`
	Head       Head      `json:"head"`
}

type backupTable struct {
	Table   string   `json:"table"`
	Columns []string `json:"columns"`
}

type backupEnd struct {
	End    bool   `json:"end"`
	Rows   int64  `json:"rows"`
	SHA256 string `json:"sha256"`
}

// Backup writes all that is worth keeping to w, as of one instant, in bounded
// memory; commits go on meanwhile. It holds hashes of passwords and tokens, and
// what items hold: keep it as you keep the database. On nil all of it has been
// written; to have it on disk is the caller's part.
func (db *DB) Backup(ctx context.Context, w io.Writer) (Head, error) {
	var head Head
	zip := gzip.NewWriter(w)
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(zip, sum), 1<<16)
	lines := &counter{w: out}
	enc := json.NewEncoder(lines)
	enc.SetEscapeHTML(false)
	end := backupEnd{End: true}
	err := db.View(ctx, func(v *View) error {
		head = v.Head
		if err := enc.Encode(backupHeader{"backup", backupFormat, db.now().UTC(), head}); err != nil {
			return err
		}
		for _, d := range dumped {
			n, err := d.write(ctx, v.t, enc, lines)
			if err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
			end.Rows += n
		}
		return nil
	})
	if err == nil {
		err = out.Flush()
	}
	if err == nil {
		end.SHA256 = hex.EncodeToString(sum.Sum(nil))
		err = json.NewEncoder(zip).Encode(end)
	}
	if err == nil {
		err = zip.Close()
	}
	if err != nil {
		return head, fmt.Errorf("backup: %w", err)
	}
	return head, nil
}

// counter counts the bytes that go through it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.w.Write(p)
}

func (d *dumpedTable) write(ctx context.Context, t tx, enc *json.Encoder, lines *counter) (n int64, err error) {
	names, types := d.fields()
	if err := enc.Encode(backupTable{d.name, names}); err != nil {
		return 0, err
	}
	row := make([]any, len(types))
	for i, kind := range types {
		row[i] = newField(kind)
	}
	err = each(ctx, t, func(r rows) error {
		n++
		if err := r.Scan(row...); err != nil {
			return err
		}
		before := lines.n
		if err := enc.Encode(row); err != nil {
			return err
		}
		if lines.n-before > maxBackupLine {
			return fmt.Errorf("%w: row %d takes %d bytes in a backup, and %d are read back", ErrTooLarge, n, lines.n-before, maxBackupLine)
		}
		return nil
	}, `SELECT `+strings.Join(names, ", ")+` FROM `+d.name+` ORDER BY `+strings.Join(names[:d.key], ", "))
	return n, err
}

func newField(kind string) any {
	switch kind {
	case "i":
		return new(int64)
	case "b":
		return new(bool)
	}
	return new(string)
}

// maxBackupLine bounds the memory that a damaged backup can take. A line of the audit
// holds two values, which as text in JSON are up to twice as long; one that is
// longer is an error when it is written.
const maxBackupLine = 64 << 20

// ReadBackup fills an empty store from what [DB.Backup] wrote, in one
// transaction: on nil all of it is on disk, after an error nothing is. The store
// has another epoch then, so that every follower fetches a snapshot. People,
// tokens and settings that the store has already are replaced.
//
// [ErrExists]: the store is not empty, it has revisions. [ErrCorrupt]: the backup is cut or
// damaged. [ErrInvalid]: it is no backup, or of a later format. It is not
// retried, since r cannot be read twice.
func (db *DB) ReadBackup(ctx context.Context, r io.Reader) (Head, error) {
	var head Head
	err := db.engine.write(ctx, func(t tx) error {
		if err := lockFeed(ctx, t, &head, 0); err != nil {
			return err
		}
		if head.Rev != 0 {
			return fmt.Errorf("%w: the store is at revision %d: restore into an empty one", ErrExists, head.Rev)
		}
		for _, d := range dumped {
			if err := t.run(ctx, do(`DELETE FROM `+d.name)); err != nil {
				return err
			}
		}
		in, err := newBackupReader(r)
		if err != nil {
			return err
		}
		for in.next() {
			if err := in.table(ctx, t); err != nil {
				return err
			}
		}
		if in.err != nil {
			return in.err
		}
		// Nothing can be told from before; holders of leases are gone, their fences stay.
		return t.run(ctx,
			do(`UPDATE feed SET epoch = $1, floor = rev WHERE shard = 0`, newEpoch()),
			do(`UPDATE leases SET holder = '', expires = 0`),
			one(new(bool), head.dest(), `SELECT `+headColumns+` FROM feed WHERE shard = 0`))
	})
	if err != nil {
		return Head{}, fmt.Errorf("restore: %w", err)
	}
	db.announce()
	return head, nil
}

// backupReader reads line by line, one ahead.
type backupReader struct {
	lines *bufio.Reader
	sum   hash.Hash
	line  []byte // the next one
	count int64
	rows  int64
	err   error
}

func newBackupReader(r io.Reader) (*backupReader, error) {
	zip, err := gzip.NewReader(bufio.NewReaderSize(r, 1<<16))
	if err != nil {
		return nil, invalid("no backup: %v", err)
	}
	in := &backupReader{lines: bufio.NewReaderSize(zip, 1<<16), sum: sha256.New()}
	if !in.read() {
		return nil, in.err
	}
	var h backupHeader
	if err := json.Unmarshal(in.line, &h); err != nil || h.Fingerpost != "backup" {
		return nil, invalid("no backup: it begins with %.40q", in.line)
	}
	if h.Format != backupFormat {
		return nil, invalid("the backup has the format %d, and this program reads %d", h.Format, backupFormat)
	}
	in.sum.Write(in.line)
	in.read()
	return in, in.err
}

// read gets the next line, which is not yet part of the sum.
func (in *backupReader) read() bool {
	in.line = in.line[:0]
	in.count++
	for {
		part, err := in.lines.ReadSlice('\n')
		in.line = append(in.line, part...)
		switch {
		case err == nil:
			return true
		case errors.Is(err, bufio.ErrBufferFull) && len(in.line) < maxBackupLine:
		default:
			in.err = fmt.Errorf("%w: the backup ends in line %d: %v", ErrCorrupt, in.count, err)
			return false
		}
	}
}

// next reports whether a table comes, and checks the end otherwise.
func (in *backupReader) next() bool {
	if in.err != nil {
		return false
	}
	var end backupEnd
	if err := json.Unmarshal(in.line, &end); err != nil {
		in.err = fmt.Errorf("%w: line %d of the backup: %v", ErrCorrupt, in.count, err)
		return false
	}
	if !end.End {
		return true
	}
	if sum := hex.EncodeToString(in.sum.Sum(nil)); end.SHA256 != sum || end.Rows != in.rows {
		in.err = fmt.Errorf("%w: the backup's sum is %s and %d rows, and it says %s and %d", ErrCorrupt, sum, in.rows, end.SHA256, end.Rows)
	} else if _, err := in.lines.ReadByte(); !errors.Is(err, io.EOF) {
		in.err = fmt.Errorf("%w: the backup goes on behind its end", ErrCorrupt) // also where gzip's own sum fails
	}
	return false
}

// table reads the rows of one table into t.
func (in *backupReader) table(ctx context.Context, t tx) error {
	var head backupTable
	if err := json.Unmarshal(in.line, &head); err != nil {
		return fmt.Errorf("%w: line %d of the backup: %v", ErrCorrupt, in.count, err)
	}
	var types []string
	for _, d := range dumped {
		if d.name != head.Table {
			continue
		}
		names, kinds := d.fields()
		if strings.Join(names, " ") != strings.Join(head.Columns, " ") {
			return invalid("the backup's table %s has the columns %v, and this program has %v", d.name, head.Columns, names)
		}
		types = kinds
	}
	if types == nil {
		return invalid("the backup has a table %q, which this program does not know", head.Table)
	}
	in.sum.Write(in.line)
	for {
		chunk, bytes := [][]any{}, 0
		for len(chunk) < chunkRows/2 && bytes < chunkBytes {
			if !in.read() {
				return in.err
			}
			if in.line[0] != '[' {
				break
			}
			in.sum.Write(in.line)
			row, err := parseRow(in.line, types)
			if err != nil {
				return fmt.Errorf("%w: line %d of the backup: %v", ErrCorrupt, in.count, err)
			}
			chunk = append(chunk, row)
			bytes += len(in.line)
			in.rows++
		}
		if err := t.fill(ctx, head.Table, head.Columns, len(chunk), func(i int) []any { return chunk[i] }); err != nil {
			return fmt.Errorf("%s: %w", head.Table, err)
		}
		if in.line[0] != '[' {
			return nil
		}
	}
}

func parseRow(line []byte, types []string) ([]any, error) {
	fields := make([]any, len(types))
	for i, kind := range types {
		fields[i] = newField(kind)
	}
	row := fields
	if err := json.Unmarshal(line, &row); err != nil {
		return nil, err
	}
	if len(row) != len(types) {
		return nil, fmt.Errorf("%d fields in place of %d", len(row), len(types))
	}
	for i, f := range fields {
		switch f := f.(type) {
		case *int64:
			fields[i] = *f
		case *bool:
			fields[i] = *f
		case *string:
			fields[i] = *f
		default:
			return nil, fmt.Errorf("field %d is null", i+1)
		}
	}
	return fields, nil
}
