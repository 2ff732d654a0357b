package edge

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/h1"
)

// framing are requests about which two readers could differ, and what comes back for
// each (RFC 9112). Where it says closed, nothing that follows on the connection is
// answered. SCHEME is that of the lane, OTHER is not.
var framing = []struct {
	name, request string
	status        int
	closed        bool
}{
	{"sound", "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", 301, false},
	{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: a.example\r\n\r\n", 301, false},
	{"absolute-form", "GET SCHEME://a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n", 301, false},
	{"absolute-form in capitals", "GET SCHEME://A.EXAMPLE/ HTTP/1.1\r\nHost: b.example\r\n\r\n", 301, false},
	{"absolute-form in HTTP/1.0", "GET SCHEME://a.example/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 301, false},
	{"absolute-form of the other scheme", "GET OTHER://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 421, false},
	{"dots and slashes", "GET //evil/../x HTTP/1.1\r\nHost: a.example\r\n\r\n", 301, false},
	{"raw UTF-8", "GET /æ HTTP/1.1\r\nHost: a.example\r\n\r\n", 301, false},
	{"length of nothing", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n", 301, false},

	{"Host with a port", "GET / HTTP/1.1\r\nHost: a.example:8080\r\n\r\n", 301, false},
	{"Host with a port that is none", "GET / HTTP/1.1\r\nHost: a.example:http\r\n\r\n", 400, true},
	{"absolute-form with a port", "GET SCHEME://a.example:8080/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 301, false},
	{"absolute-form of a host that is none", "GET http://a..example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
	{"absolute-form with a user", "GET http://x@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
	{"absolute-form without a Host field", "GET http://a.example/ HTTP/1.1\r\n\r\n", 400, true},
	{"absolute-form of another scheme", "GET ftp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
	{"OPTIONS", "OPTIONS / HTTP/1.1\r\nHost: a.example\r\n\r\n", 301, false},
	{"OPTIONS of all", "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", 204, false},
	{"asterisk of another method", "GET * HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
	{"TRACE", "TRACE / HTTP/1.1\r\nHost: a.example\r\n\r\n", 405, false},
	{"the last request", "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n", 301, true},
	{"HTTP/1.0", "GET / HTTP/1.0\r\nHost: a.example\r\n\r\n", 301, true},
	{"HTTP/1.0 that stays", "GET / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n", 301, false},

	{"both framings", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, true},
	{"both framings, the other way", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", 400, true},
	{"chunks in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, true},
	{"unknown coding", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: xchunked\r\n\r\n", 501, true},
	{"coding that is none", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: identity\r\n\r\n", 501, true},
	{"two codings", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, true},
	{"chunked, then not", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked, identity\r\n\r\n", 501, true},
	{"chunked twice", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, true},
	{"two fields of codings", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n", 501, true},
	{"coding behind a control byte", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", 400, true},
	{"coding in quotes", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", 501, true},
	{"coding with a parameter", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked;a=b\r\n\r\n", 501, true},
	{"no coding", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding:\r\n\r\n", 501, true},
	{"space before the colon", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding : chunked\r\n\r\n", 400, true},
	{"tab before the colon", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length\t: 4\r\n\r\n", 400, true},
	{"name in other letters", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer\xa0Encoding: chunked\r\n\r\n", 400, true},
	{"coding folded away", "POST / HTTP/1.1\r\nHost: a.example\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n", 400, true},
	{"folded coding", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", 501, true},
	{"folded first line", "GET / HTTP/1.1\r\n Host: a.example\r\nHost: a.example\r\n\r\n", 400, true},

	{"two lengths", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, true},
	{"the same length twice", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400, true},
	{"lengths in a list", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1, 1\r\n\r\nx", 400, true},
	{"length with a sign", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: +1\r\n\r\nx", 400, true},
	{"length below nothing", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: -1\r\n\r\nx", 400, true},
	{"length in hexadecimal", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0x1\r\n\r\nx", 400, true},
	{"length with a space", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1 1\r\n\r\nx", 400, true},
	{"length beyond numbers", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 18446744073709551617\r\n\r\nx", 400, true},
	{"empty length", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length:\r\n\r\n", 400, true},

	{"no Host", "GET / HTTP/1.1\r\n\r\n", 400, true},
	{"two Hosts", "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", 400, true},
	{"the same Host twice", "GET / HTTP/1.1\r\nHost: a.example\r\nhost: a.example\r\n\r\n", 400, true},
	{"Host with a user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400, true},
	{"empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, true},
	{"Host with an escape", "GET / HTTP/1.1\r\nHost: a_%41\r\n\r\n", 400, true},
	{"Host that is none beside a target with one", "GET SCHEME://a.example/ HTTP/1.1\r\nHost: !!@@\r\n\r\n", 400, true},
	{"empty Host beside a target with one", "GET SCHEME://a.example/ HTTP/1.1\r\nHost:\r\n\r\n", 400, true},
	{"target with a host that is none", "GET SCHEME://a_b/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
	{"Host with a list", "GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n", 400, true},

	{"bare LF", "GET / HTTP/1.1\nHost: a.example\n\n", 400, true},
	{"bare LF at the end of one line", "GET / HTTP/1.1\r\nX: y\nHost: a.example\r\n\r\n", 400, true},
	{"bare LF at the end of all", "GET / HTTP/1.1\r\nHost: a.example\r\n\n", 400, true},
	{"bare CR in a value", "GET / HTTP/1.1\r\nHost: a.example\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n", 400, true},
	{"NUL in a value", "GET / HTTP/1.1\r\nHost: a.example\r\nX: a\x00b\r\n\r\n", 400, true},
	{"folded value", "GET / HTTP/1.1\r\nHost: a.example\r\nX: a\r\n\tb\r\n\r\n", 400, true},
	{"no colon", "GET / HTTP/1.1\r\nHost: a.example\r\nX\r\n\r\n", 400, true},
	{"no name", "GET / HTTP/1.1\r\nHost: a.example\r\n: x\r\n\r\n", 400, true},
	{"empty line first", "\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
	{"HTTP/0.9", "GET /\r\n\r\n", 400, true},
	{"HTTP/2.0 without its preface", "GET / HTTP/2.0\r\nHost: a.example\r\n\r\n", 505, true},
	{"two spaces", "GET  / HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
	{"tab", "GET\t/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
	{"space behind the version", "GET / HTTP/1.1 \r\nHost: a.example\r\n\r\n", 400, true},
	{"lower case", "GET / http/1.1\r\nHost: a.example\r\n\r\n", 400, true},
	{"bad escape", "GET /%zz HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
	{"NUL in the target", "GET /\x00 HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, true},
	{"CONNECT", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 400, true},

	// What net/http answers: once, and then the connection ends.
	{"request in a body", "GET / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 37\r\n\r\nGET /x HTTP/1.1\r\nHost: a.example\r\n\r\n\r\n", 301, true},
	{"Host that net/http lets pass beside a target with one", "POST SCHEME://a.example/ HTTP/1.1\r\nHost: a_%41\r\nContent-Length: 1\r\n\r\nx", 400, true},
	{"empty Host beside a target with one, and a body", "POST SCHEME://a.example/ HTTP/1.1\r\nHost:\r\nContent-Length: 1\r\n\r\nx", 400, true},
	{"absolute-form with a body", "POST SCHEME://a.example/ HTTP/1.1\r\nHost: b.example\r\nContent-Length: 1\r\n\r\nx", 301, true},
	{"absolute-form of the other scheme, with a body", "POST OTHER://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx", 421, true},
	{"absolute-form in HTTP/1.0, with a body", "POST SCHEME://a.example/ HTTP/1.0\r\nContent-Length: 1\r\n\r\nx", 301, true},
	{"request in chunks", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 301, true},
	{"coding in capitals", "POST / HTTP/1.1\r\nHost: a.example\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n0\r\n\r\n", 301, true},
	{"bare LF behind a chunk's size", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", 301, true},
	{"chunk's size that is none", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", 301, true},
	{"chunk's size beyond numbers", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 301, true},
	{"chunk with a long extension", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0;" + strings.Repeat("x", 5000) + "\r\n\r\n", 301, true},
	{"trailers with framing", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\nHost: b.example\r\n\r\n", 301, true},
	{"body that waits to be asked for", "POST / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", 301, true},
	{"no body, and waits to be asked for it", "GET / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\n\r\n", 301, true},
	{"expects what nobody knows", "GET / HTTP/1.1\r\nHost: a.example\r\nExpect: the-unexpected\r\n\r\n", 417, true},
	{"upgrade in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 301, true},
	{"upgrade to HTTP/2", "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n", 301, true},
	{"upgrade to websocket", "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 301, true},
}

const good = "GET /good HTTP/1.1\r\nHost: a.example\r\n\r\n"

// lane is one of the three that read HTTP/1.
type lane struct {
	name  string
	https bool
	dial  func() (net.Conn, error)
}

func lanes(t testing.TB) (sites []*site, all []lane) {
	table := compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/:splat"}, {Name: "b.example", To: "https://to.example/b/:splat"}}, nil)
	for _, loops := range []int{0, -1} {
		sites = append(sites, start(t, table, func(s *Server) { s.Loops = loops }, []string{"a.example", "b.example"}))
	}
	config := &tls.Config{ServerName: "a.example", InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	return sites, []lane{
		{"event loop", false, func() (net.Conn, error) { return net.Dial("tcp", sites[0].http) }},
		{"goroutines", false, func() (net.Conn, error) { return net.Dial("tcp", sites[1].http) }},
		{"TLS", true, func() (net.Conn, error) { return tls.Dial("tcp", sites[0].https, config) }},
	}
}

// statuses sends pieces, then the end, and gives the statuses of what comes back
// until the connection ends.
func (l *lane) statuses(pieces ...string) (list []int, err error) {
	conn, err := l.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for _, p := range pieces {
			if _, err := io.WriteString(conn, p); err != nil {
				return // the server may have heard enough
			}
		}
		conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	defer func() { <-sent }()
	r := bufio.NewReader(conn)
	for {
		if _, err := r.Peek(1); err != nil {
			if err == io.EOF || errors.Is(err, syscall.ECONNRESET) {
				return list, nil
			}
			return list, err
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return list, err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return list, err
		}
		list = append(list, resp.StatusCode)
	}
}

// asked is a request of framing as it goes to the lane.
func (l *lane) asked(request string) string {
	if l.https {
		return strings.NewReplacer("SCHEME", "https", "OTHER", "http").Replace(request)
	}
	return strings.NewReplacer("SCHEME", "http", "OTHER", "https").Replace(request)
}

// TestBadFramingEndsTheConnection sends each request alone, byte by byte, and in the
// middle of a pipeline: the answers come in order, and none after a bad one.
func TestBadFramingEndsTheConnection(t *testing.T) {
	_, all := lanes(t)
	for _, tt := range framing {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			alone, between := []int{tt.status}, []int{301, tt.status}
			if !tt.closed {
				between = append(between, 301)
			}
			for _, l := range all {
				request := l.asked(tt.request)
				for _, way := range []struct {
					name   string
					pieces []string
					want   []int
				}{
					{"alone", []string{request}, alone},
					{"byte by byte", strings.Split(request, ""), alone},
					{"in a pipeline", []string{good + request + good}, between},
					{"in a pipeline, in pieces", []string{good, request, good}, between},
					{"in a pipeline, byte by byte", strings.Split(good+request+good, ""), between},
				} {
					if got, err := l.statuses(way.pieces...); err != nil || !slices.Equal(got, way.want) {
						t.Errorf("%s, %s: got %v (%v), want %v", l.name, way.name, got, err, way.want)
					}
				}
			}
		})
	}
}

// sameOrMisdirected compares what lanes answer: over TLS 421 stands for any host of
// others, and everywhere for the other's scheme.
func sameOrMisdirected(a, b int) bool {
	return a == b || a == http.StatusMisdirectedRequest || b == http.StatusMisdirectedRequest
}

// FuzzLanes holds the lanes to what h1 says of the same bytes: they answer what it
// accepts and, at most, one thing that it does not; all of them the same.
func FuzzLanes(f *testing.F) {
	sites, all := lanes(f)
	for i, tt := range framing {
		for _, l := range all[1:] {
			f.Add([]byte(l.asked(tt.request)+good), uint16(i))
			f.Add([]byte(good+l.asked(tt.request)), uint16(0))
		}
	}
	f.Fuzz(func(t *testing.T, input []byte, cuts uint16) {
		if len(input) > 64<<10 || bytes.Contains(input, []byte("PRI * HTTP/2.0")) {
			return
		}
		var pieces []string
		for rest, n := string(input), uint32(cuts); ; {
			n = n*1664525 + 1013904223
			size := int(n>>16)%200 + 1
			if cuts == 0 || size >= len(rest) {
				pieces = append(pieces, rest)
				break
			}
			pieces, rest = append(pieces, rest[:size]), rest[size:]
		}
		accepted, end := 0, h1.Incomplete
		for rest := input; ; {
			var h h1.Head
			if end = h.Read(rest, h1.Limits{Target: 8192, Head: 20480}); end != h1.Redirectable {
				break
			}
			accepted, rest = accepted+1, rest[h.Size:]
		}
		atMost := accepted
		if end == h1.Bad || end == h1.HandOver {
			atMost++
		}
		var first []int
		for i, l := range all {
			got, err := l.statuses(pieces...)
			if err != nil {
				t.Errorf("%s: %v", l.name, err)
			}
			if len(got) > atMost {
				t.Errorf("%s: %d answers to %d requests: %v", l.name, len(got), atMost, got)
			}
			if i == 0 {
				first = got
			} else if !slices.EqualFunc(got, first, sameOrMisdirected) {
				t.Errorf("%s answers %v, %s %v", l.name, got, all[0].name, first)
			}
		}
		for _, s := range sites {
			if strings.Contains(s.logged.String(), "panic") {
				t.Fatal(fmt.Sprint("panic: ", s.logged))
			}
		}
	})
}

// A pipeline is longer than any buffer: all of it is answered, in order, and one that
// is cut off in the middle of its answers costs nothing.
func TestLongPipelinesAreAnsweredInOrder(t *testing.T) {
	sites, all := lanes(t)
	const n = 20_000
	var requests strings.Builder
	for i := range n {
		fmt.Fprintf(&requests, "GET /%d HTTP/1.1\r\nHost: a.example\r\n\r\n", i)
	}
	for _, l := range all {
		t.Run(l.name, func(t *testing.T) {
			for _, cut := range []int{n, n / 3} {
				conn, err := l.dial()
				if err != nil {
					t.Fatal(err)
				}
				conn.SetDeadline(time.Now().Add(30 * time.Second))
				go io.WriteString(conn, requests.String())
				r := bufio.NewReader(conn)
				for i := range cut {
					resp, err := http.ReadResponse(r, nil)
					if err != nil {
						t.Fatalf("answer %d: %v", i, err)
					}
					io.Copy(io.Discard, resp.Body)
					if want := fmt.Sprintf("https://to.example/%d", i); resp.Header.Get("Location") != want {
						t.Fatalf("answer %d leads to %q", i, resp.Header.Get("Location"))
					}
				}
				if secure, ok := conn.(*tls.Conn); ok {
					conn = secure.NetConn()
				}
				conn.(*net.TCPConn).SetLinger(0) // a reset
				conn.Close()
			}
		})
	}
	for _, s := range sites {
		for deadline := time.Now().Add(10 * time.Second); s.frontConns() > 0; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d connections are still counted", s.frontConns())
			}
		}
		if log := s.logged.String(); strings.Contains(log, "panic") {
			t.Error(log)
		}
	}
}

// Every request of a connection is in the log, in its order, and the one whose head
// was refused too.
func TestLogOfAConnection(t *testing.T) {
	sites, all := lanes(t)
	for _, l := range all {
		if got, err := l.statuses(good+good, good+"GET /bad HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n"+good); err != nil || !slices.Equal(got, []int{301, 301, 301, 400}) {
			t.Fatalf("%s: got %v, %v", l.name, got, err)
		}
	}
	logged := map[string][]int{}
	for _, s := range sites {
		s.shutdown()
		s.Access.Close()
		s.Access = nil
		for line := range strings.Lines(s.access.String()) {
			var record struct {
				Remote string
				Status int
			}
			if err := json.Unmarshal([]byte(line), &record); err != nil {
				t.Fatalf("%v in %s", err, line)
			}
			logged[record.Remote] = append(logged[record.Remote], record.Status)
		}
	}
	if len(logged) != len(all) {
		t.Errorf("%d connections are in the log: %v", len(logged), logged)
	}
	for remote, got := range logged {
		if !slices.Equal(got, []int{301, 301, 301, 400}) {
			t.Errorf("%s: %v", remote, got)
		}
	}
}
