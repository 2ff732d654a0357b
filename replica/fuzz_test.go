package replica

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"
	"time"

	"fingerpost"
)

// sampleFeed is a feed as bytes, and what it tells.
func sampleFeed(t testing.TB) (b []byte, frames []Frame) {
	t.Helper()
	since := time.UnixMicro(1_600_000_000_000_001).UTC()
	host, rule := putHost("a.x", fingerpost.Host{Also: []string{"b.x"}}), putRedirect("r1", fingerpost.Redirect{From: "a.x/p", To: "https://t.test/"})
	host.Item.Since, rule.Item.Team = since, "marketing"
	frames = []Frame{
		{Head: Head{"e1", 7, 3}},
		{Revision: &Revision{Rev: 8, At: since, Changes: []Change{host, rule}}},
		{Revision: &Revision{Rev: 9, Changes: []Change{remove(KindRedirect, "a.x/r1")}}},
		{Head: Head{"e1", 9, 3}},
		{Revision: &Revision{Rev: 10, Changes: []Change{{Reload, Item{Key: "changeset-1"}}}}},
	}
	for _, f := range frames {
		if f.Revision == nil {
			b = appendJSONFrame(b, frameHead, f.Head)
			continue
		}
		for i := range f.Revision.Changes {
			f.Revision.Changes[i].Item.Rev = f.Revision.Rev
		}
		var err error
		if b, err = appendRevisionFrame(b, f.Revision); err != nil {
			t.Fatal(err)
		}
	}
	return b, frames
}

func readAll(b []byte) (frames []Frame, err error) {
	err = readFeed(bytes.NewReader(b), func(f Frame) error {
		frames = append(frames, f)
		return nil
	})
	return frames, err
}

func TestFeedRoundTrip(t *testing.T) {
	b, want := sampleFeed(t)
	got, err := readAll(b)
	if err != io.EOF || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
}

// isPrefix reports whether what was read is the beginning of what was sent.
func isPrefix(got, want []Frame) bool {
	return len(got) <= len(want) && (len(got) == 0 || reflect.DeepEqual(got, want[:len(got)]))
}

// TestFeedFlipsAndCuts: whatever happens to one byte, and wherever the stream
// ends, what was read before is a beginning of what was sent, and the rest is an
// error.
func TestFeedFlipsAndCuts(t *testing.T) {
	b, want := sampleFeed(t)
	for at := range b {
		for bit := range 8 {
			flipped := bytes.Clone(b)
			flipped[at] ^= 1 << bit
			got, err := readAll(flipped)
			if err == io.EOF || !isPrefix(got, want) {
				t.Fatalf("bit %d of byte %d: got %+v, %v", bit, at, got, err)
			}
		}
		got, err := readAll(b[:at])
		if err == nil || !isPrefix(got, want) || err == io.EOF && at != 0 && !endsFrame(b[:at]) {
			t.Fatalf("cut at %d: got %+v, %v", at, got, err)
		}
	}
}

func endsFrame(b []byte) bool {
	for len(b) > 0 {
		var err error
		if _, _, b, err = cutFrame(b); err != nil {
			return false
		}
	}
	return true
}

// FuzzFeedDamage replaces a part of a feed by something else.
func FuzzFeedDamage(f *testing.F) {
	b, want := sampleFeed(f)
	f.Add(0, 1, []byte("H"))
	f.Add(9, 4, []byte{})
	f.Add(len(b)-1, 1, []byte{0, 0})
	f.Fuzz(func(t *testing.T, at, n int, by []byte) {
		if at < 0 || at > len(b) || n < 0 || n > len(b)-at {
			return
		}
		damaged := append(append(bytes.Clone(b[:at]), by...), b[at+n:]...)
		got, err := readAll(damaged)
		if err == nil {
			t.Fatal("no error at the end")
		}
		if bytes.Equal(damaged, b) {
			return
		}
		// Whole frames may have been left out, as a cut does, or repeated; none may
		// be another than one that was sent.
		for _, g := range got {
			known := false
			for _, w := range want {
				known = known || reflect.DeepEqual(g, w)
			}
			if !known && !forged(damaged, b) {
				t.Fatalf("got %+v, which was never sent", g)
			}
		}
	})
}

// forged reports whether damage made a frame with a checksum of its own that is
// right: the fuzzer may find out how.
func forged(damaged, b []byte) bool {
	for i := range damaged {
		if _, _, rest, err := cutFrame(damaged[i:]); err == nil {
			frame := damaged[i : len(damaged)-len(rest)]
			if !bytes.Contains(b, frame) {
				return true
			}
		}
	}
	return false
}

// FuzzRevision reads anything as a revision: no panic, and what is read is
// written as it was.
func FuzzRevision(f *testing.F) {
	_, frames := sampleFeed(f)
	for _, fr := range frames {
		if fr.Revision != nil {
			f.Add(appendRevision(nil, fr.Revision))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRevision(b)
		if err != nil {
			return
		}
		again, err := decodeRevision(appendRevision(nil, &r))
		if err != nil || !reflect.DeepEqual(r, again) {
			t.Fatalf("read %+v, then %+v, %v", r, again, err)
		}
	})
}

// FuzzFeed reads anything as a feed.
func FuzzFeed(f *testing.F) {
	b, _ := sampleFeed(f)
	f.Add(b)
	f.Add(appendJSONFrame(nil, frameSnapshot, Header{Epoch: "e1", Bytes: 10, Body: 5}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := readAll(b); err == nil {
			t.Fatal("no error at the end")
		}
	})
}

// FuzzReceive reads anything as a snapshot: an error, or it is whole.
func FuzzReceive(f *testing.F) {
	path, _ := smallFile(f)
	s, err := openSnapshot(path)
	if err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	s.WriteTo(&b)
	s.Close()
	f.Add(b.Bytes()[:200])
	path = f.TempDir() + "/received"
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := receive(path, bytes.NewReader(in))
		if err == nil && !bytes.Equal(in, b.Bytes()) {
			t.Fatalf("received %+v", got.Header)
		}
		if err != nil && errors.Is(err, io.EOF) {
			t.Fatalf("a cut is taken for an end: %v", err)
		}
	})
}
