package admin

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func get(t *testing.T, h http.Handler, method, path string) (status int, body string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Code, w.Body.String()
}

func newServer(checks ...Check) *Server {
	return &Server{Checks: checks, Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "metrics") })}
}

func TestRoutes(t *testing.T) {
	h := newServer().Routes()
	for _, tt := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/livez", 200, "ok\n"},
		{"HEAD", "/livez", 200, "ok\n"}, // it is net/http that leaves the body out
		{"GET", "/metrics", 200, "metrics"},
		{"POST", "/livez", 405, ""},
		{"GET", "/", 404, ""},
	} {
		status, body := get(t, h, tt.method, tt.path)
		if status != tt.status || tt.body != "" && body != tt.body {
			t.Errorf("%s %s: got %d %q", tt.method, tt.path, status, body)
		}
	}
}

func TestReadyOnlyWhileServingAndSound(t *testing.T) {
	var fault error
	s := newServer(Check{Name: "table", Err: func() error { return fault }})
	h := s.Routes()
	expect := func(when string, status int, details ...string) {
		t.Helper()
		got, body := get(t, h, "GET", "/readyz")
		var r readiness
		if err := json.Unmarshal([]byte(body), &r); err != nil {
			t.Fatalf("%s: %v in %s", when, err, body)
		}
		if got != status || r.Ready != (status == 200) || len(r.Checks) != 2 {
			t.Errorf("%s: got %d %s, want %d", when, got, body, status)
		}
		for _, d := range details {
			if !strings.Contains(body, d) {
				t.Errorf("%s: no %q in %s", when, d, body)
			}
		}
	}
	expect("before", 503, "starting")
	s.Serving()
	expect("while", 200)
	fault = errors.New("no table yet")
	expect("with a fault", 503, `"name":"table","ok":false,"detail":"no table yet"`)
	fault = nil
	expect("after the fault", 200)
	s.Stopping()
	expect("while stopping", 503, "stopping")
	s.Serving()
	expect("a late start", 503, "stopping")
	if status, _ := get(t, h, "GET", "/livez"); status != 200 {
		t.Errorf("livez gives %d while stopping, want 200", status)
	}
}
