package telemetry

import (
	"net/http"
	"runtime"
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

	tallies     tallies
	own         *Tally // of who has none
	connections *prometheus.GaugeVec
	handshakes  prometheus.Counter
	proxy       *prometheus.CounterVec
	dropped     prometheus.Counter

	reloadGood prometheus.Gauge
	reloadTime prometheus.Gauge
	certsGood  prometheus.Gauge
	redirects  prometheus.Gauge
	hosts      prometheus.Gauge

	sources        prometheus.Gauge
	sourcesFailing prometheus.Gauge

	held   held
	orders *prometheus.CounterVec
}

// NewMetrics makes the metrics of a program of that version.
func NewMetrics(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fingerpost_connections",
			Help: "Open connections, by listener.",
		}, []string{"listener"}),
		handshakes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fingerpost_tls_handshake_errors_total",
			Help: "TLS handshakes that failed, scanners and unknown server names included.",
		}),
		proxy: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fingerpost_proxy_header_refused_total",
			Help: "Connections refused for their PROXY header: of an address that is not trusted (stranger), without one where it is required (missing), invalid.",
		}, []string{"reason"}),
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
			Help: "Host patterns in the table; of a node with a store, hosts that have settings.",
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
	m.orders = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fingerpost_acme_orders_total",
		Help: "Orders of certificates that have ended, by CA and by how: issued, failed, refused, limited, lost.",
	}, []string{"ca", "result"})
	m.own = m.NewTally()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "fingerpost_build_info",
		Help:        "Always 1; the labels tell the build.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(
		&m.tallies, m.connections, m.handshakes, m.proxy, m.dropped,
		m.reloadGood, m.certsGood, m.reloadTime, m.redirects, m.hosts, m.sources, m.sourcesFailing, build,
		&m.held, m.orders,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
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
	m.own.Request(proto, https, status)
	m.own.Took(took, 1)
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

func (g Gauge) Add(n int) {
	if g.gauge != nil {
		g.gauge.Add(float64(n))
	}
}

func (g Gauge) Dec() {
	if g.gauge != nil {
		g.gauge.Dec()
	}
}

// ProxyRefusal is why a PROXY header was refused.
type ProxyRefusal string

const (
	ProxyStranger ProxyRefusal = "stranger" // it came from an address that is not trusted
	ProxyMissing  ProxyRefusal = "missing"  // none came, or not in time, where it is required
	ProxyInvalid  ProxyRefusal = "invalid"  // it is none, or not whole in time
)

// ProxyRefused counts a connection that was refused for its PROXY header.
func (m *Metrics) ProxyRefused(why ProxyRefusal) {
	if m != nil {
		m.proxy.WithLabelValues(string(why)).Inc()
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

// Certificates reports how many certificates the folder has and when the first of
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
	m.held.folder.Store(&Held{Certificates: n, FirstExpiry: firstExpiry})
}
