package admin

import (
	"bytes"
	"flag"
	"net/http"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "rewrite docs/openapi.json and testdata")

const documentFile = "../docs/openapi.json"

// TestDocumentIsNotStale holds the committed document to the routes and types.
func TestDocumentIsNotStale(t *testing.T) {
	want := document(new(Server).api(http.NewServeMux()))
	if *update {
		if err := os.WriteFile(documentFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(documentFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the routes say: go test ./admin -run TestDocument -update", documentFile)
	}
}

func TestDocumentIsServed(t *testing.T) {
	a := newTestAPI(t)
	want, err := os.ReadFile(documentFile)
	if err != nil {
		t.Fatal(err)
	}
	if got := a.do("", "GET", "openapi.json", ""); got.body != string(want) {
		t.Errorf("%d, %d bytes, want the %d of %s", got.StatusCode, len(got.body), len(want), documentFile)
	}
}
