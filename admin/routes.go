package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// Prefix is where the API is.
const Prefix = "/api/v1"

// maxBody bounds the body of every request but those that stream rows: the
// largest item and what stands around it.
const maxBody = maxRow

// Routes is every route of the admin listener. It is called once; the API it
// serves does work that outlives a request, which Close ends.
func (s *Server) Routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", s.livez)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", s.Metrics)
	if s.Feed != nil {
		mux.Handle("/v1/feed", s.forNodes(s.Feed))
		mux.Handle("/v1/snapshot", s.forNodes(s.Snapshot))
	}
	if s.Store != nil || s.LocalToken != "" {
		mux.Handle("/debug/", s.forAdmins(s.debug()))
	}
	if s.Store == nil {
		return mux
	}
	mux.HandleFunc("GET /{$}", s.showHome)
	mux.HandleFunc("POST /logout", encrypted(s.leave))
	mux.HandleFunc("GET /login", encrypted(s.showLogin))
	mux.HandleFunc("GET /login/oidc", encrypted(s.startOIDC))
	mux.HandleFunc("GET "+oidcCallback, encrypted(s.finishOIDC))
	s.api(mux)
	// A page of another origin must not act with the cookie of whoever looks at it.
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, r, forbidden("the request comes from a page of another origin", "use a token instead of the browser's session"))
	}))
	return guard.Handler(keepRequest(mux))
}

// api registers every route of the API, each with the action that it takes and
// whose role counts: that of a team which the handler finds out, or of any.
func (s *Server) api(mux *http.ServeMux) huma.API {
	s.writing = make(chan struct{}, 1)
	s.endLeftOver()
	api := newAPI(mux)
	api.UseMiddleware(s.admit)
	const get, put, post, del = http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete

	add(s, api, get, "/hosts", Read, "hosts", "List hosts", s.listHosts)
	add(s, api, get, "/hosts/{host}", Read, "hosts", "Get a host", s.getHost)
	add(s, api, put, "/hosts/{host}", Settings, "hosts", "Make or change a host", s.putHost)
	add(s, api, del, "/hosts/{host}", Settings, "hosts", "Delete a host's settings", s.deleteHost)

	add(s, api, get, "/hosts/{host}/certificate", Read, "certificates", "Show how the names of a host stand with their certificates", s.getHostCertificate)
	add(s, api, get, "/hosts/{host}/probe", Read, "hosts", "Get what only our nodes answer for a host over http", s.probeHost)
	add(s, api, post, "/hosts/{host}/certificate", Write, "certificates", "Have the names of a host checked and ordered now", s.requestHostCertificate)

	add(s, api, get, "/certificates", Read, "certificates", "List certificates, and names that wait for one", s.listCertificates)
	add(s, api, get, "/certificates/cnames", Read, "certificates", "Export the records that let domains be validated over DNS", s.exportCNAMEs, cnames)
	add(s, api, get, "/certificates/events", Read, "certificates", "List what has happened to names and certificates", s.certificateEvents)
	add(s, api, post, "/certificates/import", Settings, "certificates", "Import a certificate with its key", s.importCertificate)
	add(s, api, post, "/certificates/csr", Settings, "certificates", "Make a signing request; its key stays here", s.requestSigning)
	add(s, api, get, "/certificates/{name}", Read, "certificates", "Get a certificate", s.getCertificate)
	add(s, api, del, "/certificates/{name}", Settings, "certificates", "Delete a certificate that no host needs", s.deleteCertificate)
	add(s, api, post, "/certificates/{name}/renew", Settings, "certificates", "Renew a certificate now", s.renewCertificate)
	add(s, api, post, "/certificates/{name}/revoke", Revoke, "certificates", "Have a certificate revoked; another one is ordered", s.revokeCertificate)
	add(s, api, post, "/certificates/{name}/names", Settings, "certificates", "Order a certificate again with one name more", s.addCertificateName)
	add(s, api, post, "/certificates/{name}/export", Govern, "certificates", "Export a certificate with its key; it is noted in the audit", s.exportCertificate)

	add(s, api, get, "/redirects", Read, "redirects", "List redirects", s.listRedirects)
	add(s, api, post, "/redirects", Write, "redirects", "Make a redirect", s.postRedirect)
	add(s, api, get, "/redirects/{id}", Read, "redirects", "Get a redirect", s.getRedirect)
	add(s, api, put, "/redirects/{id}", Write, "redirects", "Make or change a redirect", s.putRedirect)
	add(s, api, del, "/redirects/{id}", Write, "redirects", "Delete a redirect", s.deleteRedirect)

	add(s, api, post, "/changesets", Write, "changesets", "Change any number of hosts and redirects, all or nothing", s.postChangeset, streamed, dryRun)
	add(s, api, get, "/jobs", Read, "changesets", "List jobs", s.listJobs)
	add(s, api, get, "/jobs/{id}", Read, "changesets", "Get a job", s.getJob)
	add(s, api, del, "/jobs/{id}", Write, "changesets", "Cancel a job", s.cancelJob)
	add(s, api, get, "/jobs/{id}/events", Read, "changesets", "Follow a job", s.jobEvents, events)

	add(s, api, get, "/drafts", Read, "drafts", "List drafts", s.listDrafts)
	add(s, api, post, "/drafts", Draft, "drafts", "Propose a change", s.postDraft, streamed)
	add(s, api, get, "/drafts/{id}", Read, "drafts", "Get a draft", s.getDraft)
	add(s, api, get, "/drafts/{id}/diff", Read, "drafts", "Show what a draft would change", s.getDraftDiff)
	add(s, api, post, "/drafts/{id}/review", Publish, "drafts", "Approve or reject a draft", s.reviewDraft)
	add(s, api, post, "/drafts/{id}/publish", Publish, "drafts", "Bring a draft into force", s.publishDraft)
	add(s, api, del, "/drafts/{id}", Draft, "drafts", "Delete a draft", s.deleteDraft)

	add(s, api, get, "/versions", Read, "history", "List named revisions", s.listVersions)
	add(s, api, get, "/versions/{version}", Read, "history", "Get a revision by name or number", s.getVersion)
	add(s, api, put, "/versions/{version}", Publish, "history", "Name a revision", s.putVersion)
	add(s, api, del, "/versions/{version}", Publish, "history", "Take a name away", s.deleteVersion)
	add(s, api, post, "/versions/{version}/restore", Publish, "history", "Make the content again what it was", s.restoreVersion)
	add(s, api, get, "/diff", Read, "history", "Show what is different between two revisions", s.getDiff)
	add(s, api, get, "/changes", Read, "history", "List revisions, the newest first", s.listChanges)
	add(s, api, get, "/changes/{id}", Read, "history", "Show what a revision changed", s.getChange)
	add(s, api, post, "/changes/{id}/revert", Publish, "history", "Undo one revision and leave later ones alone", s.revertChange)
	add(s, api, get, "/events", Read, "history", "Follow all revisions", s.events, events)

	add(s, api, post, "/explain", Read, "state", "Show which rule answers an address, and why", s.explain)
	add(s, api, get, "/nodes", Read, "state", "List nodes", s.listNodes)
	add(s, api, del, "/nodes/{id}", Govern, "state", "Forget a node", s.deleteNode)
	add(s, api, get, "/sources", Read, "state", "List sources", s.listSources)
	add(s, api, get, "/sources/{label}", Read, "state", "Get a source", s.getSource)
	add(s, api, post, "/sources/{label}/pause", Publish, "state", "Keep a source from being applied", s.pauseSource)
	add(s, api, post, "/sources/{label}/resume", Publish, "state", "Let a source be applied again, as it is now", s.resumeSource)
	add(s, api, post, "/sources/{label}/check", Write, "state", "Look at a source now", s.checkSource)
	add(s, api, post, "/sources/{label}/hook", Public, "state", "Tell that a source was changed", s.hookSource, hook)

	add(s, api, get, "/audit", Govern, "audit", "List who did what", s.listAudit)
	add(s, api, get, "/audit/verify", Govern, "audit", "Check the chain of the audit", s.verifyAudit)
	add(s, api, get, "/audit/export", Govern, "audit", "Stream the whole audit", s.exportAudit, ndjson)

	add(s, api, post, "/session", Public, "people", "Log in", s.login)
	add(s, api, get, "/session", Read, "people", "Show who is logged in", s.getSession)
	add(s, api, del, "/session", Public, "people", "Log out", s.logout)
	add(s, api, get, "/tokens", People, "people", "List tokens", s.listTokens)
	add(s, api, post, "/tokens", People, "people", "Make a token", s.postToken)
	add(s, api, del, "/tokens/{id}", Read, "people", "Revoke a token", s.deleteToken)
	add(s, api, get, "/users", Govern, "people", "List users", s.listUsers)
	add(s, api, get, "/users/{user}", Govern, "people", "Get a user", s.getUser)
	add(s, api, put, "/users/{user}", Govern, "people", "Make or change a user", s.putUser)
	add(s, api, del, "/users/{user}", Govern, "people", "Delete a user and their tokens", s.deleteUser)
	add(s, api, get, "/teams", Read, "people", "List teams", s.listTeams)
	add(s, api, get, "/teams/{team}", Read, "people", "Get a team", s.getTeam)
	add(s, api, put, "/teams/{team}", Govern, "people", "Make or change a team", s.putTeam)
	add(s, api, del, "/teams/{team}", Govern, "people", "Delete a team", s.deleteTeam)

	mux.HandleFunc("GET "+Prefix+"/openapi.json", serveDocument(api))
	mux.HandleFunc(Prefix+"/", noRoute(mux))
	return api
}

// route is what the program knows of an operation beside what huma does.
type route struct {
	action   Action
	streamed bool // its body is read as it comes, of any length
	dryRun   bool // with dryRun=true it only reads
	// Its caller has a secret of another kind than ours: whatever is sent in place of
	// a token is for the handler.
	ownSecret bool
}

// team is the team that the action is decided for before the handler is called,
// which decides for the team that owns what is asked for.
func (r *route) team() string {
	if r.action == Govern {
		return ""
	}
	return anyTeam
}

func routeOf(op *huma.Operation) *route { return op.Metadata["route"].(*route) }

// newAPI is huma set to our ways: JSON only, unknown parameters are errors, and no
// pages of its own.
func newAPI(mux *http.ServeMux) huma.API {
	c := huma.DefaultConfig("Fingerpost", "1")
	c.Info.Description = "Hosts, redirects and all that belongs to running them. Every answer that is an error is a problem (RFC 9457) with a code and, where there is one, a hint."
	c.Servers = []*huma.Server{{URL: Prefix}}
	c.OpenAPIPath, c.DocsPath, c.SchemasPath = "", "", ""
	c.CreateHooks, c.Transformers = nil, nil // no links to schemas within the answers
	c.Formats = map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat}
	c.RejectUnknownQueryParameters = true
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token":   {Type: "http", Scheme: "bearer", BearerFormat: "fpt_…"},
		"session": {Type: "apiKey", In: "cookie", Name: "__Host-fingerpost"},
	}
	c.Security = []map[string][]string{{"token": {}}, {"session": {}}}
	return humago.NewWithPrefix(mux, Prefix, c)
}

// add registers one route. What the handler returns as an error becomes its
// problem here.
func add[I, O any](s *Server, api huma.API, method, path string, action Action, tag, summary string, handle func(context.Context, *I) (*O, error), more ...func(*huma.Operation, *route)) {
	r := &route{action: action}
	op := huma.Operation{Method: method, Path: path, Summary: summary, Tags: []string{tag}, OperationID: operationID(method, path),
		MaxBodyBytes: maxBody, BodyReadTimeout: idle, Metadata: map[string]any{"route": r}, Extensions: map[string]any{"x-action": string(action)}}
	if action == Public {
		op.Security = []map[string][]string{}
		op.Extensions = nil
	}
	for _, m := range more {
		m(&op, r)
	}
	huma.Register(api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err == nil {
			return out, nil
		}
		p := problemOf(err)
		if p.cause != nil && ctx.Err() == nil {
			s.log().Error("answer a request of the API", "method", method, "route", path, "status", p.Status, "err", p.cause)
		}
		return nil, p
	})
	if r.ownSecret {
		api.OpenAPI().Paths[path].Post.RequestBody = &huma.RequestBody{Content: map[string]*huma.MediaType{mediaJSON: {}}}
	}
	if r.streamed {
		api.OpenAPI().Paths[path].Post.RequestBody = rowsBody()
	}
}

// operationID is a name for generators of clients: getHosts, putHostsHost.
func operationID(method, path string) string {
	id := strings.ToLower(method)
	for part := range strings.SplitSeq(strings.NewReplacer("{", "", "}", "").Replace(path), "/") {
		if part != "" {
			id += strings.ToUpper(part[:1]) + part[1:]
		}
	}
	return id
}

// streamed marks a route whose body is rows.
func streamed(_ *huma.Operation, r *route) { r.streamed = true }

// rowsBody is the body of a streamed route in the document. To huma it has none:
// the handler reads it.
func rowsBody() *huma.RequestBody {
	text := &huma.Schema{Type: huma.TypeString}
	return &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		mediaNDJSON: {Schema: &huma.Schema{Type: huma.TypeString, Description: `a row on each line: a redirect {"from": …, "to": …}, a host {"name": …}, or {"delete": "redirect", "host": …, "id": …}`}},
		mediaCSV:    {Schema: text},
		mediaJSON:   {Schema: &huma.Schema{Description: "an array of rows, or a document with hosts and redirects"}},
	}}
}

// dryRun marks a route that needs no more than Read for a dry run.
func dryRun(op *huma.Operation, r *route) {
	r.dryRun = true
	op.Description = "A dry run needs no more than the right to read. For somebody who may write it is also decided about each row."
}

func events(op *huma.Operation, _ *route) { answers(op, "text/event-stream") }
func cnames(op *huma.Operation, _ *route) {
	answers(op, mediaCSV)
	op.Responses["200"].Content["text/dns"] = op.Responses["200"].Content[mediaCSV]
	op.Responses["200"].Content[mediaJSON] = op.Responses["200"].Content[mediaCSV]
}
func ndjson(op *huma.Operation, _ *route) { answers(op, mediaNDJSON) }

func answers(op *huma.Operation, media string) {
	op.Responses = map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{media: {Schema: &huma.Schema{Type: huma.TypeString}}}}}
}

type requestKey struct{}

// exchange is the request and the answer behind a context, for what huma has no
// words for.
type exchange struct {
	r   *http.Request
	w   http.ResponseWriter
	sum string // see requestSum
}

func keepRequest(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := &exchange{w: w}
		e.r = r.WithContext(context.WithValue(r.Context(), requestKey{}, e))
		next.ServeHTTP(w, e.r)
	})
}

func requestOf(ctx context.Context) *http.Request { return ctx.Value(requestKey{}).(*exchange).r }

// requestSum is the hash of a request with an Idempotency-Key, by which another use
// of the key is known: of all that makes it but of rows that are streamed.
func requestSum(ctx context.Context) string { return ctx.Value(requestKey{}).(*exchange).sum }

// sumRequest sets it. The body is read to its end, and is there to be read again.
func sumRequest(r *http.Request, streamed bool) error {
	e := r.Context().Value(requestKey{}).(*exchange)
	body := []byte(nil)
	if !streamed && r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	e.sum = sumOf(r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Get("If-Match"), r.Header.Get("If-None-Match"), string(body))
	return nil
}

// bodyOf is the body of a streamed request. Each part of it must come within a
// time; the whole may take as long as it takes.
func bodyOf(ctx context.Context) io.Reader {
	e := ctx.Value(requestKey{}).(*exchange)
	return &patientReader{e.r.Body, http.NewResponseController(e.w)}
}

type patientReader struct {
	body io.Reader
	c    *http.ResponseController
}

func (p *patientReader) Read(b []byte) (int, error) {
	if err := p.c.SetReadDeadline(time.Now().Add(idle)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	n, err := p.body.Read(b)
	if err == io.EOF {
		// From here on net/http waits for the client to go, and would take the
		// deadline for that.
		if err := p.c.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return n, err
		}
	}
	return n, err
}

// serveDocument serves the OpenAPI document.
func serveDocument(api huma.API) http.HandlerFunc {
	text := document(api)
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oai.openapi+json;version=3.1")
		w.Write(text)
	}
}

// document is the OpenAPI document as it is committed and served.
func document(api huma.API) []byte {
	text, err := json.MarshalIndent(api.OpenAPI(), "", "  ")
	if err != nil {
		panic(err) // it is made of our own types
	}
	return append(text, '\n')
}

// noRoute answers what is under the prefix and no route.
func noRoute(mux *http.ServeMux) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var allowed []string
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete} {
			other := &http.Request{Method: method, URL: r.URL, Host: r.Host}
			if _, pattern := mux.Handler(other); strings.HasPrefix(pattern, method+" ") {
				allowed = append(allowed, method)
			}
		}
		if len(allowed) == 0 {
			writeProblem(w, r, problem(http.StatusNotFound, "no_route", "there is nothing at "+r.URL.Path, "GET "+Prefix+"/openapi.json lists all routes"))
			return
		}
		if slices.Contains(allowed, http.MethodGet) {
			allowed = append(allowed, http.MethodHead)
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		writeProblem(w, r, problem(http.StatusMethodNotAllowed, "bad_method", r.Method+" is not for "+r.URL.Path, "one of "+strings.Join(allowed, ", ")))
	}
}

// writeProblem answers with a problem where no route of huma does.
func writeProblem(w http.ResponseWriter, _ *http.Request, p *Problem) {
	h := w.Header()
	for name, values := range p.GetHeaders() {
		h[name] = values
	}
	h.Set("Content-Type", p.ContentType(""))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p) // fails only if the client has gone
}
