// Package telemetry holds what the program tells of itself: the metrics
// ([Metrics]) and the access log ([AccessLog]).
//
// It knows names, units and encodings. It knows nothing of hosts, redirects,
// certificates or listeners: those who serve report numbers to it. No metric is
// ever labelled by host or redirect, since visitors choose the one and there
// are a million of the other.
//
// Start reading at [NewMetrics] and [NewAccessLog]. Both types are safe for use
// by several goroutines, and all their methods may be called on nil, so that a
// server without telemetry needs no conditions.
package telemetry
