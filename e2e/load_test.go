package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The bounds of a load. It has to last as long as what happens meanwhile.
const (
	loadConns    = 3
	loadLimit    = 30 * time.Second
	loadRequests = 1_000_000
	loadEnough   = 50 // fewer requests than that show nothing
)

// load is a number of clients that ask one URL without pause.
type load struct {
	what     string
	url      string
	want     *regexp.Regexp // the first line of every answer
	fresh    bool           // a connection for each request
	requests atomic.Int64
	failed   atomic.Int64
	dials    atomic.Int64
	lost     atomic.Int64    // connections that the server ended
	ctx      context.Context // of the load, not of one call
	cancel   context.CancelFunc
	clients  sync.WaitGroup

	mu    sync.Mutex // guards first
	first string     // what the first failure was
}

// load starts one, or stops all of them and judges.
func (s *script) load(ts *testscript.TestScript, args []string) {
	if len(args) == 1 && args[0] == "stop" && len(s.loads) > 0 {
		s.stopLoads(ts)
		return
	}
	if len(args) < 3 || args[0] != "start" || s.server == nil {
		ts.Fatalf("usage: load start [-new] [-1.1|-2] REGEXP URL, or load stop")
	}
	l := &load{what: strings.Join(args[1:], " "), url: args[len(args)-1]}
	two := false
	for _, arg := range args[1 : len(args)-2] {
		switch arg {
		case "-new":
			l.fresh = true
		case "-2":
			two = true
		case "-1.1":
		default:
			ts.Fatalf("load has no %s", arg)
		}
	}
	var err error
	l.want, err = regexp.Compile(args[len(args)-2])
	ts.Check(err)
	l.ctx, l.cancel = context.WithTimeout(context.Background(), loadLimit)
	addr := s.server.addrs["http"]
	if strings.HasPrefix(l.url, "https:") {
		addr = s.server.addrs["https"]
	}
	for range loadConns {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(!two)
		protocols.SetHTTP2(two)
		protocols.SetUnencryptedHTTP2(two)
		transport := &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				l.dials.Add(1)
				conn, err := new(net.Dialer).DialContext(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				return &watchedConn{Conn: conn, lost: &l.lost}, nil
			},
			TLSClientConfig:   &tls.Config{RootCAs: ca.Pool()},
			Protocols:         protocols,
			DisableKeepAlives: l.fresh,
		}
		l.clients.Go(func() { l.run(transport) })
	}
	s.loads = append(s.loads, l)
	// What follows shall happen under load, not before it.
	if !eventually(waitLimit, func() bool { return l.requests.Load() >= loadConns }) {
		ts.Fatalf("the load did not begin")
	}
}

// watchedConn notes whether it was the server that ended the connection. How many
// connections a client opens says less: net/http's gives one up by itself if its
// own writing goroutine is not heard of for 50 ms, as happens on a busy machine.
type watchedConn struct {
	net.Conn
	lost   *atomic.Int64
	closed atomic.Bool // by the client
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !c.closed.Load() {
		c.lost.Add(1)
	}
	return n, err
}

func (c *watchedConn) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

// run is one client.
func (l *load) run(transport *http.Transport) {
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport:     transport,
		Timeout:       waitLimit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for l.ctx.Err() == nil && l.requests.Load() < loadRequests {
		// Without ctx: a request that is under way at the end counts as any other.
		problem := l.request(client)
		l.requests.Add(1)
		if problem != "" {
			l.failed.Add(1)
			l.mu.Lock()
			if l.first == "" {
				l.first = problem
			}
			l.mu.Unlock()
		}
	}
}

// request gives what was wrong.
func (l *load) request(client *http.Client) string {
	resp, err := client.Get(l.url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "the body: " + err.Error()
	}
	line := newAnswer("", strconv.Itoa(resp.StatusCode), resp.Header, "").first
	if !l.want.MatchString(line) {
		return "got " + line
	}
	return ""
}

func (l *load) stop() {
	l.cancel()
	l.clients.Wait()
}

func (s *script) stopLoads(ts *testscript.TestScript) {
	loads := s.loads
	s.loads = nil
	var bad []string
	for _, l := range loads {
		early := l.ctx.Err() != nil || l.requests.Load() >= loadRequests
		l.stop()
		requests, failed, dials := l.requests.Load(), l.failed.Load(), l.dials.Load()
		fmt.Fprintf(ts.Stdout(), "%s: %d requests over %d connections, %d failed\n", l.what, requests, dials, failed)
		switch {
		case failed > 0:
			bad = append(bad, fmt.Sprintf("%d of %d requests failed, the first with: %s", failed, requests, l.first))
		case requests < loadEnough:
			bad = append(bad, fmt.Sprintf("only %d requests were sent", requests))
		case early:
			bad = append(bad, fmt.Sprintf("the load ended by itself, after %v or %d requests", loadLimit, loadRequests))
		case !l.fresh && l.lost.Load() > 0:
			bad = append(bad, fmt.Sprintf("%s: the server ended %d of %d connections", l.what, l.lost.Load(), dials))
		}
	}
	if len(bad) > 0 {
		ts.Fatalf("%s", strings.Join(bad, "\n"))
	}
}
