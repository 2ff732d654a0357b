package cert

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func sealer(t testing.TB, secrets ...string) *Sealer {
	t.Helper()
	s, err := NewSealer(strings.Join(secrets, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSealedOpensForItsPurposeAndSecretOnly(t *testing.T) {
	first, second := NewSecret(), NewSecret()
	s := sealer(t, first)
	sealed := s.Seal("certificate shop", []byte("the key"))
	if bytes.Contains(sealed, []byte("the key")) {
		t.Fatal("it can be read")
	}
	plain, err := s.Open("certificate shop", sealed)
	if err != nil || string(plain) != "the key" {
		t.Fatalf("%q, %v", plain, err)
	}
	for name, open := range map[string]func() ([]byte, error){
		"another purpose": func() ([]byte, error) { return s.Open("certificate other", sealed) },
		"another secret":  func() ([]byte, error) { return sealer(t, second).Open("certificate shop", sealed) },
		"nothing":         func() ([]byte, error) { return s.Open("certificate shop", nil) },
	} {
		if plain, err := open(); !errors.Is(err, ErrSealed) || plain != nil {
			t.Errorf("%s: %q, %v", name, plain, err)
		}
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if _, err := s.Open("certificate shop", changed); !errors.Is(err, ErrSealed) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := s.Open("certificate shop", sealed[:i]); !errors.Is(err, ErrSealed) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
}

func TestANewSecretBeforeTheOldOneOpensBoth(t *testing.T) {
	first, second := NewSecret(), NewSecret()
	before := sealer(t, first).Seal("p", []byte("old"))
	rotated := sealer(t, second, first)
	if plain, err := rotated.Open("p", before); err != nil || string(plain) != "old" {
		t.Errorf("what the old one sealed: %q, %v", plain, err)
	}
	if _, err := sealer(t, second).Open("p", rotated.Seal("p", []byte("new"))); err != nil {
		t.Errorf("what is sealed now needs the new one only: %v", err)
	}
	if sealer(t, first).Derive("tickets") == sealer(t, first).Derive("labels") {
		t.Error("two uses have one key")
	}
}

func TestASecretIsChangedInThreeSteps(t *testing.T) {
	old := sealer(t, NewSecret())
	before := old.Seal("p", []byte("key"))
	added := sealer(t, old.Added())
	if ids := added.IDs(); len(ids) != 2 || ids[1] != old.ID() {
		t.Fatalf("secrets %v, want a new one before %s", ids, old.ID())
	}
	if added.SealWith("nobody") || !added.SealWith(old.ID()) || added.ID() != old.ID() {
		t.Error("it does not go on with the old one")
	}
	if _, err := old.Open("p", added.Seal("p", nil)); err != nil {
		t.Errorf("a node that has the old one only: %v", err)
	}
	used := sealer(t, old.Added()) // as a file is read: the newest first
	again, err := used.Reseal("p", before)
	if err != nil || used.Which(before) != old.ID() || used.Which(again) != used.ID() || used.Which(nil) != "" {
		t.Errorf("sealed anew: %v", err)
	}
	alone := sealer(t, used.Alone())
	if len(alone.IDs()) != 1 || alone.ID() != used.ID() {
		t.Errorf("left are %v, want %s", alone.IDs(), used.ID())
	}
	if plain, err := alone.Open("p", again); err != nil || string(plain) != "key" {
		t.Errorf("%q, %v", plain, err)
	}
	if _, err := alone.Open("p", before); !errors.Is(err, ErrSealed) {
		t.Errorf("the old secret is still there: %v", err)
	}
	// Once more, and the CNAMEs of customers are still what they were.
	twice := sealer(t, sealer(t, alone.Added()).Alone())
	for name, s := range map[string]*Sealer{"added": added, "used": used, "alone": alone, "twice": twice} {
		if s.Labels() != old.Labels() {
			t.Errorf("%s: the labels are others", name)
		}
	}
	if old.Alone() == alone.Alone() || strings.Contains(old.Alone(), labelsPrefix) {
		t.Error("a secret that was never changed has labels of its own")
	}
}

func TestSecretFileIsMadeOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cluster.key")
	first, made, err := OpenSecret(file)
	if err != nil || !made {
		t.Fatal(made, err)
	}
	again, made, err := OpenSecret(file)
	if err != nil || made || again != first {
		t.Errorf("made %v, the same %v, %v", made, again == first, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(file)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	for name, text := range map[string]string{"empty": "", "short": "fpk_abc", "no prefix": strings.TrimPrefix(first, secretPrefix), "one of two": first + "fpk_abc", "labels alone": sealer(t, sealer(t, first).Added()).labelsText(), "labels that are cut": first + "fpl_abc"} {
		if s, err := NewSealer(text); err == nil || s != nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}
