package source

import (
	"errors"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"fingerpost"
)

// contentKeys are the keys of a document that are content.
type contentKeys struct {
	Hosts     *node `json:"hosts"`
	Redirects *node `json:"redirects"`
	Tests     *node `json:"tests"`
}

// document decodes an input file, whose shape is recognised by what is in it.
func (f *reader) document(root *node) {
	if f.config == notConfig || f.config == maybeConfig && !hasNodeKey(root) {
		f.list(root, f.owner)
		return
	}
	if root.kind != kindMap && root.kind != kindNull || firstPath(root) != nil || root.get("Items") != nil {
		f.fail(root, "bad_type", "", "this is not a configuration file", "a file of redirects is given by --redirects; a configuration file has keys such as listen and hosts")
		return
	}
	if root.kind == kindNull {
		f.nothing(root)
		return
	}
	var keys configKeys
	f.decode(root, reflect.ValueOf(&keys).Elem(), "")
	f.settings = f.nodeSettings(root, &keys.nodeKeys)
	f.contentKeys(&keys.contentKeys, nil)
}

// hasNodeKey reports whether root has a setting of the node.
func hasNodeKey(root *node) bool {
	for i := 0; root.kind == kindMap && i < len(root.items); i += 2 {
		if isNodeKey(root.items[i].text) {
			return true
		}
	}
	return false
}

// nothing refuses a file of comments alone: so one looks that is being written,
// and it would take all redirects away.
func (f *reader) nothing(root *node) {
	f.fail(root, "bad_type", "", "the file has nothing but comments", "a file without redirects says so: redirects: []")
}

// list decodes a file of redirects: those of one host where owner is given.
func (f *reader) list(root *node, owner *fingerpost.Host) {
	switch {
	case root.kind == kindNull:
		f.nothing(root)
	case root.kind == kindList:
		f.redirects(root, owner)
	case root.kind != kindMap:
		f.fail(root, "bad_type", "", "a file of redirects must be a list or a map of keys, not "+root.found(), `for example {"/old": {"to": "https://example.com/new"}}`)
	case firstPath(root) != nil:
		f.paths(root, owner)
	case root.get("Items") != nil:
		f.scan(root, owner)
	default:
		var keys contentKeys
		known := fieldsOf(reflect.TypeFor[contentKeys]())
		kept := node{line: root.line, column: root.column, kind: kindMap}
		for i := 0; i < len(root.items); i += 2 {
			switch key := &root.items[i]; {
			case known.index[key.text] == nil && isNodeKey(key.text):
				f.fail(key, "node_setting", key.text, key.text+" is a setting of the node, not content", "settings stand in the configuration file (--config); here only hosts, redirects and tests can be")
			case known.index[key.text] == nil && strings.Contains(key.text, ".") && root.items[i+1].get("to") != nil:
				f.fail(key, "unknown_key", "", "unknown key "+quote(key.text), "put the hosts below the key hosts:, or begin a path with /")
			case owner != nil && key.text == "hosts":
				f.fail(key, "unknown_key", "hosts", "the redirects of a host cannot have hosts", "put them into the file that names this one")
			default:
				kept.items = append(kept.items, root.items[i:i+2]...)
			}
		}
		f.decode(&kept, reflect.ValueOf(&keys).Elem(), "")
		f.contentKeys(&keys, owner)
	}
}

// firstPath gives the first key that is a path.
func firstPath(root *node) *node {
	if root.kind == kindMap {
		for i := 0; i < len(root.items); i += 2 {
			if strings.HasPrefix(root.items[i].text, "/") {
				return &root.items[i]
			}
		}
	}
	return nil
}

// contentKeys decodes what stands below the keys of a document. A key with
// nothing below it is an empty list: so it looks while someone edits.
func (f *reader) contentKeys(keys *contentKeys, owner *fingerpost.Host) {
	given := func(n *node) bool { return n != nil && n.kind != kindNull }
	if given(keys.Hosts) {
		f.hosts(keys.Hosts)
	}
	if given(keys.Redirects) {
		f.redirects(keys.Redirects, owner)
	}
	if given(keys.Tests) {
		var cases []fingerpost.Case
		read := f.item(keys.Tests, &cases, "tests")
		f.cases(keys.Tests, cases, read)
		f.content.Cases = append(f.content.Cases, cases...)
	}
}

// hostKeys are the keys of a host.
type hostKeys struct {
	fingerpost.Host
	Redirects *node `json:"redirects"` // a list, or the name of a file
}

func (f *reader) hosts(n *node) {
	if n.kind != kindMap {
		f.wrong(n, "hosts", "a map of host names", "below hosts: each line is a name and a colon, as in www.example.com:")
		return
	}
	f.content.Hosts = slices.Grow(f.content.Hosts, len(n.items)/2)
	for i := 0; i < len(n.items); i += 2 {
		f.host(&n.items[i], &n.items[i+1])
	}
}

func (f *reader) host(key, n *node) {
	var h hostKeys
	read := decoded{from: len(f.errs)}
	if n.kind != kindNull { // a name alone is a host without settings of its own
		read = f.item(n, &h, "")
	}
	h.Name, h.Source, h.Since = key.text, f.at(key), f.since
	f.notZero(n, "status", h.Status)
	if h.Fallback != nil {
		f.notZero(n, "fallback.status", h.Fallback.Status)
		f.page(n, "fallback.page", &h.Fallback.Page)
	}
	f.check(n, h.Validate(), h.Source, read)
	f.content.Hosts = append(f.content.Hosts, h.Host)
	if h.Redirects == nil {
		return
	}
	if _, err := fingerpost.ParseHostPattern(h.Name); err != nil {
		return // reported; each of its redirects would say so again
	}
	switch r := h.Redirects; r.kind {
	case kindList:
		f.redirects(r, &h.Host)
	case kindText:
		if r.text == "" {
			f.fail(r, "bad_file", "redirects", "redirects names no file", "write the name of a file, or remove the key")
			return
		}
		child, root := f.open(f.beside(r.text), f.at(r), "redirects")
		if root != nil {
			child.list(root, &h.Host)
		}
		for _, err := range child.sorted() {
			if fingerpost.Errors(err)[0].At.File == f.place(f.file) {
				f.errs = append(f.errs, err)
			} else {
				f.named = append(f.named, err)
			}
		}
	default:
		f.wrong(r, "redirects", "a list or the name of a file", "for example redirects: redirects.json")
	}
}

// redirects decodes a list of redirects, or the plain form of a host map.
func (f *reader) redirects(n *node, owner *fingerpost.Host) {
	if n.kind != kindList {
		f.wrong(n, "redirects", "a list", "each redirect begins with a hyphen (- from: …), or the list stands in brackets")
		return
	}
	f.content.Redirects = slices.Grow(f.content.Redirects, len(n.items))
	for i := range n.items {
		item := &n.items[i]
		if item.get("URL_Query") != nil || item.get("URL_Response") != nil {
			f.hostMapItem(item, item.get("URL_Query"), item.get("URL_Response"), owner)
		} else {
			f.redirect(item, owner)
		}
		item.items = nil // a big file's tree goes while its redirects come
	}
}

func (f *reader) redirect(n *node, owner *fingerpost.Host) {
	f.content.Redirects = append(f.content.Redirects, fingerpost.Redirect{Since: f.since})
	r := &f.content.Redirects[len(f.content.Redirects)-1]
	read := f.item(n, r, "")
	if n.kind != kindMap {
		return
	}
	if owner != nil {
		f.own(n, r, owner)
	}
	f.notZero(n, "status", r.Status)
	f.page(n, "page", &r.Page)
	if list := n.get("tests"); list != nil {
		f.cases(list, r.Tests, read)
	}
	f.check(n, r.Validate(), r.Source, read)
}

// own puts the host before the from of a redirect that stands below a host.
func (f *reader) own(n *node, r *fingerpost.Redirect, owner *fingerpost.Host) {
	at, given := n.find("from")
	switch {
	case strings.HasPrefix(r.From, "/"):
		r.From = owner.Name + r.From
	case r.From == "" && r.Regex != "" && !given:
		r.From = owner.Name
	case r.From == "":
	default:
		from, err := fingerpost.ParseFrom(r.From)
		if name, _ := fingerpost.ParseHostPattern(owner.Name); err == nil && from.Host != name {
			f.fail(at, "bad_from", "from", "from "+quote(r.From)+" is not of the host "+owner.Name, "here stand the redirects of "+owner.Name+"; begin with the path (/…), or put it under its own host")
		}
	}
}

// pathKeys are the keys of an entry of redirects.json.
type pathKeys struct {
	To         string `json:"to"`
	StatusCode int    `json:"statusCode"`
}

// paths decodes {"/path": {"to": …, "statusCode": …}}: for one host, or for all.
func (f *reader) paths(root *node, owner *fingerpost.Host) {
	host := "*"
	if owner != nil {
		host = owner.Name
	}
	f.content.Redirects = slices.Grow(f.content.Redirects, len(root.items)/2)
	for i := 0; i < len(root.items); i += 2 {
		key, n := &root.items[i], &root.items[i+1]
		if !strings.HasPrefix(key.text, "/") {
			hint := "here each key is a path, which begins with /"
			if slices.Contains([]string{"hosts", "redirects", "tests"}, key.text) || isNodeKey(key.text) {
				hint = "a file has either paths or the keys hosts, redirects and tests"
			}
			f.fail(key, "unknown_key", "", "unknown key "+quote(key.text)+" among paths", hint)
			continue
		}
		if n.kind != kindMap {
			f.wrong(n, key.text, "a map of keys", `write {"to": "https://example.com/new", "statusCode": 301}`)
			continue
		}
		var keys pathKeys
		read := f.item(n, &keys, "")
		f.notZero(n, "statusCode", keys.StatusCode)
		f.content.Redirects = append(f.content.Redirects, fingerpost.Redirect{From: host + key.text, To: keys.To, Status: keys.StatusCode, Source: f.at(key), Since: f.since})
		r := &f.content.Redirects[len(f.content.Redirects)-1]
		// So that check finds what stands under other names here.
		fields := &node{line: key.line, column: key.column, kind: kindMap, items: []node{{kind: kindText, text: "from"}, *key}}
		for j := 0; j < len(n.items); j += 2 {
			name := n.items[j]
			if name.text == "statusCode" {
				name.text = "status"
			}
			fields.items = append(fields.items, name, n.items[j+1])
		}
		f.check(fields, r.Validate(), r.Source, read)
		n.items = nil
	}
}

// scanKeys are what `aws dynamodb scan` prints.
type scanKeys struct {
	Items            *node `json:"Items"`
	Count            *node `json:"Count"`
	ScannedCount     *node `json:"ScannedCount"`
	ConsumedCapacity *node `json:"ConsumedCapacity"`
	LastEvaluatedKey *node `json:"LastEvaluatedKey"`
	NextToken        *node `json:"NextToken"`
}

// scan decodes a host map as DynamoDB prints it.
func (f *reader) scan(root *node, owner *fingerpost.Host) {
	var keys scanKeys
	f.decode(root, reflect.ValueOf(&keys).Elem(), "")
	for _, name := range []string{"LastEvaluatedKey", "NextToken"} {
		if at := root.get(name); at != nil && at.kind != kindNull {
			f.fail(at, "cut_scan", name, "the table's scan is not complete: "+name+" says that more follows", "export the table again with aws dynamodb scan, without --max-items and --no-paginate")
		}
	}
	if keys.Items.kind != kindList {
		f.wrong(keys.Items, "Items", "a list", "")
		return
	}
	f.content.Redirects = slices.Grow(f.content.Redirects, len(keys.Items.items))
	for i := range keys.Items.items {
		item := &keys.Items.items[i]
		if item.kind != kindMap {
			f.wrong(item, "an item of Items", "a map of keys", "")
			continue
		}
		value := func(key string) *node {
			attribute := item.get(key)
			if attribute == nil || attribute.kind == kindText {
				return attribute
			}
			if s := attribute.get("S"); s != nil && len(attribute.items) == 2 {
				return s
			}
			f.wrong(attribute, key, `text, written {"S": "…"}`, "")
			return nil
		}
		before := len(f.errs)
		query, response := value("URL_Query"), value("URL_Response")
		if len(f.errs) == before {
			f.hostMapItem(item, query, response, owner)
		}
		item.items = nil
	}
}

// fixed keeps what would be a capture or property from being one: the target of
// a host map is sent as it stands.
var fixed = strings.NewReplacer("{", "%7B", "}", "%7D", ":splat", "%3Asplat", ":sub", "%3Asub")

// hostMapItem makes one row of a host map the redirect of a whole host.
func (f *reader) hostMapItem(item, query, response *node, owner *fingerpost.Host) {
	before := len(f.errs)
	for i := 0; i < len(item.items); i += 2 {
		if key := &item.items[i]; key.text != "URL_Query" && key.text != "URL_Response" {
			f.fail(key, "unknown_key", "", "unknown key "+quote(key.text)+" in a host map", "a host map has URL_Query and URL_Response; export these two alone")
		}
	}
	for _, v := range []struct {
		name string
		n    *node
	}{{"URL_Query", query}, {"URL_Response", response}} {
		if v.n == nil {
			f.fail(item, "bad_value", v.name, v.name+" is missing", "each item has URL_Query (the host) and URL_Response (where it goes)")
		} else if v.n.kind != kindText {
			f.wrong(v.n, v.name, "text", "")
		} else if v.n.text == "" {
			f.fail(v.n, "bad_value", v.name, v.name+" is empty", "each item has URL_Query (the host) and URL_Response (where it goes)")
		}
	}
	if owner != nil {
		f.fail(item, "bad_value", "", "a host map is not the redirects of one host", "give it with --redirects")
	}
	if len(f.errs) > before {
		return
	}
	if _, err := fingerpost.ParseHostPattern(query.text); err != nil {
		e := *fingerpost.Errors(err)[0]
		f.fail(query, e.Code, "URL_Query", e.Message, "URL_Query is a host name without https:// and without a path")
		return
	}
	to := response.text
	if scheme, _, ok := strings.Cut(to, "://"); !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
		to = "https://" + to
	}
	r := fingerpost.Redirect{From: query.text, To: fixed.Replace(to), Source: f.at(item), Since: f.since}
	fields := &node{kind: kindMap, items: []node{{kind: kindText, text: "from"}, *query, {kind: kindText, text: "to"}, *response}}
	f.check(fields, r.Validate(), r.Source, decoded{from: before})
	f.content.Redirects = append(f.content.Redirects, r)
}

// isBelow reports whether path, with its links followed, stays in dir: what it
// holds is sent to visitors. A path that leads nowhere is left to who reads it.
func isBelow(path, dir string) bool {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return true
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return false
	}
	rel, err := filepath.Rel(dir, real)
	return err == nil && filepath.IsLocal(rel)
}

// page replaces the name of a page by its HTML.
func (f *reader) page(n *node, field string, page *string) {
	name := *page
	if name == "" || strings.HasPrefix(strings.TrimSpace(name), "<") {
		return
	}
	at, _ := n.find(field)
	bad := func(message, hint string) {
		f.fail(at, "bad_page", field, "page "+quote(name)+" "+message, hint)
	}
	if !filepath.IsLocal(name) {
		bad("is not beside the file that names it", "put the page into the same folder, or one below it")
		return
	}
	if ext := strings.ToLower(filepath.Ext(name)); ext != ".html" && ext != ".htm" {
		// Not a key or a configuration that lies beside it: a page is for everybody.
		bad("is no HTML file", "the name of a page ends in .html")
		return
	}
	path := f.beside(name)
	if f.fetched == nil && !isBelow(path, filepath.Dir(f.file)) {
		bad("is a link to another folder", "put the page itself into the same folder, or one below it")
		return
	}
	html, ok := f.pages[path]
	if !ok {
		var err error
		html, _, err = f.load(path, maxPage)
		switch {
		case err != nil:
			bad("cannot be read: "+err.Error(), "check the name of the page; it is relative to the file that names it")
			return
		case strings.TrimSpace(html) == "":
			bad("is empty", "write something for the visitor to read")
			return
		case !utf8.ValidString(html):
			bad("is not text in UTF-8", "save it as UTF-8")
			return
		}
		f.pages[path] = html
	}
	*page = html
}

// notZero refuses a status that is written as 0: to the nouns it looks absent.
func (f *reader) notZero(n *node, field string, status int) {
	if status != 0 {
		return
	}
	if at, given := n.find(field); given && at.kind == kindNumber && strings.Trim(at.text, "-0") == "" {
		f.fail(at, "bad_status", field, field+" 0 is not one that a redirect can have", "remove it for the default, or use 301, 302, 303, 307 or 308")
	}
}

// decoded says which of f.errs came while an item was decoded.
type decoded struct{ from, errs int }

// item decodes n into what v points to.
func (f *reader) item(n *node, v any, field string) decoded {
	from := len(f.errs)
	f.decode(n, reflect.ValueOf(v).Elem(), field)
	return decoded{from, len(f.errs) - from}
}

// check takes the errors of an item's validation and moves each to the field
// that it names. Where decoding failed, those of fields that are not there are
// its consequence, as are those at the place of an error that is known.
func (f *reader) check(n *node, err error, item fingerpost.Position, read decoded) {
	before := f.errs[read.from:]
	for _, e := range fingerpost.Errors(err) {
		moved := *e
		at, known := n, false
		if e.Field != "" {
			at, known = n.find(e.Field)
		}
		moved.At = item
		if at != n {
			moved.At = f.at(at)
		}
		if read.errs > 0 && !known || slices.ContainsFunc(before, func(d error) bool { return fingerpost.Errors(d)[0].At == moved.At }) {
			continue
		}
		f.errs = append(f.errs, &moved)
	}
}

// cases validates tests; list is where they stand.
func (f *reader) cases(list *node, cases []fingerpost.Case, read decoded) {
	for i := range cases {
		c := &cases[i]
		var errs []error
		bad := func(field, message, hint string) {
			errs = append(errs, &fingerpost.Error{Code: "bad_test", Field: field, Message: message, Hint: hint})
		}
		if u, err := url.Parse(c.URL); c.URL == "" {
			bad("url", "a test without url", "write the whole address that is asked for, as in https://example.com/page")
		} else if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			bad("url", "url "+quote(c.URL)+" is not an absolute http or https URL", "write it as in https://example.com/page")
		}
		switch redirect := c.Status == 301 || c.Status == 302 || c.Status == 303 || c.Status == 307 || c.Status == 308; {
		case c.To == "" && c.Status == 0:
			bad("to", "a test that expects nothing", "add to (where it must lead), or status")
		case c.Status != 0 && (c.Status < 200 || c.Status > 599):
			bad("status", "status "+strconv.Itoa(c.Status)+" is not one that an answer can have", "for example 301 or 404")
		case c.To != "" && c.Status != 0 && !redirect:
			bad("status", "status "+strconv.Itoa(c.Status)+" does not go with to", "one of 301, 302, 303, 307, 308 with to")
		}
		if _, err := netip.ParseAddr(c.Address); c.Address != "" && err != nil {
			bad("address", "address "+quote(c.Address)+" is not an IP address", "as in 192.0.2.1")
		}
		if len(c.Country) != 0 && (len(c.Country) != 2 || c.Country != strings.ToUpper(c.Country)) {
			bad("country", "country "+quote(c.Country)+" is not a code", "two upper-case letters, as in NO")
		}
		f.notZero(&list.items[i], "status", c.Status)
		f.check(&list.items[i], errors.Join(errs...), c.Source, read)
	}
}
