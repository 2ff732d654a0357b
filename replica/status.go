package replica

import (
	"errors"
	"os"
	"time"
)

// following is what the feed has told.
type following struct {
	head      Head
	connected bool
	asOf      time.Time // when the copy was last known to be what the feed ends with
	err       error     // the last failure; nil once it is past
	damaged   *file     // a snapshot whose content turned out to be damaged
}

// Status is how a replica does, at one moment.
type Status struct {
	Ready     bool             // there is content to serve
	Cursor    Cursor           // of what is served
	Head      Head             // of the feed, as far as it has told
	Connected bool             // to the feed
	AsOf      time.Time        // when the content was last known to be current; zero if never
	Err       error            // why it is not connected, if not
	Items     map[string]int64 // by kind
	Overlay   int              // redirects and hosts in layers over the snapshot
	LogBytes  int64            // of the log behind the snapshot
	FileBytes int64            // of the snapshot
	Folding   bool             // work in the background
	Compact   bool
	LeftOut   []string // items that contradict others, or cannot be read: not in the table
}

// Lag is how old the content may be: nothing while the feed is there and has
// nothing newer, else the time since that was so. It is negative if it never was.
func (s *Status) Lag(now time.Time) time.Duration {
	switch {
	case s.Connected && s.Ready && s.Head.Epoch == s.Cursor.Epoch && s.Head.Rev <= s.Cursor.Rev:
		return 0
	case s.AsOf.IsZero():
		return -1
	}
	return max(now.Sub(s.AsOf), 0)
}

// Status tells how the replica does.
func (r *Replica) Status() Status {
	r.mu.RLock()
	s := Status{Folding: r.folding.Load(), Compact: r.compacting.Load()}
	if live := r.live; live != nil {
		s.Ready, s.Cursor = true, r.served.Cursor
		s.Items = map[string]int64{}
		for kind, n := range live.counts {
			if n != 0 && kind != kindNames {
				s.Items[kind] = n
			}
		}
		s.Overlay = r.shown.overlay
		s.FileBytes = live.content.base.Bytes
		s.LogBytes = r.log.bytes(Cursor{live.cursor.Epoch, live.content.base.Cursor})
		s.LeftOut = append(s.LeftOut, live.content.base.Refused...)
		for _, err := range r.shown.refused {
			s.LeftOut = append(s.LeftOut, err.Error())
		}
	}
	r.mu.RUnlock()
	r.statusMu.Lock()
	defer r.statusMu.Unlock()
	s.Head, s.Connected, s.AsOf, s.Err = r.status.head, r.status.connected, r.status.asOf, r.status.err
	return s
}

// seen sets how old a state from disk is: the lock file has the time.
func (r *Replica) seen() {
	r.statusMu.Lock()
	defer r.statusMu.Unlock()
	if info, err := r.lock.Stat(); err == nil {
		r.status.asOf = info.ModTime()
	}
}

// heard notes a head, and that the feed is there. The state served is part of it
// unless a candidate is still catching up.
func (r *Replica) heard(h Head, served bool) {
	at, ok := r.Cursor()
	r.statusMu.Lock()
	defer r.statusMu.Unlock()
	r.status.head, r.status.connected, r.status.err = h, true, nil
	if ok && served && at.Epoch == h.Epoch && at.Rev >= h.Rev {
		r.current()
	}
}

// current notes that the content is what the feed ends with. The caller holds
// statusMu.
func (r *Replica) current() {
	now := time.Now()
	if now.Sub(r.status.asOf) > time.Second {
		os.Chtimes(r.lock.Name(), time.Time{}, now) // survives a restart; that it may be lost is no harm
	}
	r.status.asOf = now
}

// applied notes that a state is served.
func (r *Replica) applied(s *state) {
	r.statusMu.Lock()
	defer r.statusMu.Unlock()
	if r.status.damaged != s.content.base {
		r.status.damaged = nil
	}
	h := &r.status.head
	if !r.status.connected {
		return
	}
	if h.Epoch != s.cursor.Epoch {
		*h = Head{Epoch: s.cursor.Epoch, Rev: s.cursor.Rev}
	}
	if s.cursor.Rev >= h.Rev {
		h.Rev = s.cursor.Rev
		r.current()
	}
}

func (r *Replica) disconnected(err error) {
	r.statusMu.Lock()
	defer r.statusMu.Unlock()
	r.status.connected, r.status.err = false, err
}

// damage notes that a snapshot's content cannot be relied on.
func (r *Replica) damage(f *file) {
	r.statusMu.Lock()
	defer r.statusMu.Unlock()
	r.status.damaged = f
}

// isDamaged reports whether that is so for the one in use.
func (r *Replica) isDamaged() bool {
	r.mu.RLock()
	live := r.live
	var base *file
	if live != nil {
		base = live.content.base
	}
	r.mu.RUnlock()
	r.statusMu.Lock()
	defer r.statusMu.Unlock()
	return base != nil && r.status.damaged == base
}

// blame notes an error that comes from damaged content. The caller holds writer.
func (r *Replica) blame(err error) error {
	if errors.Is(err, ErrDamaged) && r.live != nil {
		r.damage(r.live.content.base)
	}
	return err
}
