package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/admin/client"
	"fingerpost/store"

	"github.com/spf13/cobra"
)

var versionColumns = []column[store.Version]{
	{"name", func(v *store.Version) string { return v.Name }},
	{"rev", func(v *store.Version) string { return fmt.Sprint(v.Rev) }},
	{"at", func(v *store.Version) string { return moment(v.At) }},
	{"who", func(v *store.Version) string { return v.Who }},
	{"note", func(v *store.Version) string { return v.Note }},
}

// bringBackFlags are those of restore and revert.
func bringBackFlags(cmd *cobra.Command, b *client.BringBack, yes *bool) {
	cmd.Flags().StringVar(&b.Note, "why", "", "`TEXT` for the audit")
	cmd.Flags().Int64Var(&b.AllowRemoving, "allow-removing", 0, "how many redirects may go, where that is more than a tenth of a team's")
	cmd.Flags().BoolVar(yes, "yes", false, "do not ask")
}

// bringBack says what would change, asks, and does it.
func (s *session) bringBack(b client.BringBack, yes bool, do func(b client.BringBack) (admin.Result, error)) error {
	try := b
	try.DryRun = true
	would, err := do(try)
	if err != nil {
		return err
	}
	if would.Added+would.Changed+would.Removed == 0 {
		s.note("nothing to do")
		return s.printResult(would, nil)
	}
	s.note("%d to add, %d to change, %d to remove", would.Added, would.Changed, would.Removed)
	if err := s.confirm(yes, "Do this?"); err != nil {
		return err
	}
	return s.printResult(do(b))
}

func parseRev(text string) (int64, error) {
	rev, err := strconv.ParseInt(text, 10, 64)
	if err != nil || rev <= 0 {
		return 0, usage(fmt.Errorf("%q is not the number of a revision", text))
	}
	return rev, nil
}

func versionsCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List named revisions", Args: exactArgs(0)}
	remove := &cobra.Command{Use: "delete NAME", Short: "Take the name of a revision away; what it names stays", Args: exactArgs(1)}
	name := &cobra.Command{Use: "name NAME [REV]", Short: "Name a revision, the newest one unless another is given", Args: rangeArgs(1, 2)}
	var why string
	name.Flags().StringVar(&why, "note", "", "`TEXT` that stands beside the name")
	restore := &cobra.Command{Use: "restore VERSION", Short: "Make the content again what it was in a version or revision", Args: exactArgs(1)}
	var b client.BringBack
	var yes bool
	bringBackFlags(restore, &b, &yes)
	return family("versions", "Name revisions of a server and go back to them",
		remoteVerb(list, func(s *session, _ []string) error {
			versions, err := s.Versions(s.ctx)
			return printSlice(s, versions, err, versionColumns...)
		}),
		remoteVerb(name, func(s *session, args []string) error {
			rev := int64(0)
			if len(args) > 1 {
				var err error
				if rev, err = parseRev(args[1]); err != nil {
					return err
				}
			}
			v, err := s.NameVersion(s.ctx, args[0], rev, why)
			if err != nil {
				return err
			}
			return printOne(s, v, versionColumns...)
		}),
		remoteVerb(remove, func(s *session, args []string) error {
			err := s.DeleteVersion(s.ctx, args[0])
			if err == nil {
				s.note("no name any more: %s", args[0])
			}
			return err
		}),
		remoteVerb(restore, func(s *session, args []string) error {
			return s.bringBack(b, yes, func(b client.BringBack) (admin.Result, error) { return s.Restore(s.ctx, args[0], b) })
		}))
}

func changesCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List revisions, the newest first", Args: exactArgs(0)}
	var limit int
	limitFlag(list, &limit)
	show := &cobra.Command{Use: "show REV", Short: "Show what one revision changed", Args: exactArgs(1)}
	revert := &cobra.Command{Use: "revert REV", Short: "Undo one revision and leave later ones alone", Args: exactArgs(1)}
	var b client.BringBack
	var yes bool
	bringBackFlags(revert, &b, &yes)
	return family("changes", "Look at revisions of a server and undo them",
		remoteVerb(list, func(s *session, _ []string) error {
			return printList(s, first(s, limit, s.Changes(s.ctx)),
				column[admin.ChangeInfo]{"rev", func(c *admin.ChangeInfo) string { return fmt.Sprint(c.Rev) }},
				column[admin.ChangeInfo]{"at", func(c *admin.ChangeInfo) string { return moment(c.At) }},
				column[admin.ChangeInfo]{"who", func(c *admin.ChangeInfo) string { return c.Who }},
				column[admin.ChangeInfo]{"added", func(c *admin.ChangeInfo) string { return fmt.Sprint(c.Added) }},
				column[admin.ChangeInfo]{"changed", func(c *admin.ChangeInfo) string { return fmt.Sprint(c.Changed) }},
				column[admin.ChangeInfo]{"removed", func(c *admin.ChangeInfo) string { return fmt.Sprint(c.Removed) }},
				column[admin.ChangeInfo]{"names", func(c *admin.ChangeInfo) string { return strings.Join(c.Names, " ") }},
				column[admin.ChangeInfo]{"note", func(c *admin.ChangeInfo) string { return c.Note }})
		}),
		remoteVerb(show, func(s *session, args []string) error {
			rev, err := parseRev(args[0])
			if err != nil {
				return err
			}
			if _, err := s.Version(s.ctx, args[0]); err != nil {
				return err
			}
			_, err = s.differences(s.Change(s.ctx, rev))
			return err
		}),
		remoteVerb(revert, func(s *session, args []string) error {
			rev, err := parseRev(args[0])
			if err != nil {
				return err
			}
			return s.bringBack(b, yes, func(b client.BringBack) (admin.Result, error) { return s.Revert(s.ctx, rev, nil, b) })
		}))
}

func auditCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List who did what, the newest first", Args: exactArgs(0)}
	var kind, key, who string
	var limit int
	list.Flags().StringVar(&kind, "kind", "", "only about this `KIND`: host, redirect, token, …")
	list.Flags().StringVar(&key, "key", "", "only about the one with this `KEY`")
	list.Flags().StringVar(&who, "who", "", "only what this `USER` or source did")
	limitFlag(list, &limit)
	export := &cobra.Command{Use: "export [FILE]", Short: "Write the whole audit, an entry on each line, the oldest first", Args: rangeArgs(0, 1)}
	verify := &cobra.Command{Use: "verify [EXPORT]", Short: "Check that nothing in the audit was rewritten", Args: rangeArgs(0, 1),
		Long: `Check that nothing in the audit was rewritten: that each entry goes on from the one
before. Whoever can write to the whole database could make a new chain; with a file that
audit export wrote earlier it is checked that the audit still goes on from that one.`}
	return family("audit", "Look at who did what on a server",
		remoteVerb(list, func(s *session, _ []string) error {
			return printList(s, first(s, limit, s.Audit(s.ctx, kind, key, who)),
				column[admin.AuditEntry]{"seq", func(e *admin.AuditEntry) string { return fmt.Sprint(e.Seq) }},
				column[admin.AuditEntry]{"at", func(e *admin.AuditEntry) string { return moment(e.At) }},
				column[admin.AuditEntry]{"who", func(e *admin.AuditEntry) string { return e.Who }},
				column[admin.AuditEntry]{"action", func(e *admin.AuditEntry) string { return e.Action }},
				column[admin.AuditEntry]{"kind", func(e *admin.AuditEntry) string { return e.Kind }},
				column[admin.AuditEntry]{"key", func(e *admin.AuditEntry) string { return e.Key }},
				column[admin.AuditEntry]{"rev", func(e *admin.AuditEntry) string { return number(e.Rev) }})
		}),
		remoteVerb(export, func(s *session, args []string) error {
			if len(args) == 0 {
				return s.ExportAudit(s.ctx, s.cmd.OutOrStdout())
			}
			err := writeWhole(args[0], func(w io.Writer) error {
				bar := showProgress("audit", 0, unitBytes)
				defer bar.end()
				return s.ExportAudit(s.ctx, countedWriter{w, bar})
			})
			return ownFile(args[0], err)
		}),
		remoteVerb(verify, func(s *session, args []string) error {
			var kept admin.AuditEntry
			if len(args) > 0 {
				var err error
				if kept, err = lastEntry(args[0]); err != nil {
					return err
				}
			}
			end, err := s.VerifyAudit(s.ctx)
			if err != nil {
				return err
			}
			if kept.Seq > 0 {
				if err := s.goesOnFrom(args[0], kept); err != nil {
					return err
				}
			}
			return printOne(s, end,
				column[admin.AuditEnd]{"seq", func(e *admin.AuditEnd) string { return fmt.Sprint(e.Seq) }},
				column[admin.AuditEnd]{"hash", func(e *admin.AuditEnd) string { return e.Hash }})
		}))
}

// lastEntry is the last entry of an export.
func lastEntry(file string) (last admin.AuditEntry, err error) {
	f, err := os.Open(file)
	if err != nil {
		return last, fileError(file, "read", err)
	}
	defer f.Close()
	for dec := json.NewDecoder(bufio.NewReader(f)); ; {
		var e admin.AuditEntry
		switch err := dec.Decode(&e); {
		case err == io.EOF && last.Seq > 0:
			return last, nil
		case err != nil, e.Seq != last.Seq+1 && last.Seq > 0, e.Hash == "":
			return last, &fingerpost.Error{Code: "bad_file", Message: "this is no whole export of an audit", Hint: "fingerpost audit export " + file + " writes one", At: fingerpost.Position{File: file}}
		}
		last = e
	}
}

// goesOnFrom checks that the audit still has an entry that was kept.
func (s *session) goesOnFrom(file string, kept admin.AuditEntry) error {
	now, err := s.AuditEntry(s.ctx, kept.Seq)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if now.Seq != kept.Seq || now.Hash != kept.Hash {
		return &fingerpost.Error{Code: "audit_broken", Message: fmt.Sprintf("entry %d of the audit is not the one of the export", kept.Seq), At: fingerpost.Position{File: file},
			Hint: "the audit was rewritten, or the store is another one: compare it with a backup"}
	}
	return nil
}
