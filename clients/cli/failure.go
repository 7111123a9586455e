package cli

import (
	"fmt"

	"ctd/rpc/wire"
)

const (
	// maxNamed is how many entries are named of those that were refused for the same reason.
	maxNamed = 5
	// maxFailed is how many failures a result shows at most.
	maxFailed = 1000
)

// refusal is what the daemon says of one entry or of many, and the first of these.
type refusal struct {
	message, hint string
	names         []string
	count         int
}

// refusals are failures by what the daemon says of them, in the order in which they came.
type refusals struct {
	list  []*refusal
	byWhy map[[2]string]*refusal
	count int
}

// add adds a failure; the name is empty where it is no single entry's.
func (r *refusals) add(name, message, hint string) {
	why := [2]string{message, hint}
	one := r.byWhy[why]
	if one == nil {
		if r.byWhy == nil {
			r.byWhy = make(map[[2]string]*refusal)
		}
		one = &refusal{message: message, hint: hint}
		r.byWhy[why] = one
		r.list = append(r.list, one)
	}
	if one.count++; one.count <= maxNamed {
		one.names = append(one.names, name)
	}
	r.count++
}

// refused says what was refused: of each reason the first entries, how many more there are, and once
// what to do about it.
func (s *session) refused(r *refusals) {
	for _, one := range r.list {
		for i, name := range one.names {
			text, hint := one.message, ""
			if name != "" {
				text = name + ": " + text
			}
			if i == one.count-1 {
				hint = one.hint
			}
			s.complain(text, hint)
		}
		if more := one.count - len(one.names); more > 0 {
			text := fmt.Sprintf("and %d more", more)
			if r.count >= maxFailed {
				text = fmt.Sprintf("and %d more at least", more)
			}
			s.complain(text, one.hint)
		}
	}
}

// failures reports what the kernel refused of a change to many flows and returns the error that
// ends the command.
func (s *session) failures(failed []wire.Failure) error {
	var r refusals
	for i := range failed {
		f := &failed[i]
		name := ""
		if f.Flow.Orig != nil {
			src, dst := sides(f.Flow.Orig)
			name = fmt.Sprintf("%s %s -> %s", protocolCell(f.Flow.Protocol, f.Flow.ProtoNum), src, dst)
		}
		r.add(name, f.Message, f.Hint)
	}
	s.refused(&r)
	if len(failed) == 0 {
		return nil
	}
	return statusError(refusedExit(failed[0].Code))
}

// refusedExit returns the exit status where the daemon understood a call and refused a part of it:
// never that of usage, which says that nothing was done.
func refusedExit(code wire.Code) wire.Exit {
	if exit := code.Exit(); exit != wire.ExitUsage {
		return exit
	}
	return wire.ExitRefused
}

// partlyError is an error before which something was changed.
type partlyError struct{ error }

func (e partlyError) Unwrap() error { return e.error }

// partly marks an error before which something was changed.
func partly(err error, changed bool) error {
	if err == nil || !changed {
		return err
	}
	return partlyError{err}
}
