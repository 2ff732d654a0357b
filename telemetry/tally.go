package telemetry

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Tally counts requests for one event loop, or for all that share one: counters
// that no other core writes to cost a request next to nothing. They are added up
// when somebody looks.
type Tally struct {
	all      *tallies
	requests [protos][2][statuses]atomic.Uint64
	took     [len(durations) + 1]atomic.Uint64
	total    atomic.Int64 // nanoseconds
	_        [64]byte     // of the next one's cache line
}

const statuses = 600

// durations are the bounds of the histogram. Few: each costs every request. A
// redirect takes microseconds.
var durations = [...]time.Duration{10 * time.Microsecond, 30 * time.Microsecond, 100 * time.Microsecond,
	time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, 10 * time.Second}

// NewTally makes a tally that is part of the metrics until Close. Without metrics
// it is nil, which counts nothing.
func (m *Metrics) NewTally() *Tally {
	if m == nil {
		return nil
	}
	t := &Tally{all: &m.tallies}
	m.tallies.mu.Lock()
	defer m.tallies.mu.Unlock()
	m.tallies.open = append(m.tallies.open, t)
	return t
}

// Request counts one answered request.
func (t *Tally) Request(proto Proto, https bool, status int) {
	if t == nil || proto >= protos || status < 0 || status >= statuses {
		return // none of ours; never an index out of range
	}
	s := 0
	if https {
		s = 1
	}
	t.requests[proto][s][status].Add(1)
}

// Took counts how long n requests took together, from their heads being read to
// their answers being handed on.
func (t *Tally) Took(d time.Duration, n int) {
	if t == nil || n <= 0 {
		return
	}
	t.total.Add(int64(d))
	each := d / time.Duration(n)
	i := 0
	for i < len(durations) && each > durations[i] {
		i++
	}
	t.took[i].Add(uint64(n))
}

// Close ends the tally; what it has counted stays counted.
func (t *Tally) Close() {
	if t == nil {
		return
	}
	t.all.mu.Lock()
	defer t.all.mu.Unlock()
	for i, other := range t.all.open {
		if other == t {
			t.all.open = append(t.all.open[:i], t.all.open[i+1:]...)
			t.addTo(&t.all.closed)
			return
		}
	}
}

func (t *Tally) addTo(sum *Tally) {
	for p := range t.requests {
		for s := range t.requests[p] {
			for c := range t.requests[p][s] {
				if n := t.requests[p][s][c].Load(); n > 0 {
					sum.requests[p][s][c].Add(n)
				}
			}
		}
	}
	for i := range t.took {
		sum.took[i].Add(t.took[i].Load())
	}
	sum.total.Add(t.total.Load())
}

// tallies add up to the metrics of requests.
type tallies struct {
	mu     sync.Mutex // guards both
	open   []*Tally
	closed Tally // the sum of those
}

var (
	requestsDesc = prometheus.NewDesc("fingerpost_requests_total",
		"Requests answered, by HTTP version, scheme and status.", []string{"proto", "scheme", "code"}, nil)
	durationDesc = prometheus.NewDesc("fingerpost_request_duration_seconds",
		"Time from the head of a request being read to its answer being handed on.", nil, nil)
)

func (t *tallies) Describe(ch chan<- *prometheus.Desc) {
	ch <- requestsDesc
	ch <- durationDesc
}

// Collect gives a series for what has happened: what never did is not exported.
func (t *tallies) Collect(ch chan<- prometheus.Metric) {
	sum := new(Tally)
	t.mu.Lock()
	t.closed.addTo(sum)
	for _, one := range t.open {
		one.addTo(sum)
	}
	t.mu.Unlock()
	for p := range sum.requests {
		for s := range sum.requests[p] {
			for code := range sum.requests[p][s] {
				if n := sum.requests[p][s][code].Load(); n > 0 {
					ch <- prometheus.MustNewConstMetric(requestsDesc, prometheus.CounterValue, float64(n), Proto(p).String(), Scheme(s == 1), strconv.Itoa(code))
				}
			}
		}
	}
	buckets := make(map[float64]uint64, len(durations))
	var count uint64
	for i := range sum.took {
		count += sum.took[i].Load()
		if i < len(durations) {
			buckets[durations[i].Seconds()] = count
		}
	}
	ch <- prometheus.MustNewConstHistogram(durationDesc, count, time.Duration(sum.total.Load()).Seconds(), buckets)
}
