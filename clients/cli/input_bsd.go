//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package cli

import "golang.org/x/sys/unix"

// fread is FREAD of sys/fcntl.h: the queue of what was typed.
const fread = 1

// flushInput discards what was typed at a terminal and not read yet.
func flushInput(fd int) { _ = unix.IoctlSetPointerInt(fd, unix.TIOCFLUSH, fread) }
