package main

import (
	"context"
	"log/slog"
	"net"
	"runtime"

	"fingerpost/edge"
)

// cores are what Go found when the process began: by the quota of a container, or as
// GOMAXPROCS says.
var cores = runtime.GOMAXPROCS(0)

// share divides what the machine gives us among the listeners: cores, and descriptors.
func (n *node) share() {
	streams, loops := 0, false
	for _, l := range n.listeners {
		if l.name == "http" || l.name == "https" {
			streams++
		}
		if _, tcp := l.Listener.(*net.TCPListener); l.name == "http" && tcp {
			loops = !n.o.goroutines && runtime.GOOS == "linux" && n.edge.Proxy.Mode == ""
		}
	}
	n.edge.Loops = -1
	if loops {
		// An event loop a core; as each keeps a thread of Go's busy, all else has as many
		// besides. A process may have several nodes.
		n.edge.Loops = cores
		runtime.GOMAXPROCS(2 * cores)
	}
	if streams == 0 {
		return
	}
	want := n.settings.Limits.Connections
	if want == 0 {
		want = edge.DefaultConns
	}
	n.edge.Limits.Conns = want
	if files := openFiles(); files > 0 {
		if most := max(1, (files-min(spareFiles, files/4))/streams); most < want {
			n.edge.Limits.Conns = most
			level := slog.LevelInfo
			if n.settings.Limits.Connections > 0 {
				level = slog.LevelWarn
			}
			n.log.Log(context.Background(), level, "the system allows few open files: a listener has fewer connections at once than it could", "connections", most, "files", files, "hint", "LimitNOFILE= in the service unit, or ulimit -n")
		}
	}
}

// spareFiles are the descriptors that connections leave to all else: the store, files,
// the API, other nodes; a quarter where there are few.
const spareFiles = 256
