package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// heapFloor is how large the heap may become before garbage is collected at all. A
// handshake makes much garbage and keeps little: with a heap of some megabytes, the
// collector would run all the time.
const heapFloor = 48 << 20

// keepHeap has the collector leave a heap below heapFloor alone, and run as ever above.
// Whoever sets GOGC or GOMEMLIMIT knows better.
func keepHeap() {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	type sentinel struct{ _ [16]byte }
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	var after func(*sentinel)
	after = func(*sentinel) { // each time the collector has run
		metrics.Read(live)
		percent := 100
		if n := live[0].Value.Uint64(); n > 0 && n < heapFloor/2 {
			percent = min(int(heapFloor*100/n)-100, 1600)
		}
		debug.SetGCPercent(percent)
		runtime.SetFinalizer(new(sentinel), after)
	}
	runtime.SetFinalizer(new(sentinel), after)
}
