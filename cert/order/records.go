package order

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
// writes is known and must not be lost while we have the lease.
func (i *Issuer) write(ctx context.Context, fence int64, records ...Record) error {
	if len(records) == 0 {
		return nil
	}
	for {
		err := i.Driver.Storage.Write(ctx, fence, records...)
		if err == nil || errors.Is(err, ErrFenced) || ctx.Err() != nil {
			return err
		}
		i.Log.WarnContext(ctx, "a result is not stored yet; trying on", "error", err)
		sleep(ctx, time.Second)
	}
}

// together is how many records are deleted in one write. A certificate stands for as
// many changes as it has names, of which a storage takes a thousand or so at once.
const together = 5

// forget deletes records that do not depend on each other.
func (i *Issuer) forget(ctx context.Context, fence int64, records []Record) error {
	for piece := range slices.Chunk(records, together) {
		i.records <- struct{}{}
		err := i.write(ctx, fence, piece...)
		<-i.records
		if err != nil {
			return err
		}
	}
	return nil
}
