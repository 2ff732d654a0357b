package h1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
)

var limits = Limits{Target: 8192, Head: 20480}

// read gives the verdict about whole bytes.
func read(t testing.TB, b string) (*Head, Verdict) {
	t.Helper()
	h := new(Head)
	v := h.Read([]byte(b), limits)
	return h, v
}

func TestVerdicts(t *testing.T) {
	const host = "Host: a.example\r\n"
	for _, tt := range []struct {
		why, head string
		want      Verdict
		status    int
	}{
		{"a browser's", "GET /a?b=c HTTP/1.1\r\n" + host + "User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: */*\r\n\r\n", Redirectable, 0},
		{"HEAD", "HEAD / HTTP/1.1\r\n" + host + "\r\n", Redirectable, 0},
		{"another method", "DELETE / HTTP/1.1\r\n" + host + "\r\n", Redirectable, 0},
		{"an empty body", "GET / HTTP/1.1\r\n" + host + "Content-Length: 0\r\n\r\n", Redirectable, 0},
		{"HTTP/1.0 without a host", "GET / HTTP/1.0\r\n\r\n", Redirectable, 0},
		{"a later minor version", "GET / HTTP/1.2\r\n" + host + "\r\n", Redirectable, 0},
		{"absolute-form", "GET http://b.example/ HTTP/1.1\r\n" + host + "\r\n", Redirectable, 0},
		{"bytes over 127 in the path", "GET /caf\xc3\xa9 HTTP/1.1\r\n" + host + "\r\n", Redirectable, 0},
		{"white space around a value", "GET / HTTP/1.1\r\nHost: \t a.example \t\r\n\r\n", Redirectable, 0},
		{"an empty value", "GET / HTTP/1.1\r\n" + host + "X:\r\n\r\n", Redirectable, 0},
		{"a tab in a value", "GET / HTTP/1.1\r\n" + host + "X: a\tb and more\r\n\r\n", Redirectable, 0},
		{"two in one", "GET / HTTP/1.1\r\n" + host + "\r\nGET /2 HTTP/1.1\r\n", Redirectable, 0},

		{"nothing", "", Incomplete, 0},
		{"a part of the line", "GET / HT", Incomplete, 0},
		{"no end", "GET / HTTP/1.1\r\n" + host, Incomplete, 0},
		{"half an end", "GET / HTTP/1.1\r\n" + host + "\r", Incomplete, 0},
		{"a part of HTTP/2", Preface[:20], Incomplete, 0},

		{"POST", "POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\n\r\nabc", HandOver, 0},
		{"a body in pieces", "GET / HTTP/1.1\r\n" + host + "Transfer-Encoding: CHUNKED\r\n\r\n", HandOver, 0},
		{"GET with a body", "GET / HTTP/1.1\r\n" + host + "Content-Length: 03\r\n\r\n", HandOver, 0},
		{"an upgrade", "GET / HTTP/1.1\r\n" + host + "Upgrade: websocket\r\nConnection: upgrade\r\n\r\n", HandOver, 0},
		{"a question before the body", "GET / HTTP/1.1\r\n" + host + "Expect: 100-continue\r\n\r\n", HandOver, 0},
		{"another method with a body", "DELETE / HTTP/1.1\r\n" + host + "Content-Length: 1\r\n\r\nx", HandOver, 0},
		{"HTTP/2", Preface, HandOver, 0},

		{"length and coding", "GET / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Bad, 400},
		{"coding and length", "POST / HTTP/1.1\r\n" + host + "transfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n", Bad, 400},
		{"a coding in HTTP/1.0", "POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n", Bad, 400},
		{"an unknown coding", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n", Bad, 501},
		{"a list of codings", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n", Bad, 501},
		{"two codings", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", Bad, 400},
		{"two lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nContent-Length: 3\r\n\r\n", Bad, 400},
		{"a list of lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 3, 3\r\n\r\n", Bad, 400},
		{"a signed length", "POST / HTTP/1.1\r\n" + host + "Content-Length: +3\r\n\r\n", Bad, 400},
		{"an endless length", "POST / HTTP/1.1\r\n" + host + "Content-Length: 9999999999999999999\r\n\r\n", Bad, 400},
		{"an empty length", "POST / HTTP/1.1\r\n" + host + "Content-Length:\r\n\r\n", Bad, 400},
		{"a folded field", "GET / HTTP/1.1\r\n" + host + "X: a\r\n b\r\n\r\n", Bad, 400},
		{"a field that begins with white space", "GET / HTTP/1.1\r\n " + host + "\r\n", Bad, 400},
		{"a bare LF", "GET / HTTP/1.1\r\n" + host + "X: a\n\r\n", Bad, 400},
		{"a bare LF after the line", "GET / HTTP/1.1\n" + host, Bad, 400},
		{"a bare LF at the end", "GET / HTTP/1.1\r\n" + host + "\n", Bad, 400},
		{"a bare CR", "GET / HTTP/1.1\r\n" + host + "X: a\rb\r\n\r\n", Bad, 400},
		{"NUL", "GET / HTTP/1.1\r\n" + host + "X: a\x00b\r\n\r\n", Bad, 400},
		{"DEL far behind", "GET / HTTP/1.1\r\n" + host + "X: 12345678901234567890\x7f\r\n\r\n", Bad, 400},
		{"white space before the colon", "GET / HTTP/1.1\r\nHost : a.example\r\n\r\n", Bad, 400},
		{"no colon", "GET / HTTP/1.1\r\n" + host + "X\r\n\r\n", Bad, 400},
		{"no name", "GET / HTTP/1.1\r\n" + host + ": x\r\n\r\n", Bad, 400},
		{"no host", "GET / HTTP/1.1\r\n\r\n", Bad, 400},
		{"two hosts", "GET / HTTP/1.1\r\n" + host + host + "\r\n", Bad, 400},
		{"two hosts in HTTP/1.0", "GET / HTTP/1.0\r\n" + host + host + "\r\n", Bad, 400},
		{"an empty line first", "\r\nGET / HTTP/1.1\r\n" + host + "\r\n", Bad, 400},
		{"two spaces", "GET  / HTTP/1.1\r\n" + host + "\r\n", Bad, 400},
		{"a tab", "GET\t/\tHTTP/1.1\r\n" + host + "\r\n", Bad, 400},
		{"a space at the end", "GET / HTTP/1.1 \r\n" + host + "\r\n", Bad, 400},
		{"no version", "GET /\r\n" + host + "\r\n", Bad, 400},
		{"a control byte in the target", "GET /a\x01b HTTP/1.1\r\n" + host + "\r\n", Bad, 400},
		{"HTTP/2 in words", "GET / HTTP/2.0\r\n" + host + "\r\n", Bad, 505},
		{"not quite HTTP/2", Preface[:20] + "XX\r\n", Bad, 505},
		{"lower case", "GET / http/1.1\r\n" + host + "\r\n", Bad, 400},
		{"a handshake", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", Bad, 400},
		{"a long target", "GET /" + strings.Repeat("a", 8192) + " HTTP/1.1\r\n" + host + "\r\n", Bad, 414},
		{"a target without an end", "GET /" + strings.Repeat("a", 30000), Bad, 414},
		{"a long head", "GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("a", 20480) + "\r\n\r\n", Bad, 431},
		{"a head without an end", "GET / HTTP/1.1\r\n" + host + strings.Repeat("X: a\r\n", 4000), Bad, 431},
	} {
		t.Run(tt.why, func(t *testing.T) {
			h, v := read(t, tt.head)
			if v != tt.want || h.Status != tt.status || (h.Why != "") != (v == Bad) {
				t.Errorf("got %v %d %q, want %v %d", v, h.Status, h.Why, tt.want, tt.status)
			}
			whatever(t, []byte(tt.head), v)
		})
	}
}

// whatever checks that the pieces in which bytes come do not matter, nor where
// they lie in memory.
func whatever(t testing.TB, b []byte, want Verdict) {
	t.Helper()
	whole := new(Head)
	whole.Read(b, limits)
	h := new(Head)
	step := 1 + len(b)/200
	for n := 0; ; n += step {
		n = min(n, len(b))
		v := h.Read(slices.Clone(b[:n]), limits)
		if v != Incomplete {
			if v != want {
				t.Fatalf("in pieces, after %d bytes: %v %q, want %v", n, v, h.Why, want)
			}
			if v != Bad && fmt.Sprint(h.Method, h.Target, h.Host, h.Size, h.KeepAlive, h.Fields) != fmt.Sprint(whole.Method, whole.Target, whole.Host, whole.Size, whole.KeepAlive, whole.Fields) {
				t.Fatalf("in pieces: %+v, want %+v", h, whole)
			}
			return
		}
		if n == len(b) {
			if want != Incomplete {
				t.Fatalf("in pieces: incomplete, want %v", want)
			}
			return
		}
	}
}

func TestConnectionOptions(t *testing.T) {
	for _, tt := range []struct {
		version, fields string
		keep            bool
	}{
		{"1.1", "", true},
		{"1.1", "Connection: close\r\n", false},
		{"1.1", "connection: Keep-Alive, CLOSE\r\n", false},
		{"1.1", "Connection: keep-alive\r\nConnection: close\r\n", false},
		{"1.1", "Connection: closed\r\n", true},
		{"1.0", "", false},
		{"1.0", "Connection: keep-alive\r\n", true},
		{"1.0", "Connection: close, keep-alive\r\n", false},
		{"1.0", "Connection: close\r\nConnection: keep-alive\r\n", false},
	} {
		h, v := read(t, "GET / HTTP/"+tt.version+"\r\nHost: a\r\n"+tt.fields+"\r\n")
		if v != Redirectable || h.KeepAlive != tt.keep {
			t.Errorf("%s %q: %v, keep %v", tt.version, tt.fields, v, h.KeepAlive)
		}
	}
}

func TestValuesOfFields(t *testing.T) {
	h, _ := read(t, "GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\nX: y\r\ncookie: b=2\r\n\r\n")
	if got := h.Values("COOKIE"); !slices.Equal(got, []string{"a=1", "b=2"}) || h.Value("Cookie") != "a=1" || h.Value("none") != "" || h.Values("none") != nil {
		t.Errorf("got %q", got)
	}
}

func TestReadAllocatesNothing(t *testing.T) {
	b := []byte("GET /some/path?with=query HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: Mozilla/5.0\r\nAccept: text/html\r\nConnection: keep-alive\r\n\r\n")
	h, out := new(Head), make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() {
		h.Reset()
		if h.Read(b, limits) != Redirectable {
			t.Fatal(h.Why)
		}
		out = AppendStatus(out[:0], false, 301)
		out = AppendField(out, "Location", "https://www.example.com/")
		out = AppendLength(out, 100)
		out = AppendEnd(AppendConnection(out, h.HTTP10, h.KeepAlive))
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestResponsesAreReadByNetHTTP(t *testing.T) {
	for status := 200; status < 600; status++ {
		for _, keep := range []bool{true, false} {
			b := AppendField(AppendStatus(nil, false, status), "Location", []byte("/x"))
			b = AppendConnection(b, false, keep)
			b = append(AppendEnd(AppendLength(b, 2)), "ok"...)
			r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
			if err != nil {
				t.Fatal(status, err)
			}
			body, _ := io.ReadAll(r.Body)
			if r.StatusCode != status || r.Header.Get("Location") != "/x" || r.Close == keep || string(body) != "ok" && status != 204 && status != 304 {
				t.Errorf("%d: %v %q", status, r, body)
			}
		}
	}
}

// agree holds what is read here to what net/http reads: whatever is answered from
// the head alone, or handed over, net/http understands as the same request.
func agree(t testing.TB, b []byte) Verdict {
	t.Helper()
	h := new(Head)
	v := h.Read(b, limits)
	if v != Redirectable && v != HandOver || h.HTTP2 {
		return v
	}
	reader := bufio.NewReader(bytes.NewReader(b))
	r, err := http.ReadRequest(reader)
	if err != nil {
		// What is no sound URL or host is refused later here, by the parsers that
		// know what these are.
		if strings.Contains(err.Error(), "parse ") || strings.Contains(err.Error(), "malformed Host") || strings.Contains(err.Error(), "invalid URI") {
			return v
		}
		// Of a CONNECT, net/http parses the target as a host.
		if h.Method == "CONNECT" {
			return v
		}
		t.Fatalf("%v of %q, which net/http refuses: %v", v, b, err)
	}
	rest, _ := io.ReadAll(reader)
	host := h.Host
	if r.URL.Host != "" {
		host = r.URL.Host
	}
	switch {
	case r.Method != h.Method || r.RequestURI != h.Target || r.Host != host && r.Host != "":
		t.Fatalf("%q: %s %s at %q here, %s %s at %q there", b, h.Method, h.Target, host, r.Method, r.RequestURI, r.Host)
	case h.KeepAlive == r.Close:
		t.Fatalf("%q: keep-alive %v here, close %v there", b, h.KeepAlive, r.Close)
	case h.HTTP10 != !r.ProtoAtLeast(1, 1):
		t.Fatalf("%q: HTTP/1.0 %v here, %s there", b, h.HTTP10, r.Proto)
	case v == Redirectable && (r.ContentLength != 0 || len(r.TransferEncoding) > 0):
		t.Fatalf("%q: no body here, %d bytes %v there", b, r.ContentLength, r.TransferEncoding)
	case v == Redirectable && len(rest) != len(b)-h.Size:
		t.Fatalf("%q: the head ends at %d here, at %d there", b, h.Size, len(b)-len(rest))
	}
	for _, f := range h.Fields {
		if equalFold(f.Name, "host") {
			continue
		}
		if !slices.Contains(r.Header.Values(f.Name), f.Value) && !slices.ContainsFunc([]string{"transfer-encoding", "content-length", "trailer", "connection"}, func(s string) bool { return equalFold(s, f.Name) }) {
			t.Fatalf("%q: %s: %q is not among %q", b, f.Name, f.Value, r.Header.Values(f.Name))
		}
	}
	return v
}

var heads = []string{
	"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
	"GET /path?q=1 HTTP/1.1\r\nHost: www.example.com:8080\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n",
	"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
	"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
	"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"GET http://b.example/x HTTP/1.1\r\nHost: a\r\nCookie: a=b; c=d\r\nConnection: close\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
	Preface,
}

// pieces are what mutations are made of: bytes that mean something.
var pieces = []string{"\r", "\n", "\r\n", "\r\n\r\n", " ", "\t", ":", ",", "\x00", "\x7f", "\xff", "%", "/", "//", "?", "#", "@", "0", "1", "9", "+", "-",
	"Host: b\r\n", "Content-Length: 0\r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "transfer-encoding: identity\r\n",
	"Connection: close\r\n", "Connection: keep-alive\r\n", "Upgrade: h2c\r\n", "Expect: 100-continue\r\n", "X: y\r\n", " folded\r\n",
	"HTTP/1.0", "HTTP/1.1", "HTTP/1.9", "HTTP/2.0", "GET ", "HEAD ", "CONNECT ", "http://c/", "\xc3\xa9"}

func mutate(r *rand.Rand, b []byte) []byte {
	b = slices.Clone(b)
	for range 1 + r.IntN(3) {
		at := r.IntN(len(b) + 1)
		switch r.IntN(5) {
		case 0: // another byte
			if at < len(b) {
				b[at] = byte(r.IntN(256))
			}
		case 1: // a piece more
			b = slices.Insert(b, at, []byte(pieces[r.IntN(len(pieces))])...)
		case 2: // some bytes less
			b = slices.Delete(b, at, min(len(b), at+1+r.IntN(4)))
		case 3: // a piece instead
			p := pieces[r.IntN(len(pieces))]
			b = slices.Replace(b, at, min(len(b), at+len(p)), []byte(p)...)
		case 4: // at the beginning of a line
			if i := bytes.IndexByte(b[at:], '\n'); i >= 0 {
				b = slices.Insert(b, at+i+1, []byte(pieces[r.IntN(len(pieces))])...)
			}
		}
	}
	return b
}

// TestNetHTTPUnderstandsTheSame tries mutated heads, a few million where there is
// time.
func TestNetHTTPUnderstandsTheSame(t *testing.T) {
	n := 3_000_000
	if testing.Short() {
		n = 100_000
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	count := map[Verdict]int{}
	defer func() {
		t.Logf("seed %d: %v", seed, count)
	}()
	for i := range n {
		b := mutate(r, []byte(heads[i%len(heads)]))
		count[agree(t, b)]++
	}
	for _, v := range []Verdict{Incomplete, Redirectable, HandOver, Bad} {
		if count[v] < n/1000 {
			t.Errorf("only %d of %d are %v: nothing is shown of them", count[v], n, v)
		}
	}
}

func FuzzHead(f *testing.F) {
	for _, h := range heads {
		f.Add([]byte(h))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		whatever(t, b, agree(t, b))
	})
}

func BenchmarkRead(b *testing.B) {
	for _, bm := range []struct{ name, head string }{
		{"short", "GET / HTTP/1.1\r\nHost: h\r\n\r\n"},
		{"curl", heads[1]},
		{"browser", "GET /some/page?utm_source=x HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
			"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" +
			"Connection: keep-alive\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\nUpgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\nPriority: u=0, i\r\n\r\n"},
	} {
		b.Run(bm.name, func(b *testing.B) {
			text := []byte(bm.head)
			h := new(Head)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				h.Reset()
				if h.Read(text, limits) != Redirectable {
					b.Fatal(h.Why)
				}
			}
		})
	}
}
