package cut

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// TablePrefix is what the names of our nftables tables begin with: ctd_cut, and where several
// processes share a network namespace ctd_cut_2 and so on.
const TablePrefix = "ctd_cut"

// maxTables is how many processes may share a network namespace.
const maxTables = 8

// claim is a name for an nftables table that nobody else of ours has. It is held by an abstract Unix
// socket of that name (unix(7)) in the network namespace: it goes with the process, however that
// ends, so that whose names are free is dead. Anybody may take such a name; then it is not used.
type claim struct {
	name string
	free []string // the names that nobody has, the first of them ours
	fds  []int    // of free
}

func newClaim(table Table) (*claim, error) {
	c := &claim{}
	err := table.InNetNS(func() error {
		for i := range maxTables {
			name := TablePrefix
			if i > 0 {
				name = fmt.Sprintf("%s_%d", TablePrefix, i+1)
			}
			fd, err := bindName(name)
			if errors.Is(err, unix.EADDRINUSE) {
				continue
			}
			if err != nil {
				return err
			}
			c.free, c.fds = append(c.free, name), append(c.fds, fd)
		}
		return nil
	})
	if err == nil && len(c.free) == 0 {
		err = fmt.Errorf("%d other processes cut connections in this network namespace", maxTables)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	c.name = c.free[0]
	return c, nil
}

func bindName(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open Unix socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + name}); err != nil {
		return -1, errors.Join(fmt.Errorf("claim the name %s: %w", name, err), unix.Close(fd))
	}
	return fd, nil
}

// keepOne gives back all names but ours.
func (c *claim) keepOne() {
	for _, fd := range c.fds[1:] {
		_ = unix.Close(fd)
	}
	c.free, c.fds = c.free[:1], c.fds[:1]
}

func (c *claim) close() error {
	var errs []error
	for _, fd := range c.fds {
		errs = append(errs, unix.Close(fd))
	}
	c.fds = nil
	return errors.Join(errs...)
}
