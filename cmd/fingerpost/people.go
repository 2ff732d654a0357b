package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/admin/client"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

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
	add := &cobra.Command{Use: "add NAME", Short: "Make a token; its secret is shown this once", Args: exactArgs(1),
		Example: `  fingerpost tokens add ci --role publisher --team marketing --expires 2160h
  fingerpost tokens add report --role viewer --team '*' --scope read
  fingerpost tokens add edge-oslo --scope node`}
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
			switch {
			case t.Scope != "node" && (role == "" || t.Team == ""):
				return usage(errors.New("whose rights? --role ROLE --team NAME, or --scope node"))
			case add.Flags().Changed("expires") && lives <= 0:
				return usage(fmt.Errorf("--expires %s: the token would be good for nothing", lives))
			case lives > 0:
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

var userColumns = []column[admin.UserResource]{
	{"name", func(u *admin.UserResource) string { return u.Name }},
	{"email", func(u *admin.UserResource) string { return u.Email }},
	{"roles", func(u *admin.UserResource) string { return rolesText(u.Roles) }},
	{"disabled", func(u *admin.UserResource) string { return yesOrNothing(u.Disabled) }},
	{"seen", func(u *admin.UserResource) string { return moment(u.Seen) }},
}

func yesOrNothing(v bool) string {
	if v {
		return "yes"
	}
	return ""
}

func rolesText(roles map[string]admin.Role) string {
	var parts []string
	for _, team := range slices.Sorted(maps.Keys(roles)) {
		parts = append(parts, team+"="+string(roles[team]))
	}
	return strings.Join(parts, " ")
}

func usersCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List users", Args: exactArgs(0)}
	get := &cobra.Command{Use: "get NAME", Short: "Show one user", Args: exactArgs(1)}
	remove := &cobra.Command{Use: "delete NAME", Short: "Delete a user and their tokens", Args: exactArgs(1)}
	var yes bool
	remove.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return family("users", "Look at users of a server and change them",
		remoteVerb(list, func(s *session, _ []string) error {
			users, err := s.Users(s.ctx)
			return printSlice(s, users, err, userColumns...)
		}),
		remoteVerb(get, func(s *session, args []string) error {
			u, err := s.User(s.ctx, args[0])
			if err != nil {
				return err
			}
			return printOne(s, u, userColumns...)
		}),
		usersSet(),
		remoteVerb(remove, func(s *session, args []string) error {
			if _, err := s.User(s.ctx, args[0]); err != nil {
				return err
			}
			if err := s.confirm(yes, "Delete the user "+args[0]+" and their tokens?"); err != nil {
				return err
			}
			err := s.DeleteUser(s.ctx, args[0])
			if err == nil {
				s.note("deleted: %s", args[0])
			}
			return err
		}))
}

func usersSet() *cobra.Command {
	var in admin.UserResource
	var roles []string
	var password bool
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Make a user or change one",
		Long: `Make a user or change one. What no flag names stays as it is; an empty value takes it
away. With --password it is asked for on a terminal, and elsewhere it is the first
line of the input.`,
		Example: `  fingerpost users set kari --email kari@example.com --role marketing=editor --password
  fingerpost users set kari --role marketing=publisher --role shop=
  pass show kari | fingerpost users set kari --password`,
		Args: exactArgs(1),
	}
	fl := cmd.Flags()
	fl.StringVar(&in.Email, "email", "", "`ADDRESS`")
	fl.StringVar(&in.Subject, "subject", "", "`SUBJECT` of OIDC: issuer, space, subject")
	fl.StringArrayVar(&roles, "role", nil, "`TEAM=ROLE`: viewer, editor, publisher or admin, the team * for all; TEAM= takes it away; may be given several times")
	fl.BoolVar(&in.Disabled, "disabled", false, "whether they may not log in")
	fl.BoolVar(&password, "password", false, "set a password")
	return remoteVerb(cmd, func(s *session, args []string) error {
		u, err := s.User(s.ctx, args[0])
		if isMissing(err) {
			u = admin.UserResource{}
		} else if err != nil {
			return err
		}
		u.Name = args[0]
		if fl.Changed("email") {
			u.Email = in.Email
		}
		if fl.Changed("subject") {
			u.Subject = in.Subject
		}
		if fl.Changed("disabled") {
			u.Disabled = in.Disabled
		}
		if u.Roles == nil {
			u.Roles = map[string]admin.Role{}
		}
		for _, r := range roles {
			team, role, ok := strings.Cut(r, "=")
			if !ok || team == "" {
				return usage(fmt.Errorf("--role %s: it is TEAM=ROLE, as in marketing=editor", r))
			}
			if delete(u.Roles, team); role != "" {
				u.Roles[team] = admin.Role(role)
			}
		}
		if password {
			if u.Password, err = s.readPassword(); err != nil {
				return err
			}
		}
		if u, err = s.PutUser(s.ctx, u); err != nil {
			return err
		}
		return printOne(s, u, userColumns...)
	})
}

// readPassword asks for a password on a terminal, without showing it.
func (s *session) readPassword() (string, error) {
	none := &fingerpost.Error{Code: "no_password", Message: "there is no password in the input; nothing was changed", Hint: "it is the first line, of at least 12 characters"}
	if fd := int(os.Stdin.Fd()); term.IsTerminal(fd) {
		fmt.Fprint(s.cmd.ErrOrStderr(), "password: ")
		text, err := term.ReadPassword(fd)
		fmt.Fprintln(s.cmd.ErrOrStderr())
		if err == nil && len(text) == 0 {
			return "", none
		}
		return string(text), err
	}
	line, err := bufio.NewReader(s.cmd.InOrStdin()).ReadString('\n')
	line = strings.TrimRight(line, "\r\n")
	switch {
	case err != nil && err != io.EOF:
		return "", err
	case line == "":
		return "", none
	}
	return line, nil
}

var teamColumns = []column[admin.TeamResource]{
	{"name", func(t *admin.TeamResource) string { return t.Name }},
	{"title", func(t *admin.TeamResource) string { return t.Title }},
	{"review", func(t *admin.TeamResource) string { return yesOrNothing(t.Review) }},
	{"created", func(t *admin.TeamResource) string { return moment(t.Created) }},
}

func teamsCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List teams", Args: exactArgs(0)}
	get := &cobra.Command{Use: "get NAME", Short: "Show one team", Args: exactArgs(1)}
	set := &cobra.Command{Use: "set NAME", Short: "Make a team or change one", Args: exactArgs(1),
		Example: "  fingerpost teams set marketing --title Marketing --review on"}
	var title, review string
	set.Flags().StringVar(&title, "title", "", "`TEXT` that people see")
	set.Flags().StringVar(&review, "review", "", "on: editors make drafts, which another one publishes; or off")
	remove := &cobra.Command{Use: "delete NAME", Short: "Delete a team; what it owns stays, for the admins", Args: exactArgs(1)}
	var yes bool
	remove.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return family("teams", "Look at teams of a server and change them",
		remoteVerb(list, func(s *session, _ []string) error {
			teams, err := s.Teams(s.ctx)
			return printSlice(s, teams, err, teamColumns...)
		}),
		remoteVerb(get, func(s *session, args []string) error {
			t, err := s.Team(s.ctx, args[0])
			if err != nil {
				return err
			}
			return printOne(s, t, teamColumns...)
		}),
		remoteVerb(set, func(s *session, args []string) error {
			t, err := s.Team(s.ctx, args[0])
			if isMissing(err) {
				t = admin.TeamResource{}
			} else if err != nil {
				return err
			}
			t.Name = args[0]
			if set.Flags().Changed("title") {
				t.Title = title
			}
			switch {
			case !set.Flags().Changed("review"):
			case review == "on" || review == "off":
				t.Review = review == "on"
			default:
				return usage(fmt.Errorf("--review %s: on or off", review))
			}
			if t, err = s.PutTeam(s.ctx, t); err != nil {
				return err
			}
			return printOne(s, t, teamColumns...)
		}),
		remoteVerb(remove, func(s *session, args []string) error {
			if _, err := s.Team(s.ctx, args[0]); err != nil {
				return err
			}
			hosts := 0
			for _, err := range s.Hosts(s.ctx, client.Filter{Team: args[0]}) {
				if err != nil {
					return err
				}
				hosts++
			}
			s.note("- team %s: %s of it", args[0], plural(hosts, "host"))
			if err := s.confirm(yes, "Delete this team?"); err != nil {
				return err
			}
			err := s.DeleteTeam(s.ctx, args[0])
			if err == nil {
				s.note("deleted: %s", args[0])
			}
			return err
		}))
}

func whoamiCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "whoami", Short: "Show whose token this is, and what it may", Args: exactArgs(0)}
	return remoteVerb(cmd, func(s *session, _ []string) error {
		me, err := s.Session(s.ctx)
		if err != nil {
			return err
		}
		return printOne(s, me,
			column[admin.SessionInfo]{"name", func(v *admin.SessionInfo) string { return v.Name }},
			column[admin.SessionInfo]{"roles", func(v *admin.SessionInfo) string { return rolesText(v.Roles) }},
			column[admin.SessionInfo]{"scope", func(v *admin.SessionInfo) string { return v.Scope }},
			column[admin.SessionInfo]{"token", func(v *admin.SessionInfo) string { return v.Token }})
	})
}
