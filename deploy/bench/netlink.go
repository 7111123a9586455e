package main

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// From linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
const (
	nfnlSubsysCTNetlink = 1 // NFNL_SUBSYS_CTNETLINK
	ipctnlMsgCTGet      = 1 // IPCTNL_MSG_CT_GET
	sizeofNfgenmsg      = 4
)

// dump asks for the IPv4 and IPv6 table and returns how many entries came.
func dump(fd int) (n int, err error) {
	req := make([]byte, unix.SizeofNlMsghdr+sizeofNfgenmsg)
	binary.NativeEndian.PutUint32(req[0:], uint32(len(req)))
	binary.NativeEndian.PutUint16(req[4:], nfnlSubsysCTNetlink<<8|ipctnlMsgCTGet)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	binary.NativeEndian.PutUint32(req[8:], 1)
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("ask for the table: %w", err)
	}
	buf := make([]byte, 64<<10)
	for {
		size, err := unix.Read(fd, buf)
		if err != nil {
			return n, fmt.Errorf("receive: %w", err)
		}
		for b := buf[:size]; len(b) >= unix.SizeofNlMsghdr; {
			length := int(binary.NativeEndian.Uint32(b))
			if length < unix.SizeofNlMsghdr || length > len(b) {
				return n, fmt.Errorf("a message of %d bytes in %d", length, len(b))
			}
			switch binary.NativeEndian.Uint16(b[4:]) {
			case unix.NLMSG_DONE:
				return n, nil
			case unix.NLMSG_ERROR:
				errno := -int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:]))
				return n, fmt.Errorf("dump: %w", unix.Errno(errno))
			}
			n++
			b = b[min(len(b), (length+3)&^3):]
		}
	}
}
