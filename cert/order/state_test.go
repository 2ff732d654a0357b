package order

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fingerpost/cert/planner"
	"fingerpost/internal/testacme"
)

// TestWhenItIsANamesTurn is told with a date, which is that of the moment of reading.
func TestWhenItIsANamesTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, &testacme.CA{}, "new.shop.com")
		for i := range 60 {
			plan := planner.Order{CA: "test", Names: []string{fmt.Sprintf("x%d.shop.com", i)}, Opened: time.Now().Add(-time.Hour)}
			done := past{Plan: plan, Issued: time.Now().Add(-time.Hour)}
			if err := o.memory.Write(t.Context(), 0, record(KindPast, instant(plan.Opened)+"/"+fmt.Sprint(i), done)); err != nil {
				t.Fatal(err)
			}
		}
		begin := time.Now()
		o.open()
		time.Sleep(time.Minute)
		reading := Reading{Storage: o.memory, Issuer: o.issuer}
		s, err := State(t.Context(), reading, "new.shop.com")
		if err != nil || s.State != planner.Ready {
			t.Fatalf("%+v, %v", s, err)
		}
		until := begin.Add(7*24*time.Hour - time.Hour)
		if s.Next.Before(until.Add(-time.Minute)) || s.Next.After(until.Add(time.Hour)) || !strings.Contains(s.Sentence, "for shop.com until "+s.Next.UTC().Format("2 January 2006")) || strings.Contains(s.Sentence, "then") {
			t.Errorf("next %v, want about %v: %s | %s", s.Next, until, s.Sentence, s.NextStep)
		}
		list, err := reading.Range(t.Context(), KindName, "", "", 10)
		if err != nil || len(list) != 1 || !strings.Contains(string(list[0].Value), "for shop.com until") {
			t.Errorf("listed %s, %v", list, err)
		}
		o.close()
		if s, err := State(t.Context(), reading, "new.shop.com"); err != nil || s.Name.Name == "" {
			t.Errorf("where nobody orders: %+v, %v", s, err)
		}
	})
}
