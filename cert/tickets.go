package cert

import (
	"strconv"
	"time"
)

// TicketPeriod is how long session tickets are made with one key.
const TicketPeriod = 12 * time.Hour

// TicketKeys are for tls.Config.SetSessionTicketKeys: the key of this period to
// make tickets with, those of the one before and the next to read them. They
// follow from the cluster's secret, so that a client may come back to any node;
// the next one is read before anybody makes tickets with it, so that clocks may
// differ. Set them anew every hour or so.
//
// Who has the secret can read the connections that tickets stand for, but for
// what TLS 1.3 protects by a new key exchange (RFC 8446 2.2). Put a new secret
// before the old one to end that.
func (s *Sealer) TicketKeys(now time.Time) [][32]byte {
	period := now.Unix() / int64(TicketPeriod/time.Second)
	key := func(n int64) [32]byte { return s.Derive("session tickets " + strconv.FormatInt(n, 10)) }
	return [][32]byte{key(period), key(period - 1), key(period + 1)}
}
