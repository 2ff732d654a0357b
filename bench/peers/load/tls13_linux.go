package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/mlkem"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"time"
)

// A client of TLS 1.3 (RFC 8446) that is cheap for who runs it: one key share for
// all connections, TLS_AES_128_GCM_SHA256 alone, and no look at certificates,
// signatures or the server's Finished. That both ends have come to the same keys
// is seen from what they open. It is for measuring servers and for nothing else.

// keys are the shares of all connections.
type keys struct {
	x25519 *ecdh.PrivateKey
	mlkem  *mlkem.DecapsulationKey768 // nil: X25519 alone
	group  uint16
	share  []byte
	random [32]byte
}

const (
	groupX25519 = 0x001d
	groupHybrid = 0x11ec // X25519MLKEM768: the post-quantum half comes first
)

func newKeys(hybrid bool) (*keys, error) {
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	k := &keys{x25519: private, group: groupX25519}
	rand.Read(k.random[:])
	if hybrid {
		if k.mlkem, err = mlkem.GenerateKey768(); err != nil {
			return nil, err
		}
		k.group = groupHybrid
		k.share = k.mlkem.EncapsulationKey().Bytes()
	}
	k.share = append(k.share, private.PublicKey().Bytes()...)
	return k, nil
}

// shared is the secret that goes with the share of a server.
func (k *keys) shared(share []byte) (secret []byte, err error) {
	if k.mlkem != nil {
		if len(share) != mlkem.CiphertextSize768+32 {
			return nil, errors.New("the server's key share has another length")
		}
		if secret, err = k.mlkem.Decapsulate(share[:mlkem.CiphertextSize768]); err != nil {
			return nil, err
		}
		share = share[mlkem.CiphertextSize768:]
	}
	public, err := ecdh.X25519().NewPublicKey(share)
	if err != nil {
		return nil, err
	}
	more, err := k.x25519.ECDH(public)
	return append(secret, more...), err
}

// ticket resumes a session.
type ticket struct {
	id, psk []byte
	age     uint32 // that is added to the true one
	got     time.Time
}

// session is one connection's state.
type session struct {
	keys                 *keys
	offered, ticket      *ticket // to the server, from the server
	transcript           hash.Hash
	reading, writing     *direction
	handshake            []byte // secret
	client, server       []byte // secrets of the handshake's traffic
	resumption           []byte
	messages             []byte // of the handshake, not whole yet
	finished, text       []byte
	established, resumed bool
}

const (
	recordChangeCipherSpec = 20
	recordAlert            = 21
	recordHandshake        = 22
	recordData             = 23

	messageClientHello = 1
	messageServerHello = 2
	messageTicket      = 4
	messageFinished    = 20

	hashSize = sha256.Size
)

var (
	zeros     [hashSize]byte
	emptyHash = sha256.Sum256(nil)
)

func newSession(k *keys, offered *ticket) *session {
	return &session{keys: k, offered: offered, transcript: sha256.New()}
}

// appendHello appends the record of a ClientHello.
func (s *session) appendHello(b []byte, host string, now time.Time) []byte {
	start := len(b)
	b = append(b, recordHandshake, 3, 1, 0, 0, messageClientHello, 0, 0, 0, 3, 3)
	b = append(b, s.keys.random[:]...) // the server's is another each time
	b = append(b, 32)
	b = append(b, s.keys.random[:]...)          // as middleboxes like to see it
	b = append(b, 0, 2, 0x13, 0x01, 1, 0, 0, 0) // one cipher suite, no compression, extensions
	extensions := len(b)
	b = binary.BigEndian.AppendUint16(b, 0) // server_name
	b = binary.BigEndian.AppendUint16(b, uint16(len(host)+5))
	b = binary.BigEndian.AppendUint16(b, uint16(len(host)+3))
	b = append(b, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(host)))
	b = append(b, host...)
	b = append(b, 0, 10, 0, 4, 0, 2) // supported_groups
	b = binary.BigEndian.AppendUint16(b, s.keys.group)
	b = append(b, 0, 13, 0, 8, 0, 6, 4, 3, 8, 4, 5, 3) // signature_algorithms: ECDSA P-256, RSA-PSS, ECDSA P-384
	b = append(b, 0, 43, 0, 3, 2, 3, 4)                // supported_versions: TLS 1.3
	b = append(b, 0, 45, 0, 2, 1, 1)                   // psk_key_exchange_modes: with (EC)DHE
	b = append(b, 0, 51)                               // key_share
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.keys.share)+6))
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.keys.share)+4))
	b = binary.BigEndian.AppendUint16(b, s.keys.group)
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.keys.share)))
	b = append(b, s.keys.share...)
	const binders = 2 + 1 + hashSize
	if t := s.offered; t != nil { // pre_shared_key, which must be the last
		b = append(b, 0, 41)
		b = binary.BigEndian.AppendUint16(b, uint16(2+2+len(t.id)+4+binders))
		b = binary.BigEndian.AppendUint16(b, uint16(2+len(t.id)+4))
		b = binary.BigEndian.AppendUint16(b, uint16(len(t.id)))
		b = append(b, t.id...)
		b = binary.BigEndian.AppendUint32(b, uint32(now.Sub(t.got)/time.Millisecond)+t.age)
		b = append(b, 0, 1+hashSize, hashSize)
		b = append(b, zeros[:]...)
	}
	binary.BigEndian.PutUint16(b[extensions-2:], uint16(len(b)-extensions))
	message := b[start+5:]
	binary.BigEndian.PutUint16(b[start+3:], uint16(len(message)))
	binary.BigEndian.PutUint16(message[2:], uint16(len(message)-4))
	if s.offered != nil {
		sum := sha256.Sum256(message[:len(message)-binders])
		key := expand(expand(extract(nil, s.offered.psk), "res binder", emptyHash[:], hashSize), "finished", nil, hashSize)
		copy(message[len(message)-hashSize:], authenticate(key, sum[:]))
	}
	s.transcript.Write(message)
	return b
}

// recordSize is the length of the record that b begins with, or more than b has.
func recordSize(b []byte) int {
	if len(b) < 5 {
		return 5
	}
	return 5 + int(binary.BigEndian.Uint16(b[3:]))
}

// record takes one record, which it decrypts in place, and gives what is data in
// it.
func (s *session) record(b []byte, now time.Time) (data []byte, err error) {
	kind, body := b[0], b[5:]
	if kind == recordChangeCipherSpec {
		return nil, nil
	}
	if s.reading != nil {
		if body, err = s.reading.open(b); err != nil {
			return nil, err
		}
		kind, body = body[len(body)-1], body[:len(body)-1] // nobody pads
	}
	switch kind {
	case recordData:
		return body, nil
	case recordHandshake:
		return nil, s.handshakeBytes(body, now)
	case recordAlert:
		return nil, fmt.Errorf("alert %v", body)
	}
	return nil, fmt.Errorf("record of type %d", kind)
}

func (s *session) handshakeBytes(b []byte, now time.Time) error {
	s.messages = append(s.messages, b...)
	rest := s.messages
	for len(rest) >= 4 {
		size := 4 + (int(rest[1])<<16 | int(binary.BigEndian.Uint16(rest[2:])))
		if size > len(rest) {
			break
		}
		if err := s.message(rest[:size], now); err != nil {
			return err
		}
		rest = rest[size:]
	}
	s.messages = append(s.messages[:0], rest...)
	return nil
}

func (s *session) message(m []byte, now time.Time) error {
	switch m[0] {
	case messageTicket:
		return s.newTicket(m[4:], now)
	case messageServerHello:
		s.transcript.Write(m)
		return s.serverHello(m)
	case messageFinished:
		s.transcript.Write(m)
		s.finish()
	default: // EncryptedExtensions, Certificate, CertificateVerify
		s.transcript.Write(m)
	}
	return nil
}

func (s *session) serverHello(m []byte) error {
	bad := errors.New("ServerHello is not as expected")
	at := 4 + 2 + 32
	if len(m) < at+1+32+2+1+2 {
		return bad
	}
	at += 1 + int(m[at]) + 2 + 1 + 2
	var share []byte
	for at+4 <= len(m) {
		kind, size := binary.BigEndian.Uint16(m[at:]), int(binary.BigEndian.Uint16(m[at+2:]))
		at += 4
		if at+size > len(m) {
			return bad
		}
		switch kind {
		case 51:
			if size < 4 || binary.BigEndian.Uint16(m[at:]) != s.keys.group {
				return fmt.Errorf("the server wants another group than %#x", s.keys.group)
			}
			share = m[at+4 : at+size]
		case 41:
			s.resumed = true
		}
		at += size
	}
	if share == nil {
		return bad
	}
	shared, err := s.keys.shared(share)
	if err != nil {
		return err
	}
	psk := zeros[:]
	if s.resumed {
		if s.offered == nil {
			return bad
		}
		psk = s.offered.psk
	}
	early := extract(nil, psk)
	s.handshake = extract(expand(early, "derived", emptyHash[:], hashSize), shared)
	sum := s.transcript.Sum(nil)
	s.client = expand(s.handshake, "c hs traffic", sum, hashSize)
	s.server = expand(s.handshake, "s hs traffic", sum, hashSize)
	s.reading, s.writing = newDirection(s.server), newDirection(s.client)
	return nil
}

// finish makes the keys of what follows; the client's Finished goes with those of
// before.
func (s *session) finish() {
	sum := s.transcript.Sum(nil)
	mac := authenticate(expand(s.client, "finished", nil, hashSize), sum)
	finished := append([]byte{messageFinished, 0, 0, hashSize}, mac...)
	s.finished = s.writing.seal(append(s.finished[:0], recordChangeCipherSpec, 3, 3, 0, 1, 1), recordHandshake, finished)
	master := extract(expand(s.handshake, "derived", emptyHash[:], hashSize), zeros[:])
	s.writing = newDirection(expand(master, "c ap traffic", sum, hashSize))
	s.reading = newDirection(expand(master, "s ap traffic", sum, hashSize))
	if s.offered == nil { // or there is a ticket
		s.transcript.Write(finished)
		s.resumption = expand(master, "res master", s.transcript.Sum(nil), hashSize)
	}
	s.established = true
}

func (s *session) appendFinished(b []byte) []byte { return append(b, s.finished...) }

// appendSealed appends a record with data.
func (s *session) appendSealed(b, data []byte) []byte { return s.writing.seal(b, recordData, data) }

func (s *session) newTicket(m []byte, now time.Time) error {
	if s.resumption == nil || s.ticket != nil {
		return nil
	}
	bad := errors.New("a ticket is not as expected")
	if len(m) < 9 || len(m) < 9+int(m[8])+2 {
		return bad
	}
	nonce, rest := m[9:9+int(m[8])], m[9+int(m[8]):]
	size := int(binary.BigEndian.Uint16(rest))
	if len(rest) < 2+size {
		return bad
	}
	s.ticket = &ticket{id: append([]byte(nil), rest[2:2+size]...), psk: expand(s.resumption, "resumption", nonce, hashSize), age: binary.BigEndian.Uint32(m[4:]), got: now}
	return nil
}

// direction is one of the two that records go in.
type direction struct {
	aead   cipher.AEAD
	iv     [12]byte
	nonce  [12]byte
	header [5]byte
	inner  []byte
	next   uint64
}

func newDirection(secret []byte) *direction {
	block, err := aes.NewCipher(expand(secret, "key", nil, 16))
	if err != nil {
		panic(err) // the key has the right length
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	d := &direction{aead: aead}
	copy(d.iv[:], expand(secret, "iv", nil, len(d.iv)))
	return d
}

func (d *direction) step() []byte {
	d.nonce = d.iv
	binary.BigEndian.PutUint64(d.nonce[4:], binary.BigEndian.Uint64(d.iv[4:])^d.next)
	d.next++
	return d.nonce[:]
}

func (d *direction) open(record []byte) ([]byte, error) {
	text, err := d.aead.Open(record[5:5], d.step(), record[5:], record[:5])
	if err == nil && len(text) == 0 {
		err = errors.New("an empty record")
	}
	return text, err
}

func (d *direction) seal(b []byte, kind byte, data []byte) []byte {
	d.inner = append(append(d.inner[:0], data...), kind)
	d.header = [5]byte{recordData, 3, 3}
	binary.BigEndian.PutUint16(d.header[3:], uint16(len(d.inner)+d.aead.Overhead()))
	return d.aead.Seal(append(b, d.header[:]...), d.step(), d.inner, d.header[:])
}

func extract(salt, key []byte) []byte {
	b, err := hkdf.Extract(sha256.New, key, salt)
	if err != nil {
		panic(err) // only an approved mode refuses
	}
	return b
}

// expand is HKDF-Expand-Label (RFC 8446 7.1).
func expand(secret []byte, label string, context []byte, size int) []byte {
	info := make([]byte, 0, 64)
	info = binary.BigEndian.AppendUint16(info, uint16(size))
	info = append(info, byte(len("tls13 ")+len(label)))
	info = append(append(info, "tls13 "...), label...)
	info = append(append(info, byte(len(context))), context...)
	b, err := hkdf.Expand(sha256.New, secret, string(info), size)
	if err != nil {
		panic(err) // sizes are constants, and small
	}
	return b
}

func authenticate(key, data []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(data)
	return mac.Sum(nil)
}
