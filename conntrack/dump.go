package conntrack

// dump is the answer to a request for a dump, as it comes in.
type dump struct {
	seq     uint32
	fn      func(m *message, data []byte) (more bool, err error) // is given each entry
	ended   bool                                                 // the kernel has said that nothing follows
	stopped bool                                                 // fn wants no more
}

// datagram works off one datagram. An error means that what came so far is no whole list.
func (d *dump) datagram(b []byte) error {
	for len(b) > 0 {
		m, rest, err := nextMessage(b)
		if err != nil {
			return err
		}
		b = rest
		if m.seq != d.seq {
			continue // of a request before
		}
		if m.typ == nlmsgDone || m.typ == nlmsgError {
			d.ended = true
		}
		switch {
		case m.flags&flagDumpIntr != 0:
			return ErrInterrupted
		case d.ended:
			return m.errno()
		}
		data, err := m.attributes()
		if err != nil {
			return err
		}
		more, err := d.fn(&m, data)
		if err != nil {
			return err
		}
		if !more {
			d.stopped = true
			return nil
		}
	}
	return nil
}
