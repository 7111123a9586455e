package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"ctd/clients/ctdclient"
	"ctd/rpc/wire"
)

// exitInterrupted is what a shell reports of a program that SIGINT ended.
const exitInterrupted = 130

// Options are what surrounds a run of the command. A nil stream is empty.
type Options struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string // os.Getenv where nil
	Version        string              // of this program, for `ctd version`
	Commands       []Command           // verbs that are not a client's, such as serve
	HTTPClient     *http.Client        // nil: one is made for --server
}

// Command is a verb that another part of the program runs. It is listed in the help and completed,
// and reads its arguments itself.
type Command struct {
	Name, Help string
	Run        func(ctx context.Context, args []string) int
}

// Run runs the command with its arguments (without the program's name) and returns its exit
// status: one of the wire.Exit values, or 130 where ctx was cancelled.
func Run(ctx context.Context, args []string, o Options) int {
	o = o.withDefaults()
	if len(args) > 0 {
		for _, c := range o.Commands {
			if c.Name == args[0] {
				return c.Run(ctx, args[1:])
			}
		}
	}
	s := &session{ctx: ctx, o: o, g: &globals{}, out: bufio.NewWriterSize(o.Stdout, 64<<10)}
	err := s.run(args)
	if ferr := s.out.Flush(); err == nil {
		err = ferr
	}
	return s.exit(err)
}

func (o Options) withDefaults() Options {
	if o.Stdin == nil {
		o.Stdin = strings.NewReader("")
	}
	if o.Stdout == nil {
		o.Stdout = io.Discard
	}
	if o.Stderr == nil {
		o.Stderr = io.Discard
	}
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	return o
}

// session is one run of the command.
type session struct {
	ctx context.Context
	o   Options
	g   *globals
	out *bufio.Writer

	made *ctdclient.Client // by client
	bar  *bar              // of the last call; nil where it tells nothing
}

// helpShown is the panic that leaves kong once it has printed a help text.
type helpShown struct{}

func (s *session) run(args []string) (err error) {
	g := &grammar{}
	s.g = &g.globals
	parser, err := newParser(g, s)
	if err != nil {
		return fmt.Errorf("command line: %w", err)
	}
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(helpShown); !ok {
				panic(r)
			}
		}
	}()
	if words, ok := completionWords(args); ok {
		return s.offer(complete(parser.Model, words))
	}
	kctx, err := parser.Parse(arrange(parser.Model, helpArgs(args)))
	if err != nil {
		return parseError(err)
	}
	return kctx.Run(s)
}

// helpArgs makes `ctd` and `ctd help VERB` the same as --help.
func helpArgs(args []string) []string {
	if len(args) == 0 {
		return []string{"--help"}
	}
	if args[0] == "help" {
		return append(args[1:len(args):len(args)], "--help")
	}
	return args
}

// arrange moves the words behind the flags, because kong takes a verb's words in one run only:
// ctd list proto=tcp --limit 3 dport=22. What follows -- are words.
func arrange(app *kong.Application, args []string) []string {
	node := app.Node
	var path, flags, words []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			words = append(words, args[i:]...)
			i = len(args)
		case len(a) > 1 && a[0] == '-':
			flags = append(flags, a)
			if valueFlag(node, a) != nil && i+1 < len(args) {
				i++
				flags = append(flags, args[i])
			}
		default:
			if len(node.Children) == 0 {
				words = append(words, a)
				continue
			}
			// A word that should be a verb stays in front, so that the parser complains of it.
			path = append(path, a)
			if child := childNode(node, a); child != nil {
				node = child
			}
		}
	}
	return append(append(path, flags...), words...)
}

func childNode(node *kong.Node, name string) *kong.Node {
	for _, child := range node.Children {
		if child.Name == name {
			return child
		}
	}
	return nil
}

func newParser(g *grammar, s *session) (*kong.Kong, error) {
	options := []kong.Option{
		kong.Name("ctd"),
		kong.Description(description),
		kong.Writers(s.out, s.o.Stderr),
		kong.Exit(func(int) { panic(helpShown{}) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
		kong.Vars{"defaultServer": ctdclient.DefaultServer},
	}
	for _, c := range s.o.Commands {
		options = append(options, kong.DynamicCommand(c.Name, c.Help, "", &foreign{}))
	}
	return kong.New(g, options...)
}

// foreign stands in kong's model for a verb that another part of the program runs.
type foreign struct {
	Args []string `arg:"" optional:"" passthrough:""`
}

// parseError makes a usage error of what kong refuses.
func parseError(err error) error {
	u := &usageError{message: err.Error(), hint: "ctd --help lists the verbs"}
	var pe *kong.ParseError
	if errors.As(err, &pe) && pe.Context != nil {
		if node := pe.Context.Selected(); node != nil {
			u.hint = "ctd " + node.Path() + " --help shows what it takes"
		}
	}
	return u
}

// usageError is a command line that can't be meant.
type usageError struct{ message, hint string }

func (e *usageError) Error() string { return e.message }

func usagef(format string, args ...any) *usageError {
	return &usageError{message: fmt.Sprintf(format, args...)}
}

// statusError ends the command with a status, after everything was said that is to be said.
type statusError wire.Exit

func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// exit says what went wrong and returns the exit status.
func (s *session) exit(err error) int {
	var (
		status statusError
		usage  *usageError
		rpc    *wire.Error
	)
	switch {
	case err == nil:
		return int(wire.ExitDone)
	case s.ctx.Err() != nil:
		if left := s.bar.leftAt(); left != "" {
			fmt.Fprintln(s.o.Stderr, left)
		}
		return exitInterrupted
	case errors.Is(err, syscall.EPIPE):
		return int(wire.ExitDone) // whoever read has read enough
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &usage):
		s.complain(usage.message, usage.hint)
		return int(wire.ExitUsage)
	case errors.As(err, &rpc):
		s.complain(rpcMessage(rpc), rpc.Hint)
		exit := rpc.Exit()
		if exit == wire.ExitUsage && errors.As(err, new(partlyError)) {
			exit = wire.ExitRefused
		}
		return int(exit)
	}
	s.complain(err.Error(), "")
	return int(wire.ExitOther)
}

func rpcMessage(e *wire.Error) string {
	m := e.Message
	if m == "" {
		m = string(e.Code)
	}
	if e.Errno != "" && !strings.Contains(m, e.Errno) {
		m += " (" + e.Errno + ")"
	}
	return m
}

// complain prints an error in one line, and what to do about it in another.
func (s *session) complain(message, hint string) {
	p := s.paint(s.o.Stderr)
	fmt.Fprintf(s.o.Stderr, "%s %s\n", p.red("ctd:"), oneLine(message))
	if hint != "" {
		fmt.Fprintf(s.o.Stderr, "%s %s\n", p.bold("hint:"), oneLine(hint))
	}
}

// oneLine keeps a text of the server's from spoiling the terminal.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0:
			return '?'
		}
		return r
	}, strings.TrimSpace(text))
}
