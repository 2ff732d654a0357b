package store

import (
	"context"
	"time"
)

// Team owns content.
type Team struct {
	Name    string    `json:"name"`
	Title   string    `json:"title,omitempty"`
	Review  bool      `json:"review,omitempty"` // changes go through a draft that another publishes
	Created time.Time `json:"created,omitzero"`
}

var teams = table[Team]{name: "teams", what: "team", columns: []string{"name", "title", "review", "created"},
	fields: func(v *Team) []any { return []any{&v.Name, &v.Title, &v.Review, (*instant)(&v.Created)} },
	public: func(v *Team) any { return v }}

// User is a person who signs in.
type User struct {
	Name     string            `json:"name"`
	Email    string            `json:"email,omitempty"`
	Password string            `json:"-"`                 // argon2id, as its usual text; the caller's work. Empty: no password
	Subject  string            `json:"subject,omitempty"` // issuer and subject of OIDC
	Roles    map[string]string `json:"roles,omitempty"`   // by team; "*" for all
	Disabled bool              `json:"disabled,omitempty"`
	Created  time.Time         `json:"created,omitzero"`
	Seen     time.Time         `json:"seen,omitzero"`
}

var users = table[User]{name: "users", what: "user",
	columns: []string{"name", "email", "password", "subject", "roles", "disabled", "created", "seen"},
	fields: func(v *User) []any {
		return []any{&v.Name, &v.Email, &v.Password, &v.Subject, (*roles)(&v.Roles), &v.Disabled, (*instant)(&v.Created), (*instant)(&v.Seen)}
	},
	public: func(v *User) any { return v }}

// Token lets a program or a person in. Only the hash of its secret is stored.
type Token struct {
	ID      string    `json:"id"`
	Hash    string    `json:"-"` // of the secret, in hex; what a request is looked up by
	Name    string    `json:"name,omitempty"`
	Owner   string    `json:"owner,omitempty"` // the user who made it
	Scope   string    `json:"scope"`           // api, node, session, …
	Role    string    `json:"role,omitempty"`
	Team    string    `json:"team,omitempty"` // "*" for all
	Created time.Time `json:"created,omitzero"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
	Used    time.Time `json:"used,omitzero"`    // last, to the minute
}

var tokens = table[Token]{name: "tokens", what: "token",
	columns: []string{"id", "hash", "name", "owner", "scope", "role", "team", "created", "expires", "used"},
	fields: func(v *Token) []any {
		return []any{&v.ID, &v.Hash, &v.Name, &v.Owner, &v.Scope, &v.Role, &v.Team, (*instant)(&v.Created), (*instant)(&v.Expires), (*instant)(&v.Used)}
	},
	public: func(v *Token) any { return v }}

// PutTeam makes or changes a team.
func (db *DB) PutTeam(ctx context.Context, by Actor, v Team) error {
	return teams.save(ctx, db, by, &v, false)
}

// Teams lists all teams by name.
func (db *DB) Teams(ctx context.Context) ([]Team, error) { return teams.list(ctx, db) }

// Team reads one team; ErrNotFound if there is none.
func (db *DB) Team(ctx context.Context, name string) (Team, error) {
	return teams.get(ctx, db, "name", name)
}

// DeleteTeam takes a team away, and leaves alone what it owns.
func (db *DB) DeleteTeam(ctx context.Context, by Actor, name string) error {
	return teams.drop(ctx, db, by, name)
}

// AddUser makes a user; ErrExists if the name is taken.
func (db *DB) AddUser(ctx context.Context, by Actor, v User) error {
	return users.save(ctx, db, by, &v, true)
}

// PutUser makes or changes a user. A new password, and being disabled, ends their
// sessions: whoever knew the old one may have some.
func (db *DB) PutUser(ctx context.Context, by Actor, v User) error {
	return users.save(ctx, db, by, &v, false, do(`DELETE FROM tokens WHERE owner = $1 AND scope = 'session'
		AND EXISTS (SELECT 1 FROM users u WHERE u.name = $1 AND (u.password <> $2 OR $3))`, v.Name, v.Password, v.Disabled))
}

// Users lists all users by name.
func (db *DB) Users(ctx context.Context) ([]User, error) { return users.list(ctx, db) }

// User reads one user; ErrNotFound if there is none.
func (db *DB) User(ctx context.Context, name string) (User, error) {
	return users.get(ctx, db, "name", name)
}

// UserBySubject finds the user of an OIDC identity; ErrNotFound if there is none.
func (db *DB) UserBySubject(ctx context.Context, subject string) (User, error) {
	if subject == "" {
		return User{}, ErrNotFound
	}
	return users.get(ctx, db, "subject", subject)
}

// SeeUser notes that a user signed in.
func (db *DB) SeeUser(ctx context.Context, name string) error {
	return db.write(ctx, func(t tx) error {
		return t.run(ctx, do(`UPDATE users SET seen = $2 WHERE name = $1`, name, micros(db.now())))
	})
}

// DeleteUser takes a user away, with the tokens that belong to them.
func (db *DB) DeleteUser(ctx context.Context, by Actor, name string) error {
	all, err := tokens.list(ctx, db)
	if err != nil {
		return err
	}
	for _, t := range all {
		if t.Owner == name {
			if err := tokens.drop(ctx, db, by, t.ID); err != nil {
				return err
			}
		}
	}
	return users.drop(ctx, db, by, name)
}

// AddToken makes a token; ErrExists if the id is taken.
func (db *DB) AddToken(ctx context.Context, by Actor, v Token) error {
	if v.Hash == "" {
		return invalid("a token without a hash")
	}
	return tokens.save(ctx, db, by, &v, true)
}

// TokenByHash finds a token; ErrNotFound if there is none, or it has expired.
func (db *DB) TokenByHash(ctx context.Context, hash string) (Token, error) {
	v, err := tokens.get(ctx, db, "hash", hash)
	if err == nil && !v.Expires.IsZero() && !db.now().Before(v.Expires) {
		return Token{}, ErrNotFound
	}
	return v, err
}

// UseToken notes that a token was used, at most once a minute. It does so in the
// background: whoever only reads does not wait for those who write.
func (db *DB) UseToken(v *Token) {
	id, now := v.ID, db.now()
	if now.Sub(v.Used) < time.Minute {
		return
	}
	if _, waits := db.using.LoadOrStore(id, true); waits {
		return
	}
	db.background(&db.cleaning, func() {
		defer db.using.Delete(id)
		err := db.write(db.ctx, func(t tx) error {
			return t.run(db.ctx, do(`UPDATE tokens SET used = $2 WHERE id = $1 AND used < $2`, id, micros(now)))
		})
		if err != nil && db.ctx.Err() == nil {
			db.log.Warn("note that a token was used", "token", id, "error", err)
		}
	})
}

// Tokens lists all tokens by id, also those that have expired.
func (db *DB) Tokens(ctx context.Context) ([]Token, error) { return tokens.list(ctx, db) }

// DeleteToken revokes a token.
func (db *DB) DeleteToken(ctx context.Context, by Actor, id string) error {
	return tokens.drop(ctx, db, by, id)
}
