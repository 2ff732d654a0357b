// Package fetch gets the files of sources that are elsewhere: a git repository, a
// URL, an S3 object or prefix. Each is a [source.Fetcher].
//
// It knows protocols, credentials and how much may be read. It must not know what
// the files mean, when to ask, or what is done after an error: that is source's.
// No error text holds a secret, and nothing is written to the disk.
//
// Start reading at [New]; then one file for each kind.
package fetch

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"fingerpost/source"
)

// New makes what gets the files of e, as the configuration gave it. It asks
// nobody: what is wrong with the source shows when it is fetched.
func New(e source.Elsewhere) source.Fetcher {
	switch e.Kind() {
	case "git":
		return newGit(e)
	case "s3":
		return newS3(e)
	}
	return newURL(e)
}

const (
	maxRedirects = 5
	maxHeader    = 30 * time.Second // to connect, and for the head of an answer
)

// newHTTPClient follows few redirects, and none from https to http: what came so
// could be anybody's.
func newHTTPClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: maxHeader}).DialContext
	t.ResponseHeaderTimeout = maxHeader
	t.MaxIdleConnsPerHost = 1
	return &http.Client{Transport: t, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		switch {
		case len(via) > maxRedirects:
			return fmt.Errorf("more than %d redirects", maxRedirects)
		case via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https":
			return errors.New("it redirects from https to http")
		}
		return nil
	}}
}

// secret reads a token: anew each time, since it may be rotated. Empty where none
// is named.
func secret(e *source.Elsewhere) (string, error) {
	return readSecret("token", e.TokenEnv, e.TokenFile)
}

// WebhookSecret reads the secret of a source's webhook, in the same way.
func WebhookSecret(e *source.Elsewhere) (string, error) {
	return readSecret("webhookSecret", e.WebhookSecretEnv, e.WebhookSecretFile)
}

// ClientSecret reads the secret that the program has at the provider of logins, in the
// same way.
func ClientSecret(o *source.OIDC) (string, error) {
	return readSecret("clientSecret", o.ClientSecretEnv, o.ClientSecretFile)
}

func readSecret(setting, env, file string) (string, error) {
	switch {
	case env != "":
		text := os.Getenv(env)
		if text == "" {
			return "", fmt.Errorf("%sEnv: the environment has no %s", setting, env)
		}
		return text, nil
	case file != "":
		data, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("%sFile: %w", setting, err)
		}
		text := strings.TrimSpace(string(data))
		if text == "" {
			return "", fmt.Errorf("%sFile: %s is empty", setting, file)
		}
		return text, nil
	}
	return "", nil
}

// hide takes a secret out of the text of an error, should a library have put it in.
func hide(err error, secret string) error {
	if err == nil || secret == "" || !strings.Contains(err.Error(), secret) {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), secret, "***"))
}

// readAll reads what may be limit bytes at most.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, tooLarge(limit)
	}
	return data, err
}

// tooLarge says so. maxMiB is what bounds a source as a whole.
func tooLarge(limit int64) error {
	return fmt.Errorf("it is larger than %d MiB (maxMiB)", limit>>20)
}

// bounded fails once more than left bytes are read.
type bounded struct {
	io.Reader
	left, limit int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, tooLarge(b.limit)
	}
	return n, err
}
