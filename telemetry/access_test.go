package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var sample = Access{
	Time:      time.Date(2026, 11, 20, 9, 30, 1, 42e6, time.UTC),
	Remote:    netip.MustParseAddrPort("192.0.2.7:51234"),
	HTTPS:     true,
	Proto:     HTTP2,
	Method:    "GET",
	Host:      "old.example.com",
	Target:    "/products/7?ref=x",
	Status:    301,
	Location:  []byte("https://shop.example.com/item/7?ref=x"),
	Rule:      "products-move",
	Duration:  12345 * time.Nanosecond,
	Bytes:     178,
	UserAgent: "Mozilla/5.0 (X11; Linux x86_64)",
	Referer:   "https://www.example.com/",
}

func TestAccessRecordHoldsEveryField(t *testing.T) {
	const want = `{"time":"2026-11-20T09:30:01.042Z","remote":"192.0.2.7:51234","scheme":"https","proto":"2","method":"GET",` +
		`"host":"old.example.com","target":"/products/7?ref=x","status":301,"location":"https://shop.example.com/item/7?ref=x",` +
		`"rule":"products-move","durationUs":12,"bytes":178,"userAgent":"Mozilla/5.0 (X11; Linux x86_64)","referer":"https://www.example.com/"}` + "\n"
	if got := string(appendAccess(nil, []byte("2026-11-20T09:30:01."), &sample)); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	bare := appendAccess(nil, []byte("2026-11-20T09:30:01."), &Access{Time: sample.Time, Status: 404})
	for _, absent := range []string{"location", "rule", "userAgent", "referer"} {
		if bytes.Contains(bare, []byte(absent)) {
			t.Errorf("an empty %s is written: %s", absent, bare)
		}
	}
	if !json.Valid(bare) {
		t.Errorf("not JSON: %s", bare)
	}
}

func TestHostileTextIsEscaped(t *testing.T) {
	for in, want := range map[string]string{
		`a"b\c`:                `"a\u0022b\u005cc"`,
		"line\r\nbreak\x00":    `"line\u000d\u000abreak\u0000"`,
		"\x1b[31mred\x7f":      `"\u001b[31mred\u007f"`,
		"\u0085next":           `"\u0085next"`,
		"\xff\xc3":             `"\ufffd\ufffd"`,
		"cut \xe2\x82":         `"cut \ufffd\ufffd"`,
		"blåbær \u2028 😀":      `"blåbær \u2028 😀"`,
		"":                     `""`,
		strings.Repeat("x", 9): `"xxxxxxxxx"`,
	} {
		want = strings.NewReplacer(`\u0022`, `\"`, `\u005c`, `\\`).Replace(want)
		if got := string(appendJSON(nil, in)); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
		if got := string(appendJSON(nil, []byte(in))); got != want {
			t.Errorf("%q as bytes: got %s, want %s", in, got, want)
		}
	}
}

func FuzzJSONString(f *testing.F) {
	for _, s := range []string{"", "a\"b", "\xff", "\u2028", "\x00\x7f", "😀\xf0\x9f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		out := appendJSON(nil, s)
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%q: %s: %v", s, out, err)
		}
		if want := string([]rune(s)); got != want { // each bad byte becomes one U+FFFD
			t.Fatalf("%q came back as %q", s, got)
		}
		if i := bytes.IndexFunc(out, func(r rune) bool { return r < ' ' || 0x7f <= r && r < 0xa0 }); i >= 0 {
			t.Fatalf("%q: a control character is in %q", s, out)
		}
	})
}

// lines is a writer that counts whole records.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.buf.Bytes(), []byte("\n"))
}

func TestRecordsAreFlushedWithinASecondAndOnClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lines
		log := NewAccessLog(&out, 1, nil, nil)
		log.Write(&sample)
		if out.count() != 0 {
			t.Error("a record is not buffered")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if out.count() != 1 {
			t.Errorf("%d records after a second, want 1", out.count())
		}
		log.Write(&sample)
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		if out.count() != 2 {
			t.Errorf("%d records after Close, want 2", out.count())
		}
		log.Write(&sample)
		if log.Dropped() != 1 {
			t.Error("a record after Close is not counted as dropped")
		}
	})
}

func TestConcurrentRecordsStayWhole(t *testing.T) {
	var out lines
	log := NewAccessLog(&out, 1, nil, nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				log.Write(&sample)
			}
		})
	}
	wg.Wait()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(out.buf.String()) {
		if n++; !json.Valid([]byte(line)) {
			t.Fatalf("record %d is torn: %s", n, line)
		}
	}
	if n != 4000 {
		t.Errorf("%d records, want 4000", n)
	}
}

func TestOneInNIsLogged(t *testing.T) {
	log := NewAccessLog(io.Discard, 10, nil, nil)
	defer log.Close()
	n := 0
	for range 1000 {
		if log.Wants() {
			n++
		}
	}
	if n != 100 {
		t.Errorf("%d of 1000 are logged, want 100", n)
	}
	var off *AccessLog
	if off.Wants() {
		t.Error("a nil log wants records")
	}
}

// stuck is a writer that does not return until it is released.
type stuck struct{ entered, release chan struct{} }

func (s stuck) Write(p []byte) (int, error) {
	select {
	case s.entered <- struct{}{}:
	default:
	}
	<-s.release
	return 0, errors.New("disk full")
}

func TestAStuckWriterHoldsNobodyUp(t *testing.T) {
	metrics := NewMetrics("test")
	out := stuck{make(chan struct{}, 10), make(chan struct{})}
	log := NewAccessLog(out, 1, metrics, nil)
	big := sample
	big.Target = "/" + strings.Repeat("x", chunkSize)
	log.Write(&big)
	<-out.entered
	written := 1
	for log.Dropped() == 0 { // ends because the buffer is bounded, not because anyone reads it
		log.Write(&big)
		written++
	}
	if log.Dropped() != 1 {
		t.Errorf("%d records dropped at once, want 1", log.Dropped())
	}
	close(out.release)
	if err := log.Close(); err == nil || err.Error() != "disk full" {
		t.Errorf("Close gave %v, want the writer's error", err)
	}
	// What the writer refused is lost too.
	if got := scrape(t, metrics)["fingerpost_access_log_dropped_total"]; got != strconv.Itoa(written) {
		t.Errorf("dropped metric is %q, want %d", got, written)
	}
}

// TestRecordersKeepTheirOrder has recorders and others write while the log is read, and
// recorders end: each record comes once, those of one writer in their order.
func TestRecordersKeepTheirOrder(t *testing.T) {
	const each = 5_000 // many chunks
	var out lines
	log := NewAccessLog(&out, 1, nil, nil)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			a := sample
			a.Remote = netip.AddrPortFrom(a.Remote.Addr(), uint16(i))
			write := log.Write
			if i%2 == 0 {
				r := log.NewRecorder()
				defer r.Close()
				write = r.Write
			}
			for n := range each {
				for log.waiting.Load() > accessLimit/2 { // none is to be dropped
					runtime.Gosched()
				}
				a.Bytes = n
				if n == each/2 {
					a.Target = "/" + strings.Repeat("x", 2*chunkSize)
				}
				write(&a)
				a.Target = sample.Target
			}
		})
	}
	wg.Wait()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if n := log.Dropped(); n != 0 {
		t.Fatalf("%d records were dropped", n)
	}
	next := map[string]int{}
	for line := range strings.Lines(out.buf.String()) {
		var got struct {
			Remote string
			Bytes  int
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("torn: %s", line)
		}
		if got.Bytes != next[got.Remote] {
			t.Fatalf("%s: record %d where %d is due", got.Remote, got.Bytes, next[got.Remote])
		}
		next[got.Remote]++
	}
	for i := range 6 {
		if n := next["192.0.2.7:"+strconv.Itoa(i)]; n != each {
			t.Errorf("writer %d: %d records, want %d", i, n, each)
		}
	}
	if n := log.waiting.Load(); n != 0 {
		t.Errorf("%d bytes are counted as waiting after the end", n)
	}
}

func TestAnEndedRecorderIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lines
		log := NewAccessLog(&out, 1, nil, nil)
		before := len(log.recorders)
		r := log.NewRecorder()
		r.Write(&sample)
		r.Close()
		time.Sleep(time.Second)
		synctest.Wait()
		if out.count() != 1 || len(log.recorders) != before {
			t.Errorf("%d records, %d recorders, want 1 and %d", out.count(), len(log.recorders), before)
		}
		log.Close()
	})
}

// Lost records are told of though the writer is stuck, once a second at most, and the
// last of them by Close.
func TestLostRecordsAreToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := stuck{make(chan struct{}, 10), make(chan struct{})}
		var told []uint64
		log := NewAccessLog(out, 1, nil, func(n uint64) { told = append(told, n) })
		r := log.NewRecorder()
		for log.Dropped() < 10 {
			r.Write(&sample)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if len(told) != 1 || told[0] != 10 {
			t.Fatalf("told %v after a second, want 10", told)
		}
		time.Sleep(time.Minute)
		if len(told) != 1 {
			t.Errorf("told %v though nothing more was lost", told)
		}
		r.Write(&sample)
		close(out.release)
		log.Close()
		sum := uint64(0)
		for _, n := range told {
			sum += n
		}
		if sum != log.Dropped() || sum < 11 {
			t.Errorf("told of %v, %d were lost", told, log.Dropped())
		}
	})
}

// However many recorders there are, each has room for some records, though nothing has
// been written yet.
func TestManyRecordersHaveRoom(t *testing.T) {
	out := stuck{make(chan struct{}, 1), make(chan struct{})}
	log := NewAccessLog(out, 1, nil, nil)
	for range 3 * accessLimit / chunkSize {
		log.NewRecorder().Write(&sample)
	}
	if n := log.Dropped(); n != 0 {
		t.Errorf("%d were dropped", n)
	}
	close(out.release)
	log.Close()
}

func BenchmarkAccessRecord(b *testing.B) {
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		var buf []byte
		stamp := []byte("2026-11-20T09:30:01.")
		for b.Loop() {
			buf = appendAccess(buf[:0], stamp, &sample)
		}
	})
	b.Run("slog", func(b *testing.B) { // the alternative, for the comment on appendAccess
		b.ReportAllocs()
		log := slog.New(slog.NewJSONHandler(io.Discard, nil))
		for b.Loop() {
			log.LogAttrs(b.Context(), slog.LevelInfo, "", slog.String("remote", sample.Remote.String()), slog.String("scheme", "https"),
				slog.String("proto", "2"), slog.String("method", sample.Method), slog.String("host", sample.Host),
				slog.String("target", sample.Target), slog.Int("status", sample.Status), slog.String("location", string(sample.Location)),
				slog.String("rule", sample.Rule), slog.Int64("durationUs", sample.Duration.Microseconds()), slog.Int("bytes", sample.Bytes),
				slog.String("userAgent", sample.UserAgent), slog.String("referer", sample.Referer))
		}
	})
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		log := NewAccessLog(io.Discard, 1, nil, nil)
		defer log.Close()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				log.Write(&sample)
			}
		})
	})
	b.Run("recorder", func(b *testing.B) {
		b.ReportAllocs()
		log := NewAccessLog(io.Discard, 1, nil, nil)
		defer log.Close()
		b.RunParallel(func(pb *testing.PB) {
			r := log.NewRecorder()
			defer r.Close()
			for pb.Next() {
				r.Write(&sample)
			}
		})
	})
}
