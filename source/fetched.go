package source

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"fingerpost"
)

// Fetched is what a source has at one moment.
type Fetched struct {
	Version  string    // the commit, the ETag or a digest: the same version is the same content
	Modified time.Time // when it came to be; zero where the source does not say
	Prefix   string    // before the name of a file in errors: "git:https://host/repo@abc1234:"
	Files    []File    // the files to read, as Open would read those of a folder

	// Beside gives another file of the same version, which one of Files names: a
	// page, the redirects of a host. fs.ErrNotExist says that there is none; any
	// other error, that the source should be asked again. Nil where there are
	// only Files.
	Beside func(name string, limit int64) ([]byte, error)

	failed error // of Beside, other than that there is no such file
}

// File is one of a source.
type File struct {
	Name   string // slash-separated, from the root of the source
	Format string // "yaml" or "json" where the name does not say
	Data   []byte
}

// decode reads all files as Open reads those of a folder: a file that another
// one names is not read as an input a second time. owner, if any, is the host
// whose redirects they hold. The error joins every [fingerpost.Error].
func (f *Fetched) decode(owner *fingerpost.Host) (Content, error) {
	if len(f.Files) == 0 {
		return Content{}, &fingerpost.Error{Code: "bad_file", Message: "the source has no files of content", At: fingerpost.Position{File: strings.TrimRight(f.Prefix, ":")},
			Hint: "their names end in .yaml, .yml, .json, .jsonc or .hujson; what was there before keeps being served"}
	}
	var runs []*run
	named := map[string]int{}
	for i := range f.Files {
		r := newRun(notConfig)
		r.fetched, r.owner = f, owner
		r.read(f.Files[i].Name)
		for name := range r.files {
			named[name]++
		}
		runs = append(runs, r)
	}
	var parts []Content
	var errs []error
	for i, r := range runs {
		if named[f.Files[i].Name] == 1 {
			parts = append(parts, r.content)
			errs = append(errs, r.errs...)
		}
	}
	if f.failed != nil {
		return Content{}, f.failed
	}
	if err := errors.Join(errs...); err != nil {
		return Content{}, err
	}
	return concat(parts), nil
}

// load gives the text of a file of the source.
func (f *Fetched) load(name string, limit int64) (string, error) {
	i := slices.IndexFunc(f.Files, func(file File) bool { return file.Name == name })
	if i >= 0 {
		if int64(len(f.Files[i].Data)) > limit {
			return "", tooLarge(limit)
		}
		return string(f.Files[i].Data), nil
	}
	if f.Beside == nil {
		return "", errors.New("this source is one file")
	}
	if !fs.ValidPath(name) {
		return "", errors.New("it is not in the source")
	}
	data, err := f.Beside(name, limit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fs.ErrNotExist
	case err != nil:
		f.failed = cmp.Or(f.failed, fmt.Errorf("%s: %w", name, err))
		return "", err
	case int64(len(data)) > limit:
		return "", tooLarge(limit)
	}
	return string(data), nil
}

func tooLarge(limit int64) error { return fmt.Errorf("it is larger than %d MiB", limit>>20) }

// load reads a file of the run: from the disk, or from what was fetched.
func (r *run) load(name string, limit int64) (text string, s stamp, err error) {
	if r.fetched != nil {
		text, err = r.fetched.load(r.key(name), limit)
	} else {
		text, s, err = load(name, limit)
	}
	r.files[r.key(name)] = s
	return text, s, err
}

// key gives one name to each file of the run.
func (r *run) key(name string) string {
	if r.fetched != nil {
		return path.Clean(filepath.ToSlash(name))
	}
	return absolute(name)
}

// place is how errors call a file.
func (r *run) place(name string) string {
	if r.fetched != nil {
		return r.fetched.Prefix + r.key(name)
	}
	return name
}

// format is the language of a file: see the function of that name.
func (r *run) format(name string) string {
	if r.fetched != nil {
		for i := range r.fetched.Files {
			if file := &r.fetched.Files[i]; file.Name == r.key(name) && file.Format != "" {
				return file.Format
			}
		}
	}
	return format(name)
}

// written is when the file came to be, as far as that is known.
func (r *run) written(s stamp) time.Time {
	switch {
	case r.fetched != nil:
		return r.fetched.Modified
	case s.info != nil:
		return s.info.ModTime()
	}
	return time.Time{}
}
