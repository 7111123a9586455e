package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

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
			return []*settingError{wrongf("audit.file", "%s can't be the record: it, its lock, or a file that is begun or set aside would be %s, %s", name, other.key, other.name)}
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

// takes tells whether the record at a path, its lock or another file of it (see audit.Takes) is another file.
func takes(record, other string) bool {
	if fi, err := os.Stat(record); err == nil {
		if there, err := os.Stat(other); err == nil && os.SameFile(fi, there) {
			return true
		}
	}
	for _, record := range pathsOf(record) {
		for _, other := range pathsOf(other) {
			if audit.Takes(record, other) {
				return true
			}
		}
	}
	return false
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
	l.doubtPaths(doubt)
	if who, err := accountOf(cfg.RunAs); err != nil {
		doubt("run_as", "%v", err)
	} else if who != nil && who.uid != 0 && os.Geteuid() == 0 { // others can't tell
		l.doubtUser(who, doubt)
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

// doubtPaths tells of paths that mean something else wherever the daemon is started, and of a record without a folder.
func (l *loaded) doubtPaths(doubt func(key, format string, args ...any)) {
	for _, one := range []struct{ key, path string }{
		{"socket", l.settings.Socket}, {"state_dir", l.settings.StateDir}, {"audit.file", l.settings.Audit.File},
	} {
		if _, flag := l.flags[one.key]; one.path != "" && !flag && !filepath.IsAbs(one.path) {
			doubt(one.key, "%s is sought in whatever folder the daemon is started in; name it from / on", one.path)
		}
	}
	if l.cfg.Audit.To != audit.ToFile {
		return
	}
	folder, made := filepath.Dir(l.cfg.Audit.File), false
	for _, one := range []string{l.cfg.StateDir, filepath.Dir(l.cfg.Socket)} { // which the daemon makes, with what is above
		rest, above := strings.CutPrefix(filepath.Clean(one), folder)
		made = made || one != "" && above && (rest == "" || rest[0] == '/')
	}
	if isMissing(folder) && !made {
		doubt("audit.file", "the folder %s isn't there, and the daemon doesn't make it: make it, and give it to the user that the daemon runs as", folder)
	}
}

// doubtUser tells what the user that the daemon becomes can't do.
func (l *loaded) doubtUser(who *account, doubt func(key, format string, args ...any)) {
	for _, p := range writable(&l.cfg) {
		g, err := newGift(p)
		if err != nil {
			continue // it is made, or the start says what is wrong
		}
		err = g.useful(who)
		g.dir.Close()
		if err != nil {
			doubt(p.key, "%s can't write to the folder %s, nor is that given away, as it isn't root's with the daemon's files alone; "+
				"name a file in a folder of its own, or chown %s %s, where nobody else needs it", who.name, p.folder, who.name, p.folder)
		}
	}
	files := []namedFile{{"tls.cert", l.cfg.TLS.Cert}, {"tls.key", l.cfg.TLS.Key}, {"tls.client_ca", l.cfg.TLS.ClientCA}}
	if l.file.there {
		files = append(files, namedFile{"run_as", l.file.name})
	}
	for _, name := range l.cfg.Auth.Passwords.Files {
		files = append(files, namedFile{"passwords.files", name})
	}
	for _, one := range files {
		if one.name == "" || isMissing(one.name) || who.access(one.name, unix.R_OK) == nil {
			continue
		}
		mend := fmt.Sprintf("chgrp %d %[2]s && chmod g+r %[2]s", who.gid, shellWord(one.name))
		if who.access(filepath.Dir(one.name), unix.X_OK) != nil {
			mend = "namei -l " + shellWord(one.name) + " shows which folder is closed"
		}
		doubt(one.key, "%s can't read %s, which is read again while the daemon runs (each SIGHUP): %s", who.name, one.name, mend)
	}
}

func isMissing(name string) bool {
	_, err := os.Stat(name)
	return errors.Is(err, fs.ErrNotExist)
}
