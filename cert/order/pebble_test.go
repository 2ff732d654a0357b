package order

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"fingerpost"
	"fingerpost/cert/planner"
	"fingerpost/internal/testacme"
)

func TestMain(m *testing.M) {
	code := m.Run()
	testacme.RemovePebble()
	os.Exit(code)
}

// world is what Pebble looks at: names, and our answers to challenges.
type world struct {
	*rig
	pebble *testacme.Pebble
	proxy  *testacme.Proxy
	fault  func(*http.Request) testacme.Fault
}

func newWorld(t *testing.T, o testacme.PebbleOptions) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no Pebble")
	}
	w := &world{rig: &rig{t: t, memory: new(Memory), shown: &shown{values: map[string]int{}}, bad: map[string]*testacme.Problem{}, log: new(bytes.Buffer), secrets: new(secrets)}}
	w.shown.fault = w.hit
	o.DNS = w.serveDNS()
	o.HTTPPort, o.TLSPort = w.serveHTTP(), w.serveTLS()
	w.pebble = testacme.StartPebble(t, o)
	w.proxy = testacme.NewProxy(t, w.pebble.Directory, w.pebble.Roots)
	w.proxy.Fault = func(r *http.Request) testacme.Fault {
		if w.fault != nil {
			return w.fault(r)
		}
		return testacme.Fault{}
	}
	w.config = CAConfig{Name: "test", Directory: w.proxy.Directory, Roots: w.proxy.Roots, Contact: []string{"mailto:ops@example.com"}, AgreeToTerms: true}
	w.restart()
	t.Cleanup(func() { w.secrets.check(t, w.log.String(), w.memory) })
	return w
}

// serveDNS answers for all names: they are here, but those that are bad.
func (w *world) serveDNS() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	server := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(out dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		name := strings.TrimSuffix(strings.ToLower(q.Question[0].Name), ".")
		base := strings.TrimPrefix(strings.TrimPrefix(name, "_acme-challenge."), "_validation-persist.")
		switch {
		case w.bad[base] != nil:
			m.Rcode = dns.RcodeNameError
		case q.Question[0].Qtype == dns.TypeTXT:
			for _, value := range w.shown.txt(name) {
				m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{value}})
			}
		case q.Question[0].Qtype == dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)})
		}
		out.WriteMsg(m)
	})}
	go server.ActivateAndServe()
	w.t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

func (w *world) serveHTTP() int {
	server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.URL.Path, "/.well-known/acme-challenge/")
		host, _, _ := net.SplitHostPort(r.Host)
		auth := w.shown.auth(HTTP01, host, token)
		if !ok || auth == "" {
			http.NotFound(out, r)
			return
		}
		io.WriteString(out, auth)
	}))
	w.t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).Port
}

func (w *world) serveTLS() int {
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{NextProtos: []string{ACMETLS}, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		auth := w.shown.auth(TLSALPN01, hello.ServerName, "")
		if auth == "" || !slices.Equal(hello.SupportedProtos, []string{ACMETLS}) {
			return nil, nil
		}
		return TLSALPNCertificate(hello.ServerName, auth)
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { c.(*tls.Conn).Handshake(); c.Close() }()
		}
	}()
	w.t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

// txt gives the values at a name.
func (s *shown) txt(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var values []string
	for key := range s.values {
		if value, ok := strings.CutPrefix(key, name+" TXT "); ok {
			values = append(values, value)
		}
	}
	return values
}

// auth gives a key authorization; an empty token stands for any.
func (s *shown) auth(method, name, token string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.values {
		f := strings.Fields(key)
		if len(f) == 4 && f[0] == method && f[1] == name && (token == "" || f[2] == token) {
			return f[3]
		}
	}
	return ""
}

// verify checks a chain against Pebble's root.
func (w *world) verify(chain []byte) *x509.Certificate {
	w.t.Helper()
	certs, err := parseChain(chain)
	if err != nil {
		w.t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(w.pebble.Root(w.t, 0))
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	for _, name := range certs[0].DNSNames {
		if _, err := certs[0].Verify(x509.VerifyOptions{DNSName: strings.Replace(name, "*", "any", 1), Roots: roots, Intermediates: between}); err != nil {
			w.t.Errorf("%s: %v", name, err)
		}
	}
	return certs[0]
}

func withMethod(method string, list ...string) []Name {
	out := names(list...)
	for i := range out {
		out[i].Methods = []string{method}
	}
	return out
}

func TestPebbleIssues(t *testing.T) {
	w := newWorld(t, testacme.PebbleOptions{})
	tests := []struct {
		name string
		spec Spec
		days int
	}{
		{"one name by HTTP", Spec{Names: withMethod(HTTP01, "http.example.com")}, 90},
		{"one name by TLS", Spec{Names: withMethod(TLSALPN01, "tls.example.com")}, 90},
		{"one name by DNS", Spec{Names: withMethod(DNS01, "dns.example.com")}, 90},
		{"one name by a record that stays", Spec{Names: withMethod(DNSPersist01, "persist.example.com")}, 90},
		{"a wildcard by a record that stays", Spec{Names: withMethod(DNSPersist01, "*.persist2.example.com")}, 90},
		{"wildcard beside its base", Spec{Names: withMethod(DNS01, "example.org", "*.example.org")}, 90},
		{"profile tlsserver", Spec{Names: withMethod(HTTP01, "a.example.com"), Profile: "tlsserver"}, 45},
		{"profile shortlived", Spec{Names: withMethod(HTTP01, "b.example.com"), Profile: "shortlived"}, 6},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.spec.Profile == "" {
				tt.spec.Profile = "classic"
			}
			o := w.drive(tt.spec)
			if o.Outcome.Result != Issued {
				t.Fatalf("ended as %s: %v %v", o.Outcome.Result, o.Outcome.Failed, o.Outcome.Problem)
			}
			leaf := w.verify(o.Outcome.Chain)
			if len(leaf.DNSNames) != len(tt.spec.Names) {
				t.Errorf("for %v", leaf.DNSNames)
			}
			if days := int(leaf.NotAfter.Sub(leaf.NotBefore).Hours()+1) / 24; days != tt.days {
				t.Errorf("valid for %d days, want %d", days, tt.days)
			}
		})
	}
}

func TestPebbleHundredNamesOfWhichThreeAreBad(t *testing.T) {
	w := newWorld(t, testacme.PebbleOptions{})
	var all []Name
	for i := range 100 {
		all = append(all, Name{Name: fmt.Sprintf("n%02d.example.com", i), Methods: []string{DNS01}})
	}
	for _, n := range []string{"n07.example.com", "n50.example.com", "n99.example.com"} {
		w.bad[n] = &testacme.Problem{Type: "dns"}
	}
	begin := time.Now()
	issued, failed := w.all(Spec{Names: all, Profile: "classic"})
	took := time.Since(begin)
	if len(failed) != 3 || failed["n07.example.com"].Reason == "" || failed["n50.example.com"].Reason == "" || failed["n99.example.com"].Reason == "" {
		t.Errorf("failed: %v", failed)
	}
	if len(issued) != 1 || len(w.verify(issued[0].Outcome.Chain).DNSNames) != 97 {
		t.Errorf("%d certificates, want one of 97 names", len(issued))
	}
	asked := 0
	for _, o := range issued {
		asked += o.Asked
	}
	orders := w.proxy.Seen("finalize-order")
	t.Logf("100 names of which 3 are bad: %d new orders asked, %d finalized, %.1f s; reason: %s", 1+asked, orders, took.Seconds(), failed["n07.example.com"].Reason)
	if 1+asked > 3 {
		t.Errorf("%d orders, want at most 3", 1+asked)
	}
}

func TestPebbleEAB(t *testing.T) {
	keys := map[string]string{"kid-1": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"}
	w := newWorld(t, testacme.PebbleOptions{EAB: keys})
	var e *fingerpost.Error
	if _, err := w.driver.Drive(t.Context(), 0, w.begin(Spec{Names: withMethod(HTTP01, "a.example.com")})); !errors.As(err, &e) || e.Code != "ca_eab" {
		t.Errorf("without EAB: %v", err)
	}
	w.config.EAB = EAB{KeyID: "kid-1", Key: keys["kid-1"]}
	w.restart()
	if o := w.drive(Spec{Names: withMethod(HTTP01, "a.example.com")}); o.Outcome.Result != Issued {
		t.Errorf("ended as %s: %v", o.Outcome.Result, o.Outcome.Failed)
	}
	if strings.Contains(w.log.String(), keys["kid-1"]) {
		t.Error("the EAB key is in the log")
	}
}

// TestPebbleFirstChain: of the chains that a CA has, its first is taken, and no other
// asked for.
func TestPebbleFirstChain(t *testing.T) {
	w := newWorld(t, testacme.PebbleOptions{AltRoots: 2, KeepNonce: true})
	var chains atomic.Int64
	w.fault = func(r *http.Request) testacme.Fault {
		if strings.Contains(r.URL.Path, "/certZ/") {
			chains.Add(1)
		}
		return testacme.Fault{}
	}
	o := w.drive(Spec{Names: withMethod(HTTP01, "a.example.com")})
	root, err := parseChain(w.pebble.Root(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := parseChain(o.Outcome.Chain)
	if err != nil {
		t.Fatal(err)
	}
	if got := chain[len(chain)-1].Issuer.CommonName; got != root[0].Subject.CommonName || chains.Load() != 1 {
		t.Errorf("the chain ends at %q, the CA's first at %q; %d chains were fetched", got, root[0].Subject.CommonName, chains.Load())
	}
}

func TestPebbleBehindFaults(t *testing.T) {
	w := newWorld(t, testacme.PebbleOptions{Blocked: []string{"blocked.example.com"}})
	refuse := func(p testacme.Problem) testacme.Fault { return testacme.Fault{Refuse: &p} }
	newOrder := func(r *http.Request) bool { return r.URL.Path == "/order-plz" }
	tests := []struct {
		name  string
		list  []string
		fault func(n int, r *http.Request) testacme.Fault // n counts the requests for which at says yes
		at    func(*http.Request) bool
		later bool // the first Drive says: later
		want  Result
		bad   []string
		asked int
	}{
		{name: "429 with Retry-After", list: []string{"a1.example.com", "a2.example.com"}, at: newOrder, want: Limited, asked: 1, fault: func(int, *http.Request) testacme.Fault {
			return refuse(testacme.Problem{Type: "rateLimited", Status: 429, RetryAfter: "60", Detail: "too many new orders (300) from this account in the last 3h0m0s"})
		}},
		{name: "paused", list: []string{"b1.example.com", "b2.example.com"}, at: newOrder, want: Failed, bad: []string{"b2.example.com"}, asked: 1, fault: func(int, *http.Request) testacme.Fault {
			return refuse(testacme.Problem{Type: "rateLimited", Status: 429, Detail: "Your account is temporarily prevented from requesting certificates for b2.example.com and possibly others. Please visit: https://127.0.0.1/unpause?jwt=x"})
		}},
		{name: "refused by Pebble itself", list: []string{"blocked.example.com", "c.example.com"}, want: Failed, bad: []string{"blocked.example.com"}, asked: 1},
		{name: "compound error at the end", list: []string{"d1.example.com", "d2.example.com", "d3.example.com"}, want: Failed, bad: []string{"d1.example.com", "d3.example.com"}, asked: 1,
			at: func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/finalize-order/") }, fault: func(int, *http.Request) testacme.Fault {
				return refuse(testacme.Problem{Type: "compound", Status: 403, Detail: "CAA forbids", Subproblems: []testacme.Problem{
					{Type: "caa", Detail: "x", Identifier: &testacme.Identifier{Type: "dns", Value: "d1.example.com"}}, {Type: "caa", Detail: "x", Identifier: &testacme.Identifier{Type: "dns", Value: "d3.example.com"}}}})
			}},
		{name: "503", list: []string{"e.example.com"}, at: newOrder, later: true, want: Issued, asked: 2, fault: func(n int, _ *http.Request) testacme.Fault {
			if n == 1 {
				return refuse(testacme.Problem{Type: "serverInternal", Status: 503, Detail: "busy"})
			}
			return testacme.Fault{}
		}},
		{name: "a web page", list: []string{"f.example.com"}, at: newOrder, later: true, want: Issued, asked: 2, fault: func(n int, _ *http.Request) testacme.Fault { return testacme.Fault{HTML: n == 1} }},
		{name: "request lost", list: []string{"g.example.com"}, at: newOrder, later: true, want: Issued, asked: 2, fault: func(n int, _ *http.Request) testacme.Fault { return testacme.Fault{LoseRequest: n == 1} }},
		{name: "answer lost", list: []string{"h.example.com"}, at: newOrder, later: true, want: Issued, asked: 2, fault: func(n int, _ *http.Request) testacme.Fault { return testacme.Fault{LoseAnswer: n == 1} }},
		{name: "the answer of finalize lost", list: []string{"i.example.com"}, want: Issued, asked: 1, at: func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/finalize-order/") }, fault: func(n int, _ *http.Request) testacme.Fault { return testacme.Fault{LoseAnswer: n == 1} }},
		{name: "slow to issue", list: []string{"j.example.com"}, want: Issued, asked: 1, at: func(r *http.Request) bool {
			return strings.HasPrefix(r.URL.Path, "/finalize-order/") || strings.HasPrefix(r.URL.Path, "/my-order/")
		}, fault: func(n int, r *http.Request) testacme.Fault {
			if n < 4 {
				return testacme.Fault{Replace: [2]string{`"status": "valid"`, `"status": "processing"`}}
			}
			return testacme.Fault{}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var n atomic.Int64
			w.fault = func(r *http.Request) testacme.Fault {
				if tt.at == nil || !tt.at(r) {
					return testacme.Fault{}
				}
				return tt.fault(int(n.Add(1)), r)
			}
			id := w.begin(Spec{Names: withMethod(HTTP01, tt.list...)})
			o, err := w.driver.Drive(t.Context(), 0, id)
			if (err != nil) != tt.later {
				t.Fatalf("first: %v", err)
			}
			if tt.later {
				t.Logf("says: %v", err)
				if o, err = w.driver.Drive(t.Context(), 0, id); err != nil {
					t.Fatal(err)
				}
			}
			var bad []string
			for _, f := range o.Outcome.Failed {
				bad = append(bad, f.Name)
			}
			if o.Outcome.Result != tt.want || !slices.Equal(bad, tt.bad) || o.Asked != tt.asked {
				t.Errorf("ended as %s, bad %v, asked %d times (%v); want %s, %v, %d", o.Outcome.Result, bad, o.Asked, o.Outcome.Problem, tt.want, tt.bad, tt.asked)
			}
			if tt.want == Limited && time.Until(o.Outcome.Retry) < 50*time.Second {
				t.Errorf("retry at %v", o.Outcome.Retry)
			}
		})
	}
}

// TestPebbleRenewalStorm has the CA say of many certificates at once that they
// are to be renewed now.
func TestPebbleRenewalStorm(t *testing.T) {
	const count = 60
	w := newWorld(t, testacme.PebbleOptions{})
	var wanted []Want
	for i := range count {
		wanted = append(wanted, Want{Name: fmt.Sprintf("n%03d.example.com", i), Policy: planner.Policy{Team: fmt.Sprint("team", i), Profile: "classic"}})
	}
	run := func(done func() bool) time.Duration {
		w.restart()
		issuer := &Issuer{Driver: w.driver, Lease: w.memory, Log: w.driver.Log, Parallel: 16,
			Plan:   planner.Config{CAs: []planner.CA{{Name: "test", MaxNames: 100}}, Window: 10 * time.Millisecond},
			Wanted: func(context.Context) ([]Want, error) { return wanted, nil },
			Check:  func(context.Context, Question) Verdict { return Verdict{Methods: []string{HTTP01}} },
		}
		ctx, stop := context.WithCancel(t.Context())
		var ended sync.WaitGroup
		begin := time.Now()
		ended.Go(func() { issuer.Run(ctx) })
		for !done() {
			if time.Since(begin) > 2*time.Minute {
				t.Error("two minutes were not enough")
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		took := time.Since(begin)
		stop()
		ended.Wait()
		return took
	}
	certificates := func() (current, replaced []Certificate) {
		records, err := w.memory.Range(t.Context(), KindCertificate, "", "", 10*count)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			var c Certificate
			if err := json.Unmarshal(r.Value, &c); err != nil {
				t.Fatal(err)
			}
			if c.Replaced {
				replaced = append(replaced, c)
			} else {
				current = append(current, c)
			}
		}
		return current, replaced
	}
	first := run(func() bool { current, _ := certificates(); return len(current) == count })
	old, _ := certificates()
	var due []Record
	records, err := w.memory.Range(t.Context(), KindDue, "", "", 10*count)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		due = append(due, Record{Kind: KindDue, Key: r.Key})
	}
	for _, c := range old {
		w.pebble.SetWindow(t, c.Chain, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
		due = append(due, Record{Kind: KindDue, Key: instant(time.Now()) + "/" + c.ID, Value: []byte("{}")})
	}
	if err := w.memory.Write(t.Context(), 0, due...); err != nil {
		t.Fatal(err)
	}
	before := w.proxy.Seen("order-plz")
	second := run(func() bool {
		current, _ := certificates()
		fresh := 0
		for _, c := range current {
			if c.Replaces != "" {
				fresh++
			}
		}
		return fresh >= count
	})
	current, _ := certificates()
	served := map[string]bool{}
	for _, c := range current {
		for _, n := range c.Names {
			served[n] = true
		}
	}
	if len(served) != count {
		t.Errorf("%d names have a current certificate, want %d", len(served), count)
	}
	t.Logf("%d certificates: first issue %.1f s; renewed on ARI with replaces in %.1f s (%d requests for a new order, 20 %% of nonces refused)", count, first.Seconds(), second.Seconds(), w.proxy.Seen("order-plz")-before)
}

// TestPebbleRevokes has Pebble revoke by the account's key and by the certificate's
// own: it says that it did, and another certificate with another key is there.
func TestPebbleRevokes(t *testing.T) {
	w := newWorld(t, testacme.PebbleOptions{})
	for _, tt := range []struct {
		reason string
		code   int
	}{{"", 0}, {"superseded", 4}, {"keyCompromise", 1}} {
		t.Run("reason "+tt.reason, func(t *testing.T) {
			name := "n" + tt.reason + ".example.com"
			w.memory = new(Memory)
			w.restart()
			issuer := &Issuer{Driver: w.driver, Lease: w.memory, Log: w.driver.Log, Plan: planner.Config{CAs: []planner.CA{{Name: "test"}}, Window: 10 * time.Millisecond},
				Wanted: func(context.Context) ([]Want, error) {
					return []Want{{Name: strings.ToLower(name), Policy: planner.Policy{Profile: "classic"}}}, nil
				},
				Check: func(context.Context, Question) Verdict { return Verdict{Methods: []string{HTTP01}} },
				Used:  func(string) bool { return true }} // so that the revoked one can be looked at
			ctx, stop := context.WithCancel(t.Context())
			var ended sync.WaitGroup
			ended.Go(func() { issuer.Run(ctx) })
			defer ended.Wait()
			defer stop()
			wait := func(count int) (all []Certificate) {
				for begin := time.Now(); len(all) < count; time.Sleep(50 * time.Millisecond) {
					if time.Since(begin) > time.Minute {
						t.Fatalf("%d certificates after a minute", len(all))
					}
					records, err := w.memory.Range(ctx, KindCertificate, "", "", 10)
					if err != nil {
						t.Fatal(err)
					}
					all = nil
					for _, r := range records {
						var c Certificate
						if err := json.Unmarshal(r.Value, &c); err != nil {
							t.Fatal(err)
						}
						all = append(all, c)
					}
				}
				return all
			}
			first := wait(1)[0]
			if err := w.memory.Write(ctx, 0, Ask{Do: AskRevoke, Certificate: first.ID, Reason: tt.reason}.Record(time.Now())); err != nil {
				t.Fatal(err)
			}
			issuer.Asked()
			var revoked, second Certificate
			for _, c := range wait(2) {
				if c.ID == first.ID {
					revoked = c
				} else {
					second = c
				}
			}
			leaf := leafOf(t, first.Chain)
			status, reason := w.pebble.Status(t, leaf)
			if status != "Revoked" || reason != tt.code || revoked.Revoked.IsZero() || revoked.RevokedFor != tt.reason || !revoked.Replaced {
				t.Errorf("Pebble says %s (%d); stored: revoked %v for %q, replaced %v", status, reason, revoked.Revoked, revoked.RevokedFor, revoked.Replaced)
			}
			next := leafOf(t, second.Chain)
			if status, _ := w.pebble.Status(t, next); status != "Valid" || bytes.Equal(next.RawSubjectPublicKeyInfo, leaf.RawSubjectPublicKeyInfo) {
				t.Errorf("the next one is %s; the same key: %v", status, bytes.Equal(next.RawSubjectPublicKeyInfo, leaf.RawSubjectPublicKeyInfo))
			}
		})
	}
}
