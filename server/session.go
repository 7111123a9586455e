package server

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"ctd/auth"
	"ctd/rpc"
	"ctd/rpc/wire"
)

const (
	sessionPath = "/session"
	csrfHeader  = "X-Csrf-Token"
	// sessionIdle and sessionLongest are how long a session lives unused, and at most.
	sessionIdle    = 30 * time.Minute
	sessionLongest = 12 * time.Hour
	// maxSessions bounds the sessions at a time, and maxSessionsPerName those of one principal.
	maxSessions        = 4096
	maxSessionsPerName = 32
	// maxLoginBody is how many bytes name and password may have.
	maxLoginBody = 4 << 10
	// The cookie of a session. By the prefix browsers take it from nobody but the host itself, by TLS.
	cookieName       = "ctd_session"
	secureCookieName = "__Host-" + cookieName
)

// session is what a browser is recognised by after its user has logged in.
type session struct {
	principal *auth.Principal
	csrf      string // what a page must show with each change, so that a cookie alone does nothing
	began     time.Time
	used      time.Time // of sessions.mu
}

// sessions are the sessions of browsers, by the hash of their ids: who sees the memory has none of
// them.
type sessions struct {
	now func() time.Time

	mu   sync.Mutex
	byID map[[sha256.Size]byte]*session
}

func newSessions() *sessions {
	return &sessions{now: time.Now, byID: make(map[[sha256.Size]byte]*session)}
}

// live tells whether a session is good still. ss.mu is held.
func (ss *sessions) live(s *session) bool {
	now := ss.now()
	return now.Sub(s.used) < sessionIdle && now.Sub(s.began) < sessionLongest && s.principal.Valid()
}

// get returns the session with an id, and notes that it is used; nil where there is none.
func (ss *sessions) get(id string) *session {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	key := sha256.Sum256([]byte(id))
	s := ss.byID[key]
	if s == nil {
		return nil
	}
	if !ss.live(s) {
		delete(ss.byID, key)
		return nil
	}
	s.used = ss.now()
	return s
}

// begin makes a session and returns its id. Where a principal has as many as it may have, the one that
// was used longest ago ends. There is none where all principals together have too many.
func (ss *sessions) begin(p *auth.Principal) (id string, s *session) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	own, oldest, oldestKey := 0, (*session)(nil), [sha256.Size]byte{}
	for key, other := range ss.byID {
		if !ss.live(other) {
			delete(ss.byID, key)
			continue
		}
		if other.principal.Name() != p.Name() {
			continue
		}
		if own++; oldest == nil || other.used.Before(oldest.used) {
			oldest, oldestKey = other, key
		}
	}
	if own >= maxSessionsPerName {
		delete(ss.byID, oldestKey)
	}
	if len(ss.byID) >= maxSessions {
		return "", nil
	}
	id = rand.Text()
	s = &session{principal: p, csrf: rand.Text(), began: ss.now(), used: ss.now()}
	ss.byID[sha256.Sum256([]byte(id))] = s
	return id, s
}

// end forgets the session with an id.
func (ss *sessions) end(id string) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	delete(ss.byID, sha256.Sum256([]byte(id)))
}

// cookieOf returns the id in a request's cookie; empty where there is none, or more than one: then
// somebody else has set one.
func cookieOf(r *http.Request, v *visit) string {
	name := cookieName
	if v.encrypted(r) {
		name = secureCookieName
	}
	if found := r.CookiesNamed(name); len(found) == 1 {
		return found[0].Value
	}
	return ""
}

// bySession returns whose session's cookie a request has; nil where there is none that is known: another
// daemon on the same host has the same cookie. The error says that the cookie alone was sent, which a
// page of another site might bring about.
func (s *Server) bySession(r *http.Request, v *visit) (*auth.Principal, *wire.Error) {
	if r.URL.Path == sessionPath && r.Method == http.MethodPost {
		return nil, nil // an old session is in the way of no new one
	}
	id := cookieOf(r, v)
	if id == "" {
		return nil, nil
	}
	found := s.sessions.get(id)
	if found == nil {
		return nil, nil
	}
	v.claimed = found.principal.Name()
	if v.foreign {
		return nil, &wire.Error{
			Code: wire.PermissionDenied, Message: "the session is of the daemon's own page",
			Hint: "pages of other sites show a token, as Authorization: Bearer TOKEN, and send no cookies",
		}
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead &&
		subtle.ConstantTimeCompare([]byte(r.Header.Get(csrfHeader)), []byte(found.csrf)) != 1 {
		return nil, &wire.Error{
			Code: wire.PermissionDenied, Message: "the session's token is missing, or another's",
			Hint: "send " + csrfHeader + " with what GET " + sessionPath + " gives as csrf",
		}
	}
	v.session = found
	return found.principal, nil
}

// handleSessions adds what a page logs in and out by.
func (s *Server) handleSessions(mux *http.ServeMux) {
	mux.HandleFunc("POST "+sessionPath, s.beginSession)
	mux.HandleFunc("GET "+sessionPath, s.showSession)
	mux.HandleFunc("DELETE "+sessionPath, s.endSession)
}

// beginSession answers a login, with a token or with name and password, in the Authorization header or
// in the body. The id of a session is always a new one, so that nobody can know it beforehand.
func (s *Server) beginSession(w http.ResponseWriter, r *http.Request) {
	v := visitOf(r.Context())
	secure := v.encrypted(r)
	if !secure && (v.proxied || !rpc.CallerFrom(r.Context()).Here) {
		s.refuse(w, r, &wire.Error{
			Code: wire.PermissionDenied, Message: "whoever reads along would have the session: nothing is encrypted",
			Hint: "log in by https://, or behind a proxy have it send X-Forwarded-Proto: https",
		})
		return
	}
	p, err := s.loginOf(w, r, v)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	v.principal = p.Name()
	if old := cookieOf(r, v); old != "" {
		s.sessions.end(old)
	}
	id, made := s.sessions.begin(p)
	if made == nil {
		s.busy(w, r, "there are too many sessions")
		return
	}
	http.SetCookie(w, sessionCookie(secure, id, int(sessionLongest/time.Second)))
	writeSession(w, made.principal, made.csrf)
}

func sessionCookie(secure bool, id string, maxAge int) *http.Cookie {
	c := &http.Cookie{
		Name: cookieName, Value: id, Path: "/", MaxAge: maxAge,
		HttpOnly: true, Secure: secure, SameSite: http.SameSiteStrictMode,
	}
	if secure {
		c.Name = secureCookieName
	}
	return c
}

// loginOf returns who logs in.
func (s *Server) loginOf(w http.ResponseWriter, r *http.Request, v *visit) (*auth.Principal, *wire.Error) {
	if v.shown {
		p, _ := rpc.PrincipalFrom(r.Context()).(*auth.Principal)
		return p, nil
	}
	if t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t != "application/json" {
		return nil, &wire.Error{
			Code: wire.Unsupported, Message: "a login is application/json",
			Hint: `{"user": "NAME", "password": "..."} or {"token": "..."}, or an Authorization header`,
		}
	}
	var login struct{ User, Password, Token string }
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxLoginBody))
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		if err = d.Decode(&login); err == nil && d.More() {
			err = errors.New("more than one")
		}
	}
	if err != nil || (login.Token == "") == (login.User == "") || login.Token != "" && login.Password != "" {
		return nil, &wire.Error{
			Code: wire.InvalidRequest, Message: "this is no login",
			Hint: `{"user": "NAME", "password": "..."} or {"token": "..."}`,
		}
	}
	v.claimed = login.User
	return v.loginBy(r.Context(), func() (*auth.Principal, error) {
		if login.Token != "" {
			return v.policy.auth.Bearer(r.Context(), v.from, login.Token)
		}
		return v.policy.auth.Password(r.Context(), v.from, login.User, login.Password)
	})
}

// showSession tells who is recognised, by a session or otherwise.
func (s *Server) showSession(w http.ResponseWriter, r *http.Request) {
	v := visitOf(r.Context())
	p, ok := rpc.PrincipalFrom(r.Context()).(*auth.Principal)
	if !ok {
		s.answerError(w, r, &wire.Error{Code: wire.Unauthenticated, Message: "nobody is logged in", Hint: "POST " + sessionPath})
		return
	}
	csrf := ""
	if v.session != nil {
		csrf = v.session.csrf
	}
	writeSession(w, p, csrf)
}

// endSession is a logout.
func (s *Server) endSession(w http.ResponseWriter, r *http.Request) {
	v := visitOf(r.Context())
	if v.session == nil {
		s.answerError(w, r, &wire.Error{Code: wire.Unauthenticated, Message: "there is no session", Hint: "it may have ended"})
		return
	}
	s.sessions.end(cookieOf(r, v))
	http.SetCookie(w, sessionCookie(v.encrypted(r), "", -1))
	w.WriteHeader(http.StatusNoContent)
}

// sessionAnswer is what a page is told of who is logged in.
type sessionAnswer struct {
	Name     string         `json:"name"`
	Role     string         `json:"role"`
	Networks []netip.Prefix `json:"networks"` // none is everywhere
	CSRF     string         `json:"csrf"`     // for X-CSRF-Token; empty where no cookie recognises the caller
}

func writeSession(w http.ResponseWriter, p *auth.Principal, csrf string) {
	b, err := json.Marshal(sessionAnswer{
		Name: p.Name(), Role: p.Role(), Networks: append([]netip.Prefix{}, p.Networks()...), CSRF: csrf,
	})
	if err != nil {
		panic("session: " + err.Error()) // texts and networks can be encoded
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = w.Write(b) // a caller who has gone needs no answer
}
