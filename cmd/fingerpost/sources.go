package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"fingerpost"
	"fingerpost/source"
	"fingerpost/source/fetch"
	"fingerpost/store"
)

// contents joins what a node serves: the content of its files and of every source
// elsewhere, each in its last good version.
type contents struct {
	// apply brings a part into force, next, with which the parts together are joined.
	apply func(part int, next, joined source.Content) error

	// mu guards parts, and is held while they are applied: what is served is
	// always the join of parts, or of those before a change under way.
	mu    sync.Mutex
	parts []source.Content // of the files; then of each source

	kept keeper
}

// replace puts next in the place of a part if all parts together are taken.
func (c *contents) replace(part int, next source.Content) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	parts := slices.Clone(c.parts)
	parts[part] = next
	if err := c.apply(part, next, source.Join(parts)); err != nil {
		return err
	}
	c.parts = parts
	return nil
}

// joined gives all content of files and sources; it must not be changed.
func (c *contents) joined() source.Content {
	c.mu.Lock()
	defer c.mu.Unlock()
	return source.Join(c.parts)
}

// remote is a source elsewhere with its place among the parts.
type remote struct {
	*source.Remote
	part int
}

// loadPatience bounds how long the start waits for sources.
const loadPatience = 15 * time.Second

// load applies the files' content, which must be good, and then what each source
// has. One that is down, or has something bad, is an error in the log unless there
// is nothing else to serve.
func (n *node) load() error {
	// With the store away nothing is applied, paused or not; keepSources asks again.
	if err := n.readPauses(n.life); err != nil && !errors.Is(n.storeAway(err), errStoreAway) {
		return err
	}
	err := n.contents.replace(0, n.set.Content())
	n.filesRead(err)
	switch {
	case errors.Is(err, errStoreAway):
		n.unapplied, err = true, nil
		n.logErrors("content of files waits for the store", errStoreAway)
	case refusedAsMuch(err):
		n.logErrors("files were refused, what they held before is served", err)
		err = nil
	case errors.Is(err, store.ErrPaused):
		n.log.Info("the files are paused: what they held before is served", "source", n.label(0))
		err = nil
	}
	if err != nil || len(n.remotes) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), loadPatience)
	defer cancel()
	errs := make([]error, len(n.remotes))
	var loads sync.WaitGroup
	for i, r := range n.remotes {
		loads.Go(func() { errs[i] = r.Load(ctx, func(c source.Content) error { return n.contents.replace(r.part, c) }) })
	}
	loads.Wait()
	n.countFailing()
	for i, r := range n.remotes {
		n.logSource("a source is not served yet", r, errs[i])
	}
	if all := n.contents.joined(); n.shared == nil && len(all.Hosts)+len(all.Redirects) == 0 && n.failing() == len(n.remotes) {
		return &fingerpost.Error{Code: "no_content", Message: "there is nothing to serve: no file has content, and no source could be read", Hint: "the log says what is wrong with each source"}
	}
	return nil
}

// openSources makes the sources that the settings name; nobody is asked yet.
func (n *node) openSources() {
	parts := 1 + len(n.settings.Sources)
	n.contents = &contents{apply: n.apply, parts: make([]source.Content, parts), kept: newKeeper(parts)}
	for i, e := range n.settings.Sources {
		n.remotes = append(n.remotes, remote{source.NewRemote(&e, fetch.New(e)), i + 1})
	}
}

// follow applies what changes in files of content and in sources until ctx ends.
func (n *node) follow(ctx context.Context) {
	go n.keepSources(ctx)
	go n.set.Watch(ctx, func(c source.Content) error {
		err := n.contents.replace(0, c)
		n.retry(err == nil, 0)
		return err
	}, func(err error) {
		if n.filesRead(err); errors.Is(err, store.ErrPaused) {
			n.log.Info("a change of files waits: they are paused", "source", n.label(0))
			err = withoutPause(err)
		}
		n.metrics.Reloaded(err == nil, time.Now())
		n.logErrors("a change was refused, the last good version keeps serving", err)
	})
	for _, r := range n.remotes {
		go r.Follow(ctx, func(c source.Content) error {
			err := n.contents.replace(r.part, c)
			n.retry(err == nil, r.part)
			return err
		}, func(err error) {
			n.countFailing()
			n.contents.kept.look()
			if errors.Is(err, store.ErrPaused) {
				n.log.Info("a change of a source waits: it is paused", "source", r.State().Label)
				return
			}
			n.logSource("a source was refused, its last good version keeps serving", r, err)
		})
	}
}

// retry lets every part but one try again what was refused: what it is joined with
// is another now. It ends, since only a part that was taken leads to the next.
func (n *node) retry(changed bool, but int) {
	if !changed {
		return
	}
	if but != 0 {
		n.set.Retry()
	}
	for _, r := range n.remotes {
		if r.part != but {
			r.Retry()
		}
	}
}

func (n *node) logSource(what string, r remote, err error) {
	s := r.State()
	if err == nil {
		n.log.Info("a source is in force", "source", s.Label, "version", s.Version, "items", s.Items)
	}
	n.logErrors(what, err, "source", s.Label)
}

func (n *node) failing() int {
	failing := 0
	for _, r := range n.remotes {
		if err := r.State().Err; err != nil && !errors.Is(err, store.ErrPaused) {
			failing++
		}
	}
	return failing
}

func (n *node) countFailing() { n.metrics.Sources(len(n.remotes), n.failing()) }
