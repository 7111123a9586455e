package rpc

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"ctd/rpc/wire"
)

// WriteMarkdown writes the API's reference, with a version in the title if there is one. Without
// one docs/api.md is its output.
func (r *Registry) WriteMarkdown(w io.Writer, version string) error {
	d := &document{}
	if version != "" {
		version = " " + version
	}
	d.printf("# The API of ctd%s\n\n", version)
	d.printf("This page is generated from the registry of methods.\n\n")
	d.printf("%s\n", protocolText)
	all := r.sorted(func(*method) bool { return true })
	d.printf("## Methods\n\n| method | role | changes | what it does |\n|---|---|---|---|\n")
	for _, m := range all {
		d.printf("| [`%s`](#%s) | %s | %s | %s |\n", m.Name, anchor(m.Name), m.Role, yesNo(m.Changes), cell(firstSentence(m.Summary)))
	}
	d.printf("\n")
	for _, m := range all {
		d.method(m)
	}
	d.printf("## Objects\n\nA member that is marked optional may be absent.\n\n")
	for i := 0; i < len(d.types); i++ { // it grows as objects hold objects
		d.printf("### %s\n\n", d.types[i].Name())
		d.members(d.types[i])
	}
	d.printf("## Errors\n\nThe number is `error.code` in JSON-RPC and `faultCode` in XML-RPC, the name is `error.data.code`. " +
		"The HTTP status is that of an answer given before a message is read; later it is 200, or 401 for `unauthenticated`. " +
		"The exit status is that of the `ctd` command.\n\n" +
		"| name | number | HTTP | exit | meaning |\n|---|---|---|---|---|\n")
	for _, c := range wire.Codes() {
		d.printf("| `%s` | %d | %d | %d | %s |\n", c, c.Number(), c.HTTPStatus(), c.Exit(), cell(c.Doc()))
	}
	_, err := io.WriteString(w, d.text.String())
	return err
}

const protocolText = `One URL, ` + "`POST /rpc`" + ` (also ` + "`/RPC2`" + ` and ` + "`/`" + `), takes both protocols, told apart by the content type.

**JSON-RPC 2.0** (` + "`application/json`" + `): single calls, batches of at most 1000, notifications. Parameters go by name in an
object or by position in a list. Unknown members, duplicate members and values out of range are errors, and then no method
runs. A notification alone is answered with status 204.

**XML-RPC** (` + "`text/xml`" + `): parameters go by position, or by name in one struct. A struct that is the only parameter holds
named parameters, unless none of its members is the name of a parameter and the first parameter may be an object: then
it is the first parameter. So ` + "`{dport: 22}`" + ` alone is a filter, and ` + "`{filter: ..., limit: 10}`" + ` are two parameters.
` + "`system.multicall`" + ` makes several calls in one request. The encoding is that of the byte order mark, else of the XML
declaration, else of the content type's charset, else UTF-8. Answers are UTF-8.

**Numbers.** Accepted anywhere a number is expected: a number, a floating point number without fraction, a text in decimal
or with 0x; over XML-RPC int, i4, i8, ex:i1, ex:i2, ex:i8, double, string. XML-RPC answers have an ` + "`<int>`" + ` where the
value fits in 32 signed bits, and else its decimal in a ` + "`<string>`" + `: many clients misread a larger ` + "`<int>`" + ` or ` + "`<i8>`" + `.

**What isn't there.** A null parameter is the same as none. XML-RPC answers never have a ` + "`<nil/>`" + `: a member without a
value is absent, and a result that is nothing is an empty ` + "`<string>`" + `.

**Times** are texts of RFC 3339 in both protocols; a ` + "`<dateTime.iso8601>`" + ` is accepted too. Characters that XML can't carry are
replaced by U+FFFD.

**Long results** are streamed. If such a result fails half way the connection is cut: an answer that is complete as a
document is complete.

**Progress.** A request of one call with the header ` + "`Ctd-Progress: 1`" + ` gets interim answers (HTTP status 102) while a kill or
modify of many flows works, at most four a second, each with a header such as ` + "`Ctd-Progress: 4096/200000`" + `: so many are done, of
so many. A request without the header gets none: many clients take them for the answer.
`

// document gathers the text, and the types of objects that it names.
type document struct {
	text  strings.Builder
	types []reflect.Type
}

func (d *document) printf(format string, args ...any) { fmt.Fprintf(&d.text, format, args...) }

func (d *document) method(m *method) {
	d.printf("### %s\n\n%s\n\nRole: %s.", m.Name, m.Summary, m.Role)
	if m.Changes {
		d.printf(" Changes things.")
	}
	if m.XMLOnly {
		d.printf(" XML-RPC only.")
	}
	d.printf("\n\n")
	switch {
	case m.positional:
		d.printf("Parameters, by position only:\n\n")
		for _, s := range m.signatures() {
			d.printf("- `%s(%s)` gives %s\n", m.Name, strings.Join(s[1:], ", "), s[0])
		}
		d.printf("\n")
	case len(m.params) == 0:
		d.printf("No parameters.\n\n")
	default:
		d.params(m.params)
	}
	if m.Result != nil || !m.positional { // else the signatures say it
		d.result(m.Result)
	}
	if !m.XMLOnly {
		params := ""
		if m.Example != "" {
			params = `, "params": ` + m.Example
		}
		d.printf("```json\n{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"%s\"%s}\n```\n\n", m.Name, params)
	}
}

func (d *document) result(v any) {
	if v == nil {
		d.printf("Result: nothing.\n\n")
		return
	}
	t := reflect.TypeOf(v)
	d.printf("Result: %s.\n\n", d.link(t))
}

// params writes a method's parameters.
func (d *document) params(fields []wire.Field) {
	d.printf("| parameter | type | required | what it is |\n|---|---|---|---|\n")
	for _, f := range fields {
		d.printf("| `%s` | %s | %s | %s |\n", f.Name, d.link(f.Type), yesNo(f.Required()), cell(paramDoc(f)))
	}
	d.printf("\n")
}

// members writes those of an object.
func (d *document) members(t reflect.Type) {
	d.printf("| member | type | optional | what it is |\n|---|---|---|---|\n")
	for _, f := range wire.Fields(t) {
		d.printf("| `%s` | %s | %s | %s |\n", f.Name, d.link(f.Type), yesNo(!f.Required()), cell(paramDoc(f)))
	}
	d.printf("\n")
}

// link names a type, with a link where it is an object of its own, which will be described.
func (d *document) link(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return d.link(t.Elem())
	case reflect.Slice, reflect.Array:
		return "list of " + d.link(t.Elem())
	case reflect.Map:
		return "object of " + d.link(t.Elem())
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() || t.Name() == "" {
			return typeText(t)
		}
		known := false
		for _, other := range d.types {
			known = known || other == t
		}
		if !known {
			d.types = append(d.types, t)
		}
		return fmt.Sprintf("[%s](#%s)", t.Name(), anchor(t.Name()))
	}
	return typeText(t)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

// anchor is the name that a heading is linked by.
func anchor(heading string) string {
	return strings.ToLower(strings.ReplaceAll(heading, ".", ""))
}

func firstSentence(s string) string {
	first, _, more := strings.Cut(s, ". ")
	if more {
		first += "."
	}
	return first
}

// cell makes a text fit for a table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ").Replace(s)
}
