package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// When progress is shown. What takes less than progressBegins is not spoken of.
const (
	progressBegins = time.Second
	progressStep   = 100 * time.Millisecond // of the bar on a terminal
	progressPause  = 5 * time.Second        // between two lines elsewhere
)

// progress tells people how far something is: by a bar on a terminal, elsewhere by
// a line now and then. at and say may be called at any time, and often.
type progress struct {
	w     io.Writer
	unit  string // what is counted: "row"; bytes are shown as such
	total int64  // 0 if it is not known
	done  atomic.Int64
	what  atomic.Pointer[string]
	begun time.Time
	once  sync.Once
	over  chan struct{} // closed by end
	gone  chan struct{} // closed when nothing is written any more
}

const unitBytes = "byte"

// showProgress begins; end must be called.
func showProgress(what string, total int64, unit string) *progress {
	terminal := term.IsTerminal(int(os.Stderr.Fd())) && os.Getenv("TERM") != "dumb"
	return newProgress(os.Stderr, terminal, what, total, unit)
}

func newProgress(w io.Writer, terminal bool, what string, total int64, unit string) *progress {
	p := &progress{w: w, unit: unit, total: total, begun: time.Now(), over: make(chan struct{}), gone: make(chan struct{})}
	p.say(what)
	show := p.lines
	if terminal {
		show = p.bar
	}
	go func() {
		defer close(p.gone)
		show()
	}()
	return p
}

// at says how much is done.
func (p *progress) at(done int64) { p.done.Store(done) }

// say says what is done now.
func (p *progress) say(what string) { p.what.Store(&what) }

// end takes the bar away. What is written afterwards stands alone. It may be called
// again.
func (p *progress) end() {
	p.once.Do(func() { close(p.over) })
	<-p.gone
}

// every calls show after a first pause and then again and again, until the end.
func (p *progress) every(first, pause time.Duration, show func()) {
	t := time.NewTimer(first)
	defer t.Stop()
	for {
		select {
		case <-p.over:
			return
		case <-t.C:
			show()
			t.Reset(pause)
		}
	}
}

func (p *progress) lines() {
	p.every(progressPause, progressPause, func() { fmt.Fprintln(p.w, p.line()) })
}

// line is how far it is, in words.
func (p *progress) line() string {
	done, line := p.done.Load(), *p.what.Load()
	switch {
	case p.unit == unitBytes && p.total > 0:
		line += fmt.Sprintf(": %s of %s", megabytes(done), megabytes(p.total))
	case p.unit == unitBytes:
		line += ": " + megabytes(done)
	case p.total > 0:
		line += fmt.Sprintf(": %d of %s", done, plural64(p.total, p.unit))
	case done > 0:
		line += ": " + plural64(done, p.unit)
	}
	return fmt.Sprintf("%s (%s)", line, time.Since(p.begun).Round(time.Second))
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func (p *progress) bar() {
	bar, said := p.newBar(), p.what.Load()
	shown := false
	p.every(progressBegins, progressStep, func() {
		shown = true
		if what := p.what.Load(); what != said {
			bar.Describe(*what)
			said = what
		}
		if done := p.done.Load(); p.total <= 0 || done <= p.total {
			bar.Set64(done)
		}
	})
	if shown {
		bar.Clear()
	}
}

// newBar makes the bar. It has no colours, with or without NO_COLOR.
func (p *progress) newBar() *progressbar.ProgressBar {
	total := p.total
	if total == 0 {
		total = -1
	}
	o := []progressbar.Option{progressbar.OptionSetWriter(p.w), progressbar.OptionSetDescription(*p.what.Load()), progressbar.OptionSetWidth(30),
		progressbar.OptionSetElapsedTime(true),
		progressbar.OptionSetPredictTime(total > 0), progressbar.OptionSetSpinnerChangeInterval(0), progressbar.OptionShowCount()}
	if p.unit == unitBytes {
		o = append(o, progressbar.OptionShowBytes(true), progressbar.OptionShowTotalBytes(total > 0))
	}
	return progressbar.NewOptions64(total, o...)
}

// counted counts the bytes that go through a reader.
type counted struct {
	io.Reader
	p *progress
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.p.done.Add(int64(n))
	return n, err
}

// countedWriter counts the bytes that go through a writer.
type countedWriter struct {
	io.Writer
	p *progress
}

func (c countedWriter) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.p.done.Add(int64(n))
	return n, err
}
