package conntrack

import (
	"context"
	"errors"
)

// trial is a table in memory, of the flows of a real one that an import may meet.
type trial struct {
	at map[place]*Flow
}

// trial returns a copy of what is in the way of the flows, and of their masters. A flow that can't be
// looked up has failed.
func (im *importing) trial(ctx context.Context, t *Table) *trial {
	pending := im.pending()
	var keys []Key
	var of []int // whose key it is
	for _, i := range pending {
		f := &im.flows[i]
		keys, of = append(keys, Key{Orig: f.Orig, Zone: f.Zone}, Key{Reply: f.Reply, Zone: f.Zone}), append(of, i, i)
		if !f.Master.IsZero() {
			keys, of = append(keys, f.MasterKey()), append(of, i)
		}
	}
	flows, errs := t.getAll(ctx, keys)
	tr := &trial{at: make(map[place]*Flow, 2*len(flows))}
	for n, err := range errs {
		switch {
		case err == nil:
			tr.put(&flows[n])
		case !errors.Is(err, ErrNotFound):
			im.results[of[n]].Err = err
		}
	}
	return tr
}

func (t *trial) put(f *Flow) {
	for _, p := range f.places() {
		t.at[p] = f
	}
}

// insertAll answers as the kernel does, which looks first for the original tuple, then for the
// master, then for the reply's tuple.
func (t *trial) insertAll(_ context.Context, flows []*Flow) []error {
	errs := make([]error, len(flows))
	for i, f := range flows {
		places, master := f.places(), f.MasterKey()
		switch {
		case t.at[places[0]] != nil:
			errs[i] = ErrExists
		case !f.Master.IsZero() && t.at[master.place()] == nil:
			errs[i] = ErrNotFound
		case t.at[places[1]] != nil:
			errs[i] = ErrExists
		default:
			t.put(f)
		}
	}
	return errs
}

func (t *trial) getAll(_ context.Context, keys []Key) ([]Flow, []error) {
	flows, errs := make([]Flow, len(keys)), make([]error, len(keys))
	for i := range keys {
		if f := t.at[keys[i].place()]; f != nil {
			flows[i] = *f
		} else {
			errs[i] = ErrNotFound
		}
	}
	return flows, errs
}

func (t *trial) supplant(_ context.Context, old []Flow, f Flow) error {
	for i := range old {
		for _, p := range old[i].places() {
			delete(t.at, p)
		}
	}
	t.put(&f)
	return nil
}
