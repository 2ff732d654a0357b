package telemetry

import (
	"net/http"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Proto is a version of HTTP.
type Proto uint8

const (
	HTTP10 Proto = iota
	HTTP11
	HTTP2
	HTTP3
	protos
)

// String is the version as it stands in metrics and in the access log.
func (p Proto) String() string { return [protos]string{"1.0", "1.1", "2", "3"}[p] }

// Scheme is "https" or "http".
func Scheme(https bool) string {
	if https {
		return "https"
	}
	return "http"
}

// Metrics are the program's own, in a registry of their own.
type Metrics struct {
	registry *prometheus.Registry

	requests    *prometheus.CounterVec
	duration    prometheus.Histogram
	connections *prometheus.GaugeVec
	handshakes  prometheus.Counter
	dropped     prometheus.Counter

	reloadGood prometheus.Gauge
	reloadTime prometheus.Gauge
	certsGood  prometheus.Gauge
	redirects  prometheus.Gauge
	hosts      prometheus.Gauge

	sources        prometheus.Gauge
	sourcesFailing prometheus.Gauge

	certificates atomic.Int64
	firstExpiry  atomic.Int64 // Unix seconds; 0 while there is no certificate

	// byCode has the counter of each series of requests, once there is one, so
	// that a request neither hashes labels nor takes the vector's lock. A series
	// is made by its first request: what never happens is not exported.
	byCode [protos][2][600]atomic.Pointer[prometheus.Counter]
}

// NewMetrics makes the metrics of a program of that version.
func NewMetrics(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fingerpost_requests_total",
			Help: "Requests answered, by HTTP version, scheme and status.",
		}, []string{"proto", "scheme", "code"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "fingerpost_request_duration_seconds",
			Help: "Time from the head of a request being read to its answer being handed on.",
			// Few: each costs every request. A redirect takes microseconds.
			Buckets: []float64{10e-6, 30e-6, 100e-6, 1e-3, 10e-3, 100e-3, 1, 10},
		}),
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fingerpost_connections",
			Help: "Open connections, by listener.",
		}, []string{"listener"}),
		handshakes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fingerpost_tls_handshake_errors_total",
			Help: "TLS handshakes that failed, scanners and unknown server names included.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fingerpost_access_log_dropped_total",
			Help: "Access log records that were dropped because the log could not be written fast enough.",
		}),
		reloadGood: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fingerpost_config_last_reload_successful",
			Help: "1 if the last load of the configuration was taken, 0 if it was refused and the one before serves on.",
		}),
		certsGood: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fingerpost_certificates_last_reload_successful",
			Help: "1 if all files of the last load of certificates were taken, 0 if some were refused and those before serve on.",
		}),
		reloadTime: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fingerpost_config_last_reload_success_timestamp_seconds",
			Help: "When a configuration was last taken.",
		}),
		redirects: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fingerpost_redirects",
			Help: "Redirects in the table.",
		}),
		hosts: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fingerpost_hosts",
			Help: "Host patterns in the table.",
		}),
		sources: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fingerpost_sources",
			Help: "Sources elsewhere (git, URL, S3) that are followed.",
		}),
		sourcesFailing: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fingerpost_sources_failing",
			Help: "Sources that could not be read or were refused; what they had before serves on.",
		}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "fingerpost_build_info",
		Help:        "Always 1; the labels tell the build.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(
		m.requests, m.duration, m.connections, m.handshakes, m.dropped,
		m.reloadGood, m.certsGood, m.reloadTime, m.redirects, m.hosts, m.sources, m.sourcesFailing, build,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fingerpost_certificates",
			Help: "Certificates loaded.",
		}, func() float64 { return float64(m.certificates.Load()) }),
		remaining{m},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// remaining exports the time that the certificate next to expire has left. It
// is counted at each scrape, and absent where there is no certificate: a zero
// would raise the alarm.
type remaining struct{ m *Metrics }

var remainingDesc = prometheus.NewDesc("fingerpost_certificate_min_remaining_seconds",
	"Time until the first of the loaded certificates expires; negative once it has.", nil, nil)

func (r remaining) Describe(ch chan<- *prometheus.Desc) { ch <- remainingDesc }

func (r remaining) Collect(ch chan<- prometheus.Metric) {
	if at := r.m.firstExpiry.Load(); at != 0 {
		ch <- prometheus.MustNewConstMetric(remainingDesc, prometheus.GaugeValue, time.Until(time.Unix(at, 0)).Seconds())
	}
}

// Handler serves the metrics to Prometheus.
func (m *Metrics) Handler() http.Handler {
	if m == nil {
		return http.NotFoundHandler()
	}
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Request counts one answered request.
func (m *Metrics) Request(proto Proto, https bool, status int, took time.Duration) {
	if m == nil {
		return
	}
	if proto >= protos || status < 0 || status >= 600 {
		return // none of ours; never an index out of range
	}
	s := 0
	if https {
		s = 1
	}
	slot := &m.byCode[proto][s][status]
	counter := slot.Load()
	if counter == nil {
		made := m.requests.WithLabelValues(proto.String(), Scheme(https), strconv.Itoa(status))
		counter = &made
		slot.Store(counter)
	}
	(*counter).Inc()
	m.duration.Observe(took.Seconds())
}

// Connections is the gauge of one listener; keep it.
func (m *Metrics) Connections(listener string) Gauge {
	if m == nil {
		return Gauge{}
	}
	return Gauge{m.connections.WithLabelValues(listener)}
}

// Gauge counts what comes and goes. The zero Gauge counts nothing.
type Gauge struct{ gauge prometheus.Gauge }

func (g Gauge) Inc() {
	if g.gauge != nil {
		g.gauge.Inc()
	}
}

func (g Gauge) Dec() {
	if g.gauge != nil {
		g.gauge.Dec()
	}
}

// HandshakeError counts a TLS handshake that failed.
func (m *Metrics) HandshakeError() {
	if m != nil {
		m.handshakes.Inc()
	}
}

// Reloaded reports a load of the configuration, taken at that time or refused.
func (m *Metrics) Reloaded(taken bool, at time.Time) {
	if m == nil {
		return
	}
	if !taken {
		m.reloadGood.Set(0)
		return
	}
	m.reloadGood.Set(1)
	m.reloadTime.Set(float64(at.UnixMilli()) / 1000)
}

// Table reports the size of the table that is being served.
func (m *Metrics) Table(redirects, hosts int) {
	if m != nil {
		m.redirects.Set(float64(redirects))
		m.hosts.Set(float64(hosts))
	}
}

// FeedLag tells, whenever somebody looks, how old the node's content may be;
// negative while that is not known.
func (m *Metrics) FeedLag(lag func() time.Duration) {
	if m == nil {
		return
	}
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fingerpost_feed_lag_seconds",
		Help: "How old the node's content may be: 0 while it is current, -1 if that was never known.",
	}, func() float64 { return max(lag().Seconds(), -1) }))
}

// Sources reports how many sources elsewhere there are, and how many of them have
// something wrong.
func (m *Metrics) Sources(all, failing int) {
	if m != nil {
		m.sources.Set(float64(all))
		m.sourcesFailing.Set(float64(failing))
	}
}

// Certificates reports how many certificates are loaded and when the first of
// them expires; the zero time stands for none. taken says whether the last load took
// every file.
func (m *Metrics) Certificates(n int, firstExpiry time.Time, taken bool) {
	if m == nil {
		return
	}
	m.certsGood.Set(0)
	if taken {
		m.certsGood.Set(1)
	}
	m.certificates.Store(int64(n))
	if firstExpiry.IsZero() {
		m.firstExpiry.Store(0)
	} else {
		m.firstExpiry.Store(firstExpiry.Unix())
	}
}
