package auth

import (
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
)

// peer returns the process at the other end of a Unix socket as it was when it connected
// (SO_PEERCRED, unix(7)): root and the daemon's own user are admins, anybody else is nobody: nil.
func peer(c *net.UnixConn) (*Principal, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("get peer credentials: %w", err)
	}
	var (
		cred    *unix.Ucred
		credErr error
	)
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, fmt.Errorf("get peer credentials: %w", err)
	}
	if credErr != nil {
		return nil, fmt.Errorf("get peer credentials: %w", credErr)
	}
	return peerPrincipal(cred.Uid, uint32(os.Geteuid())), nil
}

// peerPrincipal is the rule of peer.
func peerPrincipal(uid, own uint32) *Principal {
	if uid != 0 && uid != own {
		return nil
	}
	return NewPrincipal(Identity{Name: userName(uid), Role: Admin, Via: ViaUnix})
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "uid " + id
}
