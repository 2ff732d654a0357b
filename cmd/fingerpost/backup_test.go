package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fingerpost/replica"
)

func TestBackupIsRestoredIntoAnotherStore(t *testing.T) {
	n := startNode(t, t.TempDir(), nil)
	n.api("POST", "/redirects", map[string]string{"from": "a.test/x", "to": "https://b.test/"}, nil)
	file := filepath.Join(t.TempDir(), "backup")
	if status := run([]string{"backup", "--data", n.dir, file}); status != 0 {
		t.Fatalf("backup ends with %d", status)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v, want a file for its owner alone", info, err)
	}
	dir := t.TempDir()
	if status := run([]string{"restore", "--data", dir, file}); status != 0 {
		t.Fatalf("restore ends with %d", status)
	}
	if status := run([]string{"restore", "--data", dir, file}); status == 0 {
		t.Error("a store that is not empty was filled")
	}
	startNode(t, dir, func(o *options) {}).leads("a.test", "/x", "https://b.test/")
}

func TestCheckWritesATable(t *testing.T) {
	dir := t.TempDir()
	rules := filepath.Join(dir, "rules.yaml")
	if err := os.WriteFile(rules, []byte("redirects: [{from: a.test/x, to: \"https://b.test/\"}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "table.fpt")
	if status := run([]string{"check", "--compile", file, rules}); status != 0 {
		t.Fatalf("check ends with %d", status)
	}
	table, err := replica.OpenTable(file)
	if err != nil || table.Rules() != 1 {
		t.Fatalf("%v, %v", table, err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data[:len(data)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := replica.OpenTable(file); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a cut file: %v", err)
	}
}
