package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// holders are clients that have no end: they send half of something, or read nothing.
// Each connects, does what it does, and gives what closes its end.
var holders = []struct {
	name string
	hold func(*holding) io.Closer
}{
	{"nothing in the clear", func(h *holding) io.Closer { return h.dial(false) }},
	{"half a head in the clear", func(h *holding) io.Closer { return h.send(h.dial(false), good[:len(good)-2]) }},
	{"reading nothing in the clear", func(h *holding) io.Closer { return h.flood(h.dial(false)) }},
	{"a body that never comes", func(h *holding) io.Closer {
		return h.send(h.dial(false), "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n")
	}},
	{"no handshake", func(h *holding) io.Closer { return h.dial(true) }},
	{"half a handshake", func(h *holding) io.Closer {
		return h.send(h.dial(true), "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
	}},
	{"nothing over TLS", func(h *holding) io.Closer { return h.tls("http/1.1") }},
	{"half a head over TLS", func(h *holding) io.Closer { return h.send(h.tls("http/1.1"), good[:len(good)-2]) }},
	{"reading nothing over TLS", func(h *holding) io.Closer { return h.flood(h.tls("http/1.1")) }},
	{"a body that never comes over TLS", func(h *holding) io.Closer {
		return h.send(h.tls("http/1.1"), "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n")
	}},
	{"no HTTP/2", func(h *holding) io.Closer { return h.tls("h2") }},
	{"half a preface", func(h *holding) io.Closer { return h.send(h.tls("h2"), http2.ClientPreface[:20]) }},
	{"HTTP/2 without requests", func(h *holding) io.Closer { return h.http2(h.tls("h2")).Closer }},
	{"half a head over HTTP/2", func(h *holding) io.Closer { return h.http2(h.tls("h2")).half() }},
	{"half a head over HTTP/2 in the clear", func(h *holding) io.Closer { return h.http2(h.dial(false)).half() }},
	{"a body that never comes over HTTP/2", func(h *holding) io.Closer { return h.http2(h.reading(h.tls("h2"))).asks(100, "POST") }},
	{"reading nothing over HTTP/2", func(h *holding) io.Closer { return h.http2(h.tls("h2")).flood() }},
	{"reading nothing over HTTP/2 in the clear", func(h *holding) io.Closer { return h.http2(h.dial(false)).flood() }},
	{"taking nothing of the streams of HTTP/2", func(h *holding) io.Closer { return h.http2(h.reading(h.tls("h2")), 0).asks(100, "GET") }},
	{"HTTP/3 without requests", func(h *holding) io.Closer { return h.quic(64 << 10) }},
	{"half a head over HTTP/3", func(h *holding) io.Closer { return h.streams(h.quic(64<<10), head3("/")[:20], false) }},
	{"a body that never comes over HTTP/3", func(h *holding) io.Closer { return h.streams(h.quic(64<<10), head3("/"), false) }},
	{"taking nothing of the streams of HTTP/3", func(h *holding) io.Closer { return h.streams(h.quic(1), head3("/"+strings.Repeat("x", 6000)), true) }},
	{"taking nothing of refusals over HTTP/3", func(h *holding) io.Closer { return h.streams(h.quic(1), "\x01\x80\x10\x00\x00", false) }}, // a head of 1 MB
}

// TestNoClientHoldsOn has several clients of each kind, which stay, while others are
// answered. Once the limits are over, none of them is connected, and no goroutine is
// left of them.
func TestNoClientHoldsOn(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for some seconds")
	}
	const clients = 5
	s := doorSite(t, func(s *Server) {
		s.Access = nil
		s.Limits = Limits{Header: time.Second, Request: time.Second, Idle: time.Second, Streams: 100}
	})
	s.get3(t, s.http3(t), "https://a.example/") // what is started once is started
	for _, proto := range everyProto {
		s.ask(proto, "GET", "https://a.example/")
		s.ask(proto, "GET", "http://a.example/")
	}
	s.settle(t, "before", -1)
	before, memory := len(goroutines()), heap()

	h := &holding{site: s}
	var open []io.Closer
	for _, tt := range holders {
		for range clients {
			open = append(open, tt.hold(h))
		}
		if h.failed != nil {
			t.Fatalf("%s: %v", tt.name, h.failed)
		}
	}
	for _, proto := range everyProto {
		if got := s.ask(proto, "GET", "https://a.example/"); got.StatusCode != 301 {
			t.Errorf("HTTP/%s among them: got %d", proto, got.StatusCode)
		}
	}
	most := heap()
	s.settle(t, "with the clients", -1)
	for _, c := range open {
		c.Close()
	}
	h.busy.Wait()
	s.settle(t, "after", before)
	t.Logf("%d clients of %d kinds; heap of both ends: %d MB before, %d MB with them, %d MB after", len(open), len(holders), memory>>20, most>>20, heap()>>20)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// settle waits until the server has no connection, and not more than so many goroutines
// run.
func (s *site) settle(t *testing.T, when string, most int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		running := goroutines()
		if s.frontConns() == 0 && (most < 0 || len(running) <= most) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d connections, %d goroutines (at most %d):\n%s", when, s.frontConns(), len(running), most, strings.Join(running, "\n\n"))
		}
	}
}

// goroutines are the stacks of those that do something: workers that wait for the next
// connection are kept.
func goroutines() []string {
	stacks := make([]byte, 4<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return slices.DeleteFunc(strings.Split(string(stacks), "\n\n"), func(stack string) bool {
		return strings.Contains(stack, "edge.(*workers).loop") && !strings.Contains(stack, "edge.(*workers).once")
	})
}

// holding makes clients of a site.
type holding struct {
	*site
	failed error
	busy   sync.WaitGroup
}

func (h *holding) check(err error) {
	if h.failed == nil {
		h.failed = err
	}
}

func (h *holding) dial(https bool) net.Conn {
	to := h.site.http
	if https {
		to = h.https
	}
	c, err := net.Dial("tcp", to)
	if err != nil {
		h.t.Fatal(err)
	}
	c.(*net.TCPConn).SetReadBuffer(4 << 10)
	return c
}

func (h *holding) tls(proto string) net.Conn {
	c := tls.Client(h.dial(true), &tls.Config{ServerName: "a.example", RootCAs: ca.Pool(), NextProtos: []string{proto}})
	if err := c.Handshake(); err != nil {
		h.t.Fatal(err)
	}
	return c
}

func (h *holding) send(c net.Conn, what string) io.Closer {
	_, err := io.WriteString(c, what)
	h.check(err)
	return c
}

// flood asks until nothing is taken any more.
func (h *holding) flood(c net.Conn) io.Closer {
	h.busy.Go(func() {
		for many := strings.Repeat(good, 100); ; {
			if _, err := io.WriteString(c, many); err != nil {
				return
			}
		}
	})
	return c
}

// client2 writes frames of HTTP/2 and reads none.
type client2 struct {
	io.Closer
	*holding
	framer *http2.Framer
}

// http2 begins HTTP/2 with all the room for answers there is, or so much a stream.
func (h *holding) http2(c net.Conn, window ...uint32) *client2 {
	_, err := io.WriteString(c, http2.ClientPreface)
	h.check(err)
	k := &client2{c, h, http2.NewFramer(c, nil)}
	room := uint32(1 << 30)
	if len(window) > 0 {
		room = window[0]
	}
	h.check(k.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: room}))
	h.check(k.framer.WriteWindowUpdate(0, 1<<30))
	return k
}

// ask is a request for a path so long that its answer is, too.
func (k *client2) ask(stream uint32, method string, endHeaders, endStream bool) error {
	var head bytes.Buffer
	e := hpack.NewEncoder(&head)
	for _, f := range [][2]string{{":method", method}, {":scheme", "https"}, {":authority", "a.example"}, {":path", "/" + strings.Repeat("x", 7000)}} {
		e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true})
	}
	return k.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: head.Bytes(), EndHeaders: endHeaders, EndStream: endStream})
}

func (k *client2) half() io.Closer {
	k.check(k.ask(1, "GET", false, true))
	return k
}

// asks has so many requests, or fewer if the server ends it meanwhile.
func (k *client2) asks(n uint32, method string) io.Closer {
	for i := uint32(0); i < n && k.ask(2*i+1, method, true, method == "GET") == nil; i++ {
	}
	return k
}

// reading throws away what comes.
func (h *holding) reading(c net.Conn) net.Conn {
	h.busy.Go(func() { io.Copy(io.Discard, c) })
	return c
}

func (k *client2) flood() io.Closer {
	k.busy.Go(func() {
		for stream := uint32(1); k.ask(stream, "GET", true, true) == nil; stream += 2 {
		}
	})
	return k
}

// quicCloser is a connection of QUIC that is kept alive.
type quicCloser struct{ *quic.Conn }

func (c quicCloser) Close() error { return c.CloseWithError(0, "") }

// quic begins HTTP/3, with so much room for the answer on a stream.
func (h *holding) quic(window uint64) quicCloser {
	config := &tls.Config{ServerName: "a.example", RootCAs: ca.Pool(), NextProtos: []string{http3.NextProtoH3}}
	c, err := quic.DialAddr(context.Background(), h.https, config, &quic.Config{KeepAlivePeriod: 100 * time.Millisecond, InitialStreamReceiveWindow: window, MaxStreamReceiveWindow: window})
	if err != nil {
		h.t.Fatal(err)
	}
	control, err := c.OpenUniStream()
	if err != nil {
		h.t.Fatal(err)
	}
	control.Write([]byte{0, 4, 0}) // the control stream, with no settings
	return quicCloser{c}
}

// streams sends something on as many streams as there may be at once.
func (h *holding) streams(c quicCloser, what string, end bool) io.Closer {
	for {
		stream, err := c.OpenStream()
		if err != nil {
			return c // no more
		}
		if _, err := io.WriteString(stream, what); err != nil {
			return c
		}
		if end {
			stream.Close()
		}
	}
}

// head3 is a request as HTTP/3 has it: a frame of literal fields (RFC 9204 4.5.6).
func head3(path string) string {
	length := func(b []byte, first byte, bits, n int) []byte { // RFC 7541 5.1
		most := 1<<bits - 1
		if n < most {
			return append(b, first|byte(n))
		}
		b = append(b, first|byte(most))
		for n -= most; n >= 128; n >>= 7 {
			b = append(b, byte(n)|128)
		}
		return append(b, byte(n))
	}
	b := []byte{0, 0}
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "a.example"}, {":path", path}} {
		b = append(length(b, 0x20, 3, len(f[0])), f[0]...)
		b = append(length(b, 0, 7, len(f[1])), f[1]...)
	}
	n := len(b)
	return string([]byte{1, 0x80 | byte(n>>24), byte(n >> 16), byte(n >> 8), byte(n)}) + string(b)
}

// A client that asks now and then does not keep its half heads open.
func TestHalfHeadsOverHTTP3EndAlone(t *testing.T) {
	s := doorSite(t, func(s *Server) { s.Limits.Header = time.Second })
	c := (&holding{site: s}).quic(64 << 10)
	defer c.Close()
	var ended sync.WaitGroup
	var halves []*quic.Stream
	for range 50 {
		stream, err := c.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(stream, head3("/")[:20])
		halves = append(halves, stream)
	}
	for _, stream := range halves {
		ended.Go(func() {
			stream.SetReadDeadline(time.Now().Add(20 * time.Second))
			_, err := io.ReadAll(stream)
			if e := (*quic.StreamError)(nil); !errors.As(err, &e) || e.ErrorCode != quic.StreamErrorCode(http3.ErrCodeRequestIncomplete) {
				t.Errorf("half a head: %v", err)
			}
		})
	}
	over := make(chan struct{})
	go func() {
		ended.Wait()
		close(over)
	}()
	for {
		stream, err := c.OpenStreamSync(t.Context())
		if err != nil {
			t.Fatal(err) // the connection stays
		}
		io.WriteString(stream, head3("/"))
		stream.Close()
		if b, err := io.ReadAll(stream); err != nil || len(b) == 0 {
			t.Fatalf("a whole request: %q, %v", b, err)
		}
		select {
		case <-over:
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Nobody waits for a body that is small, either.
func TestASmallBodyThatNeverComes(t *testing.T) {
	s := doorSite(t, nil) // whose Limits.Request is three times what the client waits
	for _, https := range []bool{false, true} {
		conn := s.dial(https, "a.example")
		defer conn.Close()
		io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n")
		b, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 301 ") {
			t.Errorf("https %v: got %.20q, %v", https, b, err)
		}
	}
}

// A client that gives up what it asks for loses its connection; one that waits for as
// much as it gives up does not.
func TestRequestsThatAreGivenUp(t *testing.T) {
	for _, patient := range []bool{false, true} {
		hungUp := 0
		p := &patience{hangUp: func() { hungUp++ }}
		gone, leave := context.WithCancel(t.Context())
		leave()
		r := mustRequest(t, "GET", "https://a.example/")
		for range 2 * mostGivenUp {
			if patient {
				p.ended(r)
			}
			p.ended(r.WithContext(gone))
		}
		if want := map[bool]int{false: 1, true: 0}[patient]; hungUp != want {
			t.Errorf("patient %v: hung up %d times", patient, hungUp)
		}
	}
}

func TestRapidResetEndsTheConnection(t *testing.T) {
	s := doorSite(t, func(s *Server) { s.Access = nil })
	k := (&holding{site: s}).http2((&holding{site: s}).tls("h2"))
	defer k.Close()
	go io.Copy(io.Discard, k.Closer.(io.Reader))
	resets := 0
	for stream := uint32(1); resets < 50_000; stream += 2 {
		if k.ask(stream, "GET", true, true) != nil || k.framer.WriteRSTStream(stream, http2.ErrCodeCancel) != nil {
			break
		}
		resets++
	}
	if resets == 50_000 {
		t.Error("the connection stays")
	}
	t.Logf("%d requests given up until the connection was closed", resets)
}
