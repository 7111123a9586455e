//go:build unix && !linux && !darwin && !dragonfly && !freebsd && !netbsd && !openbsd

package cli

// flushInput does nothing where it isn't known how.
func flushInput(int) {}
