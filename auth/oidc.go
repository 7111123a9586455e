package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
)

const (
	// maxOIDCToken bounds a token, in bytes; one with many groups in it has some.
	maxOIDCToken = 16 << 10
	// maxClaimedName bounds a name that an issuer gives, in bytes.
	maxClaimedName = 128
	// maxDetail bounds what the log has of an error, in bytes.
	maxDetail = 256
	// oidcPatience is how long a caller waits for the issuer.
	oidcPatience = 5 * time.Second
	// oidcFresh is how long what the issuer said of itself and its keys counts; then it is asked again, so
	// that keys which it took back don't stay. While it doesn't answer, the old counts for oidcStale at most.
	oidcFresh = time.Hour
	oidcStale = 24 * time.Hour
	// oidcRetryFirst and oidcRetryLast are how long it takes until an issuer that didn't answer is asked
	// again, at first and at last.
	oidcRetryFirst = time.Second
	oidcRetryLast  = time.Minute
)

// oidcAlgorithms are those with a public key. With the others the issuer's public key, or nothing, would
// do to sign.
var oidcAlgorithms = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA,
}

// oidcVerifier recognises the bearers of an OpenID Connect issuer's tokens. The issuer is first asked when
// the first token comes, and may be down until then, or later. nil knows nobody.
type oidcVerifier struct {
	cfg     OIDC
	rules   []oidcRule
	budgets *budgets
	logger  *slog.Logger
	client  *issuerClient
	valid   func(ask func(now *Authenticator) bool) func() bool // shared.valid; nil: principals stay valid

	ctx    context.Context // ends with the verifier
	cancel context.CancelFunc

	mu      sync.Mutex
	known   *issuer       // nil until it answered
	asking  chan struct{} // closed when it has answered or not; nil while it isn't asked
	failed  int           // how often in a row it didn't
	again   time.Time     // when it is asked again
	problem string        // why it didn't
}

// oidcRule is what a value of the role claim gives.
type oidcRule struct {
	value string
	grant parsedGrant
}

// issuer is what an issuer said of itself.
type issuer struct {
	tokens *oidc.IDTokenVerifier
	since  time.Time
}

// newOIDC reads the settings, and asks nobody. It returns nil where no issuer is set. The errors are
// *SettingError.
func newOIDC(cfg OIDC, b *budgets, logger *slog.Logger) (*oidcVerifier, []error) {
	if cfg.Issuer == "" {
		if cfg.Audience != "" || cfg.CA != "" || len(cfg.Grants) > 0 {
			return nil, []error{&SettingError{"oidc.issuer", "the issuer is needed for the rest of [oidc]"}}
		}
		return nil, nil
	}
	var wrong []error
	refuse := func(name, text string) { wrong = append(wrong, &SettingError{"oidc." + name, text}) }
	if err := checkIssuer(cfg.Issuer); err != nil {
		refuse("issuer", err.Error())
	}
	if cfg.Audience == "" {
		refuse("audience", "it is needed: without it a token for any other service of the issuer would do here")
	}
	if cfg.RoleClaim == "" {
		refuse("role_claim", "it is needed: a caller gets a role by it")
	} else if slices.Contains(strings.Split(cfg.RoleClaim, "."), "") {
		refuse("role_claim", fmt.Sprintf("%q has nothing before or after a dot; want names of claims with dots between them, such as realm_access.roles", cfg.RoleClaim))
	}
	client, err := newIssuerClient(cfg.CA)
	if err != nil {
		refuse("ca", err.Error())
	}
	if len(cfg.Grants) == 0 {
		refuse("grant", "at least one [[oidc.grant]] is needed; without, nobody is let in")
	}
	v := &oidcVerifier{cfg: cfg, budgets: b, logger: logger, client: client}
	values := map[string]bool{}
	for i, rule := range cfg.Grants {
		key := fmt.Sprintf("oidc.grant[%d]", i)
		grant, errs := parseGrant(key, rule.Grant)
		wrong = append(wrong, errs...)
		if rule.Value == "" {
			wrong = append(wrong, &SettingError{key + ".value", "a value of the claim " + cfg.RoleClaim + " is needed"})
		} else if values[rule.Value] {
			wrong = append(wrong, &SettingError{key + ".value", fmt.Sprintf("there are two for %q, of which the first would count", rule.Value)})
		}
		values[rule.Value] = true
		v.rules = append(v.rules, oidcRule{rule.Value, grant})
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	v.ctx, v.cancel = context.WithCancel(context.Background())
	return v, nil
}

// checkIssuer refuses an issuer whose keys somebody on the way could replace.
func checkIssuer(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("want its URL as in its tokens (iss), such as https://login.example.org/realms/office")
	case !secureURL(u):
		return errors.New("it must be https://, unless it is on this machine: who can read along could make tokens")
	}
	return nil
}

// close ends what goes on in the background.
func (v *oidcVerifier) close() {
	if v != nil {
		v.cancel()
	}
}

// verify recognises the bearer of a token. The errors are ErrWrong, ErrExpired and ErrUnavailable; what
// is wrong is in the log at the level debug.
func (v *oidcVerifier) verify(ctx context.Context, raw string) (*Principal, error) {
	// Three parts with dots between them (RFC 7515 section 7.1), or it is none of the issuer's.
	if v == nil || len(raw) > maxOIDCToken || strings.Count(raw, ".") != 2 {
		return nil, ErrWrong
	}
	ctx, cancel := context.WithTimeout(ctx, oidcPatience)
	defer cancel()
	i, err := v.issuer(ctx)
	if err != nil {
		return nil, err
	}
	outcome := &keyOutcome{}
	token, err := i.tokens.Verify(context.WithValue(ctx, outcomeKey{}, outcome), raw)
	if err != nil {
		return nil, v.refused(ctx, err, outcome)
	}
	var claims map[string]any
	if err := token.Claims(&claims); err != nil {
		return nil, v.refused(ctx, err, outcome)
	}
	grant, ok := v.grantOf(claims)
	if !ok {
		return nil, v.refused(ctx, fmt.Errorf("no [[oidc.grant]] fits the claim %s of %q", v.cfg.RoleClaim, token.Subject), outcome)
	}
	name := nameOf(claims, v.cfg.NameClaim, token.Subject)
	return NewPrincipal(v.identityOf(name, cleanName(token.Subject)+"@"+token.Issuer, grant, token.Expiry)), nil
}

// identityOf is whom a token shows. It is valid as long as a token like it would be.
func (v *oidcVerifier) identityOf(name, credential string, grant parsedGrant, expires time.Time) Identity {
	id := grant.identity(name, ViaOIDC, credential, v.budgets)
	id.Expires = expires
	if v.valid != nil {
		id.Valid = v.valid(func(now *Authenticator) bool { return now.oidc != nil && reflect.DeepEqual(now.oidc.cfg, v.cfg) })
	}
	return id
}

// refused turns an error into one that callers may see, and logs it.
func (v *oidcVerifier) refused(ctx context.Context, err error, outcome *keyOutcome) error {
	v.logger.DebugContext(ctx, "a token of the issuer is not taken", "error", detailOf(err))
	var expired *oidc.TokenExpiredError
	switch {
	case outcome.unavailable:
		return ErrUnavailable
	case errors.As(err, &expired):
		return ErrExpired
	}
	return ErrWrong
}

// detailOf is an error for the log. Some hold all that the issuer answered.
func detailOf(err error) string {
	detail := err.Error()
	return strings.ToValidUTF8(detail[:min(len(detail), maxDetail)], "")
}

// issuer returns what the issuer said of itself. Where that isn't known it is asked, and waited for until
// ctx ends.
func (v *oidcVerifier) issuer(ctx context.Context) (*issuer, error) {
	v.mu.Lock()
	known, now := v.known, time.Now()
	if known != nil && now.Sub(known.since) >= oidcStale {
		known = nil
	}
	if v.asking == nil && !now.Before(v.again) && (known == nil || now.Sub(known.since) >= oidcFresh) {
		v.asking = make(chan struct{})
		go v.ask(v.asking)
	}
	asking := v.asking
	v.mu.Unlock()
	if known != nil {
		return known, nil
	}
	if asking == nil {
		return nil, ErrUnavailable // it didn't answer a moment ago
	}
	select {
	case <-ctx.Done():
		return nil, ErrUnavailable
	case <-asking:
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.known == nil || time.Since(v.known.since) >= oidcStale {
		return nil, ErrUnavailable
	}
	return v.known, nil
}

// ask asks the issuer for what it says of itself, and for its keys.
func (v *oidcVerifier) ask(done chan struct{}) {
	found, err := v.client.discover(v.ctx, v.cfg.Issuer, v.cfg.Audience)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asking = nil
	close(done)
	if err == nil {
		if v.problem != "" || v.known == nil {
			v.logger.Info("the OpenID Connect issuer answers", "issuer", v.cfg.Issuer)
		}
		v.known, v.failed, v.problem = found, 0, ""
		return
	}
	if v.ctx.Err() != nil {
		return
	}
	wait := min(oidcRetryFirst<<min(v.failed, 16), oidcRetryLast)
	v.failed++
	v.again = time.Now().Add(wait)
	level := slog.LevelWarn
	detail := detailOf(err)
	if detail == v.problem { // no news
		level = slog.LevelDebug
	}
	v.problem = detail
	v.logger.Log(v.ctx, level, "the OpenID Connect issuer does not answer", "issuer", v.cfg.Issuer, "error", detail, "again_in", wait)
}

// grantOf returns what the first rule says whose value the role claim has.
func (v *oidcVerifier) grantOf(claims map[string]any) (parsedGrant, bool) {
	claim, _ := claimAt(claims, v.cfg.RoleClaim)
	values, ok := claim.([]any)
	if !ok {
		values = []any{claim}
	}
	for _, rule := range v.rules {
		for _, value := range values {
			if value == rule.value {
				return rule.grant, true
			}
		}
	}
	return parsedGrant{}, false
}

// claimAt returns the claim at a path. A dot leads into an object; but names of claims may have dots
// themselves, as https://example.org/roles.
func claimAt(claims map[string]any, path string) (any, bool) {
	if value, ok := claims[path]; ok {
		return value, true
	}
	for i := range len(path) {
		if path[i] != '.' {
			continue
		}
		if inner, ok := claims[path[:i]].(map[string]any); ok {
			if value, ok := claimAt(inner, path[i+1:]); ok {
				return value, true
			}
		}
	}
	return nil, false
}

// nameOf returns the name in a claim, else the subject.
func nameOf(claims map[string]any, claim, subject string) string {
	value, _ := claimAt(claims, claim)
	if text, ok := value.(string); ok {
		if name := cleanName(text); name != "" {
			return name
		}
	}
	return cleanName(subject)
}

// cleanName takes from a name what can't be shown in a line, and what is too much.
func cleanName(name string) string {
	name = strings.ToValidUTF8(name, "")
	name = strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, name))
	if len(name) > maxClaimedName {
		name = strings.ToValidUTF8(name[:maxClaimedName], "")
	}
	return name
}

// keyOutcome tells whether the issuer's keys could be had to look at a token.
type keyOutcome struct{ unavailable bool }

// outcomeKey is the context key of a *keyOutcome.
type outcomeKey struct{}
