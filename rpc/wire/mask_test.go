package wire

import "testing"

func TestMaskTokens(t *testing.T) {
	const token = "ctd_YGTMABCDEFGHIJKLMNOPQRSTUV"
	for in, want := range map[string]string{
		"": "", "conntrack.kill": "conntrack.kill", token: "ctd_...", "GET /" + token + "/x?" + token: "GET /ctd_.../x?ctd_...",
		"ctd_short": "ctd_short", "ctd_session": "ctd_session",
	} {
		if got := MaskTokens(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
