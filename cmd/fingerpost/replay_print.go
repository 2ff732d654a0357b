package main

import (
	"bufio"
	"cmp"
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// notes says what the comparison cannot show.
func (r *replay) notes(w io.Writer) {
	if r.old.table.UsesCountries() || r.new.table.UsesCountries() {
		fmt.Fprintln(w, "note: rules ask for countries, which no log has: they never hold here")
	}
	if r.Unreadable > 0 {
		fmt.Fprintf(w, "note: %s could not be read\n", plural64(r.Unreadable, "line"))
	}
	if r.Invalid > 0 {
		fmt.Fprintf(w, "note: %s would be refused whatever the rules are, or cannot be asked\n", plural64(r.Invalid, "request"))
	}
	for _, b := range r.BadLines {
		fmt.Fprintf(w, "  %s:%d: %s: %q\n", b.File, b.Line, b.Reason, b.Text)
	}
	if more := r.Unreadable + r.Invalid - int64(len(r.BadLines)); more > 0 {
		fmt.Fprintf(w, "  and %d more\n", more)
	}
	if !r.Exact {
		fmt.Fprintf(w, "note: more than %d different requests change; what is different is no longer counted beyond them, how many there are is (--max-distinct)\n", r.flags.maxDistinct)
	}
	if r.Others > 0 {
		fmt.Fprintf(w, "note: %d requests changed in further groups, which are not kept\n", r.Others)
	}
}

func (r *replay) print(w io.Writer, format string) error {
	slices.SortStableFunc(r.Groups, func(a, b *replayGroup) int { return cmp.Compare(b.Count, a.Count) })
	switch format {
	case "json":
		return printJSON(w, r)
	case "csv":
		return r.printCSV(w)
	}
	return r.printTable(w)
}

func (r *replay) printTable(w io.Writer) error {
	b := bufio.NewWriter(w)
	shown := r.Groups
	if r.flags.limit > 0 && len(shown) > r.flags.limit {
		shown = shown[:r.flags.limit]
	}
	for _, g := range shown {
		fmt.Fprintf(b, "%d× (%s different)  %s %s\n", g.Count, r.atLeast(g.Distinct), g.Example.Method, g.Example.URL)
		fmt.Fprintf(b, "  old  %s\n", g.Old)
		fmt.Fprintf(b, "  new  %s\n\n", g.New)
	}
	if hidden := len(r.Groups) - len(shown); hidden > 0 {
		fmt.Fprintf(b, "and %s, see --limit\n\n", plural(hidden, "more group"))
	}
	fmt.Fprintf(b, "%s read, %d would be answered otherwise (%s different, in %s)\n", plural64(r.Requests, "request"), r.Changed, r.atLeast(r.Distinct), plural(len(r.Groups), "group"))
	return b.Flush()
}

func (r *replay) atLeast(n int) string {
	if !r.Exact {
		return "at least " + strconv.Itoa(n)
	}
	return strconv.Itoa(n)
}

// String is the answer as a table shows it.
func (a replayedAnswer) String() string {
	s := result(a.Status, a.Location)
	if a.Rule != "" {
		return s + "  by " + a.Rule
	}
	return s + "  (" + a.By + ")"
}

func (r *replay) printCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	if err := c.Write([]string{"count", "distinct", "method", "url", "oldStatus", "oldLocation", "oldRule", "newStatus", "newLocation", "newRule"}); err != nil {
		return err
	}
	for _, g := range r.Groups {
		row := []string{strconv.FormatInt(g.Count, 10), strconv.Itoa(g.Distinct), g.Example.Method, g.Example.URL,
			strconv.Itoa(g.Old.Status), g.Old.Location, cmp.Or(g.Old.Rule, g.Old.By), strconv.Itoa(g.New.Status), g.New.Location, cmp.Or(g.New.Rule, g.New.By)}
		for i := range row {
			row[i] = inert(row[i])
		}
		if err := c.Write(row); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

// inert keeps what strangers sent from being a formula in a spreadsheet.
func inert(cell string) string {
	if cell != "" && (cell[0] == '=' || cell[0] == '+' || cell[0] == '-' || cell[0] == '@' || cell[0] == '\t') {
		return "'" + cell
	}
	return cell
}

func plural64(n int64, one string) string { return plural(int(n), one) }
