package auth

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseGrant(t *testing.T) {
	many := make([]string, maxNetworks+1)
	for i := range many {
		many[i] = fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255)
	}
	for name, tt := range map[string]struct {
		grant Grant
		wrong []string // beginnings of the errors
		want  []string // networks
	}{
		"a role alone":          {Grant{Role: "viewer"}, nil, nil},
		"networks":              {Grant{Role: "operator", Networks: []string{"10.3.0.0/16", "2001:db8::/32"}}, nil, []string{"10.3.0.0/16", "2001:db8::/32"}},
		"addresses":             {Grant{Role: "operator", Networks: []string{"10.3.0.7", "2001:db8::7", "::ffff:10.3.0.8"}}, nil, []string{"10.3.0.7/32", "2001:db8::7/128", "10.3.0.8/32"}},
		"everywhere":            {Grant{Role: "admin", Networks: []string{"0.0.0.0/0", "::/0"}}, nil, []string{"0.0.0.0/0", "::/0"}},
		"the most networks":     {Grant{Role: "admin", Networks: many[1:]}, nil, many[1:]},
		"one more":              {Grant{Role: "admin", Networks: many}, []string{"user[2].networks: 257 networks"}, nil},
		"no role":               {Grant{}, []string{"user[2].role: a role is needed"}, nil},
		"no such role":          {Grant{Role: "root"}, []string{`user[2].role: "root" is none of`}, nil},
		"no network":            {Grant{Role: "viewer", Networks: []string{"10.3"}}, []string{`user[2].networks: "10.3" is no network`}, nil},
		"an empty network":      {Grant{Role: "viewer", Networks: []string{""}}, []string{`user[2].networks: "" is no network`}, nil},
		"bits beyond":           {Grant{Role: "viewer", Networks: []string{"10.3.0.7/16"}}, []string{`user[2].networks: "10.3.0.7/16" has bits`}, nil},
		"IPv4 within IPv6":      {Grant{Role: "viewer", Networks: []string{"::ffff:10.0.0.0/104"}}, []string{`user[2].networks: "::ffff`}, nil},
		"an address and a zone": {Grant{Role: "viewer", Networks: []string{"fe80::1%eth0"}}, []string{`user[2].networks: "fe80`}, nil},
		"all wrong": {
			Grant{Role: "x", Networks: []string{"y", "z"}, Rate: -1, KillsPerMinute: -2},
			[]string{"user[2].role", `user[2].networks: "y"`, `user[2].networks: "z"`, "user[2].rate: -1", "user[2].kills_per_minute: -2"},
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, wrong := parseGrant("user[2]", tt.grant)
			if len(wrong) != len(tt.wrong) {
				t.Fatalf("%v, want %v", wrong, tt.wrong)
			}
			for i, err := range wrong {
				var s *SettingError
				if !errors.As(err, &s) || !strings.HasPrefix(err.Error(), tt.wrong[i]) {
					t.Errorf("%v, want %s", err, tt.wrong[i])
				}
			}
			if len(wrong) > 0 {
				return
			}
			var got []string
			for _, n := range p.networks {
				got = append(got, n.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("networks (-want +got):\n%s", diff)
			}
		})
	}
}

func TestIdentity(t *testing.T) {
	p, _ := parseGrant("", Grant{Role: "operator", Networks: []string{"10.3.0.0/16"}})
	id := p.identity("jane", ViaOIDC, "sub 7", newBudgets(time.Now))
	if id.Name != "jane" || id.Role != Operator || id.Via != ViaOIDC || id.Credential != "sub 7" {
		t.Errorf("%+v", id)
	}
	if diff := cmp.Diff([]string{"10.3.0.0/16"}, []string{id.Networks[0].String()}); diff != "" || len(id.Networks) != 1 {
		t.Errorf("networks: %v", id.Networks)
	}
}
