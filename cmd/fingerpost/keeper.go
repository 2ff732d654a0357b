package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/source/fetch"
	"fingerpost/store"
)

// keeper is what a node tells the store of the sources that it follows, and what
// the store has told it: whether they are paused.
type keeper struct {
	wake chan struct{} // holds one: look now

	mu    sync.Mutex // guards the rest
	files store.Source
	revs  map[string]int64 // of each source's last publication here, by label

	// The goroutine of keepSources alone, and load before it.
	paused   []bool // by part, as they were seen
	reported []store.Source
}

func newKeeper(parts int) keeper {
	return keeper{wake: make(chan struct{}, 1), revs: map[string]int64{}, paused: make([]bool, parts), reported: make([]store.Source, parts)}
}

func (k *keeper) look() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// published notes that a source has brought content into force.
func (k *keeper) published(label string, rev int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.revs[label] = rev
}

// lookEvery is how often the store is asked whether somebody has paused or resumed
// a source at another node, and checkedEvery how often it is told that one was looked
// at, where there is nothing else to tell.
const (
	lookEvery    = 5 * time.Second
	checkedEvery = time.Minute
)

// keepSources does with sources as the store says, and tells it how they are, until
// ctx ends.
func (n *node) keepSources(ctx context.Context) {
	if n.shared == nil || n.shared.db == nil {
		return
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for failed := false; ; {
		err := n.syncSources(ctx)
		if err != nil && !failed && ctx.Err() == nil {
			n.log.Warn("the store cannot be asked about sources; a pause or resume takes effect later", "err", err)
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-n.contents.kept.wake:
		}
	}
}

// syncSources looks once.
func (n *node) syncSources(ctx context.Context) error {
	db, k := n.shared.db, &n.contents.kept
	all, err := db.Sources(ctx)
	if err != nil {
		return err
	}
	stored := map[string]store.Source{}
	for _, v := range all {
		stored[v.Label] = v
	}
	for part := range k.paused {
		label := n.label(part)
		if label == fileLabel {
			continue
		}
		n.setPaused(part, stored[label].Paused)
		now, was := n.standing(part), k.reported[part]
		quick := was
		quick.Checked = now.Checked
		if now.Label == was.Label && sameStanding(&now, &quick) && now.Checked.Sub(was.Checked) < checkedEvery {
			continue
		}
		if err := db.ReportSource(ctx, now); err != nil {
			return err
		}
		k.reported[part] = now
	}
	return nil
}

func sameStanding(a, b *store.Source) bool {
	return a.State == b.State && a.Error == b.Error && a.Version == b.Version && a.Rev == b.Rev && a.Checked.Equal(b.Checked)
}

// readPauses finds out, before anything is applied, what is paused.
func (n *node) readPauses(ctx context.Context) error {
	if n.shared == nil || n.shared.db == nil {
		return nil
	}
	for part := range n.contents.kept.paused {
		v, err := n.shared.db.Source(ctx, n.label(part))
		if errors.Is(err, store.ErrUnavailable) && n.away.Load() {
			return nil // publishing, which waits for the store, says what is paused
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		n.setPaused(part, v.Paused)
	}
	return nil
}

// setPaused makes a part paused, or not. Files are watched meanwhile, and refused:
// see publish. What a source has is applied anew when it is resumed, whether it has
// changed or not: somebody else may have changed what it had brought.
func (n *node) setPaused(part int, paused bool) {
	k := &n.contents.kept
	if k.paused[part] == paused {
		return
	}
	k.paused[part] = paused
	switch {
	case part > 0 && paused:
		n.remotes[part-1].Pause()
	case part > 0:
		r := n.remotes[part-1]
		if r.State().Version != "" {
			n.logErrors("a source that was resumed is refused", n.contents.replace(part, r.Content()), "source", n.label(part))
		}
		r.Resume()
		r.Retry()
	case !paused:
		n.logErrors("the files that were resumed are refused", n.contents.replace(0, n.set.Content()), "source", n.label(part))
		n.set.Retry()
		n.filesRead(nil)
	}
	if !paused {
		n.log.Info("a source is resumed", "source", n.label(part))
	} else {
		n.log.Info("a source is paused", "source", n.label(part))
	}
}

// filesRead notes how the files were taken.
func (n *node) filesRead(err error) {
	k := &n.contents.kept
	k.mu.Lock()
	k.files.Checked, k.files.Error = time.Now(), errorText(withoutPause(err))
	k.mu.Unlock()
	k.look()
}

// standing is how a part of the content is.
func (n *node) standing(part int) store.Source {
	k := &n.contents.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	v := k.files
	v.Kind, v.State = "file", admin.SourceOK
	if part > 0 {
		s := n.remotes[part-1].State()
		v = store.Source{Kind: s.Kind, URL: n.settings.Sources[part-1].Address(), State: admin.SourceOK, Error: errorText(withoutPause(s.Err)), Version: s.Version, Checked: s.CheckedAt}
		if s.Version == "" {
			v.State = admin.SourceWaiting
		}
	}
	v.Label = n.label(part)
	v.Rev = k.revs[v.Label]
	if v.Error != "" {
		v.State = admin.SourceError
	}
	return v
}

// maxErrorText bounds what the store is told of an error; the log has all of it.
const maxErrorText = 2000

func errorText(err error) string {
	text := ""
	for _, e := range fingerpost.Errors(err) {
		if text != "" {
			text += "\n"
		}
		if text += e.Error(); len(text) > maxErrorText {
			return strings.ToValidUTF8(text[:maxErrorText], "") + "…"
		}
	}
	return text
}

// withoutPause leaves out of joined errors that a source is paused.
func withoutPause(err error) error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var rest []error
		for _, e := range many.Unwrap() {
			rest = append(rest, withoutPause(e))
		}
		if errors.Is(err, store.ErrPaused) {
			return errors.Join(rest...)
		}
		return err
	}
	if errors.Is(err, store.ErrPaused) {
		return nil
	}
	return err
}

// sourcesOf are the sources of this node as the API shows them and acts upon them.
func (n *node) sourcesOf() []admin.Source {
	var all []admin.Source
	if label := n.label(0); label != fileLabel {
		all = append(all, admin.Source{Label: label, Kind: "file", Check: n.set.Retry})
	}
	for i, r := range n.remotes {
		e := n.settings.Sources[i]
		s := admin.Source{Label: e.Label(), Kind: e.Kind(), URL: e.Address(), Check: r.Trigger}
		if e.WebhookSecretEnv != "" || e.WebhookSecretFile != "" {
			s.Secret = func() (string, error) { return fetch.WebhookSecret(&e) }
		}
		all = append(all, s)
	}
	return all
}
