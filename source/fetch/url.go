package fetch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"

	"fingerpost/source"
)

// urlSource is one file at an address.
type urlSource struct {
	source.Elsewhere
	client *http.Client
	// Of the answer that version came with, for a conditional request.
	version, etag, modified string
}

func newURL(e source.Elsewhere) *urlSource {
	return &urlSource{Elsewhere: e, client: newHTTPClient()}
}

// Fetch implements [source.Fetcher]. The version is a digest of the body, since
// not every server sends an ETag, nor a true one.
func (s *urlSource) Fetch(ctx context.Context, known string) (*source.Fetched, error) {
	token, err := secret(&s.Elsewhere)
	if err != nil {
		return nil, err
	}
	f, err := s.get(ctx, known, token)
	var inner *url.Error // its text has the address with the query
	if errors.As(err, &inner) {
		err = inner.Err
	}
	return f, hide(err, token)
}

func (s *urlSource) get(ctx context.Context, known, token string) (*source.Fetched, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "fingerpost")
	req.Header.Set("Accept", "application/json, application/yaml, */*;q=0.5")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if known != "" && known == s.version {
		if s.etag != "" {
			req.Header.Set("If-None-Match", s.etag)
		}
		if s.modified != "" {
			req.Header.Set("If-Modified-Since", s.modified)
		}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	limit := int64(s.MaxMiB) << 20
	switch {
	case resp.StatusCode == http.StatusNotModified && known != "" && known == s.version:
		return nil, source.ErrUnchanged
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the answer is %s", resp.Status)
	case resp.ContentLength > limit:
		return nil, tooLarge(limit)
	}
	data, err := readAll(resp.Body, limit)
	if err != nil {
		return nil, err
	}
	version := fmt.Sprintf("sha256:%x", sha256.Sum256(data))[:len("sha256:")+16]
	s.version, s.etag, s.modified = version, resp.Header.Get("ETag"), resp.Header.Get("Last-Modified")
	if version == known {
		return nil, source.ErrUnchanged
	}
	f := &source.Fetched{Version: version}
	f.Modified, _ = http.ParseTime(s.modified)
	file := source.File{Data: data}
	address := s.Address()
	i := strings.LastIndexByte(address, '/') + 1
	f.Prefix, file.Name = address[:i], address[i:]
	if file.Name == "" {
		file.Name = "content"
	}
	file.Format = formatOf(req.URL.Path, resp.Header.Get("Content-Type"), data)
	f.Files = []source.File{file}
	return f, nil
}

// formatOf is what the name says, else the server, else how the text begins.
func formatOf(name, contentType string, data []byte) string {
	switch strings.ToLower(path.Ext(name)) {
	case ".yaml", ".yml":
		return "yaml"
	case ".json", ".jsonc", ".hujson":
		return "json"
	}
	if mediaType, _, err := mime.ParseMediaType(contentType); err == nil {
		switch {
		case strings.HasSuffix(mediaType, "yaml"):
			return "yaml"
		case strings.HasSuffix(mediaType, "json"):
			return "json"
		}
	}
	if text := strings.TrimLeft(string(data[:min(len(data), 512)]), "\ufeff \t\r\n"); strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[") || strings.HasPrefix(text, "/") {
		return "json"
	}
	return "yaml"
}
