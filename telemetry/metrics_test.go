package telemetry

import (
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// scrape gives the exported samples, by name and labels.
func scrape(t *testing.T, m *Metrics) map[string]string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	samples := map[string]string{}
	for line := range strings.Lines(w.Body.String()) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			i := strings.LastIndexByte(line, ' ')
			samples[line[:i]] = line[i+1:]
		}
	}
	return samples
}

func TestMetricsAreExported(t *testing.T) {
	m := NewMetrics("1.2.3")
	if _, ok := scrape(t, m)["fingerpost_certificate_min_remaining_seconds"]; ok {
		t.Error("without a certificate there is nothing that remains")
	}
	m.Request(HTTP2, true, 301, 50*time.Microsecond)
	m.Request(HTTP2, true, 301, 50*time.Microsecond)
	m.Request(HTTP10, false, 404, 2*time.Millisecond)
	m.Connections("http").Inc()
	m.Connections("https").Inc()
	m.Connections("https").Dec()
	m.HandshakeError()
	m.Table(7, 3)
	m.Certificates(2, time.Now().Add(time.Hour), true)
	m.Reloaded(true, time.UnixMilli(1_800_000_000_500))
	got := scrape(t, m)
	for name, want := range map[string]string{
		`fingerpost_requests_total{code="301",proto="2",scheme="https"}`:  "2",
		`fingerpost_requests_total{code="404",proto="1.0",scheme="http"}`: "1",
		`fingerpost_request_duration_seconds_bucket{le="0.0001"}`:         "2",
		`fingerpost_request_duration_seconds_count`:                       "3",
		`fingerpost_connections{listener="http"}`:                         "1",
		`fingerpost_connections{listener="https"}`:                        "0",
		`fingerpost_tls_handshake_errors_total`:                           "1",
		`fingerpost_redirects`:                                            "7",
		`fingerpost_hosts`:                                                "3",
		`fingerpost_certificates`:                                         "2",
		`fingerpost_config_last_reload_successful`:                        "1",
		`fingerpost_config_last_reload_success_timestamp_seconds`:         "1.8000000005e+09",
	} {
		if got[name] != want {
			t.Errorf("%s = %q, want %q", name, got[name], want)
		}
	}
	left, err := strconv.ParseFloat(got["fingerpost_certificate_min_remaining_seconds"], 64)
	if err != nil || left < 3500 || left > 3600 {
		t.Errorf("remaining is %v (%v), want about an hour", left, err)
	}
	m.Stored(Held{Certificates: 3, FirstExpiry: time.Now().Add(time.Minute), Sealed: 2})
	got = scrape(t, m)
	if got["fingerpost_certificates"] != "5" || got["fingerpost_certificates_sealed"] != "2" {
		t.Errorf("%s certificates of files and store, sealed %s; want 5 and 2", got["fingerpost_certificates"], got["fingerpost_certificates_sealed"])
	}
	if left, err := strconv.ParseFloat(got["fingerpost_certificate_min_remaining_seconds"], 64); err != nil || left < 50 || left > 60 {
		t.Errorf("remaining is %v (%v), want the store's minute", left, err)
	}
	m.Stored(Held{}) // nothing there expires
	if left, err := strconv.ParseFloat(scrape(t, m)["fingerpost_certificate_min_remaining_seconds"], 64); err != nil || left < 3500 {
		t.Errorf("remaining is %v (%v), want the folder's hour", left, err)
	}
	if got["go_goroutines"] == "" || got["process_start_time_seconds"] == "" {
		t.Error("the Go and process collectors are missing")
	}
	m.Reloaded(false, time.Now())
	got = scrape(t, m)
	if got["fingerpost_config_last_reload_successful"] != "0" || got["fingerpost_config_last_reload_success_timestamp_seconds"] != "1.8000000005e+09" {
		t.Error("a refused load must clear the flag and keep the time of the last good one")
	}
}

func TestMetricsOfIssuing(t *testing.T) {
	m := NewMetrics("1.2.3")
	orders := false
	m.Issuing(func() (Issuing, bool) {
		return Issuing{Names: map[string]int{"live": 97, "failed": 3}, Open: 1, Queued: 2, Rooms: []Room{
			{CA: "limited", Orders: 290}, {CA: "own", Orders: -1}, {CA: "down", Orders: 0, ParkedUntil: time.Now().Add(time.Minute)}}}, orders
	})
	m.Order("limited", "issued")
	m.Order("limited", "issued")
	m.Order("down", "lost")
	got := scrape(t, m)
	if got[`fingerpost_acme_orders_total{ca="limited",result="issued"}`] != "2" || got[`fingerpost_acme_orders_total{ca="down",result="lost"}`] != "1" {
		t.Error("orders are counted by CA and result")
	}
	if _, ok := got["fingerpost_acme_orders_open"]; ok {
		t.Error("a node that does not order has nothing to do")
	}
	orders = true
	got = scrape(t, m)
	for name, want := range map[string]string{
		`fingerpost_acme_names{state="live"}`:          "97",
		`fingerpost_acme_names{state="failed"}`:        "3",
		`fingerpost_acme_orders_open`:                  "1",
		`fingerpost_acme_orders_queued`:                "2",
		`fingerpost_acme_orders_room{ca="limited"}`:    "290",
		`fingerpost_acme_orders_room{ca="own"}`:        "",
		`fingerpost_acme_orders_room{ca="down"}`:       "0",
		`fingerpost_acme_parked_seconds{ca="limited"}`: "0",
	} {
		if got[name] != want {
			t.Errorf("%s = %q, want %q", name, got[name], want)
		}
	}
	if left, err := strconv.ParseFloat(got[`fingerpost_acme_parked_seconds{ca="down"}`], 64); err != nil || left < 50 || left > 60 {
		t.Errorf("parked for %v (%v), want a minute", left, err)
	}
}

func TestMetricNamesAndLabels(t *testing.T) {
	m := NewMetrics("1.2.3")
	m.Request(HTTP11, false, 301, 0)
	m.Connections("http").Inc()
	m.Certificates(1, time.Now(), false)
	m.Order("ca", "issued")
	m.Issuing(func() (Issuing, bool) {
		return Issuing{Names: map[string]int{"live": 1}, Rooms: []Room{{CA: "ca"}}}, true
	})
	name := regexp.MustCompile(`^(fingerpost|go|process)_[a-z_]+`)
	label := regexp.MustCompile(`([a-z_]+)="`)
	for sample := range scrape(t, m) {
		if !name.MatchString(sample) {
			t.Errorf("%s: not a name of ours", sample)
		}
		if !strings.HasPrefix(sample, "fingerpost_") {
			continue
		}
		for _, l := range label.FindAllStringSubmatch(sample, -1) {
			switch l[1] {
			case "proto", "scheme", "code", "listener", "le", "version", "goversion", "ca", "result", "state":
			default:
				t.Errorf("%s: label %s is not one of ours; hosts and redirects never become labels", sample, l[1])
			}
		}
	}
}

func TestNilMetricsCountNothing(t *testing.T) {
	var m *Metrics
	m.Request(HTTP11, true, 301, 0)
	m.Connections("http").Inc()
	m.Connections("http").Dec()
	m.HandshakeError()
	m.Table(1, 1)
	m.Certificates(1, time.Now(), false)
	m.Stored(Held{})
	m.Order("ca", "issued")
	m.Issuing(nil)
	m.Reloaded(true, time.Now())
	var l *AccessLog
	l.Write(&Access{})
	if err := l.Close(); err != nil || l.Dropped() != 0 {
		t.Error("a nil log did something")
	}
}

func TestFirstRequestsOfASeriesMayCoincide(t *testing.T) {
	m := NewMetrics("1.2.3")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				m.Request(HTTP11, true, 308, time.Microsecond)
			}
		})
	}
	wg.Wait()
	if got := scrape(t, m)[`fingerpost_requests_total{code="308",proto="1.1",scheme="https"}`]; got != "800" {
		t.Errorf("counted %s, want 800", got)
	}
}

func BenchmarkRequest(b *testing.B) {
	m := NewMetrics("1.2.3")
	b.ReportAllocs()
	for b.Loop() {
		m.Request(HTTP11, true, 301, 12*time.Microsecond)
	}
}
