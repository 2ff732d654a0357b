package zone

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
)

// Type is the type of a record or of a question.
type Type uint16

// The types that this package has to tell apart; all others pass through it.
const (
	TypeA     Type = 1
	TypeNS    Type = 2
	TypeCNAME Type = 5
	TypeSOA   Type = 6
	TypeHINFO Type = 13
	TypeMX    Type = 15
	TypeTXT   Type = 16
	TypeAAAA  Type = 28
	TypeSRV   Type = 33
	TypeDNAME Type = 39
	TypeOPT   Type = 41
	TypeDS    Type = 43
	TypeANY   Type = 255
	TypeCAA   Type = 257
)

var typeNames = map[Type]string{
	TypeA: "A", TypeNS: "NS", TypeCNAME: "CNAME", TypeSOA: "SOA", TypeHINFO: "HINFO", TypeMX: "MX", TypeTXT: "TXT",
	TypeAAAA: "AAAA", TypeSRV: "SRV", TypeDNAME: "DNAME", TypeOPT: "OPT", TypeDS: "DS", TypeANY: "ANY", TypeCAA: "CAA",
}

// String is the type's name, or TYPE123 (RFC 3597 5).
func (t Type) String() string {
	if s, ok := typeNames[t]; ok {
		return s
	}
	return "TYPE" + strconv.Itoa(int(t))
}

// Record is one record. Data is in the form of a message, with names
// uncompressed, which every reader of messages takes (RFC 3597 4).
type Record struct {
	Name Name
	Type Type
	TTL  uint32 // seconds
	Data string
}

// RRset is all records of one name and type. It is immutable.
type RRset struct {
	Type Type
	TTL  uint32
	Data []string // as Record.Data, each once
}

// Address is an A or an AAAA record, as addr is.
func Address(name Name, ttl uint32, addr netip.Addr) Record {
	addr = addr.Unmap()
	t := TypeA
	if addr.Is6() {
		t = TypeAAAA
	}
	return Record{name, t, ttl, string(addr.AsSlice())}
}

// NS says that the server at host answers for name.
func NS(name Name, ttl uint32, host Name) Record {
	return Record{name, TypeNS, ttl, string(host)}
}

// CNAME says that name is another name for target.
func CNAME(name Name, ttl uint32, target Name) Record {
	return Record{name, TypeCNAME, ttl, string(target)}
}

// TXT is one value of name. A value of more than 255 bytes becomes several
// strings in the one record, which readers put together again.
func TXT(name Name, ttl uint32, value string) Record {
	var b strings.Builder
	for {
		part := value[:min(len(value), 255)]
		b.WriteByte(byte(len(part)))
		b.WriteString(part)
		if value = value[len(part):]; value == "" {
			return Record{name, TypeTXT, ttl, b.String()}
		}
	}
}

// CAA says which authority may issue for name (RFC 8659 4).
func CAA(name Name, ttl uint32, flags byte, tag, value string) Record {
	return Record{name, TypeCAA, ttl, string([]byte{flags, byte(len(tag))}) + tag + value}
}

// SOA is the record that begins a zone.
type SOA struct {
	Server  Name // the primary's
	Mailbox Name // of who is responsible; the first label stands before the @
	Serial  uint32
	Refresh uint32 // this and the rest in seconds
	Retry   uint32
	Expire  uint32
	Minimum uint32 // how long it may be remembered that something is not there (RFC 2308 4)
}

// Record is s as a record of the zone's apex.
func (s SOA) Record(apex Name, ttl uint32) Record {
	data := []byte(s.Server + s.Mailbox)
	for _, n := range [...]uint32{s.Serial, s.Refresh, s.Retry, s.Expire, s.Minimum} {
		data = binary.BigEndian.AppendUint32(data, n)
	}
	return Record{apex, TypeSOA, ttl, string(data)}
}

// wellFormed reports whether data is what t has, as far as this package and the
// writers of messages look into it.
func wellFormed(t Type, data string) bool {
	switch t {
	case TypeA:
		return len(data) == 4
	case TypeAAAA:
		return len(data) == 16
	case TypeNS, TypeCNAME, TypeMX, TypeSRV:
		skip := hostOffset[t]
		return len(data) > skip && nameEnd(data[skip:]) == len(data)-skip
	case TypeSOA:
		server := nameEnd(data)
		if server < 0 {
			return false
		}
		mailbox := nameEnd(data[server:])
		return mailbox > 0 && len(data) == server+mailbox+20
	case TypeTXT:
		n := 0
		for n < len(data) {
			n += 1 + int(data[n])
		}
		return n == len(data) && n > 0
	case TypeCAA:
		return len(data) > 2 && data[1] > 0 && 2+int(data[1]) <= len(data)
	}
	return len(data) <= 65535
}

// hostOffset is where, in the types that have one, the name stands whose
// addresses the reader will want next. CNAME is not among those: its target is
// followed.
var hostOffset = map[Type]int{TypeNS: 0, TypeMX: 2, TypeSRV: 6}
