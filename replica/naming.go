package replica

import (
	"bytes"
	"encoding/json"
	"hash/crc32"
	"hash/maphash"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"

	"fingerpost"
)

// Names are what hosts are looked for by.
type Names struct {
	Forms       []fingerpost.HostPattern // hosts that name one of these
	Below       []string                 // … or a form one label below one of these, as a.shop.example and .a.shop.example are below shop.example
	Certificate string                   // … or whose settings name this certificate; empty for none
}

// Naming gives the hosts that names lead to, in the order of their keys, and the forms
// below Names.Below that only redirects have. It takes some microseconds for each; the
// first time after a snapshot came or was made, it reads all keys of it.
func (r *Replica) Naming(n Names) (hosts []*Item, alone []fingerpost.HostPattern, err error) {
	below := map[string]bool{}
	for _, parent := range n.Below {
		below[parent] = true
	}
	keys, redirected := map[string]struct{}{}, map[fingerpost.HostPattern]struct{}{}
	see := func(kind, key string, value []byte) {
		switch {
		case kind == KindRedirect:
			if f := form(key); below[parentOf(f)] {
				redirected[f] = struct{}{}
			}
		case kind == kindNames:
			if f, host, _ := strings.Cut(key, "\x00"); below[parentOf(fingerpost.HostPattern(f))] {
				keys[host] = struct{}{}
			}
		case below[parentOf(fingerpost.HostPattern(key))], n.Certificate != "" && certificateOf(value) == n.Certificate:
			keys[key] = struct{}{}
		}
	}
	r.mu.RLock()
	if r.live == nil {
		r.mu.RUnlock()
		return nil, nil, ErrNoState
	}
	base := r.live.content.base
	for _, l := range r.live.content.levels {
		for _, f := range n.Forms {
			maps.Copy(keys, l.claims[f])
		}
		if len(below) == 0 && n.Certificate == "" {
			continue
		}
		for _, kind := range []string{KindHost, KindRedirect} {
			l.tree.prefix(name(kind, ""), func(t *tree) bool {
				if it := t.entry.item; it != nil {
					see(kind, it.Key, it.Value)
				}
				return true
			})
		}
		for f, hosts := range l.claims {
			if below[parentOf(f)] {
				maps.Copy(keys, hosts)
			}
		}
	}
	r.mu.RUnlock()
	for _, f := range n.Forms {
		keys[string(f)] = struct{}{}
		claims, err := base.claims(f)
		if err != nil {
			return nil, nil, err
		}
		for _, key := range claims {
			keys[key] = struct{}{}
		}
	}
	if err := base.led(n, see); err != nil {
		return nil, nil, err
	}
	own := map[fingerpost.HostPattern]bool{}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		it, err := r.Get(KindHost, key)
		if err != nil {
			return nil, nil, err
		}
		if it == nil {
			continue
		}
		hosts = append(hosts, it)
		if h, err := it.host(); err == nil {
			for _, f := range namesOf(h) {
				own[f] = true
			}
		}
	}
	for _, f := range slices.Sorted(maps.Keys(redirected)) {
		if own[f] {
			continue
		}
		has, err := r.hasRedirects(f)
		if err != nil {
			return nil, nil, err
		}
		if has {
			alone = append(alone, f)
		}
	}
	return hosts, alone, nil
}

// hasRedirects reports whether a form has any.
func (r *Replica) hasRedirects(f fingerpost.HostPattern) (bool, error) {
	for _, err := range r.view.Load().items(name(KindRedirect, string(f)+"/")) {
		return err == nil, err
	}
	return false, nil
}

// parentOf is the name that a form is one label below, empty where there is none that
// matters: nobody looks below a top-level domain.
func parentOf(f fingerpost.HostPattern) string {
	label, parent, _ := strings.Cut(strings.TrimPrefix(string(f), "."), ".")
	if label == "*" {
		return ""
	}
	return parent
}

var (
	certificateField = []byte(`"certificate"`)
	slash, zero      = []byte{'/'}, []byte{0}
)

// certificateOf is the certificate that a host's settings name.
func certificateOf(value []byte) string {
	if !bytes.Contains(value, certificateField) {
		return ""
	}
	var h struct{ Certificate string }
	if json.Unmarshal(value, &h) != nil || h.Certificate == "auto" || h.Certificate == "none" {
		return ""
	}
	return h.Certificate
}

// leads finds the blocks of a file in which there are forms below a name, or hosts
// that name a certificate: half a word of hash, half a word of the block's number, in
// order. It is made when it is first asked for, and takes 8 bytes for each form at
// most.
type leads struct {
	once    sync.Once
	entries []uint64
	err     error
}

var leadsSeed = maphash.MakeSeed()

func leadOf(kind byte, text string) uint64 {
	var h maphash.Hash
	h.SetSeed(leadsSeed)
	h.WriteByte(kind)
	h.WriteString(text)
	return h.Sum64() >> 32 << 32
}

const (
	leadBelow       = 'b'
	leadCertificate = 'c'
)

// led calls fn with what may be below names or name a certificate, and with more.
func (f *file) led(n Names, fn func(kind, key string, value []byte)) error {
	var wanted []uint64
	for _, parent := range n.Below {
		wanted = append(wanted, leadOf(leadBelow, parent))
	}
	if n.Certificate != "" {
		wanted = append(wanted, leadOf(leadCertificate, n.Certificate))
	}
	if len(wanted) == 0 {
		return nil
	}
	f.leads.once.Do(func() { f.leads.err = f.readLeads() })
	if f.leads.err != nil {
		return f.leads.err
	}
	blocks := map[uint32]struct{}{}
	for _, w := range wanted {
		i, _ := slices.BinarySearch(f.leads.entries, w)
		for _, e := range f.leads.entries[i:] {
			if e>>32 != w>>32 {
				break
			}
			blocks[uint32(e)] = struct{}{}
		}
	}
	for i := range blocks {
		if err := f.named(int(i), func(kind, key, value []byte) { fn(string(kind), string(key), value) }); err != nil {
			return err
		}
	}
	return nil
}

func (f *file) readLeads() error {
	var entries []uint64
	for i := range int(f.Blocks) {
		skip, err := f.isOther(i)
		if err != nil {
			return err
		}
		if skip {
			continue
		}
		add := func(kind byte, text string) {
			if text != "" {
				entries = append(entries, leadOf(kind, text)|uint64(uint32(i)))
			}
		}
		begin, last := len(entries), "" // form of the redirect before: most have the same
		err = f.named(i, func(kind, key, value []byte) {
			switch string(kind) {
			case KindRedirect:
				if key, _, _ = bytes.Cut(key, slash); string(key) == last {
					return
				}
				last = string(key)
			case kindNames:
				key, _, _ = bytes.Cut(key, zero)
			default:
				add(leadCertificate, certificateOf(value))
			}
			add(leadBelow, parentOf(fingerpost.HostPattern(key)))
		})
		if err != nil {
			return err
		}
		slices.Sort(entries[begin:])
		entries = entries[:begin+len(slices.Compact(entries[begin:]))]
	}
	slices.Sort(entries)
	f.leads.entries = slices.Clip(entries)
	return nil
}

// isOther reports whether a block has nothing of hosts and redirects: it and the next
// one begin with the same other kind.
func (f *file) isOther(i int) (bool, error) {
	kind, err := f.kindOf(i)
	if err != nil || kind == KindHost || kind == KindRedirect || kind == kindNames || i+1 == int(f.Blocks) {
		return false, err
	}
	next, err := f.kindOf(i + 1)
	return kind == next, err
}

func (f *file) kindOf(i int) (string, error) {
	b, err := f.block(i)
	kind, _, _ := bytes.Cut(b.first, zero)
	return string(kind), err
}

// named calls fn with the hosts, redirects and names of a block. What it gets lives in
// the file.
func (f *file) named(i int, fn func(kind, key, value []byte)) error {
	defer runtime.KeepAlive(f)
	b, err := f.block(i)
	if err != nil {
		return err
	}
	if crc32.Checksum(b.data, castagnoli) != b.sum {
		return damaged("%s: block %d of its content", f.path, i)
	}
	d := decoder{b: b.data}
	for len(d.b) > 0 && d.err == nil {
		kind, key := d.bytes(), d.bytes()
		d.bytes() // source
		d.bytes() // team
		d.varint()
		d.varint() // since
		value := d.bytes()
		if d.err != nil {
			return damaged("%s: block %d of its content: %w", f.path, i, d.err)
		}
		switch string(kind) {
		case KindHost, KindRedirect, kindNames:
			fn(kind, key, value)
		}
	}
	return d.err
}
