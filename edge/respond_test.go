package edge

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/h1"
	"fingerpost/redirect"
	"fingerpost/telemetry"
)

// BenchmarkRespond is what a loop does for one request beside the system's part.
func BenchmarkRespond(b *testing.B) {
	for _, bm := range []struct{ name, head string }{
		{"short", "GET / HTTP/1.1\r\nHost: h\r\n\r\n"},
		{"browser", "GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
			"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" +
			"Connection: keep-alive\r\nUpgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\n\r\n"},
	} {
		b.Run(bm.name, func(b *testing.B) {
			table := compile(b, nil, []fingerpost.Redirect{{ID: "r1", From: "h/", To: "https://www.example.com/"}})
			s := &Server{Metrics: telemetry.NewMetrics("test"), Table: func() *redirect.Table { return table }}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			f := s.newFront(false, l)
			text, limits := []byte(bm.head), f.headLimits()
			h, x, out := new(h1.Head), new(exchange), make([]byte, 0, 4096)
			c := &client{addr: netip.MustParseAddrPort("192.0.2.1:5555")}
			now := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				h.Reset()
				v := h.Read(text, limits)
				out, _ = f.respond(out[:0], f.tally, h, v, x, c, now)
			}
			b.ReportMetric(float64(len(out)), "bytes")
		})
	}
}
