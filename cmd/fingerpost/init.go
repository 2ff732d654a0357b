package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"fingerpost"

	"github.com/spf13/cobra"
)

func initCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init DIR",
		Short: "Write a folder to start from: rules, tests, instructions, a CI workflow",
		Long: `Write a folder to start from: fingerpost.yaml, redirects.json with instructions
for colleagues, tests, a CI workflow, and JSON schemas for editors.

Nothing that exists already is touched: if one of the files is there, none is
written.`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := writeInit(args[0])
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			for _, f := range files {
				fmt.Fprintln(out, f)
			}
			config := filepath.Join(args[0], "fingerpost.yaml")
			fmt.Fprintf(os.Stderr, `
Next:
  fingerpost check %[1]s
  fingerpost test %[1]s %[2]s
  fingerpost serve --config %[1]s
`, config, filepath.Join(args[0], "tests.yaml"))
			return nil
		},
	}
}

// writeInit writes initFiles to dir and lists them.
func writeInit(dir string) (files []string, err error) {
	content := map[string][]byte{}
	err = fs.WalkDir(initFiles, "initdir", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := strings.TrimPrefix(path, "initdir/")
		if rest, ok := strings.CutPrefix(name, "github/"); ok {
			name = ".github/" + rest
		}
		name = filepath.Join(dir, filepath.FromSlash(name))
		files = append(files, name)
		content[name], err = initFiles.ReadFile(path)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			if err == nil {
				return nil, &fingerpost.Error{Code: "exists", Message: name + " exists already", Hint: "choose a new folder; nothing was written"}
			}
			return nil, fileError(name, "written", err)
		}
	}
	for i, name := range files {
		if err := createFile(name, content[name]); err != nil {
			for _, written := range files[:i] {
				os.Remove(written)
			}
			return nil, fileError(name, "written", err)
		}
	}
	return files, nil
}

// createFile writes a file that is not there yet, with its folders.
func createFile(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(name)
	}
	return err
}
