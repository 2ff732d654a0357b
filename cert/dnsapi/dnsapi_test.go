package dnsapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libdns/libdns"

	"fingerpost/cert/order"
	"fingerpost/internal/testacme"
	"fingerpost/internal/testdns"
)

// hookArgument has the test's own program be a hook: its next argument is the address
// of a [provider].
const hookArgument = "be-a-dns-hook"

func TestMain(m *testing.M) {
	if len(os.Args) == 6 && os.Args[1] == hookArgument {
		os.Exit(beHook(os.Args[2], os.Args[3], os.Args[4], os.Args[5]))
	}
	os.Exit(m.Run())
}

const secret = "s3cr3t-token"

func beHook(provider, action, record, value string) int {
	fmt.Println("calling with", secret)
	resp, err := http.PostForm(provider+"/"+action, url.Values{"record": {record}, "value": {value}, "environment": {strings.Join(os.Environ(), "\n")}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		fmt.Fprintf(os.Stderr, "authorization %s: %s", secret, text)
		return 1
	}
	return 0
}

// provider is a DNS provider with an API, whose zones a resolver has at once.
type provider struct {
	*httptest.Server
	dns *testdns.Server

	mu      sync.Mutex
	values  map[string][]string
	refused string // a record
	calls   []string
	leaked  bool // a hook has seen more of the environment than it may
}

func newProvider(t *testing.T) *provider {
	p := &provider{dns: testdns.New(t), values: map[string][]string{}}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		record, value := r.FormValue("record"), r.FormValue("value")
		p.mu.Lock()
		defer p.mu.Unlock()
		p.calls = append(p.calls, r.URL.Path+" "+record)
		p.leaked = p.leaked || strings.Contains(r.FormValue("environment"), "FINGERPOST_")
		if record == p.refused {
			http.Error(w, "no such zone", http.StatusNotFound)
			return
		}
		list := slices.DeleteFunc(p.values[record], func(v string) bool { return v == value })
		if r.URL.Path == "/present" {
			list = append(list, value)
		}
		p.values[record] = list
		p.dns.Set(record, "TXT", list...)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) left() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, list := range p.values {
		n += len(list)
	}
	return n
}

// TestHookProvesNames has pre-flights and orders go through a hook: a name and its
// wildcard, which share a record, are issued; one that the provider refuses fails
// alone, and before its order; nothing is left, and no secret is in the log.
func TestHookProvesNames(t *testing.T) {
	t.Setenv("FINGERPOST_TOKEN", "of the program")
	p := newProvider(t)
	p.refused = "_acme-challenge.bad.example"
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	resolver := &order.Resolver{Servers: []string{p.dns.Addr()}}
	solver := &Solver{Setter: &Hook{Command: []string{self, hookArgument, p.URL}}, Missing: resolver.MissingTXT}
	ca := &testacme.CA{Validate: func(name, method, _, auth string) *testacme.Problem {
		sum := sha256.Sum256([]byte(auth))
		missing, err := resolver.MissingTXT(context.Background(), "_acme-challenge."+name, base64.RawURLEncoding.EncodeToString(sum[:]))
		if method != order.DNS01 || missing != "" || err != nil {
			return &testacme.Problem{Type: "unauthorized", Detail: method + " is not shown"}
		}
		return nil
	}}
	ours, err := order.NewCA(order.CAConfig{Name: "test", Directory: testacme.Directory("hook.test"), Transport: ca.Transport()})
	if err != nil {
		t.Fatal(err)
	}
	memory, log := new(order.Memory), new(bytes.Buffer)
	plain := func(_ string, b []byte) ([]byte, error) { return b, nil }
	driver := &order.Driver{CAs: map[string]*order.CA{"test": ours}, Storage: memory, Solver: solver, Seal: plain, Unseal: plain, Log: slog.New(slog.NewTextHandler(log, nil))}

	check := &order.Preflight{Resolver: resolver, Solver: solver, Private: true, Provider: true}
	var names []order.Name
	for _, name := range []string{"shop.example", "*.shop.example", "bad.example"} {
		v := check.Check(t.Context(), order.Question{Name: name})
		if name == "bad.example" {
			f := v.Failure
			if f == nil || f.Code != order.CodeProvider || !strings.Contains(f.Reason, "the TXT record of _acme-challenge.bad.example could not be set: the hook ended with exit status 1") || !strings.Contains(f.Detail, "no such zone") || f.Hint == "" {
				t.Errorf("%s: %+v", name, v)
			} else if strings.Contains(f.Error(), secret) {
				t.Errorf("%s: what the hook says is in the error: %v", name, f)
			}
		} else if !slices.Equal(v.Methods, []string{order.DNSProvider01}) {
			t.Errorf("%s: %v %v %v", name, v.Methods, v.Failure, v.Unsure)
		}
		names = append(names, order.Name{Name: name, Methods: []string{order.DNSProvider01}})
	}
	if n := p.left(); n > 0 || ca.Orders() > 0 {
		t.Errorf("the checks have left %d values, and %d orders", n, ca.Orders())
	}

	drive := func(names []order.Name) *order.Order {
		t.Helper()
		o := order.New(order.Spec{CA: "test", Names: names}, time.Now())
		if err := memory.Write(t.Context(), 0, o.Record()); err != nil {
			t.Fatal(err)
		}
		o, err := driver.Drive(t.Context(), 0, o.ID)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := drive(names)
	if o.Outcome.Result != order.Failed || len(o.Outcome.Failed) != 1 || o.Outcome.Failed[0].Name != "bad.example" || !strings.Contains(o.Outcome.Failed[0].Detail, "no such zone") {
		t.Fatalf("%+v", o.Outcome)
	}
	if o = drive(o.Rest()); o.Outcome.Result != order.Issued {
		t.Fatalf("%+v", o.Outcome)
	}
	if n := p.left(); n > 0 {
		t.Errorf("%d values are left", n)
	}
	if strings.Contains(log.String(), secret) {
		t.Errorf("the log has what the hook prints:\n%s", log)
	}
	if p.leaked {
		t.Error("the hook has seen the environment of the program")
	}
}

func script(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestHookEndings(t *testing.T) {
	for _, tt := range []struct{ name, script, message, said string }{
		{"well", "exit 0", "", ""},
		{"arguments", `test "$*" = "fixed present _acme-challenge.a.example -v;\$(x) y"`, "", ""},
		{"badly", "echo no such zone >&2; echo " + secret + "; exit 3", "the hook ended with exit status 3", "no such zone"},
		{"badly, and silent", "exit 1", "the hook ended with exit status 1", ""},
		{"by a signal", "kill -9 $$", "the hook ended with signal: killed", ""},
		{"much", "i=0; while [ $i -lt 200 ]; do echo line $i >&2; i=$((i+1)); done; exit 1", "exit status 1", "line 198 line 199"},
		{"escapes", `printf 'a\033[31mb\n\tc\000\377d' >&2; exit 1`, "exit status 1", "a [31mb c d"},
		{"with a child", "sleep 30 >/dev/null & exit 0", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &Hook{Command: []string{script(t, tt.script), "fixed"}}
			err := h.Set(t.Context(), "_acme-challenge.a.example", "-v;$(x) y")
			var e *Error
			switch {
			case tt.message == "" && err != nil:
				t.Error(err)
			case tt.message != "" && (!errors.As(err, &e) || !strings.Contains(e.Message, tt.message)):
				t.Errorf("got %v, want %s", err, tt.message)
			case e != nil && (!strings.HasSuffix(e.Said, tt.said) || len(e.Said) > saidAtMost || strings.Contains(e.Said, secret)):
				t.Errorf("it said %q, want …%q", e.Said, tt.said)
			}
		})
	}
	h := &Hook{Command: []string{filepath.Join(t.TempDir(), "none")}}
	if err := h.Remove(t.Context(), "a", "b"); err == nil || !strings.Contains(err.Error(), "could not be started") {
		t.Errorf("without a file: %v", err)
	}
}

// TestSlowHookIsEnded with what it has started.
func TestSlowHookIsEnded(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	h := &Hook{Command: []string{script(t, "echo begun >&2; sleep 600 & echo $! >"+pidFile+"; wait")}, Timeout: 3 * time.Second}
	err := h.Set(t.Context(), "_acme-challenge.a.example", "v")
	var e *Error
	if !errors.As(err, &e) || e.Message != "the hook has not ended within 3s" || e.Said != "begun" {
		t.Fatalf("%v (%+v)", err, e)
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); alive(pid); {
		if time.Now().After(end) {
			t.Fatal("its child lives on")
		}
		time.Sleep(10 * time.Millisecond)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Set(ctx, "_acme-challenge.a.example", "v"); !errors.Is(err, context.Canceled) {
		t.Errorf("after a cancellation: %v", err)
	}
}

// alive reports whether a process runs; one that nobody has waited for does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

// setter is a Setter for clocks that are not real.
type setter struct {
	took    time.Duration
	running sync.Map // record → *atomic.Int32
	met     atomic.Bool
	most    atomic.Int32
	now     atomic.Int32
	hangs   string // a record whose changes take for ever
}

func (s *setter) Set(ctx context.Context, record, _ string) error {
	if record == s.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	v, _ := s.running.LoadOrStore(record, new(atomic.Int32))
	if v.(*atomic.Int32).Add(1) > 1 {
		s.met.Store(true)
	}
	if n := s.now.Add(1); n > s.most.Load() {
		s.most.Store(n)
	}
	time.Sleep(s.took)
	s.now.Add(-1)
	v.(*atomic.Int32).Add(-1)
	return nil
}

func (s *setter) Remove(ctx context.Context, record, value string) error {
	return s.Set(ctx, record, value)
}

func TestChangesOfARecordNeverMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := &setter{took: time.Second}
		s := &Solver{Setter: set, Missing: func(context.Context, string, string) (string, error) { return "", nil }}
		var challenges []order.Challenge
		for i := range 100 {
			for j := range 2 {
				challenges = append(challenges, order.Challenge{Record: fmt.Sprintf("_acme-challenge.n%d.example", i), TXT: fmt.Sprint(j), Provider: true})
			}
		}
		if err := s.Present(t.Context(), challenges); err != nil {
			t.Fatal(err)
		}
		if len(s.turns) > 0 {
			t.Errorf("%d records are remembered", len(s.turns))
		}
		if set.met.Load() || set.most.Load() > atOnce || set.most.Load() < 2 {
			t.Errorf("met: %v, at once: %d", set.met.Load(), set.most.Load())
		}
	})
}

// TestARecordThatHangsIsInNobodysWay, however many changes wait for it.
func TestARecordThatHangsIsInNobodysWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := &setter{took: time.Second, hangs: "_acme-challenge.hangs.example"}
		s := &Solver{Setter: set, Missing: func(context.Context, string, string) (string, error) { return "", nil }}
		ctx, cancel := context.WithCancel(t.Context())
		var stuck sync.WaitGroup
		for i := range 3 * atOnce {
			stuck.Go(func() {
				s.Present(ctx, []order.Challenge{{Record: set.hangs, TXT: fmt.Sprint(i), Provider: true}})
			})
		}
		time.Sleep(time.Second)
		begin := time.Now()
		var challenges []order.Challenge
		for i := range 4 * (atOnce - 1) {
			challenges = append(challenges, order.Challenge{Record: fmt.Sprintf("_acme-challenge.n%d.example", i), Provider: true})
		}
		if err := s.Present(t.Context(), challenges); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != 4*time.Second {
			t.Errorf("%d others took %v, want 4 s", len(challenges), took)
		}
		cancel()
		stuck.Wait()
		if len(s.turns) > 0 {
			t.Errorf("%d records are remembered", len(s.turns))
		}
	})
}

func TestPresentWaitsForTheServers(t *testing.T) {
	c := order.Challenge{Name: "a.example", Record: "_acme-challenge.a.example", TXT: "v", Provider: true}
	for _, tt := range []struct {
		name   string
		after  time.Duration
		err    error
		reason string
	}{
		{"at once", 0, nil, ""},
		{"late", 100 * time.Second, nil, ""},
		{"after an error", 10 * time.Second, errors.New("SERVFAIL"), ""},
		{"never", time.Hour, nil, "192.0.2.1:53 does not give it after 2m0s"},
		{"nobody answers", time.Hour, errors.New("SERVFAIL"), "nobody could be asked for it within 2m0s: SERVFAIL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				s := &Solver{Setter: &setter{}, Missing: func(context.Context, string, string) (string, error) {
					if time.Since(begin) >= tt.after {
						return "", nil
					}
					return "192.0.2.1:53", tt.err
				}}
				err := s.Present(t.Context(), []order.Challenge{c})
				var unshown order.Unshown
				switch took := time.Since(begin); {
				case tt.reason == "" && (err != nil || took < tt.after || took > tt.after+waitEvery):
					t.Errorf("%v after %v", err, took)
				case tt.reason != "" && (!errors.As(err, &unshown) || !strings.Contains(unshown[c].Reason, tt.reason) || took > waitFor):
					t.Errorf("%v after %v", err, took)
				}
			})
		})
	}
}

// memoryProvider is a provider of libdns.
type memoryProvider struct {
	zones   map[string][]libdns.RR
	refuses error
}

func (m *memoryProvider) AppendRecords(_ context.Context, zone string, list []libdns.Record) ([]libdns.Record, error) {
	for _, r := range list {
		m.zones[zone] = append(m.zones[zone], r.RR())
	}
	return list, m.refuses
}

func (m *memoryProvider) DeleteRecords(_ context.Context, zone string, list []libdns.Record) ([]libdns.Record, error) {
	for _, r := range list {
		rr := r.RR()
		m.zones[zone] = slices.DeleteFunc(m.zones[zone], func(have libdns.RR) bool {
			return have.Name == rr.Name && have.Type == rr.Type && have.Data == rr.Data && (rr.TTL == 0 || rr.TTL == have.TTL)
		})
	}
	return list, m.refuses
}

func TestLibDNSFindsTheZone(t *testing.T) {
	dns := testdns.New(t)
	soa := "ns. root. 1 2 3 4 5"
	dns.Set("shop.co.uk", "SOA", soa)
	dns.Set("deep.shop.co.uk", "SOA", soa) // a zone of its own
	dns.Set("co.uk", "SOA", soa)
	resolver := &order.Resolver{Servers: []string{dns.Addr()}}
	for _, tt := range []struct{ record, zone, name string }{
		{"_acme-challenge.shop.co.uk", "shop.co.uk.", "_acme-challenge"},
		{"_acme-challenge.www.shop.co.uk", "shop.co.uk.", "_acme-challenge.www"},
		{"_acme-challenge.a.deep.shop.co.uk", "deep.shop.co.uk.", "_acme-challenge.a"},
	} {
		p := &memoryProvider{zones: map[string][]libdns.RR{}}
		l := &LibDNS{Provider: p, Zone: resolver.Zone}
		for _, value := range []string{"v", "w"} {
			if err := l.Set(t.Context(), tt.record, value); err != nil {
				t.Fatal(err)
			}
		}
		want := []libdns.RR{{Name: tt.name, Type: "TXT", Data: "v", TTL: recordTTL}, {Name: tt.name, Type: "TXT", Data: "w", TTL: recordTTL}}
		if !slices.Equal(p.zones[tt.zone], want) {
			t.Errorf("%s: %+v", tt.record, p.zones)
		}
		if err := l.Remove(t.Context(), tt.record, "v"); err != nil || !slices.Equal(p.zones[tt.zone], want[1:]) {
			t.Errorf("%s: %v, %+v", tt.record, err, p.zones)
		}
		p.refuses = errors.New("401 " + secret)
		var e *Error
		if err := l.Set(t.Context(), tt.record, "v"); !errors.As(err, &e) || strings.Contains(e.Message, secret) || !strings.Contains(e.Said, "401") {
			t.Errorf("%v", err)
		}
	}
	if err := (&LibDNS{Provider: &memoryProvider{}, Zone: resolver.Zone}).Set(t.Context(), "_acme-challenge.none.example", "v"); err == nil || !strings.Contains(err.Error(), "the zone of _acme-challenge.none.example was not found") {
		t.Errorf("without a zone: %v", err)
	}
}
