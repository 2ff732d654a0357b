package edge

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"

	"fingerpost"
	"fingerpost/h1"
)

// connContext gives the requests of a connection that net/http serves what is known of
// it: of one that a lane has handed over, or of HTTP/2 by ALPN.
func (f *front) connContext(ctx context.Context, c net.Conn) context.Context {
	var peer *client
	switch c := c.(type) {
	case *handed:
		peer = c.peer
		peer.badHost = f.badHost(c.rest)
	case *tls.Conn:
		peer = &client{serverName: c.ConnectionState().ServerName}
		ctx = context.WithValue(ctx, newcomerKey{}, &newcomer{conn: c})
	default:
		return ctx
	}
	peer.patience = &patience{hangUp: func() { c.Close() }}
	return context.WithValue(ctx, peerKey{}, peer)
}

// badHost reports whether the Host field of a head is not valid. net/http drops it where
// the target names a host, and minds less.
func (f *front) badHost(head []byte) bool {
	var h h1.Head
	if h.Read(head, f.headLimits()); h.HTTP2 || h.Host == "" && h.HTTP10 {
		return false
	}
	_, _, err := fingerpost.ParseHost(h.Host)
	return err != nil
}

// patience is what we have with a client that begins requests over HTTP/2 and gives
// them up: that costs it next to nothing, and us their answers. Over HTTP/3 it gets
// a new stream only once the one before has ended, which takes its time.
type patience struct {
	answered, givenUp atomic.Int64
	lost              atomic.Bool
	hangUp            func()
}

// mostGivenUp is how many requests one connection may give up; more only if it has
// waited for as many others. A browser gives up those of a page that is left.
const mostGivenUp = 1000

// ended counts r, which has been answered. Over the budget it ends the connection.
func (p *patience) ended(r *http.Request) {
	if p == nil {
		return
	}
	if r.Context().Err() == nil {
		p.answered.Add(1)
		return
	}
	if n := p.givenUp.Add(1); n > mostGivenUp && n > p.answered.Load() && !p.lost.Swap(true) {
		p.hangUp()
	}
}

// patienceOf is nil for HTTP/3.
func patienceOf(r *http.Request) *patience {
	if peer, ok := r.Context().Value(peerKey{}).(*client); ok {
		return peer.patience
	}
	return nil
}
