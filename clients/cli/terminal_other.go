//go:build !unix

package cli

// terminalWidth returns 0: where there is no ioctl, no output is taken for a terminal.
func terminalWidth(any) int { return 0 }

// discardInput does nothing: where no terminal is known nobody is asked.
func discardInput(any) {}
