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

	Covered func(host string) bool  // whether a live certificate covers host; see redirect.Request
	Country func(netip.Addr) string // ISO 3166-1 alpha-2, empty if unknown; asked only if the table uses it
	Now     func() time.Time        // the clock; default time.Now
	Metrics *telemetry.Metrics
	Access  *telemetry.AccessLog
	Log     *slog.Logger // default slog.Default()
	Limits  Limits

	// Loops is how many event loops serve plain TCP on Linux; 0 stands for one a
	// core, less for none: a goroutine for each connection, as elsewhere.
	Loops int

	httpsPort atomic.Pointer[string] // of the TLS listener served last; see front.port
	notices   notices

	mu     sync.Mutex // guards the two below
	fronts []*front
	closed bool // no listener is served any more
}

func (s *Server) loops() int {
	if s.Loops == 0 {
		return runtime.NumCPU()
	}
	return s.Loops
}

// Limits bound what one client can ask of the server. Zero fields stand for the
// defaults.
type Limits struct {
	URL     int           // bytes of the request target, over which 414 is sent; default 8192
	Head    int           // bytes of request line and header fields, over which 431 is sent; default 20480
	Body    int64         // bytes of a request body that are read past so that the connection can be kept; default 65536
	Header  time.Duration // for the handshake, and for the head of a request to arrive; default 10 s
	Request time.Duration // for a whole request to arrive, and again for its answer to leave; default 30 s
	Idle    time.Duration // between two requests; default 60 s
	Streams int           // at once on one HTTP/2 connection; default 250
	Conns   int           // open at once on one listener, over which new ones wait; default 100,000
}

func (l Limits) withDefaults() Limits {
	d := Limits{URL: 8192, Head: 20480, Body: 64 << 10, Header: 10 * time.Second, Request: 30 * time.Second, Idle: time.Minute, Streams: 250, Conns: 100_000}
	set(&d.URL, l.URL)
	set(&d.Head, l.Head)
	set(&d.Body, l.Body)
	set(&d.Header, l.Header)
	set(&d.Request, l.Request)
	set(&d.Idle, l.Idle)
	set(&d.Streams, l.Streams)
	set(&d.Conns, l.Conns)
	return d
}

func set[T int | int64 | time.Duration](p *T, v T) {
	if v != 0 {
		*p = v
	}
}

// netHTTPHead is what net/http takes of a head. It is above the limits, so that
// it is this package that tells 414 from 431.
const netHTTPHead = 64 << 10

// ServePlain answers HTTP/1.0, 1.1 and, for clients that begin with it, HTTP/2
// on l until Shutdown, and closes l. The error is nil after Shutdown.
func (s *Server) ServePlain(l net.Listener) error {
	f := s.newFront(false, l)
	f.server.Protocols.SetUnencryptedHTTP2(true)
	return s.serve(f, l, func() error {
		if s.Loops >= 0 {
			if served, err := f.serveLoops(l); served || err != nil {
				return err
			}
		}
		return f.accept(l, f.servePlainConn)
	})
}

// ServeTLS is ServePlain over TLS 1.2 or 1.3 with HTTP/2 by ALPN.
func (s *Server) ServeTLS(l net.Listener) error {
	p := port(l)
	s.httpsPort.Store(&p)
	f := s.newFront(true, l)
	f.server.Protocols.SetHTTP2(true)
	config := s.tlsConfig(f)
	return s.serve(f, l, func() error {
		return f.accept(l, func(c net.Conn) { f.serveTLSConn(c, config) })
	})
}

// tlsConfig chooses among the configurations of a listener: net/http copies what
// it is given, and session tickets need one to change keys in.
func (s *Server) tlsConfig(f *front) *tls.Config {
	visitors := &tls.Config{
		// CurvePreferences stay nil: the default has the post-quantum hybrid first.
		MinVersion:     tls.VersionTLS12,
		GetCertificate: s.Certificate,
		// A client that offers http/1.0 alone would be refused (RFC 7301 3.2). It
		// is served as one that offers nothing.
		NextProtos: []string{"h2", "http/1.1", "http/1.0"},
	}
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
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: visitors.NextProtos, GetCertificate: s.Certificate, GetConfigForClient: choose}
}

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
func (s *Server) newFront(https bool, l net.Listener) *front {
	limits := s.Limits.withDefaults()
	f := &front{s: s, https: https, port: port(l), limits: limits, log: s.Log, now: s.Now, tally: s.Metrics.NewTally(),
		conns: newConns(limits.Conns, s.Metrics.Connections(telemetry.Scheme(https))), handedOver: newHandovers(l.Addr()), drained: make(chan struct{})}
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
			// Bodies are not read here: what a client may send unasked is memory.
			MaxReceiveBufferPerConnection: 64 << 10,
			MaxReceiveBufferPerStream:     64 << 10,
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if h, ok := c.(*handed); ok {
				return context.WithValue(ctx, peerKey{}, h.peer)
			}
			return ctx
		},
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed || state == http.StateHijacked {
				f.conns.gone(1)
			}
		},
	}
	f.server.Protocols.SetHTTP1(true)
	return f
}

// serve runs a listener until it fails or Shutdown begins.
func (s *Server) serve(f *front, l net.Listener, run func() error) error {
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.fronts = append(s.fronts, f)
	}
	s.mu.Unlock()
	if closed {
		return l.Close()
	}
	f.onDrain(func() { l.Close() })
	go f.server.Serve(f.handedOver) // until Shutdown
	return run()
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
	return errors.Join(errs...)
}

// port is the port that l is bound to.
func port(l net.Listener) string {
	if a, ok := l.Addr().(*net.TCPAddr); ok {
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
