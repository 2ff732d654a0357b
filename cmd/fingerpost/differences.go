package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"fingerpost/admin"

	"github.com/spf13/cobra"
)

func diffCommand() *cobra.Command {
	var exitCode bool
	var f applyFlags
	cmd := &cobra.Command{
		Use:   "diff FROM [TO] | diff -f PATH",
		Short: "Show what is different between two versions of a server, or a server and files",
		Long: `Show what is different between two versions or revisions of a server, each the name of
a version or the number of a revision. Without TO it is what is in force now.

With -f it is between what is in force now and files: what plan shows, without the
server checking whether it could be applied. A token that may only read is enough.`,
		Example: `  fingerpost diff spring-campaign
  fingerpost diff 41 42 -o json
  fingerpost diff -f redirects/ --prune --exit-code`,
		Args: rangeArgs(0, 2),
	}
	f.registerContent(cmd)
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit with 3 if there is a difference")
	return remoteVerb(cmd, func(s *session, args []string) error {
		var list iter.Seq2[admin.Difference, error]
		switch {
		case len(f.files) > 0 && len(args) > 0:
			return usage(errors.New("either versions or -f PATH"))
		case len(f.files) > 0:
			p, err := f.read(s)
			if err == nil {
				p.diffs, err = s.compare(p)
			}
			if err != nil {
				return err
			}
			list = each(p.diffs)
		case len(args) == 0:
			return usage(errors.New("which difference? FROM [TO] or -f PATH"))
		case f.prune || f.take || f.label != "":
			return usage(errors.New("--prune, --take and --source go with -f PATH"))
		default:
			list = s.Diff(s.ctx, args[0], append(args, "")[1])
		}
		n, err := s.differences(list)
		if err == nil && n > 0 && exitCode {
			return exitStatus(exitDifferences)
		}
		return err
	})
}

func rangeArgs(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return wrongCount(cmd, args)
		}
		return nil
	}
}

// differences prints what is added, changed and removed, and counts it.
func (s *session) differences(seq iter.Seq2[admin.Difference, error]) (n int, err error) {
	counted := func(yield func(admin.Difference, error) bool) {
		for d, err := range seq {
			if n++; !yield(d, err) {
				return
			}
		}
	}
	if s.format != formatTable {
		err = printList(s, counted,
			column[admin.Difference]{"change", sign},
			column[admin.Difference]{"kind", func(d *admin.Difference) string { return d.Kind }},
			column[admin.Difference]{"key", func(d *admin.Difference) string { return d.Key }},
			column[admin.Difference]{"what", whatDiffers})
		return n, err
	}
	w := bufio.NewWriter(s.cmd.OutOrStdout())
	for d, err := range counted {
		if err != nil {
			return n, err
		}
		fmt.Fprintln(w, differenceLine(&d))
	}
	return n, w.Flush()
}

func differenceLine(d *admin.Difference) string {
	return printable(fmt.Sprintf("%s %s %s  %s", sign(d), d.Kind, d.Key, whatDiffers(d)))
}

func sign(d *admin.Difference) string {
	switch {
	case d.Before == nil:
		return "+"
	case d.After == nil:
		return "-"
	}
	return "~"
}

// whatDiffers says in one line what a thing is, or which of its fields changed.
func whatDiffers(d *admin.Difference) string {
	before, after := fieldsOf(d.Before), fieldsOf(d.After)
	one := after
	switch sign(d) {
	case "-":
		one = before
		fallthrough
	case "+":
		var parts []string
		for _, name := range []string{"from", "regex", "to", "status", "https", "team"} {
			if v, ok := one[name]; ok {
				parts = append(parts, name+" "+v)
			}
		}
		return strings.Join(parts, ", ")
	}
	names := maps.Clone(before)
	maps.Copy(names, after)
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, had := before[name]
		is, has := after[name]
		switch {
		case was == is && had == has:
		case !had:
			parts = append(parts, name+" is "+is)
		case !has:
			parts = append(parts, name+" was "+was)
		default:
			parts = append(parts, name+" "+was+" → "+is)
		}
	}
	if len(parts) == 0 {
		return "only its source"
	}
	return strings.Join(parts, ", ")
}

// fieldsOf gives the fields of a host or redirect as text, without those that are
// the server's.
func fieldsOf(v any) map[string]string {
	text, err := json.Marshal(v)
	var fields map[string]json.RawMessage
	if err != nil || json.Unmarshal(text, &fields) != nil {
		return nil
	}
	out := map[string]string{}
	for name, raw := range fields {
		if name == "rev" || name == "since" {
			continue
		}
		var s string
		if json.Unmarshal(raw, &s) != nil {
			s = string(raw)
		}
		out[name] = s
	}
	return out
}
