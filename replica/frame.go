package replica

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A frame is a record that shows whether it is whole: byte type, uint32 length,
// uint32 CRC32C of type, length and payload, then the payload. The feed is a
// stream of frames, and the log is a file of them. Numbers are little-endian.
const (
	frameHead     = 'H' // JSON of a Head: the hello of a feed, and its heartbeat
	frameRevision = 'R' // a revision
	frameSegment  = 'S' // JSON of a Cursor: what a segment of the log follows
	frameSnapshot = 'T' // JSON of a Header: a snapshot begins

	frameHeader = 9
	maxFrame    = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrBadFrame says that a frame is not what was written.
var ErrBadFrame = errors.New("damaged frame")

// beginFrame leaves room for the header of a frame; endFrame fills it in, the
// payload then standing behind.
func beginFrame(b []byte) []byte { return append(b, make([]byte, frameHeader)...) }

func endFrame(b []byte, start int, kind byte) []byte {
	h, payload := b[start:start+frameHeader], b[start+frameHeader:]
	h[0] = kind
	binary.LittleEndian.PutUint32(h[1:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(h[5:], frameSum(h, payload))
	return b
}

func frameSum(header, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(header[:5], castagnoli), castagnoli, payload)
}

func appendRevisionFrame(b []byte, r *Revision) ([]byte, error) {
	start := len(b)
	b = appendRevision(beginFrame(b), r)
	if n := len(b) - start - frameHeader; n > maxFrame {
		return b[:start], fmt.Errorf("revision %d takes %d bytes, more than a frame", r.Rev, n)
	}
	return endFrame(b, start, frameRevision), nil
}

func appendJSONFrame(b []byte, kind byte, v any) []byte {
	start := len(b)
	payload, err := json.Marshal(v)
	if err != nil {
		panic(err) // the types are ours
	}
	return endFrame(append(beginFrame(b), payload...), start, kind)
}

// cutFrame takes the first frame off b. errShort says that b ends within it.
func cutFrame(b []byte) (kind byte, payload, rest []byte, err error) {
	if len(b) < frameHeader {
		return 0, nil, b, errShort
	}
	n := binary.LittleEndian.Uint32(b[1:])
	switch {
	case n > maxFrame:
		return 0, nil, b, fmt.Errorf("%w: %d bytes long", ErrBadFrame, n)
	case uint64(len(b)) < frameHeader+uint64(n):
		return 0, nil, b, errShort
	}
	payload, rest = b[frameHeader:frameHeader+n], b[frameHeader+n:]
	if binary.LittleEndian.Uint32(b[5:]) != frameSum(b[:frameHeader], payload) {
		return 0, nil, b, ErrBadFrame
	}
	return b[0], payload, rest, nil
}

// frameReader reads frames off a stream.
type frameReader struct{ r *bufio.Reader }

// next gives the next frame, whose payload is the caller's. io.EOF stands for an
// end between two frames, io.ErrUnexpectedEOF for one within a frame.
func (f frameReader) next() (kind byte, payload []byte, err error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(f.r, h[:1]); err != nil {
		return 0, nil, err
	}
	if _, err := io.ReadFull(f.r, h[1:]); err != nil {
		return 0, nil, cut(err)
	}
	n := int(binary.LittleEndian.Uint32(h[1:]))
	if n > maxFrame {
		return 0, nil, fmt.Errorf("%w: %d bytes long", ErrBadFrame, n)
	}
	// No more memory than has come: the length may be damaged.
	const step = 1 << 20
	for len(payload) < n {
		at := len(payload)
		payload = append(payload, make([]byte, min(step, n-at))...)
		if _, err := io.ReadFull(f.r, payload[at:]); err != nil {
			return 0, nil, cut(err)
		}
	}
	if binary.LittleEndian.Uint32(h[5:]) != frameSum(h[:], payload) {
		return 0, nil, ErrBadFrame
	}
	return h[0], payload, nil
}

func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Frame is what a feed tells: a revision, or where the feed ends.
type Frame struct {
	Revision *Revision // nil for a head
	Head     Head
}

func decodeFrame(kind byte, payload []byte) (f Frame, err error) {
	switch kind {
	case frameRevision:
		r, err := decodeRevision(payload)
		if err != nil {
			return f, fmt.Errorf("%w: %w", ErrBadFrame, err)
		}
		f.Revision = &r
	case frameHead:
		if err := json.Unmarshal(payload, &f.Head); err != nil {
			return f, fmt.Errorf("%w: head: %w", ErrBadFrame, err)
		}
	default:
		return f, fmt.Errorf("%w: of type %q", ErrBadFrame, kind)
	}
	return f, nil
}
