package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (completionCmd) Help() string {
	return `Examples:

  ctd completion bash > ctd.bash
  ctd completion zsh > _ctd
  ctd completion fish > ctd.fish`
}

// The scripts ask the program itself, so that they never fall behind it.
const (
	bashScript = `# bash completion for ctd
_ctd() {
	local IFS=$'\n'
	# Bash breaks words at = and :; the program wants them whole.
	local line="${COMP_LINE:0:COMP_POINT}" words
	IFS=$' \t\n' read -ra words <<<"$line"
	[[ $line == *[[:space:]] ]] && words+=("")
	local cur="${words[-1]}"
	COMPREPLY=($("${words[0]}" completion --words -- "${words[@]:1}" 2>/dev/null))
	# What stands before the last break is on the line already.
	local i before="${cur%"${cur##*[=:]}"}"
	for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]="${COMPREPLY[i]#"$before"}"; done
	[[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
	return 0
}
complete -F _ctd ctd
`
	zshScript = `#compdef ctd
_ctd() {
	local -a found open
	found=("${(@f)$("${words[1]}" completion --words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	open=(${(M)found:#*=})
	found=(${found:#*=})
	compadd -- $found
	compadd -S '' -- $open
}
compdef _ctd ctd
`
	fishScript = `# fish completion for ctd
complete -c ctd -f -a '(ctd completion --words -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
`
)

func (c *completionCmd) Run(s *session) error {
	script := map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}[c.Shell]
	_, err := s.out.WriteString(script)
	return err
}

// completionWords recognises the call that the scripts make, `ctd completion --words -- WORD...`,
// with the words so far, the last one unfinished. It is no business of the parser's: half a
// command line is none.
func completionWords(args []string) (words []string, ok bool) {
	if len(args) < 3 || args[0] != "completion" || args[1] != "--words" || args[2] != "--" {
		return nil, false
	}
	return args[3:], true
}

// offer prints candidates, one a line.
func (s *session) offer(candidates []string) error {
	for _, c := range candidates {
		if _, err := fmt.Fprintln(s.out, c); err != nil {
			return err
		}
	}
	return nil
}

// filterFields are the fields of a filter, for completion alone: the daemon reads filters.
var filterFields = []string{
	"family", "proto", "src", "dst", "sport", "dport", "reply_src", "reply_dst", "reply_sport",
	"reply_dport", "addr", "port", "net", "id", "mark", "zone", "state", "status", "nat", "helper",
	"label", "user", "icmp_type", "icmp_code", "gre_key", "timeout", "bytes", "packets", "age", "rate",
}

// fieldValues are the values of the fields that have few.
func fieldValues(field string) []string {
	switch field {
	case "family":
		return []string{"ipv4", "ipv6"}
	case "proto":
		return []string{"tcp", "udp", "icmp", "icmpv6", "sctp", "gre", "udplite", "dccp"}
	case "state":
		return []string{
			"SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT",
			"CLOSE", "SYN_SENT2",
		}
	case "status":
		return []string{
			"expected", "seen_reply", "assured", "confirmed", "src_nat", "dst_nat", "fixed_timeout", "helper", "offload",
		}
	case "nat":
		return []string{"snat", "dnat", "both"}
	}
	return nil
}

// complete returns what may stand in place of the last word.
func complete(app *kong.Application, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	node, last := app.Node, words[len(words)-1]
	var value *kong.Flag // waits for its value
	for _, w := range words[:len(words)-1] {
		if value != nil {
			value = nil
			continue
		}
		if name, ok := strings.CutPrefix(w, "-"); ok && !strings.Contains(name, "=") {
			value = valueFlag(node, w)
			continue
		}
		if child := childNode(node, w); child != nil {
			node = child
		}
	}
	var found []string
	switch flag, _, assigned := strings.Cut(last, "="); {
	case value != nil:
		found = value.EnumSlice()
	case strings.HasPrefix(last, "-") && assigned:
		if f := valueFlag(node, flag); f != nil {
			for _, v := range f.EnumSlice() {
				found = append(found, flag+"="+v)
			}
		}
	case strings.HasPrefix(last, "-"):
		found = flagNames(node)
	default:
		found = positional(node, last)
	}
	var out []string
	for _, f := range found {
		if f != "" && strings.HasPrefix(f, last) {
			out = append(out, f)
		}
	}
	return out
}

// positional returns verbs, or the words that a verb takes.
func positional(node *kong.Node, last string) []string {
	var found []string
	for _, child := range node.Children {
		if !child.Hidden {
			found = append(found, child.Name)
		}
	}
	for _, arg := range node.Positional {
		switch arg.Name {
		case "filter":
			found = append(found, fieldWords(filterFields, last)...)
		case "flow":
			keys := selectorKeys()
			if node.Name == "create" {
				keys = createKeys()
			}
			found = append(found, fieldWords(keys, last)...)
		case "tuple":
			found = append(found, fieldWords(append([]string{"proto"}, tupleKeys...), last)...)
		default:
			found = append(found, arg.EnumSlice()...)
		}
	}
	return found
}

// fieldWords returns field= words, or field=value once the field stands there.
func fieldWords(fields []string, last string) []string {
	var found []string
	field, value, assigned := strings.Cut(last, "=")
	for _, f := range fields {
		switch {
		case !assigned:
			found = append(found, f+"=")
		case f == field:
			// Values may be listed and negated: the part after the last comma or ! completes.
			head := value[:strings.LastIndexAny(value, ",!")+1]
			for _, v := range fieldValues(f) {
				found = append(found, f+"="+head+v)
			}
		}
	}
	return found
}

func flagNames(node *kong.Node) []string {
	var found []string
	for _, group := range node.AllFlags(true) {
		for _, f := range group {
			found = append(found, "--"+f.Name)
		}
	}
	slices.Sort(found)
	return found
}

// valueFlag returns the flag of that spelling that takes a value.
func valueFlag(node *kong.Node, spelling string) *kong.Flag {
	for _, group := range node.AllFlags(false) {
		for _, f := range group {
			if (spelling == "--"+f.Name || f.Short != 0 && spelling == "-"+string(f.Short)) && !f.IsBool() {
				return f
			}
		}
	}
	return nil
}
