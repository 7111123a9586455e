package server

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"ctd/auth"
	"ctd/rpc/wire"
)

// stateGrammar says, on the command lines of ctd passwd and ctd token, which daemon's files are meant.
type stateGrammar struct {
	Config   string `placeholder:"FILE" help:"Configuration file that names the state folder (${config}, where it is there)."`
	StateDir string `placeholder:"PATH" help:"State folder, instead of that of the configuration (${stateDir})."`
}

// dir returns the state folder, and what the configuration says of callers where it was read. The errors
// are all that is wrong with it.
func (g *stateGrammar) dir() (string, auth.Config, []error) {
	if g.StateDir != "" {
		return g.StateDir, auth.Config{}, nil
	}
	serve := &grammar{}
	if g.Config != "" {
		serve.Config = &g.Config
	}
	read, wrong := serve.load()
	if len(wrong) > 0 {
		return "", auth.Config{}, wrong
	}
	if read.cfg.StateDir == "" {
		return "", auth.Config{}, []error{errors.New("the configuration has no state_dir, where users and tokens are kept")}
	}
	return read.cfg.StateDir, read.cfg.Auth, nil
}

// grantFlags are the rights that a command line gives. What isn't given is nil.
type grantFlags struct {
	Role           *string `placeholder:"ROLE" help:"viewer reads, operator also kills and modifies, admin everything (viewer)."`
	Networks       *string `placeholder:"NETWORK,..." help:"See and change only flows with an address inside, e.g. 10.3.0.0/16; empty is everywhere."`
	Rate           *int    `placeholder:"N" help:"Calls a minute; 0 is the daemon's default."`
	KillsPerMinute *int    `placeholder:"N" help:"Flows killed or changed a minute; 0 is the daemon's default."`
}

// over puts what is given over a grant.
func (f *grantFlags) over(g *auth.Grant) {
	if g.Role == "" {
		g.Role = string(auth.Viewer)
	}
	if f.Role != nil {
		g.Role = *f.Role
	}
	if f.Networks != nil {
		g.Networks = strings.FieldsFunc(*f.Networks, func(r rune) bool { return r == ',' || r == ' ' })
	}
	if f.Rate != nil {
		g.Rate = *f.Rate
	}
	if f.KillsPerMinute != nil {
		g.KillsPerMinute = *f.KillsPerMinute
	}
}

// verbError is an error of a verb that is no client's, with its exit status.
type verbError struct {
	status wire.Exit
	text   string
	hint   string // empty: none
}

func (e *verbError) Error() string { return e.text }

// verb is a run of such a verb.
type verb struct {
	name   string
	stdout io.Writer
	stderr io.Writer
}

// exit says what went wrong, and returns the exit status.
func (v *verb) exit(err error) int {
	if err == nil {
		return int(wire.ExitDone)
	}
	e := &verbError{status: wire.ExitOther, text: err.Error()}
	var path *fs.PathError
	var file *auth.FileError
	switch {
	case errors.As(err, &e):
	case errors.Is(err, fs.ErrNotExist) && errors.As(err, &path):
		e.hint = fmt.Sprintf("the daemon makes its state folder when it starts; name another with --state-dir, or the configuration with --config (%s was looked for)", path.Path)
	case errors.Is(err, fs.ErrPermission):
		e.status, e.hint = wire.ExitRefused, "run it as root, or as the user that the daemon runs as"
	case errors.As(err, &file):
		e.hint = "nothing was changed; mend the file first: " + fileMend(file)
	}
	fmt.Fprintf(v.stderr, "ctd: %s: %s\n", v.name, e.text)
	if e.hint != "" {
		fmt.Fprintf(v.stderr, "hint: %s\n", e.hint)
	}
	return int(e.status)
}

// usage is what is wrong with a command line.
func (v *verb) usage(err error) error {
	return &verbError{wire.ExitUsage, err.Error(), "ctd " + v.name + " --help shows what it takes"}
}

// file returns the path of a file in the state folder, and what the configuration says of callers.
func (v *verb) file(g *stateGrammar, name string) (string, auth.Config, error) {
	dir, cfg, wrong := g.dir()
	if len(wrong) > 0 {
		return "", cfg, &verbError{wire.ExitUsage, wrong[0].Error(), "ctd check-config says all that is wrong; --state-dir names the folder without it"}
	}
	return filepath.Join(dir, name), cfg, nil
}

// checkGranted returns the first thing that is wrong with what flags say, without the table that it would
// be in.
func checkGranted(wrong []error) error {
	if len(wrong) == 0 {
		return nil
	}
	var setting *auth.SettingError
	if errors.As(wrong[0], &setting) {
		return &verbError{wire.ExitUsage, setting.Key[strings.LastIndexByte(setting.Key, '.')+1:] + ": " + setting.Text, ""}
	}
	return wrong[0]
}

// everywhere is how no networks are shown.
const everywhere = "everywhere"

func networksText(networks []string) string {
	if len(networks) == 0 {
		return everywhere
	}
	return strings.Join(networks, ",")
}
