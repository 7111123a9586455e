package server

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const configDocHead = `# Configuration

Generated from the list of settings by ` + "`make docs`" + `.

The daemon works without a configuration. ` + "`ctd serve --config FILE`" + ` reads one, in
[TOML](https://toml.io/en/v1.0.0); without the flag it reads ` + "`" + DefaultConfigFile + "`" + ` where that is there. A flag
wins over the file, and the file over the defaults.

A name that isn't known is an error that tells its line and the nearest name, and so is a value of the
wrong type; the daemon doesn't start then. ` + "`ctd check-config [FILE]`" + ` prints ok, or all that is wrong, and exits
with 2; it warns where others may read a file with secrets. ` + "`--config /dev/null`" + ` is an empty file.
[deploy/ctd.toml](../deploy/ctd.toml) is an example with every setting, commented out.

## Reload

` + "`systemctl reload ctd`" + `, or SIGHUP to the daemon, reads the file again. What it says counts for requests that come
from then on; those under way end as they began. Where anything in it is wrong, all stays as it was: the log says
what is wrong and in which line, and so does ` + "`ctd doctor`" + ` until a reload went well. A setting with *restart*
in its last column is left as it is, and the log names it where it was changed: it needs a restart. Flags win
over the file still.
`

// writeConfigDoc writes docs/configuration.md.
func writeConfigDoc(w io.Writer) error {
	io.WriteString(w, configDocHead) //nolint:errcheck // a buffer
	defaults := defaultSettings()
	var rows strings.Builder
	flush := func() {
		if rows.Len() > 0 {
			fmt.Fprintf(w, "\n| setting | | default | flag | | |\n|---|---|---|---|---|---|\n%s", rows.String())
			rows.Reset()
		}
	}
	fmt.Fprint(w, "\n## The daemon\n")
	for _, s := range allSettings() {
		if s.table || s.list {
			if s.doc != "" {
				flush()
				head := "[" + s.key() + "]"
				if s.list {
					head = "[" + head + "]"
				}
				fmt.Fprintf(w, "\n## %s\n\n%s\n", head, strings.ReplaceAll(s.doc, "rtsp.md", "[rtsp.md](rtsp.md)"))
			}
			continue
		}
		value := reflect.ValueOf(defaults).Elem()
		if s.in != nil {
			value = reflect.New(s.in).Elem()
		}
		value = value.FieldByIndex(s.index)
		text, err := defaultText(value)
		if err != nil {
			return err
		}
		if s.name() == "mark_bit" {
			text = fmt.Sprintf("%#x", value.Uint())
		}
		flag := ""
		if s.flag != "" {
			flag = "`" + s.flag + "`"
		}
		kind := s.words()
		if s.enum != nil {
			kind = strings.TrimPrefix(strings.Join(s.enum, ", "), ", ")
			if s.typ.Kind() == reflect.Slice {
				kind = "a list of " + kind
			}
		}
		restart := ""
		if s.fixed {
			restart = "*restart*"
		}
		fmt.Fprintf(&rows, "| `%s` | %s | `%s` | %s | %s | %s |\n", s.name(), kind, text, flag, s.doc, restart)
	}
	flush()
	return nil
}

// TestConfigDocs: docs/configuration.md is what the list of settings says. -update writes it.
func TestConfigDocs(t *testing.T) {
	var text bytes.Buffer
	if err := writeConfigDoc(&text); err != nil {
		t.Fatal(err)
	}
	checkGenerated(t, "docs/configuration.md", text.Bytes())
}

// TestSettingsDescribed: each setting has a description, and the flag that it names sets it.
func TestSettingsDescribed(t *testing.T) {
	for _, s := range allSettings() {
		if s.doc == "" && !s.table {
			t.Errorf("%s has no description", s.key())
		}
		if strings.Contains(s.doc, "|") {
			t.Errorf("%s: a table's row has no |: %s", s.key(), s.doc)
		}
		if s.flag == "" {
			continue
		}
		value := map[reflect.Kind]string{reflect.Bool: "true", reflect.Int64: "7"}[s.typ.Kind()]
		if value == "" {
			value = "x"
		}
		g, err := parse([]string{s.flag + "=" + value}, t.Output(), t.Output())
		if err != nil {
			t.Errorf("%s: %v", s.flag, err)
			continue
		}
		set := defaultSettings()
		flags := g.over(set)
		if diff := cmp.Diff(map[string]string{s.key(): s.flag}, flags); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s.flag, diff)
		}
		if got := strings.Trim(fmt.Sprint(s.value(set)), "[]"); got != value {
			t.Errorf("%s sets %s to %s", s.flag, s.key(), got)
		}
	}
}
