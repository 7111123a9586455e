package helper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Messages and attributes of the kernel's user-space helpers (linux/netfilter/nfnetlink_cthelper.h).
// Numbers are in network order, names end with NUL.
const (
	cthelperNew = 0 // NFNL_MSG_CTHELPER_NEW
	cthelperDel = 2 // NFNL_MSG_CTHELPER_DEL

	cthName        = 1 // NFCTH_NAME
	cthTuple       = 2 // NFCTH_TUPLE
	cthQueueNum    = 3 // NFCTH_QUEUE_NUM
	cthPolicy      = 4 // NFCTH_POLICY
	cthPrivDataLen = 5 // NFCTH_PRIV_DATA_LEN
	cthStatus      = 6 // NFCTH_STATUS

	cthTupleL3 = 1 // NFCTH_TUPLE_L3PROTONUM, 16 bits
	cthTupleL4 = 2 // NFCTH_TUPLE_L4PROTONUM, 8 bits

	cthPolicySetNum = 1 // NFCTH_POLICY_SET_NUM
	cthPolicySet    = 2 // NFCTH_POLICY_SET, the first

	cthPolicyName          = 1 // NFCTH_POLICY_NAME
	cthPolicyExpectMax     = 2 // NFCTH_POLICY_EXPECT_MAX
	cthPolicyExpectTimeout = 3 // NFCTH_POLICY_EXPECT_TIMEOUT, in seconds

	cthStatusDisabled = 0 // NFCT_HELPER_STATUS_DISABLED
)

// The helper of our own, and how many expectations a connection may have at a time, for how long.
const (
	ownHelper              = "ctd-rtsp"
	ownHelperPolicy        = "rtsp"
	ownHelperExpectMax     = 64
	ownHelperExpectTimeout = 300 * time.Second
)

// registerHelper makes a helper of the kernel's that is ours, for TCP on IPv4 and IPv6, or sees to it
// that one which is there is as it should be. It takes Linux 3.6 with nfnetlink_cthelper, and
// CAP_NET_ADMIN in the initial user namespace: elsewhere the error is EINVAL or EPERM.
//
// Helpers are the kernel's, not a network namespace's. Daemons in several namespaces share this one.
//
// Its status is disabled: the kernel then leaves packets of its connections alone
// (nfnl_userspace_cthelper, net/netfilter/nfnetlink_cthelper.c), where it would otherwise queue them
// itself, behind address translation. Our rules queue them.
func registerHelper(table Table) error {
	err := cthelper(table, func(conn *netlink.Conn, family byte) error {
		err := sendCthelper(conn, cthelperNew, netlink.Create|netlink.Excl, family, append(ownPolicy(), number(cthPrivDataLen, 0))...)
		if errors.Is(err, unix.EEXIST) { // whose private data has the length that it has: the kernel takes none
			err = sendCthelper(conn, cthelperNew, 0, family, ownPolicy()...)
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("register the kernel helper %s: %w", ownHelper, err)
		return errors.Join(err, ignore(unregisterHelper(table), unix.EINVAL, unix.EPERM))
	}
	return nil
}

// ownPolicy returns what a helper has beside its name and protocol.
func ownPolicy() []netlink.Attribute {
	policy := marshal(text(cthPolicyName, ownHelperPolicy), number(cthPolicyExpectMax, ownHelperExpectMax),
		number(cthPolicyExpectTimeout, uint32(ownHelperExpectTimeout/time.Second)))
	return []netlink.Attribute{
		number(cthQueueNum, 0), // of no use while it is disabled
		nest(cthPolicy, marshal(number(cthPolicySetNum, 1), nest(cthPolicySet, policy))),
		number(cthStatus, cthStatusDisabled),
	}
}

// Rules that assign a helper hold it. The kernel lets go of deleted ones a moment later.
const (
	unregisterTries = 10
	unregisterPause = 50 * time.Millisecond
)

// unregisterHelper deletes our helper, which ends the expectations that were made with it. Where rules
// of others use it, of a daemon in another namespace mostly, it stays.
func unregisterHelper(table Table) error {
	return cthelper(table, func(conn *netlink.Conn, family byte) error {
		var err error
		for range unregisterTries {
			err = sendCthelper(conn, cthelperDel, 0, family)
			if !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(unregisterPause)
		}
		return ignore(err, unix.ENOENT, unix.EBUSY)
	})
}

// cthelper calls fn with a socket, for each family.
func cthelper(table Table, fn func(conn *netlink.Conn, family byte) error) error {
	conn, err := dial(table)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answerPatience)); err != nil {
		return err
	}
	for _, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		if err := fn(conn, family); err != nil {
			return err
		}
	}
	return nil
}

// sendCthelper sends a message about our helper of a family.
func sendCthelper(conn *netlink.Conn, typ int, flags netlink.HeaderFlags, family byte, attrs ...netlink.Attribute) error {
	tuple := marshal(netlink.Attribute{Type: cthTupleL3, Data: binary.BigEndian.AppendUint16(nil, uint16(family))},
		netlink.Attribute{Type: cthTupleL4, Data: []byte{unix.IPPROTO_TCP}})
	attrs = append([]netlink.Attribute{text(cthName, ownHelper), nest(cthTuple, tuple)}, attrs...)
	m := nfMessage(unix.NFNL_SUBSYS_CTHELPER, typ, flags|netlink.Acknowledge, unix.NFPROTO_UNSPEC, attrs...)
	_, err := conn.Execute(m)
	return err
}

// ignore returns an error unless it is one of some.
func ignore(err error, errnos ...unix.Errno) error {
	if is(err, errnos...) {
		return nil
	}
	return err
}
