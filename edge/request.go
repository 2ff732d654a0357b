package edge

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/netip"
	"strings"

	"fingerpost"
)

// noContent is the refusal that is none: OPTIONS * asks for nothing that a
// redirect could answer (RFC 9110 9.3.7).
const noContent = http.StatusNoContent

// read fills x.req, all but Now and Country, from r. A refusal other than 0 is
// the status to send instead of asking the table.
//
// The path is taken from the request target as it was sent: r.URL.Path has its
// escapes decoded.
func (f *front) read(r *http.Request, x *exchange) (refusal int) {
	if len(r.RequestURI) > f.limits.URL {
		return http.StatusRequestURITooLong
	}
	if headSize(r, f.limits.Head) > f.limits.Head {
		return http.StatusRequestHeaderFieldsTooLarge
	}
	q := &x.req
	var err error
	// HTTP/1.0 has no Host (RFC 9112 3.2): only there it may be absent.
	if r.Host != "" || r.ProtoAtLeast(1, 1) {
		if q.Host, q.Port, err = fingerpost.ParseHost(r.Host); err != nil {
			return http.StatusBadRequest
		}
	}
	// RFC 9113 8.3.1: beside :authority, Host can only say the same.
	if r.ProtoMajor >= 2 && len(r.Header["Host"]) > 0 && !strings.EqualFold(r.Header["Host"][0], r.Host) {
		return http.StatusBadRequest
	}
	if r.RequestURI == "*" && r.Method == http.MethodOptions {
		return noContent
	}
	target, ok := pathAndQuery(r.RequestURI)
	// RFC 9113 8.3.1: :path has no absolute-form, :authority is the host.
	if !ok || r.ProtoMajor >= 2 && r.RequestURI[0] != '/' {
		return http.StatusBadRequest
	}
	path, query, hasQuery := strings.Cut(target, "?")
	if q.Path, err = fingerpost.ParsePath(path); err != nil {
		return http.StatusBadRequest
	}
	if f.https && f.misdirected(r.TLS, q.Host) {
		return http.StatusMisdirectedRequest
	}

	q.Target, q.Query = target, query
	if path == "" {
		q.Target = "/"
		if hasQuery {
			q.Target = "/?" + query
		}
	}
	q.Method = r.Method
	q.HTTPS = f.https
	q.HTTP10 = !r.ProtoAtLeast(1, 1)
	q.Header = r.Header
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		q.Addr = peer.Addr().Unmap().WithZone("")
	}
	q.Covered = f.s.Covered
	if !f.https && q.Port == f.port && f.port != "80" {
		// The visitor came to our own port, so our own https port is the one to
		// go to. Any other port is a mapping's in front of us, which hides ours.
		if p := f.s.httpsPort.Load(); p != nil && *p != "443" {
			q.HTTPSPort = *p
		}
	}
	return 0
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

// pathAndQuery cuts them out of a request target in origin-form or
// absolute-form (RFC 9112 3.2). Spaces, control bytes and fragments are no part
// of either; HTTP/2 lets them through in the query.
func pathAndQuery(target string) (s string, ok bool) {
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c == 0x7f || c == '#' {
			return "", false
		}
	}
	if target != "" && target[0] == '/' {
		return target, true
	}
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
		return "", false // authority-form and the asterisk too
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	// RFC 9110 4.2.4: a user name in the target is an attempt to deceive.
	if strings.IndexByte(rest[:end], '@') >= 0 {
		return "", false
	}
	return rest[end:], true
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
func (f *front) misdirected(state *tls.ConnectionState, host string) bool {
	if state == nil || state.ServerName == "" || strings.EqualFold(state.ServerName, host) {
		return false
	}
	hello := anyClient
	hello.ServerName = state.ServerName
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
