package zone

import (
	"strings"
	"testing"
)

func TestTXTValues(t *testing.T) {
	name := MustParseName("t.example.com")
	for _, tt := range []struct{ value, data string }{
		{"", "\x00"},
		{"abc", "\x03abc"},
		{strings.Repeat("a", 255), "\xff" + strings.Repeat("a", 255)},
		{strings.Repeat("a", 256), "\xff" + strings.Repeat("a", 255) + "\x01a"},
		{"\"\\;\x00\xff", "\x05\"\\;\x00\xff"},
	} {
		if got := TXT(name, 1, tt.value).Data; got != tt.data || !wellFormed(TypeTXT, got) {
			t.Errorf("TXT of %d bytes is %q", len(tt.value), got)
		}
	}
	s := exampleCom(t, `
		t.example.com. 1 IN TXT one
		t.example.com. 1 IN TXT two
		t.example.com. 1 IN TXT one`)
	runLookups(t, s, []lookupTest{{"t.example.com", "TXT", `found aa
		t.example.com. 1 IN TXT "one"
		t.example.com. 1 IN TXT "two"`}})
}
