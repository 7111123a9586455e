package auth

// KnowsName tells whether a name is a user's, or in a password file. It looks everywhere, wherever the name is
// found, and logs nothing of it: what somebody gives as a name may be a password or a token.
func (a *Authenticator) KnowsName(name string) bool {
	_, known := a.users[name]
	_, found := a.usersFile.get()[name]
	known = known || found
	for _, f := range a.passwordFiles {
		_, found = f.lines.get()[name]
		known = known || found
	}
	return known && name != ""
}
