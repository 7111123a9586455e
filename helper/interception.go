package helper

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"ctd/conntrack/claim"
)

// OtherHelperError says that the namespace has a helper already, of another process.
type OtherHelperError struct {
	PID int // 0 where it isn't known, as of a process in a PID namespace beside this one
}

func (e *OtherHelperError) Error() string {
	who := "another process"
	if e.PID > 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return who + " is the RTSP helper of this network namespace: it holds the name " + TableName
}

// errNoQueue says that the kernel takes none of the ways to queue packets.
var errNoQueue = errors.New("the kernel's nf_tables can't queue packets (`ctd helper rules` prints rules to install by hand)")

// flavour is a way in which the rules can be installed.
type flavour struct {
	name     string // as Status has it
	families []nftables.TableFamily
	queue    func(rules) expression
}

// The flavours, the best first. Tables of family inet are one for IPv4 and IPv6.
var flavours = []flavour{
	{"nft", []nftables.TableFamily{nftables.TableFamilyINet}, rules.nftQueue},
	{"xtables", []nftables.TableFamily{nftables.TableFamilyINet}, rules.xtQueue},
	{"xtables", []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6}, rules.xtQueue},
}

// flavourManual is the name where nothing is installed.
const flavourManual = "manual"

// ownFamilies are those of all tables that are ours by their name.
var ownFamilies = []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyIPv4, nftables.TableFamilyIPv6}

// interception are rules that are installed. Its methods may be called from many goroutines.
type interception struct {
	table  Table
	rules  rules
	logger *slog.Logger
	claim  *claim.Claim

	mu     sync.Mutex
	how    flavour
	whole  []byte // the tables as the kernel shows them
	closed bool
}

// install makes the rules, and deletes those of a predecessor that was killed. Where the rules are
// the administrator's it does only the latter. The error is an OtherHelperError where another process
// has rules here, and errNoQueue where the kernel can't have any.
func install(table Table, r rules, logger *slog.Logger) (*interception, error) {
	i := &interception{table: table, rules: r, logger: logger, how: flavour{name: flavourManual}}
	var err error
	if i.claim, err = claimTable(table, logger); err != nil {
		return nil, err
	}
	if err := i.begin(); err != nil {
		return nil, errors.Join(err, i.close()) // close: the tables may be there and not have been read
	}
	return i, nil
}

// claimTries is how often the name is tried that was taken and then had nobody.
const claimTries = 3

// claimTable claims the table's name. Where a stranger has it, who can't have rules, the helper goes on
// without.
func claimTable(table Table, logger *slog.Logger) (*claim.Claim, error) {
	for range claimTries {
		c, err := claim.Take(table, TableName, 1)
		if err != nil || c.Held() {
			return c, err
		}
		holder, held, err := claim.HolderOf(table, TableName)
		switch {
		case err != nil:
			return nil, err
		case held && !holder.Stranger:
			return nil, &OtherHelperError{PID: holder.PID}
		case held:
			logger.Warn("a stranger holds the name by which the RTSP helpers of a network namespace know each other; this one goes on without",
				"name", "@"+TableName, "holder", holder)
			return c, nil
		}
	}
	return nil, &OtherHelperError{}
}

// Clear deletes the rules that a helper left behind whose process was killed, for a process that runs
// none. It leaves them alone while anybody holds their name.
func Clear(table Table, logger *slog.Logger) error {
	c, err := claim.Take(table, TableName, 1)
	if err != nil || !c.Held() {
		return err
	}
	i := &interception{table: table, logger: logger, claim: c}
	return errors.Join(i.clear(), c.Close())
}

// clear deletes what has our name.
func (i *interception) clear() error {
	found, err := i.remove(ownFamilies)
	if len(found) > 0 {
		i.logger.Info("deleted nftables tables that were left behind", "table", TableName, "families", names(found))
	}
	return err
}

func (i *interception) begin() error {
	err := i.clear()
	if i.rules.manual {
		if err != nil { // where the administrator's rules are those of iptables, there may be no nf_tables
			i.logger.Debug("looked for nftables tables", "error", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if i.isThere(manualTable) {
		i.logger.Warn("packets are queued twice: there are rules that the administrator installed for a helper without its own", "table", manualTable)
	}
	return i.choose()
}

// choose installs the rules in the first flavour that the kernel takes.
func (i *interception) choose() error {
	var refused []error
	for _, f := range flavours {
		i.how = f
		err := i.make()
		if err == nil {
			i.logger.Info("installed rules that queue RTSP", "table", TableName, "flavour", f.name, "families", names(i.families()),
				"queue", i.rules.queue, "kernel_helper", i.rules.helper)
			return nil
		}
		// What nf_tables answers to an expression or a target that isn't there.
		if !is(err, unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EINVAL) {
			return err
		}
		refused = append(refused, fmt.Errorf("%s in %v: %w", f.name, names(i.families()), err))
	}
	i.how = flavour{}
	return fmt.Errorf("%w: %w", errNoQueue, errors.Join(refused...))
}

// flavour returns what the rules are made of: "nft", "xtables" or "manual".
func (i *interception) flavour() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.how.name
}

// intact tells whether the rules are still there, as they were made. Where they are the
// administrator's, that isn't known: it is true.
func (i *interception) intact() (bool, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed || i.rules.manual {
		return true, nil
	}
	now, err := i.read()
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return bytes.Equal(now, i.whole), err
}

// restore makes the rules again, in the place of what is left of them.
func (i *interception) restore() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed || i.rules.manual {
		return nil
	}
	return i.make()
}

// close deletes the rules, and lets another process have its own. It may be called again.
func (i *interception) close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil
	}
	i.closed = true
	var err error
	if !i.rules.manual {
		_, err = i.remove(i.families())
	}
	return errors.Join(err, i.claim.Close())
}

// families returns the families of the tables: of those that are for one protocol, the configured
// ones.
func (i *interception) families() []nftables.TableFamily {
	var families []nftables.TableFamily
	for _, f := range i.how.families {
		own := func(proto byte) bool { return proto == byte(f) }
		if f == nftables.TableFamilyINet || slices.ContainsFunc(i.rules.protos(), own) {
			families = append(families, f)
		}
	}
	return families
}

// make makes the tables anew in one transaction, so that no packet finds half of them.
func (i *interception) make() error {
	var t transaction
	for _, family := range i.families() {
		t.addTable(family) // so that there is one to delete
		t.deleteTable(family)
		t.addTable(family)
		for _, s := range i.rules.sets() {
			t.addSet(family, s)
		}
		if i.rules.helper != "" {
			t.addHelper(family, i.rules.helper)
		}
		for _, c := range i.rules.chains(i.how.queue(i.rules)) {
			t.addChain(family, c)
		}
	}
	if err := t.send(i.table); err != nil {
		return fmt.Errorf("make nftables table %s: %w", TableName, err)
	}
	var err error
	i.whole, err = i.read()
	return err
}

// remove deletes the tables of some families, and returns those that there were.
func (i *interception) remove(families []nftables.TableFamily) (found []nftables.TableFamily, err error) {
	var errs []error
	for _, family := range families {
		var t transaction
		t.deleteTable(family)
		switch err := t.send(i.table); {
		case err == nil:
			found = append(found, family)
		case !errors.Is(err, unix.ENOENT):
			errs = append(errs, fmt.Errorf("delete nftables table %s %s: %w", familyNames[family], TableName, err))
		}
	}
	return found, errors.Join(errs...)
}

func is(err error, errnos ...unix.Errno) bool {
	return slices.ContainsFunc(errnos, func(errno unix.Errno) bool { return errors.Is(err, errno) })
}

var familyNames = map[nftables.TableFamily]string{
	nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
}

func names(families []nftables.TableFamily) []string {
	var names []string
	for _, f := range families {
		names = append(names, familyNames[f])
	}
	return names
}
