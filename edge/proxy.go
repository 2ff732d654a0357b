package edge

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"fingerpost/telemetry"

	"github.com/pires/go-proxyproto"
)

// Proxy says whose PROXY headers are read (version 1 and 2, as HAProxy defines
// them): those of the addresses in From, and of whoever connects by a UNIX socket,
// which only those can who may reach the file. A header from anybody else ends the
// connection. The zero value reads none.
type Proxy struct {
	Mode ProxyMode
	From []netip.Prefix
}

// ProxyMode is what a trusted header is good for.
type ProxyMode string

const (
	// ProxyUse takes the address of the client from the header, where there is one.
	ProxyUse ProxyMode = "use"
	// ProxyRequire does too, and ends connections without a header, and those from
	// other addresses: nobody is to come past the proxy.
	ProxyRequire ProxyMode = "require"
	// ProxyIgnore reads a header and does not believe it.
	ProxyIgnore ProxyMode = "ignore"
)

// policy is for a connection from an address; false refuses it.
func (p *Proxy) policy(from net.Addr) (policy proxyproto.Policy, ok bool) {
	_, unix := from.(*net.UnixAddr)
	addr := addrPort(from).Addr()
	trusted := unix || slices.ContainsFunc(p.From, func(prefix netip.Prefix) bool { return prefix.Contains(addr) })
	switch {
	case !trusted:
		return proxyproto.REJECT, p.Mode != ProxyRequire
	case p.Mode == ProxyRequire:
		return proxyproto.REQUIRE, true
	case p.Mode == ProxyIgnore:
		return proxyproto.IGNORE, true
	}
	return proxyproto.USE, true
}

// meet finds out who is at the other end of c. It waits for a PROXY header where
// there can be one. If not ok, c is not to be served.
func (f *front) meet(c net.Conn) (conn net.Conn, peer *client, ok bool) {
	if f.s.Proxy.Mode == "" {
		return c, &client{addr: addrPort(c.RemoteAddr()), conn: c}, true
	}
	peer = &client{conn: c, since: time.Now()}
	policy, ok := f.s.Proxy.policy(c.RemoteAddr())
	if !ok {
		f.refused(c, telemetry.ProxyStranger, nil)
		return c, peer, false
	}
	p := proxyproto.NewConn(c, proxyproto.WithPolicy(policy), proxyproto.SetReadHeaderTimeout(f.limits.Header))
	if _, err := p.Read(nil); err != nil {
		reason := telemetry.ProxyInvalid
		switch {
		case errors.Is(err, proxyproto.ErrSuperfluousProxyHeader):
			reason = telemetry.ProxyStranger
		case errors.Is(err, proxyproto.ErrNoProxyProtocol):
			reason = telemetry.ProxyMissing
		}
		f.refused(c, reason, err)
		return c, peer, false
	}
	peer.addr = addrPort(p.RemoteAddr())
	return proxied{p}, peer, true
}

// refused counts a connection that ends for its PROXY header, or for want of one. It is
// mostly a setting that is wrong, on one side or the other, so it is said, but once a
// second at most: anybody can cause it.
func (f *front) refused(c net.Conn, reason telemetry.ProxyRefusal, err error) {
	f.s.Metrics.ProxyRefused(reason)
	if missed, ok := f.s.strangers.next(f.now()); ok {
		f.log.Warn("connection refused for its PROXY header; see listen.proxyProtocol", "reason", string(reason), "from", c.RemoteAddr(), "err", err, "notLogged", missed)
	}
}

// proxied is a connection behind its PROXY header.
type proxied struct{ *proxyproto.Conn }

// CloseWrite is what a lane, or net/http, looks for before it closes.
func (p proxied) CloseWrite() error {
	if half, ok := p.Raw().(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
