package cert

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/internal/testca"
)

// memory is a node's own copy, with only what Served asks of it.
type memory struct {
	mu     sync.Mutex
	byName map[string][]Named
	texts  map[string][]byte
	revs   map[string]int64
	loads  atomic.Int64
	failed error
}

func newMemory() *memory {
	return &memory{byName: map[string][]Named{}, texts: map[string][]byte{}, revs: map[string]int64{}}
}

// put stores a certificate, as renewed if it is there already.
func (m *memory) put(t testing.TB, c *fingerpost.Certificate) {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.texts[c.Name] = text
	m.revs[c.Name]++
	for _, name := range c.Names {
		m.byName[name] = slices.DeleteFunc(m.byName[name], func(n Named) bool { return n.Certificate == c.Name })
		m.byName[name] = append(m.byName[name], Named{Certificate: c.Name, Rev: m.revs[c.Name], ECDSA: c.KeyType[0] == 'E', SealedBy: c.SealedBy(), Revoked: !c.Revoked.IsZero(), NotBefore: c.NotBefore, NotAfter: c.NotAfter})
	}
}

func (m *memory) named(name string) []Named {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.byName[name])
}

func (m *memory) load(name string) (*fingerpost.Certificate, int64, error) {
	m.loads.Add(1)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed != nil {
		return nil, 0, m.failed
	}
	c := &fingerpost.Certificate{Name: name}
	return c, m.revs[name], json.Unmarshal(m.texts[name], c)
}

// stored makes a certificate as the store keeps it.
func stored(t testing.TB, s *Sealer, name string, template *x509.Certificate, rsaKeyed bool) *fingerpost.Certificate {
	t.Helper()
	key, err := NewKey(rsaKeyed)
	if err != nil {
		t.Fatal(err)
	}
	leaf, keyText := ca.IssueFrom(template, key)
	block, _ := pem.Decode(keyText)
	c := Describe([]*x509.Certificate{certificateOf(t, leaf)})
	c.Name, c.Type, c.Key = name, fingerpost.ACME, s.Seal(KeyPurpose(name), block.Bytes)
	return c
}

func served(t testing.TB, dir string) (*Served, *memory) {
	t.Helper()
	files, _, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := newMemory()
	return &Served{Files: files, Named: m.named, Load: m.load, Sealer: sealer(t, NewSecret())}, m
}

// shown gives the leaf that a client is shown; nil if it is refused.
func shown(t testing.TB, s *Served, config *tls.Config) *x509.Certificate {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	go func() {
		defer server.Close()
		tls.Server(server, &tls.Config{GetCertificate: s.Certificate}).Handshake()
	}()
	config.InsecureSkipVerify = true // the test looks at what it was given
	c := tls.Client(client, config)
	if c.Handshake() != nil {
		return nil
	}
	return c.ConnectionState().PeerCertificates[0]
}

func TestServedChoosesAmongFilesAndStore(t *testing.T) {
	s, m := served(t, folder(t, pair("file", "file.example", "both.example")))
	until := func(days int, names ...string) *x509.Certificate {
		return template(func(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(0, 0, days) }, names...)
	}
	m.put(t, stored(t, s.Sealer, "stored", until(60, "stored.example"), false))
	m.put(t, stored(t, s.Sealer, "wild", until(60, "*.wild.example"), false))
	m.put(t, stored(t, s.Sealer, "longer", until(120, "both.example"), false))
	m.put(t, stored(t, s.Sealer, "rsa", until(200, "pair.example"), true))
	m.put(t, stored(t, s.Sealer, "ecdsa", until(20, "pair.example"), false))
	m.put(t, stored(t, s.Sealer, "over", template(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, "over.wild.example", "gone.example"), false))
	serial := func(name string) string {
		c, _, err := m.load(name)
		if err != nil {
			t.Fatal(err)
		}
		return c.Serial
	}
	file := fmt.Sprintf("%x", leafOf(t, s.Files.Index().Named("file")).SerialNumber)
	rsaOnly := &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}
	for _, tt := range []struct {
		why, host string
		config    *tls.Config
		want      string
		covers    bool
	}{
		{"the folder's", "file.example", nil, file, true},
		{"the store's", "stored.example", nil, serial("stored"), true},
		{"in capitals", "STORED.example", nil, serial("stored"), true},
		{"by a wildcard", "a.wild.example", nil, serial("wild"), true},
		{"a wildcard is one label", "a.b.wild.example", nil, "", false},
		{"and not none", "wild.example", nil, "", false},
		{"the one that is valid longest", "both.example", nil, serial("longer"), true},
		{"ECDSA first", "pair.example", nil, serial("ecdsa"), true},
		{"RSA for who knows nothing else", "pair.example", rsaOnly, serial("rsa"), true},
		{"a wildcard within its dates before an expired one", "over.wild.example", nil, serial("wild"), true},
		{"an expired one before none", "gone.example", nil, serial("over"), false},
		{"unknown", "other.example", nil, "", false},
		{"no name", "", nil, file, false},
	} {
		t.Run(tt.why, func(t *testing.T) {
			config := &tls.Config{}
			if tt.config != nil {
				config = tt.config.Clone()
			}
			config.ServerName = tt.host
			got := ""
			if leaf := shown(t, s, config); leaf != nil {
				got = fmt.Sprintf("%x", leaf.SerialNumber)
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if host := tt.host; host != "STORED.example" && s.Covers(host) != tt.covers {
				t.Errorf("covers: %v", !tt.covers)
			}
		})
	}
}

func TestARenewedCertificateIsServedAtOnce(t *testing.T) {
	s, m := served(t, "")
	for range 3 {
		c := stored(t, s.Sealer, "shop", testca.Template("shop.example"), false)
		m.put(t, c)
		for range 3 {
			if leaf := shown(t, s, &tls.Config{ServerName: "shop.example"}); fmt.Sprintf("%x", leaf.SerialNumber) != c.Serial {
				t.Fatalf("serial %x, want %s", leaf.SerialNumber, c.Serial)
			}
		}
	}
	if n := m.loads.Load(); n != 3 {
		t.Errorf("read %d times for 3 certificates", n)
	}
}

// TestAnswersAreKeptUntilTheVersionIsAnother, and a certificate that has gone
// meanwhile is looked for anew.
func TestAnswersAreKeptUntilTheVersionIsAnother(t *testing.T) {
	s, m := served(t, "")
	version, asked := uint64(1), 0
	s.Version = func() uint64 { return version }
	s.Named = func(name string) []Named {
		asked++
		return m.named(name)
	}
	for range 3 {
		if s.Covers("a.example") || asked != 2 { // its name and the wildcard
			t.Errorf("asked %d times, want 2", asked)
		}
	}
	old := stored(t, s.Sealer, "old", testca.Template("a.example"), false)
	m.put(t, old)
	if s.Covers("a.example") {
		t.Error("nobody has told that it is another")
	}
	version++
	for range 3 {
		if !s.Covers("a.example") {
			t.Error("it is not covered")
		}
	}
	if asked != 3 {
		t.Errorf("asked %d times, want 3", asked)
	}
	// The one that was told of is gone, for another, and nobody has told of that yet.
	m.mu.Lock()
	clear(m.byName)
	clear(m.texts)
	m.mu.Unlock()
	m.put(t, stored(t, s.Sealer, "new", testca.Template("a.example"), false))
	if shown(t, s, &tls.Config{ServerName: "a.example"}) == nil {
		t.Error("the handshake failed")
	}
	if n := testing.AllocsPerRun(100, func() { s.Covers("a.example") }); n > 0 {
		t.Errorf("%v allocations to say that a host is covered", n)
	}
}

func TestManyHandshakesReadACertificateOnce(t *testing.T) {
	s, m := served(t, "")
	m.put(t, stored(t, s.Sealer, "shop", testca.Template("shop.example"), false))
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			c, err := s.load(&candidate{Named: m.named("shop.example")[0]})
			if err != nil || c == nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := m.loads.Load(); n != 1 {
		t.Errorf("read %d times", n)
	}
}

func TestACertificateThatCannotBeReadIsTriedAgainAndAnotherTaken(t *testing.T) {
	s, m := served(t, "")
	longer := testca.Template("shop.example")
	longer.NotAfter = longer.NotAfter.AddDate(0, 1, 0)
	m.put(t, stored(t, sealer(t, NewSecret()), "foreign", longer, false))
	if leaf := shown(t, s, &tls.Config{ServerName: "shop.example"}); leaf != nil {
		t.Error("a key that this node cannot open was used")
	}
	if s.Covers("shop.example") {
		t.Error("a host is covered whose handshakes fail")
	}
	m.loads.Store(0)
	m.put(t, stored(t, s.Sealer, "own", testca.Template("shop.example"), false))
	if leaf := shown(t, s, &tls.Config{ServerName: "shop.example"}); leaf == nil {
		t.Error("the other certificate was not taken")
	}
	if n := m.loads.Load(); n != 1 || !s.Covers("shop.example") {
		t.Errorf("read %d certificates, want the one of use; covered: %v", n, s.Covers("shop.example"))
	}
	taken := stored(t, s.Sealer, "own", testca.Template("taken.example"), false)
	taken.Name = "taken" // with the key of another, as who can only write to the store may have it
	m.put(t, taken)
	if leaf := shown(t, s, &tls.Config{ServerName: "taken.example"}); leaf != nil {
		t.Error("a key that was sealed for another certificate was used")
	}
	m.failed = errors.New("disk")
	m.put(t, stored(t, s.Sealer, "later", testca.Template("later.example"), false))
	if leaf := shown(t, s, &tls.Config{ServerName: "later.example"}); leaf != nil {
		t.Error("served though it cannot be read")
	}
	m.failed = nil
	if leaf := shown(t, s, &tls.Config{ServerName: "later.example"}); leaf == nil {
		t.Error("not tried again")
	}
}

func TestTheCacheKeepsWithinItsBytes(t *testing.T) {
	s, m := served(t, "")
	s.CacheBytes = 20_000
	for i := range 100 {
		m.put(t, stored(t, s.Sealer, fmt.Sprint(i), testca.Template(fmt.Sprintf("h%d.example", i)), false))
	}
	for round := range 3 {
		for i := range 100 {
			if leaf := shown(t, s, &tls.Config{ServerName: fmt.Sprintf("h%d.example", i)}); leaf == nil || leaf.DNSNames[0] != fmt.Sprintf("h%d.example", i) {
				t.Fatalf("round %d, host %d: %v", round, i, leaf)
			}
			if s.bytes > s.CacheBytes || len(s.ready) != s.order.Len() {
				t.Fatalf("%d bytes, %d in the map, %d in order", s.bytes, len(s.ready), s.order.Len())
			}
		}
	}
	if s.order.Len() < 5 {
		t.Errorf("only %d are kept", s.order.Len())
	}
}

func TestDefaultGoesByTheLocalAddress(t *testing.T) {
	s, m := served(t, folder(t, pair("default", "default.example")))
	m.put(t, stored(t, s.Sealer, "second", testca.Template("second.example"), false))
	s.Default = func(local netip.Addr) string {
		if local == netip.MustParseAddr("127.0.0.2") {
			return "second"
		}
		return ""
	}
	for addr, want := range map[string]string{"127.0.0.1": "default.example", "127.0.0.2": "second.example"} {
		l, err := tls.Listen("tcp", addr+":0", &tls.Config{GetCertificate: s.Certificate})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			if c, err := l.Accept(); err == nil {
				c.(*tls.Conn).Handshake()
			}
		}()
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.ConnectionState().PeerCertificates[0].DNSNames[0]; got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
		c.Close()
	}
}

// TestMemoryOfServedCertificates prints what one certificate keeps resident.
func TestMemoryOfServedCertificates(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 10,000 certificates")
	}
	s, m := served(t, "")
	const n = 10_000
	one := stored(t, s.Sealer, "c", testca.Template("host.example"), false)
	intermediate, err := x509.ParseCertificate(one.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	one.Chain = append(one.Chain, intermediate.Raw) // as large as an intermediate
	text, err := json.Marshal(one)
	if err != nil {
		t.Fatal(err)
	}
	s.Load = func(string) (*fingerpost.Certificate, int64, error) {
		c := new(fingerpost.Certificate)
		return c, 1, json.Unmarshal(text, c)
	}
	der, _ := s.Sealer.Open(KeyPurpose("c"), one.Key)
	sealed := make([][]byte, n)
	for i := range sealed {
		sealed[i] = s.Sealer.Seal(KeyPurpose(fmt.Sprint(i)), der)
	}
	inner := s.Load
	next := 0
	s.Load = func(name string) (*fingerpost.Certificate, int64, error) {
		c, rev, err := inner(name)
		c.Key = sealed[next]
		return c, rev, err
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()
	begin := time.Now()
	for next = range n {
		if _, err := s.load(&candidate{Named: Named{Certificate: fmt.Sprint(next), Rev: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(begin)
	per := float64(heap()-before) / n
	counted := float64(s.bytes) / n
	t.Logf("%.0f bytes resident a certificate (counted as %.0f), %.1f µs to make one ready", per, counted, float64(took.Microseconds())/n)
	if per > 2500 {
		t.Errorf("%.0f bytes resident a certificate", per)
	}
	if per > 1.3*counted || per < 0.7*counted {
		t.Errorf("%.0f bytes are counted as %.0f", per, counted)
	}
	runtime.KeepAlive(s)
	runtime.KeepAlive(m)
}

func TestServedHeedsWhatWasChosen(t *testing.T) {
	files := pair("file", "shop.example", "*.wide.example")
	s, m := served(t, folder(t, files))
	until := func(days int, names ...string) *x509.Certificate {
		return template(func(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(0, 0, days) }, names...)
	}
	m.put(t, stored(t, s.Sealer, "ours", until(120, "shop.example", "a.wide.example"), false))
	m.put(t, stored(t, s.Sealer, "bought", until(30, "shop.example"), true))
	m.put(t, stored(t, s.Sealer, "wide", until(20, "*.wide.example"), false))
	m.put(t, stored(t, s.Sealer, "over", template(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, "shop.example"), false))
	m.put(t, stored(t, s.Sealer, "elsewhere", until(30, "other.example"), false))
	revoked := stored(t, s.Sealer, "revoked", until(20, "*.wide.example"), false)
	revoked.Revoked = time.Now()
	m.put(t, revoked)
	foreign := sealer(t, NewSecret())
	m.put(t, stored(t, foreign, "sealed", until(30, "shop.example"), false))
	ecdsaOnly := &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}
	for name, tt := range map[string]struct {
		host, chosen string
		client       *tls.Config
		want         string
	}{
		"nothing":                              {"shop.example", "", nil, "ours"},
		"RSA that ends earlier":                {"shop.example", "bought", nil, "bought"},
		"one of the folder":                    {"shop.example", "file", nil, "file"},
		"a wildcard, where there is an exact":  {"a.wide.example", "wide", nil, "wide"},
		"a wildcard of the folder":             {"a.wide.example", "file", nil, "file"},
		"one that is over":                     {"shop.example", "over", nil, "ours"},
		"one that was revoked":                 {"a.wide.example", "revoked", nil, "ours"},
		"one whose key is not opened":          {"shop.example", "sealed", nil, "ours"},
		"one for other names":                  {"shop.example", "elsewhere", nil, "ours"},
		"one that is not there":                {"shop.example", "lost", nil, "ours"},
		"one that the client cannot make out":  {"shop.example", "bought", ecdsaOnly, "ours"},
		"for a host that has no other at once": {"b.wide.example", "wide", nil, "wide"},
	} {
		t.Run(name, func(t *testing.T) {
			s.Chosen = func(host string) string {
				if host == tt.host {
					return tt.chosen
				}
				return ""
			}
			config := tt.client
			if config == nil {
				config = &tls.Config{}
			}
			config = config.Clone()
			config.ServerName = tt.host
			want := fmt.Sprintf("%x", leafOf(t, s.Files.Index().Named("file")).SerialNumber)
			if tt.want != "file" {
				c, _, err := m.load(tt.want)
				if err != nil {
					t.Fatal(err)
				}
				want = c.Serial
			}
			if leaf := shown(t, s, config); leaf == nil || fmt.Sprintf("%x", leaf.SerialNumber) != want {
				t.Errorf("another certificate than %s was shown", tt.want)
			}
		})
	}
	// Without a store the folder's are chosen among in the same way.
	two, _, err := Open(folder(t, files))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range pair("second", "shop.example") {
		write(t, two.dir, name, text)
	}
	if _, _, err := two.Reload(); err != nil {
		t.Fatal(err)
	}
	for _, chosen := range []string{"file", "second"} {
		alone := &Served{Files: two, Chosen: func(string) string { return chosen }}
		if leaf := shown(t, alone, &tls.Config{ServerName: "shop.example"}); leaf == nil || !leaf.Equal(leafOf(t, two.Index().Named(chosen))) {
			t.Errorf("another certificate than %s was shown", chosen)
		}
	}
}
