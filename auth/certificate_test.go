package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"
	"unicode/utf8"
)

// madeCertificate makes a certificate of a template, as it is after its way through DER.
func madeCertificate(t testing.TB, template x509.Certificate) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(0xabc)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func subject(names ...pkix.AttributeTypeAndValue) x509.Certificate {
	return x509.Certificate{Subject: pkix.Name{ExtraNames: names}}
}

func attribute(value any, oid ...int) pkix.AttributeTypeAndValue {
	return pkix.AttributeTypeAndValue{Type: oid, Value: value}
}

func TestCertificateUser(t *testing.T) {
	full := madeCertificate(t, x509.Certificate{
		Subject: pkix.Name{CommonName: "jane", Organization: []string{"Example, Inc."}, OrganizationalUnit: []string{"it", "net"}, Country: []string{"DE"}},
		URIs:    []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/jane"}}, EmailAddresses: []string{"Jane@Example.org"},
		DNSNames: []string{"Host.example.org"}, IPAddresses: []net.IP{net.ParseIP("192.0.2.1"), net.ParseIP("2001:db8::1")},
	})
	wildcard := madeCertificate(t, x509.Certificate{Subject: pkix.Name{CommonName: "w"}, DNSNames: []string{"*.example.org"}})
	none := madeCertificate(t, x509.Certificate{})
	two := madeCertificate(t, subject(attribute("mallory", 2, 5, 4, 3), attribute("jane", 2, 5, 4, 3)))
	directory := madeCertificate(t, subject(
		attribute("org", 0, 9, 2342, 19200300, 100, 1, 25), attribute("example", 0, 9, 2342, 19200300, 100, 1, 25), attribute("jane", 2, 5, 4, 3)))
	odd := madeCertificate(t, subject(attribute(`#a"b\c+d`, 2, 5, 4, 3), attribute("seven", 1, 2, 3, 4)))
	// One value that is printed as two would be.
	joined := madeCertificate(t, subject(attribute("jane,O=Example", 2, 5, 4, 3)))
	plain := madeCertificate(t, x509.Certificate{Subject: pkix.Name{CommonName: "jane", Organization: []string{"Example"}}})

	for _, tt := range []struct {
		entry string
		cert  *x509.Certificate
		want  bool
	}{
		{"CN=jane", full, true},
		{" cn = jane ", full, true},
		{"CN=Jane", full, false},
		{"CN=jan", full, false},
		{"CN=jane", two, false},
		{"CN=mallory", two, false},
		{"CN=mallory,CN=jane", two, true},
		{"CN=jane", none, false},
		{`CN=jane,OU=it+OU=net,O=Example\, Inc.,C=DE`, full, true},
		{`C = DE, O = Example\2C Inc., OU = net, OU = it, CN = jane`, full, true},
		{`CN=jane,OU=it,O=Example\, Inc.,C=DE`, full, false},
		{`CN=jane,O=Example`, full, false},
		{full.Subject.String(), full, true},
		{directory.Subject.String(), directory, true},
		{"CN=jane,DC=example,DC=org", directory, true},
		{odd.Subject.String(), odd, true},
		{"CN=jane,O=Example", joined, false},
		{`CN=jane\,O=Example`, joined, true},
		{"CN=jane,O=Example", plain, true},
		{`CN=jane\,O=Example`, plain, false},
		{"DNS:host.example.org", full, true},
		{"dns:HOST.example.org", full, true},
		{"DNS:example.org", full, false},
		{"DNS:host.example.org", wildcard, false},
		{"DNS:jane", full, false},
		{"email:Jane@example.ORG", full, true},
		{"email:jane@example.org", full, false},
		{"URI:spiffe://example.org/jane", full, true},
		{"URI:spiffe://example.org/jane/x", full, false},
		{"IP:192.0.2.1", full, true},
		{"IP:::ffff:192.0.2.1", full, true},
		{"IP:2001:db8:0::1", full, true},
		{"IP:192.0.2.2", full, false},
	} {
		c, wrong := newCertificates([]User{{Name: "u", Certificates: []string{tt.entry}}})
		if len(wrong) > 0 {
			t.Errorf("%s: %v", tt.entry, wrong)
			continue
		}
		name, credential := c.user(tt.cert)
		if (name == "u") != tt.want {
			t.Errorf("%s and a certificate of %q: %q, want it %v", tt.entry, tt.cert.Subject, name, tt.want)
		}
		if want := tt.cert.Subject.String() + " (serial abc)"; tt.want && credential != want {
			t.Errorf("%s: credential %q, want %q", tt.entry, credential, want)
		}
	}
}

// TestCertificateOrder: where several entries fit, that which says most counts.
func TestCertificateOrder(t *testing.T) {
	cert := madeCertificate(t, x509.Certificate{
		Subject: pkix.Name{CommonName: "jane", Organization: []string{"Example"}}, DNSNames: []string{"jane.example.org"},
	})
	users := []User{
		{Name: "by name", Certificates: []string{"CN=jane"}},
		{Name: "by host", Certificates: []string{"DNS:jane.example.org"}},
		{Name: "by subject", Certificates: []string{"CN=jane,O=Example"}},
	}
	for n, want := range []string{"", "by name", "by host", "by subject"} {
		c, wrong := newCertificates(users[:n])
		if len(wrong) > 0 {
			t.Fatal(wrong)
		}
		if got, _ := c.user(cert); got != want {
			t.Errorf("of %d users: %q, want %q", n, got, want)
		}
	}
}

func TestNewCertificatesWrong(t *testing.T) {
	for _, entry := range []string{
		"", "jane", "CN=", "=jane", "CN", "CN=jane,", "CN=jane,O", "CN=jane\\", "CN=#0", "CN=#020107", "DNS:", "DNS:*.example.org", "email:jane",
		"URI:jane", "URI:%", "IP:host", "IP:fe80::1%eth0", "serial:7",
	} {
		_, wrong := newCertificates([]User{{Name: "first"}, {Name: "u", Certificates: []string{entry}}})
		if got := settingKeys(t, wrong); !slices.Equal(got, []string{"user[1].certificates"}) {
			t.Errorf("%q: %v", entry, wrong)
		}
	}
	// One certificate can't be two users', however it is written.
	for _, pair := range [][2]string{
		{"CN=jane", "cn = jane"},
		{"CN=jane,O=Example", "O=Example, CN=jane"},
		{"DNS:a.example", "dns:A.example"},
		{"IP:192.0.2.1", "IP:::ffff:192.0.2.1"},
	} {
		users := []User{{Name: "jane", Certificates: pair[:1]}, {Name: "joe", Certificates: pair[1:]}}
		_, wrong := newCertificates(users)
		if got := settingKeys(t, wrong); !slices.Equal(got, []string{"user[1].certificates"}) {
			t.Errorf("%q: %v", pair, wrong)
		}
		users[1].Name = "jane"
		if _, wrong := newCertificates(users); len(wrong) > 0 {
			t.Errorf("%q of one user: %v", pair, wrong)
		}
	}
}

// FuzzCertificate: a subject with any text as its common name is recognised by what pkix prints of it,
// and no entry breaks the reader.
func FuzzCertificate(f *testing.F) {
	for _, s := range []string{"jane", `a,b+c=d;e<f>"g"\`, " x ", "#0500", `\ `, "jane,O=Example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, _ = parseCertificate(s)
		name := pkix.Name{Names: []pkix.AttributeTypeAndValue{
			{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: s}, {Type: asn1.ObjectIdentifier{2, 5, 4, 10}, Value: "Example"},
		}, CommonName: s, Organization: []string{"Example"}}
		if s == "" || !utf8.ValidString(s) { // crypto/x509 reads no such
			return
		}
		c, wrong := newCertificates([]User{{Name: "u", Certificates: []string{name.String()}}})
		if len(wrong) > 0 {
			t.Fatalf("%q: %v", name, wrong)
		}
		if got, _ := c.user(&x509.Certificate{Subject: name, SerialNumber: big.NewInt(1)}); got != "u" {
			t.Errorf("%q isn't known by %q", s, name)
		}
	})
}
