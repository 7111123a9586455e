package conntrack

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// FilterError tells what is wrong with a filter.
type FilterError struct {
	Field string // the field, where the error is about one
	Value string // the value as it came, shortened; empty where the error is not about one
	Msg   string // what is wrong with it
	Hint  string // what would be right; may be empty
}

// Error returns the error in one line, without the hint.
func (e *FilterError) Error() string {
	switch {
	case e.Field != "" && e.Value != "":
		return fmt.Sprintf("filter: %s=%s: %s", e.Field, e.Value, e.Msg)
	case e.Field != "":
		return fmt.Sprintf("filter: %s: %s", e.Field, e.Msg)
	case e.Value != "":
		return fmt.Sprintf("filter: %s: %s", e.Value, e.Msg)
	}
	return "filter: " + e.Msg
}

func tooLong() *FilterError {
	return &FilterError{
		Msg:  fmt.Sprintf("the text is longer than %d bytes", MaxFilterText),
		Hint: "ask in several calls",
	}
}

// clip shortens what came for an error, and shows what can't be printed by its escape.
func clip(s string) string {
	const maxShown = 60
	if len(s) > maxShown {
		s = strings.ToValidUTF8(s[:maxShown], "") + "..."
	}
	if !isText(s) {
		s = fmt.Sprintf("%q", s)
	}
	return s
}

// isText tells whether s is UTF-8 without control characters.
func isText(s string) bool {
	for _, r := range s {
		if r < ' ' || r == 0x7f {
			return false
		}
	}
	return utf8.ValidString(s)
}
