package fetch

import (
	"os"
	"path/filepath"
	"strings"

	gitconfig "github.com/go-git/go-git/v5/plumbing/format/config"
)

// Checkout finds the git work tree that a file or folder is in: its root, and the
// address of the repository that it came from. It asks nobody. Both are empty where
// there is no work tree, or one that came from nowhere.
func Checkout(path string) (root, origin string) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", ""
	}
	for dir := path; ; dir = filepath.Dir(dir) {
		if kept := gitFolder(dir); kept != "" {
			if origin := originOf(filepath.Join(kept, "config")); origin != "" {
				return dir, origin
			}
			return "", ""
		}
		if dir == filepath.Dir(dir) {
			return "", ""
		}
	}
}

// gitFolder is where git keeps what it knows of the work tree with this root. That
// is .git, or what the file .git names (gitrepository-layout(5)).
func gitFolder(root string) string {
	at := filepath.Join(root, ".git")
	info, err := os.Stat(at)
	switch {
	case err != nil:
		return ""
	case info.IsDir():
		return at
	}
	folder := pointer(at, "gitdir: ", root)
	if common := pointer(filepath.Join(folder, "commondir"), "", folder); folder != "" && common != "" {
		return common // a further work tree has its configuration from the first
	}
	return folder
}

// pointer reads a file that names a folder.
func pointer(file, prefix, relativeTo string) string {
	text, err := os.ReadFile(file)
	name, ok := strings.CutPrefix(strings.TrimSpace(string(text)), prefix)
	switch {
	case err != nil || !ok:
		return ""
	case filepath.IsAbs(name):
		return name
	}
	return filepath.Join(relativeTo, name)
}

func originOf(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	c := gitconfig.New()
	if gitconfig.NewDecoder(f).Decode(c) != nil {
		return ""
	}
	return c.Section("remote").Subsection("origin").Option("url")
}
