package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// maxToldLines bounds how many lines of a password file are complained about at a time.
const maxToldLines = 10

// passwordLine is what a password file has of a name.
type passwordLine struct {
	hash string
	was  string // the SHA-1 that hash took the place of; empty where there was none
}

// passwordFile is a password file of others.
type passwordFile struct {
	path   string
	lines  *watched[map[string]passwordLine]
	logger *slog.Logger

	mu       sync.Mutex
	replaced map[string]passwordLine // by name; those that this process has replaced
	told     bool                    // that it can't be written
}

func newPasswordFile(path string, now func() time.Time, logger *slog.Logger) *passwordFile {
	f := &passwordFile{path: path, logger: logger, replaced: map[string]passwordLine{}}
	f.lines = watch(path, now, logger, watchedKind{needed: true}, f.parse)
	return f
}

// parse reads the lines of the file. Those that are wrong are left out and logged.
func (f *passwordFile) parse(text []byte) (map[string]passwordLine, error) {
	lines, wrong, weak := map[string]passwordLine{}, 0, 0
	for i, line := range strings.Split(string(text), "\n") {
		name, hash, why := parsePasswordLine(line)
		if name == "" && why == "" {
			continue
		}
		if _, ok := lines[name]; ok && why == "" {
			why = "the name is there twice; the first line counts"
		}
		if why != "" {
			if wrong++; wrong <= maxToldLines {
				f.logger.Warn("a line of a password file isn't used", "at", fmt.Sprintf("%s:%d", f.path, i+1), "why", why)
			}
			continue
		}
		if sha1Of(hash) != nil {
			weak++
		}
		lines[name] = passwordLine{hash: hash}
	}
	if wrong > maxToldLines {
		f.logger.Warn("more lines of a password file aren't used", "file", f.path, "lines", wrong-maxToldLines)
	}
	if weak > 0 {
		f.logger.Warn("a password file has SHA-1, which is easily guessed by who gets hold of it; each is replaced by bcrypt at its first login",
			"file", f.path, "names", weak)
	}
	return lines, nil
}

// parsePasswordLine reads a line name:hash; both are empty for one with nothing in it, and why says what
// is wrong with one that can't be used.
func parsePasswordLine(line string) (name, hash, why string) {
	line = strings.TrimSpace(line)
	if line == "" || strings.HasPrefix(line, "#") {
		return "", "", ""
	}
	name, hash, ok := strings.Cut(line, ":")
	if !ok {
		return "", "", "it is not name:hash"
	}
	if why := checkName(name); why != "" {
		return name, "", why
	}
	return name, hash, checkFileHash(hash)
}

// line returns what the file has of a name.
func (f *passwordFile) line(name string) (passwordLine, bool) {
	line, ok := f.lines.get()[name]
	if !ok {
		return line, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// What was replaced may not have been read again, or is there and has a hash that came before it.
	if r, ok := f.replaced[name]; ok && (line.hash == r.hash || line.hash == r.was) {
		return r, true
	}
	return line, true
}

// rehash puts a bcrypt of a password in the place of a name's SHA-1, and returns it; empty where that
// can't be done, which is logged once.
func (f *passwordFile) rehash(name, old, password string) string {
	hash, err := HashPassword(password)
	if err == nil {
		err = f.replace(name, old, hash)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.replaced[name] = passwordLine{hash: hash, was: old}
		f.logger.Info("SHA-1 in a password file is replaced by bcrypt", "file", f.path, "name", name)
		return hash
	}
	if !f.told {
		f.told = true
		f.logger.Warn("SHA-1 in a password file can't be replaced by bcrypt; let the daemon's user write the file and its folder, or use htpasswd -B",
			"file", f.path, "error", err)
	}
	return ""
}

// errOtherLine says that a line isn't what it was when it was read.
var errOtherLine = errors.New("another program has changed it")

// replace puts a hash in the place of another, in the first line of a name, and leaves all else as it is.
func (f *passwordFile) replace(name, old, hash string) error {
	// A symbolic link stays, and the file that it leads to is replaced.
	path, err := filepath.EvalSymlinks(f.path)
	if err != nil {
		return err
	}
	d, err := openFolder(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.close()
	file, err := d.open(filepath.Base(path), os.O_RDWR)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := lock(file); err != nil {
		return err
	}
	text, _, err := readOpen(file)
	if err != nil {
		return err
	}
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	// Who had the lock before may have put another file there.
	if there, err := d.Stat(filepath.Base(path)); err != nil || !os.SameFile(fi, there) {
		return errOtherLine
	}
	if text, err = replaceHash(text, name, old, hash); err != nil {
		return err
	}
	sys, ok := fi.Sys().(*unixStat)
	if !ok {
		return fs.ErrInvalid
	}
	return d.replace(filepath.Base(path), text, sys.Uid, sys.Gid, fi.Mode().Perm())
}

// replaceHash is replace's work on the text.
func replaceHash(text []byte, name, old, hash string) ([]byte, error) {
	begin := 0
	for line := range bytes.Lines(text) {
		if n, h, why := parsePasswordLine(string(line)); n == name && why == "" {
			if h != old {
				return nil, errOtherLine
			}
			at := begin + bytes.IndexByte(line, ':') + 1
			at += bytes.Index(text[at:], []byte(old))
			return bytes.Join([][]byte{text[:at], []byte(hash), text[at+len(old):]}, nil), nil
		}
		begin += len(line)
	}
	return nil, errOtherLine
}
