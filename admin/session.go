package admin

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"fingerpost/store"

	"golang.org/x/crypto/argon2"
)

// How long a session, the link of the first start and a login by OIDC live.
const (
	sessionLife = 12 * time.Hour
	onceLife    = 15 * time.Minute
)

// cookieName is the name of the session's cookie. Under TLS it is one that no
// other host and no page in the clear can set (RFC 6265bis 4.1.3.2).
func cookieName(r *http.Request) string {
	if r.TLS != nil {
		return "__Host-fingerpost"
	}
	return "fingerpost"
}

func sessionCookie(r *http.Request, secret string, life time.Duration) *http.Cookie {
	return &http.Cookie{Name: cookieName(r), Value: secret, Path: "/", MaxAge: int(life / time.Second), Secure: r.TLS != nil, HttpOnly: true, SameSite: http.SameSiteLaxMode}
}

// SessionInfo says who is logged in.
type SessionInfo struct {
	Name  string          `json:"name"`
	Roles map[string]Role `json:"roles" doc:"by team; * for every team"`
	Scope string          `json:"scope,omitempty" doc:"what a token is limited to"`
	Token string          `json:"token,omitempty" doc:"the id of the token; absent for a session"`
}

type sessionOutput struct {
	SetCookie http.Cookie `header:"Set-Cookie"`
	Body      SessionInfo
}

type whoOutput struct{ Body SessionInfo }

func (s *Server) getSession(ctx context.Context, _ *struct{}) (*whoOutput, error) {
	p := principalOf(ctx)
	return &whoOutput{SessionInfo{p.Name, p.Roles, p.Scope, p.Token}}, nil
}

type loginInput struct {
	Body struct {
		User     string `json:"user,omitempty" maxLength:"100"`
		Password string `json:"password,omitempty" maxLength:"200"`
		Once     string `json:"once,omitempty" maxLength:"100" doc:"the secret of the link that the first start prints, in place of user and password"`
	}
}

// login makes a session, by user and password or by the link of the first start.
func (s *Server) login(ctx context.Context, in *loginInput) (*sessionOutput, error) {
	r := requestOf(ctx)
	user := strings.ToLower(in.Body.User)
	if err := s.mayTry(r, "user "+user+" from "+clientOf(r)); err != nil {
		return nil, err
	}
	if err := s.guesses.allow(s.now(), userTries, "user "+user); err != nil {
		return nil, err
	}
	if in.Body.Once != "" {
		return s.loginOnce(ctx, r, in.Body.Once)
	}
	u, err := s.Store.User(ctx, in.Body.User)
	if err != nil && !isNotFound(err) {
		return nil, err
	}
	// A user who is not there takes as long as one who is.
	right, err := s.checkPassword(ctx, u.Password, in.Body.Password)
	if err != nil {
		return nil, err
	}
	if !right || u.Disabled {
		s.record(ctx, store.Entry{Actor: store.Actor{Who: in.Body.User}, Action: "login.refused", Kind: "user", Key: in.Body.User})
		return nil, problem(http.StatusUnauthorized, "bad_login", "user or password is wrong", "an admin can set a new password")
	}
	s.logins.forget("user " + user + " from " + clientOf(r))
	s.guesses.forget("user " + user)
	return s.newSession(ctx, r, &u)
}

func (s *Server) newSession(ctx context.Context, r *http.Request, u *store.User) (*sessionOutput, error) {
	by := store.Actor{Who: u.Name}
	secret, hash := newSecret(sessionPrefix)
	now := s.now()
	if err := s.Store.AddToken(ctx, by, store.Token{ID: newID("ses-"), Hash: hash, Name: u.Name, Owner: u.Name, Scope: scopeSession, Created: now, Expires: now.Add(sessionLife)}); err != nil {
		return nil, err
	}
	if err := s.Store.SeeUser(ctx, u.Name); err != nil {
		return nil, err
	}
	s.record(ctx, store.Entry{Actor: by, Action: "login", Kind: "user", Key: u.Name})
	return &sessionOutput{*sessionCookie(r, secret, sessionLife), SessionInfo{Name: u.Name, Roles: rolesOf(u)}}, nil
}

// loginOnce changes the secret of the link for a session of the first admin.
func (s *Server) loginOnce(ctx context.Context, r *http.Request, once string) (*sessionOutput, error) {
	used := problem(http.StatusUnauthorized, "bad_login", "the link was used before, or has expired", "the token in DATA/admin.token still lets you in")
	if !strings.HasPrefix(once, oncePrefix) {
		return nil, used
	}
	t, err := s.Store.TokenByHash(ctx, hashSecret(once))
	if isNotFound(err) || err == nil && t.Scope != scopeOnce {
		return nil, used
	}
	if err != nil {
		return nil, err
	}
	by := store.Actor{Who: t.Name, Token: t.ID}
	// Whoever deletes it has it: two at once do not both get in.
	if err := s.Store.DeleteToken(ctx, by, t.ID); err != nil {
		if isNotFound(err) {
			err = used
		}
		return nil, err
	}
	secret, hash := newSecret(sessionPrefix)
	now := s.now()
	if err := s.Store.AddToken(ctx, by, store.Token{ID: newID("ses-"), Hash: hash, Name: t.Name, Role: string(Admin), Team: EveryTeam, Scope: scopeSession, Created: now, Expires: now.Add(sessionLife)}); err != nil {
		return nil, err
	}
	return &sessionOutput{*sessionCookie(r, secret, sessionLife), SessionInfo{Name: t.Name, Roles: map[string]Role{EveryTeam: Admin}}}, nil
}

type logoutOutput struct {
	SetCookie http.Cookie `header:"Set-Cookie"`
}

func (s *Server) logout(ctx context.Context, _ *struct{}) (*logoutOutput, error) {
	r := requestOf(ctx)
	return &logoutOutput{*sessionCookie(r, "", -time.Second)}, s.endSession(ctx, r)
}

// endSession ends the session of a request's cookie, if there is one.
func (s *Server) endSession(ctx context.Context, r *http.Request) error {
	if cookie, err := r.Cookie(cookieName(r)); err == nil {
		t, err := s.Store.TokenByHash(ctx, hashSecret(cookie.Value))
		if err == nil && t.Scope == scopeSession {
			err = s.Store.DeleteToken(ctx, store.Actor{Who: t.Name}, t.ID)
		}
		if err != nil && !isNotFound(err) {
			return err
		}
	}
	return nil
}

// record writes to the audit what has no item; that this fails is no reason to
// refuse what has happened.
func (s *Server) record(ctx context.Context, e store.Entry) {
	if err := s.Store.Record(ctx, e); err != nil {
		s.log().Error("write the audit", "action", e.Action, "err", err)
	}
}

func isNotFound(err error) bool { return errors.Is(err, store.ErrNotFound) }

// Passwords are kept as argon2id (RFC 9106) with the parameters that OWASP
// recommends, in the usual text form.
const (
	argonTime, argonMemory, argonThreads = 2, 19 * 1024, 1 // passes, KiB, lanes
	argonSalt, argonKey                  = 16, 32
)

// hashing bounds how many passwords are hashed at once: each takes 19 MiB.
var hashing = make(chan struct{}, 2)

func hashSlowly(ctx context.Context, fn func()) error {
	select {
	case hashing <- struct{}{}:
		defer func() { <-hashing }()
		fn()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Server) hashPassword(ctx context.Context, password string) (text string, err error) {
	salt := make([]byte, argonSalt)
	rand.Read(salt)
	err = hashSlowly(ctx, func() {
		key := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, argonKey)
		b64 := base64.RawStdEncoding.EncodeToString
		text = fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads, b64(salt), b64(key))
	})
	return text, err
}

// checkPassword compares; with an empty hash it takes its time and says no.
func (s *Server) checkPassword(ctx context.Context, text, password string) (right bool, err error) {
	var version, memory, passes, lanes int
	salt, key := make([]byte, argonSalt), make([]byte, argonKey)
	parts := strings.Split(text, "$")
	known := len(parts) == 6 && parts[1] == "argon2id"
	if known {
		_, err1 := fmt.Sscanf(parts[2], "v=%d", &version)
		_, err2 := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &passes, &lanes)
		var err3, err4 error
		salt, err3 = base64.RawStdEncoding.DecodeString(parts[4])
		key, err4 = base64.RawStdEncoding.DecodeString(parts[5])
		if err := errors.Join(err1, err2, err3, err4); err != nil || version != argon2.Version || memory > 1<<20 || lanes < 1 || lanes > 255 || passes < 1 {
			return false, fmt.Errorf("a stored password has a form that is not known: %w", err)
		}
	} else {
		memory, passes, lanes = argonMemory, argonTime, argonThreads
	}
	err = hashSlowly(ctx, func() {
		got := argon2.IDKey([]byte(password), salt, uint32(passes), uint32(memory), uint8(lanes), uint32(len(key)))
		right = subtle.ConstantTimeCompare(got, key) == 1 && known
	})
	return right, err
}

// mayTry bounds logins by the names given, and by the address that they come from.
// What comes from the same machine comes through a proxy, for all there are: there
// one who tries much must not keep everybody out.
func (s *Server) mayTry(r *http.Request, names ...string) error {
	if !isLoopback(r.RemoteAddr) {
		names = append(names, "address "+clientOf(r))
	}
	return s.logins.allow(s.now(), loginTries, names...)
}

// limiter bounds logins: each name (of an address, of a user) may try some times
// a minute.
type limiter struct {
	mu    sync.Mutex // guards tries
	tries map[string]*tries
}

type tries struct {
	left float64
	at   time.Time
}

// How many tries there are in a minute: from one address, and for one user from
// all addresses together; and for how many names at once this is known.
const (
	loginTries = 10
	userTries  = 100
	loginNames = 100_000
)

// allow takes a try of each name, of which it has so many a minute.
func (l *limiter) allow(now time.Time, most float64, names ...string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tries == nil || len(l.tries) > loginNames {
		// Those who have waited long enough are as good as new.
		kept := map[string]*tries{}
		for name, t := range l.tries {
			if now.Sub(t.at) < time.Minute {
				kept[name] = t
			}
		}
		l.tries = kept
	}
	for _, name := range names {
		t := l.tries[name]
		if t == nil {
			t = &tries{left: most, at: now}
			l.tries[name] = t
		}
		t.left = min(most, t.left+most*now.Sub(t.at).Minutes())
		t.at = now
		if t.left < 1 {
			wait := int((1-t.left)*60/most) + 1
			return retryLater(problem(http.StatusTooManyRequests, "too_many_logins", "too many logins were tried", fmt.Sprintf("try again in %d seconds", wait)), wait)
		}
		t.left--
	}
	return nil
}

func (l *limiter) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.tries, name)
}

// clientOf is the address of the client, without its port.
func clientOf(r *http.Request) string {
	addr := r.RemoteAddr
	if i := strings.LastIndexByte(addr, ':'); i > 0 {
		addr = addr[:i]
	}
	return addr
}

// firstToken is the id of the first admin's token, so that there is one only.
const firstToken = "tok-first"

// Bootstrap makes, on the first start, the token of the first admin, and writes it to
// admin.token in Dir for its owner alone to read. With withLink, for where somebody
// sits in front of it, it also gives a link that logs a browser in once, within a
// quarter of an hour: it is as good as the token, so it is for no log. Where there is
// a token or a user already it gives nothing. Several nodes may call it at once: one
// makes the token.
func (s *Server) Bootstrap(ctx context.Context, withLink bool) (token, link string, err error) {
	tokens, err := s.Store.Tokens(ctx)
	if err != nil || len(tokens) > 0 {
		return "", "", err
	}
	users, err := s.Store.Users(ctx)
	if err != nil || len(users) > 0 {
		return "", "", err
	}
	// The file comes first: a token that is in force but not written down would
	// lock everybody out.
	name := filepath.Join(s.Dir, "admin.token")
	token, hash := newSecret(tokenPrefix)
	if text, err := os.ReadFile(name); err == nil { // of a start that did not come further
		if before := strings.TrimSpace(string(text)); strings.HasPrefix(before, tokenPrefix) {
			token, hash = before, hashSecret(before)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", "", err
	}
	if err := writeSecret(name, token+"\n"); err != nil {
		return "", "", err
	}
	by, now := store.Actor{Who: "first start"}, s.now()
	err = s.Store.AddToken(ctx, by, store.Token{ID: firstToken, Hash: hash, Name: "first admin", Scope: scopeAPI, Role: string(Admin), Team: EveryTeam, Created: now})
	if errors.Is(err, store.ErrExists) {
		return "", "", os.Remove(name) // another node was first, and has the token
	}
	if err != nil || !withLink {
		return token, "", err
	}
	once, hash := newSecret(oncePrefix)
	if err := s.Store.AddToken(ctx, by, store.Token{ID: newID("once-"), Hash: hash, Name: "first admin", Scope: scopeOnce, Created: now, Expires: now.Add(onceLife)}); err != nil {
		return token, "", err
	}
	return token, strings.TrimSuffix(s.URL, "/") + "/login#" + once, nil
}

// writeSecret writes a file that its owner alone can read, whole or not at all.
func writeSecret(name, text string) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".token-*") // with 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the renaming: to no effect
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(name)) // the name is on the disk only then
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
