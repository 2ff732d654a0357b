package order

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"fingerpost/cert/planner"
)

// Certificate is one that was issued, the value of a [KindCertificate] record.
// It is durable, and so on its way to all nodes, before the certificate that it
// takes the place of can go.
type Certificate struct {
	ID         string         `json:"id"`
	Names      []string       `json:"names"`
	CA         string         `json:"ca"`
	Profile    string         `json:"profile,omitempty"` // of the CA
	Account    string         `json:"account,omitempty"`
	Policy     planner.Policy `json:"policy"`
	NotBefore  time.Time      `json:"notBefore"`
	NotAfter   time.Time      `json:"notAfter"`
	Window     planner.Window `json:"window,omitzero"` // what ARI says
	Replaces   string         `json:"replaces,omitempty"`
	Replaced   bool           `json:"replaced,omitempty"`
	Revoked    time.Time      `json:"revoked,omitzero"`
	RevokedFor string         `json:"revokedFor,omitempty"` // one of [RevocationReasons]
	ARI        string         `json:"ari"`                  // CertID
	Chain      []byte         `json:"chain"`
	Key        []byte         `json:"key"` // sealed
}

// past is the value of a KindPast record.
type past struct {
	Plan   planner.Order `json:"plan"`
	Issued time.Time     `json:"issued,omitzero"`
}

func record(kind, key string, v any) Record {
	value, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("order: encode %s %s: %v", kind, key, err)) // no field of these can fail
	}
	return Record{Kind: kind, Key: key, Value: value}
}

// instant is a time as a key, in the order of time.
func instant(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// write is Storage.Write, again and again where it fails for what passes: what it
// writes is known and must not be lost while we have the lease. What the storage will
// never take is left out, with an error in the log.
func (i *Issuer) write(ctx context.Context, fence int64, records ...Record) error {
	if len(records) == 0 {
		return nil
	}
	for {
		err := i.Driver.Storage.Write(ctx, fence, records...)
		if err == nil || errors.Is(err, ErrFenced) || ctx.Err() != nil {
			return err
		}
		if errors.Is(err, ErrRefused) && len(records) > 1 { // one of them; each by itself is as good, if not at once
			for _, r := range records {
				if err := i.write(ctx, fence, r); err != nil {
					return err
				}
			}
			return nil
		}
		if errors.Is(err, ErrRefused) {
			i.Log.ErrorContext(ctx, "a result is not stored, since the storage does not take it", "kind", records[0].Kind, "key", records[0].Key, "error", err)
			return nil
		}
		i.Log.WarnContext(ctx, "a result is not stored yet; trying on", "error", err)
		sleep(ctx, time.Second)
	}
}

// How many records are deleted in one write. A certificate stands for as many changes as
// it has names, of which a storage takes a thousand or so at once.
const (
	certificatesTogether = 5
	recordsTogether      = 500
)

// forget deletes records that do not depend on each other.
func (i *Issuer) forget(ctx context.Context, fence int64, records []Record) error {
	for len(records) > 0 {
		n, certificates := 0, 0
		for n < min(len(records), recordsTogether) && certificates < certificatesTogether {
			if records[n].Kind == KindCertificate {
				certificates++
			}
			n++
		}
		piece := records[:n]
		records = records[n:]
		i.records <- struct{}{}
		err := i.write(ctx, fence, piece...)
		<-i.records
		if err != nil {
			return err
		}
	}
	return nil
}
