package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

type versionCmd struct{}

func (versionCmd) Help() string {
	return `The daemon's version is in ctd info.

Examples:

  ctd version`
}

func (versionCmd) Run(s *session) error {
	_, err := fmt.Fprintf(s.out, "ctd %s %s/%s\n", s.version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// version is what the build says, where the program doesn't.
func (s *session) version() string {
	if s.o.Version != "" {
		return s.o.Version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(unknown)"
}
