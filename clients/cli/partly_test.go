package cli_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"ctd/clients/cli"
	"ctd/rpc/wire"
)

// TestPartlyImported: an import whose later call is refused doesn't end as one that did nothing.
func TestPartlyImported(t *testing.T) {
	const refusal = `"error":{"code":-32602,"message":"flows[0]: no"}`
	for _, c := range []struct {
		first string
		want  wire.Exit
	}{
		{`"result":{"created":1000,"changed":true}`, wire.ExitRefused},
		{`"result":{"skipped":1000}`, wire.ExitUsage},
		{refusal, wire.ExitUsage},
	} {
		calls := 0
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer := refusal
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			if bytes.Contains(body, []byte(`"dry_run":true`)) {
				answer = `"result":{}` // something has changed since the trial
			} else if calls++; calls == 1 {
				answer = c.first
			}
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":1,%s}`, answer)
		}))
		var in, stderr strings.Builder
		in.WriteString("{\"ctd_export\":1}\n")
		for i := range 1001 {
			fmt.Fprintf(&in, `{"protocol":"udp","protonum":17,"timeout":60,"orig":{"src":"10.0.0.1","dst":"192.0.2.1","sport":%d,"dport":53}}`+"\n", i+1)
		}
		in.WriteString("{\"exported\":1001}\n")
		status := cli.Run(t.Context(), []string{"import", "--server", s.URL}, cli.Options{
			Stdin: strings.NewReader(in.String()), Stderr: &stderr, Getenv: func(string) string { return "" },
		})
		s.Close()
		if status != int(c.want) || !strings.Contains(stderr.String(), "no") {
			t.Errorf("%s: status %d, want %d\n%s", c.first, status, c.want, &stderr)
		}
	}
}
