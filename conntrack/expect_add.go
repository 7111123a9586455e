package conntrack

import (
	"context"
	"fmt"
)

// AddExpect makes an expectation as CreateExpect does, with two requests however many there are. It
// doesn't see when the kernel drops an older expectation of the master's to keep to the helper's limit:
// it is for callers that count, and are the only ones to expect anything of that master.
func (t *Table) AddExpect(ctx context.Context, e Expect) (Expect, error) {
	made, err := t.addExpect(ctx, e)
	return made, opError("create expectation", err)
}

func (t *Table) addExpect(ctx context.Context, e Expect) (Expect, error) {
	e, err := CheckCreateExpect(e)
	if err != nil {
		return Expect{}, err
	}
	family := e.Tuple.Family()
	if err := t.roundTrip(ctx, msgExpNew, flagCreate|flagExcl|flagAck, family, e.append, nil); err != nil {
		return Expect{}, err
	}
	if e.Timeout != 0 { // which the kernel ignores of a new one
		if err := t.roundTrip(ctx, msgExpNew, flagAck, family, e.append, nil); err != nil {
			return Expect{}, also(err, t.KillExpects(ctx, []Expect{e})[0])
		}
	}
	var made Expect
	var dec decoder
	err = t.roundTrip(ctx, msgExpGet, 0, family, func(b []byte) []byte { return e.appendKey(b, e.Zone) }, func(data []byte) error {
		return dec.decodeExpect(&made, data)
	})
	if err == nil && (made.Tuple != e.Tuple || made.Master != e.Master) {
		err = ErrNotFound // one that overlaps stands before it
	}
	if err != nil {
		return Expect{}, also(fmt.Errorf("read it back: %w", err), t.KillExpects(ctx, []Expect{e})[0])
	}
	made.Zone = e.Zone
	return made, nil
}
