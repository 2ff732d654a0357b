package main

import (
	"log/slog"
	"net"
	"runtime"
	"testing"

	"fingerpost/edge"
	"fingerpost/source"
)

func TestShare(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	tcp, unix := new(net.TCPListener), new(net.UnixListener)
	for _, tt := range []struct {
		name       string
		listeners  []listener
		proxy      edge.ProxyMode
		goroutines bool
		loops      bool
	}{
		{"plain", []listener{{name: "http", Listener: tcp}}, "", false, runtime.GOOS == "linux"},
		{"several", []listener{{name: "http", Listener: tcp}, {name: "http", Listener: tcp}, {name: "https", Listener: tcp}}, "", false, runtime.GOOS == "linux"},
		{"by the flag", []listener{{name: "http", Listener: tcp}}, "", true, false},
		{"behind a proxy", []listener{{name: "http", Listener: tcp}}, edge.ProxyUse, false, false},
		{"a UNIX socket", []listener{{name: "http", Listener: unix}}, "", false, false},
		{"https alone", []listener{{name: "https", Listener: tcp}, {name: "admin", Listener: tcp}}, "", false, false},
	} {
		runtime.GOMAXPROCS(cores)
		n := &node{listeners: tt.listeners, edge: &edge.Server{Proxy: edge.Proxy{Mode: tt.proxy}}, settings: new(source.Settings), log: slog.New(slog.DiscardHandler), o: options{goroutines: tt.goroutines}}
		n.share()
		loops, procs := -1, cores
		if tt.loops {
			loops, procs = cores, 2*cores
		}
		if n.edge.Loops != loops || runtime.GOMAXPROCS(0) != procs {
			t.Errorf("%s: %d loops and GOMAXPROCS %d, want %d and %d", tt.name, n.edge.Loops, runtime.GOMAXPROCS(0), loops, procs)
		}
		if files := openFiles(); files > 0 && n.edge.Limits.Conns > files {
			t.Errorf("%s: %d connections with %d files", tt.name, n.edge.Limits.Conns, files)
		}
		n.settings.Limits.Connections = 7
		if n.share(); n.edge.Limits.Conns != 7 {
			t.Errorf("%s: %d connections, want 7", tt.name, n.edge.Limits.Conns)
		}
		if n.edge.Loops != loops || runtime.GOMAXPROCS(0) != procs {
			t.Errorf("%s: another node in the process has %d loops and makes GOMAXPROCS %d", tt.name, n.edge.Loops, runtime.GOMAXPROCS(0))
		}
	}
}
