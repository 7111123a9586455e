package server

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"ctd/rpc/wire"
)

// checkGrammar is the command line of `ctd check-config`.
type checkGrammar struct {
	File string `arg:"" optional:"" help:"Configuration file (${config})."`
}

// checkHelp is the head of `ctd check-config --help`.
const checkHelp = `Say what is wrong with a configuration file.

It prints ok, or says with its line what is wrong, and exits with 2. Where others may read a file with
secrets, or something that is named isn't there yet or can't be used (as root, by run_as too), it warns. The configuration that the daemon has by its flags, it doesn't know.

Examples:

  ctd check-config
  ctd check-config ctd.toml`

// CheckConfigCommand runs `ctd check-config` with its arguments, and returns its exit status.
func CheckConfigCommand(args []string, stdout, stderr io.Writer) (status int) {
	g := &checkGrammar{}
	helped, err := parseInto(g, "check-config", checkHelp, args, stdout, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "ctd: check-config: %v\nhint: ctd check-config --help shows what it takes\n", err)
		return int(wire.ExitUsage)
	}
	if helped {
		return int(wire.ExitDone)
	}
	if g.File == "" {
		g.File = DefaultConfigFile
	}
	read, wrong := (&grammar{Config: &g.File}).load()
	if len(wrong) > 0 {
		for _, err := range wrong {
			fmt.Fprintf(stderr, "ctd: check-config: %v\n", err)
		}
		if errors.Is(wrong[0], fs.ErrNotExist) {
			fmt.Fprintln(stderr, "hint: without a file the daemon has its defaults; name the file where it is elsewhere")
		}
		return int(wire.ExitUsage)
	}
	for _, err := range read.doubts() {
		fmt.Fprintf(stderr, "ctd: check-config: warning: %v\n", err)
	}
	for _, e := range exposed(read.file, &read.cfg) {
		fmt.Fprintf(stderr, "ctd: check-config: warning: %v\n", e)
	}
	fmt.Fprintln(stdout, "ok")
	return int(wire.ExitDone)
}
