package conntrack

import (
	"context"
)

// Get returns one flow as it is now; ErrNotFound where there is none, or where the flow that has
// the key's tuple has another id than the key's. A key of an id alone costs a dump of the table,
// because the kernel finds flows by tuple only; ErrAmbiguous where several have it.
func (t *Table) Get(ctx context.Context, k Key) (Flow, error) {
	f, err := t.get(ctx, k)
	return f, opError("get flow", err)
}

func (t *Table) get(ctx context.Context, k Key) (Flow, error) {
	if k.isID() {
		return t.getByID(ctx, k.ID)
	}
	if err := k.check(); err != nil {
		return Flow{}, err
	}
	var (
		f   Flow
		dec decoder
	)
	err := t.roundTrip(ctx, msgGet, 0, k.family(), k.append, func(data []byte) error {
		return dec.decodeFlow(&f, data)
	})
	switch {
	case err != nil:
		return Flow{}, err
	case k.ID != 0 && f.ID != k.ID:
		return Flow{}, ErrNotFound
	}
	return f, nil
}

// GetMany is Get for many flows, many to a system call, and returns a flow or an error for each key.
// Every key needs a tuple, and ids aren't compared.
func (t *Table) GetMany(ctx context.Context, keys []Key) ([]Flow, []error) {
	flows, errs := t.getAll(ctx, keys)
	return flows, wrapAll("get flow", errs)
}

// getAll is get for many flows, each named by a tuple. The kernel finds a tuple of either direction;
// one in a zone of its own direction must be given as the direction that it is.
func (t *Table) getAll(ctx context.Context, keys []Key) ([]Flow, []error) {
	flows := make([]Flow, len(keys))
	var dec decoder
	errs := t.batchAnswers(ctx, len(keys), msgGet, 0, func(b []byte, i int) ([]byte, Family, error) {
		k := &keys[i]
		if err := k.check(); err != nil {
			return b, 0, err
		}
		return k.append(b), k.family(), nil
	}, func(i int, data []byte) error {
		return dec.decodeFlow(&flows[i], data)
	})
	return flows, errs
}

func (t *Table) getByID(ctx context.Context, id uint32) (Flow, error) {
	var found Flow
	n := 0
	err := t.list(ctx, Filter{}, listConfig{}, func(f *Flow) bool {
		if f.ID == id {
			found = *f
			n++
		}
		return true
	})
	switch {
	case err != nil:
		return Flow{}, err
	case n == 0:
		return Flow{}, ErrNotFound
	case n > 1:
		return Flow{}, ErrAmbiguous
	}
	return found, nil
}

// isID tells whether only the id is known.
func (k *Key) isID() bool { return k.ID != 0 && k.Orig.IsZero() && k.Reply.IsZero() }

// check refuses a key without a whole tuple.
func (k *Key) check() error {
	t := k.tuple()
	if !t.Src.IsValid() || !t.Dst.IsValid() {
		return ErrNoKey
	}
	return nil
}

// tuple returns the tuple that the flow is looked up by.
func (k *Key) tuple() *Tuple {
	if k.Orig.IsZero() {
		return &k.Reply
	}
	return &k.Orig
}

func (k *Key) family() Family { return k.tuple().Family() }

// append appends the attributes that name the flow to the kernel.
func (k *Key) append(b []byte) []byte {
	if k.Orig.IsZero() {
		b = appendTuple(b, ctaTupleReply, &k.Reply)
	} else {
		b = appendTuple(b, ctaTupleOrig, &k.Orig)
	}
	if k.Zone != 0 {
		b = appendBE16(b, ctaZone, k.Zone)
	}
	return b
}
