package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"

	"fingerpost"
	"fingerpost/store"

	"github.com/danielgtaylor/huma/v2"
)

// Problem is the body of every answer that is an error (RFC 9457).
type Problem struct {
	Type   string  `json:"type" doc:"a link to what the code means, or about:blank"`
	Title  string  `json:"title" doc:"the status in words"`
	Status int     `json:"status"`
	Code   string  `json:"code" doc:"stable, for programs"`
	Detail string  `json:"detail,omitempty" doc:"what is wrong, for people"`
	Hint   string  `json:"hint,omitempty" doc:"what to do about it"`
	Errors []Fault `json:"errors,omitempty" doc:"each fault of what was sent, as far as they were counted"`

	cause error // for the log, if the program is at fault
	after int   // seconds, for Retry-After
}

// Fault is one thing that is wrong with what was sent.
type Fault struct {
	Line    int64  `json:"line,omitempty" doc:"of a streamed body, from 1"`
	Pointer string `json:"pointer,omitempty" doc:"a JSON pointer into the body or row; ?name for a parameter"`
	Code    string `json:"code,omitempty"`
	Detail  string `json:"detail"`
	Hint    string `json:"hint,omitempty"`
}

func (p *Problem) Error() string {
	s := p.Detail
	for i, f := range p.Errors {
		if i == 3 {
			s += fmt.Sprintf("; and %d more", len(p.Errors)-i)
			break
		}
		s += "; "
		if f.Line > 0 {
			s += "line " + strconv.FormatInt(f.Line, 10) + ": "
		}
		if f.Pointer != "" {
			s += f.Pointer + ": "
		}
		s += f.Detail
	}
	return s
}

func (p *Problem) Unwrap() error { return p.cause }

// GetStatus, ContentType and GetHeaders are what huma asks for.
func (p *Problem) GetStatus() int { return p.Status }

func (p *Problem) ContentType(string) string { return "application/problem+json" }

func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.after > 0 {
		h.Set("Retry-After", strconv.Itoa(p.after))
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="fingerpost"`)
	}
	return h
}

func problem(status int, code, detail, hint string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: detail, Hint: hint}
}

// invalid is the problem of a value that cannot be taken.
func invalid(faults ...Fault) *Problem {
	p := problem(http.StatusUnprocessableEntity, "invalid", "what was sent is not valid; nothing has changed", "")
	p.Errors = faults
	return p
}

func invalidParameter(name, detail, hint string) *Problem {
	p := problem(http.StatusBadRequest, "bad_parameter", "the parameter "+name+" is not valid", hint)
	p.Errors = []Fault{{Pointer: "?" + name, Detail: detail}}
	return p
}

// problemOf maps every error of the API to its answer, and is the only place
// that does.
func problemOf(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	var conflict *store.Conflict
	var conflicts store.Conflicts
	var fault *fingerpost.Error
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &conflict):
		return conflictProblem(conflict)
	case errors.As(err, &conflicts):
		p = problem(http.StatusConflict, "conflict", "it conflicts with what is there; nothing has changed", "look at each of them")
		for _, c := range conflicts {
			p.Errors = append(p.Errors, Fault{Pointer: "/" + escapePointer(c.Kind) + "/" + escapePointer(c.Key), Detail: c.Reason})
		}
		return p
	case errors.As(err, &fault):
		p = invalid()
		for _, e := range fingerpost.Errors(err) {
			p.Errors = append(p.Errors, faultOf(e))
		}
		return p
	case errors.As(err, &tooLong):
		return tooLarge(tooLong.Limit)
	case errors.Is(err, store.ErrNotFound):
		return problem(http.StatusNotFound, "not_found", err.Error(), "")
	case errors.Is(err, store.ErrExists):
		return problem(http.StatusConflict, "exists", err.Error(), "choose another name, or change the one that is there")
	case errors.Is(err, store.ErrStale):
		return problem(http.StatusPreconditionFailed, "base_moved", err.Error()+"; nothing has changed by this", "plan again, and look at what it does now")
	case errors.Is(err, store.ErrPaused):
		return problem(http.StatusConflict, "source_paused", err.Error(), "resume it: POST /api/v1/sources/{label}/resume")
	case errors.Is(err, store.ErrMoved):
		return retryLater(problem(http.StatusConflict, "moved", "the content was changed meanwhile; nothing has changed", "try again"), 1)
	case errors.Is(err, store.ErrConflict):
		return problem(http.StatusConflict, "conflict", err.Error(), "")
	case errors.Is(err, store.ErrKeyReused):
		return problem(http.StatusUnprocessableEntity, "key_reused", "this Idempotency-Key was used for something else", "a new key for each new request; the same key only to repeat one")
	case errors.Is(err, store.ErrTooLarge):
		return problem(http.StatusUnprocessableEntity, "too_large", err.Error(), "")
	case errors.Is(err, store.ErrTooOld):
		return problem(http.StatusGone, "too_old", "older than what is kept", "begin anew, without the cursor")
	case errors.Is(err, store.ErrInvalid):
		return problem(http.StatusUnprocessableEntity, "invalid", err.Error(), "")
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrClosed):
		p = retryLater(problem(http.StatusServiceUnavailable, "unavailable", "the store cannot be reached; nothing has changed", "try again later; visitors are served meanwhile"), 5)
	case errors.Is(err, store.ErrFull), errors.Is(err, syscall.ENOSPC):
		p = retryLater(problem(http.StatusInsufficientStorage, "no_space", "there is no room left on the disk; nothing has changed", "make room on the disk of the store; visitors are served meanwhile"), 60)
	case errors.Is(err, store.ErrUnknown):
		p = retryLater(problem(http.StatusServiceUnavailable, "unknown_result", "the store was lost while it wrote: the change is there or not", "repeat the request with the same Idempotency-Key to learn which"), 5)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		p = problem(http.StatusServiceUnavailable, "cancelled", "the request was ended before it was done", "")
	default:
		p = problem(http.StatusInternalServerError, "internal", "the program is at fault, not the request", "the log of the node says more")
	}
	p.cause = err
	return p
}

func retryLater(p *Problem, seconds int) *Problem {
	p.after = seconds
	return p
}

// CatchingUp is the problem of a write that comes while the node is busy with what
// came before it.
func CatchingUp(why string) *Problem {
	return retryLater(problem(http.StatusServiceUnavailable, "catching_up", why+"; nothing has changed by this", "send it again in a moment"), 2)
}

// conflictProblem tells a precondition that does not hold from an item that is
// another's.
func conflictProblem(c *store.Conflict) *Problem {
	if c.Want != 0 {
		hint := "read it again, apply the change to what it is now, and send its ETag in If-Match"
		if c.Want == store.Absent {
			hint = "change the one that is there, with its ETag in If-Match"
		}
		return problem(http.StatusPreconditionFailed, "precondition_failed", c.Error(), hint)
	}
	return problem(http.StatusConflict, "foreign_source", c.Error(), "change it where it comes from, or take it over with take=true")
}

func tooLarge(limit int64) *Problem {
	return problem(http.StatusRequestEntityTooLarge, "body_too_large", fmt.Sprintf("the body is over %d bytes", limit), "many items go to POST changesets, which takes any number of rows")
}

func faultOf(e *fingerpost.Error) Fault {
	f := Fault{Line: int64(e.At.Line), Code: e.Code, Detail: e.Message, Hint: e.Hint}
	if e.Field != "" {
		f.Pointer = "/" + strings.ReplaceAll(escapePointer(e.Field), ".", "/")
	}
	return f
}

// escapePointer writes one token of a JSON pointer (RFC 6901 3).
func escapePointer(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "~", "~0"), "/", "~1")
}

// huma has one constructor of errors for the whole program, and one switch for
// the case of fields; this package is its only user.
func init() {
	huma.ValidateStrictCasing = true
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return humaProblem(status, message, errs)
	}
}

// humaProblem is the problem of what huma itself refuses: parameters, bodies and
// their fields.
func humaProblem(status int, message string, errs []error) *Problem {
	if status == http.StatusInternalServerError && len(errs) > 0 {
		return problemOf(errors.Join(errs...))
	}
	p := problem(status, "bad_request", message, "the shape of requests is in GET /api/v1/openapi.json")
	switch status {
	case http.StatusBadRequest:
		p.Hint = "the body is one JSON object, with Content-Type: application/json; see GET /api/v1/openapi.json"
	case http.StatusUnprocessableEntity:
		p.Code, p.Detail = "invalid", "what was sent is not valid; nothing has changed"
		p.Hint = "the fields are those of GET /api/v1/openapi.json"
	case http.StatusRequestEntityTooLarge:
		p = tooLarge(maxBody)
	case http.StatusUnsupportedMediaType:
		p.Code, p.Hint = "bad_media_type", "send application/json"
	case http.StatusNotAcceptable:
		p.Code, p.Hint = "not_acceptable", "accept application/json"
	case http.StatusRequestTimeout:
		p.Code = "timeout"
	}
	for _, err := range errs {
		var detail *huma.ErrorDetail
		if !errors.As(err, &detail) {
			p.Errors = append(p.Errors, Fault{Detail: err.Error()})
			continue
		}
		p.Errors = append(p.Errors, Fault{Pointer: pointerOf(detail.Location), Detail: detail.Message, Hint: hintFor(detail.Message)})
		if strings.HasPrefix(detail.Location, "query.") {
			p.Hint = "the parameters are those of GET /api/v1/openapi.json"
		}
	}
	return p
}

func hintFor(message string) string {
	switch {
	case message == "unexpected property":
		return "there is no such field: look at its spelling, capitals count"
	case message == "unknown query parameter":
		return "there is no such parameter"
	case strings.HasPrefix(message, "expected"), strings.HasPrefix(message, "required"):
		return "what it takes stands in GET /api/v1/openapi.json"
	}
	return ""
}

// pointerOf makes a JSON pointer of huma's body.when.methods[0], and ?name of
// query.name.
func pointerOf(location string) string {
	where, rest, _ := strings.Cut(location, ".")
	if strings.HasPrefix(location, "body[") {
		where, rest = "body", location[len("body"):]
	}
	switch where {
	case "body":
		if rest == "" {
			return ""
		}
		rest = strings.ReplaceAll(strings.ReplaceAll(escapePointer(rest), "]", ""), "[", ".")
		return "/" + strings.ReplaceAll(strings.TrimPrefix(rest, "."), ".", "/")
	case "query":
		return "?" + rest
	}
	return rest
}
