package helper

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// expression is a part of a rule, as it is sent in a table of a family (NFPROTO_*).
type expression func(family byte) ([]byte, error)

func known(e expr.Any) expression {
	return func(family byte) ([]byte, error) { return expr.Marshal(family, e) }
}

func one(e expr.Any) []expression { return []expression{known(e)} }

func join(parts ...[]expression) []expression { return slices.Concat(parts...) }

// register is the one that is used.
const register = unix.NFT_REG_1

// Directions of a connection (enum ip_conntrack_dir, linux/netfilter/nf_conntrack_tuple_common.h).
const (
	dirOriginal = 0 // IP_CT_DIR_ORIGINAL
	dirReply    = 1 // IP_CT_DIR_REPLY
)

// tuplePort loads a port of one of the connection's tuples. The library sends the direction in four
// bytes, of which the kernel reads the first: it would always be the original one.
func tuplePort(key expr.CtKey, direction byte) expression {
	return func(byte) ([]byte, error) {
		data := marshal(number(unix.NFTA_CT_KEY, uint32(key)), netlink.Attribute{Type: unix.NFTA_CT_DIRECTION, Data: []byte{direction}},
			number(unix.NFTA_CT_DREG, register))
		return marshal(text(unix.NFTA_EXPR_NAME, "ct"), nest(unix.NFTA_EXPR_DATA, data)), nil
	}
}

func meta(key expr.MetaKey) []expression { return one(&expr.Meta{Key: key, Register: register}) }

func tcp() []expression { return join(meta(expr.MetaKeyL4PROTO), equal([]byte{unix.IPPROTO_TCP})) }

// bits loads some bits of a number of the connection.
func bits(key expr.CtKey, mask uint32) []expression {
	return join(one(&expr.Ct{Key: key, Register: register}), one(&expr.Bitwise{
		SourceRegister: register, DestRegister: register, Len: 4,
		Mask: binary.NativeEndian.AppendUint32(nil, mask), Xor: make([]byte, 4),
	}))
}

func equal(data []byte) []expression {
	return one(&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data})
}

func unequal(data []byte) []expression {
	return one(&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: data})
}

// pass leaves the packet to the chains that follow.
func pass() []expression { return one(&expr.Verdict{Kind: expr.VerdictReturn}) }

// interfaceName is a name as it stands in the register, IFNAMSIZ bytes.
func interfaceName(name string) []byte {
	return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)
}
