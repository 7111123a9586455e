package server

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// account is a user to become.
type account struct {
	name     string
	uid, gid int
	groups   []int // supplementary
}

// accountOf returns the user that run_as names, by name or number; nil where it is empty.
func accountOf(runAs string) (*account, error) {
	if runAs == "" {
		return nil, nil
	}
	u, err := user.Lookup(runAs)
	if err != nil {
		if byID, idErr := user.LookupId(runAs); idErr == nil {
			u, err = byID, nil
		}
	}
	if err != nil {
		return nil, &hintError{fmt.Errorf("run as %s: %w", runAs, err), "make the user, e.g. useradd --system --no-create-home " + runAs + ", or set run_as to another"}
	}
	a := &account{name: u.Username}
	if a.uid, err = strconv.Atoi(u.Uid); err == nil {
		a.gid, err = strconv.Atoi(u.Gid)
	}
	if err != nil {
		return nil, fmt.Errorf("run as %s: %w", runAs, err)
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("run as %s: list the groups: %w", runAs, err)
	}
	for _, id := range ids {
		if gid, err := strconv.Atoi(id); err == nil {
			a.groups = append(a.groups, gid)
		}
	}
	return a, nil
}

// capabilities are those that the daemon needs once all is open: CAP_NET_ADMIN for netlink, nftables and
// the packet queue, CAP_NET_RAW to tell silent ends that they were cut, and CAP_SYS_ADMIN to enter the
// namespace, where it manages one that isn't its own.
func (c *Config) capabilities() []cap.Value {
	keep := []cap.Value{cap.NET_ADMIN, cap.NET_RAW}
	if c.NetNS != "" {
		keep = append(keep, cap.SYS_ADMIN)
	}
	return keep
}

// leastPrivilege gives what the daemon must still write to the user that cfg says it runs as, becomes that
// user, and lets go of all that it needs no more. It is called once everything is open.
func leastPrivilege(cfg *Config, logger *slog.Logger) error {
	who, err := accountOf(cfg.RunAs)
	if err != nil {
		return err
	}
	root := os.Geteuid() == 0
	if root && who != nil && who.uid != 0 {
		if err := giveFiles(cfg, who); err != nil {
			return err
		}
	}
	if err := drop(who, cfg.capabilities()); err != nil {
		return err
	}
	if !root {
		return nil // who was never more than that knows what it may write to
	}
	// Without CAP_DAC_OVERRIDE root too is only one of the users.
	for _, place := range writable(cfg) {
		err := unix.Faccessat(unix.AT_FDCWD, place.folder, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
		switch {
		case err == nil || errors.Is(err, unix.ENOENT):
		case who != nil:
			return who.cantWrite(place.folder, err)
		default:
			logger.Warn("a folder can't be written to: the daemon let go of the capability to write where others own",
				"folder", place.folder, "hint", "chown root "+place.folder+", or set run_as to its owner")
		}
	}
	return nil
}

// drop becomes a user (nil: stay), and keeps of the capabilities none but those given, for good: neither
// this process nor what it starts can get any other. It holds for all threads.
func drop(who *account, keep []cap.Value) error {
	have := cap.GetProc()
	// Only who may change the bounding set; to others no_new_privs closes the same way.
	if may, err := have.GetFlag(cap.Effective, cap.SETPCAP); err == nil && may {
		if err := cap.DropBound(others(keep)...); err != nil {
			return fmt.Errorf("reduce the bounding set: %w", err)
		}
	}
	if err := cap.ResetAmbient(); err != nil {
		return fmt.Errorf("empty the ambient set: %w", err)
	}
	if who != nil && who.uid != os.Geteuid() {
		if err := become(who); err != nil {
			return err
		}
	}
	left, more := cap.NewSet(), exceeds(have, keep)
	for _, c := range keep {
		if may, err := have.GetFlag(cap.Permitted, c); err != nil || !may {
			continue // what wasn't there can't be kept; server.doctor says so
		}
		if err := left.SetFlag(cap.Permitted, true, c); err != nil {
			return fmt.Errorf("keep %s: %w", c, err)
		}
		if err := left.SetFlag(cap.Effective, true, c); err != nil {
			return fmt.Errorf("keep %s: %w", c, err)
		}
	}
	// A filter of system calls may keep capset(2) from who has nothing to let go of.
	if err := left.SetProc(); err != nil && more {
		return fmt.Errorf("let go of capabilities: %w", err)
	}
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	// Nobody else of this user's may look into the process, nor does it leave its memory in a file.
	if _, err := cap.Prctlw(unix.PR_SET_DUMPABLE, 0); err != nil {
		return fmt.Errorf("set not dumpable: %w", err)
	}
	return nil
}

// exceeds tells whether a set permits more than some capabilities.
func exceeds(have *cap.Set, some []cap.Value) bool {
	for _, c := range others(some) {
		if may, err := have.GetFlag(cap.Permitted, c); err != nil || may {
			return true
		}
	}
	return false
}

// become changes user and groups, and keeps the permitted capabilities.
func become(who *account) error {
	err := cap.SetGroups(who.gid, who.groups...)
	if err == nil {
		err = cap.SetUID(who.uid)
	}
	if err != nil {
		return &hintError{fmt.Errorf("become the user %s: %w", who.name, err), "only root can become another user: start the daemon as root, or as that user with the capabilities, and leave run_as out"}
	}
	if got := os.Geteuid(); got != who.uid {
		return fmt.Errorf("become the user %s: still user %d", who.name, got)
	}
	return nil
}

// others returns the capabilities that the kernel knows, without some.
func others(some []cap.Value) (all []cap.Value) {
	for c := cap.Value(0); c < cap.MaxBits(); c++ {
		kept := false
		for _, s := range some {
			kept = kept || s == c
		}
		if !kept {
			all = append(all, c)
		}
	}
	return all
}
