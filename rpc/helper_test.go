package rpc

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ctd/rpc/wire"
)

func newHelperAPI() *api {
	a := newAPI()
	a.service.HelperStatus = func(context.Context) (wire.HelperStatusResult, error) {
		return wire.HelperStatusResult{
			Enabled: true, Running: true,
			Settings: wire.HelperSettings{Ports: []uint16{554}, Queue: 7, Families: []string{"ipv4"}, Interfaces: []string{}, MarkBit: 1 << 31},
			Setup:    &wire.HelperSetup{Strategy: "hybrid", Interception: "nft", Started: time.Unix(1, 0).UTC()},
			Current:  &wire.HelperCurrent{Sessions: 1},
			Counters: &wire.HelperCounters{Packets: 5_000_000_000},
		}, nil
	}
	a.service.HelperSessions = func(context.Context) (wire.HelperSessionsResult, error) {
		return wire.HelperSessionsResult{Sessions: []wire.HelperSession{{
			Client: "[fd00::1]:4000", Server: "[2001:db8::1]:554", State: "setup", Streams: []wire.HelperStream{{ClientPorts: []uint16{5000, 5001}}},
		}}}, nil
	}
	a.service.HelperRules = func(_ context.Context, form string) (wire.HelperRulesResult, error) {
		return wire.HelperRulesResult{Form: form, Rules: "# of " + form + " <&>\n"}, nil
	}
	return a
}

func TestHelperMethods(t *testing.T) {
	a := newHelperAPI()
	var status, wantStatus wire.HelperStatusResult
	a.call(t, "helper.status", "", &status)
	wantStatus, _ = a.service.HelperStatus(t.Context())
	if diff := cmp.Diff(wantStatus, status); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	var sessions, wantSessions wire.HelperSessionsResult
	a.call(t, "helper.sessions", "", &sessions)
	wantSessions, _ = a.service.HelperSessions(t.Context())
	if diff := cmp.Diff(wantSessions, sessions); diff != "" {
		t.Errorf("sessions (-want +got):\n%s", diff)
	}
	for params, form := range map[string]string{``: "nft", `{"form": "nft"}`: "nft", `{"form": "iptables"}`: "iptables", `["iptables"]`: "iptables"} {
		var rules wire.HelperRulesResult
		a.call(t, "helper.rules", params, &rules)
		if want := (wire.HelperRulesResult{Form: form, Rules: "# of " + form + " <&>\n"}); rules != want {
			t.Errorf("rules %s: %+v, want %+v", params, rules, want)
		}
	}
	a.refused(t, "helper.rules", `{"form": "nftables"}`, wire.InvalidParams, "nft")
	a.refused(t, "helper.status", `{"a": 1}`, wire.InvalidParams, "a")
	for _, method := range []string{"helper.status", "helper.sessions", "helper.rules"} {
		if _, err := a.tryAs(t, wire.RoleViewer, method, ""); err != nil {
			t.Errorf("a viewer's %s: %v", method, err)
		}
		if _, err := a.tryAs(t, "", method, ""); err == nil || err.Code != wire.Unauthenticated {
			t.Errorf("a stranger's %s: %v", method, err)
		}
	}
}

func TestHelperMethodsXML(t *testing.T) {
	a := newHelperAPI()
	for method, want := range map[string]string{
		"helper.status":   "<name>packets</name><value><string>5000000000</string></value>",
		"helper.sessions": "<name>client</name><value><string>[fd00::1]:4000</string></value>",
		"helper.rules":    "<name>rules</name><value><string># of nft &lt;&amp;&gt;\n</string></value>",
	} {
		w := a.post(t, wire.RoleViewer, "text/xml", methodCall(method))
		if w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want %s", method, w.Code, w.Body, want)
		}
	}
}
