package redirect

import (
	"encoding/binary"
	"maps"
	"slices"
	"strings"

	"fingerpost"
)

// hostBuilder sorts the rules of one host form by how they are found, and
// writes the host's block.
type hostBuilder struct {
	*builder
	exact, fold    map[string]*pathRules // literal paths; fold in lower case
	trie, foldTrie *node                 // patterns and prefixes
	regexRules     []*rule
	hash           uint64 // of the host's name
	owner          uint64 // the first of the host's numbers
	others         uint64 // the smallest rank of a rule that is not literal
	flags          uint64
}

// pathRules are the rules of one literal path. Those that ask for a certain
// value of a query key are indexed by it, so that any number of
// /index.php?id=… costs one probe for each key of the request.
type pathRules struct {
	rules   []*rule
	byQuery map[string][]*rule
}

// node is a node of the trie over path segments.
type node struct {
	ends     []*rule // patterns that end here
	folders  []*rule // those that go on with /*
	prefixes map[string][]*rule
	name     *node            // the child for :name
	children map[string]*node // literal segments
}

func (h *hostBuilder) add(r *rule) {
	if r.class != literal {
		h.others = min(h.others, uint64(r.rank))
	}
	if r.source.When.Conditions() > 0 && (varyOf(r.source.When) != "" || isPrivate(r.source.When)) {
		h.flags |= hostDepends
	}
	fold := r.source.IgnoreCase
	switch r.class {
	case regex:
		h.flags |= hostRegex
		h.regexRules = append(h.regexRules, r)
	case literal:
		paths := &h.exact
		if fold {
			paths = &h.fold
		}
		h.addLiteral(paths, r)
	default:
		root := &h.trie
		if fold {
			root = &h.foldTrie
		}
		h.addPattern(root, r)
	}
}

func (h *hostBuilder) addLiteral(paths *map[string]*pathRules, r *rule) {
	if *paths == nil {
		*paths = map[string]*pathRules{}
	}
	from := &r.parsed.From
	key := strings.TrimSuffix(from.Path(), "/")
	if key == "" {
		key = "/"
	}
	if r.source.IgnoreCase {
		key = strings.ToLower(key)
	}
	p := (*paths)[key]
	if p == nil {
		p = &pathRules{}
		(*paths)[key] = p
	}
	i := slices.IndexFunc(from.Query, func(c fingerpost.QueryCond) bool { return c.HasValue })
	if i < 0 {
		p.rules = append(p.rules, r)
		return
	}
	h.flags |= hostQueryIndex
	if p.byQuery == nil {
		p.byQuery = map[string][]*rule{}
	}
	byQuery := string(appendQueryKey(nil, key, from.Query[i].Key, from.Query[i].Value))
	p.byQuery[byQuery] = append(p.byQuery[byQuery], r)
}

// appendQueryKey makes the key of a rule that is indexed by query.
func appendQueryKey(dst []byte, path, key, value string) []byte {
	dst = append(append(dst, path...), 0)
	dst = append(append(dst, key...), 0)
	return append(dst, value...)
}

func (h *hostBuilder) addPattern(root **node, r *rule) {
	if *root == nil {
		*root = &node{}
	}
	n := *root
	text := func(s string) string {
		if r.source.IgnoreCase {
			return strings.ToLower(s)
		}
		return s
	}
	for _, seg := range r.parsed.From.Segments {
		if seg.Name != "" {
			if n.name == nil {
				n.name = &node{}
			}
			n = n.name
			continue
		}
		if n.children == nil {
			n.children = map[string]*node{}
		}
		key := text(seg.Literal)
		child := n.children[key]
		if child == nil {
			child = &node{}
			n.children[key] = child
		}
		n = child
	}
	switch r.parsed.From.Tail {
	case fingerpost.TailFolder:
		n.folders = append(n.folders, r)
	case fingerpost.TailPrefix:
		if n.prefixes == nil {
			n.prefixes = map[string][]*rule{}
		}
		key := text(r.parsed.From.Prefix)
		n.prefixes[key] = append(n.prefixes[key], r)
	default:
		n.ends = append(n.ends, r)
	}
}

// write appends all records of the host but its own to the arena, and gives
// that one.
func (h *hostBuilder) write(in *hostInput) []byte {
	h.writeLiterals(spaceExact, h.exact)
	h.writeLiterals(spaceFold, h.fold)
	var tries []byte
	for _, t := range []struct {
		root *node
		flag uint64
	}{{h.trie, hostTrie}, {h.foldTrie, hostFoldTrie}} {
		if t.root != nil {
			h.flags |= t.flag
			at, _ := h.writeNode(0, "", t.root)
			tries = appendOffset(tries, at)
		}
	}
	if len(h.exact) > 0 {
		h.flags |= hostExact
	}
	if len(h.fold) > 0 {
		h.flags |= hostFold
	}
	regexes := []byte(nil)
	if len(h.regexRules) > 0 {
		regexes = h.appendGroup(nil, h.regexRules)
	}
	var settings []byte
	if in.settings != nil {
		h.flags |= hostDeclared
		h.table.flags |= tableDeclared
		settings = h.appendSettings(nil, in.settings)
	}
	if in.certificate != "" {
		h.flags |= hostCert
	}
	rec := binary.AppendUvarint(nil, ownerHosts)
	rec = appendString(rec, in.name)
	rec = binary.AppendUvarint(rec, h.flags)
	rec = binary.AppendUvarint(rec, h.owner)
	if in.certificate != "" {
		rec = appendString(rec, in.certificate)
	}
	if in.settings != nil {
		rec = appendString(rec, settings)
	}
	if h.flags&hostPatterns == 0 {
		return rec
	}
	rec = binary.AppendUvarint(rec, h.others)
	rec = append(rec, tries...)
	return append(rec, regexes...)
}

func (h *hostBuilder) appendSettings(rec []byte, s *fingerpost.Host) []byte {
	policy := byte(policyAllowAll)
	switch s.HTTPS {
	case fingerpost.RedirectToHTTPS:
		policy = policyRedirect
	case fingerpost.HTTPSOnly:
		policy = policyHTTPSOnly
	}
	rec = append(rec, policy)
	rec = binary.LittleEndian.AppendUint32(rec, unixSeconds(s.Since))
	hsts := ""
	if s.HSTS != nil {
		hsts = s.HSTS.String()
	}
	rec = appendString(rec, hsts)
	fallback := s.FallbackRedirect()
	if fallback == nil {
		return rec
	}
	fallback.ID = FallbackID
	r := &rule{source: fallback, class: pattern}
	r.parsed, _ = fallback.Parse() // Host.Validate has seen it
	return h.appendRule(rec, r)
}

// FallbackID is the id that a host's fallback goes by.
const FallbackID = "fallback"

// writeLiterals writes, for each path, byte indexed · group · [indexed] uvarint
// count and the offsets of the records of its rules that are indexed by query:
// only Explain, which wants to see those that do not fit, reads these.
func (h *hostBuilder) writeLiterals(space uint64, paths map[string]*pathRules) {
	for _, path := range sortedKeys(paths) {
		p := paths[path]
		var indexed []uint64
		for _, key := range sortedKeys(p.byQuery) {
			group := h.appendGroup(nil, p.byQuery[key])
			indexed = append(indexed, uint64(len(h.table.arena)))
			h.enterRecord(hashIn(h.hash, space+spaceExactQuery, hashString(key)), h.owner+space+spaceExactQuery, key, group)
		}
		h.literal = append(h.literal[:0], 0)
		if indexed != nil {
			h.literal[0] = 1
		}
		h.literal = h.appendGroup(h.literal, p.rules)
		if indexed != nil {
			h.literal = binary.AppendUvarint(h.literal, uint64(len(indexed)))
			for _, at := range indexed {
				h.literal = appendOffset(h.literal, at)
			}
		}
		h.enterRecord(hashIn(h.hash, space, hashString(path)), h.owner+space, path, h.literal)
	}
}

// sortedKeys are the keys of m in order, in one allocation or none.
func sortedKeys[V any](m map[string]V) []string {
	if len(m) == 0 {
		return nil
	}
	keys := slices.AppendSeq(make([]string, 0, len(m)), maps.Keys(m))
	slices.Sort(keys)
	return keys
}

// enterRecord appends a record with its key and puts it into the index.
func (b *builder) enterRecord(hash, owner uint64, key string, body []byte) {
	arena := &b.table.arena
	b.entries = append(b.entries, entry{hash, uint64(len(*arena))})
	*arena = binary.AppendUvarint(*arena, owner)
	*arena = appendString(*arena, key)
	*arena = append(*arena, body...)
}

// appendGroup writes rules, the smallest rank first: uvarint length in bytes,
// then each record behind its own length.
func (h *hostBuilder) appendGroup(dst []byte, rules []*rule) []byte {
	slices.SortFunc(rules, byRank)
	h.group = h.group[:0]
	for _, r := range rules {
		h.rule = h.appendRule(h.rule[:0], r)
		h.group = appendString(h.group, h.rule)
	}
	return appendString(dst, h.group)
}

// The flags of a node.
const (
	nodeName     = 1 << iota // offset of the child for :name
	nodeEnds                 // a group
	nodeFolders              // a group
	nodePrefixes             // a table of prefixes
	nodeChildren             // literal children, in the index
)

// writeNode appends a node, children first, and gives its place and the
// smallest rank at or below it:
//
//	[a literal child: its key] · uvarint owner number · byte flags · uvarint smallest rank
//	[name] offset · [ends] group · [folders] group · [prefixes] table
//
// A literal child is found by its parent's number and its segment; a root and a
// :name child have no parent here, and are found by their offset.
func (h *hostBuilder) writeNode(parent uint64, segment string, n *node) (at, rank uint64) {
	owner := h.newOwners(1)
	flags, rank := byte(0), uint64(noLimit)
	lowest := func(rules []*rule) {
		for _, r := range rules {
			rank = min(rank, uint64(r.rank))
		}
	}
	var body []byte
	if n.name != nil {
		flags |= nodeName
		at, below := h.writeNode(0, "", n.name)
		rank = min(rank, below)
		body = appendOffset(body, at)
	}
	for _, group := range []struct {
		rules []*rule
		flag  byte
	}{{n.ends, nodeEnds}, {n.folders, nodeFolders}} {
		if group.rules != nil {
			flags |= group.flag
			lowest(group.rules)
			body = h.appendGroup(body, group.rules)
		}
	}
	if n.prefixes != nil {
		flags |= nodePrefixes
		for _, rules := range n.prefixes {
			lowest(rules)
		}
		body = h.appendPrefixes(body, n.prefixes)
	}
	for _, text := range slices.Sorted(maps.Keys(n.children)) {
		flags |= nodeChildren
		_, below := h.writeNode(owner, text, n.children[text])
		rank = min(rank, below)
	}
	rec := binary.AppendUvarint(nil, owner)
	rec = append(rec, flags)
	rec = binary.AppendUvarint(rec, rank)
	rec = append(rec, body...)
	if parent != 0 {
		h.enterRecord(mix(parent, hashString(segment)), parent, segment, rec)
		return 0, rank
	}
	at = uint64(len(h.table.arena))
	h.table.arena = append(h.table.arena, rec...)
	return at, rank
}

// A table of prefixes: uvarint count, then for each, in the order of the texts,
// the offset of its record (string text, group) and as uint32 the number + 1 of
// the longest other text that it begins with, so that all prefixes of a segment
// are one binary search and a walk.
const prefixEntry = offsetSize + 4

func (h *hostBuilder) appendPrefixes(dst []byte, prefixes map[string][]*rule) []byte {
	texts := slices.Sorted(maps.Keys(prefixes))
	dst = binary.AppendUvarint(dst, uint64(len(texts)))
	var open []int // the chain of prefixes that texts[i] begins with
	for i, text := range texts {
		for len(open) > 0 && !strings.HasPrefix(text, texts[open[len(open)-1]]) {
			open = open[:len(open)-1]
		}
		parent := 0
		if len(open) > 0 {
			parent = open[len(open)-1] + 1
		}
		open = append(open, i)
		record := h.appendGroup(appendString(nil, text), prefixes[text])
		dst = appendOffset(dst, uint64(len(h.table.arena)))
		dst = binary.LittleEndian.AppendUint32(dst, uint32(parent))
		h.table.arena = append(h.table.arena, record...)
	}
	return dst
}
