package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/store"

	"github.com/spf13/cobra"
)

func nodesCommand() *cobra.Command {
	remove := &cobra.Command{Use: "delete ID", Short: "Forget a node that is gone for good; one that runs comes back by itself", Args: exactArgs(1)}
	list := &cobra.Command{Use: "list", Short: "List the nodes and what each serves", Args: exactArgs(0)}
	return family("nodes", "Look at the nodes of a server",
		remoteVerb(list, func(s *session, _ []string) error {
			nodes, err := s.Nodes(s.ctx)
			return printSlice(s, nodes, err,
				column[store.Node]{"id", func(n *store.Node) string { return n.ID }},
				column[store.Node]{"roles", func(n *store.Node) string { return strings.Join(n.Roles, " ") }},
				column[store.Node]{"region", func(n *store.Node) string { return n.Region }},
				column[store.Node]{"addresses", func(n *store.Node) string { return strings.Join(n.Addresses, " ") }},
				column[store.Node]{"version", func(n *store.Node) string { return n.Version }},
				column[store.Node]{"health", func(n *store.Node) string { return n.Health }},
				column[store.Node]{"rev", func(n *store.Node) string { return fmt.Sprint(n.Rev) }},
				column[store.Node]{"seen", func(n *store.Node) string { return moment(n.Seen) }})
		}),
		remoteVerb(remove, func(s *session, args []string) error {
			nodes, err := s.Nodes(s.ctx)
			if err == nil && !slices.ContainsFunc(nodes, func(n store.Node) bool { return n.ID == args[0] }) {
				err = &fingerpost.Error{Code: "not_found", Message: "there is no node " + args[0], Hint: "fingerpost nodes list shows what there is"}
			}
			if err != nil {
				return err
			}
			if err = s.DeleteNode(s.ctx, args[0]); err == nil {
				s.note("forgotten: %s", args[0])
			}
			return err
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
	{"checked", func(v *admin.SourceResource) string { return moment(v.Checked) }},
	{"error", func(v *admin.SourceResource) string { return v.Error }},
}

func sourcesCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List where content comes from", Args: exactArgs(0)}
	get := &cobra.Command{Use: "get LABEL", Short: "Show one source", Args: exactArgs(1)}
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
		remoteVerb(get, func(s *session, args []string) error {
			v, err := s.Source(s.ctx, args[0])
			if err != nil {
				return err
			}
			return printOne(s, v, sourceColumns...)
		}),
		set("pause LABEL", "Keep a source from being applied", true),
		set("resume LABEL", "Let a source be applied again", false))
}
