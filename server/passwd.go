package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"ctd/auth"
	"ctd/rpc/wire"
)

// passwdGrammar is the command line of `ctd passwd`.
type passwdGrammar struct {
	Name string `arg:"" optional:"" help:"The user. Without one, the users are listed."`
	grantFlags
	KeepPassword bool `help:"Change only the rights. A new user has no password then, and is recognised by something else."`
	Delete       bool `help:"Remove the user."`
	Print        bool `help:"Print a [[user]] for the configuration file, and write nothing."`
	stateGrammar
	Output string `short:"o" enum:"text,json" default:"text" help:"Form of the list: text or json."`
}

// passwdHelp is the head of `ctd passwd --help`.
const passwdHelp = `Make a user, or change the password and rights of one.

The password is asked for twice, or read from standard input where that is no terminal. Users are kept in
users.toml in the daemon's state folder. A daemon that runs takes the change within a second, and ends the
sessions of a user whose password or rights are others now. What isn't given of an existing user stays.

Examples:

  ctd passwd jane --role operator --networks 10.3.0.0/16 --kills-per-minute 50
  ctd passwd jane --keep-password --role viewer
  ctd passwd --print jane >>/etc/ctd/ctd.toml
  ctd passwd jane --delete
  ctd passwd`

// maxPasswordLine bounds what is read of a password, in bytes. It is more than any may have.
const maxPasswordLine = 4096

// PasswdCommand runs `ctd passwd` with its arguments, and returns its exit status.
func PasswdCommand(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (status int) {
	v := &verb{"passwd", stdout, stderr}
	g := &passwdGrammar{}
	helped, err := parseInto(g, v.name, passwdHelp, args, stdout, stderr)
	switch {
	case err != nil:
		return v.exit(v.usage(err))
	case helped:
		return int(wire.ExitDone)
	}
	return v.exit(v.passwd(ctx, g, stdin))
}

func (v *verb) passwd(ctx context.Context, g *passwdGrammar, stdin io.Reader) error {
	if g.Name == "" {
		if g.Print || g.Delete || g.KeepPassword || g.grantFlags != (grantFlags{}) {
			return v.usage(errors.New("the name of a user is needed"))
		}
		return v.listUsers(g)
	}
	if g.Delete && (g.Print || g.KeepPassword || g.grantFlags != (grantFlags{})) {
		return v.usage(errors.New("--delete goes with nothing else"))
	}
	if g.Print {
		u, err := g.user(nil)
		if err != nil {
			return err
		}
		if err := g.setPassword(ctx, &u, stdin, v.stderr); err != nil {
			return err
		}
		_, err = io.WriteString(v.stdout, auth.FormatUser(u))
		return err
	}
	path, cfg, err := v.file(&g.stateGrammar, usersFile)
	if err != nil {
		return err
	}
	if g.Delete {
		err := auth.UpdateUsers(path, func(users []auth.User) ([]auth.User, error) {
			i := userAt(users, g.Name)
			if i < 0 {
				return nil, &verbError{wire.ExitNotFound, fmt.Sprintf("there is no user %q in %s", g.Name, path), "ctd passwd lists the users"}
			}
			return slices.Delete(users, i, i+1), nil
		})
		if err == nil {
			fmt.Fprintf(v.stderr, "removed %s\n", g.Name)
		}
		return err
	}
	return v.setUser(ctx, g, path, cfg, stdin)
}

// setUser makes or changes a user.
func (v *verb) setUser(ctx context.Context, g *passwdGrammar, path string, cfg auth.Config, stdin io.Reader) error {
	// What can't be done is said before a password is asked for.
	if err := canWriteIn(filepath.Dir(path)); err != nil {
		return err
	}
	users, err := auth.ReadUsers(path)
	if err != nil {
		return err
	}
	if _, err := g.user(users); err != nil {
		return err
	}
	var given auth.User
	if err := g.setPassword(ctx, &given, stdin, v.stderr); err != nil {
		return err
	}
	made := false
	err = auth.UpdateUsers(path, func(users []auth.User) ([]auth.User, error) {
		u, err := g.user(users)
		if given.Password != "" {
			u.Password = given.Password
		}
		i := userAt(users, g.Name)
		if made = i < 0; made {
			return append(users, u), err
		}
		users[i] = u
		return users, err
	})
	if err != nil {
		return err
	}
	what := "changed"
	if made {
		what = "made"
	}
	fmt.Fprintf(v.stderr, "%s %s in %s\n", what, g.Name, path)
	if userAt(cfg.Users, g.Name) >= 0 {
		fmt.Fprintf(v.stderr, "ctd: passwd: the configuration has a [[user]] %s too, and that one counts: remove it there\n", g.Name)
	}
	return nil
}

// canWriteIn says why no file can be made in a folder.
func canWriteIn(path string) error {
	if err := unix.Access(path, unix.W_OK|unix.X_OK); err != nil {
		return &fs.PathError{Op: "write in", Path: path, Err: err}
	}
	return nil
}

// user returns the user of g's name, as it is or new, with the rights that are given.
func (g *passwdGrammar) user(users []auth.User) (auth.User, error) {
	u := auth.User{Name: g.Name}
	if i := userAt(users, g.Name); i >= 0 {
		u = users[i]
	}
	g.over(&u.Grant)
	return u, checkGranted(auth.Check(auth.Config{Users: []auth.User{u}}))
}

func userAt(users []auth.User, name string) int {
	return slices.IndexFunc(users, func(u auth.User) bool { return u.Name == name })
}

// setPassword asks for a user's password, unless it is to stay.
func (g *passwdGrammar) setPassword(ctx context.Context, u *auth.User, stdin io.Reader, stderr io.Writer) error {
	if g.KeepPassword {
		return nil
	}
	password, err := readPassword(ctx, stdin, stderr)
	if err != nil {
		return err
	}
	if err := auth.CheckPassword(password); err != nil {
		return &verbError{wire.ExitUsage, err.Error(), ""}
	}
	u.Password, err = auth.HashPassword(password)
	return err
}

// readPassword reads a password: twice and unseen from a terminal, else a line.
func readPassword(ctx context.Context, stdin io.Reader, stderr io.Writer) (string, error) {
	if f, ok := stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		first, err := readUnseen(ctx, f, stderr, "Password: ")
		if err != nil {
			return "", err
		}
		second, err := readUnseen(ctx, f, stderr, "The same again: ")
		if err == nil && first != second {
			err = &verbError{wire.ExitUsage, "the two passwords are not the same", "nothing was changed; begin again"}
		}
		return first, err
	}
	line, err := bufio.NewReader(io.LimitReader(stdin, maxPasswordLine)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read password: %w", err)
	}
	return strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), nil
}

// readUnseen reads a line of a terminal that doesn't show it. The terminal is left as it was, also where
// ctx ends meanwhile.
func readUnseen(ctx context.Context, f *os.File, stderr io.Writer, prompt string) (string, error) {
	before, err := term.GetState(int(f.Fd()))
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	fmt.Fprint(stderr, prompt)
	type read struct {
		line []byte
		err  error
	}
	done := make(chan read, 1)
	go func() {
		line, err := term.ReadPassword(int(f.Fd()))
		done <- read{line, err}
	}()
	select {
	case r := <-done:
		fmt.Fprintln(stderr)
		if r.err != nil {
			return "", fmt.Errorf("read password: %w", r.err)
		}
		return string(r.line), nil
	case <-ctx.Done():
		fmt.Fprintln(stderr)
		_ = term.Restore(int(f.Fd()), before)
		return "", &verbError{exitInterrupted, "interrupted; nothing was changed", ""}
	}
}

// exitInterrupted is what a shell reports of a program that SIGINT ended.
const exitInterrupted wire.Exit = 130

// listedUser is a user as the list shows it.
type listedUser struct {
	Name           string   `json:"name"`
	Role           string   `json:"role"`
	Networks       []string `json:"networks"`
	Rate           int      `json:"rate,omitempty"`
	KillsPerMinute int      `json:"kills_per_minute,omitempty"`
	Password       bool     `json:"password"` // whether there is one
}

func (v *verb) listUsers(g *passwdGrammar) error {
	path, _, err := v.file(&g.stateGrammar, usersFile)
	if err != nil {
		return err
	}
	users, err := auth.ReadUsers(path)
	if err != nil {
		return err
	}
	list := make([]listedUser, len(users))
	for i, u := range users {
		list[i] = listedUser{u.Name, u.Role, append([]string{}, u.Networks...), u.Rate, u.KillsPerMinute, u.Password != ""}
	}
	if g.Output == "json" {
		return printJSON(v.stdout, list)
	}
	w := tabwriter.NewWriter(v.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tROLE\tNETWORKS\tPASSWORD")
	for _, u := range list {
		password := "none"
		if u.Password {
			password = "set"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", u.Name, u.Role, networksText(u.Networks), password)
	}
	return w.Flush()
}

func printJSON(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(value)
}
