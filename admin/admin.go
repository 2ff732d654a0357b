// Package admin is the listener for operators and their machines: health checks
// and metrics.
//
// It knows HTTP and who may ask what. It knows nothing of visitors: what it
// tells is handed in as functions and handlers.
//
// Start reading at [Server.Routes], which lists every route.
package admin

import (
	"encoding/json"
	"io"
	"net/http"
	"sync/atomic"
)

// Server answers operators. The fields are set before Routes is called and not
// changed after.
type Server struct {
	Metrics http.Handler // for /metrics
	// Checks tell what the node needs to serve visitors. They are run for each
	// request to /readyz, at once from several goroutines if need be, and must
	// not wait for anything.
	Checks []Check

	phase atomic.Int32
}

// Check is one condition of being ready.
type Check struct {
	Name string       // one word, in lower case
	Err  func() error // nil if the condition holds; the text is public
}

const (
	starting = iota
	serving
	stopping
)

// Serving tells that visitors are being served: from now on the node is ready
// if its checks hold.
func (s *Server) Serving() { s.phase.CompareAndSwap(starting, serving) }

// Stopping tells that the node is about to stop: it is not ready any more,
// though it still serves, so that load balancers can send visitors elsewhere
// first.
func (s *Server) Stopping() { s.phase.Store(stopping) }

// livez answers 200 as long as the program can answer at all: a check that
// fails is no reason to restart it.
func (s *Server) livez(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	io.WriteString(w, "ok\n")
}

type readiness struct {
	Ready  bool          `json:"ready"`
	Checks []checkResult `json:"checks"`
}

type checkResult struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// readyz answers 200 or 503, with each check and why it fails.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	phase := s.phase.Load()
	result := readiness{Ready: phase == serving, Checks: []checkResult{{
		Name: "serving", OK: phase == serving,
		Detail: [...]string{"starting", "", "stopping"}[phase],
	}}}
	for _, c := range s.Checks {
		r := checkResult{Name: c.Name, OK: true}
		if err := c.Err(); err != nil {
			r.OK, r.Detail = false, err.Error()
			result.Ready = false
		}
		result.Checks = append(result.Checks, r)
	}
	status := http.StatusOK
	if !result.Ready {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, result)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // fails only if the client has gone
}
