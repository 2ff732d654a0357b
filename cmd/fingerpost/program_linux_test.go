package main

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestProgramIsForgotten: fewer pages of the program are mapped, and it goes on.
func TestProgramIsForgotten(t *testing.T) {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Skip(err)
	}
	resident := func() (kB int) {
		text, err := os.ReadFile("/proc/self/smaps")
		if err != nil {
			t.Skip(err)
		}
		own := false
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			switch {
			case len(words) >= 5 && strings.Contains(words[0], "-"):
				own = strings.HasSuffix(strings.TrimSpace(line), exe) && words[1] != "rw-p"
			case own && words[0] == "Rss:":
				n, _ := strconv.Atoi(words[1])
				kB += n
			}
		}
		return kB
	}
	before := resident()
	forgetProgram()
	if after := resident(); after > before/2 {
		t.Errorf("%d kB of the program are resident, %d kB were", after, before)
	}
}
