package admin

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"fingerpost/cert/order"
)

type certificateEventsInput struct {
	PageInput
	Since       time.Time `query:"since" doc:"only what happened from then on, as in 2026-11-20T08:00:00Z"`
	What        string    `query:"what" enum:"issued,renewed,failed,order,expiring,revoked,removed,refused" doc:"only this kind"`
	Name        string    `query:"name" doc:"only what is about this host name"`
	Certificate string    `query:"certificate" doc:"only what is about this certificate"`
	Team        string    `query:"team" doc:"only what is about names of this team"`
}

// CertificateEvent is something that happened to names and certificates. Events of
// the last 30 days are kept, at most 10,000.
type CertificateEvent struct {
	At          time.Time `json:"at"`
	What        string    `json:"what" enum:"issued,renewed,failed,order,expiring,revoked,removed,refused" doc:"issued, renewed, revoked, removed: a certificate; failed: a name; order: an order ended without a certificate, for no name's fault; expiring: the certificate of a name runs out unless somebody acts; refused: what somebody asked for was not done"`
	Names       []string  `json:"names,omitempty"`
	Certificate string    `json:"certificate,omitempty"`
	Replaces    string    `json:"replaces,omitempty" doc:"the certificate that it takes the place of"`
	CA          string    `json:"ca,omitempty"`
	Team        string    `json:"team,omitempty"`
	Reason      string    `json:"reason,omitempty" doc:"in plain words"`
	Hint        string    `json:"hint,omitempty" doc:"what to do"`
}

type certificateEventsOutput struct {
	Body *Page[CertificateEvent]
}

// certificateEvents lists what has happened, the oldest first.
func (s *Server) certificateEvents(ctx context.Context, in *certificateEventsInput) (*certificateEventsOutput, error) {
	c, err := s.certificates()
	if err != nil {
		return nil, err
	}
	since := ""
	if !in.Since.IsZero() {
		since = order.EventKey(in.Since)
	}
	list := listName("certificate-events", since, in.What, in.Name, in.Certificate, in.Team)
	after, err := readCursor(list, in.Cursor)
	if err != nil {
		return nil, err
	}
	from := since
	if after != "" {
		from = after + " " // the next text behind it
	}
	out := &Page[CertificateEvent]{Items: []CertificateEvent{}}
	for {
		records, err := c.Storage.Range(ctx, order.KindEvent, from, "", 1000)
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			if len(out.Items) == in.Limit {
				out.Next = cursorOf(list, strings.TrimSuffix(from, " "))
				return &certificateEventsOutput{out}, nil
			}
			from = r.Key + " "
			var e order.Event
			if err := json.Unmarshal(r.Value, &e); err != nil {
				return nil, err
			}
			if (in.What == "" || e.What == in.What) && (in.Team == "" || e.Team == in.Team) && (in.Name == "" || slices.Contains(e.Names, in.Name)) &&
				(in.Certificate == "" || e.Certificate == in.Certificate || e.Replaces == in.Certificate) {
				out.Items = append(out.Items, CertificateEvent(e))
			}
		}
		if len(records) < 1000 {
			return &certificateEventsOutput{out}, nil
		}
	}
}
