package main

import (
	"fmt"
	"io"

	"fingerpost"
	"fingerpost/redirect"

	"github.com/spf13/cobra"
)

func testCommand() *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:   "test FILE...",
		Short: "Run the tests of the rules",
		Long: `Run the tests that stand beside redirects (tests: of a redirect) and in files of
cases (tests: of a document). All files are read together, so that rules may stand
in one and cases in another.

A case gives a url, and what must come out: to (the Location, letter by letter)
and status. Without status any redirect will do where to is given, and any other
answer where it is not. The exit status is 4 if a test fails.`,
		Args: minArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			r, err := readRules(files)
			if err != nil {
				return err
			}
			passed, failed, err := r.test(cmd.OutOrStdout(), verbose)
			if err != nil {
				return err
			}
			if passed+failed == 0 {
				return &fingerpost.Error{Code: "no_tests", Message: "no tests in these files", Hint: "add tests: to a redirect or to the document"}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d passed, %d failed\n", passed, failed)
			if failed > 0 {
				return exitStatus(exitTestsFailed)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "list the tests that pass too")
	return cmd
}

func (r *rules) test(w io.Writer, verbose bool) (passed, failed int, err error) {
	cases := r.Cases
	for i := range r.Redirects {
		cases = append(cases[:len(cases):len(cases)], r.Redirects[i].Tests...)
	}
	var a redirect.Answer
	for i := range cases {
		c := &cases[i]
		req, err := r.newRequest(c)
		if err != nil {
			return 0, 0, err
		}
		r.table.Answer(&req, &a)
		if caseHolds(c, &a) {
			passed++
			if verbose {
				fmt.Fprintf(w, "ok   %s: %s %s\n", c.Source, req.Method, c.URL)
			}
			continue
		}
		failed++
		fmt.Fprintf(w, "FAIL %s: %s %s\n  want %s\n  got  %s\n", c.Source, req.Method, c.URL, wanted(c), result(a.Status, string(a.Location)))
		if by := r.describe(a.Rule); by != "" {
			fmt.Fprintf(w, "  by   %s\n", by)
		}
	}
	return passed, failed, nil
}

func caseHolds(c *fingerpost.Case, a *redirect.Answer) bool {
	if c.To != string(a.Location) {
		return false
	}
	return c.Status == 0 || c.Status == a.Status
}

func wanted(c *fingerpost.Case) string {
	switch {
	case c.Status != 0:
		return result(c.Status, c.To)
	case c.To != "":
		return "a redirect to " + c.To
	}
	return "no redirect"
}

func result(status int, to string) string {
	if to == "" {
		return fmt.Sprint(status)
	}
	return fmt.Sprintf("%d to %s", status, to)
}
