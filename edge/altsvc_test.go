package edge

import (
	"net"
	"testing"
)

// Where HTTP/3 was switched off, visitors are told to forget it, by every HTTP; where
// it cannot be had, or nothing was said, they are not.
func TestAltSvcIsTakenBack(t *testing.T) {
	for _, off := range []bool{true, false} {
		s := doorSite(t, func(s *Server) { s.ClearAltSvc = off })
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		with := s.https
		for _, listener := range []string{"without", "with"} {
			want := map[bool]string{true: "clear", false: ""}[off]
			if listener == "with" {
				want = `h3=":` + portOf(t, with) + `"; ma=86400`
				s.https = with
			} else {
				s.https = l.Addr().String()
				go s.ServeTLS(l, nil)
			}
			for _, proto := range []string{"1.1", "2"} {
				got := s.ask(proto, "GET", "https://a.example:"+portOf(t, s.https)+"/x")
				if got.StatusCode != 301 || got.Header.Get("Alt-Svc") != want {
					t.Errorf("off %v, a listener %s HTTP/3, HTTP/%s: %d, Alt-Svc %q, want %q", off, listener, proto, got.StatusCode, got.Header.Get("Alt-Svc"), want)
				}
			}
		}
		// Nobody is told in the clear, or who came by another port.
		for _, url := range []string{"http://a.example/x", "https://a.example:444/x"} {
			if got := s.ask("1.1", "GET", url); got.Header.Get("Alt-Svc") != "" {
				t.Errorf("off %v, %s: Alt-Svc %q", off, url, got.Header.Get("Alt-Svc"))
			}
		}
	}
}

func portOf(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}
