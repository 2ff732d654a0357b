package admin

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"

	"fingerpost/store"
)

// spool is the file of a staged changeset's changes, one on each line: they are
// checked against the content before they are published, and there may be too
// many for memory.
type spool struct {
	name string
	file *os.File
	w    *bufio.Writer
}

func (s *Server) newSpool(id string) (*spool, error) {
	dir := s.spoolDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, id+".ndjson")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &spool{name: name, file: f, w: bufio.NewWriterSize(f, 256<<10)}, nil
}

func (s *Server) spoolDir() string {
	dir := s.Dir
	if dir == "" {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "changesets")
}

// dropSpools removes what changesets left behind that were under way when the
// program ended. Those of drafts stay.
func (s *Server) dropSpools() {
	if s.Dir == "" {
		return
	}
	left, _ := filepath.Glob(filepath.Join(s.spoolDir(), "cs-*.ndjson")) // the pattern is right
	for _, name := range left {
		os.Remove(name)
	}
}

// keep writes what goes through it.
func (p *spool) keep(changes iter.Seq2[store.Change, error]) iter.Seq2[store.Change, error] {
	return func(yield func(store.Change, error) bool) {
		enc := json.NewEncoder(p.w)
		enc.SetEscapeHTML(false)
		for c, err := range changes {
			if err == nil {
				err = enc.Encode(&c)
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

// flush ends the writing.
func (p *spool) flush() error {
	if err := p.w.Flush(); err != nil {
		return err
	}
	return p.file.Close()
}

// changes reads what was written, each time anew.
func (p *spool) changes() iter.Seq2[store.Change, error] {
	return func(yield func(store.Change, error) bool) {
		f, err := os.Open(p.name)
		if err != nil {
			yield(store.Change{}, err)
			return
		}
		defer f.Close()
		for d := json.NewDecoder(bufio.NewReaderSize(f, 256<<10)); ; {
			var c store.Change
			err := d.Decode(&c)
			if err == io.EOF {
				return
			}
			if err != nil {
				err = fmt.Errorf("read %s: %w", p.name, err)
			}
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

func (p *spool) remove() {
	if p.file != nil {
		p.file.Close() // again, after flush: to no effect
	}
	os.Remove(p.name)
}
