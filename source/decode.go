package source

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"fingerpost"
)

var (
	nodeType     = reflect.TypeFor[*node]()
	timeType     = reflect.TypeFor[time.Time]()
	durationType = reflect.TypeFor[time.Duration]()
	positionType = reflect.TypeFor[fingerpost.Position]()
)

// fields are those of a struct by their json names; embedded structs count as
// their fields. A field of type *node takes the tree as it is.
type fields struct {
	index  map[string][]int
	names  []string // sorted
	source []int    // the field Source, which gets the place of the item
}

var fieldCache sync.Map // reflect.Type → *fields

func fieldsOf(t reflect.Type) *fields {
	if f, ok := fieldCache.Load(t); ok {
		return f.(*fields)
	}
	f := &fields{index: map[string][]int{}}
	for _, sf := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(sf.Tag.Get("json"), ",")
		switch {
		case sf.Name == "Source" && sf.Type == positionType:
			f.source = sf.Index
		case name != "" && name != "-":
			f.index[name] = sf.Index
		}
	}
	f.names = slices.Sorted(maps.Keys(f.index))
	fieldCache.Store(t, f)
	return f
}

// decode puts n into v, strictly. All errors go to f.errs; field is the dotted
// name of what is decoded, empty for an item as a whole.
func (f *reader) decode(n *node, v reflect.Value, field string) {
	t := v.Type()
	switch t {
	case nodeType:
		v.Set(reflect.ValueOf(n))
		return
	case timeType:
		f.time(n, v, field)
		return
	case durationType:
		f.duration(n, v, field)
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		p := reflect.New(t.Elem())
		before := len(f.errs)
		if f.decode(n, p.Elem(), field); len(f.errs) == before {
			v.Set(p)
		}
	case reflect.Struct:
		if n.kind != kindMap {
			f.wrong(n, field, "a map of keys", "keys stand below it, each on a line of its own and indented, or in braces: {key: value}")
			return
		}
		f.fields(n, v, field)
	case reflect.Slice:
		if n.kind != kindList {
			hint := "items stand in brackets: [a, b]"
			if n.kind == kindText {
				hint = "put it in brackets: [" + n.text + "]"
			}
			f.wrong(n, field, "a list", hint)
			return
		}
		v.Set(reflect.MakeSlice(t, len(n.items), len(n.items)))
		for i := range n.items {
			f.decode(&n.items[i], v.Index(i), field)
		}
	case reflect.Map: // string to string
		if n.kind != kindMap {
			f.wrong(n, field, "a map of names to texts", `for example {X-Name: "value"}`)
			return
		}
		m := make(map[string]string, len(n.items)/2)
		for i := 0; i < len(n.items); i += 2 {
			if value := &n.items[i+1]; value.kind == kindText {
				m[n.items[i].text] = value.text
			} else {
				f.wrong(value, field+"."+n.items[i].text, "text", "")
			}
		}
		v.Set(reflect.ValueOf(m))
	case reflect.String:
		if n.kind != kindText {
			f.wrong(n, field, "text", "")
			return
		}
		v.SetString(n.text)
	case reflect.Int:
		i, err := strconv.Atoi(n.text)
		if n.kind != kindNumber || err != nil || strings.ContainsAny(n.text, "+_") || len(n.text) > 1 && n.text[0] == '0' {
			hint := "write it in digits, as in 301"
			if n.kind == kindText && err == nil {
				hint = "remove the quotes"
			}
			f.wrong(n, field, "a whole number", hint)
			return
		}
		v.SetInt(int64(i))
	case reflect.Bool:
		if n.kind != kindBool {
			f.wrong(n, field, "true or false", "write true or false, without quotes")
			return
		}
		v.SetBool(n.text == "true" || n.text == "True" || n.text == "TRUE")
	default:
		panic("source: no decoding into " + t.String())
	}
}

func (f *reader) fields(n *node, v reflect.Value, field string) {
	known := fieldsOf(v.Type())
	if known.source != nil {
		v.FieldByIndex(known.source).Set(reflect.ValueOf(f.at(n)))
	}
	for i := 0; i < len(n.items); i += 2 {
		key, value := &n.items[i], &n.items[i+1]
		index, ok := known.index[key.text]
		if !ok {
			f.unknown(key, field, known.names)
			continue
		}
		name := key.text
		if field != "" {
			name = field + "." + name
		}
		f.decode(value, v.FieldByIndex(index), name)
	}
}

// wrong reports a value that is not of the type that field has.
func (f *reader) wrong(n *node, field, want, hint string) {
	switch {
	case field == "":
		field = "an item"
	case n.kind == kindNull:
		hint = "write its value, or remove the key"
	case want == "text" && (n.kind == kindNumber || n.kind == kindBool):
		hint = "put it in quotes: " + strconv.Quote(n.text)
	case want == "text" && n.kind == kindList:
		hint = "only one can stand here; text that begins with [ goes in quotes"
	case want == "text" && n.kind == kindMap:
		hint = "text that begins with { goes in quotes"
	}
	f.fail(n, "bad_type", strings.TrimPrefix(field, "an item"), field+" must be "+want+", not "+n.found(), hint)
}

func (f *reader) time(n *node, v reflect.Value, field string) {
	const hint = "write date, time and zone, as in 2026-12-01T00:00:00+01:00 or 2026-12-01T00:00:00Z"
	if n.kind != kindText {
		f.wrong(n, field, "a point in time", hint)
		return
	}
	t, err := time.Parse(time.RFC3339, n.text)
	if err != nil {
		f.fail(n, "bad_type", field, field+" must be a point in time with its zone, not the text "+quote(n.text), hint)
		return
	}
	v.Set(reflect.ValueOf(t))
}

func (f *reader) duration(n *node, v reflect.Value, field string) {
	const hint = "a number with its unit, as in 500ms, 10s or 2m"
	if n.kind != kindText {
		f.wrong(n, field, "a duration", hint)
		return
	}
	d, err := time.ParseDuration(n.text)
	if err != nil || d <= 0 {
		f.fail(n, "bad_value", field, field+" must be a duration above zero, not the text "+quote(n.text), hint)
		return
	}
	v.SetInt(int64(d))
}

// later are keys that files of the project's design have and this version does
// not read yet.
var later = []string{"zones", "origins", "routes", "healthChecks", "teams", "dns", "baseDomain", "proxyProtocol"}

// otherNames are what people who come from other programs write.
var otherNames = map[string]string{"statuscode": "status", "code": "status", "status": "statusCode", "source": "from", "target": "to", "destination": "to",
	"location": "to", "comment": "note", "description": "note"}

// unknown reports a key that is none of names.
func (f *reader) unknown(key *node, field string, names []string) {
	hint := ""
	if slices.Contains(later, key.text) {
		hint = "this version does not have " + key.text + " yet; remove it"
	} else if name := similar(key.text, names); name != "" {
		hint = "did you mean " + name + "?"
	} else if len(names) <= 20 {
		hint = "known here: " + strings.Join(names, ", ")
	}
	where := ""
	if field != "" {
		where = " in " + field
	}
	f.fail(key, "unknown_key", field, "unknown key "+quote(key.text)+where, hint)
}

// similar gives the name that s is most likely meant to be, or "".
func similar(s string, names []string) string {
	lower := strings.ToLower(s)
	if other := otherNames[lower]; slices.Contains(names, other) {
		return other
	}
	best, least := "", min(max(1, len(s)/3)+1, 5)
	for _, name := range names {
		if d := distance(lower, strings.ToLower(name)); d < least {
			best, least = name, d
		}
	}
	return best
}

// distance counts the bytes to insert, remove, replace or exchange with their
// neighbour that make a of b. It is for short keys: more than 40 bytes are far.
func distance(a, b string) int {
	if len(a) > 40 || len(b) > 40 {
		return 40
	}
	var rows [3][41]int // of the byte before the last, the last and this one
	for i := range len(b) + 1 {
		rows[1][i] = i
	}
	for i := range len(a) {
		rows[2][0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			d := min(rows[1][j]+cost, rows[1][j+1]+1, rows[2][j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				d = min(d, rows[0][j-1]+1)
			}
			rows[2][j+1] = d
		}
		rows[0], rows[1] = rows[1], rows[2]
	}
	return rows[1][len(b)]
}
