package main

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// printed is what was written so far.
type printed struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (p *printed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.buf.Write(b)
}

func (p *printed) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.buf.String()
}

func TestProgressIsALineEveryFiveSecondsWhereThereIsNoTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out printed
		p := newProgress(&out, false, "sent", 1000, "row")
		p.at(10)
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if out.String() != "" {
			t.Errorf("after 4 s: %q", out.String())
		}
		p.at(400)
		time.Sleep(1 * time.Second)
		synctest.Wait()
		p.say("checked")
		time.Sleep(5 * time.Second)
		p.end()
		if want := "sent: 400 of 1000 rows (5s)\nchecked: 400 of 1000 rows (10s)\n"; out.String() != want {
			t.Errorf("%q, want %q", out.String(), want)
		}
	})
}

func TestProgressIsABarOnATerminalWhichGoesAway(t *testing.T) {
	for _, total := range []int64{0, 1000} {
		synctest.Test(t, func(t *testing.T) {
			var out printed
			p := newProgress(&out, true, "sent", total, "row")
			p.at(10)
			time.Sleep(999 * time.Millisecond)
			synctest.Wait()
			if out.String() != "" {
				t.Errorf("within a second: %q", out.String())
			}
			time.Sleep(time.Second)
			p.at(2000) // more than there should be
			time.Sleep(time.Second)
			p.end()
			if got := out.String(); !strings.Contains(got, "sent") || !strings.Contains(got, "10") || strings.Contains(got, "\x1b[3") || strings.Contains(got, "\n") || strings.TrimSpace(got[strings.LastIndexByte(strings.TrimRight(got, "\r"), '\r')+1:]) != "" {
				t.Errorf("of %d: %q", total, got)
			}
		})
	}
}

func TestWhatIsShortIsNotSpokenOf(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var out printed
			p := newProgress(&out, terminal, "sent", 1000, "row")
			p.at(1000)
			time.Sleep(900 * time.Millisecond)
			p.end()
			if out.String() != "" {
				t.Errorf("%q", out.String())
			}
		})
	}
}
