package source

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"fingerpost"
)

const (
	fetchTimeout = 2 * time.Minute  // for all that one look at a source takes
	firstBackoff = 2 * time.Second  // after the first failure; then twice as long each time
	lastBackoff  = 10 * time.Minute // at most, unless the source is polled less often
)

// ErrUnchanged is what a Fetcher returns where nothing is new.
var ErrUnchanged = errors.New("unchanged")

// Fetcher gets what a source elsewhere has. It is called by one goroutine at a
// time, and again after an error: the caller waits in between. Texts of errors
// hold no credentials. Implementations are in source/fetch.
type Fetcher interface {
	// Fetch gives what the source has now, or ErrUnchanged if that is the version
	// known, which a Fetch has given before; known is empty where all is new.
	Fetch(ctx context.Context, known string) (*Fetched, error)
}

// State is how a source is.
type State struct {
	Label     string
	Kind      string    // "git", "url" or "s3"
	Version   string    // of the content in force; empty before the first
	CheckedAt time.Time // when the source last answered; zero before
	ChangedAt time.Time // when Version came in force here
	Err       error     // what is wrong now, or nil: the source is down, or its present version is bad
	Items     int       // hosts and redirects in force
	Paused    bool
}

// Join puts the content of several sources one behind the other. What it gives must
// not be changed.
func Join(parts []Content) Content {
	return concat(slices.DeleteFunc(slices.Clone(parts), func(c Content) bool {
		return len(c.Hosts)+len(c.Redirects)+len(c.Cases) == 0
	}))
}

// Remote is a source elsewhere in its last good version.
type Remote struct {
	fetcher Fetcher
	owner   *fingerpost.Host
	poll    time.Duration
	wake    chan struct{} // holds one: look now
	retry   chan struct{} // holds one: see Retry

	// Load's and then Follow's alone.
	seen     string   // the version that was fetched last, good or bad
	refused  *Content // of seen, which apply has refused
	version  string   // of refused
	failures int      // to fetch, in a row
	down     error    // why the source could not be fetched the last time
	bad      error    // what is wrong with seen
	told     string   // the error that was reported last

	// applying is held while a version is applied, so that none is once Pause has
	// returned.
	applying sync.Mutex
	paused   bool // guarded by applying

	mu      sync.Mutex // guards the two below
	state   State
	content Content
}

// NewRemote makes a source whose files fetcher gets. Nothing is asked yet.
func NewRemote(e *Elsewhere, fetcher Fetcher) *Remote {
	r := &Remote{fetcher: fetcher, poll: e.Poll, wake: make(chan struct{}, 1), retry: make(chan struct{}, 1),
		state: State{Label: e.Label(), Kind: e.Kind()}}
	if e.Host != "" {
		r.owner = &fingerpost.Host{Name: e.Host}
	}
	return r
}

// State may be called at any time.
func (r *Remote) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// Content gives what is in force of the source, nothing before its first good
// version. It may be called at any time; what it gives must not be changed.
func (r *Remote) Content() Content {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.content
}

// Trigger makes Follow look at the source at once, as a webhook asks for. While
// the source is paused it does nothing. It may be called at any time.
func (r *Remote) Trigger() { poke(r.wake) }

// Retry makes Follow try once more what apply has refused: what it goes by beside
// this content is another now. It may be called at any time.
func (r *Remote) Retry() { poke(r.retry) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Pause keeps what is in force until Resume, so that a mistake which was undone
// here does not come again from the source. After it has returned nothing is
// applied; it waits for an apply that has begun.
func (r *Remote) Pause() { r.setPaused(true) }

// Resume ends a pause, and looks at the source at once.
func (r *Remote) Resume() {
	r.setPaused(false)
	r.Trigger()
}

func (r *Remote) setPaused(paused bool) {
	r.applying.Lock()
	defer r.applying.Unlock()
	r.paused = paused
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Paused = paused
}

func (r *Remote) isPaused() bool {
	r.applying.Lock()
	defer r.applying.Unlock()
	return r.paused
}

// Load looks at the source once, before Follow does, and applies what it has. The
// error is what is wrong; Follow goes on from there.
func (r *Remote) Load(ctx context.Context, apply func(Content) error) error {
	_, err := r.look(ctx, apply)
	if err != nil {
		r.told = err.Error()
	}
	return err
}

// Follow looks at the source until ctx is done: every poll, later after failures,
// at once after Trigger. A new version is decoded and handed to apply as a whole;
// if it is bad, or apply refuses it, what was in force stays so, and report gets
// all that is wrong. report also gets an error when the source cannot be reached,
// once while it stays the same, and nil after a version was applied or when the
// source is well again. apply and report are called from this goroutine. Follow
// is called once.
func (r *Remote) Follow(ctx context.Context, apply func(Content) error, report func(error)) {
	timer := time.NewTimer(r.delay())
	defer timer.Stop()
	for ctx.Err() == nil {
		var news bool
		var err error
		select {
		case <-ctx.Done():
			return
		case <-r.retry:
			if news, err = r.again(apply); !news {
				continue
			}
		case <-r.wake:
			news, err = r.look(ctx, apply)
			timer.Reset(r.delay())
		case <-timer.C:
			news, err = r.look(ctx, apply)
			timer.Reset(r.delay())
		}
		message := ""
		if err != nil {
			message = err.Error()
		}
		if ctx.Err() == nil && (news || message != r.told) {
			r.told = message
			report(err)
		}
	}
}

// delay is the time until the next look. It is a little other each time, so that
// the nodes of a fleet do not ask all at once.
func (r *Remote) delay() time.Duration {
	if r.failures > 0 {
		wait := max(lastBackoff, r.poll)
		if shift := r.failures - 1; shift < 16 {
			wait = min(wait, firstBackoff<<shift)
		}
		return wait/2 + rand.N(wait/2)
	}
	if r.State().CheckedAt.IsZero() {
		return 0
	}
	return r.poll - r.poll/20 + rand.N(r.poll/10)
}

// look fetches and applies what is new. applied says that a version is in force
// now that was not before; err is all that is wrong afterwards.
func (r *Remote) look(ctx context.Context, apply func(Content) error) (applied bool, err error) {
	if r.isPaused() {
		return false, r.State().Err
	}
	within, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	fetched, err := r.fetcher.Fetch(within, r.seen)
	var content Content
	if err == nil {
		if fetched.Modified.IsZero() && r.State().Version != "" {
			fetched.Modified = time.Now() // it was seen to change
		}
		if content, r.bad = fetched.decode(r.owner); fetched.failed != nil {
			err, r.bad = fetched.failed, nil
		}
	}
	if r.down = nil; err != nil && !errors.Is(err, ErrUnchanged) {
		if !errors.Is(ctx.Err(), context.Canceled) {
			r.failures++
			r.down = &fingerpost.Error{Code: "source_down", Message: "source " + r.State().Label + " cannot be read: " + err.Error(),
				Hint: "what was read before keeps being served; it is asked again by itself"}
		}
		return false, r.settle(false)
	}
	r.failures = 0
	if err == nil {
		r.seen, r.refused = fetched.Version, nil
		if r.bad == nil {
			applied = r.apply(&content, fetched.Version, apply)
		}
	}
	return applied, r.settle(true)
}

// again applies what was refused once more; tried says whether there was anything.
func (r *Remote) again(apply func(Content) error) (tried bool, err error) {
	if r.refused == nil || r.isPaused() {
		return false, nil
	}
	r.apply(r.refused, r.version, apply)
	return true, r.settle(false)
}

func (r *Remote) apply(content *Content, version string, apply func(Content) error) bool {
	r.applying.Lock()
	defer r.applying.Unlock()
	if r.paused {
		r.seen = r.State().Version // so that Resume finds it new
		return false
	}
	old := r.Content()
	keepSince(old.Redirects, content.Redirects)
	keepHostSince(old.Hosts, content.Hosts)
	if r.bad = apply(*content); r.bad != nil {
		r.refused, r.version = content, version
		return false
	}
	r.refused = nil
	r.mu.Lock()
	defer r.mu.Unlock()
	r.content = *content
	r.state.Version, r.state.ChangedAt = version, time.Now()
	r.state.Items = len(content.Hosts) + len(content.Redirects)
	return true
}

// settle makes State say what is, and gives all that is wrong.
func (r *Remote) settle(answered bool) error {
	err := errors.Join(r.down, r.bad)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.Err = err; answered {
		r.state.CheckedAt = time.Now()
	}
	return err
}
