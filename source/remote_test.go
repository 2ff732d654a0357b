package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// script is a Fetcher that gives what a test says.
type script struct {
	mu    sync.Mutex // guards all: the bubble's clock orders nothing
	next  func(known string) (*Fetched, error)
	calls []time.Time
	asked []string // known, of each call
}

func (s *script) Fetch(_ context.Context, known string) (*Fetched, error) {
	s.mu.Lock()
	s.calls = append(s.calls, time.Now())
	s.asked = append(s.asked, known)
	next := s.next
	s.mu.Unlock()
	return next(known)
}

// gives changes what the next Fetch gives, and forgets the calls so far.
func (s *script) gives(next func(string) (*Fetched, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next, s.calls = next, nil
}

// has gives one version of one file again and again.
func has(version, name, text string) func(string) (*Fetched, error) {
	return func(known string) (*Fetched, error) {
		if known == version {
			return nil, ErrUnchanged
		}
		return &Fetched{Version: version, Prefix: "git:https://h.example/r@" + version + ":", Files: []File{{Name: name, Data: []byte(text)}}}, nil
	}
}

// followed is a Remote that is being followed in a bubble of synctest.
type followed struct {
	*Remote
	script  *script
	mu      sync.Mutex // guards the rest
	refuse  error
	applied []string
	reports []string
}

func follow(t *testing.T, e Elsewhere, next func(string) (*Fetched, error)) *followed {
	t.Helper()
	if e.Poll == 0 {
		e.Poll = time.Minute
	}
	e.Git = "https://h.example/r"
	f := &followed{script: &script{next: next}}
	f.Remote = NewRemote(&e, f.script)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Follow(ctx, func(c Content) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.applied = append(f.applied, strings.Join(froms(c), " "))
			return f.refuse
		}, func(err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.reports = append(f.reports, fmt.Sprint(err))
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return f
}

func (f *followed) refuses(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = err
}

func (f *followed) wait(d time.Duration) {
	time.Sleep(d) // of the bubble's clock
	synctest.Wait()
}

func (f *followed) want(t *testing.T, applied, reports string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if got := strings.Join(f.applied, " | "); got != applied {
		t.Errorf("applied %q, want %q", got, applied)
	}
	if got := strings.Join(f.reports, " | "); got != reports {
		t.Errorf("reported %q, want %q", got, reports)
	}
	f.applied, f.reports = nil, nil
}

func TestAVersionIsAppliedOnceAndFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, Elsewhere{}, has("1", "r.json", rule("a")))
		f.want(t, "a.example", "<nil>")
		f.wait(5 * time.Minute)
		f.want(t, "", "")
		if n := len(f.script.calls); n < 5 || n > 7 {
			t.Errorf("%d looks in five minutes", n)
		}
		checked := f.State().CheckedAt
		f.script.gives(has("2", "r.json", rule("b")))
		f.Trigger() // at once
		synctest.Wait()
		f.want(t, "b.example", "<nil>")
		s := f.State()
		if s.Version != "2" || s.Kind != "git" || s.Label != "git:https://h.example/r" || s.Items != 1 || s.Err != nil || s.CheckedAt.Before(checked) || s.ChangedAt.IsZero() {
			t.Errorf("state %+v", s)
		}
		if since := f.Content().Redirects[0].Since; !since.Equal(s.ChangedAt) {
			t.Errorf("a redirect that was seen to come is there since %v, want %v", since, s.ChangedAt)
		}
	})
}

func TestASourceThatIsDownKeepsItsContentAndIsAskedLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, Elsewhere{}, has("1", "r.json", rule("a")))
		f.want(t, "a.example", "<nil>")
		f.script.gives(func(string) (*Fetched, error) { return nil, errors.New("no route") })
		f.wait(time.Hour)
		f.want(t, "", "source git:https://h.example/r cannot be read: no route") // once
		if got := strings.Join(froms(f.Content()), " "); got != "a.example" || f.State().Err == nil || f.State().Version != "1" {
			t.Errorf("content %q, state %+v", got, f.State())
		}
		f.script.mu.Lock()
		calls := f.script.calls
		f.script.mu.Unlock()
		for i := 1; i < len(calls); i++ {
			wait, most := calls[i].Sub(calls[i-1]), min(lastBackoff, firstBackoff<<(i-1))
			if wait < most/2 || wait > most {
				t.Errorf("the wait after failure %d was %v, want between %v and %v", i, wait, most/2, most)
			}
		}
		if len(calls) < 10 || len(calls) > 25 {
			t.Errorf("%d looks in an hour", len(calls))
		}
		f.script.gives(has("1", "r.json", rule("a")))
		f.wait(lastBackoff)
		f.want(t, "", "<nil>")
		if f.State().Err != nil {
			t.Errorf("well again, and the state is %+v", f.State())
		}
	})
}

func TestABadVersionKeepsTheLastGoodOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, Elsewhere{}, has("1", "r.json", rule("a")))
		f.want(t, "a.example", "<nil>")
		f.script.gives(has("2", "r.json", "{\n  \"/a\": {\"to\": 1}\n}"))
		f.wait(10 * time.Minute)
		bad := "git:https://h.example/r@2:r.json:2:16: to must be text, not the number 1"
		f.want(t, "", bad)
		if err := f.State().Err; err == nil || err.Error() != bad || f.State().Version != "1" {
			t.Errorf("state %+v", f.State())
		}
		if last := f.script.asked[len(f.script.asked)-1]; last != "2" {
			t.Errorf("a bad version is fetched again and again: asked for news since %q", last)
		}
		f.script.gives(has("3", "r.json", rule("c")))
		f.wait(2 * time.Minute)
		f.want(t, "c.example", "<nil>")
	})
}

func TestWhatIsRefusedIsTriedAgainOnRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, Elsewhere{}, has("1", "r.json", rule("a")))
		f.want(t, "a.example", "<nil>")
		f.refuses(errors.New("two rules are one"))
		f.script.gives(has("2", "r.json", rule("b")))
		f.wait(5 * time.Minute)
		f.want(t, "b.example", "two rules are one")
		if f.State().Version != "1" || f.State().Err == nil {
			t.Errorf("state %+v", f.State())
		}
		f.refuses(nil)
		f.script.gives(func(string) (*Fetched, error) { panic("a retry fetches nothing") })
		f.Retry()
		synctest.Wait()
		f.want(t, "b.example", "<nil>")
		if f.State().Version != "2" {
			t.Errorf("state %+v", f.State())
		}
		f.Retry() // nothing is refused
		synctest.Wait()
		f.want(t, "", "")
	})
}

func TestAPausedSourceAppliesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, Elsewhere{}, has("1", "r.json", rule("a")))
		f.want(t, "a.example", "<nil>")
		f.Pause()
		f.script.gives(has("2", "r.json", rule("b")))
		f.Trigger()
		f.Retry()
		f.wait(time.Hour)
		f.want(t, "", "")
		if !f.State().Paused || f.State().Version != "1" {
			t.Errorf("state %+v", f.State())
		}
		f.Resume()
		synctest.Wait()
		f.want(t, "b.example", "<nil>")
	})
}

// A pause that comes while a fetch is under way still holds.
func TestAPauseHoldsAgainstAFetchUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, Elsewhere{}, has("1", "r.json", rule("a")))
		f.want(t, "a.example", "<nil>")
		f.script.gives(func(known string) (*Fetched, error) {
			f.Pause()
			return has("2", "r.json", rule("b"))(known)
		})
		f.Trigger()
		synctest.Wait()
		f.want(t, "", "")
		f.script.gives(has("2", "r.json", rule("b")))
		f.Resume()
		synctest.Wait()
		f.want(t, "b.example", "<nil>")
	})
}

func TestLoadComesBeforeFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := &script{next: func(string) (*Fetched, error) { return nil, context.DeadlineExceeded }}
		r := NewRemote(&Elsewhere{URL: "https://h.example/r.json", Poll: time.Minute}, down)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		down.gives(func(string) (*Fetched, error) { <-ctx.Done(); return nil, ctx.Err() })
		if err := r.Load(ctx, nil); err == nil || r.State().Err == nil {
			t.Fatalf("a source that does not answer in time: error %v, state %+v", err, r.State())
		}
		down.gives(has("1", "r.json", rule("a")))
		follow, stop := context.WithCancel(t.Context())
		applied, reported := 0, 0
		go r.Follow(follow, func(Content) error { applied++; return nil }, func(error) { reported++ })
		time.Sleep(firstBackoff)
		synctest.Wait()
		stop()
		synctest.Wait()
		if applied != 1 || reported != 1 || r.State().Items != 1 {
			t.Errorf("%d applied, %d reported, state %+v", applied, reported, r.State())
		}
	})
}

func TestFetchedFilesAreReadAsThoseOfAFolder(t *testing.T) {
	fetched := func(f map[string]string, inputs ...string) *Fetched {
		out := &Fetched{Version: "1", Prefix: "s3://b/", Beside: func(name string, _ int64) ([]byte, error) {
			if text, ok := f[name]; ok {
				return []byte(text), nil
			}
			return nil, fs.ErrNotExist
		}}
		for _, name := range inputs {
			out.Files = append(out.Files, File{Name: name, Data: []byte(f[name])})
		}
		return out
	}
	host := NewRemote(&Elsewhere{Host: "www.example.com"}, nil).owner
	tests := []struct {
		name string
		f    *Fetched
		host bool
		want string // the from of all redirects, or the error
	}{
		{"the seed shape for a host", fetched(map[string]string{"r.json": `{"/a": {"to": "/b"}}`}, "r.json"), true, "www.example.com/a"},
		{"the seed shape for all", fetched(map[string]string{"r.json": `{"/a": {"to": "/b"}}`}, "r.json"), false, "*/a"},
		{"a file that another one names", fetched(map[string]string{"d/f.yaml": "hosts: {h.example: {redirects: r.json, fallback: {status: 404, page: p/404.html}}}",
			"d/r.json": `{"/a": {"to": "/b"}}`, "d/p/404.html": "<p>gone"}, "d/f.yaml", "d/r.json"), false, "h.example/a"},
		{"hosts for a host", fetched(map[string]string{"r.yaml": "hosts: {a.example: }"}, "r.yaml"), true, "s3://b/r.yaml:1:1: the redirects of a host cannot have hosts"},
		{"no such page", fetched(map[string]string{"r.yaml": "hosts: {h.example: {fallback: {status: 404, page: no.html}}}"}, "r.yaml"), false,
			`s3://b/r.yaml:1:51: page "no.html" cannot be read: file does not exist`},
		{"a file of this machine", fetched(map[string]string{"r.yaml": "hosts: {h.example: {redirects: /etc/passwd}}"}, "r.yaml"), false,
			`s3://b/r.yaml:1:32: redirects "passwd" cannot be read: it is not in the source`},
		{"a file above", fetched(map[string]string{"r.yaml": "hosts: {h.example: {redirects: ../r.json}}"}, "r.yaml"), false,
			`s3://b/r.yaml:1:32: redirects "r.json" cannot be read: it is not in the source`},
		{"settings", fetched(map[string]string{"r.yaml": "listen: {}"}, "r.yaml"), false, "s3://b/r.yaml:1:1: listen is a setting of the node, not content"},
		{"nothing", fetched(nil), false, "s3://b/: the source has no files of content"},
		{"an empty file", fetched(map[string]string{"r.json": " "}, "r.json"), false, "s3://b/r.json: the file is empty"},
		{"one file alone", &Fetched{Prefix: "https://h.example/", Files: []File{{Name: "r", Format: "yaml", Data: []byte("hosts: {h.example: {redirects: r.json}}")}}}, false,
			`https://h.example/r:1:32: redirects "r.json" cannot be read: this source is one file`},
	}
	for _, tt := range tests {
		owner := host
		if !tt.host {
			owner = nil
		}
		c, err := tt.f.decode(owner)
		got := strings.Join(froms(c), " ")
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, tt.want) || tt.want == "" {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// A page that cannot be fetched now makes no bad version: it is asked for again.
func TestAFileThatCannotBeFetchedIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		broken.Store(true)
		f := follow(t, Elsewhere{}, func(known string) (*Fetched, error) {
			fetched, err := has("1", "f.yaml", "hosts: {h.example: {redirects: r.json}}")(known)
			if err == nil {
				fetched.Beside = func(string, int64) ([]byte, error) {
					if broken.Load() {
						return nil, errors.New("reset")
					}
					return []byte(`{"/a": {"to": "/b"}}`), nil
				}
			}
			return fetched, err
		})
		f.want(t, "", "source git:https://h.example/r cannot be read: r.json: reset")
		broken.Store(false)
		f.wait(firstBackoff)
		f.want(t, "h.example/a", "<nil>")
	})
}
