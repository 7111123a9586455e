package auth

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// fileHead begins the files that ctd passwd and ctd token write.
const fileHead = "# Written by ctd %s, which leaves no comments.\n"

// userTables and tokenTables are what those files have.
type (
	userTables struct {
		Users []User `toml:"user"`
	}
	tokenTables struct {
		Tokens []Token `toml:"token"`
	}
)

// ReadUsers returns the users of a users file; none where it isn't there.
func ReadUsers(path string) ([]User, error) {
	text, err := readInFolder(path)
	if err != nil {
		return nil, err
	}
	users, err := usersIn(text)
	return users, inFile(path, err)
}

// UpdateUsers replaces the users of a users file by what change makes of them, which is checked. Meanwhile
// nobody else does so.
func UpdateUsers(path string, change func([]User) ([]User, error)) error {
	return updateFile(path, func(text []byte) ([]byte, error) {
		users, err := usersIn(text)
		if err != nil {
			return nil, inFile(path, err)
		}
		if users, err = change(users); err != nil {
			return nil, err
		}
		if _, wrong := parseUsers(users); len(wrong) > 0 {
			return nil, inFile(path, errors.Join(wrong...))
		}
		var b strings.Builder
		fmt.Fprintf(&b, fileHead, "passwd")
		for _, u := range users {
			b.WriteString("\n" + FormatUser(u))
		}
		return []byte(b.String()), nil
	})
}

// ReadTokens returns the tokens of a tokens file; none where it isn't there.
func ReadTokens(path string) ([]Token, error) {
	text, err := readInFolder(path)
	if err != nil {
		return nil, err
	}
	tokens, err := tokensIn(text)
	return tokens, inFile(path, err)
}

// UpdateTokens replaces the tokens of a tokens file, as UpdateUsers does users.
func UpdateTokens(path string, change func([]Token) ([]Token, error)) error {
	return updateFile(path, func(text []byte) ([]byte, error) {
		tokens, err := tokensIn(text)
		if err != nil {
			return nil, inFile(path, err)
		}
		if tokens, err = change(tokens); err != nil {
			return nil, err
		}
		if _, wrong := parseTokens(tokens); len(wrong) > 0 {
			return nil, inFile(path, errors.Join(wrong...))
		}
		var b strings.Builder
		fmt.Fprintf(&b, fileHead, "token")
		for _, t := range tokens {
			b.WriteString("\n" + FormatToken(t))
		}
		return []byte(b.String()), nil
	})
}

func usersIn(text []byte) ([]User, error) {
	var t userTables
	if err := decodeTables(text, &t); err != nil {
		return nil, err
	}
	for i, u := range t.Users {
		if len(u.Certificates) > 0 {
			return nil, &SettingError{fmt.Sprintf("user[%d].certificates", i), "certificates belong into the configuration file"}
		}
	}
	return t.Users, nil
}

func tokensIn(text []byte) ([]Token, error) {
	var t tokenTables
	err := decodeTables(text, &t)
	return t.Tokens, err
}

func decodeUsers(text []byte) (map[string]userEntry, error) {
	list, err := usersIn(text)
	if err != nil {
		return nil, err
	}
	users, wrong := parseUsers(list)
	return users, errors.Join(wrong...)
}

func decodeTokens(text []byte) (map[tokenHash]tokenEntry, error) {
	list, err := tokensIn(text)
	if err != nil {
		return nil, err
	}
	tokens, wrong := parseTokens(list)
	return tokens, errors.Join(wrong...)
}

// decodeTables reads TOML. An unknown key is an error, as it is in the configuration.
func decodeTables(text []byte, into any) error {
	if err := CheckTOMLDepth(string(text)); err != nil {
		return err
	}
	meta, err := toml.Decode(string(text), into)
	if err != nil {
		return err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return fmt.Errorf("%s: there is no such setting", unknown[0])
	}
	return nil
}

// FormatUser returns a user as a table of the configuration file.
func FormatUser(u User) string {
	var b strings.Builder
	b.WriteString("[[user]]\n")
	formatText(&b, "name", u.Name)
	formatText(&b, "password", u.Password)
	formatGrant(&b, u.Grant)
	return b.String()
}

// FormatToken returns a token as a table of the configuration file.
func FormatToken(t Token) string {
	var b strings.Builder
	b.WriteString("[[token]]\n")
	formatText(&b, "name", t.Name)
	formatText(&b, "hash", t.Hash)
	formatGrant(&b, t.Grant)
	formatText(&b, "expires", t.Expires)
	return b.String()
}

func formatGrant(b *strings.Builder, g Grant) {
	formatText(b, "role", g.Role)
	if len(g.Networks) > 0 {
		quoted := make([]string, len(g.Networks))
		for i, n := range g.Networks {
			quoted[i] = strconv.Quote(n)
		}
		fmt.Fprintf(b, "networks = [%s]\n", strings.Join(quoted, ", "))
	}
	for _, one := range []struct {
		key   string
		value int
	}{{"rate", g.Rate}, {"kills_per_minute", g.KillsPerMinute}} {
		if one.value != 0 {
			fmt.Fprintf(b, "%s = %d\n", one.key, one.value)
		}
	}
}

// formatText writes a text that can be printed, in which Go and TOML quote the same.
func formatText(b *strings.Builder, key, value string) {
	if value != "" {
		fmt.Fprintf(b, "%s = %s\n", key, strconv.Quote(value))
	}
}
