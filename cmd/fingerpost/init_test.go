package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fingerpost/source"
)

// What init writes is in the layout of fmt: a colleague's first fmt changes
// nothing but what the colleague changed.
func TestInitFilesAreFormatted(t *testing.T) {
	err := fs.WalkDir(initFiles, "initdir", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(path, "initdir/github/") || filepath.Ext(path) == ".md" || strings.HasSuffix(path, ".schema.json") {
			return err
		}
		data, err := initFiles.ReadFile(path)
		if err != nil {
			return err
		}
		formed, err := source.Format(path, data)
		if err == nil && string(formed) != string(data) {
			t.Errorf("%s becomes\n%s", path, formed)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestInitLeavesNothingHalfWritten(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("nowhere", filepath.Join(dir, ".github")); err != nil {
		t.Fatal(err)
	}
	if _, err := writeInit(dir); err == nil {
		t.Error("no error")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("written beside it: %v %v", entries, err)
	}
}

func TestInitTouchesNothingThatExists(t *testing.T) {
	dir := t.TempDir()
	own := filepath.Join(dir, "tests.yaml")
	if err := os.WriteFile(own, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := writeInit(dir); err == nil || !strings.Contains(err.Error(), "tests.yaml exists already") {
		t.Errorf("err = %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("written beside it: %v %v", entries, err)
	}
}
