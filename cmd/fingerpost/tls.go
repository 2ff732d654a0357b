package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"fingerpost"
	"fingerpost/source"
)

// TLS of the admin listener: that of the server here, and what its clients (verbs,
// edges) need to trust it.

// keyPair is a certificate in two files, which may change.
type keyPair struct {
	certificate, key string
	files            *source.Paths
	current          atomic.Pointer[tls.Certificate]
}

func openKeyPair(certificate, key string) (*keyPair, error) {
	p := &keyPair{certificate: certificate, key: key, files: source.OpenPaths(certificate, key)}
	return p, p.load()
}

// load takes what the files hold, or leaves what was there before.
func (p *keyPair) load() error {
	pair, err := tls.LoadX509KeyPair(p.certificate, p.key)
	if err != nil {
		e := &fingerpost.Error{Code: "admin_tls", Field: "listen.adminTLS", Message: fmt.Sprintf("the certificate %s with the key %s cannot be used: %v", p.certificate, p.key, err),
			Hint: "PEM files: the certificate with its chain, and its key without a passphrase"}
		return e
	}
	p.current.Store(&pair)
	return nil
}

func (p *keyPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.current.Load(), nil }

// notAfter is when the certificate expires.
func (p *keyPair) notAfter() time.Time { return p.current.Load().Leaf.NotAfter }

// adminTLS makes the TLS of the admin listener; nil for plain http.
func (n *node) adminTLS() (*tls.Config, error) {
	a := n.settings.Listen.AdminTLS
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	switch {
	case a.Certificate != "":
		var err error
		if n.adminPair, err = openKeyPair(a.Certificate, a.Key); err != nil {
			return nil, err
		}
		n.warnExpired()
		c.GetCertificate = n.adminPair.get
	case a.Name == "auto" && n.certs.Index().Len() == 0:
		return nil, &fingerpost.Error{Code: "admin_tls", Field: "listen.adminTLS", Message: "listen.adminTLS is auto, and there is no certificate", Hint: "put one into the folder of certificates.dir, or name a pair of files: {certificate: FILE, key: FILE}"}
	case a.Name == "auto":
		c.GetCertificate = n.certs.Certificate
	case a.Name != "":
		if !n.certs.Covers(a.Name) {
			return nil, &fingerpost.Error{Code: "admin_tls", Field: "listen.adminTLS", Message: "listen.adminTLS is " + a.Name + ", and there is no valid certificate for that name", Hint: "put one into the folder of certificates.dir, or name a pair of files: {certificate: FILE, key: FILE}"}
		}
		c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			named := *hello
			named.ServerName = a.Name
			return n.certs.Certificate(&named)
		}
	default:
		return nil, nil
	}
	return c, nil
}

// warnExpired says that nobody can verify the certificate any more: visitors are
// served all the same.
func (n *node) warnExpired() {
	if end := n.adminPair.notAfter(); time.Now().After(end) {
		n.log.Error("the certificate of the admin listener has expired", "file", n.adminPair.certificate, "expired", end, "hint", "renew it: the file is watched")
	}
}

// watchAdminTLS takes new certificates of the admin listener until ctx ends.
func (n *node) watchAdminTLS(ctx context.Context) {
	if n.adminPair == nil {
		return
	}
	go n.adminPair.files.Watch(ctx, func() {
		if err := n.adminPair.load(); err != nil {
			n.logErrors("the certificate of the admin listener was refused, the one before stays", err)
			return
		}
		n.log.Info("a certificate of the admin listener is in force", "file", n.adminPair.certificate, "until", n.adminPair.notAfter())
		n.warnExpired()
	})
}

// checkPlainAdmin refuses an admin listener in the clear that others can reach.
func checkPlainAdmin(ln net.Listener) error {
	if addr, ok := ln.Addr().(*net.TCPAddr); ok && addr.IP.IsLoopback() {
		return nil
	}
	return &fingerpost.Error{Code: "plain_admin", Field: "listen.admin", Message: "the admin listener on " + ln.Addr().String() + " would be plain http that other machines can reach",
		Hint: "set listen.adminTLS in the configuration, or listen on 127.0.0.1 and put a proxy that speaks TLS before it"}
}

// trusting makes a client that also trusts the authorities in a file of PEM
// certificates; without a file, those of the system alone. It follows no
// redirects: they could lead a token elsewhere.
func trusting(file string) (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fileError(file, "read", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(text) {
			return nil, &fingerpost.Error{Code: "bad_ca", Message: file + " holds no certificate", Hint: "--ca names a file of PEM certificates, each from -----BEGIN CERTIFICATE----- on"}
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}

// tlsHint says what to do about a server that cannot be trusted; empty for errors
// of another kind.
func tlsHint(err error) string {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &unknown):
		return "if the authority is your own, name its certificate: --ca FILE or FINGERPOST_CA"
	case errors.As(err, &name):
		return "use a name that is in the certificate, or have one issued for this name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the server's certificate has expired, or the clock of one of the two is wrong"
	case errors.As(err, &record):
		return "the server speaks plain http there: http:// is for the same machine only"
	}
	return ""
}

// hinting adds to errors of TLS what to do about them, for the log.
type hinting struct{ http.RoundTripper }

func (h hinting) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := h.RoundTripper.RoundTrip(r)
	if hint := tlsHint(err); hint != "" {
		err = fmt.Errorf("%w (%s)", err, hint)
	}
	return resp, err
}
