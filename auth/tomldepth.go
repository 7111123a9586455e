package auth

import (
	"fmt"
	"strings"

	"github.com/BurntSushi/toml"
)

// maxTOMLDepth bounds how deep a value may be in tables and lists.
const maxTOMLDepth = 16

// CheckTOMLDepth refuses a text in which tables, lists and the parts of a key are nested too deep: the
// time that the decoder takes for those grows with their square at least. The error is a toml.ParseError.
// Else it says nothing of whether the text is right.
func CheckTOMLDepth(text string) error {
	// deep is how deep it is here, with the parts of the key that it is the value of; base is that at the
	// beginning of a key, and outer are those of what is around.
	deep, base, outer := 0, 0, make([]int, 0, maxTOMLDepth)
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '#':
			i += lineEnd(text[i:]) - 1
		case '"', '\'':
			i += tomlString(text[i:]) - 1
		case '[', '{':
			outer = append(outer, base)
			deep++
			base = deep
		case ']', '}':
			if n := len(outer); n > 0 {
				base, outer = outer[n-1], outer[:n-1]
			}
			deep = base
		case '.':
			deep++
		case ',', '\n', '\r':
			deep = base
		}
		if deep > maxTOMLDepth {
			line := strings.Count(text[:i], "\n") + 1
			return toml.ParseError{
				Message:  fmt.Sprintf("tables, lists and keys are nested more than %d deep", maxTOMLDepth),
				Position: toml.Position{Line: line, Start: i, Len: 1}, Line: line,
			}
		}
	}
	return nil
}

// lineEnd returns how long the rest of a line is.
func lineEnd(text string) int {
	if n := strings.IndexAny(text, "\r\n"); n >= 0 {
		return n
	}
	return len(text)
}

// tomlString returns how long the string is that a text begins with, with its quotes.
func tomlString(text string) int {
	quote := text[:1]
	long := strings.Repeat(quote, 3)
	ends, i := quote, 1
	if strings.HasPrefix(text, long) {
		ends, i = long, len(long)
	}
	for i < len(text) {
		switch {
		case text[i] == '\\' && quote == `"`:
			i += 2
			continue
		case ends == quote && text[i] == '\n': // an error, at which the decoder ends
			return i
		case strings.HasPrefix(text[i:], ends):
			i += len(ends)
			// Two quotes more may be the string's own last ones.
			for n := 0; n < 2 && ends == long && strings.HasPrefix(text[i:], quote); n++ {
				i++
			}
			return i
		}
		i++
	}
	return len(text)
}
