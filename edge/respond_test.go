package edge

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/h1"
	"fingerpost/redirect"
	"fingerpost/telemetry"
)

var respondCases = []struct {
	name  string
	https bool
	host  fingerpost.Host
}{
	{"http", false, fingerpost.Host{Name: "a.example"}},
	{"https with HSTS and Alt-Svc", true, fingerpost.Host{Name: "a.example", HSTS: &fingerpost.HSTS{MaxAge: 63072000, IncludeSubDomains: true}}},
}

// responder is what a lane does for a request beside system calls: read its head,
// look up, write the answer.
func responder(t testing.TB, https bool, host fingerpost.Host) func() (answer []byte) {
	table := compile(t, []fingerpost.Host{host}, []fingerpost.Redirect{{From: "a.example/old/page", To: "https://to.example/new/page"}})
	s := &Server{Metrics: telemetry.NewMetrics("test"), Table: func() *redirect.Table { return table }}
	f := s.newFront(https, &net.TCPAddr{Port: 443})
	if https {
		f.altSvc = newAltSvc(f.port)
	}
	request := []byte("GET /old/page?utm_source=x HTTP/1.1\r\nHost: a.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
		"Accept: text/html,*/*;q=0.8\r\nAccept-Language: nb,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\nSec-Fetch-Mode: navigate\r\n\r\n")
	var h h1.Head
	x := new(exchange)
	peer := &client{addr: netip.MustParseAddrPort("192.0.2.1:5555"), serverName: "a.example"}
	out := make([]byte, 0, 4096)
	now := time.Now()
	limits := f.headLimits()
	return func() []byte {
		v := h.Read(request, limits)
		out, _ = f.respond(out[:0], &f.ledger, &h, v, x, peer, now)
		h.Reset()
		return out
	}
}

func BenchmarkRespond(b *testing.B) {
	for _, bb := range respondCases {
		b.Run(bb.name, func(b *testing.B) {
			respond := responder(b, bb.https, bb.host)
			b.ReportAllocs()
			for b.Loop() {
				respond()
			}
		})
	}
}

func TestARedirectAllocatesNothing(t *testing.T) {
	for _, tt := range respondCases {
		respond := responder(t, tt.https, tt.host)
		if got := string(respond()); !strings.HasPrefix(got, "HTTP/1.1 301") || strings.Contains(got, "Alt-Svc: h3=\":443\"; ma=86400\r\n") != tt.https {
			t.Fatalf("%s", got)
		}
		if n := testing.AllocsPerRun(1000, func() { respond() }); n > 0 {
			t.Errorf("%s: %v allocations", tt.name, n)
		}
	}
}
