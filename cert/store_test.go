package cert

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fingerpost/internal/testca"
)

// lying is a certificate with a key that says it is the certificate's, and is not:
// in its private part a bit has turned.
func lying(t *testing.T, name, host string) map[string][]byte {
	t.Helper()
	key := testca.NewKey()
	certPEM, keyPEM := ca.IssueFrom(testca.Template(host), key)
	block, _ := pem.Decode(keyPEM)
	private, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(block.Bytes, private)
	if at < 0 {
		t.Fatal("the key does not hold itself")
	}
	block.Bytes[at+len(private)-1] ^= 1
	return map[string][]byte{name + ".crt": certPEM, name + ".key": pem.EncodeToMemory(block)}
}

// TestAKeyIsBelievedButChecked: a start goes by what a key says about itself. It is
// not served where that is wrong, and the next reading says so.
func TestAKeyIsBelievedButChecked(t *testing.T) {
	s := open(t, pair("good", "good.example"), pair("wild", "*.bad.example"), lying(t, "lying", "a.bad.example"))
	if got := names(s.Index()); len(got) != 3 {
		t.Fatalf("loaded %v", got)
	}
	for host, want := range map[string]string{"good.example": "good", "a.bad.example": "wild"} {
		got, err := handshake(t, s, &tls.Config{ServerName: host})
		if err != nil || !got.Equal(leafOf(t, s.Index().Named(want))) {
			t.Errorf("%s: got %v, %v; want %s", host, got, err, want)
		}
	}
	changed, _, err := s.Reload()
	if !changed || err == nil || !strings.Contains(err.Error(), "does not belong to the key") {
		t.Errorf("changed %v, %v", changed, err)
	}
	if s.Index().Named("lying") != nil || s.Index().Named("good") == nil {
		t.Errorf("loaded %v", names(s.Index()))
	}
	if x, _, err := Load(s.dir); err == nil || x.Len() != 2 {
		t.Errorf("Load, which nothing follows, believes the key: %v", err)
	}
}

// TestReloadTellsWhetherSomethingChanged: by the bytes of the files and not their
// dates, and what has not changed stays the same in memory.
func TestReloadTellsWhetherSomethingChanged(t *testing.T) {
	s := open(t, pair("a", "a.example"), pair("b", "b.example"))
	a, b := s.Index().Named("a"), s.Index().Named("b")
	reload := func(want bool, what string) {
		t.Helper()
		changed, warnings, err := s.Reload()
		if changed != want || err != nil || len(warnings) > 0 {
			t.Errorf("%s: changed %v, %v, %v", what, changed, warnings, err)
		}
	}
	old := time.Now().Add(-time.Hour)
	touch := func(names ...string) {
		for _, name := range names {
			if err := os.Chtimes(filepath.Join(s.dir, name), old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	reload(false, "the first time, when what was believed is checked")
	touch("a.crt", "a.key", "b.crt", "b.key")
	reload(false, "touched")
	reload(false, "nothing")
	if s.Index().Named("a") != a || s.Index().Named("b") != b {
		t.Error("what has not changed was read into new memory")
	}
	next := pair("a", "a.example")
	for name, text := range next { // as large, and with the same time: another file
		write(t, s.dir, name+".new", text)
		os.Chtimes(filepath.Join(s.dir, name+".new"), old, old)
		if err := os.Rename(filepath.Join(s.dir, name+".new"), filepath.Join(s.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	reload(true, "replaced")
	if s.Index().Named("a") == a || s.Index().Named("b") != b {
		t.Error("want a new a and the same b")
	}
	os.Remove(filepath.Join(s.dir, "b.crt"))
	os.Remove(filepath.Join(s.dir, "b.key"))
	reload(true, "removed")
	os.RemoveAll(s.dir)
	for i, want := range []bool{true, false} {
		if changed, _, err := s.Reload(); changed != want || err == nil {
			t.Errorf("the folder is gone, look %d: changed %v, %v", i+1, changed, err)
		}
	}
}
