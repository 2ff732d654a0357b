package main

import (
	"errors"
	"slices"
	"testing"

	"fingerpost"

	"github.com/spf13/pflag"
)

func TestFlagsComeBeforeTheEnvironment(t *testing.T) {
	t.Setenv("FINGERPOST_HTTP", ":1")
	t.Setenv("FINGERPOST_HTTPS", "")
	t.Setenv("FINGERPOST_ADMIN", ":3")
	t.Setenv("FINGERPOST_REDIRECTS", "")
	t.Setenv("FINGERPOST_DRY_RUN", "true")
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	http := flags.String("http", "default", "")
	https := flags.String("https", "default", "")
	admin := flags.String("admin", "default", "")
	redirects := flags.StringArray("redirects", nil, "")
	dry := flags.Bool("dry-run", false, "")
	if err := errors.Join(flags.Parse([]string{"--admin", ":9"}), fromEnvironment(flags)); err != nil {
		t.Fatal(err)
	}
	if *http != ":1" || *https != "" || *admin != ":9" || len(*redirects) != 0 || !*dry {
		t.Errorf("http %q, https %q, admin %q, redirects %q, dry-run %v", *http, *https, *admin, *redirects, *dry)
	}
	// What came from the environment wins against the configuration file.
	if !flags.Changed("https") || flags.Changed("redirects") {
		t.Error("what is set in the environment does not count as given, or what is not does")
	}
	t.Setenv("FINGERPOST_DRY_RUN", "perhaps")
	var misuse usageError
	flags = pflag.NewFlagSet("serve", pflag.ContinueOnError)
	flags.Bool("dry-run", false, "")
	if err := fromEnvironment(flags); !errors.As(err, &misuse) {
		t.Errorf("got %v, want a usage error", err)
	}
}

func TestHostsThatWaitForACertificate(t *testing.T) {
	hosts := []fingerpost.Host{
		{Name: "plain.example"},
		{Name: "covered.example", Certificate: "auto"},
		{Name: "auto.example", Certificate: "auto"},
		{Name: "policy.example", HTTPS: fingerpost.RedirectToHTTPS},
		{Name: "none.example", HTTPS: fingerpost.RedirectToHTTPS, Certificate: "none"},
		{Name: "*.wild.example", Certificate: "auto"},
		{Name: "*.bare.example", Certificate: "auto"},
	}
	covered := []string{"covered.example", "any.wild.example"}
	got := waiting(hosts, func(host string) bool { return slices.Contains(covered, host) })
	if want := []string{"auto.example", "policy.example", "*.bare.example"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
