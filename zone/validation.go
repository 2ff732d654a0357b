package zone

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"fingerpost"
)

// Validation describes the zone that domains are validated by: each domain has
// once and for all
//
//	_acme-challenge.DOMAIN CNAME <label>.<zone>
//
// and the values that a certificate authority wants to see stand as TXT at
// that label for as long as an order lasts.
type Validation struct {
	Apex    string   // acme.example.net
	Servers []Server // who answers for it; at least one
	Mailbox string   // of who is responsible, user@domain; default hostmaster at the apex
	Serial  uint32   // the same on every node that has the same values

	// Values are the TXT values by label, as [ValidationLabel] gives it. There may
	// be several for one: a domain and its wildcard share a label, and orders
	// overlap.
	Values map[string][]string
}

// Server is a name server by its name. One whose name is in the zone needs its
// addresses; of others they are not used.
type Server struct {
	Host      string
	Addresses []netip.Addr
}

const (
	// Values come and go with orders: an authority that looks too early must not
	// remember for long what it saw.
	validationTTL      = 1
	validationNegative = 1
	serverTTL          = 3600
)

// Zone builds the zone.
func (v Validation) Zone() (*Zone, error) {
	bad := func(field, message, hint string) error {
		return &fingerpost.Error{Code: "bad_validation_zone", Field: field, Message: "validation zone " + strconv.Quote(v.Apex) + ": " + message, Hint: hint}
	}
	apex, err := ParseName(v.Apex)
	if err != nil {
		return nil, err
	}
	if len(v.Servers) == 0 {
		return nil, bad("servers", "no name server is named", "name at least one; the same names stand as NS where the zone is delegated")
	}
	var records []Record
	var first Name
	for _, s := range v.Servers {
		host, err := ParseName(s.Host)
		if err != nil {
			return nil, err
		}
		if first == "" {
			first = host
		}
		records = append(records, NS(apex, serverTTL, host))
		if !host.IsIn(apex) {
			continue
		}
		if len(s.Addresses) == 0 {
			return nil, bad("servers", "name server "+s.Host+" has no address", "give its addresses, or a name outside of the zone")
		}
		for _, addr := range s.Addresses {
			if !addr.IsValid() {
				return nil, bad("servers", "name server "+s.Host+" has an address that is none", "")
			}
			records = append(records, Address(host, serverTTL, addr))
		}
	}
	mailbox := apex.Child("hostmaster")
	if v.Mailbox != "" {
		user, domain, ok := strings.Cut(v.Mailbox, "@")
		name, err := ParseName(domain)
		if !ok || err != nil || name.Child(user) == "" {
			return nil, bad("mailbox", strconv.Quote(v.Mailbox)+" is not a mail address", "write it as user@domain")
		}
		mailbox = name.Child(user)
	}
	if mailbox == "" {
		return nil, bad("zone", "the name is too long", "")
	}
	records = append(records, SOA{
		Server: first, Mailbox: mailbox, Serial: v.Serial,
		Refresh: 7200, Retry: 900, Expire: 1209600, Minimum: validationNegative,
	}.Record(apex, serverTTL))
	var errs []error
	for label, values := range v.Values {
		name := apex.Child(label)
		if name == "" || strings.ContainsRune(label, '.') {
			errs = append(errs, bad("values", "bad label "+strconv.Quote(label), ""))
			continue
		}
		values = slices.Sorted(slices.Values(values)) // the same on every node
		for _, value := range values {
			records = append(records, TXT(name, validationTTL, value))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return New(apex, records)
}

// labelEncoding is base32 in lower case: DNS does not tell cases apart.
var labelEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// ValidationLabel is the label that stands for domain in the validation zone:
// 32 characters of a keyed hash, 160 bits, so that two domains never share one.
// It is the same for a domain, its wildcard, and all ways to write either; and
// the same for as long as secret is, which belongs to the cluster: people write
// the label into their DNS once. It hides nothing. It is keyed so that nobody
// can tell from the CNAMEs of others which cluster's they are, nor lay out names
// whose labels an own cluster will have.
func ValidationLabel(domain string, secret []byte) string {
	domain = strings.TrimPrefix(strings.TrimSuffix(strings.ToLower(domain), "."), "*.")
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("fingerpost validation label\x00" + domain))
	return labelEncoding.EncodeToString(mac.Sum(nil)[:20])
}

// ValidationCNAME is the record that the owner of domain sets once: owner and
// target as a zone file has them, with the final dot. apex is the validation
// zone's.
func ValidationCNAME(domain, apex string, secret []byte) (owner, target string, err error) {
	a, err := ParseName(apex)
	if err != nil {
		return "", "", err
	}
	base, _ := strings.CutPrefix(domain, "*.")
	d, err := ParseName(base)
	if err != nil {
		return "", "", err
	}
	o, t := d.Child("_acme-challenge"), a.Child(ValidationLabel(base, secret))
	if o == "" || t == "" {
		return "", "", &fingerpost.Error{
			Code: "bad_name", Message: "the validation record of " + strconv.Quote(domain) + " in " + strconv.Quote(apex) + " has a name of more than 255 bytes",
			Hint: "validate it over HTTP, or choose a shorter validation zone",
		}
	}
	return o.String(), t.String(), nil
}
