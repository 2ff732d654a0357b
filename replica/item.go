package replica

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/redirect"
)

// The kinds of items that a table is made of. Items of other kinds are kept and
// given out, and mean nothing here.
const (
	KindHost     = "host"     // key: the host pattern
	KindRedirect = "redirect" // key: host pattern, slash, id
)

// Cursor is a place in the feed: behind revision Rev. It means nothing in
// another epoch.
type Cursor struct {
	Epoch string `json:"epoch"`
	Rev   int64  `json:"rev"`
}

func (c Cursor) String() string { return fmt.Sprintf("%s:%d", c.Epoch, c.Rev) }

// Place is a cursor, with the digest of the revision that it stands behind where
// that is known. A database that was set back, and has written on, may have another
// revision of that number: then the digests differ.
type Place struct {
	Cursor
	Digest string
}

// digestOf begins with the version of the form, so that one of another version is
// told from one that differs.
func digestOf(r *Revision) string {
	sum := sha256.Sum256(appendRevision(nil, r))
	return digestVersion + hex.EncodeToString(sum[:16])
}

const digestVersion = "1-"

// differ reports whether two digests show that revisions are not the same.
func differ(a, b string) bool {
	return strings.HasPrefix(a, digestVersion) && strings.HasPrefix(b, digestVersion) && a != b
}

// Head is where a feed ends, and begins: changes behind Floor are there.
type Head struct {
	Epoch string `json:"epoch"`
	Rev   int64  `json:"rev"`
	Floor int64  `json:"floor"`
}

// Item is one thing of the content, with the fields of a store's item.
type Item struct {
	Kind   string          `json:"kind"`
	Key    string          `json:"key"`
	Value  json.RawMessage `json:"value,omitempty"`
	Source string          `json:"source"`
	Team   string          `json:"team,omitempty"`
	Since  time.Time       `json:"since,omitzero"` // to the microsecond
	Rev    int64           `json:"rev,omitempty"`  // of its last change
}

// Op is what a change does.
type Op string

const (
	Put    Op = "put"
	Delete Op = "delete"
	Reload Op = "snapshot" // stands alone in its revision: more changed than is told, fetch a snapshot
)

// Change is one change of a revision. Of a Put, Item is what the item is from
// then on; of a Delete only Kind and Key count.
type Change struct {
	Op   Op   `json:"op"`
	Item Item `json:"item"`
}

// Revision is all that changed in one revision.
type Revision struct {
	Rev     int64     `json:"rev"`
	At      time.Time `json:"at"` // to the microsecond
	Changes []Change  `json:"changes"`
}

func (r *Revision) reloads() bool { return len(r.Changes) > 0 && r.Changes[0].Op == Reload }

// name is what items are ordered and found by: kind, NUL, key. No kind has a
// NUL, so that the order is that of kinds, then of keys.
func name(kind, key string) string { return kind + "\x00" + key }

func (it *Item) name() string { return name(it.Kind, it.Key) }

// form is the host form that a redirect's key puts it under.
func form(key string) fingerpost.HostPattern {
	host, _, _ := strings.Cut(key, "/")
	return fingerpost.HostPattern(host)
}

// host gives the noun of an item of KindHost. Its place is the item's name, by
// which a caller finds the item that an error is about.
func (it *Item) host() (*fingerpost.Host, error) {
	h := new(fingerpost.Host)
	if err := json.Unmarshal(it.Value, h); err != nil {
		return nil, it.wrong(err)
	}
	h.Name, h.Since, h.Source.File = it.Key, it.Since, it.label()
	if canonical, err := fingerpost.ParseHostPattern(h.Name); err != nil || string(canonical) != h.Name {
		return nil, it.wrong(errors.New("its key is no host pattern"))
	}
	return h, nil
}

// redirect gives the noun of an item of KindRedirect.
func (it *Item) redirect() (r fingerpost.Redirect, err error) {
	if err := json.Unmarshal(it.Value, &r); err != nil {
		return r, it.wrong(err)
	}
	host, id, _ := strings.Cut(it.Key, "/")
	r.ID, r.Since, r.Source.File = id, it.Since, it.label()
	if from, err := redirect.HostOf(r.From); err != nil || string(from) != host {
		return r, it.wrong(fmt.Errorf("its from %q is not of the host in its key", r.From))
	}
	return r, nil
}

func (it *Item) label() string { return it.Kind + " " + it.Key }

func (it *Item) wrong(err error) error {
	return &fingerpost.Error{Code: "bad_item", Message: err.Error(), At: fingerpost.Position{File: it.label()}}
}

// namesOf are the host forms that a host names: those of which the table changes
// when the host does.
func namesOf(h *fingerpost.Host) []fingerpost.HostPattern {
	names := make([]fingerpost.HostPattern, 1, 1+len(h.Also)+len(h.RedirectFrom))
	names[0] = fingerpost.HostPattern(h.Name)
	for _, list := range [][]string{h.Also, h.RedirectFrom} {
		for _, s := range list {
			if p, err := fingerpost.ParseHostPattern(s); err == nil {
				names = append(names, p)
			}
		}
	}
	return names
}

// The binary form of items and revisions, on disk and on the wire:
//
//	string    uvarint length · bytes
//	item      string kind · string key · string source · string team · varint rev · varint since · string value
//	revision  uvarint shard · varint rev · varint at · uvarint n · n changes
//	change    byte op · item
//
// Times are microseconds since 1970; 0 is none. An item of a revision has the
// revision's rev.

var errShort = errors.New("it ends too early")

func appendString[S ~string | ~[]byte](b []byte, s S) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	return binary.AppendVarint(b, t.UnixMicro())
}

func appendItem(b []byte, it *Item) []byte {
	for _, s := range [...]string{it.Kind, it.Key, it.Source, it.Team} {
		b = appendString(b, s)
	}
	b = binary.AppendVarint(b, it.Rev)
	b = appendTime(b, it.Since)
	return appendString(b, it.Value)
}

var opBytes = map[Op]byte{Put: 1, Delete: 2, Reload: 3}

func appendRevision(b []byte, r *Revision) []byte {
	b = append(b, 0) // shard
	b = binary.AppendVarint(b, r.Rev)
	b = appendTime(b, r.At)
	b = binary.AppendUvarint(b, uint64(len(r.Changes)))
	for i := range r.Changes {
		c := &r.Changes[i]
		b = append(b, opBytes[c.Op])
		b = appendItem(b, &c.Item)
	}
	return b
}

// decoder reads the binary form. After an error, which it keeps, it gives zeros.
type decoder struct {
	b   []byte
	err error

	kind, source, team string // the last ones: they repeat
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.b = nil
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail(errShort)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail(errShort)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail(errShort)
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

// bytes gives what stands behind its length, as a part of the input.
func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail(errShort)
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

// again gives a string, the last one of its sort if it is the same.
func (d *decoder) again(last *string) string {
	if b := d.bytes(); string(b) != *last {
		*last = string(b)
	}
	return *last
}

func (d *decoder) time() time.Time {
	us := d.varint()
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// item reads an item, whose Value is a part of the input.
func (d *decoder) item(it *Item) {
	it.Kind = d.again(&d.kind)
	it.Key = string(d.bytes())
	it.Source = d.again(&d.source)
	it.Team = d.again(&d.team)
	it.Rev = d.varint()
	it.Since = d.time()
	it.Value = nil
	if v := d.bytes(); len(v) > 0 {
		it.Value = v
	}
}

// skipBefore passes over the next item if its name is before another one.
func (d *decoder) skipBefore(name string) bool {
	start := d.b
	if kind, key := d.bytes(), d.bytes(); d.err != nil || !before(kind, key, name) {
		d.b = start
		return false
	}
	d.bytes()
	d.bytes()
	d.varint()
	d.varint()
	d.bytes()
	return d.err == nil
}

// before reports whether the name of kind and key is less than another one.
func before(kind, key []byte, name string) bool {
	n := len(kind)
	switch {
	case len(name) <= n:
		return string(kind) < name
	case string(kind) != name[:n]:
		return string(kind) < name[:n]
	case name[n] != 0:
		return true
	}
	return string(key) < name[n+1:]
}

// decodeRevision reads the whole of b, of which the result keeps parts.
func decodeRevision(b []byte) (r Revision, err error) {
	d := decoder{b: b}
	shard := d.uvarint()
	r.Rev, r.At = d.varint(), d.time()
	n := d.uvarint()
	switch {
	case d.err == nil && shard != 0:
		d.fail(fmt.Errorf("shard %d: this version follows one shard", shard))
	case r.Rev <= 0:
		d.fail(fmt.Errorf("revision %d", r.Rev))
	case n == 0 || n > uint64(len(d.b)): // a change has more than one byte
		d.fail(fmt.Errorf("%d changes in %d bytes", n, len(d.b)))
	default:
		r.Changes = make([]Change, 0, min(n, 4096))
	}
	for range n {
		if d.err != nil {
			break
		}
		var c Change
		switch op := d.byte(); op {
		case 1:
			c.Op = Put
		case 2:
			c.Op = Delete
		case 3:
			c.Op = Reload
		default:
			d.fail(fmt.Errorf("op %d", op))
		}
		d.item(&c.Item)
		c.Item.Rev = r.Rev
		if c.Op != Reload && (c.Item.Kind == "" || c.Item.Key == "" || strings.IndexByte(c.Item.Kind, 0) >= 0) {
			d.fail(errors.New("a change of nothing"))
		}
		r.Changes = append(r.Changes, c)
	}
	if d.err == nil && len(d.b) > 0 {
		d.fail(fmt.Errorf("%d bytes too many", len(d.b)))
	}
	if d.err == nil && len(r.Changes) > 1 {
		for i := range r.Changes {
			if r.Changes[i].Op == Reload {
				d.fail(errors.New("a reload among other changes"))
			}
		}
	}
	if d.err != nil {
		return Revision{}, fmt.Errorf("revision: %w", d.err)
	}
	return r, nil
}

// clone makes it independent of what it was read from.
func (it *Item) clone() *Item {
	c := *it
	c.Value = append(json.RawMessage(nil), it.Value...)
	return &c
}
