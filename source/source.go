// Package source reads content (hosts, redirects and their tests) and a node's
// settings from files, keeps the last good version of each file, and watches.
//
// It knows how files are written: YAML, JSON with comments, the shapes that a
// file of redirects may have, and where each item stands, so that every error
// names file:line:column. It must not know tables, listeners or visitors: what
// is done with the content is the caller's, through a function. Of a redirect
// it knows only how to decode and validate it.
//
// Start reading at [Open] and [Set.Watch]; one file goes through run.read, which
// parses it into nodes (parseJSON, parseYAML), recognises its shape
// (reader.content) and decodes it (reader.decode).
package source

import (
	"cmp"
	"errors"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"fingerpost"
)

const (
	maxFile = 1 << 30 // bytes of a file
	maxPage = fingerpost.MaxPage
	youth   = time.Hour
)

// Content is what files say about hosts. Every item has been validated by
// itself and carries the place where it was written.
type Content struct {
	Hosts     []fingerpost.Host
	Redirects []fingerpost.Redirect
	Cases     []fingerpost.Case // tests of a file; those of one redirect are in Redirect.Tests
}

// Read reads an argument of --redirects: a file, or a folder with all its files
// whose format is known (see [Open]). The error joins every [fingerpost.Error]
// of every file.
func Read(path string) (Content, error) {
	s, err := Open("", []string{path})
	if err != nil {
		return Content{}, err
	}
	return s.Content(), nil
}

// ReadConfig reads a configuration file: the node's settings, and content. The
// error joins every [fingerpost.Error] of it and of the files that it names.
func ReadConfig(path string) (*Settings, Content, error) {
	r := newRun(isConfig)
	r.read(path)
	if err := errors.Join(r.errs...); err != nil {
		return nil, Content{}, err
	}
	return r.settings, r.content, nil
}

// configKind says whether an input file is a configuration.
type configKind uint8

const (
	notConfig   configKind = iota // settings of the node are an error
	isConfig                      // every other shape is an error
	maybeConfig                   // it is, if it has settings of the node
)

// run is one reading of one input file together with the files that it names.
type run struct {
	config   configKind
	fetched  *Fetched         // where the files come from; nil for the disk
	owner    *fingerpost.Host // whose redirects the input file holds; nil for any host's
	content  Content
	settings *Settings
	files    map[string]stamp // by key, all that was opened or looked for
	pages    map[string]string
	errs     []error // of the run, once it is done
}

func newRun(config configKind) *run {
	return &run{config: config, files: map[string]stamp{}, pages: map[string]string{}}
}

// read reads the input file itself.
func (r *run) read(path string) {
	f, root := r.open(path, fingerpost.Position{File: path}, "")
	if root != nil {
		f.document(root)
	}
	r.errs = f.sorted()
}

// reader is the reading of one file of a run.
type reader struct {
	*run
	file  string
	since time.Time // for the redirects of the file; zero when it is old
	errs  []error   // of this file
	named []error   // of the files that it names
}

// open loads and parses a file. The errors of a file that cannot be read stand
// at the place that names it; root is nil when there is nothing to decode.
func (r *run) open(path string, at fingerpost.Position, field string) (f *reader, root *node) {
	f = &reader{run: r, file: path}
	text, s, err := r.load(path, maxFile)
	if err != nil {
		message := "cannot be read: " + err.Error()
		if field != "" {
			message = field + " " + strconv.Quote(filepath.Base(path)) + " " + message
		}
		f.errs = append(f.errs, &fingerpost.Error{Code: "bad_file", Field: field, Message: message, Hint: "check the name of the file and that it may be read", At: at})
		return f, nil
	}
	if since := r.written(s); time.Since(since) < youth {
		f.since = since
	}
	if strings.TrimSpace(text) == "" {
		// An editor that empties a file before it writes must not withdraw it all.
		f.errs = append(f.errs, &fingerpost.Error{Code: "bad_syntax", Message: "the file is empty", Hint: "a file without redirects says so: redirects: [] (YAML) or [] (JSON)", At: fingerpost.Position{File: r.place(path)}})
		return f, nil
	}
	root, errs := parseAs(r.format(path), r.place(path), text)
	f.errs = append(f.errs, errs...)
	return f, root
}

// sorted gives the errors of the file in the order of its lines, then those of
// the files that it names; each once, since two hosts may name one file.
func (f *reader) sorted() []error {
	slices.SortStableFunc(f.errs, func(a, b error) int {
		x, y := fingerpost.Errors(a)[0].At, fingerpost.Errors(b)[0].At
		return cmp.Or(cmp.Compare(x.Line, y.Line), cmp.Compare(x.Column, y.Column))
	})
	seen := map[string]bool{}
	var errs []error
	for _, err := range slices.Concat(f.errs, f.named) {
		if !seen[err.Error()] {
			seen[err.Error()] = true
			errs = append(errs, err)
		}
	}
	return errs
}

func (f *reader) at(n *node) fingerpost.Position {
	return fingerpost.Position{File: f.place(f.file), Line: int(n.line), Column: int(n.column)}
}

func (f *reader) fail(n *node, code, field, message, hint string) {
	f.errs = append(f.errs, &fingerpost.Error{Code: code, Field: field, Message: message, Hint: hint, At: f.at(n)})
}

// parse makes the tree of a file; its name says which language it is in. On a
// syntax error there is no tree; duplicate keys leave one.
func parse(name, text string) (*node, []error) { return parseAs(format(name), name, text) }

// parseAs does so where the language is known by other means.
func parseAs(language, name, text string) (*node, []error) {
	text = strings.TrimLeft(text, "\ufeff")
	p := parser{file: name, text: text}
	if !utf8.ValidString(text) {
		line, column := 1, 1
		for i, r := range text {
			if r == utf8.RuneError && !strings.HasPrefix(text[i:], "\ufffd") {
				break
			}
			column += utf8.RuneLen(r)
			if r == '\n' {
				line, column = line+1, 1
			}
		}
		return nil, []error{p.fail("bad_syntax", line, column, "the file is not text in UTF-8", "save it as UTF-8; a picture or an archive cannot be read")}
	}
	var root *node
	var err error
	switch language {
	case "json":
		root, err = p.parseJSON()
	case "yaml":
		root, err = p.parseYAML()
	default:
		err = &fingerpost.Error{Code: "bad_file", Message: "the format of the file is not known by its name", At: fingerpost.Position{File: name},
			Hint: "the name must end in .yaml or .yml, or in .json, .jsonc or .hujson"}
	}
	if err != nil {
		return nil, []error{err}
	}
	return root, p.errs
}

// format is "yaml", "json" or "", by the ending of name.
func format(name string) string {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml":
		return "yaml"
	case ".json", ".jsonc", ".hujson":
		return "json"
	}
	return ""
}

// IsInput reports whether a file of that name, without its folder, is read where
// a folder is named.
func IsInput(name string) bool {
	// Editors' copies (x.yaml~, .x.yaml.swp) have no known ending or a leading dot.
	return format(name) != "" && !strings.HasPrefix(name, ".") && !strings.HasSuffix(name, ".schema.json")
}

// list gives the content files of a folder, sorted.
func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, plain(err)
	}
	var files []string
	for _, e := range entries {
		name := e.Name()
		if !IsInput(name) {
			continue
		}
		path := filepath.Join(dir, name)
		// A name that points nowhere counts, so that it is reported.
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			continue
		}
		files = append(files, path)
	}
	return files, nil
}

// stamp is how a file looked when it was read.
type stamp struct {
	info os.FileInfo // nil where it could not be read
	sum  uint64      // of its bytes
	// young: it was read so soon after it was written that a second write may
	// have left the same time and size behind.
	young bool
}

var seed = maphash.MakeSeed()

const youngFile = 2 * time.Second // the coarsest clock of a file system (FAT)

// load reads a regular file of at most limit bytes. Errors are in plain words,
// without the path.
func load(path string, limit int64) (string, stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", stamp{}, plain(err)
	}
	if info.IsDir() {
		return "", stamp{}, errors.New("it is a folder")
	}
	if !info.Mode().IsRegular() {
		// Opening a pipe would wait for its other end.
		return "", stamp{}, errors.New("it is not a regular file")
	}
	if info.Size() > limit {
		return "", stamp{}, tooLarge(limit)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", stamp{}, plain(err)
	}
	defer f.Close()
	var text strings.Builder // so that the bytes become a string without a copy
	text.Grow(int(info.Size()))
	if n, err := io.Copy(&text, io.LimitReader(f, limit+1)); err != nil {
		return "", stamp{}, plain(err)
	} else if n > limit {
		return "", stamp{}, tooLarge(limit)
	}
	return text.String(), stamp{info: info, sum: maphash.String(seed, text.String()), young: time.Since(info.ModTime()) < youngFile}, nil
}

// absolute gives one name to each file, however an argument or a file names it.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// plain takes the operation and the path off an error of package os.
func plain(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// stale reports, without reading, whether the file may have changed.
func (s stamp) stale(path string) bool {
	info, err := os.Stat(path)
	if s.info == nil || err != nil {
		return (err == nil) != (s.info != nil)
	}
	return s.young || !os.SameFile(info, s.info) || info.Size() != s.info.Size() || !info.ModTime().Equal(s.info.ModTime())
}

// renew reports whether the file's bytes are others than s saw, and how it looks
// now. A file that was only touched, or swapped for an equal one, has not changed.
func (s stamp) renew(path string, limit int64) (stamp, bool) {
	if !s.stale(path) {
		return s, false
	}
	_, now, err := load(path, limit)
	if err != nil {
		return stamp{}, s.info != nil
	}
	return now, s.info == nil || now.sum != s.sum
}
