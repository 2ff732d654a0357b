package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/redirect"
	"fingerpost/source"
	"fingerpost/store"

	"github.com/spf13/cobra"
)

var jobColumns = []column[admin.Job]{
	{"id", func(j *admin.Job) string { return j.ID }},
	{"kind", func(j *admin.Job) string { return j.Kind }},
	{"state", func(j *admin.Job) string { return j.State }},
	{"done", func(j *admin.Job) string { return fmt.Sprint(j.Done) }},
	{"who", func(j *admin.Job) string { return j.Who }},
	{"node", func(j *admin.Job) string { return j.Node }},
	{"created", func(j *admin.Job) string { return moment(j.Created) }},
	{"updated", func(j *admin.Job) string { return moment(j.Updated) }},
}

func jobsCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List jobs: changesets that are too large for one request", Args: exactArgs(0)}
	get := &cobra.Command{Use: "get ID", Short: "Show one job, with the faults of its rows", Args: exactArgs(1)}
	cancel := &cobra.Command{Use: "cancel ID", Short: "Cancel a job that does not publish yet; nothing is changed then", Args: exactArgs(1)}
	watch := &cobra.Command{Use: "watch ID", Short: "Wait for the end of a job", Args: exactArgs(1),
		Long: "Wait for the end of a job and show it. A job that failed or was cancelled is exit status 1."}
	return family("jobs", "Look at what a server is working on",
		remoteVerb(list, func(s *session, _ []string) error {
			jobs, err := s.Jobs(s.ctx)
			return printSlice(s, jobs, err, jobColumns...)
		}),
		remoteVerb(get, func(s *session, args []string) error {
			j, err := s.Job(s.ctx, args[0])
			if err != nil {
				return err
			}
			return printOne(s, j, jobColumns...)
		}),
		remoteVerb(cancel, func(s *session, args []string) error {
			j, err := s.CancelJob(s.ctx, args[0])
			if err != nil {
				return err
			}
			return printOne(s, j, jobColumns...)
		}),
		remoteVerb(watch, func(s *session, args []string) error {
			j, err := s.follow(args[0], 0)
			if err != nil {
				return err
			}
			if err := printOne(s, j, jobColumns...); err != nil {
				return err
			}
			if j.State != admin.JobDone {
				return exitStatus(exitError)
			}
			return nil
		}))
}

var draftColumns = []column[admin.DraftResource]{
	{"id", func(d *admin.DraftResource) string { return d.ID }},
	{"team", func(d *admin.DraftResource) string { return d.Team }},
	{"state", func(d *admin.DraftResource) string { return d.State }},
	{"author", func(d *admin.DraftResource) string { return d.Author }},
	{"reviewer", func(d *admin.DraftResource) string { return d.Reviewer }},
	{"created", func(d *admin.DraftResource) string { return moment(d.Created) }},
	{"note", func(d *admin.DraftResource) string { return d.Note }},
}

func draftsCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List drafts", Args: exactArgs(0)}
	var team, state string
	list.Flags().StringVar(&team, "team", "", "only those of the team `NAME`")
	list.Flags().StringVar(&state, "state", "", "only those that are open, approved, rejected or published")
	get := &cobra.Command{Use: "get ID", Short: "Show one draft, and what publishing it would do", Args: exactArgs(1)}
	show := &cobra.Command{Use: "show ID", Short: "Show what a draft would change", Args: exactArgs(1)}
	remove := &cobra.Command{Use: "delete ID", Short: "Discard a draft", Args: exactArgs(1)}
	var yes bool
	remove.Flags().BoolVar(&yes, "yes", false, "do not ask")
	review := func(use, short string, approve bool) *cobra.Command {
		cmd := &cobra.Command{Use: use, Short: short, Args: exactArgs(1)}
		var note string
		cmd.Flags().StringVar(&note, "note", "", "`TEXT` for the author")
		return remoteVerb(cmd, func(s *session, args []string) error {
			d, err := s.ReviewDraft(s.ctx, args[0], approve, note)
			if err != nil {
				return err
			}
			return printOne(s, d, draftColumns...)
		})
	}
	return family("drafts", "Propose changes, review and publish them",
		remoteVerb(list, func(s *session, _ []string) error {
			states := []string{admin.DraftOpen, admin.DraftApproved, admin.DraftRejected, admin.DraftPublished}
			if state != "" && !slices.Contains(states, state) {
				return usage(fmt.Errorf("--state %s: one of %s", state, strings.Join(states, ", ")))
			}
			drafts, err := s.Drafts(s.ctx, team, state)
			return printSlice(s, drafts, err, draftColumns...)
		}),
		remoteVerb(get, func(s *session, args []string) error {
			d, err := s.Draft(s.ctx, args[0])
			if err != nil {
				return err
			}
			return printOne(s, d, draftColumns...)
		}),
		remoteVerb(show, func(s *session, args []string) error {
			_, err := s.differences(s.DraftDiff(s.ctx, args[0]))
			return err
		}),
		draftsCreate(),
		review("approve ID", "Say that a draft may be published", true),
		review("reject ID", "Say that a draft may not be published", false),
		draftsPublish(),
		remoteVerb(remove, func(s *session, args []string) error {
			d, err := s.Draft(s.ctx, args[0])
			if err != nil {
				return err
			}
			if err := s.confirm(yes, fmt.Sprintf("Discard the draft of %s?", d.Author)); err != nil {
				return err
			}
			if err = s.DeleteDraft(s.ctx, args[0]); err == nil {
				s.note("discarded: %s", args[0])
			}
			return err
		}))
}

func draftsCreate() *cobra.Command {
	var files, deletes []string
	var team, note string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Propose a change for a publisher of the team",
		Long: `Propose a change for a publisher of the team: hosts and redirects of files, to be made
or changed, and others that are to go. The server checks it as if it were applied.`,
		Example: `  fingerpost drafts create -f spring.yaml --note "campaign of April"
  fingerpost drafts create --team marketing --delete www.example.com/r-abcdefgh234567`,
		Args: exactArgs(0),
	}
	fl := cmd.Flags()
	fl.StringArrayVarP(&files, "file", "f", nil, "`PATH` of a file or folder of hosts and redirects; may be given several times")
	fl.StringArrayVar(&deletes, "delete", nil, "`HOST/ID` of a redirect that is to go, or HOST for its settings; may be given several times")
	fl.StringVar(&team, "team", "", "`NAME` of the team whose content it changes (default: yours, if you have one)")
	fl.StringVar(&note, "note", "", "`TEXT` for the reviewer: why")
	return remoteVerb(cmd, func(s *session, _ []string) error {
		if len(files)+len(deletes) == 0 {
			return usage(errors.New("which change? -f PATH or --delete HOST/ID"))
		}
		var content source.Content
		if len(files) > 0 {
			set, err := source.OpenFiles(files)
			if err != nil {
				return err
			}
			content = set.Content()
			if _, err := redirect.Compile(content.Hosts, content.Redirects); err != nil {
				return err
			}
		}
		gone := make([]admin.Difference, len(deletes))
		for i, key := range deletes {
			gone[i] = admin.Difference{Kind: store.KindHost, Key: key}
			if strings.Contains(key, "/") {
				gone[i].Kind = store.KindRedirect
			}
		}
		if team == "" {
			var err error
			if team, err = s.ownTeam(); err != nil {
				return err
			}
		}
		bar := showProgress("sent", int64(len(content.Hosts)+len(content.Redirects)), "row")
		defer bar.end()
		rows, w := io.Pipe()
		defer rows.Close()
		go func() {
			b := bufio.NewWriter(w)
			err := writeRows(b, content, bar)
			if err == nil {
				err = writeDiffs(b, each(gone))
			}
			w.CloseWithError(errors.Join(err, b.Flush()))
		}()
		d, err := s.AddDraft(s.ctx, rows, team, note)
		bar.end()
		if err != nil {
			inFiles := inContent(content)
			return rowErrors(err, func(i int) (fingerpost.Position, bool) {
				if k := i - len(content.Hosts) - len(content.Redirects); k >= 0 && k < len(deletes) {
					return fingerpost.Position{File: "--delete " + deletes[k]}, true
				}
				return inFiles(i)
			})
		}
		return printOne(s, d, draftColumns...)
	})
}

// ownTeam is the team of whoever has one only.
func (s *session) ownTeam() (string, error) {
	me, err := s.Session(s.ctx)
	if err != nil {
		return "", err
	}
	var teams []string
	for team := range me.Roles {
		if team != admin.EveryTeam {
			teams = append(teams, team)
		}
	}
	if len(teams) != 1 || len(me.Roles) != 1 {
		return "", usage(errors.New("whose content is it? --team NAME"))
	}
	return teams[0], nil
}

func draftsPublish() *cobra.Command {
	var allowRemoving int64
	var overwrite, yes bool
	cmd := &cobra.Command{
		Use:   "publish ID",
		Short: "Bring a draft into force",
		Long: `Bring a draft into force. It shows what would change and asks. What somebody has changed
since the draft was made is not overwritten unless --overwrite says so.`,
		Args: exactArgs(1),
	}
	fl := cmd.Flags()
	fl.Int64Var(&allowRemoving, "allow-removing", 0, "how many redirects may go, where that is more than a tenth of the team's")
	fl.BoolVar(&overwrite, "overwrite", false, "also where the same things were changed since")
	fl.BoolVar(&yes, "yes", false, "do not ask")
	return remoteVerb(cmd, func(s *session, args []string) error {
		if d, err := s.Draft(s.ctx, args[0]); err != nil {
			return err
		} else if d.State == admin.DraftPublished {
			return &fingerpost.Error{Code: "published", Message: "the draft is published already"}
		}
		if !yes {
			for d, err := range s.DraftDiff(s.ctx, args[0]) {
				if err != nil {
					return err
				}
				s.note("%s", differenceLine(&d))
			}
		}
		if err := s.confirm(yes, "Publish this?"); err != nil {
			return err
		}
		r, err := s.PublishDraft(s.ctx, args[0], allowRemoving, overwrite)
		return s.printResult(r, err)
	})
}
