package telemetry

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Held is what a node has of certificates: those of its folder and those of the
// store. Its zero value is nothing.
type Held struct {
	Certificates int
	FirstExpiry  time.Time // of the first name that is left without a certificate; zero without names
	Sealed       int       // whose keys this node cannot open
}

// join gives both together.
func (h Held) join(other *Held) Held {
	if other == nil {
		return h
	}
	h.Certificates += other.Certificates
	h.Sealed += other.Sealed
	if h.FirstExpiry.IsZero() || !other.FirstExpiry.IsZero() && other.FirstExpiry.Before(h.FirstExpiry) {
		h.FirstExpiry = other.FirstExpiry
	}
	return h
}

// held are the two parts, of which each is told by itself.
type held struct{ folder, stored atomic.Pointer[Held] }

func (h *held) all() Held {
	return Held{}.join(h.folder.Load()).join(h.stored.Load())
}

var (
	certificatesDesc = prometheus.NewDesc("fingerpost_certificates", "Certificates that this node has, of files and of the store.", nil, nil)
	remainingDesc    = prometheus.NewDesc("fingerpost_certificate_min_remaining_seconds",
		"Time until the first certificate of a file expires, or the first name of the store is left without a certificate; negative once it has happened.", nil, nil)
	sealedDesc = prometheus.NewDesc("fingerpost_certificates_sealed", "Certificates of the store that this node cannot serve, because its cluster key does not open their private keys.", nil, nil)
)

func (h *held) Describe(ch chan<- *prometheus.Desc) {
	ch <- certificatesDesc
	ch <- remainingDesc
	ch <- sealedDesc
}

// Collect counts the time at each scrape. It is absent where there is no
// certificate: a zero would raise the alarm.
func (h *held) Collect(ch chan<- prometheus.Metric) {
	all := h.all()
	ch <- prometheus.MustNewConstMetric(certificatesDesc, prometheus.GaugeValue, float64(all.Certificates))
	ch <- prometheus.MustNewConstMetric(sealedDesc, prometheus.GaugeValue, float64(all.Sealed))
	if !all.FirstExpiry.IsZero() {
		ch <- prometheus.MustNewConstMetric(remainingDesc, prometheus.GaugeValue, time.Until(all.FirstExpiry).Seconds())
	}
}

// Stored reports what a node has of the store's certificates.
func (m *Metrics) Stored(h Held) {
	if m != nil {
		m.held.stored.Store(&h)
	}
}

// Order counts an order of a certificate that has ended: issued, failed, refused,
// limited or lost.
func (m *Metrics) Order(ca, result string) {
	if m != nil {
		m.orders.WithLabelValues(ca, result).Inc()
	}
}

// Issuing is what there is to do for the node that orders certificates.
type Issuing struct {
	Names  map[string]int // by state
	Open   int            // orders
	Queued int            // orders that wait for the CAs' limits
	Rooms  []Room
}

// Room is what is left of a CA's limits.
type Room struct {
	CA          string
	Orders      int // that the account could open now; below zero without a limit
	ParkedUntil time.Time
}

// Issuing tells, whenever somebody looks, what there is to do; false on a node that
// does not order.
func (m *Metrics) Issuing(look func() (Issuing, bool)) {
	if m != nil {
		m.registry.MustRegister(issuing(look))
	}
}

type issuing func() (Issuing, bool)

var (
	namesDesc  = prometheus.NewDesc("fingerpost_acme_names", "Names that need a certificate from a CA, by state; on the node that orders.", []string{"state"}, nil)
	openDesc   = prometheus.NewDesc("fingerpost_acme_orders_open", "Orders under way at CAs; on the node that orders.", nil, nil)
	queuedDesc = prometheus.NewDesc("fingerpost_acme_orders_queued", "Orders that wait for room in the CAs' limits, about; on the node that orders.", nil, nil)
	roomDesc   = prometheus.NewDesc("fingerpost_acme_orders_room", "Orders that the account at a CA could open now; absent for a CA without limits.", []string{"ca"}, nil)
	parkedDesc = prometheus.NewDesc("fingerpost_acme_parked_seconds", "How long a CA takes no orders, since it is down or has said so; 0 while it does.", []string{"ca"}, nil)
)

func (issuing) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{namesDesc, openDesc, queuedDesc, roomDesc, parkedDesc} {
		ch <- d
	}
}

func (look issuing) Collect(ch chan<- prometheus.Metric) {
	s, ok := look()
	if !ok {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for state, n := range s.Names {
		gauge(namesDesc, float64(n), state)
	}
	gauge(openDesc, float64(s.Open))
	gauge(queuedDesc, float64(s.Queued))
	for _, r := range s.Rooms {
		if r.Orders >= 0 {
			gauge(roomDesc, float64(r.Orders), r.CA)
		}
		parked := 0.0
		if !r.ParkedUntil.IsZero() {
			parked = max(0, time.Until(r.ParkedUntil).Seconds())
		}
		gauge(parkedDesc, parked, r.CA)
	}
}
