package main

import (
	"fmt"

	"fingerpost/redirect"
	"fingerpost/replica"

	"github.com/spf13/cobra"
)

func checkCommand() *cobra.Command {
	var compiled string
	cmd := &cobra.Command{
		Use:   "check FILE...",
		Short: "Find errors, loops, chains, duplicates and rules that never answer",
		Long: `Find errors, loops, chains, duplicates and rules that never answer.

A FILE is a configuration, a file of redirects or a folder of them; all are read
together. Errors and warnings are printed with file:line:column; only errors make
the exit status 1. With --compile the table is written to a file, as nodes keep it.`,
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
			if compiled != "" {
				if err := replica.WriteTable(compiled, r.table); err != nil {
					return fmt.Errorf("write %s: %w", compiled, err)
				}
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s on %s, %s\n", plural(r.table.Rules(), "redirect"), plural(r.table.Hosts(), "host"), plural(len(warnings), "warning"))
			return err
		},
	}
	cmd.Flags().StringVar(&compiled, "compile", "", "write the table to `FILE`")
	return cmd
}
