package source

import (
	"encoding/json"
	"errors"
	"hash/maphash"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fingerpost"
)

// Set is the content of a node's files, each in its last good version.
type Set struct {
	// SettingsChanged, where it is set before Watch, is called when the settings
	// in the configuration file become others than those of Settings, with what
	// they are now.
	SettingsChanged func(*Settings)

	again atomic.Bool   // Retry was called
	wake  chan struct{} // holds one: ends the wait of Watch

	settings *Settings // of the first read
	written  *Settings // of the file's last good version

	// Open's and then Watch's alone.
	inputs  []*input
	refusal error // by apply, of the units that are marked refused

	mu    sync.Mutex // guards parts
	parts []Content  // the good versions that count, in order; never changed in place
}

// input is one argument of Open.
type input struct {
	path   string
	folder bool
	config configKind // of the files in the folder
	units  []*unit
	err    error // of a folder that cannot be listed
}

// unit is an input file with the files that it names: what is good or bad as one.
type unit struct {
	path    string // as errors show it
	abs     string
	config  configKind
	folder  bool             // it was found in a folder
	good    version          //
	files   map[string]stamp // of the version on disk; nil before the first read
	err     error            // of the version on disk
	gone    bool             // from its folder
	refused bool             // the version on disk is without errors, but apply refused it
}

// version is what one reading of a unit gave.
type version struct {
	content  Content
	settings *Settings
	files    map[string]stamp // by absolute path: the unit's own and those that it names
}

// Open reads a configuration file, if config is not empty, and files or folders
// of redirects. Every error of every file is returned, joined.
//
// A folder stands for the files right in it that end in .yaml, .yml, .json,
// .jsonc or .hujson, sorted by name, without hidden ones and *.schema.json. A
// file there that another input names, as the redirects of a host or as an
// argument of its own, is not read as an input a second time.
func Open(config string, redirects []string) (*Set, error) {
	s := &Set{wake: make(chan struct{}, 1)}
	if config != "" {
		s.inputs = append(s.inputs, &input{path: config, units: []*unit{{path: config, abs: absolute(config), config: isConfig}}})
	}
	s.add(redirects, notConfig)
	return s.first()
}

// OpenFiles reads files of any shape, and folders: a file with settings of the
// node is read as a configuration, of which there can be one.
func OpenFiles(paths []string) (*Set, error) {
	s := &Set{wake: make(chan struct{}, 1)}
	s.add(paths, maybeConfig)
	return s.first()
}

func (s *Set) add(paths []string, config configKind) {
	for _, path := range paths {
		in := &input{path: path}
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			in.folder = true
			in.config = config
			in.relist()
		} else {
			in.units = []*unit{{path: path, abs: absolute(path), config: config}}
		}
		s.inputs = append(s.inputs, in)
	}
}

// first reads all inputs for the first time.
func (s *Set) first() (*Set, error) {
	for u := range s.units() {
		u.good = u.read()
	}
	if err := s.err(); err != nil {
		return nil, err
	}
	for u := range s.units() {
		switch {
		case u.good.settings == nil:
		case s.settings != nil:
			return nil, &fingerpost.Error{Code: "two_configs", Message: "a second file with settings of the node", Hint: "settings stand in one file", At: fingerpost.Position{File: u.path}}
		default:
			s.settings, s.written = u.good.settings, u.good.settings
		}
	}
	s.parts = s.counted(nil)
	return s, nil
}

// Settings gives those of the configuration file as Open read it, or nil.
func (s *Set) Settings() *Settings { return s.settings }

// Content joins the last good content of all inputs, in order. It may be called
// at any time; what it gives must not be changed.
func (s *Set) Content() Content {
	s.mu.Lock()
	defer s.mu.Unlock()
	return concat(s.parts)
}

// concat copies nothing where one part has all: a million redirects are large.
func concat(parts []Content) Content {
	if len(parts) == 1 {
		return parts[0]
	}
	var all Content
	var hosts, redirects, cases int
	for _, c := range parts {
		hosts, redirects, cases = hosts+len(c.Hosts), redirects+len(c.Redirects), cases+len(c.Cases)
	}
	all.Hosts = slices.Grow(all.Hosts, hosts)
	all.Redirects = slices.Grow(all.Redirects, redirects)
	all.Cases = slices.Grow(all.Cases, cases)
	for _, c := range parts {
		all.Hosts = append(all.Hosts, c.Hosts...)
		all.Redirects = append(all.Redirects, c.Redirects...)
		all.Cases = append(all.Cases, c.Cases...)
	}
	return all
}

// Retry makes Watch try once more what apply has refused, without waiting for a
// change of a file: what apply goes by beside the content is another now. It may
// be called at any time.
func (s *Set) Retry() {
	s.again.Store(true)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Set) units() func(yield func(*unit) bool) {
	return func(yield func(*unit) bool) {
		for _, in := range s.inputs {
			for _, u := range in.units {
				if !yield(u) {
					return
				}
			}
		}
	}
}

// counted gives the content of each unit, in the version that next has for it,
// else the good one.
func (s *Set) counted(next map[*unit]version) []Content {
	latest := func(u *unit) version {
		if v, ok := next[u]; ok {
			return v
		}
		return u.good
	}
	named := map[string]int{} // how many units read a file
	for u := range s.units() {
		for path := range latest(u).files {
			named[path]++
		}
	}
	var parts []Content
	for u := range s.units() {
		c := latest(u).content
		if len(c.Hosts)+len(c.Redirects)+len(c.Cases) > 0 && (!u.folder || named[u.abs] == 1) {
			parts = append(parts, c)
		}
	}
	return parts
}

// err joins the errors that stand. Those of a folder's file that another unit
// names are that unit's: by itself the file may make no sense.
func (s *Set) err() error {
	named := map[string]int{}
	for u := range s.units() {
		for path := range u.files {
			named[path]++
		}
		for path := range u.good.files {
			if _, twice := u.files[path]; !twice {
				named[path]++
			}
		}
	}
	var errs []error
	refused := false
	for _, in := range s.inputs {
		if in.err != nil {
			errs = append(errs, in.err)
		}
		for _, u := range in.units {
			// Where the folder is gone, that its files are is no news.
			if u.err != nil && in.err == nil && (!u.folder || named[u.abs] == 1) {
				errs = append(errs, u.err)
			}
			refused = refused || u.refused
		}
	}
	if refused {
		errs = append(errs, s.refusal)
	}
	return errors.Join(errs...)
}

func (u *unit) read() version {
	r := newRun(u.config)
	r.read(u.path)
	u.files, u.err, u.gone, u.refused = r.files, errors.Join(r.errs...), false, false
	return version{r.content, r.settings, r.files}
}

// changed reports whether the version on disk is another than the one last read.
func (u *unit) changed() bool {
	if u.gone {
		return false
	}
	changed := u.files == nil
	for path, s := range u.files {
		now, other := s.renew(path, maxFile)
		u.files[path] = now
		changed = changed || other
	}
	return changed
}

// relist brings the units in line with the files of a folder. News are new
// errors, and files that have gone; new files show as units that have changed.
func (in *input) relist() (news bool) {
	if !in.folder {
		return false
	}
	files, err := list(in.path)
	if err == nil && len(files) == 0 && len(in.units) > 0 {
		// More likely a volume that is not mounted than the wish to serve nothing.
		err = errors.New("it has no files any more")
	}
	was := in.err
	in.err = nil
	if err != nil {
		in.err = &fingerpost.Error{Code: "bad_file", Message: "the folder cannot be read: " + err.Error(), Hint: "what was read before keeps being served", At: fingerpost.Position{File: in.path}}
		return was == nil || was.Error() != in.err.Error()
	}
	for _, u := range in.units {
		here := slices.Contains(files, u.path)
		if !here && !u.gone {
			u.gone, u.refused, u.err, u.files, news = true, false, nil, nil, true
		}
		u.gone = !here
	}
	for _, path := range files {
		if !slices.ContainsFunc(in.units, func(u *unit) bool { return u.path == path }) {
			in.units = append(in.units, &unit{path: path, abs: absolute(path), config: in.config, folder: true})
		}
	}
	slices.SortFunc(in.units, func(a, b *unit) int { return strings.Compare(a.path, b.path) })
	return news || was != nil
}

// paths are all whose change matters.
func (s *Set) paths() []string {
	var paths []string
	for _, in := range s.inputs {
		paths = append(paths, in.path)
		if in.folder {
			paths = append(paths, filepath.Join(in.path, "*"))
		}
		for _, u := range in.units {
			paths = slices.AppendSeq(paths, maps.Keys(u.files))
		}
	}
	return paths
}

// stale reports, without reading a file, whether something may have changed.
func (s *Set) stale() bool {
	for _, in := range s.inputs {
		if in.folder {
			files, err := list(in.path)
			if err != nil && in.err == nil || !slices.EqualFunc(files, in.units, func(path string, u *unit) bool { return path == u.path }) {
				return true
			}
		}
		for _, u := range in.units {
			for path, stamp := range u.files {
				if stamp.stale(path) {
					return true
				}
			}
		}
	}
	return false
}

// reload reads what has changed and applies it. Without a change, and without a
// refused version that Retry asks for, it does nothing. err joins all errors that
// stand afterwards.
func (s *Set) reload(apply func(Content) error) (attempted bool, err error) {
	again := s.again.Swap(false)
	fresh, pending := map[*unit]version{}, map[*unit]version{}
	for _, in := range s.inputs {
		news := in.relist()
		attempted = attempted || news
		if in.err != nil {
			continue // all its files would be missing one by one
		}
		for _, u := range in.units {
			switch {
			case u.gone && !u.refused:
				fresh[u] = version{}
				attempted = true
			case u.changed():
				attempted = true
				if v := u.read(); u.err == nil {
					fresh[u] = v
				}
			case u.refused:
				pending[u] = version{}
				attempted = attempted || again
			}
		}
	}
	if !attempted {
		return false, nil
	}
	for u := range pending {
		if u.gone {
			continue
		}
		if v := u.read(); u.err == nil {
			pending[u] = v
		} else {
			delete(pending, u)
		}
	}
	all := maps.Clone(fresh)
	maps.Copy(all, pending)
	if len(all) > 0 {
		s.refusal = s.try(all, apply)
		if s.refusal != nil && len(fresh) > 0 && len(pending) > 0 {
			// What was refused before must not hold up what has changed now.
			_ = s.try(fresh, apply)
		}
	}
	return true, s.err()
}

// try applies new versions together: all become good, or all are refused.
func (s *Set) try(next map[*unit]version, apply func(Content) error) error {
	for u, v := range next {
		keepSince(u.good.content.Redirects, v.content.Redirects)
		keepHostSince(u.good.content.Hosts, v.content.Hosts)
	}
	parts := s.counted(next)
	if err := apply(concat(parts)); err != nil {
		for u := range next {
			u.refused = true
		}
		return err
	}
	s.mu.Lock()
	s.parts = parts
	s.mu.Unlock()
	for u, v := range next {
		u.good, u.refused = v, false
		if v.settings != nil {
			s.compare(v.settings)
		}
	}
	for _, in := range s.inputs {
		in.units = slices.DeleteFunc(in.units, func(u *unit) bool { return u.gone && !u.refused })
	}
	return nil
}

// compare tells once of each change of the settings that a restart would bring.
func (s *Set) compare(settings *Settings) {
	if reflect.DeepEqual(settings, s.written) {
		return
	}
	s.written = settings
	if s.SettingsChanged != nil && !reflect.DeepEqual(settings, s.settings) {
		s.SettingsChanged(settings)
	}
}

// keepSince gives redirects that were there before the time at which they first
// appeared. An edit changes a few of many, so only what lies between the common
// beginning and the common end goes through a map.
func keepSince(old, now []fingerpost.Redirect) {
	for len(old) > 0 && len(now) > 0 && sameRule(&old[0], &now[0]) {
		now[0].Since = old[0].Since
		old, now = old[1:], now[1:]
	}
	for len(old) > 0 && len(now) > 0 && sameRule(&old[len(old)-1], &now[len(now)-1]) {
		now[len(now)-1].Since = old[len(old)-1].Since
		old, now = old[:len(old)-1], now[:len(now)-1]
	}
	if len(old) == 0 || len(now) == 0 {
		return
	}
	since := make(map[uint64]time.Time, len(old))
	for i := range old {
		since[ruleHash(&old[i])] = old[i].Since
	}
	for i := range now {
		if t, ok := since[ruleHash(&now[i])]; ok {
			now[i].Since = t
		}
	}
}

// keepHostSince does the same for hosts, whose own redirects are permanent too.
func keepHostSince(old, now []fingerpost.Host) {
	known := make(map[string]*fingerpost.Host, len(old))
	for i := range old {
		known[old[i].Name] = &old[i]
	}
	for i := range now {
		h := &now[i]
		if was := known[h.Name]; was != nil && was.To == h.To && was.Status == h.Status && slices.Equal(was.RedirectFrom, h.RedirectFrom) {
			h.Since = was.Since
		}
	}
}

// sameRule reports whether two redirects send the same visitors to the same place.
func sameRule(a, b *fingerpost.Redirect) bool {
	return a.From == b.From && a.Regex == b.Regex && a.To == b.To && a.Status == b.Status && reflect.DeepEqual(a.When, b.When)
}

// ruleHash is of what sameRule compares.
func ruleHash(r *fingerpost.Redirect) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, s := range []string{r.From, r.Regex, r.To, strconv.Itoa(r.Status)} {
		h.WriteString(s)
		h.WriteByte(0)
	}
	if r.When != nil {
		when, _ := json.Marshal(r.When)
		h.Write(when)
	}
	return h.Sum64()
}
