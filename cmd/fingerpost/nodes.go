package main

import (
	"fmt"
	"strconv"
	"strings"

	"fingerpost/admin"

	"github.com/spf13/cobra"
)

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
	check := &cobra.Command{Use: "check LABEL", Short: "Make the server look at a source that it follows now", Args: exactArgs(1)}
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
		remoteVerb(check, func(s *session, args []string) error {
			err := s.CheckSource(s.ctx, args[0])
			if err == nil {
				s.note("it is looked at; fingerpost sources get %s shows what came of it", args[0])
			}
			return err
		}),
		set("pause LABEL", "Keep a source from being applied", true),
		set("resume LABEL", "Let a source be applied again", false))
}
