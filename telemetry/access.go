package telemetry

import (
	"bytes"
	"io"
	"net/netip"
	"runtime"
	"slices"
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
	Remote    netip.AddrPort // of the client; not valid where it came by a UNIX socket
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
	chunkSize   = 64 << 10 // records are handed on in pieces of this size, or of one record that is larger
	accessLimit = 8 << 20  // what may wait for the writer, of all recorders together
)

// AccessLog writes one JSON object and a line break for each request. A [Recorder]
// never waits for the writer: a log that cannot be written as fast as requests come
// loses records, which are counted, and no visitor waits for it. A record reaches
// the writer at the latest a second after it was written, and before [Close]
// returns. Those of one client's address and port keep their order.
type AccessLog struct {
	out     io.Writer
	every   uint64
	metrics *Metrics
	lost    func(records uint64)
	seen    atomic.Uint64

	dropped atomic.Uint64
	telling atomic.Bool // tell is about to be called

	waiting atomic.Int64 // bytes of chunks, but for the one of each recorder that is written first
	closed  atomic.Bool

	shards []*Recorder // of those who have no recorder of their own

	mu        sync.Mutex // guards the two below
	recorders []*Recorder
	told      uint64 // of dropped, to lost

	full chan struct{} // asks the writing goroutine to begin before its second is over
	stop chan struct{}
	done chan error // the first error of out, once the goroutine has ended
}

// NewAccessLog logs one in every requests to out; every below 2 stands for all
// of them. No log at all is a nil *AccessLog. metrics, which may be nil, counts
// the records that were dropped; lost, which may be nil, is told of them once a
// second at most.
func NewAccessLog(out io.Writer, every int, metrics *Metrics, lost func(records uint64)) *AccessLog {
	l := &AccessLog{
		out:     out,
		every:   uint64(max(every, 1)),
		metrics: metrics,
		lost:    lost,
		full:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		done:    make(chan error, 1),
	}
	for range 2 * runtime.GOMAXPROCS(0) {
		l.shards = append(l.shards, l.NewRecorder())
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

// Write logs a, for any number of goroutines. It does not keep a or what a points to.
func (l *AccessLog) Write(a *Access) {
	if l == nil {
		return
	}
	r := l.shards[int(a.Remote.Port())%len(l.shards)]
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Write(a)
}

// Recorder is one way into the log, for one goroutine at a time: an event loop has
// its own, and takes no lock. It is a list of chunks that the recorder appends to and
// the writing goroutine takes from. Both know of a chunk only what its size says.
type Recorder struct {
	log    *AccessLog
	mu     sync.Mutex // taken by those who share the recorder
	last   *chunk     // that is appended to
	second int64      // that stamp is of
	stamp  []byte
	ended  atomic.Bool

	_     [64]byte // what follows is the writing goroutine's, on another cache line
	first *chunk
	done  int         // of first, that is written
	free  chan *chunk // back to the recorder: few, so that they stay in its core's cache
}

type chunk struct {
	records []byte       // len is not used: the goroutines would race for it
	size    atomic.Int64 // of whole records
	next    atomic.Pointer[chunk]
}

// NewRecorder makes a recorder, which is part of the log until its Close. Without
// a log it is nil, which records nothing.
func (l *AccessLog) NewRecorder() *Recorder {
	if l == nil {
		return nil
	}
	begin := new(chunk) // no room: the first record asks for some
	r := &Recorder{log: l, last: begin, first: begin, free: make(chan *chunk, 4)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recorders = append(l.recorders, r)
	return r
}

// Write logs a. It does not keep a or what a points to.
func (r *Recorder) Write(a *Access) {
	l := r.log
	if l.closed.Load() {
		l.lose(1)
		return
	}
	if second := a.Time.Unix(); second != r.second || r.stamp == nil {
		r.second, r.stamp = second, a.Time.UTC().AppendFormat(r.stamp[:0], "2006-01-02T15:04:05.")
	}
	n := int(r.last.size.Load())
	room := r.last.records[n:]
	record := appendAccess(room[:0], r.stamp, a)
	if len(record) > len(room) { // it went elsewhere
		c := r.chunk(len(record))
		if c == nil {
			l.lose(1)
			return
		}
		copy(c.records, record)
		c.size.Store(int64(len(record)))
		r.last.next.Store(c)
		r.last = c
		if n > 0 { // one is full
			select {
			case l.full <- struct{}{}:
			default:
			}
		}
		return
	}
	r.last.size.Store(int64(n + len(record)))
}

// chunk gives one with room for so much, nil if too much waits already.
func (r *Recorder) chunk(room int) *chunk {
	size := max(room, chunkSize)
	if len(r.last.records) > 0 && r.log.waiting.Add(int64(size)) > accessLimit {
		r.log.waiting.Add(int64(-size))
		return nil
	}
	if size == chunkSize {
		select {
		case c := <-r.free:
			return c
		default:
		}
	}
	return &chunk{records: make([]byte, size)}
}

// Close ends the recorder; what it has taken is still written.
func (r *Recorder) Close() {
	if r != nil {
		r.ended.Store(true)
	}
}

// drain writes what there is. Only the writing goroutine calls it.
func (r *Recorder) drain() (err error) {
	for {
		c := r.first
		next := c.next.Load() // before size: what has a next grows no more
		if size := int(c.size.Load()); size > r.done {
			records := c.records[r.done:size]
			r.done = size
			if _, failed := r.log.out.Write(records); failed != nil {
				r.log.lose(uint64(bytes.Count(records, []byte{'\n'})))
				if err == nil {
					err = failed
				}
			}
		}
		if next == nil {
			return err
		}
		r.first, r.done = next, 0
		if len(c.records) > 0 {
			r.log.waiting.Add(int64(-len(next.records)))
		}
		if len(c.records) == chunkSize {
			c.size.Store(0)
			c.next.Store(nil)
			select {
			case r.free <- c:
			default:
			}
		}
	}
}

// lose counts records that nobody will read.
func (l *AccessLog) lose(n uint64) {
	l.dropped.Add(n)
	if l.metrics != nil {
		l.metrics.dropped.Add(float64(n))
	}
	// Not by the writing goroutine, which may be stuck.
	if l.lost != nil && !l.telling.Swap(true) {
		time.AfterFunc(time.Second, l.tell)
	}
}

// tell says what was lost since it said so last.
func (l *AccessLog) tell() {
	l.telling.Store(false)
	l.mu.Lock()
	now := l.dropped.Load()
	n := now - l.told
	l.told = now
	l.mu.Unlock()
	if n > 0 {
		l.lost(n)
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
	l.closed.Store(true)
	close(l.stop)
	err := <-l.done
	if l.lost != nil {
		l.tell()
	}
	return err
}

// run is the only one that writes to out.
func (l *AccessLog) run() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var first error
	for stopping := false; !stopping; {
		select {
		case <-tick.C:
		case <-l.full:
		case <-l.stop:
			stopping = true
		}
		l.mu.Lock()
		recorders := l.recorders
		l.mu.Unlock()
		for _, r := range recorders {
			ended := r.ended.Load() // before the last look
			if err := r.drain(); err != nil && first == nil {
				first = err
			}
			if ended {
				l.remove(r)
			}
		}
	}
	l.done <- first
}

func (l *AccessLog) remove(r *Recorder) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recorders = slices.DeleteFunc(slices.Clone(l.recorders), func(other *Recorder) bool { return other == r })
}

// appendAccess appends a record. It is written by hand: the fields are fixed,
// and slog's JSON handler costs five times as much for them, on the only path
// where it would be noticed (see BenchmarkAccessRecord).
//
// stamp is a.Time up to its point.
func appendAccess(b, stamp []byte, a *Access) []byte {
	b = append(b, `{"time":"`...)
	b = append(b, stamp...)
	ms := a.Time.Nanosecond() / int(time.Millisecond)
	b = append(b, byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10))
	b = append(b, `Z","remote":"`...)
	if a.Remote.IsValid() {
		b = a.Remote.AppendTo(b)
	} else {
		b = append(b, "unix"...)
	}
	b = append(b, `","scheme":"`...)
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
