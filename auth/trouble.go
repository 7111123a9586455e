package auth

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// ErrWritable says that others may write a file of users or tokens, who could let themselves in by it.
var ErrWritable = errors.New("others may write it, so that it doesn't count")

// FileError is what is wrong with a file of users, tokens or passwords. Its text has no secrets.
type FileError struct {
	Path string
	Line int // where it is wrong, from 1; 0: not known
	Err  error
}

// Error is error's.
func (e *FileError) Error() string {
	var path *fs.PathError
	if errors.As(e.Err, &path) { // which has the path too, or a part of it
		return e.Path + ": " + path.Err.Error()
	}
	return e.Path + ": " + e.Err.Error()
}

// Unwrap is errors.Unwrap's.
func (e *FileError) Unwrap() error { return e.Err }

// inFile says which file an error is of.
func inFile(path string, err error) error {
	if err == nil {
		return nil
	}
	e := &FileError{Path: path, Err: err}
	var parse toml.ParseError
	if errors.As(err, &parse) { // its own text shows the line, in which there may be a hash
		e.Line, e.Err = parse.Position.Line, fmt.Errorf("line %d: %s", parse.Position.Line, WithoutValues(parse.Message))
	}
	return e
}

// shownValue is a value in what the decoder says, that may be a hash without its quotes.
var shownValue = regexp.MustCompile(`"(?:[^"\\]|\\.){4,}"|'[^']{4,}'|^[-+.\w]{4,} is out of range|[-+.\w]{16,}`)

// WithoutValues takes values out of what the decoder of TOML says. The names of keys stay.
func WithoutValues(message string) string {
	if strings.HasPrefix(message, "Key '") {
		return message
	}
	return shownValue.ReplaceAllStringFunc(message, func(value string) string {
		if strings.HasSuffix(value, " is out of range") {
			return "a number is out of range"
		}
		return "..."
	})
}

// Trouble is a file of users, tokens or passwords that can't be used.
type Trouble struct {
	Path  string
	Since time.Time // when that was seen first
	Kept  bool      // what was read of it before stays in force; else nobody of it is let in
	Err   error     // a *FileError
}

// Trouble returns the files that can't be used now.
func (a *Authenticator) Trouble() []Trouble {
	var list []Trouble
	for _, one := range []*Trouble{a.usersFile.sick(), a.tokensFile.sick()} {
		if one != nil {
			list = append(list, *one)
		}
	}
	for _, f := range a.passwordFiles {
		if one := f.lines.sick(); one != nil {
			list = append(list, *one)
		}
	}
	return list
}

// Files returns the paths of the files with users, tokens and passwords that there may be.
func (a *Authenticator) Files() []string {
	var paths []string
	if a.usersFile != nil {
		paths = append(paths, a.usersFile.path)
	}
	if a.tokensFile != nil {
		paths = append(paths, a.tokensFile.path)
	}
	for _, f := range a.passwordFiles {
		paths = append(paths, f.path)
	}
	return paths
}

// guarded refuses a file of users or tokens that others may write, or that is somebody else's. dir is its
// folder, whose owner could put another one there.
func guarded(fi, dir fs.FileInfo) error {
	sys, ok := fi.Sys().(*unixStat)
	if !ok {
		return fs.ErrInvalid
	}
	switch perm := fi.Mode().Perm(); {
	case perm&0o002 != 0, perm&0o020 != 0 && !ownGroup(sys.Uid, sys.Gid):
		return ErrWritable
	case sys.Uid != 0 && sys.Uid != uint32(os.Geteuid()) && sys.Uid != ownerOf(dir):
		return fmt.Errorf("it is of user %d: %w", sys.Uid, ErrWritable)
	}
	return nil
}

// guardedOpen is guarded for an open file.
func guardedOpen(f *os.File, path string) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	return guarded(fi, dir)
}

// ownGroup tells whether a group is the own one of a user, in which there is nobody else: it is the
// user's first and has the user's name.
func ownGroup(uid, gid uint32) bool {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil || u.Gid != strconv.FormatUint(uint64(gid), 10) {
		return false
	}
	g, err := user.LookupGroupId(u.Gid)
	return err == nil && g.Name == u.Username
}
