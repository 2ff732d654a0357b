package fingerpost

import (
	"errors"
	"strconv"
)

// Position is a place in a source of content. Line and Column count from 1;
// Column counts bytes. A zero Line means that only the file is known.
type Position struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

// String gives file:line:column, without the parts that are not known.
func (p Position) String() string {
	s := p.File
	if p.Line > 0 {
		s += ":" + strconv.Itoa(p.Line)
		if p.Column > 0 {
			s += ":" + strconv.Itoa(p.Column)
		}
	}
	return s
}

// Error says what is wrong with one item, where, and what to do about it.
// Several travel together through [errors.Join]; [Errors] takes them apart.
type Error struct {
	Code    string   `json:"code"`            // stable, for programs: "bad_from", "duplicate", …
	Field   string   `json:"field,omitempty"` // the field at fault, dotted: "when.percent"
	Message string   `json:"message"`         // one line, lower case, no full stop
	Hint    string   `json:"hint,omitempty"`  // what to do, where there is something to say
	At      Position `json:"at,omitzero"`
}

func (e *Error) Error() string {
	if at := e.At.String(); at != "" {
		return at + ": " + e.Message
	}
	return e.Message
}

// Errors lists every [Error] that err holds, in order; an error of another kind
// becomes one with the code "error". It returns nil for nil.
func Errors(err error) []*Error {
	if err == nil {
		return nil
	}
	var one *Error
	switch e := err.(type) {
	case *Error:
		return []*Error{e}
	case interface{ Unwrap() []error }:
		var all []*Error
		for _, inner := range e.Unwrap() {
			all = append(all, Errors(inner)...)
		}
		return all
	}
	if errors.As(err, &one) {
		wrapped := *one
		wrapped.Message, wrapped.At = err.Error(), Position{}
		return []*Error{&wrapped}
	}
	return []*Error{{Code: "error", Message: err.Error()}}
}
