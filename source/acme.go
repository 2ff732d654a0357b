package source

import (
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	"fingerpost"
)

// ACME says which certificate authorities issue certificates, and how. Without
// any CA, none are ordered.
type ACME struct {
	CAs            []CA   // in order of preference
	Pack           int    // names in one certificate at most; 0 stands for as many as the CA takes
	ValidationZone string // a DNS name that is delegated to this program, or empty
	Preflight      bool   // look at a name's DNS before anything is ordered
	Private        bool   // names and addresses that are not public may have certificates

	DNSHook    []string // the program that sets TXT records at a DNS provider, and its first arguments; a path is absolute
	DNSPersist bool     // names may be proven by a record that stays (dns-persist-01, a draft)
}

// CA is a certificate authority that speaks ACME (RFC 8555).
type CA struct {
	Name      string `json:"name"`      // for people; the directory's host where absent
	Directory string `json:"directory"` // https; http on the same machine only
	Email     string `json:"email"`     // where the CA writes to
	Profile   string `json:"profile"`   // of the CA; its default where empty
	Roots     string `json:"caRoots"`   // an absolute path to PEM certificates that are trusted instead of the system's, or empty
	EAB       EAB    `json:"eab"`
}

// EAB binds the account to one that the CA knows already (RFC 8555 7.3.4).
type EAB struct {
	KeyID   string `json:"keyID"`
	KeyEnv  string `json:"keyEnv"`  // the environment variable that holds the key
	KeyFile string `json:"keyFile"` // or the file, an absolute path
}

// LetsEncrypt is the CA of those who name none.
const LetsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

// acmeKeys is the section of the file: one CA with what holds for all, and others.
type acmeKeys struct {
	CA
	Pack           *node  `json:"pack"`
	ValidationZone string `json:"validationZone"`
	Preflight      string `json:"preflight"`
	Private        bool   `json:"private"`
	DNSHook        *node  `json:"dnsHook"`
	DNSPersist     bool   `json:"dnsPersist"`
	Fallback       []CA   `json:"fallback"`
}

// acme decodes and checks the section.
func (f *reader) acme(n *node, bad func(field, message, hint string)) (a ACME) {
	if n == nil {
		return a
	}
	var keys acmeKeys
	f.decode(n, reflect.ValueOf(&keys).Elem(), "acme")
	if keys.Directory == "" {
		keys.Directory = LetsEncrypt
	}
	names := map[string]bool{}
	for i, ca := range append([]CA{keys.CA}, keys.Fallback...) {
		field := "acme"
		if i > 0 {
			field = "acme.fallback"
			if ca.Email == "" {
				ca.Email = keys.Email
			}
		}
		u, err := url.Parse(ca.Directory)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !onLoopback(u)):
			bad(field+".directory", field+".directory "+quote(ca.Directory)+" is not an https address", "the address of the CA's directory, as in "+LetsEncrypt)
			continue
		case ca.EAB.KeyID != "" && (ca.EAB.KeyEnv == "") == (ca.EAB.KeyFile == ""):
			bad(field+".eab", field+".eab needs one of keyEnv and keyFile", "the environment variable, or the file, that holds the key")
		case ca.EAB.KeyID == "" && ca.EAB != (EAB{}):
			bad(field+".eab", field+".eab has no keyID", "the CA gives one together with the key")
		}
		if ca.Name == "" {
			ca.Name = u.Hostname()
		}
		if names[ca.Name] {
			bad(field+".name", "two CAs are called "+quote(ca.Name), "give one of them another name")
		}
		names[ca.Name] = true
		ca.Roots, ca.EAB.KeyFile = f.absolute(ca.Roots), f.absolute(ca.EAB.KeyFile)
		a.CAs = append(a.CAs, ca)
	}
	if p := keys.Pack; p != nil {
		count, err := strconv.Atoi(p.text)
		switch {
		case p.kind == kindText && p.text == "individual":
			a.Pack = 1
		case p.kind == kindNumber && err == nil && count >= 1:
			a.Pack = count
		default:
			f.fail(p, "bad_value", "acme.pack", "acme.pack is not a number of names", "individual, or how many names a certificate has at most")
		}
	}
	switch keys.Preflight {
	case "", "on":
		a.Preflight = true
	case "off":
	default:
		bad("acme.preflight", "acme.preflight "+quote(keys.Preflight)+" is unknown", "one of on, off")
	}
	a.DNSHook = f.command("acme.dnsHook", keys.DNSHook, "[./dns-hook, example]")
	a.DNSPersist = keys.DNSPersist
	if a.Private = keys.Private; keys.ValidationZone != "" {
		name, err := fingerpost.ParseHostPattern(keys.ValidationZone)
		if err != nil || name.IsWildcard() {
			bad("acme.validationZone", "acme.validationZone "+quote(keys.ValidationZone)+" is not a DNS name", "a name that is delegated to this program, as in acme.example.net")
		}
		a.ValidationZone = string(name)
	}
	return a
}

// command reads a program and its first arguments. One with a slash counts from the
// file, any other is searched for in PATH.
func (f *reader) command(key string, n *node, example string) (words []string) {
	if n == nil {
		return nil
	}
	ok := n.kind == kindList && len(n.items) > 0
	for i := 0; ok && i < len(n.items); i++ {
		ok = n.items[i].kind == kindText && (i > 0 || n.items[i].text != "")
		words = append(words, n.items[i].text)
	}
	if !ok {
		f.fail(n, "bad_value", key, key+" is not a list of a program and its arguments", "as in "+example)
		return nil
	}
	if strings.ContainsRune(words[0], '/') {
		words[0] = f.absolute(words[0])
	}
	return words
}

// resolvers checks the addresses of recursive name servers.
func (f *reader) resolvers(list *node, texts []string) []string {
	var addrs []string
	for i, s := range texts {
		if addr, err := netip.ParseAddr(s); err == nil {
			s = net.JoinHostPort(addr.String(), "53")
		} else if _, err := netip.ParseAddrPort(s); err != nil && list.items[i].kind == kindText {
			f.fail(&list.items[i], "bad_value", "resolvers", quote(s)+" is not the address of a name server", `an IP address, with a port or without, as in "192.0.2.53" or "127.0.0.1:5353"`)
			continue
		}
		addrs = append(addrs, s)
	}
	return addrs
}
