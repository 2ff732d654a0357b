package order

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fingerpost/internal/testacme"
	"fingerpost/internal/testca"
)

// rig is a driver, the CA it talks to, and what lies between.
type rig struct {
	t       *testing.T
	ca      *testacme.CA
	host    string
	config  CAConfig
	memory  *Memory
	shown   *shown
	badLock sync.Mutex
	bad     map[string]*testacme.Problem // names that fail, and how
	driver  *Driver
	ours    *CA
	log     *bytes.Buffer
	logger  *slog.Logger // one for all lives, which takes turns
	secrets *secrets

	// fault is asked before and after each thing that touches the world outside
	// the process: requests, writes, challenges.
	fault func(what string, after bool) error
}

var hosts atomic.Int64

func newRig(t *testing.T, ca *testacme.CA) *rig {
	t.Helper()
	r := &rig{t: t, ca: ca, host: fmt.Sprintf("ca%d.test", hosts.Add(1)), memory: new(Memory), shown: &shown{values: map[string]int{}},
		bad: map[string]*testacme.Problem{}, log: new(bytes.Buffer), secrets: new(secrets)}
	r.memory.Fault = func(after bool, records []Record) error { return r.hit("write "+records[0].Kind, after) }
	r.shown.fault = r.hit
	if ca.Validate == nil {
		ca.Validate = func(name, method, token, auth string) *testacme.Problem {
			r.badLock.Lock()
			defer r.badLock.Unlock()
			if p := r.bad[name]; p != nil {
				return p
			}
			if !r.shown.has(name, method, token, auth) {
				return &testacme.Problem{Type: "unauthorized", Detail: "nothing is presented for " + name}
			}
			return nil
		}
	}
	r.config = CAConfig{Name: "test", Directory: testacme.Directory(r.host), Transport: faulty{r}}
	r.restart()
	t.Cleanup(func() { r.secrets.check(t, r.log.String(), r.memory) })
	return r
}

// restart is a new process over what was stored.
func (r *rig) restart() {
	ours, err := NewCA(r.config)
	if err != nil {
		r.t.Fatal(err)
	}
	r.ours = ours
	if r.logger == nil {
		r.logger = slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	r.driver = &Driver{
		CAs: map[string]*CA{"test": ours}, Storage: r.memory, Solver: r.shown,
		Seal: r.secrets.seal, Unseal: r.secrets.unseal,
		Log: r.logger,
	}
}

func (r *rig) hit(what string, after bool) error {
	if r.fault == nil {
		return nil
	}
	return r.fault(what, after)
}

// heal makes a name good.
func (r *rig) heal(name string) {
	r.badLock.Lock()
	defer r.badLock.Unlock()
	delete(r.bad, name)
}

type faulty struct{ r *rig }

func (f faulty) RoundTrip(req *http.Request) (*http.Response, error) {
	what, _, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/")
	if what == "order" && strings.Count(req.URL.Path, "/") > 1 {
		what = "poll"
	}
	what = req.Method + " " + what
	if err := f.r.hit(what, false); err != nil {
		return nil, err
	}
	resp, err := f.r.ca.Transport().RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if err := f.r.hit(what, true); err != nil {
		return nil, err
	}
	return resp, nil
}

// shown is a Solver that the CA of the test looks into.
type shown struct {
	fault func(string, bool) error

	mu     sync.Mutex
	values map[string]int
}

func (s *shown) key(c Challenge) string {
	if c.Record != "" {
		return c.Record + " TXT " + c.TXT
	}
	return c.Type + " " + c.Name + " " + c.Token + " " + c.KeyAuthorization
}

func (s *shown) Present(_ context.Context, all []Challenge) error {
	if err := s.fault("present", false); err != nil {
		return err
	}
	s.mu.Lock()
	for _, c := range all {
		s.values[s.key(c)] = 1
	}
	s.mu.Unlock()
	return s.fault("present", true)
}

func (s *shown) Remove(_ context.Context, all []Challenge) error {
	if err := s.fault("remove", false); err != nil {
		return err
	}
	s.mu.Lock()
	for _, c := range all {
		delete(s.values, s.key(c))
	}
	s.mu.Unlock()
	return s.fault("remove", true)
}

func (s *shown) has(name, method, token, auth string) bool {
	c := Challenge{Name: name, Type: method, Token: token, KeyAuthorization: auth}
	if method == DNS01 {
		sum := sha256.Sum256([]byte(auth))
		c.Record, c.TXT = "_acme-challenge."+name, base64.RawURLEncoding.EncodeToString(sum[:])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values[s.key(c)] > 0
}

func (s *shown) left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.values)
}

// secrets seals keys and remembers them, to look for them where they must not be.
type secrets struct {
	mu  sync.Mutex
	all [][]byte
}

func (s *secrets) seal(purpose string, plain []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, bytes.Clone(plain))
	return append([]byte(purpose+"\x00"), flip(plain)...), nil
}

func (s *secrets) unseal(purpose string, sealed []byte) ([]byte, error) {
	sealedFor, key, ok := bytes.Cut(sealed, []byte{0})
	if !ok || string(sealedFor) != purpose {
		return nil, fmt.Errorf("what was sealed as %q is opened as %q", sealedFor, purpose)
	}
	return flip(key), nil
}

func flip(b []byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = b[i] ^ 0x5a
	}
	return out
}

func (s *secrets) check(t *testing.T, log string, m *Memory) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, der := range s.all {
		if shows(der, log) {
			t.Error("a private key is in the log")
		}
		for k, v := range m.records {
			if shows(der, string(v)) {
				t.Errorf("a private key is stored as it is, in %v", k)
			}
		}
	}
}

// shows reports whether a text holds a key (PKCS #8) in a form that a program
// may print by accident.
func shows(der []byte, text string) bool {
	secret := der[len(der)/3 : len(der)/3+16]
	forms := []string{
		string(secret), hex.EncodeToString(secret), strings.Trim(fmt.Sprint(secret), "[]"),
		base64.StdEncoding.EncodeToString(der)[60:80], base64.RawURLEncoding.EncodeToString(der)[60:80],
	}
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if ec, ok := key.(*ecdsa.PrivateKey); ok {
			scalar, _ := ec.Bytes()
			forms = append(forms, new(big.Int).SetBytes(scalar).String(), base64.RawURLEncoding.EncodeToString(scalar))
		}
	}
	return slices.ContainsFunc(forms, func(form string) bool { return strings.Contains(text, form) })
}

func TestKeysWouldBeSeen(t *testing.T) {
	key := testca.NewKey()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	scalar, _ := key.Bytes()
	for _, text := range []string{
		string(der), fmt.Sprintf("%x", der), fmt.Sprint(der), fmt.Sprintf("%+v", key), base64.StdEncoding.EncodeToString(der),
		base64.RawURLEncoding.EncodeToString(der), base64.RawURLEncoding.EncodeToString(scalar),
	} {
		if !shows(der, "key: "+text) {
			t.Errorf("not seen: %q", text)
		}
	}
	if shows(der, "order=x ca=test") {
		t.Error("seen where it is not")
	}
}

// begin writes the journal of a new order.
func (r *rig) begin(spec Spec) string {
	r.t.Helper()
	if spec.CA == "" {
		spec.CA = "test"
	}
	o := New(spec, time.Now())
	fault := r.fault
	r.fault = nil
	if err := r.memory.Write(r.t.Context(), 0, o.Record()); err != nil {
		r.t.Fatal(err)
	}
	r.fault = fault
	return o.ID
}

// drive brings a new order to its end.
func (r *rig) drive(spec Spec) *Order {
	r.t.Helper()
	id, begin := r.begin(spec), time.Now()
	for {
		o, err := r.driver.Drive(r.t.Context(), 0, id)
		if err == nil {
			return o
		}
		if !passes(err) || silent(err) || time.Since(begin) > 15*time.Minute { // else the CA has asked for time
			r.t.Fatal(err)
		}
		time.Sleep(time.Minute)
	}
}

// all orders names until each is in a certificate or at fault, as a manager does.
func (r *rig) all(spec Spec) (issued []*Order, failed map[string]Failure) {
	r.t.Helper()
	failed = map[string]Failure{}
	queue := []Spec{spec}
	for len(queue) > 0 {
		spec, queue = queue[0], queue[1:]
		o := r.drive(spec)
		switch o.Outcome.Result {
		case Issued:
			issued = append(issued, o)
		case Failed:
			for _, f := range o.Outcome.Failed {
				failed[f.Name] = f
			}
			if spec.Names = o.Rest(); len(spec.Names) > 0 {
				queue = append(queue, spec)
			}
		case Refused:
			half := len(spec.Names) / 2
			one, two := spec, spec
			one.Names, two.Names = spec.Names[:half], spec.Names[half:]
			queue = append(queue, one, two)
		default:
			r.t.Fatalf("the order ended as %s: %v", o.Outcome.Result, o.Outcome.Problem)
		}
	}
	return issued, failed
}

func names(list ...string) []Name {
	var out []Name
	for _, n := range list {
		out = append(out, Name{Name: n})
	}
	return out
}

func leafOf(t *testing.T, chain []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(chain)
	if block == nil {
		t.Fatal("no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func sortedNames(list []string) []string { return slices.Sorted(slices.Values(list)) }

var errCut = errors.New("connection cut by the test")
