package conntracktest

import (
	"fmt"
	"strings"
)

// FTPControl opens a control connection to port 21 and announces by PORT (IPv4) or EPRT (IPv6) that the
// client listens on dataPort, so that the router's ftp helper expects a connection to it. It
// assigns the helper itself.
func (tp *Topology) FTPControl(p Path, dataPort uint16) *Conn {
	tp.t.Helper()
	p.Port = 21
	tp.Helper("tcp dport 21", "ftp")
	c := tp.TCP(p)
	c.Exchange("USER ctd\r\n")
	addr := tp.ClientAddr(p.V6)
	cmd := fmt.Sprintf("EPRT |2|%s|%d|\r\n", addr, dataPort)
	if !p.V6 {
		cmd = fmt.Sprintf("PORT %s,%d,%d\r\n", strings.ReplaceAll(addr.String(), ".", ","), dataPort>>8, dataPort&0xff)
	}
	if err := send(c.Client, c.Server, cmd, Patience()); err != nil {
		tp.t.Fatal(err)
	}
	return c
}

// FTPData opens the connection from the server that FTPControl announced.
func (tp *Topology) FTPData(p Path, dataPort uint16) *Conn {
	tp.t.Helper()
	p.Back, p.Port, p.SrcPort = true, dataPort, 20
	return tp.TCP(p)
}
