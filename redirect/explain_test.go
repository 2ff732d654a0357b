package redirect

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"fingerpost"
)

func explain(t *testing.T, table *Table, url string, change ...func(*Request)) (Trace, *Answer) {
	t.Helper()
	r := request(t, url)
	for _, c := range change {
		c(&r)
	}
	var a Answer
	return table.Explain(&r, &a), &a
}

func TestExplainSaysWhyARuleLost(t *testing.T) {
	future, past := time.Unix(now+1, 0), time.Unix(now, 0)
	for _, tt := range []struct {
		rule   fingerpost.Redirect
		reason string
	}{
		{move("https://a.x/p", "/q"), "is for the other scheme"},
		{move("a.x/p/", "/q", strictly), "is strict about the final slash"},
		{move("a.x", "/q", regexOf("^/x")), "the regex does not match"},
		{move("a.x/p?b&k", "/q"), "the query lacks k"},
		{move("a.x/*?b", "/q"), ""},
		{move("a.x/p", "/q", when(fingerpost.When{Methods: []string{"POST"}})), "is not for this method GET"},
		{move("a.x/p", "/q", when(fingerpost.When{Countries: []string{"SE"}})), "is not for this country NO"},
		{move("a.x/p", "/q", when(fingerpost.When{Languages: []string{"nb"}})), "is not for this language de-at"},
		{move("a.x/p", "/q", when(fingerpost.When{Header: map[string]string{"X-App": "1"}})), "does not hold for the header X-App"},
		{move("a.x/p", "/q", when(fingerpost.When{Cookie: map[string]string{"beta": "1"}})), "does not hold for the cookie beta"},
		{move("a.x/p", "/q", when(fingerpost.When{Addresses: []string{"10.0.0.0/8"}})), "is not for this address"},
		{move("a.x/p", "/q", when(fingerpost.When{Percent: new(0)})), "is for another share of the visitors"},
		{move("a.x/p", "/q", when(fingerpost.When{After: &future})), "has not begun yet"},
		{move("a.x/p", "/q", when(fingerpost.When{Before: &past})), "is over"},
		{move("a.x/p", "/q"), ""},
	} {
		trace, _ := explain(t, compile(t, nil, tt.rule), "http://a.x/p?b", country("NO"), header("Accept-Language", "de-AT"))
		if len(trace.Candidates) != 1 || trace.Candidates[0].Reason != tt.reason || trace.Candidates[0].Won != (tt.reason == "") {
			t.Errorf("%s: %+v, want %q", tt.rule.From, trace.Candidates, tt.reason)
		}
	}
}

func TestExplainListsCandidatesInOrder(t *testing.T) {
	table := compile(t, []fingerpost.Host{{Name: "*.x"}, {Name: "a.x"}},
		move("a.x/p?k=1", "https://t.test/1", id("key"), when(fingerpost.When{Methods: []string{"PUT"}})),
		move("a.x/p", "https://t.test/1", id("lit"), when(fingerpost.When{Methods: []string{"PUT"}})),
		move("a.x/:v", "https://t.test/2", id("name"), when(fingerpost.When{Methods: []string{"PUT"}})),
		move("*.x/P", "https://t.test/3", id("fold"), anyCase, priority(-1)),
		move("*.x/*", "https://t.test/4", id("folder")),
		move("*.x/:v", "https://t.test/4", id("wildname")),
		move("*.x", "https://t.test/5", id("regex"), regexOf("^/p")),
		move("*/p", "https://t.test/6", id("all")),
		move("a.x/other", "https://t.test/7", id("other")),
		move("a.x/p/q", "https://t.test/7", id("deeper")),
	)
	trace, a := explain(t, table, "http://a.x/p?k=1&k=1")
	var got []string
	for _, c := range trace.Candidates {
		got = append(got, fmt.Sprintf("%s %s %t %s", c.Host, c.ID, c.Won, c.Reason))
	}
	want := []string{
		"a.x key false is not for this method GET",
		"a.x lit false is not for this method GET",
		"a.x name false is not for this method GET",
		"*.x wildname true ",
		"*.x folder false another redirect comes first: wildname",
		"*.x regex false another redirect comes first: wildname",
		"*.x fold false another redirect comes first: wildname",
	}
	if !slices.Equal(got, want) {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
	if !slices.Equal(trace.Forms, []string{"a.x", "*.x", "*"}) {
		t.Errorf("forms %q", trace.Forms)
	}
	if a.Rule.Host() != "*.x" || a.Rule.ID() != "wildname" || string(a.Location) != "https://t.test/4?k=1&k=1" {
		t.Errorf("answer by %s %s: %s", a.Rule.Host(), a.Rule.ID(), a.Location)
	}
}

func TestExplainTellsThePolicy(t *testing.T) {
	table := compile(t, []fingerpost.Host{{Name: "s.x", HTTPS: fingerpost.RedirectToHTTPS}, {Name: "o.x", HTTPS: fingerpost.HTTPSOnly}, {Name: "*.x"}}, to("n", "n.y"))
	for _, tt := range []struct {
		url    string
		change func(*Request)
		want   string // forms, policy, waits, kind
	}{
		{"http://s.x/", covered, "s.x,*.x redirect-to-https false 5"},
		{"http://s.x/", uncovered, "s.x,*.x redirect-to-https true 3"},
		{"http://s.x/", func(*Request) {}, "s.x,*.x redirect-to-https true 3"},
		{"http://o.x/", uncovered, "o.x,*.x https-only false 6"},
		{"http://z.x/", uncovered, "*.x allow-all false 3"},
		{"http://n.y/", uncovered, "n.y  false 1"},
		{"http://none.test/", uncovered, "  false 4"},
	} {
		trace, a := explain(t, table, tt.url, tt.change)
		if got := fmt.Sprintf("%s %s %t %d", strings.Join(trace.Forms, ","), trace.Policy, trace.Waits, a.Kind); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.url, got, tt.want)
		}
	}
}

func TestIdentifyNamesARuleAsTheTableDoes(t *testing.T) {
	for _, r := range []fingerpost.Redirect{move("A.x./p", "/q"), move("*.a.x", "https://t.test/", id("mine")), move("https://a.x?b=:c", "/q"), move("a.x", "/q", regexOf("^/p$"))} {
		host, id, err := Identify(&r)
		if err != nil {
			t.Fatal(err)
		}
		url := "https://a.x/p?b=1"
		if strings.HasPrefix(r.From, "*") {
			url = "https://b.a.x/p"
		}
		a := ask(t, compile(t, nil, r), url)
		if a.Rule.Host() != host || a.Rule.ID() != id {
			t.Errorf("%s: %s %s, the table says %s %s", r.From, host, id, a.Rule.Host(), a.Rule.ID())
		}
	}
	if _, _, err := Identify(&fingerpost.Redirect{From: "a b"}); err == nil {
		t.Error("a bad rule has a name")
	}
	if zero := (RuleRef{}); zero.Host() != "" || zero.ID() != "" || !zero.IsZero() {
		t.Error("the zero RuleRef points somewhere")
	}
}

// Rules that are found by the value of a query key are listed where the value
// is another one too.
func TestExplainListsRulesOfOtherQueryValues(t *testing.T) {
	table := compile(t, nil,
		fingerpost.Redirect{ID: "one", From: "a.x/index.php?id=1", To: "https://b.x/1"},
		fingerpost.Redirect{ID: "two", From: "a.x/index.php?id=2", To: "https://b.x/2"},
	)
	r := request(t, "https://a.x/index.php?id=2")
	var a Answer
	trace := table.Explain(&r, &a)
	got := map[string]string{}
	for _, c := range trace.Candidates {
		got[c.ID] = c.Reason
	}
	if len(got) != 2 || got["two"] != "" || got["one"] != "the query lacks id" || a.Rule.ID() != "two" {
		t.Errorf("candidates %v, answer by %s", got, a.Rule.ID())
	}
}

// TestExplainFindsRulesOfOtherQueries: also where what belongs to a rule is written
// between the records that are looked through.
func TestExplainFindsRulesOfOtherQueries(t *testing.T) {
	gone := fingerpost.Redirect{From: "a.x/p?k=1", Status: 410, Page: "<p>gone", ID: "gone"}
	table := compile(t, nil, gone, move("a.x/p?k=2", "https://t.test/products/2", id("two")), move("a.x/p?k=3", "https://t.test/products/3", id("three")))
	trace, _ := explain(t, table, "http://a.x/p?k=9")
	var ids []string
	for _, c := range trace.Candidates {
		ids = append(ids, c.ID)
	}
	slices.Sort(ids)
	if want := []string{"gone", "three", "two"}; !slices.Equal(ids, want) {
		t.Errorf("candidates %q, want %q", ids, want)
	}
}
