package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"time"

	"fingerpost/source"

	"github.com/go-git/go-billy/v5/memfs"
	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// gitSource is a file or folder of a repository. One on this machine is read
// where it lies; of any other the newest commit alone comes into memory, and
// leaves it when its files have been read. There is no work tree.
type gitSource struct {
	source.Elsewhere
	local string // path of a repository of this machine; else empty
	http  transport.Transport
	limit int64 // bytes of a pack, and of all files together
}

func newGit(e source.Elsewhere) *gitSource {
	g := &gitSource{Elsewhere: e, limit: int64(e.MaxMiB) << 20, http: githttp.NewClientWithOptions(newHTTPClient(), nil)}
	if filepath.IsAbs(e.Git) {
		g.local = e.Git
	} else if u, err := url.Parse(e.Git); err == nil && u.Scheme == "file" {
		g.local = filepath.FromSlash(u.Path)
	}
	return g
}

// Fetch implements [source.Fetcher]. The version is the commit.
func (g *gitSource) Fetch(ctx context.Context, known string) (*source.Fetched, error) {
	token, err := secret(&g.Elsewhere)
	if err != nil {
		return nil, err
	}
	f, err := g.fetch(ctx, known, token)
	var inner *url.Error
	if errors.As(err, &inner) {
		err = inner.Err
	}
	return f, hide(err, token)
}

func (g *gitSource) fetch(ctx context.Context, known, token string) (*source.Fetched, error) {
	if g.local != "" {
		objects, hash, err := g.open()
		if err != nil {
			return nil, err
		}
		if hash.String() == known {
			return nil, source.ErrUnchanged
		}
		return g.files(objects, hash)
	}
	session, err := g.session(token)
	if err != nil {
		return nil, err
	}
	defer session.Close()
	refs, err := session.AdvertisedReferencesContext(ctx)
	if err != nil {
		return nil, err
	}
	hash, err := g.newest(refs)
	if err != nil {
		return nil, err
	}
	if hash.String() == known {
		return nil, source.ErrUnchanged
	}
	objects, err := g.download(ctx, session, refs, hash)
	if err != nil {
		return nil, err
	}
	return g.files(objects, hash)
}

// open reads the references of a repository of this machine. It is opened anew
// each time: git may have packed it since.
func (g *gitSource) open() (storer.EncodedObjectStorer, plumbing.Hash, error) {
	dir := g.local
	if info, err := os.Stat(filepath.Join(dir, ".git")); err == nil && info.IsDir() {
		dir = filepath.Join(dir, ".git")
	}
	if _, err := os.Stat(filepath.Join(dir, "objects")); err != nil {
		return nil, plumbing.ZeroHash, errors.New("there is no git repository")
	}
	s := filesystem.NewStorage(osfs.New(dir, osfs.WithBoundOS()), cache.NewObjectLRU(cache.MiByte))
	name := plumbing.HEAD
	if g.Branch != "" {
		name = plumbing.NewBranchReferenceName(g.Branch)
	}
	ref, err := storer.ResolveReference(s, name)
	if err != nil {
		return nil, plumbing.ZeroHash, g.noBranch()
	}
	return s, ref.Hash(), nil
}

func (g *gitSource) noBranch() error {
	if g.Branch == "" {
		return errors.New("the repository has no commit on its default branch")
	}
	return fmt.Errorf("the repository has no branch %s", g.Branch)
}

// session begins to talk to another machine.
func (g *gitSource) session(token string) (transport.UploadPackSession, error) {
	ep, err := transport.NewEndpoint(g.Git)
	if err != nil {
		return nil, errors.New("the address cannot be read")
	}
	if ep.Protocol != "ssh" {
		var auth transport.AuthMethod
		if token != "" {
			user := g.User
			if user == "" {
				user = "x-access-token" // GitHub's word for an app; others take any
			}
			auth = &githttp.BasicAuth{Username: user, Password: token}
		}
		return g.http.NewUploadPackSession(ep, auth)
	}
	key, err := os.ReadFile(g.SSHKeyFile)
	if err != nil {
		return nil, fmt.Errorf("sshKeyFile: %w", err)
	}
	user := ep.User
	if g.User != "" {
		user = g.User
	}
	if user == "" {
		user = "git"
	}
	auth, err := gitssh.NewPublicKeys(user, key, token)
	if err != nil {
		return nil, fmt.Errorf("sshKeyFile %s: %w", g.SSHKeyFile, err)
	}
	var known []string
	if g.KnownHostsFile != "" {
		known = []string{g.KnownHostsFile}
	}
	if auth.HostKeyCallback, err = gitssh.NewKnownHostsCallback(known...); err != nil {
		return nil, fmt.Errorf("knownHostsFile: %w", err)
	}
	return gitssh.NewClient(nil).NewUploadPackSession(ep, auth)
}

// newest is the commit at the end of the branch.
func (g *gitSource) newest(refs *packp.AdvRefs) (plumbing.Hash, error) {
	if g.Branch == "" && refs.Head != nil {
		return *refs.Head, nil
	}
	hash, ok := refs.References["refs/heads/"+g.Branch]
	if !ok {
		return plumbing.ZeroHash, g.noBranch()
	}
	return hash, nil
}

// download fetches one commit without its history, if the server can.
func (g *gitSource) download(ctx context.Context, session transport.UploadPackSession, refs *packp.AdvRefs, hash plumbing.Hash) (objects storer.EncodedObjectStorer, err error) {
	req := packp.NewUploadPackRequestFromCapabilities(refs.Capabilities)
	req.Wants = []plumbing.Hash{hash}
	if refs.Capabilities.Supports(capability.Shallow) {
		req.Depth = packp.DepthCommits(1)
		if err := req.Capabilities.Set(capability.Shallow); err != nil {
			return nil, err
		}
	}
	if refs.Capabilities.Supports(capability.NoProgress) {
		if err := req.Capabilities.Set(capability.NoProgress); err != nil {
			return nil, err
		}
	}
	resp, err := session.UploadPack(ctx, req)
	if err != nil {
		return nil, err
	}
	defer resp.Close()
	var pack io.Reader = resp
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		pack = sideband.NewDemuxer(sideband.Sideband64k, resp)
	case req.Capabilities.Supports(capability.Sideband):
		pack = sideband.NewDemuxer(sideband.Sideband, resp)
	}
	// Objects stay packed in memory until one is read.
	s := filesystem.NewStorage(memfs.New(), cache.NewObjectLRU(cache.MiByte))
	return s, packfile.UpdateObjectStorage(s, &bounded{pack, g.limit, g.limit})
}

// files reads what Path names in a commit.
func (g *gitSource) files(objects storer.EncodedObjectStorer, hash plumbing.Hash) (*source.Fetched, error) {
	commit, err := object.GetCommit(objects, hash)
	if err != nil {
		return nil, err
	}
	root, err := commit.Tree()
	if err != nil {
		return nil, err
	}
	t := &gitTree{root: root, left: g.limit, limit: g.limit}
	f := &source.Fetched{Version: hash.String(), Modified: commit.Committer.When, Beside: t.read, Prefix: g.Address() + "@" + hash.String()[:10] + ":"}
	if f.Modified.After(time.Now()) {
		f.Modified = time.Time{} // another machine's clock
	}
	dir := root
	if g.Path != "" {
		entry, err := root.FindEntry(g.Path)
		if err != nil {
			return nil, fmt.Errorf("commit %s has no %s", hash.String()[:10], g.Path)
		}
		if entry.Mode != filemode.Dir {
			data, err := t.read(g.Path, g.limit)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", g.Path, err)
			}
			f.Files = []source.File{{Name: g.Path, Data: data}}
			return f, nil
		}
		if dir, err = root.Tree(g.Path); err != nil {
			return nil, err
		}
	}
	for _, entry := range dir.Entries {
		if entry.Mode == filemode.Dir || !source.IsInput(entry.Name) {
			continue
		}
		name := path.Join(g.Path, entry.Name)
		data, err := t.read(name, g.limit)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		f.Files = append(f.Files, source.File{Name: name, Data: data})
	}
	return f, nil
}

// gitTree reads files of a commit, and not more than may be read of it.
type gitTree struct {
	root        *object.Tree
	left, limit int64
}

func (t *gitTree) read(name string, limit int64) ([]byte, error) {
	entry, err := t.root.FindEntry(name)
	switch {
	case errors.Is(err, object.ErrEntryNotFound), errors.Is(err, object.ErrDirectoryNotFound):
		return nil, fs.ErrNotExist
	case err != nil:
		return nil, err
	case entry.Mode == filemode.Symlink:
		return nil, errors.New("it is a symbolic link, which is not followed")
	case !entry.Mode.IsFile():
		return nil, fs.ErrNotExist
	}
	blob, err := t.root.TreeEntryFile(entry)
	if err != nil {
		return nil, err
	}
	if blob.Size > t.left {
		return nil, tooLarge(t.limit)
	}
	t.left -= blob.Size
	r, err := blob.Reader()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return readAll(r, min(limit, blob.Size))
}
