package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"fingerpost"
)

// The kinds of items that have a noun. Others are strings of the same form: the
// schema does not know them.
const (
	KindHost     = "host"     // key: the host pattern
	KindRedirect = "redirect" // key: RedirectKey

	// What the program makes by itself. Nodes follow it as they do content, but it
	// is none: it has no history, no revision of it can be restored or reverted, and
	// the audit has of a certificate what people may see, of the others nothing.
	KindCertificate = "certificate" // key: its name
	KindServerName  = "server-name" // key: ServerNameKey; value: ServerName
	KindChallenge   = "challenge"   // key: as cmd/fingerpost makes it
)

// isContent tells what people made from what the program made.
func isContent(kind string) bool {
	return kind != KindCertificate && kind != KindServerName && kind != KindChallenge
}

// isContentSQL is the same in SQL, of a column.
func isContentSQL(column string) string {
	return column + ` NOT IN ('` + KindCertificate + `', '` + KindServerName + `', '` + KindChallenge + `')`
}

// Item is one thing of the content. Kind and Key name it; the rest is what it is.
type Item struct {
	Kind   string          `json:"kind"`
	Key    string          `json:"key"`             // at most MaxKey bytes; items are in the order of its bytes
	Value  json.RawMessage `json:"value,omitempty"` // the noun
	Source string          `json:"source"`          // whose it is: file:…, git:…, api, console; others may not change it
	Team   string          `json:"team,omitempty"`
	Since  time.Time       `json:"since,omitzero"` // when it first appeared; kept when it changes
	Rev    int64           `json:"rev,omitempty"`  // of its last change; the item's ETag
}

// Limits of one item. Indexes of PostgreSQL end at 2,700 bytes.
const (
	MaxKey   = 1024
	MaxValue = 4 << 20
)

// RedirectKey is the key of a redirect: host pattern, slash, id. No host has a
// slash, so the redirects of a host stand together, under the prefix HOST/.
func RedirectKey(host fingerpost.HostPattern, id string) string { return string(host) + "/" + id }

// CutRedirectKey undoes RedirectKey.
func CutRedirectKey(key string) (host fingerpost.HostPattern, id string) {
	h, id, _ := strings.Cut(key, "/")
	return fingerpost.HostPattern(h), id
}

// HostItem makes an item of h, whose name must be valid.
func HostItem(h *fingerpost.Host, source string) (Item, error) {
	name, err := fingerpost.ParseHostPattern(h.Name)
	if err != nil {
		return Item{}, err
	}
	value, err := json.Marshal(h)
	return Item{Kind: KindHost, Key: string(name), Value: value, Source: source, Team: h.Team}, err
}

// Host gives the noun of an item of KindHost.
func (it *Item) Host() (*fingerpost.Host, error) {
	h := new(fingerpost.Host)
	if err := json.Unmarshal(it.Value, h); err != nil {
		return nil, fmt.Errorf("host %s: %w", it.Key, err)
	}
	h.Name, h.Source.File = it.Key, it.Source
	return h, nil
}

// RedirectItem makes an item of r, whose from must be valid. A redirect without
// an id has the one that is derived from what it matches.
func RedirectItem(r *fingerpost.Redirect, source, team string) (Item, error) {
	from, err := fingerpost.ParseFrom(r.From)
	if err != nil {
		return Item{}, err
	}
	id := r.ID
	if id == "" {
		id = fingerpost.DerivedID(fingerpost.KeyHash(r.Key(&from)))
	}
	noun := *r
	noun.ID = "" // the key has it
	value, err := json.Marshal(&noun)
	return Item{Kind: KindRedirect, Key: RedirectKey(from.Host, id), Value: value, Source: source, Team: team, Since: r.Since}, err
}

// Redirect gives the noun of an item of KindRedirect, with its id and Since.
func (it *Item) Redirect() (*fingerpost.Redirect, error) {
	r := new(fingerpost.Redirect)
	if err := json.Unmarshal(it.Value, r); err != nil {
		return nil, fmt.Errorf("redirect %s: %w", it.Key, err)
	}
	_, r.ID = CutRedirectKey(it.Key)
	r.Since, r.Source.File = it.Since, it.Source
	return r, nil
}

// CertificateItem makes an item of c.
func CertificateItem(c *fingerpost.Certificate) (Item, error) {
	value, err := json.Marshal(c)
	return Item{Kind: KindCertificate, Key: c.Name, Value: value, Source: certificates, Team: c.Team}, err
}

// certificates is the source of certificates and what goes with them.
const certificates = "certificates"

// Certificate gives the noun of an item of KindCertificate.
func (it *Item) Certificate() (*fingerpost.Certificate, error) {
	c := new(fingerpost.Certificate)
	if err := json.Unmarshal(it.Value, c); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", it.Key, err)
	}
	c.Name, c.Team = it.Key, it.Team
	return c, nil
}

// ServerName says that a certificate is for a name. It is what a node looks for
// in a handshake, before it reads the certificate itself. With serial number, chain
// and SealedBy it is another whenever the certificate is, so that both have one revision.
type ServerName struct {
	ECDSA     bool   `json:"ecdsa,omitempty"`
	NotBefore int64  `json:"notBefore"` // seconds since 1970
	NotAfter  int64  `json:"notAfter"`
	Serial    string `json:"serial"`
	Chain     string `json:"chain"`              // a hash: another chain is another certificate to serve
	Imported  bool   `json:"imported,omitempty"` // nobody renews it by itself
	SealedBy  string `json:"sealedBy,omitempty"` // which secret opens the key; see [fingerpost.Certificate.SealedBy]
	Revoked   bool   `json:"revoked,omitempty"`
}

// chainHash names a chain shortly.
func chainHash(chain [][]byte) string {
	h := sha256.New()
	for _, link := range chain {
		h.Write(link)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// ServerNameKey is the key of a ServerName: the name, a slash, the certificate's
// name. So the certificates for a name stand together, under the prefix NAME/.
func ServerNameKey(name, certificate string) string { return name + "/" + certificate }

// ServerName gives what an item of KindServerName says, and of which certificate.
func (it *Item) ServerName() (s ServerName, certificate string, err error) {
	if err = json.Unmarshal(it.Value, &s); err != nil {
		err = fmt.Errorf("server name %s: %w", it.Key, err)
	}
	_, certificate, _ = strings.Cut(it.Key, "/")
	return s, certificate, err
}

// CertificateChanges are what puts c in the place of before, which is nil for a
// new one; a nil c takes before away.
func CertificateChanges(before, c *fingerpost.Certificate) ([]Change, error) {
	var changes []Change
	if c == nil {
		changes = append(changes, Change{Op: Delete, Item: Item{Kind: KindCertificate, Key: before.Name, Source: certificates}})
	} else {
		item, err := CertificateItem(c)
		if err != nil {
			return nil, err
		}
		changes = append(changes, Change{Op: Put, Item: item})
		value, err := json.Marshal(ServerName{ECDSA: strings.HasPrefix(c.KeyType, "ECDSA"), NotBefore: c.NotBefore.Unix(), NotAfter: c.NotAfter.Unix(), Serial: c.Serial, Chain: chainHash(c.Chain), Imported: c.Type == fingerpost.Imported, SealedBy: c.SealedBy(), Revoked: !c.Revoked.IsZero()})
		if err != nil {
			return nil, err
		}
		for _, name := range c.Names {
			changes = append(changes, Change{Op: Put, Item: Item{Kind: KindServerName, Key: ServerNameKey(name, c.Name), Value: value, Source: certificates, Team: c.Team}})
		}
	}
	if before == nil {
		return changes, nil
	}
	for _, name := range before.Names {
		if c == nil || !slices.Contains(c.Names, name) {
			changes = append(changes, Change{Op: Delete, Item: Item{Kind: KindServerName, Key: ServerNameKey(name, before.Name), Source: certificates}})
		}
	}
	return changes, nil
}

// check reports what no database should be asked to hold.
func (it *Item) check(withValue bool) error {
	switch {
	case !isName(it.Kind):
		return invalid("kind %q", it.Kind)
	case it.Key == "" || len(it.Key) > MaxKey || !isText(it.Key):
		return invalid("%s: the key %.100q is empty, over %d bytes, or no text", it.Kind, it.Key, MaxKey)
	case !isText(it.Source) || !isText(it.Team) || len(it.Source) > MaxKey || len(it.Team) > MaxKey:
		return invalid("%s %s: source or team is too long or no text", it.Kind, it.Key)
	case withValue && (len(it.Value) > MaxValue || !json.Valid(it.Value) || !utf8.Valid(it.Value)):
		return invalid("%s %s: the value is over %d bytes or no JSON", it.Kind, it.Key, MaxValue)
	case withValue && it.Source == "":
		return invalid("%s %s: no source", it.Kind, it.Key)
	}
	return nil
}

func isName(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 40
}

// isText: PostgreSQL takes no zero bytes in text, and only UTF-8.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// sameAs reports whether a change from it to other would change nothing.
func (it *Item) sameAs(other *Item) bool {
	return string(it.Value) == string(other.Value) && it.Source == other.Source && it.Team == other.Team
}

// itemColumns are in the order that scanItem reads.
const itemColumns = `kind, key, rev, since, source, team, value`

func scanItem(r rows, it *Item) error {
	var since int64
	err := r.Scan(&it.Kind, &it.Key, &it.Rev, &since, &it.Source, &it.Team, (*[]byte)(&it.Value))
	it.Since = fromMicros(since)
	return err
}
