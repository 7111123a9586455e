package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"ctd/auth/audit"
)

// place is a folder that the daemon writes to.
type place struct {
	key    string // the setting that names it
	folder string
	files  []string // names of the daemon's files there
	record []string // and of records, each of which has files of its own beside it
}

// has tells whether a file of the folder is the daemon's, by its whole name: what only begins alike is anybody's.
func (p *place) has(name string) bool {
	return slices.Contains(p.files, name) || slices.ContainsFunc(p.record, func(record string) bool { return audit.Takes(record, name) })
}

// writable returns where the daemon writes to, while it runs or at its end: each folder once.
func writable(cfg *Config) []*place {
	var all []*place
	at := func(key, folder string) *place {
		for _, p := range all {
			if realFolder(p.folder) == realFolder(folder) {
				return p
			}
		}
		all = append(all, &place{key: key, folder: filepath.Clean(folder)})
		return all[len(all)-1]
	}
	token := filepath.Base(cfg.tokenFile())
	socket := at("socket", filepath.Dir(cfg.Socket))
	socket.files = append(socket.files, filepath.Base(cfg.Socket), token, token+".lock")
	if cfg.StateDir != "" {
		state := at("state_dir", cfg.StateDir)
		state.files, state.record = append(state.files, usersFile, tokensFile), append(state.record, auditFile)
	}
	if f := cfg.Audit.File; cfg.Audit.To == audit.ToFile && f != "" {
		record := at("audit.file", filepath.Dir(f))
		record.record = append(record.record, filepath.Base(f))
	}
	return all
}

// giveFiles gives the user that the daemon becomes what root made for it. Nothing is given where that user
// couldn't write to one of the folders even then.
func giveFiles(cfg *Config, who *account) error {
	var gifts []*gift
	defer func() {
		for _, g := range gifts {
			g.dir.Close()
		}
	}()
	for _, p := range writable(cfg) {
		g, err := newGift(p)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("give %s to %s: %w", p.folder, who.name, err)
		}
		gifts = append(gifts, g)
	}
	for _, g := range gifts {
		if err := g.useful(who); err != nil {
			return who.cantWrite(g.folder, err)
		}
	}
	for _, g := range gifts {
		if err := g.give(who); err != nil {
			return err
		}
	}
	return nil
}

// cantWrite is the error of a user who can't write to a folder.
func (a *account) cantWrite(folder string, err error) error {
	return &hintError{
		fmt.Errorf("write to %s as %s: %w", folder, a.name, os.NewSyscallError("access", err)),
		"give the daemon's socket, state and audit log a folder of their own, or chown " + a.name + " " + folder + ", where nobody else needs it",
	}
}

// gift is what may be given of a place: the daemon's files, and the folder, where it is root's and holds
// nothing else. /run or /var/log stay what they are.
type gift struct {
	*place
	dir   *os.File
	names []string
	whole bool // the folder too
}

// newGift looks what there is to give. Its dir is to be closed.
func newGift(p *place) (*gift, error) {
	dir, err := os.OpenFile(p.folder, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	g := &gift{place: p, dir: dir, whole: true}
	names, err := dir.Readdirnames(-1)
	var st unix.Stat_t
	if err == nil {
		err = os.NewSyscallError("stat", unix.Fstat(int(dir.Fd()), &st))
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	for _, name := range names {
		if p.has(name) {
			g.names = append(g.names, name)
		} else {
			g.whole = false
		}
	}
	g.whole = g.whole && st.Uid == 0
	return g, nil
}

// useful returns why a user couldn't write to the folder once it is given, as far as it is.
func (g *gift) useful(who *account) error {
	if !g.whole {
		return who.access(g.folder, unix.W_OK|unix.X_OK)
	}
	return who.access(filepath.Dir(realFolder(g.folder)), unix.X_OK)
}

// give gives it to a user, where it is root's. Others may write to the folder, so nothing there is followed
// anywhere else.
func (g *gift) give(who *account) error {
	for _, name := range g.names {
		if err := who.giveOne(int(g.dir.Fd()), name); err != nil {
			return fmt.Errorf("give %s to %s: %w", filepath.Join(g.folder, name), who.name, err)
		}
	}
	if !g.whole {
		return nil
	}
	if err := g.dir.Chown(who.uid, who.gid); err != nil {
		return fmt.Errorf("give %s to %s: %w", g.folder, who.name, err)
	}
	return nil
}

// giveOne gives one regular file or socket of root's, which has no other name, to the user.
func (a *account) giveOne(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("stat", err)
	}
	kind := st.Mode & unix.S_IFMT
	if st.Uid != 0 || st.Nlink != 1 || kind != unix.S_IFREG && kind != unix.S_IFSOCK {
		return nil
	}
	return os.NewSyscallError("chown", unix.Fchownat(fd, "", a.uid, a.gid, unix.AT_EMPTY_PATH))
}

// access is access(2) by the rights that the user will have, for root. One thread has them meanwhile, and for
// files alone (setfsuid(2)), so that it can go back. Where it can't become that user nothing is known, and the
// answer is nil; that the user can write is looked at once more after all threads have become it.
func (a *account) access(path string, mode uint32) error {
	runtime.LockOSThread()
	groups, err := unix.Getgroups()
	if err == nil {
		err = unix.Setgroups(a.groups)
	}
	if err != nil {
		runtime.UnlockOSThread()
		return nil
	}
	gid, _ := unix.SetfsgidRetGid(a.gid) // neither has errors
	uid, _ := unix.SetfsuidRetUid(a.uid)
	if now, _ := unix.SetfsuidRetUid(-1); now == a.uid {
		err = unix.Faccessat(unix.AT_FDCWD, path, mode, unix.AT_EACCESS)
	}
	_, _ = unix.SetfsuidRetUid(uid)
	_, _ = unix.SetfsgidRetGid(gid)
	if unix.Setgroups(groups) == nil { // else the thread ends with the goroutine
		runtime.UnlockOSThread()
	}
	return err
}
