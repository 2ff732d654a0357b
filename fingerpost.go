// Package fingerpost holds the nouns of the program: [Host], [Redirect],
// [Error], and the small languages they are written in (from, to, when).
//
// It knows what a redirect means and what makes one wrong. It knows nothing of
// files, sockets, clocks or tables: it imports the standard library and
// golang.org/x/net/idna, and does no I/O.
//
// Start reading at [Redirect], then [ParseFrom] and [ParseTo].
package fingerpost
