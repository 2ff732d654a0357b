package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"fingerpost"
	"fingerpost/cert"
	"fingerpost/redirect"
	"fingerpost/source"

	"github.com/spf13/cobra"
)

// ruleFlags are the flags that name files of rules.
type ruleFlags struct {
	config    string
	redirects []string
}

func (f *ruleFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.config, "config", "", "configuration `FILE` (default fingerpost.yaml, if it is here and no --redirects is given)")
	cmd.Flags().StringArrayVar(&f.redirects, "redirects", nil, "`FILE` or folder of redirects; may be given several times")
}

const defaultConfig = "fingerpost.yaml"

// open reads what the flags name.
func (f *ruleFlags) open() (*source.Set, error) {
	if slices.Contains(f.redirects, "") {
		return nil, usage(errors.New("--redirects names no file"))
	}
	if f.config == "" && len(f.redirects) == 0 {
		if _, err := os.Stat(defaultConfig); errors.Is(err, fs.ErrNotExist) {
			return nil, &fingerpost.Error{Code: "no_rules", Message: "no rules: neither --config nor --redirects is given, and there is no " + defaultConfig + " here",
				Hint: "fingerpost init DIR makes a folder to start from, fingerpost demo shows the program at work"}
		}
		f.config = defaultConfig
	}
	return source.Open(f.config, f.redirects)
}

// rules are the content of files, compiled.
type rules struct {
	source.Content
	table *redirect.Table
	certs *cert.Index // nil if no folder of certificates is named
}

// readRules reads and compiles files of any shape, a configuration among them.
func readRules(files []string) (*rules, error) {
	set, err := source.OpenFiles(files)
	if err != nil {
		return nil, err
	}
	return compile(set)
}

func compile(set *source.Set) (*rules, error) {
	r := &rules{Content: set.Content()}
	var err error
	if r.table, err = redirect.Compile(r.Hosts, r.Redirects); err != nil {
		return nil, err
	}
	if s := set.Settings(); s != nil && s.CertificatesDir != "" {
		if r.certs, _, err = cert.Load(s.CertificatesDir); err != nil {
			return nil, err
		}
		return r, checkCertificates(r.Hosts, r.hasCertificate)
	}
	return r, nil
}

// hasCertificate knows the folder's certificates only. Without a folder a name may
// be that of an imported one, which only a server knows.
func (r *rules) hasCertificate(name string) bool {
	return r.certs == nil || r.certs.Named(name) != nil
}

// checkCertificates reports hosts that name a certificate which is not there.
func checkCertificates(hosts []fingerpost.Host, there func(name string) bool) error {
	var errs []error
	for i := range hosts {
		switch name := hosts[i].Certificate; name {
		case "", "auto", "none":
		default:
			if !there(name) {
				errs = append(errs, &fingerpost.Error{Code: "no_certificate", Field: "certificate", At: hosts[i].Source,
					Message: fmt.Sprintf("host %s: there is no certificate named %q", hosts[i].Name, name),
					Hint:    "put " + name + ".crt and " + name + ".key into the folder of certificates.dir, import it, or use auto"})
			}
		}
	}
	return errors.Join(errs...)
}

// waiting lists the hosts that ask for a certificate by themselves and have none.
func waiting(hosts []fingerpost.Host, covers func(string) bool) []string {
	var names []string
	for i := range hosts {
		h := &hosts[i]
		name, err := fingerpost.ParseHostPattern(h.Name)
		if err != nil || h.Certificate != "auto" && h.Certificate != "" || h.Certificate == "" && h.HTTPS == "" {
			continue
		}
		probe := string(name)
		if name.IsWildcard() {
			probe = "any." + name.Suffix()
		}
		if !covers(probe) {
			names = append(names, h.Name)
		}
	}
	return names
}
