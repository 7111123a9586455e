package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ctd/auth"
	"ctd/auth/audit"
)

// netnsDir is where ip-netns(8) keeps namespaces by name.
const netnsDir = "/run/netns"

// checkAuditFile refuses a file of the record that is none, or that is something else of the daemon's, which
// the record would be written into or put in the place of. own is the configuration file.
func (c *Config) checkAuditFile(own string) []*settingError {
	name := c.Audit.File
	if c.Audit.To != audit.ToFile || name == "" {
		return nil
	}
	fi, err := os.Lstat(name)
	switch {
	case strings.HasSuffix(name, "/") || err == nil && fi.IsDir():
		return []*settingError{wrongf("audit.file", "%s is a folder; name a file in it", name)}
	case err == nil && fi.Mode().Type() == fs.ModeSymlink:
		return []*settingError{wrongf("audit.file", "%s is a symbolic link; name the file itself", name)}
	}
	for _, other := range c.ownFiles(own) {
		if other.name != "" && takes(name, other.name) {
			return []*settingError{wrongf("audit.file", "%s can't be the record: it, its lock or a file that is set aside would be %s, %s", name, other.key, other.name)}
		}
	}
	if err == nil && !fi.Mode().IsRegular() {
		return []*settingError{wrongf("audit.file", "%s is no regular file", name)}
	}
	return nil
}

// ownFiles are the files that the daemon has for something else than its record, each with what it is.
func (c *Config) ownFiles(own string) []namedFile {
	files := []namedFile{
		{"the configuration", own},
		{"the users file", c.Auth.UsersFile},
		{"the tokens file", c.Auth.TokensFile},
		{"the socket", c.Socket},
		{"tls.cert", c.TLS.Cert},
		{"tls.key", c.TLS.Key},
		{"tls.client_ca", c.TLS.ClientCA},
		{"oidc.ca", c.Auth.OIDC.CA},
	}
	if c.Socket != "" {
		files = append(files, namedFile{"the token", c.tokenFile()}, namedFile{"the token's lock", c.tokenFile() + ".lock"})
	}
	for _, name := range c.Auth.Passwords.Files {
		files = append(files, namedFile{"a password file", name})
	}
	return files
}

// takes tells whether the record at a path, its lock or a file of it that is set aside is another file.
func takes(record, other string) bool {
	if fi, err := os.Stat(record); err == nil {
		if there, err := os.Stat(other); err == nil && os.SameFile(fi, there) {
			return true
		}
	}
	for _, record := range pathsOf(record) {
		for _, other := range pathsOf(other) {
			rest, ok := strings.CutPrefix(other, record)
			if ok && (rest == "" || rest == ".lock" || isSetAside(rest)) {
				return true
			}
		}
	}
	return false
}

// isSetAside tells whether that is what follows the record's name in one that is set aside.
func isSetAside(rest string) bool {
	number, ok := strings.CutPrefix(rest, ".")
	n, err := strconv.Atoi(number)
	return ok && err == nil && n > 0 && strconv.Itoa(n) == number
}

// pathsOf returns the paths that a file has once symbolic links are followed: those to its folder, and those to
// itself too.
func pathsOf(name string) []string {
	name, err := filepath.Abs(name)
	if err != nil {
		return []string{name}
	}
	named := filepath.Join(realFolder(filepath.Dir(name)), filepath.Base(name))
	if whole, err := filepath.EvalSymlinks(name); err == nil && whole != named {
		return []string{named, whole}
	}
	return []string{named}
}

// realFolder follows symbolic links as far as a folder is there.
func realFolder(dir string) string {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		return real
	}
	if above := filepath.Dir(dir); above != dir {
		return filepath.Join(realFolder(above), filepath.Base(dir))
	}
	return dir
}

// doubts are what is not wrong with a configuration, as it may be made good before the daemon starts, or
// while it runs, but may as well be a mistake.
func (l *loaded) doubts() []error {
	var doubts []error
	doubt := func(key, format string, args ...any) {
		doubts = append(doubts, l.file.placed(wrongf(key, format, args...), l.flags))
	}
	cfg := &l.cfg
	if ns := cfg.NetNS; ns != "" {
		if !strings.Contains(ns, "/") {
			ns = filepath.Join(netnsDir, ns)
		}
		if isMissing(ns) {
			doubt("netns", "there is no network namespace %s here; ip netns lists those there are", ns)
		}
	}
	if _, err := accountOf(cfg.RunAs); err != nil {
		doubt("run_as", "%v", err)
	}
	for _, name := range cfg.Auth.Passwords.Files {
		if isMissing(name) {
			doubt("passwords.files", "%s isn't there: nobody of it is let in until it is", name)
		}
	}
	for i, t := range cfg.Auth.Tokens {
		if end, err := auth.ParseExpires(t.Expires); err == nil && !end.IsZero() && !time.Now().Before(end) {
			doubt(fmt.Sprintf("token[%d].expires", i), "the token %s has ended at %s: nobody is let in by it", t.Name, end.Format(time.RFC3339))
		}
	}
	return doubts
}

func isMissing(name string) bool {
	_, err := os.Stat(name)
	return errors.Is(err, fs.ErrNotExist)
}
