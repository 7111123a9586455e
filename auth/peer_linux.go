package auth

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// fewGroups is how many supplementary groups there is room for at first.
	fewGroups = 64
	// maxGroups is the kernel's own bound (NGROUPS_MAX, linux/limits.h).
	maxGroups = 65536
	// nameLife is how long a login name is remembered, so that not every request reads the password file.
	nameLife = time.Minute
	// maxUIDNames bounds how many are.
	maxUIDNames = 1024
)

// peers recognise the processes at the other ends of Unix sockets.
type peers struct {
	rules   []peerRule
	groups  bool // whether a rule asks for groups
	budgets *budgets
	names   userNames
	valid   func(ask func(now *Authenticator) bool) func() bool // shared.valid; nil: principals stay valid
}

// peerRule is what one [[unix]] says.
type peerRule struct {
	byGroup bool
	id      uint32 // of the user or the group
	grant   parsedGrant
}

// newPeers reads the rules. Names are looked up now. The errors are *SettingError.
func newPeers(rules []Peer, b *budgets) (*peers, []error) {
	p := &peers{budgets: b}
	var wrong []error
	type subject struct {
		byGroup bool
		id      uint32
	}
	there := map[subject]bool{}
	for i, r := range rules {
		key := fmt.Sprintf("unix[%d]", i)
		grant, errs := parseGrant(key, r.Grant)
		wrong = append(wrong, errs...)
		rule := peerRule{byGroup: r.Group != "", grant: grant}
		var err error
		switch {
		case (r.User == "") == (r.Group == ""):
			err = &SettingError{key + ".user", "either user or group is needed"}
		case rule.byGroup:
			p.groups = true
			if rule.id, err = lookupGroup(r.Group); err != nil {
				err = &SettingError{key + ".group", err.Error()}
			}
		default:
			if rule.id, err = lookupUser(r.User); err != nil {
				err = &SettingError{key + ".user", err.Error()}
			}
		}
		of := subject{rule.byGroup, rule.id}
		switch {
		case err != nil:
			wrong = append(wrong, err)
		case there[of] && of.byGroup:
			wrong = append(wrong, &SettingError{key + ".group", fmt.Sprintf("there are two [[unix]] of the group %s (%d), of which the first would count", r.Group, of.id)})
		case there[of]:
			wrong = append(wrong, &SettingError{key + ".user", fmt.Sprintf("there are two [[unix]] of the user %s (%d), of which the first would count", r.User, of.id)})
		default:
			there[of] = true
		}
		p.rules = append(p.rules, rule)
	}
	return p, wrong
}

// principal returns the process at the other end of a Unix socket as it was when it connected
// (SO_PEERCRED, unix(7)): root and the daemon's own user are admins, others what the first rule that fits
// says. nil is nobody.
func (p *peers) principal(c *net.UnixConn) (*Principal, error) {
	cred, err := peerCredentials(c)
	if err != nil {
		return nil, err
	}
	if isOwn(cred.Uid) {
		return NewPrincipal(Identity{Name: p.names.of(cred.Uid), Role: Admin, Via: ViaUnix}), nil
	}
	var groups []uint32
	if p.groups {
		if groups, err = peerGroups(c); err != nil {
			return nil, err
		}
		groups = append(groups, cred.Gid)
	}
	return p.principalOf(cred.Uid, groups)
}

// principalOf returns whom the first rule lets in that fits; nil is nobody.
func (p *peers) principalOf(uid uint32, groups []uint32) (*Principal, error) {
	grant, ok := p.grantOf(uid, groups)
	if !ok {
		return nil, nil
	}
	id := grant.identity(p.names.of(uid), ViaUnix, "", p.budgets)
	if p.valid != nil {
		id.Valid = p.valid(func(now *Authenticator) bool {
			again, ok := now.peers.grantOf(uid, groups)
			return ok && again.same(grant)
		})
	}
	return NewPrincipal(id), nil
}

// isOwn tells whether a user is root, or the daemon's at present.
func isOwn(uid uint32) bool { return uid == 0 || uid == uint32(os.Geteuid()) }

// grantOf returns what the first rule says that fits.
func (p *peers) grantOf(uid uint32, groups []uint32) (parsedGrant, bool) {
	for _, r := range p.rules {
		if !r.byGroup {
			if r.id == uid {
				return r.grant, true
			}
			continue
		}
		for _, g := range groups {
			if r.id == g {
				return r.grant, true
			}
		}
	}
	return parsedGrant{}, false
}

// peerCredentials returns process, user and group at the other end of a Unix socket.
func peerCredentials(c *net.UnixConn) (*unix.Ucred, error) {
	var cred *unix.Ucred
	err := control(c, func(fd int) (err error) {
		cred, err = unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("get peer credentials: %w", err)
	}
	return cred, nil
}

// peerGroups returns the supplementary groups at the other end of a Unix socket (SO_PEERGROUPS, since
// Linux 4.13).
func peerGroups(c *net.UnixConn) (groups []uint32, err error) {
	err = control(c, func(fd int) error {
		for room := fewGroups; ; room *= 2 {
			groups = make([]uint32, room)
			size := uint32(room) * 4
			// #nosec G103 -- x/sys has no call for a list
			_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
				uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
			switch {
			case errno == 0:
				groups = groups[:size/4]
				return nil
			case errno != unix.ERANGE || room >= maxGroups:
				return errno
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("get peer groups: %w", err)
	}
	return groups, nil
}

// control calls fn with a socket's descriptor.
func control(c *net.UnixConn, fn func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = fn(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// lookupUser returns the number of a local user, who may be given by it.
func lookupUser(name string) (uint32, error) {
	u, err := user.Lookup(name)
	if err == nil {
		return parseID(u.Uid)
	}
	if id, numErr := parseID(name); numErr == nil {
		return id, nil
	}
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		return 0, fmt.Errorf("there is no user %q here; getent passwd lists those there are, and one of a directory service is given by its number (id -u)", name)
	}
	return 0, err
}

// lookupGroup returns the number of a local group, which may be given by it.
func lookupGroup(name string) (uint32, error) {
	g, err := user.LookupGroup(name)
	if err == nil {
		return parseID(g.Gid)
	}
	if id, numErr := parseID(name); numErr == nil {
		return id, nil
	}
	var unknown user.UnknownGroupError
	if errors.As(err, &unknown) {
		return 0, fmt.Errorf("there is no group %q here; getent group lists those there are, and one of a directory service is given by its number", name)
	}
	return 0, err
}

// parseID reads the number of a user or group. The highest is none: to the kernel it means "leave it".
func parseID(text string) (uint32, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err == nil && id == 1<<32-1 {
		err = strconv.ErrRange
	}
	return uint32(id), err
}

// userNames remembers the login names of users for a while. The zero value is ready.
type userNames struct {
	mu    sync.Mutex
	names map[uint32]rememberedName
}

type rememberedName struct {
	name  string
	until time.Time
}

// of returns a user's login name.
func (n *userNames) of(uid uint32) string {
	now := time.Now()
	n.mu.Lock()
	known, ok := n.names[uid]
	n.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.name
	}
	name := userName(uid)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.names == nil || len(n.names) >= maxUIDNames {
		n.names = make(map[uint32]rememberedName)
	}
	n.names[uid] = rememberedName{name, now.Add(nameLife)}
	return name
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "uid " + id
}
