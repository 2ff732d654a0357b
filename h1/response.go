package h1

import "strconv"

// statusLines has the status lines that there is a reason phrase for (RFC 9110 15).
var statusLines = func() (t [600]string) {
	for status, reason := range map[int]string{
		200: "OK", 204: "No Content",
		301: "Moved Permanently", 302: "Found", 303: "See Other", 307: "Temporary Redirect", 308: "Permanent Redirect",
		400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout", 410: "Gone",
		414: "Request URI Too Long", 421: "Misdirected Request", 431: "Request Header Fields Too Large", 451: "Unavailable For Legal Reasons",
		500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable", 505: "HTTP Version Not Supported", 508: "Loop Detected",
	} {
		t[status] = "HTTP/1.1 " + strconv.Itoa(status) + " " + reason + "\r\n"
	}
	return t
}()

// AppendStatus appends the status line of a response (RFC 9112 4), in the version
// of the request: clients of HTTP/1.0 are too few to find out what they make of
// another.
func AppendStatus(dst []byte, http10 bool, status int) []byte {
	at := len(dst)
	if status >= 0 && status < len(statusLines) && statusLines[status] != "" {
		dst = append(dst, statusLines[status]...)
	} else {
		dst = append(dst, "HTTP/1.1 "...)
		dst = strconv.AppendInt(dst, int64(status), 10)
		dst = append(dst, " \r\n"...)
	}
	if http10 {
		dst[at+len("HTTP/1.")] = '0'
	}
	return dst
}

// AppendField appends a field line. The caller vouches for name and value.
func AppendField[T string | []byte](dst []byte, name string, value T) []byte {
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = append(dst, value...)
	return append(dst, "\r\n"...)
}

// AppendLength appends a Content-Length.
func AppendLength(dst []byte, n int) []byte {
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, int64(n), 10)
	return append(dst, "\r\n"...)
}

// AppendConnection appends what is to be said of whether the connection stays
// open: nothing where it is what the version of the request stands for (RFC 9112
// 9.3).
func AppendConnection(dst []byte, http10, keepAlive bool) []byte {
	switch {
	case !keepAlive && !http10:
		return append(dst, "Connection: close\r\n"...)
	case keepAlive && http10:
		return append(dst, "Connection: keep-alive\r\n"...)
	}
	return dst
}

// AppendEnd appends the empty line that ends a head.
func AppendEnd(dst []byte) []byte { return append(dst, "\r\n"...) }
