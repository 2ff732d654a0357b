package main

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fingerpost/internal/testca"
)

// TestLoadAgreesWithNetHTTP shows that the generator speaks what an independent
// server understands, and that it sees a wrong Location.
func TestLoadAgreesWithNetHTTP(t *testing.T) {
	tests := []struct {
		name   string
		change func(*options)
		wrong  bool
	}{
		{"plain, kept", func(*options) {}, false},
		{"plain, closed", func(o *options) { o.close = true }, false},
		{"TLS, kept", func(o *options) { o.tls = true }, false},
		{"TLS, closed", func(o *options) { o.tls, o.close = true, true }, false},
		{"TLS, resumed", func(o *options) { o.tls, o.close, o.resume = true, true, true }, false},
		{"TLS, hybrid", func(o *options) { o.tls, o.close, o.hybrid = true, true, true }, false},
		{"another Location", func(*options) {}, true},
	}
	cert, key := testca.New().Issue("h.example.com")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := options{conns: 4, addresses: 1, warm: 100 * time.Millisecond, time: 100 * time.Millisecond}
			tt.change(&o)
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				to := "https://" + r.Host + "/to"
				if tt.wrong {
					to += "/elsewhere"
				}
				w.Header().Set("Location", to)
				w.WriteHeader(http.StatusMovedPermanently)
			}))
			if o.tls {
				srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
				srv.StartTLS()
			} else {
				srv.Start()
			}
			defer srv.Close()
			o.port = srv.Listener.Addr().(*net.TCPAddr).Port
			file := filepath.Join(t.TempDir(), "targets")
			if err := os.WriteFile(file, []byte("h.example.com /from https://h.example.com/to\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := run(o, file)
			if err != nil {
				t.Fatal(err)
			}
			if r.Requests == 0 || r.Errors > 0 || (r.Wrong > 0) != tt.wrong || (r.Resumed > 0) != o.resume {
				t.Errorf("%+v", r)
			}
		})
	}
}
