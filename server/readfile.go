package server

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// readFile returns what is in a file of at most so many bytes.
func readFile(name string, most int) ([]byte, fs.FileInfo, error) {
	f, fi, err := openRegular(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	// It may grow meanwhile.
	text, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err != nil {
		return nil, nil, err
	}
	if len(text) > most {
		return nil, nil, fmt.Errorf("%s has more than the %d bytes that are read", name, most)
	}
	return text, fi, nil
}

// openRegular opens a file for reading. What has no end, or waits for a writer as a pipe does, is refused;
// /dev/null is an empty file.
func openRegular(name string) (*os.File, fs.FileInfo, error) {
	// A device may do something when it is opened.
	fi, err := os.Stat(name)
	if err != nil {
		return nil, nil, err
	}
	if err := refuseIrregular(name, fi); err != nil {
		return nil, nil, err
	}
	// Another one may be there by now.
	f, err := os.OpenFile(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	if fi, err = f.Stat(); err == nil {
		err = refuseIrregular(name, fi)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

func refuseIrregular(name string, fi fs.FileInfo) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	null := ok && fi.Mode()&fs.ModeCharDevice != 0 && uint64(st.Rdev) == unix.Mkdev(1, 3)
	if fi.Mode().IsRegular() || null {
		return nil
	}
	return fmt.Errorf("%s is no regular file", name)
}
