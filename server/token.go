package server

import (
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"ctd/auth"
	"ctd/rpc/wire"
)

// tokenGrammar is the command line of `ctd token`.
type tokenGrammar struct {
	Create tokenCreate `cmd:"" help:"Make a token, and show it once."`
	List   tokenList   `cmd:"" help:"List the tokens: never the secrets, which are not kept."`
	Revoke tokenRevoke `cmd:"" help:"End a token. Its sessions end within a second."`
}

type tokenCreate struct {
	Name string `required:"" placeholder:"NAME" help:"Who shows it, for the log."`
	grantFlags
	Expires string `placeholder:"WHEN" help:"When it ends: 90d, 12h, 2027-01-31 (at the beginning of that day, UTC) or 2027-01-31T12:00:00Z. Else never."`
	Print   bool   `help:"Print a [[token]] for the configuration file, and write nothing. The token itself is shown on standard error."`
	stateGrammar
}

type tokenList struct {
	stateGrammar
	Output string `short:"o" enum:"text,json" default:"text" help:"Form of the list: text or json."`
}

type tokenRevoke struct {
	Name string `arg:"" help:"Name of the token."`
	stateGrammar
}

// tokenHelp is the head of `ctd token --help`.
const tokenHelp = `Make, list and end bearer tokens.

A token is shown once, alone on standard output; the daemon keeps only its SHA-256, in tokens.toml in its state
folder. A daemon that runs takes the change within a second.

Examples:

  TOKEN=$(ctd token create --name monitoring --role viewer --expires 90d)
  ctd token create --name ansible --role admin --networks 10.3.0.0/16,10.4.0.0/16
  ctd token list
  ctd token revoke monitoring`

// TokenCommand runs `ctd token` with its arguments, and returns its exit status.
func TokenCommand(args []string, stdout, stderr io.Writer) (status int) {
	v := &verb{"token", stdout, stderr}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	g := &tokenGrammar{}
	var chosen *kong.Context
	helped, err := parseChosen(g, v.name, tokenHelp, args, stdout, stderr, &chosen)
	switch {
	case err != nil:
		return v.exit(v.usage(err))
	case helped:
		return int(wire.ExitDone)
	}
	switch word, _, _ := strings.Cut(chosen.Command(), " "); word {
	case "create":
		return v.exit(v.createToken(&g.Create, time.Now()))
	case "list":
		return v.exit(v.listTokens(&g.List, time.Now()))
	default:
		return v.exit(v.revokeToken(&g.Revoke))
	}
}

func (v *verb) createToken(g *tokenCreate, now time.Time) error {
	expires, err := parseEnd(g.Expires, now)
	if err != nil {
		return &verbError{wire.ExitUsage, "--expires: " + err.Error(), ""}
	}
	secret, hash := auth.NewBearerToken()
	t := auth.Token{Name: g.Name, Hash: hash, Expires: expires}
	g.over(&t.Grant)
	if err := checkGranted(auth.Check(auth.Config{Tokens: []auth.Token{t}})); err != nil {
		return err
	}
	if g.Print {
		if _, err := fmt.Fprintf(v.stderr, "the token, which is shown once: %s\n", secret); err != nil {
			return fmt.Errorf("show the token: %w", err)
		}
		_, err := io.WriteString(v.stdout, auth.FormatToken(t))
		return err
	}
	path, cfg, err := v.file(&g.stateGrammar, tokensFile)
	if err != nil {
		return err
	}
	err = auth.UpdateTokens(path, func(tokens []auth.Token) ([]auth.Token, error) {
		if tokenAt(tokens, g.Name) >= 0 || tokenAt(cfg.Tokens, g.Name) >= 0 {
			return nil, &verbError{wire.ExitRefused, fmt.Sprintf("there is a token %q already", g.Name), "take another name, or end that one first: ctd token revoke " + g.Name}
		}
		return append(tokens, t), nil
	})
	if err != nil {
		return err
	}
	end := "never ends"
	if expires != "" {
		end = "ends " + expires
	}
	fmt.Fprintf(v.stderr, "made %s (%s, %s, %s) in %s; this is shown once:\n", t.Name, t.Role, networksText(t.Networks), end, path)
	return v.showToken(path, t, secret)
}

// showToken shows the secret of a token that was made; where that can't be, the token is taken out again,
// as nobody would have it.
func (v *verb) showToken(path string, t auth.Token, secret string) error {
	signal.Ignore(syscall.SIGPIPE) // it would end us before the token is out again
	_, err := fmt.Fprintln(v.stdout, secret)
	if err == nil {
		return nil
	}
	text := fmt.Sprintf("the token could not be shown (%s)", reason(err))
	undone := auth.UpdateTokens(path, func(tokens []auth.Token) ([]auth.Token, error) {
		return slices.DeleteFunc(tokens, func(one auth.Token) bool { return one.Name == t.Name && one.Hash == t.Hash }), nil
	})
	if undone != nil {
		return &verbError{wire.ExitOther, text + ", and not be taken out again: " + undone.Error(), "ctd token revoke " + t.Name}
	}
	return &verbError{wire.ExitOther, text + ", so it was taken out again", "look where standard output leads"}
}

// parseEnd reads when a token ends, and returns it as auth.Token has it: a time, or how long from now.
func parseEnd(text string, now time.Time) (string, error) {
	if text == "" {
		return "", nil
	}
	end, err := auth.ParseExpires(text)
	if err != nil {
		after, lastErr := parseDays(text)
		if lastErr != nil {
			return "", fmt.Errorf("%q is neither a time as 2027-01-31 nor how long as 90d or 12h", text)
		}
		end = now.Add(after).UTC().Truncate(time.Second)
		text = end.Format(time.RFC3339)
	}
	if !end.After(now) {
		return "", fmt.Errorf("%s is over", text)
	}
	return text, nil
}

// parseDays reads 90d, 2w, or what time.ParseDuration reads.
func parseDays(text string) (time.Duration, error) {
	for unit, long := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if number, ok := strings.CutSuffix(text, unit); ok {
			n, err := strconv.ParseUint(number, 10, 16) // no more than some time.Duration can hold
			return time.Duration(n) * long, err
		}
	}
	return time.ParseDuration(text)
}

func tokenAt(tokens []auth.Token, name string) int {
	return slices.IndexFunc(tokens, func(t auth.Token) bool { return t.Name == name })
}

// listedToken is a token as the list shows it.
type listedToken struct {
	Name           string   `json:"name"`
	Role           string   `json:"role"`
	Networks       []string `json:"networks"`
	Rate           int      `json:"rate,omitempty"`
	KillsPerMinute int      `json:"kills_per_minute,omitempty"`
	Expires        string   `json:"expires,omitempty"`
	Expired        bool     `json:"expired"`
}

func (v *verb) listTokens(g *tokenList, now time.Time) error {
	path, _, err := v.file(&g.stateGrammar, tokensFile)
	if err != nil {
		return err
	}
	tokens, err := auth.ReadTokens(path)
	if err != nil {
		return err
	}
	list := make([]listedToken, len(tokens))
	for i, t := range tokens {
		end, err := auth.ParseExpires(t.Expires)
		if err != nil {
			return fmt.Errorf("token %s in %s: %w", t.Name, path, err)
		}
		list[i] = listedToken{
			t.Name, t.Role, append([]string{}, t.Networks...), t.Rate, t.KillsPerMinute, t.Expires, !end.IsZero() && !end.After(now),
		}
	}
	if g.Output == "json" {
		return printJSON(v.stdout, list)
	}
	w := tabwriter.NewWriter(v.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tROLE\tNETWORKS\tEXPIRES")
	for _, t := range list {
		expires := t.Expires
		switch {
		case t.Expired:
			expires += " (expired)"
		case expires == "":
			expires = "never"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.Name, t.Role, networksText(t.Networks), expires)
	}
	return w.Flush()
}

func (v *verb) revokeToken(g *tokenRevoke) error {
	path, cfg, err := v.file(&g.stateGrammar, tokensFile)
	if err != nil {
		return err
	}
	err = auth.UpdateTokens(path, func(tokens []auth.Token) ([]auth.Token, error) {
		i := tokenAt(tokens, g.Name)
		if i < 0 {
			hint := "ctd token list lists the tokens"
			if tokenAt(cfg.Tokens, g.Name) >= 0 {
				hint = "it is in the configuration file: remove its [[token]] there, and reload"
			}
			return nil, &verbError{wire.ExitNotFound, fmt.Sprintf("there is no token %q in %s", g.Name, path), hint}
		}
		return slices.Delete(tokens, i, i+1), nil
	})
	if err == nil {
		fmt.Fprintf(v.stderr, "revoked %s\n", g.Name)
	}
	return err
}
