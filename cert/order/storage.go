package order

import (
	"context"
	"errors"
)

// Record is one value under a kind and a key.
type Record struct {
	Kind, Key string
	Value     []byte // JSON; nil deletes
}

// The kinds that are written here. Keys have no more than 1,024 bytes.
const (
	KindAccount     = "acme-account"     // key: directory URL, and "#" with the EAB key id where there is one
	KindOrder       = "acme-order"       // key: Order.ID; gone once the order has ended and its result stands elsewhere
	KindName        = "acme-name"        // key: the name; value: NameState
	KindDue         = "acme-due"         // key: time, "/", Certificate.ID; when to ask for its renewal information
	KindPast        = "acme-past"        // key: time, "/", Order.ID; what CAs have counted, for a week
	KindAsk         = "acme-ask"         // key: time, "/", something random; value: Ask
	KindEvent       = "acme-event"       // key: time, "/", something random; value: Event
	KindCertificate = "acme-certificate" // key: Certificate.ID; value: Certificate. To be told to all nodes (a feed item)
)

// Storage keeps what must not be forgotten: a transactional table of records.
//
// When Write returns nil, all of its records are durable and every later read,
// on any node, sees them; on an error none of them is, except where the answer
// was lost, and then writing the same again is harmless. Implementations retry
// what passes by itself; callers do not. ErrRefused says that the same will never be taken.
type Storage interface {
	// Get gives the value of one record, or ErrNoRecord.
	Get(ctx context.Context, kind, key string) ([]byte, error)
	// Range lists at most limit records of a kind with from <= key < to, in the
	// order of the bytes of their keys; an empty to has no end.
	Range(ctx context.Context, kind, from, to string, limit int) ([]Record, error)
	// Write puts and deletes all records or none. It fails with ErrFenced once
	// the lease under which fence was given has gone to another: the check and
	// the writes are one transaction.
	Write(ctx context.Context, fence int64, records ...Record) error
}

var (
	ErrNoRecord = errors.New("no such record")
	ErrFenced   = errors.New("another node orders certificates now")
	ErrRefused  = errors.New("the storage does not take this")
)

// Lease says who orders: one process of all. It is for 20 seconds at least, and its
// holder is a process, not a node: one that was started again must have another
// fence than the one before, which may still be dying.
type Lease interface {
	// Acquire takes the lease, or holds on to it, and gives its fence, which
	// grows with each change of the holder. ErrFenced: another has it.
	Acquire(ctx context.Context) (fence int64, err error)
	// Release gives it back before it expires.
	Release(ctx context.Context) error
}
