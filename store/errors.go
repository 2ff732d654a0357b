package store

import (
	"errors"
	"fmt"
	"strings"
)

// What a caller branches on, with errors.Is. All else is a fault of the database
// or the program.
var (
	ErrNotFound    = errors.New("not found")
	ErrConflict    = errors.New("conflict")                                    // a *Conflict or Conflicts says with what
	ErrMoved       = errors.New("the store has moved on")                      // Base is not the newest revision
	ErrStale       = errors.New("the content was changed")                     // since the revision Since
	ErrCancelled   = errors.New("cancelled")                                   // of a changeset, with ErrConflict
	ErrPaused      = errors.New("the source is paused")                        // it publishes nothing until it is resumed
	ErrInvalid     = errors.New("invalid")                                     // of the caller's making; the message says what
	ErrTooLarge    = errors.New("too many changes for one transaction")        // Stage them
	ErrKeyReused   = errors.New("idempotency key was used for something else") // with other content in the last 24 hours
	ErrTooOld      = errors.New("older than what is kept")                     // of a cursor: fetch a snapshot
	ErrExists      = errors.New("exists already")
	ErrUnavailable = errors.New("database not available")                   // nothing was written; try again later
	ErrUnknown     = errors.New("result is not known")                      // it was written or not: repeat it with the same Key to learn which
	ErrFull        = errors.New("no room left on the disk of the database") // nothing was written
	ErrClosed      = errors.New("store is closed")                          // nothing was written
	ErrFenced      = errors.New("lease is another's")                       // the holder has changed
	ErrCorrupt     = errors.New("checksum does not match")                  // of a backup or the audit chain
)

// Conflict says why one change was refused. errors.Is(err, ErrConflict) holds.
type Conflict struct {
	Kind, Key string
	Want      int64  // the revision that was expected, Absent, or 0 for none
	Now       *Item  // what the item is; nil if there is none
	Reason    string // one line
}

func (c *Conflict) Error() string {
	return fmt.Sprintf("%s %s: %s", c.Kind, c.Key, c.Reason)
}

// Is makes a Conflict an ErrConflict.
func (c *Conflict) Is(target error) bool { return target == ErrConflict }

// Conflicts are the reasons why a revision cannot be reverted.
type Conflicts []*Conflict

func (c Conflicts) Error() string {
	var lines []string
	for i, one := range c {
		if i == 10 {
			lines = append(lines, fmt.Sprintf("and %d more", len(c)-i))
			break
		}
		lines = append(lines, one.Error())
	}
	return strings.Join(lines, "\n")
}

// Is makes Conflicts an ErrConflict.
func (c Conflicts) Is(target error) bool { return target == ErrConflict }

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}
