package redirect

import (
	"fmt"
	"net/http"
	"testing"

	"fingerpost"
	"fingerpost/internal/rulecases"
)

// to makes a rule that is named by where it leads, and the others change one.
var (
	to, priority, id, regexOf, when = rulecases.To, rulecases.Priority, rulecases.ID, rulecases.RegexOf, rulecases.When
	strictly, anyCase, off          = rulecases.Strictly, rulecases.AnyCase, rulecases.Off
)

// TestWhichRuleWins has a case for each sentence of "Which one wins". The rules
// are tried in the order given and in the opposite one: that of the file must
// not count.
func TestWhichRuleWins(t *testing.T) {
	header := http.Header{}
	for i := 0; i < len(rulecases.Header); i += 2 {
		header.Set(rulecases.Header[i], rulecases.Header[i+1])
	}
	for _, tt := range rulecases.Precedence {
		t.Run(tt.Name, func(t *testing.T) {
			for turn := range 2 {
				rules := make([]fingerpost.Redirect, len(tt.Rules))
				for i, r := range tt.Rules {
					if turn == 1 {
						i = len(rules) - 1 - i
					}
					rules[i] = r
				}
				table := compileOne(t, rules...)
				r := request(t, tt.URL)
				r.Header = header
				var a Answer
				table.Answer(&r, &a)
				want := ""
				if tt.Wins != "" {
					want = "https://t.test/" + tt.Wins
				}
				if got := string(a.Location); got != want {
					t.Errorf("turn %d: %q, want %q", turn, got, want)
				}
			}
		})
	}
}

func TestHostWithAFallbackKeepsItsVisitors(t *testing.T) {
	rules := []fingerpost.Redirect{to("wild", "*.x"), to("all", "*"), to("own", "b.x/p")}
	for _, tt := range []struct {
		hosts []fingerpost.Host
		url   string
		want  string
	}{
		{nil, "http://b.x/q", "by 1 at https://t.test/wild"},
		{[]fingerpost.Host{{Name: "b.x"}}, "http://b.x/q", "by 1 at https://t.test/wild"},
		{[]fingerpost.Host{{Name: "b.x", Fallback: &fingerpost.Fallback{}}}, "http://b.x/q", "by 2 at "},
		{[]fingerpost.Host{{Name: "b.x", Fallback: &fingerpost.Fallback{To: "https://f.test/"}}}, "http://b.x/q", "by 2 at https://f.test/"},
		{[]fingerpost.Host{{Name: "b.x", Fallback: &fingerpost.Fallback{To: "https://f.test/"}}}, "http://b.x/p", "by 1 at https://t.test/own"},
		{[]fingerpost.Host{{Name: "*.x", Fallback: &fingerpost.Fallback{To: "https://f.test/"}}}, "http://c.x/", "by 1 at https://t.test/wild"},
		{[]fingerpost.Host{{Name: "*.y", Fallback: &fingerpost.Fallback{To: "https://:sub.f.test/"}}}, "http://c.y/", "by 2 at https://c.f.test/"},
		{[]fingerpost.Host{{Name: "c.y", Also: []string{"d.y"}, Fallback: &fingerpost.Fallback{To: "https://f.test/"}}}, "http://d.y/", "by 2 at https://f.test/"},
	} {
		table, err := Compile(tt.hosts, rules)
		if err != nil {
			t.Fatal(err)
		}
		r := request(t, tt.url)
		var a Answer
		table.Answer(&r, &a)
		if got := fmt.Sprintf("by %d at %s", a.Kind, a.Location); got != tt.want {
			t.Errorf("%+v %s: %s, want %s", tt.hosts, tt.url, got, tt.want)
		}
	}
}
