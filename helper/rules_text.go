package helper

import (
	"fmt"
	"strconv"
	"strings"
	"text/template"

	"ctd/conntrack"
)

// Forms of Rules.
const (
	FormNFT      = "nft"      // a script for nft -f
	FormIPTables = "iptables" // a script for sh, which runs iptables(8) and ip6tables(8)
)

// manualTable is the nftables table of rules that the administrator installs. A daemon leaves it alone,
// where it would delete what has the name of its own.
const manualTable = "ctd_rtsp_manual"

// Rules returns rules that do what a helper installs that isn't Manual, as a script for the
// administrator to install them. Either may be run again, in the place of what it made before, and
// says how to take its rules away.
//
// Connections get a helper that is the kernel's own, Q.931: the rules may be there before the
// daemon. Only those of nft give it to connections that come by a forwarded port that isn't one
// of the ports.
func Rules(cfg Config, form string) (string, error) {
	if err := cfg.Check(); err != nil {
		return "", err
	}
	t, ok := scripts[form]
	if !ok {
		return "", fmt.Errorf("%q is no form of rules: there are %q and %q", form, FormNFT, FormIPTables)
	}
	var b strings.Builder
	err := t.Execute(&b, scriptOf(rulesOf(cfg, borrowedHelper)))
	return b.String(), err
}

// script is what the templates need.
type script struct {
	Ports, Interfaces   []string
	IPv4, IPv6          bool
	Queue               uint16
	Mark, Table, Helper string
}

func scriptOf(r rules) script {
	s := script{Interfaces: r.interfaces, Queue: r.queue, Mark: fmt.Sprintf("%#x", r.markBit), Table: manualTable, Helper: r.helper}
	for _, port := range r.ports {
		s.Ports = append(s.Ports, strconv.Itoa(int(port)))
	}
	for _, f := range r.families {
		s.IPv4 = s.IPv4 || f == conntrack.FamilyIPv4
		s.IPv6 = s.IPv6 || f == conntrack.FamilyIPv6
	}
	return s
}

// Names of interfaces stand in quotes, which they don't have in them; see Config.Check.
var scripts = map[string]*template.Template{
	FormNFT:      newScript(FormNFT, nftScript),
	FormIPTables: newScript(FormIPTables, iptablesScript),
}

func newScript(name, text string) *template.Template {
	return template.Must(template.New(name).Funcs(template.FuncMap{"join": strings.Join}).Parse(text))
}

const nftScript = `#!/usr/sbin/nft -f
# Rules that bring RTSP into queue {{.Queue}}, for a ctd whose helper doesn't install its own.
# They may be installed again by: nft -f FILE
# To remove them: nft delete table inet {{.Table}}
#
# The kernel needs nft_queue. Where it lacks nf_conntrack_h323, leave out what has "rtsp" in it: media
# is then let in only once the server has answered.
table inet {{.Table}}
delete table inet {{.Table}}
table inet {{.Table}} {
	ct helper rtsp {
		type "{{.Helper}}" protocol tcp
		l3proto inet
	}

	set ports {
		type inet_service
		elements = { {{join .Ports ", "}} }
	}
{{- if .Interfaces}}

	set interfaces {
		type ifname
		elements = { "{{join .Interfaces "\", \""}}" }
	}
{{- end}}

	chain prerouting {
		type filter hook prerouting priority -150; policy accept;
		iifname "lo" return
{{- template "others" .}}
{{- if .Interfaces}}
		iifname != @interfaces return
{{- end}}
{{- template "queue" .}}
	}

	chain output {
		type filter hook output priority -150; policy accept;
{{- template "others" .}}
{{- if .Interfaces}}
		oifname != @interfaces return
{{- end}}
{{- template "queue" .}}
	}

	# A forwarded port is known to lead to one of the ports once its destination was translated.
	chain input {
		type filter hook input priority -150; policy accept;
{{- template "others" .}}
{{- if .Interfaces}}
		iifname != @interfaces return
{{- end}}
		meta l4proto tcp ct state new ct direction original ct reply proto-src @ports ct helper set "rtsp"
	}

	chain postrouting {
		type filter hook postrouting priority -150; policy accept;
{{- template "others" .}}
{{- if .Interfaces}}
		oifname != @interfaces return
{{- end}}
		meta l4proto tcp ct state new ct direction original ct reply proto-src @ports ct helper set "rtsp"
	}
}
{{define "others"}}
{{- if not .IPv6}}
		meta nfproto != ipv4 return
{{- else if not .IPv4}}
		meta nfproto != ipv6 return
{{- end}}
{{- end}}
{{- define "queue"}}
		meta l4proto tcp ct state new ct direction original ct original proto-dst @ports ct helper set "rtsp"
		ct mark & {{.Mark}} != 0 return
		meta l4proto tcp ct original proto-dst @ports queue num {{.Queue}} bypass
		meta l4proto tcp ct reply proto-src @ports queue num {{.Queue}} bypass
{{- end}}`

const iptablesScript = `#!/bin/sh
# Rules that bring RTSP into queue {{.Queue}}, for a ctd whose helper doesn't install its own.
# They may be installed again by: sh FILE
# To remove them:
#   for xt in{{if .IPv4}} iptables{{end}}{{if .IPv6}} ip6tables{{end}}; do for table in raw mangle; do
#     $xt -w -t $table -D PREROUTING -j CTD-RTSP; $xt -w -t $table -D OUTPUT -j CTD-RTSP
#     $xt -w -t $table -F CTD-RTSP; $xt -w -t $table -X CTD-RTSP
#     $xt -w -t $table -F CTD-RTSP-PORTS; $xt -w -t $table -X CTD-RTSP-PORTS
#   done; done
set -eu

for xt in{{if .IPv4}} iptables{{end}}{{if .IPv6}} ip6tables{{end}}; do
	for table in raw mangle; do
		for chain in CTD-RTSP CTD-RTSP-PORTS; do
			$xt -w -t $table -N $chain 2>/dev/null || $xt -w -t $table -F $chain
		done
		# What comes by the loopback has come by OUTPUT already.
		$xt -w -t $table -A CTD-RTSP -i lo -j RETURN
{{- range .Interfaces}}
		$xt -w -t $table -A CTD-RTSP -i '{{.}}' -p tcp -j CTD-RTSP-PORTS
		$xt -w -t $table -A CTD-RTSP -o '{{.}}' -p tcp -j CTD-RTSP-PORTS
{{- else}}
		$xt -w -t $table -A CTD-RTSP -p tcp -j CTD-RTSP-PORTS
{{- end}}
	done
	$xt -w -t mangle -A CTD-RTSP-PORTS -m connmark --mark {{.Mark}}/{{.Mark}} -j RETURN
	for port in {{join .Ports " "}}; do
		$xt -w -t raw -A CTD-RTSP-PORTS -p tcp --dport $port -j CT --helper {{.Helper}} ||
			echo "$xt: without nf_conntrack_h323 media is let in only once the server has answered" >&2
		$xt -w -t mangle -A CTD-RTSP-PORTS -p tcp -m conntrack --ctproto tcp --ctorigdstport $port -j NFQUEUE --queue-num {{.Queue}} --queue-bypass
		$xt -w -t mangle -A CTD-RTSP-PORTS -p tcp -m conntrack --ctproto tcp --ctreplsrcport $port -j NFQUEUE --queue-num {{.Queue}} --queue-bypass
	done
	for table in raw mangle; do
		for hook in PREROUTING OUTPUT; do
			$xt -w -t $table -C $hook -j CTD-RTSP 2>/dev/null || $xt -w -t $table -I $hook -j CTD-RTSP
		done
	done
done
`
