package main

import (
	"fmt"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/edge"
	"fingerpost/explain"
	"fingerpost/redirect"

	"github.com/spf13/cobra"
)

func explainCommand() *cobra.Command {
	var flags ruleFlags
	var c fingerpost.Case
	var headers []string
	var at, output string
	cmd := &cobra.Command{
		Use:   "explain URL",
		Short: "Show which rule answers an address, and why the others do not",
		Long: `Show which rule answers an address, why the others do not, what is sent, and
where the way goes on. It asks the files, by the code that serves visitors; no
server is needed.`,
		Example: `  fingerpost explain https://www.example.com/jobs
  fingerpost explain --redirects redirects.json --method POST https://www.example.com/jobs
  fingerpost explain --header 'Accept-Language: nb' --at 2026-12-24T18:00:00+01:00 -o json https://www.example.com/`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.URL = args[0]
			if err := parseExplainFlags(&c, headers, at); err != nil {
				return err
			}
			if output != "table" && output != "json" {
				return usage(fmt.Errorf("-o %s: one of table, json", output))
			}
			set, err := flags.open()
			if err != nil {
				return err
			}
			r, err := compile(set)
			if err != nil {
				return err
			}
			req, err := r.newRequest(&c)
			if err != nil {
				return err
			}
			e := r.explain(req)
			if output == "json" {
				return printJSON(cmd.OutOrStdout(), e)
			}
			return e.Print(cmd.OutOrStdout())
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&c.Method, "method", "", "method of the request (default GET)")
	cmd.Flags().StringArrayVar(&headers, "header", nil, "header `'Name: value'` of the request; may be given several times")
	cmd.Flags().StringVar(&c.Country, "country", "", "country of the visitor, as in NO")
	cmd.Flags().StringVar(&c.Address, "address", "", "IP address of the visitor")
	cmd.Flags().StringVar(&at, "at", "", "`TIME` of the request, as in 2026-12-24T18:00:00+01:00 (default now)")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "`FORMAT`: table or json")
	return cmd
}

func parseExplainFlags(c *fingerpost.Case, headers []string, at string) error {
	c.Country = strings.ToUpper(c.Country)
	c.Headers = map[string]string{}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return usage(fmt.Errorf("--header %q has no colon", h))
		}
		c.Headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	if at != "" {
		t, err := time.Parse(time.RFC3339, at)
		if err != nil {
			return usage(fmt.Errorf("--at %q is not a time with a zone, as in 2026-12-24T18:00:00+01:00", at))
		}
		c.At = &t
	}
	return nil
}

func (r *rules) explain(req redirect.Request) *explain.Explanation {
	x := explain.Explainer{Table: r.table, Redirect: r.redirectOf, Header: edge.Header}
	if r.certs != nil {
		x.Covers = r.certs.Covers
	}
	return x.Explain(req)
}
