package conntrack

// aheadBuffers is how many datagrams of a dump are held: one that is worked on, one that comes
// in, and some for when either side stalls. The kernel fills at most 32 KiB each.
const aheadBuffers = 4

// ahead receives the datagrams of a dump in the background. Nearly all of a dump's time is the
// kernel's, spent inside recvfrom(2): meanwhile the datagram before is worked on.
type ahead struct {
	conn       *conn
	full, free chan []byte
	quit       chan struct{}
	current    []byte // goes back to free at the next call of next
	err        error  // why full was closed; read after that
}

// readAhead begins to receive the answer to the request for a dump that was sent last. Until stop
// has returned nobody else may use c's socket.
func readAhead(c *conn) *ahead {
	a := &ahead{
		conn: c, full: make(chan []byte, aheadBuffers), free: make(chan []byte, aheadBuffers),
		quit: make(chan struct{}),
	}
	a.free <- c.buf
	for range aheadBuffers - 1 {
		a.free <- nil // made when it is needed: most dumps are short
	}
	go a.run(c.seq)
	return a
}

// run receives until the dump's end, an error, or stop.
func (a *ahead) run(seq uint32) {
	defer close(a.full)
	for {
		var buf []byte
		select {
		case buf = <-a.free:
		case <-a.quit:
			return
		}
		if buf == nil {
			buf = make([]byte, receiveBuffer)
		}
		n, err := a.conn.receiveInto(buf)
		if err != nil {
			a.err = err
			return
		}
		a.full <- buf[:n]
		if endsDump(buf[:n], seq) {
			return
		}
	}
}

// next returns the next datagram, which is good until the call after.
func (a *ahead) next() ([]byte, error) {
	if a.current != nil {
		a.free <- a.current[:cap(a.current)]
		a.current = nil
	}
	datagram, ok := <-a.full
	if !ok {
		if a.err == nil {
			return nil, errMalformed // the dump had ended, and whoever reads it did not see that
		}
		return nil, a.err
	}
	a.current = datagram
	return datagram, nil
}

// stop ends the receiving, in the middle of a dump too, and returns when it has ended.
func (a *ahead) stop() {
	close(a.quit)
	for range a.full {
		// What has been received is of no use, but it may hold up run.
	}
}

// endsDump tells whether a datagram holds the message that ends the dump with this number.
func endsDump(datagram []byte, seq uint32) bool {
	for len(datagram) > 0 {
		m, rest, err := nextMessage(datagram)
		if err != nil {
			return true // whoever reads it finds the same
		}
		if m.seq == seq && (m.typ == nlmsgDone || m.typ == nlmsgError) {
			return true
		}
		datagram = rest
	}
	return false
}
