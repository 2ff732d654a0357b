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
	cmd.Flags().StringVar(&f.server, "server", "", "`URL` of the admin listener (default FINGERPOST_SERVER, else "+defaultServer+")")
	cmd.Flags().StringVar(&f.token, "token", "", "`TOKEN` of the API (default FINGERPOST_TOKEN)")
	cmd.Flags().StringVar(&f.data, "data", "", "data `DIR` of a node on this machine, for the first admin's token in it")
	cmd.Flags().StringVar(&f.ca, "ca", "", "`FILE` of certificates that are trusted beside the system's (default FINGERPOST_CA)")
	cmd.Flags().StringVarP(&f.output, "output", "o", formatTable, "`FORMAT` of what is printed: "+strings.Join(formats, ", "))
}

// session is a verb at work: the client of its server, and where it prints.
type session struct {
	*client.Client
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
		return remoteError(do(&session{c, ctx, cmd, f.output}, args))
	}
	return cmd
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
	return client.New(cmp.Or(f.server, os.Getenv("FINGERPOST_SERVER"), defaultServer), cmp.Or(token, os.Getenv("FINGERPOST_TOKEN")), h)
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

func problemErrors(p *admin.Problem) error {
	hint := strings.ReplaceAll(p.Hint, "take=true", "--take") // a parameter of the API is a flag here
	if p.Status == http.StatusUnauthorized {
		hint = "give a token with --token or FINGERPOST_TOKEN, or --data DIR of a node on this machine"
	}
	errs := []error{&fingerpost.Error{Code: p.Code, Message: cmp.Or(p.Detail, p.Title), Hint: hint}}
	for _, f := range p.Errors {
		where := ""
		if f.Line > 0 {
			where = fmt.Sprintf("line %d: ", f.Line)
		}
		if f.Pointer != "" {
			where += f.Pointer + ": "
		}
		errs = append(errs, &fingerpost.Error{Code: f.Code, Message: where + f.Detail, Hint: f.Hint})
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
