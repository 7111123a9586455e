package ctdclient_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"ctd/clients/ctdclient"
	"ctd/rpc/wire"
)

// TestProgress: who wants to know is told how far a call is, and the daemon is asked for it by nobody
// else.
func TestProgress(t *testing.T) {
	protocols(t, func(t *testing.T, p ctdclient.Protocol) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get(wire.ProgressHeader) != "" {
				w.WriteHeader(http.StatusEarlyHints)                 // of somebody between
				for _, value := range []string{"1/20", "x", "2/1"} { // and of a server that is none of ours
					w.Header().Set(wire.ProgressHeader, value)
					w.WriteHeader(http.StatusProcessing)
				}
				for i := range 20 {
					w.Header().Set(wire.ProgressHeader, wire.Progress{Done: i + 1, Total: 20}.String())
					w.WriteHeader(http.StatusProcessing)
				}
			}
			if p == ctdclient.XML {
				fmt.Fprint(w, `<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>killed</name><value><int>20</int></value></member></struct></value></param></params></methodResponse>`)
				return
			}
			fmt.Fprint(w, `{"jsonrpc":"2.0","id":1,"result":{"killed":20}}`)
		}))
		defer s.Close()
		for _, want := range []int{21, 0} {
			var told []int
			cfg := ctdclient.Config{Server: s.URL, Protocol: p}
			if want > 0 {
				cfg.Progress = func(done, total int) {
					if told = append(told, done); total != 20 {
						t.Errorf("%d of %d", done, total)
					}
				}
			}
			r, err := newClient(t, cfg).Kill(t.Context(), wire.KillParams{All: true})
			if err != nil || r.Killed != 20 {
				t.Errorf("%+v, %v", r, err)
			}
			if len(told) != want || want > 0 && told[20] != 20 {
				t.Errorf("told %v, want %d times", told, want)
			}
		}
	})
}
