package server

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"ctd/helper"
	"ctd/rpc"
	"ctd/rpc/wire"
)

// settings are what the configuration file can set, and in part the command line: the raw form of
// Config. They are the one list of settings. Of the tags toml is the key, flag the flag of `ctd serve`
// that sets the same, doc the description, enum the values that it, or each of a list, may have. A struct
// is a table of the file.
type settings struct {
	Listen    []string       `toml:"listen" flag:"--listen" doc:"TCP addresses to listen on, as host:port. Callers show the token. An empty list listens on the Unix socket only."`
	Insecure  bool           `toml:"insecure" flag:"--insecure" doc:"Allow addresses beyond loopback in listen, although nothing is encrypted."`
	Socket    string         `toml:"socket" flag:"--socket" doc:"Path of the Unix socket. Root and the daemon's own user need no token there. The token is written beside it."`
	NetNS     string         `toml:"netns" flag:"--netns" doc:"Network namespace whose table is managed, by name as in ip netns or by path; empty for the daemon's own. The listeners stay where the daemon was started. It needs CAP_SYS_ADMIN."`
	MaxBody   int64          `toml:"max_body" flag:"--max-body" doc:"How many bytes the body of a request may have."`
	LogFormat string         `toml:"log_format" flag:"--log-format" enum:"text,json" doc:"Form of the log on standard error."`
	LogLevel  string         `toml:"log_level" flag:"--log-level" enum:"debug,info,warn,error" doc:"The least that is logged."`
	Pyctd     pyctdSettings  `toml:"pyctd" doc:"What pyctd's view returns."`
	Helper    helperSettings `toml:"helper"`
}

type pyctdSettings struct {
	Rows      string `toml:"rows" flag:"--pyctd-rows" enum:"struct,list" doc:"Rows of view: a struct by id, or a list."`
	Addresses string `toml:"addresses" flag:"--pyctd-addresses" enum:"dotted,integer" doc:"Addresses in view: text, or IPv4 as numbers."`
}

type helperSettings struct {
	RTSP rtspSettings `toml:"rtsp" doc:"The helper for RTSP, which lets media streams in; see rtsp.md."`
}

type rtspSettings struct {
	Enabled              bool     `toml:"enabled" flag:"--rtsp" doc:"Follow RTSP connections and let their media in."`
	Install              bool     `toml:"install" doc:"Install the rules that queue RTSP packets, and remove them at the end. With false the administrator installs those that ctd helper rules prints."`
	Ports                []uint16 `toml:"ports" doc:"TCP ports at which RTSP servers listen, as clients connect to them or as a server has them behind a forwarded port."`
	Queue                uint16   `toml:"queue" doc:"Number of the packet queue (NFQUEUE). No other program may read it."`
	Families             []string `toml:"families" enum:"ipv4,ipv6" doc:"Address families that are followed."`
	Interfaces           []string `toml:"interfaces" doc:"Interfaces that RTSP packets come in by, or go out by where they are the router's own: those of both sides. An empty list is all."`
	MarkBit              uint32   `toml:"mark_bit" doc:"The one bit of the connection mark that takes a connection out of the queue once its media go inside it. Nothing else may use it."`
	AllowOtherSource     bool     `toml:"allow_other_source" doc:"Let media in from another address than the RTSP server's."`
	MaxSessions          int      `toml:"max_sessions" doc:"How many streams are let in at a time."`
	MaxSessionsPerClient int      `toml:"max_sessions_per_client" doc:"How many of them for one client's address."`
}

func defaultSettings() *settings {
	return &settings{
		Listen: []string{DefaultListen}, Socket: DefaultSocket, MaxBody: rpc.DefaultMaxBody,
		LogFormat: "text", LogLevel: "info",
		Pyctd: pyctdSettings{Rows: "struct", Addresses: "dotted"},
		Helper: helperSettings{RTSP: rtspSettings{
			Install: true, Ports: helper.DefaultPorts(), Queue: helper.DefaultQueue, Families: []string{"ipv4", "ipv6"},
			Interfaces: []string{}, MarkBit: helper.DefaultMarkBit,
			MaxSessions: helper.DefaultMaxSessions, MaxSessionsPerClient: helper.DefaultMaxSessionsPerClient,
		}},
	}
}

// setting is one setting, or a table of them.
type setting struct {
	path  []string // the tables that it is in, and its own name
	index []int    // for reflect.Value.FieldByIndex on settings
	typ   reflect.Type
	table bool
	flag  string
	doc   string
	enum  []string
}

func (s *setting) key() string { return strings.Join(s.path, ".") }

// value returns its field in s.
func (s *setting) value(in *settings) reflect.Value {
	return reflect.ValueOf(in).Elem().FieldByIndex(s.index)
}

// allSettings returns the settings and tables in the order of the fields, a table before what is in it.
func allSettings() []setting {
	var all []setting
	var walk func(t reflect.Type, path []string, index []int)
	walk = func(t reflect.Type, path []string, index []int) {
		for i := range t.NumField() {
			f := t.Field(i)
			s := setting{
				path: append(slices.Clone(path), f.Tag.Get("toml")), index: append(slices.Clone(index), i),
				typ: f.Type, table: f.Type.Kind() == reflect.Struct, flag: f.Tag.Get("flag"), doc: f.Tag.Get("doc"),
			}
			if enum := f.Tag.Get("enum"); enum != "" {
				s.enum = strings.Split(enum, ",")
			}
			all = append(all, s)
			if s.table {
				walk(f.Type, s.path, s.index)
			}
		}
	}
	walk(reflect.TypeFor[settings](), nil, nil)
	return all
}

// typeWords says what a setting of a type may be.
func typeWords(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct:
		return "a table"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.String {
			return "a list of texts in quotes"
		}
		return "a list of " + strings.TrimPrefix(strings.Replace(typeWords(t.Elem()), "number", "numbers", 1), "a ")
	case reflect.String:
		return "a text in quotes"
	case reflect.Bool:
		return "true or false"
	case reflect.Uint16, reflect.Uint32: // none may be 0, as it would stand for a default; see rtspSettings.config
		return fmt.Sprintf("a whole number from 1 to %d", uint64(1)<<t.Bits()-1)
	case reflect.Int:
		return "a whole number from 1 on"
	}
	return "a whole number"
}

// settingError is what is wrong with a setting.
type settingError struct {
	key  string // its name in the file
	text string
}

func (e *settingError) Error() string { return e.key + ": " + e.text }

// wrongf is a setting's error.
func wrongf(key, format string, args ...any) *settingError {
	return &settingError{key, fmt.Sprintf(format, args...)}
}

// checkWords looks whether the settings that have few values have one of them.
func (s *settings) checkWords() []*settingError {
	var wrong []*settingError
	for _, one := range allSettings() {
		if one.enum == nil {
			continue
		}
		values, ok := one.value(s).Interface().([]string)
		if !ok {
			values = []string{one.value(s).String()}
		}
		for _, v := range values {
			if slices.Contains(one.enum, v) {
				continue
			}
			e := wrongf(one.key(), "%q is none of %s", v, strings.Join(one.enum, ", "))
			if near := wire.Nearest(v, one.enum); near != "" {
				e.text += fmt.Sprintf("; did you mean %q?", near)
			}
			wrong = append(wrong, e)
		}
	}
	return wrong
}
