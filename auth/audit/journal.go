package audit

import (
	"errors"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
)

// Identifier is the SYSLOG_IDENTIFIER of records in journald: journalctl -t ctd-audit -o cat.
const Identifier = "ctd-audit"

// journalPatience is how long a record waits for journald to take it.
const journalPatience = 2 * time.Second

// journalSink sends records to journald.
type journalSink struct {
	// sending has an element while one is being sent: a journald that hangs keeps it there, and what comes
	// after is refused at once rather than waiting too.
	sending chan struct{}
}

func openJournal() (*journalSink, error) {
	if !journal.Enabled() {
		return nil, ErrNoJournal
	}
	return &journalSink{sending: make(chan struct{}, 1)}, nil
}

var errJournalHangs = errors.New("journald doesn't take it")

func (j *journalSink) write(line []byte, r *Record) error {
	select {
	case j.sending <- struct{}{}:
	default: // writes come one at a time, so it is one that hangs
		return errJournalHangs
	}
	message, fields := strings.TrimSuffix(string(line), "\n"), journalFields(r)
	sent := make(chan error, 1)
	go func() {
		err := journal.Send(message, journal.PriNotice, fields)
		<-j.sending
		sent <- err
	}()
	select {
	case err := <-sent:
		return err
	case <-time.After(journalPatience):
		return errJournalHangs
	}
}

// journalFields are those by which journalctl finds a record; the line has the rest.
func journalFields(r *Record) map[string]string {
	fields := map[string]string{"SYSLOG_IDENTIFIER": Identifier}
	for name, value := range map[string]string{
		"CTD_EVENT": string(r.Event), "CTD_ID": r.ID, "CTD_PRINCIPAL": r.Principal, "CTD_VIA": r.Via,
		"CTD_FROM": r.From, "CTD_METHOD": r.Method, "CTD_OUTCOME": r.Outcome,
	} {
		if value != "" {
			fields[name] = cut(value, maxName)
		}
	}
	return fields
}

// try is sink's. One that hung may have been sent since.
func (j *journalSink) try() error {
	switch {
	case len(j.sending) > 0:
		return errJournalHangs
	case !journal.Enabled():
		return ErrNoJournal
	}
	return nil
}

func (*journalSink) reopen() error { return nil }

func (*journalSink) close() error { return nil }
