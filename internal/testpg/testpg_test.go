package testpg

import (
	"testing"
)

// TestRestartKeepsWhatWasCommitted also shows that nothing is left behind.
func TestRestartKeepsWhatWasCommitted(t *testing.T) {
	if testing.Short() {
		t.Skip("starts PostgreSQL")
	}
	s, err := Start(Options{Fsync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	if _, err := s.Exec(t.Context(), "postgres", "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)"); err != nil {
		t.Fatal(err)
	}
	for _, kill := range []bool{false, true} {
		if err := s.Restart(kill); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Exec(t.Context(), "postgres", "SELECT n FROM kept"); err != nil || got != "7" {
			t.Errorf("after a restart (kill %v): %q, %v", kill, got, err)
		}
	}
	s.Stop()
	if _, err := s.Exec(t.Context(), "postgres", "SELECT 1"); err == nil {
		t.Error("it answers after Stop")
	}
}
