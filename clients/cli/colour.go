package cli

import "io"

// defaultWidth is the width of a terminal that doesn't say.
const defaultWidth = 80

// painter colours text for a terminal; the zero painter leaves it as it is.
type painter struct{ on bool }

// paint returns the painter for a stream: colours only on a terminal, and never with --no-color,
// NO_COLOR (https://no-color.org) or TERM=dumb.
func (s *session) paint(w io.Writer) painter {
	off := s.g != nil && s.g.NoColor || s.o.Getenv("NO_COLOR") != "" || s.o.Getenv("TERM") == "dumb"
	return painter{on: !off && terminalWidth(w) > 0}
}

func (p painter) sgr(code, text string) string {
	if !p.on || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p painter) bold(text string) string   { return p.sgr("1", text) }
func (p painter) red(text string) string    { return p.sgr("31", text) }
func (p painter) green(text string) string  { return p.sgr("32", text) }
func (p painter) yellow(text string) string { return p.sgr("33", text) }
func (p painter) dim(text string) string    { return p.sgr("2", text) }

// state colours a connection state: what works green, what waits for an answer yellow, what ends
// dim.
func (p painter) state(name, text string) string {
	switch name {
	case "ESTABLISHED", "OPEN", "assured", "replied":
		return p.green(text)
	case "SYN_SENT", "SYN_SENT2", "SYN_RECV", "COOKIE_WAIT", "COOKIE_ECHOED", "REQUEST", "RESPOND", "unreplied":
		return p.yellow(text)
	case "":
		return text
	}
	return p.dim(text)
}
