package main

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"fingerpost/source/fetch"
)

// maxLabel is how long the label of a source may be for the API.
const maxLabel = 200

// applyLabel names the source that files belong to where --source does not: what
// they are in their git repository, so that every checkout of it is one source, else
// their place on this machine.
func applyLabel(paths []string) string {
	repository, names := "", make([]string, 0, len(paths))
	for _, path := range paths {
		root, origin := fetch.Checkout(resolved(path))
		name, err := filepath.Rel(root, resolved(path))
		if origin == "" || err != nil || repository != "" && repository != origin {
			return fileSource(paths)
		}
		repository = origin
		names = append(names, filepath.ToSlash(name))
	}
	label := "git:" + repositoryName(repository)
	if !slices.Equal(names, []string{"."}) {
		label += ":" + joined(names)
	}
	return fitting(label)
}

// fileSource names the source that files of this machine are, from whatever folder
// they are named.
func fileSource(paths []string) string {
	names := make([]string, len(paths))
	for i, path := range paths {
		names[i] = path
		if abs, err := filepath.Abs(path); err == nil {
			names[i] = abs
		}
	}
	return fitting(fileLabel + joined(names))
}

// joined gives the same for the same files, in whichever order they are named.
func joined(names []string) string {
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

// fitting cuts what is too long for a label, and keeps it different from others.
func fitting(label string) string {
	if len(label) <= maxLabel {
		return label
	}
	sum := sha256.Sum256([]byte(label))
	return strings.ToValidUTF8(label[:maxLabel-20], "") + "…" + hex.EncodeToString(sum[:8])
}

// resolved is a path without symbolic links, or as it is where that cannot be found
// out.
func resolved(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

// scpAddress is how ssh names a repository: user@host:path.
var scpAddress = regexp.MustCompile(`^(?:[\w.-]+@)?([\w.-]+):([^/\\].*)$`)

// repositoryName is the same for every way to reach a repository: by https with a
// token or without, and by ssh.
func repositoryName(address string) string {
	name := address
	if m := scpAddress.FindStringSubmatch(address); m != nil && !strings.Contains(address, "://") {
		name = strings.ToLower(m[1]) + "/" + m[2]
	} else if u, err := url.Parse(address); err == nil && u.Scheme != "" {
		name = strings.ToLower(u.Hostname()) + u.Path
	}
	return strings.TrimSuffix(strings.TrimRight(name, "/"), ".git")
}
