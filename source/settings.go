package source

import (
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"time"
)

// Settings are what a configuration file says about its node. What it does not
// say is the zero value; the defaults are the caller's.
type Settings struct {
	Listen          Listen
	Addresses       []string // this node's public IP addresses
	Region          string
	CertificatesDir string // an absolute path, or empty
	CountryFile     string // an absolute path, or empty
	Log             Log
	Limits          Limits
	Sources         []Elsewhere // with the defaults that they leave out
	OIDC            OIDC
}

// Listen are the addresses of the listeners, host:port: nil where the file does
// not say, "" for a listener that is switched off.
type Listen struct {
	HTTP  *string `json:"http"`
	HTTPS *string `json:"https"`
	Admin *string `json:"admin"`
}

// Log says which requests are written down.
type Log struct {
	Access string `json:"access"` // "json", "off", or empty where the file does not say
	Sample int    `json:"sample"` // one request in Sample is logged; at least 1
}

// Limits are durations above zero, or zero where the file does not say.
type Limits struct {
	HeaderTimeout   time.Duration `json:"headerTimeout"`   // from the first byte of a request's head to its last
	IdleTimeout     time.Duration `json:"idleTimeout"`     // between two requests of a connection
	ShutdownTimeout time.Duration `json:"shutdownTimeout"` // for the requests at hand when the node stops
}

// nodeKeys are the keys of a configuration file that are not content.
type nodeKeys struct {
	Listen       Listen   `json:"listen"`
	Addresses    []string `json:"addresses"`
	Region       string   `json:"region"`
	Certificates struct {
		Dir string `json:"dir"`
	} `json:"certificates"`
	Geo struct {
		Country string `json:"country"`
	} `json:"geo"`
	Log     Log    `json:"log"`
	Limits  Limits `json:"limits"`
	Sources *node  `json:"sources"`
	OIDC    OIDC   `json:"oidc"`
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
	}{{"listen.http", keys.Listen.HTTP}, {"listen.https", keys.Listen.HTTPS}, {"listen.admin", keys.Listen.Admin}} {
		if l.addr == nil || *l.addr == "" {
			continue
		}
		_, port, err := net.SplitHostPort(*l.addr)
		if n, portErr := strconv.Atoi(port); err != nil || portErr != nil || n < 0 || n > 65535 {
			bad(l.field, l.field+" "+quote(*l.addr)+" is not an address to listen on", `write address:port, as in ":80", "192.0.2.10:443" or "[2001:db8::1]:443"; "" switches it off`)
		}
	}
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
	if _, given := root.find("oidc"); given {
		keys.OIDC = f.oidc(&keys.OIDC, bad)
	}
	return &Settings{
		Listen: keys.Listen, Addresses: keys.Addresses, Region: keys.Region, Log: keys.Log, Limits: keys.Limits,
		CertificatesDir: f.absolute(keys.Certificates.Dir),
		CountryFile:     f.absolute(keys.Geo.Country),
		Sources:         f.sources(keys.Sources),
		OIDC:            keys.OIDC,
	}
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
