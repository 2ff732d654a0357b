package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/admin/client"

	"github.com/spf13/cobra"
)

// remoteFlags say which server a verb asks, as whom, and how its answer is printed.
type remoteFlags struct{ server, token, data, ca, output string }

const defaultServer = "http://127.0.0.1:9090"

func (f *remoteFlags) register(cmd *cobra.Command) {
	f.registerServer(cmd)
	cmd.Flags().StringVarP(&f.output, "output", "o", formatTable, "`FORMAT` of what is printed: "+strings.Join(formats, ", "))
}

// registerServer registers all but the format.
func (f *remoteFlags) registerServer(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.server, "server", "", "`URL` of the admin listener (default FINGERPOST_SERVER, else "+defaultServer+")")
	cmd.Flags().StringVar(&f.token, "token", "", "`TOKEN` of the API (default FINGERPOST_TOKEN)")
	cmd.Flags().StringVar(&f.data, "data", "", "data `DIR` of a node on this machine, for the first admin's token in it")
	cmd.Flags().StringVar(&f.ca, "ca", "", "`FILE` of certificates that are trusted beside the system's (default FINGERPOST_CA)")
}

// session is a verb at work: the client of its server, and where it prints.
type session struct {
	*client.Client
	server string // its URL
	ctx    context.Context
	cmd    *cobra.Command
	format string
}

// remoteVerb finishes a verb that asks a server.
func remoteVerb(cmd *cobra.Command, do func(s *session, args []string) error) *cobra.Command {
	var f remoteFlags
	f.register(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkFormat(f.output); err != nil {
			return err
		}
		c, err := f.client()
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return remoteError(hintAtList(cmd, do(&session{c, f.address(), ctx, cmd, f.output}, args)))
	}
	return cmd
}

// hintAtList says where the names are, where the server does not have one.
func hintAtList(cmd *cobra.Command, err error) error {
	var p *admin.Problem
	if !isMissing(err) || !errors.As(err, &p) || p.Hint != "" {
		return err
	}
	for _, verb := range cmd.Parent().Commands() {
		if verb.Name() == "list" {
			known := *p
			known.Hint = verb.CommandPath() + " shows what there is"
			return &known
		}
	}
	return err
}

// family is a noun with its verbs.
func family(use, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usage(fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath()))
		}
		return usage(fmt.Errorf("%s takes a verb", cmd.CommandPath()))
	}}
	cmd.AddCommand(verbs...)
	return cmd
}

// address is the URL of the server.
func (f *remoteFlags) address() string {
	return strings.TrimRight(cmp.Or(f.server, os.Getenv("FINGERPOST_SERVER"), defaultServer), "/")
}

func (f *remoteFlags) client() (*client.Client, error) {
	token := f.token
	if token == "" && f.data != "" {
		file := filepath.Join(f.data, "admin.token")
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fileError(file, "read", err)
		}
		token = strings.TrimSpace(string(text))
	}
	h, err := trusting(cmp.Or(f.ca, os.Getenv("FINGERPOST_CA")))
	if err != nil {
		return nil, err
	}
	return client.New(f.address(), cmp.Or(token, os.Getenv("FINGERPOST_TOKEN")), h)
}

// remoteError makes what a server says, or that it says nothing, errors as every
// verb prints them.
func remoteError(err error) error {
	var p *admin.Problem
	var failed *url.Error
	switch {
	case errors.Is(err, context.Canceled):
		return &fingerpost.Error{Code: "interrupted", Message: "interrupted"}
	case errors.As(err, &p):
		return problemErrors(p)
	case errors.As(err, &failed):
		server := failed.URL
		if u, err := url.Parse(server); err == nil {
			server = u.Scheme + "://" + u.Host
		}
		return &fingerpost.Error{Code: "no_server", Message: fmt.Sprintf("no answer from %s: %v", server, failed.Err),
			Hint: cmp.Or(tlsHint(err), "is fingerpost serve running, with its admin listener there? --server URL names another address")}
	}
	return err
}

// inVerbs says what the API's hints say in words of the command line: a parameter is
// a flag here, and a route a verb.
var inVerbs = []struct {
	api  *regexp.Regexp
	here string
}{
	{regexp.MustCompile(`^the fields are those of GET .*`), ""},
	{regexp.MustCompile(`^what it takes stands in GET .*`), "see --help"},
	{regexp.MustCompile(`GET /api/v1/openapi\.json`), "the API's document, /api/v1/openapi.json of the server"},
	{regexp.MustCompile(`GET /api/v1/session\b`), "fingerpost whoami"},
	{regexp.MustCompile(`GET /api/v1/certificates\b`), "fingerpost certs list"},
	{regexp.MustCompile(`GET hosts/\{host\}/certificate`), "fingerpost hosts get NAME"},
	{regexp.MustCompile(`PUT hosts/\{host\}`), "fingerpost hosts set NAME"},
	{regexp.MustCompile(`\ballowLosing=true`), "--allow-losing"},
	{regexp.MustCompile(`\bforce=true`), "--force"},
	{regexp.MustCompile(`\breplace: true`), "--replace"},
	{regexp.MustCompile(`GET /api/v1/(\w+)`), "fingerpost $1 list"},
	{regexp.MustCompile(`PUT /api/v1/teams/\{team\}`), "fingerpost teams set NAME"},
	{regexp.MustCompile(`POST /api/v1/sources/\{label\}/(\w+)`), "fingerpost sources $1 LABEL"},
	{regexp.MustCompile(`POST (/api/v1/)?changesets`), "fingerpost apply"},
	{regexp.MustCompile(`POST redirects\b`), "fingerpost redirects set"},
	{regexp.MustCompile(`\b(take|overwrite)=true`), "--$1"},
	{regexp.MustCompile(`\ballowRemoving=`), "--allow-removing "},
	{regexp.MustCompile(`\bredirects=(delete|keep)`), "--redirects $1"},
	{regexp.MustCompile(`\bjobs/(job-\w+)`), "fingerpost jobs get $1"},
}

func asVerb(hint string) string {
	for _, r := range inVerbs {
		hint = r.api.ReplaceAllString(hint, r.here)
	}
	return hint
}

func problemErrors(p *admin.Problem) error {
	hint := asVerb(p.Hint)
	if p.Status == http.StatusUnauthorized {
		hint = "give a token with --token or FINGERPOST_TOKEN, or --data DIR of a node on this machine"
	}
	if len(p.Errors) == 0 {
		return &fingerpost.Error{Code: p.Code, Message: cmp.Or(p.Detail, p.Title), Hint: hint}
	}
	var errs []error
	for _, f := range p.Errors {
		where := ""
		if f.Line > 0 {
			where = fmt.Sprintf("line %d: ", f.Line)
		}
		if f.Pointer != "" {
			where += strings.ReplaceAll(strings.TrimLeft(f.Pointer, "/?"), "/", ".") + ": "
		}
		errs = append(errs, &fingerpost.Error{Code: f.Code, Message: where + f.Detail, Hint: cmp.Or(asVerb(f.Hint), hint)})
	}
	return errors.Join(errs...)
}

// isMissing reports that the server has no such thing.
func isMissing(err error) bool {
	var p *admin.Problem
	return errors.As(err, &p) && p.Status == http.StatusNotFound && p.Code == "not_found"
}

func (s *session) note(format string, args ...any) {
	fmt.Fprintf(s.cmd.ErrOrStderr(), format+"\n", args...)
}

// confirm asks on a terminal, unless yes has been said already.
func (s *session) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	nobody := &fingerpost.Error{Code: "not_confirmed", Message: "nothing was changed: there is nobody to ask, since the input is no terminal", Hint: "say --yes"}
	if info, err := os.Stdin.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return nobody
	}
	fmt.Fprintf(s.cmd.ErrOrStderr(), "%s [y/N] ", question)
	lines := make(chan string, 1)
	go func() { // it ends with the program, if nobody answers
		line, err := bufio.NewReader(os.Stdin).ReadString('\n')
		if err != nil && line == "" {
			close(lines)
			return
		}
		lines <- line
	}()
	var answer string
	var answered bool
	select {
	case <-s.ctx.Done():
		fmt.Fprintln(s.cmd.ErrOrStderr())
		return s.ctx.Err()
	case answer, answered = <-lines:
	}
	if !answered {
		fmt.Fprintln(s.cmd.ErrOrStderr())
		return nobody
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return &fingerpost.Error{Code: "not_confirmed", Message: "nothing was changed"}
}
