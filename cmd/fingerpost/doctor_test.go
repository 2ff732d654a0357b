package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"fingerpost/admin"
	"fingerpost/cert/order"
	"fingerpost/internal/testca"
	"fingerpost/internal/testdns"
	"fingerpost/source"
)

// checked is what a doctor found, a line for each finding.
type checked struct{ lines []string }

func (c *checked) doctor(t *testing.T) *doctor {
	return &doctor{ctx: t.Context(), private: true, http: http.DefaultClient, found: func(f finding) {
		c.lines = append(c.lines, f.Level+" "+f.Check+": "+f.Message)
		if f.Level == levelFail && f.Hint == "" {
			t.Errorf("no hint for %s", f.Message)
		}
	}}
}

func (c *checked) has(t *testing.T, want string) {
	t.Helper()
	for _, line := range c.lines {
		if strings.HasPrefix(line, want) {
			return
		}
	}
	t.Errorf("no line begins with %q:\n%s", want, strings.Join(c.lines, "\n"))
}

func portOf(t *testing.T, addr string) (n int) {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Sscan(port, &n)
	return n
}

func TestDoctorTellsHowAHostIsReached(t *testing.T) {
	dns := testdns.New(t)
	ca := testca.New()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/probe" || r.Host != "good.example" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintln(w, "ours")
	}))
	defer web.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	certificate, key := ca.Issue("good.example", "moved.example")
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	secure.TLS = &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if h.ServerName == "new.example" {
			return nil, nil // unrecognized_name
		}
		return &pair, nil
	}}
	secure.TLS.Certificates = nil
	secure.StartTLS()
	defer secure.Close()
	secure.TLS.Certificates = nil
	for _, name := range []string{"good", "new", "other", "moved", "caa"} {
		dns.Set(name+".example", "A", "127.0.0.1")
	}
	dns.Set("caa.example", "CAA", `0 issue "other.net"`)
	var c checked
	d := c.doctor(t)
	d.httpPort, d.httpsPort = portOf(t, web.Listener.Addr().String()), portOf(t, secure.Listener.Addr().String())
	d.own, d.issuers = []string{"127.0.0.1"}, []string{"ca.example"}
	d.resolvers([]string{dns.Addr()})
	for _, name := range []string{"good.example", "other.example", "caa.example", "none.example", "*.good.example"} {
		d.host(name)
	}
	c.has(t, "ok resolvers: "+dns.Addr()+" answers in ")
	c.has(t, "ok dns: good.example points to 127.0.0.1")
	c.has(t, fmt.Sprintf("ok port %d: good.example answers at 127.0.0.1:%d (HTTP 404)", d.httpPort, d.httpPort))
	c.has(t, fmt.Sprintf("ok port %d: good.example answers at 127.0.0.1:%d, with a certificate until ", d.httpsPort, d.httpsPort))
	c.has(t, "ok caa: good.example may have a certificate of ca.example")
	c.has(t, fmt.Sprintf("fail port %d: the certificate that is shown at 127.0.0.1:%d is not for other.example", d.httpsPort, d.httpsPort))
	c.has(t, "fail caa: the CAA records of caa.example allow other.net to issue for caa.example, not ca.example")
	c.has(t, "fail dns: none.example has no address in DNS")
	c.has(t, "fail host: *.good.example cannot be looked at by itself")

	c.lines = nil
	d.own = []string{"192.0.2.1"}
	d.host("moved.example")
	c.has(t, "warn dns: moved.example points to 127.0.0.1, which is not among addresses")
	c.has(t, fmt.Sprintf("warn port %d: moved.example answers at 127.0.0.1:%d (HTTP 404), and whether it is a node of ours is not known", d.httpPort, d.httpPort))
	c.lines, d.own = nil, nil
	d.host("good.example")
	c.has(t, fmt.Sprintf("warn port %d: good.example answers at ", d.httpPort))
	for _, tt := range []struct {
		answer string
		err    error
		want   string
	}{
		{answer: "ours", want: fmt.Sprintf("ok port %d: good.example answers at 127.0.0.1:%d: a node of ours", d.httpPort, d.httpPort)},
		{answer: "another", want: fmt.Sprintf("fail port %d: another server answers for good.example at 127.0.0.1:%d (HTTP 200)", d.httpPort, d.httpPort)},
		{err: &admin.Problem{Code: "unauthorized", Detail: "nobody is logged in"}, want: "warn probe: the server does not say what only nodes of ours answer: nobody is logged in"},
	} {
		c.lines = nil
		d.probe = func(string) (admin.ProbeResource, error) {
			return admin.ProbeResource{Path: "/probe", Answer: tt.answer}, tt.err
		}
		d.host("good.example")
		c.has(t, tt.want)
	}
	d.probe = nil
	secure.Close()
	web.Close()
	d.host("good.example")
	c.has(t, fmt.Sprintf("fail port %d: good.example does not answer at 127.0.0.1:%d: the connection is refused", d.httpPort, d.httpPort))
	c.has(t, fmt.Sprintf("fail port %d: good.example does not answer at 127.0.0.1:%d: the connection is refused", d.httpsPort, d.httpsPort))
}

func TestDoctorTellsANameWithoutACertificate(t *testing.T) {
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go http.Serve(l, http.NotFoundHandler()) // ends with the listener
	dns := testdns.New(t)
	dns.Set("new.example", "A", "127.0.0.1")
	var c checked
	d := c.doctor(t)
	d.httpPort, d.httpsPort = portOf(t, l.Addr().String()), portOf(t, l.Addr().String())
	d.resolver = &order.Resolver{Servers: []string{dns.Addr()}}
	d.host("new.example")
	c.has(t, fmt.Sprintf("warn port %d: new.example is reached at %s, and has no certificate yet", d.httpsPort, l.Addr()))
}

func TestDoctorTellsOfTheValidationZone(t *testing.T) {
	dns := testdns.New(t)
	dns.Set("example.net", "SOA", "ns.example.net. hostmaster.example.net. 1 2 3 4 5")
	dns.Set("acme.example.net", "SOA", "ns1.acme.example.net. hostmaster.acme.example.net. 1 2 3 4 5")
	dns.Fail("broken.example.net", testdns.ServFail)
	for zone, want := range map[string]string{
		"acme.example.net":   "ok validation zone: acme.example.net is answered",
		"other.example.net":  "fail validation zone: other.example.net is not delegated: it is a part of the zone example.net",
		"broken.example.net": "fail validation zone: broken.example.net is not answered",
	} {
		var c checked
		d := c.doctor(t)
		d.resolver, d.zone = &order.Resolver{Servers: []string{dns.Addr()}}, zone
		d.validation()
		c.has(t, want)
	}
}

func TestDoctorTellsOfCAsClocksAndResolvers(t *testing.T) {
	var off time.Duration
	ca := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
		switch r.URL.Path {
		case "/directory":
			fmt.Fprint(w, `{"newOrder": "https://ca.example/new", "meta": {"caaIdentities": ["ca.example"]}}`)
		case "/readyz":
		case "/sick/readyz":
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			fmt.Fprint(w, `<html>please log in</html>`)
		}
	}))
	defer ca.Close()
	var c checked
	d := c.doctor(t)
	d.ca(&source.CA{Name: "ours", Directory: ca.URL + "/directory"}, true)
	c.has(t, "ok clock: the same as that of ours")
	c.has(t, "ok ca: ours can be reached")
	if len(d.issuers) != 1 || d.issuers[0] != "ca.example" {
		t.Errorf("issuers %v", d.issuers)
	}
	off = time.Minute
	d.ca(&source.CA{Name: "ahead", Directory: ca.URL + "/directory"}, false)
	c.has(t, "warn clock: this machine's clock and that of ahead differ by ")
	off = -time.Hour
	if !d.server(ca.URL) {
		t.Error("the server answers")
	}
	c.has(t, "fail clock: this machine's clock and that of the server differ by ")
	c.has(t, "ok server: ")
	d.server(ca.URL + "/sick")
	c.has(t, "fail server: "+ca.URL+"/sick is not ready (HTTP 503)")
	d.ca(&source.CA{Name: "html", Directory: ca.URL + "/login"}, false)
	c.has(t, "fail ca: "+ca.URL+"/login answers 200 OK, which is no ACME directory")
	ca.Close()
	d.ca(&source.CA{Name: "gone", Directory: ca.URL + "/directory"}, false)
	c.has(t, "fail ca: gone cannot be reached: ")
	if d.server(ca.URL) {
		t.Error("no server answers")
	}
	c.has(t, "fail server: no answer from "+ca.URL)

	dns := testdns.New(t)
	dns.Fail("letsencrypt.org", testdns.ServFail)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	d.ctx = ctx
	d.resolvers([]string{dns.Addr()})
	c.has(t, "fail resolvers: "+dns.Addr()+" does not answer: ")
	if len(d.resolver.Servers) != 0 {
		t.Errorf("it goes on with %v", d.resolver.Servers)
	}
}
