package edge

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"fingerpost"
	"fingerpost/redirect"
)

// noContent is the refusal that is none: OPTIONS * asks for nothing that a
// redirect could answer (RFC 9110 9.3.7).
const noContent = http.StatusNoContent

// incoming is a request as it was sent, by whichever door it came.
type incoming struct {
	method, target string
	host           string // of the Host field or :authority; once read, of the target in absolute-form
	badHost        bool   // the Host field is none, whatever host is
	http10         bool
	multiplexed    bool // HTTP/2 and later: a target in origin-form is all there is
	header         redirect.Header
	remote         netip.AddrPort
	serverName     string // of the connection, "" for none
}

// received makes an incoming of what net/http has read.
func received(r *http.Request) incoming {
	in := incoming{method: r.Method, target: r.RequestURI, host: r.Host, http10: !r.ProtoAtLeast(1, 1), multiplexed: r.ProtoMajor >= 2, header: r.Header, serverName: serverName(r)}
	if peer, ok := r.Context().Value(peerKey{}).(*client); ok {
		in.badHost = peer.badHost
	}
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		in.remote = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
	}
	return in
}

// checkMultiplexed is what is left to us of a request over HTTP/2 and 3.
func (f *front) checkMultiplexed(r *http.Request) (refusal int) {
	switch {
	case r.ProtoMajor < 2:
		return 0 // h1 has
	case len(r.RequestURI) > f.limits.URL:
		return http.StatusRequestURITooLong
	case headSize(r, f.limits.Head) > f.limits.Head:
		return http.StatusRequestHeaderFieldsTooLarge
	// RFC 9113 8.3.1: beside :authority, Host can only say the same.
	case slices.ContainsFunc(r.Header["Host"], func(host string) bool { return !strings.EqualFold(host, r.Host) }):
		return http.StatusBadRequest
	}
	return 0
}

// read fills x.req, all but Now and Country. A refusal other than 0 is the status
// to send instead of asking the table.
//
// The path is taken from the request target as it was sent, with its escapes.
func (f *front) read(in *incoming, x *exchange) (refusal int) {
	q := &x.req
	target, scheme, authority, ok := cutTarget(in.target)
	if in.badHost || !validHost(in.host, in.http10, q) {
		return http.StatusBadRequest
	}
	if authority != "" {
		in.host = authority // RFC 9112 3.2.2: whatever the Host field says, but that it must be one
		if !validHost(authority, false, q) {
			return http.StatusBadRequest
		}
	}
	if in.target == "*" && in.method == http.MethodOptions {
		return noContent
	}
	// RFC 9113 8.3.1: :path has no absolute-form, :authority is the host.
	if !ok || in.multiplexed && in.target[0] != '/' {
		return http.StatusBadRequest
	}
	path, query, hasQuery := strings.Cut(target, "?")
	var err error
	if q.Path, err = fingerpost.ParsePath(path); err != nil {
		return http.StatusBadRequest
	}
	// RFC 9110 7.4: what is asked for by https may not be answered in the clear. Nor the
	// other way round: rules tell the two apart.
	if scheme != "" && strings.EqualFold(scheme, "https") != f.https {
		return http.StatusMisdirectedRequest
	}
	if f.https && f.misdirected(in.serverName, q.Host) {
		return http.StatusMisdirectedRequest
	}

	q.Target, q.Query = target, query
	if path == "" {
		q.Target = "/"
		if hasQuery {
			q.Target = "/?" + query
		}
	}
	q.Method = in.method
	q.HTTPS = f.https
	q.HTTP10 = in.http10
	q.Header = in.header
	q.Addr = in.remote.Addr().WithZone("")
	q.Covered = f.s.Covered
	if f.altSvc != nil && !f.http3Ended.Load() && (q.Port == f.port || q.Port == "" && f.port == "443") {
		// Who came by another port knows us by that of a mapping in front of us,
		// and ours may lead nowhere.
		x.altSvc = f.altSvc
	}
	if !f.https && q.Port == f.port && f.port != "80" {
		// The visitor came to our own port, so our own https port is the one to
		// go to. Any other port is a mapping's in front of us, which hides ours.
		if p := f.s.httpsPort.Load(); p != nil && *p != "443" {
			q.HTTPSPort = *p
		}
	}
	return 0
}

// validHost takes a Host field or an authority apart, into q. HTTP/1.0 has no Host
// (RFC 9112 3.2): only there it may be absent.
func validHost(host string, mayBeAbsent bool, q *redirect.Request) bool {
	if host == "" && mayBeAbsent {
		return true
	}
	var err error
	q.Host, q.Port, err = fingerpost.ParseHost(host)
	return err == nil
}

// headSize is the size of r's head as it would be in HTTP/1.1. Counting ends
// once it is over limit.
func headSize(r *http.Request, limit int) int {
	n := len(r.Method) + len(r.RequestURI) + len(r.Proto) + len(" ") + len(" ") + len("\r\n")
	n += len("Host: ") + len(r.Host) + len("\r\n") + len("\r\n")
	for name, values := range r.Header {
		for _, value := range values {
			n += len(name) + len(": ") + len(value) + len("\r\n")
		}
		if n > limit {
			break
		}
	}
	return n
}

// cutTarget takes a request target in origin-form or absolute-form (RFC 9112 3.2)
// apart: its path and query, and its scheme and authority, "" in origin-form. Spaces, control
// bytes and fragments are no part of either; HTTP/2 lets them through in the query.
func cutTarget(target string) (pathAndQuery, scheme, authority string, ok bool) {
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c == 0x7f || c == '#' {
			return "", "", "", false
		}
	}
	if target != "" && target[0] == '/' {
		return target, "", "", true
	}
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
		return "", "", "", false // authority-form and the asterisk too
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	// RFC 9110 4.2.4: a user name in the target is an attempt to deceive.
	if end == 0 || strings.IndexByte(rest[:end], '@') >= 0 {
		return "", "", "", false
	}
	return rest[end:], scheme, rest[:end], true
}

// anyClient is a hello that every certificate will do for.
var anyClient = tls.ClientHelloInfo{
	SupportedVersions: []uint16{tls.VersionTLS13},
	SignatureSchemes: []tls.SignatureScheme{
		tls.ECDSAWithP256AndSHA256, tls.ECDSAWithP384AndSHA384, tls.ECDSAWithP521AndSHA512, tls.Ed25519,
		tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PSSWithSHA512,
	},
}

// misdirected reports whether host has no business on a connection that was
// opened for another server name (RFC 9110 15.5.20): 421 makes a browser that
// shares the connection try again on its own. A host that the same certificate
// covers may share it (RFC 9113 9.1.1).
//
// A connection does not tell which certificate it was opened with, and a
// resumed one was shown none: what its server name gets today stands in.
func (f *front) misdirected(serverName, host string) bool {
	if serverName == "" || strings.EqualFold(serverName, host) {
		return false
	}
	hello := anyClient
	hello.ServerName = serverName
	cert, err := f.s.Certificate(&hello)
	if err != nil || cert == nil {
		return true
	}
	leaf := cert.Leaf
	if leaf == nil {
		if leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return true
		}
	}
	return leaf.VerifyHostname(host) != nil
}
