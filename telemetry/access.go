package telemetry

import (
	"bytes"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Access is one answered request. What the client sent stands here as sent: the
// log escapes it.
type Access struct {
	Time      time.Time
	Remote    string // the client's address and port
	HTTPS     bool
	Proto     Proto
	Method    string
	Host      string // of the Host header or :authority
	Target    string // the request target
	Status    int
	Location  []byte        // empty if there is none
	Rule      string        // the id of the redirect that answered; empty if none did
	Duration  time.Duration // written in whole microseconds
	Bytes     int           // of the body sent
	UserAgent string
	Referer   string
}

const (
	accessFlush = 64 << 10 // a buffer this full is written at once
	accessLimit = 8 << 20  // a buffer this full takes no more records
)

// AccessLog writes one JSON object and a line break for each request. [Write]
// only appends to a buffer and never waits for the writer: a log that cannot be
// written as fast as requests come loses records, which are counted, and no
// visitor waits for it. A record reaches the writer at the latest a second
// after [Write], and before [Close] returns.
type AccessLog struct {
	out     io.Writer
	every   uint64
	metrics *Metrics
	seen    atomic.Uint64

	dropped atomic.Uint64

	mu      sync.Mutex // guards the two below; held for a copy, never for a write to out
	pending []byte     // whole records only
	closed  bool

	full chan struct{} // asks the writing goroutine to begin before its second is over
	stop chan struct{}
	done chan error // the first error of out, once the goroutine has ended
}

// NewAccessLog logs one in every requests to out; every below 2 stands for all
// of them. No log at all is a nil *AccessLog. metrics, which may be nil, counts
// the records that were dropped.
func NewAccessLog(out io.Writer, every int, metrics *Metrics) *AccessLog {
	l := &AccessLog{
		out:     out,
		every:   uint64(max(every, 1)),
		metrics: metrics,
		full:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		done:    make(chan error, 1),
	}
	go l.run()
	return l
}

// Wants reports whether the next request is to be logged, and counts it: ask
// once for each request, and do not gather a record in vain.
func (l *AccessLog) Wants() bool {
	if l == nil {
		return false
	}
	return l.every == 1 || l.seen.Add(1)%l.every == 0
}

var recordBuffers = sync.Pool{New: func() any { return new([]byte) }}

// Write logs a. It does not keep a or what a points to.
func (l *AccessLog) Write(a *Access) {
	if l == nil {
		return
	}
	buf := recordBuffers.Get().(*[]byte)
	*buf = appendAccess((*buf)[:0], a)

	l.mu.Lock()
	drop := l.closed || len(l.pending)+len(*buf) > accessLimit
	if !drop {
		l.pending = append(l.pending, *buf...)
	}
	full := len(l.pending) >= accessFlush
	l.mu.Unlock()

	recordBuffers.Put(buf)
	if drop {
		l.lose(1)
	}
	if full {
		select {
		case l.full <- struct{}{}:
		default:
		}
	}
}

// lose counts records that nobody will read.
func (l *AccessLog) lose(n uint64) {
	l.dropped.Add(n)
	if l.metrics != nil {
		l.metrics.dropped.Add(float64(n))
	}
}

// Dropped is how many records were lost so far.
func (l *AccessLog) Dropped() uint64 {
	if l == nil {
		return 0
	}
	return l.dropped.Load()
}

// Close writes what is pending and ends the log; it returns the first error
// that the writer gave. Records that come later are dropped. It does not close
// the writer, and may be called once.
func (l *AccessLog) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	close(l.stop)
	return <-l.done
}

// run is the only one that writes to out. It exchanges its empty buffer for the
// pending one, so that writing needs no lock.
func (l *AccessLog) run() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var spare []byte
	var first error
	for stopping := false; !stopping; {
		select {
		case <-tick.C:
		case <-l.full:
		case <-l.stop:
			stopping = true
		}
		l.mu.Lock()
		batch := l.pending
		l.pending = spare[:0]
		l.mu.Unlock()
		if len(batch) > 0 {
			if _, err := l.out.Write(batch); err != nil {
				l.lose(uint64(bytes.Count(batch, []byte{'\n'})))
				if first == nil {
					first = err
				}
			}
		}
		spare = batch
		if cap(spare) > 16*accessFlush {
			spare = nil // a burst's buffer is not kept
		}
	}
	l.done <- first
}

// appendAccess appends a record. It is written by hand: the fields are fixed,
// and slog's JSON handler costs five times as much for them, on the only path
// where it would be noticed (see BenchmarkAccessRecord).
func appendAccess(b []byte, a *Access) []byte {
	b = append(b, `{"time":"`...)
	b = a.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	b = append(b, `","remote":`...)
	b = appendJSON(b, a.Remote)
	b = append(b, `,"scheme":"`...)
	b = append(b, Scheme(a.HTTPS)...)
	b = append(b, `","proto":"`...)
	b = append(b, a.Proto.String()...)
	b = append(b, `","method":`...)
	b = appendJSON(b, a.Method)
	b = append(b, `,"host":`...)
	b = appendJSON(b, a.Host)
	b = append(b, `,"target":`...)
	b = appendJSON(b, a.Target)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(a.Status), 10)
	if len(a.Location) > 0 {
		b = append(b, `,"location":`...)
		b = appendJSON(b, a.Location)
	}
	if a.Rule != "" {
		b = append(b, `,"rule":`...)
		b = appendJSON(b, a.Rule)
	}
	b = append(b, `,"durationUs":`...)
	b = strconv.AppendInt(b, a.Duration.Microseconds(), 10)
	b = append(b, `,"bytes":`...)
	b = strconv.AppendInt(b, int64(a.Bytes), 10)
	if a.UserAgent != "" {
		b = append(b, `,"userAgent":`...)
		b = appendJSON(b, a.UserAgent)
	}
	if a.Referer != "" {
		b = append(b, `,"referer":`...)
		b = appendJSON(b, a.Referer)
	}
	return append(b, '}', '\n')
}

// appendJSON appends s as a JSON string (RFC 8259 7), in ASCII but for valid
// UTF-8. Control characters of a terminal (C0, DEL and C1) are escaped, since
// logs are read on terminals; a byte that is not UTF-8 becomes U+FFFD.
func appendJSON[T string | []byte](b []byte, s T) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	kept := 0 // s[kept:i] can be copied as it is
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		r, size := rune(c), 1
		if c >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
			bad := r == utf8.RuneError && size == 1
			if !bad && r >= 0xa0 && r != '\u2028' && r != '\u2029' {
				i += size
				continue
			}
		}
		b = append(b, s[kept:i]...)
		switch r {
		case '"', '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, '\\', 'u', hex[r>>12], hex[r>>8&15], hex[r>>4&15], hex[r&15])
		}
		i += size
		kept = i
	}
	b = append(b, s[kept:]...)
	return append(b, '"')
}
