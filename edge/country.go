package edge

import (
	"net/netip"
	"os"
	"sync/atomic"

	"github.com/oschwald/maxminddb-golang/v2"

	"fingerpost"
)

// Countries tells the country of an address from a file in the MaxMind DB
// format: GeoLite2 Country or City, or any that has country.iso_code. Its
// methods may be called by several goroutines at once.
type Countries struct {
	file string
	db   atomic.Pointer[maxminddb.Reader]
}

// OpenCountries reads file. The error is a *fingerpost.Error.
func OpenCountries(file string) (*Countries, error) {
	c := &Countries{file: file}
	return c, c.Reload()
}

// Reload reads the file again and swaps it in; if it cannot be used, the one
// before stays. The file is held in memory, not mapped, so that it may be
// overwritten in place and the old one needs no closing.
func (c *Countries) Reload() error {
	fault := func(err error) error {
		return &fingerpost.Error{Code: "bad_country_file", Field: "geo.country", Message: "read the country file: " + err.Error(),
			Hint: "a file in the MaxMind DB format, for example GeoLite2-Country.mmdb", At: fingerpost.Position{File: c.file}}
	}
	text, err := os.ReadFile(c.file)
	if err != nil {
		return fault(err)
	}
	db, err := maxminddb.OpenBytes(text)
	if err != nil {
		return fault(err)
	}
	// No db.Verify: it refuses usable files for their metadata, and one that was
	// cut off lacks the end, which OpenBytes needs.
	c.db.Store(db)
	return nil
}

// Country is the ISO 3166-1 alpha-2 code of addr, empty if it is not known. It
// is for Server.Country.
func (c *Countries) Country(addr netip.Addr) string {
	db := c.db.Load()
	if db == nil || !addr.IsValid() {
		return ""
	}
	var code string
	// Neither an address that is not in the file nor a record without a country
	// is an error: both leave code empty.
	if err := db.Lookup(addr.Unmap().WithZone("")).DecodePath(&code, "country", "iso_code"); err != nil {
		return ""
	}
	return code
}
