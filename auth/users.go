package auth

import (
	"fmt"
	"slices"
	"unicode"
	"unicode/utf8"
)

// maxName bounds a name, in characters.
const maxName = 64

// checkName says what is wrong with the name of a user or token; empty where nothing is.
func checkName(name string) string {
	switch {
	case name == "":
		return "a name is needed"
	case !utf8.ValidString(name) || utf8.RuneCountInString(name) > maxName:
		return fmt.Sprintf("a name has at most %d characters", maxName)
	}
	for _, r := range name {
		if r == ':' || r == ' ' || !unicode.IsPrint(r) {
			return fmt.Sprintf("%q: a name has neither colons, nor spaces, nor what can't be printed", name)
		}
	}
	return ""
}

// userEntry is a User that was checked.
type userEntry struct {
	hash  string // bcrypt; empty where there is none
	grant parsedGrant
}

// parseUsers checks users. The errors are *SettingError, with keys as user[0].name.
func parseUsers(list []User) (map[string]userEntry, []error) {
	users, wrong := map[string]userEntry{}, []error(nil)
	for i, u := range list {
		key := fmt.Sprintf("user[%d]", i)
		refuse := func(name, text string) { wrong = append(wrong, &SettingError{Key: below(key, name), Text: text}) }
		if text := checkName(u.Name); text != "" {
			refuse("name", text)
		} else if _, ok := users[u.Name]; ok {
			refuse("name", fmt.Sprintf("there are two users %q", u.Name))
		}
		if u.Password != "" {
			if text := checkUserHash(u.Password); text != "" {
				refuse("password", text)
			}
		}
		grant, more := parseGrant(key, u.Grant)
		wrong = append(wrong, more...)
		users[u.Name] = userEntry{hash: u.Password, grant: grant}
	}
	return users, wrong
}

// same tells whether two grants give the same.
func (p parsedGrant) same(q parsedGrant) bool {
	return p.role == q.role && p.calls == q.calls && p.kills == q.kills && slices.Equal(p.networks, q.networks)
}

// account is what is known of a name.
type account struct {
	name string
	hash string // of the password; empty where there is none
	// file is the password file that the hash is of; nil where it is a user's own.
	file *passwordFile
	// was is the hash that was in the file before this one took its place.
	was     string
	grant   parsedGrant
	granted bool // whether there is a grant at all
}

// account returns what is known of a name. A user of the configuration counts before one of the users
// file, and the hash of either before those of password files.
func (a *Authenticator) account(name string) account {
	acc := account{name: name}
	if u, ok := a.user(name); ok {
		acc.hash, acc.grant, acc.granted = u.hash, u.grant, true
	} else if a.passwordRole.rank() > 0 {
		acc.grant, acc.granted = parsedGrant{role: a.passwordRole}, true
	}
	if acc.hash != "" {
		return acc
	}
	for _, f := range a.passwordFiles {
		if line, ok := f.line(name); ok {
			acc.hash, acc.was, acc.file = line.hash, line.was, f
			break
		}
	}
	return acc
}

// user returns the user of a name: of the configuration, else of the users file.
func (a *Authenticator) user(name string) (userEntry, bool) {
	if u, ok := a.users[name]; ok {
		return u, true
	}
	u, ok := a.usersFile.get()[name]
	return u, ok
}

// passwordPrincipal is who has shown the right password of an account. It is valid as long as the
// password and the rights are the same.
func (a *Authenticator) passwordPrincipal(acc account) *Principal {
	id := acc.grant.identity(acc.name, ViaPassword, "", a.shared.budgets)
	id.Valid = a.shared.valid(func(a *Authenticator) bool {
		now := a.account(acc.name)
		return now.granted && now.grant.same(acc.grant) && (now.hash == acc.hash || now.was != "" && now.was == acc.hash)
	})
	return NewPrincipal(id)
}

// userIdentity is a user who was recognised by something else than a password. It is valid as long as the
// rights are the same and still says that what was shown shows the user.
func (a *Authenticator) userIdentity(name string, via Via, credential string, still func(now *Authenticator) bool) (id Identity, ok bool) {
	u, ok := a.user(name)
	if !ok {
		return Identity{}, false
	}
	id = u.grant.identity(name, via, credential, a.shared.budgets)
	id.Valid = a.shared.valid(func(a *Authenticator) bool {
		now, ok := a.user(name)
		return ok && now.grant.same(u.grant) && still(a)
	})
	return id, true
}

// costliest returns the cost of the costliest hash that there is, which those wait for who have another or
// none. That is little work beside a hash.
func (a *Authenticator) costliest() int {
	cost := a.cost
	for _, u := range a.usersFile.get() {
		if u.hash != "" {
			cost = max(cost, costOf(u.hash))
		}
	}
	for _, f := range a.passwordFiles {
		for _, line := range f.lines.get() {
			if sha1Of(line.hash) == nil {
				cost = max(cost, costOf(line.hash))
			}
		}
	}
	return cost
}
