package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"fingerpost/admin"
	"fingerpost/admin/client"
	"fingerpost/store"

	"github.com/spf13/cobra"
)

// The smaller families: what a server knows beside its content.

var nodeColumns = []column[admin.NodeResource]{
	{"id", func(n *admin.NodeResource) string { return n.ID }},
	{"roles", func(n *admin.NodeResource) string { return strings.Join(n.Roles, " ") }},
	{"region", func(n *admin.NodeResource) string { return n.Region }},
	{"addresses", func(n *admin.NodeResource) string { return strings.Join(n.Addresses, " ") }},
	{"version", func(n *admin.NodeResource) string { return n.Version }},
	{"health", func(n *admin.NodeResource) string {
		if n.Gone {
			return "vanished"
		}
		return n.Health
	}},
	{"rev", func(n *admin.NodeResource) string { return fmt.Sprint(n.Rev) }},
	{"behind", func(n *admin.NodeResource) string { return fmt.Sprint(n.Behind) }},
	{"seen", func(n *admin.NodeResource) string { return moment(n.Seen) }},
}

func nodesCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the nodes, how each is, and how far", Args: exactArgs(0)}
	forget := &cobra.Command{Use: "delete ID", Short: "Forget a node that is gone", Args: exactArgs(1)}
	return family("nodes", "Look at the nodes of a server, and forget those that are gone",
		remoteVerb(list, func(s *session, _ []string) error {
			nodes, err := s.Nodes(s.ctx)
			return printSlice(s, nodes, err, nodeColumns...)
		}),
		remoteVerb(forget, func(s *session, args []string) error {
			err := s.DeleteNode(s.ctx, args[0])
			if err == nil {
				s.note("forgotten %s; if it lives, it is listed again", args[0])
			}
			return err
		}))
}

var tokenColumns = []column[admin.TokenResource]{
	{"id", func(t *admin.TokenResource) string { return t.ID }},
	{"name", func(t *admin.TokenResource) string { return t.Name }},
	{"role", func(t *admin.TokenResource) string { return string(t.Role) }},
	{"scope", func(t *admin.TokenResource) string { return t.Scope }},
	{"team", func(t *admin.TokenResource) string { return t.Team }},
	{"owner", func(t *admin.TokenResource) string { return t.Owner }},
	{"expires", func(t *admin.TokenResource) string { return moment(t.Expires) }},
	{"used", func(t *admin.TokenResource) string { return moment(t.Used) }},
}

func tokensCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the tokens that you could revoke", Args: exactArgs(0)}
	add := &cobra.Command{Use: "add NAME", Short: "Make a token; its secret is shown this once", Args: exactArgs(1)}
	var t admin.TokenResource
	var role string
	var lives time.Duration
	add.Flags().StringVar(&t.Scope, "scope", "", "`LIMIT` to what the role allows: api, read, draft, write, publish or node")
	add.Flags().StringVar(&role, "role", "", "`ROLE`: viewer, editor, publisher or admin")
	add.Flags().StringVar(&t.Team, "team", "", "`NAME` of the team, or * for all")
	add.Flags().DurationVar(&lives, "expires", 0, "`DURATION` that it is good for, as in 720h (default for ever)")
	remove := &cobra.Command{Use: "delete ID", Short: "Revoke a token", Args: exactArgs(1)}
	return family("tokens", "Look at tokens of a server, make and revoke them",
		remoteVerb(list, func(s *session, _ []string) error {
			tokens, err := s.Tokens(s.ctx)
			return printSlice(s, tokens, err, tokenColumns...)
		}),
		remoteVerb(add, func(s *session, args []string) error {
			t := t
			t.Name, t.Role = args[0], admin.Role(role)
			if lives > 0 {
				t.Expires = time.Now().Add(lives)
			}
			made, err := s.AddToken(s.ctx, t)
			if err != nil {
				return err
			}
			return printOne(s, made, append(tokenColumns[:len(tokenColumns):len(tokenColumns)],
				column[admin.TokenResource]{"secret", func(t *admin.TokenResource) string { return t.Secret }})...)
		}),
		remoteVerb(remove, func(s *session, args []string) error {
			err := s.DeleteToken(s.ctx, args[0])
			if err == nil {
				s.note("revoked %s", args[0])
			}
			return err
		}))
}

var versionColumns = []column[store.Version]{
	{"name", func(v *store.Version) string { return v.Name }},
	{"rev", func(v *store.Version) string { return fmt.Sprint(v.Rev) }},
	{"at", func(v *store.Version) string { return moment(v.At) }},
	{"who", func(v *store.Version) string { return v.Who }},
	{"note", func(v *store.Version) string { return v.Note }},
}

// bringBackFlags are those of restore and revert.
func bringBackFlags(cmd *cobra.Command, b *client.BringBack, yes *bool) {
	cmd.Flags().StringVar(&b.Note, "note", "", "`TEXT` for the audit: why")
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
		remoteVerb(restore, func(s *session, args []string) error {
			return s.bringBack(b, yes, func(b client.BringBack) (admin.Result, error) { return s.Restore(s.ctx, args[0], b) })
		}))
}

func changesCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List revisions, the newest first", Args: exactArgs(0)}
	var limit int
	limitFlag(list, &limit)
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
		remoteVerb(revert, func(s *session, args []string) error {
			rev, err := parseRev(args[0])
			if err != nil {
				return err
			}
			return s.bringBack(b, yes, func(b client.BringBack) (admin.Result, error) { return s.Revert(s.ctx, rev, nil, b) })
		}))
}

var sourceColumns = []column[admin.SourceResource]{
	{"label", func(v *admin.SourceResource) string { return v.Label }},
	{"kind", func(v *admin.SourceResource) string { return v.Kind }},
	{"state", func(v *admin.SourceResource) string { return v.State }},
	{"paused", func(v *admin.SourceResource) string { return strconv.FormatBool(v.Paused) }},
	{"rev", func(v *admin.SourceResource) string { return number(v.Rev) }},
	{"version", func(v *admin.SourceResource) string { return v.Version }},
	{"team", func(v *admin.SourceResource) string { return v.Team }},
	{"error", func(v *admin.SourceResource) string { return v.Error }},
}

func sourcesCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List where content comes from", Args: exactArgs(0)}
	set := func(use, short string, paused bool) *cobra.Command {
		cmd := &cobra.Command{Use: use, Short: short, Args: exactArgs(1)}
		return remoteVerb(cmd, func(s *session, args []string) error {
			v, err := s.PauseSource(s.ctx, args[0], paused)
			if err != nil {
				return err
			}
			return printOne(s, v, sourceColumns...)
		})
	}
	return family("sources", "Look at sources of a server, pause and resume them",
		remoteVerb(list, func(s *session, _ []string) error {
			sources, err := s.Sources(s.ctx)
			return printSlice(s, sources, err, sourceColumns...)
		}),
		set("pause LABEL", "Keep a source from being applied", true),
		set("resume LABEL", "Let a source be applied again", false))
}

func auditCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List who did what, the newest first", Args: exactArgs(0)}
	var kind, key, who string
	var limit int
	list.Flags().StringVar(&kind, "kind", "", "only about this `KIND`: host, redirect, token, …")
	list.Flags().StringVar(&key, "key", "", "only about the one with this `KEY`")
	list.Flags().StringVar(&who, "who", "", "only what this `USER` or source did")
	limitFlag(list, &limit)
	verify := &cobra.Command{Use: "verify", Short: "Check that nothing in the audit was rewritten", Args: exactArgs(0)}
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
		remoteVerb(verify, func(s *session, _ []string) error {
			end, err := s.VerifyAudit(s.ctx)
			if err != nil {
				return err
			}
			return printOne(s, end,
				column[admin.AuditEnd]{"seq", func(e *admin.AuditEnd) string { return fmt.Sprint(e.Seq) }},
				column[admin.AuditEnd]{"hash", func(e *admin.AuditEnd) string { return e.Hash }})
		}))
}
