package dnsapi

import (
	"context"
	"time"

	"github.com/libdns/libdns"
)

// Provider is what is needed of a provider of libdns.
type Provider interface {
	libdns.RecordAppender
	libdns.RecordDeleter
}

// LibDNS is a [Setter] that calls a provider of libdns.
type LibDNS struct {
	Provider Provider
	// Zone gives the zone that a name is in ([order.Resolver.Zone]).
	Zone func(ctx context.Context, name string) (string, error)
}

const (
	recordTTL   = time.Minute
	providerFor = 2 * time.Minute
)

// Set appends the value.
func (l *LibDNS) Set(ctx context.Context, record, value string) error {
	return l.change(ctx, record, libdns.TXT{TTL: recordTTL, Text: value}, l.Provider.AppendRecords)
}

// Remove deletes the value, with whatever TTL the provider has given it.
func (l *LibDNS) Remove(ctx context.Context, record, value string) error {
	return l.change(ctx, record, libdns.TXT{Text: value}, l.Provider.DeleteRecords)
}

func (l *LibDNS) change(ctx context.Context, record string, txt libdns.TXT, fn func(context.Context, string, []libdns.Record) ([]libdns.Record, error)) error {
	limited, cancel := context.WithTimeout(ctx, providerFor)
	defer cancel()
	zone, err := l.Zone(limited, record)
	if err != nil {
		return err
	}
	txt.Name = libdns.RelativeName(record+".", zone+".")
	_, err = fn(limited, zone+".", []libdns.Record{txt})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return &Error{Message: "the DNS provider of " + zone + " refuses", Said: err.Error()}
}
