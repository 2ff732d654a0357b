package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var sample = Access{
	Time:      time.Date(2026, 11, 20, 9, 30, 1, 42e6, time.UTC),
	Remote:    "192.0.2.7:51234",
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
	if got := string(appendAccess(nil, &sample)); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	bare := appendAccess(nil, &Access{Time: sample.Time, Status: 404})
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
		log := NewAccessLog(&out, 1, nil)
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
	log := NewAccessLog(&out, 1, nil)
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
	log := NewAccessLog(io.Discard, 10, nil)
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
	s.entered <- struct{}{}
	<-s.release
	return 0, errors.New("disk full")
}

func TestAStuckWriterHoldsNobodyUp(t *testing.T) {
	metrics := NewMetrics("test")
	out := stuck{make(chan struct{}, 10), make(chan struct{})}
	log := NewAccessLog(out, 1, metrics)
	big := sample
	big.Target = "/" + strings.Repeat("x", accessFlush)
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

func BenchmarkAccessRecord(b *testing.B) {
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		var buf []byte
		for b.Loop() {
			buf = appendAccess(buf[:0], &sample)
		}
	})
	b.Run("slog", func(b *testing.B) { // the alternative, for the comment on appendAccess
		b.ReportAllocs()
		log := slog.New(slog.NewJSONHandler(io.Discard, nil))
		for b.Loop() {
			log.LogAttrs(b.Context(), slog.LevelInfo, "", slog.String("remote", sample.Remote), slog.String("scheme", "https"),
				slog.String("proto", "2"), slog.String("method", sample.Method), slog.String("host", sample.Host),
				slog.String("target", sample.Target), slog.Int("status", sample.Status), slog.String("location", string(sample.Location)),
				slog.String("rule", sample.Rule), slog.Int64("durationUs", sample.Duration.Microseconds()), slog.Int("bytes", sample.Bytes),
				slog.String("userAgent", sample.UserAgent), slog.String("referer", sample.Referer))
		}
	})
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		log := NewAccessLog(io.Discard, 1, nil)
		defer log.Close()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				log.Write(&sample)
			}
		})
	})
}
