package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"fingerpost/store"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// eventStream is an answer of server-sent events.
type eventStream struct {
	ContentType string `header:"Content-Type"`
	Body        func(huma.Context)
}

// beat is how often a stream without news says that it lives.
const beat = 15 * time.Second

// newEventStream sends what run sends, until it returns or the client goes.
func newEventStream(run func(ctx context.Context, send func(id, event string, v any) error) error) *eventStream {
	return &eventStream{ContentType: "text/event-stream", Body: func(c huma.Context) {
		_, w := humago.Unwrap(c)
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusOK)
		out := http.NewResponseController(w)
		write := func(text string) error {
			if err := out.SetWriteDeadline(time.Now().Add(idle)); err != nil && !errors.Is(err, http.ErrNotSupported) {
				return err
			}
			if _, err := w.Write([]byte(text)); err != nil {
				return err
			}
			return out.Flush()
		}
		ctx, cancel := context.WithCancel(c.Context())
		defer cancel()
		texts, done := make(chan string), make(chan error, 1)
		go func() {
			done <- run(ctx, func(id, event string, v any) error {
				data, err := json.Marshal(v)
				if err != nil {
					return err
				}
				text := "event: " + event + "\ndata: " + string(data) + "\n\n"
				if id != "" {
					text = "id: " + id + "\n" + text
				}
				select {
				case texts <- text:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
		}()
		alive := time.NewTicker(beat)
		defer alive.Stop()
		err := write(": \n\n")
		for err == nil {
			select {
			case text := <-texts:
				err = write(text)
			case <-alive.C:
				err = write(": \n\n")
			case err := <-done:
				if err != nil && ctx.Err() == nil {
					p, _ := json.Marshal(problemOf(err))
					write("event: problem\ndata: " + string(p) + "\n\n")
				}
				return
			}
		}
	}}
}

// RevisionEvent is a revision as the stream of events tells it.
type RevisionEvent struct {
	Rev     int64         `json:"rev"`
	At      time.Time     `json:"at"`
	Changes []ChangeEvent `json:"changes" nullable:"false" doc:"at most 1,000; one with the op snapshot stands for more than are told one by one"`
}

// ChangeEvent is one change of it.
type ChangeEvent struct {
	Op     string          `json:"op" enum:"put,delete,snapshot"`
	Kind   string          `json:"kind,omitempty"`
	Key    string          `json:"key"`
	Source string          `json:"source,omitempty"`
	Team   string          `json:"team,omitempty"`
	Value  json.RawMessage `json:"value,omitempty"`
}

type eventsInput struct {
	After       string `query:"after" doc:"the id of the last event that was seen, as epoch:revision, or a revision; default: only what comes from now on"`
	LastEventID string `header:"Last-Event-ID" doc:"as after; browsers send it by themselves"`
}

// events tells every revision from now on, or from a place in the feed.
func (s *Server) events(ctx context.Context, in *eventsInput) (*eventStream, error) {
	head, err := s.Store.Head(ctx)
	if err != nil {
		return nil, err
	}
	at := head.Cursor()
	if after := cmp.Or(in.LastEventID, in.After); after != "" {
		epoch, rev, ok := strings.Cut(after, ":")
		if !ok {
			epoch, rev = head.Epoch, after
		}
		n, err := strconv.ParseInt(rev, 10, 64)
		if err != nil || n < 0 {
			return nil, invalidParameter("after", "it is not the id of an event", "leave it out to begin with now")
		}
		at = store.Cursor{Epoch: epoch, Rev: n}
		if _, err := s.Store.Changes(ctx, at, 1); err != nil {
			return nil, err
		}
	}
	return newEventStream(func(ctx context.Context, send func(id, event string, v any) error) error {
		for {
			revisions, err := s.Store.Changes(ctx, at, store.MaxChanges)
			if err != nil {
				return err
			}
			for _, r := range revisions {
				at.Rev = r.Rev
				if err := send(fmt.Sprintf("%s:%d", at.Epoch, at.Rev), "revision", showRevision(&r)); err != nil {
					return err
				}
			}
			if len(revisions) == 0 {
				if _, err := s.Store.Wait(ctx, at); err != nil {
					return err
				}
			}
		}
	}), nil
}

func showRevision(r *store.Revision) RevisionEvent {
	e := RevisionEvent{Rev: r.Rev, At: r.At, Changes: []ChangeEvent{}}
	for _, c := range r.Changes {
		if c.Item.Kind == store.KindCertificate {
			c.Item.Value = withoutKey(&c.Item)
		}
		e.Changes = append(e.Changes, ChangeEvent{Op: string(c.Op), Kind: c.Item.Kind, Key: c.Item.Key, Source: c.Item.Source, Team: c.Item.Team, Value: c.Item.Value})
	}
	return e
}

// withoutKey is what people may see of a certificate: not its key, sealed as it is,
// and not the chain, which is long.
func withoutKey(it *store.Item) json.RawMessage {
	if len(it.Value) == 0 { // deleted
		return nil
	}
	v, err := it.Certificate()
	if err != nil {
		return nil
	}
	v.Key, v.Chain = nil, nil
	text, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return text
}
