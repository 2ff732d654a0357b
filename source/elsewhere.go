package source

import (
	"cmp"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"fingerpost"
)

const (
	defaultPoll = time.Minute
	defaultMiB  = 64
)

// Elsewhere is an entry of sources: content that is not a file of this machine.
// One of Git, URL and S3 is given. Secrets are named by where they stand, so that
// an Elsewhere can be shown.
type Elsewhere struct {
	Name   string        `json:"name"`   // of the source; derived from its address where absent
	Git    string        `json:"git"`    // a repository: https, http, ssh or file, or an absolute path; no credentials in it
	Branch string        `json:"branch"` // of Git; empty for the repository's default
	Path   string        `json:"path"`   // of Git: a file or folder, slash-separated; empty for the root
	URL    string        `json:"url"`    // of one file: http or https
	S3     *S3           `json:"s3"`
	Host   string        `json:"host"`   // whose redirects the files hold; empty for those of all hosts
	Poll   time.Duration `json:"poll"`   // a minute where the file does not say
	MaxMiB int           `json:"maxMiB"` // of what is fetched at once; 64 where the file does not say

	User           string `json:"user"`           // of Git, where its address has none
	TokenEnv       string `json:"tokenEnv"`       // the environment variable that holds the password or token; with a key, its passphrase
	TokenFile      string `json:"tokenFile"`      // or the file, an absolute path
	SSHKeyFile     string `json:"sshKeyFile"`     // of Git over ssh, an absolute path
	KnownHostsFile string `json:"knownHostsFile"` // of Git over ssh; empty for those of the user and the system

	WebhookSecretEnv  string `json:"webhookSecretEnv"`  // the environment variable that holds the secret by which a call of the webhook is known
	WebhookSecretFile string `json:"webhookSecretFile"` // or the file, an absolute path; with neither there is no webhook
}

// S3 names an object, or all that begin with a prefix, at an S3-compatible
// service.
type S3 struct {
	Bucket   string `json:"bucket"`
	Key      string `json:"key"`      // of one object; or
	Prefix   string `json:"prefix"`   // of objects that are as files in a folder; "" for all, if Key is empty
	Region   string `json:"region"`   // empty for the environment's, or the bucket's own
	Endpoint string `json:"endpoint"` // http or https and the host; empty for that of AWS
}

// Kind is "git", "url" or "s3".
func (e *Elsewhere) Kind() string {
	switch {
	case e.Git != "":
		return "git"
	case e.S3 != nil:
		return "s3"
	}
	return "url"
}

// Address names the source without what may be a secret: as errors and a list of
// sources show it.
func (e *Elsewhere) Address() string {
	switch e.Kind() {
	case "git":
		return "git:" + public(e.Git)
	case "s3":
		return "s3://" + e.S3.Bucket + "/" + cmp.Or(e.S3.Key, e.S3.Prefix)
	}
	return public(e.URL)
}

// Label names the source among the others of a node.
func (e *Elsewhere) Label() string {
	label := cmp.Or(e.Name, e.Address())
	if e.Name == "" && e.Branch != "" {
		label += "@" + e.Branch
	}
	if e.Name == "" && e.Path != "" {
		label += ":" + e.Path
	}
	return label
}

// public takes user, password and query off an address.
func public(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme == "" {
		return address // a path, or host:path of ssh, which has no password
	}
	if u.User, u.Fragment = nil, ""; u.RawQuery != "" {
		u.RawQuery = "…"
	}
	return strings.Replace(u.String(), "?%E2%80%A6", "?…", 1)
}

// scpLike is how ssh itself names a place: user@host:path.
var scpLike = regexp.MustCompile(`^([\w.-]+@)?[\w.-]+:[^/\\].*$`)

// sources decodes and checks the list of sources. No message repeats an address,
// which may hold a password.
func (f *reader) sources(list *node) []Elsewhere {
	if list == nil || list.kind == kindNull {
		return nil
	}
	if list.kind != kindList {
		f.wrong(list, "sources", "a list", "each source begins with a hyphen: - {git: https://…, path: redirects.json}")
		return nil
	}
	var all []Elsewhere
	labels := map[string]bool{}
	for i := range list.items {
		n := &list.items[i]
		before := len(f.errs)
		var e Elsewhere
		f.item(n, &e, "")
		if len(f.errs) > before {
			continue
		}
		if f.elsewhere(n, &e); len(f.errs) > before {
			continue
		}
		if labels[e.Label()] {
			f.fail(n, "bad_source", "name", "a second source with the name "+quote(e.Label()), "give one of them a name of its own: name: campaigns")
			continue
		}
		labels[e.Label()] = true
		all = append(all, e)
	}
	return all
}

// elsewhere checks one source and fills in what it leaves out.
func (f *reader) elsewhere(n *node, e *Elsewhere) {
	bad := func(field, message, hint string) {
		at, _ := n.find(field)
		f.fail(at, "bad_source", field, message, hint)
	}
	refuse := func(kind string, fields map[string]string) {
		for field, value := range fields {
			if value != "" {
				bad(field, field+" does not go with "+kind, "remove it")
			}
		}
	}
	given := 0
	for _, key := range []string{"git", "url", "s3"} {
		if n.get(key) != nil {
			given++
		}
	}
	if given != 1 {
		f.fail(n, "bad_source", "", "a source has one of git, url and s3", "for example {git: https://git.example.com/web.git, path: redirects.json}")
		return
	}
	onlyGit := map[string]string{"branch": e.Branch, "path": e.Path, "user": e.User, "sshKeyFile": e.SSHKeyFile, "knownHostsFile": e.KnownHostsFile}
	switch {
	case n.get("git") != nil:
		f.gitSource(e, bad)
	case n.get("url") != nil:
		refuse("url", onlyGit)
		u := f.address("url", e.URL, []string{"http", "https"}, bad)
		f.secretOverHTTP(u, e, "url", bad)
	default:
		refuse("s3", onlyGit)
		refuse("s3, whose credentials come from the environment, ~/.aws or the machine's role", map[string]string{"tokenEnv": e.TokenEnv, "tokenFile": e.TokenFile})
		switch {
		case e.S3.Bucket == "":
			bad("s3", "s3 without a bucket", "{bucket: NAME, key: redirects.json}")
		case e.S3.Key != "" && e.S3.Prefix != "":
			bad("s3", "s3 has both key and prefix", "key is one object, prefix all objects below it; remove one of them")
		}
		if e.S3.Endpoint != "" {
			if u := f.address("s3.endpoint", e.S3.Endpoint, []string{"http", "https"}, bad); u != nil && (strings.Trim(u.Path, "/") != "" || u.RawQuery != "") {
				bad("s3.endpoint", "s3.endpoint has a path or a query", "only https:// and the host, as in https://storage.example.net:9000")
			}
		}
	}
	if e.Host != "" {
		if _, err := fingerpost.ParseHostPattern(e.Host); err != nil {
			bad("host", "host "+quote(e.Host)+" is not the name of a host", "as in www.example.com, without https:// and without a path")
		}
	}
	if e.TokenEnv != "" && e.TokenFile != "" {
		bad("tokenFile", "both tokenEnv and tokenFile", "remove one of them")
	}
	if e.WebhookSecretEnv != "" && e.WebhookSecretFile != "" {
		bad("webhookSecretFile", "both webhookSecretEnv and webhookSecretFile", "remove one of them")
	}
	if e.Poll == 0 {
		e.Poll = defaultPoll
	} else if e.Poll < time.Second {
		bad("poll", "poll is shorter than a second", "a minute is the default; a webhook tells at once")
	}
	if at := n.get("maxMiB"); at == nil {
		e.MaxMiB = defaultMiB
	} else if e.MaxMiB < 1 || e.MaxMiB > maxFile>>20 {
		bad("maxMiB", "maxMiB must be from 1 to "+strconv.Itoa(maxFile>>20), "how much is fetched at most, in MiB")
	}
	for _, file := range []*string{&e.TokenFile, &e.SSHKeyFile, &e.KnownHostsFile, &e.WebhookSecretFile} {
		*file = f.absolute(*file)
	}
}

func (f *reader) gitSource(e *Elsewhere, bad func(field, message, hint string)) {
	ssh := false
	switch {
	case e.Git == "":
		bad("git", "git names no repository", "for example https://git.example.com/web.git")
		return
	case strings.Contains(e.Git, "://"):
		u := f.address("git", e.Git, []string{"http", "https", "ssh", "file"}, bad)
		if u == nil {
			return
		}
		switch ssh = u.Scheme == "ssh"; {
		case u.Scheme == "file" && u.Host != "":
			bad("git", "a file address has the path behind three slashes", "as in file:///srv/git/web.git")
		case u.RawQuery != "":
			bad("git", "the address of a repository has no query", "remove what follows the ?")
		}
		f.secretOverHTTP(u, e, "git", bad)
	case filepath.IsAbs(e.Git) || !scpLike.MatchString(e.Git):
		e.Git = f.absolute(e.Git)
	default:
		ssh = true
	}
	if ssh && e.SSHKeyFile == "" {
		bad("git", "a repository over ssh without sshKeyFile", "name the file of a key that may read it")
	}
	if !ssh && (e.SSHKeyFile != "" || e.KnownHostsFile != "") {
		bad("git", "sshKeyFile and knownHostsFile are for a repository over ssh", "remove them, or write ssh://git@host/path")
	}
	if clean := path.Clean("/" + e.Path)[1:]; e.Path != "" && strings.Trim(e.Path, "/") != clean {
		bad("path", "path "+quote(e.Path)+" does not stay in the repository", "a file or folder in it, as in redirects/shop.json")
	} else {
		e.Path = clean
	}
}

// address parses one and wants it without a password, which would stand in the
// file and in errors; nil if it is refused.
func (f *reader) address(field, address string, schemes []string, bad func(field, message, hint string)) *url.URL {
	u, err := url.Parse(address)
	known := false
	for _, scheme := range schemes {
		known = known || err == nil && u.Scheme == scheme
	}
	switch {
	case err != nil || !known || u.Host == "" && u.Scheme != "file":
		bad(field, field+" is not an address that begins with "+strings.Join(schemes, ", ")+" and ://", "as in "+schemes[min(1, len(schemes)-1)]+"://host.example/path")
		return nil
	case u.User != nil && (u.Scheme != "ssh" || hasPassword(u)):
		bad(field, field+" has a user or password in it", "put the secret into a file or an environment variable: tokenFile or tokenEnv")
		return nil
	}
	return u
}

func hasPassword(u *url.URL) bool {
	_, ok := u.User.Password()
	return ok
}

// secretOverHTTP refuses to send a token for everybody to read.
func (f *reader) secretOverHTTP(u *url.URL, e *Elsewhere, field string, bad func(field, message, hint string)) {
	if u == nil || u.Scheme != "http" || e.TokenEnv == "" && e.TokenFile == "" {
		return
	}
	if onLoopback(u) {
		return
	}
	bad(field, "a token would be sent over plain http", "use https")
}
