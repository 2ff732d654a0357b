// Command fingerpost answers for any number of domains and sends every visitor
// where they should go.
//
// One file for each verb; serve.go is the only place that wires the packages
// together. What several verbs do with files of rules is in rules.go, what all
// of them print in output.go.
package main

import (
	"os"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

func main() { os.Exit(run(os.Args[1:])) }

// run executes a command line and gives the exit status.
func run(args []string) int {
	root := &cobra.Command{
		Use:           "fingerpost",
		Short:         "Send every visitor of any number of domains where they should go",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(serveCommand(), demoCommand(), initCommand(), checkCommand(), fmtCommand(), testCommand(), explainCommand(), replayCommand(), backupCommand(), restoreCommand(), newEpochCommand(), clusterKeyCommand(), versionCommand(),
		planCommand(), applyCommand(), diffCommand(), exportCommand(), hostsCommand(), redirectsCommand(), certsCommand(), doctorCommand(), draftsCommand(), jobsCommand(), versionsCommand(), changesCommand(), sourcesCommand(), nodesCommand(),
		teamsCommand(), usersCommand(), tokensCommand(), whoamiCommand(), auditCommand())
	// Without a Run of its own cobra shows help for a shell that it does not know,
	// and calls that success.
	root.InitDefaultCompletionCmd(args...)
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		completion.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	root.SetArgs(args)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(flagError(err)) })
	cmd, err := root.ExecuteC()
	return report(cmd, err)
}
