package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// The formats of what a server has.
const (
	formatTable  = "table"
	formatJSON   = "json"
	formatNDJSON = "ndjson"
	formatCSV    = "csv"
	formatYAML   = "yaml"
)

var formats = []string{formatTable, formatJSON, formatNDJSON, formatCSV, formatYAML}

func checkFormat(format string) error {
	if !slices.Contains(formats, format) {
		return usage(fmt.Errorf("-o %s: the format is one of %s", format, strings.Join(formats, ", ")))
	}
	return nil
}

// column is one column of a table or CSV.
type column[T any] struct {
	name string
	text func(v *T) string
}

// printList prints what seq gives; of an error in the middle nothing of a document
// is printed that looks whole.
func printList[T any](s *session, seq iter.Seq2[T, error], columns ...column[T]) error {
	w := bufio.NewWriter(s.cmd.OutOrStdout())
	var err error
	switch s.format {
	case formatNDJSON:
		err = printLines(w, seq)
	case formatJSON, formatYAML:
		all := []T{}
		for v, err := range seq {
			if err != nil {
				return err
			}
			all = append(all, v)
		}
		err = printValue(w, s.format, all)
	default:
		err = printRows(w, s.format, seq, columns)
	}
	if err != nil {
		return err
	}
	return w.Flush()
}

// printSlice prints a list that is here already, or the error of getting it.
func printSlice[T any](s *session, items []T, err error, columns ...column[T]) error {
	if err != nil {
		return err
	}
	return printList(s, each(items), columns...)
}

// printOne prints one thing, which has no table: for people it is YAML.
func printOne[T any](s *session, v T, columns ...column[T]) error {
	switch s.format {
	case formatTable:
		return printValue(s.cmd.OutOrStdout(), formatYAML, v)
	case formatJSON, formatYAML:
		return printValue(s.cmd.OutOrStdout(), s.format, v)
	}
	return printSlice(s, []T{v}, nil, columns...)
}

func printLines[T any](w io.Writer, seq iter.Seq2[T, error]) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for v, err := range seq {
		if err != nil {
			return err
		}
		if err := enc.Encode(v); err != nil {
			return err
		}
	}
	return nil
}

func printRows[T any](w io.Writer, format string, seq iter.Seq2[T, error], columns []column[T]) error {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	row := make([]string, len(columns))
	table, lines := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0), csv.NewWriter(w)
	put := func() error {
		if format == formatCSV {
			return lines.Write(row)
		}
		for i := range row {
			row[i] = printable(row[i])
		}
		_, err := fmt.Fprintln(table, strings.TrimRight(strings.Join(row, "\t"), "\t"))
		return err
	}
	copy(row, names)
	if format == formatTable {
		for i := range row {
			row[i] = strings.ToUpper(row[i])
		}
	}
	if err := put(); err != nil {
		return err
	}
	for v, err := range seq {
		if err != nil {
			return err
		}
		for i, c := range columns {
			row[i] = c.text(&v)
		}
		if err := put(); err != nil {
			return err
		}
	}
	lines.Flush()
	if err := lines.Error(); err != nil {
		return err
	}
	return table.Flush()
}

// printable keeps what others wrote from steering the terminal or the table.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, s)
}

func printValue(w io.Writer, format string, v any) error {
	if format != formatYAML {
		return printJSON(w, v)
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	// JSON is YAML, with its fields in the order of the type.
	var doc yaml.Node
	if err := yaml.Unmarshal(text.Bytes(), &doc); err != nil {
		return err
	}
	plain(&doc)
	out := yaml.NewEncoder(w)
	out.SetIndent(2)
	if err := out.Encode(&doc); err != nil {
		return err
	}
	return out.Close()
}

// plain takes the brackets and quotation marks of JSON away, where they need not be.
func plain(n *yaml.Node) {
	n.Style = 0
	for _, child := range n.Content {
		plain(child)
	}
	if len(n.Content) == 0 && (n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode) {
		n.Style = yaml.FlowStyle
	}
}

func number[N int | int64](n N) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime)
}

func limitFlag(cmd *cobra.Command, limit *int) {
	cmd.Flags().IntVar(limit, "limit", 100, "how many at most; 0 for all")
}

// first gives as much of a long list as a limit allows, and says so if that is not
// all.
func first[T any](s *session, limit int, seq iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		n := 0
		for v, err := range seq {
			if n++; limit > 0 && n > limit && err == nil {
				s.note("note: there are more; --limit 0 lists all")
				return
			}
			if !yield(v, err) {
				return
			}
		}
	}
}
