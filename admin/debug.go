package admin

import (
	"errors"
	"io/fs"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// debug is what somebody looks at who wants to know what the program is doing:
// what it was built from, what its own copy is like, and profiles for go tool
// pprof. The command line is not among it, since a token may stand there.
func (s *Server) debug() http.Handler {
	started := s.now()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Write([]byte("/debug/status\n/debug/pprof/goroutine?debug=1\n/debug/pprof/heap\n/debug/pprof/profile?seconds=30\n/debug/pprof/trace?seconds=5\n"))
	})
	mux.HandleFunc("GET /debug/status", func(w http.ResponseWriter, _ *http.Request) {
		var memory runtime.MemStats
		runtime.ReadMemStats(&memory)
		status := map[string]any{
			"node":       s.Node,
			"uptime":     s.now().Sub(started).Round(time.Second).String(),
			"goroutines": runtime.NumGoroutine(),
			"heapBytes":  memory.HeapAlloc,
			"sysBytes":   memory.Sys,
			"gcs":        memory.NumGC,
		}
		if info, ok := debug.ReadBuildInfo(); ok {
			build := map[string]string{"go": info.GoVersion, "path": info.Path, "version": info.Main.Version}
			for _, setting := range info.Settings {
				build[setting.Key] = setting.Value
			}
			status["build"] = build
		}
		if s.Debug != nil {
			status["state"] = s.Debug()
		}
		writeJSON(w, http.StatusOK, status)
	})
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", http.NotFound)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// LocalToken gives the token in admin.token in a folder, and makes it where there
// is none: for a node that has no store, and so no tokens of people.
func LocalToken(dir string) (string, error) {
	name := filepath.Join(dir, "admin.token")
	text, err := os.ReadFile(name)
	if token := strings.TrimSpace(string(text)); err == nil && strings.HasPrefix(token, tokenPrefix) {
		return token, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	token, _ := newSecret(tokenPrefix)
	return token, writeSecret(name, token+"\n")
}
