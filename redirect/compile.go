package redirect

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"fingerpost"
)

// Compile builds the table of all hosts and redirects. It refuses, with one
// error for each fault, whatever is wrong with an item by itself, two rules with
// the same from, scheme and when, and rules that send a visitor in a circle. A
// disabled redirect takes no part.
func Compile(hosts []fingerpost.Host, redirects []fingerpost.Redirect) (*Table, error) {
	return newBuilder(nil, len(redirects)).compile(hosts, redirects)
}

// Layer builds a table that answers as base does, but for the host forms that
// hosts and redirects name: these are as they stand here, whole. A form in gone
// that they do not name is no more. It refuses what Compile does; circles are
// looked for from the layer's own rules, through the base too.
//
// A layer takes time for what is in it, not for what is below it. Every lookup
// of a host that it does not know costs a little more.
func Layer(base *Table, hosts []fingerpost.Host, redirects []fingerpost.Redirect, gone []fingerpost.HostPattern) (*Table, error) {
	b := newBuilder(base, len(redirects))
	b.gone = gone
	return b.compile(hosts, redirects)
}

// CheckPart looks for what [Layer] refuses in a part of a change that is too large
// to be compiled at once. Circles are looked for as if there were no other parts;
// one that leads through several of them is not found. So leads is called with each
// host that a rule leads to, besides its own; "" stands for a host that the visitor
// has a say in. A circle through several parts has a rule that leads to another.
func CheckPart(base *Table, hosts []fingerpost.Host, redirects []fingerpost.Redirect, gone []fingerpost.HostPattern, leads func(host string)) error {
	b := newBuilder(base, len(redirects))
	b.gone, b.leads = gone, leads
	_, err := b.compile(hosts, redirects)
	return err
}

// FindLoops looks for circles through rules of t, which is of all content.
func FindLoops(t *Table, rules []fingerpost.Redirect) error {
	b := newBuilder(t, 0)
	for i := range rules {
		p, err := rules[i].Parse()
		if err != nil || !rules[i].IsEnabled() {
			continue
		}
		if b.staysHere(&p.To) {
			b.follow = append(b.follow, &rules[i])
		}
	}
	return findLoops(t, b.follow)
}

// IsLoop reports whether an error is about a circle.
func IsLoop(err *fingerpost.Error) bool { return err.Code == codeCycle || err.Code == codeSelf }

// LayerAccepted is [Layer] for content that has been accepted before: circles
// are not looked for. What is wrong all the same is left out, and refused is told
// why; of two that contradict each other the first stays.
func LayerAccepted(base *Table, hosts []fingerpost.Host, redirects []fingerpost.Redirect, gone []fingerpost.HostPattern, refused func(error)) *Table {
	b := newBuilder(base, len(redirects))
	b.gone, b.trusted, b.refused = gone, true, refused
	b.build(hosts, redirects)
	return b.finish()
}

// CompileSorted builds the table of any number of redirects, which have been
// accepted before: circles are not looked for. They come in the order of their
// hosts ([HostOf]) with a slash behind, as the keys of a store are, so that no
// more than those of one host are in memory. With refused, what is wrong is left
// out as by [LayerAccepted]; without, it is an error. An error of the sequence, or
// in its order, always is one. There are about so many redirects: memory that grows is
// twice there for a moment. The table is to be written away: it may hold more
// memory than it needs.
func CompileSorted(hosts []fingerpost.Host, redirects iter.Seq2[fingerpost.Redirect, error], about int, refused func(error)) (*Table, error) {
	b := newBuilder(nil, about)
	b.trusted, b.refused, b.brief = true, refused, true
	b.declare(hosts)
	var last fingerpost.HostPattern
	var group []fingerpost.Redirect // those of last
	flush := func() {
		if len(group) == 0 {
			return
		}
		in := b.hosts[last]
		if in == nil {
			in = &hostInput{name: last}
		}
		for i := range group {
			if !b.isAlias(last, &group[i]) {
				in.rules = append(in.rules, &group[i])
			}
		}
		if b.aliases[last] == "" {
			b.host(in)
		}
		in.built, in.rules, group = true, nil, group[:0]
	}
	for r, err := range redirects {
		if err != nil {
			return nil, err
		}
		name, err := HostOf(r.From)
		switch {
		case err != nil:
			return nil, fmt.Errorf("compile: %w", err)
		case last != "" && string(name)+"/" < string(last)+"/":
			return nil, fmt.Errorf("compile: redirects of %s come after those of %s", name, last)
		case name != last:
			flush()
			last = name
		}
		if r.IsEnabled() {
			group = append(group, r)
		}
	}
	flush()
	for _, name := range b.names() {
		if in := b.hosts[name]; !in.built {
			b.host(in)
		}
	}
	if err := errors.Join(b.errs...); err != nil {
		return nil, err
	}
	return b.finish(), nil
}

func newBuilder(base *Table, rules int) *builder {
	return &builder{table: &Table{base: base, arena: make([]byte, headerSize, headerSize+128*rules)}, pages: map[string]uint64{}, begins: map[string]uint64{}}
}

func (b *builder) compile(hosts []fingerpost.Host, redirects []fingerpost.Redirect) (*Table, error) {
	b.build(hosts, redirects)
	if err := errors.Join(b.errs...); err != nil {
		return nil, err
	}
	t := b.finish()
	if err := findLoops(t, b.follow); err != nil {
		return nil, err
	}
	return t, nil
}

// build writes all but the index.
func (b *builder) build(hosts []fingerpost.Host, redirects []fingerpost.Redirect) {
	b.declare(hosts)
	b.assign(redirects)
	for _, name := range b.names() {
		b.host(b.hosts[name])
	}
	for _, name := range b.gone {
		if b.hosts[name] == nil && b.aliases[name] == "" {
			b.enterRecord(hashString(string(name)), ownerHosts, string(name), binary.AppendUvarint(nil, hostGone))
		}
	}
}

// builder turns hosts and redirects into an arena, one host at a time, so that
// no more than one host's parsed rules are in memory.
type builder struct {
	table   *Table
	hosts   map[fingerpost.HostPattern]*hostInput
	aliases map[fingerpost.HostPattern]fingerpost.HostPattern // from an also to its host
	entries []entry
	owners  uint64 // the last owner number given away
	pages   map[string]uint64
	begins  map[string]uint64 // see common; zero for what only one target has begun with
	regexes int
	gone    []fingerpost.HostPattern
	brief   bool                   // the table does not stay for long
	trusted bool                   // circles have been looked for before
	follow  []*fingerpost.Redirect // those that may lead to a host of ours
	leads   func(host string)      // see CheckPart; may be nil
	refused func(error)            // takes what is wrong, which is left out; nil to collect it in errs
	errs    []error

	rule, group, literal, target []byte // records that are being written, for their memory: a third of all allocations otherwise
}

// hostInput is what is known of a host form before it is built.
type hostInput struct {
	name     fingerpost.HostPattern
	settings *fingerpost.Host // nil for one that is named only by redirects
	aliases  []fingerpost.HostPattern
	rules    []*fingerpost.Redirect
	built    bool

	certificate string // that is named for it
}

func (b *builder) fail(err error) {
	if b.refused != nil {
		b.refused(err)
		return
	}
	b.errs = append(b.errs, err)
}

// declare takes the hosts that have settings, and the rules these stand for.
func (b *builder) declare(hosts []fingerpost.Host) {
	b.hosts = map[fingerpost.HostPattern]*hostInput{}
	b.aliases = map[fingerpost.HostPattern]fingerpost.HostPattern{}
	declared := map[fingerpost.HostPattern]*fingerpost.Host{}
	var accepted []*fingerpost.Host
	claim := func(h *fingerpost.Host, field, s string) (fingerpost.HostPattern, bool) {
		name, err := fingerpost.ParseHostPattern(s)
		if err != nil {
			return "", false // Validate has said so
		}
		if other, ok := declared[name]; ok {
			b.fail(&fingerpost.Error{Code: "duplicate", Field: field, At: h.Source,
				Message: fmt.Sprintf("host %s is declared twice, the other one at %s", name, place(other.Source, "host "+other.Name)),
				Hint:    "keep one of them, or give one of them another name"})
			return "", false
		}
		declared[name] = h
		return name, true
	}
	for i := range hosts {
		h := &hosts[i]
		if err := h.Validate(); err != nil {
			b.fail(err)
			continue
		}
		name, ok := claim(h, "", h.Name)
		if !ok {
			continue
		}
		in := &hostInput{name: name, settings: h}
		b.hosts[name] = in
		for _, s := range h.Also {
			if alias, ok := claim(h, "also", s); ok {
				in.aliases = append(in.aliases, alias)
				b.aliases[alias] = name
			}
		}
		accepted = append(accepted, h)
	}
	for _, h := range accepted { // when all aliases are known
		rules := h.Redirects()
		for j := range rules {
			b.assignOne(&rules[j])
		}
		if h.Certificate == "" || h.Certificate == "auto" || h.Certificate == "none" {
			continue
		}
		for _, s := range append([]string{h.Name}, h.RedirectFrom...) {
			name, _ := fingerpost.ParseHostPattern(s) // Validate has seen it
			if in := b.hosts[name]; in != nil && (in.settings == nil || in.settings == h) {
				in.certificate = h.Certificate
			}
		}
	}
}

// assign gives each redirect to its host form.
func (b *builder) assign(redirects []fingerpost.Redirect) {
	for i := range redirects {
		if redirects[i].IsEnabled() {
			b.assignOne(&redirects[i])
		}
	}
}

func (b *builder) assignOne(r *fingerpost.Redirect) {
	name, err := HostOf(r.From)
	if err != nil {
		b.fail(r.Validate())
		return
	}
	if b.isAlias(name, r) {
		return
	}
	in := b.hosts[name]
	if in == nil {
		in = &hostInput{name: name}
		b.hosts[name] = in
	}
	in.rules = append(in.rules, r)
}

// isAlias reports whether name is only another name of a host, and refuses r, a
// rule for it.
func (b *builder) isAlias(name fingerpost.HostPattern, r *fingerpost.Redirect) bool {
	host, ok := b.aliases[name]
	if ok {
		b.fail(&fingerpost.Error{Code: "bad_from", Field: "from", At: r.Source,
			Message: fmt.Sprintf("from %q is for a host that is served as %s", r.From, host),
			Hint:    fmt.Sprintf("write the rule for %s: it holds for both", host)})
	}
	return ok
}

// HostOf is the host of a from, by which a table keeps its rules.
func HostOf(from string) (fingerpost.HostPattern, error) {
	if i := strings.Index(from, "://"); i >= 0 && !strings.ContainsAny(from[:i], "/?") {
		from = from[i+3:]
	}
	if i := strings.IndexAny(from, "/?"); i >= 0 {
		from = from[:i]
	}
	return fingerpost.ParseHostPattern(from)
}

// names are all host forms in a fixed order, so that the same input makes the
// same bytes.
func (b *builder) names() []fingerpost.HostPattern {
	names := make([]fingerpost.HostPattern, 0, len(b.hosts))
	for name := range b.hosts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (b *builder) hasAlias(name fingerpost.HostPattern) bool {
	in := b.hosts[name]
	return in != nil && len(in.aliases) > 0
}

// staysHere reports whether a target may be a host that we serve.
func (b *builder) staysHere(to *fingerpost.To) bool {
	switch {
	case b.trusted:
		return false
	case to.Host == "":
		return len(to.Base) > 0
	case b.table.base != nil && b.table.base.Serves(to.Host):
		return true
	}
	serves := func(p []byte) bool {
		return b.hosts[fingerpost.HostPattern(p)] != nil || b.aliases[fingerpost.HostPattern(p)] != ""
	}
	// name holds a dot and the host, so that each pattern is a part of it, as in
	// appendWildcards.
	var buf [256]byte
	name := append(append(buf[:0], '.'), to.Host...)
	if serves(name) || serves(name[1:]) {
		return true
	}
	for dot := 0; ; {
		next := bytes.IndexByte(name[dot+1:], '.')
		if next < 0 {
			return false
		}
		dot += 1 + next
		name[dot-1] = '*'
		if serves(name[dot:]) || serves(name[dot-1:]) {
			return true
		}
	}
}

// page writes a page once and says where.
func (b *builder) page(html string) uint64 {
	if html == "" {
		return 0
	}
	at, ok := b.pages[html]
	if !ok {
		// Pages stand between records: a record is finished before it is appended.
		at = uint64(len(b.table.arena))
		b.table.arena = appendString(b.table.arena, html)
		b.pages[html] = at
	}
	return at
}

// newOwners gives n numbers away, and the first of them.
func (b *builder) newOwners(n uint64) uint64 {
	first := b.owners + 1
	b.owners += n
	return first
}

// host writes the block of one host form.
func (b *builder) host(in *hostInput) {
	rules := b.parse(in)
	if len(b.errs) > 0 {
		return
	}
	slices.SortFunc(rules, compare)
	h := hostBuilder{builder: b, hash: hashString(string(in.name)), owner: b.newOwners(spaces), others: noLimit}
	for i, r := range rules {
		r.rank = i
		h.add(r)
	}
	b.record(in, h.write(in))
	if in.settings != nil && in.settings.Fallback != nil && in.settings.Fallback.To != "" {
		fallback := in.settings.FallbackRedirect()
		b.follow = append(b.follow, fallback)
		if p, err := fallback.Parse(); err == nil {
			b.lead(in, &p.To)
		}
	}
}

// record appends a host's record, and one for each of its aliases.
func (b *builder) record(in *hostInput, record []byte) {
	t := b.table
	at := uint64(len(t.arena))
	t.arena = append(t.arena, record...)
	b.entries = append(b.entries, entry{hashString(string(in.name)), at})
	b.name(in.name)
	for _, alias := range in.aliases {
		body := appendOffset(binary.AppendUvarint(nil, hostAlias), at)
		b.enterRecord(hashString(string(alias)), ownerHosts, string(alias), body)
		b.name(alias)
	}
}

// name notes what lookups of a host name have to know before they begin.
func (b *builder) name(name fingerpost.HostPattern) {
	t := b.table
	t.nhosts++
	if name == "*" {
		t.flags |= tableStar
	} else if suffix := name.Suffix(); suffix != "" {
		t.depths |= 1 << min(strings.Count(suffix, ".")+1, 63)
	}
}

// parse takes a host's rules apart and reports duplicates.
func (b *builder) parse(in *hostInput) []*rule {
	rules, all := make([]*rule, 0, len(in.rules)), make([]rule, len(in.rules))
	byKey := make(map[uint64]*rule, len(in.rules))
	byID := map[string]*rule{}
	for i, src := range in.rules {
		r := &all[i]
		r.source = src
		var err error
		if r.parsed, err = src.Parse(); err != nil {
			b.fail(err)
			continue
		}
		r.class = classOf(r)
		r.keyHash = fingerpost.KeyHash(src.Key(&r.parsed.From))
		if other, ok := byKey[r.keyHash]; ok {
			b.fail(duplicate(src, other.source, fmt.Sprintf("redirect from %q stands twice", src.From),
				"keep one of them, or tell them apart with when"))
			continue
		}
		byKey[r.keyHash] = r
		if r.id = src.ID; r.id != "" {
			if other, ok := byID[r.id]; ok {
				b.fail(duplicate(src, other.source, fmt.Sprintf("the id %q is used twice on %s", r.id, in.name), "give each redirect an id of its own, or none"))
				continue
			}
			byID[r.id] = r
		} else {
			r.id = fingerpost.DerivedID(r.keyHash)
		}
		if src.When != nil && src.When.Countries != nil {
			b.table.flags |= tableCountries
		}
		if b.staysHere(&r.parsed.To) {
			b.follow = append(b.follow, src)
		}
		b.lead(in, &r.parsed.To)
		b.table.rules++
		rules = append(rules, r)
	}
	return rules
}

// lead tells leads of a target.
func (b *builder) lead(in *hostInput, to *fingerpost.To) {
	if b.leads != nil && !to.Relative && len(to.Base) > 0 && (to.Host == "" || to.Host != string(in.name)) {
		b.leads(to.Host)
	}
}

func duplicate(r, other *fingerpost.Redirect, what, hint string) error {
	return &fingerpost.Error{Code: "duplicate", Field: "from", At: r.Source, Hint: hint,
		Message: what + ", the other one at " + place(other.Source, fmt.Sprintf("%q to %q", other.From, other.To))}
}

// place names an item by where it was written, or by what it is.
func place(at fingerpost.Position, what string) string {
	if s := at.String(); s != "" {
		return s
	}
	return what
}

// finish writes the index and the header.
func (b *builder) finish() *Table {
	t := b.table
	if t.base != nil {
		t.flags |= t.base.flags
		t.depths |= t.base.depths
	}
	t.arena, t.index = appendIndex(t.arena, b.entries)
	t.regexes = make([]atomic.Pointer[regexp.Regexp], b.regexes)
	if !b.brief {
		t.arena = bytes.Clone(t.arena) // of its exact size
	}
	t.header()
	return t
}
