package nameserver

import (
	"encoding/binary"
	"strconv"

	"fingerpost/zone"
)

// Rcode is what a response says about the query as a whole.
type Rcode uint16

const (
	NoError  Rcode = 0
	FormErr  Rcode = 1
	ServFail Rcode = 2
	NXDomain Rcode = 3
	NotImp   Rcode = 4
	Refused  Rcode = 5
	NotAuth  Rcode = 9
	BadVers  Rcode = 16 // its upper bits stand in the OPT record (RFC 6891 6.1.3)
)

// String is the name that r has in the tools of DNS.
func (r Rcode) String() string {
	switch r {
	case NoError:
		return "NOERROR"
	case FormErr:
		return "FORMERR"
	case ServFail:
		return "SERVFAIL"
	case NXDomain:
		return "NXDOMAIN"
	case NotImp:
		return "NOTIMP"
	case Refused:
		return "REFUSED"
	case NotAuth:
		return "NOTAUTH"
	case BadVers:
		return "BADVERS"
	}
	return "RCODE" + strconv.Itoa(int(r))
}

const (
	headerSize = 12
	classIN    = 1

	flagQR = 1 << 15
	flagAA = 1 << 10
	flagTC = 1 << 9
	flagRD = 1 << 8
	flagDO = 1 << 15 // of the OPT record's TTL

	typeTKEY   zone.Type = 249
	typeTSIG   zone.Type = 250
	typeIXFR   zone.Type = 251
	typeAXFR   zone.Type = 252
	typeNXNAME zone.Type = 128

	optionECS       = 8
	optionCookie    = 10
	optionKeepalive = 11
)

// query is what a message asks. Its slices are parts of the message.
type query struct {
	id       uint16
	opcode   uint16
	rd       bool
	question []byte // as it came, with type and class; nil if there is none that can be read
	name     zone.Name
	qtype    zone.Type
	qclass   uint16

	edns      bool
	version   uint8
	size      int // of a UDP answer that the client takes
	do        bool
	ecs       []byte // the option's content; nil if there is none
	cookie    []byte
	keepalive bool
	tsig      bool
}

// isQuery reports whether any answer is due to msg: it has a header, and is not
// an answer itself. Two servers that answered each other would never stop.
func isQuery(msg []byte) bool {
	return len(msg) >= headerSize && binary.BigEndian.Uint16(msg[2:])&flagQR == 0
}

// parse reads msg, for which isQuery holds. What it could read stays in q if the
// answer is an error too, so that the client can tell what it is about.
//
// No name of a query is followed through compression pointers: the question's
// has nothing before it to point to, and of the others only the end matters.
func (q *query) parse(msg []byte) Rcode {
	flags := binary.BigEndian.Uint16(msg[2:])
	*q = query{id: binary.BigEndian.Uint16(msg), opcode: flags >> 11 & 15, rd: flags&flagRD != 0}
	code := q.parseBody(msg)
	if q.opcode != 0 {
		return NotImp // whatever the body of an operation that we do not know looks like
	}
	return code
}

func (q *query) parseBody(msg []byte) Rcode {
	questions := binary.BigEndian.Uint16(msg[4:])
	records := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:]))
	additional := int(binary.BigEndian.Uint16(msg[10:]))
	off := headerSize
	if questions > 1 {
		return FormErr // RFC 9619
	}
	if questions == 1 {
		end := q.parseQuestion(msg)
		if end < 0 {
			return FormErr
		}
		off = end
	}
	// Only a transfer has something to say before the additional section.
	if records > 0 && (records > 1 || q.qtype != typeIXFR) {
		return FormErr
	}
	for i := range records + additional {
		nameAt := off
		if off = skipName(msg, off); off < 0 || off+10 > len(msg) {
			return FormErr
		}
		fixed := msg[off:]
		data := off + 10
		if off = data + int(binary.BigEndian.Uint16(fixed[8:])); off > len(msg) {
			return FormErr
		}
		if i < records {
			continue
		}
		switch zone.Type(binary.BigEndian.Uint16(fixed)) {
		case zone.TypeOPT:
			if q.edns || msg[nameAt] != 0 {
				return FormErr // RFC 6891 6.1.1
			}
			q.edns = true
			q.size = int(binary.BigEndian.Uint16(fixed[2:]))
			q.version = fixed[5]
			q.do = binary.BigEndian.Uint16(fixed[6:])&flagDO != 0
			if q.version != 0 {
				continue // what the options of another version mean is not known
			}
			if !q.parseOptions(msg[data:off]) {
				return FormErr
			}
		case typeTSIG:
			if i != records+additional-1 {
				return FormErr // RFC 8945 5.1
			}
			q.tsig = true
		}
	}
	switch {
	case off != len(msg):
		return FormErr
	case q.edns && q.version != 0:
		return BadVers
	case questions == 0 && q.cookie == nil: // with a cookie it asks for ours (RFC 7873 5.4)
		return FormErr
	case q.tsig:
		return NotAuth // we know no key (RFC 8945 5.2)
	}
	return NoError
}

// parseQuestion gives the end of the question, or -1.
func (q *query) parseQuestion(msg []byte) int {
	var name [255]byte
	off, n := headerSize, 0
	for {
		if off >= len(msg) || msg[off] > 63 {
			return -1
		}
		label := 1 + int(msg[off])
		if off+label > len(msg) || n+label > len(name) {
			return -1
		}
		name[n] = msg[off]
		for i := 1; i < label; i++ {
			c := msg[off+i]
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			name[n+i] = c
		}
		off += label
		n += label
		if label == 1 {
			break
		}
	}
	if off+4 > len(msg) {
		return -1
	}
	q.name = zone.Name(name[:n])
	q.qtype = zone.Type(binary.BigEndian.Uint16(msg[off:]))
	q.qclass = binary.BigEndian.Uint16(msg[off+2:])
	off += 4
	q.question = msg[headerSize:off]
	return off
}

// skipName gives the end of the name at off, or -1.
func skipName(msg []byte, off int) int {
	for off < len(msg) {
		switch c := msg[off]; {
		case c == 0:
			return off + 1
		case c >= 0xc0:
			if off+2 > len(msg) {
				return -1
			}
			return off + 2
		case c > 63:
			return -1
		default:
			off += 1 + int(c)
		}
	}
	return -1
}

// parseOptions reads the content of the OPT record. Options that it does not
// know it passes over (RFC 6891 6.1.2).
func (q *query) parseOptions(data []byte) bool {
	for len(data) > 0 {
		if len(data) < 4 {
			return false
		}
		code, size := binary.BigEndian.Uint16(data), int(binary.BigEndian.Uint16(data[2:]))
		if data = data[4:]; size > len(data) {
			return false
		}
		value := data[:size:size]
		data = data[size:]
		switch code {
		case optionECS:
			if !validECS(value) {
				return false
			}
			q.ecs = value
		case optionCookie:
			if size != 8 && (size < 16 || size > 40) { // RFC 7873 5.2.2
				return false
			}
			q.cookie = value
		case optionKeepalive:
			if size != 0 { // RFC 7828 3.2.1
				return false
			}
			q.keepalive = true
		}
	}
	return true
}

// validECS holds a client subnet to RFC 7871 6: as many bytes of the address as
// the prefix needs, and no bit behind it.
func validECS(value []byte) bool {
	if len(value) < 4 || value[3] != 0 {
		return false
	}
	source, address := int(value[2]), value[4:]
	var most int
	switch binary.BigEndian.Uint16(value) {
	case 0: // "do not send mine", with a prefix of length 0 (RFC 7871 7.1.2)
	case 1:
		most = 32
	case 2:
		most = 128
	default:
		return false
	}
	if source > most || len(address) != (source+7)/8 {
		return false
	}
	return source%8 == 0 || address[len(address)-1]<<(source%8) == 0
}
