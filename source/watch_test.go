package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// generous is far more than a reload takes, for a machine that is busy.
const generous = 30 * time.Second

// watched is a Set that is being watched. Each reload shows up as one outcome.
type watched struct {
	*Set
	t        *testing.T
	outcomes chan outcome
	refuse   func(Content) error // asked from Watch's goroutine
}

type outcome struct {
	applied []string // the from of every redirect of the last apply; nil without one
	applies int
	err     error
}

func watch(t *testing.T, config string, redirects ...string) *watched {
	t.Helper()
	s, err := Open(config, redirects)
	if err != nil {
		t.Fatal(messages(err))
	}
	w := &watched{Set: s, t: t, outcomes: make(chan outcome, 100)}
	return w
}

func (w *watched) start() *watched {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	idle := make(chan struct{}, 1)
	n := newNotifier()
	n.idle = func() {
		select {
		case idle <- struct{}{}:
		default:
		}
	}
	go func() {
		defer close(done)
		var o outcome
		w.watch(ctx, n, func(c Content) error {
			o.applied = froms(c)
			o.applies++
			if w.refuse != nil {
				return w.refuse(c)
			}
			return nil
		}, func(err error) {
			o.err = err
			w.outcomes <- o
			o = outcome{}
		})
	}()
	w.t.Cleanup(func() { cancel(); <-done })
	<-idle // from here on a change is seen by its event
	return w
}

func froms(c Content) []string {
	froms := []string{}
	for _, r := range c.Redirects {
		froms = append(froms, r.From)
	}
	return froms
}

// expect waits for a reload with this outcome; outcomes of a state in between,
// which a slow machine may show, are passed over.
func (w *watched) expect(applied, err string) {
	w.t.Helper()
	timeout := time.After(generous)
	var last string
	for {
		select {
		case o := <-w.outcomes:
			message := ""
			if o.err != nil {
				message = o.err.Error()
			}
			last = fmt.Sprintf("%s | %s", strings.Join(o.applied, " "), message)
			if o.applied == nil {
				last = "none | " + message
			}
			if last == applied+" | "+err {
				return
			}
		case <-timeout:
			w.t.Fatalf("no reload gave %q; the last gave %q", applied+" | "+err, last)
		}
	}
}

func (w *watched) serves(want string) {
	w.t.Helper()
	if got := strings.Join(froms(w.Content()), " "); got != want {
		w.t.Errorf("the content is %q, want %q", got, want)
	}
}

func rule(host string) string {
	return fmt.Sprintf(`[{"from": "%s.example", "to": "https://x.example"}]`, host)
}

// replace writes as editors do: a new file is renamed over the old one.
func replace(t *testing.T, path, text string) {
	t.Helper()
	write(t, path+".tmp", text)
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
}

func TestAChangeIsAppliedSoon(t *testing.T) {
	tree(t, "a.json", rule("a"), "b.json", rule("b"))
	w := watch(t, "", "a.json", "b.json").start()
	w.serves("a.example b.example")
	began := time.Now()
	write(t, "a.json", rule("c")) // in place, and of the same length
	w.expect("c.example b.example", "")
	if took := time.Since(began); took > time.Second {
		t.Logf("slow: from change to apply %v", took)
	} else {
		t.Logf("from change to apply %v", took)
	}
	replace(t, "b.json", rule("d"))
	w.expect("c.example d.example", "")
	w.serves("c.example d.example")
}

func TestAChangeBetweenOpenAndWatchIsSeen(t *testing.T) {
	tree(t, "a.json", rule("a"))
	w := watch(t, "", "a.json")
	write(t, "a.json", rule("b"))
	w.start().expect("b.example", "")
}

func TestABadFileKeepsItsLastGoodVersion(t *testing.T) {
	tree(t, "a.json", rule("a"), "b.json", rule("b"))
	w := watch(t, "", "a.json", "b.json").start()
	replace(t, "a.json", `[{"from": "a2.ex`) // half written
	const half = `a.json:1:11: a text begins here and does not end on its line`
	w.expect("none", half)
	w.serves("a.example b.example")
	replace(t, "b.json", rule("b2")) // other files' changes take effect
	w.expect("a.example b2.example", half)
	replace(t, "a.json", rule("a2")) // the rest of it is written
	w.expect("a2.example b2.example", "")
	replace(t, "a.json", rule("a2")) // the same bytes are no change
	replace(t, "a.json", rule("a3"))
	w.expect("a3.example b2.example", "")
}

func TestAFileThatIsGoneKeepsItsLastGoodVersion(t *testing.T) {
	tree(t, "a.json", rule("a"))
	w := watch(t, "", "a.json").start()
	if err := os.Remove("a.json"); err != nil {
		t.Fatal(err)
	}
	w.expect("none", "a.json: cannot be read: no such file or directory")
	w.serves("a.example")
	write(t, "a.json", rule("b"))
	w.expect("b.example", "")
}

func TestFilesOfAFolderComeAndGo(t *testing.T) {
	tree(t, "d/a.json", rule("a"))
	w := watch(t, "", "d").start()
	replace(t, "d/b.json", rule("b"))
	w.expect("a.example b.example", "")
	if err := os.Remove("d/a.json"); err != nil {
		t.Fatal(err)
	}
	w.expect("b.example", "")
	replace(t, "d/c.json", "[{}")
	w.expect("none", "d/c.json:1:4: the file ends before the [ of line 1 is closed")
	if err := os.Remove("d/c.json"); err != nil {
		t.Fatal(err)
	}
	w.expect("b.example", "")
	// All at once is more likely an accident.
	if err := os.Rename("d", "e"); err != nil {
		t.Fatal(err)
	}
	w.expect("none", "d: the folder cannot be read: no such file or directory")
	w.serves("b.example")
	if err := os.Mkdir("d", 0o755); err != nil {
		t.Fatal(err)
	}
	w.expect("none", "d: the folder cannot be read: it has no files any more")
	w.serves("b.example")
	write(t, "d/z.json", rule("z"))
	w.expect("z.example", "")
}

func TestPagesAndTheFilesOfHostsAreWatched(t *testing.T) {
	tree(t, "fingerpost.yaml", "hosts: {h.example: {redirects: lists/h.json, fallback: {page: gone.html}}}\n",
		"lists/h.json", `{"/a": {"to": "/b"}}`, "gone.html", "<p>one")
	w := watch(t, "fingerpost.yaml").start()
	write(t, "lists/h.json", `{"/c": {"to": "/d"}}`)
	w.expect("h.example/c", "")
	write(t, "gone.html", "<p>two")
	w.expect("h.example/c", "")
	if got := w.Content().Hosts[0].Fallback.Page; got != "<p>two" {
		t.Errorf("the page is %q", got)
	}
	write(t, "lists/h.json", `{"/c": {}}`)
	w.expect("none", "lists/h.json:1:2: a redirect without to")
	w.serves("h.example/c")
}

// TestAFileThatAHostNamesIsNoInputOfItsFolder, not even while the document that
// names it is broken: its rules must not become those of every host.
func TestAFileThatAHostNamesIsNoInputOfItsFolder(t *testing.T) {
	tree(t, "d/a.yaml", "hosts: {h.example: {redirects: h.json}}\n", "d/h.json", `[{"from": "/a", "to": "/b"}]`)
	w := watch(t, "", "d").start()
	w.serves("h.example/a")
	replace(t, "d/a.yaml", "hosts: {h.example: {redirects: h.json}")
	w.expect("none", "d/a.yaml:1: not valid YAML: did not find expected ',' or '}'")
	replace(t, "d/a.yaml", "hosts: {i.example: {redirects: h.json}}\n")
	w.expect("i.example/a", "")
	write(t, "d/h.json", `[{"from": "/c", "to": "/d"}]`)
	w.expect("i.example/c", "")
}

// TestAConfigMapSwap lays out files as Kubernetes does, where one rename of a
// link changes all of them.
func TestAConfigMapSwap(t *testing.T) {
	dir := tree(t, "m/..1/a.json", rule("a"), "m/..1/b.json", rule("b"))
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..1", "m/..data")
	link("..data/a.json", "m/a.json")
	link("..data/b.json", "m/b.json")
	w := watch(t, "", "m/a.json", "m/b.json").start()
	for i, next := range []string{"..2", "..3"} {
		write(t, "m/"+next+"/a.json", rule("a"+next[2:]))
		write(t, "m/"+next+"/b.json", rule("b"))
		link(next, "m/..data_tmp")
		if err := os.Rename("m/..data_tmp", "m/..data"); err != nil {
			t.Fatal(err)
		}
		w.expect("a"+next[2:]+".example b.example", "")
		if err := os.RemoveAll(fmt.Sprintf("m/..%d", i+1)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestALinkedFolderThatIsSwapped(t *testing.T) {
	tree(t, "v1/a.json", rule("a"), "v2/a.json", rule("b"))
	if err := os.Symlink("v1", "current"); err != nil {
		t.Fatal(err)
	}
	w := watch(t, "", "current").start()
	if err := errors.Join(os.Symlink("v2", "next"), os.Rename("next", "current")); err != nil {
		t.Fatal(err)
	}
	w.expect("b.example", "")
	write(t, "v2/a.json", rule("c"))
	w.expect("c.example", "")
}

func TestWhatApplyRefusesKeepsTheLastGoodVersion(t *testing.T) {
	tree(t, "a.json", rule("a"), "b.json", rule("b"), "c.json", rule("c"))
	w := watch(t, "", "a.json", "b.json", "c.json")
	w.refuse = func(c Content) error {
		seen := map[string]bool{}
		for _, r := range c.Redirects {
			if seen[r.From] {
				return errors.New(r.From + " is there twice")
			}
			seen[r.From] = true
		}
		return nil
	}
	w.start()
	replace(t, "a.json", rule("b"))
	w.expect("b.example b.example c.example", "b.example is there twice")
	w.serves("a.example b.example c.example")
	// A refused file does not hold up another one, and stays an error.
	replace(t, "c.json", rule("c2"))
	w.expect("a.example b.example c2.example", "b.example is there twice")
	w.serves("a.example b.example c2.example")
	// The other side of the quarrel gives way: both take effect.
	replace(t, "b.json", rule("b2"))
	w.expect("b.example b2.example c2.example", "")
	w.serves("b.example b2.example c2.example")
}

func TestRetryAsksAgainWithoutAChange(t *testing.T) {
	tree(t, "a.json", rule("a"), "b.json", rule("b"))
	s, err := Open("", []string{"a.json", "b.json"})
	if err != nil {
		t.Fatal(err)
	}
	var refusal error
	applies := 0
	apply := func(Content) error { applies++; return refusal }
	s.Retry()
	if attempted, _ := s.reload(apply); attempted {
		t.Fatal("nothing was refused, and it was tried again")
	}
	replace(t, "a.json", rule("a2"))
	refusal = errors.New("not yet")
	if _, err := s.reload(apply); err == nil || applies != 1 {
		t.Fatalf("a reload that is refused: %v, %d", err, applies)
	}
	if attempted, _ := s.reload(apply); attempted {
		t.Fatal("tried again without being asked")
	}
	refusal = nil
	s.Retry()
	if attempted, err := s.reload(apply); !attempted || err != nil || applies != 2 {
		t.Fatalf("a retry: %v, %v, %d", attempted, err, applies)
	}
	if got := strings.Join(froms(s.Content()), " "); got != "a2.example b.example" {
		t.Fatalf("content after the retry: %s", got)
	}
}

func TestOneReloadIsOneApplyAndOneReport(t *testing.T) {
	tree(t, "a.json", rule("a"), "b.json", rule("b"))
	s, err := Open("", []string{"a.json", "b.json"})
	if err != nil {
		t.Fatal(err)
	}
	applies := 0
	apply := func(Content) error { applies++; return nil }
	if attempted, err := s.reload(apply); attempted || err != nil || applies != 0 {
		t.Fatalf("a reload without a change: %v, %v, %d", attempted, err, applies)
	}
	replace(t, "a.json", rule("a2"))
	replace(t, "b.json", rule("b2"))
	if attempted, err := s.reload(apply); !attempted || err != nil || applies != 1 {
		t.Fatalf("a reload of two changes: %v, %v, %d", attempted, err, applies)
	}
	if attempted, _ := s.reload(apply); attempted {
		t.Fatal("a second reload of the same changes")
	}
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes("a.json", later, later); err != nil {
		t.Fatal(err)
	}
	if attempted, _ := s.reload(apply); attempted {
		t.Fatal("a reload of a file that was only touched")
	}
}

func TestSinceSurvivesAReload(t *testing.T) {
	tree(t, "a.json", rule("a"))
	then := time.Now().Add(-30 * time.Minute).Truncate(time.Second)
	if err := os.Chtimes("a.json", then, then); err != nil {
		t.Fatal(err)
	}
	w := watch(t, "", "a.json").start()
	write(t, "a.json", `[{"from": "new.example", "to": "https://x.example"}, {"from": "a.example", "to": "https://x.example", "note": "kept"}]`)
	w.expect("new.example a.example", "")
	c := w.Content()
	if got := c.Redirects[0].Since; time.Since(got) > 10*time.Minute {
		t.Errorf("the new redirect is there since %v", got)
	}
	if got := c.Redirects[1].Since; !got.Equal(then) {
		t.Errorf("the old redirect is there since %v, want %v", got, then)
	}
}

func TestChangedSettingsAreTold(t *testing.T) {
	tree(t, "fingerpost.yaml", "region: a\n")
	w := watch(t, "fingerpost.yaml")
	told := make(chan []string, 10)
	w.SettingsChanged = func(now *Settings) { told <- w.Settings().Differences(now) }
	w.start()
	replace(t, "fingerpost.yaml", "region: b\n")
	w.expect("", "")
	replace(t, "fingerpost.yaml", "region: b # the same\n")
	w.expect("", "")
	replace(t, "fingerpost.yaml", "region: a\n") // as the node runs
	w.expect("", "")
	if len(told) != 1 {
		t.Fatalf("told %d times, want once", len(told))
	}
	if names := <-told; !slices.Equal(names, []string{"region"}) {
		t.Errorf("told of %q, want region", names)
	}
	if w.Settings().Region != "a" {
		t.Errorf("Settings are %+v, want those that the node runs with", w.Settings())
	}
}

func TestPathsKnowEachChange(t *testing.T) {
	tree(t, "certs/a.pem", "1", "certs/.hidden", "1")
	p := OpenPaths("certs", "country.mmdb")
	for _, step := range []struct {
		name string
		do   func()
		want bool
	}{
		{"nothing", func() {}, false},
		{"a file in a folder", func() { write(t, "certs/a.pem", "2") }, true},
		{"a hidden file", func() { write(t, "certs/.hidden", "2") }, false},
		{"a new file", func() { write(t, "certs/b.pem", "1") }, true},
		{"a file that did not exist", func() { write(t, "country.mmdb", "1") }, true},
		{"a file in the place of another", func() { replace(t, "country.mmdb", "2") }, true},
		{"an equal file in its place", func() { replace(t, "country.mmdb", "2") }, false},
		{"a file that is gone", func() { os.Remove("certs/b.pem") }, true},
	} {
		step.do()
		if got := p.renew(); got != step.want {
			t.Errorf("%s: changed %t, want %t", step.name, got, step.want)
		}
	}
}

func TestPathsTellOfAChange(t *testing.T) {
	tree(t, "certs/a.pem", "1")
	p := OpenPaths("certs")
	write(t, "certs/a.pem", "2") // between the two
	ctx, cancel := context.WithCancel(t.Context())
	changes, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		p.Watch(ctx, func() {
			select {
			case changes <- struct{}{}:
			case <-ctx.Done():
			}
		})
	}()
	defer func() { cancel(); <-done }()
	for range 2 {
		select {
		case <-changes:
			replace(t, "certs/a.pem", "3")
		case <-time.After(generous):
			t.Fatal("no change is told")
		}
	}
}

// TestTheSlowLookNeedsNoEvents: file systems without events are polled.
func TestTheSlowLookNeedsNoEvents(t *testing.T) {
	tree(t, "d/a.json", rule("a"))
	s, err := Open("", []string{"d"})
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes("d/a.json", old, old); err != nil {
		t.Fatal(err)
	}
	if attempted, err := s.reload(nil); attempted || err != nil || s.stale() {
		t.Fatalf("stale without a change: %v %v", attempted, err)
	}
	n := &notifier{}
	write(t, "d/b.json", rule("b"))
	ctx, cancel := context.WithTimeout(t.Context(), generous)
	defer cancel()
	n.wait(ctx, s.stale, nil)
	if ctx.Err() != nil {
		t.Fatal("the slow look found nothing")
	}
	if attempted, err := s.reload(func(Content) error { return nil }); !attempted || err != nil {
		t.Fatal(attempted, err)
	}
	if got := froms(s.Content()); len(got) != 2 {
		t.Errorf("got %q", got)
	}
}
