package cli

import (
	"fmt"

	"ctd/rpc/wire"
)

type doctorCmd struct {
	Check bool `help:"Exit with 6 where a finding is a warning or an error."`
}

func (doctorCmd) Help() string {
	return `Each finding stands with the command that mends it. The exit status is 0 whatever it finds;
with --check it is 6 where a finding is a warning or an error.

Examples:

  ctd doctor
  ctd doctor -o json`
}

func (d *doctorCmd) Run(s *session) error {
	if err := s.only("table", "json", "jsonl"); err != nil {
		return err
	}
	var r wire.DoctorResult
	printed, err := s.call("server.doctor", wire.Empty{}, &r)
	if err != nil {
		return err
	}
	if !printed {
		if err := d.print(s, &r); err != nil {
			return err
		}
	}
	if d.Check && !r.Healthy {
		return statusError(wire.ExitOther)
	}
	return nil
}

func (d *doctorCmd) print(s *session, r *wire.DoctorResult) error {
	p := s.paint(s.o.Stdout)
	for _, f := range r.Findings {
		if s.g.Output == "jsonl" {
			if err := s.encode(f); err != nil {
				return err
			}
			continue
		}
		severity := fmt.Sprintf("%-7s", f.Severity)
		switch f.Severity {
		case "ok":
			severity = p.green(severity)
		case "warning":
			severity = p.yellow(severity)
		case "error":
			severity = p.red(severity)
		}
		if _, err := fmt.Fprintf(s.out, "%s  %s: %s\n", severity, oneLine(f.Check), oneLine(f.Message)); err != nil {
			return err
		}
		if f.Mend != "" {
			if _, err := fmt.Fprintf(s.out, "         mend: %s\n", p.bold(oneLine(f.Mend))); err != nil {
				return err
			}
		}
	}
	if s.g.Output == "jsonl" {
		return nil
	}
	verdict := p.green("healthy")
	if !r.Healthy {
		verdict = p.yellow("not healthy")
	}
	_, err := fmt.Fprintln(s.out, verdict)
	return err
}
