// Package admin is the listener for operators and their machines: health checks,
// metrics, and the API by which content, people and nodes are managed.
//
// It knows HTTP, the store, and who may do what. It knows nothing of visitors,
// nor of how content is compiled: what it needs of that is handed in as functions
// and handlers.
//
// Start reading at [Server.Routes], which lists every route, then authorize,
// which decides who may do what, problemOf, which maps every error to its answer,
// and [Server.Commit], through which all content goes.
package admin

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"fingerpost"
	"fingerpost/explain"
	"fingerpost/store"
)

// Server answers operators. The fields are set before Routes is called and not
// changed after.
type Server struct {
	Metrics http.Handler // for /metrics
	// Checks tell what the node needs to serve visitors. They are run for each
	// request to /readyz, at once from several goroutines if need be, and must
	// not wait for anything.
	Checks []Check

	// Store is what the API is about. Without it there is no API.
	Store *store.DB
	// Accept reports why content would not be valid with the changes of a
	// proposal: rules that are there twice, circles. It waits until it knows the
	// revision Base, gives store.ErrMoved where it knows a later one only, and
	// walks through Changes as often as it likes. It is called one at a time. Nil
	// accepts everything, which is for tests only.
	Accept func(context.Context, Proposal) error
	// Explain tells what a request would be answered and why; nil if this node
	// does not serve visitors.
	Explain func(context.Context, *fingerpost.Case) (*explain.Explanation, error)
	// Sources are those that this node follows, and SourcesChanged is called when
	// somebody has paused or resumed one, here.
	Sources        []Source
	SourcesChanged func()
	// Certificates is what there is to know and to do about certificates; nil on a node
	// that manages none.
	Certificates *Certificates
	// Feed and Snapshot are what nodes follow, with a token of the scope node; nil
	// where this node has no feed.
	Feed, Snapshot http.Handler
	// NodeToken is what nodes send in place of a token of the Store, and LocalToken
	// what opens /debug, where there is no Store. Empty: nothing is open.
	NodeToken, LocalToken string
	// Debug gives what /debug/status shows, as JSON; nil for nothing.
	Debug func() any
	// Dir is where Bootstrap writes the first token.
	Dir string
	// Node is the name of this node, for jobs.
	Node string
	// URL is where browsers reach this listener, as in https://admin.example:9090.
	URL string
	// OIDC is another way to log in; nil for passwords only.
	OIDC *OIDC
	Log  *slog.Logger     // default slog.Default
	Now  func() time.Time // default time.Now

	phase   atomic.Int32
	writing chan struct{} // holds one while content is checked and committed
	logins  limiter       // by address, and by user and address
	guesses limiter       // by user
	hooks   limiter
	jobs    jobs

	itemCounts itemCounts
}

// Check is one condition of being ready.
type Check struct {
	Name string       // one word, in lower case
	Err  func() error // nil if the condition holds; the text is public
	// Detail says what there is to know while it holds; nil for nothing.
	Detail func() string
}

func (s *Server) log() *slog.Logger {
	if s.Log != nil {
		return s.Log
	}
	return slog.Default()
}

func (s *Server) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
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
		} else if c.Detail != nil {
			r.Detail = c.Detail()
		}
		result.Checks = append(result.Checks, r)
	}
	status := http.StatusOK
	if !result.Ready {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, result)
}

// Health is what /readyz says in a few words: ok, or what is wrong.
func (s *Server) Health() string {
	if phase := s.phase.Load(); phase != serving {
		return [...]string{"starting", "", "stopping"}[phase]
	}
	for _, c := range s.Checks {
		if err := c.Err(); err != nil {
			return err.Error()
		}
	}
	return "ok"
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // fails only if the client has gone
}
