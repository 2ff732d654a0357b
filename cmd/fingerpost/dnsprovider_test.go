package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/libdns/libdns"

	"fingerpost"
	"fingerpost/cert/dnsapi"
	"fingerpost/cert/order"
)

// noProvider is a provider of libdns that takes everything.
type noProvider struct{}

func (noProvider) AppendRecords(_ context.Context, _ string, list []libdns.Record) ([]libdns.Record, error) {
	return list, nil
}

func (noProvider) DeleteRecords(_ context.Context, _ string, list []libdns.Record) ([]libdns.Record, error) {
	return list, nil
}

// TestDNSProviderIsTheHookOrWhatIsLinkedIn changes what a build links in: it does not
// run beside others.
func TestDNSProviderIsTheHookOrWhatIsLinkedIn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	resolver := new(order.Resolver)
	for _, hook := range []string{file, file + "-none"} { // not executable, not there
		var e *fingerpost.Error
		if _, err := dnsProvider([]string{hook}, resolver); !errors.As(err, &e) || e.Code != "no_dns_hook" || e.Hint == "" {
			t.Errorf("%s: %v", hook, err)
		}
	}
	if s, err := dnsProvider(nil, resolver); s != nil || err != nil {
		t.Errorf("without any: %v, %v", s, err)
	}
	t.Cleanup(func() { linkedProvider = nil })
	linkedProvider = func() (dnsapi.Provider, error) { return nil, errors.New("no token") }
	if _, err := dnsProvider(nil, resolver); err == nil || !strings.Contains(err.Error(), "no token") {
		t.Errorf("a provider that cannot be used: %v", err)
	}
	linkedProvider = func() (dnsapi.Provider, error) { return noProvider{}, nil }
	if s, err := dnsProvider(nil, resolver); err != nil || s.Setter.(*dnsapi.LibDNS).Provider != (noProvider{}) {
		t.Errorf("linked in: %v, %v", s, err)
	}
	if s, err := dnsProvider([]string{"sh"}, resolver); err != nil || !slices.Equal(s.Setter.(*dnsapi.Hook).Command, []string{"sh"}) {
		t.Errorf("a hook, and linked in: %v, %v", s, err)
	}
}

// TestSolverWithoutProviderFailsTheNamesAlone: the setting has gone since the order
// was opened.
func TestSolverWithoutProviderFailsTheNamesAlone(t *testing.T) {
	s := new(solver)
	stays := order.Challenge{Name: "b.example", Type: order.DNSPersist01, Record: "_validation-persist.b.example", TXT: "v"}
	gone := order.Challenge{Name: "a.example", Type: order.DNS01, Record: "_acme-challenge.a.example", TXT: "v", Provider: true}
	var unshown order.Unshown
	if err := s.Present(t.Context(), []order.Challenge{stays, gone}); !errors.As(err, &unshown) || len(unshown) != 1 || unshown[gone].Code != order.CodeProvider {
		t.Errorf("got %v", err)
	}
	if err := s.Present(t.Context(), []order.Challenge{stays}); err != nil {
		t.Errorf("what a person has set: %v", err)
	}
	if err := s.Remove(t.Context(), []order.Challenge{stays, gone}); err != nil {
		t.Error(err)
	}
}
