package cert

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fingerpost"
)

// Sealer encrypts what nobody may read who has only the store, a backup or a
// node's copy: private keys. All nodes of a cluster have the same secret.
//
// What is sealed says which secret opens it, so that there may be several, the newest
// first: everything is sealed with one, the first unless SealWith says which, and
// opened with any.
//
// It opens for its purpose only, which names what it is for: the certificate, the
// account, the request. Who can write to the store without the secret can remove
// things, and put back what stood under the same name before. They cannot have a
// key used in the place of another, nor make one that is taken.
type Sealer struct {
	keys   []sealKey
	seals  int       // the one of keys that is sealed with
	labels *[32]byte // see Labels; nil: from the oldest secret
}

type sealKey struct {
	id     uint32
	begins string // what it seals begins so: version and id, in hexadecimal
	secret []byte
	aead   cipher.AEAD
}

// A secret is written as this prefix and 32 bytes in base64.
const secretPrefix = "fpk_"

// What Labels gives is written so where its secret is no more. It opens nothing.
const labelsPrefix = "fpl_"

// sealVersion is the first byte of what is sealed: AES-256-GCM with the key's id in
// four bytes, a nonce, and the purpose as additional data. The first five bytes say
// which secret opens it, see [fingerpost.Certificate.SealedBy].
const sealVersion = 1

// NewSecret makes a secret for NewSealer, as text.
func NewSecret() string {
	b := make([]byte, 32)
	rand.Read(b)
	return secretPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// NewSealer takes one secret or more, the one to seal with first. They are
// separated by white space, as lines of a file are.
func NewSealer(secrets string) (*Sealer, error) {
	s := new(Sealer)
	for _, text := range strings.Fields(secrets) {
		if text, ok := strings.CutPrefix(text, labelsPrefix); ok {
			if b, err := base64.RawURLEncoding.DecodeString(text); err == nil && len(b) == 32 {
				s.labels = (*[32]byte)(b)
				continue
			}
		}
		secret, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(text, secretPrefix))
		if err != nil || len(secret) != 32 || !strings.HasPrefix(text, secretPrefix) {
			return nil, &fingerpost.Error{Code: "bad_cluster_key", Message: "the cluster key is not one: it begins with " + secretPrefix + " and has 43 characters after it",
				Hint: "copy the file cluster.key from the data folder of another node"}
		}
		k := sealKey{secret: secret}
		k.id = binary.BigEndian.Uint32(k.derive("id", 4))
		k.begins = fmt.Sprintf("%02x%08x", sealVersion, k.id)
		block, err := aes.NewCipher(k.derive("seal", 32))
		if err != nil {
			return nil, err
		}
		if k.aead, err = cipher.NewGCM(block); err != nil {
			return nil, err
		}
		s.keys = append(s.keys, k)
	}
	if len(s.keys) == 0 {
		return nil, &fingerpost.Error{Code: "bad_cluster_key", Message: "the cluster key is empty", Hint: "copy the file cluster.key from the data folder of another node"}
	}
	return s, nil
}

// OpenSecret gives the secret in a file, which it makes if there is none: a node
// that starts alone needs nobody to make one up. The file is for its owner only.
func OpenSecret(file string) (secret string, made bool, err error) {
	text, err := os.ReadFile(file)
	if err == nil {
		return string(text), false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", false, err
	}
	secret = NewSecret() + "\n"
	// Whole or not at all: with half a secret, nothing that was sealed opens again.
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return "", false, err
	}
	defer os.Remove(f.Name()) // without effect once it is renamed
	_, err = f.WriteString(secret)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err == nil {
		err = syncFolder(filepath.Dir(file))
	}
	if err != nil {
		return "", false, err
	}
	return secret, true, nil
}

// syncFolder has a new name in a folder on disk.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// derive makes a key for one use of a secret (RFC 5869).
func (k *sealKey) derive(use string, n int) []byte {
	key, err := hkdf.Key(sha256.New, k.secret, nil, "fingerpost "+use, n)
	if err != nil {
		panic(err) // only for lengths that no use asks for
	}
	return key
}

// Has reports whether the secret with an id, as ID gives it, is one of s.
func (s *Sealer) Has(id string) bool {
	for i := range s.keys {
		if s.keys[i].name() == id {
			return true
		}
	}
	return false
}

// ID names the secret that is sealed with; it tells nothing of it.
func (s *Sealer) ID() string { return s.keys[s.seals].name() }

// IDs names all secrets, in their order.
func (s *Sealer) IDs() []string {
	var ids []string
	for i := range s.keys {
		ids = append(ids, s.keys[i].name())
	}
	return ids
}

// SealWith has all be sealed with the secret of that name from now on, and reports
// whether there is one. It comes before s is used by several goroutines.
func (s *Sealer) SealWith(id string) bool {
	i := slices.Index(s.IDs(), id)
	if i >= 0 {
		s.seals = i
	}
	return i >= 0
}

func (k *sealKey) name() string { return hex.EncodeToString(k.derive("name", 8)) }

// Opens reports whether a secret of s has the name that sealed keys begin with, as
// [fingerpost.Certificate.SealedBy] gives it.
func (s *Sealer) Opens(sealedBy string) bool {
	for i := range s.keys {
		if s.keys[i].begins == sealedBy {
			return true
		}
	}
	return false
}

// Derive gives 32 bytes that all nodes with the same newest secret know, for one use.
func (s *Sealer) Derive(use string) [32]byte { return [32]byte(s.keys[0].derive(use, 32)) }

// Labels is the secret that the targets of customers' CNAMEs follow from. They stay as
// they are when the secrets change: others have written them down.
func (s *Sealer) Labels() [32]byte {
	if s.labels != nil {
		return *s.labels
	}
	return [32]byte(s.keys[len(s.keys)-1].derive("validation labels", 32))
}

// Added is the text for NewSealer of s with one more secret, the newest.
func (s *Sealer) Added() string {
	text := NewSecret() + "\n"
	for i := range s.keys {
		text += s.keys[i].text() + "\n"
	}
	if s.labels != nil {
		text += s.labelsText()
	}
	return text
}

// Alone is the text for NewSealer with no secret but the one that is sealed with, and
// the same labels.
func (s *Sealer) Alone() string {
	text := s.keys[s.seals].text() + "\n"
	if one, err := NewSealer(text); err != nil || one.Labels() != s.Labels() {
		text += s.labelsText()
	}
	return text
}

func (k *sealKey) text() string {
	return secretPrefix + base64.RawURLEncoding.EncodeToString(k.secret)
}

func (s *Sealer) labelsText() string {
	labels := s.Labels()
	return labelsPrefix + base64.RawURLEncoding.EncodeToString(labels[:]) + "\n"
}

// Seal encrypts plain for a purpose: what is sealed for one, such as a
// certificate's name, does not open for another.
func (s *Sealer) Seal(purpose string, plain []byte) []byte {
	k := &s.keys[s.seals]
	out := make([]byte, 5+k.aead.NonceSize(), 5+k.aead.NonceSize()+len(plain)+k.aead.Overhead())
	out[0] = sealVersion
	binary.BigEndian.PutUint32(out[1:], k.id)
	rand.Read(out[5:])
	return k.aead.Seal(out, out[5:], plain, []byte(purpose))
}

// Which names the secret of s that something was sealed with, by what it says itself;
// empty for none of them.
func (s *Sealer) Which(sealed []byte) string {
	for i := range s.keys {
		if len(sealed) >= 5 && sealed[0] == sealVersion && binary.BigEndian.Uint32(sealed[1:]) == s.keys[i].id {
			return s.keys[i].name()
		}
	}
	return ""
}

// Reseal seals anew what was sealed with another secret of s.
func (s *Sealer) Reseal(purpose string, sealed []byte) ([]byte, error) {
	plain, err := s.Open(purpose, sealed)
	if err != nil {
		return nil, err
	}
	return s.Seal(purpose, plain), nil
}

// ErrSealed says that something was sealed with a secret that this node does not
// have, or for another purpose, or was changed since.
var ErrSealed = errors.New("cannot be opened with this node's cluster key")

// Open undoes Seal.
func (s *Sealer) Open(purpose string, sealed []byte) ([]byte, error) {
	if len(sealed) < 5 || sealed[0] != sealVersion {
		return nil, fmt.Errorf("%s: %w", purpose, ErrSealed)
	}
	for i := range s.keys {
		k := &s.keys[i]
		n := k.aead.NonceSize()
		if k.id != binary.BigEndian.Uint32(sealed[1:]) || len(sealed) < 5+n {
			continue
		}
		if plain, err := k.aead.Open(nil, sealed[5:5+n], sealed[5+n:], []byte(purpose)); err == nil {
			return plain, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", purpose, ErrSealed)
}
