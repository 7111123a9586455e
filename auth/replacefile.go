package auth

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unixStat is what the kernel says of a file.
type unixStat = syscall.Stat_t

// lockWait is how long another writer of the same file is waited for.
const lockWait = 5 * time.Second

// errLocked says that somebody else writes the same file.
var errLocked = errors.New("another program is writing there; try again")

// ownerOf returns the user whose a file or folder is.
func ownerOf(fi fs.FileInfo) uint32 {
	if sys, ok := fi.Sys().(*unixStat); ok {
		return sys.Uid
	}
	return 0
}

// lock takes the lock (flock(2)) of an open file or folder; closing it gives it back.
func lock(f *os.File) error {
	for end := time.Now().Add(lockWait); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: %w", f.Name(), errLocked)
		}
	}
}

// folder is an open folder. What is done in it can't be led elsewhere by who may rename what is above.
type folder struct {
	*os.Root
	file *os.File // the folder itself
}

func openFolder(path string) (*folder, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	file, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	return &folder{root, file}, nil
}

func (d *folder) close() {
	d.file.Close()
	d.Close()
}

// open opens a regular file of the folder.
func (d *folder) open(name string, flags int) (*os.File, error) {
	f, err := d.OpenFile(name, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return regular(f)
}

// read reads a file of the folder that nobody else may write; nil where there is none.
func (d *folder) read(name string) ([]byte, error) {
	f, err := d.open(name, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	dir, err := d.file.Stat()
	if err != nil {
		return nil, err
	}
	// What others wrote doesn't become ours by being written anew.
	if err := guarded(fi, dir); err != nil {
		return nil, err
	}
	text, _, err := readOpen(f)
	return text, err
}

// readInFolder reads a file as updateFile does; nil where there is none.
func readInFolder(path string) ([]byte, error) {
	d, err := openFolder(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.close()
	text, err := d.read(filepath.Base(path))
	return text, inFile(path, err)
}

// replace puts text in the place of a file, whole or not at all, as a user's own and with a mode. Who may
// not give files away gets an error, unless they are that user.
func (d *folder) replace(name string, text []byte, uid, gid uint32, mode fs.FileMode) (err error) {
	temp := "." + name + "-" + rand.Text()
	f, err := d.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, tokenFileMode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			_ = d.Remove(temp)
		}
	}()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if sys, ok := fi.Sys().(*unixStat); !ok || sys.Uid != uid || sys.Gid != gid {
		if err = f.Chown(int(uid), int(gid)); err != nil {
			return err
		}
	}
	if err = f.Chmod(mode); err != nil { // after Chown, which takes bits away
		return err
	}
	if _, err = f.Write(text); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return d.Rename(temp, name)
}

// updateFile replaces what is in a file by what change makes of it, while nobody else does so; text is
// nil where there is no such file. The file is of mode 0600 and its folder's owner's, so that a daemon
// that runs as its own user reads what root wrote. Where change returns nil, nothing is written.
func updateFile(path string, change func(text []byte) ([]byte, error)) error {
	d, err := openFolder(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.close()
	if err := lock(d.file); err != nil {
		return err
	}
	text, err := d.read(filepath.Base(path))
	if err != nil {
		return inFile(path, err)
	}
	if text, err = change(text); err != nil || text == nil {
		return err
	}
	fi, err := d.file.Stat()
	if err != nil {
		return err
	}
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	if sys, ok := fi.Sys().(*unixStat); ok && uid == 0 {
		uid, gid = sys.Uid, sys.Gid
	}
	return d.replace(filepath.Base(path), text, uid, gid, tokenFileMode)
}
