package admin

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"fingerpost"
	"fingerpost/store"

	"github.com/danielgtaylor/huma/v2"
)

// row is one line of a changeset: a host or a redirect to put, or the name of one
// to delete.
type row struct {
	line     int64
	host     *fingerpost.Host
	redirect *fingerpost.Redirect
	delete   *deleteRow
}

// deleteRow names what is to be deleted.
type deleteRow struct {
	Delete string `json:"delete" enum:"host,redirect" doc:"what kind of thing is to be deleted"`
	Name   string `json:"name,omitempty" doc:"of a host"`
	Host   string `json:"host,omitempty" doc:"of a redirect, with its id"`
	ID     string `json:"id,omitempty" doc:"of a redirect"`
}

// The media types of a changeset.
const (
	mediaNDJSON = "application/x-ndjson"
	mediaCSV    = "text/csv"
	mediaJSON   = "application/json"
)

// maxRow bounds one row in bytes: an item may have store.MaxValue.
const maxRow = store.MaxValue + 64<<10

// readRows reads the rows of a body as they come, in memory for one of them. An
// error that is a *Problem with one fault is of that row, and more rows may
// follow; any other ends the reading.
func readRows(contentType string, body io.Reader) (iter.Seq2[row, error], error) {
	media, _, err := mime.ParseMediaType(contentType)
	if contentType != "" && err != nil {
		return nil, badMedia(contentType)
	}
	b := &rowLimit{r: body, left: betweenRows}
	var rows iter.Seq2[row, error]
	switch media {
	case mediaNDJSON, "application/ndjson", "application/jsonl":
		rows = ndjsonRows(b)
	case mediaCSV:
		rows = csvRows(b)
	case mediaJSON:
		rows = jsonRows(b)
	default:
		return nil, badMedia(contentType)
	}
	return func(yield func(row, error) bool) {
		for r, err := range rows {
			b.left = betweenRows
			if !yield(r, err) {
				return
			}
		}
	}, nil
}

// betweenRows bounds what is read from one row to the next: the decoders of CSV and
// JSON keep all of a value in memory, however long it gets.
const betweenRows = 2 * maxRow

type rowLimit struct {
	r    io.Reader
	left int
}

func (l *rowLimit) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, invalid(tooLong())
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

func tooLong() Fault {
	return Fault{Code: "too_long", Detail: fmt.Sprintf("a row is over %d bytes", maxRow), Hint: "is a line break or a quote missing?"}
}

func badMedia(contentType string) error {
	return problem(http.StatusUnsupportedMediaType, "bad_media_type", fmt.Sprintf("the body is of the type %q", contentType),
		"Content-Type: "+mediaNDJSON+" (a row on each line), "+mediaCSV+" or "+mediaJSON)
}

// rowError is the problem of one row.
func rowError(line int64, faults ...Fault) error {
	for i := range faults {
		faults[i].Line = line
	}
	return invalid(faults...)
}

func ndjsonRows(body io.Reader) iter.Seq2[row, error] {
	return func(yield func(row, error) bool) {
		lines := bufio.NewReaderSize(body, 64<<10)
		var long []byte
		for n := int64(1); ; n++ {
			text, err := lines.ReadSlice('\n')
			for long = long[:0]; errors.Is(err, bufio.ErrBufferFull); text, err = lines.ReadSlice('\n') {
				if long = append(long, text...); len(long) > maxRow {
					yield(row{}, rowError(n, tooLong()))
					return
				}
			}
			if len(long) > 0 {
				long = append(long, text...)
				text = long
			}
			if err != nil && err != io.EOF {
				yield(row{}, cutShort(n, err))
				return
			}
			if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 {
				r, faults := decodeRow(trimmed)
				r.line = n
				var problem error
				if len(faults) > 0 {
					if err == io.EOF && !json.Valid(trimmed) {
						faults = []Fault{{Code: "unfinished", Detail: "the last line is not finished", Hint: "the body was cut off: send it again, whole"}}
					}
					problem = rowError(n, faults...)
				}
				if !yield(r, problem) {
					return
				}
			}
			if err == io.EOF {
				return
			}
		}
	}
}

// cutShort is the problem of a body that ends before its time.
func cutShort(line int64, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return rowError(line, Fault{Code: "unfinished", Detail: "the body ends in the middle", Hint: "it was cut off: send it again, whole"})
	}
	return fmt.Errorf("read the changeset: %w", err)
}

// The schemas of rows, for the words and the pointers of what is wrong with them.
// They are those of the document.
var (
	rowSchemas     = huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	redirectSchema = rowSchemas.Schema(reflect.TypeFor[RedirectResource](), false, "Redirect")
	hostSchema     = rowSchemas.Schema(reflect.TypeFor[HostResource](), false, "Host")
	deleteSchema   = rowSchemas.Schema(reflect.TypeFor[deleteRow](), false, "Delete")
)

// decodeRow reads one row. A row with from is a redirect, one with name is a host,
// one with delete is the name of something.
func decodeRow(text []byte) (r row, faults []Fault) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(text, &keys); err != nil {
		return r, []Fault{syntaxFault(text, err)}
	}
	switch {
	case keys["delete"] != nil:
		r.delete, faults = decodeStrict[deleteRow](text, keys, deleteSchema)
	case keys["from"] != nil:
		var v *RedirectResource
		if v, faults = decodeStrict[RedirectResource](text, keys, redirectSchema); v != nil {
			r.redirect = &v.Redirect
		}
	case keys["name"] != nil:
		var v *HostResource
		if v, faults = decodeStrict[HostResource](text, keys, hostSchema); v != nil {
			r.host = &v.Host
			r.host.Name = v.Name
		}
	default:
		faults = []Fault{{Code: "bad_row", Detail: "the row is neither a redirect, nor a host, nor a delete",
			Hint: `{"from": …, "to": …}, {"name": …} or {"delete": "redirect", "host": …, "id": …}`}}
	}
	return r, faults
}

func syntaxFault(text []byte, err error) Fault {
	var typed *json.UnmarshalTypeError
	if errors.As(err, &typed) {
		return Fault{Code: "bad_row", Detail: "the row is " + typed.Value + ", not an object", Hint: `as in {"from": "www.example.com/old", "to": "https://www.example.com/new"}`}
	}
	return Fault{Code: "bad_json", Detail: strings.TrimPrefix(err.Error(), "json: "), Hint: "each row must be whole, valid JSON"}
}

// decodeStrict decodes text quickly, and if something is wrong finds out what by
// the schema. encoding/json takes keys in any case; the schema and this do not.
func decodeStrict[T any](text []byte, keys map[string]json.RawMessage, schema *huma.Schema) (*T, []Fault) {
	v := new(T)
	known := schema
	if known.Ref != "" {
		known = rowSchemas.SchemaFromRef(known.Ref)
	}
	strict := true
	for key := range keys {
		strict = strict && known.Properties[key] != nil
	}
	if strict {
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(v); err == nil {
			return v, nil
		}
	}
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, []Fault{syntaxFault(text, err)}
	}
	var result huma.ValidateResult
	path := huma.NewPathBuffer(nil, 0)
	path.Push("body")
	huma.Validate(rowSchemas, schema, path, huma.ModeWriteToServer, tree, &result)
	var faults []Fault
	for _, err := range result.Errors {
		faults = append(faults, humaProblem(http.StatusUnprocessableEntity, "", []error{err}).Errors...)
	}
	if len(faults) == 0 {
		faults = []Fault{{Code: "bad_row", Detail: "the row cannot be read"}}
	}
	return nil, faults
}

// csvColumns are the columns of a CSV, which stand in any order in its first line.
var csvColumns = map[string]func(r *fingerpost.Redirect, s string) error{
	"id":       func(r *fingerpost.Redirect, s string) error { r.ID = s; return nil },
	"from":     func(r *fingerpost.Redirect, s string) error { r.From = s; return nil },
	"regex":    func(r *fingerpost.Redirect, s string) error { r.Regex = s; return nil },
	"to":       func(r *fingerpost.Redirect, s string) error { r.To = s; return nil },
	"status":   func(r *fingerpost.Redirect, s string) (err error) { r.Status, err = strconv.Atoi(s); return err },
	"query":    func(r *fingerpost.Redirect, s string) error { r.Query = s; return nil },
	"cache":    func(r *fingerpost.Redirect, s string) error { r.Cache = s; return nil },
	"priority": func(r *fingerpost.Redirect, s string) (err error) { r.Priority, err = strconv.Atoi(s); return err },
	"ignoreCase": func(r *fingerpost.Redirect, s string) (err error) {
		r.IgnoreCase, err = strconv.ParseBool(s)
		return err
	},
	"trailingSlash": func(r *fingerpost.Redirect, s string) error { r.TrailingSlash = s; return nil },
	"enabled": func(r *fingerpost.Redirect, s string) error {
		on, err := strconv.ParseBool(s)
		r.Enabled = &on
		return err
	},
	"note": func(r *fingerpost.Redirect, s string) error { r.Note = s; return nil },
	"tags": func(r *fingerpost.Redirect, s string) error { r.Tags = strings.Fields(s); return nil },
}

func csvRows(body io.Reader) iter.Seq2[row, error] {
	return func(yield func(row, error) bool) {
		c := csv.NewReader(body)
		c.ReuseRecord = true
		columns, err := c.Read()
		if err == io.EOF {
			return
		}
		if err != nil {
			yield(row{}, csvError(err))
			return
		}
		columns = slices.Clone(columns)
		columns[0] = strings.TrimPrefix(columns[0], "\ufeff")
		for _, name := range columns {
			if csvColumns[name] == nil {
				yield(row{}, rowError(1, Fault{Code: "bad_column", Detail: fmt.Sprintf("there is no column %q", name), Hint: "the first line names the columns: from, to, status, …"}))
				return
			}
		}
		for {
			record, err := c.Read()
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(row{}, csvError(err))
				return
			}
			n, _ := c.FieldPos(0)
			r := new(fingerpost.Redirect)
			var faults []Fault
			for i, text := range record {
				if text == "" {
					continue
				}
				if err := csvColumns[columns[i]](r, strings.Clone(text)); err != nil {
					faults = append(faults, Fault{Pointer: "/" + columns[i], Code: "bad_value", Detail: fmt.Sprintf("%q is not what the column takes", text)})
				}
			}
			var problem error
			if len(faults) > 0 {
				problem = rowError(int64(n), faults...)
			}
			if !yield(row{line: int64(n), redirect: r}, problem) {
				return
			}
		}
	}
}

func csvError(err error) error {
	var bad *csv.ParseError
	if errors.As(err, &bad) {
		return rowError(int64(bad.Line), Fault{Code: "bad_csv", Detail: bad.Err.Error(), Hint: "commas between fields, and quotes around a field that has a comma, a quote or a line break (RFC 4180)"})
	}
	return cutShort(0, err)
}

// lineCounter counts the lines that went through it, to say where a value of a
// JSON document begins.
type lineCounter struct {
	r    io.Reader
	ends []int64 // offsets behind line ends, of the part that is not decoded yet
	off  int64
	line int64 // lines that ended before ends[0]
}

func (c *lineCounter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	for i, b := range p[:n] {
		if b == '\n' {
			c.ends = append(c.ends, c.off+int64(i)+1)
		}
	}
	c.off += int64(n)
	return n, err
}

// at is the line of an offset; offsets only grow.
func (c *lineCounter) at(offset int64) int64 {
	i := 0
	for i < len(c.ends) && c.ends[i] <= offset {
		i++
	}
	c.line += int64(i)
	c.ends = append(c.ends[:0], c.ends[i:]...)
	return c.line + 1
}

// jsonRows reads an array of rows, or a document with hosts and redirects as in a
// file, one value at a time.
func jsonRows(body io.Reader) iter.Seq2[row, error] {
	return func(yield func(row, error) bool) {
		lines := &lineCounter{r: body}
		d := json.NewDecoder(lines)
		fail := func(err error) bool {
			line := lines.at(d.InputOffset())
			if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
				return yield(row{}, cutShort(line, io.ErrUnexpectedEOF)) && false
			}
			var syntax *json.SyntaxError
			if errors.As(err, &syntax) {
				return yield(row{}, rowError(line, Fault{Code: "bad_json", Detail: syntax.Error(), Hint: "the body must be one JSON array or document; rows one on each line are " + mediaNDJSON})) && false
			}
			var p *Problem
			if !errors.As(err, &p) {
				err = cutShort(line, err)
			}
			return yield(row{}, err) && false
		}
		one := func(name, pointer string) bool {
			var text json.RawMessage
			for d.More() && len(text) == 0 {
				if err := d.Decode(&text); err != nil {
					return fail(err)
				}
			}
			line := lines.at(d.InputOffset() - int64(len(text)))
			if name != "" { // a host of a document: its name is the key
				quoted, _ := json.Marshal(name)
				if inner, ok := bytes.CutPrefix(text, []byte("{")); ok {
					comma := ","
					if bytes.HasPrefix(bytes.TrimSpace(inner), []byte("}")) {
						comma = ""
					}
					text = slices.Concat([]byte(`{"name":`), quoted, []byte(comma), inner)
				}
			}
			r, faults := decodeRow(text)
			r.line = line
			if len(faults) > 0 {
				for i := range faults {
					faults[i].Pointer = pointer + faults[i].Pointer
				}
				return yield(r, rowError(line, faults...))
			}
			return yield(r, nil)
		}
		list := func(pointer string) bool {
			for i := 0; d.More(); i++ {
				if !one("", pointer+"/"+strconv.Itoa(i)) {
					return false
				}
			}
			_, err := d.Token()
			return err == nil || fail(err)
		}
		start, err := d.Token()
		switch {
		case err == io.EOF:
			return
		case err != nil:
			fail(err)
			return
		case start == json.Delim('['):
			if !list("") {
				return
			}
		case start == json.Delim('{'):
			for d.More() {
				key, err := d.Token()
				if err != nil {
					fail(err)
					return
				}
				open, err := d.Token()
				if err != nil {
					fail(err)
					return
				}
				switch {
				case key == "redirects" && open == json.Delim('['):
					if !list("/redirects") {
						return
					}
				case key == "hosts" && open == json.Delim('{'):
					for d.More() {
						name, err := d.Token()
						if err != nil {
							fail(err)
							return
						}
						if !one(fmt.Sprint(name), "/hosts/"+escapePointer(fmt.Sprint(name))) {
							return
						}
					}
					if _, err := d.Token(); err != nil {
						fail(err)
						return
					}
				default:
					fail(rowError(lines.at(d.InputOffset()), Fault{Pointer: "/" + escapePointer(fmt.Sprint(key)), Code: "bad_row", Detail: "unexpected property", Hint: `a document has hosts {…} and redirects […]`}))
					return
				}
			}
			if _, err := d.Token(); err != nil {
				fail(err)
				return
			}
		default:
			fail(rowError(1, Fault{Code: "bad_row", Detail: "the body is neither an array of rows nor a document", Hint: `[{"from": …, "to": …}], or {"hosts": {…}, "redirects": […]}`}))
			return
		}
		if _, err := d.Token(); err != io.EOF {
			fail(rowError(lines.at(d.InputOffset()), Fault{Code: "bad_json", Detail: "something follows the end of the document"}))
		}
	}
}
