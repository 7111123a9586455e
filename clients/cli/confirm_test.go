//go:build linux

package cli_test

import (
	"context"
	"strings"
	"testing"

	"ctd/clients/cli"
	"ctd/rpc/wire"
)

func TestConfirmKill(t *testing.T) {
	p := newPerson(t, 3)
	for _, answer := range []string{"n\n", "\n", "yess\n", "\x04"} { // the last is Ctrl-D
		status, stdout := p.run(p.types(answer), "kill", "proto=udp")
		if status != int(wire.ExitRefused) || stdout != "" {
			t.Errorf("answer %q: status %d, %q", answer, status, stdout)
		}
		p.called("kill?")
		p.shows("PROTO", "10.0.0.2:5353", "Kill these 3 flows? [y/N] ", "nothing was changed\n")
	}
	// What comes in between is not killed, what ends is told.
	status, stdout := p.run(func() {
		p.create(7)
		if _, err := p.client.Kill(t.Context(), wire.KillParams{Filter: "src=10.0.0.1"}); err != nil {
			t.Fatal(err)
		}
		p.typed("y\n")
	}, "kill", "--all", "--expect-count", "3")
	if status != 0 || stdout != "killed 2 flows\n" {
		t.Errorf("status %d, %q\n%s", status, stdout, p.shown())
	}
	p.called("kill? kill kill")
	if p.from[0] != p.from[2] {
		t.Errorf("the kill came by another connection than the preview: %s", p.from)
	}
	p.shows("1 flow had ended already\n")
	if n := p.left(); n != 1 {
		t.Errorf("%d flows are left, want the one that came", n)
	}
	// One flow, by its id.
	if status, stdout := p.run(p.types("YES\n"), "kill", "4"); status != 0 || stdout != "killed 1 flow\n" {
		t.Errorf("status %d, %q", status, stdout)
	}
	p.shows("Kill this flow? [y/N] ")
	// Nothing matches: no question, and no kill.
	for _, args := range [][]string{{"kill", "--all"}, {"modify", "--all", "--mark", "1"}, {"flush", "--all"}} {
		if status, stdout := p.run(nil, args...); status != 0 || !strings.HasSuffix(stdout, " 0 flows\n") {
			t.Errorf("%q: status %d, %q", args, status, stdout)
		}
		p.called(args[0] + "?")
	}
	if status, _ := p.run(nil, "kill", "--all", "--fail-if-none"); status != int(wire.ExitNoMatch) {
		t.Errorf("--fail-if-none: status %d", status)
	}
}

// TestNoQuestion: nobody is asked who can't answer, or has said yes.
func TestNoQuestion(t *testing.T) {
	for name, c := range map[string]struct {
		o    func(p *person) cli.Options
		args []string
		want string // calls
	}{
		"--yes":             {nil, []string{"kill", "--all", "--yes"}, "kill"},
		"-y":                {nil, []string{"kill", "--all", "-y"}, "kill"},
		"modify -y":         {nil, []string{"modify", "--all", "--mark", "1", "-y"}, "modify"},
		"flush -y":          {nil, []string{"flush", "--all", "-y"}, "flush"},
		"--dry-run":         {nil, []string{"kill", "--all", "--dry-run"}, "kill?"},
		"flush --dry-run":   {nil, []string{"flush", "--all", "--dry-run"}, "flush?"},
		"-o json":           {nil, []string{"kill", "--all", "-o", "json"}, "kill"},
		"-o csv":            {nil, []string{"modify", "--all", "--mark", "1", "-o", "csv"}, "modify"},
		"no terminal":       {func(*person) cli.Options { return cli.Options{} }, []string{"kill", "--all"}, "kill"},
		"no terminal, -y":   {func(*person) cli.Options { return cli.Options{} }, []string{"flush", "--all", "-y"}, "flush"},
		"input elsewhere":   {func(p *person) cli.Options { return cli.Options{Stderr: p.slave} }, []string{"kill", "--all"}, "kill"},
		"errors elsewhere":  {func(p *person) cli.Options { return cli.Options{Stdin: p.slave} }, []string{"flush", "--all"}, "flush"},
		"a refused preview": {nil, []string{"kill", "--all", "--max", "1"}, "kill?"},
		"a wrong filter":    {nil, []string{"kill", "scr=10.0.0.1"}, "kill?"},
		"flush, no --all":   {nil, []string{"flush"}, ""},

		"expect kill -y":         {nil, []string{"expect", "kill", "--all", "-y"}, "expect.kill"},
		"expect kill --dry-run":  {nil, []string{"expect", "kill", "--all", "--dry-run"}, "expect.kill?"},
		"expect kill -o json":    {nil, []string{"expect", "kill", "--all", "-o", "json"}, "expect.kill"},
		"expect kill, too many":  {nil, []string{"expect", "kill", "--all", "--max", "1"}, "expect.kill?"},
		"expect flush -y":        {nil, []string{"expect", "flush", "--all", "-y"}, "expect.flush"},
		"expect flush, no --all": {nil, []string{"expect", "flush"}, ""},
		"expect, no terminal":    {func(*person) cli.Options { return cli.Options{} }, []string{"expect", "flush", "--all"}, "expect.flush"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPerson(t, 2)
			p.expect(2)
			o := cli.Options{Stdin: p.slave, Stderr: p.slave}
			if c.o != nil {
				o = c.o(p)
			}
			p.runWith(t.Context(), o, nil, c.args...)
			p.called(c.want)
		})
	}
}

func TestConfirmMany(t *testing.T) {
	p := newPerson(t, 25)
	if status, _ := p.run(p.types("n\n"), "kill", "--all"); status != int(wire.ExitRefused) {
		t.Errorf("status %d", status)
	}
	p.shows("10.0.0.19:5353", "and 5 more\n", "Kill these 25 flows?")
	if strings.Contains(p.shown(), "10.0.0.20:5353") {
		t.Errorf("more than 20 are shown:\n%s", p.shown())
	}
	// More than a preview holds: no more of them go than were counted.
	p = newPerson(t, 1002)
	status, stdout := p.run(func() { p.create(2000); p.typed("y\n") }, "kill", "--all", "--max", "5000")
	p.called("kill? kill kill?") // the last counts again
	if status != int(wire.ExitRefused) || stdout != "" || p.left() != 1003 {
		t.Errorf("status %d, %q, %d left\n%s", status, stdout, p.left(), p.shown())
	}
	p.shows("and 982 more\n", "1 flow came since you were asked about 1002; nothing was changed", "hint: run it again")
	if status, stdout := p.run(p.types("y\n"), "kill", "--all", "--max", "5000"); status != 0 || stdout != "killed 1003 flows\n" || p.left() != 0 {
		t.Errorf("status %d, %q, %d left\n%s", status, stdout, p.left(), p.shown())
	}
}

func TestConfirmModify(t *testing.T) {
	p := newPerson(t, 2)
	if status, _ := p.run(p.types("n\n"), "modify", "--all", "--timeout", "10m", "--mark", "0x10/0xff"); status != int(wire.ExitRefused) {
		t.Errorf("status %d", status)
	}
	p.called("modify?")
	p.shows("to be changed: --timeout 10m --mark 0x10/0xff\n", "Modify these 2 flows? [y/N] ")
	status, stdout := p.run(func() { p.create(7); p.typed("y\n") }, "modify", "--all", "--mark", "7")
	if status != 0 || !strings.HasSuffix(stdout, "modified 2 flows\n") || !strings.Contains(stdout, "0x7") {
		t.Errorf("status %d, %q", status, stdout)
	}
	r, err := p.client.Count(t.Context(), wire.CountParams{Filter: "mark=7"})
	if err != nil || r.Count != 2 {
		t.Errorf("%+v, %v, want the two that were seen changed", r, err)
	}
	// What can't be changed is said before; where nothing can, there is nothing to ask.
	if status, _ := p.run(nil, "modify", "--all", "--state", "CLOSE"); status != int(wire.ExitRefused) {
		t.Errorf("status %d", status)
	}
	p.called("modify?")
}

func TestConfirmFlush(t *testing.T) {
	p := newPerson(t, 3)
	if status, _ := p.run(p.types("no\n"), "flush", "--all", "--family", "ipv4", "--zone", "0"); status != int(wire.ExitRefused) || p.left() != 3 {
		t.Errorf("status %d, %d left", status, p.left())
	}
	p.shows("Delete 3 flows of ipv4 in zone 0? [y/N] ", "nothing was changed\n")
	if status, stdout := p.run(p.types("y\n"), "flush", "--all"); status != 0 || stdout != "deleted 3 flows\n" || p.left() != 0 {
		t.Errorf("status %d, %q, %d left", status, stdout, p.left())
	}
}

// TestConfirmExpects: expectations are asked about by their number, and those that come in between stay.
func TestConfirmExpects(t *testing.T) {
	p := newPerson(t, 0)
	p.expect(3)
	for question, args := range map[string][]string{
		"Kill these 3 expectations? [y/N] ": {"expect", "kill", "helper=ftp"},
		"Delete 3 expectations? [y/N] ":     {"expect", "flush", "--all"},
	} {
		if status, stdout := p.run(p.types("n\n"), args...); status != int(wire.ExitRefused) || stdout != "" || p.expected() != 3 {
			t.Errorf("%q: status %d, %q, %d left", args, status, stdout, p.expected())
		}
		p.shows(question, "nothing was changed\n")
	}
	status, stdout := p.run(func() { p.expect(1); p.typed("y\n") }, "expect", "kill", "--all")
	if status != 0 || !strings.HasSuffix(stdout, "killed 3 expectations\n") || p.expected() != 1 {
		t.Errorf("status %d, %q, %d left", status, stdout, p.expected())
	}
	p.called("expect.kill? expect.kill")
	if status, stdout := p.run(p.types("y\n"), "expect", "kill", "dport=5003"); status != 0 || p.expected() != 0 {
		t.Errorf("status %d, %q, %d left", status, stdout, p.expected())
	}
	p.shows("Kill this expectation? [y/N] ")
	p.expect(2)
	if status, stdout := p.run(p.types("y\n"), "expect", "flush", "--all"); status != 0 || stdout != "deleted 2 expectations\n" || p.expected() != 0 {
		t.Errorf("status %d, %q, %d left", status, stdout, p.expected())
	}
	for _, args := range [][]string{{"expect", "kill", "--all"}, {"expect", "flush", "--all"}} {
		if status, stdout := p.run(nil, args...); status != 0 || !strings.HasSuffix(stdout, " 0 expectations\n") {
			t.Errorf("%q: status %d, %q", args, status, stdout)
		}
	}
}

// TestTypedAhead: what was typed before the question was shown is no answer to it.
func TestTypedAhead(t *testing.T) {
	p := newPerson(t, 2)
	p.typed("y\n")
	p.await("y\n") // it is in the terminal's buffer
	if status, _ := p.run(p.types("n\n"), "kill", "--all"); status != int(wire.ExitRefused) || p.left() != 2 {
		t.Errorf("status %d, %d left\n%s", status, p.left(), p.shown())
	}
}

// TestAnswerWithoutEnd: a yes counts when its line has ended.
func TestAnswerWithoutEnd(t *testing.T) {
	p := newPerson(t, 2)
	if status, _ := p.run(p.types("y\x04\x04"), "kill", "--all"); status != int(wire.ExitRefused) || p.left() != 2 {
		t.Errorf("status %d, %d left\n%s", status, p.left(), p.shown())
	}
	p.shows("nothing was changed\n")
}

// TestConfirmMoreModify: flows that came since the preview of a modification are told as such.
func TestConfirmMoreModify(t *testing.T) {
	p := newPerson(t, 1001)
	args := []string{"modify", "--all", "--mark", "7", "--max", "5000"}
	status, stdout := p.run(func() { p.create(2000); p.create(2001); p.typed("y\n") }, args...)
	if status != int(wire.ExitRefused) || stdout != "" {
		t.Errorf("status %d, %q", status, stdout)
	}
	p.called("modify? modify modify?")
	p.shows("2 flows came since you were asked about 1001; nothing was changed", "hint: run it again")
}

// TestConfirmInterrupted: Ctrl-C ends the question.
func TestConfirmInterrupted(t *testing.T) {
	p := newPerson(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	if status, _ := p.runWith(ctx, cli.Options{Stdin: p.slave, Stderr: p.slave}, cancel, "kill", "--all"); status != 130 || p.left() != 1 {
		t.Errorf("status %d, %d left", status, p.left())
	}
}
