package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"fingerpost"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The exit statuses of every verb.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitDifferences = 3
	exitTestsFailed = 4
)

// exitError tells run to end with a status after something that has been
// printed already.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func usage(err error) error { return usageError{err} }

// flagError says in plain words what is wrong with the value of a flag.
func flagError(err error) error {
	var bad *pflag.InvalidValueError
	if !errors.As(err, &bad) {
		return err
	}
	want := ""
	switch bad.GetFlag().Value.Type() {
	case "int", "int64":
		want = "is not a whole number"
	case "duration":
		want = "is not a duration, as in 90s, 15m or 720h"
	case "bool":
		want = "is neither true nor false"
	default:
		return err
	}
	return fmt.Errorf("--%s %q %s", bad.GetFlag().Name, bad.GetValue(), want)
}

// exactArgs and minArgs count arguments, of which none is empty: a shell's variable
// that is not set. What is wrong with them is a usage error.
func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return wrongCount(cmd, args)
		}
		return notEmpty(args)
	}
}

func minArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return wrongCount(cmd, args)
		}
		return notEmpty(args)
	}
}

func notEmpty(args []string) error {
	if i := slices.Index(args, ""); i >= 0 {
		return usage(fmt.Errorf("argument %d is empty", i+1))
	}
	return nil
}

func wrongCount(cmd *cobra.Command, args []string) error {
	return usage(fmt.Errorf("wrong number of arguments (%d): %s", len(args), cmd.UseLine()))
}

// fileError says in plain words that a file cannot be read or written; done is
// which of the two. The path in err itself may be that of a temporary file.
func fileError(path, done string, err error) error {
	cause := err
	var inner *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &inner):
		cause = inner.Err
	case errors.As(err, &link):
		cause = link.Err
	}
	return &fingerpost.Error{Code: "bad_file", Message: fmt.Sprintf("cannot be %s: %v", done, cause),
		Hint: "check the name of the file and that it may be " + done, At: fingerpost.Position{File: path}}
}

// ownFile is fileError for what may have failed with the file, or elsewhere.
func ownFile(path string, err error) error {
	var inner *fs.PathError
	var link *os.LinkError
	if errors.As(err, &inner) || errors.As(err, &link) {
		return fileError(path, "written", err)
	}
	return err
}

// report prints err, each fault of it on a line of its own with a hint where
// there is one, and gives the exit status.
func report(cmd *cobra.Command, err error) int {
	var status exitStatus
	var misuse usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &misuse), strings.HasPrefix(err.Error(), "unknown command"):
		fmt.Fprintf(os.Stderr, "error: %s\nhint: see %s --help\n", strings.ReplaceAll(err.Error(), "\n", " "), cmd.CommandPath())
		return exitUsage
	}
	printErrors(os.Stderr, "error", err)
	return exitError
}

// printErrors prints all that err joins.
func printErrors(w io.Writer, word string, err error) {
	for _, e := range fingerpost.Errors(err) {
		printError(w, word, e)
	}
}

func printError(w io.Writer, word string, e *fingerpost.Error) {
	fmt.Fprintf(w, "%s: %s\n", word, e.Error())
	if e.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", e.Hint)
	}
}

// printJSON writes v as people read it.
func printJSON(w io.Writer, v any) error {
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	return b.Flush()
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
