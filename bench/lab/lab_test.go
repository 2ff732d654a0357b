package lab

import (
	"os"
	"testing"
)

// TestWriteCopy shows that a copy can be made; the benchmarks that serve from one are
// not run by tests.
func TestWriteCopy(t *testing.T) {
	file, err := WriteCopy(t.Context(), t.TempDir(), 1_000)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Size() < 100_000 {
		t.Errorf("%s: %v, %v", file, info, err)
	}
}
