package nameserver

import (
	"encoding/hex"
	"strings"
	"testing"

	"fingerpost/zone"

	"github.com/miekg/dns"
)

// unhex reads a message written as hex and quoted text, with spaces for the eye.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	var out []byte
	for field := range strings.FieldsSeq(s) {
		if field[0] == '"' {
			out = append(out, field[1:len(field)-1]...)
			continue
		}
		b, err := hex.DecodeString(field)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b...)
	}
	return out
}

const (
	hdr    = `abcd 0000 0001 0000 0000 0000 `
	hdrOPT = `abcd 0000 0001 0000 0000 0001 `
	www    = `03 "www" 07 "example" 03 "com" 00 0001 0001 `
	opt    = `00 0029 04d0 00 00 0000 `
)

func TestQueryChecks(t *testing.T) {
	s := newServer(t)
	tests := []struct{ name, msg, want string }{
		{"good", hdr + www, "NOERROR aa 1/1/0/0"},
		{"with RD, AD, CD", `abcd 0130 0001 0000 0000 0000 ` + www, "NOERROR aa rd 1/1/0/0"},
		{"nothing", ``, "nothing"},
		{"half a header", `abcd 0000 0001`, "nothing"},
		{"an answer", `abcd 8000 0001 0000 0000 0000 ` + www, "nothing"},
		{"an answer that is garbage", `abcd 8000 ffff ffff ffff ffff`, "nothing"},

		{"no question", `abcd 0000 0000 0000 0000 0000`, "FORMERR 0/0/0/0"},
		{"two questions", `abcd 0000 0002 0000 0000 0000 ` + www + www, "FORMERR 0/0/0/0"},
		{"question missing", hdr, "FORMERR 0/0/0/0"},
		{"question cut in the name", hdr + `03 "ww"`, "FORMERR 0/0/0/0"},
		{"question cut in the type", hdr + `03 "www" 07 "example" 03 "com" 00 00`, "FORMERR 0/0/0/0"},
		{"name is a pointer to itself", hdr + `c00c 0001 0001`, "FORMERR 0/0/0/0"},
		{"name ends in a pointer to itself", hdr + `03 "www" c00c 0001 0001`, "FORMERR 0/0/0/0"},
		{"name points into the header", hdr + `03 "www" c000 0001 0001`, "FORMERR 0/0/0/0"},
		{"label of a reserved kind", hdr + `41 "www" 00 0001 0001`, "FORMERR 0/0/0/0"},
		{"name of 256 bytes", hdr + strings.Repeat(`3f "`+strings.Repeat("a", 63)+`" `, 3) + `3e "` + strings.Repeat("a", 62) + `" 00 0001 0001`, "FORMERR 0/0/0/0"},
		{"name of 255 bytes", hdr + strings.Repeat(`3f "`+strings.Repeat("a", 63)+`" `, 3) + `3d "` + strings.Repeat("a", 61) + `" 00 0001 0001`, "REFUSED 1/0/0/0"},
		{"more behind it", hdr + www + `00`, "FORMERR 1/0/0/0"},
		{"record in the answer section", `abcd 0000 0001 0001 0000 0000 ` + www + `00 0001 0001 00000000 0004 c0000201`, "FORMERR 1/0/0/0"},
		{"counts that lie", `abcd 0000 0001 0000 0000 ffff ` + www, "FORMERR 1/0/0/0"},
		{"all counts lie", `abcd 0000 0001 ffff ffff ffff ` + www, "FORMERR 1/0/0/0"},

		{"opcode STATUS", `abcd 1000 0001 0000 0000 0000 ` + www, "NOTIMP 1/0/0/0"},
		{"opcode NOTIFY", `abcd 2400 0001 0000 0000 0000 ` + www, "NOTIMP 1/0/0/0"},
		{"opcode UPDATE", `abcd 2800 0001 0000 0001 0000 ` + www + `c00c 0001 0001 00000000 0004 c0000201`, "NOTIMP 1/0/0/0"},
		{"opcode 15, garbage", `abcd 7800 ffff ffff ffff ffff ff`, "NOTIMP 0/0/0/0"},

		{"class CHAOS", hdr + `07 "version" 04 "bind" 00 0010 0003`, "REFUSED 1/0/0/0"},
		{"class ANY", hdr + `03 "www" 07 "example" 03 "com" 00 0001 00ff`, "REFUSED 1/0/0/0"},
		{"the root", hdr + `00 0002 0001`, "REFUSED 1/0/0/0"},
		{"AXFR", hdr + `07 "example" 03 "com" 00 00fc 0001`, "REFUSED 1/0/0/0"},
		{"IXFR with its SOA", `abcd 0000 0001 0000 0001 0000 07 "example" 03 "com" 00 00fb 0001 c00c 0006 0001 00000000 0016 00 00 0000000100000002000000030000000400000005`, "REFUSED 1/0/0/0"},
		{"type OPT", hdr + `07 "example" 03 "com" 00 0029 0001`, "FORMERR 1/0/0/0"},
		{"type TSIG", hdr + `07 "example" 03 "com" 00 00fa 0001`, "FORMERR 1/0/0/0"},
		{"type NXNAME", hdr + `07 "example" 03 "com" 00 0080 0001`, "FORMERR 1/0/0/0"},
		{"type 0", hdr + `07 "example" 03 "com" 00 0000 0001`, "FORMERR 1/0/0/0"},
		{"type that nobody knows", hdr + `07 "example" 03 "com" 00 ff00 0001`, "NOERROR aa 1/0/1/0"},

		{"EDNS", hdrOPT + www + opt + `0000`, "NOERROR aa edns 1/1/0/0"},
		{"EDNS version 1", hdrOPT + www + `00 0029 04d0 00 01 0000 0000`, "BADVERS edns 1/0/0/0"},
		{"EDNS version 1, options of another form", hdrOPT + www + `00 0029 04d0 00 01 0000 0003 ffffff`, "BADVERS edns 1/0/0/0"},
		{"EDNS that is not at the root", hdrOPT + www + `01 "a" 00 0029 04d0 00 00 0000 0000`, "FORMERR 1/0/0/0"},
		{"EDNS twice", `abcd 0000 0001 0000 0000 0002 ` + www + opt + `0000` + opt + `0000`, "FORMERR edns 1/0/0/0"},
		{"EDNS with a flag that nobody knows", hdrOPT + www + `00 0029 04d0 00 00 4001 0000`, "NOERROR aa edns 1/1/0/0"},
		{"EDNS longer than the message", hdrOPT + www + opt + `0004`, "FORMERR 1/0/0/0"},
		{"option that nobody knows", hdrOPT + www + opt + `0006 fde9 0002 abcd`, "NOERROR aa edns 1/1/0/0"},
		{"option cut in the head", hdrOPT + www + opt + `0003 fde900`, "FORMERR edns 1/0/0/0"},
		{"option longer than the record", hdrOPT + www + opt + `0006 fde9 0003 abcd`, "FORMERR edns 1/0/0/0"},
		{"other record beside EDNS", `abcd 0000 0001 0000 0000 0002 ` + www + `c00c 0001 0001 00000000 0004 c0000201 ` + opt + `0000`, "NOERROR aa edns 1/1/0/0"},
		{"additional name loops", `abcd 0000 0001 0000 0000 0002 ` + www + `c021 0001 0001 00000000 0000 ` + opt + `0000`, "NOERROR aa edns 1/1/0/0"},
		{"additional name is cut", hdrOPT + www + `c0`, "FORMERR 1/0/0/0"},
		{"TSIG", hdrOPT + www + `00 00fa 00ff 00000000 0000`, "NOTAUTH 1/0/0/0"},
		{"TSIG that is not last", `abcd 0000 0001 0000 0000 0002 ` + www + `00 00fa 00ff 00000000 0000 ` + opt + `0000`, "FORMERR 1/0/0/0"},

		{"cookie", hdrOPT + www + opt + `000c 000a 0008 0102030405060708`, "NOERROR aa edns 1/1/0/0"},
		{"cookie alone", `abcd 0000 0000 0000 0000 0001 ` + opt + `000c 000a 0008 0102030405060708`, "NOERROR edns 0/0/0/0"},
		{"cookie too short", hdrOPT + www + opt + `000b 000a 0007 01020304050607`, "FORMERR edns 1/0/0/0"},
		{"cookie of 12 bytes", hdrOPT + www + opt + `0010 000a 000c 010203040506070801020304`, "FORMERR edns 1/0/0/0"},

		{"subnet", hdrOPT + www + opt + `000b 0008 0007 0001 18 00 c00002`, "NOERROR aa edns 1/1/0/0"},
		{"subnet of nobody", hdrOPT + www + opt + `0008 0008 0004 0000 00 00`, "NOERROR aa edns 1/1/0/0"},
		{"subnet with bits behind it", hdrOPT + www + opt + `000b 0008 0007 0001 17 00 c00003`, "FORMERR edns 1/0/0/0"},
		{"subnet with more bytes", hdrOPT + www + opt + `000c 0008 0008 0001 18 00 c0000200`, "FORMERR edns 1/0/0/0"},
		{"subnet with fewer bytes", hdrOPT + www + opt + `000a 0008 0006 0001 18 00 c000`, "FORMERR edns 1/0/0/0"},
		{"subnet with a scope", hdrOPT + www + opt + `000b 0008 0007 0001 18 18 c00002`, "FORMERR edns 1/0/0/0"},
		{"subnet of a family that nobody knows", hdrOPT + www + opt + `000b 0008 0007 0003 18 00 c00002`, "FORMERR edns 1/0/0/0"},
		{"subnet longer than an address", hdrOPT + www + opt + `000d 0008 0009 0001 21 00 c000020000`, "FORMERR edns 1/0/0/0"},

		{"keepalive with a time", hdrOPT + www + opt + `0006 000b 0002 0064`, "FORMERR edns 1/0/0/0"},
	}
	for _, tt := range tests {
		msg := unhex(t, tt.msg)
		for _, tcp := range []bool{false, true} {
			m := askWire(t, s, msg, tcp)
			if got := summary(m); got != tt.want {
				t.Errorf("%s (tcp %v): %s, want %s", tt.name, tcp, got, tt.want)
			}
			if m != nil && m.Id != 0xabcd {
				t.Errorf("%s: the answer is to %04x", tt.name, m.Id)
			}
		}
	}
}

// FuzzAnswer: whatever comes, the answer is none or one that another library
// reads, to the same question, and not larger than it may be.
func FuzzAnswer(f *testing.F) {
	s := newServer(f)
	s.Limits.Responses = -1
	for _, q := range []struct{ name, qtype string }{
		{"www.example.com", "A"}, {"alias.example.com", "AAAA"}, {"gone.example.com", "A"}, {"x.sub.example.com", "A"}, {"x.wild.example.com", "A"},
		{"many.acme.example.net", "TXT"}, {label + ".acme.example.net", "TXT"}, {"example.com", "ANY"}, {"example.org", "A"}, {"acme.example.net", "NS"},
	} {
		m := newQuery(q.name, q.qtype)
		plain, _ := m.Pack()
		f.Add(plain, false)
		m.SetEdns0(4096, true)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}, &dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE}}
		withEDNS, _ := m.Pack()
		f.Add(withEDNS, true)
	}
	f.Add(unhex(f, hdrOPT+www+opt+`000b 0008 0007 0001 18 00 c00002`), false)
	f.Fuzz(func(t *testing.T, msg []byte, tcp bool) {
		prefix := []byte("what was in the buffer before")
		out := s.Answer(prefix, msg, client, tcp)
		if string(out[:len(prefix)]) != string(prefix) {
			t.Fatal("the buffer was written over")
		}
		if out = out[len(prefix):]; len(out) == 0 {
			if isQuery(msg) {
				t.Fatal("no answer to a query")
			}
			return
		}
		m := new(dns.Msg)
		if err := m.Unpack(out); err != nil {
			t.Fatalf("the answer cannot be read: %v\n% x", err, out)
		}
		var q query
		q.parse(msg)
		limit := 512
		switch {
		case tcp:
			limit = 65535
		case q.edns:
			limit = min(max(512, q.size), 1232)
		}
		if len(out) > limit {
			t.Fatalf("%d bytes, %d are allowed", len(out), limit)
		}
		if !m.Response || m.Id != q.id || m.Opcode != int(q.opcode) || m.RecursionAvailable || m.Rcode == dns.RcodeServerFailure {
			t.Fatalf("%v", m)
		}
		if (m.IsEdns0() != nil) != q.edns {
			t.Fatalf("EDNS in one of query and answer only: %v", m)
		}
		if q.question != nil && string(out[headerSize:headerSize+len(q.question)]) != string(q.question) {
			t.Fatal("the question is another")
		}
		for _, rr := range m.Answer {
			if name, err := zone.ParseName(rr.Header().Name); err != nil || s.Zones().Zone(name) == nil {
				t.Fatalf("an answer for somebody else's name: %v", rr)
			}
		}
	})
}
