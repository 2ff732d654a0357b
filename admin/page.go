package admin

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"

	"fingerpost/store"
)

// PageInput is what every list takes.
type PageInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"how many at most"`
	Cursor string `query:"cursor" doc:"next of the page before, with the same filters"`
}

// Page is one page of a list. A page may have fewer than were asked for, even
// none: the list ends where next is absent.
type Page[T any] struct {
	Items []T    `json:"items" nullable:"false"`
	Next  string `json:"next,omitempty" doc:"the cursor of the next page; absent on the last one"`
}

// position is a place in a list. The list is told by its name and filters, so
// that a cursor is not taken for another list's.
type position struct {
	List  string `json:"l"`
	After string `json:"a"`
}

func listName(name string, filters ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(filters, "\x00")))
	return name + ":" + base64.RawURLEncoding.EncodeToString(sum[:6])
}

func cursorOf(list, after string) string {
	text, _ := json.Marshal(position{list, after}) // strings always have a form in JSON
	return base64.RawURLEncoding.EncodeToString(text)
}

// readCursor gives the place where the page begins, empty for the first one.
func readCursor(list, cursor string) (after string, err error) {
	if cursor == "" {
		return "", nil
	}
	var p position
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	switch {
	case err != nil:
		return "", invalidParameter("cursor", "it is not a cursor", "take next of the page before as it is, or leave it out for the first page")
	case p.List != list:
		return "", invalidParameter("cursor", "it is of another list, or of other filters", "keep the filters from page to page, or leave the cursor out for the first page")
	}
	return p.After, nil
}

func readNumberCursor(list, cursor string) (int64, error) {
	after, err := readCursor(list, cursor)
	if err != nil || after == "" {
		return 0, err
	}
	n, err := strconv.ParseInt(after, 10, 64)
	if err != nil {
		return 0, invalidParameter("cursor", "it is not a cursor", "take next of the page before as it is, or leave it out for the first page")
	}
	return n, nil
}

// lookedAt is how many items a page looks at, at most, to find those that a
// filter wants: the answer comes in bounded time, however rare they are.
const lookedAt = 20_000

// listItems gives one page of items that keep wants, as shown by show.
func listItems[T any](ctx context.Context, db *store.DB, kind, list string, page PageInput, q store.Query, keep func(*store.Item) bool, show func(*store.Item) (T, error)) (*Page[T], error) {
	after, err := readCursor(list, page.Cursor)
	if err != nil {
		return nil, err
	}
	out := &Page[T]{Items: []T{}}
	q.After, q.Limit = after, page.Limit+1
	if keep != nil {
		q.Limit = max(q.Limit, 1000)
	}
	for looked := 0; ; {
		items, err := db.List(ctx, kind, q)
		if err != nil {
			return nil, err
		}
		for i := range items {
			if len(out.Items) == page.Limit {
				out.Next = cursorOf(list, after)
				return out, nil
			}
			after = items[i].Key
			if keep != nil && !keep(&items[i]) {
				continue
			}
			one, err := show(&items[i])
			if err != nil {
				return nil, err
			}
			out.Items = append(out.Items, one)
		}
		looked += len(items)
		switch {
		case len(items) < q.Limit:
			return out, nil
		case looked >= lookedAt:
			out.Next = cursorOf(list, after)
			return out, nil
		}
		q.After = after
	}
}
