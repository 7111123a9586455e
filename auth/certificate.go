package auth

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// certificates tell whose a client certificate is. That it is genuine, the listener has verified.
type certificates struct {
	owners map[string]string // user by what certificateKeys returns
}

// Kinds of what a certificate is known by, in the order in which they are looked at: the more it says, the
// sooner. The first ends of an entry are as users write them.
const (
	bySubject = "subject:"
	byURI     = "URI:"
	byEmail   = "email:"
	byDNS     = "DNS:"
	byIP      = "IP:"
	byCN      = "CN="
)

// newCertificates reads the entries of users. The errors are *SettingError.
func newCertificates(users []User) (*certificates, []error) {
	c := &certificates{owners: make(map[string]string)}
	var wrong []error
	for i, u := range users {
		key := fmt.Sprintf("user[%d].certificates", i)
		for _, entry := range u.Certificates {
			known, err := parseCertificate(entry)
			if err != nil {
				wrong = append(wrong, &SettingError{key, fmt.Sprintf("%q: %v", entry, err)})
				continue
			}
			if owner, there := c.owners[known]; there && owner != u.Name {
				wrong = append(wrong, &SettingError{key, fmt.Sprintf("%q is %s's already; a certificate has one user", entry, owner)})
				continue
			}
			c.owners[known] = u.Name
		}
	}
	return c, wrong
}

// user returns whose a certificate is, and by what name the log knows it; empty where it is nobody's.
func (c *certificates) user(cert *x509.Certificate) (name, credential string) {
	if len(c.owners) == 0 {
		return "", ""
	}
	for _, known := range certificateKeys(cert) {
		if name, ok := c.owners[known]; ok {
			return name, certificateName(cert)
		}
	}
	return "", ""
}

// certificateName names a certificate by its subject and serial number.
func certificateName(cert *x509.Certificate) string {
	subject := cert.Subject.String()
	if subject == "" {
		subject = "no subject"
	}
	return fmt.Sprintf("%s (serial %x)", subject, cert.SerialNumber)
}

// certificateKeys returns all that a certificate is known by.
func certificateKeys(cert *x509.Certificate) []string {
	attributes, names := make([]string, 0, len(cert.Subject.Names)), 0
	for _, a := range cert.Subject.Names {
		attributes = append(attributes, attributeOf(a))
		if attributeName(a.Type) == "CN" {
			names++
		}
	}
	keys := []string{subjectKey(attributes)}
	for _, u := range cert.URIs {
		keys = append(keys, byURI+u.String())
	}
	for _, e := range cert.EmailAddresses {
		keys = append(keys, byEmail+lowerDomain(e))
	}
	for _, d := range cert.DNSNames {
		keys = append(keys, byDNS+strings.ToLower(d))
	}
	for _, ip := range cert.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			keys = append(keys, byIP+a.Unmap().String())
		}
	}
	// Of two common names nobody can tell which one is meant.
	if names == 1 {
		keys = append(keys, byCN+cert.Subject.CommonName)
	}
	return keys
}

// parseCertificate returns what a certificate must be known by for an entry to be its own.
func parseCertificate(entry string) (string, error) {
	entry = strings.TrimSpace(entry)
	kind, value, ok := strings.Cut(entry, ":")
	if ok && !strings.Contains(kind, "=") {
		return parseAlternativeName(kind, strings.TrimSpace(value))
	}
	attributes, err := parseSubject(entry)
	if err != nil {
		return "", err
	}
	if cn, ok := strings.CutPrefix(attributes[0], byCN); ok && len(attributes) == 1 {
		return byCN + cn, nil
	}
	return subjectKey(attributes), nil
}

func parseAlternativeName(kind, value string) (string, error) {
	if value == "" {
		return "", errors.New("nothing comes after the colon")
	}
	switch strings.ToLower(kind) {
	case "dns":
		if strings.Contains(value, "*") {
			return "", errors.New("a name with * is nobody's in particular; name each host")
		}
		return byDNS + strings.ToLower(value), nil
	case "email":
		if !strings.Contains(value, "@") {
			return "", errors.New("want an address such as email:jane@example.org")
		}
		return byEmail + lowerDomain(value), nil
	case "uri":
		u, err := url.Parse(value)
		if err != nil || u.Scheme == "" {
			return "", errors.New("want a URI with its scheme, such as URI:spiffe://example.org/jane")
		}
		return byURI + u.String(), nil
	case "ip":
		a, err := netip.ParseAddr(value)
		if err != nil || a.Zone() != "" {
			return "", errors.New("want an address such as IP:192.0.2.1")
		}
		return byIP + a.Unmap().String(), nil
	}
	return "", errors.New("want CN=name, a whole subject such as CN=jane,O=Example, or DNS:, email:, URI: or IP: and a name")
}

// lowerDomain writes an address as mail is delivered: the domain in any case.
func lowerDomain(address string) string {
	at := strings.LastIndexByte(address, '@')
	return address[:at+1] + strings.ToLower(address[at+1:])
}

// subjectKey makes one text of a subject's attributes. Programs print them in either order, and several
// of one type with + or a comma between them: so the order doesn't count.
func subjectKey(attributes []string) string {
	attributes = slices.Clone(attributes)
	slices.Sort(attributes)
	var b strings.Builder
	b.WriteString(bySubject)
	for _, a := range attributes {
		fmt.Fprintf(&b, "%q,", a) // quoted, so that no value can pass for two
	}
	return b.String()
}

// attributeNames are short names of the types of attributes (RFC 4514 section 3, and those that
// crypto/x509/pkix and openssl print).
var attributeNames = map[string]string{
	"2.5.4.3": "CN", "2.5.4.5": "SERIALNUMBER", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST",
	"2.5.4.9": "STREET", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.17": "POSTALCODE",
	"0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID", "1.2.840.113549.1.9.1": "EMAILADDRESS",
}

func attributeName(t asn1.ObjectIdentifier) string {
	oid := t.String()
	if name, ok := attributeNames[oid]; ok {
		return name
	}
	return oid
}

// attributeOf writes an attribute as parseSubject does. crypto/x509 reads no values but texts.
func attributeOf(a pkix.AttributeTypeAndValue) string {
	return attributeName(a.Type) + "=" + fmt.Sprint(a.Value)
}

// parseSubject reads a subject as pkix.Name.String prints it (RFC 4514), or as openssl does, with
// spaces around its signs, and returns its attributes; there is one at least.
func parseSubject(s string) ([]string, error) {
	parts, err := splitSubject(s)
	if err != nil {
		return nil, err
	}
	attributes := make([]string, 0, len(parts))
	for _, part := range parts {
		name, value, ok := strings.Cut(part, "=")
		name = strings.ToUpper(strings.TrimSpace(name))
		if known, ok := attributeNames[name]; ok {
			name = known
		}
		if !ok || name == "" || strings.ContainsAny(name, " \\\"") {
			return nil, errors.New("want a subject such as CN=jane,O=Example")
		}
		if value, err = unescape(trimSpaces(value)); err != nil {
			return nil, err
		}
		if value == "" {
			return nil, fmt.Errorf("%s is empty", name)
		}
		attributes = append(attributes, name+"="+value)
	}
	return attributes, nil
}

// splitSubject cuts a subject at commas and plus signs that aren't escaped.
func splitSubject(s string) ([]string, error) {
	var parts []string
	begin, escaped := 0, false
	for i := range len(s) {
		switch {
		case escaped:
			escaped = false
		case s[i] == '\\':
			escaped = true
		case s[i] == ',' || s[i] == '+':
			parts = append(parts, s[begin:i])
			begin = i + 1
		}
	}
	if escaped {
		return nil, errors.New("nothing comes after the last \\")
	}
	return append(parts, s[begin:]), nil
}

// trimSpaces takes spaces from both ends, but not an escaped one.
func trimSpaces(s string) string {
	s = strings.TrimLeft(s, " ")
	trimmed := strings.TrimRight(s, " ")
	slashes := len(trimmed) - len(strings.TrimRight(trimmed, `\`))
	if slashes%2 == 1 && len(trimmed) < len(s) {
		trimmed += " "
	}
	return trimmed
}

// unescape reads a value (RFC 4514 section 2.4): \ before a sign, or two hexadecimal digits; #
// and digits are a text in DER.
func unescape(s string) (string, error) {
	if digits, ok := strings.CutPrefix(s, "#"); ok {
		var text string
		der, err := hex.DecodeString(digits)
		if err == nil {
			_, err = asn1.Unmarshal(der, &text)
		}
		if err != nil {
			return "", errors.New("after # comes a text's DER in hexadecimal digits; write \\# for the sign itself")
		}
		return text, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 < len(s) {
			if c, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				b.Write(c)
				i += 2
				continue
			}
		}
		i++
		b.WriteByte(s[i])
	}
	return b.String(), nil
}
