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
// Tickets are made with the first secret and read with all, whichever is sealed with.
// So a new one costs no resumption between nodes that have both; one that does not have
// it yet asks for a full handshake.
//
// Who has a secret can read the connections that its tickets stand for, but for
// what TLS 1.3 protects by a new key exchange (RFC 8446 2.2), and take them over. Put a
// new secret in its place to end that.
func (s *Sealer) TicketKeys(now time.Time) (keys [][32]byte) {
	period := now.Unix() / int64(TicketPeriod/time.Second)
	for i := range s.keys {
		for _, n := range []int64{period, period - 1, period + 1} {
			keys = append(keys, [32]byte(s.keys[i].derive("session tickets "+strconv.FormatInt(n, 10), 32)))
		}
	}
	return keys
}
