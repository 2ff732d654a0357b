package main

import (
	"fmt"

	"fingerpost/redirect"

	"github.com/spf13/cobra"
)

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE...",
		Short: "Find errors, loops, chains, duplicates and rules that never answer",
		Long: `Find errors, loops, chains, duplicates and rules that never answer.

A FILE is a configuration, a file of redirects or a folder of them; all are read
together. Errors and warnings are printed with file:line:column; only errors make
the exit status 1.`,
		Args: minArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			r, err := readRules(files)
			if err != nil {
				return err
			}
			var covers func(string) bool
			if r.certs != nil {
				covers = r.certs.Covers
			}
			warnings := redirect.Check(r.table, r.Hosts, r.Redirects, covers)
			for _, w := range warnings {
				printError(cmd.ErrOrStderr(), "warning", w)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s on %s, %s\n", plural(r.table.Rules(), "redirect"), plural(r.table.Hosts(), "host"), plural(len(warnings), "warning"))
			return err
		},
	}
}
