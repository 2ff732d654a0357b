package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"fingerpost"
	"fingerpost/admin/client"

	"github.com/spf13/cobra"
)

// document is content as a file has it.
type document struct {
	Hosts     map[string]fingerpost.Host `json:"hosts,omitempty"`
	Redirects []fingerpost.Redirect      `json:"redirects,omitempty"`
}

func exportCommand() *cobra.Command {
	var pages string
	var filter client.Filter
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write all hosts and redirects of a server as one file",
		Long: `Write all hosts and redirects of a server as one file, which check, apply and serve
take. It is YAML, or JSON with -o json.

Pages of HTML are files of their own: with --pages they are written to a folder, and
the file goes beside that folder.`,
		Example: `  fingerpost export > all.yaml
  fingerpost export --source api --pages pages > console.yaml`,
		Args: exactArgs(0),
	}
	cmd.Flags().StringVar(&pages, "pages", "", "`DIR` for pages of HTML, a relative path")
	cmd.Flags().StringVar(&filter.Source, "source", "", "only what the source `LABEL` has")
	cmd.Flags().StringVar(&filter.Team, "team", "", "only what belongs to the team `NAME`")
	return remoteVerb(cmd, func(s *session, _ []string) error {
		if s.format == formatNDJSON || s.format == formatCSV {
			return usage(fmt.Errorf("-o %s: a file is yaml or json", s.format))
		}
		if pages != "" && !filepath.IsLocal(pages) {
			return usage(fmt.Errorf("--pages %s: the folder has to be below the one with the file", pages))
		}
		page := func(html *string) error {
			if *html == "" {
				return nil
			}
			if pages == "" {
				return &fingerpost.Error{Code: "has_pages", Message: "there are pages of HTML, which are files of their own", Hint: "say --pages DIR"}
			}
			sum := sha256.Sum256([]byte(*html))
			name := hex.EncodeToString(sum[:8]) + ".html"
			if err := os.MkdirAll(pages, 0o755); err != nil {
				return fileError(pages, "written", err)
			}
			if err := os.WriteFile(filepath.Join(pages, name), []byte(*html), 0o644); err != nil {
				return fileError(filepath.Join(pages, name), "written", err)
			}
			*html = path.Join(filepath.ToSlash(pages), name)
			return nil
		}
		doc := document{Hosts: map[string]fingerpost.Host{}}
		bar := showProgress("export", 0, "item")
		defer bar.end()
		for h, err := range s.Hosts(s.ctx, filter) {
			if err == nil && h.Fallback != nil {
				err = page(&h.Fallback.Page)
			}
			if err != nil {
				return err
			}
			doc.Hosts[h.Name] = h.Host
			bar.at(int64(len(doc.Hosts)))
		}
		for r, err := range s.Redirects(s.ctx, filter) {
			if err == nil {
				err = page(&r.Page)
			}
			if err != nil {
				return err
			}
			doc.Redirects = append(doc.Redirects, r.Redirect)
			bar.at(int64(len(doc.Hosts) + len(doc.Redirects)))
		}
		bar.end()
		return printOne(s, doc)
	})
}
