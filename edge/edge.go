// Package edge answers visitors: it listens, ends TLS, checks each request
// against the limits and the grammar, asks the table and sends what it says.
//
// It knows sockets, HTTP and the limits. It does not know where tables or
// certificates come from, nor what a redirect means: [redirect.Table] answers
// for every host, and all else is handed in as functions. It writes nothing to
// disk, and the path of a request takes no lock.
//
// Start reading at [Server], then front.ServeHTTP in handler.go, which is the
// whole way of one request: front.read (request.go) turns it into a
// [redirect.Request], the table answers, exchange.send (response.go) renders the
// [redirect.Answer].
package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fingerpost/redirect"
	"fingerpost/telemetry"
)

// Server answers visitors on any number of listeners. The fields are set before
// the first listener is served and not changed after; its methods may be called
// by several goroutines at once.
type Server struct {
	// Table gives the table to ask; it is called once for each request, which
	// sees that one table only.
	Table func() *redirect.Table
	// Certificate chooses for a handshake, as tls.Config.GetCertificate does;
	// (nil, nil) refuses an unknown name. Needed by ServeTLS only. Beside
	// handshakes it is asked once for each request whose host is not the one of
	// its connection.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// What follows may be nil or zero.

	// Challenge answers a CA that asks over http whether a host is ours (RFC 8555
	// 8.3): the body for a token, before any rule. Other tokens go their usual way.
	Challenge func(host, token string) (keyAuthorization string, ok bool)
	// ChallengeCertificate answers one that asks by a handshake (RFC 8737); nil if
	// there is nothing to answer.
	ChallengeCertificate func(host string) (*tls.Certificate, error)
	// TicketKeys are for the session tickets of a time, as
	// tls.Config.SetSessionTicketKeys takes them. Default: keys of this process.
	TicketKeys func(time.Time) [][32]byte

	Named   bool                    // answers have the field Server
	Covered func(host string) bool  // whether a live certificate covers host; see redirect.Request
	Country func(netip.Addr) string // ISO 3166-1 alpha-2, empty if unknown; asked only if the table uses it
	Now     func() time.Time        // the clock; default time.Now
	Metrics *telemetry.Metrics
	Access  *telemetry.AccessLog
	Log     *slog.Logger // default slog.Default()
	Limits  Limits
	Proxy   Proxy // of every listener
	// ClearAltSvc has visitors forget that there was HTTP/3 at a TLS listener that has
	// none: they remember it for a day (RFC 7838 3.1).
	ClearAltSvc bool

	// Loops is how many event loops serve plain TCP on Linux; 0 stands for GOMAXPROCS,
	// less for none: a goroutine for each connection, as elsewhere. Each keeps a thread
	// of Go's busy, so GOMAXPROCS has to be larger by as many.
	Loops int

	httpsPort atomic.Pointer[string] // lowest of the TLS listeners; see front.port
	notices   notices                // of rules that cannot be followed
	strangers notices                // of PROXY headers that were refused

	mu     sync.Mutex // guards what follows
	fronts []*front
	plain  *loops // of all plain listeners; nil before the first
	closed bool   // no listener is served any more
}

func (s *Server) loops() int {
	if s.Loops == 0 {
		return runtime.GOMAXPROCS(0)
	}
	return s.Loops
}

// Limits bound what one client can ask of the server. Zero fields stand for the
// defaults.
type Limits struct {
	URL     int           // bytes of the request target, over which 414 is sent; default 8192
	Head    int           // bytes of request line and header fields, over which 431 is sent; default 20480
	Body    int64         // bytes of a request body that are read past so that the connection can be kept; default 65536
	Header  time.Duration // for the handshake, a PROXY header before it included, and for the head of a request to arrive; default 10 s
	Request time.Duration // for a whole request to arrive, and again for its answer to leave; default 30 s
	Idle    time.Duration // between two requests; default 60 s
	Streams int           // at once on one HTTP/2 or HTTP/3 connection; default 250
	Conns   int           // open at once on one listener, over which new ones wait; default DefaultConns
	// Handshakes is how many are under way at once on one listener. Over it, one of
	// those gives way to the next: any of them, so that clients who open many and
	// finish none mostly lose their own. Default 4,000.
	Handshakes int
}

// DefaultConns is the default of Limits.Conns.
const DefaultConns = 100_000

func (l Limits) withDefaults() Limits {
	d := Limits{URL: 8192, Head: 20480, Body: 64 << 10, Header: 10 * time.Second, Request: 30 * time.Second, Idle: time.Minute, Streams: 250, Conns: DefaultConns, Handshakes: 4_000}
	set(&d.URL, l.URL)
	set(&d.Head, l.Head)
	set(&d.Body, l.Body)
	set(&d.Header, l.Header)
	set(&d.Request, l.Request)
	set(&d.Idle, l.Idle)
	set(&d.Streams, l.Streams)
	set(&d.Conns, l.Conns)
	set(&d.Handshakes, l.Handshakes)
	return d
}

func set[T int | int64 | time.Duration](p *T, v T) {
	if v != 0 {
		*p = v
	}
}

// netHTTPHead is what net/http and quic-go take of a head, counted as RFC 9113 6.5.2
// does: 32 bytes more for each field. It is above the limits, so that it is this
// package that tells 414 from 431, and not far: a client may send as much on each
// stream of each connection before we see any of it.
const netHTTPHead = 24 << 10

// ServePlain answers HTTP/1.0, 1.1 and, for clients that begin with it, HTTP/2
// on l until Shutdown, and closes l. The error is nil after Shutdown.
func (s *Server) ServePlain(l net.Listener) error {
	f := s.newFront(false, l.Addr())
	f.server.Protocols.SetUnencryptedHTTP2(true)
	return s.serve(f, l, func() error {
		if s.Loops >= 0 && s.Proxy.Mode == "" {
			if served, err := f.serveLoops(l); served || err != nil {
				return err
			}
		}
		return f.accept(l, f.servePlainConn)
	})
}

// ServeTLS is ServePlain over TLS 1.2 or 1.3 with HTTP/2 by ALPN. On quic, which is
// a UDP socket of the same port, or nil, it answers HTTP/3 too, and tells visitors
// of it. If that socket fails, https goes on without.
func (s *Server) ServeTLS(l net.Listener, quic net.PacketConn) error {
	p := port(l.Addr())
	s.servesHTTPS(p)
	f := s.newFront(true, l.Addr())
	f.server.Protocols.SetHTTP2(true)
	// A client that offers http/1.0 alone would be refused (RFC 7301 3.2). It is
	// served as one that offers nothing.
	config := s.tlsConfig(f, tls.VersionTLS12, "h2", "http/1.1", "http/1.0")
	if quic == nil && s.ClearAltSvc {
		f.altSvc = clearAltSvc
	}
	var http3 sync.WaitGroup
	var ending atomic.Bool
	if quic != nil {
		f.altSvc = newAltSvc(p)
		http3.Go(func() {
			if err := s.serveQUIC(quic); err != nil && !ending.Load() {
				f.http3Ended.Store(true)
				f.log.Error("HTTP/3 has ended, https goes on without it; a restart brings it back", "listen", l.Addr(), "err", err)
			}
		})
	}
	err := s.serve(f, l, func() error {
		return f.accept(l, func(c net.Conn) { f.serveTLSConn(c, config) })
	})
	if err != nil && quic != nil {
		ending.Store(true)
		quic.Close()
	}
	http3.Wait()
	return err
}

// servesHTTPS notes a port of https. Of several it is the lowest that visitors are
// sent to.
func (s *Server) servesHTTPS(port string) {
	n, err := strconv.Atoi(port)
	for err == nil {
		before := s.httpsPort.Load()
		if before != nil {
			if other, _ := strconv.Atoi(*before); other <= n {
				return
			}
		}
		if s.httpsPort.CompareAndSwap(before, &port) {
			return
		}
	}
}

// tlsConfig chooses among the configurations of a listener: net/http copies what
// it is given, and session tickets need one to change keys in.
func (s *Server) tlsConfig(f *front, version uint16, protos ...string) *tls.Config {
	certificate := func(hello *tls.ClientHelloInfo) (c *tls.Certificate, err error) {
		defer func() { // quic-go would let it end the program
			if r := recover(); r != nil {
				f.panicked(r)
				err = errors.New("no certificate: a fault of the server")
			}
		}()
		return s.Certificate(hello)
	}
	visitors := &tls.Config{
		// CurvePreferences stay nil: the default has the post-quantum hybrid first.
		MinVersion:     version,
		CipherSuites:   cipherSuites,
		GetCertificate: certificate,
		NextProtos:     protos,
	}
	bindTickets(visitors)
	var hour atomic.Int64 // that the keys are of
	choose := func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if s.ChallengeCertificate != nil && len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acmeTLS {
			return s.challengeConfig(hello.ServerName)
		}
		if s.TicketKeys != nil {
			now := f.now()
			if last := hour.Load(); last != now.Unix()/3600 && hour.CompareAndSwap(last, now.Unix()/3600) {
				visitors.SetSessionTicketKeys(s.TicketKeys(now))
			}
		}
		return visitors, nil
	}
	if s.TicketKeys != nil { // before the first handshake, of which there may be several at once
		now := f.now()
		hour.Store(now.Unix() / 3600)
		visitors.SetSessionTicketKeys(s.TicketKeys(now))
	}
	return &tls.Config{MinVersion: version, NextProtos: protos, GetCertificate: certificate, GetConfigForClient: choose}
}

// cipherSuites are those of TLS 1.2 that seal what they encrypt (RFC 9325 4.2). What
// the standard library has beside them is for clients from before 2014.
var cipherSuites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// bindTickets makes a session ticket good for the server name only that it was
// given for. crypto/tls would resume the session of one host for any other (RFC
// 8446 4.6.1 leaves it open), without showing that host's certificate; hosts belong
// to people who need not trust each other.
func bindTickets(c *tls.Config) {
	c.WrapSession = func(cs tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
		session.Extra = append(session.Extra, []byte(ticketName+strings.ToLower(cs.ServerName)))
		return c.EncryptTicket(cs, session)
	}
	c.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		session, err := c.DecryptTicket(identity, cs)
		if session == nil || err != nil {
			return nil, err
		}
		name := ticketName + strings.ToLower(cs.ServerName)
		if !slices.ContainsFunc(session.Extra, func(b []byte) bool { return string(b) == name }) {
			return nil, nil // a full handshake
		}
		return session, nil
	}
}

// ticketName marks the server name in a session ticket.
const ticketName = "fingerpost sni "

// acmeTLS is the protocol of a handshake by which a CA asks (RFC 8737 4).
const acmeTLS = "acme-tls/1"

// challengeConfig is for one handshake of a CA. No server name of ours: refused
// as any other that is unknown.
func (s *Server) challengeConfig(host string) (*tls.Config, error) {
	c, err := s.ChallengeCertificate(strings.ToLower(host))
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		NextProtos:             []string{acmeTLS},
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c, err },
	}, nil
}

// newFront makes what serves one listener.
func (s *Server) newFront(https bool, addr net.Addr) *front {
	limits := s.Limits.withDefaults()
	f := &front{s: s, https: https, port: port(addr), limits: limits, log: s.Log, now: s.Now, ledger: ledger{tally: s.Metrics.NewTally()},
		conns: newConns(limits.Conns, s.Metrics.Connections(telemetry.Scheme(https))), handedOver: newHandovers(addr), drained: make(chan struct{}),
		handshakes: handshakes{limits.Handshakes, crowd{open: map[net.Conn]*tlsConn{}}}, newcomers: newcomers{crowd: crowd{open: map[net.Conn]*tlsConn{}}}}
	if f.log == nil {
		f.log = slog.Default()
	}
	if f.now == nil {
		f.now = time.Now
	}
	f.server = &http.Server{
		Handler:           f,
		Protocols:         new(http.Protocols),
		MaxHeaderBytes:    netHTTPHead,
		ReadHeaderTimeout: limits.Header,
		ReadTimeout:       limits.Request,
		WriteTimeout:      limits.Request,
		IdleTimeout:       limits.Idle,
		// OPTIONS * passes the same checks as every other request.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(&httpLog{f.log, s.Metrics}, "", 0),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: limits.Streams,
			MaxReadFrameSize:     16 << 10, // as RFC 9113 6.5.2 begins with: nothing large is read
			// Bodies are not read here: what a client may send unasked is memory.
			MaxReceiveBufferPerConnection: 64 << 10,
			MaxReceiveBufferPerStream:     64 << 10,
			// WriteTimeout is of a stream: what ends it waits to be written too.
			WriteByteTimeout: limits.Request,
		},
		ConnContext: f.connContext,
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateClosed || state == http.StateHijacked {
				f.newcomers.end(c)
				f.conns.gone(1)
			}
		},
	}
	f.server.Protocols.SetHTTP1(true)
	f.finish, f.cut = f.server.Shutdown, func() { f.server.Close() }
	return f
}

// serve runs a listener until it fails or Shutdown begins.
func (s *Server) serve(f *front, l net.Listener, run func() error) error {
	if !s.enter(f) {
		return l.Close()
	}
	defer f.listening.Done()
	f.onDrain(func() { l.Close() })
	deferAccept(l)
	go f.server.Serve(f.handedOver) // until Shutdown
	return run()
}

// enter makes f part of what Shutdown ends; false once it has begun. Whoever has
// entered is waited for as a loop is: it may be about to start some.
func (s *Server) enter(f *front) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.fronts = append(s.fronts, f)
		f.listening.Add(1)
	}
	return !s.closed
}

// Shutdown stops listening, finishes the requests under way and closes every
// connection. When ctx ends before that, it closes what is left and returns the
// error of ctx. The serving methods return as soon as Shutdown begins; wait for
// Shutdown itself.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	fronts := s.fronts
	s.mu.Unlock()
	errs := make([]error, len(fronts))
	var wg sync.WaitGroup
	for i, f := range fronts {
		wg.Go(func() { errs[i] = f.shutdown(ctx) })
	}
	wg.Wait()
	s.mu.Lock()
	plain := s.plain
	s.mu.Unlock()
	plain.stop()
	return errors.Join(errs...)
}

// port is that of an address, "" if it has none.
func port(a net.Addr) string {
	switch a := a.(type) {
	case *net.TCPAddr:
		return strconv.Itoa(a.Port)
	case *net.UDPAddr:
		return strconv.Itoa(a.Port)
	}
	return ""
}

// httpLog takes what net/http has to say. It is what clients did wrong, and a
// scanner does that all day: debug. A panic is ours.
type httpLog struct {
	log     *slog.Logger
	metrics *telemetry.Metrics
}

func (h *httpLog) Write(p []byte) (int, error) {
	level := slog.LevelDebug
	switch {
	case bytes.HasPrefix(p, []byte("http: TLS handshake error")):
		h.metrics.HandshakeError()
	case bytes.Contains(p, []byte("panic serving")):
		level = slog.LevelError
	}
	h.log.Log(context.Background(), level, string(bytes.TrimSpace(p)))
	return len(p), nil
}
