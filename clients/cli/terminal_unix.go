//go:build unix

package cli

import (
	"os"

	"golang.org/x/sys/unix"
)

// discardInput discards what was typed at the terminal that r reads and not read yet; where it is none
// it does nothing.
func discardInput(r any) {
	if f, ok := r.(*os.File); ok && terminalWidth(f) > 0 {
		flushInput(int(f.Fd()))
	}
}

// terminalWidth returns the columns of the terminal that w writes to, 0 where it is none.
func terminalWidth(w any) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	if ws.Col == 0 {
		return defaultWidth // a terminal that doesn't know, such as a serial line
	}
	return int(ws.Col)
}
