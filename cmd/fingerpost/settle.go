package main

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"fingerpost"
	"fingerpost/source"
)

// settle fills in what the flags leave open: from the configuration, then with
// defaults. From here on the options say all.
func (n *node) settle() error {
	o, s := &n.o, n.settings
	pick := func(flag string, into *string, configured string) {
		if configured != "" && !o.given(flag) {
			*into = configured
		}
	}
	pick("role", &o.role, s.Role)
	pick("store", &o.store, s.Store)
	pick("control", &o.control, s.Control.URL)
	pick("ca", &o.ca, s.Control.CA)
	pick("node", &o.name, s.Node)
	o.role = cmp.Or(o.role, roleAll)
	if o.name != "" && !source.IsNodeName(o.name) {
		return usage(fmt.Errorf("--node %q: letters, digits, dots, hyphens and underscores, 100 at most", o.name))
	}
	if !o.given("token") && o.control != "" {
		if err := o.readToken(s.Control); err != nil {
			return err
		}
	}
	if !o.given("data") {
		folder, isSQLite := strings.CutPrefix(o.store, "sqlite:")
		switch {
		case s.Data != nil:
			o.data = *s.Data
		case isSQLite && (strings.HasSuffix(folder, ".db") || strings.HasSuffix(folder, ".sqlite")):
			o.data = filepath.Dir(folder)
		case isSQLite:
			o.data = folder
		default:
			o.data = defaultData()
		}
	}
	return o.checkRole()
}

// defaultData is the folder that systemd gives a service, else one where the
// program was started.
func defaultData() string {
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir
	}
	return "data"
}

// readToken reads the token of a node from where the configuration says it is.
func (o *options) readToken(c source.Control) error {
	switch {
	case c.TokenEnv != "":
		if o.token = os.Getenv(c.TokenEnv); o.token == "" {
			return &fingerpost.Error{Code: "no_token", Field: "control.tokenEnv", Message: "the environment variable " + c.TokenEnv + " of control.tokenEnv is not set", Hint: "it holds a token with the scope node"}
		}
	case c.TokenFile != "":
		text, err := os.ReadFile(c.TokenFile)
		if err != nil {
			return fileError(c.TokenFile, "read", err)
		}
		if o.token = strings.TrimSpace(string(text)); o.token == "" {
			return &fingerpost.Error{Code: "no_token", Field: "control.tokenFile", Message: c.TokenFile + " is empty", Hint: "it holds a token with the scope node"}
		}
	}
	return nil
}

// checkRole finds out what the options contradict each other in.
func (o *options) checkRole() error {
	switch o.role {
	case roleAll, roleEdge, roleControl:
	default:
		return usage(fmt.Errorf("--role %s: one of all, edge, control", o.role))
	}
	switch {
	case o.role == roleEdge && o.control == "":
		return usage(errors.New("--role edge needs --control URL: the node that it follows"))
	case o.control != "" && o.role != roleEdge:
		return usage(errors.New("--control goes with --role edge"))
	case o.data == "" && (o.store != "" || o.role != roleAll):
		return usage(errors.New("--role and --store need --data DIR: a folder for what the node keeps"))
	case o.control != "" && o.store != "":
		return usage(errors.New("--store is for nodes that own it; an edge follows --control"))
	}
	if o.control == "" {
		return nil
	}
	u, err := url.Parse(o.control)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return usage(fmt.Errorf("--control %q is no URL, as in https://control.example:9090", o.control))
	}
	if u.Scheme == "http" && !isLoopbackHost(u.Hostname()) {
		return &fingerpost.Error{Code: "plain_control", Message: "--control " + o.control + " would send the node token, and all content, in the clear over a network",
			Hint: "give the control node listen.adminTLS and follow https://" + u.Host + ", with --ca FILE if its authority is your own"}
	}
	return nil
}

func isLoopbackHost(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// idFile holds the name of the node that a data folder belongs to.
const idFile = "node.id"

// identify gives the node its name: that of the data folder, which is made at the
// first start, and then stays the same.
func (o *options) identify() error {
	file := filepath.Join(o.data, idFile)
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fileError(file, "read", err)
	}
	kept := strings.TrimSpace(string(text))
	switch {
	case kept != "" && !source.IsNodeName(kept):
		return &fingerpost.Error{Code: "bad_node_id", Message: file + " does not hold the name of a node", Hint: "remove it, and the node gets another name"}
	case kept != "" && o.name != "" && kept != o.name:
		return &fingerpost.Error{Code: "other_node", Message: fmt.Sprintf("the data folder %s belongs to the node %s, and this is %s", o.data, kept, o.name),
			Hint: "give each node a folder of its own; to rename the node, remove " + file}
	case kept != "":
		o.name = kept
		return nil
	}
	if o.name == "" {
		host, err := os.Hostname()
		if err != nil || !source.IsNodeName(host) || len(host) > 80 {
			host = "node"
		}
		o.name = host + "-" + strings.ToLower(rand.Text()[:6])
	}
	if err := os.WriteFile(file, []byte(o.name+"\n"), 0o600); err != nil {
		return dataError(o.data, err)
	}
	return nil
}

// checkFolder refuses a data folder of another role: a store that begins empty
// would take away what an edge serves from its copy.
func (o *options) checkFolder() error {
	there := func(pattern string) bool {
		found, err := filepath.Glob(filepath.Join(o.data, pattern))
		return err == nil && len(found) > 0
	}
	switch store := there("fingerpost.db"); {
	case o.role == roleEdge && store:
		return &fingerpost.Error{Code: "other_role", Message: "the data folder " + o.data + " holds a store, and an edge has none", Hint: "give the edge a folder of its own"}
	case o.role != roleEdge && o.store == "" && !store && there("replica/snapshot-*"):
		return &fingerpost.Error{Code: "other_role", Message: "the data folder " + o.data + " holds a copy of content, and no store of its own", Hint: "say --role edge --control URL or --store DSN as before, or give the node another folder"}
	}
	return nil
}

// dataError says what is wrong with a data folder.
func dataError(dir string, err error) error {
	e := &fingerpost.Error{Code: "data_folder", Message: fmt.Sprintf("the data folder %s cannot be used: %v", dir, err), Hint: `name another one with --data DIR; --data "" keeps nothing and serves files only`}
	var cause *fs.PathError
	if errors.As(err, &cause) {
		e.Message = fmt.Sprintf("the data folder %s cannot be used: %v", dir, cause.Err)
	}
	return e
}
