package main

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"fingerpost/internal/faults"
)

// used is the CPU time of this process.
func used() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// knock makes a connection of its own and asks for one page.
func knock(address, host, proto string, config *tls.Config) (*tls.ConnectionState, error) {
	req, err := http.NewRequest(http.MethodGet, "https://"+address+"/", nil)
	if err != nil {
		return nil, err
	}
	req.Host = host
	config.RootCAs, config.ServerName = testCA.Pool(), strings.ToLower(host)
	var resp *http.Response
	if proto == "3" {
		t := &http3.Transport{TLSClientConfig: config}
		defer t.Close()
		resp, err = t.RoundTrip(req)
	} else {
		t := &http.Transport{TLSClientConfig: config, Protocols: new(http.Protocols)}
		t.Protocols.SetHTTP1(proto == "1.1")
		t.Protocols.SetHTTP2(proto == "2")
		defer t.CloseIdleConnections()
		resp, err = t.RoundTrip(req)
	}
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMovedPermanently || !strings.HasPrefix(resp.Proto, "HTTP/"+proto) {
		return nil, fmt.Errorf("got %d over %s", resp.StatusCode, resp.Proto)
	}
	return resp.TLS, nil
}

func serialOf(s *tls.ConnectionState) int64 { return s.PeerCertificates[0].SerialNumber.Int64() }

// TestNoHandshakeFailsWhileACertificateIsRenewed renews a certificate a hundred
// times, by turns as an issuer does (another comes, then the old one goes) and as
// who imports it again (in its place), under as many handshakes as the machine
// gives: over HTTP/1.1, 2 and 3, full ones and resumed ones, by tickets of the
// certificate that is served and of those before it. Each ends in the answer to a
// request; the full ones show no certificate that this node had already left.
func TestNoHandshakeFailsWhileACertificateIsRenewed(t *testing.T) {
	const renewals, host = 100, "swap.example"
	r := startNode(t, t.TempDir(), func(o *options) { o.https = "127.0.0.1:0" })
	now := r.issued("c0", 1, host, "*."+host)
	r.put(nil, now)
	r.must("hosts", "set", host, "--to", "https://to.example/")
	r.must("hosts", "set", "*."+host, "--to", "https://to.example/")
	r.leads(host, "/", "https://to.example/")
	r.leads("any."+host, "/", "https://to.example/")
	var floor, ceiling atomic.Int64 // of the serial numbers that may be shown
	floor.Store(1)
	ceiling.Store(1)
	var done atomic.Bool
	var all, bad atomic.Int64
	type door struct {
		proto   string
		version uint16
	}
	type count struct{ full, resumed, older atomic.Int64 }
	doors := []door{{"1.1", tls.VersionTLS12}, {"1.1", tls.VersionTLS13}, {"2", tls.VersionTLS12}, {"2", tls.VersionTLS13}, {"3", tls.VersionTLS13}}
	counts := make([]count, len(doors))
	var clients sync.WaitGroup
	address := r.addr("https")
	for i, d := range doors {
		clients.Go(func() {
			var tickets tls.ClientSessionCache
			for n := 0; !done.Load(); n++ {
				if n%8 == 0 {
					tickets = tls.NewLRUClientSessionCache(2) // full handshakes, then resumed ones
				}
				name := host
				if n%2 == 1 {
					name = "any." + host
				}
				least := floor.Load()
				c, err := knock(address, name, d.proto, &tls.Config{MinVersion: d.version, MaxVersion: d.version, ClientSessionCache: tickets})
				all.Add(1)
				switch {
				case err != nil:
					bad.Add(1)
					t.Errorf("HTTP/%s over %s: %v", d.proto, tls.VersionName(d.version), err)
					return
				case !c.DidResume && n%8 >= 2 && d.proto != "3": // over QUIC the ticket may come after the answer
					bad.Add(1)
					t.Errorf("HTTP/%s over %s: a ticket was not taken", d.proto, tls.VersionName(d.version))
				case c.DidResume:
					counts[i].resumed.Add(1)
					if serialOf(c) < least {
						counts[i].older.Add(1)
					}
				case serialOf(c) < least || serialOf(c) > ceiling.Load():
					bad.Add(1)
					t.Errorf("HTTP/%s over %s shows the certificate %d, want one of %d to %d", d.proto, tls.VersionName(d.version), serialOf(c), least, ceiling.Load())
				default:
					counts[i].full.Add(1)
				}
			}
		})
	}
	begin, cpu := time.Now(), used()
	for i := range renewals {
		serial := int64(i + 2)
		ceiling.Store(serial)
		id := now.Name
		if i%2 == 0 {
			id = fmt.Sprint("c", serial)
		}
		next := r.issued(id, serial, host, "*."+host)
		next.NotAfter = next.NotAfter.Add(time.Duration(i) * time.Second)
		if id == now.Name {
			r.put(now, next)
		} else {
			r.put(nil, next)
			r.put(now, nil)
		}
		floor.Store(serial)
		now = next
		for more := all.Load() + 20; all.Load() < more && bad.Load() == 0; { // each is in use for a while
			time.Sleep(time.Millisecond)
		}
	}
	done.Store(true)
	clients.Wait()
	took := time.Since(begin)
	for i, d := range doors {
		c := &counts[i]
		t.Logf("HTTP/%-3s over %s: %d full, %d resumed, of which %d with a ticket from before the last renewal", d.proto, tls.VersionName(d.version), c.full.Load(), c.resumed.Load(), c.older.Load())
		if c.full.Load() == 0 || c.resumed.Load() == 0 || c.older.Load() == 0 {
			t.Errorf("HTTP/%s over %s: no handshakes of one kind", d.proto, tls.VersionName(d.version))
		}
	}
	t.Logf("%d renewals, %d handshakes, %d bad; %.0f handshakes/s, %.0f per second of CPU (client and server in one process)",
		renewals, all.Load(), bad.Load(), float64(all.Load())/took.Seconds(), float64(all.Load())/(used()-cpu).Seconds())
}

// TestARenewedCertificateIsOnAllNodesWithinASecond measures from the commit to the
// first handshake with it on an edge. An edge that does not hear of it goes on with
// the one that it has, although that is gone elsewhere.
func TestARenewedCertificateIsOnAllNodesWithinASecond(t *testing.T) {
	const host = "shop.example"
	control := startNode(t, t.TempDir(), func(o *options) { o.https = "127.0.0.1:0" })
	proxy, err := faults.NewProxy(control.addr("admin"))
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	edge := control.follower(func(o *options) { o.https, o.control = "127.0.0.1:0", "http://"+proxy.Addr() })
	control.must("hosts", "set", host, "--to", "https://to.example/")
	now := control.issued("c1", 1, host)
	control.put(nil, now)
	edge.has(control.shared.replica.Status().Cursor.Rev)
	serial := func(r *running) int64 {
		t.Helper()
		c, err := knock(r.addr("https"), host, "1.1", &tls.Config{})
		if err != nil {
			t.Fatalf("on %s: %v", r.o.role, err)
		}
		return serialOf(c)
	}
	// shows waits until a node shows a certificate; no handshake may fail until then.
	shows := func(r *running, want int64) {
		t.Helper()
		for begin := time.Now(); serial(r) != want; {
			if time.Since(begin) > 20*time.Second {
				t.Fatalf("%s does not show certificate %d", r.o.role, want)
			}
		}
	}
	var slowest time.Duration
	for i := range int64(20) {
		next := control.issued(fmt.Sprint("c", i+2), i+2, host)
		next.NotAfter = now.NotAfter.Add(time.Second)
		begin := time.Now()
		control.put(nil, next)
		shows(edge, i+2)
		slowest = max(slowest, time.Since(begin))
		shows(control, i+2)
		control.put(now, nil) // as an issuer does, in a later revision
		now = next
	}
	t.Logf("live on control and an edge %v after the commit at most, of 20", slowest.Round(time.Millisecond))
	if slowest > time.Second {
		t.Log("that is longer than a second")
	}

	edge.has(control.shared.replica.Status().Cursor.Rev)
	proxy.Refuse(true)
	proxy.CutAll()
	last := control.issued("last", 99, host)
	last.NotAfter = now.NotAfter.Add(time.Second)
	control.put(nil, last)
	control.put(now, nil)
	shows(control, 99)
	if _, err := control.shared.db.Get(t.Context(), "certificate", now.Name); err == nil {
		t.Fatal("the old one is still in the store")
	}
	for range 10 {
		if got := serial(edge); got != serialOfItem(t, now.Serial) {
			t.Errorf("an edge without a feed shows certificate %d", got)
		}
	}
	proxy.Refuse(false)
	shows(edge, 99)
	edge.has(control.shared.replica.Status().Cursor.Rev)
	if it, err := edge.shared.replica.Get("certificate", now.Name); it != nil || err != nil {
		t.Errorf("the edge still has the old one: %v, %v", it, err)
	}
}

// serialOfItem reads a serial number as certificates in the store have it.
func serialOfItem(t *testing.T, text string) (n int64) {
	t.Helper()
	if _, err := fmt.Sscanf(text, "%x", &n); err != nil {
		t.Fatal(err)
	}
	return n
}
