package cut

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// TablePrefix is what the names of our nftables tables begin with: ctd_cut, and where several
// processes share a network namespace ctd_cut_2 and so on.
const TablePrefix = "ctd_cut"

// maxTables is how many processes may share a network namespace, for all of them to have tables that
// the next one deletes if they are killed.
const maxTables = 8

// claim is a name for an nftables table that nobody else of ours has. It is held by an abstract Unix
// socket of that name (unix(7)) in the network namespace: it goes with the process, however that
// ends, so that whose names are free is dead.
//
// Anybody may take such names. Where all are taken, the table gets a name of this process alone.
type claim struct {
	name string
	fd   int // -1 where the name isn't held
}

// tableName returns the name with a number, from 0 on.
func tableName(i int) string {
	if i == 0 {
		return TablePrefix
	}
	return fmt.Sprintf("%s_%d", TablePrefix, i+1)
}

func newClaim(table Table) (*claim, error) {
	c := &claim{name: fmt.Sprintf("%s_pid%d", TablePrefix, os.Getpid()), fd: -1}
	for i := range maxTables {
		fd, err := bindName(table, tableName(i))
		switch {
		case errors.Is(err, unix.EADDRINUSE):
			continue
		case err != nil:
			return nil, err
		}
		c.name, c.fd = tableName(i), fd
		break
	}
	return c, nil
}

// eachDead calls fn with each name that nobody lives for, and with ours. Meanwhile the name is held, so
// that nobody takes it; who tries just then takes another.
func (c *claim) eachDead(table Table, fn func(name string) error) error {
	errs := []error{fn(c.name)}
	for i := range maxTables {
		name := tableName(i)
		if name == c.name {
			continue
		}
		fd, err := bindName(table, name)
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err == nil {
			err = errors.Join(fn(name), unix.Close(fd))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// bindName holds a name in the network namespace.
func bindName(table Table, name string) (fd int, err error) {
	err = table.InNetNS(func() (err error) {
		fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("open Unix socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + name}); err != nil {
		return -1, errors.Join(fmt.Errorf("claim the name %s: %w", name, err), unix.Close(fd))
	}
	return fd, nil
}

func (c *claim) close() error {
	if c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1
	return unix.Close(fd)
}
