package source

import (
	"cmp"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"fingerpost"
)

// Settings are what a configuration file says about its node. What it does not
// say is the zero value; the defaults are the caller's.
type Settings struct {
	Listen            Listen
	Addresses         []string // this node's public IP addresses
	Region            string
	Node              string  // what it is called
	Role              string  // all, edge or control
	Data              *string // an absolute path, or "" to keep nothing
	Store             string  // a DSN: sqlite: with an absolute path, or postgres://
	Control           Control // what an edge follows
	CertificatesDir   string  // an absolute path, or empty
	CountryFile       string  // an absolute path, or empty
	Log               Log
	Limits            Limits
	Sources           []Elsewhere // with the defaults that they leave out
	OIDC              OIDC
	ACME              ACME
	Resolvers         []string          // recursive name servers, address:port; none: those of the system
	ClusterKeyFile    string            // an absolute path, or empty
	ClusterKeyEnv     string            // the environment variable that holds it, or empty
	ClusterKeyCommand []string          // the program that prints it and its arguments, or none
	DefaultCerts      map[string]string // by IP address of this node: the certificate for clients that send no server name
}

// Listen are the addresses of the listeners, host:port: nil where the file does
// not say, "" or none for a listener that is switched off.
type Listen struct {
	HTTP   []string `json:"-"` // also unix: with an absolute path
	HTTPS  []string `json:"-"`
	HTTP3  string   `json:"http3"`  // "on", "off", or empty where the file does not say
	Server string   `json:"server"` // "on": answers name the program; "off", or empty where the file does not say
	Admin  *string  `json:"admin"`
	DNS    *string  `json:"dns"`

	AdminTLS AdminTLS `json:"-"`
	Proxy    Proxy    `json:"-"`
}

// Proxy says whose PROXY headers are read. The zero value: nobody's.
type Proxy struct {
	Mode string // use, require or ignore
	From []netip.Prefix
}

// AdminTLS says which certificate the admin listener has. The zero value is none:
// plain HTTP.
type AdminTLS struct {
	Certificate string `json:"certificate"` // an absolute path to a PEM file with the chain
	Key         string `json:"key"`         // an absolute path
	Name        string `json:"-"`           // or: one of the node's own, that for this name; "auto" for the name that the client asks for
}

// Control is the node that an edge follows.
type Control struct {
	URL       string `json:"url"`
	TokenEnv  string `json:"tokenEnv"`  // the environment variable that holds the node token
	TokenFile string `json:"tokenFile"` // or the file, an absolute path
	CA        string `json:"ca"`        // an absolute path to PEM certificates that are trusted beside the system's, or empty
}

// Log says which requests are written down.
type Log struct {
	Access string `json:"access"` // "json", "off", or empty where the file does not say
	Sample int    `json:"sample"` // one request in Sample is logged; at least 1
}

// Limits are above zero, or zero where the file does not say.
type Limits struct {
	HeaderTimeout   time.Duration `json:"headerTimeout"`   // from the first byte of a request's head to its last
	IdleTimeout     time.Duration `json:"idleTimeout"`     // between two requests of a connection
	ShutdownTimeout time.Duration `json:"shutdownTimeout"` // for the requests at hand when the node stops
	Connections     int           `json:"connections"`     // open at once on one listener
	Handshakes      int           `json:"handshakes"`      // under way at once on one listener
}

// nodeKeys are the keys of a configuration file that are not content.
type nodeKeys struct {
	Listen struct {
		Listen
		HTTP     *node `json:"http"`
		HTTPS    *node `json:"https"`
		AdminTLS *node `json:"adminTLS"`
		Proxy    *node `json:"proxyProtocol"`
	} `json:"listen"`
	Addresses    []string `json:"addresses"`
	Region       string   `json:"region"`
	Node         string   `json:"node"`
	Role         string   `json:"role"`
	Data         *string  `json:"data"`
	Store        string   `json:"store"`
	Control      Control  `json:"control"`
	Certificates struct {
		Dir      string            `json:"dir"`
		Defaults map[string]string `json:"defaults"`
	} `json:"certificates"`
	Geo struct {
		Country string `json:"country"`
	} `json:"geo"`
	Log     Log    `json:"log"`
	Limits  Limits `json:"limits"`
	Sources *node  `json:"sources"`
	OIDC    OIDC   `json:"oidc"`
	ACME    *node  `json:"acme"`

	Resolvers         []string `json:"resolvers"`
	ClusterKeyFile    string   `json:"clusterKeyFile"`
	ClusterKeyEnv     string   `json:"clusterKeyEnv"`
	ClusterKeyCommand *node    `json:"clusterKeyCommand"`
}

// configKeys are all keys of a configuration file.
type configKeys struct {
	nodeKeys
	contentKeys
}

func isNodeKey(key string) bool {
	return slices.Contains(fieldsOf(reflect.TypeFor[nodeKeys]()).names, key)
}

// nodeSettings checks what the file says and brings it into its final form.
func (f *reader) nodeSettings(root *node, keys *nodeKeys) *Settings {
	bad := func(field, message, hint string) {
		at, _ := root.find(field)
		f.fail(at, "bad_value", field, message, hint)
	}
	for _, l := range []struct {
		field string
		addr  *string
	}{{"listen.admin", keys.Listen.Admin}, {"listen.dns", keys.Listen.DNS}} {
		if l.addr != nil && *l.addr != "" && !isListenAddress(*l.addr) {
			bad(l.field, l.field+" "+quote(*l.addr)+" is not an address to listen on", listenHint)
		}
	}
	keys.Listen.Listen.HTTP = f.addresses(keys.Listen.HTTP, "listen.http")
	keys.Listen.Listen.HTTPS = f.addresses(keys.Listen.HTTPS, "listen.https")
	switch keys.Listen.Server {
	case "", "on", "off":
	default:
		bad("listen.server", "listen.server "+quote(keys.Listen.Server)+" is unknown", "one of on, off")
	}
	switch keys.Listen.HTTP3 {
	case "", "on", "off":
	default:
		bad("listen.http3", "listen.http3 "+quote(keys.Listen.HTTP3)+" is unknown", "one of on, off")
	}
	if at, given := root.find("limits.handshakes"); given && keys.Limits.Handshakes < 1 && at.kind == kindNumber {
		bad("limits.handshakes", "limits.handshakes must be 1 or more", "how many TLS handshakes may be under way at once; 4000 by default")
	}
	if at, given := root.find("limits.connections"); given && keys.Limits.Connections < 1 && at.kind == kindNumber {
		bad("limits.connections", "limits.connections must be 1 or more", "how many connections a listener may have at once; 100000 by default")
	}
	keys.Listen.Listen.Proxy = f.proxy(keys.Listen.Proxy)
	if list, _ := root.find("addresses"); list.kind == kindList {
		for i, s := range keys.Addresses {
			if _, err := netip.ParseAddr(s); err != nil && list.items[i].kind == kindText {
				f.fail(&list.items[i], "bad_value", "addresses", quote(s)+" is not an IP address", "write the number itself, as in 192.0.2.10, without a port")
			}
		}
	}
	switch keys.Log.Access {
	case "", "json", "off":
	default:
		bad("log.access", "log.access "+quote(keys.Log.Access)+" is unknown", "one of json, off")
	}
	if at, given := root.find("log.sample"); !given {
		keys.Log.Sample = 1
	} else if keys.Log.Sample < 1 && at.kind == kindNumber {
		bad("log.sample", "log.sample must be 1 or more", "1 logs every request, 100 one in a hundred")
	}
	keys.Listen.Listen.AdminTLS = f.adminTLS(keys.Listen.AdminTLS)
	if keys.Data != nil && *keys.Data != "" {
		*keys.Data = f.absolute(*keys.Data)
	}
	switch keys.Role {
	case "", "all", "edge", "control":
	default:
		bad("role", "role "+quote(keys.Role)+" is unknown", "one of all, edge, control")
	}
	if keys.Node != "" && !IsNodeName(keys.Node) {
		bad("node", "node "+quote(keys.Node)+" cannot be the name of a node", "letters, digits, dots, hyphens and underscores, 100 at most, as in edge-eu-1")
	}
	if _, given := root.find("control"); given {
		f.control(&keys.Control, bad)
	}
	if _, given := root.find("oidc"); given {
		keys.OIDC = f.oidc(&keys.OIDC, bad)
	}
	for addr := range keys.Certificates.Defaults {
		if _, err := netip.ParseAddr(addr); err != nil {
			bad("certificates.defaults", quote(addr)+" is not an IP address", "an address of this node, and the name of the certificate for clients that send no server name there")
		}
	}
	if keys.ClusterKeyFile != "" && keys.ClusterKeyEnv != "" {
		bad("clusterKeyFile", "there are clusterKeyFile and clusterKeyEnv", "one of them")
	}
	if keys.ClusterKeyCommand != nil && keys.ClusterKeyFile+keys.ClusterKeyEnv != "" {
		bad("clusterKeyCommand", "clusterKeyCommand is not alone", "one of clusterKeyFile, clusterKeyEnv and clusterKeyCommand")
	}
	resolvers, _ := root.find("resolvers")
	return &Settings{
		Listen: keys.Listen.Listen, Addresses: keys.Addresses, Region: keys.Region, Log: keys.Log, Limits: keys.Limits,
		Node: keys.Node, Role: keys.Role, Data: keys.Data, Control: keys.Control, Store: f.store(keys.Store, bad),
		CertificatesDir: f.absolute(keys.Certificates.Dir),
		CountryFile:     f.absolute(keys.Geo.Country),
		Sources:         f.sources(keys.Sources),
		OIDC:            keys.OIDC,
		ACME:            f.acme(keys.ACME, bad),
		Resolvers:       f.resolvers(resolvers, keys.Resolvers),
		ClusterKeyFile:  f.absolute(keys.ClusterKeyFile), ClusterKeyEnv: keys.ClusterKeyEnv,
		ClusterKeyCommand: f.command("clusterKeyCommand", keys.ClusterKeyCommand, "[./cluster-key, example]"),
		DefaultCerts:      keys.Certificates.Defaults,
	}
}

// IsNodeName reports whether s can be what a node is called.
func IsNodeName(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return s != "" && len(s) <= 100
}

const listenHint = `write address:port, as in ":80", "192.0.2.10:443" or "[2001:db8::1]:443"; "" switches it off`

func isListenAddress(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	n, portErr := strconv.Atoi(port)
	return err == nil && portErr == nil && n >= 0 && n <= 65535
}

// addresses decodes one address, or a list of them.
func (f *reader) addresses(n *node, field string) []string {
	if n == nil {
		return nil
	}
	items := []node{*n}
	switch {
	case n.kind == kindList:
		items = n.items
	case n.kind == kindText && n.text == "":
		return []string{}
	}
	addrs := []string{} // not nil: the file says so
	for i := range items {
		at := &items[i]
		path, unix := strings.CutPrefix(at.text, "unix:")
		switch {
		case at.kind != kindText:
			f.wrong(at, field, "text", `as in ":80" or [":80", "unix:/run/fingerpost/http.sock"]`)
		case unix && path != "":
			addrs = append(addrs, "unix:"+f.absolute(path))
		case !isListenAddress(at.text):
			f.fail(at, "bad_value", field, field+" "+quote(at.text)+" is not an address to listen on", listenHint+"; unix:FILE is a UNIX socket")
		case slices.Contains(addrs, at.text):
			f.fail(at, "bad_value", field, field+" names "+quote(at.text)+" twice", "remove one of them")
		default:
			addrs = append(addrs, at.text)
		}
	}
	return addrs
}

// proxy decodes whose PROXY headers are read. It needs both keys: a header that
// anybody may send lets everybody be whoever they like.
func (f *reader) proxy(n *node) (p Proxy) {
	const field = "listen.proxyProtocol"
	if n == nil {
		return p
	}
	var keys struct {
		Mode string   `json:"mode"`
		From []string `json:"from"`
	}
	before := len(f.errs)
	if f.decode(n, reflect.ValueOf(&keys).Elem(), field); len(f.errs) > before {
		return p
	}
	switch keys.Mode {
	case "use", "require", "ignore":
		p.Mode = keys.Mode
	default:
		f.fail(n, "bad_value", field+".mode", field+".mode "+quote(keys.Mode)+" is unknown", "one of use, require, ignore")
	}
	if len(keys.From) == 0 {
		f.fail(n, "bad_value", field+".from", field+".from names no proxy", "the addresses of the proxies in front of this node, as in [10.0.0.0/8]; 127.0.0.1 is enough for UNIX sockets, which are always trusted")
	}
	list, _ := n.find("from")
	for i, s := range keys.From {
		prefix, err := netip.ParsePrefix(s)
		if addr, addrErr := netip.ParseAddr(s); addrErr == nil && addr.Zone() == "" {
			prefix, err = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
		}
		if err != nil {
			f.fail(&list.items[i], "bad_value", field+".from", quote(s)+" is neither an IP address nor a network", "as in 10.0.0.7 or 10.0.0.0/8")
			continue
		}
		p.From = append(p.From, prefix.Masked())
	}
	return p
}

// adminTLS decodes a pair of files, or the name of one of the node's own
// certificates.
func (f *reader) adminTLS(n *node) (a AdminTLS) {
	const hint = "{certificate: FILE, key: FILE}, or auto, or the name that the certificate is for"
	switch {
	case n == nil:
	case n.kind == kindText && n.text == "":
		f.fail(n, "bad_value", "listen.adminTLS", "listen.adminTLS is empty", hint)
	case n.kind == kindText:
		a.Name = n.text
		if _, port, err := fingerpost.ParseHost(n.text); n.text != "auto" && (err != nil || port != "") {
			f.fail(n, "bad_value", "listen.adminTLS", "listen.adminTLS "+quote(n.text)+" is not the name of a host", hint)
		}
	case n.kind == kindMap:
		before := len(f.errs)
		f.decode(n, reflect.ValueOf(&a).Elem(), "listen.adminTLS")
		if len(f.errs) == before && (a.Certificate == "" || a.Key == "") {
			f.fail(n, "bad_value", "listen.adminTLS", "listen.adminTLS needs both certificate and key", hint)
		}
		a.Certificate, a.Key = f.absolute(a.Certificate), f.absolute(a.Key)
	default:
		f.wrong(n, "listen.adminTLS", "a map of keys or text", hint)
	}
	return a
}

// store checks a DSN and makes the path in it absolute. A password does not
// belong into a file that is kept in a repository.
func (f *reader) store(dsn string, bad func(field, message, hint string)) string {
	const forms = "sqlite:./data, or postgres://user@host/database"
	scheme, rest, _ := strings.Cut(dsn, ":")
	switch scheme {
	case "":
	case "sqlite":
		if rest == "" {
			bad("store", "store names no folder", forms)
			break
		}
		return "sqlite:" + f.absolute(rest)
	case "postgres", "postgresql":
		u, err := url.Parse(dsn)
		switch {
		case err != nil || !strings.HasPrefix(rest, "//"):
			bad("store", "store is no address of a PostgreSQL", forms)
		case hasPassword(u) || u.Query().Has("password"):
			bad("store", "store has a password in it", "put it into PGPASSWORD, into a file that passfile= or PGPASSFILE names, or give the whole as FINGERPOST_STORE")
		}
	default:
		bad("store", "store "+quote(dsn)+" is of no known kind", forms)
	}
	return dsn
}

// control checks what an edge follows.
func (f *reader) control(c *Control, bad func(field, message, hint string)) {
	f.address("control.url", c.URL, []string{"http", "https"}, bad)
	if c.TokenEnv != "" && c.TokenFile != "" {
		bad("control.tokenFile", "both control.tokenEnv and control.tokenFile", "remove one of them")
	}
	c.TokenFile, c.CA = f.absolute(c.TokenFile), f.absolute(c.CA)
}

// Differences names the settings that are others in two versions of a file, as
// the keys of the file.
func (s *Settings) Differences(other *Settings) []string {
	a, b := reflect.ValueOf(s).Elem(), reflect.ValueOf(other).Elem()
	names := map[string]string{"CertificatesDir": "certificates.dir", "CountryFile": "geo.country", "AdminTLS": "adminTLS", "HTTP": "http", "HTTPS": "https", "HTTP3": "http3", "Server": "server", "Proxy": "proxyProtocol", "DNS": "dns", "ACME": "acme", "DefaultCerts": "certificates.defaults"}
	var different []string
	var compare func(prefix string, a, b reflect.Value)
	compare = func(prefix string, a, b reflect.Value) {
		for i := range a.NumField() {
			field := a.Type().Field(i)
			name := prefix + cmp.Or(names[field.Name], strings.ToLower(field.Name[:1])+field.Name[1:])
			switch {
			case reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()):
			case field.Type.Kind() == reflect.Struct && field.Name != "AdminTLS" && field.Name != "Proxy" && field.Name != "Control" && field.Name != "ACME" && field.Name != "OIDC":
				compare(name+".", a.Field(i), b.Field(i))
			default:
				different = append(different, name)
			}
		}
	}
	compare("", a, b)
	return different
}

// beside gives the path of what a file names: relative to that file.
func (f *reader) beside(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(f.file), name)
}

func (f *reader) absolute(name string) string {
	if name == "" {
		return ""
	}
	return absolute(f.beside(name))
}
