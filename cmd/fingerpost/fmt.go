package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"fingerpost/source"

	"github.com/spf13/cobra"
)

func fmtCommand() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "fmt FILE...",
		Short: "Bring files into one layout; comments and meaning stay",
		Long: `Bring files into one layout; comments and meaning stay.

The names of the files that change are printed. With --check nothing is written,
and the exit status is 1 if a file would change.`,
		Args: minArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			due := 0
			for _, file := range files {
				changed, err := formatFile(file, check)
				if err != nil {
					return err
				}
				if changed {
					due++
					fmt.Fprintln(cmd.OutOrStdout(), file)
				}
			}
			if check && due > 0 {
				fmt.Fprintf(os.Stderr, "error: %s not in the layout of fingerpost fmt\nhint: run fingerpost fmt on what is listed\n", plural(due, "file"))
				return exitStatus(exitError)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "write nothing; list the files that would change")
	return cmd
}

// formatFile rewrites a file in one step, so that a node that watches it never
// sees half of it.
func formatFile(file string, check bool) (changed bool, err error) {
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		return false, fileError(file, "read", errors.New("it is not a regular file")) // reading a pipe would wait for its other end
	}
	old, err := os.ReadFile(file)
	if err != nil {
		return false, fileError(file, "read", err)
	}
	formed, err := source.Format(file, old)
	if err != nil || bytes.Equal(old, formed) || check {
		return err == nil && !bytes.Equal(old, formed), err
	}
	if err := replaceFile(file, formed); err != nil {
		return false, fileError(file, "written", err)
	}
	return true, nil
}

// replaceFile puts data in the place of a file, with the mode that it has, and
// its owner where that is allowed: a file that root formats stays readable for
// the service.
func replaceFile(file string, data []byte) error {
	mode := fs.FileMode(0o644)
	var old fs.FileInfo
	if target, err := filepath.EvalSymlinks(file); err == nil {
		file = target // the link stays
	}
	if info, err := os.Stat(file); err == nil {
		mode, old = info.Mode().Perm(), info
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err == nil {
		if old != nil {
			giveTo(tmp, old)
		}
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}
