package fetch

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"fingerpost/source"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	awsEndpoint  = "https://s3.amazonaws.com"
	maxObjects   = 10_000          // below a prefix
	roleDeadline = 5 * time.Second // for the machine's role, which is asked where there may be none
)

// s3Source is an object, or the objects below a prefix.
type s3Source struct {
	source.Elsewhere
	limit  int64
	client *minio.Core // made by the first Fetch
}

func newS3(e source.Elsewhere) *s3Source {
	return &s3Source{Elsewhere: e, limit: int64(e.MaxMiB) << 20}
}

// Fetch implements [source.Fetcher]. The version is the ETag of the object, or a
// digest over the ETags below the prefix.
func (s *s3Source) Fetch(ctx context.Context, known string) (*source.Fetched, error) {
	if s.client == nil {
		if err := s.connect(); err != nil {
			return nil, err
		}
	}
	if s.S3.Key != "" {
		return s.object(ctx, known)
	}
	return s.below(ctx, known)
}

// connect makes the client. Credentials are found as AWS's own tools find them:
// environment, ~/.aws/credentials, the role of the machine or container; without
// any, requests are not signed, as public buckets allow.
func (s *s3Source) connect() error {
	u, err := url.Parse(cmp.Or(s.S3.Endpoint, awsEndpoint))
	if err != nil {
		return errors.New("the endpoint cannot be read")
	}
	client := newHTTPClient()
	core, err := minio.NewCore(u.Host, &minio.Options{
		Creds: credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{},
			&credentials.FileAWSCredentials{},
			&credentials.IAM{Client: &http.Client{Timeout: roleDeadline}},
		}),
		Secure:     u.Scheme == "https",
		Transport:  client.Transport,
		Region:     cmp.Or(s.S3.Region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION")),
		MaxRetries: 1, // source waits and asks again
	})
	if err != nil {
		return err
	}
	s.client = core
	return nil
}

// object gets the one that Key names.
func (s *s3Source) object(ctx context.Context, known string) (*source.Fetched, error) {
	var o minio.GetObjectOptions
	if known != "" {
		if err := o.SetMatchETagExcept(known); err != nil {
			return nil, err
		}
	}
	data, info, err := s.get(ctx, s.S3.Key, o, s.limit)
	switch {
	case statusOf(err) == http.StatusNotModified:
		return nil, source.ErrUnchanged
	case err != nil:
		return nil, err
	case info.ETag == known:
		return nil, source.ErrUnchanged
	}
	dir, name := path.Split(s.S3.Key)
	return &source.Fetched{Version: info.ETag, Modified: info.LastModified, Prefix: "s3://" + s.S3.Bucket + "/" + dir,
		Files: []source.File{{Name: name, Data: data}}}, nil
}

// below gets the objects right below the prefix; what lies deeper can be named by
// them.
func (s *s3Source) below(ctx context.Context, known string) (*source.Fetched, error) {
	prefix := s.S3.Prefix
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	etags := map[string]string{} // by name below the prefix
	var inputs []string
	var newest time.Time
	digest := sha256.New()
	for object := range s.client.ListObjectsIter(ctx, s.S3.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if object.Err != nil {
			return nil, plainS3(object.Err)
		}
		name := strings.TrimPrefix(object.Key, prefix)
		if strings.HasSuffix(name, "/") || !fs.ValidPath(name) {
			continue // a folder of the console, or no name for a file
		}
		if len(etags) == maxObjects {
			return nil, fmt.Errorf("there are more than %d objects below the prefix", maxObjects)
		}
		etags[name] = object.ETag
		fmt.Fprintf(digest, "%q %q\n", name, object.ETag)
		if object.LastModified.After(newest) {
			newest = object.LastModified
		}
		if !strings.Contains(name, "/") && source.IsInput(name) {
			inputs = append(inputs, name)
		}
	}
	version := fmt.Sprintf("sha256:%x", digest.Sum(nil)[:8])
	if version == known {
		return nil, source.ErrUnchanged
	}
	left := s.limit
	read := func(name string, limit int64) ([]byte, error) {
		etag, ok := etags[name]
		if !ok {
			return nil, fs.ErrNotExist
		}
		var o minio.GetObjectOptions
		if err := o.SetMatchETag(etag); err != nil {
			return nil, err
		}
		data, _, err := s.get(ctx, prefix+name, o, left)
		if code := statusOf(err); code == http.StatusPreconditionFailed || code == http.StatusNotFound {
			return nil, errors.New("it changed while the objects were read")
		}
		left -= int64(len(data))
		if err == nil && int64(len(data)) > limit {
			data = data[:limit+1] // source says what is too large for what it is
		}
		return data, err
	}
	f := &source.Fetched{Version: version, Modified: newest, Prefix: "s3://" + s.S3.Bucket + "/" + prefix, Beside: read}
	for _, name := range inputs {
		data, err := read(name, s.limit)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		f.Files = append(f.Files, source.File{Name: name, Data: data})
	}
	return f, nil
}

func (s *s3Source) get(ctx context.Context, key string, o minio.GetObjectOptions, limit int64) ([]byte, minio.ObjectInfo, error) {
	body, info, _, err := s.client.GetObject(ctx, s.S3.Bucket, key, o)
	if err != nil {
		return nil, info, plainS3(err)
	}
	defer body.Close()
	if info.Size > limit {
		return nil, info, tooLarge(s.limit)
	}
	data, err := readAll(body, limit)
	return data, info, err
}

// s3Error is an answer of the service that is no success.
type s3Error struct {
	status int
	text   string
}

func (e *s3Error) Error() string { return e.text }

func statusOf(err error) int {
	var e *s3Error
	if errors.As(err, &e) {
		return e.status
	}
	return 0
}

// plainS3 says what the service says in one line, without the address.
func plainS3(err error) error {
	var inner *url.Error
	if errors.As(err, &inner) {
		return inner.Err
	}
	e := minio.ToErrorResponse(err)
	if e.StatusCode == 0 {
		return err
	}
	return &s3Error{e.StatusCode, fmt.Sprintf("the answer is %d %s: %s", e.StatusCode, e.Code, strings.TrimSuffix(e.Message, "."))}
}
